"""The only place where uint8 and float pictures meet: levels, ranges, padding and cropping.

Tensors are (B, 3, H, W) or (3, H, W), sRGB. A network's value range is a pair (low, high): level 0 maps to low, 255 to
high. Where a network wants (x - mean) / std per channel, low and high are per-channel tuples (see `value_range`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vtbench.device import constant

Range = tuple[float, float] | tuple[tuple[float, ...], tuple[float, ...]]


def value_range(low: float, high: float, mean: Sequence[float] | None, std: Sequence[float] | None) -> Range:
    """Say what 0 and 255 become: (low, high), normalised by (v - mean) / std per channel where these are given."""
    if mean is None or std is None:
        return low, high
    pairs = list(zip(mean, std, strict=True))
    return tuple((low - m) / s for m, s in pairs), tuple((high - m) / s for m, s in pairs)


def _ends(span: Range, device: torch.device) -> tuple[Tensor, Tensor]:
    low, high = (constant(end, device).reshape(-1, 1, 1) for end in span)
    return low, high


def to_float(images: Tensor, span: Range = (-1.0, 1.0)) -> Tensor:
    """Turn uint8 pictures into float32 ones: low + v / 255 * (high - low), computed in float64 and rounded once."""
    low, high = _ends(span, images.device)
    # One value a level and channel, looked up: exact, and cheaper than float64 arithmetic on every pixel.
    levels = torch.arange(256, dtype=torch.float64, device=images.device)
    table = (low[:, 0] + levels * (high - low)[:, 0] / 255.0).float()  # (1 or 3, 256)
    if len(table) == 1:
        return table[0].index_select(0, images.flatten().int()).view(images.shape)
    channels = [table[c][images[..., c, :, :].long()] for c in range(3)]
    return torch.stack(channels, dim=-3)


def to_uint8(values: Tensor, span: Range = (-1.0, 1.0)) -> Tensor:
    """Turn float pictures into uint8 ones: clamp to the range, then round to the nearest level, half up (float64)."""
    low, high = _ends(span, values.device)
    # In place: float64 copies of all pixels would cost as much as the arithmetic.
    scaled = (values.double() - low).div_(high - low).mul_(255.0)
    return scaled.clamp_(0.0, 255.0).add_(0.5).floor_().to(torch.uint8)


def to_levels(values: Tensor) -> Tensor:
    """Round levels that float64 arithmetic made of levels to uint8 ones: clamp, then to the nearest, half up.

    What lies 1e-9 or less under a half counts as one: means of pixels are often a half exactly, and the order of their
    additions must not decide it.
    """
    return values.add(0.5 + 1e-9).floor_().clamp_(0.0, 255.0).to(torch.uint8)


def to_unit(values: Tensor, span: Range) -> Tensor:
    """Map float pictures so that 0 is black and 1 is white, in their own type and without a clamp."""
    low, high = (end.to(values.dtype) for end in _ends(span, values.device))
    return (values - low) / (high - low)


def from_unit(values: Tensor, span: Range) -> Tensor:
    """Undo `to_unit`."""
    low, high = (end.to(values.dtype) for end in _ends(span, values.device))
    return low + values * (high - low)


def padded_size(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Height and width as `pad_to_multiple` leaves them."""
    return size[0] + -size[0] % multiple, size[1] + -size[1] % multiple


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Extend the right and bottom border by repeating the last column and row, to whole multiples of `multiple`."""
    height, width = images.shape[-2:]
    whole = padded_size((height, width), multiple)
    if whole == (height, width):
        return images
    return F.pad(images, (0, whole[1] - width, 0, whole[0] - height), mode="replicate")


def crop_to(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut off what `pad_to_multiple` added."""
    return images[..., : size[0], : size[1]]


def from_pil(picture: Image.Image) -> Tensor:
    """Copy an RGB picture into a uint8 tensor, (3, H, W)."""
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).contiguous()


def to_pil(image: Tensor) -> Image.Image:
    """Copy a uint8 tensor, (3, H, W), into an RGB picture."""
    return Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
