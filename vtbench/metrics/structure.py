"""SSIM and MS-SSIM: how alike two pictures' local means, contrasts and structures are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor
from torch.nn import functional as F

from vtbench.errors import DataError
from vtbench.metrics.filters import filter_axis
from vtbench.metrics.pairs import check_pair, check_side

Window = Literal["gaussian-11", "uniform-7"]
Border = Literal["valid", "mirror"]
Array = np.ndarray[Any, np.dtype[Any]]

_GAUSSIAN = tuple(math.exp(-0.5 * (offset / 1.5) ** 2) for offset in range(-5, 6))

_WINDOWS: dict[Window, tuple[tuple[float, ...], float]] = {
    "gaussian-11": (tuple(tap / sum(_GAUSSIAN) for tap in _GAUSSIAN), 1.0),
    "uniform-7": ((1 / 7,) * 7, 49 / 48),
}
"""SSIM's windows: the taps along one side, and what their covariances are multiplied with (n / (n - 1) or nothing)."""

_STRIP_PIXELS = 32_768
"""How much of one channel SSIM takes at a time on a CPU: its maps then stay in the cache."""

_BLOCK = 8
"""Rows, and then columns, of filtered pixels that one small matrix product makes; the fastest of those tried."""

_MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales, finest first: Wang, Simoncelli and Bovik 2003, section 3.2."""

_MS_SSIM_SMALLEST = 10 * 2 ** (len(_MS_SSIM_WEIGHTS) - 1) + 1
"""161: four halvings, each rounded up, leave the 11 pixels that the window needs."""


def ssim(reference: Tensor, reconstruction: Tensor, *, window: Window = "gaussian-11") -> Tensor:
    """Structural similarity: 1 for equal pictures, mean over the pixels of each channel, then over channels.

    Only pixels whose window lies within the picture count. Data range 255.

    "gaussian-11" is Wang et al. 2004: 11 taps of sigma 1.5, population covariance. Equal to skimage's
    structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255,
    channel_axis=-1). "uniform-7" is skimage's default, which much published code runs: a flat 7 x 7 window and sample
    covariance, structural_similarity(data_range=255, channel_axis=-1).

    Args:
        reference: uint8, (B, 3, H, W), at least as many pixels a side as the window.
        reconstruction: uint8, the same shape.
        window: which of the two.

    Returns:
        float64, (B,).

    Raises:
        DataError: if the two are not uint8 batches of one shape, or too small, or the window is unknown.
    """
    check_pair(reference, reconstruction)
    return ssim_of(reference, reconstruction, window=window, border="valid", data_range=255.0)


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
    check_side(reference, "MS-SSIM", _MS_SSIM_SMALLEST)
    x, y = reference, reconstruction
    total = torch.ones(x.shape[:2], dtype=torch.float64, device=x.device)  # (B, 3)
    last = len(_MS_SSIM_WEIGHTS) - 1
    for scale, weight in enumerate(_MS_SSIM_WEIGHTS):
        similarity, structure = _means(x, y, "gaussian-11", 255.0)
        term = similarity if scale == last else structure
        total = total * term.clamp(min=0.0) ** weight
        if scale < last:
            # Rounded up: the part of a window that lies outside is left out of its mean, which equals mirroring.
            x, y = (F.avg_pool2d(side.double(), 2, ceil_mode=True) for side in (x, y))
    return total.mean(dim=1)


def ssim_of(x: Tensor, y: Tensor, *, window: Window, border: Border, data_range: float) -> Tensor:
    """Structural similarity of any pictures, under a window, a border and a range: what protocols differ in.

    Args:
        x: uint8 or float, (..., 3, H, W).
        y: the same shape, type and device.
        window: "gaussian-11" or "uniform-7", as `ssim` has them.
        border: "valid" counts the pixels whose window lies within the picture; "mirror" counts all, and continues the
            picture by its mirror image, whose axis is the outermost pixel (scipy's "mirror").
        data_range: what lies between black and white; scales the constants 0.01 and 0.03.

    Returns:
        float64, (...): the mean over pixels, then over channels.

    Raises:
        DataError: if the window or the border is unknown, or does not fit into the picture.
    """
    if window not in _WINDOWS:
        raise DataError(f'SSIM with window "{window}": expected one of {", ".join(_WINDOWS)}')
    side = len(_WINDOWS[window][0])
    if border == "mirror":
        x, y = (_mirrored(picture, side // 2) for picture in (x, y))
    elif border != "valid":
        raise DataError(f'SSIM with border "{border}": expected valid or mirror')
    check_side(x, "SSIM", side)
    first, second = (picture.reshape(-1, *picture.shape[-3:]) for picture in (x, y))
    return _means(first, second, window, data_range)[0].mean(dim=1).view(x.shape[:-3])


def _mirrored(picture: Tensor, radius: int) -> Tensor:
    for axis in (-2, -1):
        last = picture.shape[axis] - 1
        places = torch.arange(-radius, last + 1 + radius, device=picture.device) % max(1, 2 * last)
        picture = picture.index_select(axis, last - (last - places).abs())
    return picture


def _means(x: Tensor, y: Tensor, window: Window, data_range: float) -> tuple[Tensor, Tensor]:
    """Mean SSIM and mean contrast-structure term of each channel, over the pixels with a whole window.

    Both follow from sum and difference of the two pictures, s = x + y and d = x - y: 2 mx my = (ms^2 - md^2) / 2,
    mx^2 + my^2 = (ms^2 + md^2) / 2, and the same for the covariances. That takes four filtered maps in place of five.
    float64 throughout: in float32 the variance of a bright flat area is lost in E[s^2] - E[s]^2.

    Args:
        x: (B, C, H, W), uint8 or float.
        y: the same.
        window: a name of _WINDOWS.
        data_range: as `ssim_of` has it.

    Returns:
        two float64 tensors, (B, C).
    """
    taps, unbiased = _WINDOWS[window]
    constants = 2 * (0.01 * data_range) ** 2, 2 * (0.03 * data_range) ** 2
    if x.device.type == "cpu":
        strips = _Strips(x.shape[-2], x.shape[-1], taps, unbiased, constants)
        planes = zip(x.flatten(0, 1).numpy(), y.flatten(0, 1).numpy(), strict=True)
        means = torch.from_numpy(np.array([strips.means(first, second) for first, second in planes]))
    else:
        # A picture at a time: enough work for a GPU, and memory that doesn't grow with the batch.
        means = torch.cat([_means_at_once(*pair, taps, unbiased, constants) for pair in zip(x, y, strict=True)])
    return means[:, 0].view(x.shape[:2]), means[:, 1].view(x.shape[:2])


def _means_at_once(
    x: Tensor, y: Tensor, taps: Sequence[float], unbiased: float, constants: tuple[float, float]
) -> Tensor:
    """Do what `_Strips.means` does for several planes (N, H, W) with few large operations; returns (N, 2)."""
    first, second = x.double(), y.double()
    maps = torch.stack((first + second, first - second))  # (2, N, H, W)
    means, spreads = (filter_axis(filter_axis(side, taps, -2), taps, -1) for side in (maps, maps.square()))
    means = means.square_()
    (mean_s, mean_d), (spread_s, spread_d) = means, spreads.sub_(means).mul_(unbiased)
    structure = (spread_s - spread_d + constants[1]) / (spread_s + spread_d + constants[1])
    luminance = (mean_s - mean_d + constants[0]) / (mean_s + mean_d + constants[0])
    return torch.stack([(luminance * structure).mean(dim=(1, 2)), structure.mean(dim=(1, 2))], dim=1)


class _Strips:
    """SSIM of planes of one size on a CPU: strip by strip, filtered by small matrix products, in buffers made once.

    A filter of n taps over b pixels is the product with a b x (b + n - 1) band matrix. Part of the band is zeros, and
    yet BLAS is through with it sooner than any other filter of float64 that was tried: OpenCV's separable one (which
    has no vector instructions for it) makes SSIM take 1.3 to 1.6 times as long, shifted sums four times. NumPy's
    `matmul` takes blocks that overlap in memory as they lie; torch's float64 products take twice as long here.
    """

    def __init__(
        self, height: int, width: int, taps: Sequence[float], unbiased: float, constants: tuple[float, float]
    ) -> None:
        self.margin = len(taps) - 1
        self.height, self.width = height - self.margin, width - self.margin
        self.unbiased, self.constants = unbiased, constants
        blocks, self.columns = max(1, min(self.height, _STRIP_PIXELS // width) // _BLOCK), -(-self.width // _BLOCK)
        self.rows, wide = blocks * _BLOCK, self.columns * _BLOCK + self.margin
        reach = _BLOCK + self.margin
        self.band = np.zeros((_BLOCK, reach))
        for row in range(_BLOCK):
            self.band[row, row : row + len(taps)] = taps
        # The four maps s, d, s^2, d^2. What no pixel fills stays 0.
        self.maps = np.zeros((4, self.rows + self.margin, wide))
        self.slabs = sliding_window_view(self.maps, reach, axis=1)[:, ::_BLOCK].swapaxes(2, 3)
        self.first = np.empty((4, blocks, _BLOCK, wide))
        filtered = self.first.reshape(4, self.rows, wide)
        self.sides = sliding_window_view(filtered, reach, axis=2)[:, :, ::_BLOCK].swapaxes(1, 2)
        self.second = np.empty((4, self.columns, self.rows, _BLOCK))

    def means(self, x: Array, y: Array) -> Array:
        """Mean SSIM and mean contrast-structure term of two planes (H, W): (2,)."""
        sums, rest = np.zeros(2), self.width - (self.columns - 1) * _BLOCK
        for top in range(0, self.height, self.rows):
            rows = min(self.rows, self.height - top)
            strip = slice(top, top + rows + self.margin)
            terms = self._terms(x[strip], y[strip])
            sums += [term[:-1, :rows].sum() + term[-1, :rows, :rest].sum() for term in terms]
        return sums / (self.height * self.width)

    def _terms(self, x: Array, y: Array) -> tuple[Array, Array]:
        """SSIM and structure at each pixel, (columns, rows, 8), in the buffers, which the next call overwrites."""
        pair, squares = self.maps[:2, : len(x), : x.shape[1]], self.maps[2:, : len(x), : x.shape[1]]
        squares[0], squares[1] = x, y
        np.add(squares[0], squares[1], out=pair[0])
        np.subtract(squares[0], squares[1], out=pair[1])
        np.multiply(pair, pair, out=squares)
        np.matmul(self.band, self.slabs, out=self.first)
        np.matmul(self.sides, self.band.T, out=self.second)
        means, spreads = self.second[:2], self.second[2:]
        means *= means
        spreads -= means
        if self.unbiased != 1.0:
            spreads *= self.unbiased
        structure = _quotient(spreads, self.constants[1])
        similarity = _quotient(means, self.constants[0])
        similarity *= structure
        return similarity, structure


def _quotient(terms: Array, constant: float) -> Array:
    """(t0 - t1 + constant) / (t0 + t1 + constant); overwrites t0, to pass over memory less often."""
    terms[0] += constant
    quotient: Array = terms[0] - terms[1]
    terms[0] += terms[1]
    quotient /= terms[0]
    return quotient
