"""CKNNA, CKA and mutual neighbours, against their definitions with whole matrices and against known answers."""

import numpy as np
import pytest
import torch

from vtbench.errors import DataError
from vtbench.metrics import latents
from vtbench.metrics.latents import _arrays


def features(rows, columns, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, columns))


def pair(rows=60):
    common = features(rows, 8)
    return common + 0.5 * features(rows, 8, 1), common @ features(8, 20, 2) + features(rows, 20, 3)


def whole_cknna(a, b, k, unbiased):
    n = len(a)
    kernels = [(x := side / np.linalg.norm(side, axis=1, keepdims=True)) @ x.T for side in (a, b)]
    masks = []
    for kernel in kernels:
        ranked = kernel.copy()
        if unbiased:
            np.fill_diagonal(ranked, -np.inf)
        mask = np.zeros((n, n))
        np.put_along_axis(mask, np.argsort(-ranked, axis=1)[:, :k], 1, axis=1)
        masks.append(mask)

    def hsic(p, q):
        if not unbiased:
            centre = np.eye(n) - 1 / n
            return np.trace(p @ centre @ q @ centre)
        p, q = p * (1 - np.eye(n)), q * (1 - np.eye(n))
        value = (p * q.T).sum() + p.sum() * q.sum() / ((n - 1) * (n - 2)) - 2 * (p @ q).sum() / (n - 2)
        return value / (n * (n - 3))

    both = masks[0] * masks[1]
    own = [hsic(m * kernel, m * kernel) for m, kernel in zip(masks, kernels, strict=True)]
    return hsic(both * kernels[0], both * kernels[1]) / (np.sqrt(own[0] * own[1]) + 1e-6)


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("k", [3, 10])
def test_cknna_is_its_definition_in_blocks_of_any_size(k, unbiased, monkeypatch):
    a, b = pair()
    expected = whole_cknna(a, b, k, unbiased)
    assert latents.cknna(a, b, k=k, unbiased=unbiased) == pytest.approx(expected, abs=1e-12)
    monkeypatch.setattr(_arrays, "BLOCK_VALUES", 60 * 7)
    assert latents.cknna(a, b, k=k, unbiased=unbiased) == pytest.approx(expected, abs=1e-12)
    assert latents.cknna(torch.tensor(a), torch.tensor(b), k=k, unbiased=unbiased) == pytest.approx(expected, abs=1e-12)


def test_cka_in_blocks_is_that_of_whole_matrices(monkeypatch):
    a, b = pair()
    whole = [latents.cka(a, b, unbiased=u, kernel=k) for u in (True, False) for k in ("linear", "rbf")]
    monkeypatch.setattr(_arrays, "BLOCK_VALUES", 60 * 7)
    blocks = [latents.cka(a, b, unbiased=u, kernel=k) for u in (True, False) for k in ("linear", "rbf")]
    assert blocks == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_a_common_offset_costs_cka_no_digits(kernel, unbiased):
    a, b = pair()
    plain = latents.cka(a, b, kernel=kernel, unbiased=unbiased, sigma=3.0)
    assert latents.cka(a + 1e5, b - 1e5, kernel=kernel, unbiased=unbiased, sigma=3.0) == pytest.approx(plain, abs=1e-9)


def test_all_neighbours_give_the_unbiased_cka():
    a, b = pair()
    both = latents.cknna(a, b, k=59), latents.cka(a, b, normalize=True, unbiased=True)
    assert both[0] == pytest.approx(both[1], abs=1e-9)


def test_a_rotated_and_a_scaled_space_are_the_same():
    a = features(60, 8)
    turned = a @ np.linalg.qr(features(8, 8, 1))[0] * 3
    assert latents.cka(a, turned) == pytest.approx(1, abs=1e-6)
    assert latents.cka(a, turned, normalize=True, unbiased=True) == pytest.approx(1, abs=1e-4)
    assert latents.mutual_knn(a, turned, k=10) == 1.0
    assert latents.cknna(a, turned, k=10) == pytest.approx(latents.cknna(a, a, k=10), abs=1e-9)


def test_strangers_share_what_chance_gives():
    a, b = features(400, 16), features(400, 16, 1)
    assert latents.mutual_knn(a, b, k=10) == pytest.approx(10 / 399, abs=0.01)
    assert 0 < latents.cknna(a, b, k=10) < 0.1


def test_ties_go_by_index():
    """Every picture three times: all copies are equally near, and each block size must choose the same ones."""
    copies = np.repeat(np.eye(5), 3, axis=0)
    assert latents.mutual_knn(copies, copies, k=1) == 1.0
    assert _arrays.smallest(torch.tensor([[2.0, 1.0, 1.0, 1.0, 0.0]]), 3).tolist() == [[4, 1, 2]]
    assert _arrays.smallest(torch.zeros(2, 50), 7).tolist() == [list(range(7))] * 2


def test_clip_takes_the_entry_of_the_sorted_sizes():
    x = np.array([[1.0, -2.0, 3.0, -4.0], [0.5, 0.1, -10.0, 0.2]])
    assert np.abs(latents.clip_outliers(x, 0.75)).max() == 4.0
    assert latents.clip_outliers(x, 0.75)[1, 2] == -4.0
    assert (latents.clip_outliers(x, 1.0) == x).all()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda x: latents.cknna(x, x[:-1]), "same pictures"),
        (lambda x: latents.cknna(x, x, k=20), "expected 1 to 19"),
        (lambda x: latents.mutual_knn(x, x, k=0), "expected 1 to 19"),
        (lambda x: latents.cknna(x, x, k=2.0), "expected a whole number"),
        (lambda x: latents.cka(x, x, kernel="rbf", sigma=0.0), "above 0"),
        (lambda x: latents.clip_outliers(x, "much"), "a finite number"),
        (lambda x: latents.cka(x[None], x[None]), r"expected \(N, D\)"),
        (lambda x: latents.cka(x, x, kernel="cosine"), "linear or rbf"),
        (lambda x: latents.cka(x * np.nan, x), "not all values are finite"),
        (lambda x: latents.clip_outliers(x, 0.0), "above 0"),
        (lambda x: latents.cka(x.tolist(), x), "numpy array or a torch tensor"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(call, said):
    with pytest.raises(DataError, match=said) as caught:
        call(features(20, 4))
    assert "\n" not in str(caught.value)
