"""Tokens as parts of a picture: how many there are, and how the pixels that each stands for lie in it.

Nothing is decoded for it, so it is the measure of tokenizers for understanding too.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np

from vtbench import measures
from vtbench.measures import Column, Missing, Outcome
from vtbench.metrics.regions import coverage, even_regions, homogeneity
from vtbench.metrics.segments import Labels, Levels, segment
from vtbench.types import Key

NO_TOKENS = "the tokenizer has no tokens"
NO_PLACE = "its tokens don't say which pixels they stand for"


class Measure(measures.Measure):
    """Holds the tokens' regions against the segments of the picture."""

    sees = "codes"

    def columns(self, outcome: Outcome) -> Mapping[Key, Column]:
        """Give each metric; without a place the regions' metrics are missing, and the number stands."""
        count, tokens = len(outcome.samples), outcome.codes.tokens
        columns: dict[Key, list[object]] = {Key("tokens_per_picture"): [tokens or Missing(NO_TOKENS)] * count}
        place = self.context.regions
        found = None if place is None or tokens is None else place(outcome.reference, outcome.codes)
        names = ("homogeneity", "homogeneity_gain", "coverage", "tokens_placed")
        if found is None:
            columns |= {Key(name): [Missing(NO_TOKENS if tokens is None else NO_PLACE)] * count for name in names}
        else:
            pictures = outcome.fed.permute(0, 2, 3, 1).numpy()
            each = [
                _of_one(labels, picture, found.tokens)
                for labels, picture in zip(found.labels.cpu().numpy(), pictures, strict=True)
            ]
            columns |= {Key(name): [values[name] for values in each] for name in names}
        return {key: values for key, values in columns.items() if key.metric in self.names}


@functools.lru_cache(maxsize=64)
def _segments(levels: bytes, shape: tuple[int, ...]) -> Labels:
    """Cut a picture once for all tokenizers of a command."""
    return segment(np.frombuffer(levels, dtype=np.uint8).reshape(shape))


def _of_one(labels: Labels, picture: Levels, count: int) -> dict[str, float]:
    segments = _segments(picture.tobytes(), picture.shape)
    placed = len(np.unique(labels))
    kept = homogeneity(labels, segments)
    return {
        "homogeneity": kept,
        "homogeneity_gain": kept - homogeneity(even_regions(placed, *labels.shape), segments),
        "coverage": coverage(labels, segments),
        "tokens_placed": placed / count,
    }
