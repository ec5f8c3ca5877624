"""Two controls, the ceiling and the bottom of every task: one keeps every pixel, the other the mean colour alone.

A score that the identity doesn't reach is lost by the task itself; a score that the mean colour reaches is worth
nothing.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from vtbench import images
from vtbench.errors import DataError
from vtbench.types import Codes, Strict

SPAN = (0.0, 255.0)


class Config(Strict):
    """Which of the two."""

    mode: Literal["identity", "mean"]
    """identity: 24 bits a pixel; mean: 24 bits a picture, each channel's mean rounded half up."""


class Network(nn.Module):
    """Has no tensors; the bits of its codes are raw bytes without any header."""

    takes_levels = True

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.mean = config.mode == "mean"

    def encode(self, x: Tensor) -> Codes:
        """Keep the pixels, or their mean: x is uint8, (B, 3, H, W)."""
        levels = x
        if self.mean:
            levels = images.to_uint8(levels.double().mean((2, 3), keepdim=True), SPAN)  # (B, 3, 1, 1)
        size = (x.shape[2], x.shape[3])
        return Codes(bitstream=tuple(picture.cpu().numpy().tobytes() for picture in levels), size=size)

    def decode(self, codes: Codes) -> Tensor:
        """Lay the pixels out again, or fill the size with the one colour: uint8, (B, 3, H, W).

        Raises:
            DataError: if the codes state no size, or one that their bytes don't fill.
        """
        if codes.size is None:
            raise DataError("the codes state no size; the controls need Codes.size, as their encode sets it")
        height, width = codes.size
        shape = (3, 1, 1) if self.mean else (3, height, width)
        expected = shape[0] * shape[1] * shape[2]
        for stream in codes.bitstream:
            if len(stream) != expected:
                raise DataError(f"a control's code has {len(stream)} bytes, expected {expected}; encode it again")
        pictures = [torch.frombuffer(bytearray(stream), dtype=torch.uint8).reshape(shape) for stream in codes.bitstream]
        return torch.stack(pictures).expand(-1, 3, height, width)
