"""Mosaic: each block of pixels becomes its mean colour, and the colour one of levels³ codes. It has no weights."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from vtbench.types import Codes, Strict


class Config(Strict):
    """What stands behind [config] on a card."""

    factor: int = Field(ge=1)
    """Side of a block in pixels."""
    levels: int = Field(ge=2)
    """Levels of each colour channel."""


class Network(nn.Module):
    """Encodes to one index a block, red in the lowest digit."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.factor, self.levels = config.factor, config.levels

    def encode(self, x: Tensor) -> Codes:
        """Encode pictures (B, 3, H, W) in [0, 1]; H and W are multiples of the factor."""
        digits = (F.avg_pool2d(x, self.factor) * (self.levels - 1)).round().long()
        red, green, blue = digits.clamp(0, self.levels - 1).unbind(1)
        indices = red + self.levels * (green + self.levels * blue)  # (B, H / factor, W / factor)
        return Codes(indices=(indices,), codebook_sizes=(self.levels**3,))

    def decode(self, codes: Codes) -> Tensor:
        """Decode to pictures (B, 3, H, W) in [0, 1]."""
        (indices,) = codes.indices
        digits = torch.stack([indices // self.levels**channel % self.levels for channel in range(3)], 1)
        return F.interpolate(digits.float() / (self.levels - 1), scale_factor=self.factor)
