"""Reading text back: an OCR engine's errors on pictures with known text, beside its own floor on the originals."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from vtbench import files, ocr
from vtbench.metrics import text
from vtbench.protocols import TEXT_TOTALS
from vtbench.results import Score
from vtbench.types import Sample

Value = float | None
Array = np.ndarray[Any, np.dtype[np.float64]]

READ_IN_BOXES: Mapping[str, Callable[..., Value]] = {
    "cer": text.cer,
    "wer": text.wer,
    "ned": text.ned,
    "word_accuracy": text.word_accuracy,
}
READ_ON_PAGE: Mapping[str, Callable[..., Value]] = {"cer_page": text.cer, "wer_page": text.wer}

FLOOR = "_floor"
"""Ending of the columns that hold a text metric of the originals themselves: what the engine alone gets wrong."""

LINE_RATES, LINE_SIZES = "_line_rates", "_line_sizes"
"""Columns that hold a list a picture: CER and characters of each of its lines."""


HEIGHTS = ("attribute/plain_height", "attribute/cap_height", "attribute/strings")
"""Columns that say how high the letters of a page are, and what its text is."""


def text_totals(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Score]:
    """Score what needs all lines together: the micro average, and the glyph height from which on text is legible.

    The threshold is taken over the pages that have a `plain_height`, which differ in nothing but the height; where none
    has, over those in a language by their `cap_height`, since random strings are harder at any height.

    Args:
        rows: of each picture LINE_RATES, LINE_SIZES and HEIGHTS, as far as it has them.
        names: metrics, as `protocols.METRICS` calls them; others than TEXT_TOTALS are passed over.
    """
    plain, cap, strings = HEIGHTS
    read = [row for row in rows if row.get(LINE_RATES) is not None]
    like = any(row.get(plain) is not None for row in read)
    lines: list[tuple[float | None, float | None, float]] = []  # height, rate and size
    for row in read:
        height = row.get(plain if like else cap)
        if not like and row.get(strings, "language") != "language":
            height = None
        for rate, size in zip(row[LINE_RATES], row[LINE_SIZES], strict=True):
            lines.append((height, None if math.isnan(rate) else float(rate), float(size)))
    counts = {"scored": len(read), "expected": len(rows)}
    found: dict[str, Score] = {}
    if "cer_micro" in names:
        value = text.micro([rate for _, rate, _ in lines], [size for _, _, size in lines])
        reason = "no text was scored" if value is None else None
        found["cer_micro"] = Score(value=value, reason=reason, **counts)
    if "legibility" in names:
        known = [(height, rate, size) for height, rate, size in lines if height is not None]
        threshold = text.legibility_threshold(
            [height for height, _, _ in known], [rate for _, rate, _ in known], [size for _, _, size in known]
        )
        reason = threshold.reason if threshold.value is None else None
        found["legibility"] = Score(
            value=threshold.value, reason=reason, low=threshold.low, high=threshold.high, **counts
        )
    return found


class Reader:
    """Reads pictures with an OCR engine and compares with their known text; reads each original only once."""

    def __init__(self, names: Sequence[str], engine: ocr.Engine, normalisation: str, folder: Path | None) -> None:
        """Bind an engine.

        Args:
            names: metrics, as `protocols.METRICS` calls them.
            engine: what reads.
            normalisation: what is done to texts before they are compared.
            folder: where readings of originals are kept; only in memory without one.
        """
        boxed = {*names, *(["cer"] if set(TEXT_TOTALS) & set(names) else [])}
        self.in_boxes = {name: rate for name, rate in READ_IN_BOXES.items() if name in boxed}
        self.on_page = {name: rate for name, rate in READ_ON_PAGE.items() if name in names}
        self.engine = engine
        text.find_normalisation(normalisation)  # a wrong name is told before anything is read
        self.normalisation = normalisation
        self.by_line = any(name in names for name in TEXT_TOTALS)
        said = json.dumps([engine.name, engine.version, dict(engine.digests)], sort_keys=True)
        self._folder = folder / f"{engine.name}-{hashlib.sha256(said.encode()).hexdigest()[:12]}" if folder else None
        self._known: dict[str, list[str]] = {}

    def measure(self, sample: Sample, reconstruction: Tensor) -> dict[str, Any]:
        """Score one picture.

        Beside its metrics stand the same of the original under `<metric>_floor`, the size of its text, and under
        LINE_RATES and LINE_SIZES the CER and the characters of each line.

        Args:
            sample: the original with its known lines.
            reconstruction: uint8, (3, H, W).
        """
        truth = " ".join(line.text for line in sample.lines)
        row: dict[str, Any] = {
            "characters": float(text.characters(truth, normalisation=self.normalisation)),
            "words": float(text.words(truth, normalisation=self.normalisation)),
        }
        if self.in_boxes:
            boxes = [line.box for line in sample.lines]
            read = self.engine.read_boxes(reconstruction, boxes)
            row |= self._rates(self.in_boxes, truth, read)
            if self.by_line:
                row |= self._lines([line.text for line in sample.lines], read)
            original = self._original(sample, boxes, lambda: self.engine.read_boxes(sample.image, boxes))
            row |= {f"{name}{FLOOR}": value for name, value in self._rates(self.in_boxes, truth, original).items()}
        if self.on_page:
            row |= self._rates(self.on_page, truth, [self.engine.read_page(reconstruction)])
            original = self._original(sample, None, lambda: [self.engine.read_page(sample.image)])
            row |= {f"{name}{FLOOR}": value for name, value in self._rates(self.on_page, truth, original).items()}
        return row

    def _rates(self, rates: Mapping[str, Callable[..., Value]], truth: str, read: Sequence[str]) -> dict[str, Value]:
        joined = " ".join(read)
        return {name: rate(truth, joined, normalisation=self.normalisation) for name, rate in rates.items()}

    def _lines(self, truths: Sequence[str], read: Sequence[str]) -> dict[str, Array]:
        rates = [text.cer(*pair, normalisation=self.normalisation) for pair in zip(truths, read, strict=True)]
        sizes = [text.characters(truth, normalisation=self.normalisation) for truth in truths]
        return {
            LINE_RATES: np.array([math.nan if rate is None else rate for rate in rates]),
            LINE_SIZES: np.array(sizes, dtype=np.float64),
        }

    def _original(self, sample: Sample, boxes: Sequence[ocr.Box] | None, read: Callable[[], list[str]]) -> list[str]:
        shape = json.dumps([boxes, list(sample.image.shape)]).encode()
        key = hashlib.sha256(shape + sample.image.cpu().contiguous().numpy().tobytes()).hexdigest()
        if key not in self._known:
            file = self._folder / f"{key}.json" if self._folder else None
            if file is not None and file.is_file():
                self._known[key] = json.loads(file.read_bytes())
            else:
                self._known[key] = read()
                if file is not None:
                    files.write_atomic(file, json.dumps(self._known[key]).encode())
        return self._known[key]
