"""Segments of a picture without any weights: regions of little change, by the minimum spanning forest of its pixels.

Felzenszwalb and Huttenlocher, "Efficient Graph-Based Image Segmentation", IJCV 59 (2004): the pixels are a graph, each
joined to its eight neighbours by an edge as heavy as their colours differ. Edges are taken from the lightest on, and
one joins its two regions where it is no heavier than what either holds within itself, plus SCALE over its size. All
parameters are fixed, and everything is in float64 in a fixed order, so a picture has the same segments everywhere.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from vtbench.errors import DataError

Levels = np.ndarray[Any, np.dtype[np.uint8]]
Labels = np.ndarray[Any, np.dtype[np.int64]]

SIGMA = 0.8
"""Standard deviation in pixels of the Gaussian that takes noise away first, as the authors set it."""

SCALE = 300.0
"""How much segments are drawn together, for levels of 0 to 255: the authors' value for pictures of about this size."""

SMALLEST = 1 / 1024
"""Share of the picture below which a segment is joined to its neighbour of the lightest edge: 8x8 pixels of 256x256."""


def segment(picture: Levels) -> Labels:
    """Cut a picture into segments of little change.

    Args:
        picture: uint8, (H, W, 3).

    Returns:
        int64, (H, W): the segment of each pixel, numbered from 0 in the order in which rows meet them.

    Raises:
        DataError: if it is no such picture.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise DataError(f"segments of {picture.dtype} {picture.shape}: expected uint8 (H, W, 3)")
    height, width = picture.shape[:2]
    first, second, weights = _edges(_smoothed(picture.astype(np.float64)))
    order = np.argsort(weights, kind="stable")
    edges = list(zip(first[order].tolist(), second[order].tolist(), weights[order].tolist(), strict=True))
    forest = _Forest(height * width)
    for one, other, weight in edges:
        a, b = forest.root(one), forest.root(other)
        if a != b and weight <= forest.limit[a] and weight <= forest.limit[b]:
            forest.join(a, b, weight)
    least = SMALLEST * height * width
    for one, other, weight in edges:
        a, b = forest.root(one), forest.root(other)
        if a != b and min(forest.size[a], forest.size[b]) < least:
            forest.join(a, b, weight)
    roots = np.array([forest.root(pixel) for pixel in range(height * width)], dtype=np.int64)
    _, where, numbers = np.unique(roots, return_index=True, return_inverse=True)
    rank = np.empty(len(where), dtype=np.int64)
    rank[np.argsort(where)] = np.arange(len(where))
    return rank[numbers].reshape(height, width)


class _Forest:
    """Sets of pixels that grow together, each with its size and the heaviest edge that may still join it."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))
        self.size = [1] * count
        self.limit = [SCALE] * count

    def root(self, pixel: int) -> int:
        parent = self._parent
        while parent[pixel] != pixel:
            parent[pixel] = parent[parent[pixel]]
            pixel = parent[pixel]
        return pixel

    def join(self, a: int, b: int, weight: float) -> None:
        if self.size[a] < self.size[b]:
            a, b = b, a
        self._parent[b] = a
        self.size[a] += self.size[b]
        # Edges come in rising order, so this one is the heaviest within.
        self.limit[a] = weight + SCALE / self.size[a]


def _smoothed(picture: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Filter both axes with the Gaussian, cut off at four deviations; beyond the border the picture is mirrored."""
    reach = math.ceil(4 * SIGMA)
    taps = [math.exp(-0.5 * (step / SIGMA) ** 2) for step in range(-reach, reach + 1)]
    total = math.fsum(taps)
    for axis in (0, 1):
        margins = [(reach, reach) if axis == own else (0, 0) for own in range(3)]
        padded = np.pad(picture, margins, mode="symmetric")
        length = picture.shape[axis]
        picture = np.zeros_like(picture)
        for start, tap in enumerate(taps):
            picture += np.take(padded, range(start, start + length), axis=axis) * (tap / total)
    return picture


def _edges(picture: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[Labels, Labels, np.ndarray[Any, Any]]:
    """Every pair of neighbours once: both numbers, and the distance of their colours."""
    height, width = picture.shape[:2]
    numbers = np.arange(height * width).reshape(height, width)
    pairs = (
        (np.s_[:, :-1], np.s_[:, 1:]),
        (np.s_[:-1, :], np.s_[1:, :]),
        (np.s_[:-1, :-1], np.s_[1:, 1:]),
        (np.s_[:-1, 1:], np.s_[1:, :-1]),
    )
    found = [
        (numbers[one].ravel(), numbers[other].ravel(), np.sqrt(((picture[one] - picture[other]) ** 2).sum(-1)).ravel())
        for one, other in pairs
    ]
    first, second, weights = (np.concatenate(part) for part in zip(*found, strict=True))
    return first, second, weights
