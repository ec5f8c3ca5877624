from __future__ import annotations

import pytest
import torch
from held import hold
from torch.nn import functional as F

from vtbench import cards
from vtbench.networks.unicode import Config, Network
from vtbench.tokenizer import load_tokenizer
from vtbench.types import Codes

SMALL = {
    "channels": 32,
    "multipliers": (1, 1, 2),
    "blocks": 1,
    "z_channels": 16,
    "code_channels": 32,
    "codebook_size": 50,
}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture
def small(filled) -> Network:
    return filled(Network, Config(**SMALL))


def nearest(z: torch.Tensor, quantizer: torch.nn.Module, length: float) -> torch.Tensor:
    mean = z.norm(dim=1).mean()
    z = z / mean * length if mean >= length else z
    table = quantizer.table().double()
    flat = z.movedim(1, -1).flatten(1, 2).double()
    return torch.cdist(flat, table).argmin(-1).view(len(z), *z.shape[2:])


@pytest.mark.parity
def test_it_agrees_with_the_published_implementation():
    hold("unicode-hqvae")


@pytest.mark.parametrize("length", [1.0, 6.0])
@torch.inference_mode()
def test_the_second_map_codes_what_the_first_left_over(filled, length):
    network = filled(Network, Config(**SMALL, length=length))
    x = noise(1, 3, 32, 48)
    top, bottom = network.encode(x).indices
    assert (top.shape, bottom.shape) == ((1, 4, 6), (1, 8, 12))
    z = network.latent(x)
    wide = F.pixel_unshuffle(z, 2)
    assert (wide.norm(dim=1).mean() >= length) == (length == 1)  # both sides of the rule
    assert torch.equal(top, nearest(wide, network.quantize_t, length))
    coarse = F.pixel_shuffle(network.quantize_t.table()[top].movedim(-1, 1), 2)
    assert torch.equal(bottom, nearest(network.up_conv(z - coarse), network.quantize_b, length))
    assert len(bottom.unique()) > 3


@torch.inference_mode()
def test_the_curve_decodes_the_first_map_then_both(small):
    codes = small.encode(noise(1, 3, 32, 32, seed=1))
    first, both = small.curve(codes)
    assert (first[0], both[0]) == ("scales=1", "scales=2")
    assert codes.bits == (pytest.approx(both[1]),)
    assert first[1] == pytest.approx(both[1] / 5)
    assert torch.equal(both[2], small.decode(codes))
    assert not torch.allclose(first[2], both[2], atol=0.01)


@torch.inference_mode()
def test_a_picture_is_coded_alike_alone_and_in_a_batch(filled):
    network = filled(Network, Config(**SMALL, length=1.0))
    x = noise(3, 3, 32, 32, seed=2) * torch.tensor([0.1, 1.0, 0.5]).view(3, 1, 1, 1)
    codes = network.encode(x)
    decoded = network.decode(codes)
    for index in range(3):
        alone = network.encode(x[index : index + 1])
        assert all(torch.equal(one[0], part[index]) for one, part in zip(alone.indices, codes.indices, strict=True))
        torch.testing.assert_close(network.decode(alone)[0], decoded[index], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_a_second_instance_decodes_from_the_indices_alone(small, filled):
    codes = small.encode(noise(1, 3, 32, 32, seed=3))
    received = Codes(indices=codes.indices, codebook_sizes=(50, 50))
    assert torch.equal(filled(Network, Config(**SMALL)).decode(received), small.decode(codes))


@torch.inference_mode()
def test_the_generator_of_a_training_file_is_read(small):
    card = cards.find_tokenizer("unicode-hqvae").model_copy(update={"config": SMALL})
    state = {f"generator.{name}": tensor for name, tensor in small.state_dict().items()}
    beside = {"generator.quantize_t.llmcodebook": torch.ones(50, 32), "discriminator.conv.weight": torch.ones(3)}
    network = load_tokenizer(card, weights={"state_dict": {**state, **beside}}, device="cpu").network
    x = noise(1, 3, 32, 32)
    assert torch.equal(network.latent(x), small.latent(x))


def test_the_card_says_what_its_network_does():
    (card,) = [card for card in cards.tokenizers().values() if card.network == "unicode"]
    config = Config(**card.config)
    assert card.code.codebook_sizes == (config.codebook_size,) * 2
    assert card.code.latent_channels == config.code_channels
    assert card.code.tokens_at_256 == 8**2 + 16**2
    assert card.code.downsampling == 2 ** (len(config.multipliers) - 1) == card.input.multiple_of // 2
