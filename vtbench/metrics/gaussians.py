"""Gaussians fitted to sets of rows: how they are merged exactly, left out in turn, and how far two are apart.

A set is kept as a factor A of its scatter matrix A^T A, for squaring loses half of the digits where the matrix is
singular or nearly so. Of a set that grows past ten times as many rows as columns it is not, and the matrix itself is
kept: adding up matrices takes a fifth of the time of factorisations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg.lapack import dtpqrt

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Gaussian:
    """A set of rows, as far as a Gaussian knows it."""

    count: int
    mean: Array
    kept: Array
    """A with A^T A = sum of (row - mean)(row - mean)^T: fewer rows than columns, or triangular; or that matrix."""
    squared: bool = False
    """Whether the matrix itself is kept."""

    @property
    def scatter(self) -> Array:
        """Sum of (row - mean)(row - mean)^T, (d, d)."""
        return self.kept if self.squared else self.kept.T @ self.kept

    @property
    def factor(self) -> Array:
        """A with A^T A = the scatter matrix, and at most as many rows as columns."""
        return _root(self.kept) if self.squared else self.kept

    def merged(self, other: Gaussian) -> Gaussian:
        """Put two sets together, exactly; what the gap of their means adds to the scatter is one row's square."""
        count = self.count + other.count
        gap = other.mean - self.mean
        mean = self.mean + gap * (other.count / count)
        row = np.sqrt(self.count * other.count / count) * gap
        if self.squared or other.squared:
            return Gaussian(count, mean, self.scatter + other.scatter + np.outer(row, row), squared=True)
        both = _stacked(self.kept, other.kept, triangular=len(other.kept) == row.size)
        return Gaussian(count, mean, _stacked(both, row[None]))

    def without(self, part: Gaussian) -> Gaussian:
        """Take a part out again, where the matrix itself is kept and the part is the smaller one."""
        count = self.count - part.count
        mean = (self.count * self.mean - part.count * part.mean) / count
        row = np.sqrt(count * part.count / self.count) * (part.mean - mean)
        return Gaussian(count, mean, self.kept - part.scatter - np.outer(row, row), squared=True)


def gaussian(features: np.ndarray[Any, Any]) -> Gaussian:
    """Fit a Gaussian to rows, (n, d)."""
    rows, columns = features.shape
    mean = features.mean(axis=0, dtype=np.float64)
    factor = np.empty((0, columns))
    step = max(columns, 1024)
    for start in range(0, rows, step):  # in blocks: 50,000 pictures in float64 would take 800 MB more
        factor = _stacked(factor, features[start : start + step].astype(np.float64) - mean)
    return Gaussian(rows, mean, factor)


def distance(first: Gaussian, second: Gaussian) -> float:
    """Squared Fréchet distance; 0 for equal ones. Both have two rows or more."""
    factors = [side.factor / np.sqrt(side.count - 1) for side in (first, second)]
    root = np.linalg.svd(factors[0] @ factors[1].T, compute_uv=False).sum()
    distance = np.sum((first.mean - second.mean) ** 2) + np.sum(factors[0] ** 2) + np.sum(factors[1] ** 2) - 2.0 * root
    return max(0.0, float(distance))  # rounding takes equal sets below zero


class Growing:
    """One of ten parts of a set, as a Gaussian that grows row by row, a block at a time."""

    _BLOCK = 512

    def __init__(self) -> None:
        self._rows: list[np.ndarray[Any, Any]] = []
        self._gaussian: Gaussian | None = None

    def add(self, row: np.ndarray[Any, Any]) -> None:
        """Add one row, (d,)."""
        self._rows.append(row)
        if len(self._rows) == self._BLOCK:
            self._settle()

    def _settle(self) -> None:
        block = gaussian(np.stack(self._rows))
        if self._gaussian is None:
            self._gaussian = block
        else:
            known = self._gaussian
            if known.count + block.count >= block.mean.size and not known.squared:
                known = Gaussian(known.count, known.mean, known.scatter, squared=True)
            self._gaussian = known.merged(block)
        self._rows = []

    @property
    def gaussian(self) -> Gaussian | None:
        """All rows so far; None where there is none."""
        if self._rows:
            self._settle()
        return self._gaussian


def left_out(parts: Sequence[Gaussian]) -> Iterator[Gaussian]:
    """Merge all parts but one, for each of them in turn; three parts or more of like size."""
    if any(part.squared for part in parts):
        whole = merged(parts)
        yield from (whole.without(part) for part in parts)
        return
    after = [parts[-1]]
    for part in parts[-2:0:-1]:
        after.append(after[-1].merged(part))
    yield after.pop()
    before = parts[0]
    for part in parts[1:-1]:
        yield before.merged(after.pop())
        before = before.merged(part)
    yield before


def merged(parts: Sequence[Gaussian]) -> Gaussian:
    """Merge all parts."""
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.merged(part)
    return whole


def _root(scatter: Array) -> Array:
    """Give A with A^T A = a positive semidefinite matrix, (d, d)."""
    # Columns of one scale: rounding is then that of the correlations, whatever the spread of the variances is.
    scale = np.sqrt(np.maximum(scatter.diagonal(), 0.0))
    scale[scale == 0.0] = 1.0
    correlation = scatter / np.outer(scale, scale)
    try:
        return np.asarray(np.linalg.cholesky(correlation).T * scale)
    except np.linalg.LinAlgError:  # singular: a feature that is nothing but others' sum, or that never moves
        values, vectors = np.linalg.eigh(correlation)
        return np.asarray(np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T * scale)


def _stacked(found: Array, more: Array, *, triangular: bool = False) -> Array:
    """Give R with R^T R = A^T A + B^T B: fewer rows than columns, or triangular.

    Args:
        found: A, of that form.
        more: B.
        triangular: whether B is.
    """
    columns = found.shape[1]
    if len(found) + len(more) < columns:
        return np.concatenate([found, more])
    if len(found) < columns:
        return np.asarray(np.linalg.qr(np.concatenate([found, more]), mode="r"))
    # LAPACK's update of a triangle costs a quarter of a factorisation of both.
    block = min(32, columns)
    root, *_, code = dtpqrt(columns if triangular else 0, block, np.asfortranarray(found), np.asfortranarray(more))
    assert code == 0, "LAPACK refuses its arguments"
    return np.asarray(root)
