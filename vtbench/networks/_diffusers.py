"""What is known of the classes of the diffusers library that can be run, and how one is built."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch

from vtbench.errors import CardError

ClassName = Literal[
    "AutoencoderDC",
    "AutoencoderKL",
    "AutoencoderKLCosmos",
    "AutoencoderKLFlux2",
    "AutoencoderKLHunyuanImage",
    "AutoencoderKLKVAE",
    "AutoencoderKLQwenImage",
    "AutoencoderKLWan",
    "AutoencoderRAE",
    "AutoencoderTiny",
    "AutoencoderVidTok",
    "VQModel",
]

Values = Mapping[str, Any]
"""A class's configuration, as config.json holds it."""


@dataclass(frozen=True)
class Facts:
    """What must be known of a class to feed it pictures; each entry is read from its whole configuration."""

    downsampling: Callable[[Values], int]
    channels: Callable[[Values], int]
    """Channels of the latent; of a discrete class, what one index stands for."""
    codes: Callable[[Values], int | None] = lambda values: None
    """Codebook size; None for a continuous latent."""
    frames: Callable[[Values], int] | None = None
    """How often a video class is shown the picture; None for classes of still pictures."""
    side: Callable[[Values], int] | None = None
    """Side of the square pictures that the decoder gives, whatever it was fed; None where it follows the input."""
    span: tuple[float, float] = (-1.0, 1.0)
    sampled: bool = True
    """Whether the encoder gives a posterior that can be sampled."""
    constants: bool = False
    """Whether the class computes tensors when it is built that its file does not hold."""


def _halvings(key: str) -> Callable[[Values], int]:
    return lambda values: 2 ** (len(values[key]) - 1)


def _entry(key: str) -> Callable[[Values], int]:
    return lambda values: int(values[key])


def _vidtok_codes(values: Values) -> int | None:
    return int(values["codebook_size"]) if values["regularizer"] == "fsq" else None


def _vidtok_frames(values: Values) -> int:
    """A causal encoder is led in by copies of the first frame, as many as one latent frame spans."""
    halved = values["tempo_ds"]
    return 1 << (2 if halved is None else len(halved))


def _vidtok_downsampling(values: Values) -> int:
    halved = values["spatial_ds"]
    return 1 << (len(values["ch_mult"]) - 1 if halved is None else len(halved))


def _rae_side(values: Values) -> int:
    return int(values["patch_size"]) * (int(values["encoder_input_size"]) // int(values["encoder_patch_size"]))


def _one_frame(values: Values) -> int:
    return 1


FACTS: dict[ClassName, Facts] = {
    "AutoencoderDC": Facts(_halvings("encoder_block_out_channels"), _entry("latent_channels"), sampled=False),
    "AutoencoderKL": Facts(_halvings("block_out_channels"), _entry("latent_channels")),
    "AutoencoderKLCosmos": Facts(
        _entry("spatial_compression_ratio"),
        _entry("latent_channels"),
        frames=_one_frame,
        sampled=False,
        constants=True,
    ),
    "AutoencoderKLFlux2": Facts(_halvings("block_out_channels"), _entry("latent_channels")),
    "AutoencoderKLHunyuanImage": Facts(_entry("spatial_compression_ratio"), _entry("latent_channels")),
    "AutoencoderKLKVAE": Facts(_halvings("ch_mult"), _entry("z_channels")),
    "AutoencoderKLQwenImage": Facts(
        lambda values: 2 ** len(values["temperal_downsample"]), _entry("z_dim"), frames=_one_frame
    ),
    "AutoencoderKLWan": Facts(
        lambda values: 2 ** len(values["temperal_downsample"]) * int(values["patch_size"] or 1),
        _entry("z_dim"),
        frames=_one_frame,
    ),
    "AutoencoderRAE": Facts(
        _entry("patch_size"),
        _entry("encoder_hidden_size"),
        side=_rae_side,
        span=(0.0, 1.0),
        sampled=False,
        constants=True,
    ),
    "AutoencoderTiny": Facts(_halvings("encoder_block_out_channels"), _entry("latent_channels"), sampled=False),
    "AutoencoderVidTok": Facts(
        _vidtok_downsampling, _entry("z_channels"), _vidtok_codes, frames=_vidtok_frames, constants=True
    ),
    "VQModel": Facts(
        _halvings("block_out_channels"),
        lambda values: int(values["vq_embed_dim"] or values["latent_channels"]),
        _entry("num_vq_embeddings"),
        sampled=False,
    ),
}
"""The classes that can be named; no other class of the library, and no code of a repository, is ever run."""


def library_class(name: ClassName) -> Any:  # noqa: ANN401  (the library has no types)
    """Return a class of the library.

    Raises:
        CardError: if the library is missing, or too old to have it.
    """
    try:
        with torch.device("cpu"):  # its modules make constants as they load, which must be real within an empty build
            import diffusers

            found = getattr(diffusers, name, None)  # loads the class's module
            if name == "AutoencoderRAE":
                import transformers  # noqa: F401  (its frozen encoders; the class would fail by a NameError)
    except (ImportError, RuntimeError) as error:  # its lazy imports make the second of the first
        raise CardError(
            f"{name} is a class of the package diffusers, which can't be used here ({' '.join(str(error).split())}); "
            "install it: pip install 'vtbench[diffusers]'"
        ) from error
    if found is None:
        raise CardError(
            f"the installed diffusers {diffusers.__version__} has no {name}; update it: pip install -U diffusers"
        )
    return found


def complete(name: ClassName, values: Values) -> dict[str, Any]:
    """Fill in the class's defaults.

    Raises:
        CardError: if an entry is unknown to the class, or one without a default is missing.
    """
    known = dict(inspect.signature(library_class(name).__init__).parameters)
    del known["self"]
    if unknown := [key for key in values if key not in known]:
        raise CardError(f"{name} has no configuration entry {', '.join(unknown)}; it has {', '.join(known)}")
    empty = inspect.Parameter.empty
    if missing := [key for key, entry in known.items() if entry.default is empty and key not in values]:
        raise CardError(f"{name} needs the configuration entries {', '.join(missing)}; add them to its values")
    return {key: entry.default for key, entry in known.items()} | dict(values)


def build(name: ClassName, values: Values) -> Any:  # noqa: ANN401
    """Build a class: on the device of the context, but on the CPU where it computes constants of its own.

    Raises:
        CardError: if the configuration is not one of the class's, or takes no single picture, or the library does not
            fit those it builds upon.
    """
    if name == "AutoencoderVidTok" and not complete(name, values)["is_causal"]:
        raise CardError("a VidTok that is not causal takes 16 frames at once, never one picture; choose a causal one")
    built = library_class(name)
    try:
        with torch.device("cpu") if FACTS[name].constants else nullcontext():
            return built.from_config(dict(values))
    except (ValueError, TypeError, LookupError) as error:
        raise CardError(f"{name} can't be built so: {' '.join(str(error).split())}; correct its values") from error
    except AttributeError as error:  # what diffusers builds upon has changed under it
        raise CardError(
            f"the installed diffusers and transformers don't fit each other: {name} can't be built "
            f"({' '.join(str(error).split())}); update both"
        ) from error
