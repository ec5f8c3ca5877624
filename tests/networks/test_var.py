from __future__ import annotations

import pytest
import torch
from held import hold
from torch.nn import functional as F

from vtbench import cards
from vtbench.errors import DataError
from vtbench.networks.var import SCHEDULES, Config, Network
from vtbench.types import Codes

SMALL = {
    "channels": 32,
    "multipliers": (1, 1, 2),
    "blocks": 1,
    "z_channels": 8,
    "codebook_size": 60,
    "schedules": ((1, 2, 3, 4), (1, 2, 4, 8)),
}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture
def small(filled) -> Network:
    return filled(Network, Config(**SMALL))


@pytest.mark.parity
def test_it_agrees_with_the_published_implementation():
    hold("var-256")


@torch.inference_mode()
def test_each_map_codes_what_the_ones_before_left_over(small):
    x = noise(2, 3, 16, 16)
    codes = small.encode(x)
    assert [part.shape for part in codes.indices] == [(2, side, side) for side in (1, 2, 3, 4)]
    latent = small.latent(x)
    total = torch.zeros_like(latent)
    table = small.quantize.embedding.weight
    for side, found, blend in zip((1, 2, 3, 4), codes.indices, (0, 1, 2, 3), strict=True):
        left = latent - total if side == 4 else F.interpolate(latent - total, size=side, mode="area")
        nearest = torch.cdist(left.movedim(1, -1).flatten(1, 2).double(), table.double()).argmin(-1)
        assert torch.equal(found.flatten(1), nearest)
        rows = table[found].movedim(-1, 1)
        large = rows if side == 4 else F.interpolate(rows, size=4, mode="bicubic")
        total = total + 0.5 * large + 0.5 * small.quantize.quant_resi.qresi_ls[blend](large)
    expected = small.decoder(small.post_quant_conv(total))
    torch.testing.assert_close(small.decode(codes), expected, rtol=0, atol=1e-5)


def test_ten_maps_share_four_convolutions_as_in_the_published_code(small):
    blends, used = small.quantize.quant_resi, []
    for index, convolution in enumerate(blends.qresi_ls):
        convolution.register_forward_hook(lambda *_, index=index: used.append(index))
    for scale in range(10):
        blends(torch.zeros(1, 8, 2, 2), scale, 10)
    assert used == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]


@torch.inference_mode()
def test_the_size_of_the_picture_chooses_the_sides_of_the_maps(small):
    codes = small.encode(noise(1, 3, 32, 32))
    assert [part.shape[1] for part in codes.indices] == [1, 2, 4, 8]
    assert small.decode(codes).shape == (1, 3, 32, 32)
    with pytest.raises(DataError, match="VAR takes pictures of 16x16, 32x32 pixels, got 24x16"):
        small.encode(noise(1, 3, 16, 24))


@torch.inference_mode()
def test_the_curve_decodes_the_first_maps_of_one_encode(small, filled):
    x = noise(2, 3, 16, 16, seed=1)
    codes = small.encode(x)
    curve = list(small.curve(codes))
    each = codes.bits[0] / 30
    assert [bits for _, bits, _ in curve] == pytest.approx([each, 5 * each, 14 * each, 30 * each])
    assert torch.equal(curve[-1][2], small.decode(codes))
    label, bits, pictures = curve[1]
    assert label == "scales=2"
    short = filled(Network, Config(**SMALL, scales=2))
    fewer = short.encode(x)
    assert all(torch.equal(one, other) for one, other in zip(fewer.indices, codes.indices, strict=False))
    assert fewer.bits[0] == pytest.approx(bits)
    assert torch.equal(short.decode(fewer), pictures)
    assert not torch.allclose(pictures, curve[-1][2], atol=0.01)


@torch.inference_mode()
def test_a_picture_is_coded_alike_alone_and_in_a_batch(small):
    x = noise(3, 3, 16, 16, seed=2)
    codes = small.encode(x)
    decoded = small.decode(codes)
    for index in range(3):
        alone = small.encode(x[index : index + 1])
        assert all(torch.equal(one[0], part[index]) for one, part in zip(alone.indices, codes.indices, strict=True))
        torch.testing.assert_close(small.decode(alone)[0], decoded[index], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_a_second_instance_decodes_from_the_indices_alone(small, filled):
    codes = small.encode(noise(1, 3, 16, 16, seed=3))
    received = Codes(indices=codes.indices, codebook_sizes=(60,) * 4)
    assert torch.equal(filled(Network, Config(**SMALL)).decode(received), small.decode(codes))


def test_every_card_says_what_its_network_does():
    found = [card for card in cards.tokenizers().values() if card.network == "var"]
    assert len(found) == 2
    for card in found:
        config = Config(**card.config)
        assert card.code.codebook_sizes == (config.codebook_size,) * 10
        assert card.code.latent_channels == config.z_channels
        assert card.input.sizes == (16 * SCHEDULES[card.name == "var-512"][-1],)
    assert sum(side**2 for side in SCHEDULES[0]) == cards.find_tokenizer("var-256").code.tokens_at_256


@torch.inference_mode()
def test_the_decoder_is_given_no_channels_last_map(small):
    codes = small.encode(noise(1, 3, 16, 16))
    assert all(z.is_contiguous() for z in small._sums(codes))  # else the CPU's GroupNorm rounds ten times as coarsely
