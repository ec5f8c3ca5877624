"""Hold a tokenizer against JPEG at the same rate, on the pool's validation pictures or on a task's.

    python training/compare.py tiny-fsq-f8 [--weights FILE] [--task reconstruction]

The pictures are those that training/train.py holds out, 256x256, or a task's own; the latter are for a last look, never
for a choice. JPEG is Pillow's, with optimised tables and 4:2:0, and
the whole file counts. Its curve over the qualities is interpolated at the tokenizer's rate: log2 of the codebook size
for every token.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vtbench import geometry, images
from vtbench.metrics import lpips, psnr, ssim
from vtbench.task import load_task
from vtbench.tokenizer import load_tokenizer

HERE = Path(__file__).resolve().parent
METRICS = {"psnr": psnr, "ssim": ssim, "lpips": lpips}


def score(reference: Tensor, decoded: Tensor) -> dict[str, Tensor]:
    """Each metric, one value a picture."""
    return {name: metric(reference, decoded) for name, metric in METRICS.items()}


def jpeg(pictures: Tensor, quality: int) -> tuple[Tensor, Tensor]:
    """Bits per pixel of each picture, and the decoded pictures."""
    rates, decoded = [], []
    for picture in pictures:
        file = io.BytesIO()
        images.to_pil(picture).save(file, "JPEG", quality=quality, optimize=True, subsampling="4:2:0")
        rates.append(8 * file.tell() / picture[0].numel())
        decoded.append(images.from_pil(Image.open(file).convert("RGB")))
    return torch.tensor(rates), torch.stack(decoded)


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="a card's name")
    parser.add_argument("--weights", type=Path, help="in place of the card's")
    parser.add_argument("--pool", type=Path, default=HERE / "pool", help="what pool.py wrote")
    parser.add_argument("--task", help="its pictures in place of the pool's")
    args = parser.parse_args()
    torch.set_num_threads(1)

    if args.task:
        task = load_task(args.task)
        pictures = torch.stack([task.read(index).image for index in range(len(task))])
    else:
        with (HERE / "pool.csv").open(newline="") as stream:
            rows = [row for row in csv.DictReader(stream) if row["split"] == "validation"]
        files = [args.pool / row["file"] for row in rows]
        pictures = torch.stack([images.from_pil(geometry.resize_and_crop(pictures.read(file), 256)) for file in files])

    tokenizer = load_tokenizer(args.name, weights=args.weights, device="cpu")
    decoded, used, bits = [], [], 0.0
    tokenizer.reconstruct(pictures[:1])  # the first call sets up the convolutions
    start = time.process_time()
    for picture in pictures:
        codes = tokenizer.encode(picture[None])
        decoded.append(tokenizer.decode(codes, size=(256, 256)))
        used.append(codes.indices[0].flatten())
        bits = (codes.bits or (0.0,))[0]
    seconds = (time.process_time() - start) / len(pictures)
    rate = bits / 256**2
    own = score(pictures, torch.cat(decoded))
    share = torch.cat(used).bincount().double() / sum(len(part) for part in used)
    share = share[share > 0]

    qualities = [1, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 30, 45, 60, 80, 95]
    curve = [(rates, score(pictures, out)) for rates, out in (jpeg(pictures, quality) for quality in qualities)]
    means = np.array([float(rates.mean()) for rates, _ in curve])

    sys.stdout.write(
        f"{args.name}: {len(pictures)} pictures, {rate:.4f} bpp, {seconds:.3f} CPU-s a picture for both ways, "
        f"{len(share)} codes used, {float(-(share * share.log2()).sum()):.2f} bits of entropy a token\n"
        f"JPEG's qualities 1 to 95 give {means[0]:.3f} to {means[-1]:.3f} bpp\n"
        "metric  tokenizer  JPEG at this mean rate  JPEG at this rate, each picture  better on\n"
    )
    for name, values in own.items():
        pooled = np.interp(rate, means, [float(scores[name].mean()) for _, scores in curve])
        each = torch.tensor(
            [
                np.interp(rate, [float(r[i]) for r, _ in curve], [float(s[name][i]) for _, s in curve])
                for i in range(len(pictures))
            ]
        )
        better = (values < each if name == "lpips" else values > each).sum()
        sys.stdout.write(
            f"{name:6}  {float(values.mean()):9.4f}  {pooled:22.4f}  {float(each.mean()):31.4f}  "
            f"{int(better)} of {len(pictures)}\n"
        )
    if rate < means[0]:
        sys.stdout.write("JPEG does not reach this rate: its column is its quality 1, at a higher rate\n")


if __name__ == "__main__":
    main()
