"""What is measured. Each metric has a plain function or class here; networks are loaded when they are first used."""

from vtbench.metrics.frechet import FrechetDistance
from vtbench.metrics.perceptual import flip, lpips
from vtbench.metrics.pixel import ciede2000, gmsd, haarpsi, ms_ssim, psnr, ssim
from vtbench.metrics.text import cer, ned, wer

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
