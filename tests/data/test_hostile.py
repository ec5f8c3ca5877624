"""A folder and an archive of everything that can be wrong with a picture, through the whole engine."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import small_task
from PIL import Image

from vtbench import evaluate, load_tokenizer, results
from vtbench.results import Run

GOOD = {b"a b.png", b"quote\"'.png", b"new\nline.png", b"\xff\xfe.png", "ü.PNG".encode(), b"%s;$(id).png"}


def picture(width: int = 70, height: int = 66) -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(made: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    sink = io.BytesIO()
    made.save(sink, kind, **options)
    return sink.getvalue()


def bomb() -> bytes:
    """A PNG of a few hundred bytes that claims 20,000 x 20,000 pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def contents() -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    """Name and bytes of pictures that can be scored, and of those that can't."""
    whole = encoded(picture())
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = picture().quantize(16)
    frames = [picture(), Image.new("RGB", (70, 66))]
    good = dict.fromkeys(GOOD, whole) | {
        b"one.png": encoded(picture(1, 1)),
        b"moving.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        b"deep.png": encoded(Image.fromarray(np.arange(4356, dtype=np.uint16).reshape(66, 66) * 15)),
        b"cmyk.jpg": encoded(picture().convert("CMYK"), "JPEG"),
        b"palette.png": encoded(clear, transparency=bytes(range(0, 160, 10))),
        b"turned.jpg": encoded(picture(), "JPEG", exif=exif),
        b"grey-alpha.png": encoded(picture().convert("LA")),
        b"wrong.jpg": whole,  # a PNG under another name: what counts is inside
        b"sub/dir/deep down.webp": encoded(picture(), "WEBP"),
    }
    bad = {
        b"truncated.png": whole[: len(whole) // 2],
        b"zero.png": b"",
        b"text.png": b"<html>not found</html>\n",
        b"no-pixels.ppm": b"P6 0 0 255\n",
        b"bomb.png": bomb(),
        b"line.png": encoded(Image.new("1", (1, 1_000_000))),
        b"program.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\nshowpage\n",
        b"cut.jxl": encoded(picture(), "JXL")[:100],
        b"half.avif": encoded(picture(), "AVIF")[:200],
    }
    return good, bad


def run(place: Path, out: Path) -> tuple[Run, pd.DataFrame]:
    made = evaluate(load_tokenizer("jpeg-q75"), small_task(place), out=out / "r", work=out / "w")
    return made, results.read_images(out / "w" / made.task / made.tokenizer / results.IMAGES)


def check(made: Run, table: pd.DataFrame, good: int, bad: set[str]) -> None:
    assert len(table) == good + len(bad) and table["id"].is_unique
    broken = table[table["reason"].notna()]
    assert set(broken["id"]) == bad
    for name, reason in zip(broken["id"], broken["reason"], strict=True):
        assert reason.startswith(name) and "\n" not in reason
    assert broken["psnr"].isna().all() and table[table["reason"].isna()]["psnr"].notna().all()
    assert (made.scores["psnr"].scored, made.scores["psnr"].expected) == (good, good + len(bad))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of files that are cut off
def test_folder_where_everything_is_wrong(tmp_path: Path) -> None:
    good, bad = contents()
    folder = tmp_path / "in"
    for name, content in (good | bad).items():
        path = os.path.join(os.fsencode(folder), name)  # noqa: PTH118
        os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
        with open(path, "wb") as file:  # noqa: PTH123
            file.write(content)
    (tmp_path / "secret.png").write_bytes(encoded(picture()))
    (folder / "out.png").symlink_to(tmp_path / "secret.png")
    (folder / "up").symlink_to(tmp_path)
    (folder / "inside.png").symlink_to("one.png")
    (folder / "dangling.png").symlink_to("nothing.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    made, table = run(folder, tmp_path)
    check(made, table, len(good) + 1, {name.decode() for name in bad})
    assert {"inside.png", "new\\nline.png", "\\xff\\xfe.png"} <= set(table["id"])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_archive_where_everything_is_wrong(tmp_path: Path) -> None:
    good, bad = contents()
    with tarfile.open(tmp_path / "in.tar.gz", "w:gz") as packed:
        for name, content in (good | bad).items():
            about = tarfile.TarInfo(os.fsdecode(name))
            about.size = len(content)
            packed.addfile(about, io.BytesIO(content))
        for name, kind, target in (
            ("../up.png", tarfile.REGTYPE, ""),
            ("/etc/absolute.png", tarfile.REGTYPE, ""),
            ("out.png", tarfile.SYMTYPE, "/etc/passwd"),
            ("hard.png", tarfile.LNKTYPE, "a b.png"),
            ("null.png", tarfile.CHRTYPE, ""),
        ):
            about = tarfile.TarInfo(name)
            about.type, about.linkname = kind, target
            packed.addfile(about)
    made, table = run(tmp_path / "in.tar.gz", tmp_path)
    check(made, table, len(good) + 1, {name.decode() for name in bad})  # the hard link is read as what it points to


def test_ten_thousand_files_are_listed_and_hashed_in_seconds(tmp_path: Path) -> None:
    content = encoded(picture(8, 8))
    for index in range(10_000):
        (tmp_path / f"{index:05d}.png").write_bytes(content)
    task = small_task(tmp_path)
    assert len(task) == 10_000
    assert task.sample_id(9_999) == "09999.png"
    assert task.read(9_999).image.shape == (3, 64, 64)
    assert len(task.digest) == 64
