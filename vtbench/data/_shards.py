"""Files that are parts of one set: `x-{000..009}.tar`, `x-*.parquet`, x-00000-of-00010.parquet, a folder of them."""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path, PurePosixPath
from typing import NamedTuple, NoReturn

from vtbench import files
from vtbench.data._names import BEGIN, NOBODYS, is_hidden, printable, sort_out, was_meant
from vtbench.errors import DataError

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_PART = re.compile(r"(.*)[-_](\d+)[-_]of[-_](\d+)(?:[-_][^.]*)?(\..*)?", re.DOTALL)
"""Stem, number, how many there are, and ending; the hub may put a digest of each part between the last two."""
MOST = 100_000
"""More names than this are a slip of the pen."""


def is_pattern(place: str) -> bool:
    """Tell whether a place stands for several files."""
    return not files.exists(place) and _has_signs(place)


def anchored(place: str) -> str:
    """Make a pattern one that stands for the same files in any folder.

    It stays as it is where this folder's own name would be read as a pattern, or one of its alternatives begins at the
    root.
    """
    return place if _has_signs(str(Path.cwd())) or re.search("[{,]/", place) else str(Path(place).absolute())


def _has_signs(path: str) -> bool:
    return bool(_BRACES.search(path) or glob.has_magic(path))


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
        some = [Path(name)] if files.is_file(name) else [Path(one) for one in glob.glob(name)]  # noqa: PTH207
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


def is_part(file: Path) -> bool:
    """Tell whether a file's name says how many parts its set has, as x-00000-of-00010 does."""
    return _PART.fullmatch(file.name) is not None


def check_whole(files: Iterable[Path]) -> None:
    """Refuse parts that say how many they are, as x-00000-of-00010 does, where one is missing or there twice.

    Raises:
        DataError: naming how many there are and should be.
    """
    groups: dict[tuple[Path, str, str], list[int]] = {}
    for file in files:
        if found := _PART.fullmatch(file.name):
            groups.setdefault((file.parent / found[1], found[3], found[4] or ""), []).append(int(found[2]))
    for (stem, said, _), numbers in groups.items():
        there, whole = len(set(numbers)), int(said)
        if there != whole:
            raise DataError(f"{printable(stem)}: {there} of {whole} parts are there; bring the others as well")
        if len(numbers) > there:
            raise DataError(f"{printable(stem)}: {len(numbers)} files are its {whole} parts; expected each part once")


# --- a folder of them -------------------------------------------------------------------------------------------------


class Listing(NamedTuple):
    """What lies below a folder; links to files are followed wherever they lead, those to folders are not."""

    path: Path
    files: Sequence[Path]
    """Regular files, in the order of their paths as text, whatever order the file system has."""
    dangling: Sequence[Path]
    """Links to nothing."""
    kinds: Sequence[str]
    """What else may hold pictures: its kind in plain words, one entry a thing."""

    def parts(self, endings: tuple[str, ...]) -> list[Path]:
        """List the parts of a set by the ends of their names, hidden files and those that no person made aside.

        Raises:
            DataError: naming a part that is a link to nothing: without it the set would be a smaller one.
        """
        for file in self.dangling:
            if self._is_part(file, endings):
                shown = printable(file)
                raise DataError(f"{shown}: is a link to nothing; bring what it points to, or remove the link")
        return [file for file in self.files if self._is_part(file, endings)]

    def has_parts(self, endings: tuple[str, ...]) -> bool:
        """Tell whether there are any, links to nothing included."""
        return any(self._is_part(file, endings) for file in (*self.files, *self.dangling))

    def holds_pictures(self) -> bool:
        """Tell whether picture files are among them that a folder's source would read."""
        return bool(sort_out(map(self._name, self.files), self._begin)[0])

    def beside(self, opened: Collection[Path], what: str) -> list[str]:
        """Give the kind of everything that was meant as a picture, or as several, and is not opened.

        Args:
            opened: the files that are.
            what: these are, such as "the tables".
        """
        opened = set(opened)
        pictures, others = sort_out((self._name(file) for file in self.files if file not in opened), self._begin)
        broken = ["links to nothing" for file in self.dangling if was_meant(self._name(file))]
        return [*[f"pictures beside {what}" for _ in pictures], *others.values(), *broken, *self.kinds]

    def _name(self, file: Path) -> PurePosixPath:
        return PurePosixPath(file.relative_to(self.path).as_posix())

    def _begin(self, name: PurePosixPath) -> bytes:
        return begin(self.path / name)

    def _is_part(self, file: Path, endings: tuple[str, ...]) -> bool:
        if not file.name.lower().endswith(endings):
            return False
        name = self._name(file)
        return not is_hidden(name) and not any(part in NOBODYS for part in name.parts)


def begin(file: Path) -> bytes:
    """Read the first bytes of a file; none where it can't be read."""
    try:
        with file.open("rb") as stream:
            return stream.read(BEGIN)
    except OSError:
        return b""


def named_so(path: Path, endings: tuple[str, ...]) -> bool:
    """Tell whether any name below a folder ends so, without a look at the files: most folders hold pictures alone."""
    return any(name.lower().endswith(endings) for _, _, names in os.walk(path) for name in names)


def check_open(place: Path) -> None:
    """Refuse a place whose files can't be looked at; where there is none, or it is a file, nothing is wrong.

    Raises:
        DataError: naming it.
    """
    try:
        (place / os.pardir).stat()  # takes the right to search it, which its names alone can be listed without
    except PermissionError as error:
        _refuse(error, place)
    except (OSError, ValueError):
        pass


def _refuse(error: OSError, place: Path | None = None) -> NoReturn:
    shown = printable(place or Path(error.filename))
    raise DataError(f"{shown}: can't be listed ({error.strerror}); check the permissions") from error


def walk(path: Path, *, follow_links: bool = False) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Walk a folder and those below it as `os.walk` does.

    Raises:
        DataError: if one of them can't be listed, or its files can't be looked at.
    """
    for place, folders, names in os.walk(path, onerror=_refuse, followlinks=follow_links):
        check_open(Path(place))
        yield Path(place), folders, names


def below(path: Path) -> Listing:
    """List a folder and those below it; raises as `walk` does."""
    files: list[Path] = []
    dangling: list[Path] = []
    kinds: list[str] = []
    for place, folders, names in walk(path):
        kinds += ["links to folders, which are not entered here" for name in folders if (place / name).is_symlink()]
        for file in (place / name for name in names):
            if _is_file(file):
                files.append(file)
            elif file.is_symlink():
                dangling.append(file)
            elif was_meant(PurePosixPath(file.name)):
                kinds.append("pipes and devices")
    return Listing(path, sorted(files, key=str), sorted(dangling, key=str), kinds)


def _is_file(file: Path) -> bool:
    """Tell whether it is a regular file, or a link to one that can be reached."""
    try:
        return stat.S_ISREG(file.stat().st_mode)
    except OSError:
        return False
