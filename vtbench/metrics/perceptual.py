"""LPIPS and FLIP: how different two pictures look, to a trained network and to a model of the eye."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vtbench import backbones, images, weights
from vtbench import device as compute
from vtbench.errors import DataError, WeightsError
from vtbench.metrics.pixel import check_pair, filter_axis, linear_rgb, mix_channels

_SMALLEST: Mapping[str, int] = {"alex": 31, "vgg": 16}
"""Pixels of the short side that leave one value after the last pooling."""

PIXELS_PER_DEGREE = 0.7 * (3840 / 0.7) * (math.pi / 180)
"""FLIP's default viewer: 0.7 m from a display 0.7 m and 3840 pixels wide, about 67 pixels in a degree of vision."""

_XYZ = (
    (10135552 / 24577794, 8788810 / 24577794, 4435075 / 24577794),
    (2613072 / 12288897, 8788810 / 12288897, 887015 / 12288897),
    (1425312 / 73733382, 8788810 / 73733382, 70074185 / 73733382),
)
"""FLIP's matrix from linear sRGB to CIE XYZ; white is what it makes of (1, 1, 1)."""

_SENSITIVITY = (
    ((1.0, 0.0047),),
    ((1.0, 0.0053),),
    ((34.1, 0.04), (13.5, 0.025)),
)
"""Contrast sensitivity of the achromatic, red-green and blue-yellow channels: Gaussians by weight and spread."""


def lpips(reference: Tensor, reconstruction: Tensor, *, net: Literal["alex", "vgg"] = "alex") -> Tensor:
    """LPIPS 0.1: 0 for equal pictures, larger the more different they look; symmetric.

    The network is the `lpips` package's own; the pictures are given to it as v / 127.5 - 1, at the size that they have.

    Args:
        reference: uint8, (B, 3, H, W), its short side at least 31 pixels for AlexNet, 16 for VGG16.
        reconstruction: uint8, the same shape and device.
        net: the backbone: AlexNet, or VGG16.

    Returns:
        float64, (B,).

    Raises:
        WeightsError: if the backbone is not on this machine; names the command that brings it.
        DataError: if the two are not uint8 batches of one shape, or too small.
    """
    check_pair(reference, reconstruction)
    if net not in _SMALLEST:
        raise DataError(f'LPIPS with "{net}": no such backbone; expected one of {", ".join(_SMALLEST)}')
    height, width = reference.shape[-2:]
    if min(height, width) < _SMALLEST[net]:
        raise DataError(f"LPIPS of {width}x{height} pixels: {net} needs at least {_SMALLEST[net]}x{_SMALLEST[net]}")
    measure = network(net, reference.device)
    return measure(images.to_float(reference), images.to_float(reconstruction)).flatten().double()


@functools.cache
def network(net: Literal["alex", "vgg"], device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """Build the `lpips` package's module, once a device, for protocols that measure floats which were never rounded.

    It takes two float32 batches (B, 3, H, W), by its authors' rule in [-1, 1], and returns float32 (B, 1, 1, 1).
    Building it needs no connection and draws nothing from torch's random numbers.

    Raises:
        WeightsError: if the backbone is not on this machine; names the command that brings it.
    """
    state = weights.read(backbones.require("lpips-alex" if net == "alex" else "lpips-vgg"))
    with warnings.catch_warnings():
        # The package calls torchvision's constructors as they were before release 0.13.
        warnings.filterwarnings("ignore", "The parameter 'pretrained' is deprecated", UserWarning)
        warnings.filterwarnings("ignore", "Arguments other than a weight enum", UserWarning)
        import lpips as package

        # Without storage: the classifier, which LPIPS does not use, is most of a backbone and is never made.
        with torch.device("meta"):
            built: nn.Module = package.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
    scaling: nn.Module = package.ScalingLayer()
    built.scaling_layer = scaling
    published = weights.read(Path(package.__file__).parent / "weights" / "v0.1" / f"{net}.pth")
    for own in built.state_dict():
        if own.startswith("net."):  # net.slice2.3.weight: the number is that of torchvision's `features`
            name = f"features.{own.split('.', 2)[2]}"
            if name not in state:
                raise WeightsError(f"the backbone of LPIPS ({net}) lacks {name}; run `vtbench fetch lpips` again")
            published[own] = state[name]
    # The package lists its heads twice, as lin0 and as lins.0.
    published |= {name.replace("lin", "lins.", 1): tensor for name, tensor in published.items() if name[:3] == "lin"}
    published |= scaling.state_dict(prefix="scaling_layer.")
    built.load_state_dict(published, assign=True)
    module = built.requires_grad_(False).eval().to(device)

    def measure(reference: Tensor, reconstruction: Tensor) -> Tensor:
        with torch.inference_mode(), compute.exact():
            found: Tensor = module(reference, reconstruction)
        return found

    return measure


def flip(reference: Tensor, reconstruction: Tensor) -> Tensor:
    """FLIP: the difference that is seen when two pictures are flipped in place; 0 for equal pictures, at most 1.

    LDR-FLIP of Andersson et al. 2020, the mean over pixels, for 67 pixels per degree of vision: colour after the
    eye's contrast sensitivity, raised where edges or points appear or vanish. In float64; NVIDIA's own program
    computes in float32. Symmetric.

    Args:
        reference: uint8 sRGB, (B, 3, H, W).
        reconstruction: uint8, the same shape.

    Returns:
        float64, (B,).

    Raises:
        DataError: if the two are not uint8 batches of one shape.
    """
    check_pair(reference, reconstruction)
    # One at a time: its float64 maps of a batch would take gigabytes.
    return torch.stack([_flip_map(x, y).mean() for x, y in zip(reference, reconstruction, strict=True)])


def _flip_map(x: Tensor, y: Tensor) -> Tensor:
    opponents = [_opponent(linear_rgb(side)) for side in (x, y)]
    hues = [_hunt(_seen(side)) for side in opponents]
    extremes = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64, device=x.device)
    green, blue = _hunt(extremes[..., None, None])
    power, knee, level = 0.7, 0.4, 0.95
    largest = _hyab(green, blue).item() ** power
    colour = _hyab(*hues) ** power
    low = level / (knee * largest) * colour
    high = level + (colour - knee * largest) / (largest - knee * largest) * (1.0 - level)
    colour = torch.where(colour < knee * largest, low, high)
    features = [_features((side[0] + 16.0) / 116.0) for side in opponents]
    gap = (features[0] - features[1]).abs().amax(dim=0)
    return colour ** (1.0 - (gap / math.sqrt(2.0)).sqrt())


def _opponent(light: Tensor) -> Tensor:
    """Linear RGB (3, H, W) to YyCxCz, a linear opponent space."""
    x, y, z = mix_channels(light, _XYZ) / _white(light)
    return torch.stack([116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)])


def _white(like: Tensor) -> Tensor:
    return torch.tensor([sum(row) for row in _XYZ], dtype=torch.float64, device=like.device)[:, None, None]


def _seen(opponent: Tensor) -> Tensor:
    """Blur each channel as the eye does; returns linear RGB within [0, 1]."""
    widest = max(spread for channel in _SENSITIVITY for _, spread in channel)
    radius = math.ceil(3.0 * math.sqrt(widest / (2.0 * math.pi**2)) * PIXELS_PER_DEGREE)
    degrees = torch.arange(-radius, radius + 1, dtype=torch.float64, device=opponent.device) / PIXELS_PER_DEGREE
    blurred = []
    for plane, gaussians in zip(opponent, _SENSITIVITY, strict=True):
        total, weight = torch.zeros_like(plane), 0.0
        for amount, spread in gaussians:  # each is separable, their sum is not
            taps = torch.exp(-(math.pi**2) * degrees**2 / spread)
            scale = amount * math.sqrt(math.pi / spread)
            total = total + scale * _correlate(plane, taps, taps)
            weight += scale * taps.sum().item() ** 2
        blurred.append(total / weight)
    y, x, z = (blurred[0] + 16.0) / 116.0, blurred[1] / 500.0, blurred[2] / 200.0
    xyz = torch.stack([y + x, y, y - z]) * _white(opponent)
    back = torch.linalg.inv(torch.tensor(_XYZ, dtype=torch.float64)).tolist()
    return mix_channels(xyz, back).clamp(0.0, 1.0)


def _hunt(light: Tensor) -> Tensor:
    """L*a*b* of linear RGB (..., 3, H, W), its colours weaker where it is dark."""
    relative = mix_channels(light, _XYZ) / _white(light)
    step = 6 / 29
    x, y, z = torch.where(relative > step**3, relative ** (1 / 3), relative / (3 * step**2) + 4 / 29).unbind(-3)
    lightness = 116.0 * y - 16.0
    return torch.stack([lightness, 5.0 * lightness * (x - y), 2.0 * lightness * (y - z)], dim=-3)


def _hyab(first: Tensor, second: Tensor) -> Tensor:
    gap = first - second
    return gap[0].abs() + torch.hypot(gap[1], gap[2])


def _features(luminance: Tensor) -> Tensor:
    """How much of an edge and of a point each pixel is, (2, H, W)."""
    spread = 0.5 * 0.082 * PIXELS_PER_DEGREE  # the width of edges that the eye picks out, in degrees
    radius = math.ceil(3.0 * spread)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64, device=luminance.device)
    smooth = torch.exp(-(offsets**2) / (2.0 * spread**2))
    found = []
    for along in (-offsets * smooth, (offsets**2 / spread**2 - 1.0) * smooth):
        # The positive taps sum to 1 and the negative ones to -1, over both axes.
        rises, falls = along.clamp(min=0.0), along.clamp(max=0.0)
        taps = rises / rises.sum() - falls / falls.sum()
        across = smooth / smooth.sum()
        found.append(torch.hypot(_correlate(luminance, across, taps), _correlate(luminance, taps, across)))
    return torch.stack(found)


def _correlate(plane: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Filter columns with one kernel and rows with another; outside, the border pixel goes on."""
    radius = len(down) // 2
    padded = F.pad(plane[None, None], (radius, radius, radius, radius), mode="replicate")
    return filter_axis(filter_axis(padded, down.tolist(), -2), across.tolist(), -1)[0, 0]
