"""What all sources of picture files share: the list, the known text beside it, the geometry, the digest."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, Literal, Protocol

from PIL import Image

from vtbench import data, geometry, images, pictures
from vtbench.errors import ChangedError, DataError
from vtbench.types import Sample, TextLine

SUFFIXES = frozenset({
    ".avif", ".bmp", ".gif", ".j2k", ".jfif", ".jp2", ".jpeg", ".jpg", ".jxl",
    ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp",
})  # fmt: skip
"""File names that end so are pictures, whatever their case; other files are passed over."""

METADATA = ("metadata.csv", "metadata.jsonl")
"""Tables with one row a picture, by the convention of the hub's image folders."""

MAX_BYTES = 1 << 30
"""A file that is or claims to be larger is not read."""

Crop = Literal["center", "letterbox", "plain"]
"""How a picture is brought to a task's size; "plain" reads it as the published evaluation codes do, at native size."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Known:
    """What is known of one picture beside its pixels."""

    lines: tuple[tuple[str, Box | None, float | None], ...] = ()
    """Text, its box in pixels of the upright file (None: somewhere on it), and its relative size where stated."""
    attributes: Mapping[str, str | float] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    """Width and height that the boxes belong to, where stated."""


class Files(Protocol):
    """A folder or archive: regular files by their relative names, each read on its own."""

    @property
    def names(self) -> Sequence[PurePosixPath]:
        """All of them, none outside the folder or archive."""
        ...

    def content(self, name: PurePosixPath) -> bytes:
        """Read one whole file.

        Raises:
            DataError: with the reason.
        """
        ...


class Contents:
    """Reads files, and notices where one is read that is not what it was the first time."""

    def __init__(self, read: Callable[[PurePosixPath], bytes]) -> None:
        self._read = read
        self._seen: dict[PurePosixPath, bytes | None] = {}

    def read(self, name: PurePosixPath) -> bytes:
        """Read one file.

        Raises:
            DataError: if it can't be read, and never could.
            ChangedError: if it could be read before and can't be now, or the other way round, or is another file.
        """
        try:
            content = self._read(name)
        except DataError as error:
            if self._seen.setdefault(name, None) is not None:
                raise ChangedError(f"{error}; it could be read before, so start the run again") from error
            raise
        found = hashlib.sha256(content).digest()
        before = self._seen.setdefault(name, found)
        if before != found:
            how = "could not be read before and can be now" if before is None else "changed while it was being used"
            raise ChangedError(f"{printable(name)}: {how}; start the run again")
        return content


class Pictures(data.Source):
    """Picture files in a fixed order: the base of every source that reads pictures of somebody's."""

    revision: str | None = None
    """The commit that was really read, where the source has such."""

    def __init__(
        self,
        files: Files,
        *,
        size: int | None,
        crop: Crop = "center",
        flat: bool = False,
        shown: str = "",
        beside: bool = False,
        known: Mapping[PurePosixPath, Known] | None = None,
    ) -> None:
        """List the pictures and read what is known of them.

        Args:
            files: the folder or archive.
            size: height and width that a task asks for; None gives each picture as it is.
            crop: how a picture is brought to that size.
            flat: pictures are known and sorted by their file names alone.
            shown: what errors call the folder or archive.
            beside: files of a picture's own stem say something of it, as in WebDataset: .txt and .json its text, .cls
                its class.
            known: what is known of each picture; where left out, tables (METADATA) and files beside it say so.
        """
        self.size = size
        self.crop: Crop = crop
        self._files = files
        found = [name for name in files.names if name.suffix.lower() in SUFFIXES]
        if known is not None:
            found = [name for name in found if name in known]
        if not found:
            raise DataError(f"{shown}: holds no picture; expected files that end in {', '.join(sorted(SUFFIXES))}")
        key = (lambda name: os.fsencode(name.name)) if flat else (lambda name: os.fsencode(str(name)))
        self.names = tuple(sorted(found, key=key))
        self.ids = [printable(PurePosixPath(name.name) if flat else name) for name in self.names]
        if flat and len(set(self.ids)) < len(self.ids):
            twice = next(name for name, after in zip(self.ids, self.ids[1:], strict=False) if name == after)
            raise DataError(f"{shown}: {twice} is there more than once; expected each file name once")
        self._known = _metadata(files, self.names) if known is None else known
        self._beside = _beside(files.names) if beside else {}
        self._contents = Contents(files.content)

    def __len__(self) -> int:
        """Count the picture files."""
        return len(self.names)

    def sample_id(self, index: int) -> str:
        """Return the relative path; bytes that are not UTF-8 and control characters are shown as escapes."""
        return self.ids[index]

    @property
    def text(self) -> Literal["none", "page", "boxes"]:
        """Whether text is known, and where on the picture; a file beside a picture is looked at for the first one."""
        whole = [known for known in self._known.values() if known.lines]
        if not whole and self._beside:
            first = next((index for index, name in enumerate(self.names) if _stem(name) in self._beside), None)
            whole = [] if first is None else [known for known in [self._known_of(first)] if known.lines]
        if not whole:
            return "none"
        return "boxes" if all(box for known in whole for _, box, _ in known.lines) else "page"

    @property
    def attributes(self) -> frozenset[str]:
        """Names of the attributes that the tables give."""
        return frozenset(name for known in self._known.values() for name in known.attributes)

    def read(self, index: int) -> Sample:
        """Read one picture (`pictures.read` says how) and bring it to the task's size."""
        name = self.ids[index]
        picture = pictures.read(self._contents.read(self.names[index]), name, plain=self.crop == "plain")
        return fitted(name, picture, self._known_of(index), self.size, self.crop)

    @cached_property
    def digest(self) -> str:
        """sha256 over ids, contents and known text of all pictures, and over the geometry."""
        total = hashlib.sha256(json.dumps([self.size, self.crop]).encode())
        for index, name in enumerate(self.names):
            try:
                content = hashlib.sha256(self._contents.read(name)).hexdigest()
                known = self._known_of(index)
            except DataError as error:
                content, known = str(error), Known()
            total.update(json.dumps([self.ids[index], content, known.lines, dict(known.attributes)]).encode())
        return total.hexdigest()

    def _known_of(self, index: int) -> Known:
        name = self.names[index]
        known = self._known.get(name, Known())
        for beside in self._beside.get(_stem(name), ()):
            known = _merge(known, self._said(beside))
        return known

    def _said(self, name: PurePosixPath) -> Known:
        try:
            said = self._contents.read(name).decode("utf-8")
            if name.suffix == ".txt":
                return Known(_page(said))
            if name.suffix == ".cls":
                return Known(attributes={"class": said.strip()})
            row = json.loads(said)
            # Its other entries are of no fixed type from picture to picture, so they can't be columns of a table.
            return Known(known_of_row(row).lines) if isinstance(row, dict) else Known()
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DataError(f"{printable(name)}: can't be read ({short(error)}); expected a picture's text") from error


# --- geometry ---------------------------------------------------------------------------------------------------------


def fitted(name: str, picture: Image.Image, known: Known, size: int | None, crop: Crop) -> Sample:
    """Bring an upright RGB picture, and the boxes of its text, to the task's size.

    Text whose box the crop cuts is dropped, and so is text of unknown place where anything is cut off.

    Raises:
        DataError: if the picture is too long and narrow for that size, or not the one that the boxes belong to.
    """
    width, height = picture.size
    if known.size not in (None, (width, height)):
        raise DataError(f"{name}: is {width}x{height}, but its text was marked on {known.size}; it is another picture")
    window = _window(width, height, size, crop)
    if window[2] * window[3] > pictures.MAX_PIXELS:
        raise DataError(f"{name}: {width}x{height} is too long and narrow to be brought to {size}x{size}")
    if size is None:
        image = images.from_pil(picture)
    elif crop == "letterbox":
        image = geometry.fit(picture, "letterbox", size)
    else:
        image = images.from_pil(geometry.resize_and_crop(picture, size))
    shape = (image.shape[-1], image.shape[-2])
    lines = tuple(line for said in known.lines if (line := _moved(said, (width, height), window, shape)) is not None)
    return Sample(name, image, lines, known.attributes)


def _window(width: int, height: int, size: int | None, crop: Crop) -> tuple[int, int, int, int]:
    """Where the whole picture lies on the task's square: left, top, width, height; it may stand out."""
    if size is None:
        return 0, 0, width, height
    if crop == "letterbox":
        return geometry.letterbox_window(width, height, size)
    left, top, wide, high = geometry.centre_window(width, height, size)
    return -left, -top, wide, high


def _moved(
    said: tuple[str, Box | None, float | None],
    before: tuple[int, int],
    window: tuple[int, int, int, int],
    shape: tuple[int, int],
) -> TextLine | None:
    text, box, ratio = said
    left, top, wide, high = window
    if box is None:
        cut = left < 0 or top < 0 or left + wide > shape[0] or top + high > shape[1]
        return None if cut else TextLine(text, (left, top, left + wide, top + high), ratio)
    across, down = wide / before[0], high / before[1]
    # Whole pixels that hold all of the box, a hair's breadth aside: 12.000001 ends at 12.
    moved = (
        math.floor(box[0] * across + left + 1e-6),
        math.floor(box[1] * down + top + 1e-6),
        math.ceil(box[2] * across + left - 1e-6),
        math.ceil(box[3] * down + top - 1e-6),
    )
    inside = moved[0] >= 0 and moved[1] >= 0 and moved[2] <= shape[0] and moved[3] <= shape[1]
    return TextLine(text, moved, ratio) if inside and moved[0] < moved[2] and moved[1] < moved[3] else None


# --- what is known of pictures ----------------------------------------------------------------------------------------


def _metadata(files: Files, pictures: Sequence[PurePosixPath]) -> dict[PurePosixPath, Known]:
    there = set(pictures)
    found: dict[PurePosixPath, Known] = {}
    for table in (name for name in files.names if name.name in METADATA):
        for number, row in enumerate(_rows(files.content(table), table), start=1):
            said = row.get("file_name")
            if not isinstance(said, str) or not said:
                raise DataError(f"{printable(table)}: row {number} has no file_name; expected the name of a picture")
            picture = table.parent / said
            if picture not in there:
                raise DataError(f"{printable(table)}: row {number} names {said!r}, which is not among the pictures")
            if picture in found:
                raise DataError(f"{printable(table)}: {said!r} is there twice; expected one row a picture")
            try:
                found[picture] = known_of_row(row)
            except (TypeError, ValueError, KeyError) as error:
                raise DataError(f"{printable(table)}: row {number}: {short(error)}") from error
    return _alike(found)


def _rows(content: bytes, table: PurePosixPath) -> Iterable[dict[str, Any]]:
    try:
        said = content.decode("utf-8-sig")
        if table.suffix == ".csv":
            return list(csv.DictReader(io.StringIO(said, newline=""), strict=True))
        rows = [json.loads(line) for line in said.split("\n") if line.strip()]
    except (ValueError, csv.Error, RecursionError) as error:
        raise DataError(f"{printable(table)}: can't be read ({short(error)}); expected a table in UTF-8") from error
    if not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{printable(table)}: expected one JSON object a line")
    return rows


def known_of_row(row: Mapping[str, Any]) -> Known:
    """Read one row of a table: `text`, or `lines` with a text and a box each; other plain values are attributes."""
    lines: tuple[tuple[str, Box | None, float | None], ...] = ()
    if isinstance(text := row.get("text"), str):
        lines = _page(text)
    elif isinstance(text, list):
        lines = tuple(line for part in text for line in _page(str(part)))
    if said := row.get("lines"):
        lines = tuple((str(line["text"]), _box(line["box"]), None) for line in said)
    plain = {
        str(name): value if isinstance(value, str) else float(value)
        for name, value in row.items()
        if isinstance(value, str | int | float) and name not in ("file_name", "text", "lines")
    }
    return Known(lines, plain)


def _box(said: Sequence[float]) -> Box:
    left, top, right, bottom = (float(value) for value in said)
    if not (math.isfinite(left + top + right + bottom) and left < right and top < bottom):
        raise ValueError(f"box {list(said)}: expected left, top, right, bottom in pixels")
    return left, top, right, bottom


def _page(text: str) -> tuple[tuple[str, None, None], ...]:
    return tuple((" ".join(line.split()), None, None) for line in text.splitlines() if line.strip())


def _alike(found: dict[PurePosixPath, Known]) -> dict[PurePosixPath, Known]:
    """Make every attribute of one type: a column of the per-image table has one."""
    mixed = set()
    types: dict[str, type] = {}
    for known in found.values():
        for name, value in known.attributes.items():
            if types.setdefault(name, type(value)) is not type(value):
                mixed.add(name)
    if not mixed:
        return found
    return {
        picture: Known(
            known.lines, {name: str(value) if name in mixed else value for name, value in known.attributes.items()}
        )
        for picture, known in found.items()
    }


def _beside(names: Iterable[PurePosixPath]) -> dict[str, list[PurePosixPath]]:
    """Group the files that say something of a picture by its stem, as WebDataset does."""
    found: dict[str, list[PurePosixPath]] = {}
    for name in names:
        if name.suffix in (".txt", ".json", ".cls") and name.name not in METADATA:
            found.setdefault(_stem(name), []).append(name)
    return found


def _stem(name: PurePosixPath) -> str:
    """Cut a name at the first dot of its last part, as WebDataset does."""
    return str(name.parent / name.name.split(".", 1)[0])


def _merge(first: Known, second: Known) -> Known:
    return Known(first.lines or second.lines, {**second.attributes, **first.attributes})


def short(error: BaseException) -> str:
    """Put what an error says into one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


# --- names ------------------------------------------------------------------------------------------------------------


def printable(path: PurePosixPath | os.PathLike[str]) -> str:
    r"""Show a path in one line: undecodable bytes and unprintable characters escaped, backslashes doubled.

    Different paths are shown differently: a lone byte 0x85 is \x85, the control character U+0085 is \u0085.
    """
    decoded = os.fsencode(os.fspath(path)).replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")
    return "".join(sign if sign.isprintable() else _escape(sign) for sign in decoded)


def _escape(sign: str) -> str:
    return f"\\u{ord(sign):04x}" if 127 < ord(sign) < 256 else sign.encode("unicode_escape").decode()
