from __future__ import annotations

import io

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from vtbench import cards, weights
from vtbench.errors import WeightsError
from vtbench.networks.unitok import Config, Network, Projection, Shrink
from vtbench.types import Codes
from vtbench.weights import load_state, synthetic_state

# Never published: made by the published modules with other numbers, small enough for every test run.
TINY = {
    "stem": 16,
    "middle": 32,
    "middle_blocks": 2,
    "width": 128,
    "blocks": 2,
    "heads": 4,
    "codebooks": 4,
    "codebook_size": 256,
    "code_channels": 4,
}


@pytest.fixture
def tiny(filled):
    return filled(Network, Config(**TINY))


@pytest.fixture
def tempered(monkeypatch):
    """Fill as the full-size fixture was: 31 blocks of plain random weights would leave few codes in use."""
    plain = weights.synthetic_state

    def fill(network, seed=0):
        state = plain(network, seed)
        for name, tensor in state.items():
            if ".blocks." in name and ".attn.proj." in name:
                tensor *= 0.25
        return state

    monkeypatch.setattr(weights, "synthetic_state", fill)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parity
def test_the_published_variant_agrees_with_the_published_implementation(hold, tempered):
    hold("unitok-large")


def test_a_reduced_network_agrees_with_the_published_implementation(hold):
    hold(cards.find_tokenizer("unitok-large").model_copy(update={"config": TINY}), "unitok-tiny")


@torch.inference_mode()
def test_each_run_of_channels_takes_the_row_of_the_closest_direction(tiny):
    x = noise(2, 3, 32, 48)
    z = tiny.latent(x).double()
    (indices,) = tiny.encode(x).indices
    assert indices.shape == (2, 2, 3, 4)
    assert indices.dtype == torch.int64
    for number, part in enumerate(tiny.quantizer.codebooks):
        run = z[..., 4 * number : 4 * number + 4]
        cosines = F.cosine_similarity(run.unsqueeze(-2), part.codebook.weight.double(), dim=-1)
        assert torch.equal(indices[..., number], cosines.argmax(-1))
    assert len(indices.unique()) > 20


@torch.inference_mode()
def test_the_length_of_a_row_changes_neither_index_nor_pixels(tiny, filled):
    scaled = filled(Network, Config(**TINY))
    for part in scaled.quantizer.codebooks:
        part.codebook.weight.mul_(torch.linspace(0.5, 4, 256).unsqueeze(1))
    x = noise(1, 3, 32, 32)
    codes = tiny.encode(x)
    assert torch.equal(scaled.encode(x).indices[0], codes.indices[0])
    torch.testing.assert_close(scaled.decode(codes), tiny.decode(codes), rtol=0, atol=1e-5)


@torch.inference_mode()
def test_a_second_instance_decodes_from_the_indices_alone(tiny, filled):
    x = noise(1, 3, 32, 48)
    codes = tiny.encode(x)
    assert codes.latent is None
    assert codes.bits == (2 * 3 * 4 * 8.0,)
    file = io.BytesIO()
    torch.save(codes.indices[0].to(torch.uint8), file)
    file.seek(0)
    received = Codes(indices=(torch.load(file).long(),), codebook_sizes=(256,))
    decoded = filled(Network, Config(**TINY)).decode(received)
    assert decoded.shape == x.shape
    assert torch.equal(decoded, tiny.decode(codes))


@torch.inference_mode()
def test_a_picture_is_coded_alike_alone_and_in_a_batch(tiny, coded_alike):
    coded_alike(tiny, noise(3, 3, 32, 48, seed=2))


def test_the_borders_do_not_darken_the_pooled_skip():
    assert torch.equal(Shrink(1, 1)(torch.ones(1, 1, 8, 8)), torch.ones(1, 1, 4, 4))


def test_a_stored_bias_of_the_keys_must_be_zero(tiny):
    name = "quant_proj.attn.zero_k_bias"
    state = synthetic_state(tiny)
    load_state(tiny, state | {name: torch.zeros(128)})
    with pytest.raises(WeightsError, match=r"another constant \(quant_proj\.attn\.zero_k_bias\)"):
        load_state(tiny, state | {name: torch.ones(128)})


@torch.inference_mode()
def test_the_heads_are_averaged_towards_the_narrow_side_and_joined_towards_the_wide_one():
    x = noise(1, 5, 32)
    narrow, wide = Projection(32, 8), Projection(8, 32)
    assert narrow(x).shape == (1, 5, 8)
    assert wide(narrow(x)).shape == (1, 5, 32)
    attention = narrow.attn
    q, k, v = (part.view(1, 5, 4, 8).transpose(1, 2) for part in F.linear(x, attention.qkv.weight).chunk(3, dim=-1))
    heads = [(q[:, i] @ k[:, i].mT / 8**0.5).softmax(-1) @ v[:, i] for i in range(4)]
    torch.testing.assert_close(attention(x), attention.proj(sum(heads) / 4))


@torch.inference_mode()
def test_bfloat16_stays_close_to_float32(tiny, filled):
    x = noise(1, 3, 48, 64)
    codes = tiny.encode(x)
    exact = tiny.decode(codes)
    half = filled(Network, Config(**TINY)).to(torch.bfloat16)
    assert half.encode(x.bfloat16()).indices[0].shape == codes.indices[0].shape
    decoded = half.decode(codes)
    assert decoded.dtype == torch.bfloat16
    assert (decoded - exact).std() < 0.05 * exact.std()


@pytest.mark.parametrize(
    ("change", "message"),
    [({"heads": 3}, "heads must divide width"), ({"code_channels": 5}, "proper divisor of width")],
)
def test_numbers_that_do_not_fit_each_other_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        Config(**TINY | change)


def test_the_card_says_what_its_network_does():
    (card,) = [card for card in cards.tokenizers().values() if card.network == "unitok"]
    config = Config(**card.config)
    assert card.code.codebook_sizes == (config.codebook_size,) * config.codebooks
    assert card.code.latent_channels == config.vector == 64
    assert card.code.tokens_at_256 == 256 * config.codebooks
    assert card.code.downsampling == card.input.multiple_of == 16
    dropped = {prefix for prefix in card.weights.drop if prefix.startswith("quantizer.")}
    assert dropped == {f"quantizer.codebooks.{number}.vocab_usage" for number in range(config.codebooks)}
