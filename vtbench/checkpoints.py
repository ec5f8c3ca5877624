"""Checkpoint files: told apart by their first bytes, and read without running anything that they hold.

What a file's container means (which entry holds the tensors, what their names are) is `vtbench.states`'s.
"""

from __future__ import annotations

import json
import pickle
import re
import shlex
import warnings
import zipfile
from pathlib import Path
from typing import Any

from vtbench.errors import WeightsError

ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
INDEX = ".index.json"

# --- which files ------------------------------------------------------------------------------------------------------

_BESIDE = re.compile(r"(optimizer|scheduler|scaler|sampler|random_states|rng_state|training_args|dl_state)[\w.-]*")
"""Names of what trainers save beside a model (accelerate's `save_state`, transformers' `Trainer`)."""


def files_of(path: Path) -> tuple[Path, ...]:
    """The files that hold a checkpoint's tensors.

    Args:
        path: a checkpoint, the index of a sharded one, or a folder: one that `save_pretrained` wrote, or one with a
            single checkpoint in it.

    Raises:
        WeightsError: if there is none, or if a folder has several.
    """
    try:
        if path.is_dir():
            path = _in_folder(path)
        if not path.is_file():
            raise WeightsError(f"{path}: no such file; expected a checkpoint (.safetensors, .ckpt, .pt or .pth)")
        return shards(path) if path.name.endswith(INDEX) else (path,)
    except OSError as error:
        raise WeightsError(f"{path}: can't be read ({error.strerror})") from error


def _in_folder(folder: Path) -> Path:
    found = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    if (folder / ".metadata").is_file() and any(path.suffix == ".distcp" for path in found):
        raise WeightsError(
            f"{folder}: a distributed checkpoint; make one file of it by "
            f"`python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} {folder.name}.pt`"
        )
    indices = [path for path in found if path.name.endswith(INDEX)]
    sharded = {shard for index in indices for shard in shards(index)}
    single = [path for path in found if path.suffix in ENDINGS and path not in sharded]
    single = [path for path in single if not _BESIDE.fullmatch(path.name)]
    models = indices + single
    # `save_pretrained` may have written one model in both formats, under one name.
    safe = [path for path in models if ".safetensors" in path.suffixes]
    twins = {path.name.replace(".safetensors", ".bin").replace("model.", "pytorch_model.") for path in safe}
    twins |= {path.name.replace(".safetensors", ".bin") for path in safe}
    models = [path for path in models if path.name not in twins]
    if not models:
        inside = sorted(path.parent.name for path in folder.glob("*/*") if path.suffix in ENDINGS and path.is_file())
        below = f"; its folders {', '.join(dict.fromkeys(inside))} hold such: give the path of one" * bool(inside)
        expected = f"expected a file ending in {', '.join(ENDINGS)}"
        raise WeightsError(f"{folder}: no checkpoint in this folder; {expected}{below}")
    if len(models) > 1:
        names = ", ".join(path.name for path in models[:6])
        raise WeightsError(f"{folder}: {len(models)} checkpoints ({names}); give the path of one")
    return models[0]


def shards(index: Path) -> tuple[Path, ...]:
    """The files that an index of shards names, in the order of their names; they lie beside it.

    Raises:
        WeightsError: if it is not an index, or a shard is missing or would lie elsewhere.
    """
    names = named_shards(index)
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise WeightsError(f"{index}: {len(missing)} of its {len(names)} shards are not beside it ({missing[0]}, …)")
    return tuple(index.parent / name for name in names)


def named_shards(index: Path) -> list[str]:
    """The names of files that an index of shards holds, sorted.

    Raises:
        WeightsError: if it is not an index, or a shard would lie elsewhere.
    """
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{index}: not an index of shards; expected JSON with a weight_map") from error
    inside = [name for name in names if isinstance(name, str) and name == Path(name).name and name.isprintable()]
    if not names or len(inside) < len(names):
        raise WeightsError(f"{index}: names shards outside its folder; expected names of files beside it")
    return sorted(inside)


# --- what a file is ---------------------------------------------------------------------------------------------------

_OTHERS = (
    (b"version https://git-lfs", "a Git-LFS pointer, not the file itself; run `git lfs pull`, or download it again"),
    (b"GGUF", "a GGUF file, whose tensors are quantised; expected a checkpoint in floating point"),
    (b"\x89HDF", "an HDF5 file; expected a checkpoint of torch or safetensors"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (b"\xfd7zXZ", "packed by xz; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "packed by Zstandard; unpack it first"),
    (b"\x93NUMPY", "an array of NumPy; expected a checkpoint of torch or safetensors"),
)


_BY_ENDING = {
    ".onnx": "an ONNX graph",
    ".msgpack": "a checkpoint of Flax",
    ".keras": "a model of Keras",
    ".tflite": "a model of TensorFlow Lite",
    ".engine": "a TensorRT engine",
    ".npz": "an archive of NumPy's arrays",
}
"""What the first bytes do not tell for certain."""


def read(path: Path) -> dict[Any, Any]:
    """Read the container of a checkpoint, whatever its ending; its values are whatever the trainer saved.

    Raises:
        WeightsError: if the file is missing, damaged, something else, or would run code.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
        size = path.stat().st_size
    except OSError as error:
        raise WeightsError(f"{path}: can't be read ({error.strerror})") from error
    if not head:
        raise WeightsError(f"{path}: an empty file; fetch it again")
    for magic, what in _OTHERS:
        if head.startswith(magic):
            raise WeightsError(f"{path}: {what}")
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:9].lower().startswith((b"<!doctype", b"<html", b"<head")):
        raise WeightsError(f"{path}: an HTML page, such as a server's login or error page; download the file again")
    if head[257:262] == b"ustar":
        raise WeightsError(f"{path}: a tar archive; unpack it first")
    if path.suffix.lower() in _BY_ENDING:
        raise WeightsError(f"{path}: {_BY_ENDING[path.suffix.lower()]}; expected a checkpoint of torch or safetensors")
    if path.suffix == ".safetensors" and head[:4] != b"PK\x03\x04":
        return _read_safetensors(path)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        return _read_safetensors(path)
    if head[:4] == b"PK\x03\x04":
        _check_archive(path)
    return _read_pickle(path)


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception as error:  # a damaged archive makes zipfile raise many kinds
        raise WeightsError(f"{path}: not a whole checkpoint ({_first_line(error)}); fetch it again") from error
    if any(name.endswith("/constants.pkl") for name in names):
        raise WeightsError(
            f"{path}: a TorchScript archive, which holds code; save the tensors alone on a machine that trusts it: "
            f'`python -c "{_FROM_SCRIPT}" {shlex.quote(str(path))}`'
        )
    if not any(name.endswith("data.pkl") for name in names):
        raise WeightsError(
            f"{path}: a zip archive without a checkpoint in it ({', '.join(names[:3])}); unpack it first"
        )


def _read_safetensors(path: Path) -> dict[Any, Any]:
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except Exception as error:  # beside its own error the library lets through what torch and the decoder raise
        raise WeightsError(f"{path}: not a whole safetensors file ({_first_line(error)}); fetch it again") from error


# --- pickles ----------------------------------------------------------------------------------------------------------


class _Bystander:
    """Stands in for a harmless class that a checkpoint holds beside its tensors; it keeps nothing and does nothing."""

    def __new__(cls, *_: object) -> _Bystander:
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None: ...


class _PlainDictionary:
    """Stands in for classes that are dictionaries: what is unpickled is a plain one."""

    def __new__(cls, *_: object) -> dict[Any, Any]:  # type: ignore[misc]
        return {}


_DICTIONARIES = (
    "collections.defaultdict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
)
_BYSTANDERS = (
    # Lightning 1 keys the state of its callbacks by their classes.
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "pytorch_lightning.callbacks.lr_monitor.LearningRateMonitor",
    # The command line and the configuration that a trainer was started with.
    "argparse.Namespace",
    "types.SimpleNamespace",
    *(
        f"{module}.{name}"
        for module in ("pathlib", "pathlib._local")
        for name in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
    ),
    *(f"omegaconf.{name}" for name in ("dictconfig.DictConfig", "listconfig.ListConfig")),
    *(f"omegaconf.base.{name}" for name in ("ContainerMetadata", "Metadata", "SCMode")),
    *(
        f"omegaconf.nodes.{kind}Node"
        for kind in ("Any", "String", "Integer", "Float", "Boolean", "Bytes", "Path", "Enum", "InterpolationResult")
    ),
    "typing.Any",
    "datetime.datetime",
    "datetime.timedelta",
    # NumPy's scalars, arrays and random states: never the network's tensors, so their values are not needed.
    *(f"{module}.multiarray.{name}" for module in ("numpy.core", "numpy._core") for name in ("scalar", "_reconstruct")),
    "numpy.dtype",
    "numpy.ndarray",
    # What a defaultdict makes for a missing key.
    *(f"builtins.{name}" for name in ("list", "dict", "int", "float", "str", "bool", "tuple", "object")),
    *(f"__builtin__.{name}" for name in ("list", "dict", "int", "float", "str", "bool", "tuple", "object", "unicode")),
)

_CONVERT = (
    "import sys, torch; "
    "held = lambda x: torch.is_tensor(x) or hasattr(x, 'items') or hasattr(x, 'state_dict'); "
    "keep = lambda x: keep(x.state_dict()) if hasattr(x, 'state_dict') else "
    "{k: keep(v) for k, v in x.items() if held(v)} if hasattr(x, 'items') else x; "
    "torch.save(keep(torch.load(sys.argv[1], map_location='cpu', weights_only=False)), 'tensors.pt')"
)
"""Keeps the tensors of a file, of its dictionaries and of its modules."""

_FROM_SCRIPT = "import sys, torch; torch.save(torch.jit.load(sys.argv[1], 'cpu').state_dict(), 'tensors.pt')"


def _read_pickle(path: Path) -> dict[Any, Any]:
    import torch

    harmless: list[Any] = [(_Bystander, name) for name in _BYSTANDERS] + [
        (_PlainDictionary, name) for name in _DICTIONARIES
    ]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(harmless):
            # Newer pickle protocols are read or refused like older ones; warnings add nothing to our errors.
            warnings.simplefilter("ignore")
            with path.open("rb") as file:  # by a path's ending torch would choose another reader
                found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle makes its reader raise nearly anything
        raise _refused(path, error) from error
    if not isinstance(found, dict):
        raise WeightsError(f"{path}: holds a {type(found).__name__}, expected a dictionary of tensors")
    return found


def _refused(path: Path, error: Exception) -> WeightsError:
    named = re.search(r"(?:GLOBAL|class) ([\w.]+\.\w+|\w+) (?:was not|whose module)", str(error))
    if named:
        return WeightsError(
            f"{path}: holds {named[1]}, which could run code, and was not opened; on a machine that trusts the file "
            f'make one of its tensors alone: `python -c "{_CONVERT}" {shlex.quote(str(path))}`'
        )
    if isinstance(error, pickle.UnpicklingError):
        # In front of what was met stands torch's advice to open the file unsafely.
        met = re.search(r"WeightsUnpickler error: *(.+)", str(error))
        met_text = met[1].strip()[:200] if met else ""
        why = f" ({met_text})" if met_text and met_text.isprintable() else ""
        return WeightsError(
            f"{path}: not a pickle of tensors alone, it is broken, no checkpoint or could run code{why}, and was not "
            "opened; expected .safetensors or what torch.save writes; fetch it again"
        )
    return WeightsError(f"{path}: not a whole checkpoint ({_first_line(error)}); fetch it again")


def _first_line(error: Exception) -> str:
    said = str(error).strip().splitlines()
    line = said[0] if said else type(error).__name__
    line = line if line.isprintable() else ascii(line)
    return line if len(line) <= 200 else f"{line[:200]}…"
