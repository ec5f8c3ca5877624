from __future__ import annotations

import cmath
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from vtbench import cards, images, weights
from vtbench.errors import DataError
from vtbench.networks.atoken import Config, Network, Quantizer, rotations
from vtbench.types import Codes

PARITY = Path(__file__).parent.parent / "parity"

# Shapes that were never published: fixtures of the published code, small enough for every test run.
SMALL = {"width": 288, "heads": 4, "hidden": 1076, "blocks": 3}
TINY = {"width": 64, "heads": 4, "hidden": 96, "blocks": 2, "latent_channels": 6}


@pytest.fixture
def continuous(filled):
    return filled(Network, Config(**TINY))


@pytest.fixture
def discrete(filled):
    return filled(Network, Config(**TINY, levels=(4, 3, 2)))


@pytest.fixture
def tempered(monkeypatch):
    """Fill as the full-size fixtures were: 27 blocks of plain random weights would wash out what stands where."""
    plain = weights.synthetic_state
    gains = {".attn.to_out.weight": 0.25, ".attn.to_out.bias": 0.25, ".mlp.mlp.2.weight": 0.25, ".mlp.mlp.2.bias": 0.25}

    def fill(network, seed=0):
        state = plain(network, seed)
        for name, tensor in state.items():
            for end, gain in gains.items():
                if name.endswith(end):
                    tensor *= gain
        state["encoder.input_layer.weight"] *= 3
        return state

    monkeypatch.setattr(weights, "synthetic_state", fill)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("variant", ["atoken-soc", "atoken-sod"])
def test_a_reduced_network_agrees_with_the_published_implementation(hold, variant):
    card = cards.find_tokenizer(variant)
    hold(card.model_copy(update={"config": card.config | SMALL}), f"{variant}-small")


@torch.inference_mode()
def test_a_rectangle_agrees_with_the_published_implementation(filled):
    golden = {name: torch.from_numpy(array) for name, array in np.load(PARITY / "atoken-sod-small-80x128.npz").items()}
    with Image.open(PARITY / "picture.png") as picture:
        x = images.to_float(images.from_pil(picture)[None, :, 64:144, 96:224], (-1.0, 1.0))
    network = filled(Network, Config(latent_channels=48, levels=(4,) * 6, **SMALL))
    latent = network.latent(x)
    assert latent.shape == (1, 48, 5, 8)
    # The published code differs from float64 attention by 2e-6; rows taken for columns move the values by 0.1.
    torch.testing.assert_close(latent.flatten(), golden["latent"], rtol=0, atol=2e-5)
    codes = network.encode(x)
    (found,) = codes.indices
    expected = golden["tokens"].long().view(1, 5, 8, 8)
    sure = golden["margin"].view(found.shape) > 1e-3  # a channel closer to a border may round otherwise elsewhere
    assert sure.float().mean() > 0.95
    assert torch.equal(found[sure], expected[sure])
    decoded = network.decode(Codes(indices=(expected,), codebook_sizes=codes.codebook_sizes))
    assert decoded.shape == x.shape
    strided = decoded.flatten()[:: golden["reconstruction_step"]]
    torch.testing.assert_close(strided, golden["reconstruction"], rtol=0, atol=5e-5)


@pytest.mark.parity
@pytest.mark.parametrize("variant", ["atoken-soc", "atoken-soc-s1", "atoken-sod"])
def test_every_variant_agrees_with_the_published_implementation(hold, tempered, variant):
    hold(variant)


def test_pairs_turn_by_row_and_column_and_never_by_time_or_depth():
    turns = rotations(4, 6, 72, torch.device("cpu")).view(4, 6, 4, 9)  # row, column, axis, pair
    assert torch.equal(turns[:, :, [0, 3]], torch.ones(4, 6, 2, 9, dtype=torch.complex64))
    for axis, position in ((1, 2), (2, 5)):  # at row 2, column 5
        for pair in range(9):
            expected = cmath.exp(1j * position * 10000 ** (-pair / 72))
            assert turns[2, 5, axis, pair].item() == pytest.approx(expected, abs=1e-6)


def test_no_normalisation_has_torchs_own_epsilon(continuous):
    # The fixtures cannot tell: with made-up weights a ten times larger one moves the decoder by less than float noise.
    norms = [part for part in continuous.modules() if isinstance(part, torch.nn.LayerNorm | torch.nn.RMSNorm)]
    assert len(norms) == 2 * (2 * TINY["blocks"] + 1)
    assert {part.eps for part in norms} == {1e-6}


@torch.inference_mode()
def test_the_continuous_code_is_the_posteriors_mean_unless_a_draw_is_configured(continuous, filled):
    x = noise(2, 3, 32, 48)
    codes = continuous.encode(x)
    assert codes.latent.shape == (2, 6, 2, 3)
    assert codes.indices == ()
    assert codes.bits is None
    assert torch.equal(codes.latent, continuous.moments(x)[0])
    drawing = filled(Network, Config(**TINY, sample=True))
    drawing.proj.weight[6:] *= 40
    mean, log_variance = drawing.moments(x)
    assert log_variance.max() > 20  # where other families clamp it
    draw = torch.randn(mean.shape[1:], generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawing.encode(x).latent, mean + torch.exp(0.5 * log_variance) * draw)


def test_codes_without_a_latent_are_refused(continuous):
    with pytest.raises(DataError, match="have none"):
        continuous.decode(Codes(indices=(torch.zeros(1, 2, 2, 2, dtype=torch.int64),)))


@torch.inference_mode()
def test_a_second_instance_decodes_from_the_indices_alone(discrete, filled):
    codes = discrete.encode(noise(1, 3, 32, 48))
    (indices,) = codes.indices
    assert indices.shape == (1, 2, 3, 2)
    assert indices.dtype == torch.int64
    assert codes.latent is None
    assert codes.codebook_sizes == (24,)
    assert codes.bits == pytest.approx((12 * 4.584962500721156,))  # 12 tokens of log2(24)
    file = io.BytesIO()
    torch.save(indices.to(torch.uint8), file)
    file.seek(0)
    received = Codes(indices=(torch.load(file).long(),), codebook_sizes=(24,))
    second = filled(Network, Config(**TINY, levels=(4, 3, 2)))
    assert torch.equal(second.decode(received), discrete.decode(codes))


@torch.inference_mode()
def test_a_picture_is_coded_alike_alone_and_in_a_batch(discrete):
    x = noise(3, 3, 32, 48, seed=2)
    codes = discrete.encode(x)
    decoded = discrete.decode(codes)
    assert len(codes.indices[0].unique()) > 4
    assert not torch.equal(decoded[0], decoded[1])
    for index in range(3):
        alone = discrete.encode(x[index : index + 1])
        assert torch.equal(alone.indices[0][0], codes.indices[0][index])
        again = discrete.decode(alone)[0]
        torch.testing.assert_close(again, decoded[index], rtol=0, atol=1e-5)  # other float32 kernels


def test_four_levels_are_not_symmetric_and_the_first_channel_is_the_lowest_digit():
    quantizer = Quantizer((4,) * 6)
    rows = torch.tensor([[-9.0] * 6, [0.0] * 6, [9.0] * 6, [9.0, -9.0, -9.0, -9.0, -9.0, -9.0]])
    indices = quantizer.indices(rows.view(1, 2, 2, 6))
    assert indices.flatten().tolist() == [0, 2730, 4095, 3]  # 2730: digit 2 in all six places
    assert quantizer.values(indices).view(4, 6).tolist() == [[-1.0] * 6, [0.0] * 6, [0.5] * 6, [0.5] + [-1.0] * 5]


@pytest.mark.parametrize("levels", [(4,) * 6, (5, 3, 2)])
def test_every_index_comes_back_from_a_latent_in_the_middle_of_its_cell(levels):
    quantizer = Quantizer(levels)
    indices = torch.arange(quantizer.codes).view(1, 1, -1, 2)
    count = torch.tensor(levels * 2)
    steps = quantizer.values(indices) * (count // 2)  # whole numbers from -(count // 2) up
    offset = torch.where(count % 2 == 0, 0.5, 0.0)
    half = (count - 1) / 2 * 1.001
    latent = torch.atanh((steps + offset) / half) - torch.atanh(offset / half)
    assert torch.equal(quantizer.indices(latent), indices)
    assert torch.equal(quantizer.indices(latent.bfloat16()), indices)


@torch.inference_mode()
def test_bfloat16_stays_close_to_float32(filled):
    network = filled(Network, Config(latent_channels=48, **SMALL))
    x = noise(1, 3, 48, 80)
    exact = network.latent(x)
    pixels = network.decode(Codes(latent=exact))
    half = network.to(torch.bfloat16)
    found = half.latent(x.bfloat16())
    assert found.dtype == torch.bfloat16
    assert (found - exact).std() < 0.02 * exact.std()  # 0.008 measured: 8 bits of mantissa over three blocks
    assert (half.decode(Codes(latent=exact)) - pixels).std() < 0.02 * pixels.std()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, "multiple of 8 x heads"),
        ({"levels": (4, 4, 4, 4)}, "divide latent_channels"),
        ({"levels": (4, 1, 4)}, "2 or more"),
        ({"levels": (4, 4, 4), "sample": True}, "quantisation takes the mean"),
    ],
)
def test_numbers_that_do_not_fit_each_other_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        Config(**TINY | change)


def test_every_card_says_what_its_network_does():
    found = [card for card in cards.tokenizers().values() if card.network == "atoken"]
    assert len(found) == 3
    for card in found:
        config = Config(**card.config)
        per_patch = config.latent_channels // len(config.levels) if config.levels else 1
        assert card.kind == ("discrete" if config.levels else "continuous")
        assert card.code.codebook_sizes == ((Quantizer(config.levels).codes,) if config.levels else ())
        assert card.code.latent_channels == config.latent_channels
        assert card.code.downsampling == card.input.multiple_of == 16
        assert card.code.tokens_at_256 == 256 * per_patch
        assert "research only" in card.license
