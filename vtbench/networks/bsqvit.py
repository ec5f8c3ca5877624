"""BSQ-ViT: a transformer over patches whose tokens are the signs of a vector on the unit sphere.

Source: zhaoyue-zephyrus/bsq-vit, transcoder/models/{bsqvit,transformer}.py, transcoder/models/quantizer/bsq.py
Commit: 37d212d2b43f1c715c49808dd246ec26f826740f
Licence: MIT
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from vtbench.errors import DataError
from vtbench.networks._candidates import other_bits
from vtbench.networks._finite import numbered
from vtbench.networks._transformer import Block
from vtbench.networks.magvit2 import index_to_signs, signs_to_index
from vtbench.types import Codes, Strict


class Config(Strict):
    """The published variants differ in the bits of a token."""

    bits: int = Field(ge=1)
    """Bits of a token: the numbers of a vector between encoder and decoder."""
    tokens: Literal["index", "bits"] = "index"
    """Whether a token is one index of 2 to the power of `bits`, or `bits` indices of two."""
    width: int = Field(default=768, ge=1)
    layers: int = Field(default=12, ge=1)
    heads: int = Field(default=12, ge=1)
    patch: int = Field(default=8, ge=1)
    size: int = Field(default=256, ge=1)
    """Height and width of a picture; the positions are learned, so no other size is taken."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.size % self.patch:
            raise ValueError(f"size must be a multiple of patch, got {self.size} and {self.patch}")
        if self.tokens == "index" and self.bits > 62:
            raise ValueError(f'an index has at most 62 bits, got {self.bits}; give tokens = "bits"')
        return self


class Half(nn.Module):
    """What encoder and decoder have in common: positions, the blocks, a normalisation before and after them."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.width
        self.positional_embedding = nn.Parameter(torch.zeros((config.size // config.patch) ** 2, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = nn.ModuleDict(
            {"resblocks": nn.Sequential(*(Block(width, config.heads) for _ in range(config.layers)))}
        )
        self.ln_post = nn.LayerNorm(width)

    def mixed(self, x: Tensor) -> Tensor:
        """Keep the shape (B, T, width)."""
        out: Tensor = self.ln_post(self.transformer["resblocks"](self.ln_pre(x + self.positional_embedding)))
        return out


class Encoder(Half):
    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.patch = config.patch
        self.conv1 = nn.Linear(3 * config.patch**2, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, size, size) -> (B, T, width), in row-major order of the patches."""
        patches = F.pixel_unshuffle(x, self.patch)  # of a patch's values the colour changes slowest, then the row
        return self.mixed(self.conv1(patches.flatten(2).mT))


class Decoder(Half):
    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.patch, self.side = config.patch, config.size // config.patch
        self.ffn = nn.Sequential(nn.Linear(config.width, 4 * config.width), nn.Tanh())
        self.conv_out = nn.Linear(4 * config.width, 3 * config.patch**2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) -> (B, 3, size, size), unclamped."""
        patches = torch.unflatten(self.conv_out(self.ffn(self.mixed(x))).mT, 2, (self.side, self.side))
        return F.pixel_shuffle(patches, self.patch)


class Network(nn.Module):
    """One token for every 8x8 pixels; the quantizer has no weights."""

    changes = "digits"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_embed = nn.Linear(config.width, config.bits)
        self.post_quant_embed = nn.Linear(config.bits, config.width)

    def latent(self, x: Tensor) -> Tensor:
        """What the quantizer is given: (B, 3, size, size) in [-1, 1] -> vectors of length 1, (B, T, bits)."""
        return F.normalize(self.quant_embed(self.encoder(x)), dim=-1)

    def encode(self, x: Tensor) -> Codes:
        """(B, 3, size, size) in [-1, 1] -> indices (B, h, w), channel 0 the most significant bit, or (B, h, w, bits).

        Raises:
            DataError: if the picture has another size.
        """
        size, side = self.config.size, self.config.size // self.config.patch
        if tuple(x.shape[2:]) != (size, size):
            raise DataError(f"BSQ-ViT takes {size}x{size} pixels only, got {x.shape[3]}x{x.shape[2]}")
        z = torch.unflatten(self.latent(x), 1, (side, side))  # (B, h, w, bits)
        codes, parts = (2, self.config.bits) if self.config.tokens == "bits" else (2**self.config.bits, 1)
        indices = numbered(self._indices((z > 0).long()), z)
        return Codes(indices=(indices,), codebook_sizes=(codes,), indices_per_token=parts)

    def decode(self, codes: Codes) -> Tensor:
        """Indices as `encode` gives them, or what they stand for -> (B, 3, size, size), unclamped."""
        z = self.vectors(codes) if codes.latent is None else codes.latent
        out: Tensor = self.decoder(self.post_quant_embed(z.movedim(1, -1).flatten(1, 2)))
        return out

    def vectors(self, codes: Codes) -> Tensor:
        """The vectors of length 1 that indices stand for: (B, bits, h, w)."""
        (indices,) = codes.indices
        if self.config.tokens == "bits":
            signs = 2 * indices - 1
        else:
            signs = index_to_signs(indices, self.config.bits).movedim(1, -1).flip(-1)
        vectors: Tensor = signs.to(self.post_quant_embed.weight.dtype).movedim(-1, 1) * self.config.bits**-0.5
        return vectors

    def candidates(self, x: Tensor, count: int) -> tuple[Tensor, ...]:
        """The code of each position and the one with its least certain bit changed: the indices' shape and 2."""
        side = self.config.size // self.config.patch
        z = torch.unflatten(self.latent(x), 1, (side, side))
        return (torch.stack([self._indices((z > 0).long()), self._indices(other_bits(z))], dim=-1),)

    def _indices(self, bits: Tensor) -> Tensor:
        """Bits (B, h, w, bits) -> the indices of `encode`."""
        if self.config.tokens == "bits":
            return bits
        return signs_to_index((2 * bits - 1).flip(-1).movedim(-1, 1))
