"""The residual block of MaskGIT's VQGAN, which MaskBit and TiTok's first generation share.

Source: markweberdev/maskbit, modeling/modules/autoencoder.py
Commit: 5ea3d733c62625eaf86dab8364bdb7e6e71def99
Licence: Apache-2.0
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from vtbench.networks._taming import norm
from vtbench.types import Strict


class Widths(Strict):
    """The numbers of a convolutional half."""

    channels: int = Field(default=128, multiple_of=32)
    """Width at full resolution."""
    multipliers: Annotated[tuple[int, ...], Field(strict=False, min_length=1)] = (1, 1, 2, 2, 4)
    """Width of each level over `channels`, from full resolution down; each but the last halves the sides."""
    blocks: int = Field(default=2, ge=1)
    """Residual blocks of every level and of the middle."""

    @property
    def widths(self) -> list[int]:
        """Channels of each level, from full resolution down."""
        return [self.channels * multiplier for multiplier in self.multipliers]


class ResidualBlock(nn.Module):
    """Two normalised convolutions without biases.

    Where the width changes there is no skip: the published block adds a 1x1 convolution of its own result instead of
    one of its input, and the published weights were trained so.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm1 = norm(before)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.norm2 = norm(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.nin_shortcut = None if before == after else nn.Conv2d(after, after, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the sides: (B, before, H, W) -> (B, after, H, W)."""
        h: Tensor = self.conv1(F.silu(self.norm1(x), inplace=True))
        h = self.conv2(F.silu(self.norm2(h), inplace=True))
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(h))


def residual_blocks(before: int, after: int, count: int) -> list[ResidualBlock]:
    """A chain of blocks of one resolution; the first changes the width."""
    return [ResidualBlock(after if index else before, after) for index in range(count)]
