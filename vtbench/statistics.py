"""How sure a difference is: paired comparison of two runs over the same pictures. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 9999
"""Bootstrap resamples of an interval."""


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences with its 95% interval."""

    mean: float
    low: float
    high: float
    pairs: int


def paired_difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Compare two runs picture by picture: first minus second.

    The interval is the BCa bootstrap of the mean (Efron 1987) over pictures, with a fixed seed, so that the same tables
    give the same interval. Where all differences are equal (a run against itself) it has no width.

    Raises:
        ValueError: if the lengths differ or there is nothing to compare.
    """
    from scipy import stats

    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    if not len(differences):
        raise ValueError("nothing to compare")
    mean = float(differences.mean())
    if np.ptp(differences) <= 1e-12 * max(1.0, abs(mean)):
        return Difference(mean, mean, mean, len(differences))
    interval = stats.bootstrap(
        (differences,), np.mean, n_resamples=RESAMPLES, method="BCa", vectorized=True, rng=np.random.default_rng(0)
    ).confidence_interval
    return Difference(mean, float(interval.low), float(interval.high), len(differences))
