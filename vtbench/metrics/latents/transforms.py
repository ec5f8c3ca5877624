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
from vtbench.metrics.latents._arrays import ArrayT, real, same_kind, tensor, whole

ROTATIONS = (0, 90, 180, 270)
SCALES = (1.0, 0.75, 0.5, 0.25)


def se_transforms(count: int, *, seed: int = 42) -> list[tuple[int, float]]:
    """Draw a turn in degrees and a scale for each of `count` pictures, from numpy's legacy generator at seed + number.

    Raises:
        DataError: if the count is below 1, or a number is no seed.
    """
    pairs = []
    for index in range(whole(count, "pictures to draw transforms of", 1)):
        generator = _generator(seed, index)
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
        DataError: if it is no such picture, the level is below 0, or the number is no seed.
    """
    levels = _picture(image)
    if real(level, "standard deviation of the noise") < 0:
        raise DataError(f"standard deviation of the noise: {level}; expected at least 0")
    noise = _generator(seed, index).normal(0, level, tuple(levels.shape)).astype(np.float32)
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
        DataError: if it is no such picture, turn or scale, or nothing of it would be left.
    """
    return same_kind(_moved(images.to_float(_picture(image)), rotation, scale), image)


def se_levels(image: ArrayT, rotation: int, scale: float) -> ArrayT:
    """Move a picture as `se_apply` does, in float64 and rounded to levels, half up: what can be shown as a picture.

    Arguments and errors are those of `se_apply`, whose float32 would leave to chance which way a half is rounded.

    Returns:
        uint8, (3, H', W'), of the image's kind.
    """
    return same_kind(images.to_levels(_moved(_picture(image).double(), rotation, scale)), image)


def _moved(picture: Tensor, rotation: int, scale: float) -> Tensor:
    """Scale and turn a picture in its own type: (H, W, 3) -> (3, H', W')."""
    if whole(rotation, "turn of a picture in degrees") % 90:
        raise DataError(f"picture turned by {rotation} degrees: expected a multiple of 90")
    scale = real(scale, "scale of a picture", above=0)
    x = picture.permute(2, 0, 1)[None]
    if scale != 1:
        size = int(x.shape[-2] * scale), int(x.shape[-1] * scale)
        if min(size) < 1:
            raise DataError(f"picture of {x.shape[-2]}x{x.shape[-1]} scaled by {scale}: expected a pixel to be left")
        x = F.interpolate(x, size, mode="bilinear", align_corners=False)
    return torch.rot90(x[0], rotation // 90, (-2, -1)).contiguous()


def _generator(seed: int, index: int) -> np.random.RandomState:
    return np.random.RandomState(
        whole(whole(seed, "seed", 0) + whole(index, "a picture's number", 0), "seed", 0, 2**32 - 1)
    )


def _picture(image: ArrayT) -> Tensor:
    levels = tensor(image, "picture", "(H, W, 3)")
    if levels.dtype != torch.uint8 or levels.shape[-1] != 3:
        raise DataError(f"picture: {levels.dtype} {tuple(levels.shape)}; expected uint8 (H, W, 3)")
    return levels
