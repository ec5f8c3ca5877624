import math

import numpy as np
import piq
import pytest
import torch
from scipy.ndimage import correlate1d
from skimage import color, data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from vtbench.errors import DataError
from vtbench.metrics import ciede2000, gmsd, haarpsi, ms_ssim, peak, psnr, ssim, structure


def _tensor(*pictures):
    return torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures])


def _noisy(picture, seed=0, amount=25):
    noise = np.random.default_rng(seed).integers(-amount, amount + 1, picture.shape)
    return np.clip(picture.astype(int) + noise, 0, 255).astype(np.uint8)


def _flat(height, width, level):
    return np.full((height, width, 3), level, dtype=np.uint8)


def _checkerboard(height, width, first):
    rows, columns = np.indices((height, width))
    return np.repeat((((rows + columns) % 2 == first) * np.uint8(255))[..., None], 3, axis=2)


def _one_pixel(picture):
    changed = picture.copy()
    changed[7, 9, 1] ^= 1
    return changed


ASTRONAUT = data.astronaut()
PAIRS = {
    "noise": (ASTRONAUT[:96, :128], _noisy(ASTRONAUT[:96, :128])),
    "odd sides": (ASTRONAUT[100:137, 100:350], _noisy(ASTRONAUT[100:137, 100:350], 1)),
    "several strips": (data.coffee()[:300, :400], _noisy(data.coffee()[:300, :400], 2)),
    "one window": (ASTRONAUT[:11, :11], _noisy(ASTRONAUT[:11, :11], 3)),
    "flat, one level apart": (_flat(40, 60, 255), _flat(40, 60, 254)),
    "black and white": (_flat(32, 32, 0), _flat(32, 32, 255)),
    "flat and textured": (_flat(96, 96, 240), ASTRONAUT[:96, :96]),
    "checkerboard and its negative": (_checkerboard(45, 64, 0), _checkerboard(45, 64, 1)),
    "one level of one pixel": (data.chelsea()[:64, :64], _one_pixel(data.chelsea()[:64, :64])),
    "shifted": (data.chelsea()[:120, :150], data.chelsea()[1:121, :150]),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
def test_psnr_equals_skimage(pair):
    found = psnr(_tensor(pair[0]), _tensor(pair[1]))
    assert found.dtype == torch.float64
    # Both sum whole numbers exactly; the rest is one division and one logarithm.
    assert found.item() == pytest.approx(peak_signal_noise_ratio(*pair, data_range=255), abs=1e-10)


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
def test_ssim_equals_skimage(pair):
    wanted = structural_similarity(
        *pair, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, channel_axis=-1
    )
    # Both in float64; only the order of the sums differs.
    assert ssim(_tensor(pair[0]), _tensor(pair[1])).item() == pytest.approx(wanted, abs=1e-10)


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
def test_uniform_ssim_equals_the_default_of_skimage(pair):
    wanted = structural_similarity(*pair, data_range=255, channel_axis=-1)
    # Both in float64; theirs keeps a running sum along each row, which rounds a little more than ours.
    assert ssim(_tensor(pair[0]), _tensor(pair[1]), window="uniform-7").item() == pytest.approx(wanted, abs=1e-9)


HARD = ["constant", "checkerboard", "one pixel", "low contrast", "equal", "natural"]
SIZES = [(256, 256), (512, 512), (255, 301)]


def _hard(kind, height, width):
    picture = np.tile(ASTRONAUT, (1, 2, 1))[:height, :width]
    if kind == "constant":
        return _flat(height, width, 255), _flat(height, width, 253)
    if kind == "checkerboard":
        board = _checkerboard(height, width, 0)
        return board, np.roll(board, 1, axis=0)
    if kind == "one pixel":
        return picture, _one_pixel(picture)
    if kind == "low contrast":
        low = (240 + picture // 64).astype(np.uint8)
        return low, _noisy(low, 4, 1)
    return (picture, picture.copy()) if kind == "equal" else (picture, _noisy(picture, 6))


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
@pytest.mark.parametrize("kind", HARD)
def test_hard_cases_equal_skimage(kind, size):
    first, second = _hard(kind, *size)
    x, y = _tensor(first), _tensor(second)
    if kind == "equal":
        assert psnr(x, y).item() == math.inf
        assert ciede2000(x, y).item() == 0.0
    else:
        assert psnr(x, y).item() == pytest.approx(peak_signal_noise_ratio(first, second, data_range=255), abs=1e-10)
    gaussian = structural_similarity(
        first, second, gaussian_weights=True, use_sample_covariance=False, data_range=255, channel_axis=-1
    )
    uniform = structural_similarity(first, second, data_range=255, channel_axis=-1)
    # float64 on both sides: what is left is the order of the sums.
    assert ssim(x, y).item() == pytest.approx(gaussian, abs=1e-10)
    assert ssim(x, y, window="uniform-7").item() == pytest.approx(uniform, abs=1e-9)


def test_the_large_operations_of_a_gpu_give_what_the_strips_give():
    for first, second in PAIRS.values():
        x, y = _tensor(first)[0], _tensor(second)[0]
        for window, (taps, unbiased) in structure._WINDOWS.items():
            similarity, contrast = structure._means(x[None], y[None], window, 255.0)
            constants = 2 * 2.55**2, 2 * 7.65**2
            found = structure._means_at_once(x, y, taps, unbiased, constants)
            # float64; only the order of the sums differs.
            assert torch.allclose(found, torch.stack([similarity[0], contrast[0]], dim=1), rtol=0, atol=1e-11)


@pytest.mark.parametrize("window", ["gaussian-11", "uniform-7"])
@pytest.mark.parametrize("border", ["valid", "mirror"])
@pytest.mark.parametrize("data_range", [1.0, 2.0, 255.0])
def test_ssim_of_floats_under_any_window_border_and_range_is_the_formula_by_scipy(window, border, data_range):
    first, second = (side[:37, :50].astype(np.float64) / 255 * data_range for side in PAIRS["several strips"])
    taps, unbiased = structure._WINDOWS[window]

    def mean(values):
        for axis in (0, 1):
            values = correlate1d(values, taps, axis=axis, mode="mirror")
        return values

    means = mean(first), mean(second)
    variances = unbiased * (mean(first**2) - means[0] ** 2 + mean(second**2) - means[1] ** 2)
    covariance = unbiased * (mean(first * second) - means[0] * means[1])
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    quotient = (2 * means[0] * means[1] + c1) * (2 * covariance + c2)
    quotient /= (means[0] ** 2 + means[1] ** 2 + c1) * (variances + c2)
    dropped = len(taps) // 2 if border == "valid" else 0
    wanted = quotient[dropped : 37 - dropped, dropped : 50 - dropped].mean()
    x, y = (torch.from_numpy(side).permute(2, 0, 1) for side in (first, second))
    rule = {"window": window, "border": border, "data_range": data_range}
    # float64 on both sides; only the order of the sums differs.
    assert float(structure.ssim_of(x, y, **rule)) == pytest.approx(wanted, abs=1e-12)
    batch = structure.ssim_of(x.expand(2, -1, -1, -1), y.expand(2, -1, -1, -1), **rule)
    assert batch.tolist() == pytest.approx([wanted, wanted], abs=1e-12)


def test_a_mirrored_border_fits_pictures_smaller_than_the_window():
    x, y = (_tensor(side[:3, :1]).double() for side in PAIRS["noise"])
    mirrored = [np.pad(side[0].numpy(), ((0, 0), (5, 5), (5, 5)), mode="reflect") for side in (x, y)]
    wanted = structure.ssim_of(
        *(torch.from_numpy(side) for side in mirrored), window="gaussian-11", border="valid", data_range=255.0
    )
    found = structure.ssim_of(x, y, window="gaussian-11", border="mirror", data_range=255.0)
    assert found.tolist() == [pytest.approx(float(wanted), abs=1e-12)]
    with pytest.raises(DataError, match='border "reflect": expected valid or mirror'):
        structure.ssim_of(x, y, window="gaussian-11", border="reflect", data_range=255.0)


def test_squared_errors_of_bytes_are_those_of_whole_numbers_and_equal_those_of_floats():
    x, y = (_tensor(side) for side in PAIRS["several strips"])
    found = peak.squared_error(x, y)
    assert found.dtype == torch.float64 and found.shape == (1,)
    # OpenCV's sum of whole numbers is right to the last digit.
    assert found.item() == pytest.approx(((x.long() - y.long()) ** 2).sum().item() / x.numel(), rel=4e-16)
    assert float(peak.squared_error(x[0], y[0])) == found.item()
    # A mean of squares in float64 against one division of their exact sum.
    assert float(peak.squared_error(x[0].double(), y[0].double())) == pytest.approx(found.item(), rel=1e-13)
    transposed = peak.squared_error(x.transpose(2, 3), y.transpose(2, 3))
    assert transposed.item() == pytest.approx(found.item(), rel=4e-16)


def test_psnr_of_floats_has_the_peak_that_it_is_given():
    x, y = (_tensor(side) for side in PAIRS["noise"])
    halves = (side.double() / 255.0 for side in (x, y))
    assert float(peak.psnr_of(*halves, peak=1.0)) == pytest.approx(psnr(x, y).item(), abs=1e-10)
    assert float(peak.psnr_of(x, y, peak=510.0)) == pytest.approx(psnr(x, y).item() + 20 * math.log10(2), abs=1e-10)


def test_decibels_of_nothing_wrong_are_infinite_whatever_the_peak():
    assert peak.decibels(torch.tensor([0.0, 1.0, 100.0], dtype=torch.float64), 100.0).tolist() == [math.inf, 20.0, 0.0]
    assert peak.decibels(torch.zeros(1, dtype=torch.float64), 0.0).item() == math.inf


COLOURS = {
    "noise": PAIRS["noise"],
    "odd sides": PAIRS["odd sides"],
    "negative": (ASTRONAUT[:64, :80], 255 - ASTRONAUT[:64, :80]),
    "flat and textured": PAIRS["flat and textured"],
    "black and white": PAIRS["black and white"],
    "grey and colours": (_checkerboard(40, 50, 0), data.coffee()[:40, :50]),
}


@pytest.mark.parametrize("pair", COLOURS.values(), ids=COLOURS.keys())
def test_ciede2000_equals_skimage(pair):
    wanted = color.deltaE_ciede2000(color.rgb2lab(pair[0]), color.rgb2lab(pair[1])).mean()
    # float64 on both sides; the hue of a grey pixel hangs on its last digits and weighs as little.
    assert ciede2000(_tensor(pair[0]), _tensor(pair[1])).item() == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize(("metric", "theirs"), [(gmsd, piq.gmsd), (haarpsi, piq.haarpsi)], ids=["gmsd", "haarpsi"])
@pytest.mark.parametrize("pair", [*COLOURS.values(), PAIRS["shifted"]], ids=[*COLOURS, "shifted"])
def test_gmsd_and_haarpsi_equal_piq(metric, theirs, pair):
    x, y = _tensor(pair[0]), _tensor(pair[1])
    # float64 on both sides.
    assert metric(x, y).item() == pytest.approx(theirs(x.double(), y.double(), data_range=255).item(), abs=1e-10)


def test_haarpsi_of_two_black_pictures_is_one():
    black = _tensor(_flat(32, 40, 0))
    assert haarpsi(black, black.clone()).item() == 1.0  # nothing has a weight; the formula alone gives 0 / 0


def test_gmsd_sees_no_colour_and_ciede2000_does():
    picture = ASTRONAUT[:64, :64].astype(int)
    shift = np.array([24, -12, -1])  # 0.299 * 24 - 0.587 * 12 - 0.114 = 0.018 levels of luma
    kept = np.clip(picture, 40, 215)
    x, y = _tensor(kept.astype(np.uint8)), _tensor((kept + shift).astype(np.uint8))
    assert gmsd(x, y).item() < 1e-3
    assert ciede2000(x, y).item() > 4


def test_an_unknown_window_is_refused():
    picture = _tensor(ASTRONAUT[:32, :32])
    with pytest.raises(DataError, match="gaussian-11, uniform-7"):
        ssim(picture, picture, window="uniform-8")


def _ms_ssim_by_scipy(x, y):
    offsets = np.arange(-5, 6)
    taps = np.exp(-(offsets**2) / 4.5)
    taps /= taps.sum()

    def blur(plane):
        return correlate1d(correlate1d(plane, taps, axis=0), taps, axis=1)[5:-5, 5:-5]

    def halve(plane):
        even = np.pad(plane, [(0, side % 2) for side in plane.shape], mode="symmetric")
        return (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4

    values = []
    for channel in range(3):
        a, b, value = x[..., channel].astype(float), y[..., channel].astype(float), 1.0
        for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
            mean_a, mean_b = blur(a), blur(b)
            cross = 2 * (blur(a * b) - mean_a * mean_b) + 58.5225
            term = cross / (blur(a * a) - mean_a**2 + blur(b * b) - mean_b**2 + 58.5225)
            if scale == 4:
                term = term * (2 * mean_a * mean_b + 6.5025) / (mean_a**2 + mean_b**2 + 6.5025)
            value *= max(0.0, term.mean()) ** weight
            a, b = halve(a), halve(b)
        values.append(value)
    return np.mean(values)


@pytest.mark.parametrize("size", [(161, 175), (256, 192)], ids=["odd, smallest", "even"])
def test_ms_ssim_equals_the_formula_written_with_scipy(size):
    picture = ASTRONAUT[: size[0], : size[1]]
    other = _noisy(picture, amount=60)
    # Both in float64; only the order of the sums differs.
    assert ms_ssim(_tensor(picture), _tensor(other)).item() == pytest.approx(
        _ms_ssim_by_scipy(picture, other), abs=1e-10
    )


def test_ms_ssim_of_opposites_is_zero():
    board = np.kron(_checkerboard(12, 12, 0), np.ones((16, 16, 1), dtype=np.uint8))
    assert ms_ssim(_tensor(board), _tensor(255 - board)).item() == 0.0


@pytest.mark.parametrize(
    ("metric", "best"), [(psnr, math.inf), (ssim, 1.0), (ms_ssim, 1.0), (ciede2000, 0.0), (gmsd, 0.0), (haarpsi, 1.0)]
)
def test_equal_pictures_have_the_best_value(metric, best):
    pictures = _tensor(ASTRONAUT[:170, :170], _flat(170, 170, 255), _checkerboard(170, 170, 0))
    assert metric(pictures, pictures.clone()).tolist() == pytest.approx([best] * 3, abs=1e-12)


@pytest.mark.parametrize("metric", [psnr, ssim, ms_ssim, ciede2000, gmsd, haarpsi])
def test_a_batch_gives_what_its_pictures_give_alone(metric):
    first, second = ASTRONAUT[:165, :180], ASTRONAUT[200:365, 100:280]
    reference, other = _tensor(first, second), _tensor(_noisy(first), _noisy(second, 5, 9))
    alone = [metric(reference[i : i + 1], other[i : i + 1]).item() for i in range(2)]
    assert metric(reference, other).tolist() == alone
    assert alone[0] != alone[1]  # so a batch in another order shows
    # Symmetric by definition: no metric here has a side that could be swapped by mistake.
    assert metric(other, reference).tolist() == pytest.approx(alone, abs=1e-12)


@pytest.mark.parametrize(("metric", "smallest"), [(ssim, 11), (ms_ssim, 161), (haarpsi, 16)])
def test_a_picture_under_the_window_is_refused(metric, smallest):
    wide = torch.zeros(1, 3, smallest, smallest + 5, dtype=torch.uint8)
    assert metric(wide, wide).item() == pytest.approx(1.0)
    low = wide[:, :, 1:]
    with pytest.raises(DataError, match=f"{smallest + 5}x{smallest - 1} pixels.*at least {smallest}x{smallest}"):
        metric(low, low)


@pytest.mark.parametrize("metric", [psnr, ssim, ms_ssim, ciede2000, gmsd, haarpsi])
@pytest.mark.parametrize(
    "other",
    [
        torch.zeros(1, 3, 170, 170),
        torch.zeros(1, 3, 170, 171, dtype=torch.uint8),
        torch.zeros(3, 170, 170, dtype=torch.uint8),
        torch.zeros(1, 1, 170, 170, dtype=torch.uint8),
    ],
    ids=["float", "another size", "no batch", "grey"],
)
def test_what_is_not_a_pair_of_uint8_batches_is_refused(metric, other):
    with pytest.raises(DataError, match="expected two uint8 batches"):
        metric(torch.zeros(1, 3, 170, 170, dtype=torch.uint8), other)
