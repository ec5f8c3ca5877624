"""How latents fill their space: uniformity, effective rank, label purity.

Evidence: uniformity: one table over one architecture (VA-VAE). Effective rank and label purity (GSQ): PAE, read in
summaries alone: moderate, and rho -.74 over 8 ablations. Higher is meant to be better for the rank and for the purity.

Sources: hustvl/LightningDiT, tools/latent_vis.py, commit 2725fed4, MIT (arXiv 2501.01423); Roy and Vetterli 2007; PAE,
arXiv 2605.07915, no public code.
"""

from __future__ import annotations

import math

import torch

from vtbench.errors import DataError
from vtbench.metrics.latents._arrays import Array, floats, integers, rows_at_a_time, smallest


def uniformity(points: Array) -> dict[str, float]:
    """Measure how even the Gaussian kernel density (Scott's bandwidth) is at the points themselves.

    VA-VAE's points are t-SNE's two coordinates of 10,000 latent vectors, one a picture; values move with n.

    Args:
        points: (N, D), N above D.

    Returns:
        `density_std` (population), `density_cv` (over the mean; lower is more even), `normalized_entropy` (at most 1,
        higher is more even) and `gini_coefficient` (0 for an even density).

    Raises:
        DataError: if there are too few points, or they lie in a plane.
    """
    x = floats(points, "points", "(N, D)")
    count, axes = x.shape
    if count <= axes or count < 2:
        raise DataError(f"uniformity of {count} points on {axes} axes: expected more points than axes, at least 2")
    centred = x - x.mean(0)
    covariance = centred.T @ centred / (count - 1) * count ** (-2 / (axes + 4))
    factor, failed = torch.linalg.cholesky_ex(covariance)
    # The square of a pivot is what the axes before leave of an axis' variance; rounding leaves some of nothing.
    if int(failed) or bool((factor.diagonal() ** 2 <= 1e-13 * covariance.diagonal()).any()):
        raise DataError("uniformity of points that lie in a plane: expected them to vary along every axis")
    white = torch.linalg.solve_triangular(factor, centred.T, upper=False).T
    squares = (white**2).sum(1)
    step = rows_at_a_time(count)
    sums = [
        torch.exp(-0.5 * (squares[s : s + step, None] + squares - 2 * white[s : s + step] @ white.T).clamp_min(0)).sum(
            1
        )
        for s in range(0, count, step)
    ]
    density = torch.cat(sums) / (count * float(factor.diagonal().prod()) * (2 * math.pi) ** (axes / 2))
    mean, spread = float(density.mean()), float(density.std(correction=0))
    share = density / density.sum()
    entropy = -float((share * torch.log2(share + 1e-10)).sum())
    rank = torch.arange(1, count + 1, dtype=x.dtype, device=x.device)
    gini = float(((2 * rank - count - 1) * density.sort().values).sum() / (count * density.sum()))
    return {
        "density_std": spread,
        "density_cv": spread / mean,
        "normalized_entropy": entropy / math.log2(count),
        "gini_coefficient": gini,
    }


def effective_rank(features: Array, *, center: bool = True) -> float:
    """Exponential of the entropy of the singular values (not squared) over their sum: directions that are really used.

    Args:
        features: (N, C), one row a picture; at most min(N, C) can come out. PAE divides by C.
        center: subtract the mean row before.

    Returns:
        From 1 to min(N, C); 0 where nothing varies.

    Raises:
        DataError: if it is no such matrix.
    """
    x = floats(features, "features", "(N, C)")
    scale = float(x.norm())
    if center:
        x = x - x.mean(0)
    values = torch.linalg.svdvals(x)
    if float(values.sum()) <= 1e-12 * scale or scale == 0:  # what rounding leaves of equal rows
        return 0.0
    share = values / values.sum()
    return math.exp(float(-torch.special.xlogy(share, share).sum()))


def label_purity(features: Array, labels: Array) -> float:
    """Share of pictures whose nearest other, by cosine after centring, has their label (PAE's GSQ); within [0, 1].

    Args:
        features: (N, C), one row a picture.
        labels: integers (N,).

    Raises:
        DataError: if the two do not fit, or there are fewer than two pictures.
    """
    x = floats(features, "features", "(N, C)")
    classes = integers(labels, "labels", "(N,)", device=x.device)
    if len(classes) != len(x) or len(x) < 2:
        raise DataError(f"{len(x)} pictures, {len(classes)} labels: expected one each, at least two")
    x = x - x.mean(0)
    x = x / x.norm(dim=1, keepdim=True).clamp_min(1e-12)
    hits = 0
    step = rows_at_a_time(len(x))
    for start in range(0, len(x), step):
        costs = -(x[start : start + step] @ x.T)
        costs.diagonal(start).fill_(math.inf)
        hits += int((classes[smallest(costs, 1)[:, 0]] == classes[start : start + step]).sum())
    return hits / len(x)
