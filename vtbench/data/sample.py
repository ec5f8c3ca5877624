"""The pictures that ship with the suite, so that a first run needs no network.

Photographs, textures, scientific pictures and graphics lie at 256x256 in vtbench/assets/sample and, where the original
is large enough, at 512x512 in its folder 512, lossless; LICENSES.md in either names author, source and licence of each.
There are too few of them for a Fréchet distance, so rFID is refused.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import ValidationError

from vtbench import data, geometry, images, pictures
from vtbench.errors import DataError
from vtbench.types import Sample, Strict

FOLDER = Path(__file__).resolve().parent.parent / "assets" / "sample"

SIZES = (256, 512)
"""Heights and widths that there is a set of."""

SHRUNK = {224: 256, 448: 512}
"""Heights and widths that a set is brought to by the canonical rule, for networks that take no other."""


class Entry(Strict):
    """What index.json says of one picture."""

    id: str
    file: str
    title: str
    author: str
    license: str
    license_url: str
    source: str
    package: str
    """Release and file that the picture was taken from; empty where it was rendered."""
    change: str
    category: str
    """photo, texture, science or graphic."""
    sha256: str
    """Of the decoded pixels: RGB, row by row."""


class Index(Strict):
    """The content of index.json."""

    size: int
    pictures: tuple[Entry, ...]


class Source(data.Source):
    """The embedded pictures, by id."""

    def __init__(self, *, size: int | None, path: Path | None = None) -> None:
        if path is not None:
            raise DataError(f"sample: the pictures are embedded and take no path, got {path}; use the source folder")
        size = size or SIZES[0]  # at their own size, where none is asked for
        if size not in SIZES and size not in SHRUNK:
            raise DataError(
                f"sample: the embedded pictures are 256x256 and 512x512, the task asks for {size}x{size}; "
                "set [geometry] size to 256 or 512 (or 224 or 448, made from these), or use the source folder"
            )
        self.size = size
        own = SHRUNK.get(size, size)
        self.folder = FOLDER if own == SIZES[0] else FOLDER / str(own)
        file = self.folder / "index.json"
        try:
            self.index = Index.model_validate_json(file.read_bytes())
        except (OSError, ValidationError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{file}: can't be read ({reason}); install vtbench again") from error

    @property
    def digest(self) -> str:
        """sha256 over id, category and pixel digest of every picture, as the index states them; `read` checks them.

        Of a set that is made smaller also over its size.
        """
        said: list[object] = [[entry.id, entry.category, entry.sha256] for entry in self.index.pictures]
        if self.size in SHRUNK:
            said.append(self.size)
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()

    def __len__(self) -> int:
        """Count the pictures."""
        return len(self.index.pictures)

    def sample_id(self, index: int) -> str:
        """Return the id of one picture, such as "astronaut"."""
        return self.index.pictures[index].id

    def read(self, index: int) -> Sample:
        """Read one picture and compare its pixels with the index."""
        entry = self.index.pictures[index]
        picture = pictures.read(self.folder / entry.file)
        found = hashlib.sha256(picture.tobytes()).hexdigest()
        if found != entry.sha256:
            raise DataError(
                f"{entry.file}: pixels have sha256 {found[:12]}, expected {entry.sha256[:12]}; install vtbench again"
            )
        if self.size in SHRUNK:
            picture = geometry.resize_and_crop(picture, self.size)
        return Sample(entry.id, images.from_pil(picture), attributes={"category": entry.category})
