"""AToken, a plain transformer over patches of pictures, video and 3D; this file is its path for still pictures.

Source: apple/ml-atoken, atoken_inference/model/ (autoencoder_kl, utils, finite_scaler_quantize, attention, transformer)
Commit: 3f5afdc1256e9baa53fc6cab5381d6215f5a4455
Licence: Apple Sample Code License
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from vtbench.errors import DataError
from vtbench.networks._candidates import other_digits
from vtbench.networks._finite import numbered
from vtbench.networks._gaussian import Posterior, code
from vtbench.types import Codes

PATCH = 16
FRAMES = 4
"""A patch is four frames deep. A still picture is the first frame and the other three are zeros (mid grey)."""
STILL = PATCH * PATCH * 3
"""Values of a patch that belong to the first frame; they come first, in the order row, column, channel."""
GRID = 16
"""Side of the learned table of positions, in patches."""
AXES = 4
"""Rotary axes: time, row, column and depth."""


class Config(Posterior):
    """The numbers of the published variants; the encoder and the decoder share their shape."""

    latent_channels: int = Field(ge=1)
    levels: Annotated[tuple[int, ...], Field(strict=False)] = ()
    """Quantisation levels of the channels of one token; a patch has latent_channels / len(levels) tokens. Empty means
    a continuous latent."""
    width: int = Field(default=1152, ge=1)
    heads: int = Field(default=16, ge=1)
    hidden: int = Field(default=4304, ge=1)
    """Width of the layer between the two matrices of an MLP."""
    blocks: int = Field(default=27, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.width % (2 * AXES * self.heads):
            raise ValueError(f"width must be a multiple of {2 * AXES} x heads, a channel pair for each rotary axis")
        if self.levels and (min(self.levels) < 2 or self.latent_channels % len(self.levels)):
            raise ValueError("levels must all be 2 or more, and their number must divide latent_channels")
        if self.levels and self.sample:
            raise ValueError("sample is for continuous latents: quantisation takes the mean; leave one of them out")
        return self


class Positions(nn.Module):
    """The learned table that is added once, after the input layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.position_embedding = nn.Embedding(GRID * GRID, width)

    def forward(self, height: int, width: int) -> Tensor:
        table = self.position_embedding.weight.mT.view(1, -1, GRID, GRID)  # (1, C, row, column)
        # In float32, because the CPU has no antialiased resize of half precision.
        table = F.interpolate(table.float(), size=(height, width), mode="bilinear", antialias=True)
        return table[0].flatten(1).mT.to(self.position_embedding.weight.dtype)  # (height * width, C)


def rotations(height: int, width: int, head: int, device: torch.device) -> Tensor:
    """Turn of every channel pair at every patch, as complex numbers of length 1: (height * width, head / 2).

    The pairs lie in four runs: time, row, column, depth. A still picture stands at time 0 and depth 0, so its first and
    last run do not turn. The exponent counts in `head`, not in the channels of a run: the slowest pair is still fast.
    """
    frequencies = 1.0 / 10000.0 ** (torch.arange(head // (2 * AXES), device=device) / head)
    rows = torch.arange(height, device=device)[:, None, None] * frequencies  # (height, 1, head / 8)
    columns = torch.arange(width, device=device)[:, None] * frequencies  # (width, head / 8)
    still = torch.zeros_like(frequencies)
    runs = [run.expand(height, width, -1) for run in (still, rows, columns, still)]
    angles = torch.cat(runs, dim=-1).flatten(0, 1)
    return torch.polar(torch.ones_like(angles), angles)


class HeadNorm(nn.Module):
    """Brings the query or key of every head to one length, times a learned gain a channel."""

    def __init__(self, heads: int, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(heads, channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x.float(), dim=-1) * self.gamma * math.sqrt(x.shape[-1])  # (B, N, heads, channels)


class Attention(nn.Module):
    """Every patch of a picture attends to all; queries and keys are turned by their position."""

    def __init__(self, config: Config, *, decoder: bool) -> None:
        super().__init__()
        self.heads = config.heads
        head = config.width // config.heads
        self.to_qkv = nn.Linear(config.width, 3 * config.width, bias=not decoder)
        self.q_rms_norm = HeadNorm(config.heads, head) if decoder else nn.Identity()
        self.k_rms_norm = HeadNorm(config.heads, head) if decoder else nn.Identity()
        self.to_out = nn.Linear(config.width, config.width, bias=not decoder)

    def forward(self, x: Tensor, turns: Tensor) -> Tensor:
        q, k, v = self.to_qkv(x).view(*x.shape[:2], 3, self.heads, -1).unbind(2)  # each (B, N, heads, head)
        q = _turned(self.q_rms_norm(q), turns).to(v.dtype)
        k = _turned(self.k_rms_norm(k), turns).to(v.dtype)
        h = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        out: Tensor = self.to_out(h.transpose(1, 2).flatten(2))
        return out


def _turned(x: Tensor, turns: Tensor) -> Tensor:
    """Turn neighbouring channel pairs of (B, N, heads, head), in float32 whatever the precision."""
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))  # (B, N, heads, head / 2)
    return torch.view_as_real(pairs * turns[:, None]).flatten(-2)


class MLP(nn.Module):
    def __init__(self, config: Config, *, decoder: bool) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(config.width, config.hidden, bias=not decoder),
            nn.GELU(approximate="tanh"),
            nn.Linear(config.hidden, config.width, bias=not decoder),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.mlp(x)
        return out


def norm(config: Config, *, decoder: bool) -> nn.Module:
    """The encoder's or the decoder's normalisation over the width."""
    return nn.RMSNorm(config.width, eps=1e-6) if decoder else nn.LayerNorm(config.width, eps=1e-6)


class Block(nn.Module):
    def __init__(self, config: Config, *, decoder: bool) -> None:
        super().__init__()
        self.norm1 = norm(config, decoder=decoder)
        self.attn = Attention(config, decoder=decoder)
        self.norm2 = norm(config, decoder=decoder)
        self.mlp = MLP(config, decoder=decoder)

    def forward(self, x: Tensor, turns: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), turns)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Transformer(nn.Module):
    """What the encoder and the decoder have in common. The encoder has biases; the decoder normalises q and k."""

    def __init__(self, config: Config, before: int, *, decoder: bool) -> None:
        super().__init__()
        self.head = config.width // config.heads
        self.pos_embedder = Positions(config.width)
        self.input_layer = nn.Linear(before, config.width, bias=not decoder)
        self.blocks = nn.ModuleList(Block(config, decoder=decoder) for _ in range(config.blocks))

    def run(self, x: Tensor) -> Tensor:
        """All blocks: (B, h, w, values), values being the first columns of the input layer -> (B, h, w, width)."""
        height, width = x.shape[1:3]
        # What a picture leaves out is zero, so those columns of the weight have nothing to add.
        x = F.linear(x.flatten(1, 2), self.input_layer.weight[:, : x.shape[-1]], self.input_layer.bias)
        x = x + self.pos_embedder(height, width)
        turns = rotations(height, width, self.head, x.device)
        for block in self.blocks:
            x = block(x, turns)
        return x.view(-1, height, width, x.shape[-1])


class Encoder(Transformer):
    def __init__(self, config: Config) -> None:
        super().__init__(config, FRAMES * STILL, decoder=False)
        self.post_layernorm = norm(config, decoder=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, h, w, width)."""
        height, width = x.shape[2] // PATCH, x.shape[3] // PATCH
        patches = x.reshape(-1, 3, height, PATCH, width, PATCH)
        out: Tensor = self.post_layernorm(self.run(patches.permute(0, 2, 4, 3, 5, 1).flatten(3)))
        return out


class Decoder(Transformer):
    def __init__(self, config: Config) -> None:
        super().__init__(config, config.latent_channels, decoder=True)
        self.out_norm = norm(config, decoder=True)
        self.out_layer = nn.Linear(config.width, FRAMES * STILL, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        """(B, h, w, latent_channels) -> (B, 3, H, W): the first frame alone; the other three are never computed."""
        x = F.linear(self.out_norm(self.run(z)), self.out_layer.weight[:STILL])
        patches = x.view(*z.shape[:3], PATCH, PATCH, 3).permute(0, 5, 1, 3, 2, 4)  # (B, 3, h, PATCH, w, PATCH)
        return patches.flatten(4).flatten(2, 3)


class Quantizer(nn.Module):
    """Finite scalar quantisation (Mentzer et al., 2023): each channel is squashed to its levels and rounded."""

    levels: Tensor
    places: Tensor

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.codes = math.prod(levels)
        self.register_buffer("levels", torch.tensor(levels, device="cpu"), persistent=False)
        places = [math.prod(levels[:index]) for index in range(len(levels))]  # the first channel is the lowest digit
        self.register_buffer("places", torch.tensor(places, device="cpu"), persistent=False)

    def indices(self, z: Tensor) -> Tensor:
        """(B, h, w, C) -> one index for every len(levels) channels, int64 (B, h, w, C / len(levels))."""
        indices = ((self._bounded(z).round().long() + self.levels // 2) * self.places).sum(-1)
        return numbered(indices, z.reshape(*indices.shape, -1))

    def others(self, z: Tensor) -> Tensor:
        """The indices with the least certain digit of each changed, of the shape of `indices`."""
        return (other_digits(self._bounded(z) + self.levels // 2, self.levels) * self.places).sum(-1)

    def _bounded(self, z: Tensor) -> Tensor:
        """Squash (B, h, w, C) so that rounding gives the levels: (B, h, w, tokens, len(levels))."""
        half = (self.levels - 1) * 1.001 / 2  # a little more than the outermost level, so that tanh reaches it
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        # In float32 whatever the precision: a latent near a border would fall on another side.
        channels = z.float().reshape(*z.shape[:-1], -1, len(self.levels))
        return torch.tanh(channels + torch.atanh(offset / half)) * half - offset

    def values(self, indices: Tensor) -> Tensor:
        """What the indices stand for, in [-1, 1]: the inverse of the shapes of `indices`, float32."""
        digits = indices[..., None] // self.places % self.levels
        middle = self.levels // 2
        return ((digits - middle) / middle).flatten(-2)


class Network(nn.Module):
    """One latent vector for every 16x16 pixels, at any size that is a multiple of 16."""

    changes = "digits"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.posterior: Posterior = config
        self.encoder = Encoder(config)
        self.proj = nn.Linear(config.width, 2 * config.latent_channels, bias=False)
        self.quantizer = Quantizer(config.levels) if config.levels else None
        self.decoder = Decoder(config)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the posterior: (B, 3, H, W) in [-1, 1] -> twice (B, latent_channels, h, w)."""
        mean, log_variance = self.proj(self.encoder(x)).movedim(-1, 1).chunk(2, dim=1)
        return mean, log_variance

    def latent(self, x: Tensor) -> Tensor:
        """The mean alone, which is what the quantizer is given."""
        return self.moments(x)[0]

    def encode(self, x: Tensor) -> Codes:
        """(B, 3, H, W) in [-1, 1] -> latent (B, latent_channels, h, w), or indices (B, h, w, tokens of a patch).

        The published inference draws from the posterior without a seed, and of a discrete variant it throws the draw
        away.
        """
        if self.quantizer is None:
            mean, log_variance = self.moments(x)
            return Codes(latent=code(mean, log_variance, self.posterior, limits=None))
        indices = self.quantizer.indices(self.latent(x).movedim(1, -1))
        return Codes(indices=(indices,), codebook_sizes=(self.quantizer.codes,))

    def decode(self, codes: Codes) -> Tensor:
        """Codes -> (B, 3, H, W), unclamped; of a discrete variant also from what its indices stand for."""
        z = self.vectors(codes) if codes.latent is None else codes.latent
        out: Tensor = self.decoder(z.movedim(1, -1).to(self.proj.weight.dtype))
        return out

    def vectors(self, codes: Codes) -> Tensor:
        """What the indices stand for, in [-1, 1]: (B, latent_channels, h, w)."""
        if self.quantizer is None:
            raise DataError("a continuous AToken decodes a latent and these codes have none; encode with the same card")
        return self.quantizer.values(codes.indices[0]).movedim(-1, 1)

    def candidates(self, x: Tensor, count: int) -> tuple[Tensor, ...]:
        """Each index, and the one with its least certain digit changed: (B, h, w, tokens, 2)."""
        if self.quantizer is None:
            return ()
        z = self.latent(x).movedim(1, -1)
        return (torch.stack([self.quantizer.indices(z), self.quantizer.others(z)], dim=-1),)
