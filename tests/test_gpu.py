"""What a GPU computes, against what the CPU computes: `pytest -m gpu` on a machine with one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from test_fake_cuda import METRICS, families
from torch import Tensor

from vtbench import backbones, images, metrics, ocr
from vtbench.cards import TokenizerCard
from vtbench.data.text_chart import Source
from vtbench.tokenizer import load_tokenizer

WITHOUT = "no GPU is visible; `pytest -m gpu` on a machine with one"
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason=WITHOUT)]

SPAN = (-1.0, 1.0)


@pytest.fixture
def pair(photographs: Tensor) -> tuple[Tensor, Tensor]:
    return photographs[:2], (photographs[:2] // 24 * 24)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS.keys())
def test_a_metric_is_the_same_on_both(metric: Callable[[Tensor, Tensor], Tensor], pair: tuple[Tensor, Tensor]) -> None:
    found = metric(*(side.cuda() for side in pair))
    assert found.is_cuda
    # float64 on both; only the order of the sums differs, and the last digits of the GPU's own functions.
    torch.testing.assert_close(found.cpu(), metric(*pair), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips_is_the_same_on_both(net: str, pair: tuple[Tensor, Tensor]) -> None:
    if backbones.find(f"lpips-{net}") is None:
        pytest.skip(backbones.missing(f"lpips-{net}"))
    found = metrics.lpips(*(side.cuda() for side in pair), net=net)
    # float32, without TF32.
    torch.testing.assert_close(found.cpu(), metrics.lpips(*pair, net=net), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("card", families().values(), ids=families().keys())
def test_a_network_is_the_same_on_both(card: TokenizerCard, photographs: Tensor) -> None:
    """Made-up weights; the decoder is fed the CPU's codes, so that one token that flips doesn't count twice."""
    here, there = (load_tokenizer(card, weights="synthetic", device=device) for device in ("cpu", "cuda"))
    side = card.input.sizes[0] if card.input.sizes else 64
    pictures = photographs[:2, :, :side, :side]
    codes, found = here.encode(pictures), there.encode(pictures.cuda())
    for ours, theirs in zip(codes.indices, found.indices, strict=True):
        # A token whose two best scores are equal in float32 may fall either way.
        assert (ours == theirs.cpu()).double().mean() >= 0.98
    if codes.latent is not None and found.latent is not None:
        torch.testing.assert_close(found.latent.cpu(), codes.latent, rtol=1e-3, atol=1e-3)
    decoded = there.decode(codes, (side, side)).cpu().int() - here.decode(codes, (side, side)).int()
    assert decoded.abs().max() <= 1  # one level, where both round to either side


def test_the_device_of_an_ocr_engine_does_not_change_what_is_read() -> None:
    if ocr.find("easyocr") is None:
        pytest.skip(ocr.missing("easyocr"))
    page = Source(size=256).read(9)
    boxes = [line.box for line in page.lines]
    read = [ocr.load("easyocr", device).read_boxes(page.image, boxes) for device in ("cpu", "cuda")]
    assert read[0] == read[1]


def test_levels_become_the_same_floats_on_both(photographs: Tensor) -> None:
    assert torch.equal(images.to_float(photographs.cuda(), SPAN).cpu(), images.to_float(photographs, SPAN))
