from __future__ import annotations

import pytest
import torch
from held import hold
from torch.nn import functional as F

from vtbench import cards
from vtbench.networks.dnd import Config, Network
from vtbench.types import Codes

SMALL = {
    "channels": 32,
    "multipliers": (1, 1, 2),
    "blocks": 1,
    "z_channels": 16,
    "code_channels": 8,
    "codebook_size": 50,
    "depths": 3,
}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture
def small(filled) -> Network:
    return filled(Network, Config(**SMALL))


@pytest.mark.parity
@pytest.mark.parametrize("variant", ["dnd-16x16x2", "dnd-16x16x4"])
def test_every_variant_agrees_with_the_published_implementation(variant):
    hold(variant)


@pytest.mark.parametrize("shared", [True, False])
@torch.inference_mode()
def test_each_depth_codes_what_the_ones_before_left_over(filled, shared):
    network = filled(Network, Config(**SMALL, shared=shared))
    x = noise(2, 3, 24, 40)
    codes = network.encode(x)
    (indices,) = codes.indices
    assert indices.shape == (2, 6, 10, 3)
    residual = network.latent(x).movedim(1, -1).double()
    for depth in range(3):
        table = network.quantizer.codebooks[0 if shared else depth].weight[:-1].double()
        nearest = torch.cdist(residual.flatten(1, 2), table).argmin(-1).view(2, 6, 10)
        assert torch.equal(indices[..., depth], nearest)
        residual = residual - F.embedding(nearest, table)
    total = network.latent(x).double() - residual.movedim(-1, 1)
    torch.testing.assert_close(network.decode(codes), network.pixels(total.float()), rtol=0, atol=1e-5)


@torch.inference_mode()
def test_the_row_kept_for_padding_is_never_chosen(small):
    x = noise(1, 3, 16, 16)
    small.quantizer.codebooks[0].weight[-1] = small.latent(x)[0, :, 0, 0]
    assert int(small.encode(x).indices[0].max()) < 50


@torch.inference_mode()
def test_the_curve_decodes_the_first_depths_of_one_encode(small, filled):
    x = noise(2, 3, 16, 24, seed=1)
    codes = small.encode(x)
    curve = list(small.curve(codes))
    one = small.encode(x).bits[0] / 3
    assert [label for label, _, _ in curve] == ["depth=1", "depth=2", "depth=3"]
    assert [bits for _, bits, _ in curve] == pytest.approx([one, 2 * one, 3 * one])
    assert torch.equal(curve[-1][2], small.decode(codes))
    short = filled(Network, Config(**SMALL, depth=2))
    fewer = short.encode(x)
    assert torch.equal(fewer.indices[0], codes.indices[0][..., :2])
    assert fewer.bits[0] == pytest.approx(curve[1][1])
    assert torch.equal(short.decode(fewer), curve[1][2])
    assert not torch.allclose(curve[1][2], curve[2][2], atol=0.01)


@torch.inference_mode()
def test_a_file_may_repeat_the_shared_codebook_but_not_change_it(small):
    state = small.state_dict()
    name = "quantizer.codebooks.0.weight"
    repeated = {**state, "quantizer.codebooks.1.weight": state[name].clone()}
    assert small.renamed(repeated).keys() == state.keys()
    changed = {**repeated, "quantizer.codebooks.2.weight": state[name] + 1}
    assert small.renamed(changed).keys() == state.keys() | {"quantizer.codebooks.2.weight"}


@torch.inference_mode()
def test_a_picture_is_coded_alike_alone_and_in_a_batch(small, coded_alike):
    coded_alike(small, noise(3, 3, 16, 24, seed=2))


@torch.inference_mode()
def test_a_second_instance_decodes_from_the_indices_alone(small, filled):
    codes = small.encode(noise(1, 3, 16, 24, seed=3))
    received = Codes(indices=codes.indices, codebook_sizes=(50,))
    assert torch.equal(filled(Network, Config(**SMALL)).decode(received), small.decode(codes))


def test_more_depths_than_there_are_is_refused():
    with pytest.raises(ValueError, match="depth must be at most depths, 3, got 4"):
        Config(**SMALL, depth=4)


def test_every_card_says_what_its_network_does():
    found = [card for card in cards.tokenizers().values() if card.network == "dnd"]
    assert len(found) == 5
    for card in found:
        config = Config(**card.config)
        assert card.code.codebook_sizes == (config.codebook_size,) * (1 if config.shared else config.depths)
        assert card.code.latent_channels == config.code_channels
        assert card.code.downsampling == card.input.multiple_of == 2 ** (len(config.multipliers) - 1)
        assert card.code.tokens_at_256 == (256 // card.code.downsampling) ** 2 * config.depths
