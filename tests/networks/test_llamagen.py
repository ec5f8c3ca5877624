from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vtbench.networks.llamagen import Config, Network
from vtbench.types import Codes
from vtbench.weights import published_names

SMALL = Config(channels=32, multipliers=(1, 1, 2), blocks=1, z_channels=16, code_channels=4, codebook_size=50)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parity
@pytest.mark.parametrize("variant", ["llamagen-ds16", "llamagen-ds8", "janus-pro"])
def test_every_variant_agrees_with_the_published_implementation(hold, variant):
    hold(variant)


def test_the_published_names_count_the_decoders_levels_in_the_order_they_run():
    names = published_names(Network(SMALL))
    assert len(set(names.values())) == len(names)
    assert names["encoder.down.1.block.0.conv1.weight"] == "encoder.conv_blocks.1.res.0.conv1.weight"
    assert names["encoder.down.1.downsample.conv.bias"] == "encoder.conv_blocks.1.downsample.conv.bias"
    assert names["encoder.down.2.attn.0.q.weight"] == "encoder.conv_blocks.2.attn.0.q.weight"
    assert names["encoder.mid.block_1.norm1.weight"] == "encoder.mid.0.norm1.weight"
    assert names["encoder.mid.attn_1.proj_out.bias"] == "encoder.mid.1.proj_out.bias"
    assert names["decoder.mid.block_2.conv2.weight"] == "decoder.mid.2.conv2.weight"
    assert names["decoder.up.2.block.1.conv2.weight"] == "decoder.conv_blocks.0.res.1.conv2.weight"
    assert names["decoder.up.2.attn.1.v.weight"] == "decoder.conv_blocks.0.attn.1.v.weight"
    assert names["decoder.up.1.upsample.conv.weight"] == "decoder.conv_blocks.1.upsample.conv.weight"
    assert names["decoder.up.1.block.0.nin_shortcut.bias"] == "decoder.conv_blocks.1.res.0.nin_shortcut.bias"
    assert names["decoder.up.0.block.0.norm1.bias"] == "decoder.conv_blocks.2.res.0.norm1.bias"
    unchanged = {name for name in names if names[name] == name}
    assert {name.split(".")[0] for name in unchanged} >= {"quantize", "quant_conv", "post_quant_conv"}
    assert "decoder.conv_in.weight" in unchanged


@torch.inference_mode()
def test_the_index_is_the_row_of_the_closest_direction(filled):
    network = filled(Network, SMALL)
    x = noise(2, 3, 24, 40)
    (indices,) = network.encode(x).indices
    z = network.latent(x).movedim(1, -1).double()  # (B, h, w, C)
    table = network.quantize.embedding.weight.double()
    cosines = F.cosine_similarity(z.unsqueeze(-2), table, dim=-1)
    assert torch.equal(indices, cosines.argmax(-1))
    assert not torch.equal(indices, (z @ table.T).argmax(-1))
    assert len(indices.unique()) > 3


@torch.inference_mode()
def test_the_length_of_a_row_changes_neither_index_nor_pixels(filled):
    network, scaled = filled(Network, SMALL), filled(Network, SMALL)
    scaled.quantize.embedding.weight.mul_(torch.linspace(0.5, 4, 50).unsqueeze(1))
    x = noise(1, 3, 16, 24)
    codes = network.encode(x)
    assert torch.equal(scaled.encode(x).indices[0], codes.indices[0])
    torch.testing.assert_close(scaled.decode(codes), network.decode(codes), rtol=0, atol=1e-5)
    other = Codes(indices=((codes.indices[0] + 1) % 50,), codebook_sizes=(50,))
    assert not torch.allclose(network.decode(other), network.decode(codes), atol=1e-2)


def test_every_card_says_what_its_network_does(cards_that_agree):
    assert len(cards_that_agree("llamagen", Config)) == 3
