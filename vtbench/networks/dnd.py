"""The tokenizer of DnD-Transformer: VQGAN whose positions have several codes, each of what the ones before left over.

Source: chenllliang/DnD-Transformer, src/rqvae/models/rqvae/rqvae.py, .../quantizations.py, .../modules.py
Commit: 4a8b9828faee42cc22006017fd72bc6bd4d4d315
Licence: none stated; the files carry Apache-2.0 headers (Kakao Brain)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from vtbench.networks._candidates import best_few
from vtbench.networks._taming import Autoencoder, Layout, best_codes
from vtbench.types import Codes


class Config(Layout):
    """The published variants differ in the codes of a position and in the codebook."""

    codebook_size: int = Field(ge=2)
    code_channels: int = Field(default=256, ge=1)
    depths: int = Field(ge=1)
    """Codes of a position."""
    shared: bool = True
    """Whether all depths have one codebook."""
    depth: int | None = Field(default=None, ge=1)
    """Code the first few depths alone; None for all."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.depth is not None and self.depth > self.depths:
            raise ValueError(f"depth must be at most depths, {self.depths}, got {self.depth}")
        return self


class Quantizer(nn.Module):
    """Codebooks with one row more than they have codes, which the published code keeps for padding."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        count = 1 if config.shared else config.depths
        self.codebooks = nn.ModuleList(
            nn.Embedding(config.codebook_size + 1, config.code_channels) for _ in range(count)
        )

    def table(self, depth: int) -> Tensor:
        """The rows that the codes of a depth stand for, (K, C)."""
        return self.codebooks[min(depth, len(self.codebooks) - 1)].get_parameter("weight")[:-1]


class Network(Autoencoder):
    """A few tokens for every 16x16 pixels in the published layout, coarse to fine."""

    changes = "codes"

    def __init__(self, config: Config) -> None:
        super().__init__(config, config.code_channels)
        self.config = config
        self.quantizer = Quantizer(config)

    def encode(self, x: Tensor) -> Codes:
        """(B, 3, H, W) in [-1, 1] -> indices (B, h, w, depth)."""
        chosen = [best_codes(*given) for given in self._coded(x)]
        return Codes(indices=(torch.stack(chosen, dim=-1),), codebook_sizes=(self.config.codebook_size,))

    def candidates(self, x: Tensor, count: int) -> tuple[Tensor, ...]:
        """The nearest codes to what each depth is given, those before unchanged: (B, h, w, depth, count)."""
        return (torch.stack([best_few(*given, count) for given in self._coded(x)], dim=-2),)

    def _coded(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """What each depth codes, (B, C, h, w), with its codebook and the bias that makes the best row the nearest."""
        residual = self.latent(x).float()  # in half precision the later depths would code rounding
        for depth in range(self.config.depth or self.config.depths):
            table = self.quantizer.table(depth).float()
            # |z - e|^2 = |z|^2 - 2 (z.e - |e|^2 / 2), and |z|^2 is the same for every row.
            given = residual, table, -table.square().sum(1) / 2
            yield given
            residual = residual - F.embedding(best_codes(*given).clamp_min(0), table).movedim(-1, 1)

    def decode(self, codes: Codes) -> Tensor:
        """Indices (B, h, w, depth) or what they add up to -> (B, 3, H, W), unclamped; from the first few depths too."""
        return self.pixels(self.vectors(codes) if codes.latent is None else codes.latent)

    def vectors(self, codes: Codes) -> Tensor:
        """What the codes of each position add up to: (B, C, h, w)."""
        *_, (_, _, z) = self._sums(codes)
        return z

    def curve(self, codes: Codes) -> Iterator[tuple[str, float, Tensor]]:
        """Decode from the first depth, the first two and so on: label, bits of a picture so far, (B, 3, H, W).

        The label is the option of the card that would code no more.
        """
        for label, bits, z in self._sums(codes):
            yield label, bits, self.pixels(z)

    def _sums(self, codes: Codes) -> Iterator[tuple[str, float, Tensor]]:
        """What the codes of each position add up to, depth by depth, (B, C, h, w)."""
        (indices,), (size,) = codes.indices, codes.codebook_sizes
        z = torch.zeros((), device=indices.device)
        for depth in range(indices.shape[-1]):
            z = z + F.embedding(indices[..., depth], self.quantizer.table(depth)).movedim(-1, 1).contiguous()
            yield f"depth={depth + 1}", indices[0, ..., : depth + 1].numel() * math.log2(size), z

    def renamed(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Bring a published file to one codebook: it repeats a shared one under the number of every depth."""
        first = state.get("quantizer.codebooks.0.weight")
        if not self.config.shared or first is None:
            return state
        repeated = [f"quantizer.codebooks.{depth}.weight" for depth in range(1, self.config.depths)]
        # One that differs is no repetition: it stays, and is refused as a tensor that the network does not have.
        again = {name for name in repeated if name in state and torch.equal(state[name], first)}
        return {name: tensor for name, tensor in state.items() if name not in again}
