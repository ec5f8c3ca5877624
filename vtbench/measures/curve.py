"""Rate and quality step by step, out of one encode: from the first depth or scale of the codes alone, the first two, ….

A level is a step, named by the option of the card that would code no more: `curve_psnr/depth=2`. The metric itself is
that of the last step, which is the reconstruction of all codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from vtbench import device as devices
from vtbench import measures
from vtbench.catalogue import Metric
from vtbench.errors import DataError
from vtbench.measures import Column, Columns, Missing, Outcome, Table, function
from vtbench.results import Score
from vtbench.types import Key

NO_STEPS = "its codes have no depths or scales to decode one after the other"


class Measure(measures.Measure):
    """Decodes a batch once a step."""

    def columns(self, outcome: Outcome) -> Mapping[Key, Column]:
        """Give each metric at each step; a tokenizer without steps has the reason.

        Where a step gives no picture there is no whole curve, and those before it stand.
        """

        def curve(rows: Sequence[int], found: Columns) -> None:
            self._fill(outcome.at(rows), found)

        return measures.each(curve, self.names, range(len(outcome.samples)))

    def _fill(self, outcome: Outcome, found: Columns) -> None:
        size = (outcome.reference.shape[-2], outcome.reference.shape[-1])
        steps = self.context.curve(outcome.codes, size) if self.context.curve else iter(())
        last: Columns = {}
        for label, bits, pictures in steps:
            for metric in self.metrics:
                values = self._at(metric, bits / (size[0] * size[1]), outcome.reference, pictures)
                found[Key(metric.name, label)] = last[Key(metric.name)] = values
        found.update(last or {Key(name): [Missing(NO_STEPS)] * len(outcome.samples) for name in self.names})

    def _at(self, metric: Metric, rate: float, reference: Tensor, pictures: Tensor) -> Sequence[object]:
        if metric.function is None:
            return [rate] * len(reference)
        place = self.context.device
        try:
            with devices.exact():
                values: list[float] = function(metric.function)(
                    reference.to(place), pictures.to(place), **metric.options
                ).tolist()
        except DataError as error:  # the pictures are smaller than its window
            return [Missing(str(error))] * len(reference)
        return values

    def scores(self, table: Table) -> dict[str, Score]:
        """Summarise each metric and each of its steps, in the order of the steps."""
        found = super().scores(table)
        return {name: found[name] for name in sorted(found, key=lambda name: (Key.parse(name).metric, _number(name)))}


def _number(name: str) -> int:
    """The number that a step's name ends with."""
    return int(Key.parse(name).level.rpartition("=")[2] or 0)
