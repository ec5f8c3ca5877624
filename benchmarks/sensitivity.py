"""Which metric sees what: five strengths of five distortions, ranked by every metric of a pair of pictures.

    python benchmarks/sensitivity.py [--pictures 29] [--write docs/metrics.md]

A metric ranks a distortion rightly on a picture if each stronger version scores strictly worse. Prints the share of the
embedded pictures where it does, as a Markdown table; with --write also puts it between the markers of that file.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from vtbench import metrics
from vtbench.data import sample

BEGIN, END = "<!-- sensitivity: begin -->", "<!-- sensitivity: end -->"

SEEN = 0.9
"""From this share on a metric is said to see a distortion; its cell is bold."""

Picture = np.ndarray  # uint8 (H, W, 3)


def blur(picture: Picture, sigma: float) -> Picture:
    """Blur by a Gaussian, in pixels."""
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(sigma)))


def jpeg(picture: Picture, quality: float) -> Picture:
    """Save as JPEG (4:2:0) and read back."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=int(quality))
    return np.asarray(Image.open(file))


def noise(picture: Picture, deviation: float) -> Picture:
    """Add white Gaussian noise, one and the same pattern at every strength."""
    pattern = np.random.default_rng(0).normal(size=picture.shape)
    return _levels(picture + deviation * pattern)


def colour(picture: Picture, levels: float) -> Picture:
    """Shift the colour: red up, blue down, and green so that the luma stays."""
    return _levels(picture + levels * np.array([1.0, (0.114 - 0.299) / 0.587, -1.0]))


def resample(picture: Picture, factor: float) -> Picture:
    """Make it smaller by a factor and as large again, by Pillow's bicubic filter."""
    height, width = picture.shape[:2]
    small = Image.fromarray(picture).resize((round(width / factor), round(height / factor)), Image.Resampling.BICUBIC)
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def _levels(floats: np.ndarray) -> Picture:
    return np.clip(np.rint(floats), 0, 255).astype(np.uint8)


DISTORTIONS: dict[str, tuple[Callable[[Picture, float], Picture], tuple[float, ...]]] = {
    "blur": (blur, (0.6, 1.0, 1.5, 2.5, 4.0)),
    "JPEG": (jpeg, (90, 70, 45, 20, 8)),
    "noise": (noise, (2, 5, 10, 20, 40)),
    "colour shift": (colour, (2, 5, 10, 20, 40)),
    "down and up": (resample, (1.5, 2, 3, 5, 8)),
}
"""What is done, and how strongly, weakest first."""

METRICS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int]] = {
    "psnr": (metrics.psnr, 1),
    "ssim": (metrics.ssim, 1),
    "ssim_uniform": (lambda x, y: metrics.ssim(x, y, window="uniform-7"), 1),
    "ms_ssim": (metrics.ms_ssim, 1),
    "gmsd": (metrics.gmsd, -1),
    "haarpsi": (metrics.haarpsi, 1),
    "ciede2000": (metrics.ciede2000, -1),
    "flip": (metrics.flip, -1),
    "lpips": (lambda x, y: metrics.lpips(x, y, net="alex"), -1),
    "lpips_vgg": (lambda x, y: metrics.lpips(x, y, net="vgg"), -1),
}
"""Each metric and its sign: 1 where more is better."""


def ranked(metric: str, distortion: str, picture: Tensor) -> bool:
    """Say whether a metric puts the five strengths of a distortion into their order.

    Args:
        metric: a name of METRICS.
        distortion: a name of DISTORTIONS.
        picture: uint8 (3, H, W).
    """
    return _ordered(metric, picture, distorted(distortion, picture))


def distorted(distortion: str, picture: Tensor) -> Tensor:
    """Make the five versions of a picture, weakest first, uint8 (5, 3, H, W)."""
    function, strengths = DISTORTIONS[distortion]
    levels = picture.permute(1, 2, 0).numpy()
    return torch.stack([torch.from_numpy(function(levels, s).copy()).permute(2, 0, 1) for s in strengths])


def _ordered(metric: str, picture: Tensor, versions: Tensor) -> bool:
    function, sign = METRICS[metric]
    values = sign * function(picture[None].expand_as(versions).contiguous(), versions)
    return bool((values[1:] < values[:-1]).all())


def table(count: int) -> str:
    """Measure the first pictures of the embedded set and return the Markdown table."""
    source = sample.Source(size=256)
    hits = {(metric, distortion): 0 for metric in METRICS for distortion in DISTORTIONS}
    for index in range(count):
        picture = source.read(index).image
        for distortion in DISTORTIONS:
            versions = distorted(distortion, picture)
            for metric in METRICS:
                hits[metric, distortion] += _ordered(metric, picture, versions)
    strengths = [f"{name} ({', '.join(f'{s:g}' for s in values)})" for name, (_, values) in DISTORTIONS.items()]
    lines = [f"| {count} pictures | {' | '.join(strengths)} |", "| :-- |" + " --: |" * len(strengths)]
    for metric in METRICS:
        shares = [hits[metric, distortion] / count for distortion in DISTORTIONS]
        cells = [f"**{share:.0%}**" if share >= SEEN else f"{share:.0%}" for share in shares]
        lines.append(f"| {metric} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=29)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = table(options.pictures)
    print(found)
    if options.write:
        before, rest = options.write.read_text().split(BEGIN)
        _, after = rest.split(END)
        options.write.write_text(f"{before}{BEGIN}\n{found}\n{END}{after}")


if __name__ == "__main__":
    main()
