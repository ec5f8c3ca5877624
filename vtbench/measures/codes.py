"""The rate and the use of the codebook: measured in every run, because quality without its rate is half a result."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from vtbench import measures
from vtbench.measures import Column, Outcome, Table, means
from vtbench.metrics.codes import CodeCounts
from vtbench.results import Score
from vtbench.types import Codes, Key

NO_RATE = "continuous latents have no rate until a quantisation is stated"
UNSEEN = "its codes are not seen"
UNSIZED = "its card does not say how many codes there are (`codebook_sizes` in [code])"


class Measure(measures.Measure):
    """Counts bits a pixel and keeps the indices; use and entropy come from all pictures together."""

    sees = "codes"

    def columns(self, outcome: Outcome) -> Mapping[Key, Column]:
        """Give the rate of each picture, and its indices by scale or codebook."""
        codes, count = outcome.codes, len(outcome.samples)
        pixels = outcome.reference.shape[-2] * outcome.reference.shape[-1]
        columns: dict[Key, Column] = {}
        if codes.bits is not None:
            columns[Key("bpp")] = [bits / pixels for bits in codes.bits]
        # What an opaque tokenizer gives in place of its codes is the reconstruction.
        if codes.latent_values is not None and self.context.kind != "opaque":
            columns[Key("latent_values")] = [codes.latent_values / pixels] * count
        for number, indices in enumerate(self._by_codebook(codes)):
            columns[_key(number)] = indices.flatten(1)
        return columns

    def _by_codebook(self, codes: Codes) -> Sequence[Tensor]:
        """Part the indices by scale, or by codebook where each position has an index of each of several.

        Depths that share one codebook stay together: the card then names one. One that names as many as the last axis
        is long (UniTok's eight) has a table of its own for each, where the same index means another thing;
        `tokenizer.check_codes` refuses another number.
        """
        count = len(self.context.codebook_sizes)
        if len(codes.indices) == 1 < count and codes.indices[0].ndim > 2 and codes.indices[0].shape[-1] == count:
            return codes.indices[0].unbind(-1)
        return codes.indices

    def scores(self, table: Table) -> dict[str, Score]:
        """Summarise rate and use; over several codebooks the mean, and each one's as a level."""
        found: dict[str, Score] = {}
        used = self._use(table)
        for metric in self.metrics:
            if metric.name in ("bpp", "latent_values"):
                known = self._is_of(metric.name, table)
                found |= means(metric, table, reason=None if known else self._no_rate(metric.name))
            elif used:
                found |= {name: score for name, score in used.items() if name.split("/")[0] == metric.name}
            else:
                reason = f"{self.context.kind} tokenizers have no codebook"
                if self.context.kind == "discrete":
                    seen = table.levels("codes", "raw") and not self.context.codebook_sizes
                    reason = UNSIZED if seen else table.reason(metric.name)
                found[metric.name] = Score.missing(reason, table.expected)
        return found

    def _is_of(self, name: str, table: Table) -> bool:
        if self.context.kind == "understanding":  # of indices or of vectors
            return table.has(Key(name))
        continuous = self.context.kind == "continuous"
        return continuous if name == "latent_values" else self.context.kind in ("discrete", "codec")

    def _no_rate(self, name: str) -> str:
        if self.context.kind == "opaque":
            return UNSEEN
        return NO_RATE if name == "bpp" else f"{self.context.kind} tokenizers have no continuous latent"

    def _use(self, table: Table) -> dict[str, Score]:
        numbers = range(len(table.levels("codes", "raw")))
        counted = []
        scored = 0
        for number in numbers:
            counts = CodeCounts()
            pictures = 0
            for pictures, indices in enumerate(table.arrays(_key(number)), 1):  # noqa: B007  their number, after it
                counts.add(indices)
            if pictures:
                counted.append(counts)
                scored = scored or pictures
        sizes = self.context.codebook_sizes
        if not counted or not sizes:
            return {}
        if len(sizes) != len(counted):  # one codebook that all scales share
            sizes = sizes[:1] * len(counted)
        each: dict[str, list[float]] = {"code_usage": [], "code_entropy": [], "code_perplexity": []}
        ideal, fixed = 0.0, 0.0
        for counts, size in zip(counted, sizes, strict=True):
            entropy = counts.entropy(size)
            ideal += entropy * counts.tokens
            fixed += math.log2(size) * counts.tokens
            each["code_usage"].append(counts.usage(size))
            each["code_entropy"].append(entropy * self.context.indices_per_token)
            each["code_perplexity"].append(math.pow(2.0, entropy))
        rates = [rate for rate in table.values(Key("bpp")) if rate is not None]
        # The only code of a codebook says nothing, at no rate.
        values = {"bpp_entropy": float(np.mean(rates)) * ideal / fixed if fixed else 0.0}
        for name, by_scale in each.items():
            values[name] = float(np.mean(by_scale))
            if len(by_scale) > 1:
                values |= {f"{name}/{scale}": value for scale, value in enumerate(by_scale)}
        return {name: Score(value=value, scored=scored, expected=table.expected) for name, value in values.items()}


def _key(number: int) -> Key:
    return Key("codes", str(number), "raw")
