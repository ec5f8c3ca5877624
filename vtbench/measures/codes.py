"""The rate and the use of the codebook: measured in every run, because quality without its rate is half a result."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from vtbench import measures
from vtbench.measures import Column, Outcome, Table, means
from vtbench.metrics.codes import code_usage, entropy_bits
from vtbench.results import Score
from vtbench.types import Key

NO_RATE = "continuous latents have no rate until a quantisation is stated"
UNSEEN = "its codes are not seen"


class Measure(measures.Measure):
    """Counts bits a pixel and keeps the indices; use and entropy come from all pictures together."""

    sees = "codes"

    def columns(self, outcome: Outcome) -> Mapping[Key, Column]:
        """Give the rate of each picture, and its indices a scale."""
        codes, count = outcome.codes, len(outcome.samples)
        pixels = outcome.reference.shape[-2] * outcome.reference.shape[-1]
        columns: dict[Key, Column] = {}
        if codes.bits is not None:
            columns[Key("bpp")] = [bits / pixels for bits in codes.bits]
        if codes.latent_values is not None:
            columns[Key("latent_values")] = [codes.latent_values / pixels] * count
        for scale, indices in enumerate(codes.indices):
            columns[_key(scale)] = list(indices.flatten(1).cpu().numpy())
        return columns

    def scores(self, table: Table) -> dict[str, Score]:
        """Summarise rate and use; over several codebooks the mean, and each one's as a level."""
        found: dict[str, Score] = {}
        used = self._use(table)
        for metric in self.metrics:
            if metric.name in ("bpp", "latent_values"):
                found |= means(
                    metric, table, reason=self._no_rate(metric.name) if not self._is_of(metric.name) else None
                )
            elif used:
                found |= {name: score for name, score in used.items() if name.split("/")[0] == metric.name}
            else:
                reason = f"{self.context.kind} tokenizers have no codebook"
                found[metric.name] = Score(
                    value=None,
                    reason=table.reason(metric.name) if self.context.kind == "discrete" else reason,
                    scored=0,
                    expected=table.expected,
                )
        return found

    def _is_of(self, name: str) -> bool:
        continuous = self.context.kind == "continuous"
        return continuous if name == "latent_values" else self.context.kind in ("discrete", "codec", "understanding")

    def _no_rate(self, name: str) -> str:
        if self.context.kind == "opaque":
            return UNSEEN
        return NO_RATE if name == "bpp" else f"{self.context.kind} tokenizers have no continuous latent"

    def _use(self, table: Table) -> dict[str, Score]:
        scales = range(len(table.levels("codes", "raw")))
        columns = [pictures for scale in scales if (pictures := list(table.arrays(_key(scale))))]
        if not columns:
            return {}
        sizes = self.context.codebook_sizes
        if len(sizes) != len(columns):  # one codebook that all scales share
            sizes = sizes[:1] * len(columns)
        each: dict[str, list[float]] = {"code_usage": [], "code_entropy": [], "code_perplexity": []}
        ideal, fixed = 0.0, 0.0
        for pictures, size in zip(columns, sizes, strict=True):
            indices = np.concatenate(pictures)
            entropy = entropy_bits(indices, size)
            ideal += entropy * len(indices)
            fixed += math.log2(size) * len(indices)
            each["code_usage"].append(code_usage(indices, size))
            each["code_entropy"].append(entropy)
            each["code_perplexity"].append(math.pow(2.0, entropy))
        rates = [rate for rate in table.values(Key("bpp")) if rate is not None]
        values = {"bpp_entropy": float(np.mean(rates)) * ideal / fixed}
        for name, by_scale in each.items():
            values[name] = float(np.mean(by_scale))
            if len(by_scale) > 1:
                values |= {f"{name}/{scale}": value for scale, value in enumerate(by_scale)}
        scored = len(columns[0])
        return {name: Score(value=value, scored=scored, expected=table.expected) for name, value in values.items()}


def _key(scale: int) -> Key:
    return Key("codes", str(scale), "raw")
