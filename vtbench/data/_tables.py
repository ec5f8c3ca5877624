"""One reader for tables and texts of the user's: .csv, .tsv, .txt, .jsonl and .json, whoever wrote them.

What is told apart: UTF-8 and UTF-16 or -32 with and without a byte order mark; commas, semicolons, tabs and bars
between cells; a list of objects and one object a line. What can't be told apart for certain, such as code pages, is
refused by name. Every error is a ValueError of one line, which names the row where there is one.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

OWN = ("file_name", "text", "lines")
"""Heads that mean something here; every other column is an attribute."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16's, which it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


class Row(NamedTuple):
    """One row of a table."""

    place: str
    """Such as "row 3 (line 4)"."""
    cells: dict[str, Any]
    """Values by head; text in a table of cells, anything in JSON. Fractions are `Decimal`: they keep their digits."""


def decode(content: bytes) -> str:
    """Turn a text file into text.

    Raises:
        ValueError: if it is in an encoding that does not say so.
    """
    for mark, name in _MARKS:
        if content.startswith(mark):
            return _decoded(content[len(mark) :], name)
    if content.startswith((b"PK\3\4", b"\x1f\x8b", b"\xd0\xcf\x11\xe0")):
        raise ValueError("it is no text but packed, as spreadsheets are; save it as CSV in UTF-8")
    if b"\0" in content[:1000]:  # what is written in Latin letters has a zero in every second byte
        later = content[1:1000:2].count(0) >= content[0:1000:2].count(0)
        return _decoded(content, "utf-16-le" if later else "utf-16-be")
    return _decoded(content, "utf-8")


def _decoded(content: bytes, name: str) -> str:
    try:
        said = content.decode(name)
    except UnicodeDecodeError as error:
        if name != "utf-8":
            raise ValueError(f"it is not whole {name.upper()}; save it as UTF-8") from error
        raise ValueError(
            f"byte 0x{content[error.start]:02x} at {error.start} is not UTF-8; it looks like a code page (cp1252, "
            "Shift-JIS, GBK or another), which the file doesn't name: save it as UTF-8"
        ) from error
    if "\0" in said:
        raise ValueError("it holds zero bytes; save it as UTF-8")
    return said


def read(
    content: bytes, suffix: str, *, text: bool = True, is_picture: Callable[[str], bool] = lambda _: False
) -> list[Row]:
    """Read a table.

    Args:
        content: of its file.
        suffix: of its name, in small letters: .json and .jsonl are JSON, all else is cells between separators.
        text: whether text is wanted; where not, columns that could all be it are attributes.
        is_picture: tells whether the table would name a picture so; a cell that holds another picture's row is refused.

    Raises:
        ValueError: if it can't be read without a guess.
    """
    said = decode(content)
    rows = _objects(said, text) if suffix in (".json", ".jsonl") else _cells(said, suffix, text, is_picture)
    for row in rows:
        if broken := next((name for name, value in row.cells.items() if has_half(name) or has_half(value)), None):
            raise ValueError(f"{row.place}: column {broken!a} holds half a character (a lone surrogate)")
    return rows


class TwiceError(ValueError):
    """A JSON object has a name twice, so that one of its values would be lost."""


def loads(said: str, *, once: bool = False) -> Any:  # noqa: ANN401  JSON
    """Read JSON: fractions keep their digits, NaN and infinity are missing.

    Args:
        said: the JSON.
        once: refuse an object that has a name twice; else its last value counts.

    Raises:
        ValueError: if it is no JSON.
        TwiceError: if it is, and an object has a name twice.
    """
    pairs = _unique if once else None
    try:
        return json.loads(said, parse_float=_digits, parse_constant=lambda _: None, object_pairs_hook=pairs)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise TwiceError(f"{twice!r} is there twice; expected each name once")
    return found


def _digits(said: str) -> Decimal:
    try:
        return Decimal(said)
    except ArithmeticError as error:
        raise ValueError(f"{said[:50]} is no number that can be held") from error


def has_half(value: object) -> bool:
    """Tell whether text somewhere in a JSON value holds a lone surrogate, which no file can be written with."""
    if isinstance(value, str):
        return any("\ud800" <= sign <= "\udfff" for sign in value)
    if isinstance(value, list):
        return any(has_half(one) for one in value)
    if isinstance(value, dict):
        return any(has_half(one) for pair in value.items() for one in pair)
    return False


# --- JSON -------------------------------------------------------------------------------------------------------------


def _objects(said: str, text: bool) -> list[Row]:
    try:
        whole = loads(said, once=True)
    except TwiceError:
        raise
    except ValueError:
        rows: list[tuple[str, Any]] = []
        for number, line in enumerate(re.split(r"\r\n|\n|\r", said), start=1):
            if line.strip():
                rows.append((f"row {len(rows) + 1} (line {number})", _line(line, number)))
    else:
        listed = whole if isinstance(whole, list) else [whole]
        rows = [(f"row {number}", row) for number, row in enumerate(listed, start=1)]
    for place, row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"{place}: expected one JSON object a line, or a list of objects")
    return [_named(place, row, text) for place, row in rows]


def _named(place: str, row: Mapping[str, Any], text: bool) -> Row:
    try:
        return Row(place, own_names(row, text=text))
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def _line(said: str, number: int) -> Any:  # noqa: ANN401  JSON
    try:
        return loads(said, once=True)
    except TwiceError as error:
        raise ValueError(f"line {number}: {error}") from error
    except ValueError as error:
        raise ValueError(f"line {number} is no JSON ({error})") from error


# --- cells ------------------------------------------------------------------------------------------------------------


def _cells(said: str, suffix: str, text: bool, is_picture: Callable[[str], bool]) -> list[Row]:
    separators = "\t,;|" if suffix == ".tsv" else ",;\t|"
    if said[:4].lower() == "sep=" and said[4:5] and said[5:6] in ("\r", "\n"):  # as Excel says it
        separators, said = said[4], said[5:].lstrip("\r\n")
    separator = next((one for one in separators if _plain("file_name") in map(_plain, _head(said, one))), None)
    if separator is None:
        first = said.strip().split("\n", 1)[0].strip()
        raise ValueError(f"its head is {first[:100]!r}; expected a column file_name, and one called text")
    head = [name.strip() or f"column {number}" for number, name in enumerate(_head(said, separator), start=1)]
    if twice := next((name for number, name in enumerate(head) if name in head[:number]), None):
        raise ValueError(f"its head has {twice!r} twice; expected each name once")
    names = ["file_name"] if "file_name" in head else [name for name in head if _plain(name) == _plain("file_name")]
    at = head.index(names[0])
    reader = csv.reader(io.StringIO(said, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    rows: list[Row] = []
    begun = False
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not begun:
                begun = True
                continue
            place = f"row {len(rows) + 1} (line {reader.line_num})"
            if any(cell.strip() for cell in cells[len(head) :]):
                raise ValueError(
                    f"{place} has {len(cells)} cells, the head has {len(head)}; put text that holds {separator!r} in "
                    "double quotes"
                )
            if (taken := next(filter(is_picture, _taken_in(cells, separator, at)), None)) is not None:
                raise ValueError(
                    f"{place}: a quote takes in the row of {taken.strip()!r}; double quotes that are text, and put "
                    "the whole text in quotes"
                )
            rows.append(Row(place, own_names(dict(zip(head, cells, strict=False)), text=text)))
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from error
    return rows


def _taken_in(cells: Iterable[str], separator: str, at: int) -> Iterator[str]:
    """Give what would be names of files, were it not for a quote: of lines that one cell goes on over.

    Args:
        cells: of a row.
        separator: what stands between them.
        at: the place of the name among them.
    """
    for number, cell in enumerate(cells):
        lines = re.split(r"\r\n|\n|\r", cell)
        for later, line in enumerate(lines if len(lines) > 1 else ()):
            place = at if later else at - number  # the first line goes on after the cells before it
            parts = line.split(separator)
            if len(parts) > 1 and 0 <= place < len(parts):
                yield parts[place]


def _head(said: str, separator: str) -> list[str]:
    reader = csv.reader(io.StringIO(said, newline=""), delimiter=separator, skipinitialspace=True)
    try:
        return next((cells for cells in reader if any(cell.strip() for cell in cells)), [])
    except csv.Error as error:
        raise ValueError(f"its head can't be read ({error})") from error


# --- names ------------------------------------------------------------------------------------------------------------


def heads(given: Iterable[str], *, text: bool = True) -> dict[str, str]:
    """Tell what columns are called here: those that mean something by their names, the others as they are.

    Case, spaces and dashes don't count where a name means something, spaces around it nowhere.

    Args:
        given: names of all columns.
        text: whether text is wanted; where not, several that could be it are taken for attributes.

    Returns:
        what each is called.

    Raises:
        ValueError: if two columns could be one of them, or would be called the same.
    """
    names = {name: name.strip() for name in given}
    for own in OWN:
        if own in names.values():
            continue
        alike = [name for name in names if _plain(name) == _plain(own)]
        if len(alike) > 1 and (text or own == "file_name"):
            raise ValueError(f"columns {' and '.join(map(repr, alike))} could both be {own}; rename all but one")
        if len(alike) == 1:
            names[alike[0]] = own
    if len(set(names.values())) < len(names):
        for name in names.values():
            same = [one for one in names if names[one] == name]
            if len(same) > 1 and (text or name not in ("text", "lines")):
                raise ValueError(f"columns {' and '.join(map(repr, same))} are both called {name}; rename all but one")
    return names


def own_names(row: Mapping[Any, Any], *, text: bool = True) -> dict[str, Any]:
    """Give a row with its columns called as `heads` says, which also says what it raises."""
    names = heads(map(str, row), text=text)
    return {names[str(name)]: value for name, value in row.items()}


def _plain(name: str) -> str:
    return "".join(sign for sign in name.casefold() if sign.isalnum())


def folded(name: str) -> str:
    """Bring a file's name to a form in which case, normal form, direction of slashes and outer spaces don't count."""
    parts = unicodedata.normalize("NFC", name).replace("\\", "/").casefold().split("/")
    return "/".join(part.strip() for part in parts if part != ".")


class Names:
    """Finds files by names that others wrote: the exact one, else the one that differs in nothing that counts."""

    def __init__(self, names: Iterable[str]) -> None:
        self._exact = set(names)
        self._alike: dict[str, list[str]] = {}
        for name in self._exact:
            self._alike.setdefault(folded(name), []).append(name)

    def __contains__(self, name: str) -> bool:
        """Tell whether one or several files could be meant."""
        return name in self._exact or folded(name) in self._alike

    def find(self, name: str) -> str | None:
        """Find a file; None where there is none.

        Raises:
            ValueError: if several differ from the name in nothing that counts.
        """
        if name in self._exact:
            return name
        found = self._alike.get(folded(name), [])
        if len(found) > 1:
            raise ValueError(f"{name!r} could be {' or '.join(map(repr, sorted(found)))}; write it as the file has it")
        return found[0] if found else None

    def elsewhere(self, name: str) -> str | None:
        """Find the only file of a name in another folder; None where there is none, or several."""
        last = folded(name).rsplit("/", 1)[-1]
        found = [one for key, names in self._alike.items() if key.rsplit("/", 1)[-1] == last for one in names]
        return found[0] if len(found) == 1 else None
