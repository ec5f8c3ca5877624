"""Reading text back: an OCR engine's errors on pictures with known text, beside its own floor on the originals.

A metric's option `read` says what its function compares with the known text: `boxes`, what was read in the known boxes;
`page`, what was found on the page; `lines`, all lines of all pictures together.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vtbench import device as devices
from vtbench import measures, ocr
from vtbench.catalogue import Metric
from vtbench.errors import VtbenchError
from vtbench.measures import Column, Context, Missing, Outcome, Table, function, means
from vtbench.measures._originals import Originals
from vtbench.metrics import text
from vtbench.results import Score
from vtbench.types import Key, Sample

log = logging.getLogger("vtbench")

Value = float | None
Boxes = Sequence[ocr.Box] | None
"""Where lines are; None for the whole page."""
Array = np.ndarray[Any, np.dtype[np.float64]]
Rates = Mapping[str, Callable[..., Value]]

LINE_RATES, LINE_SIZES = Key("lines", "rates", "raw"), Key("lines", "sizes", "raw")
"""Columns that hold a list a picture: CER and characters of each of its lines."""

PLAIN, CAP, STRINGS = "plain_height", "cap_height", "strings"
"""Attributes that say how high the letters of a page are, and what its text is."""

LANGUAGE = "language"
"""What `strings` says of words that one knows; a page without the attribute counts as such."""

NO_TEXT = "the picture has no known text"

LOST = 0.02
"""Share of a text's characters, which an engine can't write, from which on the text is refused."""

HIGH_FLOOR = 0.3
"""Error rate of the originals themselves from which on the user is warned."""


class Measure(measures.Measure):
    """Reads each reconstruction, and each original once; compares both with the known text."""

    def __init__(self, metrics: Sequence[Metric], context: Context) -> None:
        super().__init__(metrics, context)
        text.find_normalisation(context.normalisation)  # a wrong name is told before anything is read
        if context.known_text is not None:
            _check_script(context.engine, context.known_text())
        self._lines = [metric for metric in metrics if metric.options["read"] == "lines"]
        self._reader: _Reader | None = None

    def columns(self, outcome: Outcome) -> Mapping[Key, Column]:
        """Give each rate of the reconstruction and, as its floor, of the original; and what was read on both."""
        if self._reader is None:
            engine = ocr.load(self.context.engine, str(self.context.device))
            place = devices.model(self.context.device)
            # `computed_by` is without the code of other packages, so what their engines read is not kept.
            folder = self.context.originals if ocr.is_own(self.context.engine) else None
            self._reader = _Reader(engine, folder, place, self.context.computed_by)
        rows = self._rows(self._reader, outcome)
        return {key: [row.get(key) for row in rows] for key in dict.fromkeys(key for row in rows for key in row)}

    def _rows(self, reader: _Reader, outcome: Outcome) -> list[dict[Key, Any]]:
        truths = [" ".join(line.text for line in sample.lines) for sample in outcome.samples]
        rows = [self._of_truth(truth) for truth in truths]
        for where in ("boxes", "page"):
            rates = self._rates(where)
            if not rates and not (where == "boxes" and self._lines):
                continue
            boxes = [[line.box for line in sample.lines] if where == "boxes" else None for sample in outcome.samples]
            with devices.exact():
                originals = reader.originals(outcome.samples, boxes)
                readings = reader.reconstructions(outcome, boxes, originals)
            for row, sample, truth, read, original in zip(
                rows, outcome.samples, truths, readings, originals, strict=True
            ):
                row[Key("reading", where)], row[Key("reading", where, "floor")] = "\n".join(read), "\n".join(original)
                if where == "boxes" and self._lines:
                    row |= self._of_lines([line.text for line in sample.lines], read)
                for role, texts in (("value", read), ("floor", original)):
                    # The known lines are joined by spaces: where a line of a page ends is no part of its text.
                    said = " ".join(texts).replace("\n", " ")
                    for name, rate in rates.items():
                        value = rate(truth, said, normalisation=self.context.normalisation)
                        missing = Missing(NO_TEXT) if role == "value" else None
                        row[Key(name, role=role)] = missing if value is None else value  # type: ignore[arg-type]
        return rows

    def _of_truth(self, truth: str) -> dict[Key, Any]:
        normalisation = self.context.normalisation
        return {
            Key("characters"): float(text.characters(truth, normalisation=normalisation)),
            Key("words"): float(text.words(truth, normalisation=normalisation)),
        }

    def _rates(self, where: str) -> Rates:
        return {
            metric.name: function(metric.function or "") for metric in self.metrics if metric.options["read"] == where
        }

    def _of_lines(self, truths: Sequence[str], read: Sequence[str]) -> dict[Key, Array]:
        normalisation = self.context.normalisation
        rates = [text.cer(*pair, normalisation=normalisation) for pair in zip(truths, read, strict=True)]
        sizes = [text.characters(truth, normalisation=normalisation) for truth in truths]
        return {
            LINE_RATES: np.array([math.nan if rate is None else rate for rate in rates]),
            LINE_SIZES: np.array(sizes, dtype=np.float64),
        }

    def scores(self, table: Table) -> dict[str, Score]:
        """Average the rates; the totals come from all lines together, and say nothing of pages of one height."""
        found: dict[str, Score] = {}
        for metric in self.metrics:
            if metric not in self._lines:
                found |= means(metric, table)
        if self._lines and not (table.group or "").endswith("_height"):
            found |= totals([metric.name for metric in self._lines], table)
        if table.group is None:
            self._warn(found)
        return found

    def _warn(self, found: Mapping[str, Score]) -> None:
        high = [
            f"{metric.title} {floor:.2f}"
            for metric in self.metrics
            if metric.direction == "lower" and (floor := found[metric.name].floor) is not None and floor > HIGH_FLOOR
        ]
        if high:
            _warn_once(
                f"{self.context.engine} misreads the originals themselves ({', '.join(high)}): what it says of a "
                "tokenizer is worth little; try another engine with --ocr"
            )


@functools.cache
def _warn_once(said: str) -> None:
    """Warn of the originals, which are the same for all tokenizers, once a process."""
    log.warning("%s", said)


def _check_script(engine: str, known: str) -> None:
    """Refuse text that an engine can't write, before the tokenizer is blamed for it.

    Raises:
        VtbenchError: naming the characters and the engines that would read them.
    """
    if ocr.lost(engine, known) > LOST:
        raise VtbenchError(f"{ocr.unreadable(engine, known)}; choose one with --ocr")


def totals(names: Sequence[str], table: Table) -> dict[str, Score]:
    """Score what needs all lines together: the micro average, and the glyph height from which on text is legible.

    The threshold is taken over the pages that have a `plain_height`, which differ in nothing but the height; where none
    has, over those in a language by their `cap_height`, since random strings are harder at any height. Pictures without
    text are not scored.

    Args:
        names: `cer_micro`, `legibility`.
        table: LINE_RATES, LINE_SIZES and the attributes, as far as there are such.
    """
    count = table.expected
    rates, sizes = (table.values(key) or [None] * count for key in (LINE_RATES, LINE_SIZES))
    plain, cap = ([_height(said) for said in table.attribute(name)] or [None] * count for name in (PLAIN, CAP))
    strings = table.attribute(STRINGS) or [None] * count
    read = [index for index in range(count) if rates[index] is not None and not np.isnan(rates[index]).all()]
    like = any(plain[index] is not None for index in read)
    lines: list[tuple[float | None, float | None, float]] = []  # height, rate and size
    for index in read:
        in_language = strings[index] in (None, "", LANGUAGE)
        height = plain[index] if like else cap[index] if in_language else None
        for rate, size in zip(rates[index], sizes[index], strict=True):
            lines.append((height, None if math.isnan(rate) else float(rate), float(size)))
    counts = {"scored": len(read), "expected": count}
    found: dict[str, Score] = {}
    if "cer_micro" in names:
        value = text.micro([rate for _, rate, _ in lines], [size for _, _, size in lines])
        lacking = NO_TEXT if any(rate is not None for rate in rates) else table.reason("cer_micro")
        found["cer_micro"] = Score(value=value, reason=lacking if value is None else None, **counts)
    if "legibility" in names:
        known = [(height, rate, size) for height, rate, size in lines if height is not None]
        threshold = text.legibility_threshold(
            [height for height, _, _ in known], [rate for _, rate, _ in known], [size for _, _, size in known]
        )
        reason = threshold.reason if threshold.value is None else None
        if lines and not known and any(cap[index] is not None for index in read):
            reason = f"all pictures with a {CAP} have other {STRINGS} than {LANGUAGE}; expected {LANGUAGE}, or none"
        elif lines and not known:
            reason = f"no picture states how high its letters are (an attribute {CAP}, a number of pixels above 0)"
        found["legibility"] = Score(
            value=threshold.value, reason=reason, low=threshold.low, high=threshold.high, **counts
        )
    return found


def _height(said: str | float | None) -> float | None:
    """Read a height in pixels, which tables of one's own may write as text; None where it is none."""
    try:
        height = float(said) if said is not None else math.nan
    except ValueError:
        return None
    return height if math.isfinite(height) and height > 0 else None


class _Reader:
    """An engine that reads each original only once, whoever asks: on this machine, if a folder keeps its readings."""

    def __init__(self, engine: ocr.Engine, folder: Path | None, place: str, computed_by: str) -> None:
        self.engine = engine
        said = (engine.version, dict(engine.digests), place, computed_by)
        self._originals = Originals(folder, f"readings-{engine.name}", engine.name, *said)

    def read(self, pictures: Sequence[Tensor], boxes: Sequence[Boxes]) -> list[list[str]]:
        """Read several pictures together: a text a box of each, or a list of one, the whole page."""
        known = [own for own in boxes if own is not None]
        if len(known) == len(pictures):
            return ocr.read_boxes(self.engine, pictures, known)
        return [[page] for page in ocr.read_pages(self.engine, pictures)]

    def originals(self, samples: Sequence[Sample], boxes: Sequence[Boxes]) -> list[list[str]]:
        """Read originals, or remember what was read on them."""
        asked = [(sample.image, own) for sample, own in zip(samples, boxes, strict=True)]
        return self._originals.many_texts(asked, self.read)

    def reconstructions(
        self, outcome: Outcome, boxes: Sequence[Boxes], originals: Sequence[list[str]]
    ) -> list[list[str]]:
        """Read reconstructions; on one that is its original to the last level the same is read."""
        pictures = outcome.reconstruction.cpu()  # all at once: a GPU is waited for once
        pairs = zip(outcome.fed, pictures, strict=True)
        changed = [row for row, (before, after) in enumerate(pairs) if not torch.equal(before, after)]
        found = list(originals)
        if changed:
            read = self.read([pictures[row] for row in changed], [boxes[row] for row in changed])
            for row, texts in zip(changed, read, strict=True):
                found[row] = texts
        return found
