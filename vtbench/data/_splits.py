"""Which files of a folder are of which split, where no README says so: by the hub's convention of names.

A folder `train`, `validation` or `test` (or `training`, `valid`, `val`, `dev`, `testing`, `eval`, `evaluation`) holds a
split, and so does a file with such a word in its name; in `data/`, x-00000-of-00010 is of the split x. Folders come
first. `datasets` does the same and drops what fits nowhere in silence; here every file is of a split, or is named.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath

from vtbench.data._names import printable
from vtbench.errors import DataError

_WORDS = {
    split: re.compile(rf"(?:.*[-._ 0-9])?(?:{words})(?:[-._ 0-9].*)?", re.DOTALL)
    for split, words in {
        "train": "train|training",
        "validation": "validation|valid|dev|val",
        "test": "test|testing|eval|evaluation",
    }.items()
}
_SHARD = re.compile(r"(\w+(?:\.\w+)*)-\d{5}-of-\d{5}.*", re.DOTALL)


def split_of(name: PurePosixPath) -> str | None:
    """Tell the split of a file by its path below the folder; None where it says none, or more than one."""
    if name.parts[:-1] == ("data",) and (shard := _SHARD.fullmatch(name.name)):
        return shard[1]
    for parts in (name.parts[:-1], name.parts[-1:]):
        found = {split for split, word in _WORDS.items() if any(word.fullmatch(part) for part in parts)}
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def by_name(root: Path, files: Sequence[Path], *, shown: str, strict: bool, advice: str) -> dict[str, list[Path]]:
    """Put files into their splits.

    Args:
        root: the folder below which they are.
        files: in the order in which their rows are.
        shown: what errors call the folder.
        strict: a split was asked for by its name, so files of none are not of it.
        advice: how the files that are meant are named, to be put behind an error.

    Returns:
        the files of each split; one, "train", where their names say no splits, or one and some are not of it.

    Raises:
        DataError: if there are several splits and files of none.
    """
    found: dict[str, list[Path]] = {}
    others: list[Path] = []
    for file in files:
        split = _below(root, file)
        (others if split is None else found.setdefault(split, [])).append(file)
    if others and found and not strict:
        if len(found) > 1:
            first = printable(others[0].relative_to(root))
            raise DataError(
                f"{shown}: has the splits {', '.join(found)}, and {len(others)} of its {len(files)} files are of none "
                f"({first}{', …' * (len(others) > 1)}); {advice}"
            )
        found = {}
    order = {split: number for number, split in enumerate(_WORDS)}
    named = sorted(found, key=lambda split: (order.get(split, len(order)), split))
    return {split: found[split] for split in named} or {"train": list(files)}


def chosen(there: Collection[str], asked: str | None, *, shown: str, lenient: bool, advice: str) -> list[str]:
    """Tell which splits are meant.

    Args:
        there: names of those there are.
        asked: one of them, several with + between them, or None for the only one.
        shown: what errors call the data set.
        lenient: where there is one alone, it is the one that is meant, whatever its name.
        advice: what else may be done where there are several and none is asked for.

    Raises:
        DataError: if there is no such split, or several and none is asked for.
    """
    if asked and not (lenient and len(there) == 1):
        names = asked.split("+")
        if missing := next((name for name in names if name not in there), None):
            raise DataError(f"{shown}: has no split {missing!r}; expected one of {', '.join(there)}")
        return names
    if len(there) > 1:
        which = f"{shown}: which split? Expected one of {', '.join(there)}, or several with + between them"
        raise DataError(which + f"; or {advice}" * lenient)
    return list(there)


def _below(root: Path, file: Path) -> str | None:
    return split_of(PurePosixPath(file.relative_to(root).as_posix()))
