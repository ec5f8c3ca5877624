from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vtbench import geometry, images
from vtbench.data._known import Known, known_of_row
from vtbench.data._pictures import fitted
from vtbench.data.folder import Source
from vtbench.errors import DataError


def picture(width: int = 40, height: int = 30) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def folder(place: Path, table: str, name: str = "metadata.csv") -> Path:
    for file in ("a.png", "b.png", "in/c.png"):
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        picture().save(place / file)
    (place / name).write_bytes(table.encode())
    return place


# --- geometry ---------------------------------------------------------------------------------------------------------


def marked(width: int, height: int, box: tuple[int, int, int, int]) -> Image.Image:
    drawn = Image.new("RGB", (width, height), "white")
    drawn.paste((0, 0, 0), box)
    return drawn


@pytest.mark.parametrize("crop", ["center", "letterbox"])
@pytest.mark.parametrize("shape", [(200, 100), (90, 160), (64, 64), (31, 47)])
def test_boxes_follow_the_pixels(shape: tuple[int, int], crop: str) -> None:
    """The ink inside the moved box is all there is, and the box is tight round it to a pixel or two."""
    width, height = shape
    box = (width // 2 - 8, height // 2 - 6, width // 2 + 7, height // 2 + 9)
    sample = fitted("x", marked(width, height, box), Known((("word", tuple(map(float, box)), 0.1),)), 64, crop)
    (line,) = sample.lines
    assert (line.text, line.ratio) == ("word", 0.1)
    left, top, right, bottom = line.box
    dark = sample.image.float().mean(0) < 128
    if crop == "letterbox":
        window = geometry.letterbox_window(width, height, 64)
        outside = torch.ones(64, 64, dtype=torch.bool)
        outside[window[1] : window[1] + window[3], window[0] : window[0] + window[2]] = False
        assert sample.image[:, outside].max() == 0 if outside.any() else True
        dark &= ~outside
    rows, columns = torch.nonzero(dark.any(1)).flatten(), torch.nonzero(dark.any(0)).flatten()
    assert left <= columns[0] <= left + 2 and right - 2 <= columns[-1] + 1 <= right
    assert top <= rows[0] <= top + 2 and bottom - 2 <= rows[-1] + 1 <= bottom


def test_text_that_a_crop_cuts_is_dropped() -> None:
    known = Known((("left", (0, 0, 20, 10), None), ("middle", (90, 10, 110, 20), None), ("somewhere", None, None)))
    assert [line.text for line in fitted("x", picture(200, 100), known, 64, "center").lines] == ["middle"]
    assert len(fitted("x", picture(200, 100), known, 64, "letterbox").lines) == 3
    (_, clipped, _) = fitted("x", picture(100, 100), known, 100, "center").lines
    assert clipped.box == (90, 10, 100, 20)  # "middle" stands out of this picture
    native = fitted("x", picture(200, 100), known, None, "center")
    assert native.image.shape == (3, 100, 200)
    assert [line.box for line in native.lines] == [(0, 0, 20, 10), (90, 10, 110, 20), (0, 0, 200, 100)]


@pytest.mark.parametrize("size", [224, 256, 384, 448, 512])
def test_letterbox_holds_the_whole_picture_at_every_width(size: int) -> None:
    """In floats 400 * (448 / 400) is more than 448: a column was cut off, and text of unknown place with it."""
    for long in range(2, 3000):
        for shape in ((long, long // 2), (long // 3 + 1, long), (long, long)):
            left, top, wide, high = geometry.letterbox_window(*shape, size)
            assert max(wide, high) == size and min(left, top) == 0, shape
    known = Known((("page", None, None),))
    assert len(fitted("x", picture(400, 200), known, size, "letterbox").lines) == 1


def test_text_of_unknown_place_has_the_whole_picture_as_its_box() -> None:
    (line,) = fitted("x", picture(200, 100), Known((("page", None, None),)), 64, "letterbox").lines
    assert line.box == (0, 16, 64, 48)


def test_native_size_keeps_every_pixel(tmp_path: Path) -> None:
    picture(37, 23).save(tmp_path / "a.png")
    assert torch.equal(Source(size=None, path=tmp_path).read(0).image, images.from_pil(picture(37, 23)))


def test_extremely_long_picture_is_refused_before_it_is_enlarged(tmp_path: Path) -> None:
    Image.new("L", (1, 60_000)).save(tmp_path / "line.png")
    with pytest.raises(DataError, match=r"1x60000 is too long and narrow to be brought to 256x256"):
        Source(size=256, path=tmp_path).read(0)
    assert Source(size=64, path=tmp_path, crop="letterbox").read(0).image.shape == (3, 64, 64)


def test_boxes_of_another_picture_are_noticed() -> None:
    with pytest.raises(DataError, match="is 40x30, but its text was marked on"):
        fitted("x", picture(), Known((("a", (0, 0, 1, 1), None),), size=(30, 40)), None, "center")


# --- tables -----------------------------------------------------------------------------------------------------------


def test_table_gives_text_and_attributes(tmp_path: Path) -> None:
    table = 'file_name,text,kind,psnr\na.png,"two\nlines",sign,1\nin/c.png,  one   line ,note,2\n'
    source = Source(size=None, path=folder(tmp_path, table))
    assert source.text == "page"
    assert source.attributes == {"kind", "psnr"}  # whatever our own columns are called
    samples = {source.sample_id(index): source.read(index) for index in range(3)}
    assert [line.text for line in samples["a.png"].lines] == ["two", "lines"]
    assert [line.text for line in samples["in/c.png"].lines] == ["one line"]
    assert samples["a.png"].attributes == {"kind": "sign", "psnr": "1"}
    assert samples["b.png"].lines == () and samples["b.png"].attributes == {}


def test_table_lies_beside_its_pictures(tmp_path: Path) -> None:
    source = Source(size=None, path=folder(tmp_path, "file_name,text\nc.png,word\n", "in/metadata.csv"))
    assert [len(source.read(index).lines) for index in range(3)] == [0, 0, 1]


def test_json_lines_give_boxes(tmp_path: Path) -> None:
    rows = [
        {"file_name": "a.png", "lines": [{"text": "one", "box": [1, 2, 30.5, 12]}], "height": 3, "note": None},
        {"file_name": "b.png", "text": ["two", "three"], "height": "tall"},
    ]
    table = "\ufeff" + "\n".join(json.dumps(row) for row in rows) + "\n\n"
    source = Source(size=None, path=folder(tmp_path, table, "metadata.jsonl"))
    assert source.text == "page"  # not all of it has a box
    assert [(line.text, line.box) for line in source.read(0).lines] == [("one", (1, 2, 31, 12))]
    assert [line.text for line in source.read(1).lines] == ["two", "three"]
    assert source.read(0).attributes == {"height": "3"} and source.read(1).attributes == {"height": "tall"}
    folder(tmp_path, json.dumps(rows[0]), "metadata.jsonl")
    assert Source(size=None, path=tmp_path).text == "boxes"


@pytest.mark.parametrize(
    ("name", "table", "message"),
    [
        (
            "metadata.csv",
            "file_name,text\nd.png,x\n",
            r"row 1 \(line 2\): names 'd.png', which is not among",
        ),
        ("metadata.csv", "file_name,text\n../a.png,x\n", "not among the pictures"),
        ("metadata.csv", "file_name,text\n/etc/passwd,x\n", "not among the pictures"),
        ("metadata.csv", "file_name,text\na.png,x\na.png,y\n", "there twice"),
        ("metadata.csv", "name,text\na.png,x\n", "its head is 'name,text'; expected a column file_name"),
        ("metadata.csv", 'file_name,text\na.png,"x\n', "line 2: unexpected end of data"),
        ("metadata.jsonl", '{"file_name": "a.png"\n', "line 1 is no JSON"),
        ("metadata.jsonl", "[1]\n", "expected one JSON object a line"),
        ("metadata.jsonl", '{"file_name": "a.png", "lines": [{"text": "x"}]}', "row 1: a line has no 'box'"),
        ("metadata.jsonl", '{"file_name": "a.png", "lines": [{"text": "x", "box": [3, 0, 1, 1]}]}', "left, top, right"),
        ("metadata.jsonl", "[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_wrong_with_a_table_is_one_line(tmp_path: Path, name: str, table: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        Source(size=16, path=folder(tmp_path, table, name))
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_digest_follows_the_text(tmp_path: Path) -> None:
    digests = {Source(size=16, path=folder(tmp_path, f"file_name,text\na.png,{word}\n")).digest for word in "xy"}
    assert len(digests | {Source(size=16, path=tmp_path, crop="letterbox").digest}) == 3


def test_same_set_whether_flat_or_by_class(tmp_path: Path) -> None:
    for place, names in (("flat", ("2.png", "1.png")), ("classes", ("n01/2.png", "n02/1.png"))):
        for name in names:
            (tmp_path / place / name).parent.mkdir(parents=True, exist_ok=True)
            picture(int(name[-5]) + 20).save(tmp_path / place / name)
    flat, classes = (Source(size=16, path=tmp_path / place, flat=True) for place in ("flat", "classes"))
    assert flat.ids == classes.ids == ["1.png", "2.png"]
    assert flat.digest == classes.digest
    assert Source(size=16, path=tmp_path / "classes").digest != flat.digest
    picture().save(tmp_path / "classes" / "n02" / "2.png")
    assert Source(size=16, path=tmp_path / "classes", flat=True).ids == ["n01/2.png", "n02/1.png", "n02/2.png"]


def test_row_without_anything_says_nothing() -> None:
    assert known_of_row({"file_name": "a"}) == Known()


def test_lines_that_are_not_needed_are_not_read() -> None:
    for lines in ("[no JSON", {"text": 1}, [{"box": "none"}]):
        assert known_of_row({"file_name": "a", "lines": lines}, text=False) == Known()
