"""Measures: one room a kind of metric, with all that it needs, computes for a batch, and makes of the whole table.

The evaluator knows what stands in this file and no metric by name. A measure `name` is the class `Measure` of the file
`name.py` here, or an entry point of the group `vtbench.measures`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module, metadata
from itertools import compress
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
from pyarrow import compute as arrow
from torch import Tensor

from vtbench import device as devices
from vtbench.bottleneck import Bottleneck
from vtbench.catalogue import Metric
from vtbench.errors import CardError, DataError, NoMemoryError
from vtbench.protocols import Protocol
from vtbench.results import CLUSTER, Score, clusters_of, summarise
from vtbench.types import Codes, Key, Regions, Role, Sample, picked

NO_PICTURE = "no picture was scored"


@dataclass(frozen=True)
class Missing:
    """Stands in a column for a value that a picture can't have."""

    reason: str
    """Why, in a few words."""


Column = Sequence[Any] | Tensor
"""One entry a picture: a number, a text, an array, None where the metric does not apply, or `Missing`.

Where all have numbers, or arrays of one shape, a column may be one tensor, (B,) or (B, …), left where it was computed:
all of a batch come to the CPU together (`settle`).
"""

Columns = dict[Key, Column]


@dataclass(frozen=True)
class Outcome:
    """What one batch left behind: B pictures of one size before and after, both on one device.

    That is the tokenizer's, or the CPU where the device has no memory for all of them.
    """

    samples: tuple[Sample, ...]
    """The pictures as the task gave them, with their text and attributes."""
    reference: Tensor
    """What went in, (B, 3, H, W): uint8, or float32 where a measure feeds the tokenizer itself (`Measure.feed`)."""
    reconstruction: Tensor
    """What came out, of the same shape and type."""
    fed: Tensor
    """`reference` on the CPU, where it came from."""
    codes: Codes
    """What crossed the bottleneck."""
    again: Callable[[Tensor], tuple[Tensor, Codes]]
    """Encode and decode once more, (B, 3, H, W) uint8, for stability and latents."""

    def at(self, positions: Sequence[int]) -> Outcome:
        """Take some pictures of the batch; those in a row are not copied."""
        chosen = picked(positions)
        samples = tuple(self.samples[position] for position in positions)
        sides = self.reference[chosen], self.reconstruction[chosen], self.fed[chosen]
        return Outcome(samples, *sides, self.codes.at(positions), self.again)


@dataclass(frozen=True)
class Context:
    """What a measure may know of a run beside its metrics."""

    device: torch.device
    """Where metrics are computed."""
    protocol: Protocol
    """How pictures become numbers."""
    side: int | None
    """Height and width of the task's pictures; None at native size."""
    engine: str
    """The OCR engine that reads."""
    normalisation: str
    """What is done to texts before they are compared."""
    kind: str
    """discrete, continuous, codec, …: the tokenizer's."""
    codebook_sizes: tuple[int, ...]
    """Codes an index chooses from, one entry a codebook or scale."""
    span: Any
    """What the levels 0 and 255 become on the tokenizer's way in (`images.Range`)."""
    primary: str
    """The metric that ranks."""
    originals: Path | None
    """Folder that keeps what is computed of originals alone (`_originals`); None keeps nothing on disk."""
    computed_by: str
    """sha256 over all that moves what is computed of originals: code, libraries, device, backbones."""
    regions: Callable[[Tensor, Codes], Regions | None] | None = None
    """Says of uint8 pictures and their codes which token each pixel belongs to (`Tokenizer.regions`)."""
    curve: Callable[[Codes, tuple[int, int]], Iterator[tuple[str, float, Tensor]]] | None = None
    """Decodes from the first of the codes, and from more and more of them (`Tokenizer.curve`)."""
    bottleneck: Bottleneck | None = None
    """The tokenizer's latent laid open, for diagnostics of it; None where floats alone are scored."""
    foundation: str = ""
    """The foundation model, or the file of its features, with which latents are compared."""
    indices_per_token: int = 1
    """Indices that are one token together."""
    known_text: Callable[[], str] | None = None
    """Gives all text that the task knows of its pictures (`Task.known_text`)."""


RawColumns = Mapping[str, Callable[[], Iterator[Any]]]
"""What totals are made of, by column: each call reads the column again, a value or None a picture."""


class Table:
    """The measured columns of some pictures, as a measure's totals see them."""

    def __init__(
        self,
        table: pa.Table,
        *,
        raw: RawColumns | None = None,
        group: str | None = None,
        chosen: Sequence[bool] | None = None,
        intervals: Callable[[str], bool],
    ) -> None:
        """Bind columns.

        Args:
            table: those in memory.
            raw: those that are too large for it, of all pictures; read when they are wanted.
            group: the attribute whose value all these pictures share; None for the whole task.
            chosen: of which pictures of the raw columns the table is; None for all.
            intervals: tells for a metric whether its interval is wanted.
        """
        self._table = table
        self._raw = raw or {}
        self._chosen = chosen
        self.group = group
        """The attribute whose value all these pictures share; None for the whole task."""
        self.intervals = intervals
        """Tells for a metric whether its interval is wanted."""
        self.keys = tuple(Key.parse(name) for name in (*table.column_names, *self._raw))
        """The columns' names."""

    @property
    def expected(self) -> int:
        """Count the pictures, scored or not."""
        return int(self._table.num_rows)

    def has(self, key: Key) -> bool:
        """Tell whether there is such a column."""
        return str(key) in self._table.column_names or str(key) in self._raw

    def values(self, key: Key) -> list[Any]:
        """Give a column, None where a picture has no value."""
        if str(key) in self._raw:
            return list(self._read(key))
        return cast("list[Any]", self._table.column(str(key)).to_pylist()) if self.has(key) else []

    def arrays(self, key: Key) -> Iterator[np.ndarray[Any, Any]]:
        """Give the arrays of a column one by one, without the pictures that have none."""
        yield from (array for array in self._each(key) if array is not None)

    def _each(self, key: Key) -> Iterator[Any]:
        if str(key) in self._raw:
            yield from self._read(key)
        elif self.has(key):
            yield from self._table.column(str(key)).to_numpy()

    def _read(self, key: Key) -> Iterator[Any]:
        found = self._raw[str(key)]()
        return found if self._chosen is None else compress(found, self._chosen)

    def together(self, *keys: Key) -> tuple[np.ndarray[Any, Any], list[np.ndarray[Any, Any]]]:
        """Stack columns of arrays over the pictures that have all of them.

        Returns:
            The places of these pictures, ascending, and one array a column; empty where a column is missing.
        """
        if not all(self.has(key) for key in keys):
            return np.zeros(0, dtype=np.int64), [np.zeros((0, 0)) for _ in keys]
        places, rows = [], []
        for place, row in enumerate(zip(*(self._each(key) for key in keys), strict=True)):
            if all(array is not None for array in row):
                places.append(place)
                rows.append(row)
        parts = [np.stack(part) for part in zip(*rows, strict=True)] or [np.zeros((0, 0)) for _ in keys]
        return np.array(places, dtype=np.int64), parts

    def attribute(self, name: str) -> list[Any]:
        """Give an attribute of the pictures; empty where none has it."""
        column = f"attribute/{name}"
        return cast("list[Any]", self._table.column(column).to_pylist()) if column in self._table.column_names else []

    def levels(self, metric: str, role: Role = "value") -> list[str]:
        """Name the levels at which a metric has values of a role, sorted."""
        return sorted({key.level for key in self.keys if key.metric == metric and key.role == role and key.level})

    def reason(self, metric: str) -> str:
        """Say why a metric has no value: what is said most often of its pictures, or of the pictures themselves."""
        for column in (str(Key(metric, role="reason")), "reason"):
            if column in self._table.column_names:
                said = Counter(self._table.column(column).drop_null().to_pylist()).most_common(1)
                if said:
                    return str(said[0][0])
        return NO_PICTURE

    @property
    def clusters(self) -> list[Hashable] | None:
        """The cluster of each picture, where several show one document."""
        if CLUSTER not in self._table.column_names:
            return None
        return clusters_of(self._table.column(CLUSTER).to_pylist())

    def where(self, attribute: str, value: object) -> Table:
        """Take the pictures of one group."""
        equal = arrow.fill_null(arrow.equal(self._table.column(f"attribute/{attribute}"), value), False)
        chosen = equal.to_pylist()
        return Table(self._table.filter(equal), raw=self._raw, group=attribute, chosen=chosen, intervals=self.intervals)


class Measure(ABC):
    """One kind of metric: what it needs, what it computes for a batch, and how the columns become scores."""

    batch: int | None = None
    """Pictures that must be measured together; None where each stands for itself."""

    sees = "pictures"
    """What it measures: "pictures", or "codes", which a picture has though its reconstruction failed."""

    def __init__(self, metrics: Sequence[Metric], context: Context) -> None:
        """Bind the metrics that are wanted; loads nothing."""
        self.metrics = tuple(metrics)
        self.names = tuple(metric.name for metric in metrics)
        self.context = context

    def feed(self, sample: Sample) -> Tensor:
        """Say what the tokenizer is fed of a picture, (3, H, W): its levels, uint8, or floats within its range.

        Raises:
            DataError: if the picture can't be brought there.
        """
        return sample.image

    @abstractmethod
    def columns(self, outcome: Outcome) -> Mapping[Key, Column]:
        """Measure one batch; networks and engines are loaded at the first.

        Raises:
            DataError: if one of the pictures can't be measured; each half of them is then measured by itself.
        """

    def scores(self, table: Table) -> dict[str, Score]:
        """Summarise the columns: by default mean and interval of each metric and of each of its levels.

        Raises:
            DataError: if nothing can be made of them; it is then the reason of all of its metrics.
        """
        found: dict[str, Score] = {}
        for metric in self.metrics:
            found |= means(metric, table)
        return found


def means(metric: Metric, table: Table, *, reason: str | None = None) -> dict[str, Score]:
    """Average one metric over the pictures, and each of its levels where it is a curve.

    Args:
        metric: which.
        table: the columns.
        reason: why there is no value, in place of what the table says.
    """
    found = {}
    for level in ("", *table.levels(metric.name)):
        key = Key(metric.name, level)
        score = summarise(
            table.values(key),
            table.expected,
            reason or table.reason(metric.name),
            cap=metric.cap,
            clusters=table.clusters,
            interval=table.intervals(metric.name),
        )
        known = [value for value in table.values(key._replace(role="floor")) if value is not None]
        if known and score.value is not None:
            score = score.model_copy(update={"floor": math.fsum(known) / len(known)})
        if not level or score.value is not None:  # a curve keeps only the levels that it has
            found[str(key)] = score
    return found


def too_few(metric: Metric, scored: int, table: Table, *, least: int = 2) -> str | None:
    """Say why a value of whole sets is refused for want of pictures; None where enough of them were scored.

    Args:
        metric: which; its `minimum` counts.
        scored: pictures that have all that it is made of.
        table: the columns.
        least: pictures that it can't be computed without, whatever its `minimum`.
    """
    needed = max(least, metric.minimum)
    if scored >= needed:
        return None
    reason = table.reason(metric.name)
    if not scored:
        return reason
    why = "" if reason == NO_PICTURE else f"; the others: {reason}"
    return f"{metric.title} needs at least {needed} pictures, {scored} of {table.expected} were scored{why}"


def each(
    probe: Callable[[Sequence[int], Columns], None], names: Sequence[str], rows: Sequence[int], *, apart: bool = True
) -> Columns:
    """Run a probe on pictures of a batch together; where it refuses, on their halves, to tell which one it was.

    A single picture keeps what was found of it before, and has the reason for whatever metric it lacks.

    Args:
        probe: takes rows of the batch, and fills in columns of them.
        names: the metrics that it is for.
        rows: the pictures.
        apart: whether they may be measured apart; where not, all of them have the reason.
    """
    found: Columns = {}
    try:
        probe(rows, found)
    except DataError as error:
        if len(rows) == 1 or not apart:
            lacking = [name for name in names if Key(name) not in found]
            none = isinstance(error, NoMemoryError)
            reasons = [Missing(f"out of memory for {name}" if none else str(error)) for name in lacking]
            return found | {Key(name): [one] * len(rows) for name, one in zip(lacking, reasons, strict=True)}
    else:
        return found
    half = len(rows) // 2
    parts = [(len(part), each(probe, names, part)) for part in (rows[:half], rows[half:])]
    settle([columns for _, columns in parts])
    keys = dict.fromkeys(key for _, columns in parts for key in columns)
    return {key: [value for count, columns in parts for value in columns.get(key, [None] * count)] for key in keys}


def settle(found: Sequence[Columns], beside: Sequence[Tensor] = ()) -> list[Tensor]:
    """Bring what columns hold on a device to the CPU, in its place: a number or an array a picture.

    Args:
        found: columns of one batch.
        beside: tensors to bring along, so that a GPU is waited for once.

    Returns:
        Those of `beside` on the CPU.
    """
    places = [(columns, key, column) for columns in found for key, column in columns.items()]
    held = [(columns, key, column) for columns, key, column in places if isinstance(column, Tensor)]
    brought = devices.fetch([*(column for _, _, column in held), *beside])
    for (columns, key, _), tensor in zip(held, brought, strict=False):
        columns[key] = tensor.tolist() if tensor.ndim == 1 else list(tensor.numpy())
    return brought[len(held) :]


def find(name: str) -> type[Measure]:
    """Find a measure's class by its name.

    Raises:
        CardError: if there is none.
    """
    module = f"{__name__}.{name}"
    try:
        return cast("type[Measure]", import_module(module).Measure)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
    for entry in metadata.entry_points(group="vtbench.measures", name=name):
        return cast("type[Measure]", entry.load())
    raise CardError(
        f"no measure is called {name!r}; expected a file of vtbench/measures or an entry point of its group"
    )


def build(metrics: Iterable[Metric], context: Context) -> list[Measure]:
    """Build the measures of some metrics, each with its own ones, in the order in which they are first named."""
    by_measure: dict[str, list[Metric]] = {}
    for metric in metrics:
        by_measure.setdefault(metric.measure, []).append(metric)
    return [find(name)(own, context) for name, own in by_measure.items()]


def function(path: str) -> Callable[..., Any]:
    """Load what a metric's `package.module:name` names.

    Raises:
        CardError: if it can't be loaded.
    """
    module, _, name = path.partition(":")
    try:
        return cast("Callable[..., Any]", getattr(import_module(module), name))
    except (ImportError, AttributeError) as error:
        raise CardError(f"{path}: can't be loaded ({error}); expected package.module:function") from error
