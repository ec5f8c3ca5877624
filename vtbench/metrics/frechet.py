"""FID and KID: how far apart two sets of pictures are; rFID where one set is the other's reconstruction."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vtbench import backbones, images, weights
from vtbench import device as devices
from vtbench.errors import DataError, WeightsError
from vtbench.metrics.gaussians import Gaussian, Growing, distance, gaussian, left_out, merged
from vtbench.statistics import GROUPS, jackknife_ends

Array = np.ndarray[Any, np.dtype[np.float64]]

Floats = np.ndarray[Any, np.dtype[np.float32]] | Array
Resize = Literal["tf1", "bilinear", "antialias", "clean"]

FEATURES = 2048
"""Values a picture: Inception's last average pooling."""

SIDE = 299
"""Pixels a side that the network is fed."""

RESIZES: dict[Resize, str] = {
    "tf1": "torch-fidelity: TensorFlow 1's bilinear filter, no antialiasing, no half-pixel centres; (v - 128) / 128",
    "bilinear": "pytorch-fid: torch's bilinear filter, half-pixel centres, no antialiasing; onto [-1, 1]; also floats",
    "antialias": "torchmetrics from 1.8: torch's bilinear filter with antialiasing; (v - 128) / 128",
    "clean": "clean-fid: Pillow's bicubic filter with antialiasing, floats a channel, clipped; (v - 128) / 128",
}
"""The rules by which programs bring pictures to 299 x 299; each gives another FID."""

_LAYERS = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1"),
    *("Conv2d_3b_1x1", "Conv2d_4a_3x3", "MaxPool_2"),
    *("Mixed_5b", "Mixed_5c", "Mixed_5d"),
    *("Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
    *("Mixed_7a", "Mixed_7b", "Mixed_7c", "AvgPool"),
)


class FrechetDistance:
    """Gathers Inception's features of two sets of pictures and compares their Gaussians.

    The network is torch-fidelity's, equal to the TensorFlow one of the original FID. What it is fed depends on the
    resize rule, which moves the value: state it. The value falls with the number of pictures: compare sets of one size,
    and state it too.
    """

    def __init__(
        self,
        *,
        inception: Mapping[str, Tensor] | None = None,
        device: str | torch.device = "cpu",
        resize: Resize = "tf1",
        precision: Literal["fp32", "fp64"] = "fp32",
    ) -> None:
        """Load the network.

        Args:
            inception: its tensors under the published names, in place of the file on this machine.
            device: where it runs.
            resize: how pictures are brought to 299 x 299, a name of `RESIZES`.
            precision: of the network, and of the features.

        Raises:
            WeightsError: if the file is not on this machine, or the tensors are not the network's.
            DataError: if the rule or the precision is unknown.
        """
        if resize not in RESIZES:
            raise DataError(f'FID with resize "{resize}": expected one of {", ".join(RESIZES)}')
        if precision not in ("fp32", "fp64"):
            raise DataError(f'FID in "{precision}": expected fp32 or fp64')
        state = weights.read(backbones.require("inception")) if inception is None else inception
        self.resize = resize
        self.dtype = torch.float64 if precision == "fp64" else torch.float32
        self.network = _build(state).to(device, self.dtype)
        self.device = torch.device(device)
        self._features: dict[bool, list[Floats]] = {True: [], False: []}

    def features(self, images: Tensor) -> Floats:
        """Compute the features of some pictures, without counting them.

        Args:
            images: uint8, (B, 3, H, W), of any size; under the rule "bilinear" also float32 within [0, 1], for
                protocols that never round to levels.

        Returns:
            (B, 2048), float32, or float64 where the network is.

        Raises:
            DataError: if it is not such a batch.
        """
        return cast(Floats, self.pooled(images).cpu().numpy())

    def logits_of(self, pooled: Tensor) -> Floats:
        """Compute what an Inception score is made of, from what `pooled` gave: logits without their bias, (B, 1008)."""
        head = cast(Tensor, self.network.get_parameter("fc.weight"))
        return cast(Floats, (pooled @ head.T).cpu().numpy())

    def pooled(self, pictures: Tensor) -> Tensor:
        """Compute the features of some pictures as a tensor on the device, (B, 2048); arguments as of `features`."""
        x = feed(pictures, self.resize, device=self.device, dtype=self.dtype)
        with torch.no_grad(), devices.exact():
            for name in _LAYERS:
                x = self.network.get_submodule(name)(x)
        return x.flatten(1)

    def update(self, images: Tensor, *, real: bool) -> None:
        """Add pictures to one of the two sets.

        Args:
            images: as for `features`.
            real: True for the originals, False for the reconstructions.

        Raises:
            DataError: if it is not such a batch.
        """
        self._features[real].append(self.features(images))

    def compute(self) -> float:
        """Compare the two sets, as `frechet_distance` does.

        Raises:
            DataError: if a set has fewer than two pictures.
        """
        real, fake = self._gathered()
        return frechet_distance(real, fake)

    def interval(self) -> tuple[float, float]:
        """Give the 95% interval of `compute`, as `frechet_interval` does.

        Raises:
            DataError: if a set has too few pictures.
        """
        real, fake = self._gathered()
        return frechet_interval(real, fake)

    def _gathered(self) -> tuple[Floats, Floats]:
        empty = np.empty((0, FEATURES), dtype=np.float32)
        real, fake = (np.concatenate([empty, *self._features[which]]) for which in (True, False))
        return real, fake


def inception_features(device: torch.device) -> Callable[[Tensor], Tensor]:
    """Load FID's Inception network; the result gives the features, (B, 2048), of uint8 pictures (B, 3, H, W).

    They stay on the device: nobody has waited for them.

    Raises:
        WeightsError: if its file is not on this machine.
    """
    return FrechetDistance(device=device).pooled


def feed(
    pictures: Tensor, resize: Resize, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Tensor:
    """Bring pictures to what Inception is fed: (B, 3, 299, 299) in about [-1, 1], by one of the `RESIZES`.

    Args:
        pictures: uint8, (B, 3, H, W); under the rule "bilinear" also float32 within [0, 1].
        resize: the rule.
        device: where it is computed, but for "clean", which Pillow does.
        dtype: of the computation, but for "clean", which Pillow does in float32.

    Raises:
        DataError: if it is no such batch.
    """
    floats = resize == "bilinear" and pictures.dtype == torch.float32
    if (pictures.dtype != torch.uint8 and not floats) or pictures.ndim != 4 or pictures.shape[1] != 3:
        also = ", or float32 within [0, 1]" if resize == "bilinear" else ""
        raise DataError(
            f'FID by "{resize}" got {tuple(pictures.shape)} {pictures.dtype}; expected a uint8 batch (B, 3, H, W){also}'
        )
    if floats and pictures.numel() and not (pictures.min() >= 0 and pictures.max() <= 1):  # also refuses nan
        raise DataError(f"FID got floats from {pictures.min():.3g} to {pictures.max():.3g}; expected within [0, 1]")
    size = (SIDE, SIDE)
    if resize == "bilinear":
        shares = pictures if floats else images.to_float(pictures, (0.0, 1.0))
        return 2.0 * F.interpolate(shares.to(device, dtype), size, mode="bilinear", align_corners=False) - 1.0
    if resize == "clean":
        resized = torch.from_numpy(np.stack([_bicubic(picture) for picture in pictures.cpu()])).to(device, dtype)
    elif resize == "antialias":
        levels = pictures.to(device, dtype)
        resized = F.interpolate(levels, size, mode="bilinear", align_corners=False, antialias=True)
    else:
        from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

        resized = interpolate_bilinear_2d_like_tensorflow1x(pictures.to(device, dtype), size=size, align_corners=False)
    return (resized - 128.0) / 128.0


def _bicubic(picture: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Resize a uint8 picture (3, H, W) channel by channel in Pillow's 32-bit float mode, clipped to [0, 255]."""
    planes = [Image.fromarray(plane) for plane in picture.float().numpy()]
    resized = [np.asarray(plane.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for plane in planes]
    return np.stack(resized).clip(0.0, 255.0)


def inception_score(logits: Floats) -> float:
    """Inception score of a set: exp of the mean divergence of each picture's classes from all pictures', in one split.

    Salimans et al. 2016. From 1 (all pictures give the same classes) to the number of classes or of pictures,
    whichever is smaller; grows with n. Published code often takes the mean over ten splits instead.

    Args:
        logits: (n, classes), as `FrechetDistance.logits_of` gives them.

    Raises:
        DataError: if there is no picture.
    """
    if logits.ndim != 2 or not len(logits):
        raise DataError(f"Inception score of {logits.shape}: expected (pictures, classes), at least one picture")
    values = logits.astype(np.float64)
    shares = np.exp(values - values.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    tiny = 1e-16  # keeps the logarithm of a share that is 0 finite
    divergence = shares * (np.log(shares + tiny) - np.log(shares.mean(axis=0) + tiny))
    return float(np.exp(divergence.sum(axis=1).mean()))


def frechet_distance(real_features: np.ndarray[Any, Any], fake_features: np.ndarray[Any, Any]) -> float:
    """Squared Fréchet distance between the Gaussians fitted to two sets of features; symmetric, 0 for equal sets.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) with sample covariances S (n - 1), in float64. With S = A^T A the trace
    of the root is the sum of the singular values of A1 A2^T: no root of a singular matrix is taken, so the value is
    exact for fewer pictures than features too.

    Args:
        real_features: (n, d).
        fake_features: (m, d); m may differ from n.

    Raises:
        DataError: if a set has fewer than two rows, or d differs.
    """
    _check_features(real_features, fake_features)
    return distance(gaussian(real_features), gaussian(fake_features))


def frechet_interval(real_features: np.ndarray[Any, Any], fake_features: np.ndarray[Any, Any]) -> tuple[float, float]:
    """95% interval of `frechet_distance` over the choice of pictures, by a jackknife over ten groups.

    Row i belongs to group i mod 10 of its set, so a picture and its reconstruction leave together and the interval
    depends on the order of the rows alone, not on how they were gathered. The distance is computed ten times with one
    group left out; the interval is the distance plus and minus t(9 degrees of freedom) times
    sqrt(9 / 10 * sum of squared deviations of the ten from their mean); it ends at 0 where it would pass it.

    It says how far the value would move with other pictures of the same kind and number. The distance's own bias
    (it is larger for fewer pictures, about as 1 / n) is not removed and not covered: compare sets of one size.

    Cost: one pass over the features, then some thirty QR decompositions of at most 4096 x 2048 a set and ten SVDs of at
    most 2048 x 2048, whatever the number of pictures.

    Args:
        real_features: (n, d).
        fake_features: (m, d), row i the reconstruction of row i where n = m.

    Raises:
        DataError: if a set has fewer than 20 rows, or d differs.
    """
    _check_features(real_features, fake_features, at_least=2 * GROUPS)
    sides = [
        left_out([gaussian(features[group::GROUPS]) for group in range(GROUPS)])
        for features in (real_features, fake_features)
    ]
    left = np.array([distance(real, fake) for real, fake in zip(*sides, strict=True)])
    low, high = jackknife_ends(frechet_distance(real_features, fake_features), left)
    return max(0.0, low), high


class FrechetSums:
    """Two sets of features as far as `frechet_distance` and `frechet_interval` need them, to rounding.

    The memory that it takes does not grow with the number of pictures: 20 matrices of at most 2048 x 2048, 0.7 GB, and
    as much again while the interval of 20,480 pictures or fewer is computed.
    """

    def __init__(self) -> None:
        self._sides = [[Growing() for _ in range(GROUPS)] for _ in range(2)]
        self.count = 0
        """Pictures so far."""

    def add(self, real: np.ndarray[Any, Any], fake: np.ndarray[Any, Any]) -> None:
        """Add the features of one picture and of its reconstruction, (d,) each; the order of pictures makes groups."""
        for side, row in zip(self._sides, (real, fake), strict=True):
            side[self.count % GROUPS].add(row)
        self.count += 1

    def distance(self) -> float:
        """Give the distance of the two sets.

        Raises:
            DataError: if there are fewer than two pictures.
        """
        if self.count < 2:
            raise DataError(f"FID of {self.count} pictures: expected at least two")
        return distance(*(merged(side) for side in self._parts()))

    def interval(self) -> tuple[float, float]:
        """Give the 95% interval of the distance.

        Raises:
            DataError: if there are fewer than 20 pictures.
        """
        if self.count < 2 * GROUPS:
            raise DataError(f"the interval of FID of {self.count} pictures: expected at least {2 * GROUPS}")
        pairs = zip(*(left_out(side) for side in self._parts()), strict=True)
        low, high = jackknife_ends(self.distance(), np.array([distance(real, fake) for real, fake in pairs]))
        return max(0.0, low), high

    def _parts(self) -> list[list[Gaussian]]:
        return [[one for growing in side if (one := growing.gaussian)] for side in self._sides]


def kernel_distance(real_features: np.ndarray[Any, Any], fake_features: np.ndarray[Any, Any]) -> float:
    """Kernel Inception Distance: squared MMD under the kernel (x.y / d + 1)^3, the usual estimate; symmetric.

    Binkowski et al. 2018. Over all pairs at once, where other programs average over random subsets: no seed is
    involved. Of two independent sets it is unbiased at any number, and scatters around 0 where they have one
    distribution.

    Of pictures and their own reconstructions it is not: the mean across the sets also counts each picture with its
    reconstruction, which are more alike than two others. That lowers the value by 2 / n of what their kernel is higher
    by: equal sets have a value below 0 that goes as 1 / n, and so may a good tokenizer. Compare sets of one size.

    Args:
        real_features: (n, d).
        fake_features: (m, d); m may differ from n.

    Raises:
        DataError: if a set has fewer than two rows, or d differs.
    """
    _check_features(real_features, fake_features)
    return _Kernels(real_features, fake_features).distance(EVERYONE)


class KernelSums:
    """KID and its interval of two sets that come picture by picture; every pair is looked at once for both."""

    def __init__(self) -> None:
        self._sides: tuple[list[Array], list[Array]] = ([], [])
        self._kernels: _Kernels | None = None

    @property
    def count(self) -> int:
        """How many pictures a side has."""
        return len(self._sides[0])

    def add(self, real: np.ndarray[Any, Any], fake: np.ndarray[Any, Any]) -> None:
        """Take the features of one picture before and after, (d,) each."""
        for side, features in zip(self._sides, (real, fake), strict=True):
            side.append(features)
        self._kernels = None

    def distance(self) -> float:
        """KID of all pictures, as `kernel_distance`."""
        return self._compared().distance(EVERYONE)

    def interval(self) -> tuple[float, float]:
        """95% interval of the distance over the choice of pictures, by the jackknife of `frechet_interval`.

        Like the value it may lie under 0. It is an interval for the true distance where the sets are independent; where
        one is the other's reconstruction, what lowers the value (`kernel_distance`) is neither removed nor covered.

        Raises:
            DataError: if there are fewer than 20 pictures.
        """
        if self.count < 2 * GROUPS:
            raise DataError(f"the interval of KID of {self.count} pictures: expected at least {2 * GROUPS}")
        return self._compared().interval()

    def _compared(self) -> _Kernels:
        if self._kernels is None:
            self._kernels = _Kernels(*(np.stack(side) for side in self._sides))
        return self._kernels


EVERYONE = np.ones(GROUPS, dtype=bool)
"""The groups of the jackknife, none left out."""


class _Kernels:
    """Sums of the kernel over the pairs of each two groups of the jackknife: row i is in group i mod 10."""

    def __init__(self, real: np.ndarray[Any, Any], fake: np.ndarray[Any, Any]) -> None:
        self._within = [_by_group(side, side, same=True) for side in (real, fake)]
        self._across = _by_group(real, fake)
        self._counts = [np.array([len(side[group::GROUPS]) for group in range(GROUPS)]) for side in (real, fake)]

    def distance(self, kept: np.ndarray[Any, np.dtype[np.bool_]]) -> float:
        """KID of the pictures of some groups."""
        n, m = (int(count[kept].sum()) for count in self._counts)
        first, second, mixed = (float(sums[kept][:, kept].sum()) for sums in (*self._within, self._across))
        return first / (n * (n - 1)) + second / (m * (m - 1)) - 2 * mixed / (n * m)

    def interval(self) -> tuple[float, float]:
        """95% interval by leaving out each group once."""
        left = np.array([self.distance(np.arange(GROUPS) != group) for group in range(GROUPS)])
        return jackknife_ends(self.distance(EVERYONE), left)


def _by_group(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any], *, same: bool = False) -> Array:
    """Sum the kernel over the pairs of each two groups, (10, 10); of a set with itself without each row's own."""
    sums = np.zeros((GROUPS, GROUPS))
    for one in range(GROUPS):
        rows = first[one::GROUPS].astype(np.float64)
        for other in range(one if same else 0, GROUPS):
            columns = rows if same and other == one else second[other::GROUPS].astype(np.float64)
            for start in range(0, len(rows), 1024):  # all kernel values of 50,000 pictures would take 20 GB
                sums[one, other] += _kernel(rows[start : start + 1024], columns).sum()
            if same:
                sums[other, one] = sums[one, other]
        if same:
            sums[one, one] -= _own_kernel(rows).sum()
    return sums


def _kernel(first: Array, second: Array) -> Array:
    return np.asarray((first @ second.T / first.shape[1] + 1.0) ** 3)


def _own_kernel(rows: Array) -> Array:
    return np.asarray((np.sum(rows**2, axis=1) / rows.shape[1] + 1.0) ** 3)


def _check_features(real: np.ndarray[Any, Any], fake: np.ndarray[Any, Any], *, at_least: int = 2) -> None:
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1] or min(len(real), len(fake)) < at_least:
        number = "two" if at_least == 2 else str(at_least)
        raise DataError(
            f"feature sets of {real.shape} and {fake.shape}: expected (pictures, features), "
            f"at least {number} pictures each"
        )


@devices.plain()
def _build(state: Mapping[str, Tensor]) -> torch.nn.Module:
    """Build torch-fidelity's network from tensors that are in memory.

    Its constructor unpickles a file without restriction. It is given the tensors as a file of our own making, so that
    nothing from outside is unpickled.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    own = io.BytesIO()
    torch.save({name: tensor.detach().cpu() for name, tensor in state.items()}, own)
    own.seek(0)
    try:
        with torch.random.fork_rng(devices=[]):  # the constructor draws first values that are then overwritten
            network: torch.nn.Module = FeatureExtractorInceptionV3(
                "inception-v3-compat", [str(FEATURES)], feature_extractor_weights_path=own
            )
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise WeightsError(f"the tensors given for Inception are not torch-fidelity's: {reason[:300]}") from error
    return network
