"""PSNR, SSIM, MS-SSIM, CIEDE2000, GMSD and HaarPSI: how close the pixels are, by formulas without a trained network.

Each takes two uint8 batches (B, 3, H, W), the reference first, and returns one float64 value a picture, computed on the
batch's device. All are symmetric: swapping the two pictures changes nothing but rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vtbench.errors import DataError

Window = Literal["gaussian-11", "uniform-7"]
Array = np.ndarray[Any, np.dtype[Any]]

_GAUSSIAN = tuple(math.exp(-0.5 * (offset / 1.5) ** 2) for offset in range(-5, 6))

_WINDOWS: dict[Window, tuple[tuple[float, ...], float]] = {
    "gaussian-11": (tuple(tap / sum(_GAUSSIAN) for tap in _GAUSSIAN), 1.0),
    "uniform-7": ((1 / 7,) * 7, 49 / 48),
}
"""SSIM's windows: the taps along one side, and what their covariances are multiplied with (n / (n - 1) or nothing)."""

_C1 = (0.01 * 255) ** 2
_C2 = (0.03 * 255) ** 2

_STRIP_PIXELS = 32_768
"""How much of one channel SSIM takes at a time on a CPU: its maps then stay in the cache."""

_BLOCK = 8
"""Rows, and then columns, of filtered pixels that one small matrix product makes; the fastest of those tried."""

_MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales, finest first: Wang, Simoncelli and Bovik 2003, section 3.2."""

_MS_SSIM_SMALLEST = 10 * 2 ** (len(_MS_SSIM_WEIGHTS) - 1) + 1
"""161: four halvings, each rounded up, leave the 11 pixels that the window needs."""

_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
"""RGB to NTSC's YIQ; its first row is the luma of ITU-R BT.601."""

_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
"""Linear sRGB to CIE XYZ (Rec. 709 primaries), as scikit-image has it."""

_WHITE = (0.95047, 1.0, 1.08883)
"""D65, seen by the 2 degree observer."""


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
    if reference.is_cuda:
        squares = (reference.double() - reconstruction.double()).square_().sum(dim=(1, 2, 3))
    else:
        import cv2  # sums squares of whole numbers without rounding, seven times as fast as NumPy

        pairs = zip(reference.flatten(1).numpy(), reconstruction.flatten(1).numpy(), strict=True)
        squares = torch.tensor([cv2.norm(x, y, cv2.NORM_L2SQR) for x, y in pairs], dtype=torch.float64)
    return 10.0 * torch.log10(255.0**2 * reference[0].numel() / squares)


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
    if window not in _WINDOWS:
        raise DataError(f'SSIM with window "{window}": expected one of {", ".join(_WINDOWS)}')
    _check_side(reference, "SSIM", len(_WINDOWS[window][0]))
    return _ssim_means(reference, reconstruction, window)[0].mean(dim=1)


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
    x, y = reference, reconstruction
    total = torch.ones(x.shape[:2], dtype=torch.float64, device=x.device)  # (B, 3)
    last = len(_MS_SSIM_WEIGHTS) - 1
    for scale, weight in enumerate(_MS_SSIM_WEIGHTS):
        similarity, structure = _ssim_means(x, y, "gaussian-11")
        term = similarity if scale == last else structure
        total = total * term.clamp(min=0.0) ** weight
        if scale < last:
            # Rounded up: the part of a window that lies outside is left out of its mean, which equals mirroring.
            x, y = (F.avg_pool2d(side.double(), 2, ceil_mode=True) for side in (x, y))
    return total.mean(dim=1)


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
    _check_side(reference, "GMSD", 2)
    rows = torch.tensor([[1.0], [0.0], [-1.0]], dtype=torch.float64, device=reference.device).expand(3, 3) / 3.0
    kernels = torch.stack([rows, rows.T])[:, None]  # (2, 1, 3, 3)

    def gradient(picture: Tensor) -> Tensor:
        luma = _halve(_yiq(picture[None])[:, :1])
        return F.conv2d(luma, kernels, padding=1).square().sum(dim=1).sqrt()

    pairs = zip(reference, reconstruction, strict=True)
    maps = (_dice(gradient(x), gradient(y), 170.0) for x, y in pairs)
    return torch.stack([similarity.std(correction=0) for similarity in maps])


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
    _check_side(reference, "HaarPSI", 16)
    pairs = zip(reference, reconstruction, strict=True)
    return torch.stack([_haarpsi_of(_halve(_yiq(x[None])), _halve(_yiq(y[None]))) for x, y in pairs])


def _check_side(images: Tensor, metric: str, smallest: int) -> None:
    height, width = images.shape[-2:]
    if min(height, width) < smallest:
        raise DataError(f"{metric} of {width}x{height} pixels: its window needs at least {smallest}x{smallest}")


# --- SSIM -------------------------------------------------------------------------------------------------------------


def _ssim_means(x: Tensor, y: Tensor, window: Window) -> tuple[Tensor, Tensor]:
    """Mean SSIM and mean contrast-structure term of each channel, over the pixels with a whole window.

    Both follow from sum and difference of the two pictures, s = x + y and d = x - y: 2 mx my = (ms^2 - md^2) / 2,
    mx^2 + my^2 = (ms^2 + md^2) / 2, and the same for the covariances. That takes four filtered maps in place of five.
    float64 throughout: in float32 the variance of a bright flat area is lost in E[s^2] - E[s]^2.

    Args:
        x: (B, 3, H, W), uint8 or float64.
        y: the same.
        window: a name of _WINDOWS.

    Returns:
        two float64 tensors, (B, 3).
    """
    taps, unbiased = _WINDOWS[window]
    if not x.is_cuda:
        strips = _Strips(x.shape[-2], x.shape[-1], taps, unbiased)
        planes = zip(x.flatten(0, 1).numpy(), y.flatten(0, 1).numpy(), strict=True)
        means = torch.tensor([strips.means(first, second) for first, second in planes], dtype=torch.float64)
    else:
        # A picture at a time: enough work for a GPU, and memory that doesn't grow with the batch.
        means = torch.cat([_ssim_means_at_once(*pair, taps, unbiased) for pair in zip(x, y, strict=True)])
    return means[:, 0].view(x.shape[:2]), means[:, 1].view(x.shape[:2])


def _ssim_means_at_once(x: Tensor, y: Tensor, taps: Sequence[float], unbiased: float) -> Tensor:
    """Do what `_Strips.means` does for several planes (N, H, W) with few large operations; returns (N, 2)."""
    first, second = x.double(), y.double()
    maps = torch.stack((first + second, first - second))  # (2, N, H, W)
    means = _filter(maps, taps).square_()
    spreads = _filter(maps.square_(), taps).sub_(means).mul_(unbiased)
    (mean_s, mean_d), (spread_s, spread_d) = means, spreads
    structure = (spread_s - spread_d + 2 * _C2) / (spread_s + spread_d + 2 * _C2)
    luminance = (mean_s - mean_d + 2 * _C1) / (mean_s + mean_d + 2 * _C1)
    return torch.stack([(luminance * structure).mean(dim=(1, 2)), structure.mean(dim=(1, 2))], dim=1)


def filter_axis(maps: Tensor, taps: Sequence[float], axis: int) -> Tensor:
    """Correlate along one axis where the whole window lies within the map, which shrinks by one less than the taps.

    Shifted sums: torch's float64 convolution of one channel takes 15 times as long on a CPU.
    """
    length = maps.shape[axis] - len(taps) + 1
    total = maps.narrow(axis, 0, length) * taps[0]
    for start, tap in enumerate(taps[1:], start=1):
        total.add_(maps.narrow(axis, start, length), alpha=tap)
    return total


def _filter(maps: Tensor, taps: Sequence[float]) -> Tensor:
    return filter_axis(filter_axis(maps, taps, -2), taps, -1)


class _Strips:
    """SSIM of planes of one size on a CPU: strip by strip, filtered by small matrix products, in buffers made once.

    A filter of n taps over b pixels is the product with a b x (b + n - 1) band matrix. Part of the band is zeros, and
    yet BLAS is through with it four times sooner than shifted sums are, which pass over memory once a tap. NumPy's
    `matmul` takes blocks that overlap in memory as they lie; torch's float64 products take twice as long here.
    """

    def __init__(self, height: int, width: int, taps: Sequence[float], unbiased: float) -> None:
        self.margin = len(taps) - 1
        self.height, self.width = height - self.margin, width - self.margin
        self.unbiased = unbiased
        wanted = min(self.height, _STRIP_PIXELS // width)
        blocks = max(1, -(-wanted // _BLOCK))
        self.rows = blocks * _BLOCK
        self.columns = -(-self.width // _BLOCK)
        wide = self.columns * _BLOCK + self.margin
        self.band = np.zeros((_BLOCK, _BLOCK + self.margin))
        for row in range(_BLOCK):
            self.band[row, row : row + len(taps)] = taps
        # The four maps s, d, s^2, d^2 lie side by side in each row. What no pixel fills stays 0.
        self.maps = np.zeros((self.rows + self.margin, 4, wide))
        self.slabs = _windows(
            self.maps.reshape(-1), (blocks, _BLOCK * 4 * wide), (_BLOCK + self.margin, 4 * wide), 4 * wide
        )
        self.first = np.empty((blocks, _BLOCK, 4 * wide))
        self.sides = [
            _windows(
                self.first.reshape(-1)[index * wide :],
                (self.columns, _BLOCK),
                (self.rows, _BLOCK + self.margin),
                4 * wide,
            )
            for index in range(4)
        ]
        self.second = np.empty((4, self.columns, self.rows, _BLOCK))

    def means(self, x: Array, y: Array) -> tuple[float, float]:
        """Mean SSIM and mean contrast-structure term of two planes (H, W)."""
        sums = [0.0, 0.0]
        rest = self.width - (self.columns - 1) * _BLOCK
        for top in range(0, self.height, self.rows):
            rows = min(self.rows, self.height - top)
            strip = slice(top, top + rows + self.margin)
            structure, similarity = self._terms(x[strip], y[strip])
            for index, term in enumerate((similarity, structure)):
                sums[index] += float(term[:-1, :rows].sum()) + float(term[-1, :rows, :rest].sum())
        count = self.height * self.width
        return sums[0] / count, sums[1] / count

    def _terms(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Structure and SSIM at each pixel, (columns, rows, 8), in the buffers, which the next call overwrites."""
        rows, width = x.shape
        pair, squares = self.maps[:rows, :2, :width], self.maps[:rows, 2:, :width]
        squares[:, 0], squares[:, 1] = x, y
        np.add(squares[:, 0], squares[:, 1], out=pair[:, 0])
        np.subtract(squares[:, 0], squares[:, 1], out=pair[:, 1])
        np.multiply(pair, pair, out=squares)
        np.matmul(self.band, self.slabs, out=self.first)
        for side, filtered in zip(self.sides, self.second, strict=True):
            np.matmul(side, self.band.T, out=filtered)
        means, spreads = self.second[:2], self.second[2:]
        np.multiply(means, means, out=means)
        np.subtract(spreads, means, out=spreads)
        if self.unbiased != 1.0:
            np.multiply(spreads, self.unbiased, out=spreads)
        structure = _quotient(spreads, 2 * _C2, self.first.reshape(-1)[: spreads[0].size].reshape(spreads[0].shape))
        similarity = _quotient(means, 2 * _C1, spreads[0])
        return structure, np.multiply(similarity, structure, out=similarity)


def _windows(flat: Array, blocks: tuple[int, int], shape: tuple[int, int], row: int) -> Array:
    """See a vector as (count, height, width): blocks a given step apart, their rows `row` apart; copies nothing."""
    count, step = blocks
    size = flat.itemsize
    return np.lib.stride_tricks.as_strided(flat, (count, *shape), (step * size, row * size, size))


def _quotient(terms: Array, constant: float, out: Array) -> Array:
    """Write (t0 - t1 + constant) / (t0 + t1 + constant) into out; overwrites the terms."""
    np.add(terms[0], constant, out=terms[0])
    np.subtract(terms[0], terms[1], out=out)
    np.add(terms[0], terms[1], out=terms[0])
    np.divide(out, terms[0], out=out)
    return out


# --- colour -----------------------------------------------------------------------------------------------------------


def linear_rgb(images: Tensor) -> Tensor:
    """Undo the sRGB curve (IEC 61966-2-1): uint8 to float64 light within [0, 1], any shape."""
    shares = torch.linspace(0.0, 1.0, 256, dtype=torch.float64, device=images.device)
    light = torch.where(shares > 0.04045, ((shares + 0.055) / 1.055) ** 2.4, shares / 12.92)
    return light[images.long()]


def mix_channels(image: Tensor, matrix: Sequence[Sequence[float]]) -> Tensor:
    """Multiply the colour of each pixel with a matrix: float64 (..., 3, H, W) in and out."""
    mixing = torch.tensor(matrix, dtype=torch.float64, device=image.device)
    return torch.einsum("ij,...jhw->...ihw", mixing, image)


def _lab(image: Tensor) -> Tensor:
    """CIE L*a*b* of a uint8 sRGB picture (3, H, W), float64, with the constants of skimage's rgb2lab."""
    white = torch.tensor(_WHITE, dtype=torch.float64, device=image.device)[:, None, None]
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


# --- GMSD and HaarPSI -------------------------------------------------------------------------------------------------


def _yiq(images: Tensor) -> Tensor:
    return mix_channels(images.double(), _YIQ)


def _halve(images: Tensor) -> Tensor:
    """Average 2 x 2 pixels; an odd last row or column is averaged with zeros."""
    height, width = images.shape[-2:]
    return F.avg_pool2d(F.pad(images, (0, width % 2, 0, height % 2)), 2)


def _dice(x: Tensor, y: Tensor, constant: float) -> Tensor:
    """1 where two magnitudes are equal, towards 0 the more they differ."""
    return (2 * x * y + constant) / (x.square() + y.square() + constant)


def _haarpsi_of(x: Tensor, y: Tensor) -> Tensor:
    """HaarPSI of two halved YIQ pictures (1, 3, H, W), as a float64 scalar."""
    wavelets = [torch.stack([_haar(side[:, :1], scale) for scale in (1, 2, 3)]).abs() for side in (x, y)]
    # (scale, 1, orientation, H, W)
    weights = torch.maximum(wavelets[0][2], wavelets[1][2])[0]
    structure = _dice(wavelets[0][:2], wavelets[1][:2], 30.0).mean(dim=0)[0]
    mean = [F.avg_pool2d(F.pad(side[:, 1:], (0, 1, 0, 1)), 2, stride=1).abs() for side in (x, y)]
    colour = _dice(mean[0], mean[1], 30.0)[0].mean(dim=0, keepdim=True)
    similarity = torch.cat([structure, colour])  # (3, H, W)
    weights = torch.cat([weights, weights.mean(dim=0, keepdim=True)])
    total = weights.sum()
    if total == 0:
        return torch.ones_like(total)
    score = (torch.sigmoid(4.2 * similarity) * weights).sum() / total
    return (torch.logit(score) / 4.2) ** 2


def _haar(plane: Tensor, scale: int) -> Tensor:
    """Haar coefficients of one scale in both orientations, (1, 1, H, W) to (1, 2, H, W), zeros outside."""
    side = 2**scale
    step = torch.full((side, side), 1.0 / side, dtype=torch.float64, device=plane.device)
    step[side // 2 :] *= -1.0
    padded = F.pad(plane, (side // 2 - 1, side // 2, side // 2 - 1, side // 2))
    return F.conv2d(padded, torch.stack([step, step.T])[:, None])
