"""evaluate(): one tokenizer on one task, in shards that survive a kill.

A shard is the unit of work, of resume and of distribution: samples are cut by index into shards of a fixed size,
whatever the batch size or the number of processes. A computed shard is committed atomically; a later start skips it;
the merge reads all of them in order. So one process, several, or a killed and resumed run give the same table.

No process waits for another's work. Each computes the shards that are its own and not there, and ends; the one that
then finds all of them merges. Shards are named by the digest of the plan, so nothing computed otherwise is mixed in.
"""

from __future__ import annotations

import io
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet
from torch import Tensor

from vtbench import device as compute
from vtbench import files, plan, results, summary
from vtbench.errors import DataError, ResultError, VtbenchError
from vtbench.measures import Measure, Missing, Outcome
from vtbench.plan import Plan
from vtbench.protocols import find_protocol
from vtbench.results import Run
from vtbench.summary import Clock
from vtbench.task import Task, load_task
from vtbench.tokenizer import Tokenizer, load_tokenizer
from vtbench.types import Codes, Key, Sample

log = logging.getLogger("vtbench")

READERS = 2
"""Threads that read and decode pictures ahead of the tokenizer."""

READINGS = "readings"
"""Folder in the work folder: what OCR engines read on originals, so that they read each but once."""

WAIT = 600.0
"""Seconds that a process waits for another one to finish writing a run of the same name."""

T = TypeVar("T")

Progress = Callable[[int, int], None]
"""Called with pictures done and pictures in all."""


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
        wait: seconds to wait for another process that is just writing a run of this name.
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
    if tokenizer.held is not None and not task.native:
        tokenizer.encode(task.read(0).image[None])  # a live model's first codes say of what kind they are
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
        _check_bottleneck(made)
        run = summary.finish(made, list(_tables(made, range(made.shards), progress, 0)))[0]
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
            self._compute(mine, progress)
            missing = self._missing()
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
            for shards in self.folder.glob("shards-*"):
                if shards != keep:
                    shutil.rmtree(shards)

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
                _check_bottleneck(self.plan)
                _warm_up(self.plan)
                self._ready = True
            for index in missing:
                with ExitStack() as stack:
                    if polite and not stack.enter_context(files.try_lock(self._path(index).with_suffix(".lock"))):
                        continue
                    if self._path(index).is_file():
                        continue
                    (table,) = _tables(self.plan, [index], progress, done, in_all)
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


# --- shards -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Read:
    """One picture of a shard: read, or broken with a reason."""

    position: int
    sample: Sample | None
    reason: str | None


def _tables(
    made: Plan, shards: Sequence[int], progress: Progress | None, done: int, in_all: int | None = None
) -> Iterator[pa.Table]:
    """Compute shards: a row a picture, with the clock in the table's metadata."""
    in_all = made.count if in_all is None else in_all
    step = _step(made)
    for shard in shards:
        clock = Clock(started=datetime.now(UTC).isoformat(timespec="seconds"))
        began = time.perf_counter()
        indices = made.indices(shard)
        columns = _Columns(len(indices))
        columns.put("index", list(enumerate(indices)))
        columns.put("id", [(position, made.task.sample_id(index)) for position, index in enumerate(indices)])
        for batch in _batches(made.task, indices, step):
            _measure(made, batch, columns, clock)
            done += len(batch)
            if progress:
                progress(done, in_all)
        clock.total = time.perf_counter() - began
        yield columns.table().replace_schema_metadata({"clock": json.dumps(vars(clock)), "plan": made.digest})


def _check_bottleneck(made: Plan) -> None:
    """Find out a decoder that uses what its encoder left behind, on the first picture that can be read.

    The picture is decoded once more from a copy of its codes, after an unrelated picture was encoded.

    Raises:
        DataError: if the two reconstructions differ.
    """
    tokenizer, feeder = made.tokenizer, made.measures[0]
    if tokenizer.card.kind in ("opaque", "understanding"):
        return
    for index in range(made.count):
        try:
            picture = feeder.feed(made.task.read(index))[None].to(tokenizer.device)
            floats = picture.is_floating_point()
            encode = tokenizer.encode_floats if floats else tokenizer.encode
            size = (picture.shape[-2], picture.shape[-1])
            codes = encode(picture)
            first, reasons = tokenizer.attempt(codes, size, floats=floats)
        except DataError:
            continue
        if reasons[0] is None:
            kept = codes.copied()
            encode(picture.flip(-1).flip(-2))
            second, _ = tokenizer.attempt(kept, size, floats=floats)
            # A level at most, or as much of floats: what another kernel may round otherwise.
            if (first.double() - second.double()).abs().max().item() > (_FLOATS if floats else 1.0):
                raise DataError(
                    f"{tokenizer.card.name}: its decoder gives another picture for the same codes after another "
                    "picture was encoded, so it uses what its encoder left behind; decode from the codes alone"
                )
        return


_FLOATS = 0.01
"""How far apart two reconstructions of the same codes may be, where they are floats of about [-1, 1]."""


def _step(made: Plan) -> int:
    """Say how many pictures are read and measured together."""
    step = next((measure.batch for measure in made.measures if measure.batch), None)
    if step is not None:
        return step
    return 1 if made.task.size is None else made.batch_size  # pictures of different sizes make no batch


def _warm_up(made: Plan) -> None:
    """Pay for first-call costs (allocation, kernel choice) outside the clock."""
    step = _step(made)
    if made.task.size is not None and made.tokenizer.parameters and not made.protocol.published:
        warm = torch.full((min(step, made.count), 3, *made.task.size), 128, dtype=torch.uint8)
        try:
            codes = made.tokenizer.encode(warm)
            made.tokenizer.attempt(codes, made.task.size)
        except DataError:  # said of each picture, where it belongs
            return


def _batches(task: Task, indices: range, step: int) -> Iterator[list[_Read]]:
    """Read pictures ahead in threads; broken ones travel along with their reason."""

    def read(position: int) -> _Read:
        try:
            return _Read(position, task.read(indices[position]), None)
        except DataError as error:
            return _Read(position, None, str(error))

    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(read, range(len(indices))))
    for start in range(0, len(found), step):
        yield found[start : start + step]


def _measure(made: Plan, batch: Sequence[_Read], columns: _Columns, clock: Clock) -> None:
    """Take one batch through the tokenizer and all measures."""
    feeder = made.measures[0]
    fed: list[tuple[int, Sample, Tensor]] = []
    for item in batch:
        reason = item.reason
        if item.sample is not None:
            columns.attributes(item.position, item.sample)
            try:
                fed.append((item.position, item.sample, feeder.feed(item.sample)))
            except DataError as error:
                reason = str(error)
        columns.put("reason", [(item.position, reason)])
    for group in _equal_shapes(fed):
        _measure_equal(made, group, columns, clock)


def _equal_shapes(fed: Sequence[tuple[int, Sample, Tensor]]) -> Iterator[list[tuple[int, Sample, Tensor]]]:
    """Cut a batch into runs of neighbours of one shape."""
    group: list[tuple[int, Sample, Tensor]] = []
    for item in fed:
        if group and item[2].shape != group[0][2].shape:
            yield group
            group = []
        group.append(item)
    if group:
        yield group


def _measure_equal(made: Plan, group: Sequence[tuple[int, Sample, Tensor]], columns: _Columns, clock: Clock) -> None:
    """Reconstruct pictures of one shape and measure them; each failed one has its reason, the others their values."""
    parts = []
    for start in range(0, len(group), made.batch_size):
        parts += _reconstruct(made.tokenizer, group[start : start + made.batch_size], columns, clock)
    if not parts:
        return
    codes = _joined([part.codes for part in parts])
    positions = [position for part in parts for position in part.positions]
    reasons = [reason for part in parts for reason in part.reasons]
    outcome = Outcome(
        samples=tuple(sample for part in parts for sample in part.samples),
        reference=torch.cat([part.reference for part in parts]),
        reconstruction=torch.cat([part.reconstruction for part in parts]),
        codes=codes,
        again=_again(made.tokenizer),
    )
    columns.put("reason", [(positions[index], reason) for index, reason in enumerate(reasons) if reason])
    whole = [index for index, reason in enumerate(reasons) if reason is None]
    for measure in made.measures:
        chosen = whole if measure.sees == "pictures" else list(range(len(positions)))
        if chosen:
            seen = outcome if len(chosen) == len(positions) else outcome.at(chosen)
            columns.measured(measure, seen, [positions[index] for index in chosen])


@dataclass(frozen=True)
class _Part:
    """What one forward pass left."""

    positions: list[int]
    samples: list[Sample]
    reference: Tensor
    reconstruction: Tensor
    codes: Codes
    reasons: list[str | None]


def _reconstruct(
    tokenizer: Tokenizer, group: Sequence[tuple[int, Sample, Tensor]], columns: _Columns, clock: Clock
) -> list[_Part]:
    """Encode and decode one batch; where the network refuses it, each picture on its own, to tell which one it was."""
    positions, samples = [position for position, _, _ in group], [sample for _, sample, _ in group]
    reference = torch.stack([fed for _, _, fed in group]).to(tokenizer.device)
    size = (reference.shape[-2], reference.shape[-1])
    floats = reference.is_floating_point()
    encode = tokenizer.encode_floats if floats else tokenizer.encode
    try:
        codes, encoding = _timed(tokenizer, lambda: encode(reference))
        (found, reasons), decoding = _timed(tokenizer, lambda: tokenizer.attempt(codes, size, floats=floats))
    except DataError as error:
        if len(group) > 1:
            return [part for item in group for part in _reconstruct(tokenizer, [item], columns, clock)]
        columns.put("reason", [(positions[0], str(error))])
        return []
    clock.add(encoding, decoding, len(group))
    return [_Part(positions, samples, reference, found, codes, reasons)]


def _again(tokenizer: Tokenizer) -> Callable[[Tensor], tuple[Tensor, Codes]]:
    def again(pictures: Tensor) -> tuple[Tensor, Codes]:
        codes = tokenizer.encode(pictures)
        return tokenizer.decode(codes, (pictures.shape[-2], pictures.shape[-1])), codes

    return again


def _joined(parts: Sequence[Codes]) -> Codes:
    """Put the codes of several forward passes together."""
    if len(parts) == 1:
        return parts[0]
    latents = [part.latent for part in parts if part.latent is not None]
    return Codes(
        indices=tuple(torch.cat(scale) for scale in zip(*(part.indices for part in parts), strict=True)),
        latent=torch.cat(latents) if latents else None,
        bitstream=tuple(stream for part in parts for stream in part.bitstream),
        size=parts[0].size,
        codebook_sizes=parts[0].codebook_sizes,
    )


def _timed(tokenizer: Tokenizer, call: Callable[[], T]) -> tuple[T, float]:
    compute.synchronise(tokenizer.device)
    started = time.perf_counter()
    result = call()
    compute.synchronise(tokenizer.device)
    return result, time.perf_counter() - started


Kind = Literal["text", "number", "array"]


class _Columns:
    """The columns of one shard while it grows: a value a picture, None where there is none."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._values: dict[str, list[Any]] = {}

    def put(self, name: str, values: Sequence[tuple[int, Any]]) -> None:
        """Set values of a column by position."""
        column = self._values.setdefault(name, [None] * self._count)
        for position, value in values:
            column[position] = value

    def attributes(self, position: int, sample: Sample) -> None:
        """Set what results are grouped by."""
        for key, value in sample.attributes.items():
            self.put(f"attribute/{key}", [(position, value)])

    def measured(self, measure: Measure, outcome: Outcome, positions: Sequence[int]) -> None:
        """Set what a measure says of a batch; a missing value has its reason in a column beside it."""
        for key, values in measure.columns(outcome).items():
            pairs = list(zip(positions, values, strict=True))
            self.put(str(key), [(at, None if isinstance(value, Missing) else value) for at, value in pairs])
            reasons = [(at, value.reason) for at, value in pairs if isinstance(value, Missing)]
            if reasons:
                self.put(str(key._replace(role="reason")), reasons)

    def table(self) -> pa.Table:
        """Type the columns; one whose values are all missing is a number's, or a reason's."""
        return pa.table({name: pa.array(values, type=_type_of(name, values)) for name, values in self._values.items()})


def _type_of(name: str, values: Sequence[Any]) -> pa.DataType:
    if name == "index":
        return pa.int64()
    known = next((value for value in values if value is not None), None)
    if isinstance(known, np.ndarray):
        return pa.list_(pa.from_numpy_dtype(known.dtype))
    if name in ("id", "reason") or Key.parse(name).role == "reason" or isinstance(known, str):
        return pa.string()
    return pa.float64()
