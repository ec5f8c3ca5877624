"""Whose number it is: two different things never share a file, a cache entry or a name; a failure is no number."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import small_task, write_pictures
from PIL import Image
from torch import Tensor, nn

from vtbench import cards, evaluate, load_tokenizer, provenance, results, weights, wrap
from vtbench.cards import Geometry, TokenizerCard
from vtbench.errors import ChangedError, DataError, ResultError
from vtbench.results import Run
from vtbench.tokenizer import Tokenizer, build_network
from vtbench.types import Codes

CARD = TokenizerCard(name="planted", family="test", network="planted", kind="continuous", title="Planted")


class Copy(nn.Module):
    """Gives back what it takes, scaled; the planted faults override it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def encode(self, x: Tensor) -> Codes:
        return Codes(latent=x)

    def decode(self, codes: Codes) -> Tensor:
        assert codes.latent is not None
        return codes.latent * self.scale


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data") / "pictures", 4)


def go(tokenizer: Tokenizer, folder: Path, place: Path, **options: object) -> Run:
    return evaluate(tokenizer, small_task(folder), out=place / "r", work=place / "w", **options)


def files_of(place: Path) -> list[str]:
    return sorted(path.name for path in place.glob("r/*/*.json"))


# --- names ------------------------------------------------------------------------------------------------------------


def tiny_with(place: Path, factor: float) -> Path:
    card = cards.find_tokenizer("tiny")
    state = weights.read(weights.locate(card)[0], card.weights)
    path = place / f"tiny-{factor}.safetensors"
    from safetensors.torch import save_file

    save_file({name: tensor * factor for name, tensor in state.items()}, path)
    return path


def test_other_weights_another_precision_and_a_protocol_have_files_of_their_own(folder: Path, tmp_path: Path) -> None:
    go(load_tokenizer("tiny"), folder, tmp_path)
    local = go(load_tokenizer("tiny", weights=tiny_with(tmp_path, 0.5)), folder, tmp_path)
    other = go(load_tokenizer("tiny", weights=tiny_with(tmp_path, 0.9)), folder, tmp_path)
    named = go(load_tokenizer("tiny", weights=tiny_with(tmp_path, 0.9)), folder, tmp_path, label="step-20000", step=2e4)
    half = go(load_tokenizer("tiny", precision="bf16"), folder, tmp_path)
    native = small_task(folder, native=True)
    evaluate(load_tokenizer("tiny"), native, out=tmp_path / "r", work=tmp_path / "w", protocol="llamagen")
    assert files_of(tmp_path) == sorted([
        "tiny-fsq-f8.json",
        f"tiny-fsq-f8~{(local.label)}.json",
        f"tiny-fsq-f8~{(other.label)}.json",
        "tiny-fsq-f8~step-20000.json",
        "tiny-fsq-f8+bf16.json",
        "tiny-fsq-f8@llamagen.json",
    ])  # fmt: skip
    assert local.label == str(local.digests["weights"])[:8]
    assert (local.weights, half.weights, named.step) == ("local", "packaged", 20000.0)
    assert len({run.scores["psnr"].value for run in (local, other, half)}) == 3
    assert "local weights" in (local.unranked or "")
    assert half.unranked is None


def test_other_pictures_under_one_name_are_refused_naming_both(folder: Path, tmp_path: Path) -> None:
    go(load_tokenizer("jpeg-q5"), folder, tmp_path)
    (tmp_path / "elsewhere").mkdir()
    twin = write_pictures(tmp_path / "elsewhere" / "pictures", 3)
    with pytest.raises(ResultError, match=r"on other pictures that go by the same name .*--data-name"):
        go(load_tokenizer("jpeg-q5"), twin, tmp_path)
    assert results.read_run(tmp_path / "r" / "small@pictures" / "jpeg-q5.json").images == 4


def test_three_steps_of_one_live_module_give_three_numbers(folder: Path, tmp_path: Path) -> None:
    module = Copy()
    tokenizer = Tokenizer(CARD, module)
    found, saved = [], []
    for step in range(3):
        with torch.no_grad():
            module.scale.fill_(1.0 - 0.1 * step)
        run = go(tokenizer, folder, tmp_path, step=float(step))
        found.append((run.scores["psnr"].value, run.name, run.weights))
        other = Copy()
        other.load_state_dict(module.state_dict())
        saved.append(go(Tokenizer(CARD, other), folder, tmp_path / "saved").scores["psnr"].value)
    assert [value for value, _, _ in found] == saved
    assert len({name for _, name, _ in found}) == len(set(saved)) == 3
    assert {origin for _, _, origin in found} == {"local"}


PACKAGE = """
from torch import nn
from vtbench.types import Codes
class Network(nn.Module):
    def encode(self, x):
        return Codes(latent=x * FACTOR)
    def decode(self, codes):
        return codes.latent
"""

RUN_PACKAGE = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[4]]
import mine
from builders import small_task
from vtbench import evaluate
from vtbench.cards import TokenizerCard
from vtbench.tokenizer import Tokenizer
card = TokenizerCard(name="planted", family="test", network="planted", kind="continuous", title="Planted")
task = small_task(Path(sys.argv[2]))
run = evaluate(Tokenizer(card, mine.Network()), task, out=sys.argv[3] + "/r", work=sys.argv[3] + "/w")
print(run.scores["psnr"].value)
"""


def test_a_changed_network_of_a_users_package_is_computed_anew(folder: Path, tmp_path: Path) -> None:
    values = []
    for factor in (1.0, 0.5):
        (tmp_path / "mine").mkdir(exist_ok=True)
        (tmp_path / "mine" / "__init__.py").write_text(PACKAGE.replace("FACTOR", str(factor)))
        said = [sys.executable, "-B", "-c", RUN_PACKAGE, str(tmp_path), str(folder), str(tmp_path)]
        done = subprocess.run([*said, str(Path(__file__).parent)], capture_output=True, text=True, check=True)
        values.append(float(done.stdout))
    assert values[0] == np.inf > values[1]
    assert "network" in done.stderr or values[1] < 20


def test_what_an_editor_hides_among_the_code_is_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("clean", "edited"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.py").write_text("x = 1")
    (tmp_path / "edited" / ".#model.py").symlink_to("somebody@machine.4711:1")
    (tmp_path / "edited" / "old.py").mkdir()
    assert provenance.code_digest(tmp_path / "edited") == provenance.code_digest(tmp_path / "clean")
    module = types.ModuleType("edited")
    module.__file__ = str(tmp_path / "edited" / "__init__.py")
    Path(module.__file__).write_text("")
    monkeypatch.setitem(sys.modules, "edited", module)
    assert provenance.network_digest(Copy(), module) is not None


MODEL = """
import torch
from torch import nn
from helper import rounded
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))
    def encode(self, x):
        return rounded(x)
    def decode(self, z):
        return z * self.gain
"""

RUN_MODEL = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[3]]
from builders import small_task
from vtbench import evaluate, wrap
place = Path(sys.argv[1])
run = evaluate(wrap(Model(), name="mine"), small_task(Path(sys.argv[2])), out=place / "r", work=place / "w")
print(run.scores["psnr"].value)
"""


def rounded(steps: int) -> str:
    return f"def rounded(x):\n    return (x * {steps}).round() / {steps}\n"


@pytest.mark.parametrize("place", ["a module that the model's imports", "a notebook"])
def test_changed_code_beside_a_model_is_computed_anew(place: str, folder: Path, tmp_path: Path) -> None:
    values = []
    for steps in (4, 32):
        (tmp_path / "helper.py").write_text(rounded(steps))
        (tmp_path / "model.py").write_text(MODEL)
        first = "from model import Model\n" if place != "a notebook" else (
            f"STEPS = {steps}\n" + rounded(0).replace("0", "STEPS") + MODEL.replace("from helper import rounded\n", "")
        )  # fmt: skip
        program = RUN_MODEL.replace("from builders", f"{first}from builders")
        said = [sys.executable, "-B", "-c", program, str(tmp_path), str(folder), str(Path(__file__).parent)]
        done = subprocess.run(said, capture_output=True, text=True, check=True)
        values.append(float(done.stdout))
    assert values[0] < values[1]
    assert len(list((tmp_path / "r").glob("*/mine~*.json"))) == 2  # code that the model reaches is part of what it is


@pytest.mark.parametrize("gone", ["leftbehind", "beside"])
def test_code_whose_file_is_gone_is_told_by_what_was_compiled(
    gone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkout changes, or a job's folder is emptied, under a loop that trains."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    digests = []
    for factor in (1, 1, 2):
        own = {name: factor if name == gone else 1 for name in ("leftbehind", "beside")}
        (tmp_path / "beside.py").write_text(f"def scaled(x):\n    return x * {own['beside']}\n")
        (tmp_path / "leftbehind.py").write_text(
            "from beside import scaled\nfrom torch import nn\n\n\nclass Model(nn.Module):\n"
            f"    def forward(self, x):\n        return scaled(x) + {own['leftbehind']}\n"
        )
        importlib.invalidate_caches()
        model = importlib.import_module("leftbehind").Model()
        whole = provenance.network_digest(model)
        (tmp_path / f"{gone}.py").unlink()
        digests.append(provenance.network_digest(model))
        assert digests[-1] not in (None, whole)
        del sys.modules["leftbehind"], sys.modules["beside"]
    assert digests[0] == digests[1] != digests[2]


def test_measures_and_engines_of_packages_are_part_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    from vtbench import measures, provenance

    monkeypatch.syspath_prepend(tmp_path)
    found: list[str | None] = []
    for value in (1, 2):
        (tmp_path / "planted_code.py").write_text(
            f"from vtbench import measures\nVALUE = {value}\nclass Measure(measures.Measure): pass\n"
        )
        importlib.invalidate_caches()
        module = importlib.import_module("planted_code")
        found += [provenance.network_digest(nn.Identity(), other) for other in (module, module.Measure)]
    assert None not in found
    assert len({found[0], found[2]}) == len({found[1], found[3]}) == 2
    assert provenance.network_digest(nn.Identity(), measures.find("pairs")) is None


class Rounds(nn.Module):
    """Holds what it does in an attribute, and no tensor."""

    def __init__(self, how: object) -> None:
        super().__init__()
        self._how = how

    def encode(self, x: Tensor) -> Codes:
        steps = {"coarse": 4, "fine": 32}.get(str(self._how), 4)
        return Codes(latent=(x * steps).round() / steps)

    def decode(self, codes: Codes) -> Tensor:
        assert codes.latent is not None
        return codes.latent


def test_attributes_of_a_module_are_part_of_its_identity(folder: Path, tmp_path: Path) -> None:
    runs = [go(Tokenizer(CARD, Rounds(how)), folder, tmp_path) for how in ("coarse", "fine")]
    assert len({run.name for run in runs}) == len({run.scores["psnr"].value for run in runs}) == 2
    names = {
        go(wrap(Rounds(how), name="mine"), folder, tmp_path).name for how in ("coarse", "fine", (1, "a"), (2, "a"))
    }
    assert len(names) == 4


def test_a_module_of_the_users_never_goes_by_a_cards_own_weights(folder: Path, tmp_path: Path) -> None:
    card = CARD.model_copy(update={"name": "ibq-262144"})
    run = go(Tokenizer(card, Rounds("coarse")), folder, tmp_path)
    assert (run.weights, run.unranked) == ("local", "local weights")
    assert run.name.startswith("ibq-262144~")


def test_a_live_models_kind_is_known_under_a_published_protocol(folder: Path, tmp_path: Path) -> None:
    class Discrete(Rounds):
        def encode(self, x: Tensor) -> Codes:
            indices = ((x[:, :1] + 1) * 7.5).round().long().clamp(0, 15)
            return Codes(indices=(indices,), codebook_sizes=(16,))

        def decode(self, codes: Codes) -> Tensor:
            return (codes.indices[0] / 7.5 - 1).repeat(1, 3, 1, 1)

    run = evaluate(wrap(Discrete(1), name="mine"), small_task(folder, native=True), out=None, protocol="llamagen")
    assert (run.kind, run.scores["bpp"].value, run.scores["code_usage"].scored) == ("discrete", 4.0, 4)


def test_other_libraries_compute_anew_and_the_user_is_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from vtbench import provenance

    go(load_tokenizer("jpeg-q5"), folder, tmp_path)
    versions = {**provenance.versions(), "pillow": "0.0"}
    monkeypatch.setattr(provenance, "versions", lambda: versions)
    calls: list[int] = []
    run = go(load_tokenizer("jpeg-q5"), folder, tmp_path, progress=lambda *_: calls.append(1))
    assert calls
    assert run.versions["pillow"] == "0.0"
    assert "pillow" in caplog.text


def test_table_and_summary_belong_together(folder: Path, tmp_path: Path) -> None:
    run = go(load_tokenizer("jpeg-q5"), folder, tmp_path)
    place = tmp_path / "w" / "small@pictures" / "jpeg-q5"
    assert results.find_run(place, tmp_path)[0] == run
    table = results.read_images(place / results.IMAGES)
    table["psnr"] += 1.0
    table.to_parquet(place / results.IMAGES)
    with pytest.raises(ResultError, match="was changed since"):
        results.find_run(place, tmp_path)
    calls: list[int] = []
    again = go(load_tokenizer("jpeg-q5"), folder, tmp_path, progress=lambda *_: calls.append(1))
    assert calls, "a table that is not its own was taken for finished"
    assert again.scores == run.scores


def test_pictures_that_change_or_vanish_end_the_run(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures", 3)
    task = small_task(folder)
    assert task.digest
    (folder / "002.png").unlink()
    with pytest.raises(ChangedError, match=r"002\.png"):
        evaluate(load_tokenizer("jpeg-q5"), task, out=tmp_path / "r", work=tmp_path / "w")
    assert not list(tmp_path.glob("r/*/*.json"))


def test_memory_addresses_never_reach_a_reason(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures", 3)
    (folder / "001.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40)
    run = go(load_tokenizer("jpeg-q5"), folder, tmp_path)
    table = results.read_images(tmp_path / "w" / "small@pictures" / "jpeg-q5" / results.IMAGES)
    assert "0x" not in table["reason"][1]
    assert (run.pictures.failed, run.pictures.scored, run.pictures.found) == (1, 2, 3)
    assert "1 of 3" not in (run.unranked or "")


def test_written_json_is_strict(folder: Path, tmp_path: Path) -> None:
    run = go(load_tokenizer("control-identity"), folder, tmp_path)
    assert run.scores["psnr"].value == np.inf

    def refuse(word: str) -> None:
        raise AssertionError(word)

    for path in (*tmp_path.glob("r/*/*.json"), *tmp_path.glob("w/*/*/run.json")):
        said = json.loads(path.read_text(), parse_constant=refuse)
        assert said["scores"]["psnr"]["value"] == "Infinity"
        assert results.read_run(path) == run


def test_started_is_when_the_first_shard_began(folder: Path, tmp_path: Path) -> None:
    from datetime import UTC, datetime

    before = datetime.now(UTC).isoformat(timespec="seconds")
    run = go(load_tokenizer("jpeg-q5"), folder, tmp_path)
    assert before <= run.timing.started <= datetime.now(UTC).isoformat(timespec="seconds")
    assert go(load_tokenizer("jpeg-q5"), folder, tmp_path).timing == run.timing


# --- what fails -------------------------------------------------------------------------------------------------------


class OneNan(Copy):
    def decode(self, codes: Codes) -> Tensor:
        found = super().decode(codes).clone()
        dark = found.mean(dim=(1, 2, 3)).argmin() if len(found) == 4 else None
        found[dark if dark is not None else slice(0, 0)] = torch.nan
        return found


class AllNan(Copy):
    def decode(self, codes: Codes) -> Tensor:
        return super().decode(codes) * torch.nan


class Twice(Copy):
    def decode(self, codes: Codes) -> Tensor:
        return nn.functional.interpolate(super().decode(codes), scale_factor=2)


class OneMore(Copy):
    def decode(self, codes: Codes) -> Tensor:
        return nn.functional.pad(super().decode(codes), (0, 1))


class Peeks(Copy):
    def encode(self, x: Tensor) -> Codes:
        self.seen = x
        return Codes(latent=x[:, :, ::8, ::8])

    def decode(self, codes: Codes) -> Tensor:
        return self.seen


def test_one_picture_that_is_not_finite_has_its_reason_and_the_others_their_mean(folder: Path, tmp_path: Path) -> None:
    run = go(Tokenizer(CARD, OneNan()), folder, tmp_path)
    table = results.read_images(tmp_path / "w" / run.task / run.name / results.IMAGES)
    failed = table["reason"].notna()
    assert failed.sum() == 1
    assert "not finite" in table["reason"][failed].iloc[0]
    assert table["psnr"][failed].isna().all()
    assert table["latent_values"].notna().all()  # its codes are whole
    assert (run.scores["psnr"].scored, run.scores["psnr"].value) == (3, np.inf)
    assert run.pictures.reasons == {table["reason"][failed].iloc[0]: 1}


@pytest.mark.parametrize(
    ("network", "reason"),
    [(AllNan, "not finite"), (Twice, r"gave \(\d, 3, 128, 128\)"), (OneMore, r"gave \(\d, 3, 64, 65\)")],
)
def test_a_run_all_of_whose_pictures_failed_ends_and_keeps_its_table(
    network: type[nn.Module], reason: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=rf"all 4 pictures failed.*{reason}"):
        go(Tokenizer(CARD, network()), folder, tmp_path, label="bad")
    assert not files_of(tmp_path)
    table = results.read_images(tmp_path / "w" / "small@pictures" / "planted~bad" / results.IMAGES)
    assert table["reason"].notna().all()


def test_a_picture_too_small_for_one_metric_keeps_the_others(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures", 2)
    Image.new("RGB", (9, 9), "red").save(folder / "small.png")
    task = small_task(folder, geometry=Geometry(size="native"))
    run = evaluate(load_tokenizer("control-identity"), task, out=tmp_path / "r", work=tmp_path / "w")
    table = results.read_images(tmp_path / "w" / run.task / run.name / results.IMAGES).set_index("id")
    assert np.isnan(table["ssim"]["small.png"])
    assert "needs at least 11x11" in table["ssim:reason"]["small.png"]
    assert table["psnr"]["small.png"] == np.inf
    assert (run.scores["ssim"].scored, run.scores["psnr"].scored) == (2, 3)
    assert run.pictures.failed == 0


LEFT: list[Tensor] = []


class PeeksAtAGlobal(Copy):
    def encode(self, x: Tensor) -> Codes:
        LEFT[:] = [x]
        return Codes(latent=x[:, :, ::8, ::8])

    def decode(self, codes: Codes) -> Tensor:
        return LEFT[0]


class PeeksInAClosure(Copy):
    def __init__(self) -> None:
        super().__init__()
        left: dict[str, Tensor] = {}

        def keep(x: Tensor) -> None:
            left["x"] = x

        self.keep, self.kept = keep, lambda: left["x"]

    def encode(self, x: Tensor) -> Codes:
        self.keep(x)
        return Codes(latent=x[:, :, ::8, ::8])

    def decode(self, codes: Codes) -> Tensor:
        return self.kept()


class PeeksInABuffer(Copy):
    """Keeps but the colour of its picture, as a normalisation that forgets to send its statistics."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, 3, 1, 1), persistent=False)

    def encode(self, x: Tensor) -> Codes:
        self.mean.copy_(x.mean(dim=(0, 2, 3), keepdim=True))
        return Codes(latent=x - self.mean)

    def decode(self, codes: Codes) -> Tensor:
        assert codes.latent is not None
        return codes.latent + self.mean


class Holes(Peeks):
    """Its first picture can't be reconstructed; it peeks at the others."""

    def decode(self, codes: Codes) -> Tensor:
        return self.seen * (torch.nan if len(codes) == 1 and self.seen.std() < 1e-3 else 1.0)


class Draws(Copy):
    """A decoder that samples, from a generator that it seeds or from the one of all."""

    def __init__(self, seed: int | None) -> None:
        super().__init__()
        self.seed = seed

    def decode(self, codes: Codes) -> Tensor:
        assert codes.latent is not None
        generator = None if self.seed is None else torch.Generator().manual_seed(self.seed)
        return codes.latent + 0.1 * torch.randn(codes.latent.shape, generator=generator)


@pytest.mark.parametrize("network", [Peeks, PeeksAtAGlobal, PeeksInAClosure, PeeksInABuffer])
def test_a_tokenizer_that_peeks_is_found_out(network: type[nn.Module], folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="uses what its encoder left behind"):
        go(Tokenizer(CARD, network()), folder, tmp_path)
    assert not files_of(tmp_path)
    live = wrap(network(), name="mine")
    if network is PeeksInABuffer:  # a live module's buffers are put back after every call: nothing is left behind
        assert (evaluate(live, small_task(folder), out=None).scores["psnr"].value or 0) < np.inf
        return
    with pytest.raises(DataError, match="uses what its encoder left behind"):
        evaluate(live, small_task(folder), out=None)


@pytest.mark.parametrize("colour", [(128, 128, 128), (0, 0, 0), (255, 255, 255)])
def test_a_picture_without_anything_in_it_hides_no_peeking(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (64, 64), colour).save(tmp_path / "pictures" / "flat.png")
    with pytest.raises(DataError, match="uses what its encoder left behind"):
        go(Tokenizer(CARD, Peeks()), tmp_path / "pictures", tmp_path)


def test_a_first_picture_that_fails_hides_no_peeking(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures", 2)
    Image.new("RGB", (64, 64), "grey").save(folder / "000.png")
    with pytest.raises(DataError, match="uses what its encoder left behind"):
        go(Tokenizer(CARD, Holes()), folder, tmp_path)


def test_codecs_and_seeded_samplers_do_not_peek(folder: Path, tmp_path: Path) -> None:
    assert go(load_tokenizer("jpeg-q5"), folder, tmp_path).pictures.scored == 4
    assert go(Tokenizer(CARD, Draws(7)), folder, tmp_path, label="seeded").pictures.scored == 4
    with pytest.raises(DataError, match=r"another picture for the same codes every time.*generator that it seeds"):
        go(Tokenizer(CARD, Draws(None)), folder, tmp_path, label="unseeded")


def test_nobody_sees_the_codes_of_an_opaque_model_so_nothing_is_said_of_them(folder: Path) -> None:
    module = Copy()
    run = evaluate(wrap(lambda x: x * module.scale, name="mine"), small_task(folder), out=None)
    assert (run.kind, run.pictures.scored) == ("opaque", 4)


def test_tokens_for_understanding_are_no_pixels(folder: Path) -> None:
    card = CARD.model_copy(update={"kind": "understanding"})
    with pytest.raises(DataError, match="gives tokens for understanding and no pixels"):
        evaluate(Tokenizer(card, Copy()), small_task(folder), out=None)


def test_codes_that_smuggle_are_refused() -> None:
    discrete = CARD.model_copy(update={"kind": "discrete", "code": cards.Code(codebook_sizes=(16,))})
    x = torch.zeros((2, 3, 8, 8), dtype=torch.uint8)
    indices = torch.zeros((2, 4), dtype=torch.int64)
    planted = {
        "gives indices and latent, expected indices alone": Codes((indices,), torch.zeros(2, 1), codebook_sizes=(16,)),
        "states the size": Codes((indices,), size=(9, 8), codebook_sizes=(16,)),
        "has codebooks of 4 codes, its card says 16": Codes((indices,), codebook_sizes=(4,)),
        "4 of them a token, its card says 1 a token": Codes((indices,), codebook_sizes=(16,), indices_per_token=4),
        "of type torch.int32": Codes((indices.int(),), codebook_sizes=(16,)),
        "other than the 2 pictures": Codes((indices[:1],), codebook_sizes=(16,)),
        "gives nothing, expected indices alone": Codes(),
    }
    for message, codes in planted.items():
        network = Copy()
        network.encode = lambda _, codes=codes: codes  # type: ignore[method-assign, misc]
        with pytest.raises(DataError, match=message):
            Tokenizer(discrete, network).encode(x)


def test_a_broken_first_picture_does_not_end_a_live_models_run(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures", 3)
    (folder / "000.png").write_bytes(b"broken")
    run = evaluate(wrap(Copy(), name="mine"), small_task(folder), out=None)
    assert (run.pictures.scored, run.pictures.failed) == (2, 1)


def test_out_none_writes_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = evaluate(wrap(Copy(), name="mine"), small_task(folder), out=None)
    assert run.flat()["small@pictures/psnr"] == np.inf
    assert not list(tmp_path.iterdir())


def test_networks_built_empty_are_whole(photographs: Tensor) -> None:
    """A network on no memory, filled from its file, is the network that its constructor builds."""
    card = cards.find_tokenizer("tiny")
    plain = build_network(card)
    weights.load_state(plain, weights.read(weights.locate(card)[0], card.weights))
    both = [Tokenizer(card, plain).reconstruct(photographs[:1]), load_tokenizer("tiny").reconstruct(photographs[:1])]
    assert torch.equal(*both)


# --- compiled networks ------------------------------------------------------------------------------------------------


@pytest.mark.heavy  # seconds of many processes or networks
@pytest.mark.filterwarnings("ignore:The distutils package is deprecated:DeprecationWarning")  # torch asks it for cl.exe
def test_a_compiled_network_gives_the_same_within_rounding_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_pictures(tmp_path / "in", 3)
    task, places = small_task(tmp_path / "in"), {"out": tmp_path / "r", "work": tmp_path / "w"}
    plain = evaluate(load_tokenizer("tiny-fsq-f16"), task, **places)
    with caplog.at_level("WARNING", logger="vtbench"):
        run = evaluate(load_tokenizer("tiny-fsq-f16", compiled=True), task, **places)
    assert "computed anew, for these differ (before, now): compiled (false, true)" in caplog.text
    assert (plain.compiled, run.compiled) == (False, True)
    assert run.digests["plan"] != plain.digests["plan"]
    assert run.scores["psnr"].value == pytest.approx(plain.scores["psnr"].value, abs=1e-3)  # dB; a code may round over


def test_what_torch_cannot_compile_ends_in_one_line(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 1)
    said = ["run", "-t", "tiny-fsq-f16", "-t", "tiny-fsq-f8", "--compile", "--task", "kodak", "--data", "in"]
    surroundings = {**os.environ, "CXX": "/nowhere/c++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "vtbench", *said, "--device", "cpu"],
        cwd=tmp_path,
        env=surroundings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    lines = [one for one in done.stderr.splitlines() if "leave --compile out" in one]
    for name, line in zip(("tiny-fsq-f16", "tiny-fsq-f8"), lines, strict=True):
        assert line.startswith(f"vtbench: {name}: torch can't compile it here (") and len(line) < 400
