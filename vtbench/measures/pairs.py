"""Metrics of one pair of pictures: a function of two uint8 batches each, and the mean over the pictures.

A metric's `function(reference, reconstruction, **options)` takes two uint8 batches (B, 3, H, W) and gives (B,) values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from vtbench import device, measures
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
                with device.exact():
                    values = call(reference, reconstruction, **metric.options).tolist()
            except DataError as error:  # the pictures of a batch have one size, so none of them can be measured
                columns[Key(metric.name)] = [Missing(str(error))] * len(outcome.samples)
                continue
            columns[Key(metric.name)] = [
                Missing(f"{metric.name} of this picture is not a number") if math.isnan(value) else value
                for value in values
            ]
        return columns
