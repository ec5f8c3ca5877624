"""What every metric of a pair refuses: other types, other shapes, pictures smaller than its window."""

from __future__ import annotations

import torch
from torch import Tensor

from vtbench.errors import DataError


def check_pair(reference: Tensor, reconstruction: Tensor) -> None:
    """Refuse what is not a pair of uint8 batches of one shape.

    Raises:
        DataError: naming both shapes and types.
    """
    fits = reference.ndim == 4 and reference.shape[1] == 3 and reference.shape == reconstruction.shape
    if not fits or reference.dtype != torch.uint8 or reconstruction.dtype != torch.uint8:
        raise DataError(
            f"a metric got {tuple(reference.shape)} {reference.dtype} and {tuple(reconstruction.shape)} "
            f"{reconstruction.dtype}; expected two uint8 batches (B, 3, H, W) of one shape"
        )


def check_side(images: Tensor, metric: str, smallest: int) -> None:
    """Refuse pictures (…, H, W) that have a side below what a metric needs.

    Raises:
        DataError: naming the metric and both sizes.
    """
    height, width = images.shape[-2:]
    if min(height, width) < smallest:
        raise DataError(f"{metric} of {width}x{height} pixels: its window needs at least {smallest}x{smallest}")
