"""Rate and quality by depth or scale, out of one encode: each step is what a tokenizer of so many steps would give."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from builders import SIDE, small_task
from PIL import Image

from vtbench import cards, evaluate, load_tokenizer, wrap
from vtbench.cli._chosen import adapted
from vtbench.errors import CardError, DataError
from vtbench.metrics import psnr
from vtbench.tokenizer import Tokenizer
from vtbench.types import Codes

DND = {
    "channels": 32,
    "multipliers": [1, 1, 2],
    "blocks": 1,
    "z_channels": 16,
    "code_channels": 8,
    "codebook_size": 64,
    "depths": 3,
}
VAR = {
    "channels": 32,
    "multipliers": [1, 1, 1, 1, 2],
    "blocks": 1,
    "z_channels": 8,
    "codebook_size": 64,
}
METRICS = ("curve_psnr", "curve_ssim", "curve_bpp")


def small(name: str, config: dict[str, object], **code: object) -> Tokenizer:
    card = cards.find_tokenizer(name)
    card = card.model_copy(update={"config": config, "code": card.code.model_copy(update=code)})
    return load_tokenizer(card, weights="synthetic", device="cpu")


def task() -> cards.TaskCard:
    return cards.find_task("curve").model_copy(update={"metrics": METRICS})


def curve(tokenizer: Tokenizer) -> dict[str, dict[str, float | None]]:
    from vtbench import load_task

    run = evaluate(tokenizer, load_task(task()), out=None, limit=2)
    return {
        name: {key: score.value for key, score in run.scores.items() if key.split("/")[0] == name} for name in METRICS
    }


@pytest.fixture(scope="module")
def dnd() -> dict[str, dict[str, float | None]]:
    return curve(small("dnd-16x16x4", DND, codebook_sizes=(64,)))


def test_the_rate_rises_by_what_each_depth_costs(dnd: dict[str, dict[str, float | None]]) -> None:
    each = 64 * 64 * 6 / 256**2  # positions, bits of a code, pixels
    assert dnd["curve_bpp"] == {
        "curve_bpp": 3 * each,
        "curve_bpp/depth=1": each,
        "curve_bpp/depth=2": 2 * each,
        "curve_bpp/depth=3": 3 * each,
    }


def test_each_depth_is_what_a_tokenizer_of_so_many_depths_gives(dnd: dict[str, dict[str, float | None]]) -> None:
    from vtbench import load_task

    for depth in (1, 2, 3):
        alone = small("dnd-16x16x4", {**DND, "depth": depth}, codebook_sizes=(64,))
        run = evaluate(
            alone,
            load_task(
                cards.find_task("reconstruction").model_copy(update={"metrics": ("psnr", "ssim"), "primary": "psnr"})
            ),
            out=None,
            limit=2,
        )
        for name in ("psnr", "ssim", "bpp"):
            assert dnd[f"curve_{name}"][f"curve_{name}/depth={depth}"] == pytest.approx(
                run.scores[name].value, rel=1e-9
            )
    assert len({dnd["curve_psnr"][f"curve_psnr/depth={depth}"] for depth in (1, 2, 3)}) == 3


def test_the_whole_curve_is_in_order_and_ends_with_the_reconstruction(dnd: dict[str, dict[str, float | None]]) -> None:
    for name in METRICS:
        assert list(dnd[name]) == [name, *(f"{name}/depth={depth}" for depth in (1, 2, 3))]
        assert dnd[name][name] == dnd[name][f"{name}/depth=3"]


def test_vars_ten_scales_come_in_order_at_their_own_rates() -> None:
    found = curve(small("var-256", VAR, codebook_sizes=(64,) * 10))["curve_bpp"]
    sides = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    totals = [sum(side**2 for side in sides[:count]) for count in range(1, 11)]
    assert list(found)[1:] == [f"curve_bpp/scales={count}" for count in range(1, 11)]
    assert list(found.values())[1:] == pytest.approx([6 * total / 256**2 for total in totals])


def test_the_pictures_of_a_step_are_those_of_the_network() -> None:
    tokenizer = small("dnd-16x16x4", DND, codebook_sizes=(64,))
    pictures = torch.randint(0, 256, (2, 3, 34, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    codes = tokenizer.encode(pictures)
    steps = list(tokenizer.curve(codes, (34, 50)))
    assert [label for label, _, _ in steps] == ["depth=1", "depth=2", "depth=3"]
    assert torch.equal(steps[-1][2], tokenizer.decode(codes, (34, 50)))
    assert steps[-1][1] == codes.bits[0] if codes.bits else False
    assert all(step.shape == pictures.shape and step.dtype == torch.uint8 for _, _, step in steps)
    assert not torch.equal(psnr(pictures, steps[0][2]), psnr(pictures, steps[1][2]))


def test_any_task_takes_it_on_the_command_line() -> None:
    own = cards.find_task("stability")
    own_and_more = adapted(own, ["curve_psnr", "curve_bpp", "homogeneity"], None, None)
    assert own_and_more.metrics == (*own.metrics, "curve_psnr", "curve_bpp", "homogeneity")
    with pytest.raises(CardError, match="mtf belongs to certain tasks"):
        adapted(own, ["mtf"], None, None)


def test_a_tokenizer_without_steps_says_so() -> None:
    from vtbench import load_task

    run = evaluate("tiny-fsq-f16", load_task(task()), out=None, limit=1)
    assert {run.scores[name].reason for name in METRICS} == {
        "its codes have no depths or scales to decode one after the other"
    }


def test_only_the_picture_without_a_step_lacks_its_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def steps(_: Tokenizer, codes: Codes, size: tuple[int, int]) -> Iterator[tuple[str, float, torch.Tensor]]:
        assert codes.latent is not None
        pictures = torch.zeros(len(codes), 3, *size, dtype=torch.uint8)
        yield "depth=1", 8.0, pictures
        if (codes.latent.mean((1, 2, 3)) > 0).any():
            raise DataError("not finite")
        yield "depth=2", 16.0, pictures

    for level in (60, 200, 90):
        Image.new("RGB", (SIDE, SIDE), (level, level, level)).save(tmp_path / f"{level}.png")
    monkeypatch.setattr(Tokenizer, "curve", steps)
    same = wrap(torch.nn.Identity(), name="same", encode=lambda _, x: x, decode=lambda _, z: z)
    task = small_task(tmp_path, metrics=("curve_psnr", "curve_bpp"), primary="curve_psnr")
    for batch_size in (1, 3):
        scores = evaluate(same, task, out=None, batch_size=batch_size).scores
        for name in ("curve_psnr", "curve_bpp"):
            assert [scores[f"{name}{level}"].scored for level in ("", "/depth=1", "/depth=2")] == [2, 3, 2]
