"""The image tokenizer of LlamaGen: VQGAN's network around short codes, compared by their direction alone.

Source: FoundationVision/LlamaGen, tokenizer/tokenizer_image/vq_model.py
Commit: ce98ec41803a74a90ce68c40ababa9eaeffeb4ec
Licence: MIT

The tokenizer with which Janus and Janus-Pro draw is the same network.

Source: deepseek-ai/Janus, janus/models/vq_model.py
Commit: 1daa72fa409002d40931bd7b36a9280362469ead
Licence: MIT
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from vtbench.networks._taming import Autoencoder, Layout, best_codes, lookup, name_in_running_order
from vtbench.types import Codes


class Config(Layout):
    """One codebook of unit vectors."""

    codebook_size: int = Field(default=16384, ge=2)
    code_channels: int = Field(default=8, ge=1)


class Quantizer(nn.Module):
    """Holds the codebook under its published name; its rows have any length."""

    def __init__(self, codes: int, channels: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, channels)


class Network(Autoencoder):
    """One token for every 16x16 or 8x8 pixels, by the number of levels."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, config.code_channels)
        self.quantize = Quantizer(config.codebook_size, config.code_channels)
        self._levels = len(config.multipliers)

    def encode(self, x: Tensor) -> Codes:
        """(B, 3, H, W) in [-1, 1] -> indices (B, h, w).

        The unit vector nearest to the direction of z has the largest inner product with z, whatever z's length.
        """
        table = self._directions()
        return Codes(indices=(best_codes(self.latent(x), table),), codebook_sizes=(len(table),))

    def decode(self, codes: Codes) -> Tensor:
        """Indices (B, h, w) -> (B, 3, H, W), unclamped; the decoder is given the normalised rows."""
        z = lookup(codes.indices[0], self._directions())
        return self.pixels(z.to(self.quantize.embedding.weight.dtype))

    def published_name(self, own: str) -> str:
        """Name a tensor as the published checkpoint does, which numbers the decoder's levels in the order they run."""
        return name_in_running_order(own, self._levels)

    def _directions(self) -> Tensor:
        return F.normalize(self.quantize.embedding.weight.float())  # (K, code_channels), float32
