"""How a tokenizer uses its codebook: share of codes used, entropy (2 to its power is the perplexity).

Both are counted over the tokens that are given, and both grow with their number until the codebook is seen: from n
tokens there are at most n different codes, so the share stays under n / codebook size and the entropy under log2 n.
Compare tokenizers on the same pictures, and state n beside the value.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from vtbench.errors import DataError

Indices = np.ndarray[Any, np.dtype[np.int64]]

AT_ONCE = 1 << 20
"""Tokens that are sorted together."""


class CodeCounts:
    """How often each code occurs, counted as pictures come. Sorted, not binned: codebooks of 2^36 entries exist."""

    def __init__(self) -> None:
        self._codes = self._counts = np.zeros(0, dtype=np.int64)
        self._waiting: list[Indices] = []
        self._many = 0
        self.tokens = 0
        """How many were counted."""

    def add(self, indices: Indices) -> None:
        """Count the tokens of one picture or several, int64 of any shape."""
        self._waiting.append(indices.reshape(-1))
        self._many += indices.size
        self.tokens += indices.size
        if self._many >= AT_ONCE:
            self._count()

    def usage(self, codebook_size: int) -> float:
        """Share of the codebook's entries that occur at least once, within (0, 1].

        Raises:
            DataError: if there is no index, or one outside 0 .. codebook_size - 1.
        """
        return len(self._within(codebook_size)) / codebook_size

    def entropy(self, codebook_size: int) -> float:
        """Shannon entropy in bits a token: what an ideal order-0 coder would need, at most log2 codebook_size.

        Raises:
            DataError: if there is no index, or one outside 0 .. codebook_size - 1.
        """
        shares = self._within(codebook_size) / self.tokens
        return max(0.0, -math.fsum(shares * np.log2(shares)))

    def _count(self) -> None:
        codes, counts = np.unique(np.concatenate(self._waiting), return_counts=True)
        self._waiting, self._many = [], 0
        both = np.concatenate([self._codes, codes])
        self._codes, place = np.unique(both, return_inverse=True)
        total = np.zeros(len(self._codes), dtype=np.int64)
        np.add.at(total, place, np.concatenate([self._counts, counts]))
        self._counts = total

    def _within(self, codebook_size: int) -> Indices:
        if self._waiting:
            self._count()
        codes = self._codes
        if not len(codes):
            raise DataError("codes: no index was given; expected at least one token")
        if codes[0] < 0 or codes[-1] >= codebook_size:
            raise DataError(
                f"codes: indices from {codes[0]} to {codes[-1]}; expected 0 to {codebook_size - 1}: is it another "
                "codebook?"
            )
        return self._counts
