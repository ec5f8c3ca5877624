"""TAESD's family: tiny autoencoders distilled from the large ones of diffusion models; their latents are compatible.

Source: madebyollin/taesd, taesd.py
Commit: 5cccb12dc72074a4be35680c3b108548a7c69978
Licence: MIT

The published weights lie in two files. Here they are one mapping, under the prefixes `encoder.` and `decoder.`; the
numbers after the prefix are those of the files. Pictures are in [0, 1] on both sides.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vtbench.networks._gaussian import latent_of
from vtbench.types import Codes, Strict

SATURATION = 3.0
"""The decoder squashes each value of the latent below this, so that no outlier of a diffusion model upsets it."""

WIDTHS: dict[int, tuple[int, ...]] = {8: (1, 1, 1, 1), 32: (4, 2, 1, 1, 1, 1)}
"""Widths of the decoder's stages, coarsest first, in multiples of the configured width, by the downsampling factor."""


class Config(Strict):
    """What the published variants differ in."""

    latent_channels: int = Field(default=4, ge=1)
    downsampling: Literal[8, 32] = 8
    pooled: bool = False
    """The blocks at the coarsest resolution see the whole picture's statistics (TAEF2)."""
    width: int = Field(default=64, ge=2, multiple_of=2)


def conv(before: int, after: int, *, halve: bool = False, bias: bool = True) -> nn.Conv2d:
    """A 3x3 convolution that keeps or halves the resolution."""
    return nn.Conv2d(before, after, 3, stride=2 if halve else 1, padding=1, bias=bias)


class Block(nn.Module):
    """Three convolutions beside the identity; with `pooled`, a branch normalised over the whole picture comes first."""

    def __init__(self, width: int, *, pooled: bool = False) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            conv(width, width), nn.ReLU(inplace=True), conv(width, width), nn.ReLU(inplace=True), conv(width, width)
        )
        self.pool: nn.Module | None = None
        if pooled:
            self.pool = nn.Sequential(
                nn.Conv2d(width, 4 * width, 1, bias=False),
                nn.GroupNorm(4, 4 * width),  # its statistics are what carries the picture into every position
                nn.ReLU(inplace=True),
                nn.Conv2d(4 * width, width, 1, bias=False),
            )

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        out: Tensor = self.conv(x)
        return out.add_(x).relu_()  # in place: this network's time goes into moving pixels through memory


class Saturation(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return SATURATION * torch.tanh(z / SATURATION)


def encoder(config: Config) -> nn.Sequential:
    """(B, 3, H, W) in [0, 1] -> latent (B, latent_channels, h, w); its layers are numbered as in the published file."""
    width = config.width
    layers: list[nn.Module]
    if config.downsampling == 8:
        layers = [conv(3, width)]
    else:
        layers = [conv(3, width // 2, halve=True), nn.ReLU(inplace=True)]
        layers += [conv(width // 2, width, halve=True), nn.ReLU(inplace=True)]
    layers.append(Block(width))
    for stage in range(3):
        layers.append(conv(width, width, halve=True, bias=False))
        layers += [Block(width, pooled=config.pooled and stage == 2) for _ in range(3)]
    return nn.Sequential(*layers, conv(width, config.latent_channels))


def decoder(config: Config) -> nn.Sequential:
    """Latent (B, latent_channels, h, w) -> (B, 3, H, W); its layers are numbered as in the published file."""
    widths = [config.width * multiple for multiple in WIDTHS[config.downsampling]]
    layers: list[nn.Module] = [Saturation(), conv(config.latent_channels, widths[0]), nn.ReLU(inplace=True)]
    for stage, (coarse, fine) in enumerate(pairwise(widths)):
        layers += [Block(coarse, pooled=config.pooled and stage == 0) for _ in range(3)]
        layers += [nn.Upsample(scale_factor=2), conv(coarse, fine, bias=False)]
    return nn.Sequential(*layers, Block(widths[-1]), conv(widths[-1], 3))


class Network(nn.Module):
    """A vector for every 8x8 or 32x32 pixels, at any size that is a multiple of that."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.encoder = encoder(config)
        self.decoder = decoder(config)

    def latent(self, x: Tensor) -> Tensor:
        """The distilled latent, for which the teacher's scaling factor is 1."""
        return _run(self.encoder, x)

    def encode(self, x: Tensor) -> Codes:
        """(B, 3, H, W) in [0, 1] -> latent (B, latent_channels, h, w), as floats.

        The published demo keeps eight bits of each value, to write the latent as a PNG; the network itself does not.
        """
        return Codes(latent=self.latent(x))

    def decode(self, codes: Codes) -> Tensor:
        """Latent (B, latent_channels, h, w) -> (B, 3, H, W), unclamped.

        Raises:
            DataError: if the codes hold no latent.
        """
        return _run(self.decoder, latent_of(codes, "TAESD"))


def _run(layers: nn.Sequential, x: Tensor) -> Tensor:
    """Run the layers; a CPU is half as fast again when a pixel's channels lie side by side."""
    if x.device.type == "cpu":
        x = x.contiguous(memory_format=torch.channels_last)
    out: Tensor = layers(x)
    return out.contiguous()
