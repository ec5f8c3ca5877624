"""OCR engines behind one small interface: how text is read back from pictures.

An engine `name` is the file `name.py` here with a class `Engine`. All of them share one reading order.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from vtbench import backbones
from vtbench.catalogue import OCR, find_metric
from vtbench.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are exclusive."""


class Engine(Protocol):
    """What a file of this package provides under this name; built by `Engine(device)`."""

    @property
    def name(self) -> str:
        """The file's name."""

    @property
    def version(self) -> str:
        """Version of the program that reads: two versions' rates don't compare."""

    @property
    def digests(self) -> Mapping[str, str]:
        """The weight files in use: name to sha256."""

    def read_boxes(self, image: Tensor, boxes: Sequence[Box]) -> list[str]:
        """Read one line of text in each box.

        The text of a box does not depend on which other boxes are read with it.

        Args:
            image: uint8, (3, H, W).
            boxes: where the lines are; the engine adds the margin that it needs.

        Returns:
            one text a box, in the order of the boxes; empty where nothing is read.

        Raises:
            DataError: if it is not a uint8 picture, or a box is empty or outside it.
        """

    def read_page(self, image: Tensor) -> str:
        """Find the text on a picture and read it, line by line from the top (see `reading_order`).

        Args:
            image: uint8, (3, H, W).

        Raises:
            DataError: if it is not a uint8 picture.
        """


@functools.cache
def load(name: str = "easyocr", device: str = "cpu") -> Engine:
    """Build an engine, once a name and device.

    Raises:
        DataError: if there is no such engine.
        WeightsError: if its weights are not on this machine; names the command that brings them.
    """
    module = f"{__name__}.{name}"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or importlib.util.find_spec(module) is None:
        raise DataError(f"{name}: no such OCR engine; expected the name of a file in vtbench/ocr, such as easyocr")
    return cast(Engine, importlib.import_module(module).Engine(device))


def digests(name: str) -> dict[str, str]:
    """The files that an engine reads with: name to sha256."""
    return backbones.digests(name)  # type: ignore[arg-type]


def version(name: str) -> str:
    """The version of the program that reads."""
    return load(name).version


def lacking(metric: str, engine: str) -> str | None:
    """Say what a metric lacks on this machine and the command that mends it; None where it can be scored.

    Args:
        metric: as `catalogue.metrics` calls it.
        engine: the OCR engine that reads, where the metric needs one.

    Raises:
        CardError: if there is no such metric.
    """
    for need in find_metric(metric).needs:
        own: Any = engine if need == OCR else need
        if backbones.find(own) is None:
            return backbones.missing(own)
    return None


def check_image(image: Tensor) -> None:
    """Refuse what is not one picture.

    Raises:
        DataError: saying what was given.
    """
    if str(image.dtype) != "torch.uint8" or image.ndim != 3 or len(image) != 3:
        raise DataError(f"OCR got {tuple(image.shape)} {image.dtype}; expected one uint8 picture (3, H, W)")


def grown(box: Box, image: Tensor, share: float) -> Box:
    """Enlarge a box by a share of its height on each side, within the picture (3, H, W).

    Raises:
        DataError: if the box is empty or outside the picture.
    """
    height, width = image.shape[-2:]
    left, top, right, bottom = box
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise DataError(f"OCR box {box}: empty or outside a picture of {width}x{height} pixels")
    margin = round(share * (bottom - top))
    return max(0, left - margin), max(0, top - margin), min(width, right + margin), min(height, bottom + margin)


def around(corners: Sequence[Sequence[float]]) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the upright box around the corners (x, y) of a piece of text."""
    across, down = [float(corner[0]) for corner in corners], [float(corner[1]) for corner in corners]
    return min(across), min(down), max(across), max(down)


def reading_order(found: Sequence[tuple[tuple[float, float, float, float], str]]) -> str:
    """Join pieces of text as one reads them: lines from the top, each from the left.

    A piece is on the line above it if their vertical centres differ by at most half the mean height of all pieces.

    Args:
        found: box (left, top, right, bottom) and text of each piece, in any order.

    Returns:
        pieces joined by spaces, lines by line feeds.
    """
    if not found:
        return ""
    reach = 0.5 * sum(bottom - top for (_, top, _, bottom), _ in found) / len(found)
    lines: list[list[tuple[float, float, str]]] = []  # centre, left and text of each piece
    for (left, top, _, bottom), text in sorted(found, key=lambda piece: piece[0][1] + piece[0][3]):
        centre = (top + bottom) / 2
        if not lines or centre - sum(piece[0] for piece in lines[-1]) / len(lines[-1]) > reach:
            lines.append([])
        lines[-1].append((centre, left, text))
    return "\n".join(" ".join(text for _, _, text in sorted(line, key=lambda piece: piece[1])) for line in lines)
