"""Make the pictures and the measured tables of docs/text.md; run it again whenever the pages or an engine change.

    python scripts/text_pages.py

Writes docs/text/pages-256.webp (all pages on one sheet, lossless) and what stands between the marks in docs/text.md.
Needs all three OCR engines and takes a few minutes.
"""

# ruff: noqa: TID253  (a script may load torch at once)

from __future__ import annotations

import resource
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from vtbench import images, ocr
from vtbench.data.text_chart import HEIGHTS, PAGES, PLAIN, STRINGS, VARIED, Source
from vtbench.metrics.text import NORMALISATIONS, cer, characters, legibility_threshold, micro, normalise
from vtbench.types import Sample

DOCS = Path(__file__).resolve().parent.parent / "docs"
ENGINES = ("easyocr", "rapidocr", "tesseract")
SIZES = (256, 512)
EXAMPLE = "\uff2eo. 7:  Cafe\u0301-Bar"


class Reading(NamedTuple):
    """One original, read by one engine."""

    page: Sample
    boxes: list[str]
    whole: str
    seconds: tuple[float, float]
    """Processor time of the boxes and of the page."""


GROUPS: dict[str, Callable[[Sample], bool]] = {
    "language, plain, from 16 px": lambda page: _is(page, "language", "plain") and _height(page) >= 16,
    "language, plain, 8 to 12 px": lambda page: _is(page, "language", "plain") and 8 <= _height(page) <= 12,
    "language, plain, 6 px": lambda page: _is(page, "language", "plain") and _height(page) == 6,
    "language, gradient": lambda page: _is(page, "language", "gradient"),
    "language, photo": lambda page: _is(page, "language", "photo"),
    "random strings": lambda page: _is(page, "random"),
    "confusable strings": lambda page: _is(page, "confusable"),
    "contrast high": lambda page: page.attributes["contrast"] == "high",
    "contrast medium": lambda page: page.attributes["contrast"] == "medium",
    "contrast low": lambda page: page.attributes["contrast"] == "low",
    "all pages": lambda page: True,
}


def _is(page: Sample, strings: str, background: str | None = None) -> bool:
    return page.attributes["strings"] == strings and background in (None, page.attributes["background"])


def _height(page: Sample) -> float:
    return float(page.attributes["cap_height"])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def sheet(size: int) -> None:
    """Lay all pages side by side: a column a height."""
    source, gap = Source(size=size), 4
    step = size + gap
    canvas = Image.new("RGB", (len(HEIGHTS) * step - gap, PAGES * step - gap), (128, 128, 128))
    for index in range(len(source)):
        place = (index // PAGES * step, index % PAGES * step)
        canvas.paste(images.to_pil(source.read(index).image), place)
    (DOCS / "text").mkdir(parents=True, exist_ok=True)
    canvas.save(DOCS / "text" / f"pages-{size}.webp", lossless=True, method=6)


def read(engine: ocr.Engine, size: int) -> list[Reading]:
    """Read all originals of a size."""
    source, readings = Source(size=size), []
    engine.read_page(source.read(0).image)  # first-call costs
    for index in range(len(source)):
        page = source.read(index)
        start = _processor()
        boxes = engine.read_boxes(page.image, [line.box for line in page.lines])
        middle = _processor()
        whole = engine.read_page(page.image)
        readings.append(Reading(page, boxes, whole, (middle - start, _processor() - middle)))
    return readings


def _processor() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _rate(readings: Sequence[Reading], *, whole: bool) -> float:
    truths = [" ".join(line.text for line in reading.page.lines) for reading in readings]
    reads = [reading.whole if whole else " ".join(reading.boxes) for reading in readings]
    rates = [cer(truth, text) for truth, text in zip(truths, reads, strict=True)]
    return micro(rates, [characters(truth) for truth in truths]) or 0.0


def _legible(readings: Sequence[Reading]) -> str:
    lines = [
        (_height(reading.page), cer(line.text, text), characters(line.text))
        for reading in readings
        if _is(reading.page, "language")
        for line, text in zip(reading.page.lines, reading.boxes, strict=True)
    ]
    found = legibility_threshold(*zip(*lines, strict=True))
    if found.value is None:
        return found.reason
    return "6 px or less" if found.at_most else f"{found.value:.1f} px ({found.low:.1f} to {found.high:.1f})"


def main() -> None:
    """Write the pictures and the tables."""
    torch.set_num_threads(1)
    sheet(SIZES[0])
    engines = {name: ocr.load(name) for name in ENGINES}
    readings = {(name, size): read(engine, size) for name, engine in engines.items() for size in SIZES}

    pages = [
        [f"{height} px", *(_described(style) for style in (PLAIN, varied, strings))]
        for height, varied, strings in zip(HEIGHTS, VARIED, STRINGS, strict=True)
    ]
    rules = [
        [
            f"`{name}`",
            "yes" if rule.nfkc else "no",
            rule.case,
            rule.signs,
            rule.spaces,
            f"`{normalise(EXAMPLE, name)}`",
            rule.use,
        ]
        for name, rule in NORMALISATIONS.items()
    ]
    floors = []
    for group, belongs in GROUPS.items():
        row = [group]
        for size in SIZES:
            for name in ENGINES:
                part = [reading for reading in readings[name, size] if belongs(reading.page)]
                row.append(f"{_rate(part, whole=False):.1%} / {_rate(part, whole=True):.1%}")
        floors.append(row)
    floors.append(["legible from", *(_legible(readings[name, size]) for size in SIZES for name in ENGINES)])
    costs = []
    for name, engine in engines.items():
        row = [name, engine.version]
        for size in SIZES:
            part = readings[name, size]
            row += [f"{1000 * sum(one.seconds[kind] for one in part) / len(part):.0f} ms" for kind in (0, 1)]
        costs.append(row)

    blocks = {
        "pages": table(["cap height", "page 0", "page 1", "page 2"], pages),
        "rules": table(["name", "NFKC", "case", "signs", "spaces", "makes of " + f"`{EXAMPLE}`", "for"], rules),
        "floors": table(["CER, boxes / page", *(f"{name}, {size}" for size in SIZES for name in ENGINES)], floors),
        "costs": table(
            ["engine", "version", *(f"{kind}, {size}" for size in SIZES for kind in ("boxes", "page"))], costs
        ),
    }
    file = DOCS / "text.md"
    said = file.read_text(encoding="utf-8")
    for name, block in blocks.items():
        before, _, rest = said.partition(f"<!-- {name} -->\n")
        _, mark, after = rest.partition(f"<!-- /{name} -->")
        said = f"{before}<!-- {name} -->\n{block}\n{mark}{after}"
    file.write_text(said, encoding="utf-8")


def _described(style: object) -> str:
    strings, background, contrast, font = (
        getattr(style, name) for name in ("strings", "background", "contrast", "font")
    )
    return f"{strings}, {background}, {contrast}, {font}"


if __name__ == "__main__":
    main()
