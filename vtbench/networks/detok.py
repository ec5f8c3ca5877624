"""l-DeTok: a vector for every 16x16 pixels, read and written by two transformers that were trained to denoise it.

Source: Jiawei-Yang/DeTok, models/detok.py
Commit: 706f7ac6ed681a85ee2210234df3576e49005f53
Licence: MIT
"""

from __future__ import annotations

import math
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from vtbench.networks._gaussian import Posterior, code, latent_of
from vtbench.networks._patches import from_patches
from vtbench.types import Codes


class Config(Posterior):
    """The numbers of the one published layout."""

    width: int = Field(default=768, ge=1)
    layers: int = Field(default=12, ge=1)
    heads: int = Field(default=12, ge=1)
    hidden: int = Field(default=2048, ge=1)
    """Width inside the feed-forward layers."""
    channels: int = Field(default=16, ge=1)
    """Numbers of a token."""
    size: int = Field(default=256, ge=1)
    """Height and width of a picture; the positions are learned, so no other size is taken."""
    patch: int = Field(default=16, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.size % self.patch or self.width % (4 * self.heads):
            raise ValueError("size must be a multiple of patch, and width of four times heads")
        return self

    @property
    def side(self) -> int:
        """Tokens along a side."""
        return self.size // self.patch


def positions(side: int, channels: int) -> Tensor:
    """Angles by token and channel, (side * side, channels): the row's in the first half of a head, then the column's.

    Each half holds its frequencies twice, one run after the other, while `turned` pairs neighbours: the two numbers of
    a pair meet different angles, so this is no rotation. The published weights were trained so.
    """
    frequencies = 2 * math.pi * 7 * 1e4 ** torch.linspace(0, -1, channels // 4, device="cpu")
    along = torch.linspace(0, 1, side, device="cpu")[:, None] * frequencies.repeat(2)  # (side, channels / 2)
    rows, columns = along.repeat_interleave(side, 0), along.repeat(side, 1)
    return torch.cat([rows, columns], dim=1)


def turned(x: Tensor) -> Tensor:
    """(x0, x1, x2, x3, ...) -> (-x1, x0, -x3, x2, ...) along the last axis."""
    even, odd = torch.unflatten(x, -1, (-1, 2)).unbind(-1)
    return torch.stack([-odd, even], dim=-1).flatten(-2)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """Keep the shape (B, T, width); the angles' cosine and sine are (T, width / heads)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, T, C) each
        q, k = (part * cosine + turned(part) * sine for part in (q, k))
        out: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out


class FeedForward(nn.Module):
    """Gated by SiLU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(width, 2 * hidden)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (B, T, width)."""
        gate, value = self.w12(x).chunk(2, dim=-1)
        out: Tensor = self.w3(F.silu(gate) * value)
        return out


class Block(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(config.width, eps=1e-6)
        self.attn = Attention(config.width, config.heads)
        self.norm2 = nn.RMSNorm(config.width, eps=1e-6)
        self.mlp = FeedForward(config.width, config.hidden)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """Keep the shape (B, T, width)."""
        x = x + self.attn(self.norm1(x), cosine, sine)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Half(nn.Module):
    """What encoder and decoder have in common: learned positions, blocks, and a normalisation on either side."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.side = config.side
        self.positional_embedding = nn.Parameter(torch.zeros(1, config.side**2, config.width))
        self.ln_pre = nn.RMSNorm(config.width, eps=1e-6)
        self.transformer = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.ln_post = nn.RMSNorm(config.width, eps=1e-6)
        angles = positions(config.side, config.width // config.heads)
        self.register_buffer("cosine", angles.cos(), persistent=False)
        self.register_buffer("sine", angles.sin(), persistent=False)

    def mixed(self, x: Tensor) -> Tensor:
        """Keep the shape (B, side * side, width)."""
        x = self.ln_pre(x + self.positional_embedding)
        for block in self.transformer:
            x = block(x, self.cosine, self.sine)
        out: Tensor = self.ln_post(x)
        return out


class Encoder(Half):
    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.patch_embed = nn.Sequential(nn.Conv2d(3, config.width, config.patch, stride=config.patch))
        self.latent_head = nn.Linear(config.width, 2 * config.channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, size, size) -> (B, 2 channels, side, side)."""
        h = self.mixed(self.patch_embed(x).flatten(2).mT)
        out: Tensor = self.latent_head(h).mT.unflatten(2, (self.side, self.side))
        return out


class Decoder(Half):
    """`mask_token` is in the published file and plays no part here: nothing is masked at inference."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.patch = config.patch
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.decoder_embed = nn.Linear(config.channels, config.width)
        # The published list begins with a rearrangement, which has no tensors.
        self.ffn = nn.Sequential(nn.Identity(), nn.Conv2d(config.width, 3 * config.patch**2, 1))
        self.conv_out = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """(B, channels, side, side) -> (B, 3, size, size), unclamped."""
        h = self.mixed(self.decoder_embed(z.flatten(2).mT))
        h = self.ffn(torch.unflatten(h.mT, 2, (self.side, self.side)).contiguous())
        out: Tensor = self.conv_out(from_patches(h, self.patch))
        return out


class Network(nn.Module):
    """A continuous latent; the noise and the masks of the training have no part in it."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.posterior: Posterior = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def encode(self, x: Tensor) -> Codes:
        """(B, 3, size, size) in [-1, 1] -> latent (B, channels, side, side): the posterior's mean, or a draw."""
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        return Codes(latent=code(mean, log_variance, self.posterior, limits=(-30.0, 20.0)))

    def decode(self, codes: Codes) -> Tensor:
        """Latent (B, channels, side, side) -> (B, 3, size, size), unclamped."""
        out: Tensor = self.decoder(latent_of(codes, "l-DeTok"))
        return out
