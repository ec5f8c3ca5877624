from __future__ import annotations

import numpy as np
import pytest

from vtbench.statistics import paired_difference


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
