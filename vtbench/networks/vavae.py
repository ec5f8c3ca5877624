"""VA-VAE: a continuous latent of VQGAN's network, trained to align with a vision foundation model.

Source: hustvl/LightningDiT, tokenizer/autoencoder.py
Commit: 2725fed42a14898744433809949834e26957bcdd
Licence: MIT

REPA-E's autoencoders, trained together with a diffusion model, have the same network or that of Stable Diffusion.

Source: End2End-Diffusion/REPA-E, models/autoencoder.py
Commit: 3ad80468e78ec4fc93e6e70aa08e7b3b8303a171
Licence: MIT
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from vtbench.networks._gaussian import Posterior, code, latent_of
from vtbench.networks._taming import Autoencoder, Layout
from vtbench.types import Codes


class Config(Layout, Posterior):
    """The latent's channels; VA-VAE's variants differ in nothing else."""

    z_channels: int = Field(ge=1)


class Network(Autoencoder):
    """A vector for every 16x16 pixels (8x8 in Stable Diffusion's layout); all else is needed in training alone."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, config.z_channels, moments=True)
        self.posterior: Posterior = config

    def encode(self, x: Tensor) -> Codes:
        """(B, 3, H, W) in [-1, 1] -> latent (B, z_channels, h, w): the posterior's mean, or a draw if so configured.

        The published evaluation draws without a seed. The latent isn't scaled: the channel statistics published beside
        the weights belong to the diffusion model.
        """
        mean, log_variance = self.latent(x).chunk(2, dim=1)
        return Codes(latent=code(mean, log_variance, self.posterior, limits=(-30.0, 20.0)))

    def decode(self, codes: Codes) -> Tensor:
        """Latent (B, z_channels, h, w) -> (B, 3, H, W), unclamped.

        Raises:
            DataError: if the codes hold no latent.
        """
        return self.pixels(latent_of(codes, "VA-VAE"))
