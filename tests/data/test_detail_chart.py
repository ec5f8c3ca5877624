import itertools
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vtbench.data.detail_chart import CHARTS, FREQUENCIES, Source, cells, coverage, sine
from vtbench.errors import DataError


def pixels(chart_id, size=256):
    source = Source(size=size)
    index = [source.sample_id(i) for i in range(len(source))].index(chart_id)
    return source.read(index).image.permute(1, 2, 0).numpy().astype(float)


def grey(chart_id, size=256):
    image = pixels(chart_id, size)
    assert (image == image[..., :1]).all()
    return image[..., 0]


@pytest.mark.parametrize("size", [64, 201, 256, 384])
def test_every_chart_at_any_size(size):
    source = Source(size=size)
    assert len(source) == 33
    seen = set()
    for index in range(len(source)):
        sample = source.read(index)
        assert sample.image.shape == (3, size, size) and sample.image.dtype == torch.uint8
        assert sample.id == source.sample_id(index) and sample.attributes["chart"] == CHARTS[index].group
        assert sample.image.float().std() > 5
        seen.add(sample.id)
    assert len(seen) == 33


def test_pixels_are_the_same_on_every_machine():
    """Pinned exactly: only exactly defined arithmetic is used. To change it, raise the version of tasks/detail.toml."""
    assert Source(size=256).digest == "142eee2d5cd576e77156ac16d7c518fd6446f912c2a9c327f4c79c24b2bfc781"
    assert Source(size=512).digest == "34be02c03ca5e3c2c3ecb036f8948020fa03e0b5e816d3f4de0b7d29c46dd55b"


def test_a_picture_that_was_changed_is_drawn_again():
    source = Source(size=64)
    before = source.read(0).image
    kept = before.clone()
    before.zero_()
    assert torch.equal(source.read(0).image, kept)


def test_parts_of_a_grid_tile_the_picture():
    for size, rows, columns in ((64, 3, 3), (257, 5, 4), (512, 8, 1)):
        seen = np.zeros((size, size), int)
        for part in cells(size, rows, columns):
            seen[part] += 1
        assert (seen == 1).all()
    assert cells(10, 1, 3) == [(slice(0, 10), slice(0, 3)), (slice(0, 10), slice(3, 6)), (slice(0, 10), slice(6, 10))]


def test_attributes_say_what_a_chart_holds():
    said = {chart.id: Source(size=64).read(index).attributes for index, chart in enumerate(CHARTS)}
    assert said["slanted-edge-h-12-50"] == {
        "chart": "slanted-edge", "orientation": "h", "degrees": 12.0, "michelson": 0.5, "colour": "luminance",
    }  # fmt: skip
    assert said["line-pairs-red-green-135"] == {
        "chart": "line-pairs", "colour": "red-green", "degrees": 135.0, "grid": "3x3",
        "frequencies": "1/64 1/32 1/16 1/12 1/8 1/6 1/4 1/3 1/2",
    }  # fmt: skip
    assert said["lines-faint"] == {"chart": "lines", "michelson": 0.125, "grid": "5x4", "widths": "0.25 0.5 1 2 3"}


def test_the_documentation_shows_every_chart_as_it_is():
    docs = Path(__file__).parents[2] / "docs"
    page = (docs / "charts.md").read_text()
    source = Source(size=128)
    for index in range(len(source)):
        sample = source.read(index)
        assert f"(charts/{sample.id}.webp)" in page
        shown = np.array(Image.open(docs / "charts" / f"{sample.id}.webp").convert("RGB"))
        assert (shown == sample.image.permute(1, 2, 0).numpy()).all(), "run scripts/chart_pictures.py"
    assert len(list((docs / "charts").iterdir())) == len(source)
    assert sum(path.stat().st_size for path in (docs / "charts").iterdir()) < 300_000


def test_sine_is_right_and_exact_at_quarter_turns():
    turns = np.linspace(-3, 3, 20001)
    assert np.abs(sine(turns) - np.sin(2 * np.pi * turns)).max() < 1e-14  # rounding of 2 pi t for t up to 3
    assert sine(np.array([0, 0.25, 0.5, 0.75, 1, -0.25, -0.5])).tolist() == [0, 1, 0, -1, 0, -1, 0]


@pytest.mark.parametrize("degrees", [0, 5, 20, 45, 90, 110])
def test_coverage_equals_supersampling(degrees):
    normal = (math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))
    offsets = (np.arange(200) + 0.5) / 200 - 0.5
    y, x = np.meshgrid(offsets, offsets, indexing="ij")
    for distance in np.linspace(-0.8, 0.8, 17):
        expected = (x * normal[0] + y * normal[1] + distance > 0).mean()
        assert abs(coverage(np.array([distance]), normal)[0] - expected) < 0.006  # one row of 200 samples


@pytest.mark.parametrize(
    ("degrees", "contrast", "low", "high"), [(5, 90, 13, 242), (5, 50, 64, 191), (5, 20, 102, 153), (12, 50, 64, 191)]
)
@pytest.mark.parametrize("orientation", ["v", "h"])
def test_edge_has_its_angle_place_and_contrast(orientation, degrees, contrast, low, high):
    image = grey(f"slanted-edge-{orientation}-{degrees}-{contrast}")
    image = image if orientation == "v" else image.T
    assert (image[:, 0] == low).all() and (image[:, -1] == high).all()
    # Where each row passes from dark to light, from its mean; then the slope of the fitted line.
    place = 256 * (high - image.mean(axis=1)) / (high - low)
    slope, middle = np.polyfit(np.arange(256) - 127.5, place, 1)
    assert abs(math.degrees(math.atan(slope)) + degrees) < 0.02
    assert abs(middle - 128) < 0.02


@pytest.mark.parametrize("degrees", [0, 45, 90, 135])
@pytest.mark.parametrize(("colour", "channel"), [("luminance", 1), ("red-green", 0), ("blue-yellow", 2)])
def test_each_part_of_line_pairs_has_its_frequency_and_direction(colour, channel, degrees):
    image = pixels(f"line-pairs-{colour}-{degrees}")[..., channel]
    for said, part in zip(FREQUENCIES, cells(256, 3, 3), strict=True):
        frequency = float(Fraction(said))
        patch = image[part] - 127.5
        window = np.outer(*(np.hanning(side + 2)[1:-1] for side in patch.shape))
        spectrum = np.abs(np.fft.fft2(patch * window, (1024, 1024)))
        spectrum[0, 0] = 0
        y, x = np.unravel_index(spectrum.argmax(), spectrum.shape)
        fy, fx = np.fft.fftfreq(1024)[y], np.fft.fftfreq(1024)[x]
        # The three widest patterns hold under three cycles a patch, where the window's own width shifts the peak.
        tolerance = 0.006 if frequency < 1 / 20 else 0.0015
        assert abs(math.hypot(fx, fy) - frequency) < tolerance, (frequency, fx, fy)
        if frequency > 1 / 40:
            angle = math.degrees(math.atan2(fy, fx)) % 180
            assert min(abs(angle - degrees), 180 - abs(angle - degrees)) < 3
        assert patch[0, 0] == patch.max()  # begins on a crest
        if degrees in (0, 90):
            # Full contrast but at 1/3, whose samples fall on the crest and on two half-way points only.
            assert np.ptp(patch) > 0.74 * (220 if channel != 1 else 0.9 * 255)
    assert FREQUENCIES[0] == "1/64" and FREQUENCIES[-1] == "1/2"


def test_zone_plate_reaches_half_a_cycle_at_the_sides():
    row = grey("zone-plate")[128]
    end = row[-16:] - row[-16:].mean()
    assert (np.sign(end[1:]) != np.sign(end[:-1])).all()  # alternates from pixel to pixel
    assert np.ptp(row[124:132]) < 30  # and stands still in the middle


def test_siemens_star_has_32_spokes():
    image = grey("siemens-star")
    angle = np.arange(4096) / 4096 * 2 * np.pi
    ring = image[(127.5 + 90 * np.sin(angle)).round().astype(int), (127.5 + 90 * np.cos(angle)).round().astype(int)]
    assert np.abs(np.fft.rfft(ring - ring.mean())).argmax() == 32
    assert (image[120:136, 120:136] == 128).all()


def test_checkerboard_squares():
    image = grey("checkerboard")
    for side, part in zip((1, 2, 4, 8), (image[:128, :128], image[:128, 128:], image[128:, :128], image[128:, 128:])):  # noqa: B905
        assert (part[:-side] != part[side:]).all() and (part[:, :-side] != part[:, side:]).all()
        assert (part[:side, :side] == part[0, 0]).all()


@pytest.mark.parametrize(("name", "ink", "paper"), [("dark", 24, 232), ("light", 232, 24), ("faint", 112, 144)])
def test_lines_are_as_wide_as_said(name, ink, paper):
    image = grey(f"lines-{name}", 1020)  # parts of 204 x 255 pixels: 17 lines down
    for index, part in enumerate(cells(1020, 5, 4)):
        width = (0.25, 0.5, 1, 2, 3)[index // 4]
        share = (image[part] - paper) / (ink - paper)
        if index % 4 == 0:  # upright: whole pixels from the fifth on, then what is left of the width
            full = int(width)
            expected = [1.0] * full + [width - full] * (width > full) + [0.0] * 20
            assert np.abs(share[:, 4:16] - expected[:12]).max() < 0.5 / abs(ink - paper) + 1e-9
        if index % 4 == 1:
            assert share.mean() == pytest.approx(width / 12, abs=0.5 / abs(ink - paper))
        else:
            assert share.mean() == pytest.approx(width / 12, rel=0.04, abs=0.5 / abs(ink - paper))
        assert share.max() <= 1 and share.min() >= 0


def test_fractal_noise_has_an_amplitude_near_one_over_f():
    image = grey("fractal")
    window = np.hanning(256)
    spectrum = np.abs(np.fft.fft2((image - image.mean()) * window[:, None] * window[None, :]))
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256)))
    edges = np.geomspace(2 / 256, 0.25, 9)
    level = [spectrum[(radius >= a) & (radius < b)].mean() for a, b in itertools.pairwise(edges)]
    slope = np.polyfit(np.log(np.sqrt(edges[1:] * edges[:-1])), np.log(level), 1)[0]
    assert -1.3 < slope < -0.7


def test_dead_leaves_hold_small_and_large_discs_in_many_colours():
    image = pixels("dead-leaves")
    flat = (image[:, 1:] == image[:, :-1]).all(axis=2)
    runs = [len(run) for row in flat for run in "".join("01"[int(v)] for v in row).split("0")]
    assert max(runs) > 40 and np.mean([run < 8 for run in runs]) > 0.5
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 500
    faint = grey("dead-leaves-faint")
    assert faint.min() >= 96 and faint.max() <= 160 and faint.std() > 15


@pytest.mark.parametrize("degrees", [0, 45, 90, 135])
@pytest.mark.parametrize("chart", ["red-green", "blue-yellow"])
def test_opponent_colours_keep_luma_constant(chart, degrees):
    image = pixels(f"line-pairs-{chart}-{degrees}")
    luma = image @ [0.299, 0.587, 0.114]
    assert np.ptp(luma) < 1.1  # each channel is rounded to whole levels
    assert np.ptp(image[..., 2 if chart == "blue-yellow" else 0]) > 200


def test_ramps_rise_and_fields_are_flat():
    ramps = pixels("ramps")
    assert ramps[16, 0].tolist() == [0, 0, 0] and ramps[16, 255].tolist() == [255, 255, 255]
    assert (np.diff(ramps[16, :, 0]) == 1).all()
    assert ramps[250, 255].tolist() == [191, 128, 96]
    shallow = pixels("ramps-shallow")
    assert (shallow[-1] - shallow[0] == 32).all()
    assert (shallow[:, 16] == shallow[:, 31]).all()
    assert len(np.unique(shallow[:, 100, 0])) == 33
    fields = pixels("flat-fields").reshape(4, 64, 4, 64, 3)
    assert (fields == fields[:, :1, :, :1]).all()
    assert len(np.unique(fields[:, 0, :, 0].reshape(-1, 3), axis=0)) == 16


def test_too_small_and_paths_are_refused(tmp_path):
    with pytest.raises(DataError, match="expected 64 or more"):
        Source(size=63)
    with pytest.raises(DataError, match="give the card a"):
        Source(size=None)
    with pytest.raises(DataError, match="takes no path"):
        Source(size=256, path=tmp_path)
