"""UniCode's stacked HQ-VAE: a map of few tokens, then one of four times as many for what the first left over.

Source: zhengsipeng/UniCode-ECCV24, src/vae/models/stage1/generator.py (SimRQGAN2Generator), .../modules/quantizer.py
Commit: 25b94e3eb419341d0aa4aa2c5c341f1ec04ec6ce
Licence: none stated; the files carry MIT headers (Kakao Brain)
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from vtbench.networks._candidates import best_few
from vtbench.networks._taming import Decoder, Encoder, Layout, best_codes, lookup
from vtbench.types import Codes


class Config(Layout):
    """What the authors' configuration file says, which does not lie in their repository."""

    codebook_size: int = Field(ge=2)
    """Rows of each of the two codebooks."""
    code_channels: int = Field(multiple_of=4)
    """Numbers of a row: those of a language model's embeddings."""
    length: float = Field(default=30.0, gt=0)
    """Mean length to which the vectors of a map are shortened where they are longer."""


class Quantizer(nn.Module):
    """A codebook in the scale of a language model's embeddings."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.length = config.length
        self.register_buffer("embedding", torch.zeros(config.codebook_size, config.code_channels))
        self.register_buffer("llm_len_l2norm", torch.zeros(config.codebook_size))

    def table(self) -> Tensor:
        """The vectors that the codes stand for, (K, C)."""
        return self.get_buffer("embedding") * (self.length * self.get_buffer("llm_len_l2norm").mean())

    def forward(self, z: Tensor) -> Tensor:
        """(B, C, h, w) -> indices (B, h, w) of the nearest vectors, once the map is shortened."""
        return best_codes(*self._compared(z))

    def few(self, z: Tensor, count: int) -> Tensor:
        """(B, C, h, w) -> the nearest vectors, (B, h, w, count), nearest first."""
        return best_few(*self._compared(z), count)

    def _compared(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The shortened map in the codebook's scale, the codebook and the bias that makes the best row the nearest.

        The published code shortens a batch by its common mean, so that a picture's codes hang on the others; here each
        picture has its own, as if it came alone.
        """
        z = z.float()
        mean = z.norm(dim=1, keepdim=True).mean(dim=(2, 3), keepdim=True)
        z = torch.where(mean >= self.length, z / mean * self.length, z)
        table = self.get_buffer("embedding").float()
        scale = self.length * self.get_buffer("llm_len_l2norm").float().mean()
        return z / scale, table, -table.square().sum(1) / 2  # |z - e|^2 = |z|^2 - 2 (z.e - |e|^2 / 2)


class Network(nn.Module):
    """One token for every 32x32 pixels, then one for every 16x16."""

    changes = "codes"

    def __init__(self, config: Config) -> None:
        super().__init__()
        wide, narrow = config.code_channels, config.code_channels // 4
        self.codebook_size = config.codebook_size
        self.encoder = Encoder(config, config.z_channels)
        self.decoder = Decoder(config)
        self.quantize_t = Quantizer(config)
        self.quantize_b = Quantizer(config)
        self.quant_conv_b = nn.Conv2d(config.z_channels, narrow, 1)
        self.up_conv = nn.Conv2d(narrow, wide, 1)
        self.down_conv = nn.Conv2d(wide, narrow, 1)
        self.post_quant_conv_b = nn.Conv2d(2 * narrow, config.z_channels, 1)

    def latent(self, x: Tensor) -> Tensor:
        """What is quantised: (B, 3, H, W) in [-1, 1] -> (B, code_channels / 4, h, w)."""
        out: Tensor = self.quant_conv_b(self.encoder(x))
        return out

    def encode(self, x: Tensor) -> Codes:
        """(B, 3, H, W) in [-1, 1] -> indices (B, h / 2, w / 2) and (B, h, w)."""
        _, top, fine = self._coded(x)
        return Codes(indices=(top, self.quantize_b(fine)), codebook_sizes=(self.codebook_size,) * 2)

    def candidates(self, x: Tensor, count: int) -> tuple[Tensor, ...]:
        """The nearest codes of both maps, the first unchanged for the second: (B, h, w, count), nearest first."""
        coarse, _, fine = self._coded(x)
        return self.quantize_t.few(coarse, count), self.quantize_b.few(fine, count)

    def _coded(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the first map codes, its codes, and what the second codes."""
        z = self.latent(x)
        coarse = F.pixel_unshuffle(z, 2)
        top = self.quantize_t(coarse)
        return coarse, top, self.up_conv(z - self._top(top.clamp_min(0)))

    def decode(self, codes: Codes) -> Tensor:
        """Both maps of indices, or what they stand for -> (B, 3, H, W), unclamped."""
        return self._pixels(self.vectors(codes) if codes.latent is None else codes.latent)

    def vectors(self, codes: Codes) -> Tensor:
        """What both maps stand for, beside each other: (B, code_channels / 2, h, w)."""
        top, bottom = codes.indices
        return torch.cat([self._top(top), self.down_conv(lookup(bottom, self.quantize_b.table()))], dim=1)

    def curve(self, codes: Codes) -> Iterator[tuple[str, float, Tensor]]:
        """Decode from the first map, then from both: label, bits of a picture so far, (B, 3, H, W) unclamped.

        With the first map alone the decoder is given zeros for the second, as by the published code.
        """
        (top, _), (size, _) = codes.indices, codes.codebook_sizes
        coarse = self._top(top)
        alone = torch.cat([coarse, torch.zeros_like(coarse)], dim=1)
        yield "scales=1", top[0].numel() * math.log2(size), self._pixels(alone)
        bits = sum(part[0].numel() * math.log2(size) for part in codes.indices)
        yield "scales=2", bits, self.decode(codes)

    def _top(self, indices: Tensor) -> Tensor:
        """What the first map stands for: (B, h / 2, w / 2) -> (B, code_channels / 4, h, w)."""
        return F.pixel_shuffle(lookup(indices, self.quantize_t.table()), 2)

    def _pixels(self, z: Tensor) -> Tensor:
        out: Tensor = self.decoder(self.post_quant_conv_b(z))
        return out
