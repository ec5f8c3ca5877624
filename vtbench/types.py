"""The records that travel between the layers: Sample, Codes, Batch. Importing this module loads no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from torch import Tensor


class Strict(BaseModel):
    """The base of every card, network configuration and result: unknown keys and wrong types are errors."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        ser_json_inf_nan="constants",  # PSNR of equal pictures is infinite; pydantic's default would write null
    )


@dataclass(frozen=True)
class TextLine:
    """One line of known text on a picture."""

    text: str
    box: tuple[int, int, int, int]
    """Left, top, right, bottom in pixels; right and bottom are exclusive. The whole picture where the place of the text
    is not known."""

    ratio: float | None = None
    """Size of the text relative to the whole picture, where the data set states it."""


@dataclass(frozen=True)
class Sample:
    """One picture of a task, already at the task's size."""

    id: str
    """Stable and unique within the task: the key of every record."""

    image: Tensor
    """uint8, (3, H, W), sRGB."""

    lines: tuple[TextLine, ...] = ()
    """The known text, in reading order; empty where the task has none."""

    attributes: Mapping[str, str | float] = field(default_factory=dict)
    """What results are grouped by, such as {"cap_height": 12.0} or {"chart": "zone-plate"}."""


@dataclass(frozen=True)
class Codes:
    """All that crosses the bottleneck: what a tokenizer's decoder may know about a batch of B pictures."""

    indices: tuple[Tensor, ...] = ()
    """Discrete codes: int64, batch first, one tensor a scale; a depth axis comes last."""

    latent: Tensor | None = None
    """Continuous codes: float, (B, C, h, w) or (B, tokens, C). Discrete networks decode from the indices alone."""

    bitstream: tuple[bytes, ...] = ()
    """Codecs: one complete file a picture."""

    size: tuple[int, int] | None = None
    """Height and width of the encoder's input, where a decoder needs them; known to both sides, so it costs no bits."""

    codebook_sizes: tuple[int, ...] = ()
    """Number of codes an index chooses from, one entry a tensor in `indices`."""

    @property
    def bits(self) -> tuple[float, ...] | None:
        """Bits of each picture: indices at log2 of the codebook size, bitstreams at their length.

        None for continuous latents: they have no rate until somebody states a quantisation.
        """
        if self.bitstream:
            return tuple(8.0 * len(stream) for stream in self.bitstream)
        if self.indices:
            pairs = zip(self.indices, self.codebook_sizes, strict=True)
            per_picture = sum(part[0].numel() * math.log2(size) for part, size in pairs)
            return (per_picture,) * len(self.indices[0])
        return None


@dataclass(frozen=True)
class Batch:
    """B pictures before and after a tokenizer, as every metric sees them."""

    samples: tuple[Sample, ...]
    reference: Tensor
    """uint8, (B, 3, H, W)."""

    reconstruction: Tensor
    """uint8, the same shape."""
