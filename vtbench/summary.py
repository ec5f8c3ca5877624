"""From shards to a run: the per-image table, and the scores that the measures make of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from vtbench import __version__, provenance
from vtbench import device as devices
from vtbench.catalogue import find_metric
from vtbench.errors import DataError
from vtbench.measures import Measure, RawColumns, Table
from vtbench.plan import Plan
from vtbench.results import Pictures, Run, Score, Timing
from vtbench.types import Key, as_text

REASONS = 5
"""How many reasons of failed pictures a summary names."""


@dataclass
class Clock:
    """When a shard was begun, seconds that it spent in encoder and decoder, and the largest batch that was possible."""

    started: str
    batch: int
    encode: float = 0.0
    decode: float = 0.0
    images: int = 0
    total: float = 0.0


@dataclass(frozen=True)
class Shard:
    """A shard of a finished run: its columns are in memory, but for the raw ones, which only totals are made of."""

    table: pa.Table
    """Without the raw columns."""
    raw: tuple[str, ...]
    """Names of the raw columns."""
    read: Callable[[str], pa.ChunkedArray]
    """Reads a raw column by its name."""

    @staticmethod
    def of(whole: pa.Table, read: Callable[[str], pa.ChunkedArray] | None = None) -> Shard:
        """Take a whole shard; `read` gets its raw columns later, and where left out they stay in memory."""
        raw = tuple(name for name in whole.column_names if Key.parse(name).role == "raw")
        return Shard(whole.drop_columns(list(raw)), raw, read or whole.column)


def _raw_columns(shards: Sequence[Shard]) -> RawColumns:
    """Read raw columns shard by shard, as often as they are wanted: of 50,000 pictures they would fill the memory."""

    def column(name: str) -> Iterator[Any]:
        for shard in shards:
            if name not in shard.raw:
                yield from (None for _ in range(shard.table.num_rows))
                continue
            found = shard.read(name)
            arrays = pa.types.is_list(found.type)
            yield from found.to_numpy() if arrays else found.to_pylist()

    names = dict.fromkeys(name for shard in shards for name in shard.raw)
    return {name: partial(column, name) for name in names}


def finish(plan: Plan, shards: Sequence[Shard]) -> tuple[Run, pa.Table]:
    """Make the summary and the per-image table of a run out of all its shards, in order."""
    clocks = [Clock(**json.loads(shard.table.schema.metadata[b"clock"])) for shard in shards]
    tables = [shard.table.replace_schema_metadata(None) for shard in shards]
    whole = pa.concat_tables(_alike(tables), promote_options="default")
    raw = _raw_columns(shards)
    tokenizer, card = plan.tokenizer, plan.task.card
    commit, dirty = provenance.commit()
    run = Run(
        tokenizer=tokenizer.card.name,
        label=plan.label,
        step=plan.step,
        family=tokenizer.card.family,
        kind=tokenizer.card.kind,
        task=card.name,
        task_family=card.family,
        task_version=card.version,
        protocol=plan.protocol.name,
        primary=plan.primary,
        scores=_scores(plan, Table(whole, raw=raw, intervals=lambda name: True)),
        groups=_groups(plan, whole, raw),
        tokens_per_image=_tokens(raw, tokenizer.card.code.indices_per_token),
        codebook_sizes=tokenizer.card.code.codebook_sizes,
        parameters=tokenizer.parameters,
        images=plan.count,
        pictures=_pictures(plan, whole),
        limit=plan.limit,
        weights=plan.origin,
        ema=tokenizer.ema,
        data_revision=plan.task.revision,
        digests={**plan.digests, "plan": plan.digest},
        version=__version__,
        commit=commit,
        dirty=dirty,
        versions=provenance.versions(),
        device=devices.name(tokenizer.device),
        precision=tokenizer.precision,
        compiled=tokenizer.compiled,
        batch_size=min(clock.batch for clock in clocks),
        timing=_timing(clocks),
    )
    return run, whole


def _alike(tables: Sequence[pa.Table]) -> Iterator[pa.Table]:
    """Make a column text in all shards where it is in some: each took its type from its own pictures."""
    texts = {field.name for table in tables for field in table.schema if pa.types.is_string(field.type)}
    for table in tables:
        for place, field in enumerate(table.schema):
            if field.name in texts and not pa.types.is_string(field.type):
                values = [None if value is None else as_text(value) for value in table.column(place).to_pylist()]
                table = table.set_column(place, field.name, pa.array(values, pa.string()))
        yield table


def check(run: Run) -> None:
    """Refuse a run all of whose pictures failed.

    Raises:
        DataError: with the commonest reason.
    """
    if not run.pictures.scored:
        reason = next(iter(run.pictures.reasons), "no reason was given")
        raise DataError(f"{run.name} on {run.task}: all {run.images} pictures failed; the commonest reason: {reason}")


def _scores(plan: Plan, table: Table) -> dict[str, Score]:
    """Let every measure make scores of its columns, in the order of the plan's metrics."""
    found: dict[str, Score] = {}
    for measure in plan.measures:
        found |= _scores_of(measure, table)
    for name, reason in plan.unavailable.items():
        found[name] = Score.missing(reason, table.expected)
    place = {name: position for position, name in enumerate(plan.metrics)}
    order = sorted(found, key=lambda name: place.get(Key.parse(name).metric, len(place)))
    return {name: found[name] for name in order}


def _scores_of(measure: Measure, table: Table) -> dict[str, Score]:
    """Let a measure make scores of its columns; what it refuses has a reason, and what others computed is not lost."""
    try:
        return measure.scores(table)
    except DataError as error:
        return {name: Score.missing(str(error), table.expected) for name in measure.names}


def _groups(plan: Plan, whole: pa.Table, raw: RawColumns) -> dict[str, dict[str, dict[str, Score]]]:
    """Score each value of each attribute of `group_by` by itself, with an interval for the metric that ranks."""
    groups: dict[str, dict[str, dict[str, Score]]] = {}
    if plan.protocol.published:
        return groups
    table = Table(whole, raw=raw, intervals=lambda name: name == plan.primary)
    for attribute in plan.task.card.group_by:
        column = f"attribute/{attribute}"
        if column not in whole.column_names:
            continue
        for value in sorted(set(whole.column(column).drop_null().to_pylist())):
            part = table.where(attribute, value)
            scores = {
                name: score
                for measure in plan.measures
                if any(metric.grouped for metric in measure.metrics)
                for name, score in _scores_of(measure, part).items()
                if score.value is not None and find_metric(Key.parse(name).metric).grouped
            }
            groups.setdefault(attribute, {})[as_text(value)] = scores
    return groups


def _tokens(raw: RawColumns, indices_per_token: int) -> int | None:
    """Count the tokens of a picture, over all scales; None where there are none."""
    codes = [read for name, read in raw.items() if Key.parse(name)[::2] == ("codes", "raw")]
    lengths = [next((len(indices) for indices in read() if indices is not None), 0) for read in codes]
    return sum(lengths) // indices_per_token or None


def _pictures(plan: Plan, whole: pa.Table) -> Pictures:
    failed = [reason for reason in whole.column("reason").to_pylist() if reason is not None]
    return Pictures(
        found=plan.task.found,
        scored=whole.num_rows - len(failed),
        failed=len(failed),
        reasons=dict(Counter(failed).most_common(REASONS)),
        passed_over=dict(plan.task.passed_over),
        left_out=len(plan.task) - plan.count,
    )


def _timing(clocks: Sequence[Clock]) -> Timing:
    images = sum(clock.images for clock in clocks)
    encode, decode = sum(clock.encode for clock in clocks), sum(clock.decode for clock in clocks)
    return Timing(
        encode_per_second=images / encode if encode > 0 else None,
        decode_per_second=images / decode if decode > 0 else None,
        seconds=sum(clock.total for clock in clocks),
        started=min(clock.started for clock in clocks),
    )
