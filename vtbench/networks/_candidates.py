"""Other codes that a position might have had: what a discrete network says of them where its bottleneck can be probed.

Such a network has, beside `encode` and `decode`, what `vtbench.bottleneck.Open` names. These are the two kinds of
quantiser that there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vtbench.networks._taming import SCORES_AT_ONCE


def best_few(z: Tensor, table: Tensor, bias: Tensor | None, count: int) -> Tensor:
    """Find for every vector the rows of a codebook with the highest scores, as `best_codes` finds the highest.

    Args:
        z: (B, C, h, w).
        table: the codebook, (K, C).
        bias: (K,), or None.
        count: rows a position, at most K.

    Returns:
        int64, (B, h, w, count), best first.
    """
    vectors = z.movedim(1, -1).flatten(0, -2).float()  # (N, C)
    rows = table.float().mT
    found = []
    with torch.autocast(z.device.type, enabled=False):
        for part in torch.split(vectors, max(1, SCORES_AT_ONCE // len(table))):
            scores = part @ rows if bias is None else torch.addmm(bias.float(), part, rows)
            found.append(scores.topk(count, dim=1).indices)
    return torch.cat(found).view(z.shape[0], *z.shape[2:], count)


def other_digits(bounded: Tensor, levels: Tensor | Sequence[int]) -> Tensor:
    """Move the least certain digit of scalar-quantised tokens to the level beyond its nearest decision boundary.

    Args:
        bounded: (..., C), each channel in steps of its levels: rounding gives the digit, 0 to levels - 1.
        levels: of each channel.

    Returns:
        int64, the digits (..., C), one of which is another than rounding gives.
    """
    top = torch.as_tensor(levels, device=bounded.device) - 1
    digits = bounded.round().long().clamp_min(0).minimum(top)
    offset = bounded.double() - digits
    margins = torch.stack(
        [
            torch.where(digits > 0, offset + 0.5, torch.inf),  # to the boundary below, where there is a level there
            torch.where(digits < top, 0.5 - offset, torch.inf),
        ]
    )
    margin, side = margins.min(0)
    least = margin.argmin(-1, keepdim=True)
    return digits + torch.zeros_like(digits).scatter_(-1, least, (2 * side - 1).gather(-1, least))


def other_bits(z: Tensor) -> Tensor:
    """Change the sign that is nearest to zero: (..., C) -> int64 bits (..., C), 1 for a positive number."""
    bits = (z > 0).long()
    least = z.abs().argmin(-1, keepdim=True)
    return bits.scatter(-1, least, 1 - bits.gather(-1, least))
