"""LPIPS: how different two pictures look to a trained network."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from vtbench import backbones, images, weights
from vtbench import device as devices
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
    return SeenOnce(net)(reference, reconstruction)


class SeenOnce:
    """`lpips` for pictures that are compared more than once: the network sees each batch once, while that batch lives.

    A batch is known by its tensor, which nobody may write to meanwhile; an equal copy is another batch. What is kept of
    a 256x256 picture under AlexNet is 2.6 MB.
    """

    def __init__(self, net: Literal["alex", "vgg"] = "alex") -> None:
        """Choose the backbone; it is loaded when the first pictures come."""
        self._net = net
        self._features = WeakTensorKeyDictionary()

    def __call__(self, reference: Tensor, reconstruction: Tensor) -> Tensor:
        """Compare two batches; arguments, value and errors are those of `lpips`."""
        check_pair(reference, reconstruction)
        if self._net not in _SMALLEST:
            raise DataError(f'LPIPS with "{self._net}": no such backbone; expected one of {", ".join(_SMALLEST)}')
        check_side(reference, f"LPIPS ({self._net})", _SMALLEST[self._net])
        measure = network(self._net, reference.device)
        for pictures in (reference, reconstruction):
            if pictures not in self._features:
                self._features[pictures] = measure.features(images.to_float(pictures))
        return measure.distance(self._features[reference], self._features[reconstruction]).flatten().double()


class LearnedDistance:
    """The `lpips` package's module, parted where two pictures meet; for floats that were never rounded, too."""

    def __init__(self, module: nn.Module) -> None:
        """Take the module as `build` gives it, on its device."""
        # On a CPU channels that lie together cost a sixth less; a value moves by its last digits, 1e-7 at most.
        self._format = torch.contiguous_format if next(module.parameters()).is_cuda else torch.channels_last
        module = module.to(memory_format=self._format)
        self._scaling, self._backbone = module.get_submodule("scaling_layer"), module.get_submodule("net")
        self._heads = [*module.get_submodule("lins").children()]

    def __call__(self, reference: Tensor, reconstruction: Tensor) -> Tensor:
        """Compare two float32 batches (B, 3, H, W), by the authors' rule in [-1, 1]: float32, (B, 1, 1, 1)."""
        return self.distance(self.features(reference), self.features(reconstruction))

    def features(self, pictures: Tensor) -> list[Tensor]:
        """Give what is compared of pictures as above: the five layers' outputs, of length 1 at each place."""
        import lpips as package

        with torch.inference_mode(), devices.exact():
            return [
                package.normalize_tensor(layer)
                for layer in self._backbone(self._scaling(pictures.contiguous(memory_format=self._format)))
            ]

    def distance(self, reference: list[Tensor], reconstruction: list[Tensor]) -> Tensor:
        """Compare the features of two batches: float32, (B, 1, 1, 1)."""
        with torch.inference_mode(), devices.exact():
            total = torch.zeros(len(reference[0]), 1, 1, 1, dtype=torch.float32, device=reference[0].device)
            for one, other, head in zip(reference, reconstruction, self._heads, strict=True):
                total += head((one - other) ** 2).mean([2, 3], keepdim=True)
            return total


@functools.cache
def network(net: Literal["alex", "vgg"], device: torch.device) -> LearnedDistance:
    """Build LPIPS' network, once a device. It needs no connection and draws nothing from torch's random numbers.

    Raises:
        WeightsError: if the backbone is not on this machine; names the command that brings it.
    """
    return LearnedDistance(build(net).to(device))


@devices.plain()
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
