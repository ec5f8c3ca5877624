"""Tables and companions as people and programs write them: read rightly, or refused in one line."""

from __future__ import annotations

import csv
import io
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vtbench import load_task
from vtbench.data import _tables, folder
from vtbench.data._known import known_of_row
from vtbench.errors import DataError

NORTH, LANTERN = "Harbour, north gate", "Lantern 98"


def pictures(place: Path, *names: str) -> Path:
    for seed, name in enumerate(names or ("a.png", "b.png")):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (64, 256, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / name, "PNG")
    return place


def texts(place: Path) -> list[str]:
    source = folder.Source(size=None, path=place)
    return ["/".join(line.text for line in source.read(index).lines) for index in range(len(source))]


# --- what is read -----------------------------------------------------------------------------------------------------

PLAIN = 'file_name,text\na.png,"Harbour, north gate"\nb.png,Lantern 98\n'
SEMICOLON = "file_name;text\na.png;Harbour, north gate\nb.png;Lantern 98\n"
TABS = "file_name\ttext\na.png\tHarbour, north gate\nb.png\tLantern 98\n"
ROWS = [{"file_name": "a.png", "text": NORTH}, {"file_name": "b.png", "text": LANTERN}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.csv", PLAIN.encode()),
        ("metadata.csv", PLAIN.encode("utf-8-sig")),
        ("metadata.csv", PLAIN.encode("utf-16")),
        ("metadata.csv", PLAIN.encode("utf-16-le")),
        ("metadata.csv", PLAIN.encode("utf-16-be")),
        ("metadata.csv", PLAIN.encode("utf-32")),
        ("metadata.csv", PLAIN.replace("\n", "\r\n").encode()),
        ("metadata.csv", PLAIN.replace("\n", "\r").encode()),
        ("metadata.csv", SEMICOLON.encode()),
        ("metadata.csv", TABS.encode()),
        ("metadata.csv", SEMICOLON.replace(";", "|").encode()),
        ("metadata.csv", ("sep=;\r\n" + SEMICOLON).encode()),
        ("metadata.csv", ("\n\n" + PLAIN + "\n ,\n").encode()),
        ("metadata.csv", b'file_name, text\na.png, "Harbour, north gate"\nb.png, Lantern 98\n'),
        ("metadata.csv", b'File Name , TEXT\nA.PNG ,"Harbour, north gate"\n b.png,Lantern 98\n'),
        ("metadata.csv", b'FileName,Text\n./a.png,"Harbour, north gate"\n.\\b.png,Lantern 98\n'),
        ("metadata.csv", b',file_name,text\n0,a.png,"Harbour, north gate"\n1,b.png,Lantern 98\n'),
        ("metadata.csv", b'file_name,text\na.png,"Harbour, north gate",\nb.png,Lantern 98,,\n'),
        ("Metadata.CSV", PLAIN.encode()),
        ("metadata.tsv", TABS.encode()),
        ("METADATA.TSV", TABS.encode("utf-16")),
        ("metadata.tsv", PLAIN.encode()),
        ("metadata.txt", TABS.encode()),
        ("metadata.json", json.dumps(ROWS).encode()),
        ("metadata.json", json.dumps(ROWS, indent=2).encode("utf-16")),
        ("metadata.json", "\n".join(map(json.dumps, ROWS)).encode()),
        ("metadata.jsonl", "\n".join(map(json.dumps, ROWS)).encode("utf-8-sig")),
        ("metadata.jsonl", "\r\n\r\n".join(map(json.dumps, ROWS)).encode()),
        ("metadata.jsonl", "\r".join(map(json.dumps, ROWS)).encode()),
        ("metadata.jsonl", json.dumps(ROWS).encode()),
        ("metadata.jsonl", json.dumps([{"File_Name": "a.png", "Lines": [NORTH]}, ROWS[1]]).encode()),
    ],
)
def test_tables_of_all_hands_say_the_same(tmp_path: Path, name: str, content: bytes) -> None:
    (pictures(tmp_path) / name).write_bytes(content)
    assert texts(tmp_path) == [NORTH, LANTERN]
    assert folder.Source(size=None, path=tmp_path).text == "page"


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ('{"file_name": "a.png", "text": 4711}', "4711"),
        ('{"file_name": "a.png", "text": 12345678901234567890123}', "12345678901234567890123"),
        ('{"file_name": "a.png", "text": 47.10}', "47.10"),
        ('{"file_name": "a.png", "text": [98, "x", 0.50]}', "98/x/0.50"),
        ('{"file_name": "a.png", "lines": [7, "b"]}', "7/b"),
        ('{"file_name": "a.png", "text": null}', ""),
        ('{"file_name": "a.png", "text": NaN}', ""),
        ('{"file_name": "a.png", "text": "a\\u2028b"}', "a/b"),
    ],
)
def test_digits_of_a_number_are_the_text(tmp_path: Path, row: str, text: str) -> None:
    (pictures(tmp_path) / "metadata.jsonl").write_text(row + '\n{"file_name": "b.png", "text": "b"}')
    assert texts(tmp_path) == [text, "b"]


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        ("caf\u00e9.png", "cafe\u0301.png"),
        ("cafe\u0301.png", "caf\u00e9.png"),
        ("a b.PNG", "A b.png"),
        ("in/c.png", "in\\c.png"),
        ("in/c.png", "IN/C.PNG"),
    ],
)
def test_names_are_found_in_another_normal_form_and_case(tmp_path: Path, picture: str, said: str) -> None:
    (pictures(tmp_path, picture) / "metadata.csv").write_text(f"file_name,text\n{said},word\n")
    assert texts(tmp_path) == ["word"]


def test_two_tables_may_not_say_the_same(tmp_path: Path) -> None:
    (pictures(tmp_path) / "metadata.csv").write_text("file_name,text\na.png,x\n")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "y"}')
    with pytest.raises(DataError, match=r"metadata\.jsonl: a\.png is in another table too"):
        folder.Source(size=None, path=tmp_path)


def test_lines_may_be_json_in_a_cell(tmp_path: Path) -> None:
    table = 'file_name;lines\na.png;"[{""text"": ""x"", ""box"": [1, 2, 30, 40]}]"\nb.png;[]\n'
    (pictures(tmp_path) / "metadata.csv").write_text(table)
    source = folder.Source(size=None, path=tmp_path)
    assert [(line.text, line.box) for line in source.read(0).lines] == [("x", (1, 2, 30, 40))]


def test_lines_may_be_one_object_of_lists(tmp_path: Path) -> None:
    """As `datasets` writes a sequence of objects."""
    said = {"lines": {"text": ["x", "y"], "box": [[1, 2, 30, 40], [5, 6, 70, 60]]}}
    (pictures(tmp_path) / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png"} | said))
    (tmp_path / "b.json").write_text(json.dumps(said))
    source = folder.Source(size=None, path=tmp_path)
    assert source.text == "boxes"
    for index in range(2):
        lines = source.read(index).lines
        assert [(line.text, line.box) for line in lines] == [("x", (1, 2, 30, 40)), ("y", (5, 6, 70, 60))]


def test_names_that_differ_in_case_alone_are_never_mixed_up(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "A.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,small\nA.png,large\n")
    assert texts(tmp_path) == ["large", "small"]
    (tmp_path / "metadata.csv").write_text("file_name,text\na.PNG,which\n")
    with pytest.raises(DataError, match=r"row 1 \(line 2\): 'a.PNG' could be 'A.png' or 'a.png'"):
        folder.Source(size=None, path=tmp_path)


def test_rows_of_pictures_that_are_passed_over_are_too(tmp_path: Path) -> None:
    (pictures(tmp_path) / "c.heic").write_bytes(b"x")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,one\nc.heic,three\n")
    assert texts(tmp_path) == ["one", ""]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.csv", "FileName,file name\na.png,b\n", "columns 'FileName' and 'file name' could both be file_name"),
        ("metadata.csv", "file_name,Text,TEXT\na.png,b,c\n", "columns 'Text' and 'TEXT' could both be text"),
        (
            "metadata.jsonl",
            '{"file_name": "b.png"}\n{"file_name": "a.png", "score": 1, "score ": 2}',
            r"row 2 \(line 2\): columns 'score' and 'score ' are both called score; rename all but one",
        ),
        (
            "metadata.jsonl",
            '{"file_name": "b.png"}\n{"file_name": "a.png", "n": 1, "n": 2}',
            "line 2: 'n' is there twice",
        ),
        (
            "metadata.json",
            '[{"file_name": "a.png",\n "text": "x",\n "text": "y"}]',
            "'text' is there twice; expected each",
        ),
    ],
)
def test_no_column_is_lost_to_another_of_its_name(tmp_path: Path, name: str, content: str, message: str) -> None:
    (pictures(tmp_path) / name).write_text(content)
    with pytest.raises(DataError, match=rf"^{name}: {message}") as caught:
        folder.Source(size=None, path=tmp_path)
    assert "\n" not in str(caught.value)


def test_columns_that_could_be_text_are_attributes_where_none_is_needed(tmp_path: Path) -> None:
    (pictures(tmp_path) / "metadata.csv").write_text("file_name,Text,TEXT,kind\na.png,x,y,sign\n")
    source = folder.Source(size=None, path=tmp_path, text=False)
    assert source.read(0).attributes == {"Text": "x", "TEXT": "y", "kind": "sign"}


# --- attributes -------------------------------------------------------------------------------------------------------


def test_a_column_may_have_any_name(tmp_path: Path) -> None:
    row = {"file_name": "a.png", "psnr": 1, "index": "i", "id": "x", "reason": "r", "a/b": "c", "lines": 3, "ok": True}
    (pictures(tmp_path) / "metadata.jsonl").write_text(json.dumps(row))
    source = folder.Source(size=None, path=tmp_path)
    expected = {"psnr": 1.0, "index": "i", "id": "x", "reason": "r", "a/b": "c", "lines": 3.0, "ok": "true"}
    assert dict(source.read(0).attributes) == expected
    assert source.attributes == set(expected) and source.text == "none"


def test_numbers_keep_all_their_digits() -> None:
    row = _tables.loads('{"a": 9007199254740993, "b": 0.1, "c": 1e400, "d": 3, "e": 0.1234567890123456789, "f": NaN}')
    found = known_of_row(row | {"g": 10**400}).attributes
    assert found == {
        "a": "9007199254740993", "b": 0.1, "c": "1E+400", "d": 3.0, "e": "0.1234567890123456789", "g": str(10**400),
    }  # fmt: skip


def test_attribute_of_numbers_and_text_is_text_with_the_numbers_digits(tmp_path: Path) -> None:
    rows = [{"file_name": "a.png", "n": 12345678}, {"file_name": "b.png", "n": 9007199254740993}]
    (pictures(tmp_path) / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = folder.Source(size=None, path=tmp_path)
    assert [source.read(index).attributes["n"] for index in range(2)] == ["12345678", "9007199254740993"]


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.csv", b"file_name,text,place\na.png,Harbour, north gate,quay\n",
         r"row 1 \(line 2\) has 4 cells, the head has 3; put text that holds ',' in double quotes"),
        ("metadata.tsv", b"file_name\ttext\nb.png\tx\na.png\tHarbour\tnorth\n", r"row 2 \(line 3\) has 3 cells"),
        ("metadata.csv", b"file_name;text\na.png;x;y\n", r"row 1 \(line 2\) has 3 cells, the head has 2"),
        ("metadata.csv", "file_name,text\na.png,Müller\n".encode("cp1252"), r"byte 0xfc at 22 is not UTF-8.*cp1252"),
        ("metadata.csv", "file_name,text\na.png,日本語\n".encode("shift-jis"), "is not UTF-8.*Shift-JIS"),
        ("metadata.jsonl", '{"file_name": "a.png", "text": "日本"}'.encode("gbk"), "is not UTF-8.*GBK"),
        ("metadata.csv", PLAIN.encode("utf-16")[:-1], "not whole UTF-16"),
        ("metadata.csv", b"\x00\x01\x02\x03" * 50, "UTF-16|zero bytes|its head"),
        ("metadata.csv", b"image,caption\na.png,x\n", "its head is 'image,caption'; expected a column file_name"),
        ("metadata.csv", b"x" * 200_000, "its head can't be read"),
        ("metadata.csv", b"file_name,text\n" + b"a.png,x\n" * 200 + b"\0", "it holds zero bytes"),
        ("metadata.csv", b"PK\3\4" + bytes(100), "packed, as spreadsheets are; save it as CSV in UTF-8"),
        ("metadata.csv", b"", "its head is ''"),
        ("metadata.csv", b"file_name,text,text\na.png,x,y\n", "its head has 'text' twice"),
        ("metadata.csv", b"file_name,Text,TEXT\na.png,x,y\n", "columns 'Text' and 'TEXT' could both be text"),
        ("metadata.csv", b'file_name,text\na.png,"x" y\n', "line 2: "),
        ("metadata.csv", b"file_name,text\n,x\n", r"row 1 \(line 2\): has no file_name"),
        ("metadata.json", b'{"a.png": "x"}', "row 1: has no file_name.*found 'a.png'"),
        ("metadata.json", b'"x"', "expected one JSON object a line, or a list of objects"),
        ("metadata.jsonl", b'{"file_name": "a.png", "text": {"a": 1}}', "row 1.*text is .*expected text"),
        ("metadata.jsonl", b'{"file_name": "a.png", "lines": "hello"}', "row 1: lines is 'hello'; expected a list"),
        ("metadata.jsonl", b'{"file_name": "a.png", "lines": {"a": 1}}', "row 1: lines is .*expected a list"),
        ("metadata.jsonl", b'{"file_name": "a.png", "lines": {"text": ["x"], "box": []}}', "row 1: lines is .*a list"),
        ("metadata.jsonl", b'{"file_name": "a.png", "text": true}', "text is 'True'; expected text"),
        ("metadata.jsonl", b'{"file_name": "a.png", "text": "\\ud83d"}', "column 'text' holds half a character"),
        ("metadata.jsonl", b'{"file_name": "a.png", "n": 1' + b"0" * 5000 + b"}", "line 1 is no JSON"),
        ("metadata.jsonl", b'{"file_name": "a.png", "n": 1e99999999999999999999}', "no number that can be held"),
        ("metadata.jsonl", b'{"file_name": 4711, "text": "x"}', "has no file_name"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_with_the_row(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (pictures(tmp_path) / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        folder.Source(size=None, path=tmp_path)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.tsv", 'file_name\ttext\na.png\t"Begin here\nb.png\tand end there"\n'),
        ("metadata.tsv", 'text\tfile_name\n"Begin here\ta.png\nand end"\tb.png\n'),
        ("metadata.tsv", 'file_name\ttext\na.png\t"Begin here\n./c.heic\tx\nb.png\tand end there"\n'),
        ("metadata.csv", 'file_name,text\na.png,"Begin here\nB.png,and end there"\n'),
    ],
)
def test_a_quote_that_takes_in_rows_is_refused(tmp_path: Path, name: str, content: str) -> None:
    (pictures(tmp_path) / name).write_text(content)
    (tmp_path / "c.heic").write_bytes(b"x")
    with pytest.raises(DataError, match=r"row 1 \(line [34]\): a quote takes in the row of '.*'; double") as caught:
        folder.Source(size=None, path=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_quoted_cell_may_go_on_over_lines(tmp_path: Path) -> None:
    (pictures(tmp_path) / "metadata.tsv").write_text('file_name\ttext\na.png\t"12"" pipe\nb.png"\nb.png\t5" nail\n')
    assert texts(tmp_path) == ['12" pipe/b.png', '5" nail']
    (tmp_path / "metadata.tsv").unlink()
    (tmp_path / "metadata.csv").write_text('file_name,text\na.png,"one,\ntwo, three"\nb.png,x\n')
    assert texts(tmp_path) == ["one,/two, three", "x"]
    (tmp_path / "metadata.csv").write_text('file_name,text\na.png,"one, b.png, two\nmore, b.png"\nb.png,x\n')
    assert texts(tmp_path) == ["one, b.png, two/more, b.png", "x"]


def test_table_in_another_folder_is_told_where_the_picture_is(tmp_path: Path) -> None:
    (pictures(tmp_path, "images/a.png") / "metadata.csv").write_text("file_name,text\nA.png,x\n")
    with pytest.raises(DataError, match=r"names 'A.png', .* \(there is 'images/a.png': write it so"):
        folder.Source(size=None, path=tmp_path)


def test_columns_that_are_there_are_named_where_the_text_is_not(tmp_path: Path) -> None:
    (pictures(tmp_path) / "metadata.csv").write_text("file_name,caption\na.png,x\n")
    with pytest.raises(DataError, match=r"has none \(it has caption\); put a metadata\.csv with the columns file_name"):
        load_task("text", data=tmp_path)


def test_text_that_is_not_needed_never_stops_pixels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (pictures(tmp_path) / "metadata.csv").write_text("file_name,text\nnothing.png,x\n")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xfd")
    (tmp_path / "b.json").write_text('{"lines": [{"text": 1}]}')
    with caplog.at_level(logging.WARNING, logger="vtbench"):
        task = load_task("kodak", data=tmp_path)
    assert [task.read(index).id for index in range(2)] == ["a.png", "b.png"]
    assert "names 'nothing.png', which is not among the pictures; no text is needed here" in caplog.text
    with pytest.raises(DataError, match="names 'nothing"):
        load_task("text", data=tmp_path)
    (tmp_path / "metadata.csv").unlink()
    with pytest.raises(DataError, match=r"a\.txt: can't be read"):  # there is text, and none of it can be read
        load_task("text", data=tmp_path)
    (tmp_path / "b.json").write_text('{"lines": ["word"]}')
    task = load_task("text", data=tmp_path)
    assert [line.text for line in task.read(1).lines] == ["word"]
    with pytest.raises(DataError, match=r"a\.txt: can't be read"):
        task.read(0)


def test_attributes_are_kept_where_text_is_not_needed(tmp_path: Path) -> None:
    rows = [{"file_name": "a.png", "text": {"odd": 1}, "kind": "sign"}, {"file_name": "b.png", "kind": "note"}]
    (pictures(tmp_path) / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = folder.Source(size=None, path=tmp_path, text=False)
    assert [source.read(index).attributes["kind"] for index in range(2)] == ["sign", "note"]


# --- companions -------------------------------------------------------------------------------------------------------


def test_companions_lie_beside_pictures_in_a_folder_too(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.jpg", "c.png", "d.x.png", "v.1.png", "v.2.png")
    (tmp_path / "a.TXT").write_text("upper")
    (tmp_path / "b.jpg.txt").write_text("whole name")
    (tmp_path / "c.json").write_bytes('{"Text": "é", "height": 3}'.encode("utf-16"))
    (tmp_path / "D.txt").write_bytes(b"\xef\xbb\xbfWebDataset")
    (tmp_path / "v.1.txt").write_text("first")
    (tmp_path / "v.2.txt").write_text("second")
    assert texts(tmp_path) == ["upper", "whole name", "é", "WebDataset", "first", "second"]


def test_a_companion_belongs_to_the_picture_of_its_very_name(tmp_path: Path) -> None:
    pictures(tmp_path, "Ab.png", "aB.png", "c.png", "dE.png", "x.png", "X.1.png")
    for stem in ("Ab", "C", "De", "X"):
        (tmp_path / f"{stem}.txt").write_text(f"of {stem}")
    (tmp_path / "De.heic").write_bytes(b"x")
    source = folder.Source(size=None, path=tmp_path)
    said = {name: [line.text for line in source.read(index).lines] for index, name in enumerate(source.ids)}
    assert said == {
        "Ab.png": ["of Ab"], "X.1.png": ["of X"], "aB.png": [], "c.png": ["of C"], "dE.png": [], "x.png": [],
    }  # fmt: skip


def test_a_companion_may_be_a_list_of_lines(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "a.json").write_text('["one", "two"]')
    (tmp_path / "b.json").write_text('[{"text": "three", "box": [1, 2, 30, 40]}]')
    (tmp_path / "c.json").write_text("[1, 2]")  # anything else
    assert texts(tmp_path) == ["one/two", "three", ""]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ('{"lines": "hello"}', "lines is 'hello'; expected a list of text, or of objects with text and box"),
        ('[{"text": "x", "box": [1, 2, 30, 40]}, {"box": [1, 2, 30, 40]}]', "a line has no 'text'"),
        ('[{"box": [1, 2, 30, 40]}]', "a line has no 'text'"),
    ],
)
def test_lines_of_a_companion_that_are_none_are_one_line(tmp_path: Path, said: str, message: str) -> None:
    (pictures(tmp_path) / "a.json").write_text(said)
    with pytest.raises(DataError, match=rf"^a\.json: can't be read \({message}"):
        folder.Source(size=None, path=tmp_path).read(0)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("72,25,326,25,326,64,72,64,TAN WOON YANN\n72,50,440,50,440,95,72,95,9.00\n", "its lines hold coordinates"),
        ('38, 43, 920, 215, "Tiredness"\r\n', "its lines hold coordinates; say them as text and box of lines"),
        ('38 43 120 215 "Tiredness"\n275 294 669 417 "Some sign"\n', "its lines hold coordinates"),
        ("38\t43\t120\t215\tTiredness\n", "its lines hold coordinates"),
        ("38; 43; 120; 215; Tiredness\n", "its lines hold coordinates"),
        ("12.5,30.0,100.2,50.1,Exit\n", "its lines hold coordinates"),
        (
            "377,117,463,117,465,130,378,130,Genaxis\n###\n493,115,519,115,519,131,493,131,06\n",
            "its lines hold coordinates",
        ),
        (
            "imagesource:GoogleEarth\ngsd:0.14\n2753 2408 2861 2385 2888 2468 2805 2502 plane 0\n",
            "its lines hold coordinates",
        ),
        (
            "Car 0.00 0 -1.58 587.01 173.33 614.12 200.12 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59\n",
            "its lines hold coordinates",
        ),
        (
            "x: [[115 503 494 115]], y: [[322 346 426 404]], ornt: [u'm'], transcriptions: [u'nauGHTY']\n",
            "its lines hold coordinates",
        ),
        ("0 0.51 0.43 0.1 0.2\n\n17 0.500000 1 5e-05 0.25\n", "classes and boxes as YOLO has them, no text"),
        ("person 0.51 0.43 0.1 0.2\ntraffic light 0.5 0.25 0.125 0.0625\n", "classes and boxes as YOLO has them"),
    ],
)
def test_places_in_a_companion_are_no_text(tmp_path: Path, said: str, message: str) -> None:
    (pictures(tmp_path) / "a.txt").write_text(said)
    with pytest.raises(DataError, match=rf"^a\.txt: can't be read \(.*{message}") as caught:
        load_task("text", data=tmp_path)
    assert "\n" not in str(caught.value)
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,word\n")  # where a table says it, it is not asked
    assert texts(tmp_path) == ["word", ""]


@pytest.mark.parametrize(
    "said",
    [
        "1,2,3,4,5\n6,7,8,9,10", "1,234,567,890,123", "9.00\n12,50", "1 0 0 1 1", "10 20 30 40 fifty",
        "Menu\nSoup\n1,2,3,4, go!\nTea", "Tea 0.50\nRoom 4 0 0", "Total 12.50 3.00 1.00 0.50",
        "Year,North,South,East,West\n2001,1,2,3,4", "Loss 0.1 0.2 0.3 0.4\nrecall 0.91 0.92 0.93 0.94\nTotals",
        "Loss 0.1 0.2 0.3 0.4", "Epoch 0.5 0.5 0.2 0.2\nTotals",
        "Gain 0.5 0.5 0.2 0.2 0.1",
    ],
)  # fmt: skip
def test_digits_in_a_companion_may_be_all_the_text(tmp_path: Path, said: str) -> None:
    (pictures(tmp_path) / "a.txt").write_text(said)
    assert texts(tmp_path) == [said.replace("\n", "/"), ""]


def test_a_table_of_numbers_between_tabs_is_text(tmp_path: Path) -> None:
    (pictures(tmp_path) / "a.txt").write_text("2019\t12\t13\t14\t15\n2020\t1\t2\t3\tTotal\nHead")
    assert texts(tmp_path) == ["2019 12 13 14 15/2020 1 2 3 Total/Head", ""]


def test_half_a_character_in_a_companion_is_one_line(tmp_path: Path) -> None:
    (pictures(tmp_path) / "a.json").write_text('{"text": "\\ud83d"}')
    (tmp_path / "b.txt").write_text("x")
    with pytest.raises(DataError, match=r"a\.json: can't be read .*ud83d.*expected text") as caught:
        folder.Source(size=None, path=tmp_path).read(0)
    assert str(caught.value).isascii()


def test_an_empty_companion_is_a_picture_without_text_and_the_others_are_scored(tmp_path: Path) -> None:
    pictures(tmp_path)
    (tmp_path / "a.txt").write_text("\n \n")
    (tmp_path / "b.txt").write_text("Meadow 47")
    task = load_task("text", data=tmp_path)
    assert [[line.text for line in task.read(index).lines] for index in range(2)] == [[], ["Meadow 47"]]


# --- boxes ------------------------------------------------------------------------------------------------------------


def boxed(place: Path, *boxes: object) -> Path:
    rows = [{"file_name": "a.png", "lines": [{"text": "word", "box": box} for box in boxes]}]
    (pictures(place, "a.png") / "metadata.jsonl").write_text(json.dumps(rows[0]))
    return place


def test_boxes_are_clipped_to_their_picture(tmp_path: Path) -> None:
    source = folder.Source(size=None, path=boxed(tmp_path, [-1, 16, 200, 52], [-1, -5, 257, 99], [250.5, 60, 300, 70]))
    assert [line.box for line in source.read(0).lines] == [(0, 16, 200, 52), (0, 0, 256, 64), (250, 60, 256, 64)]


@pytest.mark.parametrize("box", [[300, 0, 320, 10], [0, 64, 10, 80], [-20, 0, -5, 10]])
def test_box_wholly_outside_is_an_error_of_its_picture(tmp_path: Path, box: list[float]) -> None:
    boxed(tmp_path, [0, 0, 10, 10], box)
    with pytest.raises(DataError, match=r"^a\.png: box .* of word lies outside the picture, which is 256x64") as caught:
        folder.Source(size=None, path=tmp_path).read(0)
    assert f"{box[0]}, {box[1]}" in str(caught.value)
    assert folder.Source(size=None, path=tmp_path, text=False).read(0).lines == ()


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([0.01, 0.06, 0.78, 0.2], "boxes are in pixels, this one is relative"),
        ([0.5, 0.5, 1.02, 1.1], "this one is relative"),
        ([0, 0, 1, 1], "this one is relative"),
        (["0.1", "0.1", "0.5", "0.5"], "this one is relative"),
        ([100, 40, 30, 12], r"it looks like left, top, width, height"),
        ([100, 10, 30, 12], r"it looks like left, top, width, height"),
        ([[0, 0], [9, 0], [9, 9], [0, 9]], "expected left, top, right, bottom in pixels"),
        ({"x": 1, "y": 2, "w": 3, "h": 4}, "expected left, top, right, bottom"),
        ([1, 2, 3], "expected left, top, right, bottom"),
        (None, "expected left, top, right, bottom"),
        ([1, 2, None, 4], "expected left, top, right, bottom"),
        ([1, 2, 10**400, 4], "expected left, top, right, bottom"),
    ],
)
def test_boxes_of_another_kind_are_refused_by_name(tmp_path: Path, box: object, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        folder.Source(size=None, path=boxed(tmp_path, box))
    assert "\n" not in str(caught.value) and "row 1" in str(caught.value)


# --- anything at all --------------------------------------------------------------------------------------------------

CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.lists(CELL, min_size=1, max_size=4), st.sampled_from(",;\t|"), st.sampled_from(["utf-8-sig", "utf-16"]))
def test_cells_come_back_as_they_were_written(cells: list[str], separator: str, encoding: str) -> None:
    sink = io.StringIO(newline="")
    writer = csv.writer(sink, delimiter=separator, quoting=csv.QUOTE_ALL)
    writer.writerows([["file_name", "text"], *(["a.png", cell] for cell in cells)])
    rows = _tables.read(sink.getvalue().encode(encoding), ".csv")
    assert [row.cells["text"] for row in rows] == cells


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ROW = st.dictionaries(st.sampled_from(["file_name", "text", "lines", "box", "Text", "kind"]), JSON, max_size=5)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.binary(max_size=200) | st.lists(ROW, max_size=3).map(lambda rows: json.dumps(rows).encode()))
@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_a_table_of_anything_is_read_or_refused_in_one_line(suffix: str, content: bytes) -> None:
    try:
        for row in _tables.read(content, suffix):
            json.dumps(
                [known_of_row(row.cells).lines, dict(known_of_row(row.cells).attributes)], allow_nan=False
            ).encode()
    except (ValueError, OverflowError) as error:
        assert not isinstance(error, UnicodeError), error
