"""What a whole leaderboard costs: the rates of all parts on this device, and the model that they go into.

    python benchmarks/cost.py [--device cpu] [--tokenizer ibq-16384 tiny jpeg-q75] [--batch 8] [--processes 8]

Times are of one process: on the CPU of one thread (its CPU time, which other programs hardly move), on a GPU what the
clock says. Weights are made up; a network's speed does not depend on them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from builders import inception_state

from vtbench import device as devices
from vtbench import load_task, load_tokenizer, metrics
from vtbench.metrics.frechet import FrechetDistance

TURNS = 3
PICTURES, TOKENIZERS = 50_000, 30


def seconds(work: Callable[[], object], device: torch.device, pictures: int) -> float:
    """Seconds a picture: the median of some turns after one that is not counted."""
    clock = time.thread_time if device.type == "cpu" else time.perf_counter
    found = []
    for _ in range(TURNS + 1):
        devices.synchronise(device)
        began = clock()
        work()
        devices.synchronise(device)
        found.append((clock() - began) / pictures)
    return statistics.median(found[1:])


def main() -> None:
    """Measure, and print a table of parts and one of costs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tokenizer", nargs="+", default=["ibq-16384", "tiny", "jpeg-q75"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--processes", type=int, default=8)
    said = parser.parse_args()
    torch.set_num_threads(1)
    device, task = torch.device(said.device), load_task("reconstruction")
    pictures = torch.stack([task.read(index % len(task)).image for index in range(said.batch)]).to(device)
    blurred = torch.nn.functional.avg_pool2d(pictures.float(), 5, 1, 2).round().to(torch.uint8)
    inception = FrechetDistance(inception=inception_state(), device=device)
    parts = {
        "read and crop": seconds(
            lambda: [task.read(index) for index in range(len(task))], torch.device("cpu"), len(task)
        ),
        "psnr and ssim": seconds(
            lambda: (metrics.psnr(pictures, blurred), metrics.ssim(pictures, blurred)), device, said.batch
        ),
        "lpips": seconds(lambda: metrics.lpips(pictures, blurred), device, said.batch),
        "inception, one side": seconds(lambda: inception.features(pictures), device, said.batch),
    }
    for name in said.tokenizer:
        tokenizer = load_tokenizer(name, weights="synthetic" if name.startswith("ibq") else None, device=said.device)
        parts[name] = seconds(lambda tokenizer=tokenizer: tokenizer.reconstruct(pictures), device, said.batch)
    print(f"{devices.name(device)}, batch {said.batch}, 256 px")
    print(f"{'part':<20} {'ms a picture':>13} {'pictures/s':>11}")
    for name, one in parts.items():
        print(f"{name:<20} {1000 * one:>13.2f} {1 / one:>11.1f}")
    print(f"\n{TOKENIZERS} tokenizers, {PICTURES} pictures, {said.processes} processes of this kind")
    print(f"{'if all were':<20} {'hours':>8}")
    own = sum(parts[name] for name in ("read and crop", "psnr and ssim", "lpips"))
    for name in said.tokenizer:
        work = TOKENIZERS * PICTURES * (parts[name] + own + parts["inception, one side"])
        work += PICTURES * parts["inception, one side"]  # the originals', once for all
        print(f"{name:<20} {work / said.processes / 3600:>8.1f}")


if __name__ == "__main__":
    main()
