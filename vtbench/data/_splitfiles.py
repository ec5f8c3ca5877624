"""Data sets of the hub that are picture files, or archives of them: those of the splits that are asked for.

They are read as a folder's or an archive's, with tables and companions; `folder` says what these may say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from vtbench.data import _shards, _splits
from vtbench.data._known import TABLES, Known
from vtbench.data._names import NOBODYS, is_hidden, printable, sort_out
from vtbench.data._pictures import Crop, Files, Pictures
from vtbench.data.archive import Shards, is_archive, stem
from vtbench.data.folder import Folder
from vtbench.errors import DataError


class SplitPictures(Pictures):
    """Picture files or members of archives, sorted by name, which is their id."""

    def __init__(
        self,
        root: Path,
        splits: Mapping[str, Sequence[Path]],
        split: str | None,
        shown: str,
        *,
        lenient: bool,
        size: int | None,
        crop: Crop,
        text: bool,
    ) -> None:
        """List them.

        Args:
            root: the folder below which the files are.
            splits: files by split, where it is known which those are; else their names say it, as `_splits` does.
            split: which one; several with + between them; None for the only one.
            shown: what errors call it.
            lenient: where there is one split alone, it is the one that is meant, whatever its name.
            size: height and width that a task asks for; None gives each picture as it is.
            crop: how a picture is brought to that size.
            text: whether known text is needed.

        Raises:
            DataError: if there is no picture or no such split, or pictures lie beside archives of them.
        """
        held = Folder(root)
        given = {name: [PurePosixPath(file.relative_to(root)) for file in part] for name, part in splits.items()}
        listed = [file for part in given.values() for file in part] if splits else held.names
        loose = set(sort_out(listed, held.begin)[0])
        packed = {name for name in listed if _is_packed(name)}
        advice = "name the folder or the archives that are meant with --data"
        if not splits:
            files = [root / name for name in sorted({*loose, *packed})]
            strict = split is not None and not lenient
            said = _splits.by_name(root, files, shown=shown, strict=strict, advice=advice)
            given = {name: [PurePosixPath(file.relative_to(root)) for file in part] for name, part in said.items()}
        there = {name: part for name, part in given.items() if not {*loose, *packed}.isdisjoint(part)}
        asked = split if there else None  # where there are no pictures, that is what is the matter
        names = _splits.chosen(there, asked, shown=shown, lenient=lenient, advice=advice)
        mine = {file for name in names for file in there[name]}
        if not splits:  # and what lies beside them, but for that of other splits
            beside = {name for name in listed if len(there) < 2 or _splits.split_of(name) in (None, *names)}
            mine |= beside - loose - packed
        opened = sorted(packed & mine)
        if opened:
            _check_alone(opened, loose & mine, f"{shown}: ", advice)
            _shards.check_whole(root / name for name in opened)
        left_out = [] if splits else held.left_out
        files_of_splits: Files = _Some(held, sorted(mine), left_out)
        elsewhere = set(listed) - mine
        if opened:
            others = sort_out(mine.difference(opened), held.begin)[1].values()
            tables = {name: root / name for name in mine if name.name.lower() in TABLES and _is_meant(name)}
            files_of_splits = Shards(((stem(str(name)), root / name) for name in opened), [*left_out, *others], tables)
            if tables:  # they may name pictures in archives of other splits
                closed = Shards((stem(str(name)), root / name) for name in sorted(packed - mine))
                elsewhere |= set(closed.names)
        self._split_of = {
            PurePosixPath(stem(str(file))) if file in packed else file: name for name in names for file in there[name]
        }
        self._several = len(names) > 1
        super().__init__(files_of_splits, size=size, crop=crop, text=text, shown=shown, elsewhere=elsewhere)

    @property
    def attributes(self) -> frozenset[str]:
        """Names of the attributes that tables and companions give, and of the split where there are several."""
        return super().attributes | ({"split"} if self._several else set())

    def _known_of(self, index: int) -> Known:
        known = super()._known_of(index)
        if not self._several:
            return known
        name = self.names[index]
        split = next(self._split_of[place] for place in (name, *name.parents) if place in self._split_of)
        return Known(known.lines, {**known.attributes, "split": split}, known.size)


class _Some:
    """Some of a folder's files."""

    def __init__(self, held: Folder, names: Sequence[PurePosixPath], left_out: Sequence[str]) -> None:
        self.names, self.left_out, self.hint = names, left_out, held.hint
        self.begin, self.content = held.begin, held.content


def _is_packed(name: PurePosixPath) -> bool:
    return is_archive(Path(name)) and _is_meant(name)


def _is_meant(name: PurePosixPath) -> bool:
    return not is_hidden(name) and not any(part in NOBODYS for part in name.parts)


def _check_alone(opened: Sequence[PurePosixPath], loose: Iterable[PurePosixPath], shown: str, advice: str) -> None:
    """Refuse archives beside pictures, which may be their teasers."""
    count, first = len(list(loose)), printable(opened[0])
    if count:
        archives = f"{len(opened)} archive{'s' * (len(opened) > 1)} ({first}{', …' * (len(opened) > 1)})"
        raise DataError(
            f"{shown}holds {count} picture{'s' * (count > 1)} and {archives}, so which are meant can't be told; "
            f"download it and {advice}"
        )
