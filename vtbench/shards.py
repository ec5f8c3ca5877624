"""Shards: pictures go through the tokenizer and all measures, and a row a picture comes out.

Pictures are read ahead in threads, go through the tokenizer in batches that know nothing of shards, and are measured;
a shard is handed on as soon as its pictures are done. Several plans of one tokenizer on the same pictures take the same
way together: what two protocols feed alike is encoded and decoded once.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from vtbench import device as devices
from vtbench.errors import DataError, NoMemoryError
from vtbench.measures import Columns, Measure, Missing, Outcome, each, settle
from vtbench.passes import Pass, Passes, Refused
from vtbench.plan import SHARD, Plan
from vtbench.summary import Clock
from vtbench.task import Task
from vtbench.team import cores
from vtbench.tokenizer import Flaw, Tokenizer
from vtbench.types import Codes, Key, Sample, as_text

AHEAD = 256 * 2**20
"""Bytes of pictures that are read ahead of the tokenizer, unless a single batch is larger."""

BEHIND = 2
"""Shards that may wait to be written; a slow disk makes the device wait, and fills no memory."""

ASYNCHRONOUS = ("cuda",)
"""Devices that compute while the host goes on.

They are waited for once, when all of a batch is measured; earlier only after a picture that could not be used.
"""


def workers() -> int:
    """Say how many threads read pictures where nobody says another number: one a core, eight at most."""
    return min(8, cores())


# --- what is to be done -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Want:
    """Shards of one block that a plan lacks."""

    plan: Plan
    shards: Sequence[int]
    put: Callable[[int, pa.Table], None]
    """Takes a finished shard; called in the thread that writes."""


@dataclass(frozen=True)
class Job:
    """A block of pictures, and what plans of one tokenizer lack of it."""

    pictures: range
    wants: Sequence[Want]
    close: Callable[[], None]
    """Called in the thread that writes, after the last shard was taken."""


def compute_all(plan: Plan, jobs: Iterable[Job], told: Callable[[int], None], threads: int | None = None) -> None:
    """Compute blocks, one after the other, and hand on each shard as soon as it is done.

    Args:
        plan: one of those that want them: which tokenizer, and how large the batches.
        jobs: what is to be done; taken one by one, as reading comes to it.
        told: called with the number of pictures that were done since the last call.
        threads: how many read pictures; `workers()` where left out.

    Raises:
        ChangedError: if pictures changed or vanished while they were read.
    """
    passes = Passes(plan)
    with ThreadPoolExecutor(threads or workers()) as readers, ThreadPoolExecutor(1) as writer:
        written: deque[Future[None]] = deque()
        last = time.perf_counter()
        try:
            for window in read_ahead(jobs, readers):
                passes.begin(shared=len(window.sheets) > 1)
                reads = {id(task): [read.result() for read in reads] for task, reads in window.reads}
                for sheet in window.sheets:
                    sheet.take(passes, reads[id(sheet.plan.task)], window.pictures, last=window.last)
                now = time.perf_counter()
                for sheet in window.sheets:
                    sheet.spent((now - last) / len(window.sheets), window.pictures)
                    for shard, table in sheet.finished(window.pictures.stop, last=window.last):
                        written.append(writer.submit(sheet.want.put, shard, table))
                last = now
                if window.last:
                    written.append(writer.submit(window.close))
                while len(written) > BEHIND or (written and written[0].done()):
                    written.popleft().result()
                told(len(window.pictures))
        finally:
            readers.shutdown(cancel_futures=True)
            writer.shutdown()
        for future in written:
            future.result()


# --- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Read:
    """One picture: read, or broken with a reason."""

    index: int
    sample: Sample | None
    reason: str | None


@dataclass(frozen=True)
class Window:
    """Pictures that are read and go through the tokenizer together."""

    pictures: range
    sheets: Sequence[_Sheet]
    reads: Sequence[tuple[Task, Sequence[Future[_Read]]]]
    """The pictures of each task: native ones and such of the task's size are two tasks."""
    last: bool
    """Whether it ends its block."""
    close: Callable[[], None]


def _read(task: Task, index: int) -> _Read:
    """Read one picture; a broken one travels along with its reason."""
    try:
        return _Read(index, task.read(index), None)
    except DataError as error:
        return _Read(index, None, str(error))


def read_ahead(jobs: Iterable[Job], readers: ThreadPoolExecutor) -> Iterator[Window]:
    """Read pictures while earlier ones are computed, across blocks, and no more than memory should hold."""
    ahead: deque[Window] = deque()
    waiting = 0
    windows = _windows(jobs)
    upcoming = next(windows, None)
    while upcoming is not None or ahead:
        while upcoming is not None and (not ahead or waiting + len(upcoming[1]) <= _limit(upcoming[0][0].plan)):
            sheets, pictures, last, close = upcoming
            tasks = {id(sheet.plan.task): sheet.plan.task for sheet in sheets}
            reads = [(task, [readers.submit(_read, task, index) for index in pictures]) for task in tasks.values()]
            ahead.append(Window(pictures, sheets, reads, last, close))
            waiting += len(pictures)
            upcoming = next(windows, None)
        window = ahead.popleft()
        yield window
        waiting -= len(window.pictures)


def _windows(jobs: Iterable[Job]) -> Iterator[tuple[list[_Sheet], range, bool, Callable[[], None]]]:
    """Cut blocks into batches, and leave out those that nobody lacks."""
    for job in jobs:
        sheets = [_Sheet(want) for want in job.wants]
        step = job.wants[0].plan.batch_size
        starts = range(job.pictures.start, job.pictures.stop, step)
        cuts = [range(start, min(start + step, job.pictures.stop)) for start in starts]
        needed = [cut for cut in cuts if any(sheet.lacks(cut) for sheet in sheets)]
        for cut in needed:
            yield sheets, cut, cut == needed[-1], job.close


def _limit(plan: Plan) -> int:
    """Count the pictures that may wait: two batches beyond the one that is computed, or as many as memory should hold.

    At native size nobody knows how large the next picture is.
    """
    if plan.batch_size == 1:
        return workers() + 1
    height, width = plan.task.size or (plan.protocol.size or 256,) * 2
    return max(plan.batch_size, min(3 * plan.batch_size, AHEAD // (3 * height * width)))


# --- rows -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """Pictures of one forward pass, and what there is to measure of them."""

    indices: Sequence[int]
    rows: Sequence[int]
    """Their places in the forward pass."""
    done: Pass
    outcome: Outcome

    def at(self, rows: Sequence[int]) -> _Part:
        """Take some of the pictures."""
        if len(rows) == len(self.indices):
            return self
        chosen = [self.indices[row] for row in rows], [self.rows[row] for row in rows]
        return _Part(*chosen, self.done, self.outcome.at(rows))


class _Sheet:
    """The rows of one plan's shards of a block, while they grow."""

    def __init__(self, want: Want) -> None:
        self.want = want
        self.plan = want.plan
        self._rows = {shard: _Rows(want.plan, shard) for shard in want.shards}
        self._parts: list[_Part] = []
        self._batch = next((measure.batch for measure in self.plan.measures if measure.batch), None)
        self._again = _again(self.plan.tokenizer)
        self._trusts = self.plan.tokenizer.device.type in ASYNCHRONOUS

    def lacks(self, pictures: range) -> bool:
        """Tell whether some of these pictures are of a shard that is lacked."""
        return any(shard in self._rows for shard in range(pictures[0] // SHARD, pictures[-1] // SHARD + 1))

    def take(self, passes: Passes, reads: Sequence[_Read], pictures: range, *, last: bool) -> None:
        """Take the pictures of one window through the tokenizer and, as far as they are complete, all measures."""
        feeder = self.plan.measures[0]
        fed: list[tuple[int, Sample, Tensor]] = []
        for item in reads:
            reason = item.reason
            if item.sample is not None:
                for name, value in item.sample.attributes.items():
                    self._put(f"attribute/{name}", item.index, value)
                try:
                    fed.append((item.index, item.sample, feeder.feed(item.sample)))
                except DataError as error:
                    reason = str(error)
            self._put("reason", item.index, reason)
        for _, group in groupby(fed, lambda item: item[2].shape):
            self._reconstruct(passes, list(group))
        for parts in self._complete(pictures.stop, last=last):
            self._measure(parts)

    def _reconstruct(self, passes: Passes, group: Sequence[tuple[int, Sample, Tensor]]) -> None:
        start = 0
        pictures = torch.stack([fed for _, _, fed in group])
        for found in passes.through(pictures):
            if isinstance(found, Refused):
                self._put("reason", group[start][0], found.reason)
                start += found.count
                continue
            went_in, done = found
            stop = start + done.count
            samples = tuple(sample for _, sample, _ in group[start:stop])
            outcome = Outcome(samples, went_in, done.decoded, pictures[start:stop], done.codes, self._again)
            indices = [index for index, _, _ in group[start:stop]]
            self._parts.append(_Part(indices, range(done.count), done, outcome))
            start = stop

    def _complete(self, stop: int, *, last: bool) -> Iterator[list[_Part]]:
        """Give what can be measured together now: a window's pictures, or the batches that a protocol measures."""
        batch = self._batch
        if batch is None:
            ready, self._parts = self._parts, []
            split = [ready] if ready else []
        else:
            end = stop if last else stop - stop % batch
            pieces: dict[int, list[_Part]] = {}
            kept: list[_Part] = []
            for part in self._parts:
                numbers = [index // batch if index < end else -1 for index in part.indices]
                for number in dict.fromkeys(numbers):
                    piece = part.at([row for row, own in enumerate(numbers) if own == number])
                    (kept if number < 0 else pieces.setdefault(number, [])).append(piece)
            self._parts = kept
            split = [pieces[number] for number in sorted(pieces)]
        for parts in split:
            for _, alike in groupby(parts, lambda part: part.outcome.reference.shape[1:]):
                yield list(alike)

    def _measure(self, parts: Sequence[_Part]) -> None:
        """Measure pictures of one size; each failed one has its reason, the others their values."""
        indices = [index for part in parts for index in part.indices]
        if not any(index // SHARD in self._rows for index in indices):
            return
        outcome = _joined([part.outcome for part in parts])
        checks = [part.done.checks for part in parts]
        coded: Sequence[int] = range(len(indices))
        whole = coded
        if self._trusts:
            columns = self._found(outcome, coded, whole)
            checks = settle(columns, beside=checks)
        flaws = self._flaws(parts, checks)
        if not self._trusts or any(flaws):
            self._trusts = False
            coded = [row for row, flaw in enumerate(flaws) if flaw is None or not flaw.of_codes]
            whole = [row for row, flaw in enumerate(flaws) if flaw is None]
            columns = self._found(outcome, coded, whole)
            settle(columns)
        for index, flaw in zip(indices, flaws, strict=True):
            if flaw is not None:
                self._put("reason", index, flaw.reason)
        for measure, found in zip(self.plan.measures, columns, strict=True):
            self._measured(found, [indices[row] for row in (whole if measure.sees == "pictures" else coded)])
        for part in parts:
            self._count(part)

    def _found(self, outcome: Outcome, coded: Sequence[int], whole: Sequence[int]) -> list[Columns]:
        """Measure the pictures whose codes can be used, and those that are whole."""
        chosen = [whole if measure.sees == "pictures" else coded for measure in self.plan.measures]
        return [
            _columns(measure, outcome, rows) if rows else {}
            for measure, rows in zip(self.plan.measures, chosen, strict=True)
        ]

    def _flaws(self, parts: Sequence[_Part], checks: Sequence[Tensor]) -> list[Flaw | None]:
        found: list[Flaw | None] = []
        for part, own in zip(parts, checks, strict=True):
            flaws = self.plan.tokenizer.flaws(part.done.codes, own)
            found += [flaws[row] for row in part.rows]
        return found

    def _count(self, part: _Part) -> None:
        """Count the time of pictures in the tokenizer."""
        seconds = part.done.seconds()
        for index in part.indices:
            if rows := self._rows.get(index // SHARD):
                rows.count(*seconds, batch=part.done.most)

    def _measured(self, columns: Columns, indices: Sequence[int]) -> None:
        """Set what a measure says of pictures; a missing value has its reason in a column beside it."""
        for key, values in columns.items():
            pairs = list(zip(indices, values, strict=True))
            if key.role == "value" and not self.plan.protocol.published:  # published code has its own ways with nan
                pairs = [(index, _known(key, value)) for index, value in pairs]
            for index, value in pairs:
                self._put(str(key), index, None if isinstance(value, Missing) else value)
            beside = str(key._replace(role="reason"))
            for index, value in pairs:
                if isinstance(value, Missing):
                    self._put(beside, index, value.reason)

    def _put(self, column: str, index: int, value: object) -> None:
        if rows := self._rows.get(index // SHARD):
            rows.put(column, index, value)

    def spent(self, seconds: float, pictures: range) -> None:
        """Count the wall time of a window."""
        for index in pictures:
            if rows := self._rows.get(index // SHARD):
                rows.clock.total += seconds / len(pictures)

    def finished(self, stop: int, *, last: bool) -> Iterator[tuple[int, pa.Table]]:
        """Hand on the shards whose pictures are done."""
        end = stop if last or self._batch is None else stop - stop % self._batch
        for shard in [shard for shard in self._rows if last or self.plan.indices(shard).stop <= end]:
            yield shard, self._rows.pop(shard).table()


def _columns(measure: Measure, outcome: Outcome, chosen: Sequence[int]) -> Columns:
    """Measure some pictures of a batch; one that can't be measured, or has no memory for it, has the reason."""

    def probe(rows: Sequence[int], found: Columns) -> None:
        with devices.memory():
            found.update(measure.columns(outcome.at(rows)))

    return each(probe, measure.names, chosen, apart=not measure.batch)


def _known(key: Key, value: object) -> object:
    """A value, or why there is none: what is not a number would vanish from a mean without a word."""
    if isinstance(value, float) and math.isnan(value):
        return Missing(f"{key.metric} of this picture is not a number")
    return value


def _again(tokenizer: Tokenizer) -> Callable[[Tensor], tuple[Tensor, Codes]]:
    def again(pictures: Tensor) -> tuple[Tensor, Codes]:
        codes = tokenizer.encode(pictures)
        return tokenizer.decode(codes, (pictures.shape[-2], pictures.shape[-1])), codes

    return again


def _joined(outcomes: Sequence[Outcome]) -> Outcome:
    """Put what several forward passes left together: in the CPU's memory where some of it is there, or no other is."""
    if len(outcomes) == 1:
        return outcomes[0]
    places = {outcome.reference.device for outcome in outcomes}
    try:
        with devices.memory():
            return _joined_on(places.pop() if len(places) == 1 else devices.CPU, outcomes)
    except NoMemoryError:
        return _joined_on(devices.CPU, outcomes)


def _joined_on(place: torch.device, outcomes: Sequence[Outcome]) -> Outcome:
    def joined(parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([part.to(place) for part in parts])

    codes = [outcome.codes for outcome in outcomes]
    latents = [part.latent for part in codes if part.latent is not None]
    return Outcome(
        samples=tuple(sample for outcome in outcomes for sample in outcome.samples),
        reference=joined([outcome.reference for outcome in outcomes]),
        reconstruction=joined([outcome.reconstruction for outcome in outcomes]),
        fed=torch.cat([outcome.fed for outcome in outcomes]),
        codes=Codes(
            indices=tuple(torch.cat(scale) for scale in zip(*(part.indices for part in codes), strict=True)),
            latent=joined(latents) if latents else None,
            bitstream=tuple(stream for part in codes for stream in part.bitstream),
            size=codes[0].size,
            codebook_sizes=codes[0].codebook_sizes,
            indices_per_token=codes[0].indices_per_token,
        ),
        again=outcomes[0].again,
    )


class _Rows:
    """The columns of one shard while it grows: a value a picture, None where there is none."""

    def __init__(self, plan: Plan, shard: int) -> None:
        self._plan = plan
        self._indices = plan.indices(shard)
        self._values: dict[str, list[Any]] = {
            "index": list(self._indices),
            "id": [plan.task.sample_id(index) for index in self._indices],
        }
        self.clock = Clock(started=datetime.now(UTC).isoformat(timespec="seconds"), batch=plan.batch_size)

    def put(self, column: str, index: int, value: object) -> None:
        """Set one value."""
        values = self._values.setdefault(column, [None] * len(self._indices))
        values[index - self._indices.start] = value

    def count(self, encode: float, decode: float, *, batch: int) -> None:
        """Count one picture that went through the tokenizer, in a forward pass of at most `batch`."""
        clock = self.clock
        clock.encode, clock.decode, clock.images = clock.encode + encode, clock.decode + decode, clock.images + 1
        clock.batch = min(clock.batch, batch)

    def table(self) -> pa.Table:
        """Type the columns; one whose values are all missing is a number's, or a reason's."""
        columns = {name: _column(name, values) for name, values in self._values.items()}
        said = {"clock": json.dumps(vars(self.clock)), "plan": self._plan.digest}
        return pa.table(columns).replace_schema_metadata(said)


def _column(name: str, values: Sequence[Any]) -> pa.Array:
    kind = _type_of(name, values)
    if pa.types.is_string(kind):
        values = [None if value is None else as_text(value) for value in values]
    return pa.array(values, type=kind)


def _type_of(name: str, values: Sequence[Any]) -> pa.DataType:
    if name == "index":
        return pa.int64()
    known = next((value for value in values if value is not None), None)
    if isinstance(known, np.ndarray):
        return pa.list_(pa.from_numpy_dtype(known.dtype))
    if name in ("id", "reason") or Key.parse(name).role == "reason":
        return pa.string()
    if any(isinstance(value, str) for value in values):  # some pictures may have a number where others have text
        return pa.string()
    return pa.float64()
