"""Open-MAGVIT2, a tokenizer without a codebook: the signs of the encoder's channels are the bits of the token.

Source: TencentARC/SEED-Voken, src/Open_MAGVIT2/modules/diffusionmodules/improved_model.py, .../lookup_free_quantize.py
Commit: b9a17eac8e2c0779c12a5429b0bfd6c502788484
Licence: Apache-2.0
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from vtbench.errors import DataError
from vtbench.networks._candidates import other_bits
from vtbench.networks._finite import numbered
from vtbench.networks._taming import norm
from vtbench.types import Codes, Strict


class Config(Strict):
    """The published variants differ in their levels and in the bits of a token."""

    bits: int = Field(ge=1, le=62)
    """Bits of a token: the channels between encoder and decoder."""
    channels: int = Field(default=128, multiple_of=32)
    """Width at full resolution."""
    multipliers: Annotated[tuple[int, ...], Field(strict=False, min_length=1)] = (1, 1, 2, 2, 4)
    """Width of each level over `channels`, from full resolution down; each but the last halves the sides."""
    blocks: int = Field(default=4, ge=1)
    """Residual blocks of every level and of both middles."""

    @property
    def widths(self) -> list[int]:
        """Channels of each level, from full resolution down."""
        return [self.channels * multiplier for multiplier in self.multipliers]


class ResidualBlock(nn.Module):
    """Two normalised convolutions beside a skip, which is a 1x1 convolution where the width changes; no biases."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm1 = norm(before)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.norm2 = norm(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.nin_shortcut = nn.Identity() if before == after else nn.Conv2d(before, after, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the sides: (B, before, H, W) -> (B, after, H, W)."""
        h: Tensor = self.conv1(F.silu(self.norm1(x), inplace=True))
        h = self.conv2(F.silu(self.norm2(h), inplace=True))
        return h.add_(self.nin_shortcut(x))


def residual_blocks(before: int, after: int, count: int) -> list[ResidualBlock]:
    """A chain of blocks of one resolution; the first changes the width."""
    return [ResidualBlock(after if index else before, after) for index in range(count)]


class Down(nn.Module):
    """A level of the encoder: blocks, then a convolution that halves the sides (rounding up) on all but the last."""

    def __init__(self, before: int, after: int, blocks: int, *, last: bool) -> None:
        super().__init__()
        self.block = nn.Sequential(*residual_blocks(before, after, blocks))
        self.downsample = nn.Identity() if last else nn.Conv2d(after, after, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, after, ceil(H / 2), ceil(W / 2)), or the same sides on the last level."""
        out: Tensor = self.downsample(self.block(x))
        return out


class Encoder(nn.Module):
    """Pixels to one channel a bit, without attention."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        widths = config.widths
        before = [config.channels, *widths[:-1]]
        self.conv_in = nn.Conv2d(3, config.channels, 3, padding=1, bias=False)
        self.down = nn.Sequential(
            *(
                Down(before[level], width, config.blocks, last=level == len(widths) - 1)
                for level, width in enumerate(widths)
            )
        )
        self.mid_block = nn.Sequential(*residual_blocks(widths[-1], widths[-1], config.blocks))
        self.norm_out = norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.bits, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, bits, h, w), h and w being H and W halved (rounding up) between the levels."""
        h = self.mid_block(self.down(self.conv_in(x)))
        out: Tensor = self.conv_out(F.silu(self.norm_out(h), inplace=True))
        return out


class AdaptiveNorm(nn.Module):
    """Normalises, then scales and shifts each channel by what the bits are like over the whole picture."""

    def __init__(self, bits: int, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Linear(bits, channels)
        self.beta = nn.Linear(bits, channels)

    def forward(self, x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """Keep the shape (B, C, H, W); mean and deviation are each bit's over the token map, (B, bits)."""
        scale = self.gamma(deviation)[:, :, None, None]
        shift = self.beta(mean)[:, :, None, None]
        return torch.addcmul(shift, F.group_norm(x, 32, eps=1e-6), scale)


class Upsample(nn.Module):
    """Doubles the sides: a convolution to four times the channels, each of which becomes one pixel of a 2x2 square."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 4 * channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2 H, 2 W)."""
        return depth_to_space(self.conv1(x))


def depth_to_space(x: Tensor) -> Tensor:
    """Lay four groups of channels out as 2x2 squares: (B, 4 C, H, W) -> (B, C, 2 H, 2 W).

    The groups are top left, top right, bottom left, bottom right; `F.pixel_shuffle` takes neighbouring channels.
    """
    batch, channels, height, width = x.shape
    squares = x.view(batch, 2, 2, channels // 4, height, width)  # (B, dy, dx, C, H, W)
    return squares.permute(0, 3, 4, 1, 5, 2).reshape(batch, channels // 4, 2 * height, 2 * width)


class Up(nn.Module):
    """A level of the decoder: blocks, then double the sides on all but level 0, which runs last."""

    def __init__(self, before: int, after: int, blocks: int, *, last: bool) -> None:
        super().__init__()
        self.block = nn.Sequential(*residual_blocks(before, after, blocks))
        self.upsample = nn.Identity() if last else Upsample(after)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, after, 2 H, 2 W), or the same sides on level 0."""
        out: Tensor = self.upsample(self.block(x))
        return out


class Decoder(nn.Module):
    """Bits to pixels, without attention; `up.0` and `adaptive.0` are the full resolution and run last.

    The adaptive norms look at the whole token map, so a part of it does not decode to that part of the picture.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        widths = config.widths
        before = [*widths[1:], widths[-1]]
        self.conv_in = nn.Conv2d(config.bits, widths[-1], 3, padding=1)
        self.mid_block = nn.Sequential(*residual_blocks(widths[-1], widths[-1], config.blocks))
        self.up = nn.ModuleList(
            Up(before[level], width, config.blocks, last=level == 0) for level, width in enumerate(widths)
        )
        self.adaptive = nn.ModuleList(AdaptiveNorm(config.bits, width) for width in before)
        self.norm_out = norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """(B, bits, h, w), each -1 or 1 -> (B, 3, f h, f w), unclamped; f is 2 for each level but one."""
        variance, mean = torch.var_mean(z, dim=(2, 3), correction=1)  # (B, bits); over N - 1, as published
        deviation = (variance + 1e-6).sqrt()
        h = self.mid_block(self.conv_in(z))
        for adaptive, level in zip(reversed(self.adaptive), reversed(self.up), strict=True):
            h = level(adaptive(h, mean, deviation))
        out: Tensor = self.conv_out(F.silu(self.norm_out(h), inplace=True))
        return out


class Network(nn.Module):
    """One token for every 16x16 pixels, or 8x8 in the 128 px variant; the quantizer has no weights."""

    changes = "digits"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.bits = config.bits
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def latent(self, x: Tensor) -> Tensor:
        """What the quantizer is given: (B, 3, H, W) in [-1, 1] -> (B, bits, h, w)."""
        out: Tensor = self.encoder(x)
        return out

    def encode(self, x: Tensor) -> Codes:
        """(B, 3, H, W) in [-1, 1] -> one index of (B, h, w)."""
        return Codes(indices=(signs_to_index(self.latent(x)),), codebook_sizes=(2**self.bits,))

    def decode(self, codes: Codes) -> Tensor:
        """One index of (B, h, w), or its signs (B, bits, h, w) -> (B, 3, H, W), unclamped.

        Raises:
            DataError: for a single token, whose bits have no variance; the published decoder answers with NaN.
        """
        z = self.vectors(codes) if codes.latent is None else codes.latent
        if z.shape[-1] * z.shape[-2] < 2:
            raise DataError("Open-MAGVIT2 decodes from two tokens up, this picture has one; choose a larger size")
        out: Tensor = self.decoder(z)
        return out

    def vectors(self, codes: Codes) -> Tensor:
        """The signs that the indices stand for: (B, h, w) -> (B, bits, h, w) of -1 and 1."""
        return index_to_signs(codes.indices[0], self.bits).to(self.decoder.conv_in.weight)

    def candidates(self, x: Tensor, count: int) -> tuple[Tensor, ...]:
        """The code of each position and the one with its least certain bit changed: (B, h, w, 2)."""
        z = self.latent(x)
        other = 2 * other_bits(z.movedim(1, -1)).movedim(-1, 1) - 1
        return (torch.stack([signs_to_index(z), signs_to_index(other)], dim=-1),)


def signs_to_index(z: Tensor) -> Tensor:
    """Read the signs as a number: (B, bits, h, w) -> int64 (B, h, w).

    Channel 0 is the least significant bit, whatever the published comments say. A zero counts as negative. It is -1
    where a channel is not finite.
    """
    places = torch.arange(z.shape[1], device=z.device).view(-1, 1, 1)
    return numbered(((z > 0).long() << places).sum(1), z.movedim(1, -1))


def index_to_signs(indices: Tensor, bits: int) -> Tensor:
    """Undo `signs_to_index`: int64 (B, h, w) -> int64 (B, bits, h, w) of -1 and 1."""
    places = torch.arange(bits, device=indices.device).view(-1, 1, 1)
    return (indices[:, None] >> places & 1) * 2 - 1
