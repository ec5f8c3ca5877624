"""Charts of known detail: edges, gratings, lines, textures and flat fields, so that what a tokenizer loses has a name.

Every pixel follows from a formula in float64 that uses only +, -, *, / and square root, which IEEE 754 defines to the
last bit, and from Philox's raw output where chance is wanted. So the pixels are the same on every machine; the sine
is a polynomial of our own for that reason. Levels are rounded once, half up.

Gratings are sampled at pixel centres. Edges and lines are area-sampled: a pixel's level is the exact share of its
square that the shape covers. Levels are plain sRGB levels; nothing here is linear light.

A sample's attributes say what is known of its chart, so that `vtbench.metrics.detail` measures without this module.
`chart` is its kind. A chart of several parts has a `grid`, such as "3x3" (rows, columns): the part in row r and column
c covers the pixel rows r * H // rows up to (r + 1) * H // rows, and the columns likewise. `frequencies` are the cycles
a pixel of the parts in reading order, with a crest at each part's top left pixel and a phase that grows along the
direction `degrees` (from x towards y, which points down). `widths` are those of the lines in pixels, one for each row
of parts. An edge has an `orientation` (v or h), the `degrees` by which it leans, and its contrast, `michelson`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from vtbench import data
from vtbench.errors import DataError
from vtbench.types import Sample

Plane = NDArray[np.float64]
"""Levels, (H, W) or (H, W, 3)."""

FREQUENCIES = ("1/64", "1/32", "1/16", "1/12", "1/8", "1/6", "1/4", "1/3", "1/2")
"""Cycles a pixel of the nine parts of a chart of line pairs, in reading order."""

WIDTHS = (0.25, 0.5, 1.0, 2.0, 3.0)
"""Pixels, one for each row of a chart of lines. Under 1 a line covers a part of its pixel: thinner is fainter."""

LINE_PERIOD = 12.0

MIN_SIZE = 64
MID = 127.5
COS_5, SIN_5 = 0.9961946980917455, 0.08715574274765817
COS_12, SIN_12 = 0.9781476007338057, 0.20791169081775934
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


class Source(data.Source):
    """The charts at any size from 64 pixels up; frequencies and line widths stay, so larger sizes hold more of them."""

    def __init__(self, *, size: int | None, path: Path | None = None) -> None:
        if path is not None:
            raise DataError(f"detail_chart: draws its own charts and takes no path, got {path}; leave --data out")
        if size is None:
            raise DataError("detail_chart: charts have no size of their own; give the card a [geometry] size")
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
        image = (
            torch.from_numpy(_pixels(index, self.size)).permute(2, 0, 1).clone(memory_format=torch.contiguous_format)
        )
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


@lru_cache(maxsize=128)
def _pixels(index: int, size: int) -> NDArray[np.uint8]:
    """Draw one chart, (H, W, 3). Kept: a run asks for the same charts once a tokenizer."""
    levels = CHARTS[index].draw(size)
    if levels.ndim == 2:
        levels = np.repeat(levels[:, :, None], 3, axis=2)
    return np.floor(np.clip(levels, 0.0, 255.0) + 0.5).astype(np.uint8)


def cells(size: int, rows: int, columns: int) -> list[tuple[slice, slice]]:
    """Cut a chart into the parts of a grid, in reading order; the module's docstring states the rule."""
    tall = [slice(row * size // rows, (row + 1) * size // rows) for row in range(rows)]
    wide = [slice(column * size // columns, (column + 1) * size // columns) for column in range(columns)]
    return [(down, across) for down in tall for across in wide]


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


def _slanted_edge(contrast: float, vertical: bool, lean: tuple[float, float]) -> Draw:
    def draw(size: int) -> Plane:
        y, x = _grid(size)
        normal = lean if vertical else (lean[1], lean[0])  # x, y components
        share = coverage(x * normal[0] + y * normal[1], normal)
        return MID * (1.0 - contrast) + 2.0 * MID * contrast * share

    return draw


def _line_pairs(normal: tuple[float, float], amplitude: tuple[float, float, float]) -> Draw:
    def draw(size: int) -> Plane:
        out = np.full((size, size, 3), MID)
        for frequency, (rows, columns) in zip(FREQUENCIES, cells(size, 3, 3), strict=True):
            down, across = rows.stop - rows.start, columns.stop - columns.start
            y, x = np.meshgrid(np.arange(down) + 0.0, np.arange(across) + 0.0, indexing="ij")
            turns = (x * normal[0] + y * normal[1]) / float(frequency.removeprefix("1/"))
            out[rows, columns] += sine(turns + 0.25)[:, :, None] * np.array(amplitude)
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


def _lines(ink: float, paper: float) -> Draw:
    """Lines of each width in a row of four parts: upright, level, at 20 and at 45 degrees."""

    def draw(size: int) -> Plane:
        out = np.empty((size, size))
        normals = ((1.0, 0.0), (0.0, 1.0), (COS_20, SIN_20), (DIAGONAL, DIAGONAL))
        for index, (rows, columns) in enumerate(cells(size, len(WIDTHS), len(normals))):
            width, normal = WIDTHS[index // len(normals)], normals[index % len(normals)]
            down, across = rows.stop - rows.start, columns.stop - columns.start
            y, x = np.meshgrid(np.arange(down) + 0.5, np.arange(across) + 0.5, indexing="ij")
            # The fifth pixel of a part begins its first line, so that upright and level lines fill whole pixels.
            along = x * normal[0] + y * normal[1] - (4.0 + width / 2.0)
            distance = along - LINE_PERIOD * np.floor(along / LINE_PERIOD + 0.5)
            share = coverage(distance + width / 2.0, normal) - coverage(distance - width / 2.0, normal)
            out[rows, columns] = paper + (ink - paper) * share
        return out

    return draw


def _chance(seed: int, count: int) -> Plane:
    """Numbers in [0, 1); Philox's raw output is the same in every version of numpy."""
    raw = np.random.Philox(key=seed).random_raw(count) >> np.uint64(11)
    return raw.astype(np.float64) * 2.0**-53


def _dead_leaves(seed: int, lowest: float, highest: float, channels: int) -> Draw:
    """Discs over each other, radii from 2 to 40 pixels with density r**-3: scale-invariant occlusion."""
    smallest, largest = 2.0, 40.0

    def draw(size: int) -> Plane:
        y, x = _grid(size)
        y, x = y + size / 2.0, x + size / 2.0  # pixel centres at 0.5, 1.5, ...
        count = size * size // 10
        column, row, scale, *colour = _chance(seed, (3 + channels) * count).reshape(3 + channels, count)
        # The inverse of the distribution whose density is r**-3 needs a square root only.
        ratio = (smallest / largest) * (smallest / largest)
        radii = smallest / np.sqrt(1.0 - scale * (1.0 - ratio))
        out = np.full((size, size, channels), MID)
        for index in range(count):
            radius = float(radii[index])
            across = float(column[index]) * (size + 2.0 * largest) - largest
            down = float(row[index]) * (size + 2.0 * largest) - largest
            left, top = max(0, int(across - radius - 1)), max(0, int(down - radius - 1))
            window = np.s_[top : max(0, int(down + radius + 2)), left : max(0, int(across + radius + 2))]
            offset_x, offset_y = x[window] - across, y[window] - down
            # A pixel belongs to the disc that covers its centre: edges are hard, as in a cut-paper collage.
            inside = offset_x * offset_x + offset_y * offset_y <= radius * radius
            out[window][inside] = [lowest + (highest - lowest) * float(channel[index]) for channel in colour]
        return out if channels == 3 else out[:, :, 0]

    return draw


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
    """Eight level bands from black on the left: grey, three primaries, three secondaries, and a brown."""
    steps = np.arange(size, dtype=np.float64) / (size - 1.0)
    ends = ((1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1), (1, 0, 1), (1, 1, 0), (0.75, 0.5, 0.375))
    out = np.zeros((size, size, 3))
    for end, part in zip(ends, cells(size, 8, 1), strict=True):
        out[part] = 255.0 * steps[None, :, None] * np.array(end, dtype=np.float64)
    return out


def _shallow_ramps(size: int) -> Plane:
    """Eight upright bands that rise by 32 levels from top to bottom: five greys, an earth, a skin and a sky tone."""
    steps = np.arange(size, dtype=np.float64) / (size - 1.0)
    starts = (
        (8, 8, 8), (56, 56, 56), (112, 112, 112), (168, 168, 168), (216, 216, 216),
        (64, 42, 32), (190, 144, 118), (104, 134, 168),
    )  # fmt: skip
    out = np.zeros((size, size, 3))
    for start, part in zip(starts, cells(size, 1, 8), strict=True):
        out[part] = np.array(start, dtype=np.float64) + 32.0 * steps[:, None, None]
    return out


def _flat_fields(size: int) -> Plane:
    """Sixteen flat fields: four skin and earth tones, four muted and four strong colours, four greys."""
    fields = (
        (64, 42, 32), (124, 84, 62), (190, 144, 118), (232, 204, 182),
        (92, 112, 60), (104, 134, 168), (172, 104, 120), (210, 184, 120),
        (196, 28, 40), (24, 132, 68), (32, 64, 176), (244, 196, 16),
        (18, 18, 18), (84, 84, 84), (168, 168, 168), (244, 244, 244),
    )  # fmt: skip
    out = np.zeros((size, size, 3))
    for field, part in zip(fields, cells(size, 4, 4), strict=True):
        out[part] = field
    return out


Colour = Literal["luminance", "red-green", "blue-yellow"]

AMPLITUDES: dict[Colour, tuple[float, float, float]] = {
    "luminance": (0.9 * MID, 0.9 * MID, 0.9 * MID),
    "red-green": (110.0, -110.0 * 0.299 / 0.587, 0.0),
    "blue-yellow": (-110.0 * 0.114 / 0.886, -110.0 * 0.114 / 0.886, 110.0),
}
"""Levels of red, green and blue by which line pairs swing round the middle; luma (BT.601) stays constant in the two
opponent colours."""

DIRECTIONS = ((0, (1.0, 0.0)), (45, (DIAGONAL, DIAGONAL)), (90, (0.0, 1.0)), (135, (-DIAGONAL, DIAGONAL)))
"""Degrees, and the unit vector along which the phase of line pairs grows."""

CHARTS = (
    *(
        Chart(
            f"slanted-edge-{orientation}-{degrees}-{round(100 * contrast)}",
            "slanted-edge",
            {"orientation": orientation, "degrees": float(degrees), "michelson": contrast, "colour": "luminance"},
            _slanted_edge(contrast, orientation == "v", lean),
        )
        for orientation in ("v", "h")
        for degrees, contrast, lean in (
            (5, 0.9, (COS_5, SIN_5)),
            (5, 0.5, (COS_5, SIN_5)),
            (5, 0.2, (COS_5, SIN_5)),
            (12, 0.5, (COS_12, SIN_12)),
        )
    ),
    *(
        Chart(
            f"line-pairs-{colour}-{degrees}",
            "line-pairs",
            {"colour": colour, "degrees": float(degrees), "grid": "3x3", "frequencies": " ".join(FREQUENCIES)},
            _line_pairs(normal, amplitude),
        )
        for colour, amplitude in AMPLITUDES.items()
        for degrees, normal in DIRECTIONS
    ),
    Chart("zone-plate", "zone-plate", {}, _zone_plate),
    Chart("siemens-star", "siemens-star", {}, _siemens_star),
    Chart("checkerboard", "checkerboard", {}, _checkerboard),
    *(
        Chart(
            f"lines-{name}",
            "lines",
            {
                "michelson": abs(ink - paper) / (ink + paper),
                "grid": "5x4",
                "widths": " ".join(f"{w:g}" for w in WIDTHS),
            },
            _lines(ink, paper),
        )
        for name, ink, paper in (("dark", INK, PAPER), ("light", PAPER, INK), ("faint", 112.0, 144.0))
    ),
    Chart("dead-leaves", "dead-leaves", {}, _dead_leaves(1, 20.0, 235.0, 3)),
    Chart("dead-leaves-faint", "dead-leaves", {}, _dead_leaves(2, 96.0, 160.0, 1)),
    Chart("fractal", "fractal", {}, _fractal),
    Chart("patterns", "patterns", {}, _patterns),
    Chart("ramps", "ramps", {"grid": "8x1"}, _ramps),
    Chart("ramps-shallow", "ramps", {"grid": "1x8"}, _shallow_ramps),
    Chart("flat-fields", "flat-fields", {"grid": "4x4"}, _flat_fields),
)
"""All charts, in the order of a run."""
