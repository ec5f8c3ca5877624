"""HaarPSI: how alike two pictures' edges are, by Haar wavelets of three scales."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vtbench.metrics.colour import yiq
from vtbench.metrics.gradients import dice, halve
from vtbench.metrics.pairs import check_pair, check_side


def haarpsi(reference: Tensor, reconstruction: Tensor) -> Tensor:
    """Haar wavelet-based perceptual similarity: 1 for equal pictures, towards 0 the less they look alike.

    Reisenhofer et al. 2018, its colour form: YIQ, 2 x 2 means, Haar wavelets of three scales on Y (the two fine ones
    compared, the coarse one as weight), 2 x 2 means of I and Q; C = 30, alpha = 4.2. Outside the picture is 0, as in
    the authors' code. Where neither picture has any structure to weigh (two black ones), the value is 1.

    Args:
        reference: uint8, (B, 3, H, W), at least 16 x 16 pixels.
        reconstruction: uint8, the same shape.

    Returns:
        float64, (B,), within (0, 1].

    Raises:
        DataError: if the two are not uint8 batches of one shape, or too small.
    """
    check_pair(reference, reconstruction)
    check_side(reference, "HaarPSI", 16)
    pairs = zip(reference, reconstruction, strict=True)
    return torch.stack([_haarpsi_of(halve(yiq(x[None])), halve(yiq(y[None]))) for x, y in pairs])


def _haarpsi_of(x: Tensor, y: Tensor) -> Tensor:
    """HaarPSI of two halved YIQ pictures (1, 3, H, W), as a float64 scalar."""
    wavelets = [torch.stack([_haar(side[:, :1], scale) for scale in (1, 2, 3)]).abs() for side in (x, y)]
    # (scale, 1, orientation, H, W)
    weights = torch.maximum(wavelets[0][2], wavelets[1][2])[0]
    structure = dice(wavelets[0][:2], wavelets[1][:2], 30.0).mean(dim=0)[0]
    mean = [F.avg_pool2d(F.pad(side[:, 1:], (0, 1, 0, 1)), 2, stride=1).abs() for side in (x, y)]
    colour = dice(mean[0], mean[1], 30.0)[0].mean(dim=0, keepdim=True)
    similarity = torch.cat([structure, colour])  # (3, H, W)
    weights = torch.cat([weights, weights.mean(dim=0, keepdim=True)])
    total = weights.sum()
    score = (torch.sigmoid(4.2 * similarity) * weights).sum() / total
    # A branch would ask the device for the total, and wait for it.
    return torch.where(total == 0, 1.0, (torch.logit(score) / 4.2) ** 2)


def _haar(plane: Tensor, scale: int) -> Tensor:
    """Haar coefficients of one scale in both orientations, (1, 1, H, W) to (1, 2, H, W), zeros outside."""
    side = 2**scale
    step = torch.full((side, side), 1.0 / side, dtype=torch.float64, device=plane.device)
    step[side // 2 :] *= -1.0
    padded = F.pad(plane, (side // 2 - 1, side // 2, side // 2 - 1, side // 2))
    return F.conv2d(padded, torch.stack([step, step.T])[:, None])
