"""CER, WER and NED: how much of a known text was read back.

Every function takes the known text first. Both texts go through `normalise`; case and punctuation count.
"""

from __future__ import annotations

import unicodedata

from rapidfuzz.distance import Levenshtein


def normalise(text: str) -> str:
    """Bring a text to the form that is compared: Unicode NFKC, runs of white space as one space, none at the ends.

    NFKC makes one of what looks the same (a ligature and its letters, an accent joined or apart, full-width digits), so
    that an engine's choice of code points costs nothing. Case is kept.
    """
    return " ".join(unicodedata.normalize("NFKC", text).split())


def alphanumeric(text: str) -> str:
    """Keep letters, digits and single spaces, in lower case: for a second, lenient score beside the strict one.

    Engines lose full stops and commas first, so the two scores apart show how much of an error rate is punctuation.
    """
    kept = (sign for sign in normalise(text).lower() if sign.isalnum() or sign == " ")
    return " ".join("".join(kept).split())


def cer(truth: str, read: str) -> float | None:
    """Character error rate: edit distance in code points over the length of the truth; above 1 when much is invented.

    Not symmetric: the truth's length divides.

    Returns:
        0 for equal texts; None where the truth is empty, since there is no rate to state.
    """
    return _rate(normalise(truth), normalise(read))


def wer(truth: str, read: str) -> float | None:
    """Word error rate: edit distance in whole words over the number of words of the truth.

    Returns:
        0 for equal texts; None where the truth is empty.
    """
    return _rate(normalise(truth).split(), normalise(read).split())


def ned(truth: str, read: str) -> float | None:
    """Normalised edit distance: edit distance in code points over the length of the longer text, within [0, 1].

    0 for equal texts: some papers print 1 minus this under the same name.

    Returns:
        the distance; None where the truth is empty.
    """
    first, second = normalise(truth), normalise(read)
    return Levenshtein.normalized_distance(first, second) if first else None


def _rate(truth: str | list[str], read: str | list[str]) -> float | None:
    return Levenshtein.distance(truth, read) / len(truth) if truth else None
