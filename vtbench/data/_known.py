"""What is known of a picture beside its pixels: text, where it stands, and attributes; from tables and companions."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

from vtbench.data import _tables
from vtbench.data._names import printable, short
from vtbench.errors import DataError
from vtbench.types import as_text

TABLES = ("metadata.csv", "metadata.tsv", "metadata.txt", "metadata.jsonl", "metadata.json")
"""Tables with one row a picture, by the convention of the hub's image folders, whatever their case."""

COMPANIONS = (".txt", ".json", ".cls")
"""Files of a picture's own name that say something of it, as in WebDataset: its text, and its class."""


def may_hold_text(name: PurePosixPath) -> bool:
    """Tell by its name whether a file may say what text pictures show; a picture's class is none."""
    return name.name.lower() in TABLES or (name.suffix.lower() in COMPANIONS and name.suffix.lower() != ".cls")


Box = tuple[float, float, float, float]
Line = tuple[str, Box | None, float | None]


@dataclass(frozen=True)
class Known:
    """What is known of one picture."""

    lines: tuple[Line, ...] = ()
    """Text, its box in pixels of the upright file (None: somewhere on it), and its relative size where stated."""
    attributes: Mapping[str, str | float] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    """Width and height that the boxes belong to, where stated."""


def known_of_row(row: Mapping[Any, Any], *, text: bool = True) -> Known:
    """Read one row of a table: its text, and what is left as attributes under any name.

    Args:
        row: `text` (text, a number or a list of these), or `lines` (a list of text, or of objects with `text` and
            `box`, or one object of such lists); every other text, number or truth value is an attribute, also one
            called `lines`, but for text where there is no `text`.
        text: whether text is wanted; where not, nothing that is wrong with it matters.

    Raises:
        ValueError: if the text, the lines or a box are of another kind, or two columns could be one and the same.
    """
    cells = {name: value for name, value in _tables.own_names(row, text=text).items() if value is not None}
    lines: tuple[Line, ...] = ()
    said = cells.pop("text", None)
    if text and said is not None:
        lines = tuple(line for part in (said if isinstance(said, list) else [said]) for line in page(_text(part)))
    listed = cells.get("lines")
    if isinstance(listed, str) and listed.lstrip().startswith("["):
        listed = _tables.loads(listed) if text else []
    if isinstance(listed, list | Mapping):
        del cells["lines"]
        if text and (parts := _listed(listed)):
            lines = tuple(line for part in parts for line in _line(part))
    elif text and said is None and isinstance(listed, str) and listed.strip():
        raise _no_lines(listed)
    cells.pop("file_name", None)
    attributes = {name: found for name, value in cells.items() if (found := _plain(value)) is not None}
    return Known(lines, attributes)


def _text(said: object) -> str:
    if isinstance(said, str) and not _tables.has_half(said):
        return said
    if isinstance(said, float) and not math.isinf(said):
        # Whole numbers with a gap between them are stored as floats, and the gap as NaN.
        return "" if math.isnan(said) else str(said).removesuffix(".0")
    if isinstance(said, int | Decimal) and not isinstance(said, bool):
        return str(said)
    raise ValueError(f"text is {str(said)[:50]!a}; expected text")


def _listed(said: list[Any] | Mapping[str, Any]) -> list[Any]:
    """Give lines as a list; `datasets` turns a sequence of objects into one object of lists, as long as each other."""
    if isinstance(said, list):
        return said
    columns = list(said.values())
    if any(not isinstance(column, list) or len(column) != len(columns[0]) for column in columns):
        raise _no_lines(said)
    return [dict(zip(said, entries, strict=True)) for entries in zip(*columns, strict=True)]


def _no_lines(said: object) -> ValueError:
    return ValueError(f"lines is {str(said)[:50]!a}; expected a list of text, or of objects with text and box")


def _line(said: object) -> tuple[Line, ...]:
    if not isinstance(said, dict):
        return page(_text(said))
    if "text" not in said or "box" not in said:
        missing = "text" if "text" not in said else "box"
        raise ValueError(f"a line has no {missing!r}; expected text and box of each, or text alone in a column text")
    return ((_text(said["text"]), _box(said["box"]), None),)


def _box(said: object) -> Box:
    """Read left, top, right, bottom in pixels; tell what is something else where it can be told."""
    try:
        left, top, right, bottom = (float(value) for value in said)  # type: ignore[attr-defined]
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"box {str(said)[:60]}: expected left, top, right, bottom in pixels") from error
    shown = f"box [{left:g}, {top:g}, {right:g}, {bottom:g}]"
    if not math.isfinite(left + top + right + bottom):
        raise ValueError(f"{shown}: expected left, top, right, bottom in pixels")
    if max(map(abs, (left, top, right, bottom))) < 2:  # relative ones may stand out a little; no text is so small
        raise ValueError(
            f"{shown}: boxes are in pixels, this one is relative (0 to 1); multiply it by the picture's size"
        )
    if left >= right or top >= bottom:
        like = " (it looks like left, top, width, height)" if right > 0 and bottom > 0 else ""
        raise ValueError(f"{shown}: expected left, top, right, bottom in pixels{like}")
    return left, top, right, bottom


def page(said: str) -> tuple[Line, ...]:
    """Split text into lines without a place; empty ones are none."""
    return tuple((" ".join(line.split()), None, None) for line in said.splitlines() if line.strip())


# --- attributes -------------------------------------------------------------------------------------------------------


def _plain(value: object) -> str | float | None:
    """Give a value as an attribute; a number that a float can't hold keeps its digits as text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value.strip()
    if not isinstance(value, int | float | Decimal):
        return None
    try:
        number = float(value)
    except OverflowError:
        return str(value)
    if math.isnan(number):
        return None
    exact = math.isfinite(number) and (number == value if isinstance(value, int) else Decimal(repr(number)) == value)
    return number if exact or (isinstance(value, float) and math.isfinite(number)) else str(value)


def alike(found: Mapping[PurePosixPath, Known]) -> dict[PurePosixPath, Known]:
    """Make every attribute of tables of one type, as the column will be: what they say is part of the data's digest."""
    types: dict[str, set[type]] = {}
    for known in found.values():
        for name, value in known.attributes.items():
            types.setdefault(name, set()).add(type(value))
    mixed = {name for name, kinds in types.items() if len(kinds) > 1}
    return {
        picture: Known(
            known.lines,
            {name: as_text(value) if name in mixed else value for name, value in known.attributes.items()},
            known.size,
        )
        for picture, known in found.items()
    }


# --- tables -----------------------------------------------------------------------------------------------------------


def of_table(
    table: PurePosixPath,
    content: bytes,
    *,
    pictures: _tables.Names,
    left_out: _tables.Names,
    hint: str = "",
    text: bool = True,
) -> dict[PurePosixPath, Known]:
    """Read what a table says of the pictures beside and below it.

    Args:
        table: its name.
        content: of its file.
        pictures: finds pictures by the names that the table writes.
        left_out: finds those that are passed over; a row may name one.
        hint: what may be the matter where a picture isn't found.
        text: whether text is wanted.

    Raises:
        DataError: of one line, which names the table and the row.
    """
    found: dict[PurePosixPath, Known] = {}
    place = ""

    def is_picture(said: str) -> bool:
        return any(str(table.parent / said.strip()) in names for names in (pictures, left_out))

    try:
        rows = _tables.read(content, table.suffix.lower(), text=text, is_picture=is_picture)
        for place, row in rows:  # noqa: B007  an error names it
            said = row.get("file_name")
            if not isinstance(said, str) or not said.strip():
                there = ", ".join(map(repr, row)) or "nothing"
                raise ValueError(f"has no file_name; expected the name of a picture, found {there}")
            named = str(table.parent / said)
            name = pictures.find(named)
            if name is None:
                if left_out.find(named) is not None:
                    continue
                near = pictures.elsewhere(said)
                there = f" (there is {near!r}: write it so, from the table's folder on)" if near else ""
                raise ValueError(f"names {said!r}, which is not among the pictures{there}{hint}")
            if PurePosixPath(name) in found:
                raise ValueError(f"names {said!r}, which is there twice; expected one row a picture")
            found[PurePosixPath(name)] = known_of_row(row, text=text)
    except (ValueError, OverflowError) as error:
        raise DataError(f"{printable(table)}: {place}{': ' * bool(place)}{short(error)}") from error
    return found


# --- companions -------------------------------------------------------------------------------------------------------


class Companions:
    """The files beside each picture that say something of it: 0001.txt, .json or .cls beside 0001.png.

    Beside `a.b.png` these are `a.b.png.txt`, else `a.b.txt`, else, as in WebDataset, `a.txt`.
    """

    def __init__(
        self,
        names: Iterable[PurePosixPath],
        read: Callable[[PurePosixPath], bytes],
        pictures: Iterable[PurePosixPath] = (),
    ) -> None:
        """List them.

        Args:
            names: of all files.
            read: gives the content of one.
            pictures: those that are read, and those that are passed over.
        """
        self._read = read
        self._found: dict[str, list[PurePosixPath]] = {}
        for name in sorted(names):
            if name.suffix.lower() in COMPANIONS and name.name.lower() not in TABLES:
                self._found.setdefault(str(name.with_suffix("")), []).append(name)
        # Where case doesn't count on the way here, Ab.txt may be of aB.png; but never where there is an Ab.png.
        exact = {stem for picture in pictures for stem in _stems(picture)} if self._found else set()
        self._others = _tables.Names(stem for stem in self._found if stem not in exact)

    def __bool__(self) -> bool:
        return bool(self._found)

    @property
    def attributes(self) -> frozenset[str]:
        """Names of the attributes that they give."""
        classed = any(name.suffix.lower() == ".cls" for names in self._found.values() for name in names)
        return frozenset({"class"} if classed else ())

    def of(self, picture: PurePosixPath) -> Sequence[PurePosixPath]:
        """Return the companions of a picture."""
        for stem in _stems(picture):
            found = stem if stem in self._found else self._others.find(stem)
            if found is not None:
                return self._found[found]
        return ()

    def known(self, picture: PurePosixPath, *, text: bool = True) -> Known:
        """Read what they say.

        Raises:
            DataError: of one line, which names the file.
        """
        lines: tuple[Line, ...] = ()
        attributes: dict[str, str | float] = {}
        try:
            beside = self.of(picture)
        except ValueError as error:
            raise DataError(f"{printable(picture)}: its text: {short(error)}") from error
        for name in beside:
            suffix = name.suffix.lower()
            if not text and suffix != ".cls":
                continue
            try:
                said = _tables.decode(self._read(name))
                if suffix == ".cls":
                    attributes["class"] = said.strip()
                elif suffix == ".txt":
                    lines = lines or _whole(said)
                else:
                    # Other entries are of no fixed type from picture to picture, so they can't be columns.
                    lines = lines or known_of_row(_row(_tables.loads(said))).lines
            except (ValueError, OverflowError) as error:
                what = "class" if suffix == ".cls" else "text"
                raise DataError(
                    f"{printable(name)}: can't be read ({short(error)}); expected a picture's {what}"
                ) from error
        return Known(lines, attributes)


def _stems(picture: PurePosixPath) -> tuple[str, str, str]:
    """What a picture's companions may be called, without their ending: the nearest name first."""
    return str(picture), str(picture.with_suffix("")), str(picture.parent / picture.name.split(".", 1)[0])


_NUMBER, _FRACTION = r"-?\d+(?:\.\d+)?", r"(?:0|1|0?\.\d+|1\.0*|\d(?:\.\d+)?e-\d+)"


def _form(*forms: str) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{form})" for form in forms).replace("N", _NUMBER).replace("P", _FRACTION))


_PLACED = _form(
    r"\s*(?:N *[,;]\s*){4}",  # ICDAR's, SROIE's and MLT's: a box or four corners, then the text
    r'\s*(?:N\s+){4}"',  # ICDAR's of 2013, whose text is in quotes
    r"\s*(?:N\s+){8}[^\W\d]\S*(?:\s+\d+)?\s*$|\s*(?:imagesource|gsd):",  # DOTA's: four corners, the class; its head
    r"\s*x:\s*\[\[.*\by:\s*\[\[",  # Total-Text's
)
"""How lines of annotations with coordinates begin."""

_LIKE_TABLES = _form(
    r"\s*(?:N *[,;\t]\s*){4}",  # ICDAR's between tabs
    r"\s*[^\W\d]\S*(?:\s+N){14,15}\s*$",  # KITTI's: the class, then fourteen numbers, or fifteen with a score
)
"""Other such lines, which tables of numbers have too; these have a head or a foot."""

_LABEL = _form(r"(?=.*\.)\s*\d+(?:\s+P){4,}\s*$")
"""A line of YOLO's files: the number of a class, then fractions of the picture."""

_NAMED_LABEL = _form(r"(?=.*\.)\s*[^\W\d]\S*(?:\s[^\W\d]\S*){0,3}\s+(P)\s+(P)\s+(P)\s+(P)\s*$")
"""Another one, with the name of the class; the fractions are the box's centre, width and height."""


def _whole(said: str) -> tuple[Line, ...]:
    """Take what a picture's .txt says as its text; digits alone may be text, places before text or classes are none.

    Half of the lines tell what a file is: text may go on over lines, and single ones may be written otherwise. Where
    text may look so too, all lines do.
    """
    listed = [line for line in said.splitlines() if line.strip()]
    placed = [line for line in listed if _PLACED.match(line)]
    if all(map(_LIKE_TABLES.match, listed)):
        placed = listed
    labels = [line for line in listed if _LABEL.match(line)]
    if all(map(_is_named_label, listed)):
        labels = listed
    how = "say them as text and box of lines in a metadata.jsonl or the picture's .json"
    if len(placed) >= len(listed) / 2 and any(map(str.isalpha, "".join(placed))):
        raise ValueError(f"its lines hold coordinates; {how}")
    if labels and len(labels) >= len(listed) / 2:
        raise ValueError("it holds classes and boxes as YOLO has them, no text; move it elsewhere")
    return page(said)


def _is_named_label(line: str) -> bool:
    """Tell whether a line is a class by its name and a box inside the picture, but for what it was rounded."""
    found = _NAMED_LABEL.match(line)
    if found is None:
        return False
    x, y, width, height = map(float, found.groups())
    ends = (x - width / 2, x + width / 2, y - height / 2, y + height / 2)
    return min(ends) > -0.001 and max(ends) < 1.001


def _row(said: object) -> dict[str, Any]:
    """Take what a picture's .json says as a row: an object, or a list with a line in it; anything else says nothing."""
    if isinstance(said, dict):
        return said
    if isinstance(said, list) and any(
        isinstance(one, str) or (isinstance(one, dict) and ("text" in one or "box" in one)) for one in said
    ):
        return {"lines": said}
    return {}
