"""Pictures of the user's own: every picture file below a folder, in the order of their names.

Each is brought to the task's size by the canonical rule (`geometry.resize_and_crop`): the short side is resized, the
centre square is kept. A picture smaller than the task's size is enlarged by the same rule, as torchvision does it; its
detail is then softer than the size suggests, so prefer a task of the pictures' own size.

A table `metadata.csv` or `metadata.jsonl` beside the pictures may say what text they show: a column `file_name`, a
column `text`, and in JSON `lines`, each with its `text` and its `box` (left, top, right, bottom in pixels of the
upright file). Its other columns are what results can be grouped by.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from vtbench.cards import Data
from vtbench.data._pictures import MAX_BYTES, SUFFIXES, Crop, Pictures, printable
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
    ) -> None:
        if path is None:
            raise DataError(_to_obtain(data))
        self.folder = path
        super().__init__(Folder(path), size=size, crop=crop, flat=flat, shown=printable(path), beside=True)


def takes(place: str, data: Data) -> bool:
    """Take every place that is no file: what is not there is told as a folder that is missing."""
    del data
    return not Path(place).is_file()


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

    Links are followed as long as they stay inside the folder; a link to a folder is never walked, so a file is found
    once by each name and no cycle can arise.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            what = "is a file" if path.exists() else "does not exist"
            raise DataError(f"{printable(path)}: {what}; expected a folder of pictures")
        self.path = path
        self._root = path.resolve()
        self.names = self._list()

    def content(self, name: PurePosixPath) -> bytes:
        """Read one whole file, as long as it still lies inside the folder."""
        file = self.path / name
        shown = printable(name)
        try:
            if file.is_symlink() and not self._is_inside(file):
                raise DataError(f"{shown}: a link that leads out of the folder; it is not followed")
            with file.open("rb") as stream:
                content = stream.read(MAX_BYTES + 1)
        except OSError as error:
            raise DataError(f"{shown}: can't be read ({error.strerror}); check the file's permissions") from error
        if len(content) > MAX_BYTES:
            raise DataError(f"{shown}: more than {MAX_BYTES} bytes; expected a picture")
        return content

    def _is_inside(self, file: Path) -> bool:
        return file.resolve().is_relative_to(self._root)

    def _list(self) -> tuple[PurePosixPath, ...]:
        def refuse(error: OSError) -> None:
            shown = printable(Path(error.filename))
            raise DataError(f"{shown}: can't be listed ({error.strerror}); check the permissions") from error

        found = []
        for place, _, names in os.walk(self.path, onerror=refuse, followlinks=False):
            for name in names:
                file = Path(place) / name
                # Only what opens as a file: a pipe or device would block, a broken or circular link has nothing.
                if not file.is_file() or (file.is_symlink() and not self._is_inside(file)):
                    continue
                found.append(PurePosixPath(file.relative_to(self.path).as_posix()))
        return tuple(found)
