"""One more measure: a published protocol's whole way, from the raw picture to what its code averages.

Each protocol brings pictures to their size, rounds, compares and averages by rules of its own
(`vtbench.protocols.Protocol`); its batches are part of them. So this measure feeds the tokenizer itself and takes the
place of the others where a run is under a published protocol.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vtbench import device as devices
from vtbench import geometry, images, measures, ocr
from vtbench import metrics as metrics_
from vtbench.catalogue import Metric, find_metric
from vtbench.errors import DataError
from vtbench.measures import Column, Context, Outcome, Table
from vtbench.measures._originals import Originals
from vtbench.metrics import learned, peak, structure, text
from vtbench.metrics.frechet import FrechetSums, frechet_distance, inception_score
from vtbench.protocols import LPIPS_NAMES, Lpips, Protocol, Psnr, Rounding, Ssim, Window
from vtbench.results import Score
from vtbench.types import Key, Sample, TextLine

LEVELS = (0.0, 255.0)
"""The range of levels, as a range of floats."""

Picture = np.ndarray[Any, Any]
Columns = dict[Key, list[Any]]

ERROR, LOW, HIGH = (Key("psnr", part, "raw") for part in ("error", "low", "high"))
"""Squared error and span of each picture, from which a pooled PSNR comes."""

WHOLE = Key("ssim", "whole", "raw")
"""SSIM under the range of the whole batch, where a single picture's value takes its own."""

TRUTH, READ, WORDS = Key("text", "truth", "raw"), Key("text", "read", "raw"), Key("text", "words", "raw")
"""What an engine read on original and reconstruction, or [truth, reading, ratio] of each word."""

FEATURES = (Key("rfid", "reference", "raw"), Key("rfid", "reconstruction", "raw"))
LOGITS = Key("inception_score", "logits", "raw")

EMPTY_BIN = "a bin of text sizes is empty, and the published code gives nan"


@dataclass(frozen=True)
class _Side:
    """One side of a pair: what is scored, (3, H, W)."""

    levels: Tensor
    """On the scale of 0 to 255: uint8, or float32 where the protocol never rounds this side."""
    floats: Tensor
    """float32, 0 black and 1 white, before any rounding or clamp."""


Pairs = Sequence[tuple[_Side, _Side]]


class Published(measures.Measure):
    """Scores pictures as a published evaluation code does; keeps the networks that its metrics need."""

    def __init__(
        self, metrics: Sequence[Metric], context: Context, *, inception: Mapping[str, Tensor] | None = None
    ) -> None:
        """Bind a protocol's metrics; loads nothing.

        Args:
            metrics: which of the protocol's.
            context: its `protocol` says how, its `side` to which size, its `span` in which range.
            inception: tensors of the FID-Inception network, in place of the file on this machine.
        """
        super().__init__(metrics, context)
        self.rule = context.protocol
        self.batch = self.rule.batch
        self._inception = inception
        self._lpips: dict[str, Callable[[Tensor, Tensor], Tensor]] | None = None
        self._frechet: metrics_.FrechetDistance | None = None
        self._engine: ocr.Engine | None = None
        said = (repr(self.rule.rfid), context.computed_by)
        self._features = Originals(context.originals, "features", *said)
        # `computed_by` is without the code of other packages, so what their engines read is not kept.
        folder = context.originals if ocr.is_own(context.engine) else None
        self._readings = Originals(folder, f"readings-{context.engine}", *said)

    def feed(self, sample: Sample) -> Tensor:
        """Bring a raw picture to what the protocol feeds a model of this range."""
        return fed(self.rule, sample.image.permute(1, 2, 0).numpy(), self.context.side, self.context.span)

    def columns(self, outcome: Outcome) -> Mapping[Key, Column]:
        """Score one batch of the protocol: its metrics, and what its totals need."""
        raw = [sample.image.permute(1, 2, 0).numpy() for sample in outcome.samples]
        sides = [side.float().to(self.context.device) for side in (outcome.reference, outcome.reconstruction)]
        return self.measure(raw, list(sides[0]), list(sides[1]), [sample.lines for sample in outcome.samples])

    def measure(
        self,
        raw: Sequence[Picture],
        inputs: Sequence[Tensor],
        decoded: Sequence[Tensor],
        lines: Sequence[Sequence[TextLine]] = (),
    ) -> Columns:
        """Score one batch of the protocol.

        Args:
            raw: the raw pictures, uint8 (H, W, 3).
            inputs: what `fed` made of them, float32 (3, h, w).
            decoded: what the network gave for each, of its input's shape, float32, before any clamp.
            lines: the known words of each raw picture, where text is scored.
        """
        rule = self.rule
        self._load()
        pairs = []
        for image, before, after in zip(raw, inputs, decoded, strict=True):
            if before.shape != after.shape:
                found, wanted = tuple(after.shape), tuple(before.shape)
                raise DataError(f"the network gave {found} for {wanted}; expected the same shape")
            units = [images.to_unit(side, self.context.span) for side in (before, after)]
            # What was fed are levels exactly, unless the protocol resizes floats: they need no second resize.
            levels = images.to_uint8(before, self.context.span) if rule.reference == "pixels" else None
            pairs.append(
                (
                    _side(rule, rule.reference, units[0], levels, image),
                    _side(rule, rule.reconstruction, units[1], None, image),
                )
            )
        columns: Columns = {}
        if rule.psnr and "psnr" in self.names:
            columns |= _psnr_columns(rule.psnr, pairs)
        if rule.ssim and "ssim" in self.names:
            columns |= _ssim_columns(rule.ssim, pairs)
        with devices.exact():
            columns |= self._learned(pairs)
            if self._engine is not None and rule.text == "against-original":
                columns |= _against_original(self._engine, pairs, self._readings)
            elif self._engine is not None and rule.text == "words":
                columns |= _words(self._engine, pairs, lines)
        return columns

    def _load(self) -> None:
        if self._lpips is not None:
            return
        rule, place = self.rule, self.context.device
        nets = rule.lpips.nets if rule.lpips else ()
        self._lpips = {LPIPS_NAMES[net]: learned.network(net, place) for net in nets if LPIPS_NAMES[net] in self.names}
        if rule.rfid and "rfid" in self.names:
            self._frechet = metrics_.FrechetDistance(
                inception=self._inception, device=place, resize=rule.rfid.resize, precision=rule.rfid.precision
            )
        if set(rule.text_metrics) & set(self.names):
            self._engine = ocr.load(self.context.engine, str(place))

    def _learned(self, pairs: Pairs) -> Columns:
        """LPIPS, and the features and logits of Inception."""
        rule, columns = self.rule, Columns()
        for name, network in (self._lpips or {}).items():
            assert rule.lpips is not None
            sides = [[self._spanned(rule.lpips, side) for side in one] for one in zip(*pairs, strict=True)]
            columns[Key(name)] = _in_batches(lambda *both: network(*both).flatten(), *sides)  # noqa: B023  called here
        if rule.rfid and self._frechet is not None:
            floats = rule.rfid.on == "floats"
            for key, sides_ in zip(FEATURES, zip(*pairs, strict=True), strict=True):
                seen = [side.floats.clamp(0, 1) if floats else side.levels for side in sides_]
                if key == FEATURES[0] and len(_equal_shapes(seen)) == 1:
                    columns[key] = list(self._features.arrays(torch.stack(seen), partial(self._array, seen)))
                    continue
                pooled = self._pooled(seen)
                columns[key] = list(pooled.cpu().numpy())
                if key == FEATURES[1] and rule.rfid.inception_score and "inception_score" in self.names:
                    columns[LOGITS] = list(self._frechet.logits_of(pooled))
        return columns

    def _spanned(self, rule: Lpips, side: _Side) -> Tensor:
        """Bring one side to the range in which LPIPS is given it."""
        unit = images.to_unit(side.levels.float(), LEVELS) if rule.on == "levels" else side.floats
        return images.from_unit(unit.clamp(0, 1) if rule.clamped else unit, rule.span).to(self.context.device)

    def _array(self, pictures: Sequence[Tensor]) -> np.ndarray[Any, Any]:
        return np.asarray(self._pooled(pictures).cpu().numpy())

    def _pooled(self, pictures: Sequence[Tensor]) -> Tensor:
        """Inception's features, (B, 2048), of pictures of any sizes."""
        assert self._frechet is not None
        found: list[Tensor | None] = [None] * len(pictures)
        for rows in _equal_shapes(pictures):
            features = self._frechet.pooled(torch.stack([pictures[row] for row in rows]))
            for row, feature in zip(rows, features, strict=True):
                found[row] = feature
        return torch.stack([feature for feature in found if feature is not None])

    def scores(self, table: Table) -> dict[str, Score]:
        """Average as the protocol does; an interval stands only where that is the plain mean."""
        found: dict[str, Score] = {}
        for metric in self.metrics:
            found |= measures.means(replace(metric, cap=None), table)  # published code caps nothing
        # Codes and features are many numbers a picture, and averages are of other columns.
        wanted = [key for key in table.keys if key.metric != "codes" and key not in FEATURES]
        columns = {key: values for key in wanted if (values := _known(table, key))}
        size = self.context.side or self.rule.size or 256
        averages = totals(self.rule, {key: values for key, values in columns.items() if key != WORDS}, size=size)
        if WORDS in columns:
            try:
                averages |= _binned(columns[WORDS], size)
            except DataError as error:  # the other metrics stand
                for name in self.rule.text_metrics:
                    found[name] = Score.missing(str(error), table.expected)
        # How many pictures are behind what no column of single values says.
        behind = {"inception_score": len(columns.get(LOGITS, ()))}
        refused: dict[str, str | None] = {}
        if table.has(FEATURES[0]) and "rfid" in self.names:
            sums = FrechetSums()
            for pair in zip(*(table.arrays(key) for key in FEATURES), strict=True):
                sums.add(*pair)
            averages["rfid"] = sums.distance() if sums.count > 1 else math.nan
            behind["rfid"] = sums.count
            unbound = replace(find_metric("rfid"), options={})  # published code refuses no number of pictures
            refused["rfid"] = measures.too_few(unbound, sums.count, table)
        for name, value in averages.items():
            if math.isnan(value):
                empty = WORDS in columns and name in self.rule.text_metrics
                reason = EMPTY_BIN if empty else f"{name} is not a number under {self.rule.name}"
                reason = refused.get(name) or reason
                found[name] = Score.missing(reason, table.expected, scored=behind.get(name, 0))
                continue
            own = found.get(name)
            if own is None or own.value is None:
                scored = behind[name] if name in behind else len(columns.get(Key(name), ()))
                found[name] = Score(value=value, scored=scored, expected=table.expected)
            elif math.isclose(own.value, value, rel_tol=1e-12):
                found[name] = own.model_copy(update={"value": value})
            else:
                found[name] = own.model_copy(update={"value": value, "low": None, "high": None})
        return found


def _equal_shapes(pictures: Sequence[Tensor]) -> list[list[int]]:
    """Say which pictures have one size."""
    found: dict[torch.Size, list[int]] = {}
    for row, picture in enumerate(pictures):
        found.setdefault(picture.shape, []).append(row)
    return list(found.values())


def _in_batches(
    call: Callable[[Tensor, Tensor], Tensor], first: Sequence[Tensor], second: Sequence[Tensor]
) -> list[float]:
    """Call a metric once for all pairs of one size; it takes two (B, 3, H, W) and gives (B,)."""
    found = [math.nan] * len(first)
    for rows in _equal_shapes(first):
        values = call(*(torch.stack([side[row] for row in rows]) for side in (first, second))).tolist()
        for row, value in zip(rows, values, strict=True):
            found[row] = value
    return found


def _known(table: Table, key: Key) -> list[Any]:
    if key == LOGITS:
        return list(table.arrays(key))
    return [value for value in table.values(key) if value is not None]


def totals(protocol: Protocol, columns: Mapping[Key, Sequence[Any]], *, size: int = 256) -> dict[str, float]:
    """Average single pictures as a protocol does.

    Args:
        protocol: how.
        columns: what `Published.measure` gave, over all pictures and in their order.
        size: height and width that pictures were brought to; TokBench's bins depend on it.

    Returns:
        One value a metric; nan where the published code gives that (TokBench with an empty bin).
    """
    found: dict[str, float] = {}
    for name in protocol.metrics:
        if Key(name) not in columns:
            continue
        whole = columns.get(WHOLE, columns[Key(name)]) if name == "ssim" else columns[Key(name)]
        values = np.asarray(whole, dtype=np.float64)
        if name in protocol.batch_means:
            starts = range(0, len(values), protocol.batch)
            values = np.asarray([values[start : start + protocol.batch].mean() for start in starts])
        found[name] = float(values.mean())
    if protocol.psnr and protocol.psnr.pooled and Key("psnr") in columns:
        found["psnr"] = _decibel(float(np.mean(columns[ERROR])), _peak(columns[LOW], columns[HIGH]))
    if READ in columns:
        found["cer_page"], found["wer_page"] = text.vtbench_2025(columns[TRUTH], columns[READ])
    if WORDS in columns:
        found |= _binned(columns[WORDS], size)
    if FEATURES[0] in columns:
        found["rfid"] = frechet_distance(*(np.stack(columns[key]) for key in FEATURES))
    if LOGITS in columns:
        found["inception_score"] = inception_score(np.stack(columns[LOGITS]))
    return found


def _binned(said: Sequence[str], size: int) -> dict[str, float]:
    """Average the words of all pictures as TokBench does.

    Raises:
        DataError: if the size of a word is not known, or the published code dies of them.
    """
    words = [word for one in said for word in json.loads(one)]
    if any(ratio is None for _, _, ratio in words):
        raise DataError("TokBench's bins need the size of each word, and these pictures don't state it")
    counted = text.tokbench(
        [truth for truth, _, _ in words], [read for _, read, _ in words], [r for _, _, r in words], size=size
    )
    return {"word_accuracy": counted.mean_accuracy, "ned": 1 - counted.mean_ned}


# --- the way in and the way out ---------------------------------------------------------------------------------------


def fed(rule: Protocol, image: Picture, size: int | None, span: images.Range) -> Tensor:
    """Bring a raw picture, uint8 (H, W, 3), to what the protocol feeds a model of a range: float32 (3, h, w).

    Raises:
        DataError: if it is no such picture, or the protocol can't bring it to that size.
    """
    fitted = _fitted(rule, image, size)
    return images.to_float(fitted, span) if fitted.dtype == torch.uint8 else images.from_unit(fitted, span)


def _fitted(rule: Protocol, image: np.ndarray[Any, Any], size: int | None) -> Tensor:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise DataError(f"a picture of {image.dtype} {image.shape}; expected uint8 (H, W, 3)")
    return geometry.fit(Image.fromarray(np.ascontiguousarray(image)), rule.geometry, size or rule.size or 256)


def _side(
    rule: Protocol, rounding: Rounding, floats: Tensor, pixels: Tensor | None, image: np.ndarray[Any, Any]
) -> _Side:
    """Round one side, undo the protocol's padding, and bring it to the size at which it is scored."""
    if pixels is not None:
        levels = pixels
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
        if pixels is not None:
            levels = torch.from_numpy(np.array(image)).permute(2, 0, 1).to(levels.device)
        else:
            left, top, inner_width, inner_height = geometry.letterbox_window(width, height, levels.shape[-1])
            window = images.to_pil(levels[:, top : top + inner_height, left : left + inner_width])
            levels = images.from_pil(window.resize((width, height), Image.Resampling.LANCZOS)).to(levels.device)
    if rule.scored_at and levels.shape[-2:] != (rule.scored_at, rule.scored_at):
        resized = images.to_pil(levels).resize((rule.scored_at, rule.scored_at), Image.Resampling.BILINEAR)
        levels = images.from_pil(resized).to(levels.device)
    return _Side(levels, floats)


# --- text -------------------------------------------------------------------------------------------------------------


def _against_original(engine: ocr.Engine, pairs: Pairs, known: Originals) -> Columns:
    """VTBench: a page as read before against as read after."""
    before, after = ([side.levels for side in sides] for sides in zip(*pairs, strict=True))
    truths = [
        texts[0]
        for texts in known.many_texts(
            [(levels, None) for levels in before],
            lambda pictures, _: [[page] for page in ocr.read_pages(engine, pictures)],
        )
    ]
    reads = ocr.read_pages(engine, after)
    each = [text.vtbench_2025([truth], [read]) for truth, read in zip(truths, reads, strict=True)]
    return {
        TRUTH: truths,
        READ: reads,
        Key("cer_page"): [cer for cer, _ in each],
        Key("wer_page"): [wer for _, wer in each],
        Key("reading", "page", "floor"): truths,
        Key("reading", "page"): reads,
    }


def _words(engine: ocr.Engine, pairs: Pairs, lines: Sequence[Sequence[TextLine]]) -> Columns:
    """TokBench: known words in their boxes."""
    columns: Columns = {key: [] for key in (WORDS, Key("word_accuracy"), Key("ned"), Key("reading", "boxes"))}
    pictures = [reconstruction.levels for _, reconstruction in pairs]
    readings = ocr.read_boxes(engine, pictures, [[line.box for line in known] for known in lines])
    for known, read in zip(lines, readings, strict=True):
        columns[Key("reading", "boxes")].append("\n".join(read))
        found = [(line.text, said, line.ratio) for line, said in zip(known, read, strict=True)]
        columns[WORDS].append(json.dumps(found))
        equal = [float(truth == said) for truth, said, _ in found]
        rates = [text.ned(truth, said, normalisation="verbatim") for truth, said, _ in found]
        far = [rate for rate in rates if rate is not None]
        columns[Key("word_accuracy")].append(float(np.mean(equal)) if equal else None)
        columns[Key("ned")].append(float(np.mean(far)) if far else None)
    return columns


# --- PSNR and SSIM ----------------------------------------------------------------------------------------------------

_BORDERS: Mapping[Window, tuple[structure.Window, structure.Border]] = {
    "gaussian-11": ("gaussian-11", "valid"),
    "gaussian-11-mirrored": ("gaussian-11", "mirror"),
    "uniform-7": ("uniform-7", "valid"),
}
"""A protocol's window, as the window and the border of the library's SSIM."""


def _psnr_columns(rule: Psnr, pairs: Pairs) -> Columns:
    errors = _in_batches(peak.squared_error, *([side.levels for side in one] for one in zip(*pairs, strict=True)))
    own = rule.peak == "data"
    lows, highs = ([float(end(a.levels)) if own else 0.0 for a, _ in pairs] for end in (torch.min, torch.max))
    ends = zip(lows, highs, strict=True)
    peaks = [_peak([low], [high]) if own else 255.0 for low, high in ends]
    columns: Columns = {Key("psnr"): [_decibel(error, top) for error, top in zip(errors, peaks, strict=True)]}
    if rule.pooled:
        columns |= {
            ERROR: errors,
            LOW: lows if own else [0.0] * len(pairs),
            HIGH: highs if own else [255.0] * len(pairs),
        }
    return columns


def _peak(lows: Sequence[float], highs: Sequence[float]) -> float:
    """What the originals span, zero included."""
    return max(0.0, *highs) - min(0.0, *lows)


def _decibel(error: float, top: float) -> float:
    return float(peak.decibels(torch.tensor(error, dtype=torch.float64), top**2))


def _ssim_columns(rule: Ssim, pairs: Pairs) -> Columns:
    made = []
    for pair in pairs:
        units = (
            images.to_unit(side.levels.double(), LEVELS) if rule.on == "levels" else side.floats.double()
            for side in pair
        )
        first, second = (images.from_unit(unit.clamp(0, 1), rule.span) for unit in units)
        made.append((first, second))
    if rule.data_range is not None:
        return {Key("ssim"): _in_batches(_ssim(rule.window, rule.data_range), *zip(*made, strict=True))}
    own = [[float(side.max() - side.min()) for side in pair] for pair in made]
    # Over the batch each side spans from its lowest to its highest value; the larger of both spans is the range.
    sides = [torch.stack(side) for side in zip(*made, strict=True)]
    whole = max(float(side.max() - side.min()) for side in sides)
    return {
        Key("ssim"): [float(_ssim(rule.window, max(spans))(*pair)) for pair, spans in zip(made, own, strict=True)],
        WHOLE: [float(_ssim(rule.window, whole)(*pair)) for pair in made],
    }


def _ssim(window: Window, data_range: float) -> Callable[[Tensor, Tensor], Tensor]:
    """SSIM of float pictures (..., 3, H, W) under any window and range, in float64."""
    known, border = _BORDERS[window]
    return partial(structure.ssim_of, window=known, border=border, data_range=data_range)
