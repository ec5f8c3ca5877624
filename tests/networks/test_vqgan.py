from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vtbench.networks.vqgan import Config, Network
from vtbench.types import Codes

SMALL = {"channels": 32, "multipliers": (1, 1, 2), "blocks": 1, "z_channels": 16, "code_channels": 8}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parity
@pytest.mark.parametrize(
    "variant", ["vqgan-imagenet-f16-1024", "vqgan-imagenet-f16-16384", "vqgan-gumbel-f8-8192", "chameleon"]
)
def test_every_variant_agrees_with_the_published_implementation(hold, variant):
    hold(variant)


@torch.inference_mode()
def test_the_index_is_the_nearest_row(filled):
    network = filled(Network, Config(**SMALL, codebook_size=50))
    x = noise(2, 3, 24, 40)
    (indices,) = network.encode(x).indices
    z, table = network.latent(x).movedim(1, -1).double(), network.quantize.table.double()
    assert torch.equal(indices, torch.cdist(z.flatten(1, 2), table).argmin(-1).view(2, 6, 10))
    assert not torch.equal(indices, (z @ table.T).argmax(-1))
    assert len(indices.unique()) > 3


@torch.inference_mode()
def test_the_gumbel_index_is_the_largest_logit_without_noise(filled):
    network = filled(Network, Config(**SMALL, codebook_size=50, quantizer="gumbel"))
    x = noise(2, 3, 24, 40)
    codes = network.encode(x)
    logits = network.quantize.proj(network.latent(x))
    assert torch.equal(codes.indices[0], logits.argmax(1))
    assert not torch.equal(codes.indices[0], (logits - network.quantize.proj.bias.view(1, -1, 1, 1)).argmax(1))
    assert torch.equal(codes.indices[0], network.encode(x).indices[0])
    assert codes.codebook_sizes == (50,)


@pytest.mark.parametrize("quantizer", ["nearest", "gumbel"])
@torch.inference_mode()
def test_a_second_instance_decodes_the_rows_of_the_indices(filled, quantizer):
    config = Config(**SMALL, codebook_size=50, quantizer=quantizer)
    network = filled(Network, config)
    indices = torch.randint(0, 50, (2, 3, 5), generator=torch.Generator().manual_seed(1))
    codes = Codes(indices=(indices,), codebook_sizes=(50,))
    decoded = filled(Network, config).decode(codes)
    assert decoded.shape == (2, 3, 12, 20)
    rows = F.one_hot(indices, 50).float() @ network.quantize.table  # (B, h, w, C)
    expected = network.decoder(network.post_quant_conv(rows.permute(0, 3, 1, 2).contiguous()))
    torch.testing.assert_close(decoded, expected, rtol=0, atol=1e-5)


def test_every_card_says_what_its_network_does(cards_that_agree):
    found = cards_that_agree("vqgan", Config)
    assert len(found) == 4
    for card in found:
        config = Config(**card.config)
        assert config.quantizer == ("gumbel" if "gumbel" in card.name else "nearest")
