"""How a run is made: what `evaluate` and `vtbench run` are given beside the tokenizer and the task.

Importing this module loads no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vtbench.errors import VtbenchError

if TYPE_CHECKING:
    from vtbench.team import Team

WAIT = 600
"""Seconds that a process waits for another one to finish writing a run of the same name."""

Progress = Callable[[int, int], None]
"""Called with pictures done and pictures in all."""


@dataclass(frozen=True)
class Settings:
    """How a run is made: arguments of `evaluate`, which says what they mean."""

    out: Path | None = Path("results")
    work: Path = Path(".vtbench")
    batch_size: int | Literal["auto"] = 8
    limit: int | None = None
    label: str | None = None
    step: float | None = None
    require: Sequence[str] = ()
    overwrite: bool = False
    rank: int = 0
    world: int = 1
    wait: float = WAIT
    workers: int | None = None
    team: Team | None = None
    """The processes that make the run together, in place of `rank` and `world`."""
    may_compute: bool = True
    """Whether pictures may be computed; without, only shards that are there are merged."""
    command: Mapping[str, Any] | None = None
    """What `vtbench run` was asked for, for `vtbench merge`."""
    merging: Progress | None = None
    """Told which shard a merge reads, and how many there are; it passes over them more than once."""

    @property
    def part(self) -> tuple[int, int]:
        """Which process this is, from 0, and how many make the run."""
        return (self.rank, self.world) if self.team is None else (self.team.rank, self.team.world)

    @property
    def speaks(self) -> bool:
        """Whether this process says what was done: of a team rank 0 alone."""
        return self.team is None or self.team.rank == 0

    @property
    def summaries(self) -> Path:
        """The folder of the summaries, of a run that is not kept in memory."""
        assert self.out is not None
        return self.out

    def check(self) -> None:
        """Refuse what is none of its kind.

        Raises:
            VtbenchError: naming the argument, and what was expected.
        """
        expected = (
            ("out", self.out is None or isinstance(self.out, Path), "a folder, or None for memory alone"),
            ("work", isinstance(self.work, Path), "a folder"),
            (
                "batch_size",
                self.batch_size == "auto" or _is_count(self.batch_size),
                "a whole number from 1 up, or auto",
            ),
            ("limit", self.limit is None or _is_count(self.limit), "a whole number from 1 up, or None"),
            ("label", self.label is None or isinstance(self.label, str), "a text, or None"),
            ("step", self.step is None or _is_number(self.step), "a finite number, or None"),
            ("require", not isinstance(self.require, str), "a sequence of metrics' names, such as ['psnr']"),
            ("wait", _is_number(self.wait) and self.wait >= 0, "seconds, from 0 up"),
            ("workers", self.workers is None or _is_count(self.workers), "a whole number from 1 up"),
        )
        for name, right, what in expected:
            if not right:
                raise VtbenchError(f"{name} {getattr(self, name)!r}: expected {what}")
        rank, world = self.part
        if not (isinstance(rank, int) and isinstance(world, int) and 0 <= rank < world):
            raise VtbenchError(f"rank {rank!r} of world {world!r}: expected whole numbers, 0 <= rank < world")
        if self.out is None and world > 1:
            raise VtbenchError("out=None keeps a run in one process's memory: give world=1, or a folder")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
