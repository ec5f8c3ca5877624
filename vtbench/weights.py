"""Weights: where they are cached, how they are brought, found, and loaded strictly.

Files are read by `vtbench.checkpoints`, their names made the published ones by `vtbench.states`. torch is imported
inside the functions that need it, so that a missing file is reported before torch has started.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from vtbench import checkpoints, files, states
from vtbench.cards import TokenizerCard, WeightsFile, WeightsSource
from vtbench.errors import CardError, WeightsError
from vtbench.results import WeightsOrigin
from vtbench.states import few

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Loaded:
    """The tensors of a network under their published names, and whose they are."""

    state: Mapping[str, Tensor] | None
    """None where there is nothing to load."""
    origin: WeightsOrigin
    digest: str | None
    """sha256 of the file; of several files: of their digests in order; of a mapping: `state_digest`."""
    ema: int = 0
    """How many tensors came from an averaged copy."""
    notes: tuple[str, ...] = ()
    """What was found and done, a sentence each."""


# --- finding and bringing files ---------------------------------------------------------------------------------------


def parts_of(source: WeightsSource) -> tuple[WeightsFile, ...]:
    """The published files of a card, one or several, in the card's order."""
    name = source.file or source.package
    return source.files or ((WeightsFile(file=name, sha256=source.sha256),) if name else ())


def locate(card: TokenizerCard) -> tuple[Path, ...]:
    """Find the published weights of a card on this machine; bring them from the hub where they are missing.

    Returns:
        One path a file of the card; empty where the network has no weights at all.

    Raises:
        WeightsError: within a few seconds, naming the file, where it is published and both ways to bring it.
    """
    source = card.weights
    if source is None:
        return ()
    found = cached(card)
    if not found:
        return bring(card)
    _check(source, found)
    return found


def cached(card: TokenizerCard) -> tuple[Path, ...]:
    """Look for a card's published files where they would lie on this machine; touches no network.

    Returns:
        One path a file of the card; empty unless all are there, the shards of an index and a published configuration
        included.
    """
    source, place = card.weights, config_place(card)
    if source is None or (place is not None and cached_config(place) is None):
        return ()
    paths = [_cached(source, part.file) for part in parts_of(source)]
    found = tuple(path for path in paths if path is not None)
    if len(found) < len(paths):
        return ()
    try:
        for path in found:
            checkpoints.files_of(path)
    except WeightsError:
        return ()
    return found


def _cached(source: WeightsSource, file: str) -> Path | None:
    if source.package:
        path = Path(__file__).resolve().parent / "assets" / "weights" / file
    elif source.hub:
        return in_hub_cache(source.hub, file, source.revision)
    else:
        path = files.cache_folder() / "weights" / file
    return path if path.is_file() else None


def in_hub_cache(repository: str, file: str, revision: str | None = None) -> Path | None:
    """Look for a file of a repository in the cache of the hub's client."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, file, revision=revision)
    return Path(found) if isinstance(found, str) else None


def bring(card: TokenizerCard) -> tuple[Path, ...]:
    """Download the published files of a card, with progress and resume, and its configuration where that is published.

    Returns:
        One path a file of the card.

    Raises:
        CardError: if its configuration is not where the card says.
        WeightsError: if the endpoint is out of reach, the file is gated or missing there, or its digest is wrong.
    """
    source = card.weights
    if source is None:
        raise WeightsError(f"{card.name}: needs no weights; there is nothing to fetch")
    parts = parts_of(source)
    if source.package or not parts or not (source.hub or source.url):
        raise WeightsError(_missing(card, source))
    found = tuple(_bring(card, source, part) for part in parts)
    _check(source, found)
    if place := config_place(card):
        locate_config(place)
    return found


def _check(source: WeightsSource, found: Sequence[Path]) -> None:
    for part, path in zip(parts_of(source), found, strict=True):
        if part.sha256:
            files.check_sha256(path, part.sha256)


def _bring(card: TokenizerCard, source: WeightsSource, part: WeightsFile) -> Path:
    if path := _cached(source, part.file):
        brought = path
    elif source.hub:
        brought = _bring_from_hub(card, source.hub, part.file, source.revision)
    else:
        brought = files.cache_folder() / "weights" / part.file
        address = f"{source.url}/{part.file}" if source.files else str(source.url)
        files.download(address, brought, part.sha256)
    if source.hub and brought.name.endswith(checkpoints.INDEX):
        folder = part.file.rpartition("/")[0]
        for shard in checkpoints.named_shards(brought):
            _bring_from_hub(card, source.hub, f"{folder}/{shard}".lstrip("/"), source.revision)
    return brought


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
        whole = " ".join(str(error.__cause__ or error).split())
        said = whole.split(" For more information")[0].split(". ")[0] or type(error).__name__
        raise WeightsError(f"{_missing(card, card.weights)} ({constants.ENDPOINT}: {said})") from error


def _missing(card: TokenizerCard, source: WeightsSource | None) -> str:
    if source is None or source.package:
        return (
            f"{card.name}: the weight file {source.package if source else ''} is not in the package; install it again"
        )
    names = few(part.file for part in parts_of(source))
    place = f"hub repository {source.hub}" if source.hub else source.url
    if not names or place is None:
        return f"{card.name}: its card names no file that could be fetched; give one with --weights PATH"
    return (
        f"{card.name}: weights {names} are not on this machine; they are published in {place}: "
        f"run `vtbench fetch {card.name}` where there is a network, or give a file with --weights PATH"
    )


# --- a configuration that is published --------------------------------------------------------------------------------

CONFIG = "config.json"

_PLACE = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?:/(?P<subfolder>[\w./-]+?))?/?")


def config_place(card: TokenizerCard) -> str | None:
    """Say where a card's network finds its configuration, if not on the card: a folder, or a place on the hub."""
    place = card.config.get("pretrained") if card.network == "diffusers" else None
    return place if isinstance(place, str) else None


def split_place(place: str) -> tuple[str, str]:
    """Split OWNER/NAME[/SUBFOLDER] on the hub into repository and subfolder, which is empty or ends with a slash.

    Raises:
        CardError: if it is no such place.
    """
    if found := _PLACE.fullmatch(place):
        folder = f"{found['subfolder']}/" if found["subfolder"] else ""
        with contextlib.suppress(ValidationError):
            WeightsSource(hub=found["repository"], file=folder + CONFIG)
            return found["repository"], folder
    raise CardError(f"{place}: no such folder, and not OWNER/NAME[/SUBFOLDER] on the hub either")


def cached_config(place: str) -> Path | None:
    """Look for the configuration of a place on this machine, without the network; None where it is not here."""
    with contextlib.suppress(CardError, OSError, ValueError):  # what is wrong is said where it is read
        if Path(place).is_dir():
            path = Path(place) / CONFIG
            return path if path.is_file() else None
        repository, folder = split_place(place)
        return in_hub_cache(repository, folder + CONFIG)
    return None


def locate_config(place: str) -> Path:
    """Find the configuration of a place; bring it from the hub where it is missing. A folder may be without.

    Raises:
        CardError: if there is no such place, or the hub has no such file.
        WeightsError: if the hub can't be reached, or the repository is gated.
    """
    if files.is_dir(Path(place)):
        return Path(place) / CONFIG
    if path := cached_config(place):
        return path
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    repository, folder = split_place(place)
    where = f"{repository}/{folder}{CONFIG}"
    reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else files.unreachable(constants.ENDPOINT)
    if reason:
        raise WeightsError(f"{where} is not in the hub's cache ({reason}); try again where there is a network")
    try:
        return Path(hf_hub_download(repository, folder + CONFIG))
    except GatedRepoError as error:
        raise WeightsError(
            f"{repository} is gated; accept its terms on the hub, run `hf auth login`, then try again"
        ) from error
    except LocalEntryNotFoundError as error:  # an EntryNotFoundError, which is the hub's answer else
        raise hub_failed(where, error) from error
    except (EntryNotFoundError, RepositoryNotFoundError) as error:
        raise CardError(f"{where}: the hub has no such file; a whole pipeline's is in its subfolder vae") from error
    except Exception as error:  # the client lets its HTTP library's errors through, and that library changes
        raise hub_failed(where, error) from error


def hub_failed(where: str, error: Exception) -> WeightsError:
    """Say in one line what the hub's client met with."""
    reason = " ".join(str(error).split()).split(". ")[0] or type(error).__name__
    return WeightsError(f"{where} can't be brought from the hub ({reason}); try again")


# --- reading them -----------------------------------------------------------------------------------------------------


def find_state(
    card: TokenizerCard,
    given: str | Path | Sequence[Path] | Mapping[str, Any] | None = None,
    *,
    wanted: Collection[str] = (),
) -> Loaded:
    """Find the tensors that a card's network is to be loaded with.

    Args:
        card: its `[weights]` says where the published files lie and how they are laid out.
        given: None for the card's own files; the path of a checkpoint, of the index of a sharded one or of a folder
            that holds one; several such paths; or a mapping of names to tensors or arrays, which may be wrapped in a
            `state_dict`.
        wanted: the network's published names (`published_names`); prefixes of wrappers are found by them.

    Raises:
        WeightsError: if the weights are missing, damaged, or not clearly one network's.
    """
    source = card.weights
    if source is None:
        if given is not None:
            raise WeightsError(f"{card.name} has no weights; leave --weights out")
        return Loaded(None, "none", None)
    if isinstance(given, Mapping):
        try:
            state = states.open_container(given, source, wanted, partial=True)
        except WeightsError as error:
            raise WeightsError(f"{card.name}: the given mapping {error}") from error
        return Loaded(state.tensors, "local", state_digest(state.tensors), state.ema, tuple(state.notes))
    parts = parts_of(source)
    if given is None:
        return _read_parts(source, parts, locate(card), wanted, "packaged" if source.package else "published")
    paths = [Path(given)] if isinstance(given, str | Path) else [Path(path) for path in given]
    notes: list[str] = []
    if not paths:
        raise WeightsError(f"{card.name}: an empty list of weight files; expected a path, or None for the card's own")
    folder = paths[0] if len(paths) == 1 and files.is_dir(paths[0]) else None
    if parts and folder and all(files.is_file(folder / part.file) for part in parts):
        paths = [folder / part.file for part in parts]
    elif len(parts) > 1 and len(paths) == len(parts):
        paths = _in_order(paths, parts, notes)
    elif len(parts) > 1 and len(paths) == 1:
        notes.append("one file was given for the card's several, and is taken to hold all of their tensors")
        parts = ()
    elif len(paths) != len(parts):
        parts = ()
    found = _read_parts(source, parts, paths, wanted, "local")
    return Loaded(found.state, found.origin, found.digest, found.ema, (*notes, *found.notes))


def _in_order(paths: Sequence[Path], parts: Sequence[WeightsFile], notes: list[str]) -> list[Path]:
    """Several files in the card's order: by their names where these are the card's, else as they were given."""
    by_name = {path.name: path for path in paths}
    names = [Path(part.file).name for part in parts]
    if set(by_name) == set(names):
        return [by_name[name] for name in names]
    said = ", ".join(f"{path.name} for {name}" for path, name in zip(paths, names, strict=True))
    notes.append(f"the files were taken in the order in which they were given: {said}")
    return list(paths)


def _read_parts(
    source: WeightsSource,
    parts: Sequence[WeightsFile],
    paths: Sequence[Path],
    wanted: Collection[str],
    origin: WeightsOrigin,
) -> Loaded:
    """Read one or several checkpoints into one state; `parts` is empty where they are not the card's."""
    whole: dict[str, Tensor] = {}
    digests, notes, ema = [], [], 0
    for place, path in enumerate(paths):
        prefix = parts[place].prefix if parts else ""
        names = [name.removeprefix(prefix) for name in wanted if name.startswith(prefix)]
        if prefix and origin == "local":  # a file of the user's may hold the whole names already
            names = [*names, *(name for name in wanted if name.startswith(prefix))]
        state, digest = _read(path, source, names)
        prefixed = {name: name if wanted and name in wanted else prefix + name for name in state.tensors}
        twice = [new for new in prefixed.values() if new in whole]
        if twice:
            raise WeightsError(f"{path}: holds {few(twice)}, which a file before it holds too")
        whole |= {prefixed[name]: tensor for name, tensor in state.tensors.items()}
        digests.append(digest)
        ema += state.ema
        notes += state.notes if len(paths) == 1 else [f"{path.name}: {note}" for note in state.notes]
    expected = [part.sha256 for part in parts]
    own = [
        bool(digest and said and digest.startswith(said)) for digest, said in zip(digests, expected, strict=bool(parts))
    ]
    if origin == "local" and own and all(own):
        origin = "packaged" if source.package else "published"
    return Loaded(whole, origin, joined(digests), ema, tuple(notes))


def _read(path: Path, source: WeightsSource | None, wanted: Collection[str]) -> tuple[states.State, str]:
    """Read one checkpoint, its shards together, and hash what was read."""
    shards = checkpoints.files_of(path)
    container: dict[Any, Any] = {}
    for shard in shards:
        held = checkpoints.read(shard)
        if twice := [name for name in held if name in container]:
            raise WeightsError(f"{shard}: holds {few(twice)}, which a shard before it holds too")
        container |= held
    try:
        state = states.open_container(container, source, wanted)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    if len(shards) > 1:
        state.notes.insert(0, f"{len(shards)} shards were read")
    return state, joined([files.sha256(shard) for shard in shards])


def joined(digests: Sequence[str]) -> str:
    """Give the one digest of weights in several files: sha256 of their digests in order; of one file its own."""
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def read(path: Path, source: WeightsSource | None = None) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint; a pickle may hold nothing but tensors and plain containers.

    Args:
        path: .safetensors, or anything that `torch.save` wrote.
        source: the layout that a card describes; where left out, a lone "state_dict" or "model" key is followed.

    Raises:
        WeightsError: if the file is missing, truncated, not a checkpoint or would run code.
    """
    return _read(path, source, ())[0].tensors


# --- loading into a network -------------------------------------------------------------------------------------------


def published_names(network: nn.Module) -> dict[str, str]:
    """The name that each of a network's tensors has in the published checkpoint.

    A network whose own names differ has a static method `published_name(own) -> published` in its file.
    """
    rename = getattr(network, "published_name", None)
    return {own: rename(own) if rename else own for own in network.state_dict()}


def load_state(network: nn.Module, state: Mapping[str, Tensor], *, copy: bool = True) -> None:
    """Load published tensors into a network: every one must be there, fit, and be wanted.

    The network keeps its own types: a file in half precision becomes float32. Tensors of a network on the meta device
    (`build_empty`) are replaced. Constants that the network computes itself (non-persistent buffers) are not missed;
    where the state holds them they must be equal to the network's own.

    Args:
        network: the network, on a device or empty.
        state: tensors under their published names.
        copy: whether an empty network gets copies; False where nobody else holds or changes the state's tensors.

    Raises:
        WeightsError: listing missing, unexpected and misshapen tensors by name; nothing is overwritten then.
    """
    import torch

    own = network.state_dict()
    names = published_names(network)
    persistent = {names[name]: tensor for name, tensor in own.items()}
    constants = {name: buffer for name, buffer in network.named_buffers() if name not in own}
    shared = [name for name in persistent if name in state]
    wrong = {
        "missing": [name for name in persistent if name not in state],
        "unexpected": [name for name in state if name not in persistent and name not in constants],
        "wrong shape": [
            f"{name} {tuple(state[name].shape)} instead of {tuple(persistent[name].shape)}"
            for name in shared
            if state[name].shape != persistent[name].shape
        ],
        "not floating point": [
            f"{name} {str(state[name].dtype).removeprefix('torch.')}"
            for name in shared
            if persistent[name].is_floating_point() and not _is_plain_float(state[name])
        ],
        "another constant": [
            name for name, buffer in constants.items() if name in state and not _same(state[name], buffer)
        ],
    }
    found = [f"{len(names)} {what} ({few(names)})" for what, names in wrong.items() if names]
    if found:
        question = "is it quantised?" if wrong["not floating point"] else "is it another variant's?"
        raise WeightsError(f"the checkpoint does not fit the network: {'; '.join(found)}; {question}")
    empty = {}
    with torch.no_grad():
        for name, tensor in own.items():
            value = state[names[name]].detach()
            if tensor.is_meta:
                filled = value.to("cpu", tensor.dtype, copy=copy)
                empty[name] = filled.contiguous()
            else:
                tensor.copy_(value)
    if empty:
        # Strict would miss the tensors that are filled already.
        network.load_state_dict(empty, strict=False, assign=True)


def _is_plain_float(tensor: Tensor) -> bool:
    import torch

    return tensor.is_floating_point() and tensor.layout == torch.strided and not tensor.is_quantized


def _same(tensor: Tensor, constant: Tensor) -> bool:
    import torch

    return tensor.shape == constant.shape and torch.allclose(tensor.to(constant), constant, rtol=1e-5, atol=1e-6)


_FILLING = frozenset(
    [
        "normal_",
        "uniform_",
        "zero_",
        "fill_",
        "erfinv_",
        "mul_",
        "add_",
        "clamp_",
        "copy_",
        "constant_",
        "ones_",
        "zeros_",
        "trunc_normal_",
        "orthogonal_",
        "xavier_normal_",
        "xavier_uniform_",
        "kaiming_normal_",
        "kaiming_uniform_",
    ]
)
"""By what new networks give their tensors first values: methods, and functions of torch.nn.init."""


def build_empty(factory: Callable[[], nn.Module]) -> nn.Module:
    """Build a network without memory for its tensors, which `load_state` then fills.

    A network computes its constants on a named device, `torch.tensor(..., device="cpu")`. One that doesn't, or that
    needs values while it is built, is built as usual.

    Args:
        factory: makes the network; called twice where the network can't be built empty.

    Returns:
        The network, its parameters and persistent buffers on the meta device where that can be.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class Unfilled(TorchFunctionMode):
        """Skips what fills a tensor without memory: there torch would first import its symbolic shapes, for 1 s."""

        def __torch_function__(
            self,
            func: Callable[..., object],
            types: object,
            args: tuple[Any, ...] = (),
            kwargs: dict[str, Any] | None = None,
        ) -> object:
            kwargs = kwargs or {}
            tensor = args[0] if args else kwargs.get("tensor")
            if getattr(func, "__name__", "") in _FILLING and isinstance(tensor, torch.Tensor) and tensor.is_meta:
                return tensor
            return func(*args, **kwargs)

    try:
        with torch.device("meta"), Unfilled():
            network = factory()
    except Exception:  # a network of anybody's; what is really wrong is raised by the second try
        return factory()
    return factory() if _lacks_constants(network) else network


def _lacks_constants(network: nn.Module) -> bool:
    """Whether an empty network holds values that no checkpoint brings back."""
    import torch

    stored = network.state_dict(keep_vars=True)
    registered = {id(tensor) for tensor in stored.values()}
    for name, tensor in stored.items():
        counter = name.endswith("num_batches_tracked")  # of a normalisation; 0 in every new network
        if tensor.is_meta and not tensor.is_floating_point() and not counter:
            return True
    if any(buffer.is_meta and id(buffer) not in registered for buffer in network.buffers()):
        return True
    held = [value for module in network.modules() for value in vars(module).values()]
    while held:
        value = held.pop()
        if isinstance(value, torch.Tensor) and value.is_meta and id(value) not in registered:
            return True
        if isinstance(value, list | tuple):
            held += value
        elif type(value) is dict:
            held += [item for item in value.values() if id(item) not in registered]
    return False


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
        if tensor.is_floating_point():
            state[name] = torch.from_numpy(fill_values(name, tuple(tensor.shape), seed))
        else:
            state[name] = torch.zeros(tensor.shape, dtype=tensor.dtype) if tensor.is_meta else tensor.clone()
    return state


def state_digest(state: Mapping[str, Tensor]) -> str:
    """sha256 over the names, shapes and bytes of the tensors: the identity of weights that came as a mapping.

    Tensors of every type are hashed by their bytes, one after another.
    """
    import torch

    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype}".encode("utf-8", "surrogatepass"))
        if tensor.numel():
            total.update(tensor.flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def stamp(network: nn.Module) -> dict[str, tuple[object, ...]]:
    """Sum up the values of each tensor of a network in a number, wherever they lie in memory and on whatever device.

    Equal stamps mean equal weights, but for chance and intent: order, shape and type count. It takes a few passes over
    them on their device, where a digest takes many times as long. What has no plain memory goes by its object and by
    how often it was written to.
    """
    import torch

    state = network.state_dict(keep_vars=True)
    tensors = {name: held for name, held in state.items() if isinstance(held, torch.Tensor)}
    plain = {
        name: _sum_of_places(held.detach())
        for name, held in tensors.items()
        if held.layout == torch.strided and not held.is_quantized and not held.is_meta
    }
    # A GPU is waited for once.
    devices = [one.device for one in plain.values()]
    values = torch.stack([one.to(devices[0]) for one in plain.values()]).tolist() if devices else []
    sums = dict(zip(plain, values, strict=True))
    opaque = {
        name: (id(held), None if held.is_inference() else held._version)
        for name, held in tensors.items()
        if name not in plain
    }
    return {name: (sums.get(name, opaque.get(name)), held.shape, held.dtype) for name, held in tensors.items()}


_ODD = -7046029254386353131
"""2^64 over the golden ratio, as int64: a product with it spreads the low bits over the high ones."""

_AT_ONCE = 1 << 18
"""Numbers of eight bytes, which a CPU's cache holds."""


def _sum_of_places(tensor: Tensor) -> Tensor:
    """Add up the bytes of a tensor, eight at once, each times a number of its place: int64, on its device.

    Both are mixed first: many weights differ in a few high bits alone, which such a product may push out, and in a
    pattern that repeats itself plain numbers of places cancel out.
    """
    import torch

    held = tensor.resolve_conj().resolve_neg().contiguous().flatten().view(torch.uint8)
    if held.storage_offset() % 8 or len(held) % 8:
        held = torch.nn.functional.pad(held, (0, -len(held) % 8)).clone()
    words = held.view(torch.int64)
    places = _mixed(torch.arange(1, 1 + min(len(words), _AT_ONCE), device=words.device)) | 1
    total = torch.zeros((), dtype=torch.int64, device=words.device)
    for first in range(0, len(words), _AT_ONCE):
        part = _mixed(words[first : first + _AT_ONCE])
        total = total * _ODD + part.mul_(places[: len(part)]).sum()
    return total


def _mixed(words: Tensor) -> Tensor:
    """Spread the bits of each number, int64, over all of it."""
    spread = words * _ODD
    spread ^= spread >> 32
    return spread
