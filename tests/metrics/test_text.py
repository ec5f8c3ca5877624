import math
import sys
import unicodedata

import jiwer
import numpy as np
import pytest

from vtbench.errors import CardError, DataError
from vtbench.metrics import cer, ned, wer
from vtbench.metrics.text import (
    NORMALISATIONS,
    characters,
    legibility_threshold,
    micro,
    normalise,
    tokbench,
    vtbench_2025,
    word_accuracy,
    words,
)

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


def test_a_word_accuracy_of_an_empty_truth_is_not_scored_and_of_an_empty_reading_is_zero():
    assert word_accuracy(" ", "invented") is None
    assert word_accuracy("known", "") == 0.0
    assert word_accuracy("known\n", "known") == 1.0


def test_a_word_accuracy_counts_the_words_read_exactly_and_in_order():
    assert word_accuracy("one word lost", "one lost") == pytest.approx(2 / 3)  # all behind it still count
    assert word_accuracy("one two", "two one") == 0.5
    assert word_accuracy("one two", "invented one and two") == 1.0  # invented words are WER's matter
    assert wer("one two", "invented one and two") == 1.0
    assert word_accuracy("Hello", "hello") == 0.0


def test_each_normalisation_does_what_its_entry_says():
    text = " No. 7:\u00a0Caf\u0065\u0301-Bar,\n\uff4fpen! "
    assert {name: normalise(text, name) for name in NORMALISATIONS} == {
        "text": "No. 7: Caf\u00e9-Bar, open!",
        "caseless": "no. 7: caf\u00e9-bar, open!",
        "alphanumeric": "no 7 caf\u00e9bar open",
        "spaceless": "No.7:Caf\u00e9-Bar,open!",
        "verbatim": text,
    }
    with pytest.raises(CardError, match="text, caseless, alphanumeric, spaceless, verbatim"):
        normalise(text, "Text")


@pytest.mark.parametrize(("truth", "read"), [("\u0915\u093f", "\u0915\u0940"), ("\u0e01\u0e34", "\u0e01\u0e35")])
def test_vowel_signs_are_part_of_their_letters(truth, read):
    assert cer(truth, read, normalisation="alphanumeric") == 0.5
    assert normalise(f"{truth}!", "alphanumeric") == truth


def test_a_score_is_taken_after_the_normalisation_named():
    assert cer("Word.", "word") == 0.4
    assert cer("Word.", "word", normalisation="caseless") == 0.2
    assert cer("Word.", "word", normalisation="alphanumeric") == 0.0
    assert cer("two words", "twowords", normalisation="spaceless") == 0.0
    assert ned("Word", "word", normalisation="caseless") == 0.0
    assert wer("Word two", "word two", normalisation="caseless") == 0.0
    assert word_accuracy("Word two", "word two", normalisation="caseless") == 1.0
    assert cer("a b", "a  b", normalisation="verbatim") == pytest.approx(1 / 3)


def test_texts_without_spaces_have_no_words():
    assert wer("two words", "two words", normalisation="spaceless") is None
    assert word_accuracy("two words", "two words", normalisation="spaceless") is None
    assert words("two words", normalisation="spaceless") == 0


def test_micro_averages_weigh_by_size_and_equal_jiwer_over_all_pairs():
    truths, reads = [truth for truth, _ in PAIRS], [read for _, read in PAIRS]
    rates = [cer(truth, read) for truth, read in PAIRS]
    assert micro(rates, [characters(truth) for truth in truths]) == pytest.approx(jiwer.cer(truths, reads), abs=1e-12)
    rates = [wer(truth, read) for truth, read in PAIRS]
    assert micro(rates, [words(truth) for truth in truths]) == pytest.approx(jiwer.wer(truths, reads), abs=1e-12)


def test_averages_leave_out_what_was_not_scored():
    assert micro([0.0, None, 0.5], [30, 1000, 10]) == 0.125
    assert micro([0.5, None], [10, 0]) == 0.5
    assert micro([None], [3]) is None and micro([], []) is None


# --- legibility ---


def threshold(rates, *, lines=6, heights=(8, 16, 32), **options):
    """Every height with so many lines of one rate."""
    pairs = [(h, rate) for h, rate in zip(heights, rates, strict=True) for _ in range(lines)]
    return legibility_threshold([h for h, _ in pairs], [rate for _, rate in pairs], [20] * len(pairs), **options)


def test_the_threshold_lies_where_the_cer_crosses_ten_percent():
    found = threshold([0.9, 0.15, 0.05])
    assert found.value == pytest.approx(16 * math.sqrt(2))  # half way from .15 to .05, in the logarithm of the height
    assert found.low == found.high == found.value  # all lines of a height agree
    assert not found.at_most
    assert threshold([0.9, 0.10, 0.0]).value == 16.0
    assert threshold([0.9, 0.9, 0.10]).value is None  # ten percent itself is not under ten percent
    assert threshold([0.9, 0.15, 0.05], limit=0.5).value < 16


def test_the_threshold_rises_with_the_errors():
    values = [threshold([0.9, rate, 0.0]).value for rate in (0.0, 0.05, 0.12, 0.3, 0.9)]
    assert values == sorted(values) and len(set(values)) == 5


def test_every_larger_height_must_be_legible_too():
    assert threshold([0.0, 0.30, 0.05]).value > 16


def test_a_threshold_below_the_smallest_height_says_so():
    found = threshold([0.05, 0.0, 0.0])
    assert found.value == 8.0 and found.at_most and found.low == 8.0


def test_a_threshold_that_is_never_reached_is_none_with_the_reason():
    found = threshold([0.9, 0.5, 0.25])
    assert found.value is None and found.low is None
    assert found.reason == "CER is 25.0% at 32 px, the largest; 10% is legible"
    assert legibility_threshold([8, 16], [None, None], [5, 5]).reason == "no text was scored"


def test_long_texts_weigh_more_in_a_threshold():
    heights, rates = [8, 8, 16, 16], [1.0, 0.0, 0.0, 0.0]
    assert legibility_threshold(heights, rates, [1, 99, 50, 50]).value == 8.0
    assert legibility_threshold(heights, rates, [99, 1, 50, 50]).value > 8.0


def test_the_interval_holds_the_threshold_and_narrows_with_more_lines():
    def width(lines):
        heights = [h for h in (8, 16, 32) for _ in range(lines)]
        rates = [rate for base in (0.6, 0.2, 0.0) for rate in (base + 0.2 * (i % 2 - 0.5) for i in range(lines))]
        found = legibility_threshold(heights, [max(0.0, rate) for rate in rates], [20] * len(rates))
        assert found.low < found.value < found.high
        return found.high - found.low

    assert width(64) < 0.5 * width(8)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Rates of 12 lines a height scatter round .4, .16 and .06: the threshold of the means is known."""
    truth = threshold([0.4, 0.16, 0.06]).value
    generator, held = np.random.default_rng(5), 0
    for _ in range(200):
        heights = [h for h in (8, 16, 32) for _ in range(12)]
        rates = [generator.binomial(20, rate) / 20 for rate in (0.4, 0.16, 0.06) for _ in range(12)]
        found = legibility_threshold(heights, rates, [20] * 36)
        held += found.value is not None and found.low <= truth <= found.high
    assert 0.88 <= held / 200 <= 0.99  # percentile intervals of 12 lines are a little narrow


def test_an_interval_reaches_infinity_where_the_largest_height_is_not_surely_legible():
    heights, rates = [16] * 6 + [32] * 6, [0.5] * 6 + [0.0, 0.0, 0.0, 0.0, 0.0, 0.5]
    found = legibility_threshold(heights, rates, [20] * 12)
    assert found.value is not None and found.high == math.inf and found.low < math.inf


# --- as two papers' code counts: values of that code itself, at the commits that text.py names ---

VTBENCH = [
    ("hello world", "hello world", 0.0, 0.0),
    ("hello world", "hella world", 0.09090909361839294, 0.5),
    ("hello", "", 1.0, 5.0),
    ("", "hello", 0.0, 0.0),
    ("", "", 0.0, 0.0),
    ("hello world", "Hello  World\n", 0.3636363744735718, 1.0),
    ("abcd", "a b c d", 0.75, 3.0),
    ("TOTAL: $12.50", "TOTAL: $ 12.50", 0.07692307978868484, 0.5),
    (
        "the quick brown fox jumped over the lazy dog",
        "the quick brown fox jumps",
        0.4545454680919647,
        2.222222328186035,
    ),
    ("你好，世界", "你好世界", 0.20000000298023224, 1.0),
    ("café crème", "café cre\u0301me", 0.20000000298023224, 1.0),
    ("", "lots of invented text where there is none", 0.0, 0.0),
]
"""Truth, reading, CER, WER. The accents of the eleventh pair are joined in one text and apart in the other."""


@pytest.mark.parametrize(("truth", "read", "cer", "wer"), VTBENCH)
def test_vtbench_of_single_pairs(truth, read, cer, wer):
    assert vtbench_2025([truth], [read]) == (cer, wer)  # float32 to the last bit


def test_vtbench_of_the_whole_set():
    truths, reads = [pair[0] for pair in VTBENCH], [pair[1] for pair in VTBENCH]
    assert vtbench_2025(truths, reads) == (0.7280701994895935, 3.6818182468414307)
    assert vtbench_2025(["", ""], ["", "invented"]) == (0.0, 0.0)


TOKBENCH = [
    ("Hello", "Hello", 0.02, 1, 1.0),
    ("Hello", "hello", 0.025, 0, 0.8),
    ("TOTAL", "T0TAL", 0.0299999, 0, 0.8),
    ("12.50", "1250", 0.03, 0, 0.8),
    ("café", "cafe", 0.035, 0, 0.75),
    ("€5", "EUR5", 0.0399999, 0, 0.25),
    ("word", "", 0.04, 0, 0.0),
    ("x", "xylophone", 0.2, 0, 0.11111111111111116),
    ("Receipt", "Reciept", 0.999, 0, 0.7142857142857143),
    ("full", "full", 1.0, 1, 1.0),
    ("tiny", "tiny", 0.0199999, 1, 1.0),
    ("mid", "mad", 0.012, 0, 0.6666666666666667),
]
"""Truth, reading, height over the picture's height, T-ACC, T-NED."""

NAN = math.nan
TOKBENCH_TOTALS = {
    256: ((1 / 3, 0.0, 0.0), (0.8666666666666667, 0.6, 0.2751322751322752), 0.1111111111111111, 0.580599647266314),
    512: (
        (0.5, 1 / 3, 0.0),
        (0.8333333333333334, 0.8666666666666667, 0.43756613756613755),
        0.27777777777777773,
        0.7125220458553793,
    ),
    1024: ((NAN, 0.5, 0.1111111111111111), (NAN, 0.8333333333333334, 0.580599647266314), NAN, NAN),
}


def as_tokbench(words, *, size=256, batch=1):
    truths, reads, ratios = ([word[place] for word in words] for place in range(3))
    return tokbench(truths, reads, ratios, size=size, batch=batch)


@pytest.mark.parametrize(("truth", "read", "ratio", "accuracy", "similarity"), TOKBENCH)
def test_tokbench_of_single_words(truth, read, ratio, accuracy, similarity):
    found = as_tokbench([(truth, read, ratio)])
    assert (found.overall_accuracy, found.overall_ned) == (accuracy, pytest.approx(similarity, abs=1e-15))
    assert 1 - ned(truth, read, normalisation="verbatim") == pytest.approx(similarity, abs=1e-15)


@pytest.mark.parametrize("size", [256, 512, 1024])
def test_tokbench_of_the_whole_set(size):
    """1e-15: the published code sums in another order."""
    found, (accuracy, similarity, mean_accuracy, mean_ned) = as_tokbench(TOKBENCH, size=size), TOKBENCH_TOTALS[size]
    assert found.accuracy == pytest.approx(accuracy, abs=1e-15, nan_ok=True)
    assert found.ned == pytest.approx(similarity, abs=1e-15, nan_ok=True)
    assert found.mean_accuracy == pytest.approx(mean_accuracy, abs=1e-15, nan_ok=True)
    assert found.mean_ned == pytest.approx(mean_ned, abs=1e-15, nan_ok=True)
    assert (found.overall_accuracy, found.counted) == (0.25, 12)
    assert found.overall_ned == pytest.approx(0.6576719576719577, abs=1e-15)


def test_tokbench_of_a_set_with_an_empty_bin_is_nan():
    found = as_tokbench([word for word in TOKBENCH if not 0.03 <= word[2] < 0.04])
    assert found.accuracy == pytest.approx((1 / 3, NAN, 0.0), nan_ok=True)
    assert math.isnan(found.mean_accuracy) and math.isnan(found.mean_ned)
    assert found.counted == 9
    assert (found.overall_accuracy, found.overall_ned) == pytest.approx((0.3333, 0.6769), abs=5e-5)  # as it prints them


def test_tokbench_drops_the_batch_of_a_sign_that_it_does_not_know():
    words = [("ß" if index == 5 else word[0], *word[1:]) for index, word in enumerate(TOKBENCH)]
    assert as_tokbench(words, batch=4).counted == 8
    assert as_tokbench(words).counted == 11
    with pytest.raises(DataError, match="no word left"):
        as_tokbench(words, batch=64)


def test_tokbench_refuses_what_the_published_code_dies_of():
    with pytest.raises(DataError, match="truth and reading are empty"):
        as_tokbench([("", "", 0.02)])
    with pytest.raises(DataError, match="256, 512, 1024"):
        as_tokbench(TOKBENCH, size=128)


# --- signs that nobody sees -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sign",
    [
        "\u00ad",
        "\u200b",
        "\u200c",
        "\u200d",
        "\u200e",
        "\u200f",
        "\u202a",
        "\u202e",
        "\u2060",
        "\u2067",
        "\ufeff",
        "\ufe0f",
        "\u180b",
        "\u180d",
        "\u180f",
        "\U000e0001",
        "\U000e0067",
        "\U000e0100",
        "\U000e01ef",
    ],
)
def test_signs_that_nobody_sees_cost_nothing(sign: str) -> None:
    truth = f"{sign}Har{sign}bour{sign} {sign}12"
    for name in ("text", "caseless", "alphanumeric", "spaceless"):
        assert normalise(truth, name) == normalise("Harbour 12", name)
    assert cer(truth, "Harbour 12") == wer(truth, "Harbour 12") == 0
    assert cer("Harbour 12", truth) == 0
    assert cer(truth, "Harbour 12", normalisation="verbatim") == 4 / 14
    assert cer(sign, "x") is None


def test_what_is_seen_stays() -> None:
    assert normalise("e\u200d\u0301") == "é"  # dropped before marks are joined to their letters
    assert normalise("a\u00a0b\u2003c\u2014d\u0600") == "a b c\u2014d\u0600"


# --- one code point for what looks the same ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["text", "caseless", "spaceless"])
def test_an_accent_that_stands_by_itself_is_one_sign_and_cuts_no_word(name: str) -> None:
    for sign in "\u00b4\u00a8\u00af\u00b8\u2017\u203e\u02dc\ufe7c":
        assert normalise(f"don{sign}t", name) == f"don{sign}t"
        assert cer("don't", f"don{sign}t", normalisation=name) == 0.2
    if name != "spaceless":
        assert wer("don't", "don\u00b4t", normalisation=name) == 1.0
        assert words("rock\u00b4n\u00b4roll", normalisation=name) == 1
    assert normalise("don\u00b4t a\u0301", "alphanumeric") == "dont á"


def test_every_sign_of_unicode_that_is_no_space_stays_without_one() -> None:
    """NFKC makes a space and marks of each sign that stands for a mark alone; words in one sign stay words."""
    torn = {}
    for sign in map(chr, range(sys.maxunicode + 1)):
        form = unicodedata.normalize("NFKC", sign)
        if form.startswith(" ") and not sign.isspace():
            torn.setdefault(form, set()).add(normalise(sign))
    assert len(torn) > 30
    assert all(len(found) == 1 and len(min(found)) == 1 for found in torn.values())  # those of one look are one sign
    assert normalise("\u0384") == normalise("\u1ffd") == "\u00b4"
    assert words("\ufdfb") == 2


@pytest.mark.parametrize("name", ["caseless", "alphanumeric"])
def test_folded_letters_keep_their_accents_joined(name: str) -> None:
    assert cer("Μα\u0390ου", "Μα\u03caου", normalisation=name) == 0.2
    assert normalise("J\u030c", name) == normalise("\u01f0", name) == "\u01f0"
    assert characters("\u0130", normalisation=name) == 1
    assert cer("\u0130stanbul", "istanbul", normalisation=name) == 0.0
    assert cer("STRASSE", "Straße", normalisation=name) == 0.0
    assert cer("\u0390", "\u03b9", normalisation="text") == 1.0
