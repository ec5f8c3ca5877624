"""From two batches of pictures to numbers, by a protocol.

`Scorer` serves the engine: uint8 pairs in, one value a picture and metric out. `prepare` and `score` run a protocol's
whole way in and way out on plain arrays, for checks against other evaluation code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vtbench import backbones, geometry, metrics, ocr
from vtbench import images as pixels
from vtbench.errors import DataError
from vtbench.metrics import detail, learned, peak, structure, text
from vtbench.metrics.frechet import frechet_distance, inception_score
from vtbench.protocols import (
    DETAIL_METRICS,
    LPIPS_NAMES,
    METRICS,
    RFID_MINIMUM,
    Lpips,
    Protocol,
    Psnr,
    Rounding,
    Ssim,
    Window,
    find_protocol,
)
from vtbench.reading import Reader
from vtbench.types import Batch, TextLine

Array = np.ndarray[Any, np.dtype[np.float64]]

PAIRWISE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "psnr": metrics.psnr,
    "ssim": metrics.ssim,
    "ssim_uniform": lambda reference, reconstruction: metrics.ssim(reference, reconstruction, window="uniform-7"),
    "ms_ssim": metrics.ms_ssim,
    "ciede2000": metrics.ciede2000,
    "gmsd": metrics.gmsd,
    "haarpsi": metrics.haarpsi,
    "flip": metrics.flip,
    "lpips": lambda reference, reconstruction: metrics.lpips(reference, reconstruction, net="alex"),
    "lpips_vgg": lambda reference, reconstruction: metrics.lpips(reference, reconstruction, net="vgg"),
}
"""Metrics of one pair of pictures."""

FEATURES = ("rfid/reference", "rfid/reconstruction")
"""Columns with the Inception features of a picture; rFID and KID come from all of them together."""

LOGITS = "rfid/logits"
"""Column with the Inception logits of a reconstruction; the Inception score comes from all of them together."""


def unavailable(names: Sequence[str], expected: int, engine: str = "easyocr") -> dict[str, str]:
    """Say which metrics can't be scored here and why, each with the command that mends it.

    Args:
        names: metrics, as `protocols.METRICS` calls them.
        expected: pictures of the task.
        engine: the OCR engine that the task reads with.
    """
    reasons = {}
    for name in names:
        if reason := backbones.lacking(name, engine):
            reasons[name] = reason
        elif name == "rfid" and expected < RFID_MINIMUM:
            reasons[name] = f"rFID needs at least {RFID_MINIMUM} pictures, the task has {expected}"
    return reasons


class Scorer:
    """Measures single pictures by the canonical protocol; keeps the networks that metrics need."""

    def __init__(
        self,
        names: Sequence[str],
        device: torch.device,
        *,
        engine: str = "easyocr",
        normalisation: str = "text",
        readings: Path | None = None,
    ) -> None:
        """Load what the metrics need.

        Args:
            names: metrics, as `protocols.METRICS` calls them.
            device: where metrics are computed.
            engine: the OCR engine that reads text.
            normalisation: what is done to texts before they are compared.
            readings: a folder that keeps what the engine read on originals, so that it reads each only once.

        Raises:
            WeightsError: if a backbone is missing or damaged.
        """
        self.names = tuple(names)
        self.device = device
        self._reader: Reader | None = None
        if any("easyocr" in METRICS[name].needs for name in names):
            self._reader = Reader(names, ocr.load(engine, str(device)), normalisation, readings)
        self._frechet = metrics.FrechetDistance(device=device) if {"rfid", "kid"} & set(names) else None

    def measure(self, batch: Batch) -> dict[str, list[Any]]:
        """Score B pictures: a column a metric with B values (None where not scored), and features where asked."""
        reference, reconstruction = batch.reference.to(self.device), batch.reconstruction.to(self.device)
        columns: dict[str, list[Any]] = {
            name: PAIRWISE[name](reference, reconstruction).tolist() for name in self.names if name in PAIRWISE
        }
        columns |= self._measure_detail(batch)
        if self._reader is not None:
            rows = [self._reader.measure(*pair) for pair in zip(batch.samples, batch.reconstruction, strict=True)]
            columns |= {name: [row[name] for row in rows] for name in rows[0]}
        if self._frechet is not None:
            for column, pictures in zip(FEATURES, (reference, reconstruction), strict=True):
                columns[column] = list(self._frechet.features(pictures))
        return columns

    def _measure_detail(self, batch: Batch) -> dict[str, list[Any]]:
        wanted = [name for name in self.names if name in DETAIL_METRICS]
        if not wanted:
            return {}
        triples = zip(batch.samples, batch.reference, batch.reconstruction, strict=True)
        found = [detail.measure(sample.attributes, before, after) for sample, before, after in triples]
        # A chart has few of the metrics, and a curve its own levels: the others stay None.
        keys = dict.fromkeys(key for values in found for key in values if key.split("/")[0] in wanted)
        return {key: [values.get(key) for values in found] for key in (*wanted, *(k for k in keys if k not in wanted))}


# --- a protocol's whole way, on arrays --------------------------------------------------------------------------------


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
    fitted = _fitted(rule, image, size)
    if fitted.dtype == torch.uint8:
        prepared = pixels.to_float(fitted, value_range)
    else:
        prepared = pixels.from_unit(fitted, value_range)
    return np.asarray(prepared.numpy(), dtype=np.float32)


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
    scorer = ProtocolScorer(rule, names, torch.device("cpu"), inception=inception)
    columns: dict[str, list[Any]] = {}
    for start in range(0, len(images), rule.batch):
        part = slice(start, start + rule.batch)
        found = scorer.measure(images[part], inputs[part], decoded[part], size=size, value_range=value_range)
        for name, values in found.items():
            columns.setdefault(name, []).extend(values)
    shown = {name: "lpips_alex" if name == "lpips" else name for name in names if name in columns}
    return Scores(
        images=[{label: columns[name][index] for name, label in shown.items()} for index in range(len(images))],
        totals={shown.get(name, name): value for name, value in totals(rule, columns).items()},
    )


TRUTHS, READS, WORDS = "_truth", "_read", "_words"
"""Columns with what an engine read on original and reconstruction, or with [truth, reading, ratio] of each word."""


def totals(protocol: Protocol, columns: Mapping[str, Sequence[Any]], *, size: int = 256) -> dict[str, float]:
    """Average single pictures as a protocol does.

    Args:
        protocol: how.
        columns: what `ProtocolScorer.measure` gave, over all pictures and in their order.
        size: height and width that pictures were brought to; TokBench's bins depend on it.

    Returns:
        One value a metric; nan where the published code gives that (TokBench with an empty bin).
    """
    found: dict[str, float] = {}
    for name in protocol.metrics:
        if name not in columns:
            continue
        values = np.asarray(columns.get(f"_{name}", columns[name]), dtype=np.float64)
        if name in protocol.batch_means:
            starts = range(0, len(values), protocol.batch)
            values = np.asarray([values[start : start + protocol.batch].mean() for start in starts])
        found[name] = float(values.mean())
    if protocol.psnr and protocol.psnr.pooled and "psnr" in columns:
        found["psnr"] = _decibel(float(np.mean(columns["_error"])), _peak(columns["_low"], columns["_high"]))
    if READS in columns:
        found["cer_page"], found["wer_page"] = text.vtbench_2025(columns[TRUTHS], columns[READS])
    if WORDS in columns:
        words = [word for said in columns[WORDS] for word in json.loads(said)]
        if any(ratio is None for _, _, ratio in words):
            raise DataError("TokBench's bins need the size of each word, and these pictures don't state it")
        counted = text.tokbench(
            [truth for truth, _, _ in words], [read for _, read, _ in words], [r for _, _, r in words], size=size
        )
        found |= {"word_accuracy": counted.mean_accuracy, "ned": 1 - counted.mean_ned}
    if FEATURES[0] in columns:
        found["rfid"] = frechet_distance(*(np.stack(columns[column]) for column in FEATURES))
    if LOGITS in columns:
        found["inception_score"] = inception_score(np.stack(columns[LOGITS]))
    return found


@dataclass(frozen=True)
class _Side:
    """One side of a pair: what is scored, (3, H, W)."""

    levels: Tensor
    """On the scale of 0 to 255: uint8, or float32 where the protocol never rounds this side."""
    floats: Tensor
    """float32, 0 black and 1 white, before any rounding or clamp."""


class ProtocolScorer:
    """Scores pictures as a published evaluation code does; keeps the networks that its metrics need."""

    def __init__(
        self,
        protocol: Protocol,
        names: Sequence[str],
        device: torch.device,
        *,
        inception: Mapping[str, Tensor] | None = None,
        engine: ocr.Engine | None = None,
    ) -> None:
        """Load what the metrics need.

        Args:
            protocol: how pictures become numbers.
            names: which of its metrics.
            device: where metrics with a network run.
            inception: tensors of the FID-Inception network, in place of the file on this machine.
            engine: what reads, where text is scored.

        Raises:
            WeightsError: if a backbone is missing or damaged.
        """
        self.protocol = protocol
        self.names = tuple(names)
        self.device = device
        self.engine = engine
        rule = protocol.rfid
        nets = protocol.lpips.nets if protocol.lpips else ()
        self._lpips_networks = {net: learned.network(net, device) for net in nets if LPIPS_NAMES[net] in names}
        self._frechet: metrics.FrechetDistance | None = None
        if rule and "rfid" in names:
            self._frechet = metrics.FrechetDistance(
                inception=inception, device=device, resize=rule.resize, precision=rule.precision
            )

    def measure(
        self,
        images: Sequence[np.ndarray[Any, Any]],
        inputs: Sequence[np.ndarray[Any, Any]],
        decoded: Sequence[np.ndarray[Any, Any]],
        *,
        size: int | None = None,
        value_range: pixels.Range = (-1.0, 1.0),
        lines: Sequence[Sequence[TextLine]] = (),
    ) -> dict[str, list[Any]]:
        """Score one batch of the protocol: a column a metric, and in columns with a leading _ what its totals need.

        The arguments are those of `score`; `lines` are the known words of each raw picture, where text is scored.
        """
        rule = self.protocol
        pairs = []
        for image, fed, output in zip(images, inputs, decoded, strict=True):
            if np.shape(fed) != np.shape(output):
                raise DataError(f"the network gave {np.shape(output)} for {np.shape(fed)}; expected the same shape")
            fitted = _fitted(rule, image, size)
            fed_, output_ = (torch.from_numpy(np.asarray(x, dtype=np.float32)) for x in (fed, output))
            before, after = (pixels.to_unit(side, value_range) for side in (fed_, output_))
            reference = _side(rule, rule.reference, before, fitted, image)
            pairs.append((reference, _side(rule, rule.reconstruction, after, None, image)))
        columns: dict[str, list[Any]] = {}
        if rule.psnr and "psnr" in self.names:
            columns |= _psnr_columns(rule.psnr, pairs)
        if rule.ssim and "ssim" in self.names:
            columns |= _ssim_columns(rule.ssim, pairs)
        if rule.lpips:
            for net, network in self._lpips_networks.items():
                columns[LPIPS_NAMES[net]] = [self._lpips(rule.lpips, network, *pair) for pair in pairs]
        if self.engine is not None and rule.text == "against-original":
            columns |= self._against_original(self.engine, pairs)
        elif self.engine is not None and rule.text == "words":
            columns |= self._words(self.engine, pairs, lines)
        if rule.rfid and self._frechet is not None:
            on_floats = rule.rfid.on == "floats"
            both = [[(side.floats.clamp(0, 1) if on_floats else side.levels)[None] for side in pair] for pair in pairs]
            for column, position in zip(FEATURES, (0, 1), strict=True):
                columns[column] = [self._frechet.features(pair[position])[0] for pair in both]
            if rule.rfid.inception_score and "inception_score" in self.names:
                columns[LOGITS] = [self._frechet.logits(pair[1])[0] for pair in both]
        return columns

    def _against_original(self, engine: ocr.Engine, pairs: Pairs) -> dict[str, list[Any]]:
        truths, reads = ([engine.read_page(side.levels) for side in sides] for sides in zip(*pairs, strict=True))
        each = [text.vtbench_2025([truth], [read]) for truth, read in zip(truths, reads, strict=True)]
        rates = {"cer_page": [cer for cer, _ in each], "wer_page": [wer for _, wer in each]}
        return {TRUTHS: truths, READS: reads, **rates}

    def _words(self, engine: ocr.Engine, pairs: Pairs, lines: Sequence[Sequence[TextLine]]) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = {WORDS: [], "word_accuracy": [], "ned": []}
        for (_, reconstruction), known in zip(pairs, lines, strict=True):
            read = engine.read_boxes(reconstruction.levels, [line.box for line in known])
            found = [(line.text, said, line.ratio) for line, said in zip(known, read, strict=True)]
            columns[WORDS].append(json.dumps(found))
            equal = [float(truth == said) for truth, said, _ in found]
            far = [
                value
                for truth, said, _ in found
                if (value := text.ned(truth, said, normalisation="verbatim")) is not None
            ]
            columns["word_accuracy"].append(float(np.mean(equal)) if equal else None)
            columns["ned"].append(float(np.mean(far)) if far else None)
        return columns

    def _lpips(
        self, rule: Lpips, network: Callable[[Tensor, Tensor], Tensor], reference: _Side, reconstruction: _Side
    ) -> float:
        both = []
        for side in (reference, reconstruction):
            unit = pixels.to_unit(side.levels.float(), LEVELS) if rule.on == "levels" else side.floats
            both.append(pixels.from_unit(unit.clamp(0, 1) if rule.clamped else unit, rule.span)[None].to(self.device))
        return float(network(*both))


def _fitted(rule: Protocol, image: np.ndarray[Any, Any], size: int | None) -> Tensor:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise DataError(f"a picture of {image.dtype} {image.shape}; expected uint8 (H, W, 3)")
    return geometry.fit(Image.fromarray(np.ascontiguousarray(image)), rule.geometry, size or rule.size or 256)


def _side(
    rule: Protocol, rounding: Rounding, floats: Tensor, fitted: Tensor | None, image: np.ndarray[Any, Any]
) -> _Side:
    """Round one side, undo the protocol's padding, and bring it to the size at which it is scored."""
    if rounding == "pixels" and fitted is not None:
        levels = fitted
    elif rounding == "floats":
        levels = floats.clamp(0, 1) * 255.0
    else:
        scaled = floats.clamp(0, 1) * 255.0
        if rounding == "half-even":
            scaled = scaled.round()
        levels = (scaled + 0.5 if rounding == "half-up" else scaled).floor().to(torch.uint8)
    height, width = image.shape[:2]
    if rule.geometry == "native-padded":
        left, top = geometry.padded_window(width, height)
        levels, floats = (x[:, top : top + height, left : left + width] for x in (levels, floats))
    elif rule.geometry == "letterbox":
        if fitted is not None:
            levels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        else:
            left, top, inner_width, inner_height = geometry.letterbox_window(width, height, levels.shape[-1])
            window = pixels.to_pil(levels[:, top : top + inner_height, left : left + inner_width])
            levels = pixels.from_pil(window.resize((width, height), Image.Resampling.LANCZOS))
    if rule.scored_at and levels.shape[-2:] != (rule.scored_at, rule.scored_at):
        resized = pixels.to_pil(levels).resize((rule.scored_at, rule.scored_at), Image.Resampling.BILINEAR)
        levels = pixels.from_pil(resized)
    return _Side(levels, floats)


Pairs = Sequence[tuple[_Side, _Side]]

LEVELS = (0.0, 255.0)
"""The range of levels, as a range of floats."""

_BORDERS: Mapping[Window, tuple[structure.Window, structure.Border]] = {
    "gaussian-11": ("gaussian-11", "valid"),
    "gaussian-11-mirrored": ("gaussian-11", "mirror"),
    "uniform-7": ("uniform-7", "valid"),
}
"""A protocol's window, as the window and the border of the library's SSIM."""


def _psnr_columns(rule: Psnr, pairs: Pairs) -> dict[str, list[float]]:
    errors = [float(peak.squared_error(a.levels, b.levels)) for a, b in pairs]
    lows = [float(a.levels.min()) for a, _ in pairs]
    highs = [float(a.levels.max()) for a, _ in pairs]
    own = rule.peak == "data"
    ends = zip(lows, highs, strict=True)
    peaks = [_peak([low], [high]) if own else 255.0 for low, high in ends]
    columns = {"psnr": [_decibel(error, peak) for error, peak in zip(errors, peaks, strict=True)]}
    if rule.pooled:
        columns |= {"_error": errors, "_low": lows if own else [0.0], "_high": highs if own else [255.0]}
    return columns


def _peak(lows: Sequence[float], highs: Sequence[float]) -> float:
    """What the originals span, zero included."""
    return max(0.0, *highs) - min(0.0, *lows)


def _decibel(error: float, top: float) -> float:
    return float(peak.decibels(torch.tensor(error, dtype=torch.float64), top**2))


def _ssim_columns(rule: Ssim, pairs: Pairs) -> dict[str, list[float]]:
    made = []
    for pair in pairs:
        units = (
            pixels.to_unit(side.levels.double(), LEVELS) if rule.on == "levels" else side.floats.double()
            for side in pair
        )
        first, second = (pixels.from_unit(unit.clamp(0, 1), rule.span) for unit in units)
        made.append((first, second))
    if rule.data_range is not None:
        return {"ssim": [_ssim(rule.window, *pair, rule.data_range) for pair in made]}
    own = [[float(side.max() - side.min()) for side in pair] for pair in made]
    # Over the batch each side spans from its lowest to its highest value; the larger of both spans is the range.
    sides = [torch.stack(side) for side in zip(*made, strict=True)]
    whole = max(float(side.max() - side.min()) for side in sides)
    return {
        "ssim": [_ssim(rule.window, *pair, max(spans)) for pair, spans in zip(made, own, strict=True)],
        "_ssim": [_ssim(rule.window, *pair, whole) for pair in made],
    }


def _ssim(window: Window, first: Tensor, second: Tensor, data_range: float) -> float:
    """SSIM of two float pictures (3, H, W) under any window and range, in float64."""
    known, border = _BORDERS[window]
    return float(structure.ssim_of(first, second, window=known, border=border, data_range=data_range))
