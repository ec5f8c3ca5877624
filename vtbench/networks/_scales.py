"""Index maps of rising sides for one picture, as VAR and Infinity code it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from vtbench.errors import DataError
from vtbench.types import Codes

Sides = tuple[int, int]
"""Height and width of an index map."""


def target(codes: Codes, patch: int) -> Sides:
    """The sides of the finest map, which a decoder of fewer maps must know: of the picture where the codes say it."""
    if codes.size:
        return codes.size[0] // patch, codes.size[1] // patch
    height, width = codes.indices[-1].shape[1:3]
    return height, width


def schedule(sides: Sides, known: Sequence[Sequence[Sides]], who: str, patch: int) -> tuple[Sides, ...]:
    """Find the schedule that ends with the given sides.

    Raises:
        DataError: if there is none; it lists the sizes in pixels that there are.
    """
    for steps in known:
        if steps[-1] == sides:
            return tuple(steps)
    wanted = ", ".join(f"{patch * steps[-1][1]}x{patch * steps[-1][0]}" for steps in known)
    raise DataError(f"{who} takes pictures of {wanted} pixels, got {patch * sides[1]}x{patch * sides[0]}")


def bits_so_far(codes: Codes) -> Iterator[float]:
    """Bits of one picture's first map, first two maps and so on."""
    total = 0.0
    for part, size in zip(codes.indices, codes.codebook_sizes, strict=True):
        total += part[0].numel() * math.log2(size)
        yield total
