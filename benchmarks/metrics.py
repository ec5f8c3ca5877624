"""How fast the batched metrics are against a loop over scikit-image, on the same pictures in the same run.

    python benchmarks/metrics.py [--size 256 512] [--repeats 10]

Prints CPU milliseconds a picture (the best of several turns, taken alternately, one thread each) and their ratio. With
a GPU also the time on it, transfers left out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import cv2
import numpy as np
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from vtbench import load_task, load_tokenizer, metrics

GAUSSIAN = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


UNIFORM: dict[str, object] = {}
"""scikit-image's defaults."""


def main() -> None:
    """Print one Markdown table a size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    for size in options.size:
        compare(size, options.repeats)


def compare(size: int, repeats: int) -> None:
    """Time the metrics and the loops in turn on 16 pictures and print the best turn of each."""
    task = load_task("reconstruction")
    reference = torch.stack([task.read(index).image for index in range(16)])
    scale = -(-size // reference.shape[-1])
    reference = reference.repeat_interleave(scale, -1).repeat_interleave(scale, -2)[..., :size, :size].contiguous()
    reconstruction = load_tokenizer("jpeg-q10").reconstruct(reference)
    pairs = [
        (a.permute(1, 2, 0).numpy(), b.permute(1, 2, 0).numpy()) for a, b in zip(reference, reconstruction, strict=True)
    ]

    def similarity(a: np.ndarray, b: np.ndarray, **options: object) -> float:
        return structural_similarity(a, b, data_range=255, channel_axis=-1, **options)

    loops: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[np.ndarray, np.ndarray], float]]] = {
        "PSNR": (metrics.psnr, lambda a, b: peak_signal_noise_ratio(a, b, data_range=255)),
        "SSIM, Gaussian 11": (metrics.ssim, lambda a, b: similarity(a, b, **GAUSSIAN)),
        "SSIM, uniform 7": (
            lambda x, y: metrics.ssim(x, y, window="uniform-7"),
            lambda a, b: similarity(a, b, **UNIFORM),
        ),
    }
    gpu = torch.cuda.is_available()
    print(f"| {size} px, CPU ms a picture | scikit-image | vtbench | ratio | largest difference |", end="")
    print(" GPU ms | ratio |" if gpu else "")
    print("| :-- | --: | --: | --: | --: |" + (" --: | --: |" if gpu else ""))
    for name, (ours, theirs) in loops.items():
        times: dict[str, list[float]] = {"ours": [], "theirs": []}
        for _ in range(repeats):
            start = time.process_time()
            found = ours(reference, reconstruction)
            times["ours"].append(time.process_time() - start)
            start = time.process_time()
            expected = [theirs(a, b) for a, b in pairs]
            times["theirs"].append(time.process_time() - start)
        fast, slow = (1000 * min(times[who]) / len(pairs) for who in ("ours", "theirs"))
        gap = (found - torch.tensor(expected, dtype=torch.float64)).abs().max().item()
        line = f"| {name} | {slow:.2f} | {fast:.2f} | {slow / fast:.1f} | {gap:.0e} |"
        if gpu:
            on_gpu = 1000 * gpu_seconds(ours, reference.cuda(), reconstruction.cuda(), repeats) / len(pairs)
            line += f" {on_gpu:.3f} | {slow / on_gpu:.0f} |"
        print(line)
    print()


def gpu_seconds(metric: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, repeats: int) -> float:
    """Time a metric on pictures that lie on a GPU already; the best of several turns."""
    times = []
    for _ in range(repeats + 1):  # the first turn sets the device up
        torch.cuda.synchronize()
        start = time.perf_counter()
        metric(x, y)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    main()
