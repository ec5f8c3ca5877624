from __future__ import annotations

import numpy as np
import pytest
import torch
from held import hold

from vtbench import cards
from vtbench.networks._maskgit import ResidualBlock
from vtbench.networks.maskbit import Config, Network
from vtbench.types import Codes

SMALL = Config(bits=5, channels=32, multipliers=(1, 1, 2), blocks=1)


@pytest.fixture
def small(filled) -> Network:
    return filled(Network, SMALL)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parity
@pytest.mark.parametrize("variant", ["maskbit-16bit", "maskbit-18bit"])
def test_every_variant_agrees_with_the_published_implementation(variant):
    hold(variant)


@torch.inference_mode()
def test_an_index_is_the_signs_of_the_latent(small):
    x = random(2, 3, 24, 40)
    codes = small.encode(x)
    (indices,) = codes.indices
    assert indices.shape == (2, 6, 10)
    assert indices.dtype == torch.int64
    assert codes.bits == (6 * 10 * 5,) * 2
    packed = np.packbits(small.latent(x).numpy() > 0, axis=1, bitorder="little")[:, 0]
    assert np.array_equal(indices.numpy(), packed)


@torch.inference_mode()
def test_where_the_width_changes_the_block_adds_a_projection_of_its_own_result():
    block = ResidualBlock(32, 64)
    x = random(1, 32, 4, 4)
    h = block.conv2(torch.nn.functional.silu(block.norm2(block.conv1(torch.nn.functional.silu(block.norm1(x))))))
    torch.testing.assert_close(block(x), h + block.nin_shortcut(h))


@torch.inference_mode()
def test_a_picture_is_coded_alike_alone_and_in_a_batch(small, coded_alike):
    coded_alike(small, random(3, 3, 16, 24, seed=2))


@torch.inference_mode()
def test_a_second_instance_decodes_from_the_indices_alone(small, filled):
    codes = small.encode(random(1, 3, 16, 24, seed=3))
    received = Codes(indices=codes.indices, codebook_sizes=(2**5,))
    decoded = small.decode(codes)
    assert decoded.shape == (1, 3, 16, 24)
    assert torch.equal(filled(Network, SMALL).decode(received), decoded)


def test_every_card_says_what_its_network_does():
    found = [card for card in cards.tokenizers().values() if card.network == "maskbit"]
    assert len(found) == 2
    for card in found:
        config = Config(**card.config)
        assert card.kind == "discrete"
        assert card.code.codebook_sizes == (2**config.bits,)
        assert card.code.latent_channels == config.bits
        assert card.code.downsampling == card.input.multiple_of == 2 ** (len(config.multipliers) - 1)
        assert card.code.tokens_at_256 == (256 // card.code.downsampling) ** 2
