from __future__ import annotations

import io

import pytest
import torch

from vtbench import cards
from vtbench.networks.ibq import Config, Network
from vtbench.types import Codes

SMALL = Config(channels=32, multipliers=(1, 1, 2), blocks=1, z_channels=16, code_channels=8, codebook_size=50)


@pytest.fixture
def small(filled):
    return filled(Network, SMALL)


def test_ibq_16384_agrees_with_the_published_implementation(hold):
    hold("ibq-16384")


@pytest.mark.parity
@pytest.mark.parametrize(
    ("variant", "fixture"),
    [
        ("ibq-1024", "ibq-1024"),
        ("ibq-8192", "ibq-8192"),
        ("ibq-262144", "ibq-262144"),
        ("ibq-pretrain-16384", "ibq-16384"),  # the same network
        ("ibq-pretrain-262144", "ibq-262144"),
        ("emu3.5", "emu3.5"),
    ],
)
def test_every_variant_agrees_with_the_published_implementation(hold, variant, fixture):
    hold(variant, fixture)


@torch.inference_mode()
def test_the_index_is_the_largest_inner_product_without_any_norm(small):
    x = torch.rand(2, 3, 24, 40, generator=torch.Generator().manual_seed(1)) * 2 - 1
    (indices,) = small.encode(x).indices
    table = small.quantize.embedding.weight
    assert torch.equal(indices, torch.einsum("bchw,kc->bhwk", small.latent(x), table).argmax(-1))
    assert indices.shape == (2, 6, 10)
    assert indices.dtype == torch.int64
    distances = torch.cdist(small.latent(x).movedim(1, -1).flatten(1, 2), table)
    assert not torch.equal(indices.flatten(1), distances.argmin(-1))


@torch.inference_mode()
def test_a_picture_is_coded_alike_alone_and_in_a_batch(small, coded_alike):
    x = torch.rand(3, 3, 16, 24, generator=torch.Generator().manual_seed(2)) * 2 - 1
    coded_alike(small, x)


@torch.inference_mode()
def test_a_second_instance_decodes_from_the_indices_alone(small, filled):
    x = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(3)) * 2 - 1
    codes = small.encode(x)
    assert codes.latent is None
    assert codes.bits == pytest.approx((4 * 6 * 5.643856189774724,))  # log2(50)
    file = io.BytesIO()
    torch.save(codes.indices[0].to(torch.uint8), file)
    file.seek(0)
    received = Codes(indices=(torch.load(file).long(),), codebook_sizes=(50,))
    assert torch.equal(filled(Network, SMALL).decode(received), small.decode(codes))


def test_every_card_says_what_its_network_does(cards_that_agree):
    assert len(cards_that_agree("ibq", Config)) == 7


def test_emu_has_the_announced_number_of_parameters():
    card = cards.find_tokenizer("emu3.5")
    with torch.device("meta"):
        network = Network(Config(**card.config))
    assert sum(parameter.numel() for parameter in network.parameters()) == 455336963
