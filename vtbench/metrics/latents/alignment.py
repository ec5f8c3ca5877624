"""CKNNA, CKA and mutual nearest neighbours: do two feature spaces see the same pictures as alike?

Rows are pictures, features pooled over tokens or the grid before. Kernel matrices are made in blocks of rows and never
held whole; every value is exact in float64.

Evidence: VFM-VAE (arXiv 2510.18457) shows for 3 tokenizers that CKNNA on clean pictures (.004, .202, .188) misorders
their gFID (7.13, 5.14, 3.80), and that under its SE transforms (.005, .135, .191) orders it.

Source of the formulas: minyoungg/platonic-rep, metrics.py, commit dcd76ba3 (arXiv 2405.07987).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from vtbench.errors import DataError
from vtbench.metrics.latents._arrays import Array, ArrayT, floats, real, rows_at_a_time, same_kind, smallest, whole

_EPSILON = 1e-6
"""Added to the denominator, as published. It shrinks weak alignments: 3% were measured at n = 4000."""


def clip_outliers(x: ArrayT, q: float, *, exact: bool = True) -> ArrayT:
    """Clip features to [-b, b], b being a quantile of the absolute values.

    Args:
        x: (N, D).
        q: within (0, 1]; 1 clips nothing.
        exact: b is entry int(q N D) of the sorted absolute values; else the mean of each row's interpolated quantile.

    Returns:
        The same shape and kind, float64.

    Raises:
        DataError: if it is no such matrix, or q is out of range.
    """
    return same_kind(_clipped(floats(x, "features", "(N, D)"), q, exact=exact), x)


def cknna(
    a: Array, b: Array, *, k: int = 10, clip: float | None = None, normalize: bool = True, unbiased: bool = True
) -> float:
    """CKNNA: CKA over those pairs of pictures that are among each other's nearest; at most about 1, higher is closer.

    Both kernels are inner products. In each row the k largest entries stay, without the diagonal when unbiased, and
    only where both kernels keep them. The null is about k / n, not 0: state n and k. It says little below some 1000
    pictures. Equal values at the k-th place go by index.

    Args:
        a: (N, D), one row a picture.
        b: (N, E), the same pictures in the same order.
        k: neighbours; at most N - 1, or N when biased.
        clip: quantile to which outliers are clipped before, see `clip_outliers`.
        normalize: divide each row by its length.
        unbiased: the unbiased estimate of HSIC; else the biased one.

    Returns:
        The value; NaN where the two self-similarities have a negative product, as published.

    Raises:
        DataError: if the two are not matrices of one number of rows, or k does not fit.
    """
    first, second = _pair(a, b, clip, normalize, at_least=4 if unbiased else 2)
    k = _neighbour_count(k, len(first) - 1 if unbiased else len(first))
    near = [_neighbours(x, k, diagonal=not unbiased) for x in (first, second)]
    shared = _shared(near[0], near[1])
    kept = [_entries(x, neighbours) for x, neighbours in zip((first, second), near, strict=True)]
    crossed = _sparse_hsic(
        (near[0], torch.where(shared[0], kept[0], 0.0)), (near[1], torch.where(shared[1], kept[1], 0.0)), unbiased
    )
    own = [_sparse_hsic(side, side, unbiased) for side in zip(near, kept, strict=True)]
    return _ratio(crossed, own[0], own[1])


def cka(
    a: Array,
    b: Array,
    *,
    clip: float | None = None,
    normalize: bool = False,
    unbiased: bool = False,
    kernel: Literal["linear", "rbf"] = "linear",
    sigma: float = 1.0,
) -> float:
    """Centred kernel alignment (Kornblith et al. 2019), with 1e-6 in the denominator; 1 for equal geometry.

    Args:
        a: (N, D), one row a picture.
        b: (N, E), the same pictures in the same order.
        clip: as for `cknna`.
        normalize: divide each row by its length.
        unbiased: the unbiased estimate of HSIC, with the diagonals at zero.
        kernel: inner products, or exp(-distance^2 / (2 sigma^2)).
        sigma: of the second kernel.

    Returns:
        The value; NaN where the two self-similarities have a negative product.

    Raises:
        DataError: if the two are not matrices of one number of rows, or the kernel is unknown.
    """
    if kernel not in ("linear", "rbf"):
        raise DataError(f'CKA with kernel "{kernel}": expected linear or rbf')
    sigma = real(sigma, "sigma of CKA's kernel", above=0)
    first, second = _pair(a, b, clip, normalize, at_least=4 if unbiased else 2)
    # A common offset changes neither estimate under either kernel, but it costs digits.
    first, second = first - first.mean(0), second - second.mean(0)
    blocks = [_kernel_rows(x, kernel, sigma) for x in (first, second)]
    rows = len(first)
    step = rows_at_a_time(rows)
    products = torch.zeros(3, dtype=torch.float64, device=first.device)
    sums = first.new_zeros(2, rows)
    for start in range(0, rows, step):
        left, right = (block(start, min(rows, start + step)) for block in blocks)
        if unbiased:
            for part in (left, right):
                part.diagonal(start).zero_()
        products += torch.stack([(left * right).sum(), (left * left).sum(), (right * right).sum()])
        sums[:, start : start + step] = torch.stack([left.sum(1), right.sum(1)])
    values = []
    for product, (i, j) in zip(products.tolist(), ((0, 1), (0, 0), (1, 1)), strict=True):
        totals = float(sums[i].sum()), float(sums[j].sum())
        values.append(_hsic(rows, product, totals, (float(sums[i] @ sums[j]),) * 2, unbiased))
    return _ratio(*values)


def mutual_knn(a: Array, b: Array, *, k: int = 10, clip: float | None = None, normalize: bool = True) -> float:
    """Share of the k nearest neighbours (largest inner products) that a picture has in both spaces, within [0, 1].

    Args:
        a: (N, D), one row a picture.
        b: (N, E), the same pictures in the same order.
        k: neighbours, at most N - 1.
        clip: as for `cknna`.
        normalize: divide each row by its length.

    Raises:
        DataError: if the two are not matrices of one number of rows, or k does not fit.
    """
    first, second = _pair(a, b, clip, normalize, at_least=2)
    k = _neighbour_count(k, len(first) - 1)
    shared, _ = _shared(_neighbours(first, k, diagonal=False), _neighbours(second, k, diagonal=False))
    return float(shared.double().mean())


def _clipped(x: Tensor, q: float, *, exact: bool = True) -> Tensor:
    if real(q, "quantile to clip outliers at", above=0, most=1) == 1:
        return x
    sizes = x.abs()
    if exact:
        place = int(q * x.numel())
        bound = sizes.flatten().kthvalue(min(place + 1, x.numel())).values
    else:
        bound = torch.quantile(sizes, q, dim=1).mean()
    return torch.minimum(torch.maximum(x, -bound), bound)


def _pair(a: Array, b: Array, clip: float | None, normalize: bool, *, at_least: int) -> tuple[Tensor, Tensor]:
    first = floats(a, "features", "(N, D)")
    second = floats(b, "features", "(N, D)", device=first.device)
    if len(first) != len(second) or len(first) < at_least:
        raise DataError(
            f"features of {tuple(first.shape)} and {tuple(second.shape)}: expected the same pictures, "
            f"at least {at_least}"
        )
    sides = [x if clip is None else _clipped(x, clip) for x in (first, second)]
    if normalize:
        sides = [x / x.norm(dim=1, keepdim=True).clamp_min(1e-12) for x in sides]
    return sides[0], sides[1]


def _neighbour_count(k: int, most: int) -> int:
    return whole(k, f"nearest neighbours among {most}", 1, most)


def _neighbours(x: Tensor, k: int, *, diagonal: bool) -> Tensor:
    """Columns of the k largest inner products of each row, sorted by column: int64 (N, k)."""
    found = []
    step = rows_at_a_time(len(x))
    for start in range(0, len(x), step):
        costs = -(x[start : start + step] @ x.T)
        if not diagonal:
            costs.diagonal(start).fill_(math.inf)
        found.append(smallest(costs, k).sort(dim=1).values)
    return torch.cat(found)


def _entries(x: Tensor, columns: Tensor) -> Tensor:
    """Inner products of each row with its neighbours, (N, k), in blocks."""
    step = rows_at_a_time(columns.shape[1] * x.shape[1])
    return torch.cat(
        [
            torch.einsum("nd,nkd->nk", x[start : start + step], x[columns[start : start + step]])
            for start in range(0, len(x), step)
        ]
    )


def _keys(columns: Tensor) -> Tensor:
    return (torch.arange(len(columns), device=columns.device)[:, None] * len(columns) + columns).flatten()


def _shared(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Say which neighbours are also the other's, for both: bool (N, k)."""
    keys = _keys(first), _keys(second)
    return torch.isin(keys[0], keys[1]).view_as(first), torch.isin(keys[1], keys[0]).view_as(second)


def _sparse_hsic(p: tuple[Tensor, Tensor], q: tuple[Tensor, Tensor], unbiased: bool) -> float:
    """HSIC of two matrices given by columns and entries of each row; they need not be symmetric."""
    rows = len(p[0])
    # The sum of P_ij Q_ji: Q's entries under their transposed place, looked up in P's, both sorted by key.
    own = _keys(p[0])
    turned = (q[0] * rows + torch.arange(rows, device=own.device)[:, None]).flatten()
    place = torch.searchsorted(own, turned).clamp_max(len(own) - 1)
    product = float(torch.where(own[place] == turned, p[1].flatten()[place] * q[1].flatten(), 0.0).sum())
    of_rows = [values.sum(1) for _, values in (p, q)]
    of_columns = [values.new_zeros(rows).index_add_(0, at.flatten(), values.flatten()) for at, values in (p, q)]
    mixed = float(of_columns[0] @ of_rows[1]), float(of_columns[1] @ of_rows[0])
    return _hsic(rows, product, (float(of_rows[0].sum()), float(of_rows[1].sum())), mixed, unbiased)


def _hsic(rows: int, product: float, totals: tuple[float, float], mixed: tuple[float, float], unbiased: bool) -> float:
    """HSIC from sum P_ij Q_ji, the sums of P and Q, and the sums of the entries of P Q and of Q P."""
    if unbiased:
        value = product + totals[0] * totals[1] / ((rows - 1) * (rows - 2)) - 2 * mixed[0] / (rows - 2)
        return value / (rows * (rows - 3))
    return product - (mixed[0] + mixed[1]) / rows + totals[0] * totals[1] / rows**2


def _ratio(crossed: float, first: float, second: float) -> float:
    product = first * second
    return crossed / (math.sqrt(product) + _EPSILON) if product >= 0 else math.nan


def _kernel_rows(x: Tensor, kernel: str, sigma: float) -> Callable[[int, int], Tensor]:
    squares = (x * x).sum(1)

    def rows(start: int, stop: int) -> Tensor:
        inner = x[start:stop] @ x.T
        if kernel == "linear":
            return inner
        distances = (squares[start:stop, None] + squares - 2 * inner).clamp_min(0)
        distances.diagonal(start).zero_()
        return torch.exp(-distances / (2 * sigma**2))

    return rows
