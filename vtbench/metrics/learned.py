"""LPIPS: how different two pictures look to a trained network."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from vtbench import backbones, images, weights
from vtbench import device as compute
from vtbench.errors import DataError, WeightsError
from vtbench.metrics.pairs import check_pair, check_side

_SMALLEST: Mapping[str, int] = {"alex": 31, "vgg": 16}
"""Pixels of the short side that leave one value after the last pooling."""


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
    check_side(reference, f"LPIPS ({net})", _SMALLEST[net])
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
    module = build(net).to(device)

    def measure(reference: Tensor, reconstruction: Tensor) -> Tensor:
        with torch.inference_mode(), compute.exact():
            found: Tensor = module(reference, reconstruction)
        return found

    return measure


def build(net: Literal["alex", "vgg"]) -> nn.Module:
    """Put the `lpips` package's module together from its own heads and the backbone's file, on the CPU.

    Raises:
        WeightsError: as `network`.
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
    return built.requires_grad_(False).eval()
