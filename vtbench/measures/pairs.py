"""Metrics of one pair of pictures: a function of two uint8 batches each, and the mean over the pictures.

A metric's `function(reference, reconstruction, **options)` takes two uint8 batches (B, 3, H, W) and gives (B,) values.
"""

from __future__ import annotations

from collections.abc import Mapping

from vtbench import device as devices
from vtbench import measures
from vtbench.errors import DataError
from vtbench.measures import Column, Missing, Outcome, function
from vtbench.types import Key


class Measure(measures.Measure):
    """Calls each metric's function on the batch."""

    def columns(self, outcome: Outcome) -> Mapping[Key, Column]:
        """Give one value a picture and metric; what a metric can't take has the reason, and the others their value."""
        reference = outcome.reference.to(self.context.device)
        reconstruction = outcome.reconstruction.to(self.context.device)
        columns: dict[Key, Column] = {}
        for metric in self.metrics:
            call = function(metric.function or "")
            try:
                with devices.exact():
                    columns[Key(metric.name)] = call(reference, reconstruction, **metric.options).double()
            except DataError as error:  # the pictures of a batch have one size, so none of them can be measured
                columns[Key(metric.name)] = [Missing(str(error))] * len(outcome.samples)
        return columns
