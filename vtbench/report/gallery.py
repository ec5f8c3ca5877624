"""Pictures of runs in the page: each picture's values and readings, and kept pictures as data or as files."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vtbench import kept, results
from vtbench.catalogue import metrics
from vtbench.errors import ResultError
from vtbench.report.content import Json, number, plain
from vtbench.results import Run

if TYPE_CHECKING:
    import pandas

MOST = 300
"""Pictures of a run whose values are in the page; of more, the worst third of these and an even choice of the rest."""

LONGEST_READING = 2000
"""Characters of a text and its readings that are shown."""

LARGEST_PICTURE = 1 << 26
"""Bytes of the largest picture file that is read."""


@dataclass
class Shelf:
    """The pictures of a page, each once: as data inside it, or as files in a folder beside it."""

    folder: str | None
    """The folder's name relative to the page; None puts them inside."""
    data: dict[str, str] = field(default_factory=dict)
    """What a picture's key stands for: a data address or a path."""
    files: dict[str, bytes] = field(default_factory=dict)
    """Files of the folder."""

    def put(self, path: Path) -> str | None:
        """Take a picture, and give its key; None where the file is missing or no WebP."""
        if not path.is_file() or path.stat().st_size > LARGEST_PICTURE:
            return None
        content = path.read_bytes()
        if content[:4] != b"RIFF" or content[8:12] != b"WEBP":
            return None
        key = hashlib.sha256(content).hexdigest()[:16]
        if self.folder is None:
            self.data[key] = f"data:image/webp;base64,{base64.b64encode(content).decode()}"
        else:
            self.data[key] = f"{self.folder}/{key}.webp"
            self.files[f"{key}.webp"] = content
        return key


def gallery(run: Run, path: Path, shelf: Shelf) -> Json:
    """Give the values of a run's pictures, what was read on them, and the pictures that are kept.

    Args:
        run: whose pictures they are.
        path: its per-image table; kept pictures lie beside it.
        shelf: where the pictures go; one inside the page takes the best, the median and the worst alone.

    Returns:
        None where the table has no value of a single picture. Pictures stand in it worst first.

    Raises:
        ResultError: if the table or the list of kept pictures is damaged.
    """
    table = results.read_images(path)
    names = [name for name in metrics() if name in table.columns and table[name].dtype.kind == "f"]
    order = kept.ranking_column(run, names)
    if order is None or "id" not in table.columns or "index" not in table.columns:
        return None
    ordered = kept.by_badness(table, order)
    rows = [*ordered, *sorted(set(range(len(table))) - set(ordered))]  # those without a value last
    chosen = _thinned(rows)
    pictures = {picture.index: picture for picture in kept.read(path.parent, run)}
    indices = [int(value) for value in table["index"]]
    shown = [row for row in rows if indices[row] in pictures]
    if shelf.folder is None:
        shown = kept.best_median_worst([row for row in shown if row in set(ordered)])
    chosen += [row for row in shown if row not in set(chosen)]
    return {
        "order": order,
        "metrics": names,
        "of": len(table),
        "ids": [plain(table["id"].iloc[row]) for row in chosen],
        "values": {name: [number(float(table[name].iloc[row])) for row in chosen] for name in names},
        "kept": {
            chosen.index(row): [
                shelf.put(path.parent / kept.FOLDER / name) for name in (one.original, one.reconstruction)
            ]
            for row in shown
            for one in (pictures[indices[row]],)
        },
        "readings": {
            at: found
            for at, row in enumerate(chosen)
            if (found := _reading(table, row, pictures.get(indices[row]))) and (row in shown or at < MOST // 10)
        },
    }


def _thinned(rows: Sequence[int]) -> list[int]:
    if len(rows) <= MOST:
        return list(rows)
    worst, rest = rows[: MOST // 3], rows[MOST // 3 :]
    wanted = MOST - len(worst)
    return [*worst, *(rest[at * (len(rest) - 1) // (wanted - 1)] for at in range(wanted))]


def _reading(table: pandas.DataFrame, row: int, picture: kept.KeptPicture | None) -> Json:
    """Align what an engine read with what stands there; where that is not known, with what it read on the original."""
    for where in ("boxes", "page"):
        column = f"reading/{where}"
        if column not in table.columns or f"{column}:floor" not in table.columns:
            continue
        after, before = table[column].iloc[row], table[f"{column}:floor"].iloc[row]
        if not isinstance(after, str) or not isinstance(before, str):
            return None
        if picture is not None and picture.text:
            truth = "\n".join(picture.text)
            return {"truth": _text(truth), "original": edits(truth, before), "reconstruction": edits(truth, after)}
        return {"truth": None, "original": [["=", _text(before)]], "reconstruction": edits(before, after)}
    return None


def edits(expected: str, read: str) -> list[list[str]]:
    """Align two texts by the fewest edits: parts that agree ("="), that were not read ("-"), and read besides ("+")."""
    expected, read = _text(expected), _text(read)
    parts: list[list[str]] = []
    for tag, start, end, other_start, other_end in _opcodes(expected, read):
        if tag == "equal":
            parts.append(["=", expected[start:end]])
            continue
        if end > start:
            parts.append(["-", expected[start:end]])
        if other_end > other_start:
            parts.append(["+", read[other_start:other_end]])
    return parts


def _opcodes(expected: str, read: str) -> list[tuple[str, int, int, int, int]]:
    from rapidfuzz.distance import Levenshtein

    found = Levenshtein.opcodes(expected, read)
    return [(str(one.tag), one.src_start, one.src_end, one.dest_start, one.dest_end) for one in found]


def _text(text: str) -> str:
    shown = "".join(sign if sign.isprintable() or sign == "\n" else "\ufffd" for sign in text)
    return shown if len(shown) <= LONGEST_READING else shown[:LONGEST_READING] + "…"


def galleries(runs: Sequence[Run], tables: Mapping[int, Path], shelf: Shelf) -> tuple[dict[int, Json], list[str]]:
    """Give the galleries of all runs whose table was found, and say which are damaged."""
    found: dict[int, Json] = {}
    said = []
    for at, path in tables.items():
        try:
            if one := gallery(runs[at], path, shelf):
                found[at] = one
        except ResultError as error:
            said.append(str(error))
    return found, said
