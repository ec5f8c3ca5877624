"""From two batches of pictures to numbers, by a protocol.

`Scorer` serves the engine: uint8 pairs in, one value a picture and metric out. `prepare` and `score` run a protocol's
whole way in and way out on plain arrays, for checks against other evaluation code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vtbench import backbones, metrics, ocr
from vtbench import images as pixels
from vtbench.errors import DataError
from vtbench.metrics.frechet import frechet_distance
from vtbench.protocols import METRICS, RFID_MINIMUM, find_metric, find_protocol
from vtbench.types import Batch

Value = float | None

PAIRWISE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "psnr": metrics.psnr,
    "ssim": metrics.ssim,
    "ms_ssim": metrics.ms_ssim,
    "lpips": lambda reference, reconstruction: metrics.lpips(reference, reconstruction, net="alex"),
    "lpips_vgg": lambda reference, reconstruction: metrics.lpips(reference, reconstruction, net="vgg"),
}
"""Metrics of one pair of pictures."""

READ_IN_BOXES = {"cer": metrics.cer, "wer": metrics.wer}
READ_ON_PAGE = {"cer_page": metrics.cer, "wer_page": metrics.wer}

FEATURES = ("rfid/reference", "rfid/reconstruction")
"""Columns with the Inception features of a picture; rFID comes from all of them together."""


def unavailable(names: Sequence[str], expected: int) -> dict[str, str]:
    """Say which metrics can't be scored here and why, each with the command that mends it."""
    reasons = {}
    for name in names:
        needs = find_metric(name).needs
        missing = [backbones.missing(need) for need in needs if backbones.find(need) is None]
        if missing:
            reasons[name] = missing[0]
        elif name == "rfid" and expected < RFID_MINIMUM:
            reasons[name] = f"rFID needs at least {RFID_MINIMUM} pictures, the task has {expected}"
    return reasons


class Scorer:
    """Measures single pictures by the canonical protocol; keeps the networks that metrics need."""

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        """Load what the metrics need.

        Args:
            names: metrics, as `protocols.METRICS` calls them.
            device: where metrics are computed.

        Raises:
            WeightsError: if a backbone is missing or damaged.
        """
        self.names = tuple(names)
        self.device = device
        self._engine = ocr.load(device=str(device)) if any("easyocr" in METRICS[n].needs for n in names) else None
        self._frechet = metrics.FrechetDistance(device=str(device)) if "rfid" in names else None

    def measure(self, batch: Batch) -> dict[str, list[Any]]:
        """Score B pictures: a column a metric with B values (None where not scored), and features where asked."""
        reference, reconstruction = batch.reference.to(self.device), batch.reconstruction.to(self.device)
        columns: dict[str, list[Any]] = {
            name: PAIRWISE[name](reference, reconstruction).tolist() for name in self.names if name in PAIRWISE
        }
        columns |= self._measure_text(batch)
        if self._frechet is not None:
            for column, pictures in zip(FEATURES, (reference, reconstruction), strict=True):
                columns[column] = list(self._frechet.features(pictures))
        return columns

    def _measure_text(self, batch: Batch) -> dict[str, list[Value]]:
        in_boxes = {name: rate for name, rate in READ_IN_BOXES.items() if name in self.names}
        on_page = {name: rate for name, rate in READ_ON_PAGE.items() if name in self.names}
        columns: dict[str, list[Value]] = {name: [] for name in (*in_boxes, *on_page)}
        if self._engine is None:
            return columns
        for sample, picture in zip(batch.samples, batch.reconstruction, strict=True):
            truth = " ".join(line.text for line in sample.lines)
            if in_boxes:
                read = " ".join(self._engine.read_boxes(picture, [line.box for line in sample.lines]))
                for name, rate in in_boxes.items():
                    columns[name].append(rate(truth, read))
            if on_page:
                read = self._engine.read_page(picture)
                for name, rate in on_page.items():
                    columns[name].append(rate(truth, read))
        return columns


# --- a protocol's whole way, on arrays --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scores:
    """What a protocol says of a set of pictures."""

    images: list[dict[str, float]]
    """One dictionary of metric to value a picture."""
    totals: dict[str, float]
    """The same metrics as the protocol averages them, with "rfid" where an Inception network was given."""


def prepare(
    protocol: str,
    image: np.ndarray[Any, Any],
    *,
    size: int | None = None,
    value_range: tuple[float, float] = (-1.0, 1.0),
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Turn a raw picture into what the model is fed.

    Args:
        protocol: its name.
        image: uint8 (H, W, 3).
        size: height and width; the protocol's own (256) where left out.
        value_range: what 0 and 255 become.

    Returns:
        float32 (3, size, size).
    """
    find_protocol(protocol)
    prepared = pixels.to_float(_cropped(image, size), value_range)
    return np.asarray(prepared.numpy(), dtype=np.float32)


def score(
    protocol: str,
    images: Sequence[np.ndarray[Any, Any]],
    inputs: Sequence[np.ndarray[Any, Any]],
    decoded: Sequence[np.ndarray[Any, Any]],
    *,
    size: int | None = None,
    value_range: tuple[float, float] = (-1.0, 1.0),
    inception: Mapping[str, Tensor] | None = None,
) -> Scores:
    """Score decoder outputs as a protocol does.

    Args:
        protocol: its name.
        images: the raw pictures, uint8 (H, W, 3).
        inputs: what `prepare` made of them; the canonical protocol scores against the uint8 pixels instead.
        decoded: the network's float output before any clamp, float32 (3, size, size).
        size: as given to `prepare`.
        value_range: as given to `prepare`.
        inception: tensors of the FID-Inception network by published name; rFID is left out without them.

    Raises:
        DataError: if the three lists differ in length.
    """
    find_protocol(protocol)
    if not len(images) == len(inputs) == len(decoded):
        raise DataError(f"{len(images)} pictures, {len(inputs)} inputs, {len(decoded)} outputs; expected equal numbers")
    references = torch.stack([_cropped(image, size) for image in images])
    outputs = torch.stack([torch.from_numpy(np.asarray(output, dtype=np.float32)) for output in decoded])
    reconstructions = pixels.to_uint8(outputs, value_range)
    names = {"psnr": "psnr", "ssim": "ssim", "lpips_alex": "lpips"}
    columns = {shown: PAIRWISE[name](references, reconstructions).tolist() for shown, name in names.items()}
    totals = {name: float(np.mean(column)) for name, column in columns.items()}
    if inception is not None:
        distance = metrics.FrechetDistance(inception=inception)
        totals["rfid"] = frechet_distance(distance.features(references), distance.features(reconstructions))
    each = [{name: column[index] for name, column in columns.items()} for index in range(len(references))]
    return Scores(images=each, totals=totals)


def _cropped(image: np.ndarray[Any, Any], size: int | None) -> Tensor:
    picture = Image.fromarray(np.ascontiguousarray(image))
    return pixels.from_pil(pixels.resize_and_crop(picture, size or 256))
