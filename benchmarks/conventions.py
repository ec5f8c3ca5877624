"""How far one and the same reconstruction set moves by convention alone: the table of the README.

    python benchmarks/conventions.py [TOKENIZER]

Every row changes one thing against vtbench's canonical protocol; pixels in and out of the tokenizer stay the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from vtbench import load_task, load_tokenizer, metrics


def pooled_psnr(reference: Tensor, reconstruction: Tensor) -> float:
    """One mean squared error over all pictures, then the logarithm."""
    return float(10 * torch.log10(255.0**2 / (reference.double() - reconstruction.double()).square().mean()))


def uniform_ssim(reference: Tensor, reconstruction: Tensor, data_range: float) -> float:
    """scikit-image's default window, uniform 7, with a stated data range."""
    pairs = zip(reference.permute(0, 2, 3, 1).numpy(), reconstruction.permute(0, 2, 3, 1).numpy(), strict=True)
    return float(np.mean([structural_similarity(a, b, data_range=data_range, channel_axis=-1) for a, b in pairs]))


def main() -> None:
    """Print one Markdown table."""
    name = sys.argv[1] if len(sys.argv) > 1 else "jpeg-q30"
    tokenizer, task = load_tokenizer(name), load_task("reconstruction")
    reference = torch.stack([task.read(index).image for index in range(len(task))])
    reconstruction = torch.cat([tokenizer.reconstruct(batch) for batch in reference.split(8)])

    def mean(metric: Callable[[Tensor, Tensor], Tensor]) -> float:
        values = [metric(a, b) for a, b in zip(reference.split(8), reconstruction.split(8), strict=True)]
        return float(torch.cat(values).mean())

    rows = [
        ("PSNR, mean of pictures (canonical)", mean(metrics.psnr), "dB"),
        ("PSNR, one error pooled over all pictures", pooled_psnr(reference, reconstruction), "dB"),
        ("SSIM, Gaussian window 11 (canonical)", mean(metrics.ssim), ""),
        ("SSIM, uniform window 7", uniform_ssim(reference, reconstruction, 255.0), ""),
        ("SSIM, uniform window 7, data range twice the true one", uniform_ssim(reference, reconstruction, 510.0), ""),
        ("LPIPS, AlexNet (canonical)", mean(metrics.lpips), ""),
        ("LPIPS, VGG16", mean(lambda a, b: metrics.lpips(a, b, net="vgg")), ""),
    ]
    print(f"| {name}, {len(task)} pictures at 256 px | |\n| :-- | --: |")
    for what, value, unit in rows:
        print(f"| {what} | {value:.2f} {unit} |" if unit else f"| {what} | {value:.3f} |")


if __name__ == "__main__":
    main()
