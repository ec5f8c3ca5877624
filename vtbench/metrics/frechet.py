"""FID and KID: how far apart two sets of pictures are; rFID where one set is the other's reconstruction."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vtbench import backbones, weights
from vtbench.errors import DataError, WeightsError

Array = np.ndarray[Any, np.dtype[np.float64]]

FEATURES = 2048
"""Values a picture: Inception's last average pooling."""


class FrechetDistance:
    """Gathers Inception's features of two sets of pictures and compares their Gaussians.

    The network is torch-fidelity's, equal to the TensorFlow one of the original FID, with its resize to 299 x 299
    (TensorFlow 1's bilinear filter: no antialiasing, corners not aligned) and its range (v - 128) / 128.

    The value falls with the number of pictures: compare sets of one size, and state it.
    """

    def __init__(self, *, inception: Mapping[str, Tensor] | None = None, device: str | torch.device = "cpu") -> None:
        """Load the network.

        Args:
            inception: its tensors under the published names, in place of the file on this machine.
            device: where it runs.

        Raises:
            WeightsError: if the file is not on this machine, or the tensors are not the network's.
        """
        state = weights.read(backbones.require("inception")) if inception is None else inception
        self.network = _build(state).to(device)
        self.device = torch.device(device)
        self._features: dict[bool, list[np.ndarray[Any, np.dtype[np.float32]]]] = {True: [], False: []}

    def features(self, images: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Compute the features of some pictures, without counting them.

        Args:
            images: uint8, (B, 3, H, W), of any size.

        Returns:
            float32, (B, 2048).

        Raises:
            DataError: if it is not a uint8 batch.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise DataError(f"FID got {tuple(images.shape)} {images.dtype}; expected a uint8 batch (B, 3, H, W)")
        # TensorFloat-32 (on by default for convolutions) would make the value depend on the GPU.
        exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        with torch.inference_mode(), exact:
            (found,) = self.network(images.to(self.device))
        return np.asarray(found.cpu().numpy(), dtype=np.float32)

    def update(self, images: Tensor, *, real: bool) -> None:
        """Add pictures to one of the two sets.

        Args:
            images: uint8, (B, 3, H, W).
            real: True for the originals, False for the reconstructions.

        Raises:
            DataError: if it is not a uint8 batch.
        """
        self._features[real].append(self.features(images))

    def compute(self) -> float:
        """Compare the two sets, as `frechet_distance` does.

        Raises:
            DataError: if a set has fewer than two pictures.
        """
        empty = np.empty((0, FEATURES), dtype=np.float32)
        real, fake = (np.concatenate([empty, *self._features[which]]) for which in (True, False))
        return frechet_distance(real, fake)


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
    (mean1, factor1), (mean2, factor2) = _gaussian(real_features), _gaussian(fake_features)
    root = np.linalg.svd(factor1 @ factor2.T, compute_uv=False).sum()
    distance = np.sum((mean1 - mean2) ** 2) + np.sum(factor1**2) + np.sum(factor2**2) - 2.0 * root
    return max(0.0, float(distance))  # rounding takes equal sets below zero


def kernel_distance(real_features: np.ndarray[Any, Any], fake_features: np.ndarray[Any, Any]) -> float:
    """Kernel Inception Distance: unbiased squared MMD under the kernel (x.y / d + 1)^3; symmetric.

    Binkowski et al. 2018. Over all pairs at once, where other programs average over random subsets: no seed is
    involved. Its mean does not depend on the number of pictures, so it stands beside FID where they are few; for sets
    of one distribution it scatters around 0, so it can be negative.

    Args:
        real_features: (n, d).
        fake_features: (m, d); m may differ from n.

    Raises:
        DataError: if a set has fewer than two rows, or d differs.
    """
    _check_features(real_features, fake_features)
    real, fake = real_features.astype(np.float64), fake_features.astype(np.float64)
    return _mean_kernel(real, real, same=True) + _mean_kernel(fake, fake, same=True) - 2 * _mean_kernel(real, fake)


def _mean_kernel(first: Array, second: Array, *, same: bool = False) -> float:
    """Mean of the kernel over all pairs, those of a row with itself left out where both sets are the same."""
    total = 0.0
    for start in range(0, len(first), 1024):  # 50,000 x 50,000 kernel values would take 20 GB
        block = first[start : start + 1024]
        total += float(np.sum((block @ second.T / first.shape[1] + 1.0) ** 3))
    if not same:
        return total / (len(first) * len(second))
    own = float(np.sum((np.sum(first**2, axis=1) / first.shape[1] + 1.0) ** 3))
    return (total - own) / (len(first) * (len(first) - 1))


def _check_features(real: np.ndarray[Any, Any], fake: np.ndarray[Any, Any]) -> None:
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1] or min(len(real), len(fake)) < 2:
        raise DataError(
            f"feature sets of {real.shape} and {fake.shape}: expected (pictures, features), at least two pictures each"
        )


def _gaussian(features: np.ndarray[Any, Any]) -> tuple[Array, Array]:
    """Mean, and a factor A with A^T A = sample covariance and at most as many rows as features."""
    rows, columns = features.shape
    mean = features.mean(axis=0, dtype=np.float64)
    factor = np.empty((0, columns))
    step = max(columns, 1024)
    for start in range(0, rows, step):  # in blocks: 50,000 pictures in float64 would take 800 MB more
        factor = np.concatenate([factor, features[start : start + step].astype(np.float64) - mean])
        if len(factor) > columns:
            factor = np.asarray(np.linalg.qr(factor, mode="r"))  # keeps A^T A
    return mean, factor / np.sqrt(rows - 1)


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
