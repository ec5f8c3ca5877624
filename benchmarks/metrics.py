"""How fast the batched metrics are against a loop over scikit-image, on the same pictures in the same run.

    python benchmarks/metrics.py [--size 256] [--repeats 5]

Prints CPU milliseconds a picture (the best of several turns, taken alternately) and their ratio.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from vtbench import load_task, load_tokenizer, metrics

GAUSSIAN = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


def main() -> None:
    """Print one Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    task = load_task("reconstruction")
    reference = torch.stack([task.read(index).image for index in range(16)])
    scale = max(1, options.size // reference.shape[-1])
    reference = reference.repeat_interleave(scale, -1).repeat_interleave(scale, -2)[..., : options.size, : options.size]
    reconstruction = load_tokenizer("jpeg-q10").reconstruct(reference)
    pairs = [
        (a.permute(1, 2, 0).numpy(), b.permute(1, 2, 0).numpy()) for a, b in zip(reference, reconstruction, strict=True)
    ]
    loops: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[np.ndarray, np.ndarray], float]]] = {
        "PSNR": (metrics.psnr, lambda a, b: peak_signal_noise_ratio(a, b, data_range=255)),
        "SSIM": (metrics.ssim, lambda a, b: structural_similarity(a, b, data_range=255, channel_axis=-1, **GAUSSIAN)),
    }
    print(f"| {options.size} px, CPU ms a picture | scikit-image | vtbench | ratio | largest difference |")
    print("| :-- | --: | --: | --: | --: |")
    for name, (ours, theirs) in loops.items():
        times: dict[str, list[float]] = {"ours": [], "theirs": []}
        for _ in range(options.repeats):
            start = time.process_time()
            found = ours(reference, reconstruction)
            times["ours"].append(time.process_time() - start)
            start = time.process_time()
            expected = [theirs(a, b) for a, b in pairs]
            times["theirs"].append(time.process_time() - start)
        fast, slow = (1000 * min(times[who]) / len(pairs) for who in ("ours", "theirs"))
        gap = (found - torch.tensor(expected, dtype=torch.float64)).abs().max().item()
        print(f"| {name} | {slow:.2f} | {fast:.2f} | {slow / fast:.1f} | {gap:.0e} |")


if __name__ == "__main__":
    main()
