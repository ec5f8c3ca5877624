from __future__ import annotations

import dataclasses

import pytest
import torch

from vtbench import cards
from vtbench.errors import DataError
from vtbench.networks.control import Config, Network


def noise(seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, 5, 7), generator=torch.Generator().manual_seed(seed)).byte()


def test_identity_keeps_every_pixel_at_24_bits_each():
    x = noise()
    codes = Network(Config(mode="identity")).encode(x)
    assert codes.bits == (24.0 * 35, 24.0 * 35)
    assert torch.equal(Network(Config(mode="identity")).decode(codes), x)


def test_identity_holds_all_256_levels():
    x = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    network = Network(Config(mode="identity"))
    assert torch.equal(network.decode(network.encode(x)), x)


def test_mean_keeps_one_colour_at_24_bits_a_picture():
    x = noise()
    codes = Network(Config(mode="mean")).encode(x)
    assert codes.bits == (24.0, 24.0)
    decoded = Network(Config(mode="mean")).decode(codes)
    expected = [[round(float(x[b, c].double().mean())) for c in range(3)] for b in range(2)]
    assert expected[0] != expected[1]
    assert torch.equal(decoded, torch.tensor(expected).byte()[:, :, None, None].expand(2, 3, 5, 7))


def test_mean_rounds_half_up():
    x = (
        torch.tensor([10, 11], dtype=torch.uint8).reshape(1, 1, 1, 2).expand(1, 3, 1, 2)
    )  # 10.5: Python's round would give 10
    network = Network(Config(mode="mean"))
    assert network.decode(network.encode(x)).unique().tolist() == [11]


@pytest.mark.parametrize("mode", ["identity", "mean"])
def test_codes_without_a_size_or_of_another_size_are_refused(mode):
    network = Network(Config(mode=mode))
    codes = network.encode(noise())
    with pytest.raises(DataError, match=r"state no size"):
        network.decode(dataclasses.replace(codes, size=None))
    short = dataclasses.replace(codes, bitstream=(codes.bitstream[0][:-1],))
    with pytest.raises(
        DataError, match=rf"has {len(codes.bitstream[0]) - 1} bytes, expected {len(codes.bitstream[0])}"
    ):
        network.decode(short)


@pytest.mark.parametrize("mode", ["identity", "mean"])
def test_the_card_builds_its_network_without_tensors(mode):
    card = cards.find_tokenizer(f"control-{mode}")
    assert (card.network, card.kind, card.input.range) == ("control", "codec", (0.0, 255.0))
    assert Network(Config(**card.config)).state_dict() == {}
