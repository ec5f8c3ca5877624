"""Image codecs as networks: JPEG, WebP, AVIF and JPEG XL, the baselines that every learned tokenizer stands beside.

A picture's codes are one complete file, headers and all, so its bits are what a disk would hold. Everything that
changes the bytes is stated here; the libraries' versions are the only thing left to the machine.
"""

from __future__ import annotations

import io
from typing import Literal

import pillow_jxl  # noqa: F401  (registers JPEG XL with Pillow)
import torch
from pydantic import Field
from torch import Tensor, nn

from vtbench import images, pictures
from vtbench.errors import DataError
from vtbench.types import Codes, Strict

Format = Literal["jpeg", "webp", "avif", "jxl"]

OPTIONS: dict[Format, dict[str, str | int | bool]] = {
    "jpeg": {"subsampling": "4:2:0", "optimize": True, "progressive": False},
    "webp": {"lossless": False, "method": 6, "exact": False},
    # One thread and no tiling: libavif chooses tiles by the number of threads, and tiles change the bytes.
    "avif": {
        "subsampling": "4:2:0",
        "speed": 6,
        "codec": "aom",
        "range": "full",
        "max_threads": 1,
        "autotiling": False,
    },
    "jxl": {"lossless": False, "effort": 7, "decoding_speed": 0, "use_container": False, "num_threads": 0},
}
"""What Pillow's `save` is told beside the quality. WebP is 4:2:0 by its format; JPEG XL keeps all chroma."""


class Config(Strict):
    """One codec at one quality."""

    format: Format
    quality: int = Field(ge=1, le=100)
    """On the codec's own scale; the scales of two codecs are not comparable."""


class Network(nn.Module):
    """Encodes every picture of a batch on its own; has no tensors and keeps no state between calls."""

    takes_levels = True

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    def encode(self, x: Tensor) -> Codes:
        """Write one file a picture.

        Args:
            x: uint8, (B, 3, H, W).

        Raises:
            DataError: if the format has no room for a picture of this size.
        """
        return Codes(bitstream=tuple(self._file(picture) for picture in x))

    def decode(self, codes: Codes) -> Tensor:
        """Read the files back: uint8, (B, 3, H, W).

        Raises:
            DataError: if a file is damaged.
        """
        read = (pictures.read(file, f"{self.config.format} file") for file in codes.bitstream)
        return torch.stack([images.from_pil(picture) for picture in read])

    def _file(self, picture: Tensor) -> bytes:
        file = io.BytesIO()
        try:
            # Pillow's names of the formats are these in capitals.
            images.to_pil(picture).save(
                file, format=self.config.format.upper(), quality=self.config.quality, **OPTIONS[self.config.format]
            )
        except (OSError, ValueError) as error:
            height, width = picture.shape[-2:]
            reason = " ".join(str(error).split())
            raise DataError(
                f"{self.config.format} can't hold a picture of {width}x{height} pixels ({reason}); use a smaller one"
            ) from error
        return file.getvalue()
