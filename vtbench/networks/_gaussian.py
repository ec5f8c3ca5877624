"""The Gaussian posterior of a continuous tokenizer: its mean, or one draw from it.

Evaluation codes the mean, which is the same at every run. Some published numbers were made with draws: `sample = true`
in a card's [config] does the same, with a seed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vtbench.errors import DataError
from vtbench.types import Codes, Strict


class Posterior(Strict):
    """The part of a network's Config that says what is coded."""

    sample: bool = False
    """Draw from the posterior instead of taking its mean."""
    seed: int = 0
    """Of the draw. Every picture gets the same noise, so that neither batch size nor order changes a result."""


def code(mean: Tensor, log_variance: Tensor, config: Posterior, *, limits: tuple[float, float] | None) -> Tensor:
    """Take the mean, or mean + exp(log_variance / 2) * noise.

    Args:
        mean: (B, C, h, w).
        log_variance: the same shape.
        config: which of the two.
        limits: what the published code clamps the log variance to, if it does.

    Returns:
        The latent, of the mean's shape and type, contiguous.
    """
    if not config.sample:
        return mean.contiguous()
    generator = torch.Generator().manual_seed(config.seed)  # on the CPU: the same noise on every device
    noise = torch.randn(mean.shape[1:], generator=generator).to(mean)
    if limits is not None:
        log_variance = log_variance.clamp(*limits)
    return (mean + torch.exp(0.5 * log_variance) * noise).contiguous()


def latent_of(codes: Codes, name: str) -> Tensor:
    """Return the latent (B, C, h, w) that a decoder is given.

    Raises:
        DataError: if the codes hold none.
    """
    if codes.latent is None:
        raise DataError(f"the codes hold no latent; {name} decodes a latent of (B, channels, h, w)")
    return codes.latent
