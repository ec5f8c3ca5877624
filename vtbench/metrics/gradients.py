"""GMSD: how unevenly a picture's edges are harmed."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vtbench.device import constant
from vtbench.metrics.colour import yiq
from vtbench.metrics.pairs import check_pair, check_side


def gmsd(reference: Tensor, reconstruction: Tensor) -> Tensor:
    """Gradient magnitude similarity deviation: 0 for equal pictures, larger the more unevenly edges are harmed.

    Xue et al. 2014: BT.601 luma, 2 x 2 means, Prewitt gradients, c = 170 on the scale of 0 to 255, and the standard
    deviation (over N, as printed) of the similarity map. Outside the picture is 0, as in the authors' MATLAB code.
    It doesn't see colour, nor what harms all places alike.

    Args:
        reference: uint8, (B, 3, H, W), at least 2 x 2 pixels.
        reconstruction: uint8, the same shape.

    Returns:
        float64, (B,).

    Raises:
        DataError: if the two are not uint8 batches of one shape, or too small.
    """
    check_pair(reference, reconstruction)
    check_side(reference, "GMSD", 2)
    rows = constant([[1.0], [0.0], [-1.0]], reference.device).expand(3, 3) / 3.0
    kernels = torch.stack([rows, rows.T])[:, None]  # (2, 1, 3, 3)

    def gradient(picture: Tensor) -> Tensor:
        luma = halve(yiq(picture[None])[:, :1])
        return F.conv2d(luma, kernels, padding=1).square().sum(dim=1).sqrt()

    pairs = zip(reference, reconstruction, strict=True)
    maps = (dice(gradient(x), gradient(y), 170.0) for x, y in pairs)
    return torch.stack([similarity.std(correction=0) for similarity in maps])


def halve(images: Tensor) -> Tensor:
    """Average 2 x 2 pixels; an odd last row or column is averaged with zeros."""
    height, width = images.shape[-2:]
    return F.avg_pool2d(F.pad(images, (0, width % 2, 0, height % 2)), 2)


def dice(x: Tensor, y: Tensor, constant: float) -> Tensor:
    """1 where two magnitudes are equal, towards 0 the more they differ."""
    return (2 * x * y + constant) / (x.square() + y.square() + constant)
