"""Inputs of other people's that once went wrong, or could: each with the value that is right."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import write_pictures
from PIL import Image
from test_cli import one_line, vtbench

from vtbench import evaluate, load_task, load_tokenizer, results
from vtbench.errors import DataError

Contents = dict[str, bytes]


def picture(seed: int = 0) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((128, 96), Image.Resampling.BICUBIC).save(sink := io.BytesIO(), "PNG")
    return sink.getvalue()


A, B = picture(0), picture(1)
TEXTS = {"a.png": "Harbour 12", "b.png": "Meadow 47"}
TABLE = "file_name,text\na.png,Harbour 12\nb.png,Meadow 47\n"


def folder(place: Path, contents: Contents) -> Path:
    for name, content in contents.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return place


def as_tar(contents: Contents, kind: int = tarfile.PAX_FORMAT) -> bytes:
    with tarfile.open(fileobj=(sink := io.BytesIO()), mode="w", format=kind) as packed:
        for name, content in contents.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            packed.addfile(about, io.BytesIO(content))
    return sink.getvalue()


def as_zip(contents: Contents) -> bytes:
    with zipfile.ZipFile(sink := io.BytesIO(), "w") as packed:
        for name, content in contents.items():
            packed.writestr(name, content)
    return sink.getvalue()


def companions(text: str = ".txt") -> Contents:
    return {"a.png": A, f"a{text}": b"Harbour 12", "b.png": B, f"b{text}": b"Meadow 47"}


def before_ustar(contents: Contents) -> bytes:
    """A tar without any mark in its heads, as programs wrote it before 1988."""
    parts = []
    for name, content in contents.items():
        about = tarfile.TarInfo(name)
        about.size = len(content)
        head = bytearray(about.tobuf(tarfile.USTAR_FORMAT))
        head[257:265] = bytes(8)
        head[148:156] = b" " * 8
        head[148:156] = b"%06o\0 " % sum(head)
        parts += [bytes(head), content, bytes(-len(content) % 512)]
    return b"".join([*parts, bytes(1024)])


def texts(place: Path) -> dict[str, str]:
    """The known text of each picture, as the task `text` takes it."""
    task = load_task("text", data=place)
    read = [task.read(index) for index in range(len(task))]
    return {sample.id: " ".join(line.text for line in sample.lines) for sample in read}


def table(content: str | bytes, name: str = "metadata.csv", **more: bytes) -> Contents:
    return {"a.png": A, "b.png": B, name: content.encode() if isinstance(content, str) else content, **more}


def lines(*boxes: list[float]) -> str:
    rows = [
        {"file_name": name, "lines": [{"text": TEXTS[name], "box": box}]}
        for name, box in zip(TEXTS, boxes, strict=True)
    ]
    return "\n".join(map(json.dumps, rows))


# --- known text -------------------------------------------------------------------------------------------------------

ARCHIVES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "companions of a Mac": ("a.tar", lambda: as_tar({"._a.png": b"x", "._a.txt": b"x", **companions()})),
    "the same in a zip": (
        "a.zip",
        lambda: as_zip({"__MACOSX/._a.png": b"x", "__MACOSX/._a.txt": b"x", **companions()}),
    ),
    "endings in capitals": ("a.tar", lambda: as_tar(companions(".TXT"))),
    "backslashes": (
        "a.zip",
        lambda: as_zip({"s/a.png": A, "s/b.png": B, "s/metadata.csv": TABLE.encode()}).replace(b"s/", b"s\\"),
    ),
    "a tar older than its mark": ("a.tar", lambda: before_ustar(companions())),
    "GNU's long names": ("a.tar", lambda: as_tar(companions(), tarfile.GNU_FORMAT)),
    "a gzip called .tar": ("a.tar", lambda: gzip.compress(as_tar(companions()))),
    "a tar called .tgz": ("a.tgz", lambda: as_tar(companions())),
    "a zip called .tar": ("a.tar", lambda: as_zip(companions())),
    "padding behind a gzip": ("a.tar.gz", lambda: gzip.compress(as_tar(companions())) + bytes(2000)),
    "a comment behind a zip": ("a.zip", lambda: as_zip(companions())[:-2] + struct.pack("<H", 5) + b"hello"),
}


@pytest.mark.parametrize("what", ARCHIVES)
def test_archives_of_all_hands_say_their_text(tmp_path: Path, what: str) -> None:
    packed, made = ARCHIVES[what]
    (tmp_path / packed).write_bytes(made())
    found = {name.rsplit("/", 1)[-1]: text for name, text in texts(tmp_path / packed).items()}
    assert found == TEXTS


def test_names_in_another_normal_form_are_those_of_the_table(tmp_path: Path) -> None:
    name = unicodedata.normalize("NFD", "Schöne Grüße.png")
    said = f"file_name,text\n{unicodedata.normalize('NFC', name)},Harbour 12\n"
    (tmp_path / "a.zip").write_bytes(as_zip({name: A, "metadata.csv": said.encode()}))
    assert list(texts(tmp_path / "a.zip").values()) == ["Harbour 12"]


TABLES: dict[str, Contents] = {
    "semicolons": table(TABLE.replace(",", ";")),
    "bars": table(TABLE.replace(",", "|")),
    "spaces in the head": table(TABLE.replace("file_name,text", " File Name , Text ")),
    "file in capitals": table(TABLE, "METADATA.CSV"),
    "names in another case": table(TABLE.replace("a.png", "A.PNG")),
    "line ends of old": table(TABLE.replace("\n", "\r")),
    "UTF-16 without a mark": table(TABLE.encode("utf-16-be")),
    "invisible signs": table(
        TABLE.replace("Harbour", "Har\u00adbour\u200b").replace("Meadow", "\u2066Mea\u200ddow\u2069")
    ),
    "objects": table(
        '[{"file_name": "a.png", "text": "Harbour 12"}, {"FileName": "b.png", "text": "Meadow 47"}]', "metadata.json"
    ),
}


@pytest.mark.parametrize("what", TABLES)
def test_tables_of_all_hands_say_the_same_text(tmp_path: Path, what: str) -> None:
    from vtbench.metrics.text import cer

    found = texts(folder(tmp_path / "in", TABLES[what]))
    assert {name: cer(TEXTS[name], found[name], normalisation="text") for name in TEXTS} == {"a.png": 0.0, "b.png": 0.0}


def test_numbers_are_text_by_their_digits(tmp_path: Path) -> None:
    content = '{"file_name": "a.png", "text": 12}\n{"file_name": "b.png", "text": 1.50}'
    assert texts(folder(tmp_path / "in", table(content, "metadata.jsonl"))) == {"a.png": "12", "b.png": "1.50"}


def test_boxes_are_clipped_to_the_picture(tmp_path: Path) -> None:
    task = load_task(
        "text", data=folder(tmp_path / "in", table(lines([-1, 16, 200, 52], [0, -9, 128, 500]), "metadata.jsonl"))
    )
    side = task.card.geometry.side or 0
    for index in range(2):
        ((_, box, _),) = [(line.text, line.box, line.ratio) for line in task.read(index).lines]
        assert box[0] == 0 and box[2] == side  # from edge to edge of a picture that is as wide as the task
        assert box[1] >= side // 8 and box[3] <= side - side // 8  # the bars above and below are no picture


REFUSED: dict[str, tuple[Contents, str]] = {
    "more cells than heads": (table(TABLE.replace("Harbour 12", "Harbour, 12")), r"row 1 \(line 2\) has 3 cells"),
    "a quote that never ends": (table(TABLE.replace("Harbour", '"Harbour')), "line 3: unexpected end of data"),
    "relative boxes": (
        table(lines([0.01, 0.06, 0.78, 0.2], [0, 0, 1, 1]), "metadata.jsonl"),
        r"row 1 .*this one is relative",
    ),
    "width and height": (
        table(lines([100, 20, 90, 70], [0, 0, 9, 9]), "metadata.jsonl"),
        r"row 1 .*looks like left, top, width",
    ),
    "a code page": (table(TABLE.replace("Meadow", "Wiesé").encode("cp1252")), "byte 0xe9 .*not UTF-8.*code page"),
    "Shift-JIS": (table(TABLE.replace("Meadow", "牧場").encode("cp932")), "not UTF-8.*code page"),
    "a spreadsheet": (table(b"PK\3\4...."), "packed, as spreadsheets are"),
    "a login page": (table("<html><body>login</body></html>"), r"its head is '<html>.*expected a column file_name"),
    "half a character": (table(r'{"file_name": "a.png", "text": "\ud800"}', "metadata.jsonl"), "half a character"),
    "too long a number": (
        table('{"file_name": "a.png", "text": "x", "n": ' + "9" * 5000 + "}", "metadata.jsonl"),
        "line 1 is no JSON .Exceeds the limit",
    ),
    "too deep": (table("[" * 100_000, "metadata.json"), "nested too deeply"),
    "a mapping": (table('{"a.png": "Harbour 12"}', "metadata.json"), "row 1: has no file_name.*found 'a.png'"),
    "a name elsewhere": (table("file_name,text\n../a.png,x\n"), r"names '../a.png'.*there is 'a.png'"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_would_be_a_guess_is_refused_by_its_row(tmp_path: Path, what: str) -> None:
    contents, message = REFUSED[what]
    with pytest.raises(DataError, match=message) as caught:
        texts(folder(tmp_path / "in", contents))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


# --- pixels -----------------------------------------------------------------------------------------------------------


def scored(place: Path, **options: bool) -> results.Pictures:
    return evaluate(load_tokenizer("jpeg-q30"), load_task("kodak", data=place, **options), out=None).pictures


def test_text_that_pixels_do_not_need_stops_none(tmp_path: Path) -> None:
    odd = {"a.json": b'["x", 1]', "b.json": b"{broken", "a.txt": b"\xff\xfe\xff", "metadata.csv": b"\x93\xfa"}
    (tmp_path / "a.tar").write_bytes(as_tar({"a.png": A, "b.png": B, **odd}))
    assert scored(tmp_path / "a.tar").scored == 2


def test_hard_links_are_what_they_point_to(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as packed:
        for name in "ab":
            about = tarfile.TarInfo(f"{name}.png")
            about.size = len(A)
            packed.addfile(about, io.BytesIO(A))
            link = tarfile.TarInfo(f"hard-{name}.png")
            link.type, link.linkname = tarfile.LNKTYPE, f"{name}.png"
            packed.addfile(link)
    assert scored(tmp_path / "a.tar").scored == 4


@pytest.mark.parametrize("cut", ["between members", "in a head", "in a member", "joined", "damaged"])
def test_a_tar_that_is_not_whole_is_no_smaller_set(tmp_path: Path, cut: str) -> None:
    whole = as_tar({"a.png": A, "b.png": B, "c.png": A})
    member = 512 + len(A) + -len(A) % 512
    hit = bytearray(whole)
    hit[member + 100] ^= 255
    content = {
        "between members": whole[:member], "in a head": whole[: member + 300], "in a member": whole[: member + 900],
        "joined": whole + whole, "damaged": bytes(hit),
    }[cut]  # fmt: skip
    for name, made in (("a.tar", content), ("a.tar.gz", gzip.compress(content))):
        (tmp_path / name).write_bytes(made)
        with pytest.raises(DataError, match="not a whole archive"):
            load_task("kodak", data=tmp_path / name)


def test_pictures_of_a_parquet_without_the_hubs_schema(tmp_path: Path) -> None:
    pd.DataFrame({"image": [{"bytes": A, "path": None}, {"bytes": B, "path": "b.png"}]}).to_parquet(
        tmp_path / "a.parquet"
    )
    pd.DataFrame({"jpg": [A, B], "label": [1, 2]}).to_parquet(tmp_path / "b.parquet")
    for name in ("a.parquet", "b.parquet"):
        assert scored(tmp_path / name).scored == 2


def test_a_column_may_be_called_like_one_of_ours(tmp_path: Path) -> None:
    names = ["psnr", "id", "reason", "x:reason", "x:raw", "psnr:floor", "attribute/x", "a/b", "[/x]\n|", "é"]
    rows = [{"file_name": name, **dict.fromkeys(names, value)} for name, value in (("a.png", 1.5), ("b.png", 2))]
    content = "\n".join(map(json.dumps, rows))
    place = folder(tmp_path / "in", table(content, "metadata.jsonl"))
    run = evaluate(load_tokenizer("jpeg-q30"), load_task("kodak", data=place), out=tmp_path / "r", work=tmp_path / "w")
    images = results.read_images(tmp_path / "w" / run.task / run.name / results.IMAGES)
    for name in names:
        assert images[f"attribute/{name}"].tolist() == [1.5, 2.0]
    assert images["psnr"].between(20, 60).all()


# --- a folder with one of everything ----------------------------------------------------------------------------------

PASSED_OVER = {
    "._a.png": "companions (._*)",
    "__MACOSX/a.png": "files in __MACOSX",
    ".ipynb_checkpoints/a-checkpoint.png": "files in .ipynb_checkpoints",
    "a.seg.png": "masks beside their pictures",
    "b.HEIC": ".heic files, which are not read",
    "c.dng": ".dng files, which are not read",
    "d.jxr": ".jxr files, which are not read",
    "e.hif": ".hif files, which are not read",
    "f.jpg.part": "backups and downloads that are not whole",
    "g.png~": "backups and downloads that are not whole",
    "h.tar": "archives and tables of pictures, which are read on their own",
    "out.png": "links that lead out",
    "nothing.png": "links to nothing",
    "above": "links in a circle",
    "elsewhere": "links to folders",
    "pipe.png": "pipes and devices",
}


@pytest.fixture
def everything(tmp_path: Path) -> Path:
    place = folder(
        tmp_path / "everything", {"a.png": A, "b.JPG": B, "sub/c.jpf": A, "broken.png": b"broken", "empty.gif": b""}
    )
    Image.open(io.BytesIO(A)).save(place / "d.mpo", "MPO")
    os.link(place / "a.png", place / "hard.png")
    (place / "in.png").symlink_to("a.png")
    folder(place, dict.fromkeys(list(PASSED_OVER)[:11], A))
    folder(place, {"notes.txt": b"x", ".DS_Store": b"x", "clip.mp4": b"x"})  # nobody meant these as pictures
    other = write_pictures(tmp_path / "other", 1)
    (place / "out.png").symlink_to(other / "000.png")
    (place / "nothing.png").symlink_to("no.png")
    (place / "above").symlink_to(place)
    (place / "elsewhere").symlink_to(other)
    os.mkfifo(place / "pipe.png")
    return place


def test_a_folder_with_one_of_everything_adds_up_in_json_tables_and_on_the_screen(
    tmp_path: Path, everything: Path
) -> None:
    done = vtbench("run", "-t", "jpeg-q5", "--task", "kodak", "--data", everything, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (run,) = results.read_runs(tmp_path / "results")
    counts = run.pictures
    assert (counts.scored, counts.failed, counts.left_out) == (6, 2, 0)
    assert counts.passed_over == {kind: list(PASSED_OVER.values()).count(kind) for kind in PASSED_OVER.values()}
    assert counts.found == 6 + 2 + len(PASSED_OVER)
    assert {reason.partition(":")[0] for reason in counts.reasons} == {"broken.png", "empty.gif"}
    for said in (
        f"{counts.found} found, 6 scored, 2 failed (1: broken.png: not a readable picture",
        f"{len(PASSED_OVER)} passed over (2 backups and downloads that are not whole, 1 .dng files",
        "--follow-links",
    ):
        assert said in done.stdout
    assert done.stdout.splitlines()[3].endswith(" 6/8")
    assert vtbench("leaderboard", cwd=tmp_path).returncode == 0
    assert f"{counts.found} found, 6 scored, 2 failed" in (tmp_path / "results" / "LEADERBOARD.md").read_text()
    assert vtbench("validate", "results", cwd=tmp_path).returncode == 0


def test_links_are_read_where_that_is_asked_for(everything: Path) -> None:
    counts = scored(everything, follow_links=True)
    assert (counts.scored, counts.failed) == (8, 2)
    assert "links that lead out" not in counts.passed_over and "links to folders" not in counts.passed_over


def test_a_folder_of_nothing_that_is_read_says_what_it_holds(tmp_path: Path) -> None:
    place = folder(tmp_path / "in", {"a.heic": b"x", "b.png.part": b"x"})
    said = one_line(vtbench("run", "-t", "jpeg", "--task", "kodak", "--data", place, cwd=tmp_path))
    assert "passed over: 1 .heic files, which are not read, 1 backups and downloads that are not whole" in said
