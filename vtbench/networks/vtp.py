"""VTP, a vision transformer trained on text, self-distillation and pixels at once, with a transformer for a decoder.

Source: MiniMax-AI/VTP, vtp/models/ (vtp_hf, encoders, decoders/pixel_decoder, layers)
Commit: 5ce1eb67010fff3c1eed483352483be6a1838556
Licence: MIT, and products above 100 million monthly users or 30 million USD yearly revenue must display "MiniMax VTP"
"""

from __future__ import annotations

import math

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from vtbench.networks._gaussian import latent_of
from vtbench.types import Codes, Strict

PATCH = 16
HALF = torch.bfloat16
"""What the published code turns queries and keys in, whatever the network's own precision: positions, angles, sines
and the vectors themselves are rounded at every step. In float32 the latent is 1e-2 away from the published one."""


class Config(Strict):
    """The numbers of a variant; the encoder and the decoder share their shape."""

    width: int = Field(ge=1)
    blocks: int = Field(ge=1)
    heads: int = Field(ge=1)
    latent_channels: int = Field(default=64, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.width % (4 * self.heads):
            raise ValueError("width must be a multiple of 4 x heads, a channel pair for each of the two rotary axes")
        return self


class Rotary(nn.Module):
    """The sines and cosines of every position of a grid."""

    periods: Tensor

    def __init__(self, head: int) -> None:
        super().__init__()
        exponents = torch.arange(head // 4, device="cpu", dtype=HALF) / (head // 4)
        # Published files hold these 16 numbers as well; they are a constant that is checked there, never trained.
        self.register_buffer("periods", 100.0**exponents, persistent=False)

    def forward(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Sine and cosine for every position in row-major order, each (height * width, head)."""
        periods = self.periods.to(HALF)
        rows, columns = (
            2.0 * (torch.arange(0.5, side, device=periods.device, dtype=HALF) / side) - 1.0 for side in (height, width)
        )
        by_row = (2 * math.pi * rows[:, None] / periods)[:, None].expand(height, width, -1)
        by_column = (2 * math.pi * columns[:, None] / periods).expand(height, width, -1)
        angles = torch.cat([by_row, by_column, by_row, by_column], dim=-1).flatten(0, 1)
        return angles.sin(), angles.cos()


def turned(x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the last positions of (B, heads, N, head), as many as there are turns; a class token before them stays.

    Channel i of a head is paired with channel i + head / 2.
    """
    sine, cosine = turns
    half = x.to(HALF)  # the class token is rounded too
    before = half.shape[2] - len(sine)
    kept, moved = half[:, :, :before], half[:, :, before:]
    first, second = moved.chunk(2, dim=-1)
    moved = moved * cosine + torch.cat([-second, first], dim=-1) * sine
    return torch.cat([kept, moved], dim=2).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, heads, N, head)
        h = F.scaled_dot_product_attention(turned(q, turns), turned(k, turns), v)
        out: Tensor = self.proj(h.transpose(1, 2).flatten(2))
        return out


class GatedMLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = -(-int(4 * width * 2 / 3) // 8) * 8  # two thirds of the usual width, up to a multiple of 8
        self.w1 = nn.Linear(width, hidden)
        self.w2 = nn.Linear(width, hidden)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.w3(F.silu(self.w1(x)).mul_(self.w2(x)))
        return out


def norm(width: int, *, decoder: bool) -> nn.Module:
    """The encoder's or the decoder's normalisation over the width."""
    return nn.LayerNorm(width, eps=1e-6) if decoder else nn.RMSNorm(width, eps=1e-5)


class Block(nn.Module):
    def __init__(self, config: Config, *, decoder: bool) -> None:
        super().__init__()
        self.norm1 = norm(config.width, decoder=decoder)
        self.attn = Attention(config)
        self.norm2 = norm(config.width, decoder=decoder)
        self.mlp = GatedMLP(config.width)

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.attn(self.norm1(x), turns)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Patches(nn.Module):
    """The layer that turns patches into vectors, under its published name."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, stride=PATCH)


class Encoder(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.patch_embed = Patches(config.width)
        self.rope_embed = Rotary(config.width // config.heads)
        self.blocks = nn.ModuleList(Block(config, decoder=False) for _ in range(config.blocks))
        self.norm = norm(config.width, decoder=False)
        self.feature_bottleneck = nn.Linear(config.width, config.latent_channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, latent_channels, h, w)."""
        patches = self.patch_embed.proj(x)  # (B, width, h, w)
        height, width = patches.shape[2:]
        turns = self.rope_embed(height, width)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), patches.flatten(2).mT], dim=1)
        for block in self.blocks:
            x = block(x, turns)
        z: Tensor = self.feature_bottleneck(self.norm(x[:, 1:]))
        return z.mT.reshape(len(x), -1, height, width)


class Decoder(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.proj_in = nn.Conv2d(config.latent_channels, config.width, 1)
        self.rope_embed = Rotary(config.width // config.heads)
        self.blocks = nn.ModuleList(Block(config, decoder=True) for _ in range(config.blocks))
        self.norm = norm(config.width, decoder=True)
        self.proj_out = nn.Conv2d(config.width, 3 * PATCH * PATCH, 1)

    def forward(self, z: Tensor) -> Tensor:
        """(B, latent_channels, h, w) -> (B, 3, H, W)."""
        turns = self.rope_embed(*z.shape[2:])
        x = self.proj_in(z).flatten(2).mT
        for block in self.blocks:
            x = block(x, turns)
        pixels = self.proj_out(self.norm(x).mT.unflatten(2, z.shape[2:]))
        return F.pixel_shuffle(pixels, PATCH)


class Network(nn.Module):
    """One latent vector for every 16x16 pixels, at any size that is a multiple of 16."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.trunk = Encoder(config)
        self.pixel_decoder = Decoder(config)

    def latent(self, x: Tensor) -> Tensor:
        """(B, 3, H, W), normalised by ImageNet's mean and deviation -> (B, latent_channels, h, w)."""
        out: Tensor = self.trunk(x)
        return out

    def encode(self, x: Tensor) -> Codes:
        """(B, 3, H, W), normalised by ImageNet's mean and deviation -> latent (B, latent_channels, h, w).

        The latent is no distribution. The class token is computed with it and left out, as the pixel decoder has no
        use for it.
        """
        return Codes(latent=self.latent(x))

    def decode(self, codes: Codes) -> Tensor:
        """Latent (B, latent_channels, h, w) -> (B, 3, H, W), normalised as the input is, unclamped.

        Raises:
            DataError: if the codes hold no latent.
        """
        out: Tensor = self.pixel_decoder(latent_of(codes, "VTP"))
        return out
