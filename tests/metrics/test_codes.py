import numpy as np
import pytest

from vtbench.errors import DataError
from vtbench.metrics import codes
from vtbench.metrics.codes import CodeCounts


def counted(tokens):
    counts = CodeCounts()
    counts.add(tokens)
    return counts


def test_even_use_of_the_whole_codebook():
    codes = np.tile(np.arange(16), 5).reshape(2, 40)
    assert counted(codes).usage(16) == 1.0
    assert counted(codes).entropy(16) == 4.0


def test_one_code_alone():
    codes = np.full((3, 4), 7)
    assert counted(codes).usage(1024) == 1 / 1024
    assert counted(codes).entropy(1024) == 0.0


def test_uneven_use_by_hand():
    codes = np.array([0, 0, 1, 3])
    assert counted(codes).usage(4) == 0.75
    assert counted(codes).entropy(4) == pytest.approx(0.5 * 1 + 2 * 0.25 * 2)


def test_entropy_equals_scipy():
    from scipy.stats import entropy

    codes = np.random.default_rng(0).zipf(1.5, 5000) % 300
    assert counted(codes).entropy(300) == pytest.approx(entropy(np.bincount(codes), base=2), abs=1e-12)


def test_they_grow_with_the_number_of_tokens():
    drawn = np.random.default_rng(0).integers(0, 4096, 8192)
    few, more, all_ = (counted(drawn[:number]) for number in (256, 1024, 8192))
    assert few.usage(4096) < more.usage(4096) < all_.usage(4096)
    assert few.entropy(4096) < more.entropy(4096) < all_.entropy(4096)


def test_a_huge_codebook_takes_no_memory():
    assert counted(np.array([0, 2**36 - 1])).usage(2**36) == 2 / 2**36


@pytest.mark.parametrize(("codes", "size"), [([0, 16], 16), ([-1, 3], 16)])
def test_an_index_outside_the_codebook_is_refused(codes, size):
    with pytest.raises(DataError, match="expected 0 to 15"):
        counted(np.array(codes)).usage(size)


def test_no_index_is_refused():
    with pytest.raises(DataError, match="at least one token"):
        counted(np.array([], dtype=np.int64)).entropy(16)


def test_counting_bit_by_bit_is_counting_at_once(monkeypatch):
    monkeypatch.setattr(codes, "AT_ONCE", 100)
    drawn = np.random.default_rng(0).zipf(1.5, (40, 16)) % 4096
    counts, at_once = CodeCounts(), np.unique(drawn, return_counts=True)[1] / drawn.size
    for picture in drawn:
        counts.add(picture)
    assert counts.tokens == drawn.size
    assert counts.usage(4096) == len(at_once) / 4096
    assert counts.entropy(4096) == pytest.approx(-(at_once * np.log2(at_once)).sum(), rel=1e-12)
