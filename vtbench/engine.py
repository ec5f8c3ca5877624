"""evaluate(): one tokenizer on one task, in shards that survive a kill.

A shard is the unit of resume: samples are cut by index into shards of a fixed size, whatever the batch size or the
number of processes. A computed shard is committed atomically; a later start skips it; the merge reads all of them in
order. Processes share the work by blocks, whole shards that whole batches fill. So one process, several, or a killed
and resumed run give the same table.

No process waits for another's work. Each computes the shards that are its own and not there, and ends; the one that
then finds all of them merges. Shards are named by the digest of the plan, so nothing computed otherwise is mixed in.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, overload

import pyarrow as pa
from pyarrow import parquet

from vtbench import device, files, plan, provenance, results, shards, summary
from vtbench.errors import DataError, ResultError, VtbenchError
from vtbench.plan import Plan
from vtbench.protocols import find_protocol
from vtbench.published import fed
from vtbench.results import Run
from vtbench.shards import Job, Progress, Want
from vtbench.summary import Shard
from vtbench.task import Task, load_task
from vtbench.tokenizer import Tokenizer, load_tokenizer

log = logging.getLogger("vtbench")

BATCHES = "batch-sizes"
"""Folder in the work folder: what `batch_size="auto"` found."""

ATTEMPTS = 5
"""How often a process computes shards of its own that another one deleted."""

WAIT = 600.0
"""Seconds that a process waits for another one to finish writing a run of the same name."""


@dataclass(frozen=True)
class Settings:
    """How a run is made: arguments of `evaluate`, which says what they mean."""

    out: str | Path | None = "results"
    work: str | Path = ".vtbench"
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

    def __post_init__(self) -> None:
        """Refuse what is none of its kind, before anything is loaded."""
        expected = (
            ("out", self.out is None or isinstance(self.out, str | Path), "a folder, or None for memory alone"),
            ("work", isinstance(self.work, str | Path), "a folder"),
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


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@overload
def evaluate(
    tokenizer: Tokenizer | str,
    task: Task | str,
    *,
    out: str | Path | None = ...,
    work: str | Path = ...,
    batch_size: int | Literal["auto"] = ...,
    limit: int | None = ...,
    protocol: str | None = ...,
    label: str | None = ...,
    step: float | None = ...,
    require: Sequence[str] = ...,
    overwrite: bool = ...,
    wait: float = ...,
    workers: int | None = ...,
    progress: Progress | None = ...,
) -> Run: ...


@overload
def evaluate(
    tokenizer: Tokenizer | str,
    task: Task | str,
    *,
    out: str | Path | None = ...,
    work: str | Path = ...,
    batch_size: int | Literal["auto"] = ...,
    limit: int | None = ...,
    protocol: str | None = ...,
    label: str | None = ...,
    step: float | None = ...,
    require: Sequence[str] = ...,
    overwrite: bool = ...,
    rank: int,
    world: int,
    wait: float = ...,
    workers: int | None = ...,
    progress: Progress | None = ...,
) -> Run | None: ...


def evaluate(
    tokenizer: Tokenizer | str,
    task: Task | str,
    *,
    out: str | Path | None = "results",
    work: str | Path = ".vtbench",
    batch_size: int | Literal["auto"] = 8,
    limit: int | None = None,
    protocol: str | None = None,
    label: str | None = None,
    step: float | None = None,
    require: Sequence[str] = (),
    overwrite: bool = False,
    rank: int = 0,
    world: int = 1,
    wait: float = WAIT,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Run | None:
    """Run one tokenizer through one task and write its summary and per-image table.

    Args:
        tokenizer: what is measured, or the name of its card.
        task: the pictures and metrics, or the name of its card.
        out: folder of the summaries; `<out>/<task>/<name>.json` is written. None keeps everything in memory: no file
            at all is written.
        work: folder of the shards, and of `run.json` and `images.parquet` after; a killed run resumes from here.
        batch_size: pictures a forward pass; it moves no number beyond the rounding of floats. "auto" takes the fastest
            that fits, found by trial once and kept in `work` (without `out` by each call); it is what the run records.
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
        workers: threads that read pictures; one a core, eight at most, where left out.
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
    how = Settings(
        out=out,
        work=work,
        batch_size=batch_size,
        limit=limit,
        label=label,
        step=step,
        require=require,
        overwrite=overwrite,
        rank=rank,
        world=world,
        wait=wait,
        workers=workers,
    )
    return evaluate_together(tokenizer, [(task, protocol)], how, progress)[0]


def evaluate_together(
    tokenizer: Tokenizer | str,
    pairs: Sequence[tuple[Task | str, str | None]],
    how: Settings,
    progress: Progress | None = None,
) -> list[Run | None]:
    """Run one tokenizer through one task under several protocols: what two of them feed alike is encoded once.

    Args:
        tokenizer: what is measured, or the name of its card.
        pairs: a task and a protocol each, None for the task's own; the tasks are one, loaded for the canonical
            protocol or (`native=True`) for published ones.
        how: the arguments of `evaluate`.
        progress: told how far it is.

    Returns:
        What `evaluate` gives for each pair; the numbers are those of each pair alone.

    Raises:
        VtbenchError: as `evaluate`; and if the pairs are of several tasks.
    """
    rank, world, out, work = how.rank, how.world, how.out, Path(how.work)
    if not (isinstance(rank, int) and isinstance(world, int) and 0 <= rank < world):
        raise VtbenchError(f"rank {rank!r} of world {world!r}: expected whole numbers, 0 <= rank < world")
    if out is None and world > 1:
        raise VtbenchError("out=None keeps a run in one process's memory: give world=1, or a folder")
    tokenizer = _tokenizer_of(tokenizer)
    opened = [(_task_of(task, protocol), protocol) for task, protocol in pairs]
    if len({task.card.name for task, _ in opened}) != 1:
        raise VtbenchError("these pairs are of several tasks; evaluate each task by itself")
    if world > 1 and tokenizer.identity() != tokenizer.identity():
        raise VtbenchError(
            f"{tokenizer.card.name}: nothing of this live model can be hashed, so it is another one in every process; "
            "give world=1"
        )
    if tokenizer.held is not None:
        _settle(tokenizer, *opened[0])
    batch_size = _batch_size(tokenizer, opened[0][0], how)
    plans = [
        plan.make(
            tokenizer,
            task,
            protocol=protocol,
            limit=how.limit,
            batch_size=batch_size,
            label=how.label,
            step=how.step,
            require=how.require,
            originals=None if out is None else work / results.ORIGINALS,
        )
        for task, protocol in opened
    ]
    if out is None:
        return _in_memory(plans, how.workers, progress)
    folders = [_Folder(made, Path(out), work, wait=how.wait, overwrite=how.overwrite) for made in plans]
    with ExitStack() as stack:
        found = [folder.begin(rank, world, stack) for folder in folders]
        left = [folder for folder, run in zip(folders, found, strict=True) if run is None]
        for group in _alike(left):
            _compute(group, how.workers, progress)
        return [run or folder.end(how.workers, progress) for folder, run in zip(folders, found, strict=True)]


def _tokenizer_of(tokenizer: object) -> Tokenizer:
    """Take a name for what it names; refuse what is neither."""
    if isinstance(tokenizer, str):
        return load_tokenizer(tokenizer)
    if not isinstance(tokenizer, Tokenizer):
        raise VtbenchError(
            f"tokenizer: got a {type(tokenizer).__name__}; expected a name, load_tokenizer(...) or wrap(...)"
        )
    return tokenizer


def _task_of(task: object, protocol: str | None) -> Task:
    """Take a name for what it names; refuse what is neither."""
    if isinstance(task, str):
        return load_task(task, native=protocol is not None and find_protocol(protocol).published)
    if not isinstance(task, Task):
        raise VtbenchError(f"task: got a {type(task).__name__}; expected a name or load_task(...)")
    return task


def _batch_size(tokenizer: Tokenizer, task: Task, how: Settings) -> int:
    """Find out what "auto" is here: once for all processes and restarts, for it moves the last bits of numbers."""
    if how.batch_size != "auto":
        return how.batch_size
    if task.size is None:
        return 1
    if how.out is None:
        return shards.best_batch(tokenizer, task.size)
    said = [tokenizer.card.name, tokenizer.precision, device.model(tokenizer.device), task.size, provenance.versions()]
    key = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]
    kept = Path(how.work) / BATCHES / f"{key}.json"
    with files.lock(kept.with_suffix(".lock"), wait=how.wait, purpose="finding the best batch size"):
        try:
            known = json.loads(kept.read_bytes())
            if isinstance(known, int) and known > 0:
                return known
        except (OSError, ValueError):
            pass
        found = shards.best_batch(tokenizer, task.size)
        files.write_atomic(kept, json.dumps(found).encode())
    log.info("%s: batches of %d", tokenizer.card.name, found)
    return found


def _settle(tokenizer: Tokenizer, task: Task, protocol: str | None) -> None:
    """Encode the first picture that can be: a live model's codes alone say of what kind they are."""
    rule = find_protocol(protocol or task.card.protocol)
    for index in range(len(task)):
        try:
            image = task.read(index).image
            if rule.published:
                image = fed(rule, image.permute(1, 2, 0).numpy(), task.card.geometry.side, tokenizer.span)
            tokenizer.encode_input(tokenizer.input_of(image[None]))
            return
        except DataError:  # said of each picture, where it belongs
            continue
        except (RuntimeError, MemoryError) as error:
            if not device.is_out_of_memory(error):  # likewise
                raise


# --- plans that take their way together ------------------------------------------------------------------------------


def _in_memory(plans: Sequence[Plan], workers: int | None, progress: Progress | None) -> list[Run | None]:
    """Evaluate without a file."""
    tables: list[dict[int, pa.Table]] = [{} for _ in plans]
    for window in sorted({made.window for made in plans}):
        group = [(made, found) for made, found in zip(plans, tables, strict=True) if made.window == window]
        first = group[0][0]
        shards.check_bottleneck(first)

        def jobs(group: Sequence[tuple[Plan, dict[int, pa.Table]]] = group, first: Plan = first) -> Iterator[Job]:
            for block in range(first.blocks):
                chosen = first.shards_of(block)
                wants = [Want(made, chosen, found.__setitem__) for made, found in group]
                yield Job(_pictures(first, chosen), wants, lambda: None)

        shards.compute_all(jobs(), _Counted(progress, 0, first.count).add, workers)
    runs: list[Run | None] = []
    for made, found in zip(plans, tables, strict=True):
        run = summary.finish(made, [Shard.of(found[index]) for index in range(made.shards)])[0]
        summary.check(run)
        runs.append(run)
    return runs


def _alike(folders: Sequence[_Folder]) -> list[list[_Folder]]:
    """Put those together whose batches are cut alike."""
    windows = dict.fromkeys(folder.plan.window for folder in folders)
    return [[folder for folder in folders if folder.plan.window == window] for window in windows]


def _pictures(made: Plan, chosen: range) -> range:
    """Say which pictures some shards in a row hold."""
    return range(made.indices(chosen[0]).start, made.indices(chosen[-1]).stop)


def _compute(folders: Sequence[_Folder], workers: int | None, progress: Progress | None) -> None:
    """Compute and commit the shards of this process that are not there.

    Raises:
        ResultError: if they vanish again and again.
    """
    for _ in range(ATTEMPTS):  # another process may delete some meanwhile, to compute them again
        for polite in (True, False):
            _compute_once(folders, workers, progress, polite=polite)
        if not any(folder.lacks() for folder in folders):
            return
    raise ResultError(f"{folders[0].shards}: shards vanish while they are computed; who deletes them?")


def _compute_once(folders: Sequence[_Folder], workers: int | None, progress: Progress | None, *, polite: bool) -> None:
    """Compute what is not there.

    Two processes that were given the same shards take turns: one that another process has begun is left to it by the
    polite, and computed by the others.
    """
    first = folders[0].plan
    lacked = set().union(*(folder.lacks() for folder in folders))
    in_all = sum(len(first.indices(index)) for index in folders[0].mine)
    done = in_all - sum(len(first.indices(index)) for index in lacked)
    counted = _Counted(progress, done, in_all)
    if not lacked:
        return
    shards.check_bottleneck(first)
    shards.warm_up(first)
    with ExitStack() as all_claims:

        def jobs() -> Iterator[Job]:
            for block in sorted({index // first.block for index in lacked}):
                claims = ExitStack()
                all_claims.callback(claims.close)
                wants = [
                    Want(folder.plan, chosen, folder.commit)
                    for folder in folders
                    if (chosen := folder.claim(first.shards_of(block), claims, polite=polite))
                ]
                if wants:
                    yield Job(_pictures(first, first.shards_of(block)), wants, claims.close)

        shards.compute_all(jobs(), counted.add, workers)


class _Counted:
    """Counts pictures for a progress bar."""

    def __init__(self, progress: Progress | None, done: int, in_all: int) -> None:
        self._progress, self._done, self._in_all = progress, done, in_all
        self.add(0)

    def add(self, pictures: int) -> None:
        """Count pictures that are done; those that a batch takes along once more count once."""
        self._done = min(self._done + pictures, self._in_all)
        if self._progress:
            self._progress(self._done, self._in_all)


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
        self.mine: Sequence[int] = ()
        """The shards that this process computes."""
        files.check_writable(self.summary.parent)

    def begin(self, rank: int, world: int, stack: ExitStack) -> Run | None:
        """Make the folder ready; give the finished run, where it is there already."""
        made = self.plan
        self.mine = [index for block in range(rank, made.blocks, world) for index in made.shards_of(block)]
        self._protect()
        self._clean(parts=world > 1)
        held = files.lock(self.folder / "in-use", shared=True, wait=self.wait, purpose=f"cleaning {self.folder}")
        stack.enter_context(held)
        if self.overwrite:
            for index in self.mine:
                self._path(index).unlink(missing_ok=True)
        elif (done := self._finished()) is not None:
            return self._publish(done)
        else:
            self._tell_changes()
        return None

    def end(self, workers: int | None, progress: Progress | None) -> Run | None:
        """Merge, where all shards are there; else say how many are not."""
        missing = [index for index in range(self.plan.shards) if not self._path(index).is_file()]
        if not missing:
            return self._merge(workers, progress)
        log.warning(
            "%s on %s: %d of %d shards are not there yet; the process that commits the last one merges. "
            "If none is running any more, start the same command again",
            *(self.plan.name, self.plan.task.card.name, len(missing), self.plan.shards),
        )
        return None

    def lacks(self) -> set[int]:
        """Say which shards of this process's are not there."""
        return {index for index in self.mine if not self._path(index).is_file()}

    def claim(self, chosen: Iterable[int], claims: ExitStack, *, polite: bool) -> list[int]:
        """Say which of some shards are this process's to compute now, and keep other processes from them."""
        lacked = self.lacks()
        found = []
        for index in sorted(lacked.intersection(chosen)):
            free = not polite or claims.enter_context(files.try_lock(self._path(index).with_suffix(".lock")))
            if free and not self._path(index).is_file():
                found.append(index)
        return found

    def commit(self, index: int, table: pa.Table) -> None:
        """Write a shard."""
        files.write_atomic(self._path(index), _to_bytes(table))

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

    def _clean(self, *, parts: bool) -> None:
        """Remove what earlier starts left, as long as no process is at work here: halves of files, spent shards.

        Of a run that is computed again in parts, one after another, this plan's shards stay: other parts' are new.
        """
        with files.try_lock(self.folder / "in-use") as alone:
            if not alone:
                return
            for part in self.folder.rglob(".*.tmp"):
                part.unlink(missing_ok=True)
            keep = None if self._finished() and not (parts and self.overwrite) else self.shards
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

    def _shard(self, index: int) -> Shard | None:
        """Read a shard whole and keep of it what is not raw; None where it is damaged, gone, or not this plan's."""
        try:
            table = parquet.read_table(self._path(index))
        except (OSError, pa.ArrowException):
            return None
        said = (table.schema.metadata or {}).get(b"plan", b"").decode()
        if said != self.plan.digest or table.column("index").to_pylist() != list(self.plan.indices(index)):
            return None
        return Shard.of(table, partial(column, self._path(index)))

    def _merge(self, workers: int | None, progress: Progress | None) -> Run:
        """Read all shards, and write table and summary so that nobody ever sees those of two runs together.

        Raises:
            ResultError: if a shard can't be read though it was computed again.
        """
        parts = []
        for index in range(self.plan.shards):
            part = self._shard(index)
            if part is None:
                self._path(index).unlink(missing_ok=True)
                log.warning("%s: shard %d was damaged or deleted, and is computed again", self.plan.name, index)
                self.mine = [index]
                _compute([self], workers, progress)
                part = self._shard(index)
            if part is None:
                raise ResultError(f"{self._path(index)}: damaged as soon as it was written; who writes to it?")
            parts.append(part)
        with files.lock(self.folder / "owner", wait=self.wait, purpose=f"writing {self.folder}"):
            if not self.overwrite and (done := self._finished()) is not None:  # another process merged meanwhile
                return done
            self._protect()
            run, images = summary.finish(self.plan, parts)
            content = _to_bytes(images)
            run = run.model_copy(update={"digests": {**run.digests, "table": results.table_digest(content)}})
            files.write_atomic(self.folder / results.IMAGES, content)
            results.write(run, self.folder / results.RUN)
            summary.check(run)
            results.write(run, self.summary)
        return run


def column(path: Path, name: str) -> pa.ChunkedArray:
    """Read one column of a shard."""
    return parquet.read_table(path, columns=[name]).column(name)


def _to_bytes(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(table, sink, compression="zstd")
    return sink.getvalue()
