"""Chroma error: how far colours move, whatever the brightness does. A metric of a pair is a function and a line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtbench.catalogue import Metric

if TYPE_CHECKING:  # `vtbench list` reads this file, and needs no torch for it
    from torch import Tensor

METRIC = Metric(
    "chroma_error",
    "chroma error",
    "lower",
    2,
    "mean absolute difference of Cb and Cr (ITU-R BT.601) in levels",
    function="vtbench_example.chroma:chroma_error",
)


def chroma_error(reference: Tensor, reconstruction: Tensor) -> Tensor:
    """Mean absolute difference of Cb and Cr by ITU-R BT.601, in levels: 0 for equal colours, at most 255.

    Args:
        reference: uint8, (B, 3, H, W).
        reconstruction: uint8, the same shape and device.

    Returns:
        float64, (B,).
    """
    red, green, blue = (reference.double() - reconstruction.double()).unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return (((blue - luma) / 1.772).abs() + ((red - luma) / 1.402).abs()).mean((1, 2)) / 2
