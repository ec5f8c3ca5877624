"""MaskBit's tokenizer: VQGAN without attention, whose latent's signs are the bits of the token.

Source: markweberdev/maskbit, modeling/conv_vqgan.py, modeling/modules/autoencoder.py, modeling/quantizer/lookup_free.py
Commit: 5ea3d733c62625eaf86dab8364bdb7e6e71def99
Licence: Apache-2.0
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from vtbench.networks._candidates import other_bits
from vtbench.networks._maskgit import Widths, residual_blocks
from vtbench.networks._taming import norm
from vtbench.networks.magvit2 import index_to_signs, signs_to_index
from vtbench.types import Codes


class Config(Widths):
    """The published variants differ in the bits of a token."""

    bits: int = Field(ge=1, le=62)
    """Bits of a token: the channels between encoder and decoder."""


class Level(nn.Module):
    """The residual blocks of one resolution."""

    def __init__(self, before: int, after: int, blocks: int) -> None:
        super().__init__()
        self.res_blocks = nn.Sequential(*residual_blocks(before, after, blocks))

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, after, H, W)."""
        out: Tensor = self.res_blocks(x)
        return out


class Down(Level):
    """A level of the encoder: blocks, then half the sides on all but the last."""

    def __init__(self, before: int, after: int, blocks: int, *, last: bool) -> None:
        super().__init__(before, after, blocks)
        self.down_conv = None if last else nn.Conv2d(after, after, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, after, H / 2, W / 2), or the same sides on the last level; H and W even."""
        h = super().forward(x)
        if self.down_conv is not None:
            h = self.down_conv(F.pad(h, (0, 1, 0, 1)))  # what "same" padding of stride 2 adds to even sides
        return h


class Up(Level):
    """A level of the decoder: blocks, then double the sides on all but the last."""

    def __init__(self, before: int, after: int, blocks: int, *, last: bool) -> None:
        super().__init__(before, after, blocks)
        self.upsample_conv = None if last else nn.Conv2d(after, after, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, after, 2 H, 2 W), or the same sides on the last level."""
        h = super().forward(x)
        if self.upsample_conv is not None:
            h = self.upsample_conv(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        return h


class Encoder(nn.Module):
    """Pixels to what the quantizer is given."""

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
        self.mid = Level(widths[-1], widths[-1], config.blocks)
        self.norm_out = norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.bits, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, bits, h, w)."""
        h = self.mid(self.down(self.conv_in(x)))
        out: Tensor = self.conv_out(F.silu(self.norm_out(h), inplace=True))
        return out


class Decoder(nn.Module):
    """Bits to pixels; `up.0` is the lowest resolution and runs first, unlike in VQGAN."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        widths = config.widths[::-1]
        before = [widths[0], *widths[:-1]]
        self.conv_in = nn.Conv2d(config.bits, widths[0], 3, padding=1)
        self.mid = Level(widths[0], widths[0], config.blocks)
        self.up = nn.Sequential(
            *(
                Up(before[level], width, config.blocks, last=level == len(widths) - 1)
                for level, width in enumerate(widths)
            )
        )
        self.norm_out = norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """(B, bits, h, w), each -1 or 1 -> (B, 3, f h, f w), unclamped; f is 2 for each level but one."""
        h = self.up(self.mid(self.conv_in(z)))
        out: Tensor = self.conv_out(F.silu(self.norm_out(h), inplace=True))
        return out


class Network(nn.Module):
    """One token for every 16x16 pixels in the published layout; the quantizer has no weights."""

    changes = "digits"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.bits = config.bits
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def latent(self, x: Tensor) -> Tensor:
        """What the quantizer is given: (B, 3, H, W) in [0, 1] -> (B, bits, h, w)."""
        out: Tensor = self.encoder(x)
        return out

    def encode(self, x: Tensor) -> Codes:
        """(B, 3, H, W) in [0, 1] -> one index of (B, h, w); channel 0 is its least significant bit."""
        return Codes(indices=(signs_to_index(self.latent(x)),), codebook_sizes=(2**self.bits,))

    def decode(self, codes: Codes) -> Tensor:
        """One index of (B, h, w), or its signs (B, bits, h, w) -> (B, 3, H, W), unclamped."""
        z = self.vectors(codes) if codes.latent is None else codes.latent
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
