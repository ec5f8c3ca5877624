"""evaluate(): one tokenizer on one task, in shards that survive a kill.

A shard is the unit of work, of resume and of distribution: samples are cut by index into shards of a fixed size,
whatever the batch size or the number of processes. A computed shard is committed atomically; a later start skips it;
the merge reads all of them in order. So one process, several, or a killed and resumed run give the same table.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet
from torch import Tensor

from vtbench import __version__, backbones, cards, files, ocr, reading, results, scoring
from vtbench import device as compute
from vtbench.errors import DataError, ResultError, VtbenchError
from vtbench.metrics import stability
from vtbench.metrics.codes import code_usage, entropy_bits
from vtbench.metrics.frechet import GROUPS, frechet_distance, frechet_interval, kernel_distance, kernel_interval
from vtbench.protocols import CODE_METRICS, METRICS, SET_METRICS, TEXT_TOTALS, Protocol, find_metric, find_protocol
from vtbench.results import Run, Score, Timing
from vtbench.task import Task
from vtbench.tokenizer import Tokenizer
from vtbench.types import Batch, Codes, Sample

SHARD = 16
"""Pictures of a shard. Part of the file format: changing it makes committed shards of older runs unusable."""

CODE = ("vtbench", "tokenizers", "tasks", "pyproject.toml")
"""What of a checkout decides the numbers: a run is dirty where these differ from the commit."""

READERS = 2
"""Threads that read and decode pictures ahead of the tokenizer."""

READINGS = "readings"
"""Folder in the work folder: what OCR engines read on originals, so that they read each but once."""

NO_VALUE = {
    "bpp": "continuous latents have no rate until a quantisation is stated",
    "token_agreement": "the tokenizer has no tokens",
}
"""Why a metric has no value though pictures were scored."""

HIDDEN = ("codes/", "rfid/", "_")
"""Beginnings of the columns that the per-image table leaves out: codes, features, and what totals are made of."""

T = TypeVar("T")

Progress = Callable[[int, int], None]
"""Called with pictures done and pictures in all."""


@dataclass
class _Clock:
    """Seconds that one shard spent in the encoder and the decoder."""

    encode: float = 0.0
    decode: float = 0.0
    images: int = 0
    total: float = 0.0

    def add(self, encode: float, decode: float, images: int) -> None:
        """Count one batch."""
        self.encode += encode
        self.decode += decode
        self.images += images


@dataclass(frozen=True)
class _Plan:
    """Everything that decides the numbers of a run; its digest names the folder of the shards."""

    tokenizer: Tokenizer
    task: Task
    metrics: tuple[str, ...]
    unavailable: dict[str, str]
    count: int
    limit: int | None
    protocol: Protocol
    digests: dict[str, str | None] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        said = {
            **self.digests,
            "metrics": self.metrics,
            "unavailable": sorted(self.unavailable),
            "limit": self.limit,
            "protocol": repr(self.protocol),
            "precision": self.tokenizer.precision,
            "device": self.tokenizer.device.type,
            "state": self.tokenizer.weights_state,
        }
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    @property
    def shards(self) -> int:
        return math.ceil(self.count / SHARD)

    def indices(self, shard: int) -> range:
        return range(shard * SHARD, min((shard + 1) * SHARD, self.count))


def evaluate(
    tokenizer: Tokenizer,
    task: Task,
    *,
    out: str | Path = "results",
    work: str | Path = ".vtbench",
    batch_size: int = 8,
    limit: int | None = None,
    protocol: str | None = None,
    require: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Run one tokenizer through one task and write its summary and per-image table.

    Under `torchrun`, every process takes the shards of its rank, and rank 0 merges.

    Args:
        tokenizer: what is measured.
        task: the pictures and metrics.
        out: folder of the summaries; `<out>/<task>/<tokenizer>.json` is written.
        work: folder of the shards, and of `run.json` and `images.parquet` after; a killed run resumes from here.
        batch_size: pictures a forward pass; it does not change the numbers.
        limit: only the first pictures; such a run is shown but never ranked.
        protocol: how pictures become numbers; the task's own where left out.
        require: metrics whose absence is an error instead of an empty column.
        overwrite: compute again what is already there.
        progress: told how far it is.

    Returns:
        The summary.

    Raises:
        DataError: if the tokenizer can't take the task's size, no picture could be read, or a published protocol is
            asked of a task whose pictures were not loaded as they are.
        ResultError: if a folder can't be written or a full run would be replaced by a part of one.
        VtbenchError: if a required metric can't be scored.
    """
    if batch_size < 1 or (limit is not None and limit < 1):
        raise VtbenchError(f"batch size {batch_size} and limit {limit}: expected whole numbers from 1 up")
    rule = find_protocol(protocol or task.card.protocol)
    if rule.name != "canonical" and not task.native:
        raise DataError(
            f"the protocol {rule.name} brings pictures to their size by rules of its own, and {task.card.name} was "
            "loaded with pictures cropped already; use load_task(..., native=True)"
        )
    if rule.name == "canonical" and task.size is not None:
        tokenizer.check_size(task.size)
    out, work = Path(out), Path(work)
    stem = results.file_stem(tokenizer.card.name, rule.name)
    summary = out / task.card.name / f"{stem}.json"
    folder = work / task.card.name / stem
    files.check_writable(summary.parent)
    files.check_writable(folder)
    plan = _plan(tokenizer, task, limit, rule, require)
    _protect(summary, plan, overwrite)
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))

    shards = folder / f"shards-{plan.digest[:12]}"
    if overwrite:
        for index in range(rank, plan.shards, world):  # each process forgets its own, so that none waits for another's
            _shard_path(shards, index).unlink(missing_ok=True)
    elif (done := _finished(folder, plan)) is not None:
        if rank == 0:
            results.write(done, summary)
        return done
    _compute(plan, shards, work / READINGS, batch_size, rank, world, progress)
    if rank != 0:
        return _wait(lambda: None if shards.is_dir() else _finished(folder, plan))
    _wait(lambda: True if all(_shard_path(shards, index).is_file() for index in range(plan.shards)) else None)
    run, table = _merge(plan, shards, batch_size)
    files.write_atomic(folder / results.IMAGES, _to_bytes(table))
    results.write(run, folder / results.RUN)
    results.write(run, summary)
    _remove(shards)
    return run


# --- before -----------------------------------------------------------------------------------------------------------


def _plan(tokenizer: Tokenizer, task: Task, limit: int | None, protocol: Protocol, require: Sequence[str]) -> _Plan:
    count = len(task) if limit is None else min(limit, len(task))
    names = tuple(find_metric(name).name for name in task.card.metrics)
    if protocol.name != "canonical":
        names = (*protocol.metrics, *(protocol.text_metrics if task.card.family == "text" else ()))
    unavailable = scoring.unavailable(names, count, task.card.ocr)
    for name in require:
        find_metric(name)
        if name not in names:
            raise VtbenchError(f"--require {name}: {task.card.name} does not measure it, only {', '.join(names)}")
        if name in unavailable:
            raise VtbenchError(f"--require {name}: {unavailable[name]}")
    digests: dict[str, str | None] = {
        "tokenizer": cards.digest(tokenizer.card),
        "task": cards.digest(task.card),
        "weights": tokenizer.weights_digest,
        "data": task.digest,
        "code": code_digest(),
    }
    for need in sorted({need for name in names if name not in unavailable for need in METRICS[name].needs}):
        own = task.card.ocr if need == "easyocr" else need
        found = ocr.digests(own) if need == "easyocr" else backbones.digests(own)
        digests |= {f"{own}/{file}": value for file, value in found.items()}
    return _Plan(tokenizer, task, names, unavailable, count, limit, protocol, digests)


def _protect(summary: Path, plan: _Plan, overwrite: bool) -> None:
    """Keep a full, ranked result from being replaced by a trial run."""
    if overwrite or not summary.is_file():
        return
    trial = plan.limit is not None or plan.tokenizer.weights_state == "synthetic"
    if trial and results.read_run(summary).ranked:
        raise ResultError(
            f"{summary} is a full run, and this one would replace it by "
            f"{'made-up weights' if plan.limit is None else f'{plan.limit} pictures'}; "
            "choose another --out, or give --overwrite"
        )


def _finished(folder: Path, plan: _Plan) -> Run | None:
    """The run of exactly this plan, where an earlier start completed it."""
    if not (folder / results.RUN).is_file() or not (folder / results.IMAGES).is_file():
        return None
    try:
        run = results.read_run(folder / results.RUN)
    except ResultError:  # written by an older version: not this plan's
        return None
    return run if run.digests.get("plan") == plan.digest else None


def _wait(condition: Callable[[], T | None]) -> T:
    """Poll the shared folder for what another process writes."""
    while (found := condition()) is None:
        time.sleep(0.5)
    return found


def _remove(folder: Path) -> None:
    if folder.is_dir():
        for file in folder.iterdir():
            file.unlink(missing_ok=True)
        folder.rmdir()


# --- shards -----------------------------------------------------------------------------------------------------------


def _shard_path(folder: Path, index: int) -> Path:
    return folder / f"{index:05d}.parquet"


def _compute(
    plan: _Plan, folder: Path, readings: Path, batch_size: int, rank: int, world: int, progress: Progress | None
) -> None:
    """Compute and commit the shards of this process that are not there yet."""
    mine = range(rank, plan.shards, world)
    missing = [index for index in mine if not _shard_path(folder, index).is_file()]
    in_all = sum(len(plan.indices(index)) for index in mine)
    done = in_all - sum(len(plan.indices(index)) for index in missing)
    if progress:
        progress(done, in_all)
    if not missing:
        return
    measure = _Measure(plan, batch_size, readings)
    for index in missing:
        clock = _Clock()
        started = time.perf_counter()
        rows: list[dict[str, Any]] = []
        for batch in _batches(plan.task, plan.indices(index), measure.step):
            rows += measure.rows(batch, clock)
            done += len(batch)
            if progress:
                progress(done, in_all)
        rows.sort(key=lambda row: row["index"])
        clock.total = time.perf_counter() - started
        table = pa.Table.from_pylist(rows, schema=_schema(rows))
        table = table.replace_schema_metadata({"clock": json.dumps(vars(clock))})
        files.write_atomic(_shard_path(folder, index), _to_bytes(table))


@dataclass(frozen=True)
class _Read:
    """One picture of a shard: read, or broken with a reason."""

    index: int
    id: str
    sample: Sample | None
    reason: str | None


def _batches(task: Task, indices: range, batch_size: int) -> Iterator[list[_Read]]:
    """Read pictures ahead in threads; broken ones travel along with their reason."""

    def read(index: int) -> _Read:
        try:
            return _Read(index, task.sample_id(index), task.read(index), None)
        except DataError as error:
            return _Read(index, task.sample_id(index), None, str(error))

    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(read, indices))
    for start in range(0, len(found), batch_size):
        yield found[start : start + batch_size]


class _Measure:
    """Takes pictures of one shard through the tokenizer and the metrics: a row a picture."""

    def __init__(self, plan: _Plan, batch_size: int, readings: Path) -> None:
        self.plan = plan
        self.tokenizer = plan.tokenizer
        self.batch_size = batch_size
        names = [name for name in plan.metrics if name not in plan.unavailable]
        card = plan.task.card
        self.published: scoring.ProtocolScorer | None = None
        self.scorer: scoring.Scorer | None = None
        self.step = batch_size
        """Pictures that are read and measured together."""
        if plan.protocol.name != "canonical":
            reads = any(name in names for name in plan.protocol.text_metrics)
            engine = ocr.load(card.ocr, str(self.tokenizer.device)) if reads else None
            self.published = scoring.ProtocolScorer(plan.protocol, names, self.tokenizer.device, engine=engine)
            self.step = plan.protocol.batch  # some codes score by batches of a size of their own
            return
        self.scorer = scoring.Scorer(
            names, self.tokenizer.device, engine=card.ocr, normalisation=card.normalisation, readings=readings
        )
        if plan.task.size is None:
            self.step = 1  # pictures of different sizes make no batch
        elif self.tokenizer.parameters:  # pay for first-call costs (allocation, kernel choice) outside the clock
            warm = torch.full((min(batch_size, plan.count), 3, *plan.task.size), 128, dtype=torch.uint8)
            self.tokenizer.reconstruct(warm)

    def rows(self, batch: Sequence[_Read], clock: _Clock) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        whole = []
        for item in batch:
            if item.sample is None:
                rows.append({"index": item.index, "id": item.id, "reason": item.reason})
            else:
                whole.append((item, item.sample))
        if not whole:
            return rows
        samples = tuple(sample for _, sample in whole)
        columns = self._published(samples, clock) if self.published else self._canonical(samples, clock)
        for position, (item, sample) in enumerate(whole):
            row = {"index": item.index, "id": item.id, "reason": None}
            row |= {f"attribute/{key}": value for key, value in sample.attributes.items()}
            rows.append(row | {name: column[position] for name, column in columns.items()})
        return rows

    def _canonical(self, samples: tuple[Sample, ...], clock: _Clock) -> dict[str, list[Any]]:
        assert self.scorer is not None
        reference = torch.stack([sample.image for sample in samples])
        size = (reference.shape[-2], reference.shape[-1])
        codes, encode = _timed(self.tokenizer, lambda: self.tokenizer.encode(reference))
        reconstruction, decode = _timed(self.tokenizer, lambda: self.tokenizer.decode(codes, size))
        clock.add(encode, decode, len(samples))
        columns = self.scorer.measure(Batch(samples, reference, reconstruction.cpu()))
        columns |= _code_columns(codes, size)
        if self.plan.task.card.family == "stability":
            columns |= stability.measure(self._again, reference, reconstruction, codes.indices)
        return columns

    def _again(self, pictures: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        codes = self.tokenizer.encode(pictures)
        return self.tokenizer.decode(codes, (pictures.shape[-2], pictures.shape[-1])), codes.indices

    def _published(self, samples: tuple[Sample, ...], clock: _Clock) -> dict[str, list[Any]]:
        assert self.published is not None
        span = self.tokenizer.span
        images = [sample.image.permute(1, 2, 0).numpy() for sample in samples]
        side = self.plan.task.card.geometry.side
        inputs = [scoring.prepare(self.plan.protocol, image, size=side, value_range=span) for image in images]
        decoded: list[np.ndarray[Any, Any]] = []
        parts: list[dict[str, list[Any]]] = []
        for group in _equal_shapes(inputs, self.batch_size):
            fed = torch.from_numpy(np.stack(group))
            size = (fed.shape[-2], fed.shape[-1])
            codes, encode = _timed(self.tokenizer, partial(self.tokenizer.encode_floats, fed))
            floats, decode = _timed(self.tokenizer, partial(self.tokenizer.decode_floats, codes, size))
            clock.add(encode, decode, len(group))
            decoded += list(floats.float().cpu().numpy())
            parts.append(_code_columns(codes, size))
        lines = [sample.lines for sample in samples]
        columns = self.published.measure(images, inputs, decoded, size=side, value_range=span, lines=lines)
        for name in parts[0]:
            columns[name] = [value for part in parts for value in part[name]]
        return columns


def _equal_shapes(arrays: Sequence[np.ndarray[Any, Any]], most: int) -> Iterator[list[np.ndarray[Any, Any]]]:
    """Cut a list into runs of neighbours of one shape, each of at most `most`."""
    group: list[np.ndarray[Any, Any]] = []
    for array in arrays:
        if group and (len(group) == most or array.shape != group[0].shape):
            yield group
            group = []
        group.append(array)
    yield group


def _timed(tokenizer: Tokenizer, call: Callable[[], T]) -> tuple[T, float]:
    compute.synchronise(tokenizer.device)
    started = time.perf_counter()
    result = call()
    compute.synchronise(tokenizer.device)
    return result, time.perf_counter() - started


def _code_columns(codes: Codes, size: tuple[int, int]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    if codes.bits is not None:
        columns["bpp"] = [bits / (size[0] * size[1]) for bits in codes.bits]
    for scale, indices in enumerate(codes.indices):
        columns[f"codes/{scale}"] = list(indices.flatten(1).cpu().numpy())
    return columns


def _schema(rows: Sequence[dict[str, Any]]) -> pa.Schema:
    """Type the columns of a shard; a column whose values are all missing is a number's."""
    types: dict[str, pa.DataType] = {}
    for row in rows:
        for name, value in row.items():
            if name not in types or (value is not None and types[name] == pa.null()):
                types[name] = _type_of(name, value)
    return pa.schema([(name, pa.float64() if kind == pa.null() else kind) for name, kind in types.items()])


def _type_of(name: str, value: object) -> pa.DataType:
    if name == "index":
        return pa.int64()
    if name in ("id", "reason"):
        return pa.string()
    if isinstance(value, np.ndarray):
        return pa.list_(pa.from_numpy_dtype(value.dtype))
    if isinstance(value, str):
        return pa.string()
    return pa.float64() if value is not None else pa.null()


def _to_bytes(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(table, sink, compression="zstd")
    return sink.getvalue()


# --- after ------------------------------------------------------------------------------------------------------------


def _merge(plan: _Plan, folder: Path, batch_size: int) -> tuple[Run, pa.Table]:
    """Read the shards in order; make the per-image table and the summary."""
    parts = [parquet.read_table(_shard_path(folder, index)) for index in range(plan.shards)]
    clocks = [_Clock(**json.loads(part.schema.metadata[b"clock"])) for part in parts]
    whole = pa.concat_tables([part.replace_schema_metadata(None) for part in parts], promote_options="default")
    names = whole.column_names
    broken = whole.column("reason").drop_null().to_pylist()
    if len(broken) == whole.num_rows:
        raise DataError(f"{plan.task.card.name}: none of {len(broken)} pictures could be read; the first: {broken[0]}")
    kept = [name for name in names if not name.startswith(HIDDEN)]
    images = whole.select(kept).rename_columns([name.removeprefix("attribute/") for name in kept])
    tokens = [whole.column(name) for name in names if name.startswith("codes/")]
    run = Run(
        tokenizer=plan.tokenizer.card.name,
        family=plan.tokenizer.card.family,
        kind=plan.tokenizer.card.kind,
        task=plan.task.card.name,
        task_family=plan.task.card.family,
        task_version=plan.task.card.version,
        protocol=plan.protocol.name,
        primary=plan.task.card.primary if plan.task.card.primary in plan.metrics else plan.metrics[0],
        scores=_scores(plan, whole),
        groups=_groups(plan, whole),
        tokens_per_image=sum(len(column.drop_null()[0]) for column in tokens) if tokens else None,
        codebook_sizes=plan.tokenizer.card.code.codebook_sizes,
        parameters=plan.tokenizer.parameters,
        images=plan.count,
        limit=plan.limit,
        weights=plan.tokenizer.weights_state,
        data_revision=plan.task.revision,
        digests={**plan.digests, "plan": plan.digest},
        version=__version__,
        commit=_git("rev-parse", "HEAD"),
        dirty=None if (changes := _git("status", "--porcelain", "--", *CODE)) is None else bool(changes),
        versions=library_versions(),
        device=compute.name(plan.tokenizer.device),
        precision=plan.tokenizer.precision,
        batch_size=batch_size,
        timing=_timing(clocks),
    )
    return run, images


def _scores(plan: _Plan, table: pa.Table) -> dict[str, Score]:
    """Summarise the whole table by metric, with intervals."""
    expected = table.num_rows
    scores: dict[str, Score] = {}
    for name in (*plan.metrics, "bpp"):
        if name in plan.unavailable:
            scores[name] = Score(value=None, reason=plan.unavailable[name], scored=0, expected=expected)
        elif name not in (*SET_METRICS, *TEXT_TOTALS):
            scores |= _summaries(table, name)
    if plan.protocol.name != "canonical":
        columns = {name: table.column(name).drop_null().to_pylist() for name in table.column_names}
        side = plan.task.card.geometry.side or plan.protocol.size or 256
        for name, value in scoring.totals(plan.protocol, columns, size=side).items():
            known = scores.get(name) or Score(value=value, scored=expected, expected=expected)
            if math.isnan(value):
                scores[name] = Score(value=None, reason="a bin of text sizes is empty", scored=0, expected=expected)
            else:
                kept: dict[str, object] = {"value": value, "reason": None}
                if known.value is None or not math.isclose(known.value, value, rel_tol=1e-12):
                    kept |= {"low": None, "high": None}  # the interval is that of the plain mean
                scores[name] = known.model_copy(update=kept)
    else:
        scores |= _set_scores(plan, table)
        scores |= _text_scores(plan, table)
    return scores | _code_scores(plan, table, expected)


def _text_scores(plan: _Plan, table: pa.Table) -> dict[str, Score]:
    """What needs all lines of text together."""
    wanted = [name for name in TEXT_TOTALS if name in plan.metrics and name not in plan.unavailable]
    if not wanted:
        return {}
    columns = [reading.LINE_RATES, reading.LINE_SIZES, *reading.HEIGHTS]
    rows = table.select([name for name in columns if name in table.column_names]).to_pylist()
    return reading.text_totals(rows, wanted)


def _summaries(table: pa.Table, name: str, *, interval: bool = True) -> dict[str, Score]:
    """Average one metric, and each of its levels where it is a curve."""
    expected = table.num_rows
    clusters = None
    if (column := f"attribute/{results.CLUSTER}") in table.column_names:
        clusters = [str(value) for value in table.column(column).to_pylist()]
    reason = NO_VALUE.get(name, "no picture")
    found = {}
    for column in (name, *sorted(c for c in table.column_names if c.startswith(f"{name}/"))):
        values = table.column(column).to_pylist() if column in table.column_names else []
        cap = METRICS[name].cap
        score = results.summarise(values, expected, reason, cap=cap, clusters=clusters, interval=interval)
        if (floor := f"{column}{reading.FLOOR}") in table.column_names and score.value is not None:
            known = table.column(floor).drop_null().to_pylist()
            score = score.model_copy(update={"floor": math.fsum(known) / len(known)})
        if column == name or score.value is not None:  # a curve keeps only the levels that it has
            found[column] = score
    return found


def _groups(plan: _Plan, table: pa.Table) -> dict[str, dict[str, dict[str, Score]]]:
    """Summarise by each attribute of `group_by` and its values; distances between sets say nothing of a handful."""
    groups: dict[str, dict[str, dict[str, Score]]] = {}
    apart = {*plan.unavailable, *SET_METRICS, *TEXT_TOTALS}
    names = [name for name in plan.metrics if name not in apart]
    for attribute in plan.task.card.group_by if plan.protocol.name == "canonical" else ():
        column = f"attribute/{attribute}"
        if column not in table.column_names:
            continue
        values = table.column(column)
        for value in sorted(set(values.drop_null().to_pylist())):
            label = f"{value:g}" if isinstance(value, float) else str(value)
            part = table.filter(pa.compute.equal(values, value))
            scores: dict[str, Score] = {}
            for name in names:
                found = _summaries(part, name, interval=name == plan.task.card.primary)
                scores |= {key: score for key, score in found.items() if score.value is not None}
            if not attribute.endswith("_height"):  # a threshold over heights says nothing of one height
                scores |= _text_scores(plan, part)
            groups.setdefault(attribute, {})[label] = scores
    return groups


def _set_scores(plan: _Plan, table: pa.Table) -> dict[str, Score]:
    """Distances between all originals and all reconstructions."""
    wanted = [name for name in SET_METRICS if name in plan.metrics and name not in plan.unavailable]
    if not wanted or not all(column in table.column_names for column in scoring.FEATURES):
        return {}
    features = [np.stack(table.column(column).drop_null().to_numpy()) for column in scoring.FEATURES]
    scored, expected = len(features[0]), table.num_rows
    measures = {"rfid": (frechet_distance, frechet_interval), "kid": (kernel_distance, kernel_interval)}
    scores = {}
    for name in wanted:
        distance, interval = measures[name]
        ends = interval(*features) if scored >= 2 * GROUPS else (None, None)
        scores[name] = Score(value=distance(*features), low=ends[0], high=ends[1], scored=scored, expected=expected)
    return scores


def _code_scores(plan: _Plan, table: pa.Table, expected: int) -> dict[str, Score]:
    """How the codebook is used, over all pictures; over several codebooks the mean, and each one's as a level."""
    columns = [name for name in table.column_names if name.startswith("codes/")]
    names = CODE_METRICS[1:]
    if not columns:
        reason = f"{plan.tokenizer.card.kind} tokenizers have no codebook"
        return {name: Score(value=None, reason=reason, scored=0, expected=expected) for name in names}
    sizes = plan.tokenizer.card.code.codebook_sizes
    if len(sizes) != len(columns):  # one codebook that all scales share
        sizes = sizes[:1] * len(columns)
    each: dict[str, list[float]] = {"code_usage": [], "code_entropy": [], "code_perplexity": []}
    scored, ideal, fixed = 0, 0.0, 0.0
    for name, size in zip(columns, sizes, strict=True):
        pictures = table.column(name).drop_null().to_numpy()
        scored, indices = len(pictures), np.concatenate(pictures)
        entropy = entropy_bits(indices, size)
        ideal += entropy * len(indices)
        fixed += math.log2(size) * len(indices)
        each["code_usage"].append(code_usage(indices, size))
        each["code_entropy"].append(entropy)
        each["code_perplexity"].append(math.pow(2.0, entropy))
    values = {"bpp_entropy": float(np.mean(table.column("bpp").drop_null())) * ideal / fixed}
    for name, scales in each.items():
        values[name] = float(np.mean(scales))
        if len(scales) > 1:
            values |= {f"{name}/{scale}": value for scale, value in enumerate(scales)}
    return {name: Score(value=value, scored=scored, expected=expected) for name, value in values.items()}


def _timing(clocks: Sequence[_Clock]) -> Timing:
    images = sum(clock.images for clock in clocks)
    encode, decode = sum(clock.encode for clock in clocks), sum(clock.decode for clock in clocks)
    return Timing(
        encode_per_second=images / encode if encode > 0 else None,
        decode_per_second=images / decode if decode > 0 else None,
        seconds=sum(clock.total for clock in clocks),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )


# --- what a run says of its surroundings ------------------------------------------------------------------------------


@cache
def code_digest() -> str:
    """sha256 over the package's own source files, so that shards of different code never mix."""
    package = Path(__file__).resolve().parent
    total = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        total.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return total.hexdigest()


@cache
def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that can move a number."""
    names = (
        *("torch", "torchvision", "numpy", "scipy", "pillow", "pillow-jxl-plugin", "opencv-python-headless"),
        *("lpips", "torch-fidelity", "easyocr", "rapidocr", "onnxruntime"),
    )
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _git(*arguments: str) -> str | None:
    """Ask git about the checkout that this code runs from; None in an installed wheel."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
