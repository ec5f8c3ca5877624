"""OCR engines behind one small interface: how text is read back from pictures.

An engine `name` is the file `name.py` here, or a module (or any object) of another package that an entry point of the
group `vtbench.ocr` names. Such a file says itself where its files are, which they are, how it is installed and which
characters it writes: `File` below. One whose languages are installed one by one also has a function `languages`, and
its name may choose among them: `tesseract:deu+eng`. All engines share one reading order. Importing loads no torch.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

from vtbench.cards import LANGUAGES
from vtbench.errors import DataError, WeightsError
from vtbench.signs import composed

if TYPE_CHECKING:
    from torch import Tensor

GROUP = "vtbench.ocr"
"""Entry points of this group add engines."""

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are exclusive."""


class Engine(Protocol):
    """What reads; a file's class `Engine`, built by `Engine(device)`, or by `Engine(device, languages)`."""

    @property
    def name(self) -> str:
        """The file's name, and the languages where they were chosen: what `load` was called with."""

    @property
    def version(self) -> str:
        """Version of the program that reads: two versions' rates don't compare."""

    @property
    def digests(self) -> Mapping[str, str]:
        """The weight files in use: name to sha256."""

    def read_boxes(self, image: Tensor, boxes: Sequence[Box]) -> list[str]:
        """Read one line of text in each box.

        The text of a box does not depend on which other boxes are read with it.

        Args:
            image: uint8, (3, H, W).
            boxes: where the lines are; the engine adds the margin that it needs.

        Returns:
            one text a box, in the order of the boxes; empty where nothing is read.

        Raises:
            DataError: if it is not a uint8 picture, or a box is empty or outside it.
        """

    def read_page(self, image: Tensor) -> str:
        """Find the text on a picture and read it, line by line from the top (see `reading_order`).

        Args:
            image: uint8, (3, H, W).

        Raises:
            DataError: if it is not a uint8 picture.
        """


@runtime_checkable
class ManyBoxes(Protocol):
    """An engine that reads the boxes of several pictures together, faster than one after the other."""

    def read_boxes_of(self, images: Sequence[Tensor], boxes: Sequence[Sequence[Box]]) -> list[list[str]]:
        """Do what `read_boxes` does of each picture; the text of a box depends on no other box or picture."""


@runtime_checkable
class ManyPages(Protocol):
    """An engine that reads several pictures together, faster than one after the other."""

    def read_pages(self, images: Sequence[Tensor]) -> list[str]:
        """Do what `read_page` does of each picture; the text of a picture depends on no other one."""


class File(Protocol):
    """What the file of an engine says of itself. None of it builds the engine, loads torch or touches a network.

    Functions but `version` take the languages as they stand in the name, in one string, where it chooses any. Two more
    may be there: `fetch() -> Path` brings the files, where `vtbench fetch` can; `languages() -> tuple[str, ...]` says
    which there are on this machine beside the default, where they are installed one by one.
    """

    SCRIPTS: tuple[str, ...]
    """What it reads, or would where it is installed: first words of Unicode's names of letters (LATIN, CJK)."""

    Engine: Callable[..., Engine]

    @staticmethod
    def find(*languages: str) -> Path | None:
        """Its file, or the folder of its files; None where it is not on this machine whole.

        Raises:
            WeightsError: if a file of its name is another file.
        """

    @staticmethod
    def missing(*languages: str) -> str:
        """One line: what was looked for, and the command that installs it."""

    @staticmethod
    def digests(*languages: str) -> dict[str, str]:
        """File name to sha256 of what it reads with; empty where it is not on this machine."""

    @staticmethod
    def version() -> str:
        """Version of the program that reads; asked only where `find` found it."""

    @staticmethod
    def characters(*languages: str) -> frozenset[str]:
        """Every character that it can write; asked only where `find` found it."""


# --- which there are --------------------------------------------------------------------------------------------------


def names() -> tuple[str, ...]:
    """Every engine that is known, whether or not it is installed: those of this package, then those from outside."""
    return (*_own(), *sorted(_outside()))


def _own() -> tuple[str, ...]:
    return tuple(sorted(entry.name for entry in pkgutil.iter_modules(__path__)))


def is_own(name: str) -> bool:
    """Tell whether an engine is a file of this package, whose code is part of every run's identity."""
    return name.partition(":")[0] in _own()


def _outside() -> dict[str, metadata.EntryPoint]:
    found: dict[str, metadata.EntryPoint] = {}
    for entry in metadata.entry_points(group=GROUP):
        if entry.name in _own() or found.setdefault(entry.name, entry).value != entry.value:
            raise DataError(
                f"{entry.name}: two OCR engines of this name, one of them {entry.value}; "
                f"rename its entry point (group {GROUP}) or uninstall one"
            )
    return found


def _file(name: str) -> tuple[File, tuple[str, ...]]:
    """The file of an engine, and what is given to its functions: its languages, where the name chooses any.

    Raises:
        DataError: if there is no such engine, or it has no languages to choose from.
    """
    base, colon, languages = name.partition(":")
    if base in _own():
        file = cast(File, importlib.import_module(f"{__name__}.{base}"))
    elif base in (outside := _outside()):
        file = cast(File, outside[base].load())
    else:
        raise DataError(f"{name}: no such OCR engine; expected one of {', '.join(names())}")
    if not colon:
        return file, ()
    if not hasattr(file, "languages"):
        raise DataError(f"{name}: {base} has no languages to choose from; expected {base} alone")
    if not re.fullmatch(LANGUAGES, languages):
        raise DataError(f"{name}: not a list of languages; expected it like {base}:deu or {base}:deu+eng")
    return file, (languages,)


def file_of(name: str) -> File:
    """The file of an engine, without building it.

    Raises:
        DataError: if there is no such engine.
    """
    return _file(name)[0]


def find(name: str) -> Path | None:
    """Look for an engine on this machine; touches no network.

    Returns:
        Its file, or the folder of its files; None where it is not here whole.

    Raises:
        DataError: if there is no such engine.
        WeightsError: if a file of its name is another file, naming both digests.
    """
    file, languages = _file(name)
    return file.find(*languages)


def missing(name: str) -> str:
    """Say in one line what was looked for and the command that installs the engine.

    Raises:
        DataError: if there is no such engine.
    """
    file, languages = _file(name)
    return file.missing(*languages)


def require(name: str) -> Path:
    """Find an engine or say how to get it.

    Raises:
        DataError: if there is no such engine.
        WeightsError: with `missing(name)` where it is not on this machine.
    """
    path = find(name)
    if path is None:
        raise WeightsError(missing(name))
    return path


def digests(name: str) -> dict[str, str]:
    """Say which files an engine reads with, for the record of a run: file name to sha256; empty if it is not here.

    Raises:
        DataError: if there is no such engine.
        WeightsError: if a file of its name is another file.
    """
    file, languages = _file(name)
    return file.digests(*languages)


def version(name: str) -> str:
    """The version of the program that reads, for the record of a run; asked without building the engine.

    Raises:
        DataError: if there is no such engine.
        WeightsError: if it is not on this machine.
    """
    require(name)
    return file_of(name).version()


def fetch(name: str = "easyocr") -> Path:
    """Bring an engine's files to this machine, unless they are there.

    Raises:
        DataError: if there is no such engine.
        WeightsError: if they can't be brought; with the command that installs them where that is another's business.
    """
    file, _ = _file(name)
    fetch_files: Callable[[], Path] | None = getattr(file, "fetch", None)
    if find(name) is None and fetch_files:
        fetch_files()
    return require(name)


def load(name: str = "easyocr", device: str = "cpu") -> Engine:
    """Build an engine, once a name and device.

    Raises:
        DataError: if there is no such engine.
        WeightsError: if its weights are not on this machine; names the command that brings them.
    """
    return _loaded(name, device)


@functools.cache
def _loaded(name: str, device: str) -> Engine:
    file, languages = _file(name)
    return file.Engine(device, *languages)


def read_boxes(engine: Engine, images: Sequence[Tensor], boxes: Sequence[Sequence[Box]]) -> list[list[str]]:
    """Read the boxes of several pictures, together where the engine can (`ManyBoxes`).

    Args:
        engine: any.
        images: uint8, (3, H, W) each.
        boxes: those of each picture.

    Returns:
        One text a box for each picture: what `Engine.read_boxes` gives of it.

    Raises:
        DataError: as `Engine.read_boxes`.
    """
    if isinstance(engine, ManyBoxes):
        return engine.read_boxes_of(images, boxes)
    return [engine.read_boxes(image, own) for image, own in zip(images, boxes, strict=True)]


def read_pages(engine: Engine, images: Sequence[Tensor]) -> list[str]:
    """Read several pictures, together where the engine can (`ManyPages`): what `Engine.read_page` gives of each.

    Raises:
        DataError: as `Engine.read_page`.
    """
    return engine.read_pages(images) if isinstance(engine, ManyPages) else [engine.read_page(image) for image in images]


# --- what they can read -----------------------------------------------------------------------------------------------

_SHOWN = 12
"""Characters that a message names at most."""


def unreadable(name: str, text: str) -> str | None:
    """Say in one line which characters of a text an engine never writes, and which engines do; None where it has all.

    An engine that doesn't know a letter reads another one in its place, so the floor on the originals rises, and a
    tokenizer is blamed for it. White space and signs that nobody sees are passed over; a text counts in the form that
    most normalisations compare (`vtbench.signs.composed`).

    Args:
        name: an engine that is on this machine.
        text: all that is to be read with it, in any order.

    Raises:
        DataError: if there is no such engine.
        WeightsError: if it is not on this machine.
    """
    require(name)
    signs = _visible(text)
    lost = _outside_of(name, signs)
    if not lost:
        return None
    share = sum(sign in lost for sign in signs) / len(signs)
    return f"{name} can't write {_listed(lost)} ({share:.1%} of the text); {_instead(name, signs, lost)}"


def lost(name: str, text: str) -> float:
    """Share of a text's visible characters that an engine never writes; see `unreadable`."""
    require(name)
    signs = _visible(text)
    outside = _outside_of(name, signs)
    return sum(sign in outside for sign in signs) / len(signs) if signs else 0.0


def _visible(text: str) -> list[str]:
    return [sign for sign in composed(text) if not sign.isspace() and unicodedata.category(sign) != "Cc"]


def _outside_of(name: str, signs: Sequence[str]) -> frozenset[str]:
    file, languages = _file(name)
    return frozenset(signs) - file.characters(*languages)


def _listed(signs: frozenset[str]) -> str:
    shown = " ".join(sorted(signs)[:_SHOWN])
    return f"{shown} and {len(signs) - _SHOWN} more characters" if len(signs) > _SHOWN else shown


def _instead(name: str, signs: Sequence[str], lost: frozenset[str]) -> str:
    """Name the engines here that lose least, then those that would read it and are not here."""
    others = [other for other in _choices() if other != name]
    left = {other: _outside_of(other, signs) for other in others}
    least = min((len(some) for some in left.values()), default=len(lost))
    better = [
        other + (f" (all but {_listed(some)})" if some else "")
        for other, some in left.items()
        if len(some) == least < len(lost)
    ]
    if better:
        return f"better: {', '.join(better)}"
    wanted = {unicodedata.name(sign, "?").split()[0] for sign in lost if sign.isalpha()}
    for other in names():
        file, _ = _file(other)
        if wanted and file.find() is None and wanted <= set(file.SCRIPTS):
            return f"{other} would read it, but {file.missing()}"
    several = [other for other in names() if hasattr(_file(other)[0], "languages")]
    hint = f"; a further language of {' or '.join(several)} may, named as in {several[0]}:deu" if several else ""
    return f"no engine that is installed can{hint}"


def _choices() -> list[str]:
    """Every engine that is on this machine, and with each of its further languages alone."""
    found: list[str] = []
    for name in names():
        file, _ = _file(name)
        found += [name] if file.find() is not None else []
        languages: Callable[[], tuple[str, ...]] = getattr(file, "languages", tuple)
        found += [f"{name}:{language}" for language in languages()]
    return found


# --- what their files share -------------------------------------------------------------------------------------------


def check_image(image: Tensor) -> None:
    """Refuse what is not one picture.

    Raises:
        DataError: saying what was given.
    """
    if str(image.dtype) != "torch.uint8" or image.ndim != 3 or len(image) != 3:
        raise DataError(f"OCR got {tuple(image.shape)} {image.dtype}; expected one uint8 picture (3, H, W)")


def grown(box: Box, image: Tensor, share: float) -> Box:
    """Enlarge a box by a share of its height on each side, within the picture (3, H, W).

    Raises:
        DataError: if the box is empty or outside the picture.
    """
    height, width = image.shape[-2:]
    left, top, right, bottom = box
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise DataError(f"OCR box {box}: empty or outside a picture of {width}x{height} pixels")
    margin = round(share * (bottom - top))
    return max(0, left - margin), max(0, top - margin), min(width, right + margin), min(height, bottom + margin)


def around(corners: Sequence[Sequence[float]]) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the upright box around the corners (x, y) of a piece of text."""
    across, down = [float(corner[0]) for corner in corners], [float(corner[1]) for corner in corners]
    return min(across), min(down), max(across), max(down)


def reading_order(found: Sequence[tuple[tuple[float, float, float, float], str]]) -> str:
    """Join pieces of text as one reads them: lines from the top, each from the left.

    A piece is on the line above it if their vertical centres differ by at most half the mean height of all pieces.

    Args:
        found: box (left, top, right, bottom) and text of each piece, in any order.

    Returns:
        pieces joined by spaces, lines by line feeds.
    """
    if not found:
        return ""
    reach = 0.5 * sum(bottom - top for (_, top, _, bottom), _ in found) / len(found)
    lines: list[list[tuple[float, float, str]]] = []  # centre, left and text of each piece
    for (left, top, _, bottom), text in sorted(found, key=lambda piece: piece[0][1] + piece[0][3]):
        centre = (top + bottom) / 2
        if not lines or centre - sum(piece[0] for piece in lines[-1]) / len(lines[-1]) > reach:
            lines.append([])
        lines[-1].append((centre, left, text))
    return "\n".join(" ".join(text for _, _, text in sorted(line, key=lambda piece: piece[1])) for line in lines)
