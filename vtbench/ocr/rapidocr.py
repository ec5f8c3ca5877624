"""RapidOCR: PaddleOCR's PP-OCRv6 networks on onnxruntime, for Latin letters and Chinese.

A second reader beside EasyOCR, of other training and other habits: it still reads letters of 6 pixels. Older models of
its family lose the spaces between Latin words, and so may this one on lossy pictures; the normalisation `spaceless`
leaves that out of account.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vtbench import backbones
from vtbench.ocr import Box, around, check_image, grown, reading_order

MARGIN = 0.15
"""What a box is enlarged by on each side, as a share of its height: the same as for EasyOCR."""

_BATCH = 8
_INPUT_HEIGHT = 48
_INPUT_WIDTH = 320
"""Pixels that RapidOCR scales a line to, and the least that it pads it to."""


class Engine:
    """Reads on the CPU, whatever device is asked for: so the same picture gives the same text everywhere."""

    name = "rapidocr"

    def __init__(self, device: str = "cpu") -> None:
        """Check the models' digests, then load them; about 0.5 s.

        Raises:
            WeightsError: if RapidOCR or onnxruntime is not installed, or its models are other files.
        """
        folder = backbones.require("rapidocr")
        self.digests: Mapping[str, str] = backbones.digests("rapidocr")
        packages = ("rapidocr", "onnxruntime")
        self.version = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
        rapidocr: Any = importlib.import_module("rapidocr")
        threads = torch.get_num_threads()
        self._reader: Any = rapidocr.RapidOCR(
            params={
                "Global.log_level": "critical",
                "Global.use_cls": False,  # it would turn lines that it takes to be upside down
                "Det.model_path": str(folder / "PP-OCRv6_det_small.onnx"),
                "Rec.model_path": str(folder / "PP-OCRv6_rec_small.onnx"),
                "Rec.rec_batch_num": _BATCH,
                "EngineConfig.onnxruntime.intra_op_num_threads": threads,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            }
        )
        self._input: Any = importlib.import_module("rapidocr.ch_ppocr_rec").TextRecInput
        self._recognise: Any = self._reader._load_rec_model()

    def read_boxes(self, image: Tensor, boxes: Sequence[Box]) -> list[str]:
        """Read one line of text in each box; see `vtbench.ocr.Engine`."""
        check_image(image)
        texts = [""] * len(boxes)
        # RapidOCR pads the lines of a batch to the widest of them, which changes what it reads. So lines share a batch
        # only if it would pad them to one width when it read each alone; most are narrower than its least width.
        groups: dict[int, list[tuple[np.ndarray[Any, Any], int]]] = defaultdict(list)
        picture = _bgr(image)
        for index, box in enumerate(boxes):
            left, top, right, bottom = grown(box, image, MARGIN)
            width = int(_INPUT_HEIGHT * max(_INPUT_WIDTH / _INPUT_HEIGHT, (right - left) / (bottom - top)))
            groups[width].append((picture[top:bottom, left:right], index))
        for group in groups.values():
            found = self._recognise(self._input(img=[line for line, _ in group], return_word_box=False))
            for (_, index), text in zip(group, found.txts, strict=True):
                texts[index] = str(text).strip()
        return texts

    def read_page(self, image: Tensor) -> str:
        """Find the text on a picture and read it; see `vtbench.ocr.Engine`."""
        check_image(image)
        found = self._reader(_bgr(image))
        if found.boxes is None or found.txts is None:
            return ""
        pieces = zip(found.boxes, found.txts, strict=True)
        return reading_order([(around(corners), str(text)) for corners, text in pieces])


def _bgr(image: Tensor) -> np.ndarray[Any, Any]:
    """RapidOCR takes an array to be blue first."""
    return np.ascontiguousarray(image.flip(0).permute(1, 2, 0).cpu().numpy())
