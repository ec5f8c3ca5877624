"""Stability: what further passes and a moved picture change (`metrics.stability`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from vtbench import measures
from vtbench.measures import Column, Columns, Missing, Outcome
from vtbench.metrics import stability
from vtbench.types import Key

NO_TOKENS = "the tokenizer has no tokens"

REPEATS = ("repeat_psnr", "repeat_drop", "token_agreement")
SHIFTS = ("shift_psnr",)


class Measure(measures.Measure):
    """Takes the pictures through the tokenizer again and again."""

    def columns(self, outcome: Outcome) -> Mapping[Key, Column]:
        """Give each metric and its levels; without tokens their agreement is missing."""

        def again(pictures: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            reconstruction, codes = outcome.again(pictures)
            return reconstruction, codes.indices

        def fill(values: Mapping[str, Sequence[float | None]], found: Columns) -> None:
            for name, column in values.items():
                metric, _, level = name.partition("/")
                if metric in self.names:
                    whole = not level
                    found[Key(metric, level)] = [Missing(NO_TOKENS) if v is None and whole else v for v in column]

        def repeats(rows: Sequence[int], found: Columns) -> None:
            seen = outcome.at(rows)
            made = stability.repeats(
                *(again, seen.reference, seen.reconstruction, seen.codes.indices),
                indices_per_token=seen.codes.indices_per_token,
            )
            fill(made, found)

        def shifts(rows: Sequence[int], found: Columns) -> None:
            seen = outcome.at(rows)
            fill(stability.shifts(again, seen.reference, seen.reconstruction), found)

        columns: Columns = {}
        for probe, names in ((repeats, REPEATS), (shifts, SHIFTS)):
            wanted = [name for name in names if name in self.names]
            if wanted:
                columns |= measures.each(probe, wanted, range(len(outcome.samples)))
        return columns
