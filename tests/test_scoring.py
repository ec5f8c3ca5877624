"""Protocols against what the published evaluation codes computed: tests/protocols/published.json.

The pictures (astronaut, coffee, chelsea, rocket, camera, brick and text of scikit-image, CC0 or public domain, cut to
odd sizes, and one rendered) went through each published code with a fixed stand-in for the tokenizer, which `stand_in`
computes again.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import inception_state
from PIL import Image
from scipy import ndimage
from skimage.metrics import structural_similarity
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.image import PeakSignalNoiseRatio

from vtbench import geometry
from vtbench.errors import CardError, DataError
from vtbench.protocols import PROTOCOLS, Psnr, Ssim, Window
from vtbench.scoring import Scores, prepare, score

FOLDER = Path(__file__).parent / "protocols"
CASES = {case["name"]: case for case in json.loads((FOLDER / "published.json").read_text())["cases"]}

# Published values are float32 sums, and one code's SSIM a float32 convolution; ours are float64.
LIMITS = {"psnr": 5e-5, "ssim": 5e-5, "lpips_alex": 5e-6, "lpips_vgg": 5e-6, "inception_score": 1e-6}

Array = np.ndarray[Any, Any]


def stand_in(x: Array, index: int, low: float, high: float) -> Array:
    """A box blur, a little less contrast and seeded noise that leaves the range at places."""
    blurred = ndimage.uniform_filter(x.astype(np.float64), size=(1, 3, 3), mode="nearest")
    middle = (low + high) / 2
    noise = np.random.Generator(np.random.Philox(1000 + index)).standard_normal(x.shape, dtype=np.float32)
    return (middle + 0.97 * (blurred - middle) + 0.02 * (high - low) * noise).astype(np.float32)


def raw(case: dict[str, Any]) -> list[Array]:
    files = [next(FOLDER.glob(f"picture_{index}.*")) for index in case["order"]]
    return [np.array(Image.open(file).convert("RGB")) for file in files]


def run(case: dict[str, Any], count: int | None = None, **change: Any) -> tuple[list[Array], Scores]:
    rule = replace(PROTOCOLS[case["protocol"]], **change)
    pictures = raw(case)[:count]
    low, high = case["value_range"]
    options: dict[str, Any] = {"size": case["size"], "value_range": (low, high)}
    inputs = [prepare(rule, picture, **options) for picture in pictures]
    decoded = [stand_in(x, index, low, high) for index, x in enumerate(inputs)]
    return inputs, score(rule, pictures, inputs, decoded, **options)


def check_inputs(case: dict[str, Any], inputs: list[Array]) -> None:
    for x, wanted in zip(inputs, case["images"], strict=False):
        assert list(x.shape) == wanted["shape"]
        assert x.dtype == np.float32
        assert [x[0, 0, 0], x[1, 5, 7], x[2, -1, -1]] == pytest.approx(wanted["points"], abs=2e-6)
        assert x.mean(dtype=np.float64) == pytest.approx(wanted["mean"], abs=1e-6)
        assert x.std(dtype=np.float64) == pytest.approx(wanted["std"], abs=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_pictures_are_prepared_and_scored_as_published(name: str) -> None:
    case = CASES[name]
    inputs, found = run(case, count=3, lpips=None, rfid=None)
    check_inputs(case, inputs)
    for values, wanted in zip(found.images, case["images"], strict=False):
        for metric in ("psnr", "ssim"):
            assert (metric in values) == (metric in wanted)
            if metric in wanted:
                assert values[metric] == pytest.approx(wanted[metric], abs=LIMITS[metric])


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "psnr" in case["totals"]])
def test_totals_are_averaged_as_published(name: str) -> None:
    case = CASES[name]
    _, found = run(case, lpips=None, rfid=None)
    for metric in ("psnr", "ssim"):
        assert found.totals[metric] == pytest.approx(case["totals"][metric], abs=LIMITS[metric])


@pytest.mark.parametrize("name", ["canonical", "seed-voken", "vtbench-2025_size256_01", "lightningdit"])
def test_lpips_is_fed_as_published(name: str) -> None:
    case = CASES[name]
    _, found = run(case, count=2, psnr=None, ssim=None, rfid=None)
    for values, wanted in zip(found.images, case["images"], strict=False):
        for metric in ("lpips_alex", "lpips_vgg"):
            if metric in wanted:
                assert values[metric] == pytest.approx(wanted[metric], abs=LIMITS[metric])


@pytest.mark.parity
@pytest.mark.parametrize("name", CASES)
def test_the_whole_chain_equals_the_published_code(name: str) -> None:
    case = CASES[name]
    low, high = case["value_range"]
    pictures = raw(case)
    options: dict[str, Any] = {"size": case["size"], "value_range": (low, high)}
    inputs = [prepare(case["protocol"], picture, **options) for picture in pictures]
    decoded = [stand_in(x, index, low, high) for index, x in enumerate(inputs)]
    inception = inception_state() if case["rfid"] is not None else None
    found = score(case["protocol"], pictures, inputs, decoded, inception=inception, **options)
    check_inputs(case, inputs)
    for values, wanted in zip(found.images, case["images"], strict=True):
        for metric in LIMITS:
            if metric in wanted:
                assert values[metric] == pytest.approx(wanted[metric], abs=LIMITS[metric])
    for metric, value in case["totals"].items():
        assert found.totals[metric] == pytest.approx(value, abs=LIMITS[metric])
    if case["rfid"] is not None:
        # The exact distance of the published features; float32 features move its fifth digit.
        assert found.totals["rfid"] == pytest.approx(case["rfid"], abs=5e-6)


def test_a_short_last_batch_weighs_more_in_means_of_batch_means() -> None:
    case = CASES["seed-voken"]
    _, four = run(case, lpips=None, rfid=None)
    _, three = run(case, lpips=None, rfid=None, batch=3)
    assert three.totals["psnr"] == pytest.approx(28.0753, abs=1e-4)  # as SEED-Voken's own code gives at batch 3
    assert four.totals["psnr"] == pytest.approx(28.3917, abs=1e-4)
    values = [image["psnr"] for image in four.images]
    assert np.mean(values) == pytest.approx(four.totals["psnr"])  # eight pictures are two whole batches


def test_pooled_psnr_equals_torchmetrics() -> None:
    case = CASES["vtbench-2025_size256_01"]
    inputs, found = run(case, lpips=None, rfid=None)
    decoded = [stand_in(x, index, 0.0, 1.0) for index, x in enumerate(inputs)]
    cut = [np.floor(np.clip(np.stack(side), 0, 1) * np.float32(255)) for side in (decoded, inputs)]
    oracle = PeakSignalNoiseRatio(data_range=1.0)
    oracle.update(*(torch.from_numpy(side / 255).double() for side in cut))
    assert found.totals["psnr"] == pytest.approx(float(oracle.compute()), abs=1e-4)  # torchmetrics adds in float32
    assert found.totals["psnr"] < np.mean([image["psnr"] for image in found.images])


def test_equal_pictures_have_infinite_psnr_and_whole_ssim() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (300, 280, 3), dtype=np.uint8)
    for name in ("canonical", "seed-voken", "llamagen", "vfm-vae", "cosmos"):
        rule = replace(PROTOCOLS[name], lpips=None, rfid=None)
        span = (0.0, 1.0) if name == "vfm-vae" else (-1.0, 1.0)  # in [-1, 1] truncation would cost it some levels
        x = prepare(rule, picture, value_range=span)
        found = score(rule, [picture], [x], [x], value_range=span)
        assert found.totals["ssim"] == pytest.approx(1.0, abs=1e-6)
        assert math.isinf(found.totals["psnr"]) or found.totals["psnr"] > 130  # LlamaGen never rounds the original


def test_truncation_darkens_by_about_half_a_level() -> None:
    picture = np.random.default_rng(0).integers(1, 255, (256, 256, 3), dtype=np.uint8)
    rule = replace(PROTOCOLS["canonical"], ssim=None, lpips=None, rfid=None)
    x = prepare(rule, picture)
    shaken = x + np.random.default_rng(1).uniform(-0.9, 0.9, x.shape).astype(np.float32) / 255
    rounded = score(rule, [picture], [x], [shaken]).totals["psnr"]
    cut = score(replace(rule, reconstruction="truncate"), [picture], [x], [shaken]).totals["psnr"]
    assert math.isinf(rounded)
    assert cut == pytest.approx(10 * math.log10(255**2 / 0.5), abs=0.05)  # half of the values fall by one level


def test_tokbench_scores_at_the_original_size() -> None:
    picture = raw(CASES["canonical"])[0]  # 400 x 333
    x = prepare("tokbench", picture)
    assert x.shape == (3, 256, 256)
    left, top, width, height = geometry.letterbox_window(333, 400, 256)
    assert (left, top, width, height) == (21, 0, 214, 256)
    assert (x[:, :, :left] == -1).all()
    assert (x[:, :, left + width :] == -1).all()
    pictures = raw(CASES["canonical"])
    decoded = [stand_in(prepare("tokbench", one), index, -1.0, 1.0) for index, one in enumerate(pictures)]
    found = score("tokbench", pictures, [np.zeros_like(d) for d in decoded], decoded)
    # What the published geometry gives on these pictures; its own code has no pixel metric.
    assert found.totals["psnr"] == pytest.approx(25.437255, abs=1e-5)


def test_bad_input_is_one_line() -> None:
    picture = np.zeros((64, 64, 3), dtype=np.uint8)
    with pytest.raises(CardError, match="no protocol is called 'seedvoken'; expected one of: canonical"):
        prepare("seedvoken", picture)
    with pytest.raises(DataError, match=r"float64 \(64, 64, 3\); expected uint8 \(H, W, 3\)"):
        prepare("canonical", picture.astype(np.float64))
    x = prepare("canonical", picture)
    with pytest.raises(DataError, match="1 pictures, 2 inputs, 1 outputs"):
        score("canonical", [picture], [x, x], [x])
    with pytest.raises(DataError, match="expected the same shape"):
        score("canonical", [picture], [x], [x[:, :-1]])


def test_a_protocol_of_ones_own_is_scored_by_its_rules() -> None:
    case = CASES["canonical"]
    _, usual = run(case, count=2, lpips=None, rfid=None)
    _, pooled = run(case, count=2, lpips=None, rfid=None, psnr=Psnr(pooled=True))
    assert pooled.images == usual.images
    errors = [255**2 / 10 ** (image["psnr"] / 10) for image in usual.images]
    assert pooled.totals["psnr"] == pytest.approx(10 * math.log10(255**2 / np.mean(errors)))


@pytest.mark.parametrize("window", ["gaussian-11", "gaussian-11-mirrored", "uniform-7"])
def test_ssim_under_every_window_equals_its_library(window: Window) -> None:
    generator = np.random.default_rng(0)
    first = generator.uniform(-1, 1, (3, 61, 47))
    second = np.clip(first + 0.2 * generator.standard_normal(first.shape), -1, 1)
    rule = Ssim(window=window, on="floats", span=(-1.0, 1.0), data_range=2.0)
    protocol = replace(PROTOCOLS["cosmos"], ssim=rule, lpips=None, psnr=None)
    picture = np.zeros((61, 47, 3), dtype=np.uint8)
    padded = [np.pad(side, ((0, 0), (1, 2), (0, 1))).astype(np.float32) for side in (first, second)]
    found = score(protocol, [picture], padded[:1], padded[1:]).totals["ssim"]
    if window == "gaussian-11-mirrored":
        pair = (torch.from_numpy(side)[None] for side in (second, first))
        wanted = float(structural_similarity_index_measure(*pair, data_range=2.0))
    else:
        gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        options = gaussian if window == "gaussian-11" else {}
        wanted = structural_similarity(first, second, data_range=2.0, channel_axis=0, **options)
    assert found == pytest.approx(wanted, abs=1e-6)  # the pictures travel as float32


def test_full_scale_of_dark_and_pale_pictures_starts_at_zero() -> None:
    picture = np.random.default_rng(0).integers(60, 201, (256, 256, 3), dtype=np.uint8)
    picture[0, 0] = 200
    rule = replace(PROTOCOLS["canonical"], ssim=None, lpips=None, rfid=None, psnr=Psnr(pooled=True, peak="data"))
    x = prepare(rule, picture)
    found = score(rule, [picture], [x], [x + 8 / 255])  # four levels up
    assert found.totals["psnr"] == pytest.approx(10 * math.log10(200**2 / 16))
