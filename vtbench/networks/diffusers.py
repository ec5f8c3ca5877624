"""Autoencoders that the diffusers library has: SD-VAE, SDXL, FLUX, DC-AE, Wan and others; this file only calls them.

Source: huggingface/diffusers, src/diffusers/models/autoencoders/
Commit: v0.42.1 (the release that the tests compare with)
Licence: Apache-2.0

What a diffusion model does to a latent (scaling, shift, channel statistics) is no part of a reconstruction and is left
out. What a class does itself in `encode` and `decode` is kept. `card_for` describes an autoencoder that has no card.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator
from torch import Tensor, nn

from vtbench import files, weights
from vtbench.cards import Code, Input, Output, TokenizerCard, WeightsSource
from vtbench.errors import CardError, WeightsError
from vtbench.networks._candidates import best_few
from vtbench.networks._diffusers import FACTS, ClassName, Values, build, complete, library_class
from vtbench.networks._finite import numbered
from vtbench.networks._gaussian import Posterior, code, latent_of
from vtbench.types import Codes


class Config(Posterior):
    """Which class, and its configuration: written into the card, or read where the weights are published."""

    class_name: ClassName = Field(alias="class")
    values: dict[str, Any] = Field(default_factory=dict)
    """Entries of the class's configuration that differ from its defaults."""
    pretrained: str | None = None
    """OWNER/NAME or OWNER/NAME/SUBFOLDER on the hub, or a folder, whose config.json has the configuration; read from
    the cache, else from the hub, when the network is built."""

    @model_validator(mode="after")
    def _once(self) -> Config:
        if self.values and self.pretrained:
            raise ValueError("values and pretrained both give the configuration; leave one of them out")
        if self.sample and not FACTS[self.class_name].sampled:
            raise ValueError(f"sample is for classes with a posterior and {self.class_name} has none; leave it out")
        return self


class Network(nn.Module):
    """One autoencoder of the library, for still pictures; a video autoencoder is shown one frame."""

    config_digest: str | None = None
    """sha256 of the published configuration that was read; None where the card has it all."""

    def __init__(self, config: Config) -> None:
        """Build the class; its tensors have arbitrary values.

        Raises:
            CardError: if the library is missing or has no such class, or the configuration is not the class's.
        """
        super().__init__()
        values: Values = config.values
        if config.pretrained:
            _, values, self.config_digest = _configuration(config.pretrained, config.class_name)
        if config.class_name == "VQModel":
            values = {**values, "lookup_from_codebook": True}  # its `decode` takes indices then
        facts, entries = FACTS[config.class_name], complete(config.class_name, values)
        self.posterior: Posterior = config
        self.class_name = config.class_name
        self.codes = facts.codes(entries)
        self.changes = "codes" if config.class_name == "VQModel" else "digits"
        self.frames = facts.frames(entries) if facts.frames else None
        self.output_size = facts.side(entries) if facts.side else None
        """Side of the square pictures that `decode` gives, whatever was encoded; None where it is the input's."""
        self.model: Any = build(config.class_name, values)
        if self.codes is not None and config.sample:
            raise CardError("sample is for continuous latents and this class quantises; leave it out")

    def encode(self, x: Tensor) -> Codes:
        """(B, 3, H, W) in the card's range -> latent (B, channels, h, w), or indices (B, h, w) of a discrete class.

        The latent is the posterior's mean, or a draw if so configured, in the memory layout in which the library gives
        it: its decoder's last bits depend on that. AutoencoderRAE first resizes the picture to what its frozen encoder
        takes, by its own rule.
        """
        if self.frames is not None:
            x = x.unsqueeze(2).expand(-1, -1, self.frames, -1, -1).contiguous()
        encoded = self.model.encode(x)
        if self.codes is not None:
            return Codes(indices=(self._indices(encoded),), codebook_sizes=(self.codes,))
        if hasattr(encoded, "latent_dist"):
            said = encoded.latent_dist
            z = self._still(said.mode())
            if self.posterior.sample:
                z = code(z, self._still(said.logvar), self.posterior, limits=None)  # the library has clamped it
            return Codes(latent=z)
        return Codes(latent=encoded.latents if hasattr(encoded, "latents") else encoded.latent)

    def decode(self, codes: Codes) -> Tensor:
        """Latent or indices -> (B, 3, H, W) in the card's range, unclamped where the class does not clamp itself.

        Raises:
            DataError: if a continuous class is given codes without a latent.
        """
        if self.class_name == "VQModel" and codes.latent is None:
            indices = codes.indices[0]
            # The class's forward pass decodes z + (row - z) instead of the codebook's row, equal but for float32 noise.
            shape = (*indices.shape, self.model.quantize.vq_embed_dim)
            decoded = self.model.decode(indices.flatten(), force_not_quantize=True, shape=shape)
        elif self.class_name == "VQModel":  # what its `decode` does with the rows; it takes none itself
            z = latent_of(codes, self.class_name)
            modulated = self.model.config.norm_type == "spatial"
            decoded = self.model.decoder(self.model.post_quant_conv(z), z if modulated else None)
        else:
            z = self.vectors(codes) if codes.indices else latent_of(codes, self.class_name)
            decoded = self.model.decode(z if self.frames is None else z.unsqueeze(2))
        return self._still(decoded if isinstance(decoded, Tensor) else decoded.sample)

    def vectors(self, codes: Codes) -> Tensor:
        """What the indices of a discrete class stand for: (B, h, w) -> (B, channels, h, w)."""
        (indices,) = codes.indices
        if self.class_name == "VQModel":
            shape = (*indices.shape, self.model.quantize.vq_embed_dim)
            rows: Tensor = self.model.quantize.get_codebook_entry(indices.flatten(), shape)
            return rows
        return self._still(self.model.indices_to_latent(indices.unsqueeze(1)).to(self.model.dtype))

    def candidates(self, x: Tensor, count: int) -> tuple[Tensor, ...]:
        """The nearest codes of VQModel, (B, h, w, count), nearest first; VidTok's digits are not looked into."""
        if self.class_name != "VQModel":
            return ()
        table = self.model.quantize.embedding.weight
        return (best_few(self.model.encode(x).latents, table, -table.float().square().sum(1) / 2, count),)

    def _still(self, x: Tensor) -> Tensor:
        """The one frame (B, C, H, W) of a video class's tensor (B, C, 1, H, W)."""
        return x if self.frames is None else x.squeeze(2)

    def _indices(self, encoded: Any) -> Tensor:  # noqa: ANN401  (each class has an output of its own)
        """int64 (B, h, w)."""
        if isinstance(encoded, tuple):  # VidTok: the values to decode, and their indices (B, 1, h, w)
            z, indices = self._still(encoded[0]), encoded[1].squeeze(1)
        else:
            z = encoded.latents
            indices = self.model.quantize(z)[2][2].view(len(z), *z.shape[-2:])
        return numbered(indices.long(), z.movedim(1, -1))

    @staticmethod
    def published_name(own: str) -> str:
        """Name a tensor as the library's own files do."""
        return own.removeprefix("model.")

    @staticmethod
    def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give the tensors of a file the names of today, where an old version of the library wrote it.

        The projections of an attention were once called query, key, value and proj_attn; some published files have
        those names still, and the library renames them when it loads.
        """
        return {_OLD_ATTENTION.sub(_new_attention, name): tensor for name, tensor in state.items()}


_OLD_ATTENTION = re.compile(r"(\.attentions\.\d+\.)(query|key|value|proj_attn)(?=\.(?:weight|bias)$)")
_NEW_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def _new_attention(found: re.Match[str]) -> str:
    return found[1] + _NEW_NAMES[found[2]]


# --- what has no card -------------------------------------------------------------------------------------------------

FILES = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.bin",
)
"""Where `save_pretrained` writes the tensors, in the order in which they are looked for."""


def card_for(place: str) -> TokenizerCard:
    """Describe an autoencoder that has no card, from its config.json alone.

    Args:
        place: OWNER/NAME or OWNER/NAME/SUBFOLDER on the hub (read from the cache, else from there), or a folder that
            `save_pretrained` wrote. A folder's tensors are read by `load_folder`; those of a hub repository are found
            by the card that is returned.

    Raises:
        CardError: if there is no config.json, its class is none of `FACTS`, or the library is missing.
        WeightsError: if the hub can't be reached, or the repository is gated.
    """
    class_name, values, _ = _configuration(place)
    facts = FACTS[class_name]
    entries = complete(class_name, values)
    downsampling, codes = facts.downsampling(entries), facts.codes(entries)
    side = facts.side(entries) if facts.side else None
    drop = tuple(getattr(library_class(class_name), "_keys_to_ignore_on_load_unexpected", None) or ())
    if files.is_dir(place):
        source = WeightsSource(drop=drop)
        title = f"diffusers-{Path(place).resolve().name}"  # a folder's name may be a card's
    else:
        repository, subfolder = weights.split_place(place)
        source = WeightsSource(hub=repository, file=subfolder + _file_of(repository, subfolder), drop=drop)
        title = f"{repository}/{subfolder}".strip("/")
    return TokenizerCard(
        name=re.sub(r"[^a-z0-9.]+", "-", title.lower()).strip("-."),
        family="diffusers",
        network="diffusers",
        kind="continuous" if codes is None else "discrete",
        title=f"{title} ({class_name})",
        description="Described by its config.json; no card says more of it.",
        config={"class": class_name, "values": dict(values)},
        input=Input(range=facts.span, multiple_of=1 if side else downsampling, sizes=(side,) if side else ()),
        output=Output(size=side),
        code=Code(
            codebook_sizes=() if codes is None else (codes,),
            tokens_at_256=(256 // downsampling) ** 2 if side in (None, 256) else None,
            latent_channels=facts.channels(entries),
            downsampling=downsampling,
        ),
        weights=source,
    )


def load_folder(folder: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a folder that `save_pretrained` wrote, in one file or in shards, under today's names.

    Raises:
        WeightsError: if the folder has no such files, or one is damaged or missing.
    """
    folder = Path(folder)
    for name in FILES:
        if files.is_file(path := folder / name):
            shards = _shards(path) if path.suffix == ".json" else [path]
            return Network.renamed({key: tensor for shard in shards for key, tensor in weights.read(shard).items()})
    raise WeightsError(f"{folder}: none of {', '.join(FILES)} is here; expected a folder that save_pretrained wrote")


def _shards(index: Path) -> list[Path]:
    try:
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise WeightsError(f"{index}: not an index of shards ({error}); save the model again") from error
    if odd := [name for name in named if Path(name).name != name]:
        raise WeightsError(f"{index}: names {odd[0]}, which is outside its folder; save the model again")
    return [index.parent / name for name in sorted(named)]


def _configuration(place: str, expected: ClassName | None = None) -> tuple[ClassName, dict[str, Any], str]:
    """Read the class's name and configuration from a place's config.json, and hash the file."""
    path = weights.locate_config(place)
    try:
        content = path.read_bytes()
        said = json.loads(content)
        name = said["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CardError(
            f"{place}: no config.json of an autoencoder; expected a folder that save_pretrained wrote, or "
            "OWNER/NAME[/SUBFOLDER] on the hub (of a whole pipeline the subfolder vae)"
        ) from error
    if name not in FACTS:
        raise CardError(f"{place}: its class is {name}; of diffusers, vtbench runs {', '.join(FACTS)}")
    if expected not in (None, name):
        raise CardError(f"{place}: its class is {name}, the card says {expected}; correct the card")
    known = inspect.signature(library_class(name).__init__).parameters
    # A newer or older version of the library may have written entries that the installed one does not know.
    values = {key: value for key, value in said.items() if key in known}
    return name, values, hashlib.sha256(content).hexdigest()


def _file_of(repository: str, subfolder: str) -> str:
    """Which of `FILES` a repository has: what is cached, else what is there, else the usual one."""
    for name in FILES:
        if weights.in_hub_cache(repository, subfolder + name):
            return name
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE or files.unreachable(constants.ENDPOINT):
        return FILES[0]
    try:
        return next((name for name in FILES if HfApi().file_exists(repository, subfolder + name)), FILES[0])
    except Exception as error:
        raise weights.hub_failed(f"{repository}/{subfolder}", error) from error
