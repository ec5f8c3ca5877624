"""Stability: what further passes and a moved picture change (`metrics.stability`)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from vtbench import measures
from vtbench.measures import Column, Missing, Outcome
from vtbench.metrics import stability
from vtbench.types import Key

NO_TOKENS = "the tokenizer has no tokens"


class Measure(measures.Measure):
    """Takes the pictures through the tokenizer again and again."""

    def columns(self, outcome: Outcome) -> Mapping[Key, Column]:
        """Give each metric and its levels; without tokens their agreement is missing."""

        def again(pictures: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            reconstruction, codes = outcome.again(pictures)
            return reconstruction, codes.indices

        found = stability.measure(
            *(again, outcome.reference, outcome.reconstruction, outcome.codes.indices),
            indices_per_token=outcome.codes.indices_per_token,
        )
        columns: dict[Key, Column] = {}
        for name, values in found.items():
            metric, _, level = name.partition("/")
            if metric in self.names:
                whole = not level
                columns[Key(metric, level)] = [Missing(NO_TOKENS) if v is None and whole else v for v in values]
        return columns
