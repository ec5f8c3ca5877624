"""Pictures of the user's own: every picture file below a folder, in the order of their names.

Each is brought to the task's size by the canonical rule (`geometry.resize_and_crop`): the short side is resized, the
centre square is kept. A picture smaller than the task's size is enlarged by the same rule, as torchvision does it; its
detail is then softer than the size suggests, so prefer a task of the pictures' own size.

A table `metadata.csv`, .tsv, .txt, .jsonl or .json beside the pictures may say what text they show: a column
`file_name`, a column `text`, and in JSON `lines`, each with its `text` and its `box` (left, top, right, bottom in
pixels of the upright file). Its other columns are what results can be grouped by. So may a file of a picture's own
name: `sign.txt` or `sign.json` beside `sign.png`.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from vtbench import files
from vtbench.cards import Data
from vtbench.data import _known, _shards
from vtbench.data._names import SUFFIXES, printable, was_meant
from vtbench.data._pictures import MAX_BYTES, Crop, Pictures
from vtbench.errors import DataError

__all__ = ["SUFFIXES", "Folder", "Source", "printable"]


class Source(Pictures):
    """The picture files below a folder, sorted by their relative POSIX path, which is also their id."""

    def __init__(
        self,
        *,
        size: int | None,
        path: Path | None = None,
        crop: Crop = "center",
        flat: bool = False,
        data: Data | None = None,
        text: bool = True,
        follow_links: bool = False,
    ) -> None:
        if path is None:
            raise DataError(_to_obtain(data))
        self.folder = path
        held = Folder(path, follow_links=follow_links)
        super().__init__(held, size=size, crop=crop, flat=flat, text=text, shown=printable(path))


def takes(place: str, data: Data) -> bool:
    """Take every place that is no file and no address: what is not there is told as a folder that is missing."""
    del data
    return not files.is_file(place) and "://" not in place


def is_here(data: Data) -> bool:
    """Pictures of the user's are where the user says."""
    del data
    return False


def bring(data: Data) -> str:
    """Say how such pictures are had.

    Raises:
        DataError: always; they can't be brought from here.
    """
    raise DataError(_to_obtain(data))


def _to_obtain(data: Data | None) -> str:
    expected = f", {data.images} of them," if data and data.images else ""
    how = (data.obtain if data else None) or "Name the folder or archive of your pictures with --data PATH."
    return f"its pictures{expected} do not come with vtbench. {' '.join(how.split())}"


class Folder:
    """The regular files below a folder.

    Links to files are followed as long as they stay inside the folder; where it lies in a repository of the hub's
    cache (snapshots/, whose files are links to blobs/), as long as they stay inside that. Links that lead out and links
    to folders are followed only where that is asked for; one that leads back to a folder on the way to it, or above
    one, never is.
    """

    hint = ""

    def __init__(self, path: Path, *, follow_links: bool = False) -> None:
        if not files.is_dir(path):
            what = "is a file" if files.exists(path) else "does not exist"
            raise DataError(f"{printable(path)}: {what}; expected a folder of pictures")
        self.path = path
        self._follow = follow_links
        self._home = _home(path.resolve())
        self.left_out: list[str] = []
        self.names = tuple(self._list())

    def begin(self, name: PurePosixPath) -> bytes:
        """Read a file's first bytes; none where it can't be read."""
        return _shards.begin(self.path / name)

    def content(self, name: PurePosixPath) -> bytes:
        """Read one whole file, as long as it still lies inside the folder."""
        file, shown = self.path / name, printable(name)
        try:
            file.stat()
            leads_out = file.is_symlink() and not self._may_follow(file)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP) and file.is_symlink():
                raise DataError(
                    f"{shown}: is a link to nothing; bring what it points to, or remove the link"
                ) from error
            raise _unreadable(shown, error) from error
        if leads_out:
            raise DataError(
                f"{shown}: a link that leads out of the folder; follow_links (--follow-links) reads what it points to"
            )
        return content_of(file, shown)

    def _may_follow(self, file: Path) -> bool:
        return self._follow or file.resolve().is_relative_to(self._home)

    def _list(self) -> Iterator[PurePosixPath]:
        for place, folders, names in _shards.walk(self.path, follow_links=self._follow):
            folders[:] = sorted(name for name in folders if self._may_enter(place, name))
            for name in names:
                file = place / name
                kind = self._kind(file)
                # What holds a picture's text and can't be read leaves no picture without text: reading it says why.
                if kind is None or (kind != _NO_FILE and _known.may_hold_text(PurePosixPath(name))):
                    yield PurePosixPath(file.relative_to(self.path).as_posix())
                elif was_meant(PurePosixPath(name)):
                    self.left_out.append(kind)

    def _may_enter(self, place: Path, name: str) -> bool:
        folder = place / name
        if not folder.is_symlink():
            return True
        # Links may lead into each other, so the way counts on which this one was reached, and not its own place alone.
        parts = place.relative_to(self.path).parts
        target, way = folder.resolve(), [self.path.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]
        circle = any(above.resolve().is_relative_to(target) for above in way)
        if not self._follow or circle:
            self.left_out.append("links in a circle" if circle else "links to folders")
        return self._follow and not circle

    def _kind(self, file: Path) -> str | None:
        """Say why a file is not read; None where it is."""
        if file.is_symlink():
            try:
                file.stat()
            except OSError:
                return "links to nothing"
        # Only what opens as a file: a pipe or device would block.
        if not file.is_file():
            return _NO_FILE
        return "links that lead out" if file.is_symlink() and not self._may_follow(file) else None


_NO_FILE = "pipes and devices"


def content_of(file: Path, shown: str) -> bytes:
    """Read one whole file.

    Raises:
        DataError: with the reason, if it can't be read or is too large for a picture.
    """
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise _unreadable(shown, error) from error
    if len(content) > MAX_BYTES:
        raise DataError(f"{shown}: more than {MAX_BYTES} bytes; expected a picture")
    return content


def _unreadable(shown: str, error: OSError) -> DataError:
    return DataError(f"{shown}: can't be read ({error.strerror}); check the file's permissions")


def _home(folder: Path) -> Path:
    """The folder that links may lead to: the repository where it is a snapshot in the hub's cache, else itself."""
    for snapshot in (folder, *folder.parents):
        repository = snapshot.parent.parent
        if snapshot.parent.name == "snapshots" and (repository / "blobs").is_dir():
            return repository
    return folder
