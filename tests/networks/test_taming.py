from __future__ import annotations

import pytest
import torch
from torch import nn

from vtbench.networks import _taming
from vtbench.networks._taming import Attention, Decoder, Downsample, Encoder, Layout, best_codes

SMALL = Layout(channels=32, multipliers=(1, 2, 4), blocks=1, z_channels=8)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("scores_at_once", [1, 100, 1 << 24])
def test_best_codes_are_those_of_all_scores_at_once(monkeypatch, scores_at_once):
    monkeypatch.setattr(_taming, "SCORES_AT_ONCE", scores_at_once)
    z, table, bias = random(2, 5, 3, 4), random(37, 5, seed=1), random(37, seed=2)
    scores = torch.einsum("bchw,kc->bhwk", z.double(), table.double())
    assert torch.equal(best_codes(z, table), scores.argmax(-1))
    assert torch.equal(best_codes(z, table, bias), (scores + bias).argmax(-1))
    assert not torch.equal(best_codes(z, table), best_codes(z, table, bias))


@pytest.mark.parametrize("scores_at_once", [1, 24, 1 << 24])
def test_of_equal_scores_the_earliest_row_is_taken(monkeypatch, scores_at_once):
    monkeypatch.setattr(_taming, "SCORES_AT_ONCE", scores_at_once)
    table = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(8, 1)
    assert best_codes(
        random(1, 2, 3, 4).abs() * torch.tensor([0.0, 1.0]).view(1, 2, 1, 1), table
    ).unique().tolist() == [1]


def test_best_codes_search_in_float32_whatever_the_networks_precision():
    table = torch.stack([torch.tensor([1.0, 2**-10]), torch.tensor([1.0, 2**-9])])
    z = torch.ones(1, 2, 1, 1, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert best_codes(z, table).item() == 1


def test_the_encoder_halves_and_the_decoder_doubles_each_side_between_levels():
    x = random(2, 3, 16, 24)
    z = Encoder(SMALL, 8)(x)
    assert z.shape == (2, 8, 4, 6)
    assert Decoder(SMALL)(z).shape == x.shape


def test_odd_sides_are_floored():
    assert Encoder(SMALL, 8)(random(1, 3, 19, 30)).shape == (1, 8, 4, 7)


def test_downsampling_sees_a_zero_border_at_the_right_and_the_bottom_only():
    down = Downsample(32)
    nn.init.ones_(down.conv.weight)
    nn.init.zeros_(down.conv.bias)
    (plane, *_) = down(torch.ones(1, 32, 4, 4))[0] / 32
    assert plane.tolist() == [[9, 6], [6, 4]]


def test_attention_is_one_head_over_all_positions():
    block = Attention(32).double()
    x = random(2, 32, 3, 5).double()
    h = block.norm(x)
    q, k, v = (part(h).flatten(2) for part in (block.q, block.k, block.v))  # (B, C, positions)
    weights = (torch.einsum("bci,bcj->bij", q, k) / 32**0.5).softmax(-1)
    mixed = torch.einsum("bij,bcj->bci", weights, v).view_as(x)
    torch.testing.assert_close(block(x), x + block.proj_out(mixed), rtol=0, atol=1e-12)


def test_only_the_lowest_level_and_the_middle_attend():
    names = {name.split(".q.")[0] for name in Encoder(SMALL, 8).state_dict() if ".q." in name}
    assert names == {"down.2.attn.0", "mid.attn_1"}
    names = {name.split(".q.")[0] for name in Decoder(SMALL).state_dict() if ".q." in name}
    assert names == {"up.2.attn.0", "up.2.attn.1", "mid.attn_1"}
