"""What every source promises: it says where its data is, and pictures that change end the run."""

from __future__ import annotations

import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vtbench import cards, data, load_task
from vtbench.cards import Data, Geometry
from vtbench.data import folder
from vtbench.errors import CardError, ChangedError, DataError
from vtbench.task import fetch, is_here


def write(place: Path, seed: int, width: int = 20) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (16, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(place)
    return place


# --- pictures that change ---------------------------------------------------------------------------------------------


def same_size_and_time(place: Path) -> None:
    """Another picture under the same name, size and time, as a copy with kept times leaves it."""
    before = place.stat()
    content = bytearray(place.read_bytes())
    content[-20] ^= 1
    place.write_bytes(content)
    os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda place: place.unlink(), r"^b\.png: can't be read .*start the run again$"),
        (lambda place: write(place, 9), r"^b\.png: changed while it was being used; start the run again$"),
        (same_size_and_time, r"^b\.png: changed"),
        (lambda place: place.write_bytes(b""), r"^b\.png: changed"),
        (lambda place: place.with_name("b.txt").write_text("other"), r"^b\.txt: changed"),
    ],
)
def test_pictures_that_change_after_the_digest_end_the_run(
    tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    for seed, name in enumerate("abc"):
        write(tmp_path / f"{name}.png", seed)
    (tmp_path / "b.txt").write_text("some")
    source = folder.Source(size=16, path=tmp_path)
    assert len(source.digest) == 64
    change(tmp_path / "b.png")
    with pytest.raises(ChangedError, match=message) as caught:
        source.read(1)
    assert "\n" not in str(caught.value) and not isinstance(caught.value, DataError)
    assert source.read(0).image.shape == source.read(2).image.shape == (3, 16, 16)


def test_pictures_that_change_before_the_digest_end_the_run_too(tmp_path: Path) -> None:
    source = folder.Source(size=16, path=write(tmp_path / "a.png", 0).parent)
    source.read(0)
    write(tmp_path / "a.png", 1)
    with pytest.raises(ChangedError):
        _ = source.digest


def test_picture_that_never_could_be_read_is_a_row_until_it_can(tmp_path: Path) -> None:
    write(tmp_path / "a.png", 0)
    source = folder.Source(size=16, path=tmp_path)
    (tmp_path / "a.png").rename(tmp_path / "kept")
    assert len(source.digest) == 64
    with pytest.raises(DataError, match=r"a\.png: can't be read"):
        source.read(0)
    (tmp_path / "kept").rename(tmp_path / "a.png")
    with pytest.raises(ChangedError, match="could not be read before"):
        source.read(0)


# --- nothing is passed over in silence --------------------------------------------------------------------------------


def test_found_is_what_is_read_what_fails_and_what_is_passed_over(tmp_path: Path) -> None:
    """A folder with one of everything."""
    place = tmp_path / "in"
    for seed, name in enumerate(("a.png", "b.PNG", "in/c.jpg", "in/c.mask.png", "._a.png", "__MACOSX/a.png")):
        write(place / name, seed)
    write(place / ".ipynb_checkpoints" / "a.png", 0)
    write(tmp_path / "secret.png", 7)
    (place / "out.png").symlink_to(tmp_path / "secret.png")
    (place / "same.png").symlink_to("a.png")
    (place / "hard.png").hardlink_to(place / "a.png")
    (place / "dangling.png").symlink_to("nothing.png")
    (place / "round").symlink_to(place)
    os.mkfifo(place / "pipe.png")
    for name in ("cut.png", "empty.png"):
        (place / name).write_bytes((place / "a.png").read_bytes()[: 100 if name == "cut.png" else 0])
    for name in ("x.heic", "y.DNG", "notes.txt", "film.mp4"):
        (place / name).write_bytes(b"x")
    task = load_task("kodak", data=place)
    scored, failed = 0, 0
    for index in range(len(task)):
        try:
            task.read(index)
        except DataError:
            failed += 1
        else:
            scored += 1
    assert (scored, failed) == (5, 2)
    assert sum(task.passed_over.values()) == 10
    assert task.found == scored + failed + 10


def test_links_are_followed_or_that_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.png", 0)
    write(tmp_path / "out.png", 1)
    (tmp_path / "in" / "b.png").symlink_to(tmp_path / "out.png")
    assert len(load_task("kodak", data=tmp_path / "in", follow_links=True)) == 2
    with tarfile.open(tmp_path / "a.tar", "w") as packed:
        packed.add(tmp_path / "in", "in")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as zipped:
        zipped.write(tmp_path / "in" / "a.png", "a.png")
    places: list[Path | str | None] = [tmp_path / "a.tar", tmp_path / "*.zip", tmp_path / "a.parquet", "hub:a/b", None]
    for place in places:
        with pytest.raises(DataError, match=r"no folder of picture files and has no links to follow; leave") as caught:
            load_task("kodak" if place else "reconstruction", data=place, follow_links=True)
        assert "\n" not in str(caught.value) and str(place or "its own pictures are") in str(caught.value)
    source = data.open_source("archive", size=16, path=tmp_path / "a.tar")
    assert source.passed_over == {"links that lead out of the archive": 1}
    assert not any(kind in data.HINTS for kind in source.passed_over)


# --- sources of packages of the user's --------------------------------------------------------------------------------


def install(place: Path, code: str, name: str = "squares", distribution: str = "mine") -> None:
    (place / f"{distribution}_squares.py").write_text(code)
    about = place / f"{distribution}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[vtbench.data]\n{name} = {distribution}_squares\n")


SQUARES = """
import torch
from vtbench.types import Sample

class Source:
    digest = "d" * 64
    def __init__(self, *, size, path=None):
        self.size = size
    def __len__(self):
        return 2
    def sample_id(self, index):
        return f"square-{index}"
    def read(self, index):
        return Sample(self.sample_id(index), torch.zeros(3, self.size, self.size, dtype=torch.uint8))
"""
CARD = """
name = "squares"
version = 1
family = "reconstruction"
title = "Squares"
metrics = ["psnr"]
primary = "psnr"
[data]
source = "squares"
[geometry]
size = 16
"""


def test_source_of_another_package_is_found_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, SQUARES)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "squares.toml").write_text(CARD)
    task = load_task("squares", cards=tmp_path)
    assert [task.read(index).id for index in range(len(task))] == ["square-0", "square-1"]
    assert (task.found, dict(task.passed_over), task.revision) == (2, {}, None)
    assert is_here(task.card) and "squares" in fetch(task.card)


def test_source_of_another_package_says_itself_where_its_data_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = SQUARES + (
        "def is_here(data): return False\n"
        "def bring(data): return 'drawn'\n"
        "def takes(place, data): return place.startswith('squares:')\n"
    )
    install(tmp_path, code, "corners", "other")
    monkeypatch.syspath_prepend(tmp_path)
    assert not data.is_here(Data(source="corners")) and data.bring(Data(source="corners")) == "drawn"
    source = data.open_place("squares:3", geometry=Geometry(size=8), data=Data(source="corners"))
    assert source.read(0).image.shape == (3, 8, 8)


def test_what_is_wrong_with_a_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "import nothing_that_is_there", "broken", "first")
    install(tmp_path, "Sauce = 1", "bare", "second")
    install(tmp_path, SQUARES, "twice", "third")
    install(tmp_path, SQUARES, "twice", "fourth")
    monkeypatch.syspath_prepend(tmp_path)
    for name, message in (
        ("nothing", r"there is no vtbench/data/nothing\.py and no installed package brings it"),
        ("broken", "first_squares can't be loaded .No module named 'nothing_that_is_there'"),
        ("bare", "second_squares has no class Source"),
        ("twice", "2 packages bring it"),
    ):
        with pytest.raises(CardError, match=message) as caught:
            data.open_source(name, size=16)
        assert "\n" not in str(caught.value)


def test_no_source_is_named_outside_its_file() -> None:
    """A source more is one file: neither the task nor the other sources know it by name."""
    package = Path(data.__file__).parent
    names = {file.stem for file in package.glob("[a-z]*.py")} - {"sample"}  # which is a word as well
    code = (package.parent / "task.py").read_text()
    assert len(names) > 5 and not [name for name in names if f'"{name}"' in code or f"import {name}" in code]


def test_every_card_of_the_suite_says_whether_its_pictures_are_here() -> None:
    for card in cards.tasks().values():
        assert is_here(card) == (card.data.source in ("sample", "text_chart", "detail_chart"))
