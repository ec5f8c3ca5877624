"""Diagnostics of a latent space: how fit it may be for generation, told without training a generator.

Functions take numpy arrays or torch tensors and answer in kind, on the device of the first argument; all is computed in
float64. z is the decoder's input before any scaling factor: the posterior's mean, or the dequantised vectors. Nothing
ranks by these values: most of the evidence comes from few models, or from models that were trained for the property.
"""

from vtbench.metrics.latents.alignment import cka, cknna, clip_outliers, mutual_knn
from vtbench.metrics.latents.continuity import (
    interpolation_partners,
    lpc_weights,
    nearest_codes,
    perturb_latent,
    perturb_tokens,
    slerp,
)
from vtbench.metrics.latents.distribution import effective_rank, label_purity, uniformity
from vtbench.metrics.latents.equivariance import transform
from vtbench.metrics.latents.spatial import cds, lds, rmsc, srss
from vtbench.metrics.latents.spectrum import block_amplitudes, block_spectrum, radial_spectrum, spectrum_match
from vtbench.metrics.latents.tokens import (
    conditional_entropy,
    heldout_bits,
    position_information,
    prefix_entropies,
    token_entropy,
)
from vtbench.metrics.latents.transforms import se_apply, se_levels, se_noise, se_transforms

__all__ = [
    "block_amplitudes",
    "block_spectrum",
    "cds",
    "cka",
    "cknna",
    "clip_outliers",
    "conditional_entropy",
    "effective_rank",
    "heldout_bits",
    "interpolation_partners",
    "label_purity",
    "lds",
    "lpc_weights",
    "mutual_knn",
    "nearest_codes",
    "perturb_latent",
    "perturb_tokens",
    "position_information",
    "prefix_entropies",
    "radial_spectrum",
    "rmsc",
    "se_apply",
    "se_levels",
    "se_noise",
    "se_transforms",
    "slerp",
    "spectrum_match",
    "srss",
    "token_entropy",
    "transform",
    "uniformity",
]
