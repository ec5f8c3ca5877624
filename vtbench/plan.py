"""What decides the numbers of a run, and its digest: equal digests mean equal numbers, other digests share nothing."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vtbench import cards, measures, needs, ocr, provenance, results
from vtbench import device as devices
from vtbench.backbones import foundation
from vtbench.bottleneck import Bottleneck
from vtbench.cards import TaskCard
from vtbench.catalogue import OCR, find_metric, of_measure
from vtbench.errors import CardError, DataError, VtbenchError
from vtbench.measures import Context, Measure
from vtbench.protocols import Protocol, find_protocol
from vtbench.published import Published
from vtbench.results import WeightsOrigin
from vtbench.settings import Settings
from vtbench.task import Task
from vtbench.tokenizer import NO_PIXELS, Tokenizer

SHARD = 16
"""Pictures of a shard. Part of the file format: changing it makes committed shards of older runs unusable."""


@dataclass(frozen=True)
class Plan:
    """One tokenizer on one task, with all that can move a number."""

    tokenizer: Tokenizer
    task: Task
    protocol: Protocol
    measures: tuple[Measure, ...]
    metrics: tuple[str, ...]
    """Those of the task or protocol, then those of the codes."""
    unavailable: Mapping[str, str]
    """Metrics that can't be scored here, each with the reason."""
    count: int
    limit: int | None
    """Only the first so many pictures are taken; None where that is all of them."""
    batch_size: int
    """Pictures that are read and go through the tokenizer together: 1 where each has a size of its own."""
    label: str | None
    step: float | None
    origin: WeightsOrigin
    digests: Mapping[str, str | None]
    """sha256 by what it is of: cards, weights, data, code, network and the files that metrics need."""
    said: Mapping[str, Any]
    """Everything else that can move a number."""

    @property
    def name(self) -> str:
        """The run's name (`results.run_name`)."""
        tokenizer = self.tokenizer
        return results.run_name(tokenizer.card.name, self.label, tokenizer.precision, self.protocol.name)

    @functools.cached_property
    def digest(self) -> str:
        """sha256 over all of it."""
        return _sha256(self.identity)

    @property
    def identity(self) -> dict[str, Any]:
        """All that can move a number, by name."""
        return {"digests": self.digests, "said": self.said}

    @property
    def primary(self) -> str:
        """The metric that ranks."""
        primary = self.task.card.primary
        if primary in self.metrics:
            return primary
        text = self.protocol.text_metrics if self.task.card.family == "text" else ()
        return text[0] if text else self.metrics[0]

    @property
    def trial(self) -> str | None:
        """Say why this is no full run that may stand in a leaderboard; None where it is one."""
        if self.origin == "synthetic":
            return "made-up weights"
        return None if self.limit is None else f"{self.limit} pictures"

    @property
    def shards(self) -> int:
        """Count the shards."""
        return math.ceil(self.count / SHARD)

    def indices(self, shard: int) -> range:
        """Say which pictures a shard holds."""
        return range(shard * SHARD, min((shard + 1) * SHARD, self.count))

    @property
    def block(self) -> int:
        """Count the shards of a block: the fewest that whole batches fill.

        A process computes whole blocks, so a picture has the same neighbours in its batch whoever computes it, and
        the last bits of its numbers are the same.
        """
        return math.lcm(SHARD, self.batch_size) // SHARD

    @property
    def blocks(self) -> int:
        """Count the blocks."""
        return math.ceil(self.shards / self.block)

    def shards_of(self, block: int) -> range:
        """Say which shards a block holds."""
        return range(block * self.block, min((block + 1) * self.block, self.shards))

    def pictures_of(self, block: int) -> range:
        """Say which pictures a block holds."""
        whole = self.block * SHARD
        return range(block * whole, min((block + 1) * whole, self.count))


def make(tokenizer: Tokenizer, task: Task, *, protocol: str | None, batch_size: int, how: Settings) -> Plan:
    """Find out all that decides a run's numbers, and bind its measures; loads no network of a metric.

    Args:
        tokenizer: what is measured.
        task: the pictures and metrics.
        protocol: how pictures become numbers; the task's own where None.
        batch_size: pictures a forward pass, where `how` may leave it to be found out.
        how: says limit, label, step and what is required, and where what is computed of originals is kept.

    Raises:
        CardError: if a metric or protocol does not exist, or a metric belongs to published protocols alone.
        DataError: if the tokenizer can't take the task's size, or a published protocol is asked of a task whose
            pictures were brought to its size already.
        VtbenchError: if the label is none, a required metric can't be scored, or the OCR engine can't write the text.
    """
    label, limit = how.label, how.limit
    if label is not None and not results.LABEL.fullmatch(label):
        raise VtbenchError(f"label {label!r}: {results.LABEL_FORM}")
    rule = find_protocol(protocol or task.card.protocol)
    _refuse_misfit(tokenizer, task, rule)
    if limit is not None and limit >= len(task):
        limit = None  # it leaves nothing out: the run is that of the whole task
    count = len(task) if limit is None else limit
    if (rule.size if rule.published else task.size) is None:
        batch_size = 1  # pictures of their own sizes go one by one
    metrics = _metrics(task, rule)
    unavailable = _unavailable(metrics, count, task.card)
    _check_required(how.require, task, metrics, unavailable)
    origin, weights = tokenizer.identity()
    if label is None and origin == "local" and weights is not None:
        label = weights[:8]
    wanted = [name for name in metrics if name not in unavailable]
    digests = _digests(tokenizer, task, weights, metrics, wanted)
    said = {
        "metrics": metrics,
        "OCR engine": task.card.ocr,
        "unavailable": sorted(unavailable),
        "limit": limit,
        "protocol": repr(rule),
        "precision": tokenizer.precision,
        "device": devices.model(tokenizer.device),
        "versions": provenance.versions(),
        "origin": origin,
        "ema": tokenizer.ema,
        # Another size of batch moves the last bits of a learned network's numbers; a codec takes pictures one by one.
        "batch_size": batch_size if tokenizer.parameters else None,
        "compiled": tokenizer.compiled,
    }
    return Plan(
        tokenizer=tokenizer,
        task=task,
        protocol=rule,
        measures=tuple(_measures(wanted, _context(tokenizer, task, rule, digests, how))),
        metrics=metrics,
        unavailable=unavailable,
        count=count,
        limit=limit,
        batch_size=batch_size,
        label=label,
        step=how.step,
        origin=origin,
        digests=digests,
        said=said,
    )


def _refuse_misfit(tokenizer: Tokenizer, task: Task, rule: Protocol) -> None:
    """Refuse a protocol, a tokenizer and a task of which one can't take the other's pictures.

    Raises:
        DataError: saying which, and what to choose.
    """
    if rule.published and not task.native:
        raise DataError(
            f"the protocol {rule.name} brings pictures to their size by rules of its own, and {task.card.name} was "
            "loaded with pictures cropped already; use load_task(..., native=True)"
        )
    if tokenizer.card.kind == "understanding" and (rule.published or _needs_pixels(task.card.metrics)):
        raise DataError(
            f"{tokenizer.card.name}: {NO_PIXELS}, so {task.card.name} can't score it; choose a task that needs none "
            "(`tokens`)"
        )
    if not rule.published and task.size is not None:
        tokenizer.check_size(task.size)


def _check_required(require: Sequence[str], task: Task, metrics: Sequence[str], unavailable: Mapping[str, str]) -> None:
    """Refuse a run without a metric that is required.

    Raises:
        CardError: if there is no such metric.
        VtbenchError: if the run does not measure it, or it can't be scored here.
    """
    for name in require:
        find_metric(name)
        if name not in metrics:
            raise VtbenchError(f"--require {name}: {task.card.name} does not measure it, only {', '.join(metrics)}")
        if name in unavailable:
            raise VtbenchError(f"--require {name}: {unavailable[name]}")


def _digests(
    tokenizer: Tokenizer, task: Task, weights: str | None, metrics: Sequence[str], wanted: Sequence[str]
) -> dict[str, str | None]:
    """Hash what can move a number, of files those of the metrics that can be scored here."""
    digests: dict[str, str | None] = {
        "tokenizer": cards.digest(tokenizer.card),
        "task": _task_digest(task.card),
        "weights": weights,
        "data": task.digest,
        "code": provenance.code_digest(),
        "network": provenance.network_digest(tokenizer.network, *_outside(tokenizer, metrics, task.card.ocr)),
    }
    if read := getattr(tokenizer.network, "config_digest", None):  # a file beside the weights that the card only names
        digests["configuration"] = read
    return digests | needs.files_behind(wanted, task.card)


def _context(
    tokenizer: Tokenizer, task: Task, rule: Protocol, digests: Mapping[str, str | None], how: Settings
) -> Context:
    """Gather what measures are told of the run."""
    place = tokenizer.device
    apart = ("tokenizer", "task", "weights", "data", "network", "configuration")
    return Context(
        device=place,
        protocol=rule,
        side=task.card.geometry.side,
        engine=task.card.ocr,
        normalisation=task.card.normalisation,
        kind=tokenizer.card.kind,
        codebook_sizes=tokenizer.card.code.codebook_sizes,
        indices_per_token=tokenizer.card.code.indices_per_token,
        span=tokenizer.span,
        primary=task.card.primary,
        originals=None if how.out is None else how.work / results.ORIGINALS,
        computed_by=_sha256(
            {
                "digests": {name: value for name, value in digests.items() if name not in apart},
                "versions": provenance.versions(),
                "device": devices.model(place),
            }
        ),
        regions=tokenizer.regions,
        curve=tokenizer.curve,
        bottleneck=Bottleneck(tokenizer),
        foundation=task.card.foundation,
        known_text=task.known_text,
    )


def _task_digest(card: TaskCard) -> str:
    """sha256 of a task's card without what is said beside it: metrics, and the engine that reads."""
    # A model or features of the user's are known by their files; where they lie is no matter.
    place = "" if foundation.is_users(card.foundation) else card.foundation
    return cards.digest(card.model_copy(update={"metrics": (), "ocr": "", "foundation": place}))


def _sha256(said: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()


def _metrics(task: Task, rule: Protocol) -> tuple[str, ...]:
    """Name what is measured: the protocol's or the task's metrics, and in every run those of the codes."""
    names: tuple[str, ...] = task.card.metrics
    if rule.published:
        names = (*rule.metrics, *(rule.text_metrics if task.card.family == "text" else ()))
    return tuple(dict.fromkeys((*(find_metric(name).name for name in names), *of_measure("codes"))))


def _needs_pixels(names: Sequence[str]) -> bool:
    return any(measures.find(find_metric(name).measure).sees == "pictures" for name in names)


def _measures(names: Sequence[str], context: Context) -> list[Measure]:
    chosen = [find_metric(name) for name in names]
    if not context.protocol.published:
        alone = [metric.name for metric in chosen if metric.measure == "published"]
        if alone:
            raise CardError(f"{', '.join(alone)}: belongs to published protocols; leave it out of the task")
        return measures.build(chosen, context)
    codes = [metric for metric in chosen if metric.measure == "codes"]
    own = [metric for metric in chosen if metric.measure != "codes"]
    return [Published(own, context), *measures.build(codes, context)]


def _unavailable(names: Sequence[str], expected: int, card: TaskCard) -> dict[str, str]:
    """Say which metrics can't be scored here and why, each with the command that mends it."""
    reasons = {}
    for name in names:
        metric = find_metric(name)
        if reason := needs.lacking(name, card):
            reasons[name] = reason
        elif expected < metric.minimum:
            reasons[name] = f"{metric.title} needs at least {metric.minimum} pictures, the task has {expected}"
    return reasons


def _outside(tokenizer: Tokenizer, metrics: Sequence[str], engine: str) -> list[object]:
    """The objects beside the network whose code moves a number: a live model's, and what other packages bring."""
    held = tokenizer.held.parts if tokenizer.held else []
    chosen = [find_metric(name) for name in metrics]
    said = [value for metric in chosen for value in (metric.function, *metric.options.values())]
    paths = [value for value in said if isinstance(value, str) and ":" in value]
    functions = [measures.function(path) for path in paths if not path.startswith("vtbench.")]
    kinds = [measures.find(name) for name in dict.fromkeys(metric.measure for metric in chosen) if name != "published"]
    readers = [ocr.file_of(engine)] if any(OCR in metric.needs for metric in chosen) else []
    return [*held, *functions, *kinds, *readers]
