"""The measure of the latent space: values of latents whose answer is known, and what moves them."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import small_task
from discrete import SMALL, small
from PIL import Image
from torch import Tensor, nn

from vtbench import backbones, evaluate, load_task, load_tokenizer, wrap
from vtbench.bottleneck import Bottleneck
from vtbench.cards import Code, TokenizerCard
from vtbench.measures import latents as measure
from vtbench.metrics.latents import probes
from vtbench.results import Run
from vtbench.tokenizer import Tokenizer
from vtbench.types import Codes

pytestmark = pytest.mark.skipif(backbones.find("lpips-alex") is None, reason="LPIPS' weights are not on this machine")

METRICS = load_task("latents").card.metrics
SIDE = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photographs: Tensor) -> Path:
    place = tmp_path_factory.mktemp("photographs")
    for index, picture in enumerate(photographs[:, :, 64:192, 64:192]):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(place / f"{index}.png")
    return place


def run(tokenizer: Tokenizer, folder: Path, *names: str, **options: Any) -> Run:
    size = options.pop("size", SIDE)
    metrics = names or METRICS
    change = {"family": "latents", "metrics": ("psnr", *metrics), "geometry": {"size": size}}
    found = evaluate(tokenizer, small_task(folder, **change), **{"out": None, **options})
    assert found is not None
    return found


def values(found: Run) -> dict[str, float]:
    return {name: score.value for name, score in found.scores.items() if score.value is not None}


# --- a codebook whose order is known ------------------------------------------------------------------------------


class Greys(nn.Module):
    """Means of 4x4 pixels in 64 greys; the nearest codes of a grey are those beside it, or any where scrambled."""

    changes = "codes"

    def __init__(self, *, scrambled: bool) -> None:
        super().__init__()
        table = torch.linspace(-1, 1, 64)
        self.register_buffer("seen", table)
        order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
        # Encoder and decoder agree on each code; how far two codes are apart the codebook says falsely.
        self.register_buffer("said", table[order] if scrambled else table)

    def latent(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x.mean(1, keepdim=True), 4)

    def encode(self, x: Tensor) -> Codes:
        (offered,) = self.candidates(x, 1)
        return Codes(indices=(offered[..., 0],), codebook_sizes=(64,))

    def vectors(self, codes: Codes) -> Tensor:
        return self.seen[codes.indices[0]][:, None]

    def candidates(self, x: Tensor, count: int) -> tuple[Tensor, ...]:
        own = (self.latent(x)[:, 0, ..., None] - self.seen).abs().argmin(-1)
        return ((self.said[own][..., None] - self.said).abs().argsort(dim=-1, stable=True)[..., :count],)

    def decode(self, codes: Codes) -> Tensor:
        z = self.vectors(codes) if codes.latent is None else codes.latent
        return nn.functional.interpolate(z.expand(-1, 3, -1, -1), scale_factor=4.0)


def greys(*, scrambled: bool) -> Tokenizer:
    said = {"name": "greys", "family": "live", "network": "live", "kind": "discrete", "title": "Greys"}
    card = TokenizerCard.model_validate(said | {"code": Code(codebook_sizes=(64,))})
    return Tokenizer(card, Greys(scrambled=scrambled), state="none")


def test_a_scrambled_codebook_raises_the_rise(folder: Path) -> None:
    ordered, scrambled = (values(run(greys(scrambled=scrambled), folder, "token_rise")) for scrambled in (False, True))
    assert ordered["psnr"] == scrambled["psnr"]
    levels = ["token_rise/0.25", "token_rise/0.5", "token_rise/0.9"]
    assert ordered["token_rise"] == ordered["token_rise/0.5"]
    for level in levels:
        assert ordered[level] < scrambled[level] / 3
    assert scrambled["token_rise/0.25"] < scrambled["token_rise/0.5"] < scrambled["token_rise/0.9"]


def test_tokens_change_at_their_rate(folder: Path, photographs: Tensor) -> None:
    tokenizer = greys(scrambled=False)
    pictures = photographs[:2]
    codes = tokenizer.encode(pictures)
    seen = measure.Seen(Bottleneck(tokenizer), ("a", "b"), pictures, pictures, codes, torch.zeros(2, 1, 4, 4))
    made = measure.changed(seen, (0.0, 0.25, 0.5, 0.9, 1.0))
    own = codes.indices[0]
    shares = [float((one.indices[0] != own).float().mean()) for one in made]
    # 1% of 64 codes are the two nearest, the own one among them: half of what is drawn is as it was.
    assert shares == pytest.approx([0, 0.125, 0.25, 0.45, 0.5], abs=0.02)
    assert all(int((one.indices[0] - own).abs().max()) <= 1 for one in made)
    changed = [one.indices[0] != own for one in made]
    assert all(bool((less <= more).all()) for less, more in pairwise(changed))
    again = measure.changed(replace(seen, ids=("b", "a")), (0.5,))[0]
    assert not torch.equal(again.indices[0], made[2].indices[0])


# --- latents whose answer is known --------------------------------------------------------------------------------


def pooling(z: Tensor) -> Tensor:
    return nn.functional.interpolate(z, scale_factor=4.0)


def pools(encode: Any = None, decode: Any = None) -> Tokenizer:
    return wrap(
        nn.Identity(),
        name="pools",
        encode=encode or (lambda _, x: nn.functional.avg_pool2d(x, 4)),
        decode=decode or (lambda _, z: pooling(z)),
    )


def test_a_decoder_that_enlarges_is_equivariant_and_its_latent_is_a_picture(folder: Path) -> None:
    found = values(run(pools(), folder))
    assert abs(found["turn_rise"]) < 1e-6
    assert {f"turn_rise/{turn}" for turn in (90, 180, 270)} <= set(found)
    assert found["lds"] > 0.1 and found["cds"] > 0.005
    assert found["effective_rank"] <= 3
    assert found["spectrum_kl"] < 0.3
    assert 0 < found["lpc/0.1"] < found["lpc/0.5"] < found["lpc/1"]


def test_pictures_that_are_no_squares_are_turned_too(tmp_path: Path, photographs: Tensor) -> None:
    Image.fromarray(photographs[0, :, 64:128, 64:160].permute(1, 2, 0).numpy()).save(tmp_path / "wide.png")
    found = run(pools(), tmp_path, "turn_rise", size="native")
    assert found.scores["turn_rise"].reason is None
    assert {name: abs(value) < 1e-6 for name, value in values(found).items() if name.startswith("turn_rise/")} == {
        f"turn_rise/{turn}": True for turn in (90, 180, 270)
    }


def test_more_noise_on_the_decoders_input_raises_lpc(folder: Path) -> None:
    found = values(run(pools(), folder, "lpc"))
    levels = [found[f"lpc/{rho:g}"] for rho in probes.RHOS]
    assert levels == sorted(levels) and levels[0] < found["lpc"] < levels[-1]

    def shaken(_: nn.Module, z: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(int(z.double().abs().sum() * 1e6) % 2**31)
        return pooling(z + 0.1 * torch.randn(z.shape, generator=generator))

    # A decoder that is noisy anyway is farther off at a small radius, and hides larger ones: docs/latents.md says so.
    rough = values(run(pools(decode=shaken), folder, "lpc"))
    assert rough["lpc/0.1"] > 1.2 * found["lpc/0.1"]
    assert rough["lpc/1"] < found["lpc/1"]


def test_shuffled_places_lose_their_structure(folder: Path) -> None:
    order = torch.randperm(256, generator=torch.Generator().manual_seed(0))
    back = order.argsort()

    def shuffled(_: nn.Module, x: Tensor) -> Tensor:
        z = nn.functional.avg_pool2d(x, 4)
        return z.flatten(2)[..., order].view_as(z)

    def sorted_again(_: nn.Module, z: Tensor) -> Tensor:
        return pooling(z.flatten(2)[..., back].view_as(z))

    names = ("lds", "lds_centred", "cds", "rmsc", "spectrum_kl", "block_high", "effective_rank", "turn_rise")
    plain = values(run(pools(), folder, *names))
    broken = values(run(pools(shuffled, sorted_again), folder, *names))
    assert broken["psnr"] == plain["psnr"]
    assert abs(broken["lds"]) < plain["lds"] / 5 and abs(broken["lds_centred"]) < plain["lds_centred"] / 5
    assert abs(broken["cds"]) < plain["cds"] / 5
    assert broken["rmsc"] == pytest.approx(plain["rmsc"])
    assert broken["effective_rank"] == pytest.approx(plain["effective_rank"])
    assert broken["spectrum_kl"] > plain["spectrum_kl"]
    assert broken["block_high"] > plain["block_high"]
    assert broken["turn_rise"] > plain["turn_rise"] + 0.05


def test_white_noise_has_flat_spectra_and_no_structure(folder: Path) -> None:
    def noise(_: nn.Module, x: Tensor) -> Tensor:
        seed = int(x.double().abs().sum() * 1000) % 2**31
        return torch.randn(len(x), 16, 16, 16, generator=torch.Generator().manual_seed(seed))

    tokenizer = pools(noise, lambda _, z: pooling(z[:, :3]))
    found = values(run(tokenizer, folder, "lds", "cds", "rmsc", "rmsc_centred", "block_high", "spectrum_high"))
    assert abs(found["lds"]) < 0.02 and abs(found["cds"]) < 0.005
    assert found["rmsc"] > 0.99 and found["rmsc_centred"] > 0.99
    assert found["block_high"] == pytest.approx(1, abs=0.1)
    assert found["spectrum_high"] == pytest.approx(0.5, abs=0.02)


def test_a_rotation_of_the_channels_changes_no_cosine(folder: Path) -> None:
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0))).Q

    def rotated(_: nn.Module, x: Tensor) -> Tensor:
        return torch.einsum("dc,bchw->bdhw", turn, nn.functional.avg_pool2d(x, 4))

    def back(_: nn.Module, z: Tensor) -> Tensor:
        return pooling(torch.einsum("dc,bdhw->bchw", turn, z))

    names = ("lds", "lds_centred", "cds", "rmsc", "effective_rank")
    plain, moved = values(run(pools(), folder, *names)), values(run(pools(rotated, back), folder, *names))
    for name in names:
        assert moved[name] == pytest.approx(plain[name], abs=1e-5), name


def test_an_offset_moves_raw_forms_and_leaves_centred_ones(folder: Path) -> None:
    shifted = pools(lambda _, x: nn.functional.avg_pool2d(x, 4) + 2, lambda _, z: pooling(z - 2))
    names = ("lds", "lds_centred", "cds_centred", "rmsc", "rmsc_centred", "spectrum_kl", "block_high", "lpc")
    plain, moved = values(run(pools(), folder, *names)), values(run(shifted, folder, *names))
    for name in ("lds_centred", "cds_centred", "rmsc_centred", "spectrum_kl"):
        assert moved[name] == pytest.approx(plain[name], abs=1e-4), name
    assert moved["lds"] < plain["lds"] / 2 and moved["rmsc"] < plain["rmsc"] / 2
    assert moved["block_high"] < plain["block_high"]
    assert moved["lpc"] > plain["lpc"]


# --- what can't be had --------------------------------------------------------------------------------------------


def test_sequences_have_no_grid_and_say_so(folder: Path) -> None:
    def tokens(_: nn.Module, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x, 4).flatten(2).mT

    def pixels(_: nn.Module, z: Tensor) -> Tensor:
        return pooling(z.mT.unflatten(2, (16, 16)))

    found = run(pools(tokens, pixels), folder)
    for name in ("spectrum_kl", "block_high", "turn_rise", "scale_rise", "lds", "rmsc_centred"):
        assert found.scores[name].reason == "its tokens are no grid", name
    assert found.scores["token_rise"].reason == measure.NO_CODES
    assert {"lpc", "effective_rank", "psnr"} <= set(values(found))


def test_a_flat_latent_has_no_spectrum(tmp_path: Path, photographs: Tensor) -> None:
    """Its rings hold nothing but the floor of the logarithm: they were white noise's."""
    Image.fromarray(photographs[0, :, 64:128, 64:128].permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    Image.new("RGB", (SIDE, SIDE), (20, 130, 77)).save(tmp_path / "flat.png")
    found = run(pools(), tmp_path, "spectrum_kl", "spectrum_high", "lds")
    for name in ("spectrum_kl", "spectrum_high"):
        assert (found.scores[name].scored, found.scores[name].expected) == (1, 2), name
    (tmp_path / "a.png").unlink()
    alone = run(pools(), tmp_path, "spectrum_kl", "spectrum_high")
    assert {alone.scores[name].reason for name in ("spectrum_kl", "spectrum_high")} == {measure.FLAT}


def test_a_codec_has_none_of_it(folder: Path) -> None:
    found = run(load_tokenizer("jpeg-q5"), folder)
    own = [name for name in METRICS if name not in ("psnr", "lpips")]
    assert {found.scores[name].reason for name in own} == {"codecs have no latent"}
    assert {"psnr", "lpips"} <= set(values(found))


def test_a_live_model_whose_codes_nobody_sees_has_none_either(folder: Path) -> None:
    found = run(wrap(lambda x: x, name="same"), folder, "lpc", "lds")
    assert {found.scores[name].reason for name in ("lpc", "lds")} == {"its codes are not seen"}


def test_a_live_model_of_indices_says_what_it_does_not_show(folder: Path) -> None:
    live = wrap(
        nn.Identity(),
        name="bits",
        codebook_size=2,
        encode=lambda _, x: (x.mean(1) > 0).long(),
        decode=lambda _, codes: (codes[:, None] * 2.0 - 1).expand(-1, 3, -1, -1),
    )
    found = run(live, folder, "lpc", "token_rise")
    assert "does not show what its codes stand for" in (found.scores["lpc"].reason or "")


def test_only_the_picture_that_fails_is_left_out(folder: Path) -> None:
    def fragile(_: nn.Module, z: Tensor) -> Tensor:
        bright = z.mean((1, 2, 3), keepdim=True) > -0.1
        return torch.where(bright & (z.abs().amax((1, 2, 3), keepdim=True) > 1.2), torch.nan, pooling(z))

    score = run(pools(decode=fragile), folder, "lpc").scores["lpc"]
    assert 0 < score.scored < score.expected


def test_a_latent_that_is_not_finite_is_left_out_of_the_rank_of_all(tmp_path: Path) -> None:
    def encode(_: nn.Module, x: Tensor) -> Tensor:
        z = nn.functional.avg_pool2d(x, 4)
        return torch.where(z.mean((1, 2, 3), keepdim=True) > 0.5, torch.inf, z)

    for level in (20, 90, 160, 250):
        Image.new("RGB", (SIDE, SIDE), (level, 255 - level, 60)).save(tmp_path / f"{level}.png")
    Image.new("RGB", (SIDE, SIDE), "white").save(tmp_path / "white.png")
    same = pools(encode=encode, decode=lambda _, z: pooling(z.nan_to_num()))
    score = run(same, tmp_path, "effective_rank").scores["effective_rank"]
    assert (score.scored, score.expected) == (4, 5)
    assert score.value is not None


# --- the same values whatever the run -----------------------------------------------------------------------------


def test_neither_batch_nor_processes_nor_resuming_change_a_value(folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer("tiny-fsq-f8")
    whole = run(tokenizer, folder, size=128)
    single = run(tokenizer, folder, size=128, batch_size=1)
    assert set(values(whole)) == set(values(single))
    for name, value in values(whole).items():
        assert values(single)[name] == pytest.approx(value, abs=2e-4, rel=1e-3), name
    kept = {"out": tmp_path / "out", "work": tmp_path / "work"}
    assert values(run(tokenizer, folder, size=128, **kept)) == values(whole)
    for path in (tmp_path / "work").rglob("run.json"):
        path.unlink()
    assert values(run(tokenizer, folder, size=128, **kept)) == values(whole)


def test_two_processes_share_a_run(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    (tmp_path / "many").mkdir()
    for index in range(18):  # two shards
        picture = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(picture).resize((64, 64), Image.Resampling.BICUBIC).save(tmp_path / "many" / f"{index:02}.png")
    names = ("lds", "block_high", "effective_rank", "digit_rise")
    tokenizer = load_tokenizer("tiny-fsq-f16")
    whole = run(tokenizer, tmp_path / "many", *names)
    change = {"family": "latents", "metrics": names, "geometry": {"size": SIDE}, "primary": "lds"}
    task = small_task(tmp_path / "many", **change)
    kept = {"out": tmp_path / "out", "work": tmp_path / "work"}
    parts = [evaluate(tokenizer, task, rank=rank, world=2, **kept) for rank in (1, 0)]
    assert parts[0] is None and parts[1] is not None
    assert {name: value for name, value in values(whole).items() if name != "psnr"} == values(parts[1])


def test_probes_are_the_pure_functions(folder: Path, photographs: Tensor) -> None:
    """One picture by hand: the measure adds nothing to the formulas."""
    from vtbench.metrics import lpips

    tokenizer = load_tokenizer("tiny-fsq-f8")
    bottleneck = Bottleneck(tokenizer)
    found = run(tokenizer, folder, "lpc", "turn_rise", limit=1)
    picture = small_task(folder, geometry={"size": SIDE}).read(0)
    batch = picture.image[None]
    z = bottleneck.latent(tokenizer.encode(batch))

    def decode(moved: Tensor) -> Tensor:
        return bottleneck.decode(moved, (8 * moved.shape[2], 8 * moved.shape[3]))[0]

    assert values(found)["lpc"] == pytest.approx(float(probes.lpc(decode, z, [picture.id], lpips)), abs=1e-6)
    turned = probes.moved_rise(decode, batch, decode(z), z, lpips, scale=1.0, turns=2)
    assert values(found)["turn_rise/180"] == pytest.approx(float(turned), abs=1e-6)
    assert json.loads(json.dumps(values(found)))


@pytest.mark.parametrize("name", SMALL)
def test_every_discrete_network_is_scored(name: str, folder: Path) -> None:
    """With made-up weights in a size that a test can run: a value, or a reason that is the network's own."""
    tokenizer = small(name)
    found = run(tokenizer, folder, *METRICS, limit=2)
    got = values(found)
    changes = Bottleneck(tokenizer).changes
    assert {"lpc", "effective_rank", "token_rise" if changes == "codes" else "digit_rise"} <= set(got)
    reasons = {metric: score.reason for metric, score in found.scores.items() if score.reason and metric in METRICS}
    assert reasons.pop("digit_rise" if changes == "codes" else "token_rise") in measure.OTHER_KIND.values()
    if name.startswith(("titok", "flowmo")):
        assert set(reasons.values()) <= {measure.NO_GRID, "it takes pictures of 64 px only"}
        assert "spectrum_kl" not in got and "lds" not in got
    else:
        assert {"spectrum_kl", "turn_rise", "turn_rise/180"} <= set(got)
        allowed = ("multiples of", "64 px only", "schedule", "takes pictures of", "decodes to", "takes 64x64")
        assert all(any(part in reason for part in allowed) for reason in reasons.values()), reasons
