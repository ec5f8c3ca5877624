"""How a picture is brought to a size: the canonical rule, and those of the published protocols."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vtbench.errors import DataError
from vtbench.images import from_pil, to_float
from vtbench.protocols import Geometry


def resize_and_crop(picture: Image.Image, size: int) -> Image.Image:
    """Bring a picture to size x size by the canonical rule: short side by PIL's Lanczos filter, then the centre square.

    Sides and offset follow torchvision: the long side is int(size * long / short); the crop starts at
    round((side - size) / 2), half to even. A picture that has the size already is returned unchanged.
    """
    return _torchvision(picture, size, Image.Resampling.LANCZOS)


# --- geometry of the published protocols: RGB picture and size in, (3, H, W) out --------------------------------------


def fit(picture: Image.Image, geometry: Geometry, size: int) -> Tensor:
    """Bring a raw RGB picture to the pixels that a protocol scores.

    Args:
        picture: RGB, of any size.
        geometry: a rule of `GEOMETRIES`, by name.
        size: height and width; rules that keep the native size pass over it.

    Returns:
        uint8, (3, H, W); float32 in [0, 1] for "tensor-bilinear", whose resize is never rounded to levels.

    Raises:
        DataError: if the rule can't make a picture of that size out of this one.
    """
    made = _RULES[geometry](picture, size)
    if geometry != "native-padded" and made.shape != (3, size, size):
        raise DataError(f"{geometry} makes {tuple(made.shape)} of {picture.width}x{picture.height}, not {size}x{size}")
    return made


def letterbox_window(width: int, height: int, size: int) -> tuple[int, int, int, int]:
    """Left, top, width and height of a picture inside the black square of "letterbox"; its long side is `size`."""
    ratio = min(size / width, size / height)
    # In floats a side times the ratio that makes it `size` may be a little more, and the next whole number is cut off.
    inner_width, inner_height = (min(math.ceil(side * ratio), size) for side in (width, height))
    return (size - inner_width) // 2, (size - inner_height) // 2, inner_width, inner_height


def centre_window(width: int, height: int, size: int) -> tuple[int, int, int, int]:
    """Left and top of the centre square of `size`, and width and height of the resized picture that it is cut from.

    torchvision's rule: the short side becomes `size`, the long side is truncated, the offset rounded half to even.
    """
    other = int(size * max(width, height) / min(width, height))
    wide, high = (size, other) if width <= height else (other, size)
    return round((wide - size) / 2.0), round((high - size) / 2.0), wide, high


def padded_window(width: int, height: int, multiple: int = 16) -> tuple[int, int]:
    """Left and top of a picture inside its black padding to whole multiples: half of it before, rounded down."""
    return (-width % multiple) // 2, (-height % multiple) // 2


def _torchvision(picture: Image.Image, size: int, filter_: Image.Resampling) -> Image.Image:
    left, top, width, height = centre_window(picture.width, picture.height, size)
    if picture.size != (width, height):
        picture = picture.resize((width, height), filter_)
    return picture if picture.size == (size, size) else picture.crop((left, top, left + size, top + size))


def _cover(picture: Image.Image, size: int, filter_: Image.Resampling) -> Tensor:
    scale = size / min(picture.size)
    resized = picture.resize((round(picture.width * scale), round(picture.height * scale)), filter_)
    left, top = (resized.width - size) // 2, (resized.height - size) // 2
    return from_pil(resized.crop((left, top, left + size, top + size)))


def _cv2_bilinear(picture: Image.Image, size: int) -> Tensor:
    import cv2

    levels = np.asarray(picture)
    height, width = levels.shape[:2]
    scale = size / min(height, width)
    if scale != 1.0:
        target = (round(width * scale), round(height * scale))
        levels = np.asarray(cv2.resize(levels, target, interpolation=cv2.INTER_LINEAR))
    top, left = (levels.shape[0] - size) // 2, (levels.shape[1] - size) // 2
    return torch.from_numpy(levels[top : top + size, left : left + size].copy()).permute(2, 0, 1).contiguous()


def _adm(picture: Image.Image, size: int) -> Tensor:
    while min(picture.size) >= 2 * size:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    return _cover(picture, size, Image.Resampling.BICUBIC)


def _tensor_bilinear(picture: Image.Image, size: int) -> Tensor:
    left, top, width, height = centre_window(picture.width, picture.height, size)
    values = to_float(from_pil(picture), (0.0, 1.0))
    if picture.size != (width, height):
        values = F.interpolate(values[None], (height, width), mode="bilinear", align_corners=False, antialias=True)[0]
    return values[:, top : top + size, left : left + size].contiguous()


def _native_padded(picture: Image.Image, size: int) -> Tensor:
    del size
    left, top = padded_window(picture.width, picture.height)
    right, bottom = -picture.width % 16 - left, -picture.height % 16 - top
    return F.pad(from_pil(picture), (left, right, top, bottom))


def _letterbox(picture: Image.Image, size: int) -> Tensor:
    left, top, width, height = letterbox_window(picture.width, picture.height, size)
    canvas = Image.new("RGB", (size, size))
    canvas.paste(picture.resize((width, height), Image.Resampling.LANCZOS), (left, top))
    return from_pil(canvas)


_RULES: Mapping[Geometry, Callable[[Image.Image, int], Tensor]] = {
    "pil-lanczos": lambda picture, size: from_pil(resize_and_crop(picture, size)),
    "pil-bilinear": lambda picture, size: from_pil(_torchvision(picture, size, Image.Resampling.BILINEAR)),
    "pil-bicubic": lambda picture, size: from_pil(_torchvision(picture, size, Image.Resampling.BICUBIC)),
    "pil-lanczos-cover": lambda picture, size: _cover(picture, size, Image.Resampling.LANCZOS),
    "cv2-bilinear": _cv2_bilinear,
    "adm": _adm,
    "tensor-bilinear": _tensor_bilinear,
    "native-padded": _native_padded,
    "letterbox": _letterbox,
}
