import numpy as np
import pytest

from vtbench.errors import DataError
from vtbench.metrics import codes
from vtbench.metrics.codes import CodeCounts, code_usage, entropy_bits


def test_even_use_of_the_whole_codebook():
    codes = np.tile(np.arange(16), 5).reshape(2, 40)
    assert code_usage(codes, 16) == 1.0
    assert entropy_bits(codes, 16) == 4.0


def test_one_code_alone():
    codes = np.full((3, 4), 7)
    assert code_usage(codes, 1024) == 1 / 1024
    assert entropy_bits(codes, 1024) == 0.0


def test_uneven_use_by_hand():
    codes = np.array([0, 0, 1, 3])
    assert code_usage(codes, 4) == 0.75
    assert entropy_bits(codes, 4) == pytest.approx(0.5 * 1 + 2 * 0.25 * 2)


def test_entropy_equals_scipy():
    from scipy.stats import entropy

    codes = np.random.default_rng(0).zipf(1.5, 5000) % 300
    assert entropy_bits(codes, 300) == pytest.approx(entropy(np.bincount(codes), base=2), abs=1e-12)


def test_they_grow_with_the_number_of_tokens():
    codes = np.random.default_rng(0).integers(0, 4096, 8192)
    for metric in (code_usage, entropy_bits):
        assert metric(codes[:256], 4096) < metric(codes[:1024], 4096) < metric(codes, 4096)


def test_a_huge_codebook_takes_no_memory():
    assert code_usage(np.array([0, 2**36 - 1]), 2**36) == 2 / 2**36


@pytest.mark.parametrize(("codes", "size"), [([0, 16], 16), ([-1, 3], 16)])
def test_an_index_outside_the_codebook_is_refused(codes, size):
    with pytest.raises(DataError, match="expected 0 to 15"):
        code_usage(np.array(codes), size)


def test_no_index_is_refused():
    with pytest.raises(DataError, match="at least one token"):
        entropy_bits(np.array([], dtype=np.int64), 16)


def test_counting_bit_by_bit_is_counting_at_once(monkeypatch):
    monkeypatch.setattr(codes, "AT_ONCE", 100)
    drawn = np.random.default_rng(0).zipf(1.5, (40, 16)) % 4096
    counted = CodeCounts()
    for picture in drawn:
        counted.add(picture)
    assert counted.tokens == drawn.size
    assert counted.usage(4096) == code_usage(drawn, 4096)
    assert counted.entropy(4096) == pytest.approx(entropy_bits(drawn, 4096), rel=1e-14)
