"""Pictures inside one archive: .tar, .tar.gz or .zip, read in place.

Nothing is extracted: the archive is listed once, and each picture is read by its place in it, in any order and from
several threads. So no name in an archive can reach a file outside it. Members whose name is absolute or holds `..`,
and links, devices and pipes, are passed over.

Beside a picture may lie, as in WebDataset, files of the same stem: `.txt` or `.json` with its text (`text`, or `lines`
as in `folder`), `.cls` with its class; a table metadata.csv or metadata.jsonl works as in a folder.
"""

from __future__ import annotations

import io
import os
import tarfile
import threading
import weakref
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

from vtbench.cards import Data
from vtbench.data import folder
from vtbench.data._pictures import MAX_BYTES, Crop, Files, Pictures, printable
from vtbench.errors import DataError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer as Buffer

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")


class Source(Pictures):
    """The picture files in an archive, sorted by their name in it, which is also their id."""

    def __init__(
        self, *, size: int | None, path: Path | None = None, crop: Crop = "center", flat: bool = False
    ) -> None:
        if path is None:
            raise DataError(f"archive: no path given; name a {', '.join(SUFFIXES)} file with --data PATH")
        super().__init__(open_archive(path), size=size, crop=crop, flat=flat, shown=printable(path), beside=True)


def takes(place: str, data: Data) -> bool:
    """Take what is called like an archive and is no folder."""
    del data
    return is_archive(Path(place)) and Path(place).is_file()


def is_here(data: Data) -> bool:
    """Pictures of the user's are where the user says."""
    return folder.is_here(data)


def bring(data: Data) -> str:
    """Say how such pictures are had.

    Raises:
        DataError: always; they can't be brought from here.
    """
    return folder.bring(data)


def is_archive(path: Path) -> bool:
    """Tell by its name whether a file is an archive that can be read."""
    return path.name.lower().endswith(SUFFIXES)


def open_archive(path: Path) -> Files:
    """List an archive.

    Raises:
        DataError: if it is missing, damaged or of another kind.
    """
    if not is_archive(path):
        raise DataError(f"{printable(path)}: expected a name that ends in {', '.join(SUFFIXES)}")
    try:
        return Zip(path) if path.name.lower().endswith(".zip") else Tar(path)
    except (OSError, tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError) as e:
        reason = getattr(e, "strerror", None) or " ".join(str(e).split()) or type(e).__name__
        raise DataError(f"{printable(path)}: not a whole archive ({reason})") from e


def _is_harmless(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith(("/", "\\")) and ".." not in parts and "\0" not in name


class Zip:
    """The regular members of a .zip file."""

    def __init__(self, path: Path) -> None:
        self._file = zipfile.ZipFile(path)
        self._members: dict[PurePosixPath, zipfile.ZipInfo] = {}
        for member in self._file.infolist():
            kind = (member.external_attr >> 16) & 0o170000  # what Unix calls a file's type; 0 where none is said
            if not member.is_dir() and kind in (0, 0o100000) and _is_harmless(member.filename):
                self._members[PurePosixPath(member.filename)] = member
        self.names = tuple(self._members)

    def content(self, name: PurePosixPath) -> bytes:
        """Read one whole member; its checksum is compared."""
        member, shown = self._members[name], printable(name)
        if member.file_size > MAX_BYTES:
            raise DataError(f"{shown}: claims {member.file_size} bytes; expected a picture")
        try:
            with self._file.open(member) as stream:
                content = stream.read(MAX_BYTES + 1)
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
            # RuntimeError: it is encrypted; NotImplementedError, a kind of it: compressed in another way.
            raise DataError(f"{shown}: can't be read ({' '.join(str(error).split())})") from error
        if len(content) != member.file_size:
            raise DataError(f"{shown}: has {len(content)} bytes, the archive says {member.file_size}")
        return content


class Tar:
    """The regular members of a .tar file, plain or under gzip."""

    def __init__(self, path: Path) -> None:
        self._bytes: _Bytes = _Plain(path) if path.suffix.lower() == ".tar" else _Gzip(path)
        self._members: dict[PurePosixPath, tuple[int, int]] = {}
        with tarfile.TarFile(fileobj=io.BufferedReader(_Stream(self._bytes))) as archive:
            for member in archive:
                if member.isreg() and not member.issparse() and _is_harmless(member.name):
                    self._members[PurePosixPath(member.name)] = (member.offset_data, member.size)
        self.names = tuple(self._members)

    def content(self, name: PurePosixPath) -> bytes:
        """Read one whole member."""
        (start, size), shown = self._members[name], printable(name)
        if size > MAX_BYTES:
            raise DataError(f"{shown}: claims {size} bytes; expected a picture")
        try:
            content = self._bytes.read(start, size)
        except (OSError, zlib.error, EOFError) as error:
            raise DataError(f"{shown}: can't be read ({' '.join(str(error).split())})") from error
        if len(content) != size:
            raise DataError(f"{shown}: has {len(content)} bytes, the archive says {size}; it is cut off")
        return content


class _Bytes(Protocol):
    """Bytes that are read at any place, by any thread."""

    def read(self, start: int, size: int) -> bytes: ...


class _Plain:
    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        weakref.finalize(self, self._file.close)

    def read(self, start: int, size: int) -> bytes:
        parts = []
        while size > 0 and (part := os.pread(self._file.fileno(), min(size, 1 << 24), start)):
            parts.append(part)
            start, size = start + len(part), size - len(part)
        return b"".join(parts)


class _Gzip:
    """What a gzip file holds, at any place: the inflater's state is kept every few megabytes, so no place is far.

    A state is some 40 kB. There are never more than POINTS: when they run out, every second one is forgotten and the
    distance doubles.
    """

    POINTS = 256
    DISTANCE = 1 << 22
    BLOCK = 1 << 16

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        weakref.finalize(self, self._file.close)
        self._lock = threading.Lock()
        self._distance = self.DISTANCE
        self._points: list[tuple[int, int, zlib._Decompress]] = [(0, 0, _inflater())]
        self._at = (0, 0, _inflater())  # the place in what comes out, the place in the file, the state there

    def read(self, start: int, size: int) -> bytes:
        with self._lock:
            self._go_to(start)
            parts = []
            while size > 0 and (part := self._next(size)):
                parts.append(part)
                size -= len(part)
            return b"".join(parts)

    def _go_to(self, start: int) -> None:
        near = max((point for point in self._points if point[0] <= start), key=lambda point: point[0])
        if not near[0] <= self._at[0] <= start:
            self._at = (near[0], near[1], near[2].copy())
        while self._at[0] < start and self._next(start - self._at[0]):
            pass

    def _next(self, most: int) -> bytes:
        """Inflate what comes next, at most so many bytes; nothing at the end."""
        place, source, state = self._at
        while True:
            if state.eof:  # another gzip member may follow: `cat a.gz b.gz` is a gzip file
                source -= len(state.unused_data)
                state = _inflater()
            pending = state.unconsumed_tail
            if not pending:
                self._file.seek(source)
                pending = self._file.read(self.BLOCK)
                source += len(pending)
                if not pending:
                    self._at = (place, source, state)
                    return b""
            found = state.decompress(pending, min(most, 1 << 20))
            if found:
                break
        self._at = (place + len(found), source, state)
        if self._at[0] >= self._points[-1][0] + self._distance:
            self._keep()
        return found

    def _keep(self) -> None:
        self._points.append((self._at[0], self._at[1], self._at[2].copy()))
        if len(self._points) > self.POINTS:
            self._points = self._points[::2]
            self._distance *= 2


def _inflater() -> zlib._Decompress:
    return zlib.decompressobj(wbits=31)  # 31: gzip's own head and checksum


class _Stream(io.RawIOBase):
    """The same bytes as a file, which `tarfile` wants when it lists."""

    def __init__(self, content: _Bytes) -> None:
        self._content = content
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, target: Buffer) -> int:
        view = memoryview(target).cast("B")
        found = self._content.read(self._place, len(view))
        view[: len(found)] = found
        self._place += len(found)
        return len(found)

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END:
            raise io.UnsupportedOperation("the end is not known")
        self._place = place + (self._place if whence == os.SEEK_CUR else 0)
        return self._place

    def tell(self) -> int:
        return self._place
