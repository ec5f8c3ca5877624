"""Gaussians fitted to sets of rows: how they are merged exactly, left out in turn, and how far two are apart.

A set is kept as a factor A of its scatter matrix A^T A, and never as that matrix: squaring loses half of the digits.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    factor: Array
    """A with A^T A = sum of (row - mean)(row - mean)^T, and at most as many rows as columns."""

    def merged(self, other: Gaussian) -> Gaussian:
        """Put two sets together, exactly: their factors, and one row for the gap of their means."""
        count = self.count + other.count
        gap = other.mean - self.mean
        row = np.sqrt(self.count * other.count / count) * gap
        return Gaussian(count, self.mean + gap * (other.count / count), _stacked(self.factor, other.factor, row[None]))


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
    """A Gaussian that grows row by row, a block at a time."""

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
        self._gaussian = block if self._gaussian is None else self._gaussian.merged(block)
        self._rows = []

    @property
    def gaussian(self) -> Gaussian | None:
        """All rows so far; None where there is none."""
        if self._rows:
            self._settle()
        return self._gaussian


def left_out(parts: Sequence[Gaussian]) -> list[Gaussian]:
    """Merge all parts but one, for each of them in turn; three parts or more."""
    after = [parts[-1]]
    for part in parts[-2:0:-1]:
        after.append(after[-1].merged(part))
    found = [after.pop()]
    before = parts[0]
    for part in parts[1:-1]:
        found.append(before.merged(after.pop()))
        before = before.merged(part)
    return [*found, before]


def merged(parts: Sequence[Gaussian]) -> Gaussian:
    """Merge all parts."""
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.merged(part)
    return whole


def _stacked(*factors: Array) -> Array:
    """Give a factor R with R^T R = the sum of A^T A over some factors A, and at most as many rows as columns."""
    found = factors[0]
    for factor in factors[1:]:
        columns = found.shape[1]
        if len(found) + len(factor) <= columns:
            found = np.concatenate([found, factor])
        elif len(found) == columns and _is_triangular(found):
            # LAPACK's update of a triangle costs a quarter of a factorisation of both.
            block = min(32, columns)
            triangle = columns if len(factor) == columns and _is_triangular(factor) else 0
            found, *_, code = dtpqrt(triangle, block, np.asfortranarray(found), np.asfortranarray(factor))
            assert code == 0, "LAPACK refuses its arguments"
        else:
            found = np.asarray(np.linalg.qr(np.concatenate([found, factor]), mode="r"))
    return found


def _is_triangular(factor: Array) -> bool:
    # The factors of QR are zero below the diagonal to the last bit.
    return len(factor) == factor.shape[1] and not np.tril(factor, -1).any()
