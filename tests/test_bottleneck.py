"""Every discrete network's bottleneck can be looked into, and shows what its codes really are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from discrete import SMALL, small

from vtbench import cards, load_tokenizer
from vtbench.bottleneck import Bottleneck
from vtbench.errors import DataError
from vtbench.networks._candidates import other_bits, other_digits

SIZE = (64, 64)


@pytest.fixture
def pictures() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, *SIZE), generator=generator, dtype=torch.uint8)


def test_all_discrete_networks_are_here() -> None:
    known = cards.tokenizers()
    discrete = {card.network for card in known.values() if card.kind == "discrete"}
    assert {known[name].network for name in SMALL} == discrete


@pytest.mark.parametrize("name", SMALL)
def test_vectors_decode_as_their_codes_do(name: str, pictures: torch.Tensor) -> None:
    tokenizer = small(name)
    bottleneck = Bottleneck(tokenizer)
    codes = tokenizer.encode(pictures)
    z = bottleneck.latent(codes)
    assert bottleneck.closed is None
    assert z.shape[0] == 2 and z.ndim in (3, 4)
    (own, reasons), (made, again) = tokenizer.attempt(codes, SIZE), bottleneck.decode(z, SIZE)
    assert reasons == again == [None, None]
    assert torch.equal(own, made)
    assert not torch.equal(own, bottleneck.decode(z.flip(0), SIZE)[0])


@pytest.mark.parametrize("name", SMALL)
def test_what_is_no_code_is_looked_up_nowhere_and_told_afterwards(name: str, pictures: torch.Tensor) -> None:
    """A GPU that looks it up can't be used any more, and what stands on one may be asked for before it is looked at."""
    tokenizer = small(name)
    codes = tokenizer.encode(pictures)
    beyond = [part + size for part, size in zip(codes.indices, codes.codebook_sizes, strict=True)]
    codes = replace(codes, indices=tuple(beyond))
    Bottleneck(tokenizer).latent(codes)
    list(tokenizer.curve(codes, SIZE))
    _, reasons = tokenizer.attempt(codes, SIZE)
    assert all(reason is not None and "gives indices from" in reason for reason in reasons)


@pytest.mark.parametrize("name", SMALL)
def test_the_first_candidate_is_the_code_and_the_second_another(name: str, pictures: torch.Tensor) -> None:
    tokenizer = small(name)
    bottleneck = Bottleneck(tokenizer)
    codes = tokenizer.encode(pictures)
    offered = bottleneck.candidates(pictures, 3)
    assert len(offered) == len(codes.indices)
    for own, others, size in zip(codes.indices, offered, codes.codebook_sizes, strict=True):
        assert others.shape[:-1] == own.shape and others.shape[-1] == (3 if bottleneck.changes == "codes" else 2)
        assert others.dtype == torch.int64 and 0 <= int(others.min()) <= int(others.max()) < size
        assert torch.equal(others[..., 0], own)
        if size == 2:  # bits: one of a token's is changed
            assert bool(((others[..., 1] != own).sum(-1) == 1).all())
        else:
            assert bool((others[..., 1] != own).all())


@pytest.mark.parametrize("name", ["open-magvit2-256", "bsqvit-18bit", "flowmo-lo", "maskbit-16bit", "atoken-sod"])
def test_a_changed_digit_changes_one_number_of_the_vector(name: str, pictures: torch.Tensor) -> None:
    from dataclasses import replace

    tokenizer = small(name)
    bottleneck = Bottleneck(tokenizer)
    codes = tokenizer.encode(pictures)
    changed = tuple(other[..., 1] for other in bottleneck.candidates(pictures, 2))
    before, after = bottleneck.latent(codes), bottleneck.latent(replace(codes, indices=changed))
    per_token = codes.indices[0].shape[-1] if name in ("flowmo-lo", "atoken-sod") else 1
    assert bool(((before != after).sum(1 if before.ndim == 4 else -1) == per_token).all())


def test_nearest_codes_are_in_order_of_their_distance(pictures: torch.Tensor) -> None:
    tokenizer = small("vqgan-imagenet-f16-1024")
    network = tokenizer.network
    (offered,) = Bottleneck(tokenizer).candidates(pictures, 300)
    from vtbench import images

    with torch.no_grad():
        z = network.latent(images.to_float(pictures)).movedim(1, -1).flatten(0, 2)
        distances = torch.cdist(z.double(), network.quantize.table.double()).gather(1, offered.flatten(0, 2))
    assert bool((distances.diff(dim=1) > -1e-4).all())
    assert torch.equal(offered.flatten(0, 2).sort(1).values, torch.arange(300).expand(len(z), -1))


def test_codecs_have_no_latent() -> None:
    bottleneck = Bottleneck(load_tokenizer("jpeg-q5"))
    assert bottleneck.closed == "codecs have no latent"
    with pytest.raises(DataError, match="no latent"):
        bottleneck.latent(bottleneck.tokenizer.encode(torch.zeros(1, 3, 16, 16, dtype=torch.uint8)))


def test_the_least_certain_digit_crosses_its_nearest_boundary() -> None:
    bounded = torch.tensor([[0.1, 0.7], [2.9, 0.45], [-0.45, 0.9]])  # three positions of two channels
    # Below the lowest level there is none: the last position's first digit is certain, its second is not.
    assert other_digits(bounded, (4, 2)).tolist() == [[0, 0], [3, 1], [0, 0]]
    assert other_bits(torch.tensor([[0.3, -0.1, 2.0], [-1.0, 0.5, 0.2]])).tolist() == [[1, 1, 1], [0, 1, 0]]
