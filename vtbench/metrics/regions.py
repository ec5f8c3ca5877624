"""How the pixels that tokens stand for lie in a picture: does a token keep to one thing, and has each thing a token?

Both compare two partitions of the pixels: the tokens' regions, and the picture's segments (`metrics.segments`). Finer
regions do better by their number alone, so `even_regions` gives a grid of as many to compare with.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from vtbench.errors import DataError

Labels = np.ndarray[Any, np.dtype[np.int64]]


def homogeneity(regions: Labels, segments: Labels) -> float:
    """Share of the pixels that lie in the segment that most of their region lies in, within (0, 1]; higher is better.

    So each region counts by its size: a region of one segment alone counts 1. It is 1 where no region crosses the
    border of a segment. Known as achievable segmentation accuracy (Liu et al., "Entropy Rate Superpixel
    Segmentation", CVPR 2011).

    Args:
        regions: int64, (H, W): the token of each pixel.
        segments: int64, (H, W): the segment of each pixel.

    Raises:
        DataError: if they are not two such maps of one shape.
    """
    shared = _shared(regions, segments)
    return float(shared.max(1).sum() / shared.sum())


def coverage(regions: Labels, segments: Labels) -> float:
    """How well the best region of each segment covers it, within (0, 1]; higher is better.

    The mean over the pixels of the largest intersection over union that the pixel's segment has with a region: 1 where
    the regions are the segments. Known as segmentation covering (Arbeláez et al., "Contour Detection and Hierarchical
    Image Segmentation", TPAMI 33, 2011). Regions that are much finer than the segments score low too.

    Args:
        regions: int64, (H, W): the token of each pixel.
        segments: int64, (H, W): the segment of each pixel.

    Raises:
        DataError: if they are not two such maps of one shape.
    """
    shared = _shared(regions, segments)
    of_regions, of_segments = shared.sum(1, keepdims=True), shared.sum(0, keepdims=True)
    overlap = shared / (of_regions + of_segments - shared)
    return float((overlap.max(0) * of_segments[0]).sum() / shared.sum())


def even_regions(count: int, height: int, width: int) -> Labels:
    """Cut a picture into cells that are as alike and as square as their number allows: what any tokenizer could do.

    The rows are those of about square cells, and rows that differ in their cells differ by one.

    Args:
        count: of cells, at most one a pixel.
        height: of the picture.
        width: of the picture.

    Returns:
        int64, (height, width): the cell of each pixel, row by row.

    Raises:
        DataError: if there are fewer pixels than cells, or no cell.
    """
    if not 1 <= count <= height * width:
        raise DataError(f"{count} cells of {width}x{height} pixels; expected 1 to {height * width}")
    rows = min(max(1, round(math.sqrt(count * height / width))), count, height)
    rows = max(rows, math.ceil(count / width))
    row = np.arange(height) * rows // height
    ends = np.arange(rows + 1) * count // rows  # of the cells of each row
    start, cells = ends[row], ends[row + 1] - ends[row]
    column = np.arange(width)[None, :] * cells[:, None] // width
    found: Labels = (start[:, None] + column).astype(np.int64)
    return found


def _shared(regions: Labels, segments: Labels) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Count the pixels that each region, down, shares with each segment, across; both as far as they have pixels."""
    if regions.shape != segments.shape or regions.ndim != 2 or not regions.size:
        raise DataError(f"regions {regions.shape} and segments {segments.shape}: expected two maps (H, W) of one shape")
    (rows, one), (columns, other) = (np.unique(part, return_inverse=True) for part in (regions, segments))
    counts = np.bincount(one.ravel() * len(columns) + other.ravel(), minlength=len(rows) * len(columns))
    return counts.reshape(len(rows), len(columns)).astype(np.float64)
