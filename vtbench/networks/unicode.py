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
        """(B, C, h, w) -> indices (B, h, w) of the nearest vectors, once the map is shortened.

        The published code shortens a batch by its common mean, so that a picture's codes hang on the others; here each
        picture has its own, as if it came alone.
        """
        z = z.float()
        mean = z.norm(dim=1, keepdim=True).mean(dim=(2, 3), keepdim=True)
        z = torch.where(mean >= self.length, z / mean * self.length, z)
        table = self.get_buffer("embedding").float()
        scale = self.length * self.get_buffer("llm_len_l2norm").float().mean()
        return best_codes(z / scale, table, -table.square().sum(1) / 2)  # |z - e|^2 = |z|^2 - 2 (z.e - |e|^2 / 2)


class Network(nn.Module):
    """One token for every 32x32 pixels, then one for every 16x16."""

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
        z = self.latent(x)
        top = self.quantize_t(F.pixel_unshuffle(z, 2))
        bottom = self.quantize_b(self.up_conv(z - self._top(top)))
        return Codes(indices=(top, bottom), codebook_sizes=(self.codebook_size,) * 2)

    def decode(self, codes: Codes) -> Tensor:
        """Both maps of indices -> (B, 3, H, W), unclamped."""
        top, bottom = codes.indices
        return self._pixels(self._top(top), self.down_conv(lookup(bottom, self.quantize_b.table())))

    def curve(self, codes: Codes) -> Iterator[tuple[str, float, Tensor]]:
        """Decode from the first map, then from both: label, bits of a picture so far, (B, 3, H, W) unclamped.

        With the first map alone the decoder is given zeros for the second, as by the published code.
        """
        (top, _), (size, _) = codes.indices, codes.codebook_sizes
        coarse = self._top(top)
        yield "scales=1", top[0].numel() * math.log2(size), self._pixels(coarse, torch.zeros_like(coarse))
        bits = sum(part[0].numel() * math.log2(size) for part in codes.indices)
        yield "scales=2", bits, self.decode(codes)

    def _top(self, indices: Tensor) -> Tensor:
        """What the first map stands for: (B, h / 2, w / 2) -> (B, code_channels / 4, h, w)."""
        return F.pixel_shuffle(lookup(indices, self.quantize_t.table()), 2)

    def _pixels(self, top: Tensor, bottom: Tensor) -> Tensor:
        out: Tensor = self.decoder(self.post_quant_conv_b(torch.cat([top, bottom], dim=1)))
        return out
