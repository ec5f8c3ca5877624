"""Quality against rate: the frontier, rate classes, and rates at equal quality (Bjøntegaard). No torch here."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vtbench.catalogue import find_metric
from vtbench.errors import ResultError
from vtbench.results import Run

BOUNDS = (0.03, 0.1, 0.3, 1.0, 3.0)
"""Bits per pixel that part the rate classes: half a decade each."""

UNITS = {"bpp": "bits/pixel", "latent_values": "values/pixel"}
"""Of the rate of discrete codes, and of continuous latents, by metric."""

CONTROLS = "control"
"""The family of the ceiling and the bottom, which are no tokenizers and stand on no frontier."""


class Point(NamedTuple):
    """A run on the plane of rate and quality."""

    rate: float
    badness: float
    """The larger, the worse (`catalogue.Metric.badness`)."""


def rate_of(run: Run) -> float | None:
    """Bits per pixel; None of a continuous latent, whose rate nobody stated."""
    score = run.scores.get("bpp")
    return None if score is None else score.value


def rate_class(run: Run) -> str:
    """Name the class in which a run may fairly be ranked: bits per pixel by half decades, or floats without a rate.

    Continuous latents are classed by values per pixel, in the same steps and never among the others.
    """
    at, place = class_order(run)
    if at == len(UNITS):
        return "no rate"
    unit = list(UNITS.values())[at]
    if place == 0:
        return f"under {BOUNDS[0]:g} {unit}"
    if place == len(BOUNDS):
        return f"from {BOUNDS[-1]:g} {unit}"
    return f"{BOUNDS[place - 1]:g} to {BOUNDS[place]:g} {unit}"


def class_order(run: Run) -> tuple[int, int]:
    """Place a run's class among all: by unit, bits before values, what has no rate last, then by rate."""
    for at, metric in enumerate(UNITS):
        score = run.scores.get(metric)
        if score is not None and score.value is not None:
            return at, bisect.bisect_right(BOUNDS, score.value)
    return len(UNITS), 0


def point(run: Run, metric: str, rate: str = "bpp") -> Point | None:
    """Place a run by a rate and a metric; None where it lacks either."""
    pair = [score.value if (score := run.scores.get(name)) else None for name in (rate, metric)]
    if pair[0] is None or pair[1] is None:
        return None
    return Point(pair[0], find_metric(metric).badness(pair[1]))


def frontier(runs: Iterable[Run], metric: str, rate: str = "bpp") -> list[Run]:
    """Give the runs that no other beats in rate and quality at once, by rising rate; of equals the first.

    Controls are left out, and so is what has no such rate: bits and floats are never weighed against each other.
    """
    known = [(found, run) for run in runs if run.family != CONTROLS and (found := point(run, metric, rate))]
    kept: list[Run] = []
    best = math.inf
    for found, run in sorted(known, key=lambda item: (item[0], item[1].name)):
        if found.badness < best:
            kept.append(run)
            best = found.badness
    return kept


@dataclass(frozen=True)
class Saving:
    """How many bits more or fewer something takes than an anchor, at equal quality."""

    percent: float
    """(rate over the anchor's rate - 1) in percent; below 0 it takes fewer bits."""
    low: float
    """The part of the quality axis over which it was averaged; of a single point both are its quality."""
    high: float


class Curve:
    """Rates of one codec or family over a metric, between its points and nowhere else.

    The logarithm of the rate is interpolated over quality by monotone cubics (PCHIP), as the common test conditions of
    video coding do for BD rates.
    """

    def __init__(self, runs: Sequence[Run], metric: str) -> None:
        """Take the points of a curve.

        Args:
            runs: two or more with a rate and the metric.
            metric: what stands for quality.

        Raises:
            ResultError: if there are fewer than two points, or a higher rate gives no better quality somewhere.
        """
        found = sorted(p for run in runs if (p := point(run, metric)) and math.isfinite(p.badness) and p.rate > 0)
        if len(found) < 2:
            raise ResultError(f"{len(found)} points make no curve; it takes two with a rate and {metric}")
        quality = [-one.badness for one in found]
        if any(one >= other for one, other in itertools.pairwise(quality)):
            raise ResultError(f"{metric} does not rise with the rate everywhere")
        from scipy.interpolate import PchipInterpolator

        self.low, self.high = quality[0], quality[-1]
        self._rates = PchipInterpolator(quality, [math.log(one.rate) for one in found], extrapolate=False)

    def log_rate(self, low: float, high: float) -> float:
        """Average the logarithm of the rate between two qualities, or give it at one."""
        if low == high:
            return float(self._rates(low))
        return float(self._rates.integrate(low, high)) / (high - low)


def saving(curve: Curve, anchor: Curve) -> Saving:
    """Average the difference of two curves' rates over the qualities that both reach (the BD rate).

    Raises:
        ResultError: if the curves share no part of the quality axis.
    """
    low, high = max(curve.low, anchor.low), min(curve.high, anchor.high)
    if low >= high:
        raise ResultError("no quality is reached by both")
    return Saving(100.0 * math.expm1(curve.log_rate(low, high) - anchor.log_rate(low, high)), low, high)


def saving_of_point(run: Run, anchor: Curve, metric: str) -> Saving:
    """Compare the rate of a single run with the anchor's at the run's own quality.

    Raises:
        ResultError: if the run has no rate or metric, or its quality lies outside the anchor's.
    """
    found = point(run, metric)
    if found is None or found.rate <= 0:
        raise ResultError("no bits/pixel" if rate_of(run) is None else f"no {metric}")
    quality = -found.badness
    if not anchor.low <= quality <= anchor.high:
        raise ResultError("worse than the anchor's lowest" if quality < anchor.low else "better than its highest")
    return Saving(100.0 * math.expm1(math.log(found.rate) - anchor.log_rate(quality, quality)), quality, quality)
