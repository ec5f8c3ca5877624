"""Each patch becomes its coordinates along a few learned directions, and each coordinate one of some levels."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vtbench.types import Codes, Strict


class Config(Strict):
    """What stands behind [config] on a card."""

    side: int
    """Side of a patch in pixels."""
    levels: tuple[int, ...]
    """Levels of the coordinate along each direction, the strongest first."""


class Network(nn.Module):
    """Encodes to one index a patch, the strongest direction in the lowest digit."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.side, self.levels = config.side, config.levels
        self.mean = nn.Parameter(torch.zeros(3 * config.side**2))
        self.directions = nn.Parameter(torch.zeros(len(config.levels), 3 * config.side**2))  # orthonormal rows
        self.spread = nn.Parameter(torch.ones(len(config.levels)))  # half the range that the levels cover

    def encode(self, x: Tensor) -> Codes:
        """Encode pictures (B, 3, H, W); H and W are multiples of the side."""
        grid = (x.shape[2] // self.side, x.shape[3] // self.side)
        patches = F.unfold(x, self.side, stride=self.side).mT  # (B, h * w, 3 * side * side)
        along = (patches - self.mean) @ self.directions.T / self.spread  # mostly in [-1, 1]
        index = torch.zeros(along.shape[:2], dtype=torch.int64, device=x.device)
        for place, levels in reversed(list(enumerate(self.levels))):
            steps = (along[..., place] + 1) / 2 * (levels - 1)
            index = index * levels + steps.round().clamp(0, levels - 1).long()
        return Codes(indices=(index.view(-1, *grid),), codebook_sizes=(math.prod(self.levels),))

    def decode(self, codes: Codes) -> Tensor:
        """Decode to pictures (B, 3, H, W)."""
        (index,) = codes.indices
        rest, digits = index.flatten(1), []
        for levels in self.levels:
            digits.append((rest % levels) / (levels - 1) * 2 - 1)
            rest = rest // levels
        patches = torch.stack(digits, -1) * self.spread @ self.directions + self.mean
        size = (index.shape[1] * self.side, index.shape[2] * self.side)
        return F.fold(patches.mT, size, self.side, stride=self.side)
