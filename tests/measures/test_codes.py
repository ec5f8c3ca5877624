"""One use of codes a codebook: where each position has an index of each of several, equal numbers are other codes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders import small_task, write_pictures
from torch import Tensor, nn

from vtbench import cards, evaluate, load_tokenizer, wrap
from vtbench.cards import Code, TokenizerCard
from vtbench.errors import DataError
from vtbench.measures.codes import UNSIZED
from vtbench.results import Run
from vtbench.tokenizer import Tokenizer
from vtbench.types import Codes


class Two(nn.Module):
    """Two indices a position: the first always 3, the second counts from 0."""

    def encode(self, x: Tensor) -> Codes:
        first = torch.full((len(x), 4, 4), 3)
        second = torch.arange(16).view(1, 4, 4).expand(len(x), -1, -1)
        return Codes(indices=(torch.stack([first, second], -1),), codebook_sizes=(16,), size=(x.shape[2], x.shape[3]))

    def decode(self, codes: Codes) -> Tensor:
        assert codes.size is not None
        return torch.zeros(len(codes), 3, *codes.size)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data") / "pictures", 2)


def run(folder: Path, sizes: tuple[int, ...]) -> Run:
    card = TokenizerCard(
        name="two",
        family="test",
        network="planted",
        kind="discrete",
        title="Two",
        code=Code(codebook_sizes=sizes),
    )
    return evaluate(Tokenizer(card, Two()), small_task(folder), out=None)


def values(run: Run, name: str) -> dict[str, float | None]:
    return {key: score.value for key, score in run.scores.items() if key.split("/")[0] == name}


def test_each_of_several_codebooks_has_its_own_use(folder: Path) -> None:
    found = run(folder, (16, 16))
    assert values(found, "code_usage") == {
        "code_usage": (1 / 16 + 1) / 2,
        "code_usage/0": 1 / 16,
        "code_usage/1": 1.0,
    }
    assert values(found, "code_entropy") == {"code_entropy": 2.0, "code_entropy/0": 0.0, "code_entropy/1": 4.0}
    assert found.scores["bpp_entropy"].value == pytest.approx(4.0 * 16 / 64**2)
    assert found.scores["bpp"].value == pytest.approx(2 * 4.0 * 16 / 64**2)
    assert found.tokens_per_image == 32


def test_depths_that_share_one_codebook_are_counted_together(folder: Path) -> None:
    found = run(folder, (16,))
    assert values(found, "code_usage") == {"code_usage": 1.0}
    assert found.tokens_per_image == 32


class Halves(Two):
    """Two indices a token: always 3, and in half of the tokens whether the picture is flat, as decoded ones are."""

    def encode(self, x: Tensor) -> Codes:
        flat = (x.flatten(1).std(1) < 0.01).long()[:, None, None] * (torch.arange(16).view(1, 4, 4) < 8)
        indices = torch.stack([torch.full_like(flat, 3), flat], -1)
        return replace(super().encode(x), indices=(indices,), indices_per_token=2)


def test_a_token_of_several_indices_is_one_token(folder: Path) -> None:
    card = TokenizerCard(
        **{"name": "halves", "family": "test", "network": "planted", "kind": "discrete", "title": "Halves"},
        code=Code(codebook_sizes=(16,), indices_per_token=2),
    )
    change = {"family": "stability", "metrics": ("token_agreement", "tokens_per_picture"), "geometry": {"size": 96}}
    found = evaluate(Tokenizer(card, Halves()), small_task(folder, **change, primary="token_agreement"), out=None)
    scores = {name: score.value for name, score in found.scores.items()}
    assert found.tokens_per_image == scores["tokens_per_picture"] == 16
    assert scores["token_agreement"] == 0.5
    assert scores["code_entropy"] == 2.0 and scores["code_perplexity"] == 2.0
    assert scores["bpp"] == pytest.approx(16 * 8 / 96**2)
    assert scores["bpp_entropy"] == pytest.approx(16 * 2 / 96**2)


def test_cards_of_several_codebooks_name_them_all() -> None:
    assert len(cards.find_tokenizer("unitok").code.codebook_sizes) == 8
    assert len(cards.find_tokenizer("dnd-16x16x4").code.codebook_sizes) == 1
    assert len(cards.find_tokenizer("dnd-16x16x8").code.codebook_sizes) == 8


def test_depths_with_codebooks_of_their_own_are_counted_each_in_its_own(folder: Path) -> None:
    card = cards.find_tokenizer("dnd-16x16x8")
    small = {"channels": 32, "multipliers": [1, 1, 1], "blocks": 1, "z_channels": 16, "code_channels": 8}
    config = card.config | small | {"codebook_size": 64, "depths": 3}

    def loaded(depths: int, **more: object) -> Tokenizer:
        update = {"config": config | more, "code": Code(codebook_sizes=(64,) * depths)}
        return load_tokenizer(card.model_copy(update=update), weights="synthetic", device="cpu")

    def use(tokenizer: Tokenizer) -> dict[str, float | None]:
        return values(evaluate(tokenizer, small_task(folder), out=None), "code_usage")

    whole = use(loaded(3))
    assert set(whole) == {"code_usage", *(f"code_usage/{depth}" for depth in range(3))}
    fewer = use(loaded(2, depth=2))
    assert {name: fewer[name] for name in ("code_usage/0", "code_usage/1")} == {
        name: whole[name] for name in ("code_usage/0", "code_usage/1")
    }
    with pytest.raises(DataError, match="gives 2 indices a position, its card names 3 codebooks; correct"):
        loaded(3, depth=2).encode(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


def test_codes_of_a_card_that_states_no_codebook_have_no_use_and_say_why(folder: Path) -> None:
    found = run(folder, ())
    for name in ("code_usage", "code_entropy", "code_perplexity", "bpp_entropy"):
        assert (found.scores[name].value, found.scores[name].reason) == (None, UNSIZED)
    assert found.scores["bpp"].value is not None


class Beyond(Two):
    """Says that there are fewer codes than it takes."""

    def encode(self, x: Tensor) -> Codes:
        return replace(super().encode(x), codebook_sizes=(15,))


def test_an_index_outside_its_codebook_is_refused_before_it_is_decoded() -> None:
    card = TokenizerCard(name="beyond", family="test", network="planted", kind="discrete", title="Beyond")
    with pytest.raises(DataError, match="gives indices from 0 to 15, expected 0 to 14"):
        Tokenizer(card, Beyond()).encode(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


def test_a_codebook_of_one_code_says_nothing(folder: Path) -> None:
    def nothing(_: nn.Module, x: Tensor) -> Tensor:
        return torch.zeros(len(x), 4, dtype=torch.int64)

    def grey(_: nn.Module, codes: Tensor) -> Tensor:
        return torch.zeros(len(codes), 3, 64, 64)

    tokenizer = wrap(nn.Conv2d(3, 3, 1), name="one", codebook_size=1, encode=nothing, decode=grey)
    scores = evaluate(tokenizer, small_task(folder), out=None).scores
    assert [scores[name].value for name in ("bpp", "bpp_entropy", "code_usage", "code_entropy")] == [0, 0, 1, 0]
