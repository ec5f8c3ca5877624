"""RapidOCR: PaddleOCR's PP-OCRv6 networks on onnxruntime, for Latin letters and Chinese.

A second reader beside EasyOCR, of other training and other habits: it still reads letters of 6 pixels. Older models of
its family lose the spaces between Latin words, and so may this one on lossy pictures; the normalisation `spaceless`
leaves that out of account.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vtbench import ocr
from vtbench.backbones.places import Place, first
from vtbench.ocr import Box, around, check_image, grown, reading_order

if TYPE_CHECKING:
    from torch import Tensor

SCRIPTS = ("LATIN", "CJK", "HIRAGANA", "KATAKANA")

_DETECTOR, _RECOGNISER = "PP-OCRv6_det_small.onnx", "PP-OCRv6_rec_small.onnx"
_FILES = {
    _DETECTOR: "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f",
    _RECOGNISER: "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884",
}
_PACKAGES = ("rapidocr", "onnxruntime")

MARGIN = 0.15
"""What a box is enlarged by on each side, as a share of its height: the same as for EasyOCR."""

_BATCH = 8
_INPUT_HEIGHT = 48
_INPUT_WIDTH = 320
"""Pixels that RapidOCR scales a line to, and the least that it pads it to."""


def find() -> Path | None:
    """The folder of its two models, in the package rapidocr; None without that package or without onnxruntime."""
    place = first(_places())
    return place.path if place else None


def digests() -> dict[str, str]:
    """The digests of its two models."""
    place = first(_places())
    return place.digests() if place else {}


def missing() -> str:
    """Name the packages and the command that installs them."""
    return (
        "rapidocr is not on this machine (looked for the packages rapidocr 3.10 and onnxruntime): "
        "run `pip install 'vtbench[rapidocr]'`"
    )


def version() -> str:
    """The releases of RapidOCR and of what runs its models."""
    return ", ".join(f"{package} {importlib.metadata.version(package)}" for package in _PACKAGES)


def characters() -> frozenset[str]:
    """The dictionary in its model: Latin letters with nearly all accents, Chinese, Japanese, many signs."""
    return _dictionary(ocr.require("rapidocr") / _RECOGNISER)


@functools.cache
def _dictionary(model: Path) -> frozenset[str]:
    onnxruntime: Any = importlib.import_module("onnxruntime")
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return frozenset(session.get_modelmeta().custom_metadata_map["character"]) | {" "}


def _places() -> list[Place]:
    if any(importlib.util.find_spec(package) is None for package in _PACKAGES):
        return []
    spec = importlib.util.find_spec("rapidocr")
    folders = (spec.submodule_search_locations or []) if spec else []
    return [Place(Path(folder) / "models", _FILES) for folder in folders]


class Engine:
    """Reads on the CPU, whatever device is asked for: so the same picture gives the same text everywhere."""

    name = "rapidocr"

    def __init__(self, device: str = "cpu") -> None:
        """Check the models' digests, then load them; about 0.5 s.

        Raises:
            WeightsError: if RapidOCR or onnxruntime is not installed, or its models are other files.
        """
        import torch

        folder = ocr.require("rapidocr")
        self.digests: Mapping[str, str] = digests()
        self.version = version()
        rapidocr: Any = importlib.import_module("rapidocr")
        threads = torch.get_num_threads()
        self._reader: Any = rapidocr.RapidOCR(
            params={
                "Global.log_level": "critical",
                "Global.use_cls": False,  # it would turn lines that it takes to be upside down
                "Det.model_path": str(folder / _DETECTOR),
                "Rec.model_path": str(folder / _RECOGNISER),
                "Rec.rec_batch_num": _BATCH,
                "EngineConfig.onnxruntime.intra_op_num_threads": threads,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            }
        )
        self._input: Any = importlib.import_module("rapidocr.ch_ppocr_rec").TextRecInput
        self._recognise: Any = self._reader._load_rec_model()

    def read_boxes(self, image: Tensor, boxes: Sequence[Box]) -> list[str]:
        """Read one line of text in each box; see `vtbench.ocr.Engine`."""
        return self.read_boxes_of([image], [boxes])[0]

    def read_boxes_of(self, images: Sequence[Tensor], boxes: Sequence[Sequence[Box]]) -> list[list[str]]:
        """Read the boxes of several pictures; see `vtbench.ocr.ManyBoxes`."""
        texts = [[""] * len(own) for own in boxes]
        # RapidOCR pads the lines of a batch to the widest of them, which changes what it reads. So lines share a batch
        # only if it would pad them to one width when it read each alone; most are narrower than its least width.
        groups: dict[int, list[tuple[np.ndarray[Any, Any], int, int]]] = defaultdict(list)
        for page, (image, own) in enumerate(zip(images, boxes, strict=True)):
            check_image(image)
            picture = _bgr(image)
            for index, box in enumerate(own):
                left, top, right, bottom = grown(box, image, MARGIN)
                width = int(_INPUT_HEIGHT * max(_INPUT_WIDTH / _INPUT_HEIGHT, (right - left) / (bottom - top)))
                groups[width].append((picture[top:bottom, left:right], page, index))
        for group in groups.values():
            found = self._recognise(self._input(img=[line for line, _, _ in group], return_word_box=False))
            for (_, page, index), text in zip(group, found.txts, strict=True):
                texts[page][index] = str(text).strip()
        return texts

    def read_page(self, image: Tensor) -> str:
        """Find the text on a picture and read it; see `vtbench.ocr.Engine`.

        It pads the lines of a page to the widest of eight, so what it reads hangs on them: pages stay by themselves.
        """
        check_image(image)
        found = self._reader(_bgr(image))
        if found.boxes is None or found.txts is None:
            return ""
        pieces = zip(found.boxes, found.txts, strict=True)
        return reading_order([(around(corners), str(text)) for corners, text in pieces])


def _bgr(image: Tensor) -> np.ndarray[Any, Any]:
    """RapidOCR takes an array to be blue first."""
    return np.ascontiguousarray(image.flip(0).permute(1, 2, 0).cpu().numpy())
