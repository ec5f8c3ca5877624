from __future__ import annotations

import csv
import io
import math
import re
from pathlib import Path

import pytest
from builders import make_run
from typer.testing import CliRunner

from vtbench import leaderboard, results
from vtbench.catalogue import metrics
from vtbench.cli import app
from vtbench.report import page
from vtbench.results import Run, Score


def scores(lpips: float | None, psnr: float = 20.0) -> dict[str, Score]:
    missing = Score(value=None, reason="alex is not here", scored=0, expected=32)
    return {
        "psnr": Score(value=psnr, scored=32, expected=32),
        "lpips": missing if lpips is None else Score(value=lpips, scored=31, expected=32),
        "bpp": Score(value=0.25, scored=32, expected=32),
    }


RUNS = [
    make_run("good", scores=scores(0.1)),
    make_run("bad", scores=scores(0.5)),
    make_run("perfect", scores=scores(0.0, math.inf)),
    make_run("perfect-looking", scores=scores(0.0, 40.0)),
    make_run("unscored", scores=scores(None)),
    make_run("made-up", scores=scores(0.05), weights="synthetic"),
    make_run("part", scores=scores(0.01), limit=2),
    make_run("good", "text", scores=scores(0.2)),
]


def rows(runs: list[Run]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(leaderboard.to_csv(runs))))


def test_best_is_first_and_what_is_not_ranked_is_last() -> None:
    found = [(row["rank"], row["tokenizer"]) for row in rows(RUNS) if row["task"] == "reconstruction"]
    assert found == [
        ("1", "perfect"),
        ("2", "perfect-looking"),
        ("3", "good"),
        ("4", "bad"),
        ("", "part"),
        ("", "made-up"),
        ("", "unscored"),
    ]
    assert [row["unranked"] for row in rows(RUNS) if not row["rank"]] == [
        "the first 32 pictures alone",
        "made-up weights",
        "lpips was not scored",
    ]


def test_nothing_ranks_above_the_originals() -> None:
    """An engine may misread an original and read its reconstruction: that is luck, not quality."""
    lucky = make_run("lucky", scores=scores(0.01, 35.0))
    luckier = make_run("luckier", scores=scores(0.00, 30.0))
    originals = make_run("control-identity", scores=scores(0.02, math.inf))
    worse = make_run("worse", scores=scores(0.03, 50.0))
    (group,) = leaderboard.tables([luckier, worse, lucky, originals]).values()
    assert [one.run.tokenizer for one in group] == ["control-identity", "lucky", "luckier", "worse"]
    (group,) = leaderboard.tables([luckier, worse, lucky]).values()
    assert [one.run.tokenizer for one in group] == ["luckier", "lucky", "worse"]


def test_missing_is_empty_with_a_reason_and_counts_stand_beside_values() -> None:
    row = next(row for row in rows(RUNS) if row["tokenizer"] == "unscored")
    assert row["lpips"] == ""
    assert row["lpips_scored"] == "0"
    assert row["not_scored"] == "lpips: alex is not here"
    row = next(row for row in rows(RUNS) if row["tokenizer"] == "perfect")
    assert (row["psnr"], row["lpips_scored"], row["images_expected"]) == ("inf", "31", "32")


def test_same_runs_give_the_same_bytes_in_any_order() -> None:
    assert leaderboard.to_csv(RUNS) == leaderboard.to_csv(RUNS[::-1])
    assert leaderboard.to_markdown(RUNS) == leaderboard.to_markdown(RUNS[::-1])


def test_markdown_has_one_table_a_task_and_says_what_is_missing() -> None:
    said = leaderboard.to_markdown(RUNS)
    assert said.count("## ") == 2
    assert "| 1 | perfect ◆ | 1/4: 0.1 to 0.3 bits/pixel | 0.2500 | - |" in said
    assert "∞" in said
    assert "Not scored: lpips of unscored: alex is not here." in said
    assert (
        "Not ranked: part (the first 32 pictures alone), made-up (made-up weights), unscored (lpips was not scored)."
        in said
    )


def test_reasons_name_their_runs_where_they_are_not_of_all() -> None:
    none = Score(value=None, reason="no pages", scored=0, expected=32)
    runs = [
        make_run(name, scores=scores(0.1) | ({"cer": none, "wer": none} if name < "f" else {})) for name in "abcdef"
    ]
    assert leaderboard.missing(runs) == ["cer, wer of a, b, c and 2 more: no pages"]
    assert leaderboard.missing(runs[:2]) == ["cer, wer: no pages"]


def test_groups_are_ordered_as_numbers() -> None:
    groups = {height: {"lpips": Score(value=0.1, scored=1, expected=1)} for height in ("16", "8", "48")}
    said = leaderboard.to_markdown([make_run(scores=scores(0.1), groups={"cap_height": groups})])
    assert "LPIPS by cap height:\n\n| tokenizer | 8 | 16 | 48 |" in said


def test_words_are_ordered_after_numbers_whatever_they_spell() -> None:
    """ "nan" is the name of a group like any other, and no number to sort by."""
    labels = ("16", "nan", "8", "scales=10", "inf", "scales=9", "1e999")
    found = []
    for order in (labels, labels[::-1]):
        groups = {label: {"lpips": Score(value=0.1, scored=1, expected=1)} for label in order}
        said = leaderboard.to_markdown([make_run(scores=scores(0.1), groups={"kind": groups})])
        found += [line for line in said.splitlines() if "scales=10" in line]
    assert found == ["| tokenizer | 8 | scales=9 | scales=10 | 16 | 1e999 | inf | nan |"] * 2


@pytest.mark.parametrize("floor", [None, 0.05])
def test_a_metric_that_is_not_installed_is_named_and_stops_nobody(tmp_path: Path, floor: float | None) -> None:
    odd = Score(value=0.2, scored=32, expected=32, floor=floor)
    runs = [make_run("a", scores=scores(0.1) | {"acme": odd, "acme/3": odd}), make_run("b", scores=scores(0.2))]
    said = leaderboard.to_markdown(runs)
    assert "Not shown: acme of a: no installed package measures it." in said and "own floor" not in said
    for run in runs:
        results.write(run, tmp_path / run.task / f"{run.name}.json")
    done = CliRunner().invoke(app, ["leaderboard", "--results", str(tmp_path)])
    assert done.exit_code == 0
    assert "not shown: acme of a: no installed package measures it" in done.stderr
    assert "acme of a: no installed package" in page.build(runs, tmp_path).html.decode()


def test_intervals_and_floors_stand_beside_values() -> None:
    read = Score(value=0.25, scored=9, expected=9, low=0.2, high=0.3, floor=0.05)
    run = make_run(task="text", primary="cer", scores={"cer": read, "psnr": Score(value=20.0, scored=9, expected=9)})
    (row,) = rows([run])
    assert (row["cer"], row["cer_low"], row["cer_high"], row["cer_floor"]) == ("0.25", "0.2", "0.3", "0.05")
    assert float(row["cer_excess"]) == pytest.approx(0.2)
    assert "psnr_floor" not in row
    assert "The engine's own floor, on the originals: CER 0.0500." in leaderboard.to_markdown([run])


def test_curves_have_a_column_a_level() -> None:
    levels = {f"contrast/{level}": Score(value=0.5, scored=1, expected=1) for level in ("0.5", "0.0625", "0.125")}
    run = make_run(scores={"lpips": Score(value=0.1, scored=1, expected=1), **levels})
    said = leaderboard.to_markdown([run])
    assert "| tokenizer | 0.0625 | 0.125 | 0.5 |" in said
    assert "| jpeg-q5 | 0.5000 | 0.5000 | 0.5000 |" in said


def test_protocols_never_share_a_table() -> None:
    runs = [make_run(), make_run(protocol="seed-voken", scores=scores(0.1))]
    assert len(leaderboard.tables(runs)) == 2
    assert [run.name for run in runs] == ["jpeg-q5", "jpeg-q5@seed-voken"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"weights": "local", "label": "abc"}, "local weights"),
        ({"task_version": 2}, "another task version"),
        ({"digests": {"data": "other"}}, "other pictures"),
        ({"weights": "local", "label": "abc", "digests": {"data": "other"}}, "other pictures"),
        ({"digests": {"data": "d" * 64, "lpips-alex/file": "another"}}, "another lpips-alex"),
        ({"digests": {"data": "d" * 64, "easyocr/version": "2"}}, "another easyocr"),
        ({"digests": {"data": "d" * 64, "rapidocr/version": "1"}}, "another OCR engine"),
        ({"digests": {"data": "d" * 64, "foundation/features": "1"}}, "another foundation"),
        ({"scores": scores(0.05) | {"lpips": Score(value=0.05, scored=20, expected=32)}}, "20 of 31 pictures scored"),
        ({"scores": scores(math.inf)}, "lpips is infinite"),
    ],
)
def test_what_may_not_be_compared_stands_without_a_rank_and_says_why(change: dict[str, object], why: str) -> None:
    same = {"digests": {"data": "d" * 64, "lpips-alex/file": "one", "easyocr/version": "1"}}
    same["digests"] |= {"foundation/config.json": "1"}
    others = [make_run(name, scores=scores(0.1 * place), **same) for place, name in enumerate("abc", start=1)]
    odd = make_run("odd", **({"scores": scores(0.05)} | same | change))
    (standings,) = leaderboard.tables([*others, odd]).values()
    assert [(one.run.tokenizer, one.rank, one.why) for one in standings][-1] == ("odd", None, why)
    assert [one.rank for one in standings][:3] == [1, 2, 3]
    shown = "odd&#126;abc" if "label" in change else "odd"
    assert f"{shown} ({why})" in leaderboard.to_markdown([*others, odd])
    ranked = leaderboard.tables([*others, odd], rank_local=True)[("reconstruction", "canonical")]
    assert (ranked[0].run.tokenizer == "odd") == (why == "local weights")


def test_a_run_of_another_kind_takes_the_rank_from_nobody() -> None:
    """It has more pictures than the others: their most is counted among those that are alike."""
    more = {"lpips": Score(value=0.1, scored=40, expected=40)}
    for change in (
        {"digests": {"data": "other"}},
        {"task_version": 2},
        {"primary": "psnr", "scores": {"psnr": more["lpips"]}},
    ):
        others = [make_run(name, scores=scores(0.2)) for name in "abcd"]
        (standings,) = leaderboard.tables([*others, make_run("odd", **{"scores": more} | change)]).values()
        assert [one.rank for one in standings] == [1, 2, 3, 4, None], change


def test_what_has_no_rank_does_not_say_what_ranks(tmp_path: Path) -> None:
    """Three parts of an older version of the task, ranked by another metric, beside two whole runs."""

    def run(name: str, contrast: float, psnr: float, **change: object) -> Run:
        scores = {"contrast": contrast, "psnr": psnr} | ({"ssim": psnr / 100} if "limit" in change else {})
        known = {name: Score(value=value, scored=32, expected=32) for name, value in scores.items()}
        return make_run(name, "detail", **({"task_version": 2, "primary": "contrast", "scores": known} | change))

    whole = [run("good", 0.9, 20.0), run("bad", 0.5, 30.0)]
    parts = [run(f"part{at}", 0.1, 40.0 + at, task_version=1, primary="ssim", limit=4) for at in range(3)]
    ((table, standings),) = leaderboard.tables([*parts, *whole]).items()
    assert [(one.run.tokenizer, one.rank) for one in standings][:2] == [("good", 1), ("bad", 2)]
    assert leaderboard.primary_of(standings) == "contrast"
    said = leaderboard.to_markdown([*parts, *whole])
    assert "## detail (version 2" in said and "**[contrast](" in said and "**[SSIM](" not in said
    (view,) = re.findall(r"<h2>.*?</h2>", page.build([*parts, *whole], tmp_path).html.decode())[:1]
    assert table[0] in view and "version 2" in view and "ranked by contrast" in view


def test_what_may_be_compared_is_told_of_runs_without_a_rank_too() -> None:
    def alike(*runs: Run) -> set[str]:
        (standings,) = leaderboard.tables(runs).values()
        return {one.run.name for one in standings if one.alike}

    own, part, made = make_run("own", weights="local"), make_run("part", limit=4), make_run("made", weights="synthetic")
    assert alike(make_run("a"), own, part, made) == {"a", "own"}
    assert alike(part, make_run("second", limit=4), make_run("third", limit=2)) == {"part", "second"}


def test_precision_and_origin_are_columns_and_bf16_is_another_run() -> None:
    said = leaderboard.to_markdown([make_run("a"), make_run("a", precision="bf16")])
    assert "| weights | precision | version |" in said
    assert "| a+bf16 |" in said


def test_hostile_names_stay_in_their_cell() -> None:
    label = "x\n# head | ![p](u) <b> `c` ~d~ \x1b[31m"
    groups = {"evil | name\n## x": {label: {"lpips": Score(value=0.1, scored=1, expected=1)}}}
    said = leaderboard.to_markdown([make_run(scores=scores(0.1), groups=groups)])
    assert "\x1b" not in said
    assert said.count("\n# ") == 0 and "~" not in said
    table = [line for line in said.splitlines() if "head" in line]
    assert table and all("\\|" in line and "\\!\\[" in line and "\\<b\\>" in line for line in table)


def test_nearest_to_one_is_best() -> None:
    def ratio(value: float) -> dict[str, Score]:
        return {"spectral_ratio": Score(value=value, scored=1, expected=1)}

    runs = [make_run(name, scores=ratio(value), primary="spectral_ratio") for name, value in (("a", 1.4), ("b", 0.9))]
    (standings,) = leaderboard.tables(runs).values()
    assert [one.run.tokenizer for one in standings] == ["b", "a"]
    assert "[energy ratio](" in leaderboard.to_markdown(runs)
    assert "#text-and-detail) →1**" in leaderboard.to_markdown(runs)


def rated(name: str, bpp: float | None, lpips: float, **change: object) -> Run:
    found = {"lpips": Score(value=lpips, scored=32, expected=32, low=lpips - 0.01, high=lpips + 0.01)}
    missing = Score(value=None, reason="no rate", scored=0, expected=32)
    found["bpp"] = missing if bpp is None else Score(value=bpp, scored=32, expected=32)
    found["latent_values"] = Score(value=0.5, scored=32, expected=32) if bpp is None else missing
    return make_run(name, scores=found, **change)


def test_ranks_within_rate_classes_and_the_frontier_stand_beside_the_overall_rank() -> None:
    runs = [
        *(
            rated("control-identity", 24.0, 0.0, family="control"),
            rated("large", 0.9, 0.05),
            rated("larger", 0.95, 0.1),
        ),
        *(rated("floats", None, 0.07), rated("small", 0.05, 0.4), rated("local", 0.06, 0.3, weights="local")),
    ]
    (standings,) = leaderboard.tables(runs).values()
    found = {
        one.run.tokenizer: place and tuple(place)
        for one, place in zip(standings, leaderboard.places(standings), strict=True)
    }
    assert found == {
        "control-identity": None,
        "large": ("0.3 to 1 bits/pixel", 1, 2),
        "floats": ("0.3 to 1 values/pixel", 1, 1),
        "larger": ("0.3 to 1 bits/pixel", 2, 2),
        "small": ("0.03 to 0.1 bits/pixel", 1, 1),
        "local": None,
    }
    marked = [
        one.run.tokenizer for one, best in zip(standings, leaderboard.on_frontier(standings), strict=True) if best
    ]
    assert marked == ["large", "small"]
    said = leaderboard.to_markdown(runs)
    assert "| 2 | large ◆ | 1/2: 0.3 to 1 bits/pixel | 0.9000 | - | - | 0.0500 (0.0400 to 0.0600) |" in said
    assert "| 3 | floats | 1/1: 0.3 to 1 values/pixel | - | 0.5000 |" in said
    (row,) = [row for row in rows(runs) if row["tokenizer"] == "larger"]
    assert (row["rank"], row["rate_class"], row["rank_in_class"], row["frontier"]) == (
        "4",
        "0.3 to 1 bits/pixel",
        "2",
        "False",
    )


def test_every_column_of_a_metric_leads_to_what_explains_it() -> None:
    docs = (Path(__file__).resolve().parent.parent / "docs" / "metrics.md").read_text()
    heads = {head.lower().replace(" ", "-") for head in re.findall(r"^#+ (.*)$", docs, flags=re.MULTILINE)}
    assert set(leaderboard.SECTIONS.values()) <= heads
    measures = {
        metric.measure
        for metric in metrics().values()
        if metric.function is None or metric.function.startswith("vtbench.")
    }
    assert measures - {"published"} <= set(leaderboard.SECTIONS)
    assert f"**[LPIPS]({leaderboard.DOCS}#pairs-of-pictures) ↓**" in leaderboard.to_markdown(RUNS)


def test_diagnostics_stand_beside_each_other_without_a_rank() -> None:
    def run(name: str, lpips: float, lds: Score, **change: object) -> Run:
        scores = {"lpips": Score(value=lpips, scored=32, expected=32), "lds": lds, "cds": lds}
        return make_run(name, task="latents", task_family="latents", scores=scores, **change)

    known = Score(value=0.4, scored=32, expected=32)
    none = Score(value=None, reason="codecs have no latent", scored=0, expected=32)
    runs = [run("jpeg-q5", 0.3, none), run("taef2", 0.1, known, kind="continuous")]
    standings = leaderboard.tables(runs)["latents", "canonical"]
    assert [(one.run.tokenizer, one.rank, one.why) for one in standings] == [
        ("taef2", None, results.UNRANKED),
        ("jpeg-q5", None, results.UNRANKED),
    ]
    text = leaderboard.to_markdown(runs)
    assert text.count("codecs have no latent") == 1
    assert "Not scored: lds, cds of jpeg-q5: codecs have no latent." in text
    assert "Not ranked" not in text and "**LPIPS" not in text
    assert "* LDS ↑: cosine of neighbouring places" in text and "Evidence: iREPA" in text


def test_nothing_ranks_by_diagnostics_of_local_weights_either() -> None:
    local = make_run("mine", task="latents", task_family="latents", weights="local")
    assert leaderboard.tables([local], rank_local=True)["latents", "canonical"][0].why == results.UNRANKED


def test_small_values_keep_their_digits_in_the_csv() -> None:
    scores = {"lpips": Score(value=3e-7, scored=32, expected=32, low=1.23456789012e-7, high=4e-7)}
    scores["bpp"] = Score(value=9.155273e-05, scored=32, expected=32)
    (row,) = rows([make_run(scores=scores)])
    found = [float(row[name]) for name in ("lpips", "lpips_low", "lpips_high", "bpp")]
    assert found == [3e-7, 1.23456789e-7, 4e-7, 9.155273e-05]
