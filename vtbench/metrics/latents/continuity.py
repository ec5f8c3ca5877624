"""Continuity: latents between neighbours (iFID), latents off their place (LPC), tokens off theirs.

Evidence: iFID: r .90 with gFID over 14 VAEs (SiT-XL), .86 over 13 (SiT-B), computed from its authors' README. LPC:
rho .95 over 8 ablations of one model, read in summaries alone. Perturbed tokens: claimed over 11 tokenizers; RobusTok,
whose values are published, was trained with the perturbation.

Sources: iFID: tongdaxu/Making-rFID-Predictive-of-Diffusion-gFID, evalvae.py, commit bac6ede9 (arXiv 2603.05630).
LPC: PAE, arXiv 2605.07915, appendix B; no public code. Tokens: Xudangliatiger/RobusTok, latent_perturbation.py, commit
ac49d8e7 (arXiv 2503.08354, 2509.12474).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from vtbench.errors import DataError
from vtbench.metrics.latents._arrays import (
    Array,
    ArrayT,
    floats,
    integers,
    real,
    rows_at_a_time,
    same_kind,
    smallest,
    whole,
)


def slerp(a: ArrayT, b: ArrayT, t: float) -> ArrayT:
    """Go the share t of the way from a to b along the arc between them; a straight line where they are parallel.

    The angle is that of the normalised latents of whole pictures, the weights apply to the unnormalised ones.
    The 1e-7 that the published rule adds to lengths and to the sine costs up to some percent where the two are almost
    parallel, before the straight line takes over at a sine of 1e-6.

    Args:
        a: (B, D, ...), one latent a picture.
        b: the same shape.
        t: within [0, 1].

    Returns:
        The same shape, kind and floating type.

    Raises:
        DataError: if the two differ in shape.
    """
    first = floats(a, "latent", "(B, D, ...)")
    second = floats(b, "latent", "(B, D, ...)", device=first.device)
    if first.shape != second.shape:
        raise DataError(f"latents of {tuple(first.shape)} and {tuple(second.shape)}: expected one shape")
    t = real(t, "share of the way")
    x, y = first.reshape(len(first), -1), second.reshape(len(second), -1)
    unit = [side / (side.norm(dim=1, keepdim=True) + 1e-7) for side in (x, y)]
    theta = (unit[0] * unit[1]).sum(1, keepdim=True).clamp(-1, 1).arccos()
    sine = theta.sin()
    arc = (((1 - t) * theta).sin() * x + (t * theta).sin() * y) / (sine + 1e-7)
    made = torch.where(sine < 1e-6, (1 - t) * x + t * y, arc)
    return same_kind(made.view_as(first), a, dtype=True)


def interpolation_partners(
    z: ArrayT, reference: Array, *, k: int = 10, metric: Literal["cosine", "euclidean"] = "cosine"
) -> tuple[ArrayT, ArrayT]:
    """Find the k reference latents nearest to each latent, and the weights by which iFID draws one of them.

    Neighbours go by cosine or Euclidean distance, the weights by the softmax of minus the mean squared difference; for
    wide latents they are nearly uniform. The two sets must be disjoint.

    Args:
        z: (B, D, ...), one latent a picture.
        reference: (R, D, ...), latents of other pictures.
        k: at most R.
        metric: of the neighbours.

    Returns:
        int64 indices (B, k), nearest first, and float64 weights (B, k).

    Raises:
        DataError: if the shapes differ, k does not fit or the metric is unknown.
    """
    if metric not in ("cosine", "euclidean"):
        raise DataError(f'neighbours by "{metric}": expected cosine or euclidean')
    query = floats(z, "latent", "(B, D, ...)")
    others = floats(reference, "reference", "(R, D, ...)", device=query.device)
    if query.shape[1:] != others.shape[1:]:
        raise DataError(f"latents of {tuple(query.shape)} and {tuple(others.shape)}: expected one shape a picture")
    k = whole(k, f"neighbours among {len(others)}", 1, len(others))
    x, r = query.reshape(len(query), -1), others.reshape(len(others), -1)
    lengths = r.norm(dim=1)
    indices, weights = [], []
    step = rows_at_a_time(max(len(r), k * r.shape[1]))
    for start in range(0, len(x), step):
        part = x[start : start + step]
        inner = part @ r.T
        if metric == "cosine":
            costs = -inner / (part.norm(dim=1, keepdim=True) * lengths + 1e-8)
        else:
            costs = (part**2).sum(1, keepdim=True) + lengths**2 - 2 * inner
        found = smallest(costs, k)
        indices.append(found)
        weights.append(torch.softmax(-((part[:, None] - r[found]) ** 2).mean(2), dim=1))
    return same_kind(torch.cat(indices), z), same_kind(torch.cat(weights), z)


def perturb_latent(z: ArrayT, noise: Array, rho: float, *, center: bool = False) -> ArrayT:
    """Move each latent by rho times its own length along the noise: z + rho |z| noise / |noise|.

    At rho = 1 the noise is as strong as the signal. A latent with a large mean gets more of it, unless its length is
    taken from the channels' means; that is this package's variant, not PAE's.

    Args:
        z: (B, D, ...), one latent a picture.
        noise: the same shape; Gaussian noise gives uniform directions.
        rho: the radius; negative for the opposite direction.
        center: measure |z| from each channel's mean over the picture; for (B, C, H, W) and (B, T, D) alone.

    Returns:
        The same shape, kind and floating type.

    Raises:
        DataError: if the two differ in shape, the noise of a picture is zero, or the latent has no such channels.
    """
    x = floats(z, "latent", "(B, D, ...)")
    direction = floats(noise, "noise", "(B, D, ...)", device=x.device)
    if x.shape != direction.shape:
        raise DataError(f"latent of {tuple(x.shape)}, noise of {tuple(direction.shape)}: expected one shape")
    if center and x.ndim not in (3, 4):
        raise DataError(f"latent of {tuple(x.shape)}: expected (B, C, H, W) or (B, T, D), whose channels have means")
    measured = x - x.mean((2, 3) if x.ndim == 4 else 1, keepdim=True) if center else x
    lengths = [side.reshape(len(side), -1).norm(dim=1) for side in (measured, direction)]
    if not bool((lengths[1] > 0).all()):
        raise DataError("noise: zero for a picture; expected a direction")
    factor = real(rho, "radius") * lengths[0] / lengths[1]
    return same_kind(x + factor.view(-1, *[1] * (x.ndim - 1)) * direction, z, dtype=True)


def lpc_weights(rhos: Sequence[float]) -> list[float]:
    """Weights of LPC's radii: in proportion to 1 / rho, summing to 1.

    Raises:
        DataError: if there is no radius, or one not above 0.
    """
    shares = [1 / real(rho, "radius", above=0) for rho in rhos]
    if not shares:
        raise DataError("radii: none was given; expected at least one")
    total = math.fsum(shares)
    return [share / total for share in shares]


def nearest_codes(z: ArrayT, codebook: Array, *, count: int, normalize: bool = False) -> ArrayT:
    """Find the codes nearest to each vector, by squared Euclidean distance, ties by index.

    Args:
        z: (B, D, H, W), before quantisation, or (B, T, D).
        codebook: (K, D).
        count: codes a position, at most K.
        normalize: bring vectors and codes to length 1 before.

    Returns:
        int64, (B * H * W, count), nearest first, positions in the order b, h, w.

    Raises:
        DataError: if the channels differ or the count does not fit.
    """
    vectors, codes = _vectors(z, codebook, normalize)
    return same_kind(_nearest(vectors, codes, whole(count, "nearest codes", 1, len(codes))), z)


def perturb_tokens(
    z: Array,
    quantized: ArrayT,
    codebook: Array,
    *,
    coin: Array,
    draw: Array,
    alpha: float,
    beta: float = 1.0,
    normalize: bool = False,
) -> ArrayT:
    """Replace tokens by one of their nearest codes: where the coin exceeds alpha the nearest, else the drawn one.

    The nearest is among the drawn: with n to draw from, the effective rate is alpha (n - 1) / n.

    Args:
        z: (B, D, H, W), before quantisation, or (B, T, D).
        quantized: the same shape, what the decoder takes.
        codebook: (K, D).
        coin: (B * H * W,), uniform in [0, 1), positions in the order b, h, w.
        draw: integers (B * H * W,): 0 for the nearest code, 1 for the next, and so on.
        alpha: share of the positions that are drawn anew.
        beta: only the first int(B * beta) pictures are touched.
        normalize: the codebook's rows and the vectors are brought to length 1.

    Returns:
        The shape, kind and floating type of `quantized`.

    Raises:
        DataError: if shapes or rates do not fit.
    """
    vectors, codes = _vectors(z, codebook, normalize)
    before = floats(quantized, "quantized", "(B, ...)", device=vectors.device)
    if tuple(before.shape) != tuple(z.shape):
        raise DataError(f"vectors of {tuple(z.shape)}, quantized {tuple(before.shape)}: expected one shape")
    toss = floats(coin, "coin", "(N,)", device=vectors.device)
    drawn = integers(draw, "draw", "(N,)", device=vectors.device)
    if len(toss) != len(vectors) or len(drawn) != len(vectors):
        raise DataError(f"{len(toss)} coins, {len(drawn)} draws: expected one a position, {len(vectors)}")
    if not 0 <= alpha <= 1 or not 0 <= beta <= 1:
        raise DataError(f"tokens perturbed at alpha {alpha}, beta {beta}: expected both within [0, 1]")
    if int(drawn.min()) < 0 or int(drawn.max()) >= len(codes):
        raise DataError(f"draws from {int(drawn.min())} to {int(drawn.max())}: expected 0 to {len(codes) - 1}")
    rank = torch.where(toss > alpha, 0, drawn)
    nearest = _nearest(vectors, codes, int(rank.max()) + 1)
    made = codes[nearest.gather(1, rank[:, None])[:, 0]]
    touched = int(len(before) * beta)
    if before.ndim == 4:
        batch, channels, height, width = before.shape
        made = made.view(batch, height, width, channels).permute(0, 3, 1, 2)
    made = torch.cat([made.reshape(before.shape)[:touched], before[touched:]])
    return same_kind(made, quantized, dtype=True)


def _vectors(z: Array, codebook: Array, normalize: bool) -> tuple[Tensor, Tensor]:
    x = floats(z, "vectors", "(B, ...)")
    codes = floats(codebook, "codebook", "(K, D)", device=x.device)
    if x.ndim not in (3, 4):
        raise DataError(f"vectors of {tuple(x.shape)}: expected (B, D, H, W) or (B, T, D)")
    if x.ndim == 4:
        x = x.permute(0, 2, 3, 1)
    if x.shape[-1] != codes.shape[1]:
        raise DataError(f"vectors of {x.shape[-1]} channels, codes of {codes.shape[1]}: expected one number")
    x = x.reshape(-1, x.shape[-1])
    if normalize:
        x, codes = (side / side.norm(dim=1, keepdim=True).clamp_min(1e-12) for side in (x, codes))
    return x, codes


def _nearest(vectors: Tensor, codes: Tensor, count: int) -> Tensor:
    squares = (codes**2).sum(1)
    step = rows_at_a_time(len(codes))
    # A vector's own length is the same for all codes: it moves no order.
    found = [smallest(squares - 2 * part @ codes.T, count) for part in torch.split(vectors, step)]
    return torch.cat(found)
