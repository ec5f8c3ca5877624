"""Where pictures come from: one file a source, each with a class `Source` of the shape below.

A source says itself whether its data is on this machine (`is_here`), how it is brought (`bring`) and which places of
the user's it opens (`takes`). A package of the user's adds one by the entry point group `vtbench.data`: a name, and the
module or object that has these four.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Literal, Protocol, cast

from vtbench.cards import Data, Geometry
from vtbench.data import _shards
from vtbench.data._names import HINTS, printable
from vtbench.errors import CardError, DataError
from vtbench.types import Sample

__all__ = [
    "HINTS", "Module", "Source", "bring", "find", "is_here", "label_of", "open_place", "open_source", "source_of",
]  # fmt: skip

GROUP = "vtbench.data"
"""Entry points of this group are data sources too."""

PLACES = ("tokbench", "hub", "archive", "folder")
"""The sources that open places of the user's, in the order in which they are asked."""


class Source(Protocol):
    """A fixed, ordered list of pictures that are read one at a time.

    A module has a class `Source(*, size, path=None)`: `size` is the height and width that a task asks for, None for
    pictures as they are; `path` a file or folder of the user's where the source takes one. It takes further arguments
    as it needs them, by name: `crop` (of a card's geometry; "plain" where a published protocol reads), `flat`, `data`
    (all that a card says of its data), `text` (whether known text is needed) and `follow_links`. A class that derives
    from this one gives the first few properties only where they are not empty.
    """

    @property
    def text(self) -> Literal["none", "page", "boxes"]:
        """What text is known."""
        return "none"

    @property
    def known_text(self) -> str | None:
        """All text that is known, in any order; None where it is only had by reading the pictures."""
        return None

    @property
    def attributes(self) -> frozenset[str]:
        """Names of what results can be grouped by."""
        return frozenset()

    @property
    def revision(self) -> str | None:
        """The commit that was really read, where there is such."""
        return None

    @property
    def passed_over(self) -> Mapping[str, int]:
        """Files that were meant as pictures and are not read: how many of each kind, the kind in plain words."""
        return {}

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
            ChangedError: if it is not what `digest` was computed from, or has vanished since.
        """
        ...


class Module(Protocol):
    """What a source's file gives; `is_here`, `bring` and `takes` beside it may be left out."""

    @property
    def Source(self) -> Callable[..., Source]:
        """Make a source, as `Source` says."""
        ...


def find(name: str) -> Module:
    """Find a data source by name: a module of this package, else an entry point of a package of the user's.

    Raises:
        CardError: if there is none, if it can't be loaded, or if two packages bring one.
    """
    try:
        return cast(Module, import_module(f"vtbench.data.{name}"))
    except ModuleNotFoundError as error:
        if error.name != f"vtbench.data.{name}":
            raise
    outside = tuple(entry_points(group=GROUP, name=name))
    if not outside:
        raise CardError(
            f"data source {name!r}: there is no vtbench/data/{name}.py and no installed package brings it; "
            "correct [data] source"
        )
    if len(outside) > 1:
        raise CardError(f"data source {name!r}: {len(outside)} packages bring it; uninstall all but one")
    try:
        found: Module = outside[0].load()
    except Exception as error:  # a package of somebody's, imported here for the first time
        raise CardError(f"data source {name!r}: {outside[0].value} can't be loaded ({error})") from error
    if not hasattr(found, "Source"):
        raise CardError(f"data source {name!r}: {outside[0].value} has no class Source; see vtbench/data/__init__.py")
    return found


def is_here(data: Data) -> bool:
    """Tell whether a card's pictures are on this machine; touches no network."""
    asked = getattr(find(data.source), "is_here", None)
    return True if asked is None else bool(asked(data))


def bring(data: Data) -> str:
    """Bring a card's pictures where they are not on this machine, and say where they are.

    Raises:
        DataError: if they can't be had, or only by hand; the message says how.
    """
    asked = getattr(find(data.source), "bring", None)
    return f"its pictures come with vtbench, or with its package ({data.source})" if asked is None else str(asked(data))


def open_source(
    name: str,
    *,
    size: int | None,
    path: Path | None = None,
    crop: str = "center",
    data: Data | None = None,
    native: bool = False,
    text: bool = True,
    follow_links: bool = False,
) -> Source:
    """Open the source that a task card names.

    Args:
        name: of the source: `sample` is vtbench/data/sample.py.
        size: height and width; None for pictures as they are.
        path: a file or folder of the user's.
        crop: how a picture is brought to that size, as `cards.Geometry` says.
        data: all that the card says of its data.
        native: read pictures as published protocols do: as they are, by Pillow alone. A source that makes its pictures
            makes them at the card's size.
        text: whether known text is needed. Where it is not, nothing that is wrong with it stops a picture.
        follow_links: also read what links that lead out of a folder point to.

    Raises:
        CardError: if there is no such source, or it can't do what is asked.
        DataError: if the source can't be opened, or has no links that could be followed.
    """
    kind = find(name).Source
    taken = inspect.signature(kind).parameters
    if "crop" not in taken and crop != "center":
        raise CardError(f"data source {name!r} makes its own pictures and crops none; leave [geometry] crop out")
    if follow_links and "follow_links" not in taken:
        raise DataError(links_of("its own pictures are" if path is None else f"{printable(path)} is"))
    if native and "crop" in taken:
        size, crop = None, "plain"
    offered = {
        "crop": crop, "data": data, "flat": data is not None and data.flat, "text": text, "follow_links": follow_links,
    }  # fmt: skip
    return kind(size=size, path=path, **{key: value for key, value in offered.items() if key in taken})


def links_of(what: str) -> str:
    """Say of what is no folder of picture files that it has no links to follow."""
    return f"{what} no folder of picture files and has no links to follow; leave follow_links (--follow-links) out"


def open_place(
    place: str | Path,
    *,
    geometry: Geometry,
    data: Data,
    native: bool = False,
    text: bool = True,
    follow_links: bool = False,
) -> Source:
    """Open pictures of the user's in place of a card's own.

    Args:
        place: a folder, a .tar, .tar.gz or .zip archive, a .parquet file, several of these
            (`x-{000..009}.tar`, `x-*.tar`), or hub:OWNER/NAME[/CONFIG][@REVISION][:SPLIT].
        geometry: how they are brought to the task's size.
        data: what the card says of its own data; a copy of that on this machine is read as the card says.
        native: as `open_source` says.
        text: as `open_source` says.
        follow_links: as `open_source` says.

    Raises:
        DataError: if it is none of these, or can't be opened.
    """
    return open_source(
        source_of(place, data),
        size=geometry.side,
        path=Path(place),
        crop=geometry.crop,
        data=data,
        native=native,
        text=text,
        follow_links=follow_links,
    )


def source_of(place: str | Path, data: Data) -> str:
    """Tell which source opens a place of the user's.

    Raises:
        DataError: if none does, or nothing there can be looked at.
    """
    if not str(place).strip():
        raise DataError("no place is given; expected a folder of pictures, an archive, .parquet or hub:OWNER/NAME")
    _shards.check_open(Path(place))
    for name in (*{data.source} - {*PLACES}, *PLACES):
        asked = getattr(find(name), "takes", None)
        if asked is not None and asked(str(place), data):
            return name
    if re.match(r"[a-z0-9+]+://", str(place), re.IGNORECASE):
        raise DataError(f"{place}: is an address; download it, and name the file or folder")
    raise DataError(
        f"{place}: is a file of another kind; expected a folder of pictures, .tar, .tar.gz, .tgz, .zip, .parquet or "
        "hub:OWNER/NAME"
    )


def label_of(place: str | Path) -> str:
    """Name a place of the user's: its path's last part, in small letters, digits, points and dashes."""
    said = str(place)
    if re.match(r"[a-z]+:\w", said):  # hub:OWNER/NAME, as no path begins
        said = said.split(":", 1)[1]
    else:
        said = re.sub(r"\.(tar|tgz|tar\.gz|zip|parquet)$", "", Path(said).resolve().name, flags=re.IGNORECASE)
    return re.sub(r"[^a-z0-9.-]+", "-", said.lower()).strip("-.") or "data"
