"""`vtbench sheet`: tokenizers on pictures, kept pictures of runs, what stands under the tiles, and differences."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from builders import make_run, write_pictures
from PIL import Image, ImageFont
from test_cli import one_line, vtbench

from vtbench import kept, load_task, load_tokenizer, results, sheet
from vtbench.errors import ResultError

TASK = "reconstruction@cats"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of three codecs on five pictures: all are kept of jpeg-q5, some of webp-q5, none of jpeg-q30."""
    from vtbench.cli import run

    place = tmp_path_factory.mktemp("sheet")
    folder = write_pictures(place / "cats", 5)
    for name, keep in (("jpeg-q5", "all"), ("webp-q5", "worst:1"), ("jpeg-q30", None)):
        run.run(
            task=["reconstruction"],
            tokenizer=[name],
            data=str(folder),
            out=place / "results",
            work=place / "work",
            keep_pictures=keep,
        )
    return place


def named(place: Path, *names: str) -> list[results.Run]:
    return [results.read_run(place / "results" / TASK / f"{name}.json") for name in names]


def pixels(picture: Image.Image, left: int, top: int, side: int = 256) -> np.ndarray:
    return np.asarray(picture.crop((left, top, left + side, top + side)), dtype=np.int64)


# --- tokenizers -------------------------------------------------------------------------------------------------------


def test_tokenizers_are_drawn_on_pictures_of_the_users(place: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "sheet.png"
    broken = tmp_path / "cats"
    shutil.copytree(place / "cats", broken)
    (broken / "002.png").write_bytes(b"broken")
    done = vtbench(
        *("sheet", "-t", "control-mean", "-t", "control-identity", "--task", "reconstruction", "--data", broken),
        *("--samples", 5, "--difference", 4, "--out", target),
    )
    assert done.returncode == 0, done.stderr
    assert "002.png: passed over" in done.stderr
    with Image.open(target) as drawn:
        assert drawn.size == (3 * 262 + 6, 24 + 4 * (2 * 262 + 18))
        below = 24 + 256 + 18
        original, mean = pixels(drawn, 6, 24), pixels(drawn, 6 + 262, 24)
        assert (pixels(drawn, 6 + 2 * 262, 24) == original).all()
        assert np.unique(mean.reshape(-1, 3), axis=0).shape == (1, 3)
        assert (pixels(drawn, 6 + 262, below) == np.minimum(255, 4 * abs(original - mean))).all()
        assert not pixels(drawn, 6 + 2 * 262, below).any()
        for column in range(3):  # id and scores
            left = 6 + 262 * column
            assert np.asarray(drawn.crop((left, 24 + 256, left + 256, below)).convert("L")).min() < 100


def test_pictures_are_spread_evenly_over_the_task() -> None:
    task = load_task("reconstruction")
    assert [one.id for one in sheet.pick(task, 6)] == [task.sample_id(index) for index in (0, 4, 9, 14, 19, 24)]


def test_scores_under_a_tile_are_those_of_a_run(place: Path) -> None:
    task = load_task("reconstruction", data=place / "cats")
    found = sheet.of_tokenizers([load_tokenizer("jpeg-q5", device="cpu")], sheet.pick(task, 5))
    table = results.read_images(place / "work" / TASK / "jpeg-q5" / results.IMAGES).set_index("id")
    assert [row.id for row in found.rows] == list(table.index)
    for row in found.rows:
        (tile,) = row.tiles
        assert tile is not None
        assert dict(tile.scores) == pytest.approx({name: table[name][row.id] for name in ("psnr", "lpips")}, abs=1e-4)
    (run,) = named(place, "jpeg-q5")
    assert found.heads == (f"jpeg-q5 {run.scores['bpp'].value:.2f} bpp",)


def test_without_its_network_lpips_is_left_out_and_that_is_said(place: Path, tmp_path: Path) -> None:
    done = vtbench(
        *("sheet", "-t", "jpeg-q5", "--task", "reconstruction", "--samples", 1, "--out", tmp_path / "sheet.webp"),
        VTBENCH_CACHE=str(tmp_path),
        TORCH_HOME=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1 and "no lpips under the tiles" in done.stderr and "fetch lpips" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name what a sheet shows"),
        (["text/jpeg-q5", "-t", "jpeg-q5"], "name what a sheet shows"),
        (["-t", "jpeg-q5"], "--task is missing"),
        (["-t", "jpeg-q5", "--task", "reconstruction", "--worst", 2], "--worst is for runs"),
        (["-t", "jpeg-q5", "--task", "reconstruction", "--by", "psnr"], "--by is for runs"),
        (["jpeg-q5", "--data", "."], "--data is for tokenizers"),
        (["jpeg-q5", "--weights", "x"], "--weights is for tokenizers"),
        (["-t", "jpeg-q5", "--task", "reconstruction", "--data", "."], "holds no picture"),
        (["-t", "jpeg-q5", "--task", "reconstruction-512", "--samples", 40], "a side has 16383 at most"),
        (["-t", "jpeg-q5", "--task", "reconstruction", "--out", "x.gif"], "ends in .png or .webp"),
        (["-t", "jpeg-q5", "--task", "reconstruction", "--out", "file/x.png"], "can't be written"),
    ],
)
def test_what_a_user_can_mend_is_one_line(arguments: list[object], said: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    if said.startswith("a side"):
        folder = tmp_path / "tall"
        folder.mkdir()
        for index in range(40):
            Image.new("RGB", (8, 8)).save(folder / f"{index}.png")
        arguments += ["--data", folder]
    assert said in one_line(vtbench("sheet", *arguments, cwd=tmp_path))


@pytest.mark.parametrize("gain", [0, 17])
def test_gains_go_from_1_to_16(gain: int) -> None:
    done = vtbench("sheet", "jpeg-q5", "--difference", gain)
    assert done.returncode == 2
    assert re.search("'--difference': (Input should be|.* is not in the range)", done.stderr)  # newer and older typer


def without_torch(code: str, cwd: Path) -> None:
    """Run code after which torch, without which no network runs, was never loaded."""
    head = "import sys\nfrom pathlib import Path\nfrom vtbench.cli.sheet import sheet\nfrom vtbench.errors import *\n"
    code = f"{head}{code}\nassert 'torch' not in sys.modules\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_wrong_ending_is_told_before_anything_is_computed(tmp_path: Path) -> None:
    without_torch(
        "try: sheet(tokenizer=['tiny'], task=['reconstruction'], out=Path('x.gif'))\n"
        "except ResultError as error: assert 'ends in .png' in str(error)\n"
        "else: raise AssertionError",
        tmp_path,
    )


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", [None, "psnr"])
def test_the_worst_pictures_of_the_first_run_stand_first(place: Path, by: str | None) -> None:
    found, lacking = sheet.of_runs(named(place, "jpeg-q5"), place / "work", worst=3, by=by)
    assert lacking is None
    folder = place / "work" / TASK / "jpeg-q5"
    table = results.read_images(folder / results.IMAGES).sort_values(by or "lpips", ascending=by == "psnr")
    assert [row.id for row in found.rows] == list(table["id"])[:3]
    for row, (_, own) in zip(found.rows, table.iterrows(), strict=False):
        (tile,) = row.tiles
        assert tile is not None
        assert list(tile.scores) == (["psnr", "lpips"] if by else ["lpips", "psnr"])
        assert dict(tile.scores) == {name: own[name] for name in tile.scores}
        error = np.mean((np.asarray(row.original, float) - np.asarray(tile.picture, float)) ** 2)
        assert 10 * math.log10(255**2 / error) == pytest.approx(own["psnr"], abs=1e-3)


def test_runs_are_drawn_with_what_is_kept_and_the_rest_is_told(place: Path, tmp_path: Path) -> None:
    places = ("--results", place / "results", "--work", place / "work", "--out", tmp_path / "sheet.webp")
    done = vtbench("sheet", f"{TASK}/jpeg-q5", "webp-q5", "jpeg-q30", *places, "--worst", 5, "--difference", 8)
    assert done.returncode == 0, done.stderr
    assert done.stderr == (
        "vtbench: pictures not kept: 2 of 5 of webp-q5, 5 of 5 of jpeg-q30; run again with --keep-pictures all\n"
    )
    with Image.open(tmp_path / "sheet.webp") as drawn:
        assert drawn.size == (3 * 262 + 6, 24 + 5 * (2 * 262 + 18))  # no column for a run of which nothing is kept
    beside = vtbench(
        *("sheet", place / "work" / TASK / "jpeg-q5", "--work", tmp_path, "--out", tmp_path / "own.png", "--worst", 1)
    )
    assert beside.returncode == 0, beside.stderr
    said = one_line(vtbench("sheet", "jpeg-q30", *places, "--worst", 2))
    assert "not kept: 2 of 2 of jpeg-q30; run again with --keep-pictures worst:2\n" in said
    assert "--keep-pictures all" in one_line(vtbench("sheet", "jpeg-q30", *places, "--by", "psnr"))
    runs = named(place, "jpeg-q5", "jpeg-q30")
    runs[1] = runs[1].model_copy(update={"protocol": "vtbench-2025"})
    assert "published protocol keep none" in str(sheet.of_runs(runs, place / "work", worst=1)[1])


def test_runs_are_drawn_without_torch(place: Path, tmp_path: Path) -> None:
    where = f"results_folder=Path({str(place / 'results')!r}), work=Path({str(place / 'work')!r})"
    without_torch(f"sheet(runs=['jpeg-q5'], {where}, out=Path('sheet.png'))", tmp_path)
    assert (tmp_path / "sheet.png").is_file()


def test_runs_that_cannot_stand_together_are_one_line(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    shutil.copytree(place / "results", folder)
    results.write(make_run(), folder / "reconstruction" / "jpeg-q5.json")
    places = ("--results", folder, "--work", place / "work", "--out", tmp_path / "sheet.png")
    assert f"of these tasks: reconstruction, {TASK}; a sheet shows one" in one_line(
        vtbench("sheet", "jpeg-q5", *places)
    )
    assert vtbench("sheet", "jpeg-q5", "--task", TASK, *places).returncode == 0
    assert f"--task text: none of these runs is of it; they are of reconstruction, {TASK}" in one_line(
        vtbench("sheet", "jpeg-q5", "--task", "text", *places)
    )
    assert "nothing: no such run" in one_line(vtbench("sheet", "nothing", *places))
    assert "its per-image table is not in" in one_line(vtbench("sheet", "reconstruction/jpeg-q5", *places))
    assert "--by cer: jpeg-q5 has no such values of its pictures; expected psnr, ssim, lpips" in one_line(
        vtbench("sheet", f"{TASK}/jpeg-q5", "--by", "cer", *places)
    )
    runs = named(place, "jpeg-q5", "webp-q5")
    runs[1] = runs[1].model_copy(update={"digests": runs[1].digests | {"data": "0" * 64}})
    with pytest.raises(ResultError, match="on different pictures"):
        sheet.of_runs(runs, place / "work", worst=1)


def test_damaged_kept_pictures_are_one_line(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "work", tmp_path / "work")
    runs = named(place, "jpeg-q5")
    pictures = tmp_path / "work" / TASK / "jpeg-q5" / kept.FOLDER
    one, two, *_ = sorted(pictures.glob("*[0-9].webp"))
    one.write_bytes(b"RIFF")
    with pytest.raises(ResultError, match=r"can't be read .* run again with --keep-pictures"):
        sheet.of_runs(runs, tmp_path / "work", worst=5)
    one.unlink()
    assert sheet.of_runs(runs, tmp_path / "work", worst=5)[1] is not None
    Image.new("RGB", (8, 8)).save(two)
    with pytest.raises(ResultError, match="8 x 8 pixels, its original has 256 x 256"):
        sheet.of_runs(runs, tmp_path / "work", worst=5)


# --- drawing ----------------------------------------------------------------------------------------------------------


def test_texts_are_one_line_of_ascii_within_the_tile() -> None:
    assert sheet.escaped("a\n\x1b[31m b\u202e é\udc80") == r"a \x1b[31m b\u202e \xe9\udc80"
    font = ImageFont.load_default(sheet.FONT)
    assert sheet.shortened("short.png", 220, font) == "short.png"
    for text in ("W" * 100_000, "i" * 300, "some/folder/of/many/words and a name.png"):
        cut = sheet.shortened(text, 220, font)
        assert cut.endswith("…") and text.startswith(cut[:-1]) and 190 < font.getlength(cut) <= 220


def test_pictures_of_several_sizes_stand_in_one_grid() -> None:
    rows = []
    for width, height in ((300, 40), (20, 100)):
        original, made = Image.new("RGB", (width, height), "red"), Image.new("RGB", (width, height), "blue")
        tile = sheet.Tile(made, {"psnr": math.inf, "lpips": math.nan})
        rows.append(sheet.Row("x" * 200, original, (tile, None)))
    drawn = sheet.draw(sheet.Sheet(("a" * 100, "b"), tuple(rows)), gain=1)
    assert drawn.size == (3 * 306 + 6, 24 + (2 * 46 + 18) + (2 * 106 + 18))
    second = 24 + 2 * 46 + 18
    assert drawn.getpixel((312, second)) == (0, 0, 255) and drawn.getpixel((6, second)) == (255, 0, 0)
    assert drawn.getpixel((312, second + 118)) == (255, 0, 255)
    assert drawn.getpixel((312 + 30, second + 50)) == (255, 255, 255)
