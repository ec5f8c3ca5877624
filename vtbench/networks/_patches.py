"""Patches whose values are ordered row, column, channel, as several transformers predict and read them."""

from __future__ import annotations

from torch import Tensor


def from_patches(x: Tensor, side: int) -> Tensor:
    """Lay the channels of every position out as a square: (B, side * side * C, h, w) -> (B, C, side h, side w).

    Of a position's channels the colour changes fastest; `F.pixel_shuffle` lets it change slowest.
    """
    batch, channels, height, width = x.shape
    squares = x.view(batch, side, side, channels // side**2, height, width)  # (B, dy, dx, C, h, w)
    return squares.permute(0, 3, 4, 1, 5, 2).reshape(batch, -1, height * side, width * side)


def to_patches(x: Tensor, side: int) -> Tensor:
    """Undo `from_patches`: (B, C, H, W) -> (B, side * side * C, H / side, W / side); H and W multiples of `side`."""
    batch, channels, height, width = x.shape
    squares = x.view(batch, channels, height // side, side, width // side, side)  # (B, C, h, dy, w, dx)
    return squares.permute(0, 3, 5, 1, 2, 4).reshape(batch, -1, height // side, width // side)
