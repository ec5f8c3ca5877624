"""What is measured. Each metric has a plain function or class here; networks are loaded when they are first used."""

from vtbench.metrics.colour import ciede2000
from vtbench.metrics.flicker import flip
from vtbench.metrics.frechet import FrechetDistance
from vtbench.metrics.gradients import gmsd
from vtbench.metrics.learned import lpips
from vtbench.metrics.peak import psnr
from vtbench.metrics.structure import ms_ssim, ssim
from vtbench.metrics.text import cer, ned, wer
from vtbench.metrics.wavelets import haarpsi

__all__ = [
    "FrechetDistance",
    "cer",
    "ciede2000",
    "flip",
    "gmsd",
    "haarpsi",
    "lpips",
    "ms_ssim",
    "ned",
    "psnr",
    "ssim",
    "wer",
]
