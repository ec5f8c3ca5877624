"""IBQ, a tokenizer whose code is the codebook row with the largest inner product.

Source: TencentARC/SEED-Voken, src/IBQ/models/ibqgan.py, src/IBQ/modules/vqvae/quantize.py
Commit: b9a17eac8e2c0779c12a5429b0bfd6c502788484
Licence: Apache-2.0

Emu3.5's vision tokenizer is the same network, twice as wide.

Source: baaivision/Emu3.5, src/vision_tokenizer
Commit: 8fcf1da48f9c5252fe0a0b8dc842e07b6efcd745
Licence: Apache-2.0
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from vtbench.networks._candidates import best_few
from vtbench.networks._taming import Autoencoder, Layout, best_codes, lookup
from vtbench.types import Codes


class Config(Layout):
    """One codebook; IBQ's own variants differ in nothing else."""

    codebook_size: int = Field(ge=2)
    code_channels: int = Field(default=256, ge=1)
    blocks: int = Field(default=4, ge=1)


class Quantizer(nn.Module):
    """Holds the codebook under its published name."""

    def __init__(self, codes: int, channels: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, channels)


class Network(Autoencoder):
    """One token for every 16x16 pixels in the published layout."""

    changes = "codes"

    def __init__(self, config: Config) -> None:
        super().__init__(config, config.code_channels)
        self.quantize = Quantizer(config.codebook_size, config.code_channels)

    def encode(self, x: Tensor) -> Codes:
        """(B, 3, H, W) in [-1, 1] -> indices (B, h, w).

        Neither side of the inner product is normalised. Training's softmax over the scores keeps their order.
        """
        table = self.quantize.embedding.weight
        return Codes(indices=(best_codes(self.latent(x), table),), codebook_sizes=(len(table),))

    def decode(self, codes: Codes) -> Tensor:
        """Indices (B, h, w) or their rows (B, code_channels, h, w) -> (B, 3, H, W), unclamped."""
        return self.pixels(self.vectors(codes) if codes.latent is None else codes.latent)

    def vectors(self, codes: Codes) -> Tensor:
        """The rows of the indices: (B, h, w) -> (B, code_channels, h, w)."""
        return lookup(codes.indices[0], self.quantize.embedding.weight)

    def candidates(self, x: Tensor, count: int) -> tuple[Tensor, ...]:
        """The codes of the largest inner products: (B, h, w, count), best first."""
        return (best_few(self.latent(x), self.quantize.embedding.weight, None, count),)
