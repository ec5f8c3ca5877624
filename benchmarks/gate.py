"""How often the gate of `vtbench check` raises a false alarm, and what it still sees; counted, without any tolerance.

    python benchmarks/gate.py [--trials 50] [--coins 400] [--trainings 4] [--steps 300]

1. Unchanged: a tokenizer against itself, on another random third of the embedded pictures each time, in batches of
   another size, which moves the last bits of a float.
2. Equally good: of two codecs that differ by decibels on single pictures, a coin gives each picture's values to one
   side or the other. Neither side is better, and the gate should fail in 2.5% of the trials over all metrics together:
   it corrects for their number, asks for 5% on both sides, and fails on one of them.
3. Another seed: trainings of examples/training_loop.py that differ by their seed alone. Each is held against each
   of the others alone, and against all the others together as several baselines.
4. Worse: the same trained models with some of their codes replaced at random, held against all other seeds together.

Prints a Markdown table. It computes on one thread, and on a GPU where there is one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))

from training_loop import CODES, HELD_OUT, Model, step_of

from vtbench import comparison, evaluate, files, images, load_task, load_tokenizer, results, wrap
from vtbench.cards import find_task
from vtbench.comparison import Found
from vtbench.task import Task

METRICS = ("psnr", "ssim", "lpips")

DAMAGE = (0.005, 0.02, 0.05)
"""Shares of the codes that are replaced."""


def three_metrics(data: Path | None = None) -> Task:
    """The task `reconstruction` with three of its metrics, on its own pictures or on a folder's."""
    card = find_task("reconstruction").model_copy(update={"metrics": METRICS})
    return load_task(card) if data is None else load_task(card, data=data, label=data.name)


def alarm(run: Found, baselines: Sequence[Found]) -> bool:
    """Tell whether the gate fails in any metric, where nothing may get worse."""
    return any(one.failed for one in comparison.check(run, baselines, dict.fromkeys(METRICS, 0.0)))


def ran(folder: Path, tokenizer: object, task: Task, **how: object) -> Found:
    """Run it into a folder, and find what it left there."""
    run = evaluate(tokenizer, task, out=folder / "results", work=folder, **how)  # type: ignore[call-overload]
    return results.find_run(folder / run.task / run.name, folder)


def unchanged(folder: Path, trials: int) -> int:
    """Count alarms of a tokenizer against itself."""
    task, tokenizer = three_metrics(), load_tokenizer("tiny-fsq-f8")
    alarms = 0
    for trial in range(trials):
        chosen = np.random.default_rng(trial).permutation(len(task))[: len(task) // 3]
        place = folder / f"subset-{trial}"
        place.mkdir(parents=True)
        for index in chosen:
            images.to_pil(task.read(int(index)).image).save(place / f"{index:02d}.png")
        subset = three_metrics(place)
        sides = [ran(folder / name, tokenizer, subset, batch_size=size) for name, size in (("now", 1), ("then", 4))]
        assert sides[0][0].images == len(chosen)
        alarms += alarm(sides[0], sides[1:])
    return alarms


def equally_good(folder: Path, trials: int) -> int:
    """Count alarms between two sides of which a coin made neither better."""
    task = three_metrics()
    found = [ran(folder, load_tokenizer(name), task) for name in ("jpeg-q30", "webp-q30")]
    tables = [results.read_images(path) for _, path in found]
    assert list(tables[0]["id"]) == list(tables[1]["id"])
    alarms = 0
    for trial in range(trials):
        coin = np.random.default_rng(trial).random(len(tables[0])) < 0.5
        sides = []
        for side, own in enumerate((coin, ~coin)):
            values = {name: np.where(own, tables[0][name], tables[1][name]) for name in METRICS}
            sides.append(saved(found[0], pd.DataFrame({"id": tables[0]["id"], **values}), folder / f"side-{side}"))
        alarms += alarm(sides[0], sides[1:])
    return alarms


def saved(like: Found, table: pd.DataFrame, folder: Path) -> Found:
    """Write a table as the run of its own that the gate reads."""
    folder.mkdir(exist_ok=True)
    table.to_parquet(folder / results.IMAGES)
    digests = {**like[0].digests, "table": files.sha256(folder / results.IMAGES)}
    results.write(like[0].model_copy(update={"digests": digests}), folder / results.RUN)
    return results.find_run(folder, folder)


class Damaged(Model):
    """The model with a share of its codes replaced at random, the same ones for the same picture."""

    share = 0.0

    def encode(self, x: Tensor) -> Tensor:
        """One index for each 8x8 pixels."""
        indices = super().encode(x)
        generator = torch.Generator().manual_seed(0)
        hit = torch.rand(indices.shape[1:], generator=generator) < self.share
        other = torch.randint(CODES, indices.shape[1:], generator=generator)
        return torch.where(hit.to(x.device), other.to(x.device), indices)


def trained(folder: Path, seed: int, steps: int) -> dict[float, Found]:
    """Train with one seed, and score the model and its damaged likes on the held-out pictures."""
    model, step = step_of(size=64, seed=seed)
    for _ in range(steps):
        step()
    damaged = Damaged().to(next(model.parameters()).device)
    damaged.load_state_dict(model.state_dict())
    found = {}
    for share in (0.0, *DAMAGE):
        damaged.share = share
        tokenizer = wrap(damaged, name="small-vq", codebook_size=CODES, multiple_of=8)
        label = f"seed-{seed}-damage-{share}"
        found[share] = ran(folder, tokenizer, three_metrics(), limit=HELD_OUT, label=label, overwrite=True)
    return found


def rows(runs: Mapping[int, dict[float, Found]]) -> list[tuple[str, int, int]]:
    """Count alarms between trainings: one baseline, all others together, and the damaged against these."""
    seeds = list(runs)
    alone = [alarm(runs[one][0.0], [runs[other][0.0]]) for one in seeds for other in seeds if one != other]
    counted = [("another seed, one baseline", sum(alone), len(alone))]
    for share in (0.0, *DAMAGE):
        others = [[runs[other][0.0] for other in seeds if other != one] for one in seeds]
        caught = [alarm(runs[one][share], rest) for one, rest in zip(seeds, others, strict=True)]
        what = f"{share:.1%} of codes replaced" if share else "another seed"
        counted.append((f"{what}, {len(seeds) - 1} baselines", sum(caught), len(caught)))
    return counted


def main() -> None:
    """Count, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--coins", type=int, default=400)
    parser.add_argument("--trainings", type=int, default=4)
    parser.add_argument("--steps", type=int, default=300)
    said = parser.parse_args()
    torch.set_num_threads(1)
    print("| case | the gate fails | of |\n| :-- | --: | --: |")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        print(
            f"| unchanged, other pictures | {unchanged(folder / 'itself', said.trials)} | {said.trials} |", flush=True
        )
        print(f"| equally good | {equally_good(folder / 'coins', said.coins)} | {said.coins} |", flush=True)
        runs = {seed: trained(folder / "seeds", seed, said.steps) for seed in range(said.trainings)}
        for what, failed, count in rows(runs):
            print(f"| {what} | {failed} | {count} |", flush=True)
        for seed, found in runs.items():
            values = ", ".join(f"{name} {found[0.0][0].scores[name].value:.4g}" for name in METRICS)
            print(f"seed {seed}: {values}", file=sys.stderr)


if __name__ == "__main__":
    main()
