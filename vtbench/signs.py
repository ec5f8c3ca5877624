"""Signs of texts: which nobody sees, and one code point for what looks the same. No torch here."""

from __future__ import annotations

import re
import unicodedata

INVISIBLE = frozenset(
    map(
        chr,
        (
            0x00AD,  # soft hyphen
            0x034F,  # grapheme joiner
            0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A),  # direction marks
            0x200B, 0x200C, 0x200D, *range(0x2060, 0x2065), 0xFEFF,  # spaces and joiners without a width
            *range(0x180B, 0x1810),  # Mongolian variation selectors and vowel separator
            *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0),  # variation selectors and their supplement
            0xE0001, *range(0xE0020, 0xE0080),  # tags
        ),
    )
)  # fmt: skip
"""Signs without a shape of their own, which texts carry along from word processors and web pages."""

_SPACING = "".join(
    map(
        chr,
        (
            0x00A8, 0x00AF, 0x00B4, 0x00B8, *range(0x02D8, 0x02DE),  # Latin
            0x037A, 0x0384, 0x0385, 0x1FBD, *range(0x1FBF, 0x1FC2), *range(0x1FCD, 0x1FD0), *range(0x1FDD, 0x1FE0),
            0x1FED, 0x1FEE, 0x1FFD, 0x1FFE,  # Greek
            0x2017, 0x203E, 0x309B, 0x309C, *range(0xFE49, 0xFE4D), 0xFFE3,  # lines over and under, kana
            *range(0xFC5E, 0xFC64), *range(0xFE70, 0xFE80, 2),  # Arabic
        ),
    )
)  # fmt: skip
"""Marks that stand by themselves. NFKC makes of each a space and marks over it, which are several code points in two
words: one that is misread would cost more than any other sign."""

_FORM = {sign: unicodedata.normalize("NFKC", sign) for sign in _SPACING}
_ALONE = {sign: min(other for other in _SPACING if _FORM[other] == form) for sign, form in _FORM.items()}
"""What each counts as: the first of those that NFKC makes equal."""

_PARTS = re.compile(f"([{_SPACING}])")


def composed(text: str) -> str:
    """Drop INVISIBLE signs and bring a text to Unicode NFKC, in which marks that stand by themselves stay one sign."""
    seen = "".join(sign for sign in text if sign not in INVISIBLE)
    return "".join(_ALONE.get(part) or unicodedata.normalize("NFKC", part) for part in _PARTS.split(seen))
