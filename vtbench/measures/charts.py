"""Metrics of charts of known detail: `metrics.detail.measure` on each chart, and means by metric and level."""

from __future__ import annotations

from collections.abc import Mapping

from vtbench import measures
from vtbench.measures import Column, Outcome
from vtbench.metrics import detail
from vtbench.types import Key


class Measure(measures.Measure):
    """Measures what each chart is for."""

    def columns(self, outcome: Outcome) -> Mapping[Key, Column]:
        """Give a column a metric and level; a chart has few of the metrics, and a curve levels of its own."""
        triples = zip(outcome.samples, outcome.fed, outcome.reconstruction.cpu(), strict=True)
        found = [
            {_key(name): value for name, value in detail.measure(sample.attributes, before, after).items()}
            for sample, before, after in triples
        ]
        wanted = [Key(name) for name in self.names]
        levels = dict.fromkeys(key for values in found for key in values if key.level and key.metric in self.names)
        return {key: [values.get(key) for values in found] for key in (*wanted, *levels)}


def _key(name: str) -> Key:
    metric, _, level = name.partition("/")
    return Key(metric, level)
