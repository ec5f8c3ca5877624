from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vtbench import cards, images
from vtbench.errors import DataError
from vtbench.networks.magvit2 import AdaptiveNorm, Config, Network, depth_to_space, index_to_signs, signs_to_index
from vtbench.tokenizer import load_tokenizer
from vtbench.types import Codes

FIXTURE = Path(__file__).parent.parent / "parity" / "open-magvit2-128.npz"
SMALL = Config(bits=5, channels=32, multipliers=(1, 1, 2), blocks=1)


@pytest.fixture
def small(filled) -> Network:
    return filled(Network, SMALL)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def test_open_magvit2_128_agrees_with_the_published_implementation():
    torch.set_num_threads(1)
    # Its picture has 128 px, the size it was trained at; the shared one of the other fixtures has 256.
    golden = {name: torch.from_numpy(array) for name, array in np.load(FIXTURE).items()}
    network = load_tokenizer("open-magvit2-128", weights="synthetic", device="cpu").network
    x = images.to_float(golden["picture"][None], (-1.0, 1.0))
    latent = network.latent(x)
    # Float32 noise of the published code against float64 is 4e-6 here and 1.5e-5 below; a wrong epsilon moves them by
    # 5e-5 and 1.5e-4.
    torch.testing.assert_close(latent.flatten()[:: golden["latent_step"]], golden["latent"], rtol=0, atol=2e-5)
    indices = signs_to_index(latent)
    expected = golden["tokens"].long().view(indices.shape)
    sure = golden["margin"].view(indices.shape) > 1e-3  # a sign of a smaller value may flip on another machine
    assert sure.float().mean() > 0.95
    assert torch.equal(indices[sure], expected[sure])
    decoded = network.decode(Codes(indices=(expected,), codebook_sizes=(2**18,)))
    assert decoded.shape == x.shape
    found = decoded.flatten()[:: golden["reconstruction_step"]]
    torch.testing.assert_close(found, golden["reconstruction"], rtol=0, atol=5e-5)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("variant", "fixture"),
    [
        ("open-magvit2-256", "open-magvit2-256"),
        ("open-magvit2-pretrain-16384", "open-magvit2-pretrain-16384"),
        ("open-magvit2-pretrain-262144", "open-magvit2-256"),  # the same network
    ],
)
def test_every_variant_agrees_with_the_published_implementation(hold, variant, fixture):
    hold(variant, fixture)


def test_channel_zero_is_the_least_significant_bit_and_zero_counts_as_negative():
    z = torch.tensor([[3.0, -1.0, -1.0], [-1.0, -1.0, 0.5], [0.0, 1e-9, -0.0], [1.0, 1.0, 1.0]])  # (pixels, bits)
    assert signs_to_index(z.T[None, :, :, None]).flatten().tolist() == [1, 4, 2, 7]
    assert index_to_signs(torch.tensor([[[1, 4, 2]]]), 3)[0, :, 0].T.tolist() == [[1, -1, -1], [-1, -1, 1], [-1, 1, -1]]


@pytest.mark.parametrize("bits", [5, 18, 62])
def test_every_index_comes_back_from_its_signs(bits):
    count = min(2**bits, 2**12)
    indices = torch.arange(2**bits - count, 2**bits).view(1, -1, 8)
    signs = index_to_signs(indices, bits)
    assert signs.unique().tolist() == [-1, 1]
    assert torch.equal(signs_to_index(signs.float() / 7), indices)


@torch.inference_mode()
def test_an_index_is_the_signs_of_the_latent(small):
    x = random(2, 3, 24, 40)
    (indices,) = small.encode(x).indices
    assert indices.shape == (2, 6, 10)
    assert indices.dtype == torch.int64
    packed = np.packbits(small.latent(x).numpy() > 0, axis=1, bitorder="little")[:, 0]
    assert np.array_equal(indices.numpy(), packed)
    assert len(indices.unique()) > 3


def test_depth_to_space_takes_its_four_pixels_from_four_groups_of_channels():
    x = random(2, 12, 4, 5)
    out = depth_to_space(x)
    assert out.shape == (2, 3, 8, 10)
    for dy in range(2):
        for dx in range(2):
            group = 2 * dy + dx
            assert torch.equal(out[:, :, dy::2, dx::2], x[:, 3 * group : 3 * group + 3])
    assert not torch.equal(out, F.pixel_shuffle(x, 2))


@torch.inference_mode()
def test_every_level_is_told_the_mean_and_the_unbiased_deviation_of_each_bit(small):
    indices = torch.randint(2**5, (2, 3, 4), generator=torch.Generator().manual_seed(1))
    seen = []
    for level in small.decoder.adaptive:
        level.register_forward_pre_hook(lambda _, given: seen.append(given[1:]))
    small.decode(Codes(indices=(indices,), codebook_sizes=(2**5,)))
    signs = np.stack([(indices.numpy() >> bit & 1) * 2.0 - 1.0 for bit in range(5)], axis=1).reshape(2, 5, 12)
    assert len(seen) == 3
    for mean, deviation in seen:
        np.testing.assert_allclose(mean, signs.mean(-1), rtol=0, atol=1e-6)
        # Over N instead of N - 1 this would be 4 % less.
        np.testing.assert_allclose(deviation, np.sqrt(signs.var(-1, ddof=1) + 1e-6), rtol=0, atol=1e-6)


@torch.inference_mode()
def test_the_adaptive_norm_scales_by_the_deviation_and_shifts_by_the_mean():
    level = AdaptiveNorm(5, 64).double()
    x, mean, deviation = (random(*shape).double() for shape in ((2, 64, 3, 4), (2, 5), (2, 5)))
    groups = x.view(2, 32, 2, 3, 4)
    centred = groups - groups.mean((2, 3, 4), keepdim=True)
    normed = (centred / (centred.square().mean((2, 3, 4), keepdim=True) + 1e-6).sqrt()).view_as(x)
    scale = (deviation @ level.gamma.weight.T + level.gamma.bias)[..., None, None]
    shift = (mean @ level.beta.weight.T + level.beta.bias)[..., None, None]
    torch.testing.assert_close(level(x, mean, deviation), normed * scale + shift, rtol=0, atol=1e-12)


@torch.inference_mode()
def test_a_single_token_is_refused_before_it_decodes_to_nan(small):
    with pytest.raises(DataError, match="two tokens"):
        small.decode(Codes(indices=(torch.zeros(3, 1, 1, dtype=torch.int64),), codebook_sizes=(2**5,)))


@torch.inference_mode()
def test_odd_sides_are_ceiled(small):
    assert small.latent(random(1, 3, 19, 30)).shape == (1, 5, 5, 8)


def test_the_tokenizer_pads_odd_sizes_and_crops_them_again():
    card = cards.find_tokenizer("magvit2")
    card = card.model_copy(
        update={
            "config": SMALL.model_dump(),
            "input": card.input.model_copy(update={"multiple_of": 4}),
            "code": cards.Code(codebook_sizes=(32,)),
        }
    )
    tokenizer = load_tokenizer(card, weights="synthetic", device="cpu")
    pictures = torch.randint(256, (2, 3, 13, 22), generator=torch.Generator().manual_seed(4)).to(torch.uint8)
    codes = tokenizer.encode(pictures)
    assert codes.indices[0].shape == (2, 4, 6)
    padded = F.pad(pictures.float(), (0, 2, 0, 3), mode="replicate").to(torch.uint8)
    assert torch.equal(tokenizer.reconstruct(pictures), tokenizer.reconstruct(padded)[..., :13, :22])


@torch.inference_mode()
def test_a_picture_is_coded_alike_alone_and_in_a_batch(small, coded_alike):
    x = random(3, 3, 16, 24, seed=2)
    coded_alike(small, x)


@torch.inference_mode()
def test_a_second_instance_decodes_from_the_indices_alone(small, filled):
    codes = small.encode(random(1, 3, 16, 24, seed=3))
    assert codes.latent is None
    assert codes.bits == (4 * 6 * 5,)
    file = io.BytesIO()
    torch.save(codes.indices[0].to(torch.uint8), file)
    file.seek(0)
    received = Codes(indices=(torch.load(file).long(),), codebook_sizes=(2**5,))
    assert torch.equal(filled(Network, SMALL).decode(received), small.decode(codes))


def test_every_card_says_what_its_network_does():
    found = [card for card in cards.tokenizers().values() if card.network == "magvit2"]
    assert len(found) == 4
    for card in found:
        config = Config(**card.config)
        assert card.code.codebook_sizes == (2**config.bits,)
        assert card.code.latent_channels == config.bits
        assert card.code.downsampling == card.input.multiple_of == 2 ** (len(config.multipliers) - 1)
        assert card.code.tokens_at_256 == (256 // card.code.downsampling) ** 2
