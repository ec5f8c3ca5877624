from __future__ import annotations

import pytest
import torch
from held import hold
from torch.nn import functional as F

from vtbench import cards
from vtbench.errors import DataError
from vtbench.networks.infinity import Config, Network
from vtbench.tokenizer import load_tokenizer
from vtbench.types import Codes

SMALL = {"bits": 6, "channels": 32, "multipliers": (1, 2), "blocks": 1}
SIDES = (1, 2, 4, 6, 8, 12, 16)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture
def small(filled) -> Network:
    return filled(Network, Config(**SMALL))


@pytest.mark.parity
def test_it_agrees_with_the_published_implementation():
    hold("infinity-d32")


@torch.inference_mode()
def test_each_map_holds_the_signs_of_what_the_ones_before_left_over(small):
    x = noise(2, 3, 32, 32)
    codes = small.encode(x)
    assert [part.shape for part in codes.indices] == [(2, side, side, 6) for side in SIDES]
    assert codes.bits == (521 * 6.0,) * 2 and codes.tokens == 521
    latent = small.latent(x)
    total = torch.zeros_like(latent)
    for side, found in zip(SIDES, codes.indices, strict=True):
        left = latent - total if side == 16 else F.interpolate(latent - total, size=side, mode="area")
        assert torch.equal(found, (left > 0).movedim(1, -1).long())
        unit = F.normalize(torch.where(left > 0, 1.0, -1.0), dim=1)
        total = total + (unit if side == 16 else F.interpolate(unit, size=16, mode="bilinear"))
    torch.testing.assert_close(small.decode(codes), small.decoder(total), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("height", "width", "maps"), [(40, 32, 7), (22, 60, 0), (64, 64, 10), (54, 18, 7), (18, 54, 7)]
)
@torch.inference_mode()
def test_the_size_of_the_picture_chooses_the_sides_of_the_maps(small, height, width, maps):
    x = noise(1, 3, height, width)
    if not maps:
        with pytest.raises(DataError, match=r"Infinity takes pictures of .*32x32.*, got 60x22"):
            small.encode(x)
        return
    codes = small.encode(x)
    assert len(codes.indices) == maps
    assert codes.indices[-1].shape[1:3] == (height // 2, width // 2)
    assert small.decode(codes).shape == x.shape


@torch.inference_mode()
def test_the_curve_decodes_the_first_maps_of_one_encode(small, filled):
    x = noise(1, 3, 32, 32, seed=1)
    codes = small.encode(x)
    curve = list(small.curve(codes))
    assert [bits for _, bits, _ in curve] == [6.0 * sum(side**2 for side in SIDES[: k + 1]) for k in range(7)]
    assert torch.equal(curve[-1][2], small.decode(codes))
    label, bits, pictures = curve[2]
    assert label == "scales=3"
    short = filled(Network, Config(**SMALL, scales=3))
    fewer = short.encode(x)
    assert all(torch.equal(one, other) for one, other in zip(fewer.indices, codes.indices, strict=False))
    assert fewer.bits == (bits,)
    assert torch.equal(short.decode(fewer), pictures)
    assert not torch.allclose(pictures, curve[-1][2], atol=0.01)


@torch.inference_mode()
def test_a_picture_is_coded_alike_alone_and_in_a_batch(small):
    x = noise(3, 3, 32, 32, seed=2)
    codes = small.encode(x)
    decoded = small.decode(codes)
    for index in range(3):
        alone = small.encode(x[index : index + 1])
        assert all(torch.equal(one[0], part[index]) for one, part in zip(alone.indices, codes.indices, strict=True))
        torch.testing.assert_close(small.decode(alone)[0], decoded[index], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_a_second_instance_decodes_from_the_indices_alone(small, filled):
    codes = small.encode(noise(1, 3, 32, 32, seed=3))
    received = Codes(indices=codes.indices, codebook_sizes=(2,) * 7)
    assert torch.equal(filled(Network, Config(**SMALL)).decode(received), small.decode(codes))


@torch.inference_mode()
def test_a_file_with_or_without_the_wrappers_names_is_read(small):
    card = cards.find_tokenizer("infinity-d32").model_copy(update={"config": SMALL})
    plain = small.state_dict()
    wrapped = {small.published_name(name): tensor for name, tensor in plain.items()}
    assert "encoder.down.0.downsample.conv.conv.weight" in wrapped
    assert "decoder.up.0.block.0.norm1.norm.bias" in wrapped
    x = noise(1, 3, 32, 32)
    for state in (plain, wrapped, {"vae": {**wrapped, "quantize.lfq.mask": torch.ones(3)}}):
        network = load_tokenizer(card, weights=state, device="cpu").network
        assert torch.equal(network.latent(x), small.latent(x))


def test_every_card_says_what_its_network_does():
    found = [card for card in cards.tokenizers().values() if card.network == "infinity"]
    assert len(found) == 5
    for card in found:
        config = Config(**card.config)
        assert card.code.codebook_sizes == (2,)
        assert card.code.latent_channels == config.bits
        assert card.code.indices_per_token == config.bits
        assert card.code.tokens_at_256 == 521


@torch.inference_mode()
def test_the_decoder_is_given_no_channels_last_map(small):
    codes = small.encode(noise(1, 3, 32, 32))
    assert all(z.is_contiguous() for z in small._sums(codes))  # else the CPU's GroupNorm rounds ten times as coarsely
