"""Pictures of the user's own: every picture file below a folder, in the order of their names.

Each is brought to the task's size by the canonical rule (`images.resize_and_crop`): the short side is resized, the
centre square is kept. A picture smaller than the task's size is enlarged by the same rule, as torchvision does it; its
detail is then softer than the size suggests, so prefer a task of the pictures' own size.
"""

from __future__ import annotations

import hashlib
import json
import os
from functools import cached_property
from pathlib import Path, PurePosixPath

import pillow_jxl  # noqa: F401  importing it teaches Pillow to read .jxl

from vtbench import images
from vtbench.errors import DataError
from vtbench.types import Sample

SUFFIXES = frozenset({
    ".avif", ".bmp", ".gif", ".j2k", ".jfif", ".jp2", ".jpeg", ".jpg", ".jxl",
    ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp",
})  # fmt: skip
"""File names that end so are pictures, whatever their case; other files are passed over."""


class Source:
    """The picture files below a folder, sorted by their relative POSIX path, which is also their id.

    Links are followed as long as they stay inside the folder; a link to a folder is never walked, so a picture is
    found once by each name and no cycle can arise. A file that can't be decoded is still in the list: its `read` fails
    with the reason, and the run records that.
    """

    def __init__(self, *, size: int, path: Path | None = None) -> None:
        if path is None:
            raise DataError("folder: no path given; name the folder of your pictures with --data PATH")
        if not path.is_dir():
            what = "is a file" if path.exists() else "does not exist"
            raise DataError(f"{printable(path)}: {what}; expected a folder of pictures")
        self.size = size
        self.folder = path
        self.files = _pictures(path)
        if not self.files:
            raise DataError(
                f"{printable(path)}: holds no picture; expected files that end in {', '.join(sorted(SUFFIXES))}"
            )

    def __len__(self) -> int:
        """Count the picture files."""
        return len(self.files)

    def sample_id(self, index: int) -> str:
        """Return the relative path; bytes that are not UTF-8 and control characters are shown as escapes."""
        return printable(self.files[index])

    def read(self, index: int) -> Sample:
        """Read one picture: upright by its EXIF entry, alpha over white, first frame, resized and cropped."""
        name = self.sample_id(index)
        file = self.folder / self.files[index]
        try:
            content = file.read_bytes()
        except OSError as error:
            raise DataError(f"{name}: can't be read ({error.strerror}); check the file's permissions") from error
        try:
            picture = images.read(content, name)
        except RuntimeError as error:  # what the JPEG XL plugin raises on a damaged file
            reason = " ".join(str(error).split())
            raise DataError(f"{name}: not a readable picture ({reason})") from error
        return Sample(name, images.from_pil(images.resize_and_crop(picture, self.size)))

    @cached_property
    def digest(self) -> str:
        """sha256 over names, sizes in bytes and contents of all files, and over the task's size."""
        total = hashlib.sha256(json.dumps(self.size).encode())
        for index, relative in enumerate(self.files):
            file = self.folder / relative
            try:
                with file.open("rb") as stream:
                    content = hashlib.file_digest(stream, "sha256").hexdigest()
                said = [self.sample_id(index), file.stat().st_size, content]
            except OSError as error:
                said = [self.sample_id(index), None, error.strerror]
            total.update(json.dumps(said).encode())
        return total.hexdigest()


def printable(path: Path | PurePosixPath) -> str:
    r"""Show a path in one line: undecodable bytes and unprintable characters escaped, backslashes doubled.

    Different paths are shown differently: a lone byte 0x85 is \x85, the control character U+0085 is \u0085.
    """
    decoded = os.fsencode(path.as_posix()).replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")
    return "".join(sign if sign.isprintable() else _escape(sign) for sign in decoded)


def _escape(sign: str) -> str:
    return f"\\u{ord(sign):04x}" if 127 < ord(sign) < 256 else sign.encode("unicode_escape").decode()


def _pictures(folder: Path) -> tuple[PurePosixPath, ...]:
    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename!r}: can't be listed ({error.strerror}); check the permissions") from error

    root = folder.resolve()
    found = []
    for place, _, names in os.walk(folder, onerror=refuse, followlinks=False):
        for name in names:
            file = Path(place) / name
            # Only what opens as a file: a pipe or device would block, a broken or circular link has nothing to read.
            if file.suffix.lower() not in SUFFIXES or not file.is_file():
                continue
            if file.is_symlink() and not file.resolve().is_relative_to(root):
                continue
            found.append(PurePosixPath(file.relative_to(folder).as_posix()))
    return tuple(sorted(found, key=lambda relative: os.fsencode(relative.as_posix())))
