"""VQGAN with its two quantizers: the nearest row of a codebook, or the largest of learned logits (Gumbel).

Source: CompVis/taming-transformers, taming/models/vqgan.py, taming/modules/vqvae/quantize.py
Commit: 3ba01b241669f5ade541ce990f7650a3b8f65318
Licence: MIT

Chameleon's image tokenizer, which Anole took over, is the same network, with attention in the middle alone.

Source: facebookresearch/chameleon, chameleon/inference/vqgan.py
Commit: dbbe47fdbc7a3cc4982ae931fea75e227262e70a
Licence: Chameleon License
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from vtbench.networks._taming import Autoencoder, Layout, best_codes, lookup
from vtbench.types import Codes


class Config(Layout):
    """One codebook and how a code is chosen from it."""

    codebook_size: int = Field(ge=2)
    code_channels: int = Field(default=256, ge=1)
    quantizer: Literal["nearest", "gumbel"] = "nearest"


class Nearest(nn.Module):
    """Chooses the row at the smallest Euclidean distance."""

    def __init__(self, codes: int, channels: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, channels)

    @property
    def table(self) -> Tensor:
        """The codebook, (K, C)."""
        return self.embedding.weight

    def forward(self, z: Tensor) -> Tensor:
        """(B, C, h, w) -> indices (B, h, w)."""
        # |z - e|^2 = |z|^2 - 2 (z.e - |e|^2 / 2), and |z|^2 is the same for every row.
        return best_codes(z, self.table, -self.table.float().square().sum(1) / 2)


class Gumbel(nn.Module):
    """Chooses the largest logit.

    The published code draws noise onto the logits in evaluation too, so that one picture has many codes; without the
    noise it has the likeliest.
    """

    def __init__(self, codes: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, codes, 1)
        self.embed = nn.Embedding(codes, channels)

    @property
    def table(self) -> Tensor:
        """The codebook, (K, C)."""
        return self.embed.weight

    def forward(self, z: Tensor) -> Tensor:
        """(B, C, h, w) -> indices (B, h, w)."""
        return best_codes(z, self.proj.weight.flatten(1), self.proj.bias)  # the 1x1 convolution, never held at once


class Network(Autoencoder):
    """One token for every 16x16 pixels (8x8 in the Gumbel variant)."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, config.code_channels)
        quantizer = Nearest if config.quantizer == "nearest" else Gumbel
        self.quantize = quantizer(config.codebook_size, config.code_channels)

    def encode(self, x: Tensor) -> Codes:
        """(B, 3, H, W) in [-1, 1] -> indices (B, h, w)."""
        return Codes(indices=(self.quantize(self.latent(x)),), codebook_sizes=(len(self.quantize.table),))

    def decode(self, codes: Codes) -> Tensor:
        """Indices (B, h, w) -> (B, 3, H, W), unclamped."""
        return self.pixels(lookup(codes.indices[0], self.quantize.table))
