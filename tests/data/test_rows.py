"""Tables of pictures on this machine: parquet files with and without the hub's schema, shards, and saved data sets."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from builders import small_task
from PIL import Image

from vtbench import evaluate, images, load_task, load_tokenizer
from vtbench.cards import Data, Geometry, TaskCard
from vtbench.data.hub import Source
from vtbench.errors import ChangedError, DataError


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 20, 3), dtype=np.uint8))


def png(seed: int) -> bytes:
    sink = io.BytesIO()
    picture(seed).save(sink, "PNG")
    return sink.getvalue()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def write(path: Path, seeds: range, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": [{"bytes": png(seed)} for seed in seeds], **columns}), path)
    return path


def same(source: Source, index: int, seed: int) -> bool:
    return torch.equal(source.read(index).image, images.from_pil(picture(seed)))


# --- without the hub's schema -----------------------------------------------------------------------------------------

BYTES = [png(0), png(1)]


@pytest.mark.parametrize(
    "columns",
    [
        {"image": [{"bytes": content} for content in BYTES]},
        {"picture": [{"bytes": content, "path": None} for content in BYTES]},
        {"image": [{"bytes": content, "path": f"{number}.png"} for number, content in enumerate(BYTES)]},
        {"image": BYTES},
        {"content": pa.array(BYTES, pa.large_binary())},
        {"jpg": BYTES, "cls": [1, 2]},
        {"hash": [b"\0\1", b"\2\3"], "png": BYTES},
        {"mask": [png(8), png(9)], "PNG": BYTES},
        {"thumbnail": [png(8), png(9)], "image": [{"bytes": content} for content in BYTES]},
    ],
)
def test_bytes_of_pictures_are_pictures(tmp_path: Path, columns: dict[str, Any]) -> None:
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    source = Source(size=None, path=tmp_path / "a.parquet")
    assert len(source) == 2 and source.passed_over == {}
    assert same(source, 0, 0) and same(source, 1, 1)


def test_what_could_be_several_things_is_refused_by_name(tmp_path: Path) -> None:
    pq.write_table(pa.table({"left": BYTES, "right": BYTES}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="columns left, right hold pictures; rename"):
        Source(size=None, path=tmp_path / "a.parquet")
    pq.write_table(pa.table({"hash": [b"\0\1"], "n": [1]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"no column holds pictures \(there are hash, n\)"):
        Source(size=None, path=tmp_path / "b.parquet")


def test_columns_of_type_image_are_told_apart_by_name_too(tmp_path: Path) -> None:
    def typed(name: str, **seeds: range) -> Path:
        cells = {column: [{"bytes": png(seed), "path": None} for seed in those] for column, those in seeds.items()}
        features = datasets.Features(dict.fromkeys(cells, datasets.Image()))
        datasets.Dataset.from_dict(cells, features=features).to_parquet(tmp_path / name)
        return tmp_path / name

    source = Source(size=None, path=typed("a.parquet", mask=range(8, 10), image=range(2)))
    assert same(source, 0, 0) and same(source, 1, 1)
    with pytest.raises(DataError, match="columns left, right hold pictures; rename the one that is meant to image"):
        Source(size=None, path=typed("b.parquet", left=range(2), right=range(2)))


def test_table_without_a_row_is_no_set(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="can't be opened") as caught:
        Source(size=None, path=tmp_path / "a.parquet")
    assert "\n" not in str(caught.value)


def test_first_rows_may_be_broken_or_empty(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [None, b"", b"no picture", png(3)]}), tmp_path / "a.parquet")
    source = Source(size=None, path=tmp_path / "a.parquet")
    assert same(source, 3, 3)
    for index, message in ((0, "holds no picture"), (1, "not a readable picture"), (2, "not a readable picture")):
        with pytest.raises(DataError, match=message):
            source.read(index)


def test_row_whose_text_is_no_utf8_fails_alone(tmp_path: Path) -> None:
    broken = pa.array([b"whole", b"\xff\xfe"], pa.binary()).cast(pa.string(), safe=False)
    source = Source(size=None, path=write(tmp_path / "a.parquet", range(2), text=broken))
    assert source.read(0).lines[0].text == "whole"
    with pytest.raises(DataError, match="00001: its row can't be read"):
        source.read(1)


def test_columns_of_any_name_and_numbers_with_all_their_digits(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.parquet", range(2), psnr=[1, 2], wide=[5, 2**53 + 1], ok=[True, False], Text=[4711, 98],
        lines=["x", "y"],
    )  # fmt: skip
    source = Source(size=None, path=path)
    assert source.text == "page" and source.attributes == {"psnr", "wide", "ok", "lines"}
    samples = [source.read(index) for index in range(2)]
    assert [sample.lines[0].text for sample in samples] == ["4711", "98"]
    assert source.known_text == "471198"
    assert [sample.attributes["wide"] for sample in samples] == ["5", "9007199254740993"]
    assert samples[0].attributes["psnr"] == 1.0 and samples[1].attributes["ok"] == "false"


def test_numbers_are_read_with_the_digits_that_they_have(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.parquet", range(3), text=pa.array([19.99, 12.0, 0.5], pa.float32()),
        price=pa.array([19.99, 0.1, None], pa.float32()), gap=[12.0, None, float("nan")],
    )  # fmt: skip
    source = Source(size=None, path=path)
    assert [sample.lines[0].text for sample in map(source.read, range(3))] == ["19.99", "12", "0.5"]
    assert source.known_text == "19.99120.5"
    assert [dict(source.read(index).attributes) for index in range(3)] == [
        {"price": 19.99, "gap": 12.0}, {"price": 0.1}, {},
    ]  # fmt: skip


def test_whole_numbers_with_a_gap_are_whole_numbers_and_a_gap_is_no_text(tmp_path: Path) -> None:
    texts = [12.0, float("nan"), None, float("inf")]
    source = Source(size=None, path=write(tmp_path / "a.parquet", range(4), text=texts))
    assert [[line.text for line in source.read(index).lines] for index in range(3)] == [["12"], [], []]
    with pytest.raises(DataError, match=r"00003: its text can't be read \(text is 'inf'; expected text"):
        source.read(3)
    several = Source(size=None, path=write(tmp_path / "b.parquet", range(1), text=[[1.5, float("nan"), 2.0]]))
    assert [line.text for line in several.read(0).lines] == ["1.5", "2"]


def test_classes_are_read_by_their_names(tmp_path: Path) -> None:
    names = datasets.ClassLabel(names=["Ausfahrt", "Exit"])
    features = datasets.Features(
        {"image": datasets.Image(), "text": names, "label": names, "tags": datasets.Sequence(names)}
    )
    rows = {
        "image": [{"bytes": content, "path": None} for content in BYTES], "text": [1, 0], "label": [0, -1],
        "tags": [[0], [1]],
    }  # fmt: skip
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    source = Source(size=None, path=tmp_path / "a.parquet")
    assert [source.read(index).lines[0].text for index in range(2)] == ["Exit", "Ausfahrt"]
    assert [dict(source.read(index).attributes) for index in range(2)] == [{"label": "Ausfahrt"}, {}]


@pytest.mark.parametrize("more", [{}, {"text": ["page", "page"]}])
def test_lines_may_be_one_object_of_lists(tmp_path: Path, more: dict[str, list[str]]) -> None:
    lines = [{"text": ["x"], "box": [[1, 2, 12, 14]]}, {"text": [], "box": []}]
    path = write(tmp_path / "a.parquet", range(2), lines=lines, **more)
    source = Source(size=None, path=path)
    assert source.text == "boxes" and source.known_text.startswith("x")
    assert [(line.text, line.box) for line in source.read(0).lines] == [("x", (1, 2, 12, 14))]


def test_an_infinite_number_is_a_group_beside_the_others(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", range(3), weight=[1.0, float("inf"), 2.5])
    run = evaluate(load_tokenizer("jpeg-q10"), small_task(path, metrics=("psnr",), group_by=("weight",)), out=None)
    assert set(run.groups["weight"]) == {"1", "inf", "2.5"}


def test_text_that_is_not_needed_never_stops_pixels(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", range(1), lines=[[{"text": "x", "box": [0.1, 0.1, 0.5, 0.5]}]])
    assert load_task("kodak", data=path).read(0).lines == ()
    with pytest.raises(DataError, match=r"00000: its text can't be read.*this one is relative"):
        load_task("text", data=path).read(0)


# --- several files, saved data sets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["", "x-{00..02}.parquet", "x-*.parquet"])
def test_shards_are_one_set(tmp_path: Path, place: str) -> None:
    for number in range(3):
        write(tmp_path / "set" / f"x-{number:02d}.parquet", range(2 * number, 2 * number + 2))
    task = load_task("kodak", data=tmp_path / "set" / place)
    source = Source(size=None, path=tmp_path / "set" / place)
    assert len(task) == 6 and task.card.data.source == "hub"
    assert all(same(source, index, index) for index in range(6))


def test_missing_parts_are_one_line(tmp_path: Path) -> None:
    for number in (0, 2):
        write(tmp_path / "set" / f"x-{number:05d}-of-00003.parquet", range(2))
    for place, message in (
        ("", "2 of 3 parts are there"),
        ("x-*.parquet", "2 of 3 parts are there"),
        ("x-{00000..00002}-of-00003.parquet", r"x-00001-of-00003\.parquet: does not exist"),
    ):
        with pytest.raises(DataError, match=message):
            load_task("kodak", data=tmp_path / "set" / place)
    assert len(load_task("kodak", data=tmp_path / "set" / "x-00000-of-00003.parquet")) == 2  # asked for by its name


def test_parts_are_counted_whatever_digest_their_names_hold(tmp_path: Path) -> None:
    write(tmp_path / "set" / "train-00000-of-00002-b4e5c1b7f1d1d6bb.parquet", range(1))
    with pytest.raises(DataError, match="set/train: 1 of 2 parts are there"):
        Source(size=None, path=tmp_path / "set")
    write(tmp_path / "set" / "train-00001-of-00002-6ab9c0f1e2d3a4b5.parquet", range(1, 2))
    assert len(Source(size=None, path=tmp_path / "set")) == 2
    write(tmp_path / "set" / "train-00001-of-00002-0123456789abcdef.parquet", range(2, 3))
    with pytest.raises(DataError, match="set/train: 3 files are its 2 parts; expected each part once"):
        Source(size=None, path=tmp_path / "set")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": [7, 8]}, r"column text is int64 in a\.parquet and string in b\.parquet"),
        ({}, r"column text is missing in a\.parquet and string in b\.parquet"),
        ({"text": ["x", "y"], "n": ["1", "2"]}, r"column n is string in a\.parquet and int64 in b\.parquet"),
        ({"text": [["x"], ["y"]]}, r"column text is list<.*string> in a\.parquet and string in b\.parquet"),
    ],
)
def test_parts_whose_columns_differ_are_refused_by_name(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    write(tmp_path / "set" / "a.parquet", range(2), **columns)
    write(tmp_path / "set" / "b.parquet", range(2), text=["007", "8"], n=[1, 2])
    with pytest.raises(DataError, match=message):
        Source(size=None, path=tmp_path / "set")


def test_parts_whose_classes_differ_are_refused_by_name(tmp_path: Path) -> None:
    for name, classes in (("a", ["cat", "dog"]), ("b", ["dog", "cat"])):
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=classes)})
        rows = {"image": [{"bytes": png(0), "path": None}], "label": [0]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "set" / f"{name}.parquet")
    with pytest.raises(DataError, match=r"column label has other classes in a\.parquet than in b\.parquet"):
        Source(size=None, path=tmp_path / "set")


def test_text_that_several_parts_lack_is_refused_by_the_one_that_has_it(tmp_path: Path) -> None:
    for number, columns in enumerate(({}, {}, {"text": ["x"]})):
        write(tmp_path / "set" / f"{number}.parquet", range(1), **columns)
    with pytest.raises(DataError, match=r"column text is missing in 0\.parquet and string in 2\.parquet"):
        Source(size=None, path=tmp_path / "set")


def test_a_part_without_any_class_has_no_other_classes(tmp_path: Path) -> None:
    write(tmp_path / "set" / "a.parquet", range(1), label=pa.nulls(1))
    features = datasets.Features({"image": {"bytes": datasets.Value("binary")}, "label": datasets.ClassLabel(2)})
    rows = {"image": [{"bytes": png(1)}], "label": [1]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "set" / "b.parquet")
    source = Source(size=None, path=tmp_path / "set")
    assert [source.read(index).attributes for index in range(2)] == [{}, {"label": "1"}]


def test_numbers_that_would_be_turned_beside_floats_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "set" / "a.parquet", range(1), n=[2**53 + 1])
    write(tmp_path / "set" / "b.parquet", range(1), n=[0.5])
    with pytest.raises(DataError, match=r"can't be opened \(Integer value 9007199254740993 not in range"):
        Source(size=None, path=tmp_path / "set")


def test_parts_may_differ_in_what_loses_nothing(tmp_path: Path) -> None:
    line = pa.list_(pa.struct({"text": pa.string(), "box": pa.list_(pa.int64())}))
    write(
        tmp_path / "set" / "a.parquet", range(1), text=pa.array(["x"], pa.string()), n=pa.array([1], pa.int32()),
        lines=pa.array([[{"text": "007", "box": [1, 2, 12, 14]}]], line),
    )  # fmt: skip
    write(
        tmp_path / "set" / "b.parquet", range(1, 2), text=pa.array([""], pa.large_string()),
        n=pa.array([2], pa.int64()), __index_level_0__=[4], lines=pa.array([[]], pa.list_(pa.null())),
    )  # fmt: skip
    write(
        tmp_path / "set" / "c.parquet", range(2, 3), text=pa.nulls(1), n=pa.nulls(1), lines=pa.nulls(1),
    )  # fmt: skip
    source = Source(size=None, path=tmp_path / "set")
    assert [source.read(index).attributes.get("n") for index in range(3)] == [1.0, 2.0, None]
    assert source.read(0).lines[0].text == "007" and source.read(1).lines == source.read(2).lines == ()


def test_parts_may_differ_in_attributes_that_lack_and_in_what_nobody_reads(tmp_path: Path) -> None:
    kind = pa.struct({"text": pa.string(), "box": pa.list_(pa.int64(), 4)})
    write(
        tmp_path / "set" / "a.parquet", range(2), at=pa.array([1, 2], pa.timestamp("us")), n=[300, 12], only=["x", "y"],
        kind=pa.array(["p", "q"]).dictionary_encode(), price=pa.array([19.99, 0.1], pa.float32()), seen=[[1], [2]],
        lines=pa.array([[{"text": "007", "box": [1, 2, 12, 14]}], None], pa.list_(kind)),
    )  # fmt: skip
    write(
        tmp_path / "set" / "b.parquet", range(2, 4), at=pa.array([1, 2], pa.timestamp("ns")), n=[None, 300.0],
        kind=["p", None], price=[0.3, 19.991], other=[True, False], seen=[["1"], ["2"]],
        lines=[[{"text": "8", "box": [1.5, 2.0, 12.0, 14.0]}], []],
    )  # fmt: skip
    source = Source(size=None, path=tmp_path / "set")
    assert all(same(source, index, index) for index in range(4)) and source.text == "boxes"
    assert [dict(source.read(index).attributes) for index in range(4)] == [
        {"n": 300.0, "only": "x", "kind": "p", "price": 19.99},
        {"n": 12.0, "only": "y", "kind": "q", "price": 0.1},
        {"kind": "p", "price": 0.3, "other": "true"},
        {"n": 300.0, "price": 19.991, "other": "false"},
    ]
    assert [[line.text for line in source.read(index).lines] for index in range(4)] == [["007"], [], ["8"], []]


def test_columns_of_a_split_that_is_not_asked_for_do_not_matter(tmp_path: Path) -> None:
    write(tmp_path / "set" / "train-0.parquet", range(2), text=[1, 2])
    write(tmp_path / "set" / "test-0.parquet", range(2), text=["007", "8"])
    test = Source(size=None, path=tmp_path / "set", data=Data(source="hub", split="test"))
    assert [test.read(index).lines[0].text for index in range(2)] == ["007", "8"]
    with pytest.raises(DataError, match=r"column text is int64 in train-0\.parquet and string in test-0\.parquet"):
        Source(size=None, path=tmp_path / "set", data=Data(source="hub", split="train+test"))


def test_what_save_to_disk_wrote_is_read(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    rows = {"image": [{"bytes": png(seed), "path": None} for seed in range(3)], "text": ["a", "b", "c"]}
    made = datasets.Dataset.from_dict(rows, features=features)
    made.save_to_disk(tmp_path / "one")
    made.select([2, 0]).save_to_disk(tmp_path / "some")
    datasets.DatasetDict({"train": made, "test": made.select([1])}).save_to_disk(tmp_path / "two")
    one, some = (Source(size=None, path=tmp_path / name) for name in ("one", "some"))
    assert [one.read(index).lines[0].text for index in range(3)] == ["a", "b", "c"]
    assert same(one, 2, 2) and same(some, 0, 2) and same(some, 1, 0) and one.digest != some.digest
    with pytest.raises(DataError, match=r"which split.* train, test"):
        Source(size=None, path=tmp_path / "two")
    test = Source(size=None, path=tmp_path / "two", data=Data(source="hub", split="test"))
    assert len(test) == 1 and same(test, 0, 1)
    assert load_task("kodak", data=tmp_path / "one").card.name == "kodak@one"


@pytest.mark.parametrize("kind", ["numpy", "pandas"])
def test_format_of_a_saved_data_set_hides_nothing(tmp_path: Path, kind: str) -> None:
    made = datasets.Dataset.from_dict({"image": BYTES, "label": [4, 7], "text": ["a", "b"]})
    made.set_format(kind, columns=["image", "label"])
    made.save_to_disk(tmp_path / "one")
    source = Source(size=None, path=tmp_path / "one")
    assert same(source, 1, 1)
    assert source.read(1).lines[0].text == "b" and source.read(1).attributes == {"label": 7.0}


def test_file_of_the_users_needs_no_split_of_the_cards_name(tmp_path: Path) -> None:
    card = TaskCard(
        name="mine", version=1, family="reconstruction", title="Mine", geometry=Geometry(size=16), metrics=("psnr",),
        primary="psnr", data=Data(source="hub", hub="a/b", config="c", split="val"),
    )  # fmt: skip
    assert len(load_task(card, data=write(tmp_path / "a.parquet", range(2)))) == 2
    write(tmp_path / "set" / "b.parquet", range(3))
    assert len(load_task(card, data=tmp_path / "set")) == 3


def fill(place: Path, *names: str) -> Path:
    """Write one row a file, the number of its name as seed."""
    for seed, name in enumerate(names):
        write(place / name, range(seed, seed + 1))
    return place


@pytest.mark.parametrize(
    "names",
    [
        ("part-0.parquet", "part-1.parquet", "part-test.parquet"),
        ("a/0.parquet", "b.parquet", "data/train-00000-of-00001.parquet"),
        ("more/1.parquet", "train/0.parquet", "train/test/1.parquet"),
        ("2024-eval/a.PARQUET", "extra.parquet"),
        ("set[1]/a.parquet", "x*?.parquet"),
        ("train-test.parquet", "zz.parquet"),
    ],
)
def test_every_file_of_a_folder_is_read_whatever_its_name(tmp_path: Path, names: tuple[str, ...]) -> None:
    place = fill(tmp_path / "set", *names)
    for beside in ("_SUCCESS", "labels.txt", "eval.log", "test.csv", "README.md", "runs.eval"):
        (place / beside).write_text("x")
    for name in reversed(names):  # the order in which a file system lists them may be any
        (place / name).rename(place / "moved")
        (place / "moved").rename(place / name)
    for data in (None, Data(source="hub", hub="a/b", split="test")):  # a split of the card's own is not asked for here
        source = Source(size=None, path=place, data=data)
        assert len(source) == len(names) and source.passed_over == {}
        assert all(same(source, index, index) for index in range(len(names)))
        assert source.sample_id(1) == "00001"


@pytest.mark.parametrize(
    ("test", "train"),
    [
        ("test-00000-of-00001.parquet", "train-00000-of-00001.parquet"),
        ("data/test/0.parquet", "data/train/0.parquet"),
        ("a.testing.parquet", "training/a.parquet"),
    ],
)
def test_splits_by_the_hubs_names_are_the_users_to_choose(tmp_path: Path, test: str, train: str) -> None:
    place = fill(tmp_path / "set", test, train)
    (place / "dev.txt").write_text("no table, so no split")
    with pytest.raises(DataError, match=r"which split\? Expected one of train, test, .*name its files, such as .*/\*"):
        Source(size=None, path=place)
    chosen = Source(size=None, path=place, data=Data(source="hub", split="test"))
    assert len(chosen) == 1 and same(chosen, 0, 0)
    both = Source(size=None, path=place, data=Data(source="hub", split="train+test"))
    assert len(both) == 2 and same(both, 0, 1)
    write(place / "more" / "0.parquet", range(3))
    for split in ("test", None):
        with pytest.raises(
            DataError, match=r"has the splits .*train.*1 of its 3 files are of none \(more/0\.parquet\)"
        ):
            Source(size=None, path=place, data=Data(source="hub", split=split))


def test_files_of_a_split_that_a_readme_names_are_tables_alone(tmp_path: Path) -> None:
    place = fill(tmp_path / "set", "data/a.parquet", "data/test.parquet", "data/.hidden.parquet", "other/b.parquet")
    (place / "data" / "_SUCCESS").write_text("")
    (place / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: data/**\n---\n")
    source = Source(size=None, path=place)
    assert len(source) == 2 and same(source, 1, 1)
    assert source.passed_over == {"archives and tables of pictures, which are read on their own": 1}  # the hidden one
    (place / "data" / "c.parquet").symlink_to("nothing")
    with pytest.raises(DataError, match=r"c\.parquet: is a link to nothing"):
        Source(size=None, path=place)


def test_what_lies_beside_tables_is_counted(tmp_path: Path) -> None:
    place = fill(tmp_path / "set", "a.parquet", "b.parquet")
    picture(7).save(place / "1.png")
    for name in ("._a.parquet", "more.tar", "c.parquet.part", "__MACOSX/b.parquet", "d.heic", "e.tar.bz2", "notes.txt"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_bytes(b"x")
    (tmp_path / "away").mkdir()
    (place / "away").symlink_to(tmp_path / "away")
    source = Source(size=None, path=place)
    assert len(source) == 2
    assert source.passed_over == {
        "pictures beside the tables": 1, "companions (._*)": 1, "backups and downloads that are not whole": 1,
        "archives and tables of pictures, which are read on their own": 1, ".heic files, which are not read": 1,
        "archives of other kinds, which are not read": 1, "files in __MACOSX": 1,
        "links to folders, which are not entered here": 1,
    }  # fmt: skip
    (place / "z.parquet").symlink_to("nothing.parquet")
    with pytest.raises(DataError, match=r"z\.parquet: is a link to nothing; bring what it points to"):
        Source(size=None, path=place)


def test_pictures_with_a_stray_table_are_a_folder_of_pictures(tmp_path: Path) -> None:
    place = fill(tmp_path / "set", "stray.parquet")
    for seed in range(3):
        picture(seed).save(place / f"{seed}.png")
    for name in ("kodak", "reconstruction-imagenet"):  # whose own data is a table of the hub's
        task = load_task(name, data=place)
        assert len(task) == 3 and task.card.data.source == "folder"
        assert task.passed_over == {"archives and tables of pictures, which are read on their own": 1}
    (place / "README.md").write_text(
        "---\nconfigs:\n- config_name: task1-imagenet\n  data_files:\n  - split: val\n    path: stray*\n---\n"
    )
    task = load_task("reconstruction-imagenet", data=place)  # now a copy of the card's own data set
    assert len(task) == 1 and task.card.data.source == "hub"
    assert task.passed_over == {"pictures beside the tables": 3}
    assert len(load_task("kodak", data=place)) == 3


def test_no_picture_of_a_data_set_of_files_is_dropped_for_its_name(tmp_path: Path) -> None:
    place = tmp_path / "set"
    place.mkdir()
    for seed, name in enumerate(("0.png", "1.png", "[2].png", "test.png")):
        picture(seed).save(place / name)
    source = Source(size=None, path=place)
    assert len(source) == 4 and source.passed_over == {} and same(source, 3, 3)
    (place / "metadata.jsonl").write_text('{"file_name": "1.png", "text": "x"}\n')
    source = Source(size=None, path=place)
    assert len(source) == 4 and source.passed_over == {}


# --- columns that could be one and the same ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("FileName", "file name"), "columns 'FileName' and 'file name' could both be file_name; rename all but one"),
        (("Text", "TEXT"), "columns 'Text' and 'TEXT' could both be text; rename all but one"),
        (("score", "score "), "columns 'score' and 'score ' are both called score; rename all but one"),
        (("text", " text"), "columns 'text' and ' text' are both called text; rename all but one"),
    ],
)
def test_columns_that_could_be_one_are_one_line(tmp_path: Path, columns: tuple[str, str], message: str) -> None:
    path = write(tmp_path / "a.parquet", range(2), **{columns[0]: ["a", "b"], columns[1]: ["c", "d"]})
    with pytest.raises(DataError, match=f"^.*a.parquet: {message}$"):
        Source(size=None, path=path)


def test_pixels_need_no_text_to_be_clear(tmp_path: Path) -> None:
    for names in (("Text", "TEXT"), ("text", "text ")):
        path = write(tmp_path / "a.parquet", range(2), **{names[0]: ["a", "b"], names[1]: ["c", "d"]})
        sample = load_task("kodak", data=path).read(1)
        assert sample.lines == () and set(sample.attributes) == set(names) - {"text", "text "}


# --- files that change ------------------------------------------------------------------------------------------------


def test_file_replaced_within_the_same_second_is_another_set(tmp_path: Path) -> None:
    """As a copy with kept times leaves it: only its inode and its contents differ."""

    def bitmaps(path: Path, seeds: range) -> Path:
        contents = []
        for seed in seeds:
            picture(seed).save(sink := io.BytesIO(), "BMP")
            contents.append(sink.getvalue())
        pq.write_table(pa.table({"image": contents}), path, compression="NONE", use_dictionary=False)
        return path

    path = bitmaps(tmp_path / "a.parquet", range(2))
    first = Source(size=None, path=path)
    before, stat = first.digest, path.stat()
    bitmaps(tmp_path / "b.parquet", range(2, 4)).replace(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size
    second = Source(size=None, path=path)
    assert second.digest != before
    assert same(second, 0, 2) and same(second, 1, 3)
    with pytest.raises(ChangedError, match=r"a\.parquet: changed or vanished .*start the run again"):
        first.read(0)


@pytest.mark.parametrize("when", ["before the digest", "after it"])
def test_file_that_vanishes_or_changes_ends_the_run(tmp_path: Path, when: str) -> None:
    path = write(tmp_path / "a.parquet", range(2))
    source = Source(size=None, path=path)
    if when == "after it":
        assert len(source.digest) == 64
    path.unlink()
    with pytest.raises(ChangedError, match=r"vanished"):
        _ = source.read(0) if when == "after it" else source.digest
    write(path, range(5))
    with pytest.raises(ChangedError):
        source.read(1)


def test_saved_data_set_that_changes_ends_the_run(tmp_path: Path) -> None:
    made = datasets.Dataset.from_dict({"image": BYTES})
    made.save_to_disk(tmp_path / "one")
    source = Source(size=None, path=tmp_path / "one")
    assert same(source, 0, 0) and len(source.digest) == 64
    (file,) = (tmp_path / "one").glob("*.arrow")
    file.touch()
    with pytest.raises(ChangedError):
        source.read(0)


def test_files_that_rows_name_belong_to_the_digest(tmp_path: Path) -> None:
    place = tmp_path / "set"
    place.mkdir()
    for seed in range(2):
        picture(seed).save(place / f"{seed}.png")
    first = Source(size=None, path=place)
    assert same(first, 1, 1)
    before = first.digest
    picture(9).save(place / "1.png")
    with pytest.raises(ChangedError, match=r"1\.png: changed"):
        first.read(1)
    assert Source(size=None, path=place).digest != before
    (place / "1.png").unlink()
    with pytest.raises(ChangedError, match="could be read before"):
        first.read(1)
