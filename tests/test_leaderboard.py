from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from builders import make_run

from vtbench import leaderboard, results
from vtbench.errors import ResultError
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
        ("5", "unscored"),
        ("", "part"),
        ("", "made-up"),
    ]


def test_nothing_ranks_above_the_originals() -> None:
    """An engine may misread an original and read its reconstruction: that is luck, not quality."""
    lucky = make_run("lucky", scores=scores(0.01, 35.0))
    luckier = make_run("luckier", scores=scores(0.00, 30.0))
    originals = make_run("control-identity", scores=scores(0.02, math.inf))
    worse = make_run("worse", scores=scores(0.03, 50.0))
    (group,) = leaderboard.tables([luckier, worse, lucky, originals]).values()
    assert [run.tokenizer for run in group] == ["control-identity", "lucky", "luckier", "worse"]
    (group,) = leaderboard.tables([luckier, worse, lucky]).values()
    assert [run.tokenizer for run in group] == ["luckier", "lucky", "worse"]


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
    assert "| 1 | perfect | 0.2500 |" in said
    assert "∞" in said
    assert "Not scored: lpips: alex is not here." in said
    assert "Not ranked (made-up weights or a part of the task): part, made-up." in said


def test_groups_are_ordered_as_numbers() -> None:
    groups = {height: {"lpips": Score(value=0.1, scored=1, expected=1)} for height in ("16", "8", "48")}
    said = leaderboard.to_markdown([make_run(scores=scores(0.1), groups={"cap_height": groups})])
    assert "LPIPS by cap height:\n\n| tokenizer | 8 | 16 | 48 |" in said


# --- the gate ---------------------------------------------------------------------------------------------------------


def saved(folder: Path, values: np.ndarray, metric: str = "psnr", **change: object) -> tuple[Run, Path]:
    score = Score(value=float(values.mean()), scored=len(values), expected=len(values))
    run = make_run(scores={metric: score, "rfid": Score(value=2.0, scored=9, expected=9)}, **change)
    folder.mkdir()
    results.write(run, folder / results.RUN)
    table = pd.DataFrame({"id": [f"{index}.png" for index in range(len(values))], metric: values})
    table.to_parquet(folder / results.IMAGES)
    return results.find_run(folder, folder.parent)


BASE = np.random.default_rng(0).normal(25, 3, 40)
NOISE = np.random.default_rng(1).normal(0, 0.05, 40)


@pytest.mark.parametrize(
    ("change", "allowed", "failed"),
    [
        (0.0, 0.0, False),
        (-0.3 + NOISE, 0.1, True),
        (-0.3 + NOISE, 0.5, False),
        (+0.3 + NOISE, 0.0, False),
        (-0.2 + 60 * NOISE, 0.1, False),  # a drop that the spread between pictures explains
    ],
)
def test_gate_fails_on_a_drop_beyond_what_is_allowed(
    tmp_path: Path, change: np.ndarray | float, allowed: float, failed: bool
) -> None:
    ours, theirs = saved(tmp_path / "run", BASE + change), saved(tmp_path / "baseline", BASE)
    (found,) = leaderboard.check(ours, theirs, {"psnr": allowed})
    assert found.failed is failed
    assert found.drop.mean == pytest.approx(-np.mean(change), abs=1e-9)


def test_gate_knows_which_way_is_worse(tmp_path: Path) -> None:
    ours, theirs = saved(tmp_path / "run", BASE + 0.3, "lpips"), saved(tmp_path / "baseline", BASE, "lpips")
    assert leaderboard.check(ours, theirs, {"lpips": 0.1})[0].failed
    assert not leaderboard.check(theirs, ours, {"lpips": 0.1})[0].failed


def test_set_metric_is_compared_as_a_whole(tmp_path: Path) -> None:
    ours, theirs = saved(tmp_path / "run", BASE), saved(tmp_path / "baseline", BASE)
    (found,) = leaderboard.check(ours, theirs, {"rfid": 0.0})
    assert (found.drop.mean, found.drop.pairs, found.failed) == (0.0, 0, False)


def test_infinite_psnr_against_itself_is_no_drop(tmp_path: Path) -> None:
    perfect = np.full(8, np.inf)
    ours, theirs = saved(tmp_path / "run", perfect), saved(tmp_path / "baseline", perfect)
    assert not leaderboard.check(ours, theirs, {"psnr": 0.0})[0].failed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "text"}, "differ in task: text and reconstruction"),
        ({"task_version": 2}, "differ in task version: 2 and 1"),
        ({"digests": {"data": "other"}}, "on different pictures"),
    ],
)
def test_unlike_runs_are_not_compared(tmp_path: Path, change: dict[str, object], message: str) -> None:
    ours, theirs = saved(tmp_path / "run", BASE, **change), saved(tmp_path / "baseline", BASE)
    with pytest.raises(ResultError, match=message):
        leaderboard.check(ours, theirs, {"psnr": 0.1})


def test_metric_that_one_run_lacks_is_named_with_those_it_has(tmp_path: Path) -> None:
    ours, theirs = saved(tmp_path / "run", BASE), saved(tmp_path / "baseline", BASE)
    with pytest.raises(ResultError, match="cer: the run has no such score; both have psnr, rfid"):
        leaderboard.check(ours, theirs, {"cer": 0.1})


def test_run_without_its_table_says_where_it_was_looked_for(tmp_path: Path) -> None:
    saved(tmp_path / "run", BASE)
    (tmp_path / "run" / results.IMAGES).unlink()
    with pytest.raises(ResultError, match="its per-image table is not in"):
        results.find_run(tmp_path / "run", tmp_path)


def test_junit_names_the_failure(tmp_path: Path) -> None:
    ours, theirs = saved(tmp_path / "run", BASE - 1), saved(tmp_path / "baseline", BASE)
    suite = ElementTree.fromstring(leaderboard.to_junit("gate", leaderboard.check(ours, theirs, {"psnr": 0.1})))
    assert suite.attrib == {"name": "gate", "tests": "1", "failures": "1"}
    assert "psnr is worse by 1" in suite[0][0].attrib["message"]


# --- comparison -------------------------------------------------------------------------------------------------------


def test_comparison_says_what_the_pairs_say(tmp_path: Path) -> None:
    ours, theirs = saved(tmp_path / "run", BASE + 0.3 + NOISE), saved(tmp_path / "baseline", BASE)
    (found,) = leaderboard.contrast(ours, theirs)
    assert (found.metric, found.comparison.difference.pairs) == ("psnr", 40)
    assert found.comparison.difference.mean == pytest.approx(np.mean(0.3 + NOISE))
    assert found.first - found.second == pytest.approx(np.mean(0.3 + NOISE))
    assert found.comparison.difference.low > 0.25
    assert found.adjusted == found.comparison.sign_flip < 0.001
    (back,) = leaderboard.contrast(theirs, ours)
    assert back.comparison.difference.mean == pytest.approx(-found.comparison.difference.mean)


def test_comparison_corrects_for_the_number_of_metrics(tmp_path: Path) -> None:
    places = []
    for name, shift in (("run", 0.02), ("baseline", 0.0)):
        place = saved(tmp_path / name, BASE)
        table = pd.DataFrame(
            {"id": [f"{index}.png" for index in range(40)], "psnr": BASE + shift * NOISE, "ssim": BASE}
        )
        table["lpips"] = BASE + shift
        table.to_parquet(place[1])
        places.append(place)
    found = {one.metric: one for one in leaderboard.contrast(*places)}
    assert set(found) == {"psnr", "ssim", "lpips"}
    assert found["lpips"].adjusted == pytest.approx(3 * found["lpips"].comparison.sign_flip)
    assert found["ssim"].adjusted == 1.0


def test_documents_are_compared_as_a_whole(tmp_path: Path) -> None:
    places = []
    for name, shift in (("run", 1.0), ("baseline", 0.0)):
        place = saved(tmp_path / name, BASE[:12])
        documents = [f"d{index // 4}" for index in range(12)]
        ids = [f"{index}.png" for index in range(12)]
        pd.DataFrame({"id": ids, "document": documents, "psnr": BASE[:12] + shift}).to_parquet(place[1])
        places.append(place)
    (found,) = leaderboard.contrast(*places)
    assert found.comparison.sign_flip == pytest.approx(0.25)


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
    assert [run.stem for run in runs] == ["jpeg-q5", "jpeg-q5@seed-voken"]
