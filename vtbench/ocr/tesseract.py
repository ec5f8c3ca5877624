"""Tesseract: the reader of most operating systems, through its program; English, or the languages in its name.

Robust against blur, which makes it a poor judge of small losses and a good one of whether a text can be saved at all.
It is not a Python package: `apt-get install tesseract-ocr`, `brew install tesseract`. `tesseract` reads English alone,
whatever else is installed; `tesseract:deu` reads German, `tesseract:chi_sim+eng` Chinese and English. Its files come
with the operating system in several releases, so they are not pinned, and a run states their digests.
"""

from __future__ import annotations

import functools
import math
import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from vtbench import files
from vtbench.backbones.places import Place, first
from vtbench.errors import DataError, WeightsError
from vtbench.ocr import Box, check_image, grown

if TYPE_CHECKING:
    from torch import Tensor

SCRIPTS = ("LATIN",)

ENGLISH = "eng"

MARGIN = 0.15
"""What a box is enlarged by on each side, as a share of its height: the same as for EasyOCR."""

_LINE_HEIGHT = 48
_WIDEST = 8192
_PAGE_SCALE = 2
"""Pixels that a line is scaled to, the most that it is wide then, and how often a page is enlarged.

Tesseract finds and reads letters of about 20 pixels best. Without this it loses a fifth of the letters of 6 pixels on
black and white pages that it reads almost without an error with it; above 8 pixels it changes next to nothing.
"""

_BORDER = 10
"""Pixels that continue the edge of a line on each side: Tesseract's own advice for pictures without a margin."""

_ONE_LINE = "7"
_ONE_BLOCK = "6"
"""Page segmentation modes: one line; one block of lines, which is what rendered pages and documents are."""

_PATIENCE = 120
"""Seconds after which a call is given up."""

_CALL = 32
"""Pictures that one call reads at most, so that it stays well within its patience."""

_UNICHARSET = 21
"""Which part of a language's file lists what its network writes (tessdatamanager.h, TESSDATA_LSTM_UNICHARSET)."""


def find(languages: str = ENGLISH) -> Path | None:
    """The file of its language, or the folder where there are several."""
    place = _place(languages)
    return place.path if place else None


def digests(languages: str = ENGLISH) -> dict[str, str]:
    """The digests of its languages' files."""
    place = _place(languages)
    return place.digests() if place else {}


def missing(languages: str = ENGLISH) -> str:
    """Name the program, the languages and the command that installs them."""
    packages = [f"tesseract-ocr-{name.replace('_', '-')}" for name in languages.split("+") if name != ENGLISH]
    what = "its English file" if languages == ENGLISH else " and ".join(_files(languages))
    return (
        f"{_name(languages)} is not on this machine (looked for the program and {what}): "
        f"run `apt-get install {' '.join(['tesseract-ocr', *packages])}`"
    )


def version() -> str:
    """The program's release, as it says it."""
    said = _run(["--version"], os.environ).splitlines()
    return said[0].removeprefix("tesseract ") if said else "unknown"


def languages() -> tuple[str, ...]:
    """The languages beside English that are installed, asked of the program; `osd` only tells which way is up."""
    return tuple(name for name in _said(*_surroundings())[1] if name not in (ENGLISH, "osd"))


def characters(languages: str = ENGLISH) -> frozenset[str]:
    """What its languages' networks write, out of their files."""
    place = _place(languages)
    if place is None:
        raise WeightsError(missing(languages))
    return frozenset().union(
        *(_alphabet(place.folder / file, files.sha256(place.folder / file)) for file in place.files)
    )


@functools.cache
def _alphabet(path: Path, digest: str) -> frozenset[str]:
    """The characters of a language's file: a count, then 64-bit offsets of its parts, of which one lists them."""
    del digest  # it is the key of the cache
    content = path.read_bytes()
    try:
        (count,) = struct.unpack_from("<i", content)
        offsets = struct.unpack_from(f"<{count}q", content, 4)
        start = offsets[_UNICHARSET]
        end = min((offset for offset in offsets if offset > start), default=len(content))
        if start < 0:
            raise ValueError("it has no network")
        lines = content[start:end].decode().splitlines()[1:]
    except (struct.error, IndexError, ValueError) as error:
        raise WeightsError(f"{path}: not a language of Tesseract 4 or 5 ({error}); install it again") from error
    # The first three entries stand for a space, for joined and for broken letters.
    return frozenset("".join(line.split(" ")[0] for line in lines[3:]) + " ")


def _name(languages: str) -> str:
    return "tesseract" if languages == ENGLISH else f"tesseract:{languages}"


def _files(languages: str) -> list[str]:
    return [f"{name}.traineddata" for name in languages.split("+")]


def _place(languages: str) -> Place | None:
    folder = _said(*_surroundings())[0]
    return first([Place(folder, dict.fromkeys(_files(languages), ""))]) if folder else None


def _surroundings() -> tuple[str, str | None]:
    return os.environ.get("PATH", ""), os.environ.get("TESSDATA_PREFIX")


@functools.cache
def _said(path: str, prefix: str | None) -> tuple[Path | None, tuple[str, ...]]:
    """Ask the program where its languages are and which, once for each PATH and TESSDATA_PREFIX."""
    program = shutil.which("tesseract", path=path)
    if program is None:
        return None, ()
    done = subprocess.run([program, "--list-langs"], capture_output=True, text=True, check=False)
    folder, *names = done.stdout.splitlines() or [""]
    said = re.search(r'"(.+)"', folder)
    return (Path(said[1]), tuple(names)) if said else (None, ())


class Engine:
    """Reads on the CPU, in as many calls of the program at once as torch has threads.

    A box is read in a picture of its own, so no other box changes its text.
    """

    def __init__(self, device: str = "cpu", languages: str = ENGLISH) -> None:
        """Find the program; `device` is not used.

        Raises:
            WeightsError: if the program or a language's file is not on this machine.
        """
        place = _place(languages)
        if place is None:
            raise WeightsError(missing(languages))
        self.name = _name(languages)
        self.digests: Mapping[str, str] = place.digests()
        self._languages = languages
        # One thread: on lines of text it is as fast, and takes nothing from what runs beside it.
        self._environment = {**os.environ, "OMP_THREAD_LIMIT": "1", "TESSDATA_PREFIX": str(place.folder)}
        self.version = version()

    def read_boxes(self, image: Tensor, boxes: Sequence[Box]) -> list[str]:
        """Read one line of text in each box, all in one call of the program; see `vtbench.ocr.Engine`."""
        return self.read_boxes_of([image], [boxes])[0]

    def read_page(self, image: Tensor) -> str:
        """Read a picture as one block of text; see `vtbench.ocr.Engine`. Tesseract's own order is kept."""
        return self.read_pages([image])[0]

    def read_boxes_of(self, images: Sequence[Tensor], boxes: Sequence[Sequence[Box]]) -> list[list[str]]:
        """Read the boxes of several pictures; see `vtbench.ocr.ManyBoxes`."""
        from vtbench.images import to_pil

        lines = []
        for image, own in zip(images, boxes, strict=True):
            check_image(image)
            lines += [to_pil(image).crop(grown(box, image, MARGIN)) for box in own]
        # It reads letters out of a line without any ink, when it is told that there is one: such a line is not shown.
        inked = [index for index, line in enumerate(lines) if np.ptp(np.asarray(line), axis=(0, 1)).any()]
        texts = [""] * len(lines)
        for index, text in zip(inked, self._read([_prepared(lines[index]) for index in inked], _ONE_LINE), strict=True):
            texts[index] = " ".join(text.split())
        left = iter(texts)
        return [[next(left) for _ in own] for own in boxes]

    def read_pages(self, images: Sequence[Tensor]) -> list[str]:
        """Read several pictures, each as one block of text; see `vtbench.ocr.ManyPages`."""
        from vtbench.images import to_pil

        enlarged = []
        for image in images:
            check_image(image)
            height, width = image.shape[-2:]
            size = (_PAGE_SCALE * width, _PAGE_SCALE * height)
            enlarged.append(to_pil(image).resize(size, Image.Resampling.BICUBIC))
        texts = self._read(enlarged, _ONE_BLOCK)
        return ["\n".join(line for line in (line.strip() for line in text.splitlines()) if line) for text in texts]

    def _read(self, pictures: Sequence[Image.Image], mode: str) -> list[str]:
        """Read several pictures: starting the program costs more than reading a line, so a call takes many."""
        import torch

        workers = torch.get_num_threads()
        each = min(_CALL, math.ceil(len(pictures) / workers)) or 1
        parts = [pictures[start : start + each] for start in range(0, len(pictures), each)]
        with ThreadPoolExecutor(workers) as pool:
            return [text for texts in pool.map(lambda part: self._called(part, mode), parts) for text in texts]

    def _called(self, pictures: Sequence[Image.Image], mode: str) -> list[str]:
        """Read several pictures in one call of the program."""
        with tempfile.TemporaryDirectory() as folder:
            names = []
            for index, picture in enumerate(pictures):
                names.append(str(Path(folder) / f"{index}.pnm"))
                picture.save(names[-1])
            listed = Path(folder) / "list.txt"
            listed.write_text("\n".join(names) + "\n")
            how = ("-l", self._languages, "--oem", "1", "--psm", mode, "--dpi", "70")
            said = _run([str(listed), "stdout", *how], self._environment)
        return parted(said, len(pictures))


def _run(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    try:
        done = subprocess.run(
            [str(shutil.which("tesseract")), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
            timeout=_PATIENCE,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise WeightsError(f"tesseract could not be run ({error}); try `tesseract --version` by hand") from error
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise WeightsError(f"tesseract ended with {done.returncode}: {reason}; try `tesseract --version` by hand")
    return done.stdout


def parted(said: str, count: int) -> list[str]:
    """Cut what Tesseract printed into the texts of its pictures, between which it puts form feeds.

    Raises:
        DataError: if there are not so many.
    """
    texts = said.split("\f")
    if len(texts) == count + 1 and not texts[-1].strip():
        texts.pop()  # older releases end with one, too
    if len(texts) != count:
        raise DataError(f"tesseract gave {len(texts)} texts for {count} pictures; run it on one of them by hand")
    return texts


def _prepared(line: Image.Image) -> Image.Image:
    """Scale a line to the height that Tesseract reads best and continue its edges outwards."""
    width = min(_WIDEST, max(1, round(line.width * _LINE_HEIGHT / line.height)))
    scaled = np.asarray(line.resize((width, _LINE_HEIGHT), Image.Resampling.BICUBIC))
    return Image.fromarray(np.pad(scaled, ((_BORDER, _BORDER), (_BORDER, _BORDER), (0, 0)), mode="edge"))
