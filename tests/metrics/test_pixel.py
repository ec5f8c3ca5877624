import math

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from vtbench.errors import DataError
from vtbench.metrics import ms_ssim, psnr, ssim


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


@pytest.mark.parametrize(("metric", "best"), [(psnr, math.inf), (ssim, 1.0), (ms_ssim, 1.0)])
def test_equal_pictures_have_the_best_value(metric, best):
    pictures = _tensor(ASTRONAUT[:170, :170], _flat(170, 170, 255), _checkerboard(170, 170, 0))
    assert metric(pictures, pictures.clone()).tolist() == pytest.approx([best] * 3, abs=1e-12)


@pytest.mark.parametrize("metric", [psnr, ssim, ms_ssim])
def test_a_batch_gives_what_its_pictures_give_alone(metric):
    first, second = ASTRONAUT[:165, :180], ASTRONAUT[200:365, 100:280]
    reference, other = _tensor(first, second), _tensor(_noisy(first), _noisy(second, 5, 9))
    alone = [metric(reference[i : i + 1], other[i : i + 1]).item() for i in range(2)]
    assert metric(reference, other).tolist() == alone
    assert alone[0] < alone[1]
    assert metric(other, reference).tolist() == pytest.approx(alone, abs=1e-12)


@pytest.mark.parametrize(("metric", "smallest"), [(ssim, 11), (ms_ssim, 161)])
def test_a_picture_under_the_window_is_refused(metric, smallest):
    wide = torch.zeros(1, 3, smallest, smallest + 5, dtype=torch.uint8)
    assert metric(wide, wide).item() == pytest.approx(1.0)
    low = wide[:, :, 1:]
    with pytest.raises(DataError, match=f"{smallest + 5}x{smallest - 1} pixels.*at least {smallest}x{smallest}"):
        metric(low, low)


@pytest.mark.parametrize("metric", [psnr, ssim, ms_ssim])
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
