import jiwer
import pytest

from vtbench.metrics import cer, ned, wer
from vtbench.metrics.text import alphanumeric, normalise

PAIRS = [
    ("the quick brown fox", "the quick brown fox"),
    ("the quick brown fox", "teh quik brown fox jumps"),
    ("Total: 12.50", "Total: 12,50"),
    ("a b c d", "abcd"),
    ("short", "a very much longer invention of the engine"),
    ("kitten", "sitting"),
    ("crème brûlée", "creme brulee"),
    ("你好世界", "你好世"),
    ("one word lost", "one lost"),
]


@pytest.mark.parametrize(("truth", "read"), PAIRS)
def test_rates_equal_jiwer(truth, read):
    assert cer(truth, read) == pytest.approx(jiwer.cer(normalise(truth), normalise(read)), abs=1e-12)
    assert wer(truth, read) == pytest.approx(jiwer.wer(normalise(truth), normalise(read)), abs=1e-12)


def test_the_truth_comes_first_and_divides():
    assert cer("ab", "abcd") == 1.0
    assert cer("abcd", "ab") == 0.5
    assert wer("a b", "a b c d") == 1.0
    assert wer("a b c d", "a b") == 0.5


def test_a_rate_may_exceed_one_but_the_normalised_distance_not():
    assert cer("a", "bcde") == 4.0
    assert ned("a", "bcde") == 1.0
    assert ned("kitten", "sitting") == pytest.approx(3 / 7)
    assert ned("kitten", "kitten") == 0.0


@pytest.mark.parametrize("metric", [cer, wer, ned])
def test_an_empty_truth_is_not_scored_and_an_empty_reading_is_all_wrong(metric):
    assert metric("", "") is None
    assert metric(" \n", "invented") is None
    assert metric("known", "") == 1.0
    assert metric("known", "known") == 0.0


@pytest.mark.parametrize("metric", [cer, wer, ned])
def test_white_space_and_code_points_of_one_look_cost_nothing(metric):
    assert metric("  two\n words ", "two words") == 0.0
    assert metric("Cafe\u0301 \ufb01n \uff11\u00a02", "Caf\u00e9 fin 1 2") == 0.0


@pytest.mark.parametrize("metric", [cer, wer, ned])
def test_case_and_punctuation_cost(metric):
    assert metric("Word", "word") > 0
    assert metric("word.", "word") > 0


def test_alphanumeric_drops_case_and_punctuation_only():
    assert alphanumeric("  No. 7: Café-Bar,\nopen!") == "no 7 cafébar open"
    assert cer(alphanumeric("Word."), alphanumeric("word")) == 0.0
