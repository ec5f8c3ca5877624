"""What a tokenizer's decoder does with latents that were moved: probes of single pictures, seeded by their ids.

Every draw depends on the picture's id alone, so no value depends on batch size, order or processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vtbench import images
from vtbench.errors import DataError
from vtbench.metrics.latents.continuity import lpc_weights, perturb_latent
from vtbench.metrics.latents.equivariance import transform

Decode = Callable[[Tensor], Tensor]
"""Latents (B, C, h, w) to uint8 pictures (B, 3, H, W), of whatever size the latent has."""

Distance = Callable[[Tensor, Tensor], Tensor]
"""Two uint8 batches of one shape to one value a picture, such as `vtbench.metrics.lpips`."""

RHOS = (0.1, 0.5, 1.0, 2.0)
"""LPC's radii as shares of the latent's length: PAE, arXiv 2605.07915."""

TRANSFORMS = ((0.5, 0), (0.75, 0), (1.0, 1), (1.0, 2), (1.0, 3))
"""Scale and clockwise quarter turns of the equivariance probe."""

SIDE = 16
"""The grid on which LDS, CDS and RMSC are defined."""


def generator(name: str, purpose: str) -> np.random.Generator:
    """Give the random numbers that belong to one picture and one purpose."""
    digest = hashlib.sha256(f"{purpose}:{name}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def seeded_noise(ids: Sequence[str], shape: Sequence[int], *, purpose: str) -> Tensor:
    """Draw standard normal noise for each picture from its id and the purpose: float64 (B, *shape), on the CPU."""
    return torch.from_numpy(np.stack([generator(name, purpose).standard_normal(tuple(shape)) for name in ids]))


def lpc(
    decode: Decode,
    z: Tensor,
    ids: Sequence[str],
    distance: Distance,
    *,
    rhos: Sequence[float] = RHOS,
    center: bool = False,
    plain: Tensor | None = None,
) -> Tensor:
    """Local perceptual continuity with one direction a picture: 1 + 2 decodes a radius.

    At each radius the mean distance of the decodes of z + rho |z| u and z - rho |z| u to that of z; the radii are
    weighted by 1 / rho. Lower is better. PAE takes LPIPS and does not state its network.

    Args:
        decode: the decoder.
        z: (B, ...), one latent a picture.
        ids: of the B pictures.
        distance: of two batches of pictures.
        rhos: radii, above 0.
        center: as for `perturb_latent`; PAE does not.
        plain: the decode of z, where it is there already.

    Returns:
        float64, (B,).

    Raises:
        DataError: if there is not one id a latent.
    """
    if len(ids) != len(z):
        raise DataError(f"{len(ids)} ids of {len(z)} latents: expected one each")
    noise = seeded_noise(ids, z.shape[1:], purpose="lpc")
    plain = decode(z) if plain is None else plain
    total = torch.zeros(len(z), dtype=torch.float64, device=plain.device)
    for rho, weight in zip(rhos, lpc_weights(rhos), strict=True):
        pair = [distance(decode(perturb_latent(z, noise, sign * rho, center=center)), plain) for sign in (1, -1)]
        total += weight * (pair[0] + pair[1]).double() / 2
    return total


def moved_rise(
    decode: Decode, pictures: Tensor, plain: Tensor, z: Tensor, distance: Distance, *, scale: float, turns: int
) -> Tensor:
    """Say what moving a latent costs beyond moving its decode: 0 for a decoder that is equivariant.

    The distance of the moved latent's decode to the moved picture, less that of the decode that is moved itself. Both
    are of pictures of one size and orientation: no network of a distance sees turned pictures as it sees upright ones.

    Args:
        decode: the decoder.
        pictures: uint8, (B, 3, H, W); scaled and turned in float64, rounded to levels once.
        plain: uint8, (B, 3, H, W), the decodes of z.
        z: (B, C, h, w), the pictures' latents.
        distance: of two batches of pictures.
        scale: of all sides.
        turns: clockwise quarter turns, after the scale.

    Returns:
        float64, (B,); lower is better.

    Raises:
        DataError: if the moved latent decodes to another size than the moved picture has.
    """
    made = decode(transform(z, scale=scale, turns=turns))
    wanted, known = (_moved_levels(x, scale, turns) for x in (pictures, plain))
    if made.shape != wanted.shape:
        raise DataError(
            f"a latent scaled by {scale} decodes to {tuple(made.shape)}, its picture is {tuple(wanted.shape)}"
        )
    return distance(made, wanted).double() - distance(known, wanted).double()


def _moved_levels(pictures: Tensor, scale: float, turns: int) -> Tensor:
    """Move uint8 pictures in float64, rounded to levels once; what is only turned keeps its levels."""
    if scale == 1:
        return torch.rot90(pictures, turns, (-1, -2)).contiguous()
    return images.to_levels(transform(pictures, scale=scale, turns=turns))


def grid_tokens(z: Tensor, *, center: bool) -> Tensor:
    """Average-pool a latent to 16x16 tokens for LDS, CDS and RMSC: (B, C, h, w) -> (B, 256, C).

    Args:
        z: a latent whose sides are multiples of 16.
        center: subtract each channel's mean over the picture; a common offset raises all cosines.

    Raises:
        DataError: if the grid is another.
    """
    if z.ndim != 4 or z.shape[-2] % SIDE or z.shape[-1] % SIDE:
        raise DataError(f"latent of {tuple(z.shape)}: expected (B, C, h, w), sides in multiples of {SIDE}")
    pooled = F.adaptive_avg_pool2d(z.double(), SIDE)
    if center:
        pooled = pooled - pooled.mean((-2, -1), keepdim=True)
    return pooled.flatten(2).transpose(1, 2)
