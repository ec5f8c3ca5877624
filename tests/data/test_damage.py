"""Picture files with bytes that were hit: read, or an error of one line; never a traceback. The seeds are fixed."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from vtbench import pictures
from vtbench.errors import DataError

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "JXL", "PNG", "PPM", "TGA", "TIFF", "WEBP")
FLIPS = 60


def encoded(kind: str) -> bytes:
    """A small picture with EXIF and a profile, where the format holds such."""
    coarse = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    made = Image.fromarray(coarse).resize((24, 20), Image.Resampling.BICUBIC)
    options: dict[str, object] = {}
    if kind in ("JPEG", "PNG", "TIFF", "WEBP"):
        exif = Image.Exif()
        exif[0x0112] = 6
        options = {"exif": exif, "icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()}
    made.save(sink := io.BytesIO(), kind, **options)
    return sink.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of files that are cut off
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("kind", FORMATS)
def test_flipped_bytes_are_an_error_of_one_line_or_another_picture(kind: str) -> None:
    whole = encoded(kind)
    generator = np.random.default_rng(zlib.crc32(kind.encode()))
    for number in range(FLIPS):
        content = bytearray(whole)
        reach = min(len(whole), 300) if number % 2 else len(whole)  # heads matter most
        for _ in range(1 + number % 3):
            content[int(generator.integers(reach))] ^= int(generator.integers(1, 256))
        if number % 10 == 0:
            del content[int(generator.integers(1, len(whole))) :]
        try:
            assert pictures.read(bytes(content), "a").mode == "RGB"
        except DataError as error:
            assert str(error).startswith("a: ") and "\n" not in str(error)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
            "it is a Git-LFS pointer; `git lfs pull` brings",
        ),
        (b"\n<!DOCTYPE html><html></html>", "it is an HTML page"),
        (b"<svg xmlns='x'/>", "it is an SVG drawing"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "it is HEIC; convert it"),
        (b"%PDF-1.7", "it is a PDF document"),
        (b"hello", "it is damaged or in none of the formats AVIF, BMP"),
        (b"\x89PNG\r\n\x1a\nxx", "it is damaged or in none of the formats"),
    ],
)
def test_reason_says_what_the_file_is_and_is_the_same_every_time(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a").write_bytes(content)
    said = []
    for source in (content, io.BytesIO(content), tmp_path / "a"):
        with pytest.raises(DataError) as caught:
            pictures.read(source, "a")
        said.append(str(caught.value))
    assert said[0].startswith(f"a: not a readable picture ({reason}")
    assert len(set(said)) == 1 and "0x" not in said[0]
