import io
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from skimage import data
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kernel_mmd

from vtbench import weights
from vtbench.errors import DataError, WeightsError
from vtbench.metrics import FrechetDistance
from vtbench.metrics.frechet import frechet_distance, kernel_distance


@pytest.fixture(scope="module")
def state():
    """Made-up weights with which the features neither die nor explode."""
    with torch.device("meta"):
        shapes = _Bare("inception-v3-compat", ["2048"], feature_extractor_weights_path=_file({})).state_dict()
    found = {}
    for name, tensor in shapes.items():
        if tensor.is_floating_point():
            gain = math.sqrt(2) if tensor.ndim == 4 else 1.0
            found[name] = torch.from_numpy(weights.fill_values(name, tuple(tensor.shape)) * np.float32(gain))
        else:
            found[name] = torch.zeros((), dtype=torch.int64)
    return found


class _Bare(FeatureExtractorInceptionV3):
    def load_state_dict(self, state_dict, strict=True, assign=False):
        """Keep what is there: only the names and shapes are wanted."""


def _file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


@pytest.fixture(scope="module")
def distance(state):
    return FrechetDistance(inception=state)


def _pictures(size):
    cuts = (data.astronaut()[:size, :size], data.coffee()[: min(size, 400), :size])
    height = min(len(cut) for cut in cuts)
    return torch.stack([torch.from_numpy(np.array(cut[:height])).permute(2, 0, 1) for cut in cuts])


@pytest.mark.parametrize("size", [256, 512])
def test_the_network_is_fed_the_pixels_that_torch_fidelity_makes(distance, size):
    seen = []
    hook = distance.network.Conv2d_1a_3x3.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    images = _pictures(size)
    distance.features(images)
    hook.remove()
    resized = interpolate_bilinear_2d_like_tensorflow1x(images.float(), size=(299, 299), align_corners=False)
    assert torch.equal(seen[0], (resized - 128) / 128)
    other = torch.nn.functional.interpolate(images.float(), (299, 299), mode="bilinear", align_corners=False)
    assert ((other - 128) / 128 - seen[0]).abs().mean() > 1e-3  # the two filters can be told apart on these pictures


def test_the_resize_is_that_of_tensorflow_1():
    # By its definition: value at i of the result is read at i * (input size / 299), corners not aligned, no half pixel.
    ramp = torch.arange(128).repeat(128, 1)[None, None].expand(1, 3, -1, -1).to(torch.uint8)
    resized = interpolate_bilinear_2d_like_tensorflow1x(ramp.float(), size=(299, 299), align_corners=False)
    wanted = torch.clamp(torch.arange(299) * (128 / 299), max=127)
    assert torch.allclose(resized[0, 0, 0], wanted, atol=1e-3)


def test_features_equal_torch_fidelity(distance, state):
    images = _pictures(256)
    (wanted,) = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=_file(state))(images)
    found = distance.features(images)
    assert found.dtype == np.float32
    assert found.shape == (2, 2048)
    # One and the same float32 network; torch may sum a convolution in another order.
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-5, atol=1e-6)
    assert found.std() > 0.1


def test_features_depend_on_the_weights_that_were_given_and_on_no_random_number(distance, state):
    before = torch.random.get_rng_state()
    changed = dict(state) | {"Conv2d_1a_3x3.conv.weight": state["Conv2d_1a_3x3.conv.weight"] * 0.5}
    images = _pictures(64)
    assert np.abs(FrechetDistance(inception=changed).features(images) - distance.features(images)).max() > 1e-3
    assert torch.equal(before, torch.random.get_rng_state())


def test_update_and_compute_compare_the_two_sets(state):
    gathered = FrechetDistance(inception=state)
    images = torch.cat([_pictures(96), _pictures(96)[:1].flip(-1)])
    coarse = images // 64 * 64
    for image, other in zip(images.split(2), coarse.split(2), strict=True):
        gathered.update(image, real=True)
        gathered.update(other, real=False)
    wanted = frechet_distance(gathered.features(images), gathered.features(coarse))
    # Batches of 2 and 1 against one of 3: float32 features in another order of sums.
    assert gathered.compute() == pytest.approx(wanted, rel=1e-4)
    assert wanted > 1e-3


def _gaussians(rows, columns, seed=0):
    generator = np.random.default_rng(seed)
    mix = generator.normal(size=(columns, columns)) / math.sqrt(columns)
    return generator.normal(size=(rows, columns)) @ mix + 1, generator.normal(size=(rows + 3, columns)) * 0.7


def test_the_distance_equals_scipy_on_well_conditioned_sets():
    real, fake = _gaussians(400, 12)
    first, second = np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
    root = scipy.linalg.sqrtm(first @ second).real
    gap = real.mean(axis=0) - fake.mean(axis=0)
    wanted = gap @ gap + np.trace(first + second - 2 * root)
    assert frechet_distance(real, fake) == pytest.approx(wanted, rel=1e-10)  # both in float64
    assert frechet_distance(fake, real) == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("rows", [6, 40, 500])
def test_the_distance_equals_torch_fidelity(rows):
    real, fake = _gaussians(rows, 40)
    statistics = [fid_features_to_statistics(torch.from_numpy(side)) for side in (real, fake)]
    wanted = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    # With fewer rows than columns theirs takes roots of eigenvalues that rounding made: about 1e-8 each instead of 0.
    assert frechet_distance(real, fake) == pytest.approx(wanted, abs=1e-5 if rows <= 40 else 1e-9)


def test_the_distance_of_few_pictures_is_exact():
    # Two rows each: rank-1 covariances u u^T / 2 and v v^T / 2, whose root has the trace |u.v| / 2.
    real, fake = np.array([[1.0, 2, 3, 4], [3, 2, 1, 0]]), np.array([[0.0, 1, 0, 1], [2, 2, 0, 3]])
    u, v = real[0] - real[1], fake[0] - fake[1]
    gap = real.mean(axis=0) - fake.mean(axis=0)
    assert frechet_distance(real, fake) == pytest.approx(gap @ gap + (u @ u + v @ v) / 2 - abs(u @ v), abs=1e-12)


def test_more_rows_than_one_block_change_nothing():
    real, fake = _gaussians(2600, 20)
    statistics = [fid_features_to_statistics(torch.from_numpy(side)) for side in (real, fake)]
    wanted = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(real, fake) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("rows", [5, 300])
def test_equal_sets_have_no_distance_and_a_shift_its_own(rows):
    real, _ = _gaussians(rows, 30)
    assert 0.0 <= frechet_distance(real, real.copy()) < 1e-10
    assert frechet_distance(real, real + 2.0) == pytest.approx(4 * 30, rel=1e-10)


def test_the_kernel_distance_equals_torch_fidelity():
    real, _ = _gaussians(60, 24)
    _, fake = _gaussians(57, 24, seed=1)  # theirs asks for sets of one size: 60 rows each
    wanted = kernel_mmd(real, fake)
    assert kernel_distance(real, fake) == pytest.approx(wanted, rel=1e-9)
    assert kernel_distance(fake, real) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("function", [frechet_distance, kernel_distance])
@pytest.mark.parametrize("shape", [(1, 8), (5, 7), (5,)], ids=["one picture", "other features", "no rows"])
def test_sets_that_cannot_be_compared_are_refused(function, shape):
    with pytest.raises(DataError, match="at least two pictures each"):
        function(np.zeros((5, 8)), np.zeros(shape))


def test_a_set_that_was_never_filled_is_refused(distance):
    with pytest.raises(DataError, match=r"\(0, 2048\)"):
        distance.compute()


def test_float_pictures_are_refused(distance):
    with pytest.raises(DataError, match="uint8"):
        distance.features(torch.zeros(1, 3, 64, 64))


def test_tensors_of_another_network_are_refused(state):
    lacking = {name: tensor for name, tensor in state.items() if name != "fc.weight"}
    with pytest.raises(WeightsError, match=r"fc\.weight"):
        FrechetDistance(inception=lacking)


def test_the_missing_file_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match=r"weights-inception-2015-12-05-6726825d\.pth.*vtbench fetch rfid"):
        FrechetDistance()
