"""Slot-MLLM: slots that compete for a picture's patches, coded by residual quantisation; up to its diffusion decoder.

Source: asdfasdf127/Slot-MLLM, inference_tokenizer.py, models/slot_qformer/ (qformer_causual.py, vit.py)
Commit: b1cb5596b98e1098d3ed6a669c80238ce6f7c642
Licence: MIT

Its frozen vision transformer is DINOv2's (facebookresearch/dinov2, dinov2/models/vision_transformer.py, Apache-2.0).
"""

from __future__ import annotations

import re
from typing import Never

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from vtbench.errors import DataError
from vtbench.networks._taming import best_codes
from vtbench.types import Codes, Strict

PATCH = 14
SLACK = 0.1
"""Added to the side to which DINOv2's table of positions is resized; it stays in the scale of the sampling grid."""
ITERATIONS = 3
"""How often the slots of a layer compete for the patches."""
PROMPT = 1024
"""Channels of what the diffusion model is given."""


class Config(Strict):
    """The published numbers, and what a smaller network for tests needs to change."""

    vision_width: int = Field(default=1024, ge=1)
    vision_blocks: int = Field(default=24, ge=1)
    vision_heads: int = Field(default=16, ge=1)
    grid: int = Field(default=37, ge=1)
    """Side of DINOv2's table of positions, in patches."""
    bridge: int = Field(default=1408, ge=1)
    """Channels of a patch as the slots see it."""
    slots: int = Field(default=32, ge=1)
    width: int = Field(default=768, ge=1)
    layers: int = Field(default=12, ge=1)
    heads: int = Field(default=12, ge=1)
    depth: int = Field(default=4, ge=1)
    """Indices of a slot."""
    codebook_size: int = Field(default=8192, ge=2)
    code_channels: int = Field(default=32, ge=1)
    mixers: int = Field(default=4, ge=1)
    """Blocks of each of the two transformers behind the quantizer."""
    mixer_heads: int = Field(default=16, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.vision_width % self.vision_heads or self.width % self.heads or self.width % self.mixer_heads:
            raise ValueError("heads must divide their width")
        return self


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # each (B, heads, N, head)
        out: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out


class MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """A transformer block; DINOv2's scale each branch by channel."""

    def __init__(self, width: int, heads: int, *, scaled: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.ls1 = Scale(width) if scaled else nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width)
        self.ls2 = Scale(width) if scaled else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        out: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return out


class Patches(nn.Module):
    """The layer that turns patches into vectors, under its published name."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, stride=PATCH)


class Vision(nn.Module):
    """DINOv2: (B, 3, H, W) -> its normalised patches, (B, h w, vision_width)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.grid = config.grid
        self.patch_embed = Patches(config.vision_width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.vision_width))
        self.pos_embed = nn.Parameter(torch.zeros(1, config.grid**2 + 1, config.vision_width))
        blocks = (Block(config.vision_width, config.vision_heads, scaled=True) for _ in range(config.vision_blocks))
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(config.vision_width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch_embed.proj(x)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), patches.flatten(2).mT], dim=1)
        tokens = self.blocks(tokens + self._positions(patches.shape[2], patches.shape[3]))
        out: Tensor = self.norm(tokens)[:, 1:]
        return out

    def _positions(self, height: int, width: int) -> Tensor:
        if height == width == self.grid:
            return self.pos_embed
        table = self.pos_embed[:, 1:].mT.reshape(1, -1, self.grid, self.grid).float()
        scale = ((height + SLACK) / self.grid, (width + SLACK) / self.grid)
        resized = F.interpolate(table, scale_factor=scale, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], resized.flatten(2).mT.to(self.pos_embed.dtype)], dim=1)


class Output(nn.Module):
    """BERT's end of a branch: a layer, then the sum with the branch's input is normalised."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.dense = nn.Linear(before, after)
        self.LayerNorm = nn.LayerNorm(after, eps=1e-12)

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        out: Tensor = self.LayerNorm(self.dense(h) + x)
        return out


class QueryKeyValue(nn.Module):
    def __init__(self, width: int, source: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(source, width)
        self.value = nn.Linear(source, width)

    def split(self, x: Tensor) -> Tensor:
        """(B, N, width) -> (B, heads, N, head)."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class CausalAttention(QueryKeyValue):
    """Every slot attends to itself and those before it."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.split(part(x)) for part in (self.query, self.key, self.value))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)


class SlotAttention(QueryKeyValue):
    """The slots of all heads compete for every patch, and take what they win into a recurrent state."""

    def __init__(self, width: int, source: int, heads: int) -> None:
        super().__init__(width, source, heads)
        self.gru = nn.GRUCell(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.norm_slots = nn.LayerNorm(width)
        self.norm_mlp = nn.LayerNorm(width)

    def forward(self, slots: Tensor, patches: Tensor) -> Tensor:
        """(B, S, width) and (B, N, source) -> (B, S, width)."""
        keys = self.split(self.key(patches)) * slots.shape[1] ** -0.5  # by the slots' number, not by the head's width
        values = self.split(self.value(patches))
        for _ in range(ITERATIONS):
            queries = self.split(self.query(self.norm_slots(slots)))
            scores = queries @ keys.mT  # (B, heads, S, N)
            won = scores.flatten(1, 2).softmax(1).view(scores.shape) + 1e-6
            taken = won / won.sum(-1, keepdim=True) @ values
            updated = self.gru(taken.transpose(1, 2).flatten(2).flatten(0, 1), slots.flatten(0, 1)).view(slots.shape)
            slots = updated + self.mlp(self.norm_mlp(updated))
        return slots


class Attended(nn.Module):
    """Attention and BERT's end of its branch, under their published names."""

    def __init__(self, attention: QueryKeyValue, width: int) -> None:
        super().__init__()
        self.add_module("self", attention)
        self.output = Output(width, width)

    def forward(self, x: Tensor, *source: Tensor) -> Tensor:
        out: Tensor = self.output(self.get_submodule("self")(x, *source), x)
        return out


class Intermediate(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.dense(x))


class Layer(nn.Module):
    """A layer of the Q-Former: the slots among themselves, then (in every other layer) with the patches."""

    def __init__(self, config: Config, *, looks: bool) -> None:
        super().__init__()
        width = config.width
        self.looks = looks
        self.attention = Attended(CausalAttention(width, width, config.heads), width)
        if looks:
            self.crossattention = Attended(SlotAttention(width, config.bridge, config.heads), width)
        self.intermediate_query = Intermediate(width)
        self.output_query = Output(4 * width, width)

    def forward(self, slots: Tensor, patches: Tensor) -> Tensor:
        slots = self.attention(slots)
        if self.looks:
            slots = self.crossattention(slots, patches)
        out: Tensor = self.output_query(self.intermediate_query(slots), slots)
        return out


class QFormer(nn.Module):
    """Learned queries that become slots: patches (B, N, bridge) -> (B, slots, width)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.query_tokens = nn.Parameter(torch.zeros(1, config.slots, config.width))
        self.norm = nn.LayerNorm(config.width, eps=1e-12)
        self.layer = nn.ModuleList(Layer(config, looks=index % 2 == 0) for index in range(config.layers))

    def forward(self, patches: Tensor) -> Tensor:
        slots: Tensor = self.norm(self.query_tokens).expand(len(patches), -1, -1)
        for layer in self.layer:
            slots = layer(slots, patches)
        return slots


class Quantizer(nn.Module):
    """Residual quantisation: each index is of what the ones before left over; all depths share one codebook."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.depth = config.depth
        self.project_in = nn.Linear(config.width, config.code_channels)
        self.project_out = nn.Linear(config.code_channels, config.width)
        self.embed = nn.Parameter(torch.zeros(1, config.codebook_size, config.code_channels))

    def indices(self, slots: Tensor) -> Tensor:
        """(B, slots, width) -> int64 (B, slots, depth)."""
        table = self.embed[0].float()
        bias = -table.square().sum(1) / 2  # the largest z.e - |e|^2 / 2 is the nearest row
        residual = self.project_in(slots).float()
        found = []
        for _ in range(self.depth):
            found.append(best_codes(residual.mT.unsqueeze(2), table, bias)[:, 0])
            residual = residual - F.embedding(found[-1].clamp_min(0), table)
        return torch.stack(found, dim=-1)

    def vectors(self, indices: Tensor) -> Tensor:
        """What the indices stand for: (B, slots, depth) -> (B, slots, width)."""
        out: Tensor = self.project_out(F.embedding(indices, self.embed[0]).sum(2))
        return out


class Mixer(nn.Module):
    """A plain transformer over the slots, with positions of its own."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, config.slots, config.width))
        self.blocks = nn.Sequential(
            *(Block(config.width, config.mixer_heads, scaled=False) for _ in range(config.mixers))
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.blocks(x + self.pos_embed)
        return out


class Network(nn.Module):
    """A few slots a picture, each of a few indices."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, vision = config.width, config.vision_width
        self.codes = config.codebook_size
        self.vision = Vision(config)
        self.visual_embedding_layernorm = nn.LayerNorm(vision)
        self.visual_embedding_encoder = nn.Sequential(
            nn.Linear(vision, vision), nn.ReLU(), nn.Linear(vision, config.bridge)
        )
        self.qformer = QFormer(config)
        self.quantize = Quantizer(config)
        self.mixer = Mixer(config)
        self.mixer_image = Mixer(config)
        self.out_layer_norm = nn.LayerNorm(width)
        self.out_linear_1024 = nn.Linear(width, PROMPT)
        narrowing = (
            nn.Linear(width, 256, bias=False),
            nn.ReLU(),
            nn.Linear(256, 128, bias=False),
            nn.ReLU(),
            nn.Linear(128, 32, bias=False),
        )
        self.image_down = nn.Sequential(*narrowing)
        self.distill_image_proj = nn.Linear(32 * config.slots, PROMPT, bias=False)

    def latent(self, x: Tensor) -> Tensor:
        """The slots before quantisation: (B, 3, H, W) as `encode` takes it -> (B, slots, width)."""
        patches = self.visual_embedding_encoder(self.visual_embedding_layernorm(self.vision(x)))
        out: Tensor = self.qformer(patches)
        return out

    def encode(self, x: Tensor) -> Codes:
        """(B, 3, H, W), normalised by ImageNet's mean and deviation -> indices (B, slots, depth)."""
        return Codes(indices=(self.quantize.indices(self.latent(x)),), codebook_sizes=(self.codes,))

    def conditions(self, codes: Codes) -> tuple[Tensor, Tensor]:
        """What the diffusion model is given: a prompt (B, slots, 1024) and the embedding of a picture (B, 1024)."""
        slots = self.mixer_image(self.mixer(self.quantize.vectors(codes.indices[0])))
        prompt: Tensor = self.out_linear_1024(self.out_layer_norm(slots))
        picture: Tensor = self.distill_image_proj(self.image_down(slots).flatten(1))
        return prompt, picture

    def decode(self, codes: Codes) -> Never:
        """Refuse.

        Raises:
            DataError: always; `conditions` goes as far as this network does.
        """
        raise DataError(
            "Slot-MLLM draws its pixels with its own Stable Diffusion 2.1 unCLIP, which is not part of this suite; "
            "choose a task that needs no pixels back"
        )

    @staticmethod
    def published_name(own: str) -> str:
        """Name a tensor as the published inference class does."""
        model = "image_tokenizer.model."
        rules = (
            (r"^vision\.", "backbone.dinov2."),
            (r"^qformer\.query_tokens$", f"{model}query_tokens"),
            (r"^qformer\.norm\.", f"{model}Qformer.bert.embeddings.LayerNorm."),
            (r"^qformer\.", f"{model}Qformer.bert.encoder."),
            (r"^quantize\.embed$", "quantize.layers.0._codebook.embed"),
            (r"^mixer\.", ""),
            (r"^mixer_image\.(pos_embed|blocks)", r"\1_image"),
        )
        for rule, instead in rules:
            if re.search(rule, own):
                return re.sub(rule, instead, own)
        return own
