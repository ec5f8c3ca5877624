"""HOOK, a tokenizer for understanding alone: a few tokens, each of the pixels that belong together.

Source: GeoX-Lab/Hook, models/tokenizer.py
Commit: e2c67d46fa7836f8678f56eb5d5b594964dc17ca
Licence: BSD-2-Clause
"""

from __future__ import annotations

from typing import Never

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from vtbench.errors import DataError
from vtbench.types import Codes, Strict

SEED = 4
"""Side of a pixel seed: the smallest piece that belongs to a token."""


class Config(Strict):
    """The picture's side fixes the table of positions, so each side is another network."""

    side: int = Field(multiple_of=2 * SEED)
    tokens: int = Field(ge=1)
    stem: int = Field(default=64, ge=1)
    """Channels of the first convolution; two and four times as many follow."""
    seed_channels: int = Field(default=512, ge=2)
    heads: int = Field(default=8, ge=1)
    token_channels: int = Field(default=768, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.seed_channels % self.heads or self.seed_channels % 2:
            raise ValueError("seed_channels must be even and a multiple of heads")
        return self


class FixedNorm(nn.Module):
    """Batch normalisation by stored statistics, without the counter that training keeps beside them."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)


def refine(channels: int) -> nn.Sequential:
    """What is added to a map of features at its own sides."""
    return nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), FixedNorm(channels), nn.GELU())


def halve(channels: int) -> nn.Sequential:
    """Half the sides at twice the width, from windows that don't overlap."""
    return nn.Sequential(nn.Conv2d(channels, 2 * channels, 2, stride=2), FixedNorm(2 * channels))


class Stem(nn.Module):
    """Pixels to seeds."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, config.stem, 1)
        self.module1 = refine(config.stem)
        self.module2 = halve(config.stem)
        self.module3 = refine(2 * config.stem)
        self.module4 = halve(2 * config.stem)
        self.conv2 = nn.Conv2d(4 * config.stem, config.seed_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, seed_channels, H / 4, W / 4)."""
        x = self.conv1(x)
        x = self.module2(x + self.module1(x))
        out: Tensor = self.conv2(self.module4(x + self.module3(x)))
        return out


class Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.seed_channels, 3 * config.seed_channels)
        self.proj = nn.Linear(config.seed_channels, config.seed_channels)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # each (B, heads, N, head)
        out: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out


class MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """A transformer block over the seeds, in windows of half the picture's sides or over all."""

    def __init__(self, config: Config, *, windows: bool) -> None:
        super().__init__()
        self.cuts = 2 if windows else 1
        self.norm1 = nn.LayerNorm(config.seed_channels)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.seed_channels)
        self.mlp = MLP(config.seed_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (B, side, side, seed_channels)."""
        count, side, _, channels = x.shape
        part = side // self.cuts
        split = (count, self.cuts, part, self.cuts, part, channels)
        windows = self.norm1(x).view(split).transpose(2, 3).reshape(-1, part * part, channels)
        swapped = (count, self.cuts, self.cuts, part, part, channels)
        x = x + self.attn(windows).view(swapped).transpose(2, 3).reshape(x.shape)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Match(nn.Module):
    """One head of attention from the tokens' queries to the seeds."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        inner = config.seed_channels // 2
        self.norm_media = nn.LayerNorm(config.seed_channels)
        self.norm_latents = nn.LayerNorm(config.token_channels)
        self.to_q = nn.Linear(config.token_channels, inner, bias=False)
        self.to_kv = nn.Linear(config.seed_channels, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, config.token_channels, bias=False)

    def forward(self, seeds: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, seed_channels) and (tokens, token_channels) -> (B, tokens, token_channels), (B, tokens, N)."""
        q = self.to_q(self.norm_latents(queries))
        k, v = self.to_kv(self.norm_media(seeds)).chunk(2, dim=-1)  # each (B, N, inner)
        attention = (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1)
        return self.to_out(attention @ v), attention


class Network(nn.Module):
    """A fixed number of tokens a picture, each a mixture of seeds of 4x4 pixels."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        width = config.token_channels
        self.downsample_module = Stem(config)
        self.pos_embed = nn.Parameter(torch.zeros(1, (config.side // SEED) ** 2, config.seed_channels))
        self.semantic_module = nn.Sequential(Block(config, windows=True), Block(config, windows=False))
        self.query = nn.Parameter(torch.zeros(config.tokens, width))
        self.match_attn = Match(config)
        self.match_ff = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width, bias=False),
            nn.GELU(),
            nn.Linear(4 * width, width, bias=False),
        )

    def encode(self, x: Tensor) -> Codes:
        """(B, 3, side, side), normalised by ImageNet's mean and deviation -> latent (B, tokens, token_channels).

        The tokens are no grid; `regions` says where each looks.

        Raises:
            DataError: if the picture has another size.
        """
        tokens, _ = self._matched(x)
        return Codes(latent=tokens)

    def decode(self, codes: Codes) -> Never:
        """Refuse.

        Raises:
            DataError: always; nothing of the kind was ever trained.
        """
        raise DataError(
            "HOOK has no decoder: its tokens are for understanding; choose the task `tokens`, which needs no pixels"
        )

    def attention(self, x: Tensor) -> Tensor:
        """How much of each seed is in each token: (B, 3, side, side) -> (B, tokens, side / 4, side / 4).

        The sum over the seeds is 1 for every token.
        """
        _, attention = self._matched(x)
        side = self.config.side // SEED
        return attention.view(len(x), -1, side, side)

    def regions(self, x: Tensor) -> Tensor:
        """The token that every pixel belongs to: (B, 3, side, side) -> int64 (B, side, side).

        It is the one whose attention to the pixel's seed is largest, as in the published figures; of equal ones the
        first.
        """
        seeds = self.attention(x).argmax(1)
        return seeds.repeat_interleave(SEED, dim=1).repeat_interleave(SEED, dim=2)

    def _matched(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, tokens, token_channels) and attention (B, tokens, seeds in row-major order)."""
        side = self.config.side
        if x.shape[2:] != (side, side):
            raise DataError(f"this HOOK takes {side}x{side} pixels only, got {x.shape[3]}x{x.shape[2]}")
        seeds = self.downsample_module(x).flatten(2).mT + self.pos_embed
        seeds = self.semantic_module(seeds.view(len(x), side // SEED, side // SEED, -1)).flatten(1, 2)
        mixed, attention = self.match_attn(seeds, self.query)
        tokens = mixed + self.query
        return tokens + self.match_ff(tokens), attention
