"""Diagnostics of many pictures, end to end, with small random foundation models that transformers saves."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import small_task
from discrete import small
from PIL import Image
from test_cli import vtbench
from torch import Tensor, nn

from vtbench import backbones, catalogue, evaluate, load_task, load_tokenizer, wrap
from vtbench.backbones import foundation
from vtbench.bottleneck import Bottleneck
from vtbench.cards import Code, TokenizerCard
from vtbench.errors import DataError
from vtbench.measures import latent_sets
from vtbench.metrics import frechet
from vtbench.results import Run
from vtbench.tokenizer import Tokenizer
from vtbench.types import Codes

COUNT, SIDE = 24, 64
METRICS = ("ifid", "pfid", "purity", "token_gain", "cknna", "cknna_se", "cknna_change")


@pytest.fixture(autouse=True)
def _few_pictures(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let every diagnostic be computed of few pictures."""

    def few(metric: catalogue.Metric) -> catalogue.Metric:
        return replace(metric, options={**metric.options, "minimum": 0}) if "minimum" in metric.options else metric

    monkeypatch.setattr(catalogue, "_BUILT_IN", tuple(map(few, catalogue._BUILT_IN)))
    catalogue.metrics.cache_clear()
    yield
    catalogue.metrics.cache_clear()


@pytest.fixture
def inception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quick network of features in Inception's place, which takes minutes for what this needs."""
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / backbones._INCEPTION[0]).write_bytes(b"made up")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(backbones, "_INCEPTION", (backbones._INCEPTION[0], ""))

    def small(device: torch.device) -> Any:
        return lambda pictures: nn.functional.adaptive_avg_pool2d(pictures.float(), 2).flatten(1).numpy()

    monkeypatch.setattr(frechet, "inception_features", small)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two dozen pictures in three folders, each twice, the second time a little brighter."""
    place = tmp_path_factory.mktemp("classes")
    generator = np.random.default_rng(0)
    for index in range(COUNT // 2):
        coarse = generator.integers(0, 240, (6, 6, 3), dtype=np.uint8)
        label = place / f"n{index % 3}"
        label.mkdir(exist_ok=True)
        for again in range(2):
            picture = Image.fromarray(coarse + np.uint8(2 * again)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            picture.save(label / f"{index:02}-{again}.png")
    return place


@pytest.fixture(scope="module", params=["dinov2", "siglip"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model, as transformers saves it."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    if request.param == "dinov2":
        made = transformers.Dinov2Model(transformers.Dinov2Config(**sizes, image_size=56, patch_size=14))
    else:
        text = {**sizes, "vocab_size": 32, "max_position_embeddings": 8}
        vision = {**sizes, "image_size": 64, "patch_size": 16}
        made = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision))
    place = tmp_path_factory.mktemp(request.param)
    made.save_pretrained(place)
    return place


def run(tokenizer: Tokenizer, folder: Path, *names: str, place: str = "dinov2-base", **options: Any) -> Run | None:
    change = {
        **{"family": "latents", "metrics": ("psnr", *names), "geometry": {"size": SIDE}},
        **{"foundation": place, "data": {"source": "folder"}},
    }
    return evaluate(tokenizer, small_task(folder, **change), **{"out": None, **options})


def values(found: Run | None) -> dict[str, float]:
    assert found is not None
    return {name: score.value for name, score in found.scores.items() if score.value is not None}


def test_alignment_with_a_model(folder: Path, model: Path) -> None:
    tokenizer = load_tokenizer("tiny-fsq-f16")
    names = ("cknna", "cknna_se", "cknna_change", "purity", "token_gain")
    found = run(tokenizer, folder, *names, place=str(model))
    assert found is not None
    got = values(found)
    assert set(names) <= set(got)
    assert found.scores["cknna"].scored == COUNT and got["cknna/null"] == 10 / COUNT
    levels = [
        got[f"cknna_se/{change}"] for change in ("turned and scaled", *(f"noise {n}" for n in (0.05, 0.1, 0.15, 0.2)))
    ]
    assert got["cknna_se"] == pytest.approx(sum(levels) / 5)
    assert got["cknna_change"] == pytest.approx((got["cknna_se"] - got["cknna"]) / abs(got["cknna"]))
    assert len(set(levels)) == 5
    single = values(run(tokenizer, folder, *names, place=str(model), batch_size=5))
    assert {name: single[name] for name in got} == pytest.approx(got, abs=1e-3)
    assert {"foundation/config.json", "foundation/model.safetensors"} <= set(found.digests)


def test_a_tokenizer_of_one_size_has_no_se_alignment_at_all(folder: Path, model: Path) -> None:
    """A quarter of the pictures is drawn without a scale: alone they would be another set than the noisy ones."""
    tokenizer = load_tokenizer("tiny-fsq-f16")
    tokenizer.card = tokenizer.card.model_copy(
        update={"input": tokenizer.card.input.model_copy(update={"sizes": (64,)})}
    )
    found = run(tokenizer, folder, "cknna", "cknna_se", "cknna_change", place=str(model))
    assert found is not None and found.scores["cknna"].value is not None
    assert {found.scores[name].reason for name in ("cknna_se", "cknna_change")} == {"it takes pictures of 64 px only"}
    assert not [name for name in values(found) if name.startswith("cknna_se")]


def test_changed_and_clean_alignment_are_of_the_same_pictures(
    folder: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, names = load_tokenizer("tiny-fsq-f16"), ("cknna", "cknna_se", "cknna_change")
    shutil.copytree(folder, tmp_path / "fewer")
    (tmp_path / "fewer" / "n1" / "04-0.png").unlink()
    fewer = run(tokenizer, tmp_path / "fewer", *names, place=str(model))
    altered = latent_sets._altered

    def refuse(picture: Tensor, name: str, change: str) -> Tensor:
        if (name, change) == ("n1/04-0.png", "noise 0.1"):
            raise DataError("planted")
        return altered(picture, name, change)

    monkeypatch.setattr(latent_sets, "_altered", refuse)
    found = run(tokenizer, folder, *names, place=str(model))
    assert found is not None and found.scores["cknna"].scored == COUNT
    assert {score.scored for name, score in found.scores.items() if name.startswith("cknna_se")} == {COUNT - 1}
    for name in ("cknna_se", "cknna_change"):
        assert values(found)[name] == pytest.approx(values(fewer)[name], abs=1e-3)
    assert values(found)["cknna"] != pytest.approx(values(fewer)["cknna"], abs=1e-3)


def test_a_file_of_features_gives_what_the_model_does(folder: Path, model: Path, tmp_path: Path) -> None:
    task = small_task(folder, geometry={"size": SIDE})
    samples = [task.read(index) for index in range(COUNT)]
    rows = foundation.load(str(model), torch.device("cpu")).features(torch.stack([one.image for one in samples]))
    file = tmp_path / "features.npz"
    said = {"model": "a small one", "layer": "the last"}
    np.savez(file, ids=np.array([one.id for one in samples]), features=rows.numpy(), **said)
    tokenizer = load_tokenizer("tiny-fsq-f16")
    own = values(run(tokenizer, folder, "cknna", place=str(model)))["cknna"]
    found = run(tokenizer, folder, "cknna", "cknna_se", "cknna_change", place=str(file))
    assert found is not None
    assert values(found)["cknna"] == pytest.approx(own, abs=1e-9)
    assert "knows no changed pictures" in (found.scores["cknna_se"].reason or "")
    assert "knows no changed pictures" in (found.scores["cknna_change"].reason or "")
    assert found.digests["foundation/features"]
    shutil.copy(file, folder.parent / "elsewhere.npz")
    moved = run(tokenizer, folder, "cknna", "cknna_se", "cknna_change", place=str(folder.parent / "elsewhere.npz"))
    assert moved is not None and moved.digests["plan"] == found.digests["plan"], "where a file lies is no matter"
    np.savez(file, ids=np.array([one.id for one in samples[4:]]), features=rows.numpy()[4:], **said)
    assert values(run(tokenizer, folder, "cknna", place=str(file)))["cknna/null"] == 10 / (COUNT - 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.zeros((3, 4))}, "expected N texts"),
        ({"ids": np.array(["a", "a"])}, "twice"),
        ({"features": np.full((2, 4), np.nan)}, "finite"),
        ({"ids": np.array(["a", None], dtype=object)}, "expected a .npz"),
    ],
)
def test_a_wrong_file_of_features_is_told(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    said = {"ids": np.array(["a", "b"]), "features": np.zeros((2, 4)), "model": "m", "layer": "l"}
    np.savez(tmp_path / "one.npz", **(said | change))
    with pytest.raises(DataError, match=message):
        foundation.read(str(tmp_path / "one.npz"))


def test_features_that_are_not_there_are_told_before_anything_is_computed(folder: Path, tmp_path: Path) -> None:
    done = vtbench(
        *("run", "-t", "tiny-fsq-f16", "--task", "latents-imagenet", "--data", folder),
        *("--features", tmp_path / "none.npz", "--out", tmp_path / "r"),
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert "no such file of features" in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_a_folder_of_a_known_models_name_is_not_that_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizer, digests = load_tokenizer("tiny-fsq-f16"), []
    for _ in range(2):
        found = run(tokenizer, folder, "purity", limit=12)
        assert found is not None
        digests.append(found.digests["plan"])
        (tmp_path / "dinov2-base").mkdir(exist_ok=True)
    assert digests[0] == digests[1]


def test_sets_of_decodes(folder: Path, tmp_path: Path, inception: None) -> None:
    """iFID and pFID, whole and shared by two processes."""
    tokenizer = load_tokenizer("tiny-fsq-f16")
    names = ("rfid", "ifid", "pfid")
    found = run(tokenizer, folder, *names)
    assert found is not None
    got = values(found)
    assert found.scores["ifid"].scored == COUNT // 2 and found.scores["pfid"].scored == COUNT
    assert got["ifid"] > 0 and got["pfid"] == got["pfid/0.5"]
    # A part of the tokens in their least certain digit: farther off than nothing changed, the more the farther.
    assert got["pfid/0.25"] < got["pfid/0.9"]
    kept = {"out": tmp_path / "out", "work": tmp_path / "work"}
    parts = [run(tokenizer, folder, *names, rank=rank, world=2, **kept) for rank in (1, 0)]
    assert parts[0] is None
    assert values(parts[1]) == pytest.approx(got, rel=1e-9)


def test_latents_of_half_precision_are_decoded_between(folder: Path, inception: None) -> None:
    names = ("rfid", "ifid")
    whole = values(run(load_tokenizer("tiny-fsq-f16"), folder, *names))
    half = run(load_tokenizer("tiny-fsq-f16", precision="bf16"), folder, *names)
    assert half is not None and half.scores["ifid"].reason is None
    assert values(half)["ifid"] == pytest.approx(whole["ifid"], rel=0.1)


class Lossy(nn.Module):
    """An autoencoder in float32 that holds a loss in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, 4, 8, 8)
        self.decoder = nn.ConvTranspose2d(4, 3, 8, 8)
        self.loss = nn.Linear(3, 3).to(torch.bfloat16)

    def encode(self, x: Tensor) -> Tensor:
        z: Tensor = self.encoder(x)
        return z

    def decode(self, z: Tensor) -> Tensor:
        picture: Tensor = self.decoder(z)
        return picture


def test_a_live_model_of_several_types_decodes_between_latents_of_its_codecs_type(
    folder: Path, inception: None
) -> None:
    model = Lossy()
    found = run(wrap(model, name="mine"), folder, "rfid", "ifid")
    del model.loss
    assert values(found)["ifid"] == values(run(wrap(model, name="mine"), folder, "rfid", "ifid"))["ifid"]


def test_labels_are_folders_or_an_attribute(folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer("tiny-fsq-f16")
    assert values(run(tokenizer, folder, "purity"))["purity"] > 0.9  # each picture is there twice
    flat = tmp_path / "flat"
    flat.mkdir()
    lines = ["file_name,class"]
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        (flat / path.name).write_bytes(path.read_bytes())
        lines.append(f"{path.name},{number}")
    assert "labels are not known" in (run(tokenizer, flat, "purity").scores["purity"].reason or "")
    (flat / "metadata.csv").write_text("\n".join(lines))  # every picture its own label
    assert values(run(tokenizer, flat, "purity"))["purity"] == 0
    (flat / "metadata.csv").write_text("\n".join([*lines[:-1], lines[-1].partition(",")[0] + ","]))
    assert "labels are not known" in (run(tokenizer, flat, "purity").scores["purity"].reason or ""), "an empty cell"


def test_token_gain_of_noise_is_negative_and_of_stripes_is_not(folder: Path) -> None:
    def drawn(_: nn.Module, x: Tensor) -> Tensor:
        seeds = (x.double().abs().sum((1, 2, 3)) * 1000).long() % 2**31
        return torch.stack(
            [torch.randint(0, 16, (16, 16), generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
        )

    def striped(_: nn.Module, x: Tensor) -> Tensor:
        return (torch.arange(256) % 16).view(1, 16, 16).expand(len(x), -1, -1).clone()

    def black(_: nn.Module, codes: Tensor) -> Tensor:
        return torch.zeros(len(codes), 3, SIDE, SIDE)

    gains = []
    for encode in (drawn, striped):
        live = wrap(nn.Identity(), name="codes", codebook_size=16, encode=encode, decode=black)
        gains.append(values(run(live, folder, "token_gain"))["token_gain"])
    assert gains[0] < 0 and gains[1] > 3.5


class _Codebooks(nn.Module):
    """Two indices a position, each of a codebook of its own: of the first noise, of the second stripes."""

    def encode(self, x: Tensor) -> Codes:
        seeds = ((x.double().abs().sum((1, 2, 3)) * 1000).long() % 2**31).tolist()
        noise = torch.stack(
            [torch.randint(0, 16, (16, 16), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        )
        stripes = (torch.arange(256) % 8).view(1, 16, 16).expand_as(noise)
        return Codes(indices=(torch.stack([noise, stripes], -1),), codebook_sizes=(16,), size=(SIDE, SIDE))

    def decode(self, codes: Codes) -> Tensor:
        return torch.zeros(len(codes), 3, SIDE, SIDE)


def test_token_gain_of_several_codebooks_is_their_mean(folder: Path) -> None:
    card = TokenizerCard(
        name="two",
        family="test",
        network="planted",
        kind="discrete",
        title="Two",
        code=Code(codebook_sizes=(16, 16)),
    )
    found = run(Tokenizer(card, _Codebooks()), folder, "token_gain")
    assert found is not None and found.scores["token_gain"].low is not None
    got = values(found)
    assert got["token_gain/0"] < 0 and got["token_gain/1"] > 2.5
    assert got["token_gain"] == pytest.approx((got["token_gain/0"] + got["token_gain/1"]) / 2)


def test_token_gain_of_several_scales_is_of_the_finest(folder: Path) -> None:
    """VAR's scales: each is a map of its own, and they are no codebooks of one position."""
    found = run(small("var-256"), folder, "token_gain")
    assert found is not None and found.scores["token_gain"].value is not None
    assert not [name for name in values(found) if name.startswith("token_gain/")]


def test_tokens_of_several_indices_have_no_gain_and_say_why(folder: Path) -> None:
    found = run(small("bsqvit-36bit"), folder, "token_gain")
    assert found is not None
    assert "come in several indices" in (found.scores["token_gain"].reason or "")


def test_a_latent_that_is_not_finite_voids_no_set(folder: Path) -> None:
    def encode(_: nn.Module, x: Tensor) -> Tensor:
        return torch.where(x[:, :1, :1, :1] > 0, torch.inf, nn.functional.avg_pool2d(x, 8))

    live = wrap(
        nn.Identity(),
        name="endless",
        encode=encode,
        decode=lambda _, z: nn.functional.interpolate(z.nan_to_num(), scale_factor=8.0),
    )
    found = run(live, folder, "purity")
    assert found is not None
    assert 2 < found.scores["purity"].scored < COUNT
    assert found.scores["purity"].value is not None


def test_what_needs_more_pictures_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    catalogue.metrics.cache_clear()
    found = run(load_tokenizer("tiny-fsq-f16"), folder, "purity", "token_gain")
    assert found is not None
    assert found.scores["token_gain"].reason == "token gain (bits) needs at least 2000 pictures, the task has 24"


def test_a_diagnostic_is_refused_by_the_pictures_that_were_scored(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two dozen pictures are expected and asked for; two with one latent are refused, so too few are scored."""

    def least(metric: catalogue.Metric) -> catalogue.Metric:
        return replace(metric, options={**metric.options, "minimum": COUNT}) if "minimum" in metric.options else metric

    monkeypatch.setattr(catalogue, "_BUILT_IN", tuple(map(least, catalogue._BUILT_IN)))
    catalogue.metrics.cache_clear()
    pooled = latent_sets.pooled

    def refuse(z: Tensor) -> Tensor:
        if torch.equal(z[0], first):
            raise DataError("planted")
        return pooled(z)

    tokenizer = load_tokenizer("tiny-fsq-f16")
    picture = small_task(folder, geometry={"size": SIDE}).read(0).image[None]
    bottleneck = Bottleneck(tokenizer)
    first = bottleneck.latent(tokenizer.encode(picture))[0]
    whole = run(tokenizer, folder, "purity", batch_size=1)
    assert whole is not None and whole.scores["purity"].scored == COUNT
    monkeypatch.setattr(latent_sets, "pooled", refuse)
    found = run(tokenizer, folder, "purity", batch_size=1)
    assert found is not None and found.scores["purity"].value is None
    assert found.scores["purity"].reason == (
        "label purity needs at least 24 pictures, 22 of 24 were scored; the others: planted"
    )


def test_what_needs_rfids_features_says_so(folder: Path, inception: None) -> None:
    found = run(load_tokenizer("tiny-fsq-f16"), folder, "ifid", "pfid")
    assert found is not None
    for name in ("ifid", "pfid"):
        assert found.scores[name].reason == "it needs rfid's features of the originals: measure rfid beside it"


def test_the_card_is_whole() -> None:
    from vtbench import cards

    card = cards.find_task("latents-imagenet")
    assert set(METRICS) <= set(card.metrics)
    assert load_task("latents").card.family == card.family == "latents"
