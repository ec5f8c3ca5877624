"""Foundation models that latents are compared with: where each may be found, and what it says of a picture.

A place is a name of `MODELS` (its repository in the hub's cache), a folder that transformers' `save_pretrained` wrote
with a DINOv2 or SigLIP model, or a .npz file of features that were computed elsewhere: `ids` (N texts), `features`
(N, D), `model` and `layer` (texts). Nothing here touches a network. Importing this module loads no torch.
"""

from __future__ import annotations

import functools
import json
import math
import zipfile
from collections.abc import Mapping
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vtbench import files
from vtbench.errors import DataError, VtbenchError, WeightsError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

MODELS: Mapping[str, str] = {
    "dinov2-base": "facebook/dinov2-base",
    "siglip2-base": "google/siglip2-base-patch16-224",
}

FILES = ("config.json", "model.safetensors")

SIDE = 224
"""Pixels a side that a model with positions for many sizes is fed, as published alignments do."""

_MEANS: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "dinov2": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "dinov2_with_registers": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "siglip": ((0.5,) * 3, (0.5,) * 3),
    "siglip_vision_model": ((0.5,) * 3, (0.5,) * 3),
}
"""Mean and deviation of the levels, in [0, 1], by the model type of config.json."""


class Features(NamedTuple):
    """Features that were computed elsewhere."""

    rows: Mapping[str, np.ndarray[Any, Any]]
    """By the picture's id."""
    model: str
    layer: str


def lacking(place: str) -> str | None:
    """Say in one line why features can't be had here and what mends it; None where they can."""
    if place.endswith(".npz"):
        return None if files.is_file(place) else f"{place}: no such file of features"
    folder = _folder(place)
    if folder is None:
        if place not in MODELS:
            return f"{place}: no folder of a foundation model; expected one, a .npz file or {' or '.join(MODELS)}"
        return f"{MODELS[place]} is not in the hub's cache: run `hf download {MODELS[place]}`, or name --features"
    if util.find_spec("transformers") is None:
        return "foundation models need the package transformers: pip install 'vtbench[align]'"
    return None


def is_users(place: str) -> bool:
    """Tell whether a place is a folder or file of the user's; a known name is none, whatever lies beside the user."""
    return place not in MODELS and files.exists(place)


def digests(place: str) -> dict[str, str]:
    """Say which files are used, for the record of a run: file name to sha256; empty where they are missing."""
    if place.endswith(".npz"):
        return {"features": files.sha256(Path(place))} if files.is_file(place) else {}
    folder = _folder(place)
    return {} if folder is None else {name: files.sha256(folder / name) for name in FILES}


def read(place: str) -> Features:
    """Read a file of features.

    Raises:
        DataError: saying what is wrong with it.
    """
    import numpy as np

    try:
        with np.load(place, allow_pickle=False) as said:
            held = {name: said[name] for name in ("ids", "features", "model", "layer")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        expected = "expected a .npz with ids, features, model and layer"
        raise DataError(f"{place}: {' '.join(str(error).split())[:120]}; {expected}") from error
    ids, features = held["ids"], held["features"]
    if ids.ndim != 1 or ids.dtype.kind != "U" or features.shape[:1] != ids.shape or features.ndim != 2:
        raise DataError(
            f"{place}: ids of {ids.dtype} {ids.shape} and features of {features.shape}; expected N texts and (N, D)"
        )
    if features.dtype.kind != "f" or not np.isfinite(features).all() or not features.size:
        raise DataError(f"{place}: features that are no finite numbers; expected floats")
    if len(set(ids.tolist())) != len(ids):
        raise DataError(f"{place}: an id stands there twice; expected each once")
    rows = {str(name): row.astype(np.float64) for name, row in zip(ids, features, strict=True)}
    return Features(rows, str(held["model"]), str(held["layer"]))


@functools.cache
def load(place: str, device: torch.device) -> Model:
    """Build a foundation model, once a device.

    Raises:
        WeightsError: if it is not here or of another kind.
        VtbenchError: if transformers is missing.
    """
    if (reason := lacking(place)) is not None:
        raise WeightsError(reason)
    folder = _folder(place)
    assert folder is not None
    from vtbench import device as devices

    with devices.plain():
        return Model(folder, device)


class Model:
    """A vision transformer that gives each picture the mean of its patch tokens."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        try:
            from transformers import AutoModel
        except ImportError as error:
            raise VtbenchError(
                f"foundation models need transformers ({error}): pip install 'vtbench[align]'"
            ) from error
        kind = _kind(folder)
        if kind not in _MEANS:
            raise WeightsError(f"{folder}: a {kind} model; expected one of {', '.join(_MEANS)}")
        try:
            built = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        except Exception as error:  # the library's errors are of many classes
            said = " ".join(str(error).split())[:160]
            raise WeightsError(f"{folder}: can't be loaded ({said}); save the model again") from error
        vision = getattr(built, "vision_model", built)
        config = getattr(built.config, "vision_config", built.config)
        self._network = vision.to(device).eval()
        self._patch = int(config.patch_size)
        fixed = kind.startswith("siglip")
        self._more: dict[str, Any] = {"interpolate_pos_encoding": True} if fixed else {}
        self._side = int(config.image_size) if fixed else SIDE
        self._first = 0 if fixed else 1 + int(getattr(config, "num_register_tokens", 0))
        self._span = _MEANS[kind]
        self._device = device

    def features(self, pictures: Tensor, *, scale: float = 1.0) -> Tensor:
        """Give the mean of the patch tokens: float64, (B, D).

        Args:
            pictures: uint8, (B, 3, H, W); brought to the model's side times `scale` (bilinear, antialiased), then
                mirrored at the border to a multiple of its patch.
            scale: of pictures that are shown smaller.
        """
        import torch
        from torch.nn import functional as F

        from vtbench import device as devices
        from vtbench import images

        mean, deviation = (torch.tensor(one, device=self._device).view(1, 3, 1, 1) for one in self._span)
        side = max(self._patch, math.floor(self._side * scale))
        x = images.to_float(pictures.to(self._device), (0.0, 1.0))
        x = F.interpolate(x, (side, side), mode="bilinear", antialias=True, align_corners=False)
        x = F.pad((x - mean) / deviation, (0, -side % self._patch) * 2, mode="reflect")
        with torch.no_grad(), devices.exact():
            tokens: Tensor = self._network(pixel_values=x, **self._more).last_hidden_state
        return tokens[:, self._first :].double().mean(1)


def _kind(folder: Path) -> str:
    try:
        said = json.loads((folder / FILES[0]).read_text(encoding="utf-8"))
        return str(said["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{folder}: its config.json can't be read ({error}); save the model again") from error


def _folder(place: str) -> Path | None:
    """The folder that holds a model's files; None where there is none."""
    if place in MODELS:
        from huggingface_hub import try_to_load_from_cache

        found = [try_to_load_from_cache(MODELS[place], name) for name in FILES]
        return Path(str(found[0])).parent if all(isinstance(one, str) for one in found) else None
    folder = Path(place)
    return folder if all(files.is_file(folder / name) for name in FILES) else None
