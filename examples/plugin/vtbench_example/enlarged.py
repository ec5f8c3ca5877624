"""EasyOCR on pictures of twice the size: a reader of small letters that the plain one loses.

The file of an OCR engine says itself where its files are, how it is installed and what it can write: `vtbench.ocr.File`
is the whole list. Those are EasyOCR's here; only what is read differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vtbench.ocr import Box, check_image, easyocr

if TYPE_CHECKING:
    from torch import Tensor

SCALE = 2
"""How often a picture is enlarged."""

SCRIPTS = easyocr.SCRIPTS
find, missing, digests, characters = easyocr.find, easyocr.missing, easyocr.digests, easyocr.characters


def version() -> str:
    """What reads, and how: two versions' rates don't compare."""
    return f"{easyocr.version()} at x{SCALE}"


class Engine:
    """Enlarges a picture and lets EasyOCR read it."""

    name = "enlarged"

    def __init__(self, device: str = "cpu") -> None:
        """Build the reader.

        Raises:
            WeightsError: if EasyOCR's weights are not on this machine.
        """
        self._reader = easyocr.Engine(device)
        self.digests: Mapping[str, str] = digests()
        self.version = version()

    def read_boxes(self, image: Tensor, boxes: Sequence[Box]) -> list[str]:
        """Read one line of text in each box of a picture, uint8 (3, H, W)."""
        larger = [(left * SCALE, top * SCALE, right * SCALE, bottom * SCALE) for left, top, right, bottom in boxes]
        return self._reader.read_boxes(_enlarged(image), larger)

    def read_page(self, image: Tensor) -> str:
        """Find the text on a picture, uint8 (3, H, W), and read it."""
        return self._reader.read_page(_enlarged(image))


def _enlarged(image: Tensor) -> Tensor:
    from PIL import Image

    from vtbench import images

    check_image(image)
    height, width = image.shape[-2:]
    return images.from_pil(images.to_pil(image).resize((width * SCALE, height * SCALE), Image.Resampling.BICUBIC))
