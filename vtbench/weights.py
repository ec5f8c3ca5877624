"""Weights: where they are cached, how they are brought, checked, read safely and loaded strictly.

torch is imported inside the functions that need it, so that a missing file is reported before torch has started.
"""

from __future__ import annotations

import hashlib
import math
import pickle
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from vtbench import files
from vtbench.cards import TokenizerCard, WeightsSource
from vtbench.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor, nn

WeightsState = Literal["published", "local", "synthetic", "none"]
"""published: the card's own file; local: a file or mapping of the user's; synthetic: made up; none: nothing to load."""

# --- finding and bringing files ---------------------------------------------------------------------------------------


def locate(card: TokenizerCard, *, download: bool = True) -> Path | None:
    """Find the published weights of a card on this machine; bring them from the hub where they are missing.

    Returns:
        The file, or None where the network has no weights at all.

    Raises:
        WeightsError: within a few seconds, naming the file, where it is published and both ways to bring it.
    """
    source = card.weights
    if source is None:
        return None
    path = cached(source)
    if path is None and download and (source.hub or source.url):
        path = bring(card)
    if path is None:
        raise WeightsError(_missing(card, source))
    if source.sha256:
        files.check_sha256(path, source.sha256)
    return path


def cached(source: WeightsSource) -> Path | None:
    """Look for a published file where it would lie on this machine; touches no network."""
    if source.package:
        path = Path(__file__).resolve().parent / "assets" / "weights" / source.package
        return path if path.is_file() else None
    if source.hub and source.file:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(source.hub, source.file, revision=source.revision)
        return Path(found) if isinstance(found, str) else None
    if source.url and source.file:
        path = files.cache_folder() / "weights" / source.file
        return path if path.is_file() else None
    return None


def bring(card: TokenizerCard) -> Path:
    """Download the published file of a card, with progress and resume.

    Raises:
        WeightsError: if the endpoint is out of reach, the file is gated or missing there, or its digest is wrong.
    """
    source = card.weights
    if source is None:
        raise WeightsError(f"{card.name}: needs no weights; there is nothing to fetch")
    if source.hub and source.file:
        path = _bring_from_hub(card, source.hub, source.file, source.revision)
    elif source.url and source.file:
        path = files.cache_folder() / "weights" / source.file
        files.download(source.url, path, source.sha256)
    else:
        raise WeightsError(_missing(card, source))
    if source.sha256:
        files.check_sha256(path, source.sha256)
    return path


def _bring_from_hub(card: TokenizerCard, repository: str, file: str, revision: str | None) -> Path:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import GatedRepoError

    if constants.HF_HUB_OFFLINE:
        raise WeightsError(f"{_missing(card, card.weights)} (HF_HUB_OFFLINE is set)")
    # The hub client retries for 25 s without a network and hangs on a silent server, so ask first.
    if reason := files.unreachable(constants.ENDPOINT):
        raise WeightsError(f"{_missing(card, card.weights)} ({reason})")
    try:
        return Path(hf_hub_download(repository, file, revision=revision))
    except GatedRepoError as error:
        raise WeightsError(
            f"{card.name}: {repository} is gated; accept its terms on the hub, run `hf auth login`, then try again"
        ) from error
    except Exception as error:  # the client lets its HTTP library's errors through, and that library changes
        reason = " ".join(str(error).split()).split(". ")[0] or type(error).__name__
        raise WeightsError(f"{_missing(card, card.weights)} ({reason})") from error


def _missing(card: TokenizerCard, source: WeightsSource | None) -> str:
    if source is None or source.file is None:
        return (
            f"{card.name}: the weight file {source.package if source else ''} is not in the package; install it again"
        )
    place = f"hub repository {source.hub}" if source.hub else source.url
    return (
        f"{card.name}: weights {source.file} are not on this machine; they are published in {place}: "
        f"run `vtbench fetch {card.name}` where there is a network, or give a file with --weights PATH"
    )


# --- reading files ----------------------------------------------------------------------------------------------------


def read(path: Path, source: WeightsSource | None = None) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint file; a pickle may hold nothing but tensors and plain containers.

    Args:
        path: .safetensors, or anything that `torch.save` wrote.
        source: the layout that the card describes; where left out, a lone "state_dict" or "model" key is followed.

    Raises:
        WeightsError: if the file is missing, truncated, not a checkpoint or would run code.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; expected a checkpoint (.safetensors, .ckpt, .pt or .pth)")
    container = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    state = _open_container(container, source, path)
    if source is None:
        return state
    if source.ema_prefix:
        state = _with_ema(state, source.ema_prefix)
    return dropped(state, source.drop)


def dropped(state: Mapping[str, Tensor], prefixes: Iterable[str]) -> dict[str, Tensor]:
    """Leave out the tensors that a card says are not the network's."""
    unwanted = tuple(prefixes)
    return {name: tensor for name, tensor in state.items() if not name.startswith(unwanted)}


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a whole safetensors file ({error}); fetch it again") from error


class _TrainerState:
    """Stands in for classes of a trainer that a checkpoint names beside its tensors; nothing is ever made of it."""


_TRAINER_CLASSES = (
    # Lightning 1 keys the state of its callbacks by their classes.
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "pytorch_lightning.callbacks.lr_monitor.LearningRateMonitor",
)


def _read_pickle(path: Path) -> dict[str, Any]:
    import torch

    harmless = torch.serialization.safe_globals([(_TrainerState, name) for name in _TRAINER_CLASSES])
    try:
        with warnings.catch_warnings(), harmless:
            # Newer pickle protocols are read or refused like older ones; the warning adds nothing to our error.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: not a pickle of tensors alone, it is broken or could run code, and was not opened; "
            "fetch it again, or convert it to safetensors on a machine that you trust it on"
        ) from error
    except (RuntimeError, EOFError, OSError, zipfile.BadZipFile, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path}: not a whole checkpoint ({reason}); fetch it again") from error
    if not isinstance(found, dict):
        raise WeightsError(f"{path}: holds a {type(found).__name__}, expected a dictionary of tensors")
    return found


def _open_container(container: Mapping[str, Any], source: WeightsSource | None, path: Path) -> dict[str, Tensor]:
    import torch

    keys = (source.key,) if source and source.key else ("state_dict", "model")
    for key in keys:
        if key is not None and isinstance(container.get(key), Mapping):
            container = container[key]
            break
    tensors = {name: value for name, value in container.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise WeightsError(
            f"{path}: holds no tensors (its keys are {_few(container)}); expected them under {_few(keys)}"
        )
    return tensors


def _with_ema(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Take the averaged copy of every tensor that has one; its names are the plain ones without their dots."""
    averages = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    plain = {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}
    return {name: averages.get(name.replace(".", ""), tensor) for name, tensor in plain.items()}


# --- loading into a network -------------------------------------------------------------------------------------------


def published_names(network: nn.Module) -> dict[str, str]:
    """The name that each of a network's tensors has in the published checkpoint.

    A network whose own names differ has a static method `published_name(own) -> published` in its file.
    """
    rename = getattr(network, "published_name", None)
    return {own: rename(own) if rename else own for own in network.state_dict()}


def load_state(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load published tensors into a network: every one must be there, fit, and be wanted.

    Constants that the network computes itself (non-persistent buffers) are not missed; where the state holds them they
    must be equal to the network's own.

    Raises:
        WeightsError: listing missing, unexpected and misshapen tensors by name; nothing is overwritten then.
    """
    import torch

    own = network.state_dict()
    names = published_names(network)
    persistent = {names[name]: tensor for name, tensor in own.items()}
    constants = {name: buffer for name, buffer in network.named_buffers() if name not in own}
    missing = [name for name in persistent if name not in state]
    unexpected = [name for name in state if name not in persistent and name not in constants]
    misshapen = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in persistent.items()
        if name in state and state[name].shape != tensor.shape
    ]
    changed = [
        name
        for name, buffer in constants.items()
        if name in state
        and not (
            state[name].shape == buffer.shape and torch.allclose(state[name].to(buffer), buffer, rtol=1e-5, atol=1e-6)
        )
    ]
    wrong = {"missing": missing, "unexpected": unexpected, "wrong shape": misshapen, "another constant": changed}
    found = [f"{len(names)} {what} ({_few(names)})" for what, names in wrong.items() if names]
    if found:
        raise WeightsError(f"the checkpoint does not fit the network: {'; '.join(found)}; is it another variant's?")
    with torch.no_grad():
        for name, tensor in persistent.items():
            tensor.copy_(state[name])


def fill_values(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Make up one tensor from its published name: the same name, shape and seed give the same values everywhere.

    With two or more dimensions: normal with deviation 1 / sqrt(fan-in), fan-in being the product of all dimensions but
    the first. One-dimensional: 0.1 n where the name ends in "bias", "running_mean" or "mean"; 1 + 0.1 |n| for
    "running_var"; 1 + 0.1 n otherwise. The generator is Philox, keyed by the first 8 bytes (little endian) of the
    sha256 of "seed:name".

    Returns:
        float32 array of the given shape.
    """
    key = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "little")
    normal = np.random.Generator(np.random.Philox(key)).standard_normal(shape, dtype=np.float32)
    tenth = np.float32(0.1)
    if len(shape) > 1:
        result = normal / np.float32(math.sqrt(max(1, math.prod(shape[1:]))))
    elif name.endswith("running_var"):
        result = 1 + tenth * np.abs(normal)
    elif name.endswith(("bias", "running_mean", "mean")):
        result = tenth * normal
    else:
        result = 1 + tenth * normal
    return np.asarray(result, dtype=np.float32)


def synthetic_state(network: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Make up every tensor of a network, under the published names; integer tensors keep their own values."""
    import torch

    names = published_names(network)
    state = {}
    for own, tensor in network.state_dict().items():
        name = names[own]
        made_up = tensor.is_floating_point()
        state[name] = torch.from_numpy(fill_values(name, tuple(tensor.shape), seed)) if made_up else tensor.clone()
    return state


def state_digest(state: Mapping[str, Tensor]) -> str:
    """sha256 over the names, shapes and bytes of the tensors: the identity of weights that came as a mapping."""
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype}".encode())
        total.update(tensor.flatten().view(-1).numpy().tobytes() if tensor.numel() else b"")
    return total.hexdigest()


def _few(names: Iterable[str]) -> str:
    listed = [str(name) for name in names]
    return ", ".join(listed[:5]) + (f", … {len(listed) - 5} more" if len(listed) > 5 else "")
