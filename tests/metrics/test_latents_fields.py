"""Spectra, equivariance and spatial structure of latents whose answer is known."""

import numpy as np
import pytest
import torch
from scipy import fft
from torch.nn import functional as F

from vtbench.errors import DataError
from vtbench.metrics import latents


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def smooth(side=16, channels=6):
    coarse = torch.tensor(noise(2, channels, 4, 4))
    return F.interpolate(coarse, (side, side), mode="bicubic").numpy()


def tokens(z):
    return z.reshape(*z.shape[:2], -1).transpose(0, 2, 1)


def test_block_spectrum_is_scipys():
    z = noise(3, 2, 16, 24) + 1
    blocks = z.reshape(3, 2, 2, 8, 3, 8).transpose(0, 1, 2, 4, 3, 5)
    found = np.abs(fft.dctn(blocks, axes=(-2, -1), norm="ortho")).mean((0, 2, 3))
    ratio = latents.block_spectrum(z)
    for place, (u, v) in enumerate([(0, 0), (0, 1), (1, 0), (2, 0), (1, 1), (0, 2)]):
        assert ratio[:, place] == pytest.approx(found[:, u, v] / found[:, 0, 0], abs=1e-12)


def test_white_noise_is_flat_and_a_smooth_field_is_not():
    flat = latents.radial_spectrum(noise(20, 4, 32, 32)).mean(0)
    assert flat[1:] == pytest.approx(np.ones(15), abs=0.2)
    falling = latents.radial_spectrum(smooth(32)).mean(0)
    assert falling[1] > 100 * falling[8]
    assert latents.block_spectrum(noise(20, 4, 32, 32)).mean(0)[1:] == pytest.approx(np.ones(63), abs=0.15)


def test_rings_hold_the_power_of_the_map():
    z = noise(2, 3, 8, 12)
    total = latents.radial_spectrum(z, bins=1, center=False, remove_dc=False)[:, 0] * 8 * 12
    assert total == pytest.approx((z**2).sum((1, 2, 3)) / 3, rel=1e-8)


def test_a_latent_that_is_the_picture_matches_it():
    x = noise(2, 3, 32, 32)
    found = latents.spectrum_match(x, x, delta=0.0)
    assert found["kl"] == pytest.approx(0, abs=1e-12)
    assert found["image_share"].sum(1) == pytest.approx([1, 1], abs=1e-6)
    assert latents.spectrum_match(x, x, delta=1.0)["kl"] > 0.01


def test_turns_are_clockwise_and_the_scale_comes_first():
    z = noise(1, 2, 4, 8)
    assert (latents.transform(z, turns=1)[0, 0] == np.rot90(z[0, 0], -1)).all()
    assert (latents.transform(latents.transform(z, turns=1), turns=3) == z).all()
    halved = latents.transform(z, scale=0.5)
    assert halved == pytest.approx(z.reshape(1, 2, 2, 2, 4, 2).mean((3, 5)), abs=1e-12)
    assert latents.transform(z, scale=(0.5, 1.0), turns=1).shape == (1, 2, 8, 2)
    assert latents.transform(torch.tensor(z).float()).dtype == torch.float32


def test_a_shuffled_grid_loses_its_structure():
    ordered = tokens(smooth())
    shuffled = ordered[:, np.random.default_rng(1).permutation(256)]
    for measure in (latents.lds, latents.cds):
        assert (measure(ordered, height=16, width=16) > measure(shuffled, height=16, width=16) + 0.05).all()
        assert measure(shuffled, height=16, width=16) == pytest.approx([0, 0], abs=0.05)
    both = [latents.rmsc(x, height=16, width=16) for x in (ordered, shuffled)]
    assert both[0] == pytest.approx(both[1], abs=1e-12)


def test_a_common_offset_raises_all_cosines():
    plain = tokens(smooth())
    assert (latents.rmsc(plain + 20, height=16, width=16) < 0.2 * latents.rmsc(plain, height=16, width=16)).all()


def test_a_rotation_of_the_channels_changes_no_cosine():
    plain = tokens(smooth())
    turned = plain @ np.linalg.qr(noise(6, 6))[0]
    for measure in (latents.lds, latents.cds, latents.rmsc):
        at = {"height": 16, "width": 16}
        assert measure(turned, **at) == pytest.approx(measure(plain, **at), abs=1e-12)


def test_foreground_and_background_apart():
    """Two opposite vectors: near foreground is at cosine 1, far background at -1."""
    mask = np.zeros((1, 8, 8), dtype=bool)
    mask[:, :, :2] = True
    field = np.where(mask.reshape(1, 64, 1), 1.0, -1.0) * np.ones(3)
    assert latents.srss(field, mask.reshape(1, 64), height=8, width=8) == pytest.approx([2.0])
    assert np.isnan(latents.srss(field, np.zeros((1, 64), dtype=bool), height=8, width=8)).all()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: latents.block_spectrum(noise(1, 2, 12, 16)), "multiples of 8"),
        (lambda: latents.radial_spectrum(noise(2, 8, 8)), r"expected \(B, C, H, W\)"),
        (lambda: latents.spectrum_match(noise(2, 3, 8, 8), noise(1, 3, 8, 8)), "2 pictures and 1 latents"),
        (lambda: latents.block_spectrum(noise(1, 2, 8, 8), block=0), "at least 1"),
        (lambda: latents.radial_spectrum(noise(1, 2, 8, 8), bins=0), "at least 1"),
        (lambda: latents.spectrum_match(noise(1, 3, 8, 8), noise(1, 3, 8, 8), blur_kernel=4), "odd number"),
        (lambda: latents.transform(noise(1, 2, 4, 4), scale=0.1), "at least one"),
        (lambda: latents.transform(noise(1, 2, 4, 4), scale=[0.5, 0.5]), "a finite number"),
        (lambda: latents.transform(noise(1, 2, 4, 4), scale=(0.5,)), "scale of 1 factors"),
        (lambda: latents.transform(noise(1, 2, 4, 4), turns=0.5), "a whole number"),
        (lambda: latents.lds(noise(1, 4, 3), height=-2, width=-2), "at least 1"),
        (lambda: latents.cds(noise(1, 4, 3), height=2, width=2, dmax=0), "at least 1"),
        (lambda: latents.lds(noise(1, 60, 3), height=8, width=8), "expected 64"),
        (lambda: latents.srss(noise(1, 4, 3), np.ones((1, 3)), height=2, width=2), "one value a token"),
    ],
)
def test_what_does_not_fit_is_refused(call, said):
    with pytest.raises(DataError, match=said) as caught:
        call()
    assert "\n" not in str(caught.value)
