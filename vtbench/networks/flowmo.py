"""FlowMo: bits from one two-stream transformer, pixels by a rectified flow that another one drives.

Source: kylesargent/FlowMo, flowmo/models.py, flowmo/lookup_free_quantize.py
Commit: d15029f7ff1d5597d1f8b87874df05dc5bf85c4d
Licence: Apache-2.0
"""

from __future__ import annotations

import math
from typing import Annotated, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from vtbench.errors import DataError
from vtbench.networks._candidates import other_bits
from vtbench.networks._finite import numbered
from vtbench.networks._patches import from_patches, to_patches
from vtbench.types import Codes, Strict

Modulation = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""Shift, scale and gate of the attention, then of the feed-forward layers; (B, 1, width) each."""

TIME_CHANNELS = 256
ROTARY_BASE = 10_000.0


class Transformer(Strict):
    """The numbers of one of the two transformers."""

    width: int = Field(ge=1)
    heads: int = Field(ge=1)
    layers: int = Field(ge=1)
    axes: Annotated[tuple[int, int, int], Field(strict=False)]
    """Channels of a head that turn with a token's number, a patch's row and its column; each even."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.width != self.heads * sum(self.axes) or any(channels % 2 for channels in self.axes):
            raise ValueError("width must be heads times the sum of axes, and each of the axes even")
        return self


class Config(Strict):
    """The published variants differ in the bits of a code and the codes of a position."""

    bits: int = Field(ge=1, le=62)
    """Bits of a code."""
    codes: int = Field(ge=1)
    """Codes of each position."""
    positions: int = Field(default=256, ge=1)
    """Positions of a picture, whatever its size."""
    encoder: Transformer = Transformer(width=768, heads=12, layers=8, axes=(8, 28, 28))
    decoder: Transformer = Transformer(width=1152, heads=12, layers=16, axes=(12, 42, 42))
    patch: int = Field(default=4, ge=1)
    steps: int = Field(default=25, ge=1)
    """Steps of the sampler."""
    guidance: float = 1.5
    """How far the sampler goes from the velocity without code (0) to the one with it (1) and beyond."""
    guided: Annotated[tuple[float, float], Field(strict=False)] = (0.17, 1.02)
    """Noise levels (sigma of x + sigma * noise) between which it does so; outside, the code's velocity is taken."""
    seed: int = 0
    """Of the noise that the sampler starts from. Every picture gets the same, so that neither batch size nor order
    changes a result; the published sampler draws without a seed."""

    @property
    def channels(self) -> int:
        """Bits of a position."""
        return self.bits * self.codes


def normed(x: Tensor) -> Tensor:
    """Normalise the last axis without learned numbers."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


class Scale(nn.Module):
    """The learned half of a root-mean-square normalisation, under its published name."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape; the last axis has `channels`."""
        return F.rms_norm(x, x.shape[-1:], self.scale, eps=1e-6)


class QueryKeyNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query_norm = Scale(channels)
        self.key_norm = Scale(channels)


class Attention(nn.Module):
    """One stream's projections; the attention itself is over both streams."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.norm = QueryKeyNorm(width // heads)
        self.proj = nn.Linear(width, width)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, width) -> query, key and value, (B, heads, T, C) each."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.norm.query_norm(q), self.norm.key_norm(k), v


class Modulated(nn.Module):
    """Holds the projection of the time under its published name."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lin = nn.Linear(width, 6 * width)

    def forward(self, time: Tensor) -> Modulation:
        """(B, width) -> six of (B, 1, width)."""
        one, two, three, four, five, six = self.lin(F.silu(time))[:, None].chunk(6, dim=-1)
        return one, two, three, four, five, six


def turn(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate neighbouring channels: x is (B, heads, T, C), the angles' cosine and sine (T, C / 2); in float32."""
    even, odd = torch.unflatten(x.float(), -1, (-1, 2)).unbind(-1)
    return torch.stack([cosine * even - sine * odd, sine * even + cosine * odd], dim=-1).flatten(-2).to(x)


class Block(nn.Module):
    """Both streams, each with its own numbers, over one attention."""

    def __init__(self, numbers: Transformer) -> None:
        super().__init__()
        width = numbers.width
        for stream in ("img", "txt"):
            self.add_module(f"{stream}_mod", Modulated(width))
            self.add_module(f"{stream}_attn", Attention(width, numbers.heads))
            hidden = nn.Linear(width, 4 * width)
            self.add_module(
                f"{stream}_mlp", nn.Sequential(hidden, nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
            )

    def forward(
        self, pixels: Tensor, tokens: Tensor, time: Tensor | None, cosine: Tensor, sine: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Keep the shapes (B, P, width) and (B, N, width); tokens come first in the attention."""
        streams = (("txt", tokens), ("img", pixels))
        mods: list[Modulation | None] = [
            None if time is None else self.get_submodule(f"{name}_mod")(time) for name, _ in streams
        ]
        parts = []
        for (name, x), mod in zip(streams, mods, strict=True):
            h = normed(x) if mod is None else (1 + mod[1]) * normed(x) + mod[0]
            attention = self.get_submodule(f"{name}_attn")
            assert isinstance(attention, Attention)
            parts.append(attention.split(h))
        q, k, v = (torch.cat(pair, dim=2) for pair in zip(*parts, strict=True))
        # The published width rule scales by 8 / C where others take the root of 1 / C.
        mixed = F.scaled_dot_product_attention(turn(q, cosine, sine), turn(k, cosine, sine), v, scale=8.0 / q.shape[-1])
        halves = torch.split(mixed.transpose(1, 2).flatten(2), [tokens.shape[1], pixels.shape[1]], dim=1)
        out = []
        for (name, x), mod, half in zip(streams, mods, halves, strict=True):
            attention, mlp = self.get_submodule(f"{name}_attn"), self.get_submodule(f"{name}_mlp")
            h = attention.get_submodule("proj")(half)
            if mod is None:
                x = x + h
                x = x + mlp(normed(x))
            else:
                x = x + mod[2] * h
                x = x + mod[5] * mlp((1 + mod[4]) * normed(x) + mod[3])
            out.append(x)
        return out[1], out[0]


class Last(nn.Module):
    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, time: Tensor | None) -> Tensor:
        """(B, T, width) -> (B, T, channels); with a time, what it modulates is normalised once more."""
        if time is not None:
            shift, scale = self.adaLN_modulation(time)[:, None].chunk(2, dim=-1)
            x = (1 + scale) * normed(x) + shift
        out: Tensor = self.linear(normed(x))
        return out


class Time(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_layer = nn.Linear(TIME_CHANNELS, width)
        self.out_layer = nn.Linear(width, width)

    def forward(self, time: Tensor) -> Tensor:
        """(B,) in [0, 1] -> (B, width)."""
        half = TIME_CHANNELS // 2
        frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=time.device, dtype=torch.float32) / half)
        angles = (1000.0 * time.float())[:, None] * frequencies
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1).to(self.in_layer.weight)
        out: Tensor = self.out_layer(F.silu(self.in_layer(waves)))
        return out


class TwoStreams(nn.Module):
    """Pixels and tokens through the blocks. The encoder's modulations are in the published file and play no part."""

    def __init__(self, numbers: Transformer, channels: int, patch: int) -> None:
        super().__init__()
        self.axes, self.patch = numbers.axes, patch
        self.time_in = Time(numbers.width)
        self.img_in = nn.Linear(3 * patch**2, numbers.width)
        self.txt_in = nn.Linear(channels, numbers.width)
        self.double_blocks = nn.ModuleList(Block(numbers) for _ in range(numbers.layers))
        self.final_layer_img = Last(numbers.width, 3 * patch**2)
        self.final_layer_txt = Last(numbers.width, channels)

    def mixed(self, x: Tensor, tokens: Tensor, time: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) and (B, N, channels) -> (B, P, width) and (B, N, width)."""
        patches = to_patches(x, self.patch)
        cosine, sine = self._angles(tokens.shape[1], patches.shape[2], patches.shape[3], x.device)
        h, tokens = self.img_in(patches.flatten(2).mT), self.txt_in(tokens)
        for block in self.double_blocks:
            h, tokens = block(h, tokens, time, cosine, sine)
        return h, tokens

    def _angles(self, count: int, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosine and sine by place, (N + P, C / 2): a token's three axes are its number, a patch's 0, row, column."""
        number = torch.arange(count, device=device)[:, None].expand(-1, 3)
        row = torch.arange(height, device=device).repeat_interleave(width)
        column = torch.arange(width, device=device).repeat(height)
        places = torch.cat([number, torch.stack([torch.zeros_like(row), row, column], dim=1)]).double()
        angles = [
            place[:, None]
            / ROTARY_BASE ** (torch.arange(0, channels, 2, device=device, dtype=torch.float64) / channels)
            for place, channels in zip(places.unbind(1), self.axes, strict=True)
        ]
        turns = torch.cat(angles, dim=1)
        return turns.cos().float(), turns.sin().float()


class Network(nn.Module):
    """A fixed number of codes for a picture; decoding starts from noise of a fixed seed."""

    changes = "digits"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.encoder = TwoStreams(config.encoder, config.channels, config.patch)
        self.decoder = TwoStreams(config.decoder, config.channels + 1, config.patch)
        times = np.arange(config.steps, -1, -1, dtype=np.float32) ** np.float32(4.0) / np.float32(config.steps**4.0)
        self.times: list[float] = times.tolist()
        self.lengths: list[float] = (times[:-1] - times[1:]).tolist()

    def latent(self, x: Tensor) -> Tensor:
        """What the quantizer is given: (B, 3, H, W) in [-1, 1] -> (B, positions, codes * bits)."""
        blank = x.new_zeros(len(x), self.config.positions, self.config.channels)
        _, tokens = self.encoder.mixed(x, blank, None)
        out: Tensor = self.encoder.final_layer_txt(tokens, None)
        return out

    def encode(self, x: Tensor) -> Codes:
        """(B, 3, H, W) in [-1, 1] -> indices (B, positions, codes).

        Bit k of code f is the sign of channel k * codes + f and weighs 2^k; a zero counts as negative.
        """
        size = (x.shape[-2], x.shape[-1])
        z = self._coded(x)
        indices = numbered(_packed((z > 0).long()), z)
        return Codes(indices=(indices,), codebook_sizes=(2**self.config.bits,), size=size)

    def candidates(self, x: Tensor, count: int) -> tuple[Tensor, ...]:
        """Each code, and the one with its least certain bit changed: (B, positions, codes, 2)."""
        z = self._coded(x)
        return (torch.stack([_packed((z > 0).long()), _packed(other_bits(z))], dim=-1),)

    def _coded(self, x: Tensor) -> Tensor:
        """What the signs are taken of: (B, positions, codes, bits)."""
        return torch.unflatten(self.latent(x), -1, (self.config.bits, self.config.codes)).mT

    def decode(self, codes: Codes) -> Tensor:
        """Indices (B, positions, codes) or their signs (B, positions, channels), and the size -> (B, 3, H, W).

        The pictures are unclamped.

        Raises:
            DataError: if the codes hold no size, which the number of codes doesn't tell.
        """
        if codes.size is None:
            raise DataError("the codes hold no size; FlowMo has as many codes for every size and needs it told")
        generator = torch.Generator().manual_seed(self.config.seed)  # on the CPU: the same noise on every device
        noise = torch.randn((3, *codes.size), generator=generator).to(self.decoder.img_in.weight.device)
        z = self.vectors(codes) if codes.latent is None else codes.latent
        return self.sample(z, noise.expand(len(z), -1, -1, -1))

    def vectors(self, codes: Codes) -> Tensor:
        """The signs that the indices stand for: (B, positions, codes) -> (B, positions, channels) of -1 and 1."""
        (indices,) = codes.indices
        places = torch.arange(self.config.bits, device=indices.device)[:, None]
        signs = (indices[:, :, None] >> places & 1) * 2 - 1  # (B, positions, bits, codes)
        return signs.flatten(2).to(self.decoder.img_in.weight)

    def sample(self, z: Tensor, noise: Tensor) -> Tensor:
        """Follow the flow from noise (B, 3, H, W), unit normal, to pictures of the same shape and type, unclamped.

        Args:
            z: signs, (B, positions, channels).
            noise: where the flow begins; float32 whatever the network's type, or its last, small steps would be rounded
                away.
        """
        tokens = F.pad(z, (0, 1), value=1.0)
        blank = torch.zeros_like(tokens)
        low, high = (sigma / (1 + sigma) for sigma in self.config.guided)
        x = noise
        for time, length in zip(self.times, self.lengths, strict=False):
            velocity = self.velocity(x.to(z.dtype), tokens, time)
            if self.config.guidance != 1 and low <= time <= high:
                free = self.velocity(x.to(z.dtype), blank, time)
                velocity = free + self.config.guidance * (velocity - free)
            x = x - length * velocity.to(x.dtype)
        return x

    def velocity(self, x: Tensor, tokens: Tensor, time: float) -> Tensor:
        """One call of the decoder: x (B, 3, H, W), tokens (B, positions, channels + 1), time from 1 (noise) to 0."""
        # In half precision the time itself would be rounded: in bf16, .9 becomes .8984.
        when = self.decoder.time_in(x.new_full((len(x),), time, dtype=torch.float32))
        h, _ = self.decoder.mixed(x, tokens, when)
        patches = self.decoder.final_layer_img(h, when).mT
        side = self.config.patch
        return from_patches(patches.unflatten(2, (x.shape[2] // side, x.shape[3] // side)), side)


def _packed(bits: Tensor) -> Tensor:
    """Read bits (B, positions, codes, bits) as indices (B, positions, codes); bit k weighs 2^k."""
    return (bits << torch.arange(bits.shape[-1], device=bits.device)).sum(-1)
