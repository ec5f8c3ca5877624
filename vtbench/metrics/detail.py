"""What a tokenizer keeps of known detail: edges, line pairs, texture, thin lines, flat fields and ramps.

`measure` takes one chart before and after. Where a chart's parts lie and which frequencies they hold is not known here
and not shared with the module that draws: each sample's attributes say it, by the rules that
`vtbench.data.detail_chart` states at its head. The metrics of each kind of chart:

    slanted-edge                                    mtf, mtf50
    line-pairs                                      contrast
    dead-leaves                                     acutance, spectral_ratio, coherence
    fractal, zone-plate, siemens-star,
    checkerboard, patterns                          spectral_ratio, coherence
    lines                                           line_survival, smallest_line
    flat-fields                                     flat_noise
    ramps                                           banding

A key such as "contrast/0.25" is the metric `contrast` at a level: cycles a pixel for `mtf`, `contrast`,
`spectral_ratio` and `coherence`, pixels for `line_survival`. All arithmetic is float64, on levels from 0 to 255 as they
are: the transfer that is measured is that of sRGB levels, not of linear light. Decoders are not linear, so what is
called MTF here is an effective one: it holds for this edge at this contrast.

A part of a chart is measured without its outermost pixels, where its neighbours bleed in: a 64th of the picture's side,
and a 32nd for flat fields, which are large and where the least bleeding would pass for noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vtbench.errors import DataError
from vtbench.metrics.pairs import check_pair

Array = NDArray[np.float64]
Attributes = Mapping[str, str | float]

LUMA = np.array([0.299, 0.587, 0.114])
"""BT.601: the weights under which the charts' opponent colours have constant luma."""

MTF_LEVELS = (0.0625, 0.125, 0.25, 0.375, 0.5)
"""Cycles a pixel at which the MTF of an edge is kept."""

OVERSAMPLING = 4
"""Bins a pixel of the edge spread function: ISO 12233."""

EDGE_REACH = 64
"""Pixels either side of an edge that count, where the picture has room for them."""

MTF_LIMIT = 1.0
"""Cycles a pixel up to which the MTF is searched for one half; an edge sharp beyond that has this MTF50."""

OCTAVES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Upper ends of the octaves in cycles a pixel."""

OCTAVE_SHARE = 1e-3
"""An octave in which the original has less than this share of its energy is not measured."""

PIXELS_A_DEGREE = 60.0
"""The viewing distance of the acutance: a pixel is one minute of arc, what normal sight resolves."""

SURVIVES = 0.5
"""Share of contrast from which a line counts as surviving."""


def measure(attributes: Attributes, reference: Tensor, reconstruction: Tensor) -> dict[str, float]:
    """Measure what one chart is for; charts of unknown kinds, and pictures that are none, give an empty dictionary.

    Args:
        attributes: those of the chart's sample.
        reference: uint8, (3, H, W), the chart as it was drawn.
        reconstruction: uint8, the same shape.

    Returns:
        Values by metric and by "metric/level"; only what applies to the chart. `smallest_line` may be infinite.

    Raises:
        DataError: if the two are not uint8 pictures of one shape, or attributes are missing or don't fit.
    """
    check_pair(reference[None], reconstruction[None])
    kind = attributes.get("chart")
    functions = CHARTS.get(kind, ()) if isinstance(kind, str) else ()
    if not functions:
        return {}
    before, after = _levels(reference), _levels(reconstruction)
    found: dict[str, float] = {}
    try:
        for function in functions:
            found |= function(attributes, before, after)
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise DataError(
            f"detail: attributes {dict(attributes)} don't describe a chart of kind {kind!r} ({error!r}); "
            "expected those that vtbench.data.detail_chart gives its samples"
        ) from error
    return found


# --- slanted edges ----------------------------------------------------------------------------------------------------


def edge_transfer(attributes: Attributes, reference: Array, reconstruction: Array) -> dict[str, float]:
    """Effective MTF of a slanted edge, and MTF50 in cycles a pixel, within [0, 1].

    ISO 12233:2014, 6.2 and annex D, with the charts' truth put to use. (1) The edge is found in the original: the
    centroid of each row's derivative, a straight line through the centroids. (2) Luma of either picture is gathered in
    bins a quarter pixel wide by distance across that line, each at its pixels' mean distance: the edge spread function.
    Only the rows in the middle count, at most 14 of 16, over a whole number of columns that the edge crosses. (3) The
    steps from bin to bin are the line spread function, under a Hamming window round the edge, 64 pixels either side or
    as many as there are. (4) The modulus of its Fourier transform, divided by sinc(f / 4) once for the bin's width and
    once for the difference, and by the step of the original.

    So the value is absolute: an untouched chart gives the pixel's own box, |sinc(f cos a) sinc(f sin a)| at a slant of
    a, and an MTF50 of 0.604 at 5 degrees; a sharpened edge gives more. Because the step is the original's, lost
    contrast lowers the whole curve (the standard divides by the picture's own), and a flat reconstruction has 0.
    `mtf50` is the first frequency at which the curve falls under one half: 0 if it begins there, 1 if it never does.
    `mtf` is the mean over its levels.
    """
    before, after = (np.tensordot(LUMA, picture, 1) for picture in (reference, reconstruction))
    if attributes["orientation"] == "h":
        before, after = before.T, after.T
    distance, reach, kept = _distance_across(before)
    place = np.floor(distance * OVERSAMPLING + 0.5).astype(np.int64) + OVERSAMPLING * reach
    inside = (place >= 0) & (place <= 2 * OVERSAMPLING * reach)
    inside[: kept.start] = inside[kept.stop :] = False
    counts = np.bincount(place[inside])
    spreads = [np.diff(np.bincount(place[inside], picture[inside]) / counts) for picture in (before, after)]
    window = np.hamming(len(spreads[0]))
    step = float(spreads[0] @ window)
    position = np.bincount(place[inside], distance[inside]) / counts
    position = (position[1:] + position[:-1]) / 2.0

    def transfer(frequencies: Array) -> Array:
        waves = np.exp(-2j * math.pi * np.outer(frequencies, position))
        modulus = np.abs(waves @ (spreads[1] * window)) / abs(step)
        return np.asarray(modulus / np.sinc(frequencies / OVERSAMPLING) ** 2, dtype=np.float64)

    levels = transfer(np.array(MTF_LEVELS))
    found = _curve("mtf", MTF_LEVELS, levels)
    return {"mtf": float(levels.mean()), "mtf50": _half(transfer), **found}


def _distance_across(edge: Array) -> tuple[Array, int, slice]:
    """Signed distance of every pixel centre from an upright edge, the reach either side, and the rows that count."""
    slope = np.diff(edge, axis=1)
    rows = np.arange(len(edge)) - (len(edge) - 1) / 2.0
    columns = np.arange(edge.shape[1]) - (edge.shape[1] - 1) / 2.0
    centroids = slope @ (columns[:-1] + 0.5) / slope.sum(axis=1)
    lean, middle = np.polyfit(rows, centroids, 1)
    distance = (columns[None, :] - (middle + lean * rows)[:, None]) / math.hypot(1.0, lean)
    room = edge.shape[1] / 2.0 - abs(middle) - abs(lean) * len(edge) / 2.0 - 2.0
    # A whole number of times the edge crosses a column, so that each place within a pixel is seen as often.
    most = len(edge) - 2 * (len(edge) // 16)
    count = round(math.floor(most * abs(lean)) / abs(lean))
    first = (len(edge) - count) // 2
    return distance, min(EDGE_REACH, int(room)), slice(first, first + count)


def _half(transfer: Callable[[Array], Array]) -> float:
    """The first frequency at which a transfer falls under one half, between samples by a straight line."""
    frequencies = np.linspace(0.0, MTF_LIMIT, 513)
    values = transfer(frequencies)
    under = np.flatnonzero(values < 0.5)
    if len(under) == 0:
        return MTF_LIMIT
    if under[0] == 0:
        return 0.0
    high, low = values[under[0] - 1], values[under[0]]
    start, width = frequencies[under[0] - 1], frequencies[1]
    return float(start + width * (high - 0.5) / (high - low))


# --- line pairs -------------------------------------------------------------------------------------------------------


def line_pair_contrast(attributes: Attributes, reference: Array, reconstruction: Array) -> dict[str, float]:
    """Contrast transfer of sinusoidal line pairs: the share of each frequency's amplitude that is left.

    In each part, a level, a cosine of the known frequency, direction and phase, and its sine are fitted to the three
    channels by least squares; the cosine's amplitudes are the contrast. Phase-locked like a lock-in amplifier's: what
    stands elsewhere, or at another frequency, or inverted, is no contrast. "contrast/F" is the amplitude after,
    projected on that before, over that before: 1 untouched, 0 where nothing is left, negative where inverted, above 1
    where sharpened. What leaks into another colour does not count.

    `contrast` is the mean over the frequencies with each value limited to [0, 1]: no line pair can keep more than all
    of its contrast, so that sharpening one does not pay for the loss of another.
    """
    frequencies = [float(Fraction(text)) for text in str(attributes["frequencies"]).split()]
    degrees = float(attributes["degrees"])
    values = []
    for frequency, part in zip(frequencies, _parts(attributes, reference.shape[1:]), strict=True):
        inner, offset = _inside(part, reference.shape[1:])
        before = amplitude(reference[:, *inner], frequency, degrees, offset)
        after = amplitude(reconstruction[:, *inner], frequency, degrees, offset)
        values.append(float(after @ before) / float(before @ before))
    return {
        "contrast": float(np.clip(values, 0.0, 1.0).mean()),
        **_curve("contrast", frequencies, values),
    }


def amplitude(picture: Array, frequency: float, degrees: float, offset: tuple[int, int] = (0, 0)) -> Array:
    """Amplitude in levels of a cosine of known frequency, direction and phase in each channel.

    Args:
        picture: (C, H, W).
        frequency: cycles a pixel.
        degrees: the direction in which the phase grows, from x towards y, which points down.
        offset: row and column of the picture's first pixel relative to a crest.

    Returns:
        (C,), negative where the wave is inverted.
    """
    rows, columns = (np.arange(length) + start for length, start in zip(picture.shape[1:], offset, strict=True))
    turn = math.radians(degrees)
    phase = 2 * math.pi * frequency * (columns[None, :] * math.cos(turn) + rows[:, None] * math.sin(turn))
    basis = np.stack([np.ones(phase.size), np.cos(phase).ravel(), np.sin(phase).ravel()])
    # The pseudo-inverse, because at half a cycle a pixel the sine is zero at every pixel.
    normal = np.linalg.pinv(basis @ basis.T, rcond=1e-9)
    fitted = normal @ (basis @ picture.reshape(len(picture), -1).T)
    return np.asarray(fitted[1], dtype=np.float64)


# --- texture ----------------------------------------------------------------------------------------------------------


def octaves(attributes: Attributes, reference: Array, reconstruction: Array) -> dict[str, float]:
    """How much energy each octave holds, and how much of it is the original's.

    X and Y are the Fourier transforms of the three channels before and after, without their means and under a Hann
    window. An octave F holds the frequencies over F / 2 and up to F cycles a pixel, in any direction; the last one
    takes in the corners beyond one half. Sums run over the octave and the channels:

        spectral_ratio/F   sum |Y|² / sum |X|²                          1 untouched, from 0; noise and false detail add
        coherence/F        Re sum X conj(Y) / sqrt(sum |X|² sum |Y|²)   1 untouched, within [-1, 1]

    The second is the Fourier ring correlation of Saxton and Baumeister 1982 (J. Microscopy 127): near 0 for texture
    that was made up, whatever its energy. It is symmetric in its arguments, and 0 where nothing is left. An octave with
    less than a thousandth of the original's energy is not measured; the plain names are means over the others.
    """
    radius, (before, after, cross) = _spectra(reference, reconstruction)
    octave = np.searchsorted([OCTAVES[0] / 2, *OCTAVES[:-1]], radius.ravel())  # 0 is what lies under the first
    energy, kept, common = (
        np.bincount(octave, power.sum(axis=0).ravel(), minlength=len(OCTAVES) + 1)[1:]
        for power in (before, after, cross)
    )
    seen = energy >= OCTAVE_SHARE * energy.sum()
    levels, energy, kept, common = np.array(OCTAVES)[seen], energy[seen], kept[seen], common[seen]
    ratio = kept / energy
    # The mean of whole levels is exact, so a flat reconstruction has no energy at all: 0, and no 0 / 0.
    coherence = common / np.sqrt(energy * np.where(kept > 0, kept, 1.0))
    return {
        "spectral_ratio": float(ratio.mean()),
        "coherence": float(coherence.mean()),
        **_curve("spectral_ratio", levels, ratio),
        **_curve("coherence", levels, coherence),
    }


def acutance(attributes: Attributes, reference: Array, reconstruction: Array) -> dict[str, float]:
    """Texture acutance of dead leaves: the transfer of their spectrum, weighted as the eye sees it; 1 untouched.

    The transfer at each radius is Re sum X conj(Y) / sum |X|² over a ring one frequency step wide, on luma: the
    cross-spectrum of Kirk et al. 2014 ("Description of texture loss using the dead leaves target", Proc. SPIE 9023), to
    which noise and made-up texture add nothing on average. It is weighted by the contrast sensitivity of IEEE 1858
    (CPIQ), v^0.8 exp(-0.2 v) at v cycles a degree, 60 pixels a degree, up to half a cycle a pixel:
    sum T CSF / sum CSF. Sharpening can raise it above 1.
    """
    luma = [np.tensordot(LUMA, picture, 1)[None] for picture in (reference, reconstruction)]
    radius, (before, _, cross) = _spectra(*luma)
    side = max(reference.shape[1:])
    ring = np.floor(radius * side + 0.5).astype(np.int64).ravel()
    energy, common = (np.bincount(ring, power.ravel())[1 : side // 2 + 1] for power in (before, cross))
    seen = np.arange(1, len(energy) + 1) / side * PIXELS_A_DEGREE
    sensitivity = seen**0.8 * np.exp(-0.2 * seen)
    return {"acutance": float((common / energy) @ sensitivity / sensitivity.sum())}


def _spectra(reference: Array, reconstruction: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    """Energy before, energy after and the real part of the cross-spectrum, (C, H, W // 2 + 1), beside the frequency.

    Half of the transform of a real picture, its inner columns counted twice.
    """
    height, width = reference.shape[1:]
    window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1])
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    twice = np.full(width // 2 + 1, 2.0)
    twice[0] = 1.0
    if width % 2 == 0:
        twice[-1] = 1.0
    x, y = (
        np.fft.rfft2((picture - np.average(picture, axis=(1, 2), keepdims=True)) * window)
        for picture in (reference, reconstruction)
    )
    before, after = ((part.real**2 + part.imag**2) * twice for part in (x, y))
    return radius, (before, after, (x.real * y.real + x.imag * y.imag) * twice)


# --- lines ------------------------------------------------------------------------------------------------------------


def lines(attributes: Attributes, reference: Array, reconstruction: Array) -> dict[str, float]:
    """The share of thin lines' contrast that is left, by their width, and the thinnest lines that survive.

    "line_survival/W" is the mean over the four directions of a matched filter: the inner product of the part after with
    the part before, without its mean, over the inner product of the part before with itself. 1 untouched, 0 where
    nothing is left, negative where inverted. `line_survival` is the mean over the widths with each value limited to
    [0, 1].

    `smallest_line` is in pixels: the thinnest width that keeps at least half of its contrast, as all wider ones do;
    infinite where not even the widest does. Under one pixel, thinner means fainter.
    """
    widths = [float(text) for text in str(attributes["widths"]).split()]
    parts = _parts(attributes, reference.shape[1:])
    columns = len(parts) // len(widths)
    shares = []
    for part in parts:
        inner, _ = _inside(part, reference.shape[1:])
        template = reference[:, *inner] - reference[:, *inner].mean(axis=(1, 2), keepdims=True)
        shares.append(float((template * reconstruction[:, *inner]).sum() / (template * template).sum()))
    kept = np.array(shares).reshape(len(widths), columns).mean(axis=1)
    smallest = math.inf
    for width, share in sorted(zip(widths, kept, strict=True), reverse=True):
        if share < SURVIVES:
            break
        smallest = width
    return {
        "line_survival": float(np.clip(kept, 0.0, 1.0).mean()),
        "smallest_line": smallest,
        **_curve("line_survival", widths, kept),
    }


# --- flat fields and ramps --------------------------------------------------------------------------------------------


def flat_noise(attributes: Attributes, reference: Array, reconstruction: Array) -> dict[str, float]:
    """Noise on flat fields in levels: the standard deviation of after minus before within a field; 0 untouched.

    The variances of all fields and channels are averaged before the root. A field that changed its colour as a whole
    has no noise for that. Symmetric in its arguments.
    """
    variances = []
    for part in _parts(attributes, reference.shape[1:]):
        inner, _ = _inside(part, reference.shape[1:], share=32)
        variances.append((reconstruction[:, *inner] - reference[:, *inner]).var(axis=(1, 2)).mean())
    return {"flat_noise": math.sqrt(float(np.mean(variances)))}


def banding(attributes: Attributes, reference: Array, reconstruction: Array) -> dict[str, float]:
    """Banding of ramps in levels: the step of the uniform quantiser that would do the same; 0 untouched.

    A quantiser of step s errs by a sawtooth with the variance s²/12 (Bennett 1948), constant across the ramp. So: the
    error is averaged across each ramp; a cubic along the ramp is taken off, since an error of tone is no band; and
    what is left is squared. Noise leaves a part of its variance in that average, estimated from the spread across the
    ramp (variance components of a one-way layout) and subtracted. Channels that don't rise are left out. The value is
    the root of 12 times the mean over ramps, at least 0. Against a chart that is itself rounded to whole levels, s
    levels a step give sqrt(s² - 1). Symmetric in its arguments.
    """
    grid = _grid(attributes)
    squares = []
    for part in _parts(attributes, reference.shape[1:]):
        inner, _ = _inside(part, reference.shape[1:])
        before, error = reference[:, *inner], reconstruction[:, *inner] - reference[:, *inner]
        if grid[0] == 1:  # ramps beside each other rise downwards
            before, error = before.swapaxes(1, 2), error.swapaxes(1, 2)
        rising = np.ptp(before[:, 0], axis=1) > 0
        profile = error[rising].mean(axis=1)  # (channels, along)
        along = np.linspace(-1.0, 1.0, profile.shape[1])
        smooth, _ = np.linalg.qr(np.vander(along, 4))
        bands = profile - profile @ smooth @ smooth.T
        chance = error[rising].var(axis=1, ddof=1) / error.shape[1]
        squares.append(float((bands * bands).mean() - chance.mean()))
    return {"banding": math.sqrt(12.0 * max(0.0, float(np.mean(squares))))}


CHARTS: Mapping[str, tuple[Callable[[Attributes, Array, Array], dict[str, float]], ...]] = {
    "slanted-edge": (edge_transfer,),
    "line-pairs": (line_pair_contrast,),
    "dead-leaves": (acutance, octaves),
    "fractal": (octaves,),
    "zone-plate": (octaves,),
    "siemens-star": (octaves,),
    "checkerboard": (octaves,),
    "patterns": (octaves,),
    "lines": (lines,),
    "flat-fields": (flat_noise,),
    "ramps": (banding,),
}
"""What is measured on each kind of chart. Each takes attributes and (3, H, W) levels before and after."""


# --- parts ------------------------------------------------------------------------------------------------------------


def _levels(picture: Tensor) -> Array:
    return picture.cpu().numpy().astype(np.float64)


def _curve(name: str, levels: Sequence[float] | Array, values: Sequence[float] | Array) -> dict[str, float]:
    return {f"{name}/{level:g}": float(value) for level, value in zip(levels, values, strict=True)}


def _grid(attributes: Attributes) -> tuple[int, int]:
    rows, columns = str(attributes["grid"]).split("x")
    return int(rows), int(columns)


def _parts(attributes: Attributes, shape: tuple[int, ...]) -> list[tuple[slice, slice]]:
    """The parts of a chart in reading order, by the rule that the charts state."""
    rows, columns = _grid(attributes)
    down, across = (
        [slice(index * side // count, (index + 1) * side // count) for index in range(count)]
        for side, count in zip(shape, (rows, columns), strict=True)
    )
    return [(part, beside) for part in down for beside in across]


def _inside(
    part: tuple[slice, slice], shape: tuple[int, ...], *, share: int = 64
) -> tuple[tuple[slice, slice], tuple[int, int]]:
    """A part without its outermost pixels, and how many those are down and across."""
    inset = max(1, min(shape) // share)
    down, across = (slice(side.start + inset, side.stop - inset) for side in part)
    return (down, across), (inset, inset)
