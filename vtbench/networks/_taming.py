"""The convolutional encoder and decoder of VQGAN, which IBQ, LlamaGen and VA-VAE share with other numbers.

Source: CompVis/taming-transformers, taming/modules/diffusionmodules/model.py
Commit: 3ba01b241669f5ade541ce990f7650a3b8f65318
Licence: MIT
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from vtbench.networks._finite import numbered
from vtbench.types import Strict

SCORES_AT_ONCE = 1 << 24
"""64 MiB of scores, whatever the number of pictures and the size of the codebook."""


MIDDLE = ("block_1", "attn_1", "block_2")
"""The parts of the middle, in the order in which they run."""


class Layout(Strict):
    """The numbers in which the family's autoencoders differ."""

    channels: int = Field(default=128, multiple_of=32)
    """Width at full resolution."""
    multipliers: Annotated[tuple[int, ...], Field(strict=False, min_length=1)] = (1, 1, 2, 2, 4)
    """Width of each level over `channels`, from full resolution down; each but the last halves the sides."""
    blocks: int = Field(default=2, ge=1)
    """Residual blocks of an encoder level; a decoder level has one more."""
    attends: bool = True
    """Whether the blocks of the lowest level attend, beside the middle."""
    attention: Literal["apart", "fused", "none"] = "apart"
    """Whether queries, keys and values come from three 1x1 convolutions or one; with none the middle has no attention
    either, and `attends` counts for nothing."""
    z_channels: int = Field(default=256, ge=1)
    """Channels between the encoder or decoder and its 1x1 convolution beside the bottleneck."""


def conv3(before: int, after: int) -> nn.Conv2d:
    """A 3x3 convolution that keeps the sides."""
    return nn.Conv2d(before, after, 3, padding=1)


def norm(channels: int) -> nn.GroupNorm:
    """The family's normalisation; its epsilon is not PyTorch's default."""
    return nn.GroupNorm(32, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """Two normalised convolutions beside a skip, which is a 1x1 convolution where the width changes."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm1 = norm(before)
        self.conv1 = conv3(before, after)
        self.norm2 = norm(after)
        self.conv2 = conv3(after, after)
        self.nin_shortcut = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the sides: (B, before, H, W) -> (B, after, H, W)."""
        h: Tensor = self.conv1(F.silu(self.norm1(x), inplace=True))
        h = self.conv2(F.silu(self.norm2(h), inplace=True))
        return h.add_(self.nin_shortcut(x))


class Attention(nn.Module):
    """One head over all positions, beside a skip."""

    def __init__(self, channels: int, *, fused: bool = False) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.parts = ("qkv",) if fused else ("q", "k", "v")
        for part in self.parts:
            self.add_module(part, nn.Conv2d(channels, 3 * channels // len(self.parts), 1))
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (B, C, H, W); memory grows with H*W where a fused kernel exists, else with its square."""
        h = self.norm(x)
        maps = (single for part in self.parts for single in self.get_submodule(part)(h).split(x.shape[1], 1))
        q, k, v = (single.flatten(2).mT.unsqueeze(1) for single in maps)  # (B, 1, H*W, C)
        h = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj_out(h.squeeze(1).mT.reshape(x.shape))
        return x + out


class Downsample(nn.Module):
    """Halves the sides, rounding down: a convolution of stride 2 with one zero at the right and bottom border only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H // 2, W // 2)."""
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Doubles the sides: every pixel four times, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2 H, 2 W)."""
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Level(nn.Module):
    """The residual blocks of one resolution, each followed by attention where the level has it."""

    def __init__(self, before: int, after: int, layout: Layout, blocks: int, *, lowest: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResidualBlock(after if index else before, after) for index in range(blocks))
        attends = lowest and layout.attends and layout.attention != "none"
        fused = layout.attention == "fused"
        self.attn = nn.ModuleList(Attention(after, fused=fused) for _ in range(blocks if attends else 0))

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, after, H, W)."""
        for index, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[index](x)
        return x


class Down(Level):
    """A level of the encoder: blocks, then half the sides on all but the last."""

    def __init__(self, before: int, after: int, layout: Layout, *, lowest: bool) -> None:
        super().__init__(before, after, layout, layout.blocks, lowest=lowest)
        self.downsample = nn.Identity() if lowest else Downsample(after)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, after, H // 2, W // 2), or the same sides on the last level."""
        out: Tensor = self.downsample(super().forward(x))
        return out


class Up(Level):
    """A level of the decoder: blocks, then double the sides on all but level 0, which runs last."""

    def __init__(self, before: int, after: int, layout: Layout, *, lowest: bool, last: bool) -> None:
        super().__init__(before, after, layout, layout.blocks + 1, lowest=lowest)
        self.upsample = nn.Identity() if last else Upsample(after)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, after, 2 H, 2 W), or the same sides on level 0."""
        out: Tensor = self.upsample(super().forward(x))
        return out


class Middle(nn.Module):
    """The blocks at the lowest resolution that encoder and decoder have beside their levels."""

    def __init__(self, channels: int, layout: Layout) -> None:
        super().__init__()
        attends, fused = layout.attention != "none", layout.attention == "fused"
        self.block_1 = ResidualBlock(channels, channels)
        self.attn_1 = Attention(channels, fused=fused) if attends else nn.Identity()
        self.block_2 = ResidualBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (B, C, H, W)."""
        out: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return out


class Encoder(nn.Module):
    """Pixels to features; which level attends is fixed by the layout, whatever the picture's size."""

    def __init__(self, layout: Layout, out_channels: int) -> None:
        super().__init__()
        widths = [layout.channels * multiplier for multiplier in layout.multipliers]
        before = [layout.channels, *widths[:-1]]
        lowest = len(widths) - 1
        self.conv_in = conv3(3, layout.channels)
        self.down = nn.ModuleList(
            Down(before[level], width, layout, lowest=level == lowest) for level, width in enumerate(widths)
        )
        self.mid = Middle(widths[-1], layout)
        self.norm_out = norm(widths[-1])
        self.conv_out = conv3(widths[-1], out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, out_channels, h, w), h and w being H and W halved (rounding down) between the levels."""
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        h = self.mid(h)
        out: Tensor = self.conv_out(F.silu(self.norm_out(h), inplace=True))
        return out


class Decoder(nn.Module):
    """Features to pixels; `up.0` is the full resolution and runs last."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        widths = [layout.channels * multiplier for multiplier in layout.multipliers]
        before = [*widths[1:], widths[-1]]
        lowest = len(widths) - 1
        self.conv_in = conv3(layout.z_channels, widths[-1])
        self.mid = Middle(widths[-1], layout)
        self.up = nn.ModuleList(
            Up(before[level], width, layout, lowest=level == lowest, last=level == 0)
            for level, width in enumerate(widths)
        )
        self.norm_out = norm(widths[0])
        self.conv_out = conv3(widths[0], 3)

    def forward(self, z: Tensor) -> Tensor:
        """(B, z_channels, h, w) -> (B, 3, f h, f w), unclamped; f is 2 for each level but one."""
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        out: Tensor = self.conv_out(F.silu(self.norm_out(h), inplace=True))
        return out


class Autoencoder(nn.Module):
    """The encoder and decoder with the 1x1 convolutions beside the bottleneck; families add what lies between."""

    def __init__(self, layout: Layout, code_channels: int, *, moments: bool = False) -> None:
        """Build both halves.

        Args:
            layout: the numbers of the variant.
            code_channels: channels of a code, as the decoder's half takes it.
            moments: whether the encoder's half gives mean and log variance, each of `code_channels`.
        """
        super().__init__()
        parts = 2 if moments else 1
        self.encoder = Encoder(layout, parts * layout.z_channels)
        self.decoder = Decoder(layout)
        self.quant_conv = nn.Conv2d(parts * layout.z_channels, parts * code_channels, 1)
        self.post_quant_conv = nn.Conv2d(code_channels, layout.z_channels, 1)

    def latent(self, x: Tensor) -> Tensor:
        """What the bottleneck is given: (B, 3, H, W) in [-1, 1] -> (B, code_channels or twice that, h, w)."""
        out: Tensor = self.quant_conv(self.encoder(x))
        return out

    def pixels(self, z: Tensor) -> Tensor:
        """(B, code_channels, h, w) -> (B, 3, H, W), unclamped."""
        out: Tensor = self.decoder(self.post_quant_conv(z))
        return out


def name_in_running_order(own: str, levels: int) -> str:
    """Name a tensor of an encoder or decoder as LlamaGen does, which numbers the decoder's levels as they run."""
    name = re.sub(r"^decoder\.up\.(\d+)", lambda level: f"decoder.conv_blocks.{levels - 1 - int(level[1])}", own)
    name = re.sub(r"^encoder\.down\.", "encoder.conv_blocks.", name)
    name = re.sub(r"(conv_blocks\.\d+)\.block\.", r"\1.res.", name)
    return re.sub(r"\.mid\.(block_1|attn_1|block_2)\.", lambda part: f".mid.{MIDDLE.index(part[1])}.", name)


def lookup(indices: Tensor, table: Tensor) -> Tensor:
    """Turn indices into the codebook's rows: (B, h, w) and (K, C) -> (B, C, h, w)."""
    # Left channels-last, the map would stay so throughout, where the CPU's GroupNorm rounds several times as coarsely.
    return F.embedding(indices, table).movedim(-1, 1).contiguous()


def best_codes(z: Tensor, table: Tensor, bias: Tensor | None = None) -> Tensor:
    """Find for every vector the row of a codebook with the highest score z.e, or z.e + bias; exact, in float32.

    The scores are never held all at once, so that a codebook of 2^18 rows costs no more memory than one of 2^14.

    Args:
        z: (B, C, h, w).
        table: the codebook, (K, C).
        bias: (K,); -|e|^2 / 2 makes the highest score the nearest row.

    Returns:
        int64, (B, h, w), in row-major order; of equal scores the earliest row. -1 where the best score is not finite.
    """
    vectors = z.movedim(1, -1).flatten(0, 2).float()  # (N, C)
    best = vectors.new_full((len(vectors),), -torch.inf)
    index = torch.zeros_like(best, dtype=torch.int64)
    rows = max(1, SCORES_AT_ONCE // len(vectors))
    with torch.autocast(z.device.type, enabled=False):  # half precision would choose other rows
        for start in range(0, len(table), rows):
            part = table[start : start + rows].float().mT  # (C, rows)
            scores = vectors @ part if bias is None else torch.addmm(bias[start : start + rows].float(), vectors, part)
            score, where = scores.max(1)
            # Strictly: of equal scores the earliest keeps its place. One that is not a number stays, as it would lose.
            better = (score > best) | score.isnan()
            best = torch.where(better, score, best)
            index = torch.where(better, where + start, index)
    return numbered(index, best).view(z.shape[0], *z.shape[2:])
