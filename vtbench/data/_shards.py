"""Files that are parts of one set: `x-{000..009}.tar`, `x-*.parquet`, x-00000-of-00010.parquet."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from vtbench.data._names import printable
from vtbench.errors import DataError

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
MOST = 100_000
"""More names than this are a slip of the pen."""


def is_pattern(place: str) -> bool:
    """Tell whether a place stands for several files."""
    return not Path(place).exists() and bool(_BRACES.search(place) or glob.has_magic(place))


def expand(place: str) -> list[Path]:
    """List the files that a pattern stands for, in the order of their names.

    Args:
        place: with `{000..009}` or `{a,b}`, all of whose files must be there, or with *, ? and [], which stand for the
            files that are there.

    Raises:
        DataError: if there is none, or one is missing; naming it.
    """
    parts = _BRACES.split(place)
    choices = [_choices(part, place) if number % 2 else [part] for number, part in enumerate(parts)]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > MOST:
        raise DataError(f"{place}: stands for {count} files; expected at most {MOST}")
    found: list[Path] = []
    for name in map("".join, product(*choices)):
        some = [Path(name)] if Path(name).is_file() else [Path(one) for one in glob.glob(name)]  # noqa: PTH207
        if not some:
            of = f", one of the {count} that {place} stands for" if count > 1 else ""
            raise DataError(f"{name}: does not exist{of}")
        found += some
    return sorted(dict.fromkeys(found))


def _choices(said: str, place: str) -> list[str]:
    if between := _RANGE.fullmatch(said):
        first, last = between.groups()
        if int(first) > int(last) or int(last) - int(first) > MOST:
            raise DataError(f"{place}: {{{said}}} is no range; expected one such as {{000..009}}")
        wide = len(first) if first.startswith("0") else 0
        return [f"{number:0{wide}d}" for number in range(int(first), int(last) + 1)]
    return said.split(",")


def check_whole(files: Sequence[Path]) -> None:
    """Refuse parts that say how many they are, as x-00000-of-00010 does, where one is missing.

    Raises:
        DataError: naming how many there are and should be.
    """
    groups: dict[tuple[str, int], int] = {}
    for file in files:
        if found := re.fullmatch(r"(.*)-\d+-of-(\d+)\.\w+", str(file)):
            key = (found[1], int(found[2]))
            groups[key] = groups.get(key, 0) + 1
    for (stem, whole), count in groups.items():
        if count != whole:
            raise DataError(f"{printable(Path(stem))}: {count} of {whole} parts are there; bring the others as well")
