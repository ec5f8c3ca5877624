"""VFM-VAE: a continuous latent of a frozen SigLIP2's features, decoded by convolutions that one style vector modulates.

Source: tianciB/VFM-VAE, networks/generator.py, networks/utils/ (siglip2, ldm, kl, convnext, gigagan, shared)
Commit: b3a752a3f73a292f8f59a5f178e5de69575db6c4
Licence: NVIDIA non-commercial (as StyleGAN-T); parts MIT and BSD-2-Clause
"""

from __future__ import annotations

import math
import re
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from vtbench.errors import CardError
from vtbench.networks._gaussian import Posterior, code, latent_of
from vtbench.types import Codes, Strict

LAYERS_A_STEP = (3, 3, 3, 3, 2, 2)
"""ConvNeXt layers of each block for one step of depth, from the coarsest block on."""
KERNELS = (5, 5, 7, 7, 7, 7)
BLUR_TAPS = (3, 3, 3, 5, 5, 5)
NOISE_SIDES = (8, 16, 32, 64, 128, 256)
"""Sides of the blocks' output for a picture of 256x256, at which the noise maps are stored."""
LATENT_BLOCK = 2
"""The block whose input has the sides of the latent; each block doubles them."""
ATTENTION_BLOCKS = 3
"""So many blocks, from the coarsest on, end with two self-attention blocks of HEADS heads."""
HEADS = 8
WIDEN = 16
"""The decoder is given so many channels for one of the latent."""


class Vision(Strict):
    """The shape of the frozen SigLIP2 model; the published one is google/siglip2-large-patch16-512."""

    width: int = Field(default=1024, ge=1)
    hidden: int = Field(default=4096, ge=1)
    """Width of the layer between the two matrices of an MLP."""
    layers: int = Field(default=24, ge=1)
    heads: int = Field(default=16, ge=1)
    image_size: int = Field(default=512, multiple_of=16)
    """Side of the pictures that the table of positions was trained for."""


class Config(Posterior):
    """The published layout; only the number of latent channels has no default."""

    latent_channels: int = Field(ge=1)
    vision: Vision = Vision()
    features: Annotated[tuple[int, ...], Field(strict=False, min_length=1)] = (0, 12, -1)
    """Feature maps that are coded: 0 is the input of the first layer, n the output of the n-th, and -1 that of the last
    after the final normalisation."""
    feature_channels: int = Field(default=64, ge=1)
    """Channels that each feature map is reduced to before four positions become one."""
    style_channels: int = Field(default=512, ge=1)
    widths: Annotated[tuple[int, ...], Field(strict=False, min_length=6, max_length=6)] = (512, 512, 512, 512, 256, 128)
    """Channels of the decoder's six blocks, from the coarsest on; each block doubles the sides."""
    side_widths: Annotated[tuple[int, ...], Field(strict=False, min_length=1, max_length=6)] = (512, 256, 128, 128)
    """Channels of the decompressed latent that are given to the first blocks beside what the block before hands on."""
    depth: int = Field(default=2, ge=1)
    """How often the layers of a block (LAYERS_A_STEP) are repeated."""

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if not all(-1 <= feature <= self.vision.layers for feature in self.features):
            raise ValueError(f"features must be -1 or at most the number of layers, {self.vision.layers}")
        return self


def siglip(shape: Vision) -> nn.Module:
    """Build SigLIP2's vision model without its pooling head; every parameter is zero until weights are loaded.

    Raises:
        CardError: if transformers is not installed.
    """
    try:
        from transformers import SiglipVisionConfig, SiglipVisionModel
    except ImportError as error:
        raise CardError(
            f"VFM-VAE holds a SigLIP2 model and needs the package transformers ({error}); "
            "run `pip install 'vtbench[vfm]'`"
        ) from error
    config = SiglipVisionConfig(
        hidden_size=shape.width,
        intermediate_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        image_size=shape.image_size,
        patch_size=16,
        vision_use_head=False,
    )
    # The library's own initialisation of 304 M values takes half a minute on one core, and all of them are loaded.
    with torch.device("meta"):
        model: nn.Module = SiglipVisionModel(config)
    model = model.to_empty(device="cpu").requires_grad_(False)
    for parameter in model.parameters():
        parameter.zero_()
    for name, buffer in model.named_buffers():
        if name.endswith("position_ids"):
            buffer.copy_(torch.arange(buffer.numel(), device=buffer.device).view_as(buffer))
    return model


def tokens(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h w, C)."""
    return x.flatten(2).transpose(1, 2)


def grid(x: Tensor, height: int, width: int) -> Tensor:
    """(B, h w, C) -> (B, C, h, w)."""
    return x.transpose(1, 2).reshape(len(x), -1, height, width)


# --- between features and latent --------------------------------------------------------------------------------------


class ProjectionAttention(nn.Module):
    """Self-attention that changes the width: heads as wide as the narrower side, averaged or concatenated."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        wide, self.head = max(before, after), min(before, after)
        self.narrows = before > after
        self.qkv = nn.Linear(before, 3 * wide, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(wide))
        self.v_bias = nn.Parameter(torch.zeros(wide))
        self.register_buffer("zero_k_bias", torch.zeros(wide, device="cpu"), persistent=False)
        self.zero_k_bias: Tensor
        self.proj = nn.Linear(after, after)

    def forward(self, x: Tensor) -> Tensor:  # (B, N, before) -> (B, N, after)
        bias = torch.cat((self.q_bias, self.zero_k_bias, self.v_bias))
        qkv = F.linear(x, self.qkv.weight, bias).view(*x.shape[:2], 3, -1, self.head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, N, head)
        h = F.scaled_dot_product_attention(q, k, v)
        h = h.mean(1) if self.narrows else h.transpose(1, 2).flatten(2)
        out: Tensor = self.proj(h)
        return out


class GatedMLP(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)  # a second one: the block has normalised already
        self.w0 = nn.Linear(channels, 2 * channels)
        self.w1 = nn.Linear(channels, 2 * channels)
        self.w2 = nn.Linear(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        out: Tensor = self.w2(F.gelu(self.w0(x), approximate="tanh") * self.w1(x))
        return out


class ProjectionBlock(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(before)
        self.attn = ProjectionAttention(before, after)
        self.norm3 = nn.LayerNorm(before)
        self.proj = nn.Linear(before, after)
        self.norm2 = nn.LayerNorm(after)
        self.mlp = GatedMLP(after)

    def forward(self, x: Tensor) -> Tensor:  # (B, N, before) -> (B, N, after)
        x = self.proj(self.norm3(x)) + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Projection(nn.Module):
    """Holds its one block under its published name."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(ProjectionBlock(before, after))

    def forward(self, x: Tensor) -> Tensor:  # (B, N, before) -> (B, N, after)
        out: Tensor = self.blocks(x)
        return out


class Adapter(nn.Module):
    """From feature maps to the posterior, and from the latent to the decoder's input; it knows no positions."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.patch_quants = nn.ModuleList(
            nn.Sequential(Projection(config.vision.width, config.feature_channels)) for _ in config.features
        )
        self.final_quant = Projection(4 * config.feature_channels * len(config.features), 2 * config.latent_channels)
        self.post_quant = Projection(config.latent_channels, WIDEN * config.latent_channels)

    def posterior(self, features: list[Tensor], height: int, width: int) -> Tensor:
        """Feature maps (B, height width, C) -> mean and log variance (B, 2 latent_channels, height / 2, width / 2)."""
        pairs = zip(self.patch_quants, features, strict=True)
        reduced = [F.pixel_unshuffle(grid(project(feature), height, width), 2) for project, feature in pairs]
        return grid(self.final_quant(tokens(torch.cat(reduced, dim=1))), height // 2, width // 2)

    def decompress(self, z: Tensor) -> Tensor:
        """(B, latent_channels, h, w) -> (B, 16 latent_channels, h, w)."""
        return grid(self.post_quant(tokens(z)), z.shape[2], z.shape[3])


# --- the decoder's parts ----------------------------------------------------------------------------------------------


class ScaledLinear(nn.Module):
    """A linear layer whose stored weight is divided by the root of its inputs at every call; `gain` scales it too."""

    def __init__(self, before: int, after: int, gain: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(after, before) / gain)
        self.bias = nn.Parameter(torch.zeros(after))
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * (self.gain / math.sqrt(self.weight.shape[1])), self.bias * self.gain)


class Mapping(nn.Module):
    """The style vector: what the whole decompressed latent says on average, through a small MLP."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.mlp = nn.ModuleDict({"fc0": ScaledLinear(before, before, 0.01), "fc1": ScaledLinear(before, after, 0.01)})

    def forward(self, x: Tensor) -> Tensor:  # (B, before, h, w) -> (B, after)
        x = x.mean((2, 3))
        x = x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        out: Tensor = self.mlp["fc1"](F.leaky_relu(self.mlp["fc0"](x), 0.2))
        return out


class Style(nn.Module):
    """A factor for every channel out of the style vector: a * b + c of three equal parts."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.proj = ScaledLinear(before, 3 * after)

    def forward(self, w: Tensor) -> Tensor:  # (B, before) -> (B, after)
        a, b, c = self.proj(w).chunk(3, dim=1)
        out: Tensor = a * b + c
        return out


def norm(channels: int) -> nn.GroupNorm:
    """The decoder's normalisation, of at least four channels a group."""
    return nn.GroupNorm(min(32, channels // 4), channels)


def depthwise(channels: int, kernel: int, *, bias: bool) -> nn.Conv2d:
    """A convolution of each channel by itself that keeps the sides."""
    return nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=bias)


def pointwise(before: int, after: int, *, bias: bool) -> nn.Conv2d:
    """A 1x1 convolution."""
    return nn.Conv2d(before, after, 1, bias=bias)


class Upsample(nn.Module):
    """Doubles the sides and blurs with a fixed binomial kernel, so that the four interleaved pictures join."""

    def __init__(self, before: int, after: int, taps: int, *, norm_last: bool = False) -> None:
        super().__init__()
        self.norm_last = norm_last
        self.norm = norm(after if norm_last else before)
        self.depthwise = depthwise(before, 3, bias=False)
        self.pointwise = pointwise(before, 4 * after, bias=False)
        row = torch.tensor([float(math.comb(taps - 1, index)) for index in range(taps)], device="cpu")
        kernel = torch.outer(row, row) / row.sum().square()
        self.register_buffer("blur_weight", kernel.repeat(after, 1, 1, 1), persistent=False)
        self.blur_weight: Tensor

    def forward(self, x: Tensor) -> Tensor:  # (B, before, h, w) -> (B, after, 2 h, 2 w)
        if not self.norm_last:
            x = self.norm(x)
        x = F.pixel_shuffle(self.pointwise(self.depthwise(x)), 2)
        if self.norm_last:
            x = self.norm(x)
        border = self.blur_weight.shape[-1] // 2
        return F.conv2d(F.pad(x, (border,) * 4, mode="replicate"), self.blur_weight, groups=x.shape[1])


class ModulatedConv(nn.Module):
    """A 1x1 convolution whose weight is scaled by the style per input and then to length 1 per output."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(after, before, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, after, 1, 1))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:  # (B, before, h, w), (B, before) -> (B, after, h, w)
        # Scaling inputs and outputs says the same as a weight for every picture, and costs a batch no memory.
        wide = torch.promote_types(x.dtype, torch.float32)  # squares leave the range of float16
        length = F.linear(style.to(wide).square(), self.weight.flatten(1).to(wide).square())  # (B, after), squared
        demodulation = (length + 1e-8).rsqrt().to(x.dtype)
        return F.conv2d(x * style[..., None, None], self.weight) * demodulation[..., None, None] + self.bias


class StyledLayer(nn.Module):
    """A ConvNeXt layer with a style, and with the fixed noise that the published checkpoint was trained with."""

    def __init__(self, channels: int, style_channels: int, kernel: int, noise_side: int) -> None:
        super().__init__()
        self.affine_pw1 = Style(style_channels, channels)
        self.dwconv = depthwise(channels, kernel, bias=True)
        self.register_buffer("noise_const", torch.zeros(noise_side, noise_side))
        self.noise_const: Tensor
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.norm = norm(channels)
        self.pwconv1 = ModulatedConv(channels, 4 * channels)
        self.pwconv2 = pointwise(4 * channels, channels, bias=True)
        self.gamma = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:  # (B, C, h, w), (B, style_channels) -> (B, C, h, w)
        noise = (self.noise_const * self.noise_strength)[None, None]
        noise = F.interpolate(noise, size=x.shape[2:], mode="bilinear", align_corners=False)
        h = self.norm(self.dwconv(x) + noise)
        h = self.pwconv2(F.gelu(self.pwconv1(h, self.affine_pw1(w))))
        out: Tensor = self.gamma * h + x
        return out


class ChannelNorm(nn.Module):
    """Every pixel's channels to a root mean square of gamma."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) * (math.sqrt(x.shape[1]) * self.gamma)


class SelfAttention(nn.Module):
    """Attention over all pixels and one learned pair of key and value."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.to_q = pointwise(channels, channels, bias=False)
        self.to_k = pointwise(channels, channels, bias=False)
        self.to_v = pointwise(channels, channels, bias=False)
        self.null_kv = nn.Parameter(torch.zeros(2, HEADS, channels // HEADS))
        self.to_out = pointwise(channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, h, w) -> (B, C, h, w)
        h = self.norm(x)
        parts = (part(h).unflatten(1, (HEADS, -1)).flatten(3).mT for part in (self.to_q, self.to_k, self.to_v))
        q, k, v = parts  # (B, heads, h w, C / heads)
        null_k, null_v = self.null_kv[:, None, :, None].expand(2, len(x), HEADS, 1, -1)
        h = F.scaled_dot_product_attention(q, torch.cat((null_k, k), dim=2), torch.cat((null_v, v), dim=2))
        out: Tensor = self.to_out(h.mT.reshape(x.shape))
        return out


class AttentionBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attn = SelfAttention(channels)
        self.ff = nn.Sequential(
            ChannelNorm(channels),
            pointwise(channels, 4 * channels, bias=True),
            nn.GELU(),
            pointwise(4 * channels, channels, bias=True),
        )

    def forward(self, x: Tensor) -> Tensor:  # (B, C, h, w) -> (B, C, h, w)
        x = x + self.attn(x)
        out: Tensor = x + self.ff(x)
        return out


class ToRGB(nn.Module):
    def __init__(self, channels: int, style_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.affine = Style(style_channels, channels)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:  # (B, C, h, w), (B, style_channels) -> (B, 3, h, w)
        style = self.affine(w) / math.sqrt(x.shape[1])
        return F.conv2d(x * style[..., None, None], self.weight) + self.bias


class Side(nn.Sequential):
    """The decompressed latent at the sides of a block's input."""

    def __init__(self, before: int, after: int, block: int) -> None:
        shrink, grow = 2 ** max(0, LATENT_BLOCK - block), 2 ** max(0, block - LATENT_BLOCK)
        before, middle = before * shrink**2, after * grow**2
        super().__init__(
            *([nn.PixelUnshuffle(shrink)] if shrink > 1 else []),
            nn.Sequential(
                depthwise(before, 3, bias=False),
                pointwise(before, middle, bias=False),
                nn.GroupNorm(min(32, middle), middle),
                nn.LeakyReLU(0.2),
            ),
            *([nn.PixelShuffle(grow)] if grow > 1 else []),
            nn.Sequential(pointwise(after, after, bias=False), nn.GroupNorm(min(32, after), after)),
        )


class Block(nn.Module):
    """Doubles the sides; hands on its map and the sum of all maps so far."""

    def __init__(self, config: Config, index: int) -> None:
        super().__init__()
        width = config.widths[index]
        before = config.widths[index - 1] if index else 0
        side = config.side_widths[index] if index < len(config.side_widths) else 0
        taps = BLUR_TAPS[index]
        # The names are the checkpoint's, misspelling included.
        self.seperate_upsample_conv = Upsample(before + side, width, taps, norm_last=index == 0)
        layers = [
            StyledLayer(width, config.style_channels, KERNELS[index], NOISE_SIDES[index])
            for _ in range(1 + config.depth * LAYERS_A_STEP[index])
        ]
        self.conv0 = layers[0]
        self.convs1 = nn.ModuleList(layers[1:])
        self.self_attns = nn.ModuleList(AttentionBlock(width) for _ in range(2 if index < ATTENTION_BLOCKS else 0))
        if index:
            self.last_upsample_conv = Upsample(before, width, taps)
        if index == len(config.widths) - 1:  # the blocks before have one too, which helped in training alone
            self.torgb = ToRGB(width, config.style_channels)

    def forward(self, x: Tensor, total: Tensor | None, w: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv0(self.seperate_upsample_conv(x), w)
        for layer in self.convs1:
            x = layer(x, w)
        for attention in self.self_attns:
            x = attention(x)
        return x, x if total is None else self.last_upsample_conv(total) + x


class Synthesis(nn.Module):
    """The decoder proper: six blocks, from 1/64 of the picture's sides to the whole."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        channels = WIDEN * config.latent_channels
        self.z_convs = nn.ModuleList(Side(channels, width, block) for block, width in enumerate(config.side_widths))
        self.blocks = nn.ModuleList(Block(config, index) for index in range(len(config.widths)))

    def forward(self, z: Tensor, w: Tensor) -> Tensor:  # (B, C, h, w), (B, style_channels) -> (B, 3, 16 h, 16 w)
        x, total = z.new_empty(0), None
        for index, block in enumerate(self.blocks):
            if index < len(self.z_convs):
                side = self.z_convs[index](z)
                x = torch.cat((x, side), dim=1) if index else side
            x, total = block(x, total, w)
        out: Tensor = self.blocks[-1].get_submodule("torgb")(total, w)
        return out


class Network(nn.Module):
    """A vector for every 16x16 pixels; sides are multiples of 64.

    The published code decodes squares alone and was trained at 256x256. At other sizes the vision model's positions are
    resized (bicubic) and so is the noise (bilinear).
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.posterior: Posterior = config
        self.features = config.features
        self.vision = siglip(config.vision)
        self.ldm_adapter = Adapter(config)
        self.mapping = Mapping(WIDEN * config.latent_channels, config.style_channels)
        self.synthesis = Synthesis(config)

    @staticmethod
    def published_name(own: str) -> str:
        """The name of a tensor in the published checkpoint.

        Releases of transformers nest the vision model once or twice; the checkpoint comes from one that did so twice.
        """
        return re.sub(r"^vision\.(vision_model\.)?", "vfm_encoder.encoder.vision_model.vision_model.", own)

    def latent(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> mean and log variance, (B, 2 latent_channels, h, w)."""
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        found = self.vision((x - 0.5) / 0.5, interpolate_pos_encoding=True, output_hidden_states=True)
        features = [found.last_hidden_state if at < 0 else found.hidden_states[at] for at in self.features]
        return self.ldm_adapter.posterior(features, x.shape[2] // 16, x.shape[3] // 16)

    def encode(self, x: Tensor) -> Codes:
        """(B, 3, H, W) in [0, 1] -> latent (B, latent_channels, H / 16, W / 16): the posterior's mean, or a draw.

        The published evaluation draws without a seed, and runs the vision model in bfloat16; here it has the precision
        that was asked for.
        """
        mean, log_variance = self.latent(x).chunk(2, dim=1)
        return Codes(latent=code(mean, log_variance, self.posterior, limits=(-30.0, 20.0)))

    def decode(self, codes: Codes) -> Tensor:
        """Latent (B, latent_channels, h, w) -> (B, 3, 16 h, 16 w) in [-1, 1], unclamped.

        Raises:
            DataError: if the codes hold no latent.
        """
        z = self.ldm_adapter.decompress(latent_of(codes, "VFM-VAE"))
        out: Tensor = self.synthesis(z, self.mapping(z))
        return out
