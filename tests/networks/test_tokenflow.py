from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch.nn import functional as F

from vtbench import cards, images
from vtbench.errors import DataError
from vtbench.networks.tokenflow import Config, Network
from vtbench.types import Codes
from vtbench.weights import published_names

PARITY = Path(__file__).parent.parent / "parity"

# Never published: made by the published modules with other numbers, small enough for every test run.
LAYOUT = {"channels": 32, "multipliers": (1, 1, 1, 1, 2), "z_channels": 16}
TINY = {
    "pixel_encoder": LAYOUT | {"blocks": 1},
    "pixel_decoder": LAYOUT | {"blocks": 2},
    "width": 64,
    "blocks": 2,
    "heads": 4,
    "codebook_size": 512,
    "semantic_channels": 8,
    "pixel_channels": 4,
}


@pytest.fixture
def tiny(filled):
    return filled(Network, Config(**TINY))


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parity
def test_the_published_variant_agrees_with_the_published_implementation(hold):
    hold("tokenflow-clipb-32k-enhanced")


def test_a_reduced_network_agrees_with_the_published_implementation(hold):
    hold(cards.find_tokenizer("tokenflow").model_copy(update={"config": TINY}), "tokenflow-tiny")


@torch.inference_mode()
def test_224_pixels_agree_with_the_published_implementation(tiny):
    golden = {name: torch.from_numpy(array) for name, array in np.load(PARITY / "tokenflow-tiny-224.npz").items()}
    with Image.open(PARITY / "picture.png") as picture:
        x = images.to_float(images.from_pil(picture)[None, :, :224, :224], (-1.0, 1.0))
    codes = tiny.encode(x)
    assert [part.shape[-1] for part in codes.indices] == [1, 2, 4, 6, 8, 10, 12, 14]
    torch.testing.assert_close(tiny.latent(x).flatten()[::3], golden["latent"], rtol=0, atol=2e-5)
    found = torch.cat([part.flatten() for part in codes.indices])
    sure = golden["margin"] > 1e-3
    assert torch.equal(found[sure], golden["tokens"].long()[sure])
    parts = golden["tokens"].long().split([part.numel() for part in codes.indices])
    given = tuple(part.view(like.shape) for part, like in zip(parts, codes.indices, strict=True))
    decoded = tiny.decode(Codes(indices=given, codebook_sizes=codes.codebook_sizes))
    torch.testing.assert_close(decoded.flatten()[::47], golden["reconstruction"], rtol=0, atol=5e-5)


@torch.inference_mode()
def test_the_index_has_the_smallest_sum_of_both_distances(tiny):
    x = noise(1, 3, 224, 224)
    z = tiny.latent(x).double().mean((2, 3))[0]  # the first map is one vector for the whole picture
    distances = sum(
        (F.normalize(part, dim=0) - F.normalize(table.weight.double())).square().sum(1)
        for part, table in ((z[:8], tiny.quantize.embedding_vqkd), (z[8:], tiny.quantize.embedding_vqgan))
    )
    assert tiny.encode(x).indices[0].item() == distances.argmin()


@torch.inference_mode()
def test_the_curve_decodes_the_first_maps_of_one_encode(tiny, filled):
    x = noise(1, 3, 256, 256, seed=1)
    codes = tiny.encode(x)
    assert codes.bits == (817 * 9.0,)
    curve = list(tiny.curve(codes))
    sides = (1, 2, 4, 6, 8, 10, 12, 14, 16)
    assert [bits for _, bits, _ in curve] == [9.0 * sum(side**2 for side in sides[: k + 1]) for k in range(9)]
    assert torch.equal(curve[-1][2], tiny.decode(codes))
    label, bits, pictures = curve[3]
    assert label == "scales=4"
    short = filled(Network, Config(**TINY, scales=4))
    fewer = short.encode(x)
    assert all(torch.equal(one, other) for one, other in zip(fewer.indices, codes.indices, strict=False))
    assert fewer.bits == (bits,)
    assert torch.equal(short.decode(fewer), pictures)
    assert not torch.allclose(pictures, curve[-1][2], atol=0.1)


@torch.inference_mode()
def test_a_second_instance_decodes_from_the_indices_alone(tiny, filled):
    codes = tiny.encode(noise(1, 3, 224, 224))
    assert codes.latent is None
    received = []
    for part in codes.indices:
        file = io.BytesIO()
        torch.save(part.to(torch.int16), file)
        file.seek(0)
        received.append(torch.load(file).long())
    second = filled(Network, Config(**TINY))
    found = second.decode(Codes(indices=tuple(received), codebook_sizes=(512,) * 8, size=(224, 224)))
    assert torch.equal(found, tiny.decode(codes))


@torch.inference_mode()
def test_a_picture_is_coded_alike_alone_and_in_a_batch(tiny):
    x = noise(3, 3, 224, 224, seed=2)
    codes = tiny.encode(x)
    decoded = tiny.decode(codes)
    for index in range(3):
        alone = tiny.encode(x[index : index + 1])
        assert all(torch.equal(one[0], all_[index]) for one, all_ in zip(alone.indices, codes.indices, strict=True))
        torch.testing.assert_close(tiny.decode(alone)[0], decoded[index], rtol=0, atol=5e-5)


@torch.inference_mode()
def test_positions_are_resized_by_a_factor_a_tenth_of_a_row_too_large(tiny):
    encoder = tiny.encoder_vqkd
    assert torch.equal(encoder._positions(14), encoder.positional_embedding)
    found = encoder._positions(16)
    assert torch.equal(found[0], encoder.positional_embedding[0])
    table = encoder.positional_embedding[1:].mT.view(1, 64, 14, 14)
    exact = F.interpolate(table, size=16, mode="bicubic")
    published = F.interpolate(table, scale_factor=16.1 / 14, mode="bicubic")
    grid = found[1:].mT.view(1, 64, 16, 16)
    assert torch.equal(grid, published)
    assert not torch.allclose(grid, exact, atol=0.01)


def test_the_published_names_count_the_decoders_levels_in_the_order_they_run():
    names = published_names(Network(Config(**TINY)))
    assert len(set(names.values())) == len(names)
    assert names["decoder.up.4.attn.0.q.weight"] == "decoder.conv_blocks.0.attn.0.q.weight"
    assert names["decoder.up.0.block.2.norm1.bias"] == "decoder.conv_blocks.4.res.2.norm1.bias"
    assert names["encoder.mid.attn_1.k.bias"] == "encoder.mid.1.k.bias"
    unchanged = {name.split(".")[0] for name in names if names[name] == name}
    assert unchanged == {
        *("encoder_vqkd", "encode_task_layer", "quantize", "quant_conv", "post_quant_conv", "encoder", "decoder")
    }


@pytest.mark.parametrize("size", [(224, 256), (240, 240), (160, 160), (272, 272)])
def test_other_sizes_are_refused(tiny, size):
    with pytest.raises(DataError, match=f"takes 224x224 or 256x256 pixels only, got {size[1]}x{size[0]}"):
        tiny.encode(torch.zeros(1, 3, *size))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 5}, "heads must divide width"),
        ({"pixel_encoder": LAYOUT | {"multipliers": (1, 2)}}, "multipliers must be five"),
        ({"pixel_encoder": LAYOUT | {"z_channels": 8}}, "must be equal"),
        ({"sides": (1, 4, 2)}, "sides must rise"),
        ({"scales": 0}, "greater than or equal to 1"),
    ],
)
def test_numbers_that_do_not_fit_each_other_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        Config(**TINY | change)


def test_the_card_says_what_its_network_does():
    (card,) = [card for card in cards.tokenizers().values() if card.network == "tokenflow"]
    config = Config.model_validate_json(cards.json.dumps(card.config))
    assert card.code.codebook_sizes == (config.codebook_size,)
    assert card.code.latent_channels == config.semantic_channels + config.pixel_channels
    assert card.code.tokens_at_256 == sum(side**2 for side in config.sides)
    assert card.code.downsampling == card.input.multiple_of == 16
    assert [side // 16 for side in card.input.sizes] == [config.grid, config.sides[-1]]
