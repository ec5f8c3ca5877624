"""PSNR, SSIM and MS-SSIM: how close the pixels are.

Each takes two uint8 batches (B, 3, H, W), the reference first, and returns one float64 value a picture, computed on the
batch's device. All three are symmetric; data range 255.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from vtbench.errors import DataError

_RADIUS = 5
"""SSIM's Gaussian has 11 taps."""

_SIGMA = 1.5
_C1 = (0.01 * 255) ** 2
_C2 = (0.03 * 255) ** 2

_STRIP_PIXELS = 32_768
"""How much of one channel SSIM takes at a time on a CPU."""

_MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales, finest first: Wang, Simoncelli and Bovik 2003, section 3.2."""

_MS_SSIM_SMALLEST = 2 * _RADIUS * 2 ** (len(_MS_SSIM_WEIGHTS) - 1) + 1
"""161: four halvings, each rounded up, leave the 11 pixels that the window needs."""


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


def psnr(reference: Tensor, reconstruction: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, from the mean over all pixels and channels of one picture.

    10 log10(255^2 / MSE); infinite for equal pictures. Equal to skimage's peak_signal_noise_ratio(data_range=255).

    Args:
        reference: uint8, (B, 3, H, W).
        reconstruction: uint8, the same shape.

    Returns:
        float64, (B,).

    Raises:
        DataError: if the two are not uint8 batches of one shape.
    """
    check_pair(reference, reconstruction)
    # Exact: whole numbers far below 2^53. Picture by picture, which stays in a CPU's cache.
    differences = ((x.short() - y.short()).flatten().double() for x, y in zip(reference, reconstruction, strict=True))
    squares = torch.stack([torch.dot(difference, difference) for difference in differences])
    return 10.0 * torch.log10(255.0**2 * reference[0].numel() / squares)


def ssim(reference: Tensor, reconstruction: Tensor) -> Tensor:
    """Structural similarity: 1 for equal pictures, mean over the pixels of each channel, then over channels.

    Wang et al. 2004: Gaussian window of 11 taps and sigma 1.5, population covariance; only pixels whose window lies
    within the picture count. Equal to skimage's structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=255, channel_axis=-1).

    Args:
        reference: uint8, (B, 3, H, W), at least 11 x 11 pixels.
        reconstruction: uint8, the same shape.

    Returns:
        float64, (B,).

    Raises:
        DataError: if the two are not uint8 batches of one shape, or too small.
    """
    check_pair(reference, reconstruction)
    _check_side(reference, "SSIM", 2 * _RADIUS + 1)
    return torch.stack([_ssim_means(x, y)[0].mean() for x, y in zip(reference, reconstruction, strict=True)])


def ms_ssim(reference: Tensor, reconstruction: Tensor) -> Tensor:
    """Multi-scale structural similarity over five scales: 1 for equal pictures.

    Wang, Simoncelli and Bovik 2003: at each channel the product of the mean contrast-structure terms of the first
    four scales and the mean SSIM of the last, each to the power of its weight (negative means count as 0), then the
    mean over channels. Between scales 2 x 2 pixels are averaged; an odd last row or column is
    averaged with its own mirror image.

    Args:
        reference: uint8, (B, 3, H, W), at least 161 x 161 pixels.
        reconstruction: uint8, the same shape.

    Returns:
        float64, (B,).

    Raises:
        DataError: if the two are not uint8 batches of one shape, or too small.
    """
    check_pair(reference, reconstruction)
    _check_side(reference, "MS-SSIM", _MS_SSIM_SMALLEST)
    return torch.stack([_ms_ssim_of(x, y) for x, y in zip(reference, reconstruction, strict=True)])


def _check_side(images: Tensor, metric: str, smallest: int) -> None:
    height, width = images.shape[-2:]
    if min(height, width) < smallest:
        raise DataError(f"{metric} of {width}x{height} pixels: its window needs at least {smallest}x{smallest}")


def _ms_ssim_of(x: Tensor, y: Tensor) -> Tensor:
    total = torch.ones(3, dtype=torch.float64, device=x.device)
    last = len(_MS_SSIM_WEIGHTS) - 1
    for scale, weight in enumerate(_MS_SSIM_WEIGHTS):
        similarity, structure = _ssim_means(x, y)
        term = similarity if scale == last else structure
        total = total * term.clamp(min=0.0) ** weight
        if scale < last:
            # Rounded up: the part of a window that lies outside is left out of its mean, which equals mirroring.
            x, y = (F.avg_pool2d(side.double(), 2, ceil_mode=True) for side in (x, y))
    return total.mean()


def _ssim_means(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean SSIM and mean contrast-structure term of each channel, over the pixels with a whole window.

    Args:
        x: (3, H, W), uint8 or float64.
        y: the same.

    Returns:
        two float64 tensors, (3,).
    """
    height, width = x.shape[-2] - 2 * _RADIUS, x.shape[-1] - 2 * _RADIUS
    # On a CPU by channel and strip, so that what is computed on stays in its cache: 3 times as fast at 512 px.
    rows = height if x.is_cuda else max(1, _STRIP_PIXELS // x.shape[-1])
    sums = torch.zeros(2, len(x), dtype=torch.float64, device=x.device)
    for channel in range(len(x)):
        for top in range(0, height, rows):
            strip = slice(top, top + rows + 2 * _RADIUS)
            similarity, structure = _ssim_maps(x[channel, strip].double(), y[channel, strip].double())
            sums[0, channel] += similarity.sum()
            sums[1, channel] += structure.sum()
    means = sums / (height * width)
    return means[0], means[1]


def _ssim_maps(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM and its contrast-structure term at every pixel with a whole window.

    Both follow from sum and difference of the two pictures, s = x + y and d = x - y: 2 mx my = (ms^2 - md^2) / 2,
    mx^2 + my^2 = (ms^2 + md^2) / 2, and the same for the covariances. That takes four filtered maps in place of five.
    float64 throughout: in float32 the variance of a bright flat area is lost in E[s^2] - E[s]^2.

    Args:
        x: float64, (H, W).
        y: the same.

    Returns:
        two maps, (H - 10, W - 10).
    """
    maps = torch.stack((x + y, x - y))  # (2, H, W)
    means = _blur(maps).square_()
    spreads = _blur(maps.square_()).sub_(means)
    (mean_s, mean_d), (spread_s, spread_d) = means, spreads
    structure = (spread_s - spread_d + 2 * _C2) / (spread_s + spread_d + 2 * _C2)
    luminance = (mean_s - mean_d + 2 * _C1) / (mean_s + mean_d + 2 * _C1)
    return luminance * structure, structure


def _blur(maps: Tensor) -> Tensor:
    """Filter with the Gaussian window, rows then columns, where the whole window lies within the map.

    Shifted sums: torch's float64 convolution of one channel takes 15 times as long on a CPU.
    """
    taps = [math.exp(-0.5 * (offset / _SIGMA) ** 2) for offset in range(-_RADIUS, _RADIUS + 1)]
    for axis in (-2, -1):
        length = maps.shape[axis] - 2 * _RADIUS
        total = maps.narrow(axis, 0, length) * (taps[0] / sum(taps))
        for start, tap in enumerate(taps[1:], start=1):
            total.add_(maps.narrow(axis, start, length), alpha=tap / sum(taps))
        maps = total
    return maps
