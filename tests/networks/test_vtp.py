from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from vtbench import cards, images
from vtbench.errors import DataError, WeightsError
from vtbench.networks.vtp import Config, Network, Rotary, turned
from vtbench.types import Codes
from vtbench.weights import load_state, synthetic_state

PARITY = Path(__file__).parent.parent / "parity"
IMAGENET = images.value_range(0.0, 1.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
TINY = Config(width=128, blocks=3, heads=2)

# An input 1e-7 away moves the published values by 6e-4, for they pass through bfloat16; all of it in float32 moves them
# by 6e-3.
ATOL = 2e-3


@pytest.fixture
def tiny(filled):
    return filled(Network, TINY)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parity
@pytest.mark.parametrize("variant", ["vtp-small-f16d64", "vtp-base-f16d64", "vtp-large-f16d64"])
def test_every_variant_agrees_with_the_published_implementation(hold, variant):
    hold(variant)


@torch.inference_mode()
def test_a_rectangle_agrees_with_the_published_implementation(tiny):
    golden = {name: torch.from_numpy(array) for name, array in np.load(PARITY / "vtp-tiny-80x128.npz").items()}
    with Image.open(PARITY / "picture.png") as picture:
        x = images.to_float(images.from_pil(picture)[None, :, 64:144, 96:224], IMAGENET)
    latent = tiny.encode(x).latent
    assert latent.shape == (1, 64, 5, 8)
    torch.testing.assert_close(latent.flatten(), golden["latent"], rtol=0, atol=ATOL)
    decoded = tiny.decode(Codes(latent=golden["latent"].view(latent.shape)))
    assert decoded.shape == x.shape
    torch.testing.assert_close(decoded.flatten()[::17], golden["reconstruction"], rtol=0, atol=ATOL)


def test_the_periods_are_rounded_to_bfloat16():
    published = [1, 1.3359375, 1.78125, 2.375, 3.15625, 4.21875, 5.625, 7.5, 10, 13.3125, 17.75, 23.75, 31.625, 42.25]
    assert Rotary(64).periods.tolist() == [*published, 56.25, 75.0]


def test_the_periods_are_real_where_the_network_is_built_without_storage():
    with torch.device("meta"):
        network = Network(TINY)
    assert network.trunk.rope_embed.periods.tolist() == Rotary(64).periods.tolist()
    assert network.trunk.cls_token.is_meta


def test_a_published_file_with_other_periods_is_refused(tiny):
    state = synthetic_state(tiny)
    name = "trunk.rope_embed.periods"
    load_state(tiny, state | {name: Rotary(64).periods.clone()})
    with pytest.raises(WeightsError, match=r"another constant \(trunk\.rope_embed\.periods\)"):
        load_state(tiny, state | {name: 10000.0 ** (torch.arange(16) / 16)})


def test_a_head_turns_by_row_then_by_column_and_the_class_token_stays():
    turns = Rotary(64)(3, 5)
    x = torch.ones(1, 1, 16, 64)
    q = turned(x, turns)
    assert torch.equal(q[0, 0, 0], x[0, 0, 0])
    for position, (row, column) in ((1, (0, 0)), (8, (1, 2)), (15, (2, 4))):
        for channel, coordinate in ((0, 2 * (row + 0.5) / 3 - 1), (16, 2 * (column + 0.5) / 5 - 1)):
            angle = 2 * math.pi * coordinate  # the period of the first channel is 1
            found = q[0, 0, position, [channel, channel + 32]].tolist()
            expected = [math.cos(angle) - math.sin(angle), math.cos(angle) + math.sin(angle)]
            assert found == pytest.approx(expected, abs=0.03)  # bfloat16


@torch.inference_mode()
def test_a_picture_is_coded_alike_alone_and_in_a_batch(tiny):
    x = noise(3, 3, 32, 48)
    codes = tiny.encode(x)
    decoded = tiny.decode(codes)
    assert codes.bits is None
    assert not torch.allclose(decoded[0], decoded[1], atol=0.1)
    for index in range(3):
        alone = tiny.encode(x[index : index + 1])
        torch.testing.assert_close(alone.latent[0], codes.latent[index], rtol=0, atol=ATOL)
        again = tiny.decode(Codes(latent=codes.latent[index : index + 1]))[0]
        torch.testing.assert_close(again, decoded[index], rtol=0, atol=ATOL)


@torch.inference_mode()
def test_bfloat16_stays_close_to_float32(filled, tiny):
    x = noise(1, 3, 48, 80)
    exact = tiny.encode(x).latent
    half = filled(Network, TINY).to(torch.bfloat16)
    found = half.encode(x.bfloat16()).latent
    assert found.dtype == torch.bfloat16
    assert (found - exact).std() < 0.03 * exact.std()


def test_codes_without_a_latent_are_refused(tiny):
    with pytest.raises(DataError, match="no latent"):
        tiny.decode(Codes(indices=(torch.zeros(1, 2, 2, dtype=torch.int64),)))


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValidationError, match="multiple of 4 x heads"):
        Config(width=128, blocks=1, heads=3)


def test_every_card_says_what_its_network_does():
    found = [card for card in cards.tokenizers().values() if card.network == "vtp"]
    assert len(found) == 3
    for card in found:
        config = Config(**card.config)
        assert card.kind == "continuous"
        assert config.width == 64 * config.heads
        assert card.code.latent_channels == config.latent_channels == 64
        assert card.code.downsampling == card.input.multiple_of == 16
        assert card.code.tokens_at_256 == 256
