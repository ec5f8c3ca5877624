"""The work folder: what lies where in it, and who is at work there. Importing this module loads no torch."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from vtbench import files

log = logging.getLogger("vtbench")

BEGUN = "plan.json"
"""What a run leaves in its folder and beside its shards when it begins: its plan, how many shards that has, and the
command that made it."""

HASHES = "hashes.json"
"""What files of weights and backbones had which sha256, in the work folder: gigabytes are not hashed at each start."""

BATCHES = "batch-sizes"
"""Folder in the work folder: what `batch_size="auto"` found."""

IN_USE = "in-use"
"""Lock in a run's folder that all hold together who are at work there."""


def shards_of(folder: Path, plan: str) -> Path:
    """Say where in a run's folder the shards of a plan lie, by its digest."""
    return folder / f"shards-{plan[:12]}"


def shard_path(shards: Path, index: int) -> Path:
    """Say where in a folder of shards one of them lies."""
    return shards / f"{index:05d}.parquet"


def held(folder: Path, wait: float) -> AbstractContextManager[None]:
    """Keep others from cleaning a run's folder while this process is at work in it."""
    return files.lock(folder / IN_USE, shared=True, wait=wait, purpose=f"cleaning {folder}")


def unused(folder: Path) -> AbstractContextManager[bool]:
    """Keep others from beginning in a run's folder, where no process is at work there; says whether that is so."""
    return files.try_lock(folder / IN_USE)


def owned(folder: Path, wait: float) -> AbstractContextManager[None]:
    """Be the only process that writes what is kept in a run's folder."""
    return files.lock(folder / "owner", wait=wait, purpose=f"writing {folder}")


def clean(folder: Path, spent: Callable[[], Mapping[Path, str]]) -> None:
    """Remove what earlier starts left in a run's folder, as long as no process is at work there.

    Args:
        folder: the run's.
        spent: says, while no other process can begin, which folders of shards go, and what the user is told of each.
    """
    with unused(folder) as alone:
        if not alone:
            return
        for part in folder.rglob(".*.tmp"):
            part.unlink(missing_ok=True)
        for place, said in spent().items():
            if said:
                log.warning("%s/%s: deletes %s", folder.parent.name, folder.name, said)
            shutil.rmtree(place, ignore_errors=True)  # what a network's disk still holds goes at the next start
