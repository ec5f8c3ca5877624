"""The only place where uint8 and float pictures meet, and where pictures are read, resized, cropped and padded.

Tensors are (B, 3, H, W) or (3, H, W), sRGB. A network's value range is a pair (low, high): level 0 maps to low, 255 to
high. Where a network wants (x - mean) / std per channel, low and high are per-channel tuples (see `value_range`).
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO

import numpy as np
import pillow_jxl  # noqa: F401  importing it teaches Pillow to read .jxl
import torch
from PIL import Image, ImageCms, ImageOps
from torch import Tensor
from torch.nn import functional as F

from vtbench.errors import DataError
from vtbench.protocols import Geometry

Range = tuple[float, float] | tuple[tuple[float, ...], tuple[float, ...]]

MAX_PIXELS = 178_956_970
"""A picture that claims more is refused before it is decoded; it is Pillow's own bound against bombs."""


def value_range(low: float, high: float, mean: Sequence[float] | None, std: Sequence[float] | None) -> Range:
    """Say what 0 and 255 become: (low, high), normalised by (v - mean) / std per channel where these are given."""
    if mean is None or std is None:
        return low, high
    pairs = list(zip(mean, std, strict=True))
    return tuple((low - m) / s for m, s in pairs), tuple((high - m) / s for m, s in pairs)


def _ends(span: Range, device: torch.device) -> tuple[Tensor, Tensor]:
    low, high = (torch.as_tensor(end, dtype=torch.float64, device=device).reshape(-1, 1, 1) for end in span)
    return low, high


def to_float(images: Tensor, span: Range = (-1.0, 1.0)) -> Tensor:
    """Turn uint8 pictures into float32 ones: low + v / 255 * (high - low), computed in float64 and rounded once."""
    low, high = _ends(span, images.device)
    # One value a level and channel, looked up: exact, and cheaper than float64 arithmetic on every pixel.
    levels = torch.arange(256, dtype=torch.float64, device=images.device)
    table = (low[:, 0] + levels * (high - low)[:, 0] / 255.0).float()  # (1 or 3, 256)
    if len(table) == 1:
        return table[0][images.long()]
    channels = [table[c][images[..., c, :, :].long()] for c in range(3)]
    return torch.stack(channels, dim=-3)


def to_uint8(values: Tensor, span: Range = (-1.0, 1.0)) -> Tensor:
    """Turn float pictures into uint8 ones: clamp to the range, then round to the nearest level, half up (float64)."""
    low, high = _ends(span, values.device)
    scaled = (values.double() - low) / (high - low) * 255.0
    return torch.floor(scaled.clamp(0.0, 255.0) + 0.5).to(torch.uint8)


def to_unit(values: Tensor, span: Range) -> Tensor:
    """Map float pictures so that 0 is black and 1 is white, in their own type and without a clamp."""
    low, high = (end.to(values.dtype) for end in _ends(span, values.device))
    return (values - low) / (high - low)


def from_unit(values: Tensor, span: Range) -> Tensor:
    """Undo `to_unit`."""
    low, high = (end.to(values.dtype) for end in _ends(span, values.device))
    return low + values * (high - low)


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Extend the right and bottom border by repeating the last column and row, to whole multiples of `multiple`."""
    height, width = images.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    if not bottom and not right:
        return images
    return F.pad(images, (0, right, 0, bottom), mode="replicate")


def crop_to(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut off what `pad_to_multiple` added."""
    return images[..., : size[0], : size[1]]


def from_pil(picture: Image.Image) -> Tensor:
    """Copy an RGB picture into a uint8 tensor, (3, H, W)."""
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).contiguous()


def to_pil(image: Tensor) -> Image.Image:
    """Copy a uint8 tensor, (3, H, W), into an RGB picture."""
    return Image.fromarray(image.permute(1, 2, 0).cpu().numpy())


FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "JXL", "PNG", "PPM", "TGA", "TIFF", "WEBP")
"""What `read` decodes, as Pillow calls it. Other formats stay closed: some of them start programs (EPS)."""


def read(source: Path | bytes | IO[bytes], name: str | None = None, *, plain: bool = False) -> Image.Image:
    """Read a picture file as 8-bit sRGB, as a viewer would show its first frame.

    In this order:

    * animations and files of several pictures: the first frame;
    * orientation: turned upright as EXIF says; a JPEG XL file only as its own codestream says, as its standard asks;
    * 16-bit greyscale: v / 257, rounded; a level that is declared transparent becomes white. Pillow keeps the high
      byte of 16-bit colour. 32-bit integers and floats state no white level and are refused;
    * an embedded ICC profile: to sRGB by LittleCMS, perceptual intent, 8 bits. Pixels stay as they are where the
      profile moves no colour by more than one level (sRGB itself), is damaged, or is of another colour space;
    * CMYK without a usable profile: Pillow's formula, (255 - c) (255 - k) / 255;
    * alpha, also of palettes: laid over white, in sRGB levels.

    Args:
        source: a path, the file's bytes or an open file.
        name: what an error calls the file; a path's own name where left out.
        plain: Pillow's `convert("RGB")` and nothing else, as the published evaluation codes read: neither turned nor
            brought to sRGB, alpha dropped, 16-bit greys clipped.

    Raises:
        DataError: if it can't be decoded, has no pixels or claims more than MAX_PIXELS.
    """
    shown = name or (source.name if isinstance(source, Path) else "picture")
    opened = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with Image.open(opened, formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise DataError(f"{shown}: {picture.width}x{picture.height} pixels, more than the {MAX_PIXELS} allowed")
            if not picture.width * picture.height:
                raise DataError(f"{shown}: {picture.width}x{picture.height} pixels, so there is nothing to score")
            picture.load()
            if plain:
                return picture.convert("RGB")
            return _over_white(_in_srgb(_in_8_bits(_upright(picture), shown)))
    except DataError:
        raise
    except Exception as error:  # decoders let through whatever their parsers meet: struct.error, KeyError, RuntimeError
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{shown}: not a readable picture ({reason})") from error


def _upright(picture: Image.Image) -> Image.Image:
    try:
        turned = picture.format != "JXL" and picture.getexif().get(_ORIENTATION, 1) != 1
        return ImageOps.exif_transpose(picture) if turned else picture
    except Exception:  # EXIF is free-form bytes to Pillow's parser; a damaged entry says nothing of the pixels
        return picture


def _in_8_bits(picture: Image.Image, shown: str) -> Image.Image:
    # Pillow gives the 16-bit greys of PGM files as 32-bit integers, scaled to 65535.
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in (None, "PPM")):
        levels = np.asarray(picture).astype(np.uint32)
        reduced = ((levels + 128) // 257).clip(max=255).astype(np.uint8)
        clear = picture.info.get("transparency")
        if isinstance(clear, int):
            reduced[levels == clear] = 255
        made = Image.fromarray(reduced)
        made.info = {key: value for key, value in picture.info.items() if key == "icc_profile"}
        return made
    if picture.mode in ("I", "F"):
        raise DataError(f"{shown}: 32-bit pixels state no white level; convert it to 8 or 16 bits")
    return picture


_ORIENTATION = 0x0112
_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}
_COLOURS = {"1": "L", "L": "L", "LA": "L", "La": "L", "CMYK": "CMYK"}
_CLEAR = ("RGBA", "LA", "PA", "RGBa", "La")


def _in_srgb(picture: Image.Image) -> Image.Image:
    profile = picture.info.get("icc_profile")
    if not isinstance(profile, bytes) or not profile:
        return picture
    alpha = _with_alpha(picture).getchannel("A") if _has_alpha(picture) else None
    mode = _COLOURS.get(picture.mode, "RGB")
    transform = _to_srgb(profile, mode)
    if transform is None and mode == "L":  # greys often carry the profile of the colour picture they came from
        mode, transform = "RGB", _to_srgb(profile, "RGB")
    if transform is None:
        return picture
    colours = picture if picture.mode == mode else (_with_alpha(picture) if alpha else picture).convert(mode)
    made = transform.apply(colours)
    made.info = {}
    if alpha is not None:
        made.putalpha(alpha)
    return made


def _has_alpha(picture: Image.Image) -> bool:
    return picture.mode in _CLEAR or "transparency" in picture.info


def _with_alpha(picture: Image.Image) -> Image.Image:
    return picture if picture.mode == "RGBA" else picture.convert("RGBA")


@lru_cache(maxsize=32)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Build the way from a profile to sRGB; None where it can't be used or moves nothing."""
    intent = ImageCms.Intent.PERCEPTUAL
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != _SPACES[mode]:
            return None
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB", intent)
        if mode == "CMYK":
            return transform
        steps = np.arange(256, dtype=np.uint8) if mode == "L" else np.linspace(0, 255, 18).astype(np.uint8)
        grid = np.stack(np.meshgrid(*[steps] * 3), axis=-1).reshape(-1, 18, 3) if mode == "RGB" else steps[None]
        probe = Image.fromarray(grid)
        moved = np.asarray(transform.apply(probe), np.int16) - np.asarray(probe.convert("RGB"), np.int16)
    except Exception:  # damaged profiles are common, and viewers pass over them
        return None
    return transform if np.abs(moved).max() > 1 else None


def _over_white(picture: Image.Image) -> Image.Image:
    if _has_alpha(picture):
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, _with_alpha(picture))
    return picture if picture.mode == "RGB" else picture.convert("RGB")


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
    """Left, top, width and height that a picture takes inside the black square of "letterbox"."""
    ratio = min(size / width, size / height)
    inner_width, inner_height = math.ceil(width * ratio), math.ceil(height * ratio)
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
    values = from_pil(picture).float() / 255.0
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
