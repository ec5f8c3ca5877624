"""PSNR: how large the error of single pixels is, against the largest value that they can have."""

from __future__ import annotations

import math

import cv2
import torch
from torch import Tensor

from vtbench.metrics.pairs import check_pair


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
    return psnr_of(reference, reconstruction, peak=255.0)


def psnr_of(x: Tensor, y: Tensor, *, peak: float) -> Tensor:
    """PSNR of any pictures, in dB: what protocols differ in is the peak.

    Args:
        x: uint8 or float, (..., 3, H, W).
        y: the same shape, type and device.
        peak: the largest value that a pixel can have.

    Returns:
        float64, (...).
    """
    return decibels(_squares(x, y), peak**2 * x.shape[-3:].numel())


def squared_error(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared error of each picture, over its pixels and channels: arguments and result as of `psnr_of`."""
    return _squares(x, y) / x.shape[-3:].numel()


def decibels(error: Tensor, power: float) -> Tensor:
    """10 log10(power / error), infinite where the error is 0: PSNR, of a mean squared error and the squared peak."""
    return torch.where(error == 0, math.inf, 10.0 * torch.log10(power / error))


def _squares(x: Tensor, y: Tensor) -> Tensor:
    """Sum of the squared differences of each picture, float64."""
    if x.dtype == torch.uint8 and x.device.type == "cpu":
        # OpenCV sums squares of whole numbers to the last digit of float64, seven times as fast as NumPy.
        pairs = zip(*(side.reshape(-1, x.shape[-3:].numel()).numpy() for side in (x, y)), strict=True)
        sums = torch.tensor([cv2.norm(first, second, cv2.NORM_L2SQR) for first, second in pairs], dtype=torch.float64)
        return sums.view(x.shape[:-3])
    return (x.double() - y.double()).square_().sum(dim=(-3, -2, -1))
