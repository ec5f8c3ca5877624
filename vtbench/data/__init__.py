"""Where pictures come from: one file a source, each with a class `Source` of the shape below."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from vtbench.cards import Data, Geometry
from vtbench.errors import CardError, DataError
from vtbench.types import Sample


class Source(Protocol):
    """A fixed, ordered list of pictures that are read one at a time.

    Each module of this package has a class `Source(*, size, path=None)`: `size` is the height and width that a task
    asks for, None for pictures as they are; `path` a file or folder of the user's where the source takes one. Sources
    of files take what else a card says as well: `crop` (of its geometry), `flat`, and `data` as a whole.

    A source of files also has `text` ("none", "page" or "boxes": what text is known), `attributes` (the names of what
    results can be grouped by) and `revision` (the commit that was really read, or None).
    """

    @property
    def digest(self) -> str:
        """sha256 of what defines the pictures: equal digests mean equal pixels, ids and texts."""
        ...

    def __len__(self) -> int: ...

    def sample_id(self, index: int) -> str:
        """Return the id of one picture; known without reading it."""
        ...

    def read(self, index: int) -> Sample:
        """Read one picture at the task's size; several threads may do so at once.

        Raises:
            DataError: with the reason, where this one picture can't be had; the others still can.
        """
        ...


def open_source(
    name: str, *, size: int | None, path: Path | None = None, crop: str = "center", data: Data | None = None
) -> Source:
    """Open the source that a task card names: `sample` is vtbench/data/sample.py.

    Args:
        name: of the module.
        size: height and width; None for pictures as they are.
        path: a file or folder of the user's.
        crop: how a picture is brought to that size, as `cards.Geometry` says.
        data: all that the card says of its data.

    Raises:
        CardError: if there is no such file, or it can't do what is asked.
        DataError: if the source can't be opened.
    """
    try:
        module = import_module(f"vtbench.data.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"vtbench.data.{name}":
            raise
        raise CardError(f"data source {name!r}: there is no vtbench/data/{name}.py; correct [data] source") from error
    taken = inspect.signature(module.Source).parameters
    if "crop" not in taken and crop != "center":
        raise CardError(f"data source {name!r} makes its own pictures and crops none; leave [geometry] crop out")
    offered: dict[str, Any] = {"crop": crop, "data": data, "flat": data is not None and data.flat}
    source: Source = module.Source(
        size=size, path=path, **{key: value for key, value in offered.items() if key in taken}
    )
    return source


def open_place(place: str | Path, *, geometry: Geometry, data: Data) -> Source:
    """Open pictures of the user's in place of a card's own.

    Args:
        place: a folder, a .tar, .tar.gz or .zip archive, a .parquet file, or
            hub:OWNER/NAME[/CONFIG][@REVISION][:SPLIT].
        geometry: how they are brought to the task's size.
        data: what the card says of its own data; a copy of that on this machine is read as the card says.

    Raises:
        DataError: if it is none of these, or can't be opened.
    """
    from vtbench.data import archive, hub

    if str(place).startswith("hub:"):
        return hub.Source(size=geometry.side, crop=geometry.crop, data=hub.parse(str(place)))
    path = Path(place)
    if data.source == "tokbench":
        kind = "tokbench"
    elif path.suffix.lower() == ".parquet":
        kind = "hub"
    elif archive.is_archive(path) and path.is_file():
        kind = "archive"
    elif path.is_file():
        wanted = ", ".join((*archive.SUFFIXES, ".parquet"))
        raise DataError(f"{path}: is a file of another kind; expected a folder of pictures, {wanted} or hub:OWNER/NAME")
    else:
        kind = "hub" if path.is_dir() and data.source == "hub" and any(path.rglob("*.parquet")) else "folder"
    if kind == "hub" and not path.exists():
        raise DataError(f"{path}: does not exist; expected a parquet file")
    return open_source(kind, size=geometry.side, path=path, crop=geometry.crop, data=data)
