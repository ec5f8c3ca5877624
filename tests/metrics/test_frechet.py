import io
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from builders import inception_state
from cleanfid.resize import build_resizer
from pytorch_fid import inception as pytorch_fid
from skimage import data
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kernel_mmd
from torchmetrics.image.fid import NoTrainInceptionV3

from vtbench.errors import DataError, WeightsError
from vtbench.metrics import FrechetDistance
from vtbench.metrics.frechet import (
    RESIZES,
    FrechetSums,
    KernelSums,
    feed,
    frechet_distance,
    frechet_interval,
    inception_score,
    kernel_distance,
)


def kernel_interval(real, fake):
    sums = KernelSums()
    for pair in zip(real, fake, strict=True):
        sums.add(*pair)
    return sums.interval()


@pytest.fixture(scope="module")
def state():
    """Made-up weights with which the features neither die nor explode."""
    return inception_state()


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


# --- resize rules -----------------------------------------------------------------------------------------------------

ODD = [(256, 256), (400, 512), (255, 301), (96, 128)]


def _odd(height, width):
    return torch.from_numpy(np.array(data.astronaut()[:height, :width])).permute(2, 0, 1)[None]


@pytest.fixture(scope="module")
def published(state):
    """pytorch-fid's own network with the made-up tensors in place of the file that it would download."""
    patch = pytest.MonkeyPatch()
    patch.setattr(pytorch_fid, "load_state_dict_from_url", lambda *_, **__: state)
    with torch.random.fork_rng():
        network = pytorch_fid.InceptionV3().eval()
    patch.undo()
    return network


def _seen(network, layer, call):
    seen = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    with torch.no_grad():
        call(network)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("size", ODD, ids=str)
def test_bilinear_feeds_what_pytorch_fid_feeds(published, size):
    shares = _odd(*size).float() / 255
    wanted = _seen(published, published.blocks[0][0], lambda network: network(shares))
    assert torch.equal(feed(_odd(*size), "bilinear"), wanted)
    assert torch.equal(feed(shares, "bilinear"), wanted)
    between = shares * 0.999  # floats that no level has are not rounded to one
    assert (feed(between, "bilinear") - wanted).abs().max() > 1e-4


@pytest.mark.parametrize("size", ODD, ids=str)
def test_antialias_feeds_what_torchmetrics_feeds(state, size):
    network = NoTrainInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=_file(state))
    wanted = _seen(network, network.Conv2d_1a_3x3, lambda network: network(_odd(*size)))
    assert torch.equal(feed(_odd(*size), "antialias"), wanted)


@pytest.mark.parametrize("size", ODD, ids=str)
def test_clean_feeds_what_clean_fid_feeds(size):
    levels = build_resizer("clean")(_odd(*size)[0].permute(1, 2, 0).numpy())
    wanted = (torch.from_numpy(levels).permute(2, 0, 1)[None] - 128) / 128
    assert torch.equal(feed(_odd(*size), "clean"), wanted)
    assert (wanted * 128 % 1).abs().max() > 0  # not quantised


@pytest.mark.parametrize("size", [(256, 256), (400, 512)], ids=str)
def test_every_rule_feeds_something_else(size):
    fed = {rule: feed(_odd(*size), rule) for rule in RESIZES}
    for rule, pixels in fed.items():
        assert pixels.shape == (1, 3, 299, 299)
        assert all((pixels - other).abs().mean() > 1e-3 for name, other in fed.items() if name != rule), rule


def test_features_equal_pytorch_fid(published, state):
    images = _pictures(200)
    with torch.no_grad():
        (wanted,) = published(images.float() / 255)
    found = FrechetDistance(inception=state, resize="bilinear").features(images)
    # One float32 network in two programs; torch may sum a convolution in another order.
    np.testing.assert_allclose(found, wanted.flatten(1).numpy(), rtol=1e-4, atol=1e-5)


def test_features_in_float64_are_those_of_the_network_in_float64(distance, state):
    images = _pictures(96)[:1]
    precise = FrechetDistance(inception=state, precision="fp64")
    found = precise.features(images)
    assert found.dtype == np.float64
    theirs = FeatureExtractorInceptionV3(
        "inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=_file(state)
    ).double()
    theirs.feature_extractor_internal_dtype = torch.float64  # release 0.4.0 takes its own argument for float32
    pooled, logits = theirs(images)  # computed in float64, returned in float32
    np.testing.assert_allclose(found, pooled.numpy(), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(precise.logits_of(precise.pooled(images)), logits.numpy(), rtol=1e-6, atol=1e-6)
    assert np.abs(found - distance.features(images)).max() > 1e-8  # and differ from float32


def test_the_inception_score_equals_torch_fidelity():
    logits = np.random.default_rng(0).normal(size=(40, 12)) * 3
    wanted = isc_features_to_metric(torch.from_numpy(logits), splits=1, shuffle=False)["inception_score_mean"]
    assert inception_score(logits) == pytest.approx(wanted, rel=1e-10)  # both in float64
    assert inception_score(np.tile(logits[:1], (9, 1))) == pytest.approx(1.0, abs=1e-12)
    assert inception_score(1000.0 * np.eye(7)) == pytest.approx(7.0, rel=1e-9)  # no share overflows
    with pytest.raises(DataError, match="at least one picture"):
        inception_score(np.empty((0, 5)))


def test_a_rule_a_precision_or_floats_that_are_unknown_are_refused(state):
    with pytest.raises(DataError, match="tf1, bilinear, antialias, clean"):
        FrechetDistance(inception=state, resize="lanczos")
    with pytest.raises(DataError, match="fp32 or fp64"):
        FrechetDistance(inception=state, precision="bf16")
    for rule in ("tf1", "antialias", "clean"):
        with pytest.raises(DataError, match="uint8"):
            feed(torch.zeros(1, 3, 64, 64), rule)
    for wrong in (
        torch.full((1, 3, 64, 64), -0.01),
        torch.full((1, 3, 64, 64), 1.01),
        torch.full((1, 3, 9, 9), math.nan),
    ):
        with pytest.raises(DataError, match=r"within \[0, 1\]"):
            feed(wrong, "bilinear")


# --- intervals --------------------------------------------------------------------------------------------------------


def _leave_out(function, real, fake):
    values = np.array(
        [function(*(side[np.arange(len(side)) % 10 != group] for side in (real, fake))) for group in range(10)]
    )
    return 2.2621571627982053 * math.sqrt(0.9 * np.sum((values - values.mean()) ** 2))


@pytest.mark.parametrize("rows", [23, 90, 400])
@pytest.mark.parametrize(
    ("interval", "function"), [(frechet_interval, frechet_distance), (kernel_interval, kernel_distance)]
)
def test_the_interval_is_the_jackknife_written_plainly(interval, function, rows):
    real, fake = _gaussians(rows, 30)  # fewer rows than features, and more
    if interval is kernel_interval:
        fake = fake[:rows]  # its sums take pairs
    value, half = function(real, fake), _leave_out(function, real, fake)
    low, high = interval(real, fake)
    assert high == pytest.approx(value + half, rel=1e-9)  # merged factors against fresh ones, float64
    assert low == pytest.approx(max(0.0, value - half) if function is frechet_distance else value - half, rel=1e-8)


def test_t_is_that_of_scipy():
    from scipy import stats

    from vtbench import statistics

    assert stats.t.ppf(0.975, statistics.GROUPS - 1) == pytest.approx(
        statistics._T_95, rel=1e-9
    )  # SciPy 1.15 is no nearer


def test_the_intervals_cover_the_truth_as_often_as_they_say():
    generator = np.random.default_rng(0)
    shift, scale, columns, rows, rounds = 0.6, 1.5, 3, 1500, 200
    frechet_truth = columns * (shift**2 + (scale - 1) ** 2)
    # The kernel's mean over Gaussians has a closed form; a large sample gives it to within a hundredth of a width.
    many = generator.normal(size=(4000, columns)), generator.normal(size=(4000, columns)) * scale + shift
    kernel_truth = np.mean([kernel_distance(many[0][i::4], many[1][i::4]) for i in range(4)])
    hits = {"frechet": 0, "kernel": 0}
    for _ in range(rounds):
        real = generator.normal(size=(rows, columns))
        fake = generator.normal(size=(rows, columns)) * scale + shift
        low, high = frechet_interval(real, fake)
        hits["frechet"] += low <= frechet_truth <= high
        low, high = kernel_interval(real[:200], fake[:200])
        hits["kernel"] += low <= kernel_truth <= high
    # 95% of 200 is 190, give or take 3.1; four of these, and the bias of 1 / n, make 177.
    assert all(177 <= hit <= 200 for hit in hits.values()), hits


def test_pairs_that_leave_together_narrow_the_interval():
    generator = np.random.default_rng(1)
    real = generator.normal(size=(500, 4))
    fake = real + 0.5 + 0.1 * generator.normal(size=real.shape)  # a reconstruction stays by its original
    paired, apart = frechet_interval(real, fake), frechet_interval(real, fake[generator.permutation(500)])
    assert paired[1] - paired[0] < 0.5 * (apart[1] - apart[0])


def test_an_interval_of_few_pictures_is_refused():
    with pytest.raises(DataError, match="at least 20 pictures"):
        frechet_interval(np.zeros((30, 4)), np.zeros((19, 4)))
    with pytest.raises(DataError, match="at least 20"):
        kernel_interval(np.zeros((19, 4)), np.zeros((19, 4)))


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:The `disp` argument is deprecated:DeprecationWarning")  # pytorch-fid's sqrtm
@pytest.mark.filterwarnings("ignore:Matrix is singular:scipy.linalg.LinAlgWarning")  # six pictures, 2048 features
@pytest.mark.parametrize("resize", ["tf1", "bilinear", "antialias"])
def test_the_whole_chain_equals_the_published_programs(published, state, resize):
    """Pixels to features to statistics to distance, at 2048 features: half a minute each for their matrix roots."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    images = torch.cat([_pictures(256), _pictures(256).flip(-1), _pictures(256).flip(-2)])
    coarse = images // 32 * 32
    ours = FrechetDistance(inception=state, resize=resize)
    ours.update(images, real=True)
    ours.update(coarse, real=False)
    if resize == "antialias":
        theirs = FrechetInceptionDistance(feature=2048, feature_extractor_weights_path=_file(state))
        theirs.update(images, real=True)
        theirs.update(coarse, real=False)
        wanted = theirs.compute().item()
    elif resize == "bilinear":
        from pytorch_fid.fid_score import calculate_frechet_distance

        sets = []
        for side in (images, coarse):
            with torch.no_grad():
                features = published(side.float() / 255)[0].flatten(1).numpy()
            sets += [features.mean(axis=0), np.cov(features, rowvar=False)]
        wanted = calculate_frechet_distance(*sets)
    else:
        network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=_file(state))
        statistics = [fid_features_to_statistics(network(side)[0]) for side in (images, coarse)]
        wanted = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    # Six pictures: their roots of matrices of rank 5 carry noise of some 1e-5; ours is exact.
    assert ours.compute() == pytest.approx(wanted, abs=2e-4)
    assert wanted > 0.01


@pytest.mark.parametrize(("count", "width"), [(23, 40), (200, 24), (1300, 24)])
def test_sums_give_the_distance_and_the_interval_of_the_rows(count: int, width: int) -> None:
    """Fewer rows than columns, more, and more than a block of each group."""
    rng = np.random.default_rng(count)
    real = rng.standard_normal((count, width)) @ rng.standard_normal((width, width)) + 3.0
    fake = real + 0.3 * rng.standard_normal((count, width))
    sums = FrechetSums()
    for pair in zip(real, fake, strict=True):
        sums.add(*pair)
    assert sums.distance() == pytest.approx(frechet_distance(real, fake), rel=1e-10)
    assert sums.interval() == pytest.approx(frechet_interval(real, fake), rel=1e-9)


@pytest.mark.parametrize("kind", ["spread", "dead", "repeated", "far"])
def test_sums_hold_where_a_matrix_of_squares_loses_digits(kind: str) -> None:
    """Variances from 1e-8 to 1, a feature that never moves, one that stands twice, and means far from zero."""
    rng = np.random.default_rng(1)
    scale = np.logspace(-4, 0, 48)
    real = np.maximum(rng.standard_normal((12_000, 48)) @ rng.standard_normal((48, 48)), -1.0) * scale
    fake = real + 0.1 * scale * rng.standard_normal(real.shape)
    for side in (real, fake):
        if kind == "dead":
            side[:, 5] = 0.37
        elif kind == "repeated":
            side[:, 40] = side[:, 41]
        elif kind == "far":
            side += 1000.0
    sums = FrechetSums()
    for pair in zip(real, fake, strict=True):
        sums.add(*pair)
    allowed = 1e-7 if kind in ("repeated", "far") else 2e-8
    assert sums.distance() == pytest.approx(frechet_distance(real, fake), rel=allowed, abs=0)
    assert sums.interval() == pytest.approx(frechet_interval(real, fake), rel=allowed, abs=0)


def test_sums_of_too_few_rows_are_refused() -> None:
    sums = FrechetSums()
    sums.add(np.zeros(3), np.zeros(3))
    with pytest.raises(DataError, match="at least two"):
        sums.distance()
    with pytest.raises(DataError, match="at least 20"):
        sums.interval()


@pytest.mark.parametrize("count", [2, 25, 61])
def test_kernel_sums_are_the_distance_and_its_interval(count):
    generator = np.random.default_rng(count)
    real, fake = generator.normal(size=(count, 12)), generator.normal(0.3, size=(count, 12))
    sums = KernelSums()
    for pair in zip(real, fake, strict=True):
        sums.add(*pair)

    def mean(first, second, *, same):  # written out pair by pair
        kernel = [
            (a @ b / 12 + 1) ** 3 for i, a in enumerate(first) for j, b in enumerate(second) if not (same and i == j)
        ]
        return np.mean(kernel)

    within = [mean(side, side, same=True) for side in (real, fake)]
    across = mean(real, fake, same=False)
    assert sums.count == count
    assert sums.distance() == pytest.approx(sum(within) - 2 * across, abs=1e-12)
    assert sums.distance() == kernel_distance(real, fake)
    wanted = 2 * within[0] - 2 * mean(real, real, same=False)
    assert kernel_distance(real, real) == pytest.approx(wanted, abs=1e-12)
