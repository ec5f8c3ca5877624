"""Where pictures come from: one file a source, each with a class `Source` of the shape below."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Protocol

from vtbench.errors import CardError
from vtbench.types import Sample


class Source(Protocol):
    """A fixed, ordered list of pictures that are read one at a time.

    Each module of this package has a class `Source(*, size, path=None)`: `size` is the height and width that a task
    asks for, `path` a file or folder of the user's where the source takes one.
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
        """Read one picture at the task's size.

        Raises:
            DataError: with the reason, where this one picture can't be had; the others still can.
        """
        ...


def open_source(name: str, *, size: int, path: Path | None = None) -> Source:
    """Open the source that a task card names: `sample` is vtbench/data/sample.py.

    Raises:
        CardError: if there is no such file.
        DataError: if the source can't be opened.
    """
    try:
        module = import_module(f"vtbench.data.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"vtbench.data.{name}":
            raise
        raise CardError(f"data source {name!r}: there is no vtbench/data/{name}.py; correct [data] source") from error
    source: Source = module.Source(size=size, path=path)
    return source
