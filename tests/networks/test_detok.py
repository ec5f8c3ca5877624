from __future__ import annotations

import math

import pytest
import torch
from held import hold

from vtbench import cards
from vtbench.networks.detok import Config, Network, positions, turned
from vtbench.types import Codes

SMALL = Config(width=32, layers=2, heads=4, hidden=48, channels=4, size=12, patch=4)


@pytest.fixture
def small(filled) -> Network:
    return filled(Network, SMALL)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parity
def test_the_network_agrees_with_the_published_implementation():
    hold("detok-bb")


def test_the_angles_run_through_the_frequencies_twice_while_neighbours_are_paired():
    angles = positions(3, 8)  # two frequencies: 7 and 7 / 1e4 turns along a side
    assert angles.shape == (9, 8)
    high, low = 2 * math.pi * 7, 2 * math.pi * 7 / 1e4
    half, whole = [high / 2, low / 2] * 2, [high, low] * 2
    torch.testing.assert_close(angles[5], torch.tensor(half + whole))  # row 1, column 2
    assert turned(torch.tensor([1.0, 2.0, 3.0, 4.0])).tolist() == [-2.0, 1.0, -4.0, 3.0]


@torch.inference_mode()
def test_the_posteriors_mean_is_coded(small):
    x = random(2, 3, 12, 12)
    codes = small.encode(x)
    assert codes.bits is None
    assert codes.latent.shape == (2, 4, 3, 3)
    assert torch.equal(codes.latent, small.encoder(x)[:, :4])


@torch.inference_mode()
def test_a_picture_is_coded_alike_alone_and_in_a_batch(small):
    x = random(3, 3, 12, 12, seed=2)
    together = small.encode(x).latent
    decoded = small.decode(Codes(latent=together))
    for index in range(3):
        alone = small.encode(x[index : index + 1]).latent
        torch.testing.assert_close(alone[0], together[index], rtol=0, atol=1e-5)
        torch.testing.assert_close(small.decode(Codes(latent=alone))[0], decoded[index], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_a_second_instance_decodes_from_the_latent_alone(small, filled):
    codes = small.encode(random(1, 3, 12, 12, seed=3))
    decoded = small.decode(codes)
    assert decoded.shape == (1, 3, 12, 12)
    assert torch.equal(filled(Network, SMALL).decode(Codes(latent=codes.latent)), decoded)


def test_the_angles_are_real_under_meta():
    with torch.device("meta"):
        network = Network(SMALL)
    assert network.encoder.cosine.device.type == network.decoder.sine.device.type == "cpu"


@pytest.mark.parametrize(
    "card", [card for card in cards.tokenizers().values() if card.network == "detok"], ids=lambda card: card.name
)
def test_the_card_says_what_its_network_does(card):
    config = Config(**card.config)
    assert card.kind == "continuous"
    assert card.code.latent_channels == config.channels
    assert card.code.downsampling == card.input.multiple_of == config.patch
    assert card.code.tokens_at_256 == config.side**2
    assert card.input.sizes == (config.size,)
