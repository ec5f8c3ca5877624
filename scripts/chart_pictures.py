"""Make the pictures and the measured tables of docs/charts.md; run it again whenever a chart or its metrics change.

    python scripts/chart_pictures.py

Writes docs/charts/*.webp (every chart at 128 pixels, lossless) and what stands between the marks in docs/charts.md.
"""

# ruff: noqa: TID253, RUF001  (a script may load torch at once, and its tables are for people)

from __future__ import annotations

import io
import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

from vtbench.catalogue import find_metric, of_measure
from vtbench.data.detail_chart import AMPLITUDES, CHARTS, Source, cells
from vtbench.metrics.detail import CHARTS as MEASURED
from vtbench.metrics.detail import MTF_LEVELS, amplitude, measure
from vtbench.types import Sample

Array = NDArray[np.float64]
Change = Callable[[Tensor], Tensor]

DOCS = Path(__file__).resolve().parent.parent / "docs"
SHOWN = 128
SIGMAS = (0.7, 1.0, 1.5, 2.0, 3.0, 5.0)

ABOUT = {
    "slanted-edge": "an edge that leans by {degrees:g} degrees, {orientation}, contrast {contrast:g}",
    "line-pairs": "nine frequencies from 1/64 to 1/2 cycle a pixel, {colour}, phase along {degrees:g} degrees",
    "zone-plate": "rings whose frequency grows to half a cycle a pixel at the sides",
    "siemens-star": "32 spokes, up to half a cycle a pixel at the grey disc",
    "checkerboard": "squares of 1, 2, 4 and 8 pixels",
    "lines": "lines 0.25, 0.5, 1, 2 and 3 pixels wide in four directions, contrast {contrast:.3g}",
    "dead-leaves": "discs over discs, radii with density r⁻³, as occluding things in natural pictures",
    "fractal": "noise with an amplitude near 1/f: the same contrast in every octave",
    "patterns": "hatching, dots, a basket weave and cross-hatching that repeat every few pixels",
    "ramps": "{ramps}",
    "flat-fields": "sixteen flat colours",
}

RAMPS = {
    "ramps": "ramps from black to grey, three primaries, three secondaries and a brown, left to right",
    "ramps-shallow": "ramps of 32 levels in five greys and three muted colours, downwards",
}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """One Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def to_picture(levels: Array) -> Tensor:
    """Clamp and round to uint8."""
    return torch.from_numpy(np.floor(np.clip(levels, 0, 255) + 0.5).astype(np.uint8))


def levels(image: Tensor) -> Array:
    """Levels in float64."""
    return image.numpy().astype(np.float64)


def blur(sigma: float) -> Change:
    """A Gaussian blur."""
    return lambda image: to_picture(
        np.stack([gaussian_filter(channel, sigma, mode="nearest", truncate=8) for channel in levels(image)])
    )


def resample(factor: int) -> Change:
    """Box down, bicubic up."""

    def change(image: Tensor) -> Tensor:
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        small = picture.resize((picture.width // factor, picture.height // factor), Image.Resampling.BOX)
        return torch.from_numpy(np.array(small.resize(picture.size, Image.Resampling.BICUBIC))).permute(2, 0, 1)

    return change


def noise(sigma: float) -> Change:
    """Gaussian noise, independent in every pixel and channel."""
    return lambda image: to_picture(levels(image) + np.random.default_rng(7).normal(0, sigma, image.shape))


def jpeg(quality: int) -> Change:
    """JPEG with half-sampled chroma."""

    def change(image: Tensor) -> Tensor:
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "jpeg", quality=quality, subsampling=2)
        return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)

    return change


def posterise(step: int) -> Change:
    """A uniform quantiser."""
    return lambda image: to_picture(levels(image) // step * step + (step - 1) / 2)


def gain(factor: float) -> Change:
    """Less or more contrast round the middle."""
    return lambda image: to_picture(127.5 + factor * (levels(image) - 127.5))


def sharpen(image: Tensor) -> Tensor:
    """An unsharp mask: as much again of what a Gaussian of sigma 1 takes."""
    blurred = np.stack([gaussian_filter(channel, 1.0, mode="nearest") for channel in levels(image)])
    return to_picture(2 * levels(image) - blurred)


CHANGES: dict[str, Change] = {
    "original": lambda image: image,
    "blur σ 1": blur(1),
    "blur σ 3": blur(3),
    "½ size and back": resample(2),
    "¼ size and back": resample(4),
    "noise σ 8": noise(8),
    "16 levels a step": posterise(16),
    "JPEG 30": jpeg(30),
    "contrast × 0.7": gain(0.7),
    "sharpened": sharpen,
    "flat grey": lambda image: torch.full_like(image, 128),
}


def box(frequency: Array, degrees: float) -> Array:
    """The transfer of the pixel's square across an edge."""
    turn = math.radians(degrees)
    return np.abs(np.sinc(frequency * math.cos(turn)) * np.sinc(frequency * math.sin(turn)))


def gaussian(frequency: Array, sigma: float) -> Array:
    """The transfer of a Gaussian blur."""
    transfer: Array = np.exp(-2 * (math.pi * sigma * frequency) ** 2)
    return transfer


def analytic_mtf50(degrees: float, sigma: float) -> float:
    """Where the product of both falls under one half."""
    frequency = np.linspace(0, 1, 100_001)
    return float(frequency[np.argmax(box(frequency, degrees) * gaussian(frequency, sigma) < 0.5)])


def of_kind(source: Source, kind: str) -> list[Sample]:
    """The samples of one kind of chart."""
    return [source.read(index) for index, chart in enumerate(CHARTS) if chart.group == kind]


def score(sample: Sample, change: Change) -> dict[str, float]:
    """What is measured of one chart after a change."""
    return measure(sample.attributes, sample.image, change(sample.image))


def within(values: Sequence[float], digits: int = 3) -> str:
    """The range of some values, short."""
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return low if low == high else f"{low} to {high}"


def deviation(found: Sequence[float], expected: Sequence[float]) -> str:
    """The largest relative difference, in per cent."""
    return f"{100 * max(abs(f / e - 1) for f, e in zip(found, expected, strict=True)):.2f}%"


def pictures() -> str:
    """Write the pictures; return the table that shows them."""
    source = Source(size=SHOWN)
    rows = []
    for index in range(len(source)):
        sample = source.read(index)
        picture = Image.fromarray(sample.image.permute(1, 2, 0).numpy())
        picture.save(DOCS / "charts" / f"{sample.id}.webp", lossless=True, quality=100, method=6)
        kind = str(sample.attributes["chart"])
        facts = dict(sample.attributes)
        facts["orientation"] = {"v": "upright", "h": "level"}.get(str(facts.get("orientation")), "")
        facts["ramps"] = RAMPS.get(sample.id, "")
        names = {key.split("/")[0] for key in measure(sample.attributes, sample.image, sample.image)}
        measures = ", ".join(f"`{name}`" for name in of_measure("charts") if name in names)
        rows.append(
            (f"![{sample.id}](charts/{sample.id}.webp)", f"`{sample.id}`", ABOUT[kind].format(**facts), measures)
        )
    assert set(ABOUT) == set(MEASURED)
    return table(("", "chart", "shows", "measured"), rows)


def edges() -> str:
    """The effective MTF of untouched edges, against the pixel's box."""
    rows = []
    for size in (256, 512):
        for sample in of_kind(Source(size=size), "slanted-edge"):
            degrees = float(sample.attributes["degrees"])
            found = score(sample, CHANGES["original"])
            measured = [found[f"mtf/{level:g}"] for level in MTF_LEVELS]
            expected = list(box(np.array(MTF_LEVELS), degrees))
            cells_ = [f"{f:.4f} ({e:.4f})" for f, e in zip(measured, expected, strict=True)]
            half = f"{found['mtf50']:.4f} ({analytic_mtf50(degrees, 0):.4f})"
            rows.append((f"`{sample.id}`", str(size), *cells_, half, deviation(measured, expected)))
    return table(("chart", "size", *(f"{level:g} c/px" for level in MTF_LEVELS), "MTF50", "largest deviation"), rows)


def blurred_edges() -> str:
    """MTF50 under Gaussian blur, against the analytic one."""
    rows = []
    for sigma in SIGMAS:
        row = [f"{sigma:g}", f"{analytic_mtf50(5, sigma):.4f}"]
        for size in (256, 512):
            samples = of_kind(Source(size=size), "slanted-edge")
            found = [score(sample, blur(sigma))["mtf50"] for sample in samples]
            expected = [analytic_mtf50(float(sample.attributes["degrees"]), sigma) for sample in samples]
            row += [within(found, 4), deviation(found, expected)]
        rows.append(row)
    head = ("σ in pixels", "analytic at 5°", "measured at 256", "deviation", "measured at 512", "deviation")
    return table(head, rows)


def line_pairs() -> str:
    """Fitted amplitudes of untouched line pairs over the formula's, and contrast under blur."""
    rows = []
    for size in (256, 512):
        for colour, swing in AMPLITUDES.items():
            shares, lost = [], []
            for sample in of_kind(Source(size=size), "line-pairs"):
                if sample.attributes["colour"] != colour:
                    continue
                degrees = float(sample.attributes["degrees"])
                after = score(sample, blur(1))
                frequencies = [float(Fraction(text)) for text in str(sample.attributes["frequencies"]).split()]
                for frequency, part in zip(frequencies, cells(size, 3, 3), strict=True):
                    fitted = amplitude(levels(sample.image)[:, *part], frequency, degrees)
                    shares.append(float(fitted @ np.array(swing) / (np.array(swing) @ np.array(swing))))
                    lost.append(after[f"contrast/{frequency:g}"] - float(gaussian(np.array(frequency), 1)))
            rows.append((colour, str(size), within(shares, 4), f"{max(map(abs, lost)):.4f}"))
    head = ("colour", "size", "amplitude over the formula's", "largest difference from exp(-2π²f²) after blur σ 1")
    return table(head, rows)


def others() -> str:
    """What the other metrics say where the truth is known."""
    rows = []
    for size in (256, 512):
        source = Source(size=size)
        frequency = np.arange(1, size // 2 + 1) / size
        weight = (60 * frequency) ** 0.8 * np.exp(-0.2 * 60 * frequency)
        for sigma in (1.0, 2.0):
            found = [score(sample, blur(sigma))["acutance"] for sample in of_kind(source, "dead-leaves")]
            expected = float(gaussian(frequency, sigma) @ weight / weight.sum())
            rows.append(("`acutance`", f"blur σ {sigma:g}", str(size), f"{expected:.4f}", within(found, 4)))
        found = [score(sample, noise(20))["acutance"] for sample in of_kind(source, "dead-leaves")]
        rows.append(("`acutance`", "noise σ 20", str(size), "1", within(found, 4)))
        for sigma in (1.0, 4.0):
            found = [score(sample, noise(sigma))["flat_noise"] for sample in of_kind(source, "flat-fields")]
            expected = math.sqrt(sigma**2 + 1 / 12)
            rows.append(("`flat_noise`", f"noise σ {sigma:g}, rounded", str(size), f"{expected:.3f}", within(found)))
        for step in (4, 8):
            found = [score(sample, posterise(step))["banding"] for sample in of_kind(source, "ramps")]
            expected = math.sqrt(step**2 - 1)
            rows.append(("`banding`", f"{step} levels a step", str(size), f"{expected:.3f}", within(found)))
        found = [score(sample, gain(0.5))["line_survival"] for sample in of_kind(source, "lines")]
        rows.append(("`line_survival`", "contrast × 0.5", str(size), "0.5", within(found)))
    return table(("metric", "what was done", "size", "truth", "measured"), rows)


def responses() -> str:
    """The mean of each metric over its charts, after each of a few changes."""
    source = Source(size=256)
    means: dict[str, list[str]] = defaultdict(list)
    for change in CHANGES.values():
        values: dict[str, list[float]] = defaultdict(list)
        for index in range(len(source)):
            for key, value in score(source.read(index), change).items():
                values[key].append(value)
        for name in of_measure("charts"):
            mean = math.fsum(values[name]) / len(values[name])
            means[name].append("∞" if math.isinf(mean) else f"{mean:.{min(3, find_metric(name).digits)}f}")
    return table(("metric", *CHANGES), [(f"`{name}`", *means[name]) for name in of_measure("charts")])


def main() -> None:
    """Write pictures and tables."""
    (DOCS / "charts").mkdir(parents=True, exist_ok=True)
    page = DOCS / "charts.md"
    text = page.read_text(encoding="utf-8")
    for make in (pictures, edges, blurred_edges, line_pairs, others, responses):
        mark = make.__name__.replace("_", "-")
        pattern = rf"(<!-- {mark} -->\n).*?(<!-- end -->)"
        body = make()
        text, count = re.subn(pattern, lambda found: f"{found[1]}{body}\n{found[2]}", text, flags=re.DOTALL)  # noqa: B023
        if count != 1:
            raise SystemExit(f"{page}: expected one mark <!-- {mark} --> with an <!-- end --> after it, found {count}")
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
