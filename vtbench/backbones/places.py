"""Folders that may hold the files of a network, and the digests that say whether they do."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vtbench import files


@dataclass(frozen=True)
class Place:
    """One folder, and the files that make up a network there."""

    folder: Path
    files: Mapping[str, str]
    """File name to sha256, or to the prefix of it that the publisher states; "" where nothing is pinned."""

    @property
    def path(self) -> Path:
        """The file, or the folder where there are several files."""
        return self.folder if len(self.files) > 1 else self.folder / next(iter(self.files))

    @property
    def looked_for(self) -> str:
        """What is looked for and where, the home folder as ~: the reason stands in results of all machines."""
        inside = self.folder.is_relative_to(files.home())
        folder = f"~/{self.folder.relative_to(files.home()).as_posix()}" if inside else str(self.folder)
        return f"{' and '.join(self.files)} in {folder}"

    def digests(self) -> dict[str, str]:
        """File name to whole sha256."""
        return {file: files.sha256(self.folder / file) for file in self.files}


def first(places: Iterable[Place]) -> Place | None:
    """The first place that holds all its files; touches no network.

    Raises:
        WeightsError: if a file of that place is another file, naming both digests. It is not passed over.
    """
    for place in places:
        if all((place.folder / file).is_file() for file in place.files):
            for file, expected in place.files.items():
                files.check_sha256(place.folder / file, expected)
            return place
    return None


def torch_checkpoints() -> Path:
    """Where torch.hub keeps checkpoints, by its rule, without loading torch."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or files.home() / ".cache")
    return Path(os.environ.get("TORCH_HOME") or cache / "torch").expanduser() / "hub" / "checkpoints"
