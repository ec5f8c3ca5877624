"""Distances between all originals and all reconstructions, from features that a network sees in each picture.

A metric's `function(reference, reconstruction)` takes the features of both sets, (n, d) each, row i of the second the
reconstruction of row i of the first, and gives the distance. Its options: `interval`, a function that gives both ends
of the 95% interval; `minimum`, the pictures under which it is refused; `features`, `package.module:name` of what makes
the network, `name(device)`, whose result takes uint8 (B, 3, H, W) and gives (B, d) as an array: FID's Inception where
left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from vtbench import measures
from vtbench.catalogue import Metric
from vtbench.measures import Column, Outcome, Table, function
from vtbench.metrics.frechet import GROUPS
from vtbench.results import Score
from vtbench.types import Key

INCEPTION = "vtbench.metrics.frechet:inception_features"

SIDES = ("reference", "reconstruction")


class Measure(measures.Measure):
    """Keeps the features of both sides of every picture; the distances come from all of them together."""

    _networks: Mapping[str, Callable[[Tensor], np.ndarray[Any, Any]]] | None = None

    def columns(self, outcome: Outcome) -> Mapping[Key, Column]:
        """Give the features of each picture before and after, once for all metrics that share their network."""
        if self._networks is None:
            paths = dict.fromkeys(_network_of(metric) for metric in self.metrics)
            self._networks = {path: function(path)(self.context.device) for path in paths}
        sides = zip(SIDES, (outcome.reference, outcome.reconstruction), strict=True)
        pictures = {side: tensor.to(self.context.device) for side, tensor in sides}
        return {
            _key(path, side): list(network(pictures[side]))
            for path, network in self._networks.items()
            for side in SIDES
        }

    def scores(self, table: Table) -> dict[str, Score]:
        """Compare the two sets; the interval needs two pictures a group of the jackknife."""
        found = {}
        for metric in self.metrics:
            sides = [table.arrays(_key(_network_of(metric), side)) for side in SIDES]
            scored = len(sides[0])
            if scored < 2:
                reason = table.reason(metric.name) if not scored else f"{metric.name} needs two pictures or more"
                found[metric.name] = Score(value=None, reason=reason, scored=scored, expected=table.expected)
                continue
            features = [np.stack(side) for side in sides]
            ends: tuple[float | None, float | None] = (None, None)
            if (interval := metric.options.get("interval")) and scored >= 2 * GROUPS:
                ends = function(interval)(*features)
            value = float(function(metric.function or "")(*features))
            found[metric.name] = Score(value=value, low=ends[0], high=ends[1], scored=scored, expected=table.expected)
        return found


def _network_of(metric: Metric) -> str:
    return str(metric.options.get("features", INCEPTION))


def _key(network: str, side: str) -> Key:
    """Features are columns of the network's, not of the metric's: several metrics may share them."""
    return Key("features", f"{network.replace(':', '.')}/{side}", "raw")
