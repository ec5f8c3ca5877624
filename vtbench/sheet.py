"""A contact sheet: originals and what tokenizers make of them, side by side, at their own pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont

from vtbench import images
from vtbench.task import Task
from vtbench.tokenizer import Tokenizer
from vtbench.types import Sample

GAP = 6
CAPTION = 18


def contact_sheet(tokenizers: Sequence[Tokenizer], samples: Sequence[Sample]) -> Image.Image:
    """Draw one row a picture and one column a tokenizer, the original first; every cell unscaled.

    Args:
        tokenizers: columns, in order.
        samples: rows, all of one size.

    Returns:
        An RGB picture with the names above the columns and bits per pixel beside them.
    """
    batch = torch.stack([sample.image for sample in samples])
    height, width = batch.shape[-2:]
    columns = [("original", batch)]
    for tokenizer in tokenizers:
        codes = tokenizer.encode(batch)
        rate = f" {sum(codes.bits) / (len(samples) * height * width):.2f} bpp" if codes.bits else ""
        columns.append((tokenizer.card.name + rate, tokenizer.decode(codes, (height, width)).cpu()))
    sheet = Image.new(
        "RGB",
        (len(columns) * (width + GAP) + GAP, len(samples) * (height + GAP) + CAPTION + GAP),
        "white",
    )
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for column, (name, pictures) in enumerate(columns):
        left = GAP + column * (width + GAP)
        draw.text((left, 3), name, fill="black", font=font)
        for row, picture in enumerate(pictures):
            sheet.paste(images.to_pil(picture), (left, CAPTION + GAP + row * (height + GAP)))
    return sheet


def pick(task: Task, count: int) -> list[Sample]:
    """Read pictures spread evenly over a task."""
    step = max(1, len(task) // count)
    return [task.read(index) for index in range(0, len(task), step)][:count]
