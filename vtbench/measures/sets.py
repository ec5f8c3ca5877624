"""Distances between all originals and all reconstructions, from features that a network sees in each picture.

A metric's `function(reference, reconstruction)` takes the features of both sets, (n, d) each, row i of the second the
reconstruction of row i of the first, and gives the distance. Its options: `interval`, a function that gives both ends
of the 95% interval; `sums`, a class that computes both from the features of one picture after the other, for sets that
memory does not hold; `minimum`, the scored pictures under which it is refused; `features`, `package.module:name` of
what makes the network, `name(device)`, whose result takes uint8 (B, 3, H, W) and gives (B, d), an array or a tensor
where it was computed: FID's Inception where left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from vtbench import measures
from vtbench.catalogue import Metric
from vtbench.measures import Column, Outcome, Table, function
from vtbench.measures._originals import Originals
from vtbench.results import Score
from vtbench.statistics import GROUPS
from vtbench.types import Key

INCEPTION = "vtbench.metrics.frechet:inception_features"

SIDES = ("reference", "reconstruction")

NO_ENDS = (None, None)

Features = np.ndarray[Any, Any]
Ends = tuple[float | None, float | None]
Compared = tuple[int, float | None, Ends]
"""Pictures, the distance, and both ends of its interval."""


class Measure(measures.Measure):
    """Keeps the features of both sides of every picture; the distances come from all of them together."""

    _networks: Mapping[str, Callable[[Tensor], Features | Tensor]] | None = None
    _originals: Mapping[str, Originals]

    def columns(self, outcome: Outcome) -> Mapping[Key, Column]:
        """Give the features of each picture before and after, once for all metrics that share their network."""
        if self._networks is None:
            paths = dict.fromkeys(_network_of(metric) for metric in self.metrics)
            self._networks = {path: function(path)(self.context.device) for path in paths}
            # Nobody hashes the code of other packages here, so what they compute is not kept.
            folders = {path: self.context.originals if path.startswith("vtbench.") else None for path in paths}
            self._originals = {
                path: Originals(folder, "features", path, self.context.computed_by) for path, folder in folders.items()
            }
        before, after = (side.to(self.context.device) for side in (outcome.reference, outcome.reconstruction))
        columns: dict[Key, Column] = {}
        for path, network in self._networks.items():
            known = self._originals[path].arrays(outcome.fed, partial(network, before))
            for side, found in zip(SIDES, (known, network(after)), strict=True):
                columns[_key(path, side)] = found if isinstance(found, Tensor) else list(found)
        return columns

    def scores(self, table: Table) -> dict[str, Score]:
        """Compare the two sets; the interval needs two pictures a group of the jackknife."""
        found = {}
        for metric in self.metrics:
            keys = [_key(_network_of(metric), side) for side in SIDES]
            pairs = zip(*(table.arrays(key) for key in keys), strict=True)
            compared = self._streamed(metric, pairs) if "sums" in metric.options else self._at_once(metric, pairs)
            scored, value, ends = compared
            reason = measures.too_few(metric, scored, table)
            found[metric.name] = Score(
                value=value, low=ends[0], high=ends[1], reason=reason, scored=scored, expected=table.expected
            )
        return found

    def _streamed(self, metric: Metric, pairs: Iterable[tuple[Features, Features]]) -> Compared:
        sums = function(metric.options["sums"])()
        for pair in pairs:
            sums.add(*pair)
        if sums.count < max(2, metric.minimum):
            return sums.count, None, NO_ENDS
        return sums.count, float(sums.distance()), sums.interval() if sums.count >= 2 * GROUPS else NO_ENDS

    def _at_once(self, metric: Metric, pairs: Iterable[tuple[Features, Features]]) -> Compared:
        sides = list(zip(*pairs, strict=True))
        scored = len(sides[0]) if sides else 0
        if scored < max(2, metric.minimum):
            return scored, None, NO_ENDS
        features = [np.stack(side) for side in sides]
        interval = metric.options.get("interval")
        ends = function(interval)(*features) if interval and scored >= 2 * GROUPS else NO_ENDS
        return scored, float(function(metric.function or "")(*features)), ends


def _network_of(metric: Metric) -> str:
    return str(metric.options.get("features", INCEPTION))


def _key(network: str, side: str) -> Key:
    """Features are columns of the network's, not of the metric's: several metrics may share them."""
    return Key("features", f"{network.replace(':', '.')}/{side}", "raw")
