"""What the evaluator costs beside the networks: a run's wall time against the bare sum of their forward passes.

    python benchmarks/overhead.py [--tokenizer ibq-16384] [--pictures 56] [--turns 4] [--batch 8] [--device cpu]
        [--precision fp32]

The bare sum is encoder, decoder, LPIPS (once a pair) and Inception (of both sides) over the same batches of the same
pictures, already read, and nothing else. Made-up weights do. Both take turns; the ratios are those of the sums, of what
the clock says and of the process's CPU time, which other programs hardly move.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from builders import inception_state

from vtbench import images, load_task, load_tokenizer, plan, shards
from vtbench.cards import Data, Geometry, TaskCard
from vtbench.catalogue import find_metric
from vtbench.measures import sets
from vtbench.metrics import learned
from vtbench.metrics.frechet import FrechetDistance
from vtbench.plan import Plan
from vtbench.settings import Settings
from vtbench.shards import Job, Want
from vtbench.task import Task

SIDE = 256

Features = Callable[[Tensor], Tensor]


def photographs(folder: Path, count: int) -> Task:
    """Write smooth pictures with some noise as JPEG files, and open them as a task."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        coarse = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        picture = np.asarray(Image.fromarray(coarse).resize((400, 300), Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = np.clip(picture + rng.integers(-12, 13, picture.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{index:05d}.jpg", quality=92)
    card = TaskCard(
        name="bench",
        version=1,
        family="reconstruction",
        title="Benchmark",
        data=Data(source="folder"),
        geometry=Geometry(size=SIDE),
        metrics=("psnr", "ssim", "lpips"),
        primary="psnr",
    )
    return load_task(card, data=folder)


def made_up_inception(device: torch.device) -> Features:
    """Build Inception with made-up weights: its speed does not depend on them."""
    return FrechetDistance(inception=inception_state(), device=device).pooled


class Spent(NamedTuple):
    """Seconds of one turn."""

    clock: float
    cpu: float


def timed(work: Callable[[], None]) -> Spent:
    """Time something."""
    began = time.perf_counter(), time.process_time()
    work()
    return Spent(time.perf_counter() - began[0], time.process_time() - began[1])


def evaluated(made: Plan) -> None:
    """Run in memory."""
    found: dict[int, Any] = {}
    jobs = (
        Job(made.pictures_of(block), [Want(made, made.shards_of(block), found.__setitem__)], lambda: None)
        for block in range(made.blocks)
    )
    shards.compute_all(made, jobs, lambda _: None)
    assert len(found) == made.shards


def bare(made: Plan, batches: list[Tensor], features: Features) -> None:
    """Run the networks alone."""
    tokenizer = made.tokenizer
    distance = learned.network("alex", tokenizer.device)
    with torch.no_grad():
        for levels in batches:
            fed = tokenizer.input_of(levels)
            decoded = tokenizer.network.decode(tokenizer.network.encode(fed))
            distance(images.to_float(levels), decoded.float())
            features(levels)
            features(tokenizer.levels(decoded.float()))


def main() -> None:
    """Time both in turn, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", default="ibq-16384")
    parser.add_argument("--pictures", type=int, default=56)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "fp16"])
    said = parser.parse_args()
    tokenizer = load_tokenizer(said.tokenizer, weights="synthetic", device=said.device, precision=said.precision)
    with tempfile.TemporaryDirectory() as name:
        task = photographs(Path(name) / "pictures", said.pictures)
        made = plan.make(tokenizer, task, protocol=None, batch_size=said.batch, how=Settings(None))
        features = made_up_inception(tokenizer.device)
        rfid = find_metric("rfid")
        rfid = dataclasses.replace(rfid, options={**rfid.options, "features": "overhead:made_up_inception"})
        inception = sets.Measure([rfid], made.measures[0].context)
        made = dataclasses.replace(made, measures=(*made.measures, inception))
        levels = [task.read(index).image for index in range(len(task))]
        batches = [torch.stack(levels[at : at + said.batch]) for at in range(0, len(levels), said.batch)]
        bare(made, batches[:1], features)  # chooses kernels
        size = f"{said.pictures} pictures of {SIDE} px, batch {said.batch}"
        print(f"{said.tokenizer}, {size}, {said.device} {said.precision}")
        print(f"{'turn':>6} {'evaluator':>12} {'networks':>12} {'ratio':>8} {'of CPU time':>12}", flush=True)
        pairs = []
        for turn in range(1, said.turns + 1):
            pairs.append((timed(lambda: evaluated(made)), timed(lambda: bare(made, batches, features))))
            show(str(turn), *pairs[-1])
    show("all", *(Spent(*map(sum, zip(*side, strict=True))) for side in zip(*pairs, strict=True)))


def show(turn: str, whole: Spent, alone: Spent) -> None:
    """Print a line."""
    ratios = f"{whole.clock / alone.clock:>8.3f} {whole.cpu / alone.cpu:>12.3f}"
    print(f"{turn:>6} {whole.clock:>10.2f} s {alone.clock:>10.2f} s {ratios}", flush=True)


if __name__ == "__main__":
    main()
