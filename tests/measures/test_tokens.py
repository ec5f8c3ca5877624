"""Tokens held against a picture's segments, on tokenizers that are right or wrong by construction."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from vtbench import cards, evaluate, images, leaderboard, load_task, load_tokenizer
from vtbench.cards import Code, Data, Geometry, TaskCard, TokenizerCard
from vtbench.errors import DataError
from vtbench.metrics.regions import coverage, even_regions, homogeneity
from vtbench.metrics.segments import Labels, segment
from vtbench.results import Run
from vtbench.task import Task
from vtbench.tokenizer import Tokenizer
from vtbench.types import Codes

METRICS = ("homogeneity", "homogeneity_gain", "coverage", "tokens_per_picture", "tokens_placed")


def card(**change: object) -> TokenizerCard:
    said = {"name": "planted", "family": "test", "network": "planted", "kind": "continuous", "title": "Planted"}
    return TokenizerCard.model_validate(said | change)


class Grid(nn.Module):
    """A latent vector for each square of 16 pixels."""

    def encode(self, x: Tensor) -> Codes:
        return Codes(latent=nn.functional.avg_pool2d(x, 16))

    def decode(self, codes: Codes) -> Tensor:
        assert codes.latent is not None
        return nn.functional.interpolate(codes.latent, scale_factor=16)


class Perfect(nn.Module):
    """Understands a picture by a token for each of its segments, and leaves the rest of 100 without a place."""

    def encode(self, x: Tensor) -> Codes:
        return Codes(latent=torch.zeros(len(x), 100, 4))

    def decode(self, codes: Codes) -> Tensor:
        raise AssertionError("nothing is decoded")

    def regions(self, x: Tensor) -> Tensor:
        levels = images.to_uint8(x, (-1.0, 1.0)).permute(0, 2, 3, 1).numpy()
        return torch.from_numpy(np.stack([segment(picture) for picture in levels]))


class Steps(nn.Module):
    """Codes of two scales, the finer one of 8x8 squares, and two depths."""

    def encode(self, x: Tensor) -> Codes:
        coarse = torch.zeros((len(x), 2, 2, 2), dtype=torch.int64)
        fine = torch.zeros((len(x), x.shape[2] // 8, x.shape[3] // 8, 2), dtype=torch.int64)
        return Codes(indices=(coarse, fine), codebook_sizes=(16, 16), size=(x.shape[2], x.shape[3]))

    def decode(self, codes: Codes) -> Tensor:
        assert codes.size is not None
        return torch.zeros(len(codes), 3, *codes.size)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """A picture of 64x64 whose left 24 columns are dark and whose others are bright."""
    folder = tmp_path_factory.mktemp("data") / "pictures"
    folder.mkdir()
    picture = np.zeros((64, 64, 3), dtype=np.uint8)
    picture[:, 24:] = 255
    Image.fromarray(picture).save(folder / "sides.png")
    made = TaskCard(
        name="planted",
        version=1,
        family="tokens",
        title="Planted",
        data=Data(source="folder"),
        geometry=Geometry(size=64),
        metrics=METRICS,
        primary="homogeneity",
    )
    return load_task(made, data=folder)


@pytest.fixture(scope="module")
def segments(task: Task) -> Labels:
    return segment(task.read(0).image.permute(1, 2, 0).numpy())


def values(run: Run) -> dict[str, float | None]:
    return {name: run.scores[name].value for name in METRICS}


def test_tokens_that_are_the_segments_are_whole(task: Task, segments: Labels) -> None:
    """And nothing of a tokenizer for understanding is decoded."""
    run = evaluate(Tokenizer(card(kind="understanding"), Perfect()), task, out=None)
    found, count = values(run), int(segments.max()) + 1
    assert found["tokens_per_picture"] == 100
    assert found["tokens_placed"] == count / 100
    assert found["homogeneity"] == found["coverage"] == 1.0
    assert found["homogeneity_gain"] == pytest.approx(1 - homogeneity(even_regions(count, 64, 64), segments))
    assert (found["homogeneity_gain"] or 0) > 0.05
    assert run.scores["latent_values"].value == 400 / 64**2
    assert run.pictures.failed == 0


def test_a_grid_says_what_it_stands_for_by_its_card(task: Task, segments: Labels) -> None:
    found = values(evaluate(Tokenizer(card(code=Code(downsampling=16)), Grid()), task, out=None))
    squares = np.arange(16).reshape(4, 4).repeat(16, 0).repeat(16, 1)
    assert found["tokens_per_picture"] == 16
    assert found["tokens_placed"] == 1.0
    assert found["homogeneity"] == homogeneity(squares, segments) < 0.95
    assert found["homogeneity_gain"] == 0.0
    assert found["coverage"] == coverage(squares, segments)


def test_a_size_that_was_padded_is_cut_off_again(task: Task) -> None:
    own = card(code=Code(downsampling=16), input={"multiple_of": 16})
    codes = Codes(latent=torch.zeros(1, 3, 3, 4))
    regions = Tokenizer(own, Grid()).regions(torch.zeros((1, 3, 40, 50), dtype=torch.uint8), codes)
    assert regions is not None
    assert regions.labels.shape == (1, 40, 50)
    assert regions.tokens == 12
    assert regions.labels[0, ::16, ::16].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_the_finest_of_several_maps_is_the_grid_and_all_tokens_count(task: Task) -> None:
    own = card(kind="discrete", code=Code(codebook_sizes=(16, 16), downsampling=8))
    found = values(evaluate(Tokenizer(own, Steps()), task, out=None))
    assert found["tokens_per_picture"] == 2 * 2 * 2 + 8 * 8 * 2
    assert found["homogeneity_gain"] == 0.0
    assert found["tokens_placed"] == 1.0


@pytest.mark.parametrize("downsampling", [None, 32])
def test_tokens_without_a_place_are_counted_and_no_more(task: Task, downsampling: int | None) -> None:
    run = evaluate(Tokenizer(card(code=Code(downsampling=downsampling)), Grid()), task, out=None)
    assert run.scores["tokens_per_picture"].value == 16
    for name in ("homogeneity", "homogeneity_gain", "coverage", "tokens_placed"):
        assert run.scores[name].reason == "its tokens don't say which pixels they stand for"


def test_a_file_has_no_tokens(task: Task) -> None:
    run = evaluate("jpeg-q30", task, out=None)
    assert {run.scores[name].reason for name in METRICS} == {"the tokenizer has no tokens"}


def test_a_task_that_needs_pixels_is_refused_with_the_one_that_needs_none() -> None:
    with pytest.raises(DataError, match=r"gives tokens for understanding and no pixels, so reconstruction .*`tokens`"):
        evaluate(Tokenizer(card(kind="understanding"), Perfect()), "reconstruction", out=None, limit=1)
    with pytest.raises(DataError, match="no pixels; choose a task that needs none"):
        Tokenizer(card(kind="understanding"), Perfect()).decode(Codes(latent=torch.zeros(1, 3, 4)), (8, 8))


def test_hook_runs_on_the_task_of_its_size() -> None:
    """Its own network, smaller, on a picture that comes with vtbench."""
    tiny = {"side": 224, "tokens": 5, "stem": 8, "seed_channels": 16, "heads": 2, "token_channels": 24}
    hook = cards.find_tokenizer("hook").model_copy(update={"config": tiny})
    run = evaluate(load_tokenizer(hook, weights="synthetic", device="cpu"), "tokens", out=None, limit=2)
    assert run.scores["tokens_per_picture"].value == 5
    assert run.scores["homogeneity"].scored == 2
    assert 0 < (run.scores["tokens_placed"].value or 0) <= 1
    assert run.scores["latent_values"].value == 5 * 24 / 224**2
    assert "no rate" in (run.scores["bpp"].reason or "")


def test_every_task_of_the_family_is_of_a_size_that_somebody_needs() -> None:
    sizes = {one.geometry.size for one in cards.tasks().values() if one.family == "tokens"}
    for one in cards.tokenizers().values():
        if one.kind == "understanding":
            assert set(one.input.sizes) & sizes


def test_a_table_of_its_runs_has_every_column_once(task: Task) -> None:
    run = evaluate(Tokenizer(card(code=Code(downsampling=16)), Grid()), task, out=None)
    heads = leaderboard.to_csv([run]).splitlines()[0].split(",")
    assert len(set(heads)) == len(heads)
