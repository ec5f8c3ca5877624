from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vtbench import cards, load_task
from vtbench.cards import Data, Geometry, TaskCard
from vtbench.catalogue import metrics
from vtbench.errors import CardError, DataError, VtbenchError
from vtbench.task import fetch, is_here


def write(folder: Path, count: int, width: int = 40, height: int = 30) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def with_text(folder: Path, *, boxes: bool = False) -> Path:
    rows = [
        {"file_name": file.name, "kind": "sign"}
        | ({"lines": [{"text": "word", "box": [2, 2, 30, 12]}]} if boxes else {"text": "word"})
        for file in sorted(folder.glob("*.png"))
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def card(**change: object) -> TaskCard:
    said: dict[str, object] = {
        "name": "mine",
        "version": 1,
        "family": "reconstruction",
        "title": "Mine",
        "data": Data(source="folder"),
        "geometry": Geometry(size=32),
        "metrics": ("psnr",),
        "primary": "psnr",
    }
    return TaskCard.model_validate(said | change)


# --- sizes ------------------------------------------------------------------------------------------------------------


def test_native_task_has_no_size_and_keeps_each_picture(tmp_path: Path) -> None:
    write(tmp_path / "a", 1, 41, 31)
    write(tmp_path / "a" / "b", 1, 20, 50)
    task = load_task(card(geometry=Geometry(size="native")), data=tmp_path / "a")
    assert task.size is None
    assert [tuple(task.read(index).image.shape) for index in range(2)] == [(3, 31, 41), (3, 50, 20)]
    assert load_task(card(), data=tmp_path / "a").size == (32, 32)


def test_any_task_of_files_can_be_read_natively(tmp_path: Path) -> None:
    task = load_task(card(), data=write(tmp_path / "a", 1), native=True)
    assert task.native and task.size == (32, 32)  # which a published protocol then brings it to
    assert task.read(0).image.shape == (3, 30, 40)
    assert task.digest != load_task(card(), data=tmp_path / "a").digest
    assert load_task("reconstruction", native=True).read(0).image.shape == (3, 256, 256)
    assert load_task("detail", native=True).read(0).image.shape == (3, 256, 256)  # charts are drawn for a size


def test_native_size_is_a_word_of_a_card(tmp_path: Path) -> None:
    assert Geometry(size="native").side is None and Geometry(size=8).side == 8
    text = Path(cards.folder("tasks") / "kodak.toml").read_text()
    for wrong in ('"natural"', "0", "-1", "1.5"):
        (tmp_path / "kodak.toml").write_text(text.replace('"native"', wrong))
        with pytest.raises(CardError, match=r"geometry\.size"):
            cards.load(tmp_path / "kodak.toml", TaskCard)


# --- pictures of the user's -------------------------------------------------------------------------------------------


def test_other_pictures_make_another_task(tmp_path: Path) -> None:
    folder = write(tmp_path / "My Cats!", 2)
    with zipfile.ZipFile(tmp_path / "cats.v2.zip", "w") as packed:
        for file in folder.iterdir():
            packed.write(file, file.name)
    assert load_task("reconstruction", data=folder).card.name == "reconstruction@my-cats"
    zipped = load_task("reconstruction", data=tmp_path / "cats.v2.zip")
    assert zipped.card.name == "reconstruction@cats.v2"
    assert zipped.card.data.source == "archive" and len(zipped) == 2
    assert zipped.card.group_by == ()
    for name in (zipped.card.name, load_task(card(), data=folder).card.name):
        assert "/" not in name


def test_attributes_of_a_table_can_be_grouped_by(tmp_path: Path) -> None:
    folder = with_text(write(tmp_path / "a", 2))
    task = load_task(card(group_by=("kind", "category")), data=folder)
    assert task.card.group_by == ("kind",)
    assert task.read(0).attributes == {"kind": "sign"}


def test_copy_of_a_tasks_own_pictures_keeps_its_name(tmp_path: Path) -> None:
    folder = write(tmp_path / "val", 3)
    own = card(data=Data(source="folder", images=3, obtain="Download them."))
    assert load_task(own, data=folder).card.name == "mine"
    (folder / "0.png").unlink()
    assert load_task(own, data=folder).card.name == "mine@val"
    with pytest.raises(DataError, match=r"mine: its pictures, 3 of them, do not come with vtbench\. Download them\."):
        load_task(own)


def test_label_names_the_pictures(tmp_path: Path) -> None:
    folder = write(tmp_path / "My Cats!", 2)
    assert load_task(card(), data=folder, label="cats-2.v1").card.name == "mine@cats-2.v1"
    own = card(data=Data(source="folder", images=2, obtain="Download them."))
    assert (
        load_task(own, data=folder, label="mine").card.name == "mine@mine"
    )  # said, so it is no copy of the task's own
    for wrong in ("", "A", "-a", "a b", "a/b", "a\n", "é", "a@b", ".a"):
        with pytest.raises(DataError, match="expected small letters, digits, points and dashes") as caught:
            load_task(card(), data=folder, label=wrong)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="names other pictures than reconstruction's own"):
        load_task("reconstruction", label="cats")


def test_text_without_boxes_is_read_on_the_page_and_never_cropped(tmp_path: Path) -> None:
    folder = with_text(write(tmp_path / "notes", 2, 80, 40))
    task = load_task("text", data=folder)
    assert task.card.primary == "cer_page"
    assert task.card.metrics == ("cer_page", "wer_page", "psnr", "ssim", "lpips")
    assert task.card.geometry.crop == "letterbox"
    (line,) = task.read(0).lines
    assert (line.text, line.box) == ("word", (0, 64, 256, 192))


def test_text_with_boxes_is_read_in_them(tmp_path: Path) -> None:
    task = load_task("text", data=with_text(write(tmp_path / "signs", 1), boxes=True))
    assert task.card.primary == cards.find_task("text").primary
    assert {"cer", "wer"} <= set(task.card.metrics)
    assert task.read(0).lines[0].box == (12, 44, 192, 109)


def test_pictures_without_text_are_refused_for_a_text_task(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"compares with known text.*metadata\.csv") as caught:
        load_task("text", data=write(tmp_path / "a", 1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nothing", "does not exist"),
        ("a.pdf", "is a file of another kind"),
        ("no.parquet", "does not exist"),
        ("hub:justaname", "expected hub:OWNER/NAME"),
        ("https://example.org/a.tar", "is an address; download it"),
        ("https://example.org/a/", "is an address; download it"),
        ("S3://bucket/x-{0..9}.parquet", "is an address; download it"),
        ("", "no place is given"),
        ("empty", "holds no picture"),
        ("empty.zip", "not a whole archive"),
    ],
)
def test_what_is_wrong_with_a_place_is_one_line(tmp_path: Path, place: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("a.pdf", "empty.zip"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=message) as caught:
        load_task("reconstruction", data=tmp_path / place if place and ":" not in place else place)
    assert "\n" not in str(caught.value)


# --- the cards --------------------------------------------------------------------------------------------------------

TASKS = cards.tasks()
VTBENCH = {
    "task1-imagenet": ("val", 50_000),
    "task1-high-resolution": ("test", 100),
    "task1-varying-resolution": ("test", 100),
    "task2-detail-preservation": ("test", 100),
    "task3-movie-posters": ("test", 100),
    "task3-arxiv-abstracts": ("test", 100),
    "task3-multilingual": ("Chinese+Hindi+Japanese+Korean", 400),
}
"""Configurations and splits as VTBench's README prints them, and how many pictures each has."""


def test_all_of_vtbench_has_a_card() -> None:
    found = {card.data.config: card for card in TASKS.values() if card.data.hub == "huaweilin/VTBench"}
    assert {config: (card.data.split, card.data.images) for config, card in found.items()} == VTBENCH
    for name in ("coco-val", "ffhq", "div2k", "kodak", "text-tokbench", "text-tokbench-512", "text-tokbench-1024"):
        assert name in TASKS


@pytest.mark.parametrize("name", TASKS)
def test_card_is_consistent(name: str) -> None:
    card = TASKS[name]
    assert card.primary in card.metrics and set(card.metrics) <= set(metrics())
    side = card.geometry.size
    for size in (512, 1024):
        assert name.endswith(f"-{size}") == (side == size), "a higher resolution is another track, under another name"
    if card.data.images and card.data.images < 2048:
        assert "rfid" not in card.metrics, "too few pictures"
    if card.data.source == "folder":
        assert card.data.obtain and card.data.images
        assert not is_here(card)
        with pytest.raises(DataError, match="do not come with vtbench"):
            fetch(card)


def test_embedded_tasks_are_here_without_a_network() -> None:
    for name in ("reconstruction", "detail", "text"):
        assert is_here(TASKS[name])
        assert "its pictures come with vtbench" in fetch(TASKS[name])


def test_metrics_of_single_pictures_are_added_to_a_task() -> None:
    with pytest.raises(VtbenchError, match=r"expected a list of names, such as \['ms_ssim'\]"):
        load_task("reconstruction", metrics="ms_ssim")
    task = load_task("reconstruction", metrics=["gmsd", "psnr"])
    assert task.card.metrics == (*load_task("reconstruction").card.metrics, "gmsd")
    with pytest.raises(CardError, match="rfid belongs to certain tasks"):
        load_task("detail", metrics=["rfid"])
