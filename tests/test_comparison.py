"""Paired differences, and the gate: it fails where a run got worse, and only there."""

from __future__ import annotations

import json
import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from builders import make_run
from typer.testing import CliRunner

from vtbench import comparison, gate, results
from vtbench.catalogue import find_metric
from vtbench.cli import app
from vtbench.errors import ResultError
from vtbench.measures import Table, means
from vtbench.results import Run, Score, summarise


def saved(folder: Path, values: np.ndarray, metric: str = "psnr", **change: object) -> tuple[Run, Path]:
    known = values[~np.isnan(values)]
    score = Score(value=float(known.mean()), scored=len(known), expected=len(values))
    scores = {metric: score, "rfid": Score(value=2.0, scored=9, expected=9)}
    ids = [f"{index}.png" for index in range(len(values))]
    return saved_table(folder, pd.DataFrame({"id": ids, metric: values}), scores=scores, **change)


def saved_table(folder: Path, table: pd.DataFrame, **change: object) -> tuple[Run, Path]:
    folder.mkdir(parents=True)
    table.to_parquet(folder / results.IMAGES)
    run = make_run(**change)
    digests = {**run.digests, "table": results.table_digest((folder / results.IMAGES).read_bytes())}
    results.write(run.model_copy(update={"digests": digests}), folder / results.RUN)
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
    (found,) = comparison.check(ours, [theirs], {"psnr": allowed})
    assert found.failed is failed
    assert found.drop.mean == pytest.approx(-np.mean(change), abs=1e-9)


def test_gate_knows_which_way_is_worse(tmp_path: Path) -> None:
    ours, theirs = saved(tmp_path / "run", BASE + 0.3, "lpips"), saved(tmp_path / "baseline", BASE, "lpips")
    assert comparison.check(ours, [theirs], {"lpips": 0.1})[0].failed
    assert not comparison.check(theirs, [ours], {"lpips": 0.1})[0].failed


def test_set_metric_is_compared_as_a_whole(tmp_path: Path) -> None:
    ours, theirs = saved(tmp_path / "run", BASE), saved(tmp_path / "baseline", BASE)
    (found,) = comparison.check(ours, [theirs], {"rfid": 0.0})
    assert (found.drop.mean, found.drop.pairs, found.failed) == (0.0, 0, False)


def test_set_metric_of_fewer_pictures_fails(tmp_path: Path) -> None:
    theirs = saved(tmp_path / "baseline", BASE)
    fewer = theirs[0].model_copy(update={"scores": {"rfid": Score(value=1.0, scored=7, expected=9)}})
    (found,) = comparison.check((fewer, theirs[1]), [theirs], {"rfid": 0.0})
    assert found.reason == "2 pictures are scored on one side alone"
    assert not comparison.check((fewer, theirs[1]), [theirs], {"rfid": 0.0}, allow_missing=2)[0].failed


def test_infinite_psnr_against_itself_is_no_drop(tmp_path: Path) -> None:
    perfect = np.full(8, np.inf)
    ours, theirs = saved(tmp_path / "run", perfect), saved(tmp_path / "baseline", perfect)
    assert not comparison.check(ours, [theirs], {"psnr": 0.0})[0].failed


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
        comparison.check(ours, [theirs], {"psnr": 0.1})


@pytest.mark.parametrize(
    ("metric", "file", "other", "message"),
    [
        ("cer", "easyocr/version", "rapidocr/version", "read by rapidocr and by easyocr; .* same --ocr"),
        ("cer", "easyocr/version", "easyocr/version", "differ in easyocr/version"),
        ("lpips", "lpips-alex/file", "lpips-alex/file", "differ in lpips-alex/file"),
    ],
)
def test_what_another_backbone_computed_is_not_compared(
    tmp_path: Path, metric: str, file: str, other: str, message: str
) -> None:
    ours = saved(tmp_path / "run", BASE, metric, digests={other: "1"})
    theirs = saved(tmp_path / "baseline", BASE, metric, digests={file: "2"})
    with pytest.raises(ResultError, match=message):
        comparison.check(ours, [theirs], {metric: 0.1})
    with pytest.raises(ResultError, match=message):
        comparison.contrast(ours, theirs)
    same = saved(tmp_path / "same", BASE, "psnr", digests={other: "1"})
    assert not comparison.check(same, [saved(tmp_path / "psnr", BASE, digests={file: "2"})], {"psnr": 0.1})[0].failed


def test_metric_that_one_run_lacks_is_named_with_those_it_has(tmp_path: Path) -> None:
    ours, theirs = saved(tmp_path / "run", BASE), saved(tmp_path / "baseline", BASE)
    with pytest.raises(ResultError, match="cer: jpeg-q5 has no such score; metrics of both runs: psnr, rfid"):
        comparison.check(ours, [theirs], {"cer": 0.1})


def test_run_without_its_table_says_where_it_was_looked_for(tmp_path: Path) -> None:
    saved(tmp_path / "run", BASE)
    (tmp_path / "run" / results.IMAGES).unlink()
    with pytest.raises(ResultError, match="its per-image table is not in"):
        results.find_run(tmp_path / "run", tmp_path)


def test_junit_names_the_failure(tmp_path: Path) -> None:
    ours, theirs = saved(tmp_path / "run", BASE - 1), saved(tmp_path / "baseline", BASE)
    suite = ElementTree.fromstring(
        gate.to_junit([gate.Verdict(ours, [theirs], comparison.check(ours, [theirs], {"psnr": 0.1}))])
    )
    assert suite.attrib == {"name": "vtbench.reconstruction.jpeg-q5", "tests": "1", "failures": "1"}
    assert "psnr: worse by 1" in suite[0][1].attrib["message"]
    assert {one.attrib["name"] for one in suite[0][0]} == {"baseline", "value", "drop", "low", "high", "allowed"}


# --- comparison -------------------------------------------------------------------------------------------------------


def test_comparison_says_what_the_pairs_say(tmp_path: Path) -> None:
    ours, theirs = saved(tmp_path / "run", BASE + 0.3 + NOISE), saved(tmp_path / "baseline", BASE)
    (found,) = comparison.contrast(ours, theirs)
    assert (found.metric, found.comparison.difference.pairs) == ("psnr", 40)
    assert found.comparison.difference.mean == pytest.approx(np.mean(0.3 + NOISE))
    assert found.first - found.second == pytest.approx(np.mean(0.3 + NOISE))
    assert found.comparison.difference.low > 0.25
    assert found.adjusted == found.comparison.sign_flip < 0.001
    (back,) = comparison.contrast(theirs, ours)
    assert back.comparison.difference.mean == pytest.approx(-found.comparison.difference.mean)


def test_comparison_corrects_for_the_number_of_metrics(tmp_path: Path) -> None:
    places = []
    for name, shift in (("run", 0.02), ("baseline", 0.0)):
        ids = [f"{index}.png" for index in range(40)]
        table = pd.DataFrame({"id": ids, "psnr": BASE + shift * NOISE, "ssim": BASE, "lpips": BASE + shift})
        places.append(saved_table(tmp_path / name, table))
    found = {one.metric: one for one in comparison.contrast(*places)}
    assert set(found) == {"psnr", "ssim", "lpips"}
    assert found["lpips"].adjusted == pytest.approx(3 * found["lpips"].comparison.sign_flip)
    assert found["ssim"].adjusted == 1.0


def test_documents_are_compared_as_a_whole(tmp_path: Path) -> None:
    places = []
    for name, shift in (("run", 1.0), ("baseline", 0.0)):
        documents = [f"d{index // 4}" for index in range(12)]
        ids = [f"{index}.png" for index in range(12)]
        table = pd.DataFrame({"id": ids, results.CLUSTER: documents, "psnr": BASE[:12] + shift})
        places.append(saved_table(tmp_path / name, table))
    (found,) = comparison.contrast(*places)
    assert found.comparison.sign_flip == pytest.approx(0.25)


def test_pictures_without_a_document_are_no_document(tmp_path: Path) -> None:
    """In means, as in comparisons: each is by itself."""
    found = []
    for name, lacking in (("missing", [None, None, "", ""]), ("own", ["w", "x", "y", "z"])):
        documents = ["d", "d", "e", "e", *lacking]
        table = pd.DataFrame({"id": [f"{index}.png" for index in range(8)], results.CLUSTER: documents})
        sides = [
            saved_table(tmp_path / f"{name}{shift}", table.assign(psnr=BASE[:8] + shift * NOISE[:8]))
            for shift in (0, 1)
        ]
        columns = pa.table({results.CLUSTER: documents, "psnr": BASE[:8]})
        mean = means(find_metric("psnr"), Table(columns, intervals=lambda _: True))["psnr"]
        found.append((comparison.contrast(*sides), mean))
    assert found[0] == found[1]
    assert mean != summarise(list(BASE[:8]), 8, "no")


def two_runs(folder: Path, first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> list[tuple[Run, Path]]:
    ids = [f"{index}.png" for index in range(8)]
    tables = {"run": pd.DataFrame({"id": ids, **first}), "baseline": pd.DataFrame({"id": ids, **second})}
    return [saved_table(folder / name, table) for name, table in tables.items()]


def test_pictures_left_out_for_being_infinite_are_counted(tmp_path: Path) -> None:
    place, endless = np.arange(8), np.full(8, np.inf)
    first = {"psnr": BASE[:8], "smallest_line": np.where(place < 3, np.inf, 0.5), "flat_noise": endless}
    second = {"psnr": BASE[:8], "smallest_line": np.where(place == 2, np.inf, 1.0), "flat_noise": BASE[:8]}
    found = {one.metric: one for one in comparison.contrast(*two_runs(tmp_path, first, second))}
    assert set(found) == {"psnr", "smallest_line", "flat_noise"}
    line = found["smallest_line"]
    assert (line.left_out, line.infinite, line.first, line.second) == (3, (3, 1), 0.5, 1.0)
    assert line.comparison is not None and line.comparison.difference.pairs == 5
    noise = found["flat_noise"]
    assert (noise.comparison, noise.first, noise.left_out, noise.infinite) == (None, None, 8, (8, 0))
    assert noise.reason == "every picture is infinite in one of the runs"
    assert (found["psnr"].left_out, found["psnr"].reason) == (0, None)
    # One that no picture has in both is there with its reason too; one that no picture has at all is not.
    lacking = np.full(8, np.nan)
    first = {"psnr": BASE[:8], "lpips": BASE[:8], "ssim": lacking}
    second = {"psnr": BASE[:8], "lpips": lacking, "ssim": lacking}
    found = {one.metric: one for one in comparison.contrast(*two_runs(tmp_path / "b", first, second))}
    assert {name: one.reason for name, one in found.items()} == {
        "psnr": None,
        "lpips": "no picture has it in both runs",
    }


def test_compare_says_what_it_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = {"psnr": BASE[:8], "smallest_line": np.where(np.arange(8) < 3, np.inf, 0.5), "lpips": np.full(8, np.inf)}
    second = {"psnr": BASE[:8], "smallest_line": np.full(8, 1.0), "lpips": BASE[:8]}
    two_runs(tmp_path, first, second)
    said = CliRunner().invoke(app, ["compare", "run", "baseline"])
    assert said.exit_code == 0, said.output
    assert (
        "smallest_line: 3 pictures are infinite and left out; 3 are so in the first run, 0 in the second."
        in said.stdout
    )
    assert "lpips is not compared: every picture is infinite in one of the runs." in said.stdout
    assert "scored in one of the runs alone" not in said.stdout
    done = CliRunner().invoke(app, ["compare", "run", "baseline", "--json"])
    rows = {row["metric"]: row for row in json.loads(done.stdout, parse_constant=pytest.fail)["metrics"]}
    assert (rows["smallest_line"]["left_out"], rows["smallest_line"]["infinite"]) == (3, [3, 0])
    assert (rows["lpips"]["difference"], rows["lpips"]["pictures"], rows["psnr"]["reason"]) == (None, 0, None)
    assert rows["lpips"]["reason"] == "every picture is infinite in one of the runs"


# --- what the gate must not overlook ----------------------------------------------------------------------------------


def test_pictures_missing_on_one_side_fail_unless_allowed(tmp_path: Path) -> None:
    short = np.where(np.arange(40) < 3, np.nan, BASE + 1.0)
    ours, theirs = saved(tmp_path / "run", short), saved(tmp_path / "baseline", BASE)
    (found,) = comparison.check(ours, [theirs], {"psnr": 0.1})
    assert (found.missing, found.failed) == (3, True)
    assert found.reason == "3 pictures are scored on one side alone"
    assert not comparison.check(ours, [theirs], {"psnr": 0.1}, allow_missing=3)[0].failed
    # Means are of the same pictures: those that the run lacks count on neither side.
    assert found.baseline == pytest.approx(BASE[3:].mean())
    assert found.value == pytest.approx(BASE[3:].mean() + 1.0)


def test_a_metric_that_becomes_infinite_got_worse(tmp_path: Path) -> None:
    endless = np.where(np.arange(40) < 2, np.inf, BASE)
    ours = saved(tmp_path / "run", endless, "smallest_line")
    theirs = saved(tmp_path / "baseline", BASE, "smallest_line")
    (found,) = comparison.check(ours, [theirs], {"smallest_line": 0.5})
    assert found.reason == "2 pictures became infinitely worse"
    assert not comparison.check(theirs, [ours], {"smallest_line": 0.5})[0].failed


def test_the_gate_caps_as_a_mean_does(tmp_path: Path) -> None:
    theirs = saved(tmp_path / "baseline", BASE)
    best, worst = (saved(tmp_path / f"{end}", np.where(np.arange(40) < 1, end, BASE)) for end in (np.inf, -np.inf))
    assert not comparison.check(best, [theirs], {"psnr": 0.1})[0].failed
    assert comparison.check(worst, [theirs], {"psnr": 0.1})[0].reason == "1 pictures became infinitely worse"


def test_equal_pictures_are_no_drop_from_one_level_of_one_pixel(tmp_path: Path) -> None:
    """That is 101 dB at 256 px, and an infinite PSNR counts 100: the finite one may not count more."""
    better = saved(tmp_path / "run", np.where(np.arange(40) < 4, np.inf, BASE))
    theirs = saved(tmp_path / "baseline", np.where(np.arange(40) < 4, 101.07, BASE))
    (found,) = comparison.check(better, [theirs], {"psnr": 0.0})
    assert (found.drop.mean, found.failed) == (0.0, False)


def test_pictures_that_are_infinite_everywhere_were_scored(tmp_path: Path) -> None:
    """Where one side lacks some besides, it is these that it fails for."""
    endless = np.full(8, np.inf)
    ours = saved(tmp_path / "run", np.where(np.arange(8) < 2, np.nan, endless), "smallest_line")
    theirs = saved(tmp_path / "baseline", endless, "smallest_line")
    assert (
        comparison.check(ours, [theirs], {"smallest_line": 0.0})[0].reason == "2 pictures are scored on one side alone"
    )
    assert not comparison.check(ours, [theirs], {"smallest_line": 0.0}, allow_missing=2)[0].failed


def test_nan_as_an_amount_is_refused(tmp_path: Path) -> None:
    ours, theirs = saved(tmp_path / "run", BASE), saved(tmp_path / "baseline", BASE)
    with pytest.raises(ResultError, match="expected 0 or more"):
        comparison.check(ours, [theirs], {"psnr": math.nan})


def test_one_picture_gives_a_difference_without_a_test(tmp_path: Path) -> None:
    ours, theirs = saved(tmp_path / "run", BASE[:1] - 1.0), saved(tmp_path / "baseline", BASE[:1])
    (found,) = comparison.check(ours, [theirs], {"psnr": 0.1})
    assert (found.drop.low, found.drop.high, found.adjusted, found.failed) == (None, None, None, True)
    (contrast,) = comparison.contrast(ours, theirs)
    assert (contrast.comparison.wilcoxon, contrast.adjusted) == (None, None)


def test_several_baselines_cover_the_training_seed(tmp_path: Path) -> None:
    """Four runs of other seeds lie as far apart as the new one from their mean: no alarm; a real drop still is one."""
    seeds = [saved(tmp_path / f"seed{seed}", BASE + shift) for seed, shift in enumerate((-0.3, -0.1, 0.1, 0.3))]
    ours = saved(tmp_path / "run", BASE - 0.35 + NOISE)
    assert comparison.check(ours, [seeds[3]], {"psnr": 0.1})[0].failed
    assert not comparison.check(ours, seeds, {"psnr": 0.1})[0].failed
    broken = saved(tmp_path / "broken", BASE - 5.0 + NOISE)
    assert comparison.check(broken, seeds, {"psnr": 0.1})[0].failed


def test_unchanged_runs_raise_no_alarm(tmp_path: Path) -> None:
    """A run whose pictures differ from the baseline's by noise alone passes, fifty times of fifty."""
    theirs = saved(tmp_path / "baseline", BASE)
    for trial in range(50):
        noise = np.random.default_rng(100 + trial).normal(0, 0.2, 40)
        ours = saved(tmp_path / f"run{trial}", BASE + noise)
        assert not comparison.check(ours, [theirs], {"psnr": 0.1})[0].failed, trial


def test_a_table_edited_by_hand_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "run", BASE)
    path = tmp_path / "run" / results.IMAGES
    table = pd.read_parquet(path)
    table.assign(psnr=table["psnr"] + 1.0).to_parquet(path)
    with pytest.raises(ResultError, match="per-image table"):
        results.find_run(tmp_path / "run", tmp_path)


def test_gate_corrects_for_the_number_of_metrics(tmp_path: Path) -> None:
    """A drop just significant alone passes among several unchanged metrics; without a correction it fails."""
    noise = np.random.default_rng(3).normal(0, 1, 40)
    shift = 0.36 * noise.std() - noise.mean()
    names = ("psnr", "ssim", "lpips", "gmsd", "haarpsi")
    rest = {name: np.random.default_rng(n).normal(0.5, 0.1, 40) for n, name in enumerate(names[1:])}
    ids = [f"{index}.png" for index in range(40)]
    scored = {name: Score(value=0.5, scored=40, expected=40) for name in names}
    one = saved_table(tmp_path / "a", pd.DataFrame({"id": ids, "psnr": BASE - noise - shift, **rest}), scores=scored)
    other = saved_table(tmp_path / "b", pd.DataFrame({"id": ids, "psnr": BASE, **rest}), scores=scored)
    (alone,) = comparison.check(one, [other], {"psnr": 0.0})
    among = comparison.check(one, [other], dict.fromkeys(names, 0.0))
    assert alone.failed
    assert not any(found.failed for found in among)


def test_a_run_in_the_work_folder_is_found_by_task_and_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for task in ("reconstruction", "other"):
        (tmp_path / "work" / task).mkdir(parents=True)
    ours, table = saved(tmp_path / "work" / "reconstruction" / "mine", BASE)
    monkeypatch.chdir(tmp_path)
    for name in ("reconstruction/mine", "mine"):
        assert results.find_run(Path(name), tmp_path / "work") == (ours, table)
    saved(tmp_path / "work" / "other" / "mine", BASE)
    with pytest.raises(ResultError, match=r"2 runs .* expected one of other/mine, reconstruction/mine"):
        results.find_run(Path("mine"), tmp_path / "work")
    with pytest.raises(ResultError, match=r"aaa: can't be read \(.*\); expected the JSON of a run"):
        results.find_run(Path("reconstruction") / ("a" * 300), tmp_path / "work")  # a name that no file can have
    results.write(ours.model_copy(update={"tokenizer": "a" * 300}), tmp_path / "long.json")
    with pytest.raises(ResultError, match="its per-image table is not in"):
        results.find_run(tmp_path / "long.json", tmp_path / "work")
    with pytest.raises(ResultError, match=r"reconstruction: a folder without run\.json; expected the JSON of a run"):
        results.find_run(tmp_path / "work" / "reconstruction", tmp_path / "work")


# --- what is no mean over pictures ------------------------------------------------------------------------------------


def under(protocol: str, folder: Path, psnr: float, values: np.ndarray, **change: object) -> tuple[Run, Path]:
    """Save a run whose protocol says another PSNR than the mean of its pictures."""
    found = {"psnr": Score(value=psnr, scored=len(values), expected=len(values))}
    table = pd.DataFrame({"id": [f"{index}.png" for index in range(len(values))], "psnr": values})
    return saved_table(folder, table, protocol=protocol, scores=found, **change)


def test_a_pooled_score_is_judged_as_the_protocol_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pooled PSNR falls though the mean over pictures rises."""
    ours = under("vtbench-2025", tmp_path / "run", 22.751, BASE + 1.0)
    theirs = under("vtbench-2025", tmp_path / "baseline", 28.571, BASE)
    (found,) = comparison.check(ours, [theirs], {"psnr": 0.1})
    assert (found.value, found.baseline, found.drop.low, found.adjusted) == (22.751, 28.571, None, None)
    assert found.failed and found.drop.mean == pytest.approx(5.82)
    (row,) = comparison.contrast(ours, theirs)
    assert (row.first, row.second, row.comparison) == (22.751, 28.571, None)
    assert row.difference == pytest.approx(-5.82)
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(app, ["compare", "run", "baseline"]).stdout
    assert "22.751" in said and "28.571" in said and "psnr has no test: vtbench-2025 makes it of all" in said
    (told,) = json.loads(CliRunner().invoke(app, ["compare", "run", "baseline", "--json"]).stdout)["metrics"]
    assert (told["first"], told["pictures"], told["difference"]) == (22.751, 0, pytest.approx(-5.82))


def test_means_of_batches_are_tested_where_all_batches_are_whole(tmp_path: Path) -> None:
    for count, tested in ((40, True), (38, False)):
        sides = [
            under("seed-voken", tmp_path / f"{name}{count}", 25.0, BASE[:count] + shift * NOISE[:count])
            for name, shift in (("run", 1), ("baseline", 0))
        ]
        assert (comparison.check(sides[0], sides[1:], {"psnr": 1.0})[0].drop.low is not None) is tested
        assert (comparison.contrast(*sides)[0].comparison is not None) is tested


def test_published_protocols_cap_nothing_in_comparisons(tmp_path: Path) -> None:
    ours = under("vfm-vae", tmp_path / "run", 101.0, BASE + 75.0)
    theirs = under("vfm-vae", tmp_path / "baseline", 102.0, BASE + 76.0)
    (found,) = comparison.check(ours, [theirs], {"psnr": 0.1})
    assert found.drop.mean == pytest.approx(1.0) and found.failed
    perfect = under("vfm-vae", tmp_path / "perfect", math.inf, np.where(np.arange(40) < 2, np.inf, BASE + 76.0))
    assert not comparison.check(perfect, [theirs], {"psnr": 0.1})[0].failed  # infinite, and better
    assert comparison.check(theirs, [perfect], {"psnr": 0.1})[0].reason == "2 pictures became infinitely worse"


# --- what has no value, or another network's --------------------------------------------------------------------------


def test_a_run_that_lost_a_metric_fails_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    none = {"psnr": Score(value=None, reason="all pictures failed", scored=0, expected=40)}
    ids = [f"{index}.png" for index in range(40)]
    ours = saved_table(tmp_path / "run", pd.DataFrame({"id": ids, "psnr": np.full(40, np.nan)}), scores=none)
    theirs = saved(tmp_path / "baseline", BASE)
    (found,) = comparison.check(ours, [theirs], {"psnr": 0.1})
    assert (found.failed, found.value, found.reason) == (True, None, "has no value: all pictures failed")
    with pytest.raises(ResultError, match="psnr: jpeg-q5 has no such score"):
        comparison.check(theirs, [ours], {"psnr": 0.1})
    monkeypatch.chdir(tmp_path)
    command = [
        "check",
        "run",
        "--baseline",
        "baseline",
        "--max-drop",
        "psnr=0.1",
        "--junit",
        "j.xml",
        "--markdown",
        "m",
    ]
    for form in ([], ["--json"]):
        done = CliRunner().invoke(app, [*command, *form])
        assert done.exit_code == 1, done.output
    (told,) = json.loads(done.stdout, parse_constant=pytest.fail)["checks"]
    assert (told["run"], told["reason"]) == (None, found.reason)
    assert "has no value: all pictures failed" in (tmp_path / "j.xml").read_text()


def test_an_infinite_set_metric_is_strict_json_against_several_baselines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(name: str, rfid: float) -> None:
        table = pd.DataFrame({"id": ["0.png"], "psnr": [25.0]})
        saved_table(tmp_path / name, table, scores={"rfid": Score(value=rfid, scored=9, expected=9)})

    for name, rfid in (("run", math.inf), ("a", 2.0), ("b", 3.0), ("c", math.inf), ("good", 2.0)):
        run(name, rfid)
    monkeypatch.chdir(tmp_path)
    for name, baselines, worse, code in (
        ("run", "ab", "Infinity", 1),
        ("run", "ac", "Infinity", 1),
        ("good", "ac", "-Infinity", 0),
        ("run", "cc", 0.0, 0),
    ):
        against = [word for baseline in baselines for word in ("--baseline", baseline)]
        done = CliRunner().invoke(app, ["check", name, *against, "--max-drop", "rfid=0.1", "--json"])
        assert done.exit_code == code, done.output
        (told,) = json.loads(done.stdout, parse_constant=pytest.fail)["checks"]
        assert told["worse_by"] == worse


@pytest.mark.parametrize(
    ("metric", "first", "second", "message"),
    [
        ("cknna", {"foundation/config.json": "1"}, {"foundation/features": "2"}, "differ in foundation/config.json"),
        ("cknna", {"foundation/features": "2"}, {}, "differ in foundation/features"),
        ("lpips", {"lpips-alex/file": "1"}, {}, "differ in lpips-alex/file"),
        ("cer", {"easyocr/version": "1"}, {}, "read by easyocr and by no engine that it states"),
        ("lpips", {"lpips-alex/a.pth": "1"}, {"lpips-alex/b.safetensors": "2"}, None),
    ],
)
def test_what_states_no_file_in_common_is_not_compared(
    tmp_path: Path, metric: str, first: dict[str, str], second: dict[str, str], message: str | None
) -> None:
    """Of the suite's own backbones, each of which may lie here under several names, any file is the same network."""
    ours = saved(tmp_path / "run", BASE, metric, digests=first)
    theirs = saved(tmp_path / "baseline", BASE, metric, digests=second)
    for compared in (
        lambda: comparison.check(ours, [theirs], {metric: 0.1}),
        lambda: comparison.contrast(ours, theirs),
    ):
        if message is None:
            assert compared()
        else:
            with pytest.raises(ResultError, match=message):
                compared()
