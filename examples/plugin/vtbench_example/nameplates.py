"""Nameplates: one coloured plate a picture with one known word on it, drawn at the size that the task asks for.

A data source is a class `Source` of the shape of `vtbench.data.Source`. One that makes its pictures takes no path.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

from vtbench import data, images
from vtbench.errors import DataError
from vtbench.types import Sample, TextLine

WORDS = ("harbour", "meadow", "lantern", "orchard", "thicket", "granite", "willow", "cavern")
COLOURS = ("#f2d7d5", "#d4e6f1", "#d5f5e3", "#fcf3cf")
"""Of the plates, in turn; the letters are nearly black."""

SMALLEST = 128


class Source(data.Source):
    """One picture a word."""

    def __init__(self, *, size: int | None, path: Path | None = None) -> None:
        if path is not None or size is None or size < SMALLEST:
            raise DataError(f"nameplates: takes no path and a size from {SMALLEST}, got {path} and {size}")
        self.size = size

    @property
    def text(self) -> Literal["none", "page", "boxes"]:
        """Every word has its box."""
        return "boxes"

    @property
    def attributes(self) -> frozenset[str]:
        """Results can be grouped by the plate's colour."""
        return frozenset({"colour"})

    @cached_property
    def digest(self) -> str:
        """sha256 over all pixels, words and boxes."""
        total = hashlib.sha256()
        for index in range(len(self)):
            sample = self.read(index)
            total.update(repr(sample.lines).encode() + sample.image.numpy().tobytes())
        return total.hexdigest()

    def __len__(self) -> int:
        """Count the words."""
        return len(WORDS)

    def sample_id(self, index: int) -> str:
        """Return the word."""
        return WORDS[index]

    def read(self, index: int) -> Sample:
        """Draw one picture; the box is that of the letters."""
        word, colour = WORDS[index], COLOURS[index % len(COLOURS)]
        picture = Image.new("RGB", (self.size, self.size), colour)
        drawing = ImageDraw.Draw(picture)
        font = ImageFont.load_default(self.size // 8)
        middle = (self.size // 2, self.size // 2)
        drawing.text(middle, word, font=font, fill="#101010", anchor="mm")
        left, top, right, bottom = drawing.textbbox(middle, word, font=font, anchor="mm")
        box = (int(left), int(top), int(right) + 1, int(bottom) + 1)
        return Sample(word, images.from_pil(picture), (TextLine(word, box),), {"colour": colour})
