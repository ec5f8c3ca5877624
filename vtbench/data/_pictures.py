"""What all sources of picture files share: the list, the known text beside it, the geometry, the digest."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import PurePosixPath
from typing import Literal, Protocol

from PIL import Image

from vtbench import data, geometry, images, pictures
from vtbench.data import _known, _names, _tables
from vtbench.data._known import Box, Known, Line
from vtbench.data._names import SUFFIXES, printable
from vtbench.errors import ChangedError, DataError
from vtbench.types import Sample, TextLine

log = logging.getLogger("vtbench")

MAX_BYTES = 1 << 30
"""A file that is or claims to be larger is not read."""

Crop = Literal["center", "letterbox", "plain"]
"""How a picture is brought to a task's size; "plain" reads it as the published evaluation codes do, at native size."""


class Files(Protocol):
    """A folder or archive: regular files by their relative names, each read on its own."""

    @property
    def names(self) -> Sequence[PurePosixPath]:
        """All of them, none outside the folder or archive."""
        ...

    @property
    def left_out(self) -> Sequence[str]:
        """What else was meant as a picture and is not among the names: its kind in plain words, one entry a file."""
        ...

    @property
    def hint(self) -> str:
        """What may be the matter where a name is not found, to be put behind an error; empty where nothing is known."""
        ...

    def begin(self, name: PurePosixPath) -> bytes:
        """Read a file's first bytes, as many as tell whether it is a picture; none where it can't be read."""
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

    def digest(self, name: PurePosixPath) -> str:
        """sha256 of one file; raises as `read` does."""
        self.read(name)
        return (self._seen[name] or b"").hex()


class Pictures(data.Source):
    """Picture files in a fixed order: the base of every source that reads pictures of somebody's."""

    revision: str | None = None

    def __init__(
        self,
        files: Files,
        *,
        size: int | None,
        crop: Crop = "center",
        flat: bool = False,
        text: bool = True,
        shown: str = "",
        known: Mapping[PurePosixPath, Known] | None = None,
        elsewhere: Iterable[PurePosixPath] = (),
    ) -> None:
        """List the pictures and read what is known of them.

        Args:
            files: the folder or archive.
            size: height and width that a task asks for; None gives each picture as it is.
            crop: how a picture is brought to that size.
            flat: pictures are known and sorted by their file names alone, where no two have the same.
            text: whether known text is needed; where not, nothing that is wrong with it stops a picture.
            shown: what errors call the folder or archive.
            known: what is known of each picture; where left out, tables and files beside it say so.
            elsewhere: files of other splits, which tables may name.
        """
        self.size = size
        self.crop: Crop = crop
        found, left_out = _names.sort_out(files.names, files.begin)
        if known is not None:
            left_out |= {name: "pictures without an annotation" for name in found if name not in known}
            found = [name for name in found if name in known]
        self._passed_over = _names.counted(files.left_out, left_out.values())
        if not found:
            raise DataError(f"{shown}: holds no picture{_instead(self._passed_over)}")
        flat = flat and len({name.name for name in found}) == len(found)
        self.names = tuple(sorted(found, key=lambda name: os.fsencode(name.name if flat else str(name))))
        self.ids = [printable(PurePosixPath(name.name) if flat else name) for name in self.names]
        self._contents = Contents(files.content)
        self._needs_text = text
        self._known = self._tables(files, {*left_out, *elsewhere}) if known is None else known
        self._companions = _known.Companions(
            files.names if known is None else (), self._contents.read, (*self.names, *left_out)
        )

    def __len__(self) -> int:
        """Count the picture files."""
        return len(self.names)

    def sample_id(self, index: int) -> str:
        """Return the relative path; bytes that are not UTF-8 and control characters are shown as escapes."""
        return self.ids[index]

    @property
    def passed_over(self) -> Mapping[str, int]:
        """Files that were meant as pictures and are not read, by kind."""
        return self._passed_over

    @cached_property
    def text(self) -> Literal["none", "page", "boxes"]:
        """Whether text is known, and where on the picture: "boxes" where every line has one.

        Raises:
            DataError: if no text can be read, though there is some.
        """
        boxed: set[bool] = set()
        broken: DataError | None = None
        for index in range(len(self)):
            try:
                boxed |= {box is not None for _, box, _ in self._known_of(index).lines}
            except DataError as error:  # that picture's own row says so
                broken = broken or error
        if broken is not None and not boxed:
            raise broken
        return "none" if not boxed else "boxes" if boxed == {True} else "page"

    @cached_property
    def known_text(self) -> str:
        """What tables and companions say of all pictures."""
        found: list[str] = []
        for index in range(len(self)):
            with contextlib.suppress(DataError):  # that picture's own row says so
                found += [text for text, _, _ in self._known_of(index).lines]
        return "".join(found)

    @property
    def attributes(self) -> frozenset[str]:
        """Names of the attributes that tables and companions give."""
        said = frozenset(name for known in self._known.values() for name in known.attributes)
        return said | self._companions.attributes

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
                content = self._contents.digest(name)
                known = self._known_of(index)
            except DataError as error:
                content, known = str(error), Known()
            total.update(json.dumps([self.ids[index], content, known.lines, dict(known.attributes)]).encode())
        return total.hexdigest()

    def _known_of(self, index: int) -> Known:
        name = self.names[index]
        known = self._known.get(name, Known())
        if self._companions:
            try:
                beside = self._companions.known(name, text=self._needs_text and not known.lines)
            except DataError:
                if self._needs_text:
                    raise
                return known
            return Known(known.lines or beside.lines, {**beside.attributes, **known.attributes}, known.size)
        return known if self._needs_text else Known((), known.attributes)

    def _tables(self, files: Files, left_out: Iterable[PurePosixPath]) -> dict[PurePosixPath, Known]:
        found: dict[PurePosixPath, Known] = {}
        tables = sorted(name for name in files.names if name.name.lower() in _known.TABLES)
        names = _tables.Names(map(str, self.names if tables else ()))
        others = _tables.Names(map(str, left_out))
        for table in tables:
            try:
                content = self._contents.read(table)
                said = _known.of_table(
                    table, content, pictures=names, left_out=others, hint=files.hint, text=self._needs_text
                )
                if twice := next((name for name in said if name in found), None):
                    raise DataError(f"{printable(table)}: {printable(twice)} is in another table too; expected one row")
            except DataError as error:
                if self._needs_text:
                    raise
                log.warning("%s; no text is needed here, so the pictures are scored without this table", error)
            else:
                found |= said
        return _known.alike(found)


def _instead(passed_over: Mapping[str, int]) -> str:
    if not passed_over:
        return f"; expected files that end in {', '.join(sorted(SUFFIXES))}"
    said = ", ".join(f"{count} {kind}" for kind, count in passed_over.items())
    hints = [hint for kind, hint in _names.HINTS.items() if kind in passed_over]
    return f" that is read; passed over: {said}" + (f"; {'; '.join(hints)}" if hints else "")


# --- geometry ---------------------------------------------------------------------------------------------------------


def fitted(name: str, picture: Image.Image, known: Known, size: int | None, crop: Crop) -> Sample:
    """Bring an upright RGB picture, and the boxes of its text, to the task's size.

    A box is clipped to its picture. Text whose box the crop cuts is dropped, and so is text of unknown place where
    anything is cut off.

    Raises:
        DataError: if the picture is too long and narrow for that size, or not the one that the boxes belong to; if a
            box lies wholly outside it.
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
    clipped = [_clipped(name, said, (width, height)) for said in known.lines]
    lines = tuple(line for said in clipped if (line := _moved(said, (width, height), window, shape)) is not None)
    return Sample(name, image, lines, known.attributes)


def _window(width: int, height: int, size: int | None, crop: Crop) -> tuple[int, int, int, int]:
    """Where the whole picture lies on the task's square: left, top, width, height; it may stand out."""
    if size is None:
        return 0, 0, width, height
    if crop == "letterbox":
        return geometry.letterbox_window(width, height, size)
    left, top, wide, high = geometry.centre_window(width, height, size)
    return -left, -top, wide, high


def _clipped(name: str, said: Line, shape: tuple[int, int]) -> Line:
    text, box, ratio = said
    if box is None:
        return said
    kept: Box = max(box[0], 0), max(box[1], 0), min(box[2], shape[0]), min(box[3], shape[1])
    if kept[0] >= kept[2] or kept[1] >= kept[3]:
        raise DataError(
            f"{name}: box [{', '.join(f'{value:g}' for value in box)}] of {printable(PurePosixPath(text[:50]))} lies "
            f"outside the picture, which is {shape[0]}x{shape[1]}; expected left, top, right, bottom in its pixels"
        )
    return text, kept, ratio


def _moved(
    said: Line,
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
