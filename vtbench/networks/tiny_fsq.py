"""Tiny FSQ: small convolutional tokenizers with finite scalar quantisation, made for this package.

Own architecture; the quantiser follows Mentzer et al., "Finite Scalar Quantization: VQ-VAE Made Simple" (2023).
Trained by training/train.py; weights and code are Apache-2.0.

A linear patch transform runs beside the encoder and beside the decoder. Training starts it from a principal component
analysis, so the convolutions only have to learn what a linear transform code cannot do. Those of tiny-fsq-f16's encoder
learned nothing: they died in training (training/README.md).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from vtbench.networks._candidates import other_digits
from vtbench.networks._finite import numbered
from vtbench.types import Codes, Strict


class Config(Strict):
    """The sizes of a tiny FSQ tokenizer; downsampling is `patch` times two for every width after the first."""

    levels: tuple[Annotated[int, Field(ge=2)], ...] = Field(min_length=1)
    """Quantisation levels of each latent channel; the codebook size is their product."""

    patch: int = Field(default=4, ge=1)
    """Side of the square of pixels that is folded into channels before the first convolution."""

    widths: tuple[int, ...] = Field(min_length=1)
    """Channels of each stage, finest first."""

    encoder_depths: tuple[int, ...]
    """Residual blocks of each encoder stage, finest first."""

    decoder_depths: tuple[int, ...]
    """Residual blocks of each decoder stage, finest first."""

    @model_validator(mode="after")
    def _one_depth_a_width(self) -> Config:
        for name, depths in (("encoder_depths", self.encoder_depths), ("decoder_depths", self.decoder_depths)):
            if len(depths) != len(self.widths):
                raise ValueError(f"{name} has {len(depths)} entries, expected {len(self.widths)}, one for each width")
        return self


class Block(nn.Module):
    """Pre-activation residual block of two 3x3 convolutions, without normalisation; starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv2(F.silu(self.conv1(F.silu(x))))
        return out


class Encoder(nn.Module):
    """Pixels to latent channels: fold pixels into channels, then stages of blocks with strided convolutions between."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        widths = config.widths
        self.fold = nn.PixelUnshuffle(config.patch)
        self.stem = nn.Conv2d(3 * config.patch**2, widths[0], 3, padding=1)
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(width) for _ in range(depth)))
            for width, depth in zip(widths, config.encoder_depths, strict=True)
        )
        self.downs = nn.ModuleList(nn.Conv2d(fine, coarse, 3, stride=2, padding=1) for fine, coarse in pairwise(widths))
        self.head = nn.Conv2d(widths[-1], len(config.levels), 1)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(self.fold(x))  # (B, widths[0], H / patch, W / patch)
        for i, stage in enumerate(self.stages):
            if i > 0:
                x = self.downs[i - 1](x)
            x = stage(x)
        out: Tensor = self.head(F.silu(x))  # (B, channels, h, w)
        return out


class Decoder(nn.Module):
    """Latent channels to pixels: the encoder's mirror, with pixel shuffles in place of strides."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        widths = config.widths
        self.stem = nn.Conv2d(len(config.levels), widths[-1], 3, padding=1)
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(width) for _ in range(depth)))
            for width, depth in zip(widths, config.decoder_depths, strict=True)
        )
        self.ups = nn.ModuleList(nn.Conv2d(coarse, 4 * fine, 1) for fine, coarse in pairwise(widths))
        self.head = nn.Conv2d(widths[0], 3 * config.patch**2, 3, padding=1)
        self.unfold = nn.PixelShuffle(config.patch)
        nn.init.zeros_(self.head.weight)

    def forward(self, z: Tensor) -> Tensor:
        x = self.stem(z)
        for i in reversed(range(len(self.stages))):
            x = self.stages[i](x)
            if i > 0:
                x = F.pixel_shuffle(self.ups[i - 1](x), 2)
        out: Tensor = self.unfold(self.head(F.silu(x)))  # (B, 3, H, W)
        return out


class Quantizer(nn.Module):
    """Finite scalar quantisation: each latent channel is squashed to its number of levels and rounded."""

    levels: Tensor
    basis: Tensor

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("levels", torch.tensor(levels, device="cpu"), persistent=False)
        places = [math.prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer(
            "basis", torch.tensor(places, device="cpu"), persistent=False
        )  # channel 0 is the lowest digit

    def bound(self, z: Tensor) -> Tensor:
        """Squash channel c of (B, channels, h, w) so that rounding gives exactly levels[c] different integers."""
        levels = self.levels.view(1, -1, 1, 1)
        half = (levels - 1) * (1 + 1e-3) / 2
        offset = torch.where(levels % 2 == 0, 0.5, 0.0)
        return torch.tanh(z + torch.atanh(offset / half)) * half - offset

    def forward(self, z: Tensor) -> Tensor:
        """Code values in [-1, 1], with the gradient of `bound`: the rounding is straight-through."""
        bounded = self.bound(z)
        rounded = bounded + (bounded.round() - bounded).detach()
        return rounded / (self.levels // 2).view(1, -1, 1, 1)

    def indices(self, z: Tensor) -> Tensor:
        """One number a position, int64 (B, h, w), from the latent (B, channels, h, w); -1 where that is not finite."""
        digits = self.bound(z).round().long() + (self.levels // 2).view(1, -1, 1, 1)
        return numbered((digits * self.basis.view(1, -1, 1, 1)).sum(1), z.movedim(1, -1))

    def others(self, z: Tensor) -> Tensor:
        """The numbers with the least certain digit changed, of the shape of `indices`."""
        bounded = self.bound(z).movedim(1, -1) + self.levels // 2
        return (other_digits(bounded, self.levels) * self.basis).sum(-1)

    def values(self, indices: Tensor) -> Tensor:
        """Code values in [-1, 1], float (B, channels, h, w), from the numbers of `indices`."""
        half = (self.levels // 2).view(1, -1, 1, 1)
        digits = indices.unsqueeze(1) // self.basis.view(1, -1, 1, 1) % self.levels.view(1, -1, 1, 1)
        return (digits - half) / half


class Network(nn.Module):
    """A tiny FSQ tokenizer for pictures in [-1, 1] whose sides are multiples of the downsampling factor."""

    changes = "digits"

    def __init__(self, config: Config) -> None:
        super().__init__()
        factor = config.patch * 2 ** (len(config.widths) - 1)
        channels = len(config.levels)
        self.codebook_size = math.prod(config.levels)
        self.encoder = Encoder(config)
        self.encoder_linear = nn.Conv2d(3, channels, factor, stride=factor)
        self.quantizer = Quantizer(config.levels)
        self.decoder_linear = nn.ConvTranspose2d(channels, 3, factor, stride=factor)
        self.decoder = Decoder(config)

    def latent(self, x: Tensor) -> Tensor:
        """What the quantiser rounds: (B, channels, h, w)."""
        out: Tensor = self.encoder_linear(x) + self.encoder(x)
        return out

    def pixels(self, values: Tensor) -> Tensor:
        """The picture of code values (B, channels, h, w), unclamped: (B, 3, H, W)."""
        out: Tensor = self.decoder_linear(values) + self.decoder(values)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction, differentiable through the rounding: what training minimises a loss of."""
        return self.pixels(self.quantizer(self.latent(x)))

    def encode(self, x: Tensor) -> Codes:
        """Codes of (B, 3, H, W) in [-1, 1]."""
        return Codes(indices=(self.quantizer.indices(self.latent(x)),), codebook_sizes=(self.codebook_size,))

    def decode(self, codes: Codes) -> Tensor:
        """The reconstruction (B, 3, H, W), unclamped, from the indices or from what they stand for."""
        return self.pixels(self.vectors(codes) if codes.latent is None else codes.latent)

    def vectors(self, codes: Codes) -> Tensor:
        """The code values that the indices stand for: (B, channels, h, w)."""
        return self.quantizer.values(codes.indices[0]).to(self.decoder.stem.weight.dtype)

    def candidates(self, x: Tensor, count: int) -> tuple[Tensor, ...]:
        """The code of each position and the one with its least certain digit changed: (B, h, w, 2)."""
        z = self.latent(x)
        return (torch.stack([self.quantizer.indices(z), self.quantizer.others(z)], dim=-1),)
