from __future__ import annotations

import pytest
import torch
from held import hold

from vtbench import cards
from vtbench.errors import DataError
from vtbench.networks.bsqvit import Config, Network
from vtbench.tokenizer import load_tokenizer
from vtbench.types import Codes

SMALL = {"bits": 6, "width": 32, "layers": 2, "heads": 2, "patch": 4, "size": 16}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture
def small(filled) -> Network:
    return filled(Network, Config(**SMALL))


@pytest.mark.parity
@pytest.mark.parametrize("variant", ["bsqvit-18bit", "bsqvit-36bit"])
def test_every_variant_agrees_with_the_published_implementation(variant):
    hold(variant)


@torch.inference_mode()
def test_channel_0_is_the_most_significant_bit_of_an_index(small):
    x = noise(2, 3, 16, 16)
    (indices,) = small.encode(x).indices
    assert indices.shape == (2, 4, 4)
    digits = (small.latent(x) > 0).long().flatten(0, 1).tolist()
    assert indices.flatten().tolist() == [int("".join(map(str, each)), 2) for each in digits]


@torch.inference_mode()
def test_bits_and_indices_are_the_same_code(small, filled):
    x = noise(2, 3, 16, 16, seed=1)
    apart = filled(Network, Config(**SMALL, tokens="bits"))
    codes, bits = small.encode(x), apart.encode(x)
    assert bits.indices[0].shape == (2, 4, 4, 6)
    assert codes.bits == bits.bits == (96.0, 96.0)
    assert torch.equal(small.decode(codes), apart.decode(bits))
    vectors = torch.nn.functional.normalize(torch.where(small.latent(x) > 0, 1.0, -1.0), dim=-1)
    expected = small.decoder(small.post_quant_embed(vectors))
    torch.testing.assert_close(small.decode(codes), expected, rtol=0, atol=1e-5)


def test_an_index_that_no_integer_holds_and_another_size_are_refused(small):
    with pytest.raises(ValueError, match="an index has at most 62 bits, got 63"):
        Config(bits=63)
    with pytest.raises(DataError, match="BSQ-ViT takes 16x16 pixels only, got 24x16"):
        small.encode(noise(1, 3, 16, 24))


@torch.inference_mode()
def test_a_picture_is_coded_alike_alone_and_in_a_batch(small, coded_alike):
    coded_alike(small, noise(3, 3, 16, 16, seed=2))


@torch.inference_mode()
def test_a_second_instance_decodes_from_the_indices_alone(small, filled):
    codes = small.encode(noise(1, 3, 16, 16, seed=3))
    received = Codes(indices=codes.indices, codebook_sizes=(64,))
    assert torch.equal(filled(Network, Config(**SMALL)).decode(received), small.decode(codes))


@torch.inference_mode()
def test_the_averaged_copy_of_a_file_is_read(small):
    card = cards.find_tokenizer("bsqvit-18bit").model_copy(update={"config": SMALL})
    state = small.state_dict()
    averaged = {f"module.module.{name}": tensor for name, tensor in state.items()}
    plain = {f"module.{name}": tensor + 1 for name, tensor in state.items()}
    container = {"state_dict": plain, "ema_state_dict": averaged | {"module.module.quantize.basis": torch.ones(6)}}
    network = load_tokenizer(card, weights=container, device="cpu").network
    x = noise(1, 3, 16, 16)
    assert torch.equal(network.latent(x), small.latent(x))


def test_every_card_says_what_its_network_does():
    found = [card for card in cards.tokenizers().values() if card.network == "bsqvit"]
    assert len(found) == 2
    for card in found:
        config = Config(**card.config)
        packed = config.tokens == "index"
        assert card.code.codebook_sizes == (2**config.bits if packed else 2,)
        assert card.code.indices_per_token == (1 if packed else config.bits)
        assert card.code.tokens_at_256 == 1024
        assert card.code.latent_channels == config.bits
        assert card.code.downsampling == config.patch
        assert card.input.sizes == (config.size,)
