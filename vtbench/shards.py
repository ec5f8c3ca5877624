"""Shards: pictures go through the tokenizer and all measures, and a row a picture comes out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from vtbench import device as compute
from vtbench.errors import DataError
from vtbench.measures import Measure, Missing, Outcome
from vtbench.plan import Plan
from vtbench.summary import Clock
from vtbench.task import Task
from vtbench.tokenizer import Tokenizer
from vtbench.types import Codes, Key, Sample

READERS = 2
"""Threads that read and decode pictures ahead of the tokenizer."""

T = TypeVar("T")

Progress = Callable[[int, int], None]
"""Called with pictures done and pictures in all."""


@dataclass(frozen=True)
class _Read:
    """One picture of a shard: read, or broken with a reason."""

    position: int
    sample: Sample | None
    reason: str | None


def tables(
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
        for batch in batches(made.task, indices, step):
            _measure(made, batch, columns, clock)
            done += len(batch)
            if progress:
                progress(done, in_all)
        clock.total = time.perf_counter() - began
        yield columns.table().replace_schema_metadata({"clock": json.dumps(vars(clock)), "plan": made.digest})


def check_bottleneck(made: Plan) -> None:
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
            sample = made.task.read(index)
            picture = feeder.feed(sample)[None].to(tokenizer.device)
            floats = picture.is_floating_point()
            encode = tokenizer.encode_floats if floats else tokenizer.encode
            size = (picture.shape[-2], picture.shape[-1])
            codes = encode(picture)
            first, reasons = tokenizer.attempt(codes, size, floats=floats)
        except DataError:
            continue
        if reasons[0] is not None:
            continue
        kept, bound = codes.copied(), _FLOATS if floats else 1.0
        # Noise: no picture, however flat or even, is like it.
        noise = torch.randint(0, 256, sample.image.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        encode(feeder.feed(replace(sample, image=noise))[None].to(tokenizer.device))
        second, _ = tokenizer.attempt(kept, size, floats=floats)
        if _apart(first, second) > bound:
            if _apart(second, tokenizer.attempt(kept, size, floats=floats)[0]) > bound:
                raise DataError(
                    f"{tokenizer.card.name}: its decoder gives another picture for the same codes every time, so no "
                    "number could be repeated; let it draw from a generator that it seeds itself"
                )
            raise DataError(
                f"{tokenizer.card.name}: its decoder gives another picture for the same codes after another "
                "picture was encoded, so it uses what its encoder left behind; decode from the codes alone"
            )
        return


def _apart(first: Tensor, second: Tensor) -> float:
    return (first.double() - second.double()).abs().max().item()


_FLOATS = 0.01
"""How far apart two reconstructions of the same codes may be, where they are floats of about [-1, 1]; a level at most
of those in levels. So much another kernel may round otherwise."""


def _step(made: Plan) -> int:
    """Say how many pictures are read and measured together."""
    step = next((measure.batch for measure in made.measures if measure.batch), None)
    if step is not None:
        return step
    return 1 if made.task.size is None else made.batch_size  # pictures of different sizes make no batch


def warm_up(made: Plan) -> None:
    """Pay for first-call costs (allocation, kernel choice) outside the clock."""
    step = _step(made)
    if made.task.size is not None and made.tokenizer.parameters and not made.protocol.published:
        warm = torch.full((min(step, made.count), 3, *made.task.size), 128, dtype=torch.uint8)
        try:
            codes = made.tokenizer.encode(warm)
            made.tokenizer.attempt(codes, made.task.size)
        except DataError:  # said of each picture, where it belongs
            return


def batches(task: Task, indices: range, step: int) -> Iterator[list[_Read]]:
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
