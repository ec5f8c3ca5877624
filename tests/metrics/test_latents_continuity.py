"""Interpolation, perturbation, distribution and token counts, on inputs whose answer is known."""

from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from scipy import stats

from vtbench.errors import DataError
from vtbench.metrics import latents
from vtbench.metrics.latents import _arrays


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def test_slerp_keeps_the_length_on_the_arc_and_goes_straight_along_a_ray():
    a, b = noise(3, 2, 4, 4), noise(3, 2, 4, 4, seed=1)
    a, b = (x / np.sqrt((x**2).sum((1, 2, 3), keepdims=True)) for x in (a, b))
    middle = latents.slerp(a, b, 0.3)
    assert np.sqrt((middle**2).sum((1, 2, 3))) == pytest.approx(np.ones(3), abs=1e-5)
    assert latents.slerp(a, b, 0.0) == pytest.approx(a, abs=1e-6)
    assert latents.slerp(a, a, 0.5) == pytest.approx(a, abs=2e-4)  # the published 1e-7 beside lengths costs that much


def test_partners_are_the_nearest_in_blocks_of_any_size(monkeypatch):
    z, reference = noise(9, 2, 3, 3), noise(40, 2, 3, 3, seed=1)
    distance = ((z[:, None] - reference) ** 2).reshape(9, 40, -1)
    whole = latents.interpolation_partners(z, reference, k=5, metric="euclidean")
    assert (whole[0] == distance.sum(2).argsort(1)[:, :5]).all()
    chosen = -np.take_along_axis(distance.mean(2), whole[0], axis=1)
    assert whole[1] == pytest.approx(np.exp(chosen) / np.exp(chosen).sum(1, keepdims=True), abs=1e-12)
    monkeypatch.setattr(_arrays, "BLOCK_VALUES", 200)
    assert (latents.interpolation_partners(z, reference, k=5, metric="euclidean")[0] == whole[0]).all()


def test_perturbed_latent_is_at_its_radius():
    z = noise(3, 4, 5, 5) * np.array([1, 5, 0.1]).reshape(3, 1, 1, 1)
    moved = latents.perturb_latent(z, noise(3, 4, 5, 5, seed=1), 0.5) - z
    sizes = [np.sqrt((x**2).sum((1, 2, 3))) for x in (moved, z)]
    assert sizes[0] / sizes[1] == pytest.approx([0.5] * 3, abs=1e-12)
    raised = z + np.array([[[[7.0]]] * 4] * 3)
    centred = [latents.perturb_latent(x, noise(3, 4, 5, 5, seed=1), 0.5, center=True) - x for x in (z, raised)]
    assert centred[0] == pytest.approx(centred[1], abs=1e-12)
    still = z - z.mean((2, 3), keepdims=True)
    lengths = [np.sqrt((x**2).sum((1, 2, 3))) for x in (centred[0], still)]
    assert lengths[0] / lengths[1] == pytest.approx([0.5] * 3, abs=1e-12)
    assert latents.lpc_weights([0.5, 1.0]) == pytest.approx([2 / 3, 1 / 3])


def test_tokens_move_with_the_rate_and_to_the_drawn_code():
    book, z = noise(30, 4), noise(2, 4, 3, 5, seed=1)
    near = latents.nearest_codes(z, book, count=6)
    flat = z.transpose(0, 2, 3, 1).reshape(-1, 4)
    assert (near == ((flat[:, None] - book) ** 2).sum(2).argsort(1)[:, :6]).all()
    plain = book[near[:, 0]].reshape(2, 3, 5, 4).transpose(0, 3, 1, 2)
    coin, draw = np.random.default_rng(2).random(30), np.arange(30) % 6
    changed = []
    for alpha in (0.0, 0.4, 1.0):
        made = latents.perturb_tokens(z, plain, book, coin=coin, draw=draw, alpha=alpha)
        changed.append(int((made != plain).any(1).sum()))
    assert changed == [0, int(((coin <= 0.4) & (draw > 0)).sum()), 25]
    half = latents.perturb_tokens(z, plain, book, coin=coin, draw=draw, alpha=1.0, beta=0.5)
    assert (half[1] == plain[1]).all() and not (half[0] == plain[0]).all()


@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.9])
def test_a_scrambled_codebook_raises_what_perturbation_does(alpha):
    """Codes that are near each other stand for near levels, or for any: the decoder looks up one or the other table."""
    generator = np.random.default_rng(3)
    book = np.linspace(0, 1, 64)[:, None]
    z = generator.random((4, 1, 16, 16))
    coin, draw = generator.random(1024), generator.integers(0, 8, 1024)
    rises = []
    for table in (book[:, 0], generator.permutation(book[:, 0])):
        plain, moved = (
            table[latents.nearest_codes(x, book, count=1)[:, 0]]
            for x in (z, latents.perturb_tokens(z, z, book, coin=coin, draw=draw, alpha=alpha))
        )
        rises.append(np.abs(moved - plain).mean())
    assert rises[1] > 3 * rises[0] > 0


def test_uniformity_is_scipys_density():
    points = noise(80, 2) @ np.array([[2.0, 0.3], [0.0, 0.5]])
    density = stats.gaussian_kde(points.T)(points.T)
    found = latents.uniformity(points)
    assert found["density_std"] == pytest.approx(density.std(), abs=1e-12)
    assert found["density_cv"] == pytest.approx(density.std() / density.mean(), abs=1e-10)


def test_effective_rank_counts_directions():
    assert latents.effective_rank(np.eye(6), center=False) == pytest.approx(6)
    assert latents.effective_rank(np.outer(noise(50), noise(8))) == pytest.approx(1, abs=1e-6)
    assert latents.effective_rank(np.full((5, 3), 0.3)) == 0.0
    x = noise(50, 8)
    assert latents.effective_rank(np.hstack([x, x])) == pytest.approx(latents.effective_rank(x), abs=1e-6)
    assert latents.effective_rank(x @ np.linalg.qr(noise(8, 8))[0]) == pytest.approx(latents.effective_rank(x))


def test_purity_of_duplicates_and_of_made_up_labels():
    twice = np.repeat(noise(50, 8), 2, axis=0)
    assert latents.label_purity(twice, np.repeat(np.arange(50), 2)) == 1.0
    assert latents.label_purity(noise(2000, 8), np.arange(2000) % 4) == pytest.approx(0.25, abs=0.04)


def test_uniform_codes_promise_much_and_gain_nothing():
    """The trap of plug-in entropies: noise looks predictable, the held-out form says it is not."""
    codes = np.random.default_rng(0).integers(0, 4096, (29, 16, 16))
    assert latents.token_entropy(codes) > 11
    assert latents.conditional_entropy(codes, context="left") < 2
    order0 = latents.heldout_bits(codes[:15], codes[15:], 4096)
    assert latents.heldout_bits(codes[:15], codes[15:], 4096, context="left") > order0 > 12


def test_a_repeated_row_is_known_after_its_left_neighbour():
    codes = np.tile(np.arange(8), (20, 8, 1))
    assert latents.conditional_entropy(codes, context="left") == pytest.approx(0, abs=1e-9)
    assert latents.token_entropy(codes) == pytest.approx(3)
    assert latents.position_information(codes) == pytest.approx(3)
    assert latents.heldout_bits(codes[:10], codes[10:], 8, context="left") < 0.1
    assert latents.prefix_entropies(codes, length=3) == pytest.approx([0, 0, 0], abs=1e-9)


def counted_bits(train, test, size):
    """Witten and Bell's mixture after the left and the upper neighbour, token by token."""
    alone, after = Counter(train.ravel().tolist()), defaultdict(Counter)
    for grid in train:
        for y, x in np.argwhere(np.ones((grid.shape[0] - 1, grid.shape[1] - 1))) + 1:
            after[grid[y, x - 1], grid[y - 1, x]][grid[y, x]] += 1
    bits = []
    for grid in test:
        for y, x in np.argwhere(np.ones((grid.shape[0] - 1, grid.shape[1] - 1))) + 1:
            share = (alone[grid[y, x]] + 0.5) / (train.size + size / 2)
            seen = after.get((grid[y, x - 1], grid[y - 1, x]), Counter())
            if seen:
                share = (seen[grid[y, x]] + len(seen) * share) / (seen.total() + len(seen))
            bits.append(-np.log2(share))
    return np.mean(bits)


@pytest.mark.parametrize("size", [3, 40])
def test_two_neighbours_are_the_same_context_in_both_sets(size):
    codes = np.random.default_rng(size).integers(0, size, (12, 5, 7))
    codes[:, 1:, 1:] = (codes[:, 1:, :-1] + codes[:, :-1, 1:]) % size  # predictable where the contexts are seen
    found = latents.heldout_bits(codes[:8], codes[8:], size, context="left+up")
    assert found == pytest.approx(counted_bits(codes[:8], codes[8:], size), abs=1e-12)


def test_pairs_of_a_huge_codebook_do_not_overflow():
    codes = torch.tensor([[[0, 2**60], [2**60, 0]]])
    assert latents.conditional_entropy(codes, context="left+up") == 0.0
    assert latents.token_entropy(codes) == 1.0


def test_noise_and_transforms_of_a_picture_repeat():
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    both = [latents.se_noise(picture, 0.1, index=3) for _ in range(2)]
    assert (both[0] == both[1]).all() and (both[0] != latents.se_noise(picture, 0.1, index=4)).any()
    assert latents.se_transforms(5)[:3] == latents.se_transforms(3)
    turned = latents.se_apply(picture, 90, 1.0)
    assert (turned == np.rot90(latents.se_apply(picture, 0, 1.0), 1, (1, 2))).all()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: latents.slerp(noise(2, 4), noise(2, 5), 0.5), "one shape"),
        (lambda: latents.slerp(noise(4), noise(4), 0.5), r"expected \(B, D, ...\)"),
        (lambda: latents.interpolation_partners(noise(2, 4), noise(3, 4), k=4), "expected 1 to 3"),
        (lambda: latents.interpolation_partners(noise(2, 4), noise(3, 5), k=1), "one shape a picture"),
        (lambda: latents.perturb_latent(noise(2, 4), noise(2, 4), 1.0, center=True), "whose channels have means"),
        (lambda: latents.perturb_latent(noise(2, 4), noise(2, 4), np.nan), "a finite number"),
        (lambda: latents.lpc_weights("ab"), "a finite number, above 0"),
        (lambda: latents.perturb_latent(noise(2, 4), np.zeros((2, 4)), 1.0), "zero for a picture"),
        (lambda: latents.lpc_weights([0.0]), "above 0"),
        (lambda: latents.nearest_codes(noise(1, 4, 2, 2), noise(9, 5), count=2), "4 channels, codes of 5"),
        (lambda: latents.uniformity(np.ones((9, 2))), "plane"),
        (lambda: latents.uniformity(np.outer(np.arange(9.0), [1e3, 3e3])), "plane"),
        (lambda: latents.heldout_bits(np.array([0, 1]), np.array([0, 1]), 8, context="previous"), r"\(B, T\)"),
        (lambda: latents.prefix_entropies(np.zeros((2, 4), dtype=int), length=2.0), "a whole number"),
        (lambda: latents.se_transforms(3, seed=-1), "at least 0"),
        (lambda: latents.se_noise(np.zeros((4, 4, 3), dtype=np.uint8), -0.1, index=0), "at least 0"),
        (lambda: latents.se_noise(np.zeros((4, 4, 3), dtype=np.uint8), 0.1, index=2**32), "expected 0 to"),
        (lambda: latents.se_apply(np.zeros((4, 4, 3), dtype=np.uint8), 45, 1.0), "multiple of 90"),
        (lambda: latents.se_apply(np.zeros((4, 4, 3), dtype=np.uint8), 0, 0.1), "a pixel to be left"),
        (lambda: latents.effective_rank(torch.ones(3, 3) * 1j), "torch tensor of numbers"),
        (lambda: latents.label_purity(noise(4, 2), np.arange(3)), "expected one each"),
        (lambda: latents.token_entropy(noise(3, 3)), "expected integers"),
        (lambda: latents.conditional_entropy(np.zeros((2, 4), dtype=int), context="up"), "expected a grid"),
        (lambda: latents.heldout_bits(np.array([[0, 9]]), np.array([[0, 1]]), 8), "expected 0 to 7"),
        (lambda: latents.se_noise(noise(4, 4, 3), 0.1, index=0), "expected uint8"),
    ],
)
def test_what_does_not_fit_is_refused(call, said):
    with pytest.raises(DataError, match=said) as caught:
        call()
    assert "\n" not in str(caught.value)
