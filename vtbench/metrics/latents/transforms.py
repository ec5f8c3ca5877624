"""The pictures of SE-CKNNA: turned and scaled ones, and noisy ones, each drawn by the picture's number.

Source: tianciB/VFM-VAE, tools/evaluate_alignment, commit b3a752a3, non-commercial (arXiv 2510.18457): its draws and its
SD-VAE side. Its DINOv2 side turns first and scales afterwards.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vtbench import images
from vtbench.errors import DataError
from vtbench.metrics.latents._arrays import ArrayT, same_kind

ROTATIONS = (0, 90, 180, 270)
SCALES = (1.0, 0.75, 0.5, 0.25)


def se_transforms(count: int, *, seed: int = 42) -> list[tuple[int, float]]:
    """Draw a turn in degrees and a scale for each of `count` pictures, from numpy's legacy generator at seed + number.

    Raises:
        DataError: if the count is below 1.
    """
    if count < 1:
        raise DataError(f"transforms of {count} pictures: expected at least 1")
    pairs = []
    for index in range(count):
        generator = np.random.RandomState(seed + index)
        pairs.append((int(generator.choice(ROTATIONS)), float(generator.choice(SCALES))))
    return pairs


def se_noise(image: ArrayT, level: float, *, index: int, seed: int = 42) -> ArrayT:
    """Add Gaussian noise to a picture: float32 noise times 255, added, clipped, truncated to levels as published.

    Args:
        image: uint8, (H, W, 3).
        level: standard deviation, 1 being white; published .05, .1, .15, .2.
        index: the picture's number; the noise is drawn at seed + index.
        seed: of the run.

    Returns:
        uint8, the same shape and kind.

    Raises:
        DataError: if it is no such picture.
    """
    levels = _picture(image)
    noise = np.random.RandomState(seed + index).normal(0, level, tuple(levels.shape)).astype(np.float32)
    noisy = levels.float().cpu() + torch.from_numpy(noise) * 255
    return same_kind(noisy.clamp(0, 255).to(torch.uint8).to(levels.device), image)


def se_apply(image: ArrayT, rotation: int, scale: float) -> ArrayT:
    """Scale a picture (bilinear, no antialiasing, to int(side * scale)), then turn it counter-clockwise.

    Args:
        image: uint8, (H, W, 3).
        rotation: degrees, a multiple of 90.
        scale: factor above 0.

    Returns:
        float32, (3, H', W'), within [-1, 1].

    Raises:
        DataError: if it is no such picture, turn or scale.
    """
    if rotation % 90 or not scale > 0:
        raise DataError(f"picture turned by {rotation} degrees, scaled by {scale}: expected quarter turns, above 0")
    x = images.to_float(_picture(image).permute(2, 0, 1)[None])
    if scale != 1:
        size = int(x.shape[-2] * scale), int(x.shape[-1] * scale)
        x = F.interpolate(x, size, mode="bilinear", align_corners=False)
    return same_kind(torch.rot90(x[0], rotation // 90, (-2, -1)).contiguous(), image)


def _picture(image: ArrayT) -> Tensor:
    levels = image if isinstance(image, Tensor) else torch.from_numpy(np.array(image))
    if levels.dtype != torch.uint8 or levels.ndim != 3 or levels.shape[-1] != 3:
        raise DataError(f"picture: {levels.dtype} {tuple(levels.shape)}; expected uint8 (H, W, 3)")
    return levels
