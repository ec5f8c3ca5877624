"""evaluate(): one tokenizer on one task, in shards that survive a kill.

A shard is the unit of work, of resume and of distribution: samples are cut by index into shards of a fixed size,
whatever the batch size or the number of processes. A computed shard is committed atomically; a later start skips it;
the merge reads all of them in order. So one process, several, or a killed and resumed run give the same table.

No process waits for another's work. Each computes the shards that are its own and not there, and ends; the one that
then finds all of them merges. Shards are named by the digest of the plan, so nothing computed otherwise is mixed in.
"""

from __future__ import annotations

import io
import logging
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import overload

import pyarrow as pa
from pyarrow import parquet

from vtbench import files, plan, results, shards, summary
from vtbench.errors import DataError, ResultError, VtbenchError
from vtbench.plan import Plan
from vtbench.protocols import find_protocol
from vtbench.results import Run
from vtbench.shards import Progress
from vtbench.task import Task, load_task
from vtbench.tokenizer import Tokenizer, load_tokenizer

log = logging.getLogger("vtbench")

READINGS = "readings"
"""Folder in the work folder: what OCR engines read on originals, so that they read each but once."""

ATTEMPTS = 5
"""How often a process computes shards of its own that another one deleted."""

WAIT = 600.0
"""Seconds that a process waits for another one to finish writing a run of the same name."""


@overload
def evaluate(
    tokenizer: Tokenizer | str,
    task: Task | str,
    *,
    out: str | Path | None = ...,
    work: str | Path = ...,
    batch_size: int = ...,
    limit: int | None = ...,
    protocol: str | None = ...,
    label: str | None = ...,
    step: float | None = ...,
    require: Sequence[str] = ...,
    overwrite: bool = ...,
    wait: float = ...,
    progress: Progress | None = ...,
) -> Run: ...


@overload
def evaluate(
    tokenizer: Tokenizer | str,
    task: Task | str,
    *,
    out: str | Path | None = ...,
    work: str | Path = ...,
    batch_size: int = ...,
    limit: int | None = ...,
    protocol: str | None = ...,
    label: str | None = ...,
    step: float | None = ...,
    require: Sequence[str] = ...,
    overwrite: bool = ...,
    rank: int,
    world: int,
    wait: float = ...,
    progress: Progress | None = ...,
) -> Run | None: ...


def evaluate(
    tokenizer: Tokenizer | str,
    task: Task | str,
    *,
    out: str | Path | None = "results",
    work: str | Path = ".vtbench",
    batch_size: int = 8,
    limit: int | None = None,
    protocol: str | None = None,
    label: str | None = None,
    step: float | None = None,
    require: Sequence[str] = (),
    overwrite: bool = False,
    rank: int = 0,
    world: int = 1,
    wait: float = WAIT,
    progress: Progress | None = None,
) -> Run | None:
    """Run one tokenizer through one task and write its summary and per-image table.

    Args:
        tokenizer: what is measured, or the name of its card.
        task: the pictures and metrics, or the name of its card.
        out: folder of the summaries; `<out>/<task>/<name>.json` is written. None keeps everything in memory: no file
            at all is written.
        work: folder of the shards, and of `run.json` and `images.parquet` after; a killed run resumes from here.
        batch_size: pictures a forward pass; it moves no number beyond the rounding of floats.
        limit: only the first pictures; such a run is shown but never ranked.
        protocol: how pictures become numbers; the task's own where left out.
        label: what the run's name says of weights that are not the card's own; the first 8 hex digits of their sha256
            where left out.
        step: the training step of the weights.
        require: metrics whose absence is an error instead of an empty column.
        overwrite: compute again what is already there, and replace what would be protected.
        rank: which of `world` processes this one is, from 0; it computes every world-th shard.
        world: how many processes share the run's shards in one work folder, each called with a rank of its own.
        wait: seconds to wait for another process that is just writing a run of this name; ten minutes by default.
        progress: told how far it is.

    Returns:
        The summary; None in a process that ended before all shards of the others were there.

    Raises:
        DataError: if the tokenizer can't take the task's size, every picture failed, or a published protocol is asked
            of a task whose pictures were not loaded as they are.
        ChangedError: if pictures changed or vanished while they were read.
        ResultError: if a folder can't be written, a full run would be replaced by a part of one, or a run of this name
            is on other pictures.
        VtbenchError: if an argument is none of its kind, or a required metric can't be scored.
    """
    if not (isinstance(rank, int) and isinstance(world, int) and 0 <= rank < world):
        raise VtbenchError(f"rank {rank!r} of world {world!r}: expected whole numbers, 0 <= rank < world")
    if out is None and world > 1:
        raise VtbenchError("out=None keeps a run in one process's memory: give world=1, or a folder")
    tokenizer, task = _opened(tokenizer, task, protocol)
    if tokenizer.held is not None and world > 1 and tokenizer.identity() != tokenizer.identity():
        raise VtbenchError(
            f"{tokenizer.card.name}: nothing of this live model can be hashed, so it is another one in every process; "
            "give world=1"
        )
    if tokenizer.held is not None and not task.native:
        _settle(tokenizer, task)
    made = plan.make(
        tokenizer,
        task,
        protocol=protocol,
        limit=limit,
        batch_size=batch_size,
        label=label,
        step=step,
        require=require,
        readings=None if out is None else Path(work) / READINGS,
    )
    if out is None:
        shards.check_bottleneck(made)
        run = summary.finish(made, list(shards.tables(made, range(made.shards), progress, 0)))[0]
        summary.check(run)
        return run
    return _Folder(made, Path(out), Path(work), wait=wait, overwrite=overwrite).run(rank, world, progress)


def _opened(tokenizer: object, task: object, protocol: str | None) -> tuple[Tokenizer, Task]:
    """Take names for what they name; refuse what is neither."""
    if isinstance(task, str):
        task = load_task(task, native=protocol is not None and find_protocol(protocol).published)
    if isinstance(tokenizer, str):
        tokenizer = load_tokenizer(tokenizer)
    if not isinstance(tokenizer, Tokenizer):
        raise VtbenchError(
            f"tokenizer: got a {type(tokenizer).__name__}; expected a name, load_tokenizer(...) or wrap(...)"
        )
    if not isinstance(task, Task):
        raise VtbenchError(f"task: got a {type(task).__name__}; expected a name or load_task(...)")
    return tokenizer, task


def _settle(tokenizer: Tokenizer, task: Task) -> None:
    """Encode the first picture that can be: a live model's codes alone say of what kind they are."""
    for index in range(len(task)):
        try:
            tokenizer.encode(task.read(index).image[None])
            return
        except DataError:  # said of each picture, where it belongs
            continue


# --- the work folder --------------------------------------------------------------------------------------------------


class _Folder:
    """The files of one run: its shards while it runs, its table and summary after."""

    def __init__(self, made: Plan, out: Path, work: Path, *, wait: float, overwrite: bool) -> None:
        self.plan = made
        self.summary = out / made.task.card.name / f"{made.name}.json"
        self.folder = work / made.task.card.name / made.name
        self.shards = self.folder / f"shards-{made.digest[:12]}"
        self.wait = wait
        self.overwrite = overwrite
        self._ready = False
        files.check_writable(self.summary.parent)

    def run(self, rank: int, world: int, progress: Progress | None) -> Run | None:
        """Compute what is this process's and not there; merge, where all of it is there then."""
        self._protect()
        self._clean()
        mine = range(rank, self.plan.shards, world)
        with files.lock(self.folder / "in-use", shared=True, wait=self.wait, purpose=f"cleaning {self.folder}"):
            if self.overwrite:
                for index in mine:
                    self._path(index).unlink(missing_ok=True)
            elif (done := self._finished()) is not None:
                return self._publish(done)
            else:
                self._tell_changes()
            for _ in range(ATTEMPTS):  # another process may have deleted some meanwhile, to compute them again
                self._compute(mine, progress)
                missing = self._missing()
                if not set(missing) & set(mine):
                    break
            else:
                raise ResultError(f"{self.shards}: shards vanish while they are computed; who deletes them?")
            if missing:
                log.warning(
                    "%s on %s: %d of %d shards are not there yet; the process that commits the last one merges. "
                    "If none is running any more, start the same command again",
                    *(self.plan.name, self.plan.task.card.name, len(missing), self.plan.shards),
                )
                return None
            return self._merge(progress)

    def _protect(self) -> None:
        """Keep a full result from being replaced by a trial, and one on other pictures from sharing the name."""
        if self.overwrite:
            return
        made = self.plan
        for path in (self.summary, self.folder / results.RUN):
            if not path.is_file():
                continue
            try:
                there = results.read_run(path)
            except ResultError:  # of another version, or damaged: nothing that is worth keeping
                continue
            if "@" in made.task.card.name and there.digests.get("data") != made.digests["data"]:
                other, own = (str(digests.get("data"))[:12] for digests in (there.digests, made.digests))
                raise ResultError(
                    f"{path} is on other pictures that go by the same name (data {other}, these are {own}); "
                    "name these with --data-name, or give --overwrite"
                )
            if made.trial and there.limit is None and there.weights != "synthetic":
                raise ResultError(
                    f"{path} is a full run, and this one would replace it by {made.trial}; "
                    "choose another --out and --work, or give --overwrite"
                )

    def _clean(self) -> None:
        """Remove what earlier starts left, as long as no process is at work here: halves of files, spent shards."""
        with files.try_lock(self.folder / "in-use") as alone:
            if not alone:
                return
            for part in self.folder.rglob(".*.tmp"):
                part.unlink(missing_ok=True)
            keep = None if self._finished() else self.shards
            for spent in self.folder.glob("shards-*"):
                if spent != keep:
                    shutil.rmtree(spent)

    def _finished(self) -> Run | None:
        """The run of exactly this plan, where an earlier start completed it and its table is whole."""
        try:
            run, _ = results.find_run(self.folder, self.folder)
        except ResultError:
            return None
        return run if run.digests.get("plan") == self.plan.digest else None

    def _tell_changes(self) -> None:
        try:
            old = results.read_run(self.folder / results.RUN)
        except ResultError:
            return
        if found := plan.changes(old, self.plan):
            log.warning("%s on %s: computed anew, for these differ: %s", old.name, old.task, ", ".join(found))

    def _publish(self, run: Run) -> Run:
        """Put a finished run's summary where it belongs, under the label and step that it goes by now."""
        run = run.model_copy(update={"label": self.plan.label, "step": self.plan.step})
        summary.check(run)
        results.write(run, self.summary)
        return run

    def _path(self, index: int) -> Path:
        return self.shards / f"{index:05d}.parquet"

    def _missing(self) -> list[int]:
        return [index for index in range(self.plan.shards) if not self._path(index).is_file()]

    def _compute(self, mine: range, progress: Progress | None) -> None:
        """Compute and commit the shards that are not there.

        Two processes that were given the same shards take turns: one that another process has begun is left to it in
        the first pass, and in the second only computed where it is still not there.
        """
        in_all = sum(len(self.plan.indices(index)) for index in mine)
        for polite in (True, False):
            missing = [index for index in mine if not self._path(index).is_file()]
            done = in_all - sum(len(self.plan.indices(index)) for index in missing)
            if progress:
                progress(done, in_all)
            if missing and not self._ready:
                shards.check_bottleneck(self.plan)
                shards.warm_up(self.plan)
                self._ready = True
            for index in missing:
                with ExitStack() as stack:
                    if polite and not stack.enter_context(files.try_lock(self._path(index).with_suffix(".lock"))):
                        continue
                    if self._path(index).is_file():
                        continue
                    (table,) = shards.tables(self.plan, [index], progress, done, in_all)
                    files.write_atomic(self._path(index), _to_bytes(table))
                    done += len(self.plan.indices(index))

    def _merge(self, progress: Progress | None) -> Run:
        """Read all shards, and write table and summary so that nobody ever sees those of two runs together."""
        tables = []
        for index in range(self.plan.shards):
            try:
                tables.append(parquet.read_table(self._path(index)))
            except (OSError, pa.ArrowInvalid):  # damaged, or deleted meanwhile
                self._path(index).unlink(missing_ok=True)
                log.warning("%s: shard %d was damaged or deleted, and is computed again", self.plan.name, index)
                self._compute(range(index, index + 1), progress)
                tables.append(parquet.read_table(self._path(index)))
        with files.lock(self.folder / "owner", wait=self.wait, purpose=f"writing {self.folder}"):
            if not self.overwrite and (done := self._finished()) is not None:  # another process merged meanwhile
                return done
            self._protect()
            run, images = summary.finish(self.plan, tables)
            content = _to_bytes(images)
            run = run.model_copy(update={"digests": {**run.digests, "table": results.table_digest(content)}})
            files.write_atomic(self.folder / results.IMAGES, content)
            results.write(run, self.folder / results.RUN)
            summary.check(run)
            results.write(run, self.summary)
        return run


def _to_bytes(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(table, sink, compression="zstd")
    return sink.getvalue()
