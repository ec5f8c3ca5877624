"""FLIP: the difference that is seen when two pictures are flipped in place."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vtbench.device import constant
from vtbench.metrics.colour import linear_rgb, mix_channels
from vtbench.metrics.filters import filter_axis
from vtbench.metrics.pairs import check_pair

Array = np.ndarray[Any, np.dtype[np.float64]]

PIXELS_PER_DEGREE = 0.7 * (3840 / 0.7) * (math.pi / 180)
"""FLIP's default viewer: 0.7 m from a display 0.7 m and 3840 pixels wide, about 67 pixels in a degree of vision."""

_XYZ = (
    (10135552 / 24577794, 8788810 / 24577794, 4435075 / 24577794),
    (2613072 / 12288897, 8788810 / 12288897, 887015 / 12288897),
    (1425312 / 73733382, 8788810 / 73733382, 70074185 / 73733382),
)
"""FLIP's matrix from linear sRGB to CIE XYZ; white is what it makes of (1, 1, 1)."""

_SENSITIVITY = (
    ((1.0, 0.0047),),
    ((1.0, 0.0053),),
    ((34.1, 0.04), (13.5, 0.025)),
)
"""Contrast sensitivity of the achromatic, red-green and blue-yellow channels: Gaussians by weight and spread."""


def flip(reference: Tensor, reconstruction: Tensor) -> Tensor:
    """FLIP: the difference that is seen when two pictures are flipped in place; 0 for equal pictures, at most 1.

    LDR-FLIP of Andersson et al. 2020, the mean over pixels, for 67 pixels per degree of vision: colour after the
    eye's contrast sensitivity, raised where edges or points appear or vanish. In float64; NVIDIA's own program
    computes in float32. Symmetric.

    Args:
        reference: uint8 sRGB, (B, 3, H, W).
        reconstruction: uint8, the same shape.

    Returns:
        float64, (B,).

    Raises:
        DataError: if the two are not uint8 batches of one shape.
    """
    check_pair(reference, reconstruction)
    # One at a time: its float64 maps of a batch would take gigabytes.
    return torch.stack([_flip_map(x, y).mean() for x, y in zip(reference, reconstruction, strict=True)])


def _flip_map(x: Tensor, y: Tensor) -> Tensor:
    opponents = [_opponent(linear_rgb(side)) for side in (x, y)]
    hues = [_hunt(_seen(side)) for side in opponents]
    extremes = torch.eye(3, dtype=torch.float64, device=x.device)[1:]
    green, blue = _hunt(extremes[..., None, None])
    power, knee, level = 0.7, 0.4, 0.95
    largest = _hyab(green, blue) ** power  # a tensor: its value would have to be waited for
    colour = _hyab(*hues) ** power
    low = level / (knee * largest) * colour
    high = level + (colour - knee * largest) / (largest - knee * largest) * (1.0 - level)
    colour = torch.where(colour < knee * largest, low, high)
    features = [_features((side[0] + 16.0) / 116.0) for side in opponents]
    gap = (features[0] - features[1]).abs().amax(dim=0)
    return colour ** (1.0 - (gap / math.sqrt(2.0)).sqrt())


def _opponent(light: Tensor) -> Tensor:
    """Linear RGB (3, H, W) to YyCxCz, a linear opponent space."""
    x, y, z = mix_channels(light, _XYZ) / _white(light)
    return torch.stack([116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)])


def _white(like: Tensor) -> Tensor:
    return constant([sum(row) for row in _XYZ], like.device)[:, None, None]


def _seen(opponent: Tensor) -> Tensor:
    """Blur each channel as the eye does; returns linear RGB within [0, 1]."""
    widest = max(spread for channel in _SENSITIVITY for _, spread in channel)
    radius = math.ceil(3.0 * math.sqrt(widest / (2.0 * math.pi**2)) * PIXELS_PER_DEGREE)
    degrees = np.arange(-radius, radius + 1) / PIXELS_PER_DEGREE
    blurred = []
    for plane, gaussians in zip(opponent, _SENSITIVITY, strict=True):
        total, weight = torch.zeros_like(plane), 0.0
        for amount, spread in gaussians:  # each is separable, their sum is not
            taps = np.exp(-(math.pi**2) * degrees**2 / spread)
            scale = amount * math.sqrt(math.pi / spread)
            total = total + scale * _correlate(plane, taps, taps)
            weight += scale * float(taps.sum()) ** 2
        blurred.append(total / weight)
    y, x, z = (blurred[0] + 16.0) / 116.0, blurred[1] / 500.0, blurred[2] / 200.0
    xyz = torch.stack([y + x, y, y - z]) * _white(opponent)
    return mix_channels(xyz, np.linalg.inv(_XYZ).tolist()).clamp(0.0, 1.0)


def _hunt(light: Tensor) -> Tensor:
    """L*a*b* of linear RGB (..., 3, H, W), its colours weaker where it is dark."""
    relative = mix_channels(light, _XYZ) / _white(light)
    step = 6 / 29
    x, y, z = torch.where(relative > step**3, relative ** (1 / 3), relative / (3 * step**2) + 4 / 29).unbind(-3)
    lightness = 116.0 * y - 16.0
    return torch.stack([lightness, 5.0 * lightness * (x - y), 2.0 * lightness * (y - z)], dim=-3)


def _hyab(first: Tensor, second: Tensor) -> Tensor:
    gap = first - second
    return gap[0].abs() + torch.hypot(gap[1], gap[2])


def _features(luminance: Tensor) -> Tensor:
    """How much of an edge and of a point each pixel is, (2, H, W)."""
    spread = 0.5 * 0.082 * PIXELS_PER_DEGREE  # the width of edges that the eye picks out, in degrees
    radius = math.ceil(3.0 * spread)
    offsets = np.arange(-radius, radius + 1)
    smooth = np.exp(-(offsets**2) / (2.0 * spread**2))
    found = []
    for along in (-offsets * smooth, (offsets**2 / spread**2 - 1.0) * smooth):
        # The positive taps sum to 1 and the negative ones to -1, over both axes.
        rises, falls = np.maximum(along, 0.0), np.minimum(along, 0.0)
        taps = rises / rises.sum() - falls / falls.sum()
        across = smooth / smooth.sum()
        found.append(torch.hypot(_correlate(luminance, across, taps), _correlate(luminance, taps, across)))
    return torch.stack(found)


def _correlate(plane: Tensor, down: Array, across: Array) -> Tensor:
    """Filter columns with one kernel and rows with another; outside, the border pixel goes on.

    Kernels lie on the host: to read their values from a device would be to wait for it.
    """
    radius = len(down) // 2
    padded = F.pad(plane[None, None], (radius, radius, radius, radius), mode="replicate")
    return filter_axis(filter_axis(padded, down.tolist(), -2), across.tolist(), -1)[0, 0]
