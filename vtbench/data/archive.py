"""Pictures inside archives: .tar, .tar.gz or .zip, one or several (shards), read in place.

Nothing is extracted: an archive is listed once, and each picture is read by its place in it, in any order and from
several threads. So no name in an archive can reach a file outside it. A .tar.gz is unpacked once to a temporary file,
which takes the room of the .tar and goes with the process; where there is no such room, give the .tar.

Members whose name is absolute or holds `..`, links that lead out, devices and pipes are passed over; links to another
member are read as that. An archive whose listing stops before its end is refused: it would be a smaller set.

Several archives are one set: `x-{000..009}.tar`, `x-*.tar`, or a folder that holds archives, at any depth, and no
picture. Beside a picture may lie, as in WebDataset, files of the same stem; `folder` says what they and tables may say.
A table beside the archives of a folder names pictures by their ids: `x-000/0001.png`.
"""

from __future__ import annotations

import errno
import gzip
import logging
import os
import posixpath
import shutil
import struct
import tarfile
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, NamedTuple, TypeVar

from vtbench import files
from vtbench.cards import Data
from vtbench.data import _known, _shards, folder
from vtbench.data._names import BEGIN, printable, short, was_meant
from vtbench.data._pictures import MAX_BYTES, Crop, Files, Pictures
from vtbench.errors import DataError

log = logging.getLogger("vtbench")

_BROKEN = (
    OSError, tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, ArithmeticError,
    NotImplementedError, struct.error, MemoryError,
)  # fmt: skip
"""What the readers of archives let through: the last few where a damaged head claims what can't be."""

_UNREADABLE = (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, struct.error)
"""The same of a member of a .zip. RuntimeError: encrypted; NotImplementedError, a kind of it: compressed otherwise."""

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")


class Source(Pictures):
    """The picture files in an archive, sorted by their name in it, which is also their id.

    In several archives the archive's name without its ending comes first; in a folder of them its path from there on.
    """

    def __init__(
        self,
        *,
        size: int | None,
        path: Path | None = None,
        crop: Crop = "center",
        flat: bool = False,
        text: bool = True,
    ) -> None:
        if path is None:
            raise DataError(f"archive: no path given; name a {', '.join(SUFFIXES)} file with --data PATH")
        held: Files
        if files.is_dir(path):
            held = _of_folder(path)
        elif _shards.is_pattern(str(path)):
            parts = _shards.expand(str(path))
            _shards.check_whole(parts)
            held = Shards((stem(part.name), part) for part in parts)
        else:
            held = open_archive(path)
        super().__init__(held, size=size, crop=crop, flat=flat, text=text, shown=printable(path))


def takes(place: str, data: Data) -> bool:
    """Take what is called like an archive, patterns of such names, and a folder of archives without a picture."""
    del data
    path = Path(place)
    if not files.is_dir(path):
        return is_archive(path) and "://" not in place
    if not _shards.named_so(path, SUFFIXES):
        return False
    listed = _shards.below(path)
    return listed.has_parts(SUFFIXES) and not listed.holds_pictures()


is_here, bring = folder.is_here, folder.bring


def is_archive(path: Path) -> bool:
    """Tell by its name whether a file is an archive that can be read."""
    return path.name.lower().endswith(SUFFIXES)


def _of_folder(path: Path) -> Shards:
    listed = _shards.below(path)
    parts = listed.parts(SUFFIXES)
    _shards.check_whole(parts)
    return Shards(
        ((stem(part.relative_to(path).as_posix()), part) for part in parts),
        listed.beside(parts, "the archives"),
        {
            PurePosixPath(file.relative_to(path).as_posix()): file
            for file in listed.parts(_known.TABLES)
            if file.name.lower() in _known.TABLES
        },
    )


def open_archive(path: Path) -> Files:
    """List an archive; what it is, its first bytes say.

    Raises:
        DataError: if it is missing, not whole or of another kind.
    """
    if not is_archive(path):
        raise DataError(f"{printable(path)}: expected a name that ends in {', '.join(SUFFIXES)}")
    try:
        return Zip(path) if _is_zip(path) else Tar(path)
    except _BROKEN as error:
        reason = getattr(error, "strerror", None) or short(error)
        raise DataError(f"{printable(path)}: not a whole archive ({reason})") from error


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        begin = file.read(tarfile.BLOCKSIZE)
    is_tar = begin[:2] == b"\x1f\x8b" or begin[257:262] == b"ustar"
    # All four bytes: a .tar begins with its first member's name, which may be PK01.png. One that unpacks itself begins
    # with a program.
    return begin[:4] in _ZIPS or (path.suffix.lower() == ".zip" and not is_tar)


_ZIPS = (b"PK\3\4", b"PK\5\6", b"PK\7\x08")
"""How a .zip begins: with a member, with its end where there is none, with the mark of one that was to be split."""


# --- members ----------------------------------------------------------------------------------------------------------


class _Link(NamedTuple):
    target: str
    hard: bool = False


Place = TypeVar("Place")


def _settled(members: list[tuple[str, Place | _Link]], left_out: list[str]) -> dict[PurePosixPath, Place]:
    """Give each member its name: a later one takes an earlier one's place, a link becomes what it points to.

    Args:
        members: names as the archive has them, and where their content is.
        left_out: takes the kind of each picture, and of each link to a folder, that is passed over.
    """
    windows = any("\\" in name for name, _ in members) and all(len(PurePosixPath(n).parts) <= 1 for n, _ in members)
    found: dict[PurePosixPath, Place | _Link] = {}
    for said, place in members:
        # Old programs on Windows part folders by backslashes; elsewhere a backslash is a sign like others.
        shown = said.replace("\\", "/") if windows else said
        name = PurePosixPath(shown)
        if not _is_harmless(shown) or (windows and PureWindowsPath(said).drive):
            left_out += ["names that lead out"] * was_meant(name)
            continue
        left_out += ["members that a later one of the same name replaces"] * (name in found and was_meant(name))
        found[name] = place
    folders = {folder for name in found for folder in name.parents}
    whole: dict[PurePosixPath, Place] = {}
    for name in found:
        there = _followed(name, found, folders)
        if isinstance(there, str):
            left_out += [there] * (there == _TO_FOLDER or was_meant(name))
        else:
            whole[name] = there
    return whole


def _is_harmless(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith(("/", "\\")) and ".." not in parts and "\0" not in name


_TO_FOLDER = "links to folders, which are not entered here"


def _followed(
    name: PurePosixPath, found: Mapping[PurePosixPath, Place | _Link], folders: Collection[PurePosixPath]
) -> Place | str:
    """Follow links to a member; a text says why there is none."""
    place = found[name]
    for _ in range(40):  # as many as Linux follows
        if not isinstance(place, _Link):
            return place
        target = posixpath.normpath(posixpath.join("" if place.hard else name.parent, place.target))
        if target.startswith(("../", "/")):
            return "links that lead out of the archive"
        name = PurePosixPath(target)
        if name not in found:
            return _TO_FOLDER if name in folders else "links to nothing"
        place = found[name]
    return "links in a circle"


class Zip:
    """The regular members of a .zip file."""

    def __init__(self, path: Path) -> None:
        self._file = zipfile.ZipFile(path)
        weakref.finalize(self, self._file.close)
        listed = self._file.infolist()
        with path.open("rb") as file:
            if listed and min(member.header_offset for member in listed) > 0 and file.read(4) == b"PK\3\4":
                raise ValueError("members come before its first one: two archives joined? Pack their pictures together")
            file.seek(max(file.seek(0, os.SEEK_END) - 65557, 0))  # the end's 22 bytes, and the longest comment
            end = file.read()
        (stated,) = struct.unpack_from("<H", end, end.rindex(b"PK\5\6") + 10)
        if stated not in (len(listed), 0xFFFF):  # the latter: too many for the field
            raise ValueError(f"it lists {len(listed)} members, its end says {stated}")
        self.hint = ""
        self.left_out: list[str] = []
        members: list[tuple[str, zipfile.ZipInfo | _Link]] = []
        for member in listed:
            kind = (member.external_attr >> 16) & 0o170000  # what Unix calls a file's type; 0 where none is said
            name = self._name_of(member)
            if member.is_dir():
                continue
            if kind == 0o120000 and member.file_size < 4096:
                members.append((name, _Link(os.fsdecode(self._file.read(member)))))
            elif kind in (0, 0o100000):
                members.append((name, member))
            else:
                self.left_out += ["pipes and devices"] * was_meant(PurePosixPath(name))
        self._members = _settled(members, self.left_out)
        self.names = tuple(self._members)

    def _name_of(self, member: zipfile.ZipInfo) -> str:
        """Read a name in UTF-8, where the archive says so or it can be nothing else; in code page 437 otherwise."""
        if member.flag_bits & 0x800:
            return member.filename
        said = member.orig_filename.encode("cp437")
        if (stated := _stated_name(member.extra, said)) is not None:
            return stated
        try:
            return said.decode("utf-8")
        except UnicodeDecodeError:
            self.hint = "; the archive doesn't say the encoding of its names: pack it again with names in UTF-8"
            return member.filename

    def begin(self, name: PurePosixPath) -> bytes:
        """Read a member's first bytes; none where it can't be read."""
        try:
            with self._file.open(self._members[name]) as stream:
                return stream.read(BEGIN)
        except _UNREADABLE:
            return b""

    def content(self, name: PurePosixPath) -> bytes:
        """Read one whole member; its checksum is compared."""
        member, shown = self._members[name], printable(name)
        if member.file_size > MAX_BYTES:
            raise DataError(f"{shown}: claims {member.file_size} bytes; expected a picture")
        try:
            with self._file.open(member) as stream:
                content = stream.read(MAX_BYTES + 1)
        except _UNREADABLE as error:
            raise DataError(f"{shown}: can't be read ({short(error)})") from error
        if len(content) != member.file_size:
            raise DataError(f"{shown}: has {len(content)} bytes, the archive says {member.file_size}")
        return content


def _stated_name(extra: bytes, name: bytes) -> str | None:
    """Read the name in UTF-8 that Info-ZIP puts beside one in another encoding (extra field 0x7075)."""
    while len(extra) >= 4:
        kind, size = struct.unpack("<HH", extra[:4])
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == 0x7075 and len(field) > 5 and struct.unpack("<I", field[1:5])[0] == zlib.crc32(name):
            return field[5:].decode("utf-8", "surrogateescape")
    return None


class Tar:
    """The regular members of a .tar file, plain or under gzip."""

    hint = ""

    def __init__(self, path: Path) -> None:
        self._file = _plain(path)
        weakref.finalize(self, self._file.close)
        self.left_out: list[str] = []
        members: list[tuple[str, tuple[int, int] | _Link]] = []
        with tarfile.TarFile(fileobj=self._file) as archive:
            for member in archive:
                if member.issym() or member.islnk():
                    members.append((member.name, _Link(member.linkname, member.islnk())))
                elif member.isreg() and not member.issparse():
                    members.append((member.name, (member.offset_data, member.size)))
                elif not member.isdir():
                    kind = "sparse files" if member.issparse() else "pipes and devices"
                    self.left_out += [kind] * was_meant(PurePosixPath(member.name))
            self._check_end(archive.offset)
        self._members = _settled(members, self.left_out)
        self.names = tuple(self._members)

    def _check_end(self, place: int) -> None:
        """Refuse an archive whose listing stops before its end, as `tarfile` does without a word."""
        self._file.seek(place)
        block = self._file.read(tarfile.BLOCKSIZE)
        if not block:
            raise ValueError(f"it ends after {place} bytes without the mark of its end, so it is cut off")
        if block.strip(b"\0"):
            raise ValueError(f"the head of a member is damaged at byte {place}")
        while block := self._file.read(1 << 20):
            if block.strip(b"\0"):
                raise ValueError(f"more follows after its end at byte {place}: two archives joined? Give them as two")

    def begin(self, name: PurePosixPath) -> bytes:
        """Read a member's first bytes; none where it can't be read."""
        start, size = self._members[name]
        try:
            return os.pread(self._file.fileno(), min(size, BEGIN), start)
        except (OSError, ValueError, OverflowError):  # a damaged head claims what can't be
            return b""

    def content(self, name: PurePosixPath) -> bytes:
        """Read one whole member."""
        (start, size), shown = self._members[name], printable(name)
        if size > MAX_BYTES:
            raise DataError(f"{shown}: claims {size} bytes; expected a picture")
        parts: list[bytes] = []
        try:
            while size > 0 and (part := os.pread(self._file.fileno(), size, start)):
                parts.append(part)
                start, size = start + len(part), size - len(part)
        except OSError as error:
            raise DataError(f"{shown}: can't be read ({error.strerror})") from error
        if size:
            raise DataError(f"{shown}: {size} of its bytes are missing; the archive is cut off")
        return b"".join(parts)


_OTHERS = {b"BZ": "bzip2", b"\xfd7": "xz", b"(\xb5": "Zstandard"}


def _plain(path: Path) -> IO[bytes]:
    """Open a .tar; one under gzip is unpacked to a temporary file first, which goes when it is closed.

    Raises:
        DataError: if it is packed in another way, or there is no room.
    """
    with path.open("rb") as file:
        begin = file.read(2)
    if begin in _OTHERS:
        raise DataError(f"{printable(path)}: is packed by {_OTHERS[begin]}; unpack it to a .tar")
    if begin != b"\x1f\x8b":
        return path.open("rb")
    where = tempfile.gettempdir()
    log.info("%s: unpacking it once to a temporary file in %s, which goes at the end", path, where)
    target = tempfile.TemporaryFile()  # noqa: SIM115  it stays open
    try:
        with gzip.open(path) as packed:
            shutil.copyfileobj(packed, target, 1 << 20)
            target.seek(0)
    except BaseException as error:
        target.close()
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"{printable(path)}: no room to unpack it in {where}; set TMPDIR to a larger disk or give a .tar"
            ) from error
        raise
    return target


class Shards:
    """Several archives as one: each member is known by what its archive is called, and its own name."""

    def __init__(
        self,
        parts: Iterable[tuple[str, Path]],
        left_out: Iterable[str] = (),
        tables: Mapping[PurePosixPath, Path] | None = None,
    ) -> None:
        """Open them.

        Args:
            parts: what each archive is called, and where it is.
            left_out: what lies beside them and is not opened: its kind in plain words, one entry a file.
            tables: what says something of their pictures and lies beside them, by its place among them.

        Raises:
            DataError: if one can't be opened, two are called the same, or two members would be.
        """
        opened: dict[str, Files] = {}
        self._places: dict[PurePosixPath, tuple[str, PurePosixPath]] = {}
        for name, path in parts:
            if name in opened:
                raise DataError(f"{printable(path)}: two archives are called {name}; expected each name once")
            opened[name] = open_archive(path)
            for member in opened[name].names:
                whole = PurePosixPath(name) / member
                if whole in self._places:
                    other = self._places[whole][0]
                    raise DataError(f"{printable(path)}: {printable(whole)} is in {other} as well; rename an archive")
                self._places[whole] = name, member
        self._opened = opened
        self._tables = dict(tables or {})
        self.names = (*self._places, *self._tables)
        self.left_out = [*left_out, *(kind for part in opened.values() for kind in part.left_out)]
        self.hint = next((part.hint for part in opened.values() if part.hint), "")

    def begin(self, name: PurePosixPath) -> bytes:
        """Read a member's first bytes; none where it can't be read."""
        if name in self._tables:
            return _shards.begin(self._tables[name])
        part, member = self._places[name]
        return self._opened[part].begin(member)

    def content(self, name: PurePosixPath) -> bytes:
        """Read one whole member, or a table beside the archives."""
        if name in self._tables:
            return folder.content_of(self._tables[name], printable(name))
        part, member = self._places[name]
        try:
            return self._opened[part].content(member)
        except DataError as error:
            raise DataError(f"{printable(PurePosixPath(part))}/{error}") from error


def stem(name: str) -> str:
    """Take the ending off an archive's path; a file that is called by nothing else keeps it."""
    folder, slash, last = name.rpartition("/")
    end = next(end for end in SUFFIXES if last.lower().endswith(end))
    return f"{folder}{slash}{last[: -len(end)] or last}"
