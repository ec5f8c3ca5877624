"""The records that travel between the layers: Sample, Codes, Key. Importing this module loads no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from torch import Tensor


class Strict(BaseModel):
    """The base of every card, network configuration and result: unknown keys and wrong types are errors."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        ser_json_inf_nan="strings",  # infinite values exist (PSNR of equal pictures), and JSON has no number for them
    )


@dataclass(frozen=True)
class TextLine:
    """One line of known text on a picture."""

    text: str
    """What is written."""

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


def picked(positions: Sequence[int]) -> slice | list[int]:
    """Say what a tensor is indexed by to take some pictures of a batch: those in a row are not copied."""
    if isinstance(positions, range):
        return slice(positions.start, positions.stop, positions.step)
    return list(positions)


def as_text(value: str | float) -> str:
    """Write an attribute as text: a number with all its digits, whole ones without a point."""
    if isinstance(value, str):
        return value
    value = float(value)
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)


NO_CODE = -1
"""The index where the encoder's numbers are not finite; any code in its place would be scored as a right one."""


@dataclass(frozen=True)
class Codes:
    """All that crosses the bottleneck: what a tokenizer's decoder may know about a batch of B pictures."""

    indices: tuple[Tensor, ...] = ()
    """Discrete codes: int64, batch first, one tensor a scale; a depth axis comes last. `NO_CODE` where the numbers by
    which an index is chosen are not finite: such a picture is a failed one."""

    latent: Tensor | None = None
    """Continuous codes: float, (B, C, h, w) or (B, tokens, C). Discrete networks encode to indices alone; where their
    bottleneck can be looked into (`vtbench.bottleneck.Open`), they also decode the vectors that indices stand for."""

    bitstream: tuple[bytes, ...] = ()
    """Codecs: one complete file a picture."""

    size: tuple[int, int] | None = None
    """Height and width of the encoder's input, where a decoder needs them; known to both sides, so it costs no bits."""

    codebook_sizes: tuple[int, ...] = ()
    """Number of codes an index chooses from, one entry a tensor in `indices`."""

    indices_per_token: int = 1
    """Indices of the last axis that are one token together: the bits of a token of more values than an index can tell
    apart. 1 where every index is a token, those of a depth axis too."""

    def __len__(self) -> int:
        """Count the pictures; 0 where nothing says how many."""
        if self.bitstream:
            return len(self.bitstream)
        if self.indices:
            return len(self.indices[0])
        return 0 if self.latent is None else len(self.latent)

    def at(self, positions: Sequence[int]) -> Codes:
        """Take the codes of some pictures of the batch."""
        chosen = picked(positions)
        return replace(
            self,
            indices=tuple(part[chosen] for part in self.indices),
            latent=None if self.latent is None else self.latent[chosen],
            bitstream=tuple(self.bitstream[position] for position in positions) if self.bitstream else (),
        )

    def copied(self) -> Codes:
        """Copy what crosses and nothing else: new tensors in the CPU's memory, new bytes."""
        return Codes(
            indices=tuple(part.detach().cpu().clone() for part in self.indices),
            latent=None if self.latent is None else self.latent.detach().cpu().clone(),
            bitstream=tuple(bytes(bytearray(stream)) for stream in self.bitstream),
            size=self.size,
            codebook_sizes=self.codebook_sizes,
            indices_per_token=self.indices_per_token,
        )

    @property
    def tokens(self) -> int | None:
        """Tokens of one picture: those of all scales and depths, or vectors of its latent; None of a file."""
        if self.indices:
            return sum(part[0].numel() for part in self.indices) // self.indices_per_token
        if self.latent is None or self.bitstream:
            return None
        shape = self.latent.shape  # (B, C, h, w), or (B, tokens, C)
        return int(shape[2] * shape[3]) if len(shape) == 4 else int(shape[1])

    @property
    def latent_values(self) -> int | None:
        """Floats of the continuous latent of one picture; None where the codes are discrete or a file."""
        if self.latent is None or self.indices or self.bitstream:
            return None
        return self.latent[0].numel()

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


class Regions(NamedTuple):
    """Which pixels each token of a batch stands for."""

    labels: Tensor
    """int64, (B, H, W): the token of each pixel."""
    tokens: int
    """Tokens that a pixel could belong to; `labels` are below it, and not every one need occur."""


Role = Literal["value", "floor", "raw", "reason"]
"""value: of the reconstruction; floor: the same of the original itself, where an OCR engine reads; raw: what a total is
made of, left out of the per-image table; reason: why a value is missing."""

ROLES: tuple[Role, ...] = ("value", "floor", "raw", "reason")


class Key(NamedTuple):
    """The name of a measured column: the only grammar of column names.

    As text: `metric`, `metric/level`, and with `:role` behind it where the role is not value: `psnr`, `contrast/0.25`,
    `cer:floor`, `rfid/reference:raw`.
    """

    metric: str
    """The metric's name."""
    level: str = ""
    """The level of a metric that is a curve, such as a frequency or a width; empty for the metric itself."""
    role: Role = "value"
    """What the column holds: the value, the original's floor, what a total is made of, or why a value is missing."""

    def __str__(self) -> str:
        level = f"/{self.level}" if self.level else ""
        return f"{self.metric}{level}" if self.role == "value" else f"{self.metric}{level}:{self.role}"

    @staticmethod
    def parse(column: str) -> Key:
        """Read a column's name; the inverse of `str`."""
        if column.startswith("attribute/"):  # the user's name, which may end like a role
            return Key("attribute", column.removeprefix("attribute/"))
        rest, _, last = column.rpartition(":")
        role = next((role for role in ROLES[1:] if rest and role == last), None)
        metric, _, level = (rest if role else column).partition("/")
        return Key(metric, level, role or "value")
