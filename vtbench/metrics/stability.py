"""Stability: does a second pass change the picture again, and does a shifted picture come out as the same, shifted?

Both ask for reconstructions beside the first one, so they take the tokenizer's round trip as a function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from vtbench.catalogue import PSNR_CAP
from vtbench.metrics.pairs import check_side
from vtbench.metrics.peak import psnr
from vtbench.results import capped

PASSES = (2, 4, 8)
"""Round trips after which a picture is compared, the first one counted."""

SHIFTS = (1, 2, 4)
"""Pixels by which a picture is moved, to the right and down. No power of 2 from 8 up: patch grids would hide them."""

MARGIN = 32
"""Pixels of the border that a shifted picture is not compared in: what moved in there was not seen before."""

Reconstruct = Callable[[Tensor], tuple[Tensor, tuple[Tensor, ...]]]
"""uint8 (B, 3, H, W) to its reconstruction, of the same shape, and its codes: int64, batch first, empty where none."""


def repeats(
    reconstruct: Reconstruct,
    reference: Tensor,
    first: Tensor,
    codes: tuple[Tensor, ...],
    *,
    indices_per_token: int = 1,
) -> dict[str, list[float | None]]:
    """Measure what further passes change.

    * `repeat_psnr/k`: PSNR in dB of the original and what k passes leave; `repeat_psnr` is that after the last.
    * `repeat_drop`: dB of PSNR that passes 2 to the last cost, each PSNR counting PSNR_CAP at most; 0 for an idempotent
      tokenizer.
    * `token_agreement/k`: share of tokens that pass k and the pass before have in common; `token_agreement` is that of
      pass 2.

    Args:
        reconstruct: one round trip.
        reference: the originals, uint8 (B, 3, H, W).
        first: their reconstructions.
        codes: the tokens of the first pass.
        indices_per_token: indices of the last axis that are one token together.

    Returns:
        One value a picture; None where a tokenizer has no tokens.
    """
    first = first.to(reference.device)
    columns: dict[str, list[float | None]] = {"repeat_psnr/1": psnr(reference, first).tolist()}
    current, before = first, codes
    for count in range(2, PASSES[-1] + 1):
        current, after = reconstruct(current)
        current = current.to(reference.device)
        if count in PASSES:
            columns[f"repeat_psnr/{count}"] = psnr(reference, current).tolist()
            columns[f"token_agreement/{count}"] = _agreement(before, after, len(reference), indices_per_token)
        before = after
    columns["repeat_psnr"] = columns[f"repeat_psnr/{PASSES[-1]}"]
    pairs = zip(columns["repeat_psnr/1"], columns["repeat_psnr"], strict=True)
    columns["repeat_drop"] = [capped(a or 0.0, PSNR_CAP) - capped(b or 0.0, PSNR_CAP) for a, b in pairs]
    columns["token_agreement"] = columns[f"token_agreement/{PASSES[0]}"]
    return columns


def shifts(reconstruct: Reconstruct, reference: Tensor, first: Tensor) -> dict[str, list[float | None]]:
    """Measure what a move of the picture changes.

    * `shift_psnr/d`: PSNR in dB of the reconstruction of the picture moved by d pixels, moved back, and the
      reconstruction, without a border of MARGIN pixels; `shift_psnr` is the mean over d, in which each counts
      PSNR_CAP at most unless all are infinite. Infinite for what acts on each pixel alone.

    Args:
        reconstruct: one round trip.
        reference: the originals, uint8 (B, 3, H, W).
        first: their reconstructions.

    Raises:
        DataError: if nothing is left of the pictures within the margin.
    """
    check_side(reference, "shift PSNR", 2 * MARGIN + 1)
    first = first.to(reference.device)
    moved = [_shifted(reconstruct, reference, first, distance) for distance in SHIFTS]
    columns: dict[str, list[float | None]] = {
        f"shift_psnr/{distance}": [*values] for distance, values in zip(SHIFTS, moved, strict=True)
    }
    columns["shift_psnr"] = [_mean(values) for values in zip(*moved, strict=True)]
    return columns


def _mean(values: Sequence[float]) -> float:
    """Average dB; values count PSNR_CAP at most, as in a mean over pictures."""
    if all(map(math.isinf, values)):
        return math.inf
    return sum(capped(value, PSNR_CAP) for value in values) / len(values)


def _agreement(
    before: tuple[Tensor, ...], after: tuple[Tensor, ...], count: int, indices_per_token: int
) -> list[float | None]:
    if not before:
        return [None] * count
    pairs = zip(before, after, strict=True)
    equal = torch.cat([(a == b).reshape(count, -1, indices_per_token).all(2) for a, b in pairs], dim=1)
    return [float(share) for share in equal.double().mean(1)]


def _shifted(reconstruct: Reconstruct, reference: Tensor, first: Tensor, distance: int) -> list[float]:
    height, width = reference.shape[-2:]
    # What moves in repeats the border, as a camera's next pixel most likely would.
    padded = F.pad(reference.float(), (distance, 0, distance, 0), mode="replicate").to(torch.uint8)
    again, _ = reconstruct(padded[..., :height, :width])
    back = again.to(reference.device)[..., distance:, distance:]
    inner = slice(MARGIN, height - MARGIN), slice(MARGIN, width - MARGIN)
    return [float(value) for value in psnr(first[..., inner[0], inner[1]], back[..., inner[0], inner[1]])]
