"""TiTok: a picture as a row of tokens without a place of their own, read and written by two plain transformers.

Source: bytedance/1d-tokenizer, modeling/titok.py, modeling/modules/blocks.py, modeling/modules/maskgit_vqgan.py
Commit: 942a96fbdd873780179d1b78d5462911528bf8c8
Licence: Apache-2.0
"""

from __future__ import annotations

from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from vtbench.networks._candidates import best_few
from vtbench.networks._gaussian import Posterior, code, latent_of
from vtbench.networks._maskgit import Widths, residual_blocks
from vtbench.networks._patches import from_patches
from vtbench.networks._taming import best_codes, norm
from vtbench.networks._transformer import Block
from vtbench.types import Codes, Strict


class Transformer(Strict):
    """The numbers of one of the two transformers."""

    width: int = Field(ge=1)
    layers: int = Field(ge=1)
    heads: int = Field(ge=1)


class Config(Posterior):
    """The published variants differ in the transformers, the tokens, what a token is, and their generation."""

    encoder: Transformer
    decoder: Transformer
    tokens: int = Field(ge=1)
    """Tokens of a picture."""
    token_channels: int = Field(ge=1)
    """Numbers of a token before it is quantised, or of a continuous one."""
    codebook_size: int | None = Field(default=None, ge=2)
    """None for a continuous token, which is the mean of a Gaussian, or a draw from it."""
    first_generation: bool = False
    """Whether tokens are compared by angle, the encoder's last step reads its memory without transposing it, and the
    pixels come from MaskGIT's VQGAN; the later generation does none of the three."""
    pixels: Widths = Widths()
    """MaskGIT's decoder, in the first generation."""
    pixel_codes: int = Field(default=1024, ge=2)
    """Rows of MaskGIT's codebook."""
    pixel_channels: int = Field(default=256, ge=1)
    """Numbers of such a row."""
    size: int = Field(default=256, ge=1)
    """Height and width of a picture; the positions are learned, so no other size is taken."""
    patch: int = Field(default=16, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.size % self.patch:
            raise ValueError(f"size must be a multiple of patch, got {self.size} and {self.patch}")
        if self.first_generation and self.codebook_size is None:
            raise ValueError("the first generation has a codebook; give codebook_size")
        if self.first_generation and 2 ** (len(self.pixels.multipliers) - 1) != self.patch:
            raise ValueError(f"pixels.multipliers must enlarge by patch, {self.patch}")
        return self

    @property
    def side(self) -> int:
        """Patches along a side."""
        return self.size // self.patch


class Half(nn.Module):
    """What encoder and decoder have in common: class token, patches and tokens, in this order, through the blocks."""

    def __init__(self, numbers: Transformer, config: Config) -> None:
        super().__init__()
        width = numbers.width
        self.class_embedding = nn.Parameter(torch.zeros(1, width))
        self.positional_embedding = nn.Parameter(torch.zeros(config.side**2 + 1, width))
        self.latent_token_positional_embedding = nn.Parameter(torch.zeros(config.tokens, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = nn.Sequential(*(Block(width, numbers.heads) for _ in range(numbers.layers)))
        self.ln_post = nn.LayerNorm(width)

    def mixed(self, patches: Tensor, tokens: Tensor) -> Tensor:
        """(B, P, width) and (B, N, width) -> (B, 1 + P + N, width), before the last normalisation."""
        first = self.class_embedding.expand(len(patches), 1, -1)
        placed = torch.cat([first, patches], dim=1) + self.positional_embedding
        x = torch.cat([placed, tokens + self.latent_token_positional_embedding], dim=1)
        out: Tensor = self.transformer(self.ln_pre(x))
        return out


class Encoder(Half):
    def __init__(self, config: Config) -> None:
        super().__init__(config.encoder, config)
        self.tokens = config.tokens
        self.transposed = not config.first_generation
        width, parts = config.encoder.width, 1 if config.codebook_size else 2
        self.patch_embed = nn.Conv2d(3, width, config.patch, stride=config.patch)
        self.conv_out = nn.Conv2d(width, parts * config.token_channels, 1)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """(B, 3, size, size) and the learned tokens (N, width) -> (B, channels, 1, N)."""
        patches = self.patch_embed(x).flatten(2).mT
        h = self.mixed(patches, tokens.expand(len(x), -1, -1))
        h = self.ln_post(h[:, -self.tokens :])  # (B, N, width)
        # The first generation takes the same numbers for (width, N) as they lie; its weights were trained so.
        h = h.mT if self.transposed else h.reshape(len(h), -1, self.tokens)
        out: Tensor = self.conv_out(h.unsqueeze(2))
        return out


class Decoder(Half):
    """Tokens to pixels, or in the first generation to MaskGIT's logits."""

    def __init__(self, config: Config) -> None:
        super().__init__(config.decoder, config)
        width = config.decoder.width
        self.side, self.patch = config.side, config.patch
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder_embed = nn.Linear(config.token_channels, width)
        self.conv_out: nn.Conv2d | None = None
        if config.first_generation:
            hidden = nn.Conv2d(width, 2 * width, 1)
            self.ffn = nn.Sequential(hidden, nn.Tanh(), nn.Conv2d(2 * width, config.pixel_codes, 1))
        else:
            self.ffn = nn.Sequential(nn.Conv2d(width, 3 * config.patch**2, 1))
            self.conv_out = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """(B, token_channels, 1, N) -> (B, 3, size, size), or (B, pixel_codes, side, side)."""
        tokens = self.decoder_embed(z.squeeze(2).mT)
        h = self.mixed(self.mask_token.expand(len(z), self.side**2, -1), tokens)
        h = self.ln_post(h[:, 1 : self.side**2 + 1]).mT.unflatten(2, (self.side, self.side))
        out: Tensor = self.ffn(h.contiguous())
        return out if self.conv_out is None else self.conv_out(from_patches(out, self.patch))


class PixelLevel(nn.Module):
    """A level of MaskGIT's decoder: blocks, then double the sides on all but level 0."""

    def __init__(self, before: int, after: int, blocks: int, *, last: bool) -> None:
        super().__init__()
        self.block = nn.Sequential(*residual_blocks(before, after, blocks))
        self.upsample_conv = None if last else nn.Conv2d(after, after, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, after, 2 H, 2 W), or the same sides on level 0."""
        h: Tensor = self.block(x)
        if self.upsample_conv is not None:
            h = self.upsample_conv(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        return h


class PixelDecoder(nn.Module):
    """MaskGIT's decoder; `up.0` is the full resolution and runs last."""

    def __init__(self, layout: Widths, channels: int) -> None:
        super().__init__()
        widths = layout.widths
        before = [*widths[1:], widths[-1]]
        self.conv_in = nn.Conv2d(channels, widths[-1], 3, padding=1)
        self.mid = nn.Sequential(*residual_blocks(widths[-1], widths[-1], layout.blocks))
        self.up = nn.ModuleList(
            PixelLevel(before[level], width, layout.blocks, last=level == 0) for level, width in enumerate(widths)
        )
        self.norm_out = norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, 3, f h, f w), unclamped; f is 2 for each level but one."""
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        out: Tensor = self.conv_out(F.silu(self.norm_out(h), inplace=True))
        return out


class Quantizer(nn.Module):
    """Holds a codebook under its published name."""

    def __init__(self, codes: int, channels: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, channels)


class Network(nn.Module):
    """A fixed number of tokens for a picture of the one size that the positions were learned for."""

    changes = "codes"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.posterior: Posterior = config
        self.by_angle = config.first_generation
        self.latent_tokens = nn.Parameter(torch.zeros(config.tokens, config.encoder.width))
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantize = Quantizer(config.codebook_size, config.token_channels) if config.codebook_size else None
        self.pixel_quantize: Quantizer | None = None
        self.pixel_decoder: PixelDecoder | None = None
        if config.first_generation:
            self.pixel_quantize = Quantizer(config.pixel_codes, config.pixel_channels)
            self.pixel_decoder = PixelDecoder(config.pixels, config.pixel_channels)

    def latent(self, x: Tensor) -> Tensor:
        """What the bottleneck is given: (B, 3, size, size) in [0, 1] -> (B, channels, 1, tokens).

        Channels are the token's, or twice as many where it is continuous: mean and log variance.
        """
        out: Tensor = self.encoder(x, self.latent_tokens)
        return out

    def encode(self, x: Tensor) -> Codes:
        """(B, 3, size, size) in [0, 1] -> indices (B, tokens), or latent (B, token_channels, 1, tokens).

        The published encoder draws from a continuous token's Gaussian; here it is the mean unless `sample` is set.
        """
        z = self.latent(x)
        if self.quantize is None:
            mean, log_variance = z.chunk(2, dim=1)
            return Codes(latent=code(mean, log_variance, self.posterior, limits=(-30.0, 20.0)))
        given = self._compared(z, self.quantize)
        return Codes(indices=(best_codes(*given).squeeze(1),), codebook_sizes=(len(given[1]),))

    def candidates(self, x: Tensor, count: int) -> tuple[Tensor, ...]:
        """The codes nearest to each token: (B, tokens, count), nearest first; none where the latent is continuous."""
        if self.quantize is None:
            return ()
        return (best_few(*self._compared(self.latent(x), self.quantize), count).squeeze(1),)

    def _compared(self, z: Tensor, quantize: Quantizer) -> tuple[Tensor, Tensor, Tensor | None]:
        """What is compared, the codebook, and the bias that makes the best row the nearest."""
        table = self._table(quantize)
        if self.by_angle:
            return F.normalize(z.float(), dim=1), table, None
        return z, table, -0.5 * table.float().square().sum(1)

    def decode(self, codes: Codes) -> Tensor:
        """Indices (B, tokens) or latent (B, token_channels, 1, tokens) -> (B, 3, size, size), unclamped."""
        out: Tensor = self.decoder(self.vectors(codes) if codes.latent is None else codes.latent)
        if self.pixel_quantize is None or self.pixel_decoder is None:
            return out
        # The expected row, not the likeliest one.
        rows = torch.einsum("bkhw,kc->bchw", out.softmax(1), self.pixel_quantize.embedding.weight)
        pixels: Tensor = self.pixel_decoder(rows.contiguous())
        return pixels

    def vectors(self, codes: Codes) -> Tensor:
        """The rows of the indices: (B, tokens) -> (B, token_channels, 1, tokens)."""
        if self.quantize is None:
            return latent_of(codes, "a continuous TiTok")
        rows = F.embedding(codes.indices[0], self._table(self.quantize)).mT.unsqueeze(2)
        return rows.to(self.quantize.embedding.weight)

    def _table(self, quantize: Quantizer) -> Tensor:
        """Return the codebook as tokens are compared with it and decoded: of unit rows in the first generation."""
        weight = quantize.embedding.weight
        return F.normalize(weight.float(), dim=1) if self.by_angle else weight
