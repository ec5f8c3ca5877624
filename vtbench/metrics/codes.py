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


def code_usage(indices: Indices, codebook_size: int) -> float:
    """Share of the codebook's entries that occur at least once, within (0, 1].

    Args:
        indices: int64, any shape, each in 0 .. codebook_size - 1.
        codebook_size: number of codes to choose from.

    Raises:
        DataError: if there is no index, or one outside the codebook.
    """
    return len(_counts(indices, codebook_size)) / codebook_size


def entropy_bits(indices: Indices, codebook_size: int) -> float:
    """Shannon entropy of the codes in bits a token: what an ideal order-0 coder would need, at most log2 codebook_size.

    Args:
        indices: int64, any shape, each in 0 .. codebook_size - 1.
        codebook_size: number of codes to choose from.

    Raises:
        DataError: if there is no index, or one outside the codebook.
    """
    counts = _counts(indices, codebook_size)
    shares = counts / counts.sum()
    return max(0.0, -math.fsum(shares * np.log2(shares)))


def _counts(indices: Indices, codebook_size: int) -> Indices:
    """Count the codes that occur. Sorted, not binned: codebooks of 2^36 entries exist."""
    if indices.size == 0:
        raise DataError("codes: no index was given; expected at least one token")
    codes, counts = np.unique(indices, return_counts=True)
    if codes[0] < 0 or codes[-1] >= codebook_size:
        raise DataError(
            f"codes: indices from {codes[0]} to {codes[-1]}; expected 0 to {codebook_size - 1}: is it another codebook?"
        )
    return counts.astype(np.int64)
