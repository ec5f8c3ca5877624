"""Charts of known detail: edges, gratings, lines, textures and flat fields, so that what a tokenizer loses has a name.

Every pixel follows from a formula in float64 that uses only +, -, *, / and square root, which IEEE 754 defines to the
last bit, and from Philox's raw output where chance is wanted. So the pixels are the same on every machine; the sine
is a polynomial of our own for that reason. Levels are rounded once, half up.

Gratings are sampled at pixel centres. Edges and lines are area-sampled: a pixel's level is the exact share of its
square that the shape covers. Levels are plain sRGB levels; nothing here is linear light.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from vtbench.errors import DataError
from vtbench.types import Sample

Plane = NDArray[np.float64]
"""Levels, (H, W) or (H, W, 3)."""

FREQUENCIES = (1 / 64, 1 / 32, 1 / 16, 1 / 12, 1 / 8, 1 / 6, 1 / 4, 1 / 3, 1 / 2)
"""Cycles a pixel of the nine patches of a grating chart, row by row."""

MIN_SIZE = 64
MID = 127.5
COS_5, SIN_5 = 0.9961946980917455, 0.08715574274765817
COS_20, SIN_20 = 0.9396926207859084, 0.3420201433256687
DIAGONAL = 0.7071067811865476
INK, PAPER = 24.0, 232.0

Draw = Callable[[int], Plane]


class Chart(NamedTuple):
    """One chart: its id, what it is grouped by, what else is known of it, and the formula."""

    id: str
    group: str
    facts: dict[str, str | float]
    draw: Draw


class Source:
    """The charts at any size from 64 pixels up; frequencies and line widths stay, so larger sizes hold more of them."""

    def __init__(self, *, size: int, path: Path | None = None) -> None:
        if path is not None:
            raise DataError(f"detail_chart: draws its own charts and takes no path, got {path}; leave --data out")
        if size < MIN_SIZE:
            raise DataError(f"detail_chart: {size} pixels can't hold the charts; expected {MIN_SIZE} or more")
        self.size = size

    def __len__(self) -> int:
        """One sample a chart."""
        return len(CHARTS)

    def sample_id(self, index: int) -> str:
        """Return an id such as "slanted-edge-v-90"."""
        return CHARTS[index].id

    def read(self, index: int) -> Sample:
        """Draw one chart."""
        chart = CHARTS[index]
        levels = chart.draw(self.size)
        if levels.ndim == 2:
            levels = np.repeat(levels[:, :, None], 3, axis=2)
        pixels = np.floor(np.clip(levels, 0.0, 255.0) + 0.5).astype(np.uint8)
        image = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
        return Sample(chart.id, image, attributes={"chart": chart.group, **chart.facts})

    @cached_property
    def digest(self) -> str:
        """sha256 over ids and pixels of all charts."""
        total = hashlib.sha256()
        for index in range(len(self)):
            sample = self.read(index)
            total.update(json.dumps([sample.id, list(sample.image.shape)]).encode())
            total.update(sample.image.numpy().tobytes())
        return total.hexdigest()


def sine(turns: Plane) -> Plane:
    """sin(2 pi turns) by a Taylor series, the same bits on every machine; exact at every quarter turn."""
    turns = turns - np.floor(turns + 0.5)  # [-1/2, 1/2)
    # Fold to a quarter turn either side of zero, where the series converges fast.
    turns = np.where(turns > 0.25, 0.5 - turns, np.where(turns < -0.25, -0.5 - turns, turns))
    x = turns * 6.283185307179586
    square = x * x
    total = np.ones_like(x)
    for n in range(23, 1, -2):  # remainder below 1e-19 at a quarter turn
        total = 1.0 - square / (n * (n - 1.0)) * total
    return np.where(np.abs(turns) == 0.25, np.sign(turns), x * total)


def _grid(size: int) -> tuple[Plane, Plane]:
    """Pixel centres relative to the middle of the picture: y grows downwards, x to the right; all half-integers."""
    axis = np.arange(size, dtype=np.float64) - (size - 1) / 2.0
    y, x = np.meshgrid(axis, axis, indexing="ij")
    return y, x


def _quadrants(size: int, parts: tuple[Plane, Plane, Plane, Plane]) -> Plane:
    """Show each full-size picture in one quadrant: top left, top right, bottom left, bottom right."""
    half = size // 2
    out = parts[0].copy()
    out[:half, half:] = parts[1][:half, half:]
    out[half:, :half] = parts[2][half:, :half]
    out[half:, half:] = parts[3][half:, half:]
    return out


def coverage(distance: Plane, normal: tuple[float, float]) -> Plane:
    """Share of each pixel's square that lies on the positive side of a straight edge.

    `distance` is that of the pixel's centre, `normal` the unit normal. The square's profile across the edge is the
    convolution of two boxes, as wide as the normal's components; this is its integral.
    """
    wide, narrow = max(abs(normal[0]), abs(normal[1])), min(abs(normal[0]), abs(normal[1]))
    if narrow < 1e-9:
        return np.clip(distance + 0.5, 0.0, 1.0)
    outer, inner = (wide + narrow) / 2.0, (wide - narrow) / 2.0

    def ramp(value: Plane) -> Plane:
        positive = np.maximum(value, 0.0)
        return positive * positive

    total = ramp(distance + outer) - ramp(distance + inner) - ramp(distance - inner) + ramp(distance - outer)
    return np.clip(total / (2.0 * wide * narrow), 0.0, 1.0)


def _slanted_edge(contrast: float, vertical: bool) -> Draw:
    def draw(size: int) -> Plane:
        y, x = _grid(size)
        normal = (COS_5, SIN_5) if vertical else (SIN_5, COS_5)  # x, y components
        share = coverage(x * normal[0] + y * normal[1], normal)
        return MID * (1.0 - contrast) + 2.0 * MID * contrast * share

    return draw


def grating_patches(size: int) -> list[tuple[float, tuple[int, int, int, int]]]:
    """Cycles a pixel and box (left, top, right, bottom) of each patch of a grating chart."""
    side = size // 3
    gap = (size - 3 * side) // 2
    corners = [(gap + column * side, gap + row * side) for row in range(3) for column in range(3)]
    return [(f, (x, y, x + side, y + side)) for f, (x, y) in zip(FREQUENCIES, corners, strict=True)]


def _grating(normal: tuple[float, float]) -> Draw:
    def draw(size: int) -> Plane:
        out = np.full((size, size), MID)
        for frequency, (left, top, right, bottom) in grating_patches(size):
            y, x = np.meshgrid(np.arange(bottom - top) + 0.0, np.arange(right - left) + 0.0, indexing="ij")
            turns = (x * normal[0] + y * normal[1]) * frequency
            out[top:bottom, left:right] = MID + 0.9 * MID * sine(turns + 0.25)
        return out

    return draw


def _zone_plate(size: int) -> Plane:
    y, x = _grid(size)
    # The frequency grows with the distance from the middle and reaches half a cycle a pixel at the middle of each side.
    return MID + 0.9 * MID * sine((x * x + y * y) / (2.0 * size) + 0.25)


def _siemens_star(size: int) -> Plane:
    y, x = _grid(size)
    radius = np.maximum(np.sqrt(x * x + y * y), 0.5)  # no division by zero at the middle of odd sizes
    a, b = x / radius, y / radius
    for _ in range(5):  # squaring a unit complex number doubles its angle: 32 spokes
        a, b = a * a - b * b, 2.0 * a * b
    # 32 cycles on a circle of radius r are 32 / (2 pi r) cycles a pixel: one half at r = 10.2, so grey inside 11.
    return np.where(radius < 11.0, MID, MID + 0.9 * MID * b)


def _checkerboard(size: int) -> Plane:
    def board(side: int) -> Plane:
        steps = np.arange(size) // side
        odd = (steps[:, None] + steps[None, :]) % 2
        return np.where(odd == 1, PAPER, INK)

    return _quadrants(size, (board(1), board(2), board(4), board(8)))


def _thin_lines(width: float, ink: float, paper: float) -> Draw:
    """Lines every 9 pixels: upright, level, at 20 and at 45 degrees."""

    def draw(size: int) -> Plane:
        step = np.arange(size, dtype=np.float64)[None, :] + 0.5
        y, x = np.broadcast_to(step.T, (size, size)), np.broadcast_to(step, (size, size))

        def family(normal: tuple[float, float], centre: float) -> Plane:
            along = x * normal[0] + y * normal[1] - centre
            distance = along - 9.0 * np.floor(along / 9.0 + 0.5)
            share = coverage(distance + width / 2.0, normal) - coverage(distance - width / 2.0, normal)
            return paper + (ink - paper) * share

        centre = 4.0 + width / 2.0  # upright and level lines fill whole pixels
        parts = (family((1.0, 0.0), centre), family((0.0, 1.0), centre))
        return _quadrants(size, (*parts, family((COS_20, SIN_20), 4.5), family((DIAGONAL, DIAGONAL), 4.5)))

    return draw


def _chance(seed: int, count: int) -> Plane:
    """Numbers in [0, 1); Philox's raw output is the same in every version of numpy."""
    raw = np.random.Philox(key=seed).random_raw(count) >> np.uint64(11)
    return raw.astype(np.float64) * 2.0**-53


def _dead_leaves(size: int) -> Plane:
    """Coloured discs over each other, radii from 2 to 40 pixels with density r**-3: scale-invariant occlusion."""
    smallest, largest = 2.0, 40.0
    y, x = _grid(size)
    y, x = y + size / 2.0, x + size / 2.0  # pixel centres at 0.5, 1.5, ...
    count = size * size // 10
    column, row, scale, *colour = _chance(1, 6 * count).reshape(6, count)
    # The inverse of the distribution whose density is r**-3 needs a square root only.
    ratio = (smallest / largest) * (smallest / largest)
    radii = smallest / np.sqrt(1.0 - scale * (1.0 - ratio))
    out = np.full((size, size, 3), MID)
    for index in range(count):
        radius = float(radii[index])
        across = float(column[index]) * (size + 2.0 * largest) - largest
        down = float(row[index]) * (size + 2.0 * largest) - largest
        left, top = max(0, int(across - radius - 1)), max(0, int(down - radius - 1))
        window = np.s_[top : max(0, int(down + radius + 2)), left : max(0, int(across + radius + 2))]
        offset_x, offset_y = x[window] - across, y[window] - down
        # A pixel belongs to the disc that covers its centre: edges are hard, as in a cut-paper collage.
        inside = offset_x * offset_x + offset_y * offset_y <= radius * radius
        out[window][inside] = [20.0 + 215.0 * float(channel[index]) for channel in colour]
    return out


def _fractal(size: int) -> Plane:
    """Noise with an amplitude spectrum near 1/f, as natural pictures have it: every octave has the same contrast."""
    out = np.zeros((size, size))
    for octave, period in enumerate((128, 64, 32, 16, 8, 4, 2, 1)):
        cells = (size - 1) // period + 2
        lattice = _chance(100 + octave, cells * cells).reshape(cells, cells) - 0.5
        place = np.arange(size, dtype=np.float64) / period
        low = np.floor(place).astype(np.int64)
        part = place - low
        part = part * part * (3.0 - 2.0 * part)
        rows = lattice[low] * (1.0 - part)[:, None] + lattice[low + 1] * part[:, None]
        out += rows[:, low] * (1.0 - part)[None, :] + rows[:, low + 1] * part[None, :]
    lowest, highest = out.min(), out.max()
    scaled: Plane = 8.0 + 239.0 * (out - lowest) / (highest - lowest)
    return scaled


def _patterns(size: int) -> Plane:
    """Fine repeated patterns: hatching, dots, a basket weave and cross-hatching."""
    y, x = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    hatch = (x + y) % 5 < 2
    # Dots on a staggered grid of 6 pixels, 3 pixels wide with the corners cut.
    shifted = x + 3 * ((y // 6) % 2)
    dx, dy = np.abs(shifted % 6 - 2), np.abs(y % 6 - 2)
    dots = (dx + dy <= 1) | ((dx == 1) & (dy == 1))
    over = (x // 6 + y // 6) % 2 == 0
    weave = np.where(over, y % 6 % 3 == 0, x % 6 % 3 == 0)
    cross = ((x + y) % 7 < 1) | ((x - y) % 7 < 1)
    hatch_, dots_, weave_, cross_ = (np.where(part, INK, PAPER) for part in (hatch, dots, weave, cross))
    return _quadrants(size, (hatch_, dots_, weave_, cross_))


def _ramps(size: int) -> Plane:
    """Eight bands: grey, three primaries and three secondaries from black up, and a shallow grey ramp of 32 levels."""
    steps = np.arange(size, dtype=np.float64) / (size - 1.0)
    masks = ((1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1), (1, 0, 1), (1, 1, 0))
    out = np.zeros((size, size, 3))
    for band in range(8):
        rows = np.s_[band * size // 8 : (band + 1) * size // 8]
        if band < 7:
            out[rows] = 255.0 * steps[None, :, None] * np.array(masks[band], dtype=np.float64)
        else:
            out[rows] = (112.0 + 32.0 * steps)[None, :, None]
    return out


def _flat_fields(size: int) -> Plane:
    """Sixteen flat fields: four skin and earth tones, four muted and four strong colours, four greys."""
    fields = (
        (64, 42, 32), (124, 84, 62), (190, 144, 118), (232, 204, 182),
        (92, 112, 60), (104, 134, 168), (172, 104, 120), (210, 184, 120),
        (196, 28, 40), (24, 132, 68), (32, 64, 176), (244, 196, 16),
        (18, 18, 18), (84, 84, 84), (168, 168, 168), (244, 244, 244),
    )  # fmt: skip
    place = np.arange(size) * 4 // size
    spread: Plane = np.array(fields, dtype=np.float64).reshape(4, 4, 3)[place[:, None], place[None, :]]
    return spread


def _colour_grating(direction: tuple[float, float, float]) -> Draw:
    """Gratings of one opponent pair at 1/32, 1/16, 1/8 and 1/4 cycles a pixel; luma (BT.601) stays constant."""

    def draw(size: int) -> Plane:
        x = np.broadcast_to(np.arange(size, dtype=np.float64)[None, :], (size, size))
        y = x.T
        waves = (sine(x / 32.0 + 0.125), sine(y / 16.0 + 0.125), sine(y / 8.0 + 0.125), sine(x / 4.0 + 0.125))
        levels: Plane = MID + _quadrants(size, waves)[:, :, None] * np.array(direction)
        return levels

    return draw


RED_GREEN = (110.0, -110.0 * 0.299 / 0.587, 0.0)
BLUE_YELLOW = (-110.0 * 0.114 / 0.886, -110.0 * 0.114 / 0.886, 110.0)

CHARTS = (
    *(
        Chart(
            f"slanted-edge-{orientation}-{round(100 * contrast)}",
            "slanted-edge",
            {"orientation": orientation, "degrees": 5.0, "contrast": contrast},
            _slanted_edge(contrast, orientation == "v"),
        )
        for orientation in ("v", "h")
        for contrast in (0.9, 0.3)
    ),
    Chart("grating-0", "grating", {"degrees": 0.0}, _grating((1.0, 0.0))),
    Chart("grating-45", "grating", {"degrees": 45.0}, _grating((DIAGONAL, DIAGONAL))),
    Chart("grating-90", "grating", {"degrees": 90.0}, _grating((0.0, 1.0))),
    Chart("grating-135", "grating", {"degrees": 135.0}, _grating((-DIAGONAL, DIAGONAL))),
    Chart("zone-plate", "zone-plate", {}, _zone_plate),
    Chart("siemens-star", "siemens-star", {}, _siemens_star),
    Chart("checkerboard", "checkerboard", {}, _checkerboard),
    Chart("thin-lines-1", "thin-lines", {"width": 1.0}, _thin_lines(1.0, INK, PAPER)),
    Chart("thin-lines-2", "thin-lines", {"width": 2.0}, _thin_lines(2.0, PAPER, INK)),
    Chart("dead-leaves", "texture", {}, _dead_leaves),
    Chart("fractal", "texture", {}, _fractal),
    Chart("patterns", "pattern", {}, _patterns),
    Chart("ramps", "flat", {}, _ramps),
    Chart("flat-fields", "flat", {}, _flat_fields),
    Chart("red-green", "colour-grating", {}, _colour_grating(RED_GREEN)),
    Chart("blue-yellow", "colour-grating", {}, _colour_grating(BLUE_YELLOW)),
)
"""All charts, in the order of a run."""
