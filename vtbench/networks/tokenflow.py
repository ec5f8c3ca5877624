"""TokenFlow, whose index stands for what a picture means and for its pixels at once, coarse to fine.

Source: ByteFlow-AI/TokenFlow, tokenflow/tokenizer/ (vq_model.py, clip/model.py)
Commit: 9812da01c0695f4989060cc4eea053715e9e4441
Licence: Apache-2.0
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from vtbench.errors import DataError
from vtbench.networks._candidates import best_few
from vtbench.networks._taming import Decoder, Encoder, Layout, best_codes, name_in_running_order
from vtbench.types import Codes, Strict

PATCH = 16
SLACK = 0.1
"""Added to the new side where the table of positions is resized, as the published code does so that the result is not a
row short. It stays in the scale of the sampling grid, so that resizing to the same side would give other values."""


class Config(Strict):
    """Numbers of the variants whose semantic encoder is CLIP."""

    pixel_encoder: Layout = Layout()
    pixel_decoder: Layout = Layout(channels=256, blocks=4)
    """The enhanced decoder; the plain one has the encoder's numbers."""
    width: int = Field(default=768, ge=1)
    blocks: int = Field(default=12, ge=1)
    heads: int = Field(default=12, ge=1)
    grid: int = Field(default=14, ge=1)
    """Side of the learned table of positions, in patches."""
    codebook_size: int = Field(default=32768, ge=2)
    semantic_channels: int = Field(default=32, ge=1)
    pixel_channels: int = Field(default=8, ge=1)
    sides: Annotated[tuple[int, ...], Field(strict=False, min_length=1)] = (1, 2, 4, 6, 8, 10, 12, 14, 16)
    """Sides of the index maps, coarse to fine. A picture has those up to its own side in patches."""
    scales: int | None = Field(default=None, ge=1)
    """Code the first so many scales alone; None codes all."""

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.width % self.heads:
            raise ValueError("heads must divide width")
        if len(self.pixel_encoder.multipliers) != 5 or len(self.pixel_decoder.multipliers) != 5:
            raise ValueError("multipliers must be five, so that a position has 16x16 pixels as a patch has")
        if self.pixel_encoder.z_channels != self.pixel_decoder.z_channels:
            raise ValueError("z_channels of encoder and decoder must be equal")
        if list(self.sides) != sorted(set(self.sides)) or self.sides[0] < 1:
            raise ValueError("sides must rise")
        return self


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.zeros(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = qkv.view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # each (B, heads, N, head)
        out: Tensor = self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out


class QuickGELU(nn.Module):
    """The approximation of GELU that CLIP was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        layers = (("c_fc", nn.Linear(width, 4 * width)), ("gelu", QuickGELU()), ("c_proj", nn.Linear(4 * width, width)))
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class Transformer(nn.Module):
    """Holds the blocks under their published name."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.resblocks = nn.Sequential(*(Block(config.width, config.heads) for _ in range(config.blocks)))


class SemanticEncoder(nn.Module):
    """CLIP's vision transformer without its last projection; it sees the picture in [-1, 1], as the pixels' encoder."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.grid = config.grid
        self.conv1 = nn.Conv2d(3, config.width, PATCH, stride=PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(config.width))
        self.positional_embedding = nn.Parameter(torch.zeros(config.grid**2 + 1, config.width))
        self.ln_pre = nn.LayerNorm(config.width)
        self.transformer = Transformer(config)
        self.ln_post = nn.LayerNorm(config.width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W), square -> (B, h, w, width)."""
        patches = self.conv1(x)
        side = patches.shape[-1]
        first = self.class_embedding.expand(len(x), 1, -1)
        tokens = torch.cat([first, patches.flatten(2).mT], dim=1) + self._positions(side)
        tokens = self.transformer.resblocks(self.ln_pre(tokens))
        out: Tensor = self.ln_post(tokens[:, 1:])
        return out.view(len(x), side, side, -1)

    def _positions(self, side: int) -> Tensor:
        if side == self.grid:
            return self.positional_embedding
        table = self.positional_embedding[1:].mT.reshape(1, -1, self.grid, self.grid)
        resized = F.interpolate(table.float(), scale_factor=(side + SLACK) / self.grid, mode="bicubic")
        return torch.cat([self.positional_embedding[:1], resized[0].flatten(1).mT.to(table.dtype)])


class Quantizer(nn.Module):
    """Two tables that share their indices; rows have any length and are compared by their direction alone."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embedding_vqkd = nn.Embedding(config.codebook_size, config.semantic_channels)
        self.embedding_vqgan = nn.Embedding(config.codebook_size, config.pixel_channels)

    def semantic(self) -> Tensor:
        """The normalised rows of the semantic table, float32."""
        return F.normalize(self.embedding_vqkd.weight.float())

    def pixel(self) -> Tensor:
        """The normalised rows of the pixel table, float32."""
        return F.normalize(self.embedding_vqgan.weight.float())


class Network(nn.Module):
    """Index maps of rising sides, each of what the ones before left over; 224x224 has eight of them, 256x256 nine."""

    changes = "codes"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.encoder_vqkd = SemanticEncoder(config)
        self.encode_task_layer = nn.Sequential(
            nn.Linear(config.width, config.width), nn.Tanh(), nn.Linear(config.width, config.semantic_channels)
        )
        z_channels = config.pixel_encoder.z_channels
        self.encoder = Encoder(config.pixel_encoder, z_channels)
        self.quant_conv = nn.Conv2d(z_channels, config.pixel_channels, 1)
        self.quantize = Quantizer(config)
        self.post_quant_conv = nn.Conv2d(config.pixel_channels, z_channels, 1)
        self.decoder = Decoder(config.pixel_decoder)

    def latent(self, x: Tensor) -> Tensor:
        """What the quantizer is given: (B, 3, H, W) -> (B, semantic_channels + pixel_channels, h, w)."""
        semantic = self.encode_task_layer(self.encoder_vqkd(x)).movedim(-1, 1)
        return torch.cat([semantic, self.quant_conv(self.encoder(x))], dim=1)

    def encode(self, x: Tensor) -> Codes:
        """(B, 3, H, W) in [-1, 1] -> indices, one map (B, s, s) for each of the sides s, coarse to fine.

        Raises:
            DataError: if the picture is no square, or its side in patches is neither that of the table of positions nor
                that of a finer map.
        """
        codes = [best_codes(*given) for given in self._coded(x)]
        size = self.config.codebook_size
        return Codes(indices=tuple(codes), codebook_sizes=(size,) * len(codes), size=(x.shape[2], x.shape[3]))

    def candidates(self, x: Tensor, count: int) -> tuple[Tensor, ...]:
        """The nearest codes to what each map is given, those before unchanged: (B, s, s, count), nearest first."""
        return tuple(best_few(*given, None, count) for given in self._coded(x))

    def _coded(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """What each map codes, both halves of unit length, and the codebook of unit rows."""
        height, width = x.shape[2] // PATCH, x.shape[3] // PATCH
        known = [side for side in self.config.sides if side >= self.config.grid]
        if height != width or height not in known:
            wanted = " or ".join(f"{PATCH * side}x{PATCH * side}" for side in known)
            raise DataError(f"TokenFlow takes {wanted} pixels only, got {x.shape[3]}x{x.shape[2]}")
        residual = self.latent(x).float()  # in half precision the later scales would code rounding
        semantic, pixel = self.quantize.semantic(), self.quantize.pixel()
        both = torch.cat([semantic, pixel], dim=1)
        border = semantic.shape[1]
        for side in self.config.sides[: self.config.scales]:
            if side > height:
                break
            left = F.interpolate(residual, size=side, mode="area")
            # Both parts have the length 1, so the nearest pair of rows is the one with the largest sum of products.
            parts = [F.normalize(left[:, :border]), F.normalize(left[:, border:])]
            given = torch.cat(parts, dim=1), both
            yield given
            residual = residual - _spread(best_codes(*given).clamp_min(0), both, height)

    def decode(self, codes: Codes) -> Tensor:
        """Index maps -> (B, 3, H, W), unclamped; from the first few of them too, where the codes say their `size`.

        Also from the pixels' half of what they add up to, (B, pixel_channels, h, w).
        """
        return self._pixels(self.vectors(codes) if codes.latent is None else codes.latent)

    def vectors(self, codes: Codes) -> Tensor:
        """The pixels' half of what the maps add up to: (B, pixel_channels, h, w)."""
        *_, (_, _, z) = self._sums(codes)
        return z.to(self.post_quant_conv.weight.dtype)

    def curve(self, codes: Codes) -> Iterator[tuple[str, float, Tensor]]:
        """Decode from the first map, the first two and so on: label, bits of a picture so far, (B, 3, H, W) unclamped.

        The label is the option of the card that would code no more.
        """
        for label, bits, z in self._sums(codes):
            yield label, bits, self._pixels(z)

    def _sums(self, codes: Codes) -> Iterator[tuple[str, float, Tensor]]:
        """The pixels' half of what the maps add up to, map by map, (B, pixel_channels, h, w)."""
        table = self.quantize.pixel()
        side = codes.size[0] // PATCH if codes.size else codes.indices[-1].shape[-1]
        bits, z = 0.0, _spread(codes.indices[0], table, side)
        for count, (part, size) in enumerate(zip(codes.indices, codes.codebook_sizes, strict=True), 1):
            bits += part[0].numel() * math.log2(size)
            # Added in the published order: float32 sums differ by it, and the decoder enlarges what differs.
            z = z + _spread(part, table, side) if count > 1 else z
            yield f"scales={count}", bits, z

    def _pixels(self, z: Tensor) -> Tensor:
        out: Tensor = self.decoder(self.post_quant_conv(z.to(self.post_quant_conv.weight.dtype)))
        return out

    def published_name(self, own: str) -> str:
        """Name a tensor as the published checkpoint does, which numbers the decoder's levels in the order they run."""
        return name_in_running_order(own, len(self.config.pixel_decoder.multipliers))


def _spread(indices: Tensor, table: Tensor, side: int) -> Tensor:
    """The rows that a map stands for, resized to the finest map: (B, s, s) and (K, C) -> (B, C, side, side)."""
    rows = F.embedding(indices, table).movedim(-1, 1).contiguous()
    return F.interpolate(rows, size=side, mode="bicubic")
