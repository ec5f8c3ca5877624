"""A protocol's whole way on plain arrays, for checks against other evaluation code: the thin face of `published`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vtbench import images as pixels
from vtbench import published
from vtbench.catalogue import find_metric
from vtbench.errors import DataError
from vtbench.measures import Context
from vtbench.protocols import Protocol, find_protocol
from vtbench.types import Key


@dataclass(frozen=True)
class Scores:
    """What a protocol says of a set of pictures."""

    images: list[dict[str, float]]
    """One dictionary of metric to value a picture."""
    totals: dict[str, float]
    """The same metrics as the protocol averages them, with "rfid" where an Inception network was given."""


def prepare(
    protocol: str | Protocol,
    image: np.ndarray[Any, Any],
    *,
    size: int | None = None,
    value_range: pixels.Range = (-1.0, 1.0),
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Turn a raw picture into what the model is fed.

    Args:
        protocol: its name, or one of your own making (`dataclasses.replace` changes one rule of another).
        image: uint8 (H, W, 3).
        size: height and width; the protocol's own (256) where left out. Protocols of the native size pass over it.
        value_range: what 0 and 255 become.

    Returns:
        float32 (3, size, size), or (3, H, W) at native size.

    Raises:
        CardError: if there is no such protocol.
        DataError: if the picture is not uint8 (H, W, 3).
    """
    rule = find_protocol(protocol) if isinstance(protocol, str) else protocol
    return np.asarray(published.fed(rule, image, size, value_range).numpy(), dtype=np.float32)


def score(
    protocol: str | Protocol,
    images: Sequence[np.ndarray[Any, Any]],
    inputs: Sequence[np.ndarray[Any, Any]],
    decoded: Sequence[np.ndarray[Any, Any]],
    *,
    size: int | None = None,
    value_range: pixels.Range = (-1.0, 1.0),
    inception: Mapping[str, Tensor] | None = None,
) -> Scores:
    """Score decoder outputs as a protocol does.

    Args:
        protocol: its name, or one of your own making (`dataclasses.replace` changes one rule of another).
        images: the raw pictures, uint8 (H, W, 3).
        inputs: what `prepare` made of them.
        decoded: the network's float output before any clamp, float32, each of its input's shape.
        size: as given to `prepare`.
        value_range: as given to `prepare`.
        inception: tensors of the FID-Inception network by published name; rFID is left out without them.

    Raises:
        CardError: if there is no such protocol.
        DataError: if the three lists differ in length, or an output in shape from its input.
        WeightsError: if a backbone of LPIPS is missing.
    """
    rule = find_protocol(protocol) if isinstance(protocol, str) else protocol
    if not len(images) == len(inputs) == len(decoded) or not len(images):
        raise DataError(f"{len(images)} pictures, {len(inputs)} inputs, {len(decoded)} outputs; expected equal numbers")
    names = [name for name in rule.metrics if inception is not None or name not in ("rfid", "inception_score")]
    context = Context(
        device=torch.device("cpu"),
        protocol=rule,
        side=size,
        engine="",
        normalisation="",
        kind="",
        codebook_sizes=(),
        span=value_range,
        primary="",
        originals=None,
        computed_by="",
    )
    measure = published.Published([find_metric(name) for name in names], context, inception=inception)
    columns: dict[Key, list[Any]] = {}
    sides = [[torch.from_numpy(np.asarray(x, dtype=np.float32)) for x in side] for side in (inputs, decoded)]
    for start in range(0, len(images), rule.batch):
        part = slice(start, start + rule.batch)
        for key, values in measure.measure(images[part], sides[0][part], sides[1][part]).items():
            columns.setdefault(key, []).extend(values)
    shown = {name: "lpips_alex" if name == "lpips" else name for name in names if Key(name) in columns}
    return Scores(
        images=[{label: columns[Key(name)][index] for name, label in shown.items()} for index in range(len(images))],
        totals={
            shown.get(name, name): value
            for name, value in published.totals(rule, columns, size=size or rule.size or 256).items()
        },
    )
