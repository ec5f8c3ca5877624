from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from vtbench.statistics import commonest, compare, holm, mean_interval, paired_difference


def test_interval_holds_the_true_difference_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    inside = 0
    for _ in range(60):
        first = generator.normal(1.0, 1.0, 40)
        found = paired_difference(list(first), list(np.zeros(40)))
        inside += found.low <= 1.0 <= found.high
    assert 51 <= inside <= 60  # 57 of 60 expected; under 51 has a probability below 0.002


def test_pairing_removes_what_both_share() -> None:
    shared = np.random.default_rng(0).normal(30, 8, 32)
    found = paired_difference(list(shared + 0.1), list(shared))
    assert found.mean == pytest.approx(0.1)
    assert found.low > 0.099


def test_direction_and_repeatability() -> None:
    first, second = [3.0, 4.0, 7.0], [1.0, 1.0, 2.0]
    found = paired_difference(first, second)
    assert found.mean == pytest.approx(10 / 3)
    assert found == paired_difference(first, second)
    assert paired_difference(second, first).mean == pytest.approx(-10 / 3)


def test_a_run_against_itself_has_no_width() -> None:
    found = paired_difference([1.0, 5.0, 2.0], [1.0, 5.0, 2.0])
    assert (found.mean, found.low, found.high) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="nothing to compare"):
        paired_difference([], [])


def test_interval_of_a_mean_equals_the_bootstrap_of_scipy() -> None:
    values = np.random.default_rng(2).gamma(2.0, 3.0, 30)
    wanted = stats.bootstrap((values,), np.mean, n_resamples=99_999, rng=np.random.default_rng(7)).confidence_interval
    width = wanted.high - wanted.low
    assert mean_interval(list(values)) == pytest.approx(tuple(wanted), abs=0.04 * width)  # two sets of resamples


def test_interval_of_many_values_is_the_normal_one() -> None:
    values = np.random.default_rng(3).exponential(1.0, 6000)
    error = values.std(ddof=1) / np.sqrt(6000)
    assert mean_interval(list(values)) == pytest.approx(
        (values.mean() - 1.96 * error, values.mean() + 1.96 * error), 1e-6
    )
    low, high = mean_interval(list(values[:4999]))  # the bootstrap's side of the border
    assert high - low == pytest.approx(2 * 1.96 * values[:4999].std(ddof=1) / np.sqrt(4999), rel=0.05)


@pytest.mark.parametrize("documents", [30, 6000])
def test_pages_of_one_document_widen_the_interval(documents: int) -> None:
    generator = np.random.default_rng(4)
    values = np.repeat(generator.normal(0, 1, documents), 4) + generator.normal(0, 0.01, 4 * documents)
    clusters = [f"document {index // 4}" for index in range(4 * documents)]
    alone, together = mean_interval(list(values)), mean_interval(list(values), clusters)
    # Four nearly equal pages are one observation: half the information, twice the width.
    assert (together[1] - together[0]) / (alone[1] - alone[0]) == pytest.approx(2.0, rel=0.15)


def test_clusters_of_unequal_size_keep_the_mean_of_all_pictures() -> None:
    low, high = mean_interval([0.0, 0.0, 0.0, 4.0], ["a", "a", "a", "b"])
    assert low <= 1.0 <= high
    with pytest.raises(ValueError, match="3 clusters for 4 values"):
        mean_interval([0.0, 0.0, 0.0, 4.0], ["a", "a", "b"])


@pytest.mark.filterwarnings("error")
def test_documents_of_one_mean_have_no_width_and_no_warning() -> None:
    assert mean_interval([1.0, 3.0, 3.0, 1.0], ["a", "a", "b", "b"]) == (2.0, 2.0)
    assert mean_interval([1.0, 3.0, 2.0, 2.0, 2.0], ["a", "a", "b", "b", "c"]) == (2.0, 2.0)


def test_pvalues_equal_scipy_and_the_exact_count() -> None:
    first, second = [3.0, 4.0, 7.0, 5.0, 9.0, 2.0], [1.0, 1.0, 2.0, 5.5, 2.0, 1.5]
    differences = np.subtract(first, second)
    found = compare(first, second)
    assert found.wilcoxon == pytest.approx(stats.wilcoxon(differences).pvalue)
    flips = [np.mean(differences * signs) for signs in itertools.product((-1, 1), repeat=6)]
    assert found.sign_flip == pytest.approx(np.mean(np.abs(flips) >= abs(differences.mean()) - 1e-12))
    assert compare(second, first).sign_flip == pytest.approx(found.sign_flip)
    assert compare(first, first).wilcoxon == compare(first, first).sign_flip == 1.0


def test_sign_flips_of_whole_documents_count() -> None:
    first = [1.0] * 12
    clusters = [f"document {index // 4}" for index in range(12)]
    assert compare(first, [0.0] * 12).sign_flip < 0.001
    assert compare(first, [0.0] * 12, clusters).sign_flip == pytest.approx(0.25)  # 2 of the 8 patterns of 3 signs


def test_pvalues_are_even_where_nothing_differs() -> None:
    generator = np.random.default_rng(5)
    found = [compare(list(generator.normal(size=20)), list(generator.normal(size=20))) for _ in range(60)]
    for values in ([one.wilcoxon for one in found], [one.sign_flip for one in found]):
        assert stats.kstest(values, "uniform").pvalue > 0.01


def test_holm_steps_down() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_many_documents_of_unequal_size_do_not_widen_a_constant() -> None:
    generator = np.random.default_rng(6)
    sizes = generator.integers(1, 9, 6000)
    clusters = [f"document {index}" for index in np.repeat(np.arange(6000), sizes)]
    low, high = mean_interval(list(1.0 + generator.normal(0, 1e-3, len(clusters))), clusters)
    assert 0 < high - low < 1e-4  # a standard error of 1e-3 / sqrt(27,000) or so, not that of the sizes


def test_wilcoxon_takes_a_document_by_its_mean() -> None:
    first = list(np.random.default_rng(8).normal(0.3, 1, 24))
    clusters = [f"document {index // 3}" for index in range(24)]
    wanted = stats.wilcoxon(np.reshape(first, (8, 3)).mean(1)).pvalue
    assert compare(first, [0.0] * 24, clusters).wilcoxon == pytest.approx(wanted)


def test_of_equally_common_values_the_later_one_counts() -> None:
    """Version 10 is later than 9, though the text "9" sorts after "10"."""
    assert commonest([10, 9]) == commonest([9, 10]) == 10
    assert commonest(["v9", "v10"]) == "v10"
    assert commonest([("data", 9), ("data", 16)]) == ("data", 16)
    assert commonest([9, 9, 10]) == 9
    assert commonest(["1" * 5000, "2"]) == "1" * 5000
