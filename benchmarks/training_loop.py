"""What validation adds to a training loop: `evaluate(wrap(model), "reconstruction", out=None)` every 500 steps.

Steps and evaluations of examples/training_loop.py are timed in turn on one thread; the ratio is the median evaluation
over 500 median steps. Run: python benchmarks/training_loop.py [--size 128] [--batch 8]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))

from training_loop import step_of, validate

from vtbench import load_task

EVERY = 500
"""Steps between two evaluations."""

STEPS, ROUNDS = 15, 4


def main() -> None:
    """Time steps and evaluations in turn, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=128, help="side of a training crop, in pixels")
    said = parser.parse_args()
    torch.set_num_threads(1)
    model, step = step_of(said.batch, said.size)
    task = load_task("reconstruction")
    step()
    validate(model, task)  # loads LPIPS, hashes the task's pictures
    steps, evaluations = [], []
    for _ in range(ROUNDS):
        for _ in range(STEPS):
            began = time.perf_counter()
            step()
            steps.append(time.perf_counter() - began)
        began = time.perf_counter()
        validate(model, task)
        evaluations.append(time.perf_counter() - began)
    one, all_ = statistics.median(steps), statistics.median(evaluations)
    print(f"batch {said.batch}, {said.size} px: a step {one:.3f} s, an evaluation of {len(task)} pictures {all_:.2f} s")
    print(f"an evaluation every {EVERY} steps adds {all_ / (EVERY * one):.1%}")


if __name__ == "__main__":
    main()
