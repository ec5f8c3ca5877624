"""How sure a number is: intervals of means, and paired comparison of two runs over the same pictures. No torch here."""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

RESAMPLES = 9999
"""Bootstrap resamples of an interval, and sign flips of a permutation test."""

BOOTSTRAP_LIMIT = 5000
"""Above this many values the bootstrap of a mean is its normal approximation to three digits, at no cost."""

GROUPS = 10
"""Groups of pictures that a jackknife leaves out in turn."""

_T_95 = 2.2621571627982053
"""Student's t at 97.5% with 9 degrees of freedom."""

Array = np.ndarray[Any, np.dtype[np.float64]]

Value = TypeVar("Value", bound=Hashable)


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences with its 95% interval."""

    mean: float
    low: float | None
    """Ends of the interval; None where one picture or document leaves nothing to resample."""
    high: float | None
    pairs: int


@dataclass(frozen=True)
class Comparison:
    """A paired difference, and how probable one at least as large is where the two runs are equally good."""

    difference: Difference
    wilcoxon: float | None
    """Two-sided p-value of Wilcoxon's signed-rank test; 1 where all differences are zero; None for one cluster."""
    sign_flip: float | None
    """Two-sided p-value of the permutation test that flips the signs of differences (of whole clusters); None for one
    cluster."""


def mean_interval(values: Sequence[float], clusters: Sequence[Hashable] | None = None) -> tuple[float, float]:
    """95% interval of a mean over pictures: the BCa bootstrap (Efron 1987) with a fixed seed.

    Pictures of one cluster (pages of one document) are drawn together: what is resampled are the clusters, and the
    mean stays that over all pictures. Above BOOTSTRAP_LIMIT clusters it is the normal interval of the same quantity.

    Args:
        values: one finite value a picture.
        clusters: of each picture; every picture by itself where left out.

    Returns:
        Low and high end; without width where all values are equal.

    Raises:
        ValueError: if there is no value, or the lengths differ.
    """
    sums, counts = _by_cluster(np.asarray(values, dtype=np.float64), clusters)
    mean = float(sums.sum() / counts.sum())
    if len(sums) < 2 or np.ptp(np.asarray(values, dtype=np.float64)) <= 1e-12 * max(1.0, abs(mean)):
        return mean, mean

    if len(sums) > BOOTSTRAP_LIMIT:
        # The delta method for a ratio of sums; for clusters of one picture it is the standard error of the mean.
        residual = sums - mean * counts
        error = float(np.sqrt(np.sum(residual**2) * len(sums) / (len(sums) - 1)) / counts.sum())
        return mean - 1.959964 * error, mean + 1.959964 * error

    from scipy import stats

    def ratio(part: Array, number: Array, axis: int = -1) -> Array:
        return np.asarray(part.sum(axis=axis) / number.sum(axis=axis))

    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        # SciPy warns of clusters that all have one mean, and of nothing else here; they are told by the ends.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            (sums, counts),
            ratio,
            n_resamples=RESAMPLES,
            batch=max(1, 1_000_000 // len(sums)),  # 8 MB of resamples at a time, whatever the number of pictures
            paired=True,
            vectorized=True,
            method="BCa",
            rng=np.random.default_rng(0),
        ).confidence_interval
    if not np.isfinite(found.low) or not np.isfinite(found.high):
        return mean, mean
    return float(found.low), float(found.high)


def paired_difference(
    first: Sequence[float], second: Sequence[float], clusters: Sequence[Hashable] | None = None
) -> Difference:
    """Compare two runs picture by picture: first minus second, with `mean_interval` over the differences.

    Raises:
        ValueError: if the lengths differ or there is nothing to compare.
    """
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    if not len(differences):
        raise ValueError("nothing to compare")
    sums, _ = _by_cluster(differences, clusters)
    if len(sums) < 2:
        return Difference(float(differences.mean()), None, None, len(differences))
    low, high = mean_interval(list(differences), clusters)
    return Difference(float(differences.mean()), low, high, len(differences))


def mean(values: Sequence[float]) -> float:
    """Average values, at least one; where some are infinite the mean is, and `inf` where they are so of both signs."""
    for infinite in (math.inf, -math.inf):
        if infinite in values:
            return infinite
    return math.fsum(values) / len(values)


def spread_of_means(differences: Sequence[Difference]) -> Difference:
    """Put the differences against several baselines together, so that the interval covers another training seed too.

    The baselines differ by their seed alone, and a new run has a seed of its own: the difference to their mean varies
    by s sqrt(1 + 1/k), s their standard deviation. Its t interval and half the widest interval over pictures add in
    squares. One difference is given back as it is. Infinite ones have an infinite mean and no interval.

    Args:
        differences: one a baseline, at least one.
    """
    if len(differences) == 1:
        return differences[0]
    from scipy import stats

    count = len(differences)
    means = [one.mean for one in differences]
    if not all(map(math.isfinite, means)):
        return Difference(mean(means), None, None, min(one.pairs for one in differences))
    middle = math.fsum(means) / count
    seeds = float(stats.t.ppf(0.975, count - 1)) * float(np.std(means, ddof=1)) * math.sqrt(1 + 1 / count)
    pictures = max(
        ((one.high - one.low) / 2 for one in differences if one.low is not None and one.high is not None), default=0.0
    )
    reach = math.hypot(seeds, pictures)
    return Difference(middle, middle - reach, middle + reach, min(one.pairs for one in differences))


def compare(first: Sequence[float], second: Sequence[float], clusters: Sequence[Hashable] | None = None) -> Comparison:
    """Compare two runs picture by picture, with p-values.

    Wilcoxon's test takes every cluster by its mean difference. The sign-flip test asks how often the mean would be as
    far from zero if each cluster's sign were a coin's; all 2^n patterns are tried where they are fewer than RESAMPLES.

    Raises:
        ValueError: if the lengths differ or there is nothing to compare.
    """
    from scipy import stats

    difference = paired_difference(first, second, clusters)
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    sums, counts = _by_cluster(differences, clusters)
    if len(sums) < 2:
        return Comparison(difference, None, None)
    if not np.any(sums):
        return Comparison(difference, 1.0, 1.0)
    statistic: Callable[..., Any] = np.mean
    flipped = stats.permutation_test(
        (sums,),
        statistic,
        permutation_type="samples",
        n_resamples=RESAMPLES,
        batch=max(1, 20_000_000 // len(sums)),
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return Comparison(difference, float(stats.wilcoxon(sums / counts).pvalue), float(flipped.pvalue))


def holm(pvalues: Sequence[float]) -> list[float]:
    """Adjust p-values of a family of tests by Holm's step-down rule (1979): each at most 1, in the order given."""
    order = sorted(range(len(pvalues)), key=lambda index: pvalues[index])
    adjusted, largest = [0.0] * len(pvalues), 0.0
    for position, index in enumerate(order):
        largest = max(largest, min(1.0, (len(pvalues) - position) * pvalues[index]))
        adjusted[index] = largest
    return adjusted


def commonest(values: Iterable[Value]) -> Value:
    """Give the commonest value; of several, the one that sorts last, numbers by their size (version 10 after 9).

    Args:
        values: at least one.
    """

    def order(item: tuple[Value, int]) -> tuple[int, list[tuple[int, str]]]:
        value, count = item
        parts = re.split(r"0*([0-9]+)", str(value))  # text at even places, numbers at odd ones: longer ones are larger
        return count, [(len(part) * (place % 2), part) for place, part in enumerate(parts)]

    return max(Counter(values).items(), key=order)[0]


def jackknife_interval(value: Callable[[np.ndarray[Any, Any]], float], count: int) -> tuple[float, float] | None:
    """95% interval of a value that comes from all pictures together: a jackknife over ten groups.

    Picture i belongs to group i mod 10. The value is computed ten times with one group left out; the interval is the
    value of all plus and minus t(9 degrees of freedom) times sqrt(9 / 10 * sum of squared deviations of the ten from
    their mean). A bias that hangs on the number of pictures is neither removed nor covered.

    Args:
        value: of the pictures with these numbers, int64.
        count: of pictures.

    Returns:
        Low and high end; None for fewer than 20 pictures.
    """
    if count < 2 * GROUPS:
        return None
    numbers = np.arange(count)
    left = np.array([value(numbers[numbers % GROUPS != group]) for group in range(GROUPS)])
    return jackknife_ends(value(numbers), left)


def jackknife_ends(value: float, left: Array) -> tuple[float, float]:
    """Ends of `jackknife_interval`, of a value and of what it is with each group left out in turn, (10,)."""
    error = _T_95 * float(np.sqrt((GROUPS - 1) / GROUPS * np.sum((left - left.mean()) ** 2)))
    return value - error, value + error


def _by_cluster(values: Array, clusters: Sequence[Hashable] | None) -> tuple[Array, Array]:
    """Sum and number of the values of each cluster."""
    if not len(values):
        raise ValueError("no values")
    if clusters is None:
        return values, np.ones(len(values))
    if len(clusters) != len(values):
        raise ValueError(f"{len(clusters)} clusters for {len(values)} values")
    number = {name: index for index, name in enumerate(dict.fromkeys(clusters))}
    where = [number[name] for name in clusters]
    sums, counts = np.zeros(len(number)), np.zeros(len(number))
    np.add.at(sums, where, values)
    np.add.at(counts, where, 1.0)
    return sums, counts
