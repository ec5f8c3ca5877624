"""CER, WER, NED, word accuracy and the legibility threshold: how much of a known text was read back, and how small.

Every function takes the known text first. Both texts go through one of NORMALISATIONS before they are compared; where
nothing is said that is `text`, under which case and punctuation count.
"""

from __future__ import annotations

import math
import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from rapidfuzz.distance import LCSseq, Levenshtein

from vtbench.errors import CardError, DataError
from vtbench.signs import composed

# --- what is compared -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Normalisation:
    """What is done to a known text and to what was read, before they are compared; in this order."""

    nfkc: bool
    """Signs that nobody sees are dropped, then Unicode NFKC: one code point for what looks the same (a ligature and its
    letters, an accent joined or apart, full-width digits), so that an engine's choice of code points costs nothing.
    Accents that stand by themselves stay one sign; see `vtbench.signs`."""
    case: Literal["kept", "folded"]
    signs: Literal["all", "alphanumeric"]
    """alphanumeric: letters, their marks (such as vowel signs of Indic scripts), digits and white space alone are
    kept."""
    spaces: Literal["kept", "single", "dropped"]
    """single: each run of white space becomes one space, none at the ends."""
    use: str
    """When to take it, in one sentence."""


NORMALISATIONS: dict[str, Normalisation] = {
    "text": Normalisation(True, "kept", "all", "single", "The default: everything that a reader sees counts."),
    "caseless": Normalisation(True, "folded", "all", "single", "For engines and truths that don't keep case."),
    "alphanumeric": Normalisation(
        True,
        "folded",
        "alphanumeric",
        "single",
        "A second, lenient score: beside the strict one it shows how much of an error rate is punctuation and case.",
    ),
    "spaceless": Normalisation(
        True, "kept", "all", "dropped", "For engines that lose spaces, and for scripts without any; has no words."
    ),
    "verbatim": Normalisation(False, "kept", "all", "kept", "Nothing is done, as in VTBench's and TokBench's code."),
}


def find_normalisation(name: str) -> Normalisation:
    """Find a normalisation by its exact name.

    Raises:
        CardError: listing the names there are.
    """
    if name not in NORMALISATIONS:
        raise CardError(f"no normalisation is called {name!r}; expected one of: {', '.join(NORMALISATIONS)}")
    return NORMALISATIONS[name]


def normalise(text: str, normalisation: str = "text") -> str:
    """Bring a text to the form that is compared.

    Raises:
        CardError: if there is no such normalisation.
    """
    rules = find_normalisation(normalisation)
    if rules.nfkc:
        text = composed(text)
    if rules.case == "folded":
        # Folding takes some letters and their accents apart, and leaves the dot of İ behind, which every i has.
        text = composed(text.casefold().replace("i\u0307", "i"))
    if rules.signs == "alphanumeric":
        text = "".join(s for s in text if s.isalnum() or s.isspace() or unicodedata.category(s).startswith("M"))
    if rules.spaces != "kept":
        text = {"single": " ", "dropped": ""}[rules.spaces].join(text.split())
    return text


# --- one text ---------------------------------------------------------------------------------------------------------


def cer(truth: str, read: str, *, normalisation: str = "text") -> float | None:
    """Character error rate: edit distance in code points over the length of the truth; above 1 when much is invented.

    Not symmetric: the truth's length divides.

    Returns:
        0 for equal texts; None where the truth is empty, since there is no rate to state.
    """
    return _rate(normalise(truth, normalisation), normalise(read, normalisation))


def wer(truth: str, read: str, *, normalisation: str = "text") -> float | None:
    """Word error rate: edit distance in whole words over the number of words of the truth.

    Returns:
        0 for equal texts; None where the truth is empty, and where the normalisation leaves no words.
    """
    if find_normalisation(normalisation).spaces == "dropped":
        return None
    return _rate(normalise(truth, normalisation).split(), normalise(read, normalisation).split())


def ned(truth: str, read: str, *, normalisation: str = "text") -> float | None:
    """Normalised edit distance: edit distance in code points over the length of the longer text, within [0, 1].

    0 for equal texts: some papers print 1 minus this under the same name (TokBench's T-NED).

    Returns:
        the distance; None where the truth is empty.
    """
    first, second = normalise(truth, normalisation), normalise(read, normalisation)
    return Levenshtein.normalized_distance(first, second) if first else None


def word_accuracy(truth: str, read: str, *, normalisation: str = "text") -> float | None:
    """Share of the truth's words that were read exactly, in their order, within [0, 1].

    The words read right are the longest common subsequence of words, so one lost word costs itself and not all behind
    it. For a single word it is TokBench's T-ACC, 1 or 0. It is not 1 minus WER: invented words don't count here.

    Returns:
        the share; None where the truth is empty, and where the normalisation leaves no words.
    """
    if find_normalisation(normalisation).spaces == "dropped":
        return None
    words = normalise(truth, normalisation).split()
    return LCSseq.similarity(words, normalise(read, normalisation).split()) / len(words) if words else None


def characters(truth: str, *, normalisation: str = "text") -> int:
    """Code points that a CER is a rate of: what weighs it in `micro`."""
    return len(normalise(truth, normalisation))


def words(truth: str, *, normalisation: str = "text") -> int:
    """Words that a WER or a word accuracy is a rate of; 0 where the normalisation leaves none."""
    if find_normalisation(normalisation).spaces == "dropped":
        return 0
    return len(normalise(truth, normalisation).split())


def _rate(truth: str | list[str], read: str | list[str]) -> float | None:
    return Levenshtein.distance(truth, read) / len(truth) if truth else None


# --- many texts -------------------------------------------------------------------------------------------------------


def micro(rates: Sequence[float | None], sizes: Sequence[float]) -> float | None:
    """Mean over characters or words, each counting the same: all errors over all there is.

    Args:
        rates: of each text; None where it was not scored.
        sizes: `characters` of each text for a CER, `words` for a WER or a word accuracy.

    Returns:
        the rate; None where nothing was scored.
    """
    scored = [(rate, size) for rate, size in zip(rates, sizes, strict=True) if rate is not None and size]
    total = math.fsum(size for _, size in scored)
    return math.fsum(rate * size for rate, size in scored) / total if total else None


# --- legibility -------------------------------------------------------------------------------------------------------

LEGIBLE = 0.10
"""The CER under which a text counts as legible."""

_RESAMPLES = 2000


@dataclass(frozen=True)
class Threshold:
    """The smallest glyph height from which on text is legible."""

    value: float | None
    """Pixels of cap height; None where even the largest text is not legible."""
    low: float | None = None
    high: float | None = None
    """Ends of the 95% interval; `high` is infinite where the largest height is not surely legible."""
    at_most: bool = False
    """True where the smallest height that was tried is legible already: the threshold is this or less."""
    reason: str = ""
    """Why there is none."""


def legibility_threshold(
    heights: Sequence[float],
    rates: Sequence[float | None],
    sizes: Sequence[float],
    *,
    limit: float = LEGIBLE,
) -> Threshold:
    """Find the glyph height from which on, at it and at all larger ones, CER stays under a limit.

    Of each height the micro average counts. Between the largest height at or above the limit and the next one the
    CER is taken to be linear in the logarithm of the height, and the threshold is where it crosses the limit. So it
    moves with every error and not in steps, and sets of pages at other heights give comparable values.

    The interval is a bootstrap's, by percentiles: within every height the texts are drawn anew, with replacement, 2000
    times with a fixed seed. Give lines rather than pages where there are few pages of a height.

    Args:
        heights: cap height of each text in pixels.
        rates: CER of each text; None where it was not scored.
        sizes: `characters` of each text.
        limit: the CER to stay under.

    Returns:
        the threshold with its interval, or None with the reason.
    """
    scored = [
        (height, rate, size)
        for height, rate, size in zip(heights, rates, sizes, strict=True)
        if rate is not None and size
    ]
    if not scored:
        return Threshold(None, reason="no text was scored")
    levels = np.array(sorted({height for height, _, _ in scored}))
    generator = np.random.default_rng(0)
    found, drawn = np.empty((1, len(levels))), np.empty((_RESAMPLES, len(levels)))
    for place, level in enumerate(levels):
        weights = np.array([size for height, _, size in scored if height == level], dtype=np.float64)
        errors = weights * np.array([rate for height, rate, _ in scored if height == level])
        found[0, place] = errors.sum() / weights.sum()
        chosen = generator.integers(len(weights), size=(_RESAMPLES, len(weights)))
        drawn[:, place] = errors[chosen].sum(axis=1) / weights[chosen].sum(axis=1)
    value = float(_crossing(levels, found, limit)[0])
    if math.isinf(value):
        return Threshold(
            None, reason=f"CER is {found[0, -1]:.1%} at {levels[-1]:g} px, the largest; {limit:.0%} is legible"
        )
    # By rank, because infinite values can't be averaged.
    ends = np.quantile(_crossing(levels, drawn, limit), [0.025, 0.975], method="inverted_cdf")
    return Threshold(value, float(ends[0]), float(ends[1]), at_most=bool((found[0] < limit).all()))


def _crossing(levels: np.ndarray[Any, Any], rates: np.ndarray[Any, Any], limit: float) -> np.ndarray[Any, Any]:
    """Where each row of rates (R, heights) falls under the limit for good; infinite where it doesn't."""
    illegible = rates >= limit
    last = len(levels) - 1 - np.argmax(illegible[:, ::-1], axis=1)  # the largest illegible height
    above = np.minimum(last + 1, len(levels) - 1)
    rows = np.arange(len(rates))
    step = rates[rows, last] - rates[rows, above]
    share = (rates[rows, last] - limit) / np.where(step > 0, step, 1.0)
    crossed = levels[last] * (levels[above] / levels[last]) ** share
    crossed = np.where(last == len(levels) - 1, np.inf, crossed)
    return np.where(illegible.any(axis=1), crossed, levels[0])


# --- as two papers' code counts ---------------------------------------------------------------------------------------


def vtbench_2025(truths: Sequence[str], reads: Sequence[str]) -> tuple[float, float]:
    """CER and WER as VTBench's code totals them (xingjianleng/VTBench, commit 01368b3f), its oddities included.

    Nothing is normalised. CER is all edit distances over all truth lengths, so an empty truth adds errors and no
    length. "WER" is the CHARACTER distance of the words joined by single spaces, over the number of words: above 1 as
    a rule. Sums and ratio are float32; without any truth both are 0.

    Returns:
        CER and WER of the whole set; of one pair, what the code says of that pair alone.
    """
    letter_errors = letter_count = word_errors = word_count = np.float32(0)
    for truth, read in zip(truths, reads, strict=True):
        letter_errors += np.float32(Levenshtein.distance(truth, read))
        letter_count += np.float32(len(truth))
        word_errors += np.float32(Levenshtein.distance(" ".join(truth.split()), " ".join(read.split())))
        word_count += np.float32(len(truth.split()))
    return (
        float(letter_errors / letter_count) if letter_count else 0.0,
        float(word_errors / word_count) if word_count else 0.0,
    )


TOKBENCH_EDGES: dict[int, tuple[float, float, float, float]] = {
    256: (0.02, 0.03, 0.04, 1.0),
    512: (0.01, 0.02, 0.03, 1.0),
    1024: (0.005, 0.01, 0.02, 1.0),
}
"""By target size: edges of the three bins of text height over picture height, low <= ratio < high."""

TOKBENCH_SIGNS = frozenset(
    string.digits + string.ascii_letters + string.punctuation + "°£€¥¢฿" + "àâéèêëîïôùûüçÀÂÉÈÊËÎÏÔÙÛÜÇ"
)
"""docTR's French vocabulary, which TokBench's code encodes the truths by."""


@dataclass(frozen=True)
class TokBench:
    """T-ACC and T-NED, where 1 is best for both; nan where a bin is empty."""

    accuracy: tuple[float, float, float]
    """T-ACC of each bin."""
    ned: tuple[float, float, float]
    """T-NED of each bin."""
    mean_accuracy: float
    mean_ned: float
    """What the paper prints: the plain mean of the three bins, however many words are in each."""
    overall_accuracy: float
    overall_ned: float
    """Over all words, those outside every bin too."""
    counted: int
    """Words that were scored."""


def tokbench(
    truths: Sequence[str], reads: Sequence[str], ratios: Sequence[float], *, size: int, batch: int = 1
) -> TokBench:
    """T-ACC and T-NED as TokBench's code counts them (wjf5203/TokBench, commit a77070cb), its oddities included.

    T-ACC is the share of words whose code points all agree; T-NED is 1 - distance / max(length). The headline leaves
    out words smaller than the first bin and those of ratio 1, and is nan when a bin is empty. A truth with a sign
    outside TOKBENCH_SIGNS drops its whole batch.

    Args:
        truths: the annotated words.
        reads: what was read in their boxes.
        ratios: height of each word over that of its picture.
        size: target size, one of TOKBENCH_EDGES.
        batch: words of a batch; the script's default is 1, its shell script says 64.

    Raises:
        DataError: where the published code dies: truth and reading both empty, or no batch left; or another size.
    """
    if size not in TOKBENCH_EDGES:
        raise DataError(f"TokBench has no setting {size}; expected one of {', '.join(map(str, TOKBENCH_EDGES))}")
    words = list(zip(truths, reads, ratios, strict=True))
    scored: list[tuple[float, float, float]] = []  # ratio, accuracy, NED
    for start in range(0, len(words), batch):
        part = words[start : start + batch]
        if not all(set(truth) <= TOKBENCH_SIGNS for truth, _, _ in part):
            continue
        for truth, read, ratio in part:
            if not truth and not read:
                raise DataError("TokBench's T-NED is not defined where truth and reading are empty; leave the word out")
            scored.append(
                (ratio, float(truth == read), 1 - Levenshtein.distance(truth, read) / max(len(truth), len(read)))
            )
    if not scored:
        raise DataError("TokBench has no word left to score; leave out truths with signs outside its vocabulary")
    edges = TOKBENCH_EDGES[size]
    bins = [[entry for entry in scored if low <= entry[0] < high] for low, high in pairwise(edges)]
    (first, second, third), overall = [_means(part) for part in bins], _means(scored)
    accuracy, similarity = (first[0], second[0], third[0]), (first[1], second[1], third[1])
    return TokBench(accuracy, similarity, sum(accuracy) / 3, sum(similarity) / 3, *overall, len(scored))


def _means(scored: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """Mean accuracy and NED; nan over nothing."""
    if not scored:
        return math.nan, math.nan
    return sum(entry[1] for entry in scored) / len(scored), sum(entry[2] for entry in scored) / len(scored)
