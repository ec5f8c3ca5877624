"""The evaluator against the way of VTBench's scripts: reconstruct to files, read them back, score one by one.

    python benchmarks/peers.py [NAME...] [--pictures 64] [--threads 1]

Their way, written anew: a first pass saves every original and reconstruction as PNG and all arrays as one pickle; a
second reads them back and scores PSNR and SSIM with torchmetrics, picture by picture, in one process. Ours is one
`evaluate` of the same pictures with the same two metrics, table and summary written. Both start from JPEG files, and
take turns.
"""

from __future__ import annotations

import argparse
import pickle
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from overhead import photographs
from PIL import Image
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from vtbench import evaluate, load_tokenizer
from vtbench.task import Task
from vtbench.tokenizer import Tokenizer

TURNS = 3


def theirs(tokenizer: Tokenizer, task: Task, place: Path) -> tuple[float, float, float]:
    """Seconds, PSNR and SSIM of their way."""
    place.mkdir()
    began = time.perf_counter()
    arrays = []
    for index in range(len(task)):
        picture = task.read(index).image[None]
        after = tokenizer.reconstruct(picture)
        for kind, side in (("original", picture), ("reconstruction", after)):
            Image.fromarray(side[0].permute(1, 2, 0).numpy()).save(place / f"{index}-{kind}.png")
        arrays.append((picture.numpy(), after.numpy()))
    with (place / "arrays.pkl").open("wb") as file:
        pickle.dump(arrays, file)
    psnr, ssim = [], []
    for index in range(len(task)):
        sides = []
        for kind in ("original", "reconstruction"):
            with Image.open(place / f"{index}-{kind}.png") as opened:
                levels = torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1)[None]
            sides.append(levels.float() / 255)
        psnr.append(float(peak_signal_noise_ratio(sides[1], sides[0], data_range=1.0)))
        ssim.append(float(structural_similarity_index_measure(sides[1], sides[0], data_range=1.0)))
    return time.perf_counter() - began, float(np.mean(psnr)), float(np.mean(ssim))


def ours(tokenizer: Tokenizer, task: Task, place: Path) -> tuple[float, float, float]:
    """Seconds, PSNR and SSIM of `evaluate`."""
    began = time.perf_counter()
    run = evaluate(tokenizer, task, out=place / "r", work=place / "w")
    spent = time.perf_counter() - began
    return spent, run.scores["psnr"].value or 0.0, run.scores["ssim"].value or 0.0


def main() -> None:
    """Time both in turn, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=["jpeg-q30", "tiny-fsq-f8"])
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    said = parser.parse_args()
    torch.set_num_threads(said.threads)
    print(f"{said.pictures} pictures of 256 px, {said.threads} threads")
    print(f"{'tokenizer':>14} {'theirs':>10} {'ours':>10} {'ratio':>8} {'least':>8} {'PSNR':>16} {'SSIM':>18}")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        task = photographs(place / "pictures", said.pictures)
        card = task.card.model_copy(update={"metrics": ("psnr", "ssim")})
        task = Task(card, task.source)
        for tokenizer in map(load_tokenizer, said.names):
            tokenizer.reconstruct(task.read(0).image[None])
            turns = [
                (
                    theirs(tokenizer, task, place / f"{tokenizer.card.name}-theirs-{turn}"),
                    ours(tokenizer, task, place / f"{tokenizer.card.name}-ours-{turn}"),
                )
                for turn in range(TURNS + 1)
            ][1:]  # the first turn loads libraries
            first, second = (sum(side[which][0] for side in turns) / TURNS for which in (0, 1))
            least = min(one[0] / other[0] for one, other in turns)
            (_, psnr, ssim), (_, own_psnr, own_ssim) = turns[0]
            print(
                f"{tokenizer.card.name:>14} {first:>8.2f} s {second:>8.2f} s {first / second:>8.1f} {least:>8.1f} "
                f"{psnr:>7.2f} {own_psnr:>8.2f} {ssim:>9.4f} {own_ssim:>8.4f}"
            )


if __name__ == "__main__":
    main()
