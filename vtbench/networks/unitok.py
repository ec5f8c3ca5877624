"""UniTok, a hybrid of convolutions and a transformer around eight small codebooks that share one vector.

Source: FoundationVision/UniTok, models/ (unitok.py, vitamin.py, quant.py, AttnProjection of vqvae.py)
Commit: bb8012e8e8d7be66928bedd80506c56a55ea6305
Licence: MIT
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from vtbench.networks._candidates import best_few
from vtbench.networks._taming import Upsample, best_codes, conv3
from vtbench.types import Codes, Strict

EPS = 1e-6
"""Of every normalisation but those of the two projections beside the quantizer, which have PyTorch's default."""


class Config(Strict):
    """The numbers of a variant; the encoder and the decoder share them."""

    stem: int = Field(default=160, ge=1)
    """Channels at a half and a quarter of the sides."""
    middle: int = Field(default=320, ge=1)
    """Channels at an eighth of the sides."""
    stem_blocks: int = Field(default=2, ge=1)
    middle_blocks: int = Field(default=4, ge=1)
    width: int = Field(default=1024, ge=1)
    """Channels of a token in the transformers, at a sixteenth of the sides."""
    blocks: int = Field(default=31, ge=1)
    heads: int = Field(default=16, ge=1)
    codebooks: int = Field(default=8, ge=1)
    codebook_size: int = Field(default=4096, ge=2)
    code_channels: int = Field(default=8, ge=1)
    """Channels of one codebook's rows; a vector has `codebooks` times as many."""

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.width % self.heads:
            raise ValueError("heads must divide width")
        if self.width % self.vector or self.width == self.vector:
            raise ValueError("codebooks x code_channels must be a proper divisor of width")
        return self

    @property
    def vector(self) -> int:
        """Channels of what is quantised."""
        return self.codebooks * self.code_channels


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of (B, C, H, W), position by position."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Widen(Upsample):
    """Doubles the sides, and changes the width with the convolution that follows."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(before)
        self.conv = conv3(before, after)


class Shrink(nn.Module):
    """Halves the sides by the mean of what lies under a 3x3 window inside the picture."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.expand = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.expand(F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False))
        return out


class ConvBlock(nn.Module):
    """An inverted bottleneck beside a skip: 1x1, depthwise 3x3 and 1x1 again, four times as wide in between."""

    def __init__(self, before: int, after: int, side: Literal["kept", "halved", "doubled"]) -> None:
        super().__init__()
        inner = 4 * after
        skips = {"kept": nn.Identity, "halved": Shrink, "doubled": Widen}
        self.shortcut = skips[side](before, after)
        self.pre_norm = ChannelNorm(before)
        self.conv1_1x1 = nn.Conv2d(before, inner, 1)
        self.up = Widen(inner, inner) if side == "doubled" else nn.Identity()
        stride = 2 if side == "halved" else 1
        self.conv2_kxk = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=inner)
        self.conv3_1x1 = nn.Conv2d(inner, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(F.gelu(self.conv1_1x1(self.pre_norm(x))))
        out: Tensor = self.conv3_1x1(F.gelu(self.conv2_kxk(h))) + self.shortcut(x)
        return out


def stage(before: int, after: int, blocks: int, side: Literal["halved", "doubled"]) -> nn.Sequential:
    """Blocks of one width, of which the first changes the sides."""
    rest = (ConvBlock(after, after, "kept") for _ in range(blocks - 1))
    return nn.Sequential(ConvBlock(before, after, side), *rest)


class Stem(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels, 3, stride=2, padding=1)
        self.norm1 = ChannelNorm(channels)
        self.conv2 = conv3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv2(F.gelu(self.norm1(self.conv1(x))))
        return out


class Pool(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(before)
        self.proj = nn.Conv2d(before, after, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.proj(self.norm(x))
        return out


class Backbone(nn.Module):
    """The convolutional half of the encoder: (B, 3, H, W) -> (B, width, H / 16, W / 16)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.stem = Stem(config.stem)
        self.stages = nn.ModuleList(
            (
                stage(config.stem, config.stem, config.stem_blocks, "halved"),
                stage(config.stem, config.middle, config.middle_blocks, "halved"),
            )
        )
        self.pool = Pool(config.middle, config.width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for blocks in self.stages:
            x = blocks(x)
        out: Tensor = self.pool(x)
        return out


class PatchEmbed(nn.Module):
    """Holds the backbone under its published name."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.backbone = Backbone(config)


class GatedMLP(nn.Module):
    """Normalises its input once more, whatever was done before."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.w0 = nn.Linear(width, 2 * width)
        self.w1 = nn.Linear(width, 2 * width)
        self.w2 = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        out: Tensor = self.w2(F.gelu(self.w0(x), approximate="tanh").mul_(self.w1(x)))
        return out


class Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.proj(attend(self.qkv(x), self.heads).transpose(1, 2).flatten(2))
        return out


def attend(qkv: Tensor, heads: int) -> Tensor:
    """Let every token attend to all: (B, N, 3 heads head) -> (B, heads, N, head)."""
    q, k, v = qkv.view(*qkv.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)  # each (B, heads, N, head)
    return F.scaled_dot_product_attention(q, k, v)


class Block(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=EPS)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.width, eps=EPS)
        self.mlp = GatedMLP(config.width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Encoder(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        # One vector for all positions: zero in training, but stored and added.
        self.pos_embed = nn.Parameter(torch.zeros(1, 1, config.width))
        self.patch_embed = PatchEmbed(config)
        self.blocks = nn.Sequential(*(Block(config) for _ in range(config.blocks)))
        self.norm = nn.LayerNorm(config.width, eps=EPS)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(B, 3, H, W) -> tokens (B, h w, width) in row-major order, and h and w."""
        x = self.patch_embed.backbone(x)
        height, width = x.shape[2:]
        tokens: Tensor = self.norm(self.blocks(x.flatten(2).mT + self.pos_embed))
        return tokens, (height, width)


class ProjectionAttention(nn.Module):
    """Attention between two widths, in heads as wide as the narrower of them.

    Towards the narrower one the heads are averaged, towards the wider one they stand beside each other. A key has no
    bias; the published file stores its zeros.
    """

    zero_k_bias: Tensor

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        wide, self.head = max(before, after), min(before, after)
        self.narrows = after < before
        self.qkv = nn.Linear(before, 3 * wide, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(wide))
        self.v_bias = nn.Parameter(torch.zeros(wide))
        self.register_buffer("zero_k_bias", torch.zeros(wide, device="cpu"), persistent=False)
        self.proj = nn.Linear(after, after)

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.cat([self.q_bias, self.zero_k_bias, self.v_bias])
        h = attend(F.linear(x, self.qkv.weight, bias), len(self.q_bias) // self.head)
        out: Tensor = self.proj(h.mean(1) if self.narrows else h.transpose(1, 2).flatten(2))
        return out


class Projection(nn.Module):
    """A transformer block between two widths: (B, N, before) -> (B, N, after)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(before)
        self.attn = ProjectionAttention(before, after)
        self.norm3 = nn.LayerNorm(before)
        self.proj = nn.Linear(before, after)
        self.norm2 = nn.LayerNorm(after)
        self.mlp = GatedMLP(after)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(self.norm3(x)) + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Codebook(nn.Module):
    """Holds a codebook under its published name; its rows have any length."""

    def __init__(self, codes: int, channels: int) -> None:
        super().__init__()
        self.codebook = nn.Embedding(codes, channels)


class Quantizer(nn.Module):
    """Cuts a vector into runs of channels; each has a codebook of its own and is compared by its direction alone."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.codebooks = nn.ModuleList(
            Codebook(config.codebook_size, config.code_channels) for _ in range(config.codebooks)
        )

    def indices(self, z: Tensor) -> Tensor:
        """(B, h, w, vector) -> int64 (B, h, w, codebooks)."""
        return torch.stack([best_codes(*pair) for pair in self._pairs(z)], dim=-1)

    def few(self, z: Tensor, count: int) -> Tensor:
        """(B, h, w, vector) -> the codes nearest in direction, int64 (B, h, w, codebooks, count), nearest first."""
        return torch.stack([best_few(*pair, None, count) for pair in self._pairs(z)], dim=-2)

    def _pairs(self, z: Tensor) -> list[tuple[Tensor, Tensor]]:
        runs = z.movedim(-1, 1).chunk(len(self.codebooks), dim=1)
        # The length of a run scales all its scores alike, so it need not be normalised.
        return list(zip(runs, self._directions(), strict=True))

    def vectors(self, indices: Tensor) -> Tensor:
        """The normalised rows that indices stand for: (B, h, w, codebooks) -> float32 (B, h, w, vector)."""
        parts = zip(indices.unbind(-1), self._directions(), strict=True)
        return torch.cat([F.embedding(index, table) for index, table in parts], dim=-1)

    def _directions(self) -> list[Tensor]:
        return [F.normalize(part.get_parameter("codebook.weight").float()) for part in self.codebooks]


class Head(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = Widen(channels, channels)
        self.norm1 = ChannelNorm(channels)
        self.conv2 = conv3(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv2(F.gelu(self.norm1(self.conv1(x))))
        return out


class Decoder(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(config) for _ in range(config.blocks)))
        self.norm = nn.LayerNorm(config.width, eps=EPS)
        self.up_conv1 = Widen(config.width, config.middle)
        self.up_conv2 = stage(config.middle, config.middle, config.middle_blocks, "doubled")
        self.up_conv3 = stage(config.middle, config.stem, config.stem_blocks, "doubled")
        self.up_conv4 = Head(config.stem)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (B, h w, width) -> (B, 3, 16 h, 16 w)."""
        height, width = grid
        x = self.norm(self.blocks(tokens)).view(len(tokens), height, width, -1).movedim(-1, 1)
        out: Tensor = self.up_conv4(self.up_conv3(self.up_conv2(self.up_conv1(x))))
        return out


class Network(nn.Module):
    """One vector for every 16x16 pixels, coded by one index of every codebook.

    Nothing in it depends on the size, but the published decoder takes squares alone, and only 256x256 was trained.
    """

    changes = "codes"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.codes = config.codebook_size
        self.encoder = Encoder(config)
        self.quant_proj = Projection(config.width, config.vector)
        self.quantizer = Quantizer(config)
        self.post_quant_proj = Projection(config.vector, config.width)
        self.decoder = Decoder(config)

    def latent(self, x: Tensor) -> Tensor:
        """What the quantizer is given: (B, 3, H, W) in [-1, 1] -> (B, h, w, codebooks x code_channels)."""
        tokens, grid = self.encoder(x)
        out: Tensor = self.quant_proj(tokens)
        return out.view(len(out), *grid, -1)

    def encode(self, x: Tensor) -> Codes:
        """(B, 3, H, W) in [-1, 1] -> indices (B, h, w, codebooks)."""
        return Codes(indices=(self.quantizer.indices(self.latent(x)),), codebook_sizes=(self.codes,))

    def decode(self, codes: Codes) -> Tensor:
        """Indices (B, h, w, codebooks), or their rows (B, vector, h, w) -> (B, 3, H, W), unclamped."""
        z = self.vectors(codes) if codes.latent is None else codes.latent
        tokens = self.post_quant_proj(z.movedim(1, -1).flatten(1, 2))
        out: Tensor = self.decoder(tokens, (z.shape[2], z.shape[3]))
        return out

    def vectors(self, codes: Codes) -> Tensor:
        """The normalised rows of the indices: (B, h, w, codebooks) -> (B, vector, h, w)."""
        return self.quantizer.vectors(codes.indices[0]).to(self.quant_proj.proj.weight.dtype).movedim(-1, 1)

    def candidates(self, x: Tensor, count: int) -> tuple[Tensor, ...]:
        """The codes of each codebook nearest in direction: (B, h, w, codebooks, count), nearest first."""
        return (self.quantizer.few(self.latent(x), count),)
