"""What stands in the place of an index that no number chose."""

from __future__ import annotations

import torch
from torch import Tensor

from vtbench.types import NO_CODE


def numbered(indices: Tensor, z: Tensor) -> Tensor:
    """Put NO_CODE where what an index was chosen by is not finite: no comparison of such numbers tells it from others.

    Args:
        indices: int64, of any shape.
        z: of the same shape, or with the channels of each index on one axis more, the last.
    """
    finite = torch.isfinite(z)
    return torch.where(finite.all(-1) if z.ndim > indices.ndim else finite, indices, NO_CODE)
