"""Infinity's tokenizer: index maps of rising sides whose tokens are the signs of what the maps before left over.

Source: FoundationVision/Infinity, infinity/models/bsq_vae/{flux_vqgan,multiscale_bsq,dynamic_resolution}.py
Commit: 4c27bbb54a9918847a2fe56b0fbe31a8523791a1
Licence: MIT
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from vtbench.networks import _scales
from vtbench.networks._candidates import other_bits
from vtbench.networks._finite import numbered
from vtbench.networks._taming import Decoder, Encoder, Layout
from vtbench.types import Codes

# Sides of the maps, (longer, shorter), for each ratio of the sides that the authors trained on.
_LADDERS = (
    "1x1 2x2 4x4 6x6 8x8 12x12 16x16 20x20 24x24 32x32 40x40 48x48 64x64",
    "1x1 2x2 3x3 5x4 10x8 15x12 20x16 25x20 30x24 35x28 45x36 55x44 70x56",
    "1x1 2x2 4x3 8x6 12x9 16x12 20x15 24x18 28x21 36x27 48x36 60x45 72x54",
    "1x1 2x2 3x2 6x4 9x6 15x10 21x14 27x18 33x22 39x26 48x32 63x42 78x52",
    "1x1 2x2 3x3 7x4 11x6 14x8 21x12 28x16 35x20 42x24 56x32 70x40 84x48",
    "1x1 2x2 4x2 6x3 10x5 16x8 22x11 30x15 38x19 46x23 60x30 74x37 90x45",
    "1x1 2x2 5x2 10x4 15x6 20x8 25x10 30x12 40x16 50x20 65x26 80x32 100x40",
    "1x1 2x2 6x2 9x3 15x5 21x7 27x9 36x12 45x15 54x18 72x24 90x30 111x37",
)
_LENGTHS = (7, 10, 13)
"""Maps of a picture of about 0.06, 0.25 and 1 megapixels."""


def _published() -> tuple[tuple[_scales.Sides, ...], ...]:
    found: dict[tuple[_scales.Sides, ...], None] = {}
    for ladder in _LADDERS:
        upright = [(int(pair.split("x")[0]), int(pair.split("x")[1])) for pair in ladder.split()]
        for steps in (upright, [(short, long) for long, short in upright]):
            found |= {tuple(steps[:length]): None for length in _LENGTHS}
    return tuple(found)


class Config(Layout):
    """The published variants differ in the bits of a token."""

    bits: int = Field(ge=1)
    """Bits of a token: the channels between encoder and decoder."""
    multipliers: Annotated[tuple[int, ...], Field(strict=False, min_length=1)] = (1, 2, 4, 4, 4)
    attention: Literal["apart", "fused", "none"] = "none"
    scales: int | None = Field(default=None, ge=1)
    """Code the first few maps alone; None for all."""


class Network(nn.Module):
    """Seven maps for 256x256 pixels, ten for 512x512, thirteen for 1024x1024; the quantizer has no weights."""

    changes = "digits"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.patch = 2 ** (len(config.multipliers) - 1)
        self.known = _published()
        layout = config.model_copy(update={"z_channels": config.bits})
        self.encoder = Encoder(layout, config.bits)
        self.decoder = Decoder(layout)

    def latent(self, x: Tensor) -> Tensor:
        """What the quantizer is given: (B, 3, H, W) in [-1, 1] -> (B, bits, h, w)."""
        out: Tensor = self.encoder(x)
        return out

    def encode(self, x: Tensor) -> Codes:
        """(B, 3, H, W) in [-1, 1] -> bits, one map (B, s, t, bits) of 0 and 1 for each pair of sides, coarse to fine.

        Raises:
            DataError: if the authors have no sides of maps for the picture's size.
        """
        maps = tuple(numbered((left > 0).long(), left) for left in self._coded(x))
        size, bits = (x.shape[2], x.shape[3]), self.config.bits
        return Codes(indices=maps, codebook_sizes=(2,) * len(maps), size=size, indices_per_token=bits)

    def candidates(self, x: Tensor, count: int) -> tuple[Tensor, ...]:
        """The bits and those with each token's least certain one changed, maps before unchanged: (B, s, t, bits, 2)."""
        return tuple(torch.stack([(left > 0).long(), other_bits(left)], dim=-1) for left in self._coded(x))

    def _coded(self, x: Tensor) -> Iterator[Tensor]:
        """What each map codes, (B, s, t, bits), whose signs are its bits."""
        steps = self._steps((x.shape[2] // self.patch, x.shape[3] // self.patch))
        residual = self.latent(x).float()  # in half precision the later maps would code rounding
        for sides in steps[: self.config.scales]:
            left = F.interpolate(residual, size=sides, mode="area") if sides != steps[-1] else residual
            yield left.movedim(1, -1)
            residual = residual - self._spread((left > 0).movedim(1, -1).long(), steps[-1]).float()

    def decode(self, codes: Codes) -> Tensor:
        """Maps of bits -> (B, 3, H, W), unclamped; from the first few of them too, where the codes say their `size`.

        Also from what they add up to, (B, bits, h, w).
        """
        out: Tensor = self.decoder(self.vectors(codes) if codes.latent is None else codes.latent)
        return out

    def vectors(self, codes: Codes) -> Tensor:
        """What the maps add up to: (B, bits, h, w)."""
        *_, z = self._sums(codes)
        return z

    def curve(self, codes: Codes) -> Iterator[tuple[str, float, Tensor]]:
        """Decode from the first map, the first two and so on: label, bits of a picture so far, (B, 3, H, W) unclamped.

        The label is the option of the card that would code no more.
        """
        pairs = zip(_scales.bits_so_far(codes), self._sums(codes), strict=True)
        for count, (bits, z) in enumerate(pairs, 1):
            yield f"scales={count}", bits, self.decoder(z)

    @staticmethod
    def published_name(own: str) -> str:
        """Name a tensor as the published code does, which wraps every convolution and normalisation once more."""
        layer, kind = own.rsplit(".", 1)
        return f"{layer}.{'norm' if 'norm' in layer.rsplit('.', 1)[-1] else 'conv'}.{kind}"

    def renamed(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Bring a file without these wrappers, which the published code reads too, to the published names."""
        own = self.state_dict().keys()
        return {self.published_name(name) if name in own else name: tensor for name, tensor in state.items()}

    def _steps(self, sides: _scales.Sides) -> tuple[_scales.Sides, ...]:
        return _scales.schedule(sides, self.known, "Infinity", self.patch)

    def _spread(self, bits: Tensor, sides: _scales.Sides) -> Tensor:
        """What a map adds: (B, s, t, bits) -> (B, bits, h, w) of vectors of length 1 before enlarging."""
        vectors: Tensor = (2 * bits - 1).movedim(-1, 1).to(self.decoder.conv_in.weight.dtype) * self.config.bits**-0.5
        if vectors.shape[2:] != sides:
            vectors = F.interpolate(vectors, size=sides, mode="bilinear")
        # Left channels-last, the map would stay so throughout, where the CPU's GroupNorm rounds more coarsely.
        return vectors.contiguous()

    def _sums(self, codes: Codes) -> Iterator[Tensor]:
        """What the maps add up to, map by map, (B, bits, h, w)."""
        sides = _scales.target(codes, self.patch)
        z = None
        for part in codes.indices:
            added = self._spread(part, sides)
            z = added if z is None else z + added
            yield z
