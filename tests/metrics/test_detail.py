import io
import itertools
import math
import time
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from vtbench.catalogue import of_measure
from vtbench.data.detail_chart import AMPLITUDES, CHARTS, Source, cells
from vtbench.errors import DataError
from vtbench.metrics import detail
from vtbench.metrics.detail import MTF_LEVELS, measure

IDS = [chart.id for chart in CHARTS]
EDGES = [name for name in IDS if name.startswith("slanted")]
PAIRS = [name for name in IDS if name.startswith("line-pairs")]
FREQUENCIES = (1 / 64, 1 / 32, 1 / 16, 1 / 12, 1 / 8, 1 / 6, 1 / 4, 1 / 3, 1 / 2)


@cache
def chart(name, size=256):
    return Source(size=size).read(IDS.index(name))


def of(name, change=lambda image: image, size=256):
    sample = chart(name, size)
    return measure(sample.attributes, sample.image, change(sample.image))


def to_picture(levels):
    return torch.from_numpy(np.floor(np.clip(levels, 0, 255) + 0.5).astype(np.uint8))


def blur(sigma):
    """Taps out to 8 sigma: the Fourier transform of a Gaussian, from sigma 0.7 or so, where sampling spares it."""
    return lambda image: to_picture(
        np.stack(
            [gaussian_filter(channel, sigma, mode="nearest", truncate=8) for channel in image.numpy().astype(float)]
        )
    )


def resample(factor):
    def change(image):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        small = picture.resize((round(picture.width / factor),) * 2, Image.Resampling.BOX)
        back = small.resize(picture.size, Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(back)).permute(2, 0, 1)

    return change


def noise(sigma):
    return lambda image: to_picture(image.numpy() + np.random.default_rng(7).normal(0, sigma, image.shape))


def jpeg(quality):
    def change(image):
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "jpeg", quality=quality, subsampling=2)
        return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)

    return change


def posterise(step):
    return lambda image: to_picture(image.numpy() // step * step + (step - 1) / 2)


def gain(factor, middle=127.5):
    return lambda image: to_picture(middle + factor * (image.numpy().astype(float) - middle))


def flat(image):
    return torch.full_like(image, 120)


def box(frequency, degrees):
    """What a square pixel does to a wave across an edge that leans by so many degrees."""
    turn = math.radians(degrees)
    return np.abs(np.sinc(frequency * math.cos(turn)) * np.sinc(frequency * math.sin(turn)))


def gaussian(frequency, sigma):
    return np.exp(-2 * (math.pi * sigma * frequency) ** 2)


def mtf50(degrees, sigma):
    frequency = np.linspace(0, 1, 100_001)
    return frequency[np.argmax(box(frequency, degrees) * gaussian(frequency, sigma) < 0.5)]


# --- the truth of the charts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [64, 201, 256])
def test_an_untouched_chart_has_kept_everything(size):
    for name in IDS:
        found = of(name, size=size)
        assert found, name
        for key, value in found.items():
            metric = key.split("/")[0]
            if metric in ("mtf", "mtf50"):
                continue
            expected = {"flat_noise": 0, "banding": 0, "smallest_line": 0.25}.get(metric, 1)
            assert value == pytest.approx(expected, abs=1e-9), (name, key)


@pytest.mark.parametrize("size", [64, 201, 256, 512])
def test_an_untouched_edge_has_the_transfer_of_the_pixels_box(size):
    """Within 1%, and 2% on small charts, where few rows fill each bin."""
    tolerance = 0.01 if size > 200 else 0.02
    for name in EDGES:
        found, degrees = of(name, size=size), chart(name, size).attributes["degrees"]
        for frequency in MTF_LEVELS:
            assert found[f"mtf/{frequency:g}"] == pytest.approx(box(frequency, degrees), rel=tolerance)
        assert found["mtf50"] == pytest.approx(mtf50(degrees, 0), rel=tolerance)
        assert found["mtf"] == pytest.approx(np.mean([found[f"mtf/{f:g}"] for f in MTF_LEVELS]), rel=1e-12)


@pytest.mark.parametrize(("size", "sigma"), [*((256, s) for s in (0.7, 1, 1.5, 2, 3, 5)), (512, 1), (512, 5)])
def test_a_blurred_edge_has_the_analytic_mtf50(size, sigma):
    for name in EDGES:
        degrees = chart(name, size).attributes["degrees"]
        assert of(name, blur(sigma), size)["mtf50"] == pytest.approx(mtf50(degrees, sigma), rel=0.03), name


@pytest.mark.parametrize("sigma", [0.3, 0.5, 0.8])
def test_an_edge_blurred_before_sampling_has_the_analytic_mtf50(sigma):
    """Fine blur, drawn from the exact profile across the edge, since sampled taps are no Gaussian there."""
    distance = np.arange(-12, 12, 0.005)
    for degrees in (5, 12):
        turn = math.radians(degrees)
        frequency = np.fft.rfftfreq(len(distance), 0.005)
        smooth = np.fft.irfft(box(frequency, degrees) * gaussian(frequency, sigma), len(distance))
        profile = np.cumsum(np.roll(smooth, len(distance) // 2))
        y, x = np.meshgrid(np.arange(256) - 127.5, np.arange(256) - 127.5, indexing="ij")
        share = np.interp(x * math.cos(turn) + y * math.sin(turn), distance, profile)
        sample = chart(f"slanted-edge-v-{degrees}-50")
        blurred = to_picture(np.broadcast_to(63.75 + 127.5 * share, (3, 256, 256)))
        found = measure(sample.attributes, sample.image, blurred)
        assert found["mtf50"] == pytest.approx(mtf50(degrees, sigma), rel=0.03)


@pytest.mark.parametrize("size", [64, 201, 256, 512])
def test_untouched_line_pairs_have_the_amplitude_of_the_formula(size):
    """Within 1% of the formula's, by the fit that the metric uses; the rest is rounding to whole levels."""
    for name in PAIRS:
        sample = chart(name, size)
        expected = np.array(AMPLITUDES[sample.attributes["colour"]])
        for frequency, part in zip(FREQUENCIES, cells(size, 3, 3), strict=True):
            levels = sample.image.numpy().astype(float)[:, *part]
            found = detail.amplitude(levels, frequency, sample.attributes["degrees"])
            assert np.abs(found - expected).max() < 0.01 * np.abs(expected).max(), (name, frequency)


def test_blurred_line_pairs_have_the_gaussian_contrast():
    for name in PAIRS:
        found = of(name, blur(1.2))
        for frequency in FREQUENCIES:
            expected = gaussian(frequency, 1.2)
            # Levels are whole: half a level of 14 is much in the weakest channel.
            assert found[f"contrast/{frequency:g}"] == pytest.approx(expected, abs=0.015), (name, frequency)


@pytest.mark.parametrize("sigma", [0.8, 1.5, 3])
@pytest.mark.parametrize("name", ["dead-leaves", "dead-leaves-faint"])
def test_blurred_dead_leaves_have_the_analytic_acutance(name, sigma):
    frequency = np.arange(1, 129) / 256
    seen = 60 * frequency
    weight = seen**0.8 * np.exp(-0.2 * seen)
    expected = (gaussian(frequency, sigma) * weight).sum() / weight.sum()
    assert of(name, blur(sigma))["acutance"] == pytest.approx(expected, rel=0.01)


def test_parts_follow_the_charts_rule_at_any_size():
    for size in (64, 65, 201, 256, 333, 512):
        for rows, columns in ((3, 3), (5, 4), (8, 1), (1, 8), (4, 4)):
            assert detail._parts({"grid": f"{rows}x{columns}"}, (size, size)) == cells(size, rows, columns)


# --- edges ------------------------------------------------------------------------------------------------------------


def test_lost_contrast_lowers_the_whole_mtf():
    before, after = of(EDGES[0]), of(EDGES[0], gain(0.7))
    for frequency in MTF_LEVELS:
        assert after[f"mtf/{frequency:g}"] == pytest.approx(0.7 * before[f"mtf/{frequency:g}"], rel=0.01)
    assert of(EDGES[0], gain(0.4))["mtf50"] == 0


@pytest.mark.parametrize(("channel", "weight"), [(0, 0.299), (1, 0.587), (2, 0.114)])
def test_edges_and_acutance_are_those_of_luma(channel, weight):
    def without(image):
        out = image.clone()
        out[channel] = 128
        return out

    before, after = of(EDGES[0])["mtf/0.25"], of(EDGES[0], without)["mtf/0.25"]
    assert after == pytest.approx((1 - weight) * before, rel=1e-6)
    assert of("dead-leaves-faint", without)["acutance"] == pytest.approx(1 - weight, rel=1e-6)


def test_an_edge_sharper_than_the_limit_has_the_limits_mtf50():
    def threshold(image):
        return torch.where(image > 127, image.max(), image.min())

    assert of("slanted-edge-v-5-20", threshold)["mtf50"] == detail.MTF_LIMIT


@pytest.mark.parametrize("name", EDGES)
def test_where_the_edge_stands_does_not_matter(name):
    moved = of(name, lambda image: image.roll((3, 3), (1, 2)))
    assert moved["mtf50"] == pytest.approx(of(name)["mtf50"], rel=0.02)


# --- line pairs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAIRS)
def test_contrast_is_the_share_that_is_left(name):
    found = of(name, gain(0.5))
    for frequency in FREQUENCIES:
        assert found[f"contrast/{frequency:g}"] == pytest.approx(0.5, abs=0.01)
    assert found["contrast"] == pytest.approx(0.5, abs=0.005)


def test_inverted_contrast_is_none_and_sharpening_pays_for_nothing():
    inverted = of(PAIRS[0], gain(-1))
    assert all(inverted[f"contrast/{f:g}"] == pytest.approx(-1, abs=0.02) for f in FREQUENCIES)
    assert inverted["contrast"] == 0
    sharper = of("line-pairs-luminance-0", gain(1.1))
    assert all(sharper[f"contrast/{f:g}"] > 1.05 for f in FREQUENCIES)
    assert sharper["contrast"] == 1


def test_aliased_line_pairs_have_no_contrast():
    """Every third column, repeated: 1/2 and 1/4 a pixel come out at other frequencies with full amplitude."""

    def decimate(image):
        return image[:, :, 1::3].repeat_interleave(3, dim=2)[:, :, torch.arange(256).clamp(max=254)]

    found = of("line-pairs-luminance-0", decimate)
    part = cells(256, 3, 3)[6]
    seen = decimate(chart("line-pairs-luminance-0").image)[:, *part]
    assert int(seen.max()) - int(seen.min()) > 200  # a max-min contrast would call it kept
    assert abs(found["contrast/0.25"]) < 0.35 and abs(found["contrast/0.5"]) < 0.35
    assert found["contrast/0.015625"] > 0.98


def test_another_colour_is_no_contrast():
    def grey(image):
        luma = np.tensordot([0.299, 0.587, 0.114], image.numpy(), 1)
        return to_picture(np.broadcast_to(luma, image.shape))

    for colour in ("red-green", "blue-yellow"):
        assert of(f"line-pairs-{colour}-0", grey)["contrast"] < 0.01
    assert of("line-pairs-luminance-0", grey)["contrast"] == 1


def test_half_sampled_chroma_is_seen_in_the_opponent_colours_alone():
    found = {colour: of(f"line-pairs-{colour}-45", jpeg(95)) for colour in AMPLITUDES}
    assert found["luminance"]["contrast/0.333333"] > 0.95
    assert found["red-green"]["contrast/0.333333"] < 0.8
    assert found["blue-yellow"]["contrast/0.333333"] < 0.8


# --- texture ----------------------------------------------------------------------------------------------------------


def naive_octaves(before, after):
    """The same sums by masks over whole transforms."""
    window = np.hanning(258)[1:-1]
    window = window[:, None] * window[None, :]
    frequency = np.abs(np.fft.fftfreq(256))
    radius = np.sqrt(frequency[:, None] ** 2 + frequency[None, :] ** 2)
    x, y = (np.fft.fft2((side - side.mean(axis=(1, 2), keepdims=True)) * window) for side in (before, after))
    for top in (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2):
        ring = (radius > top / 2) & (radius <= (top if top < 0.5 else 1))
        energy, kept = (np.abs(x[:, ring]) ** 2).sum(), (np.abs(y[:, ring]) ** 2).sum()
        yield top, kept / energy, (x[:, ring] * y[:, ring].conj()).sum().real / math.sqrt(energy * kept)


@pytest.mark.parametrize("change", [blur(1.5), noise(20), jpeg(20)])
def test_octaves_equal_plain_masks(change):
    image = chart("dead-leaves").image
    found = of("dead-leaves", change)
    for top, ratio, coherence in naive_octaves(image.numpy().astype(float), change(image).numpy().astype(float)):
        assert found[f"spectral_ratio/{top:g}"] == pytest.approx(ratio, rel=1e-9)
        assert found[f"coherence/{top:g}"] == pytest.approx(coherence, rel=1e-9)


def test_a_gain_moves_the_energy_and_not_the_coherence():
    found = of("fractal", gain(0.6))
    for top in detail.OCTAVES:
        assert found[f"spectral_ratio/{top:g}"] == pytest.approx(0.36, rel=0.01)
        assert found[f"coherence/{top:g}"] > 0.999


def test_an_octave_that_the_original_lacks_is_not_measured():
    found = of("siemens-star", noise(5))  # 32 spokes: below 1/32 cycle a pixel beyond the border alone
    names = ("spectral_ratio", "coherence")
    assert set(found) == {*names, *(f"{name}/{top:g}" for name in names for top in detail.OCTAVES[1:])}


def test_made_up_texture_has_energy_and_neither_coherence_nor_acutance():
    found = of("dead-leaves-faint", lambda image: image.flip(1, 2))
    assert found["spectral_ratio"] == pytest.approx(1, abs=0.02)
    assert abs(found["coherence/0.5"]) < 0.05 and abs(found["coherence"]) < 0.2
    assert abs(found["acutance"]) < 0.1


def test_noise_does_not_raise_acutance():
    assert of("dead-leaves", noise(20))["acutance"] == pytest.approx(1, abs=0.02)
    assert of("dead-leaves", noise(20))["spectral_ratio/0.5"] > 1.1


# --- lines ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lines-dark", "lines-light", "lines-faint"])
def test_lines_keep_their_share(name):
    found = of(name, gain(0.5, 128))
    assert found["line_survival"] == pytest.approx(0.5, abs=0.02)
    assert of(name, gain(0.45, 128))["smallest_line"] == math.inf
    for width in (0.25, 0.5, 1, 2, 3):
        assert found[f"line_survival/{width:g}"] == pytest.approx(0.5, abs=0.05)


def test_the_smallest_line_is_that_from_which_all_wider_survive():
    def without(*rows):
        def change(image):
            out = image.clone()
            for index, part in enumerate(cells(256, 5, 4)):
                if index // 4 in rows:
                    out[:, *part] = 150
            return out

        return change

    assert of("lines-dark", without(0))["smallest_line"] == 0.5
    assert of("lines-dark", without(2))["smallest_line"] == 2
    assert of("lines-dark", without(2))["line_survival"] == pytest.approx(0.8)
    assert of("lines-dark", without(4))["smallest_line"] == math.inf


# --- flat fields and ramps --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [1, 3, 6])
def test_flat_noise_is_the_standard_deviation(sigma):
    # Rounding to whole levels adds a variance of 1/12; the darkest and lightest fields are 11 levels from clipping.
    assert of("flat-fields", noise(sigma))["flat_noise"] == pytest.approx(math.sqrt(sigma**2 + 1 / 12), rel=0.02)


def test_another_colour_is_no_noise():
    assert of("flat-fields", lambda image: (image.float() * 0.9 + 9).to(torch.uint8))["flat_noise"] == 0


def test_what_bleeds_in_from_the_next_field_is_no_noise():
    assert of("flat-fields", blur(2))["flat_noise"] < 0.01


@pytest.mark.parametrize("name", ["ramps", "ramps-shallow"])
@pytest.mark.parametrize("step", [2, 4, 8, 16])
def test_banding_is_the_step_of_the_quantiser(name, step):
    # The shallow ramps hold two steps of 16 levels only, of which a cubic takes a share.
    tolerance = 0.1 if (name, step) != ("ramps-shallow", 16) else 0.35
    assert of(name, posterise(step))["banding"] == pytest.approx(math.sqrt(step**2 - 1), rel=tolerance)


@pytest.mark.parametrize("name", ["ramps", "ramps-shallow"])
def test_neither_noise_nor_another_tone_is_banding(name):
    assert of(name, noise(8))["banding"] < 1
    assert of(name, gain(0.8, 100))["banding"] < 1.1  # the rounding of the new levels alone is one


# --- responses --------------------------------------------------------------------------------------------------------

SEEN = [
    ("slanted-edge-v-5-50", "mtf50"),
    ("slanted-edge-h-12-50", "mtf"),
    ("line-pairs-luminance-45", "contrast"),
    ("line-pairs-red-green-0", "contrast"),
    ("dead-leaves", "acutance"),
    ("dead-leaves-faint", "acutance"),
    ("dead-leaves", "coherence"),
    ("fractal", "coherence"),
    ("zone-plate", "coherence"),
    ("siemens-star", "coherence"),
    ("lines-dark", "line_survival"),
    ("lines-faint", "line_survival"),
]


@pytest.mark.parametrize(("name", "metric"), SEEN)
@pytest.mark.parametrize(
    "strengths", [[blur(s) for s in (0.6, 1, 1.5, 2.2, 3.2)], [resample(f) for f in (1.5, 2, 3, 4, 6)]]
)
def test_more_blur_leaves_less(name, metric, strengths):
    values = [of(name)[metric], *(of(name, change)[metric] for change in strengths)]
    assert all(later < earlier for earlier, later in itertools.pairwise(values)), values


def test_blur_costs_thin_lines_first():
    smallest = [of("lines-dark", blur(sigma))["smallest_line"] for sigma in (0.3, 0.6, 1.2, 2.4, 4)]
    assert smallest == sorted(smallest) and smallest[0] == 0.25 and smallest[-1] > 2


def test_more_noise_is_more_noise():
    values = [of("flat-fields", noise(sigma))["flat_noise"] for sigma in (0.5, 1, 2, 4, 8)]
    assert values == sorted(values) and values[0] > 0
    kept = [of("fractal", noise(sigma))["coherence"] for sigma in (2, 5, 10, 20, 40)]
    assert kept == sorted(kept, reverse=True)


def test_fewer_levels_are_more_banding():
    for name in ("ramps", "ramps-shallow"):
        values = [of(name, posterise(step))["banding"] for step in (1, 2, 4, 8, 16)]
        assert values == sorted(set(values)) and values[0] == 0


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("slanted-edge-v-5-50", ("mtf50", "mtf")),
        ("line-pairs-luminance-90", ("contrast", "contrast/0.25")),
        ("dead-leaves", ("acutance", "spectral_ratio")),
        ("lines-light", ("line_survival",)),
    ],
)
def test_reference_and_reconstruction_may_not_be_swapped(name, keys):
    sample = chart(name)
    forward, backward = (
        measure(sample.attributes, *pair)
        for pair in ((sample.image, blur(1.5)(sample.image)), (blur(1.5)(sample.image), sample.image))
    )
    for key in keys:
        assert forward[key] < 0.9 * backward[key]
    if "coherence" in forward:
        assert forward["coherence/0.125"] == pytest.approx(backward["coherence/0.125"], rel=1e-12)


def test_a_flat_picture_keeps_nothing():
    for name in IDS:
        for key, value in of(name, flat).items():
            metric = key.split("/")[0]
            if metric == "smallest_line":
                assert value == math.inf
            elif metric not in ("flat_noise", "banding"):
                assert value == pytest.approx(0, abs=1e-6), (name, key)


# --- the way in -------------------------------------------------------------------------------------------------------


def test_every_metric_is_described_and_measured_somewhere():
    found = {key.split("/")[0] for name in IDS for key in of(name)}
    assert found == set(of_measure("charts"))
    assert set(detail.CHARTS) == {chart.group for chart in CHARTS}


def test_other_pictures_have_no_detail_metrics():
    image = chart("dead-leaves").image
    assert measure({}, image, image) == {}
    assert measure({"chart": "photograph"}, image, image) == {}
    assert measure({"chart": 3.0}, image, image) == {}


@pytest.mark.parametrize(
    "attributes",
    [
        {"chart": "line-pairs", "degrees": 0.0},
        {"chart": "line-pairs", "degrees": 0.0, "grid": "3x3", "frequencies": "1/2 1/4"},
        {"chart": "line-pairs", "degrees": 0.0, "grid": "9", "frequencies": "1/2"},
        {"chart": "lines", "grid": "5x4", "widths": "1 2 thick"},
    ],
)
def test_attributes_that_do_not_fit_are_one_line(attributes):
    image = chart("dead-leaves").image
    with pytest.raises(DataError, match="don't describe a chart of kind") as caught:
        measure(attributes, image, image)
    assert "\n" not in str(caught.value)


def test_wrong_shapes_and_types_are_refused():
    sample = chart("fractal")
    for other in (sample.image[:, :-1], sample.image.float(), sample.image[0]):
        with pytest.raises(DataError, match="expected two uint8 batches"):
            measure(sample.attributes, sample.image, other)


def test_all_charts_are_measured_in_seconds():
    samples = [chart(name) for name in IDS]
    started = time.process_time()
    for sample in samples:
        measure(sample.attributes, sample.image, sample.image)
    assert time.process_time() - started < 5  # 1.4 s on one core of 2.5 GHz or so
