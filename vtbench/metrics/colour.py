"""CIEDE2000, and the spaces of colour that metrics look at: linear light, CIE XYZ, L*a*b*, YIQ."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vtbench.device import constant
from vtbench.metrics.pairs import check_pair

_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
"""RGB to NTSC's YIQ; its first row is the luma of ITU-R BT.601."""

_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
"""Linear sRGB to CIE XYZ (Rec. 709 primaries), as scikit-image has it."""

_WHITE = (0.95047, 1.0, 1.08883)
"""D65, seen by the 2 degree observer."""


def ciede2000(reference: Tensor, reconstruction: Tensor) -> Tensor:
    """Colour error: the mean over pixels of the CIEDE2000 difference; about 1 is just visible, 0 for equal pictures.

    Sharma, Wu and Dalal 2005, all weights 1; pixels are sRGB under D65. Equal to the mean of skimage's
    deltaE_ciede2000(rgb2lab(reference), rgb2lab(reconstruction)).

    Args:
        reference: uint8, (B, 3, H, W).
        reconstruction: uint8, the same shape.

    Returns:
        float64, (B,).

    Raises:
        DataError: if the two are not uint8 batches of one shape.
    """
    check_pair(reference, reconstruction)
    pairs = zip(reference, reconstruction, strict=True)  # one at a time: it takes some thirty maps of float64
    return torch.stack([_ciede2000_map(_lab(x), _lab(y)).mean() for x, y in pairs])


def linear_rgb(images: Tensor) -> Tensor:
    """Undo the sRGB curve (IEC 61966-2-1): uint8 to float64 light within [0, 1], any shape."""
    shares = torch.linspace(0.0, 1.0, 256, dtype=torch.float64, device=images.device)
    light = torch.where(shares > 0.04045, ((shares + 0.055) / 1.055) ** 2.4, shares / 12.92)
    return light[images.long()]


def mix_channels(image: Tensor, matrix: Sequence[Sequence[float]]) -> Tensor:
    """Multiply the colour of each pixel with a matrix: float64 (..., 3, H, W) in and out."""
    mixing = constant(matrix, image.device)
    return torch.einsum("ij,...jhw->...ihw", mixing, image)


def yiq(images: Tensor) -> Tensor:
    """Turn uint8 sRGB (..., 3, H, W) into NTSC's YIQ on the scale of 0 to 255: float64, the same shape."""
    return mix_channels(images.double(), _YIQ)


def _lab(image: Tensor) -> Tensor:
    """CIE L*a*b* of a uint8 sRGB picture (3, H, W), float64, with the constants of skimage's rgb2lab."""
    white = constant(_WHITE, image.device)[:, None, None]
    relative = mix_channels(linear_rgb(image), _XYZ) / white
    x, y, z = torch.where(relative > 0.008856, relative ** (1 / 3), 7.787 * relative + 16 / 116)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def _ciede2000_map(first: Tensor, second: Tensor) -> Tensor:
    """Difference of two L*a*b* pictures (3, H, W) at each pixel; numbers in brackets are Sharma's equations."""
    chroma = (first[1:].square().sum(dim=0).sqrt() + second[1:].square().sum(dim=0).sqrt()) / 2  # [3]
    lift = 1.5 - 0.5 * (chroma**7 / (chroma**7 + 25.0**7)).sqrt()  # 1 + G [4]
    a1, a2 = first[1] * lift, second[1] * lift  # [5]
    chroma1, chroma2 = torch.hypot(a1, first[2]), torch.hypot(a2, second[2])  # [6]
    hue1, hue2 = torch.atan2(first[2], a1) % math.tau, torch.atan2(second[2], a2) % math.tau  # [7]
    grey = chroma1 * chroma2 == 0
    turn = hue2 - hue1
    turn = torch.where(turn > math.pi, turn - math.tau, torch.where(turn < -math.pi, turn + math.tau, turn))
    turn = turn.masked_fill(grey, 0.0)  # [10]
    lightness_gap, chroma_gap = second[0] - first[0], chroma2 - chroma1  # [8, 9]
    hue_gap = 2 * (chroma1 * chroma2).sqrt() * torch.sin(turn / 2)  # [11]

    lightness, chroma = (first[0] + second[0]) / 2, (chroma1 + chroma2) / 2  # [12, 13]
    total = hue1 + hue2
    opposite = (hue1 - hue2).abs() > math.pi
    hue = torch.where(opposite, torch.where(total < math.tau, total + math.tau, total - math.tau), total) / 2
    hue = torch.where(grey, total, hue)  # [14]
    bend = 1 - 0.17 * torch.cos(hue - math.radians(30)) + 0.24 * torch.cos(2 * hue)
    bend = bend + 0.32 * torch.cos(3 * hue + math.radians(6)) - 0.20 * torch.cos(4 * hue - math.radians(63))  # [15]
    away = (lightness - 50).square()
    lightness_scale = 1 + 0.015 * away / (20 + away).sqrt()  # [18]
    chroma_scale, hue_scale = 1 + 0.045 * chroma, 1 + 0.015 * chroma * bend  # [19, 20]
    blue = torch.exp(-((torch.rad2deg(hue) - 275) / 25).square())
    rotation = -2 * (chroma**7 / (chroma**7 + 25.0**7)).sqrt() * torch.sin(math.radians(60) * blue)  # [16, 17, 21]
    lightness_term = lightness_gap / lightness_scale
    chroma_term, hue_term = chroma_gap / chroma_scale, hue_gap / hue_scale
    squares = lightness_term.square() + chroma_term.square() + hue_term.square() + rotation * chroma_term * hue_term
    return squares.clamp(min=0.0).sqrt()  # [22]
