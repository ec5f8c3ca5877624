from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from vtbench.measures import NO_PICTURE, Table
from vtbench.measures.text import LINE_RATES, LINE_SIZES, NO_TEXT, totals
from vtbench.results import Score

NAMES = ("cer_micro", "legibility")


def row(
    height: float | str | None, rates: list[float], sizes: list[float], strings: str = "language"
) -> dict[str, Any]:
    texts = {str(LINE_RATES): np.array(rates), str(LINE_SIZES): np.array(sizes)}
    return {**texts, "attribute/cap_height": height, "attribute/strings": strings}


def text_totals(rows: list[dict[str, Any]], names: list[str] | tuple[str, ...]) -> dict[str, Score]:
    columns = {name: [row.get(name) for row in rows] for name in dict.fromkeys(key for row in rows for key in row)}
    table = pa.table(columns) if columns else pa.table({"id": [str(index) for index in range(len(rows))]})
    return totals(names, Table(table, intervals=lambda name: True))


def test_micro_average_weighs_characters_and_counts_pages() -> None:
    rows = [row(8, [0.5, 0.0], [10, 30]), row(16, [1.0], [10]), {}]
    found = text_totals(rows, ["cer_micro"])
    assert set(found) == {"cer_micro"}
    assert found["cer_micro"].value == pytest.approx(15 / 50)
    assert (found["cer_micro"].scored, found["cer_micro"].expected) == (2, 3)


def test_lines_without_text_are_not_scored() -> None:
    found = text_totals([row(8, [float("nan"), 0.5], [0, 10])], NAMES)
    assert found["cer_micro"].value == 0.5


@pytest.mark.parametrize("blank", [row(8, [], []), row(8, [float("nan")], [0])])
def test_pictures_without_text_are_not_scored(blank: dict[str, Any]) -> None:
    beside = text_totals([row(8, [0.02], [10]), blank], NAMES)
    assert {name: (score.scored, score.expected) for name, score in beside.items()} == dict.fromkeys(NAMES, (1, 2))
    alone = text_totals([blank, {}], NAMES)
    assert [(score.value, score.scored) for score in alone.values()] == [(None, 0)] * 2
    assert alone["cer_micro"].reason == NO_TEXT
    assert alone["legibility"].reason == "no text was scored"


def test_threshold_is_that_of_words() -> None:
    rows = [row(8, [0.5], [10]), row(16, [0.02], [10]), row(48, [0.9], [10], "random")]
    found = text_totals(rows, NAMES)["legibility"]
    assert 8 < (found.value or 0) < 16
    assert found.low is not None
    assert found.high is not None
    assert found.low <= (found.value or 0) <= found.high


def test_pages_that_differ_in_height_alone_decide_the_threshold() -> None:
    plain = [
        row(8, [0.5], [10]) | {"attribute/plain_height": 8.0},
        row(16, [0.0], [10]) | {"attribute/plain_height": 16.0},
    ]
    pale = row(32, [0.9], [10])  # in a language, and illegible for its contrast
    assert 8 < (text_totals([*plain, pale], NAMES)["legibility"].value or 0) < 16
    assert text_totals([plain[1], pale], NAMES)["legibility"].value == 16.0
    without = [{key: value for key, value in one.items() if "plain" not in key} for one in plain]
    assert text_totals([*without, pale], NAMES)["legibility"].value is None


def test_heights_that_are_text_count_as_numbers_and_others_as_none() -> None:
    """Every cell of a metadata.csv is text; a column of a .jsonl may be mixed, which makes it text."""
    numbers = text_totals([row(8, [0.5], [10]), row(16, [0.02], [10])], NAMES)
    assert text_totals([row("8", [0.5], [10]), row("16.0", [0.02], [10])], NAMES) == numbers
    plain = [row(None, [0.5], [10]) | {"attribute/plain_height": "8"}, row(None, [0.02], [10])]
    assert text_totals([*plain, row(None, [0.02], [10]) | {"attribute/plain_height": "16"}], NAMES)[
        "legibility"
    ].value == pytest.approx(numbers["legibility"].value)
    for wrong in ("", "tall", "12 px", "nan", "inf", "0", "-8"):
        found = text_totals([row(wrong, [0.02], [10])], NAMES)
        assert found["cer_micro"].value == 0.02
        assert found["legibility"].value is None
        assert "states how high its letters are" in (found["legibility"].reason or "")
    assert text_totals([row(0, [0.02], [10])], NAMES)["legibility"].value is None
    mixed = text_totals([row("tall", [0.5], [10]), row("16", [0.02], [10])], NAMES)
    assert mixed["legibility"].value == 16.0


def test_heights_of_strings_in_no_language_are_told_apart_from_none() -> None:
    for strings in ("random", "serial number"):
        found = text_totals([row(8, [0.5], [10], strings), row(16, [0.0], [10], strings)], NAMES)["legibility"]
        assert found.value is None
        assert found.reason == (
            "all pictures with a cap_height have other strings than language; expected language, or none"
        )
    empty = [row(8, [0.5], [10], ""), row(16, [0.02], [10], "")]
    assert text_totals(empty, NAMES)["legibility"].value is not None


def test_text_that_is_never_legible_has_a_reason() -> None:
    found = text_totals([row(8, [0.9], [10]), row(48, [0.6], [10])], NAMES)["legibility"]
    assert found.value is None
    assert "CER is 60.0% at 48 px" in (found.reason or "")
    empty = text_totals([{}], NAMES)
    assert empty["cer_micro"].reason == NO_PICTURE
    assert empty["legibility"].reason == "no text was scored"
