from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vtbench import cards, images
from vtbench.errors import DataError
from vtbench.networks.flowmo import Config, Network, Transformer, turn
from vtbench.tokenizer import load_tokenizer
from vtbench.types import Codes
from vtbench.weights import fill_values

FOLDER = Path(__file__).parent.parent / "parity"
HALF = Transformer(width=32, heads=2, layers=2, axes=(4, 6, 6))
SMALL = Config(bits=3, codes=2, positions=8, encoder=HALF, decoder=HALF, steps=3)


@pytest.fixture
def small(filled) -> Network:
    return filled(Network, SMALL)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parity
@torch.inference_mode()
@pytest.mark.parametrize("variant", ["flowmo-lo", "flowmo-hi"])
def test_every_variant_agrees_with_the_published_implementation(variant):
    torch.set_num_threads(1)
    # The published sampler ran for 4 steps at 64 px from this noise: 25 steps at 256 px take many minutes.
    golden = {name: torch.from_numpy(array) for name, array in np.load(FOLDER / f"{variant}.npz").items()}
    card = cards.find_tokenizer(variant)
    card = card.model_copy(update={"config": {**card.config, "steps": 4}})
    network = load_tokenizer(card, weights="synthetic", device="cpu").network
    x = images.to_float(golden["picture"][None], (-1.0, 1.0))
    torch.testing.assert_close(network.latent(x).flatten()[::7], golden["latent"], rtol=0, atol=2e-5)
    (found,) = network.encode(x).indices
    tokens = golden["tokens"].long().view(found.shape)
    assert (found == tokens).float().mean() >= 0.999
    noise = torch.from_numpy(fill_values("flowmo.noise", (1, 3, 64, 64)) * np.float32((3 * 64 * 64) ** 0.5))
    decoded = network.sample(network.vectors(Codes(indices=(tokens,))), noise)
    torch.testing.assert_close(decoded.flatten()[::7], golden["reconstruction"], rtol=0, atol=5e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_the_picture_on_its_way_is_float32_whatever_the_networks_type(small, dtype):
    """A velocity of 1 takes the whole of it from the noise, in steps the last of which half precision rounds away."""
    network = small.to(dtype)
    last = network.decoder.final_layer_img.linear
    last.weight.zero_()
    last.bias.fill_(1)
    codes = network.encode(random(1, 3, 8, 8).to(dtype))
    decoded = network.decode(codes)
    noise = torch.randn((1, 3, 8, 8), generator=torch.Generator().manual_seed(SMALL.seed))
    torch.testing.assert_close(decoded, noise - 1, rtol=0, atol=1e-6)


@torch.inference_mode()
def test_an_index_is_the_signs_of_every_second_channel(small):
    x = random(2, 3, 8, 12)
    codes = small.encode(x)
    assert codes.indices[0].shape == (2, 8, 2)
    assert codes.bits == (8 * 2 * 3,) * 2
    signs = small.latent(x).numpy() > 0
    for code in range(2):
        expected = sum(signs[:, :, 2 * bit + code].astype(int) << bit for bit in range(3))
        assert np.array_equal(codes.indices[0][:, :, code].numpy(), expected)


@torch.inference_mode()
def test_neither_batch_size_nor_order_changes_a_picture(small):
    x = random(3, 3, 8, 12, seed=2)
    indices = torch.randint(8, (3, 8, 2), generator=torch.Generator().manual_seed(1))
    together = small.decode(Codes(indices=(indices,), codebook_sizes=(8,), size=(8, 12)))
    turned = small.decode(Codes(indices=(indices.flip(0),), codebook_sizes=(8,), size=(8, 12)))
    torch.testing.assert_close(turned.flip(0), together, rtol=0, atol=1e-5)
    for index in range(3):
        alone = Codes(indices=(indices[index : index + 1],), codebook_sizes=(8,), size=(8, 12))
        torch.testing.assert_close(small.decode(alone)[0], together[index], rtol=0, atol=1e-5)
        assert torch.equal(small.encode(x[index : index + 1]).indices[0][0], small.encode(x).indices[0][index])
    assert (together[0] - together[1]).abs().max() > 1e-3


@torch.inference_mode()
def test_a_second_instance_decodes_from_the_codes_alone(small, filled):
    codes = small.encode(random(1, 3, 8, 12, seed=3))
    decoded = small.decode(codes)
    assert decoded.shape == (1, 3, 8, 12)
    torch.manual_seed(5)  # the global state plays no part
    assert torch.equal(filled(Network, SMALL).decode(codes), decoded)
    with pytest.raises(DataError, match="hold no size"):
        small.decode(Codes(indices=codes.indices, codebook_sizes=codes.codebook_sizes))


@torch.inference_mode()
def test_half_precision_leaves_the_time_as_it_is(small):
    small.bfloat16()
    seen = []
    small.decoder.time_in.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    small.velocity(torch.zeros(1, 3, 8, 8).bfloat16(), torch.zeros(1, 8, 7).bfloat16(), 0.9)
    assert seen == [torch.tensor([0.9])]


def test_the_seed_is_the_noises(filled):
    codes = Codes(indices=(torch.zeros(1, 8, 2, dtype=torch.int64),), codebook_sizes=(8,), size=(8, 8))
    with torch.inference_mode():
        one = filled(Network, SMALL).decode(codes)
        other = filled(Network, SMALL.model_copy(update={"seed": 1})).decode(codes)
    assert (one - other).abs().max() > 0.1


def test_neighbouring_channels_turn_together():
    x = torch.tensor([1.0, 0.0, 0.0, 2.0]).view(1, 1, 1, 4)
    angles = torch.tensor([[0.5, 0.25]])
    expected = [np.cos(0.5), np.sin(0.5), -2 * np.sin(0.25), 2 * np.cos(0.25)]
    np.testing.assert_allclose(turn(x, angles.cos(), angles.sin()).flatten(), expected, atol=1e-6)


def test_every_card_says_what_its_network_does():
    found = [card for card in cards.tokenizers().values() if card.network == "flowmo"]
    assert len(found) == 2
    for card in found:
        config = Config(**card.config)
        assert card.kind == "discrete"
        assert card.code.codebook_sizes == (2**config.bits,)
        assert card.code.tokens_at_256 == config.positions * config.codes
        assert card.code.latent_channels == config.channels
        assert card.input.multiple_of == config.patch
