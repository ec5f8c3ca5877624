"""VAR's multi-scale VQVAE: index maps from 1x1 to the finest, each of what the ones before left over.

Source: FoundationVision/VAR, models/vqvae.py, models/quant.py, models/basic_vae.py
Commit: 78b95394fc5896192e3a003e4b295f8ea743c48f
Licence: MIT
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from vtbench.networks import _scales
from vtbench.networks._candidates import best_few
from vtbench.networks._taming import Decoder, Encoder, Layout, best_codes
from vtbench.types import Codes

SCHEDULES = ((1, 2, 3, 4, 5, 6, 8, 10, 13, 16), (1, 2, 3, 4, 6, 9, 13, 18, 24, 32))
"""The published sides of the index maps: pictures of 256 and of 512 pixels."""

BLENDS = np.linspace(1 / 12, 11 / 12, 4)
"""Where the four shared convolutions stand among the maps, from 0 for the first map to 1 for the last."""


class Config(Layout):
    """One file serves every size; only the sides of the maps follow the picture."""

    channels: int = Field(default=160, multiple_of=32)
    z_channels: int = Field(default=32, ge=1)
    attention: Literal["apart", "fused", "none"] = "fused"
    codebook_size: int = Field(default=4096, ge=2)
    schedules: Annotated[
        tuple[Annotated[tuple[int, ...], Field(strict=False, min_length=2)], ...], Field(strict=False)
    ] = SCHEDULES
    """Sides of the maps, coarse to fine; the picture's size in patches chooses the one that ends with it."""
    scales: int | None = Field(default=None, ge=1)
    """Code the first few maps alone; None for all."""


class Blends(nn.Module):
    """The 3x3 convolutions that maps pass after enlarging: half of the map is kept, half is convolved."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.qresi_ls = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in BLENDS)

    def forward(self, x: Tensor, scale: int, scales: int) -> Tensor:
        """Keep the shape (B, C, h, w); of `scales` maps this is number `scale`, from 0."""
        # Two of ten maps lie halfway between two convolutions: float64 rounding decides, as in the published code.
        nearest = int(np.argmin(np.abs(BLENDS - scale / (scales - 1))))
        out: Tensor = 0.5 * x + 0.5 * self.qresi_ls[nearest](x)
        return out


class Quantizer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.quant_resi = Blends(config.z_channels)
        self.embedding = nn.Embedding(config.codebook_size, config.z_channels)

    def spread(self, indices: Tensor, scale: int, steps: tuple[_scales.Sides, ...]) -> Tensor:
        """What a map adds: (B, s, s) -> (B, C, h, w)."""
        rows = self.embedding(indices).movedim(-1, 1).contiguous()
        if scale < len(steps) - 1:
            # A 1x1 map counts as channels-last too and is enlarged so; the CPU's GroupNorm then rounds more coarsely.
            rows = F.interpolate(rows, size=steps[-1], mode="bicubic").contiguous()
        out: Tensor = self.quant_resi(rows, scale, len(steps))
        return out


class Network(nn.Module):
    """Ten maps, 680 tokens for 256x256 pixels and 2,240 for 512x512."""

    changes = "codes"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.patch = 2 ** (len(config.multipliers) - 1)
        self.known = [tuple((side, side) for side in sides) for sides in config.schedules]
        self.encoder = Encoder(config, config.z_channels)
        self.decoder = Decoder(config)
        self.quantize = Quantizer(config)
        self.quant_conv = nn.Conv2d(config.z_channels, config.z_channels, 3, padding=1)
        self.post_quant_conv = nn.Conv2d(config.z_channels, config.z_channels, 3, padding=1)

    def latent(self, x: Tensor) -> Tensor:
        """What the quantizer is given: (B, 3, H, W) in [-1, 1] -> (B, z_channels, h, w)."""
        out: Tensor = self.quant_conv(self.encoder(x))
        return out

    def encode(self, x: Tensor) -> Codes:
        """(B, 3, H, W) in [-1, 1] -> indices, one map (B, s, s) for each side s, coarse to fine.

        Raises:
            DataError: if no schedule ends with the picture's size in patches.
        """
        maps = tuple(chosen for _, chosen in self._coded(x))
        sizes = (self.config.codebook_size,) * len(maps)
        return Codes(indices=maps, codebook_sizes=sizes, size=(x.shape[2], x.shape[3]))

    def candidates(self, x: Tensor, count: int) -> tuple[Tensor, ...]:
        """The nearest codes to what each map is given, those before it unchanged: (B, s, s, count), nearest first."""
        return tuple(best_few(left, *self._rows(), count) for left, _ in self._coded(x))

    def _rows(self) -> tuple[Tensor, Tensor]:
        table = self.quantize.embedding.weight.float()
        return table, -table.square().sum(1) / 2  # |z - e|^2 = |z|^2 - 2 (z.e - |e|^2 / 2)

    def _coded(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """What each map codes, (B, z_channels, s, s), and its codes (B, s, s)."""
        steps = self._steps((x.shape[2] // self.patch, x.shape[3] // self.patch))
        residual = self.latent(x).float()  # in half precision the later maps would code rounding
        for scale, sides in enumerate(steps[: self.config.scales]):
            left = F.interpolate(residual, size=sides, mode="area") if scale < len(steps) - 1 else residual
            chosen = best_codes(left, *self._rows())
            yield left, chosen
            residual = residual - self.quantize.spread(chosen.clamp_min(0), scale, steps)

    def decode(self, codes: Codes) -> Tensor:
        """Index maps -> (B, 3, H, W), unclamped; from the first few of them too, where the codes say their `size`.

        Also from what they add up to, (B, z_channels, h, w).
        """
        return self._pixels(self.vectors(codes) if codes.latent is None else codes.latent)

    def vectors(self, codes: Codes) -> Tensor:
        """What the maps add up to: (B, z_channels, h, w)."""
        *_, z = self._sums(codes)
        return z

    def curve(self, codes: Codes) -> Iterator[tuple[str, float, Tensor]]:
        """Decode from the first map, the first two and so on: label, bits of a picture so far, (B, 3, H, W) unclamped.

        The label is the option of the card that would code no more.
        """
        pairs = zip(_scales.bits_so_far(codes), self._sums(codes), strict=True)
        for count, (bits, z) in enumerate(pairs, 1):
            yield f"scales={count}", bits, self._pixels(z)

    def _steps(self, sides: _scales.Sides) -> tuple[_scales.Sides, ...]:
        return _scales.schedule(sides, self.known, "VAR", self.patch)

    def _sums(self, codes: Codes) -> Iterator[Tensor]:
        """What the maps add up to, map by map, (B, z_channels, h, w)."""
        steps = self._steps(_scales.target(codes, self.patch))
        z = None
        for scale, part in enumerate(codes.indices):
            added = self.quantize.spread(part, scale, steps)
            z = added if z is None else z + added
            yield z

    def _pixels(self, z: Tensor) -> Tensor:
        out: Tensor = self.decoder(self.post_quant_conv(z))
        return out
