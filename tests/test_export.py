"""Exports, read and judged by the programs of those whose formats they are."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import huggingface_hub
import pytest
import yaml
from builders import make_run

from vtbench import cards, export, results
from vtbench.errors import ResultError
from vtbench.results import Run, Score

ROOT = Path(__file__).resolve().parent.parent
TASKS = ("detail", "reconstruction", "text")
TINY = [results.read_run(ROOT / "results" / task / "tiny-fsq-f8.json") for task in TASKS]
IDENTITY = [results.read_run(ROOT / "results" / task / "control-identity.json") for task in TASKS]
MODEL = "vtbench/tiny-fsq-f8"


def to_eee(runs: list[Run], model: str | None = MODEL) -> export.Exported:
    return export.to_eee(runs, organization="us", relationship="first_party", created=1.8e9, model=model)


@pytest.mark.skipif(
    find_spec("every_eval_ever") is None and "CI" not in os.environ,
    reason="every-eval-ever is not installed: pip install --no-deps --ignore-requires-python every-eval-ever==0.3.0",
)
@pytest.mark.parametrize("runs", [TINY, IDENTITY], ids=["tokenizer", "identity"])
def test_every_eval_ever_s_validator_passes_the_record(runs: list[Run], tmp_path: Path) -> None:
    made = to_eee(runs)
    path = tmp_path / made.place
    path.parent.mkdir(parents=True)

    def judged(content: str) -> subprocess.CompletedProcess[str]:
        path.write_text(content)
        command = [sys.executable, "-m", "every_eval_ever.validate", made.place]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    done = judged(made.content)
    assert done.returncode == 0 and "1 passed, 0 warning-only" in done.stdout, done.stdout + done.stderr
    assert judged(made.content.replace('"lower_is_better"', '"lower"')).returncode != 0  # it looks inside


def test_a_record_says_what_the_runs_say() -> None:
    said = json.loads(to_eee(TINY).content)
    found = {one["evaluation_result_id"]: one for one in said["evaluation_results"]}
    score = TINY[1].scores["lpips"]
    one = found["reconstruction/tiny-fsq-f8/lpips"]
    assert one["score_details"]["score"] == score.value
    assert one["score_details"]["uncertainty"]["confidence_interval"]["lower"] == score.low
    assert one["metric_config"]["lower_is_better"] is True
    assert found["reconstruction/tiny-fsq-f8/psnr"]["metric_config"]["lower_is_better"] is False
    levels = [one for one in found.values() if one["metric_config"].get("metric_parameters")]
    assert levels and all(one["evaluation_name"] == "detail" for one in levels)


def test_what_nothing_here_measures_is_left_out_and_named() -> None:
    scores = {**TINY[1].scores, "sharpness": Score(value=1.0, scored=29, expected=29)}
    made = to_eee([TINY[1].model_copy(update={"scores": scores})])
    assert "reconstruction/tiny-fsq-f8: sharpness: no installed package measures it" in made.left_out
    assert "sharpness" not in made.content


def test_what_a_format_can_t_hold_is_named() -> None:
    left_out = to_eee(IDENTITY).left_out
    assert any("reconstruction/control-identity: psnr: is infinite" in one for one in left_out)
    assert any("spectral_ratio" in one and "best at 1" in one for one in left_out)
    assert any("rfid" in one and "vtbench fetch rfid" in one for one in left_out)
    said = json.loads(to_eee(IDENTITY).content)["evaluation_results"]
    scores = sum(len(run.scores) for run in IDENTITY)
    assert len(said) + len(left_out) == scores and all(math.isfinite(one["score_details"]["score"]) for one in said)


def test_the_same_runs_have_the_same_place() -> None:
    assert to_eee(TINY).place == to_eee(TINY[::-1]).place != to_eee(TINY[:1]).place


def test_the_hub_s_library_reads_the_evaluation_results() -> None:
    if not hasattr(huggingface_hub, "parse_eval_result_entries"):
        pytest.skip("this huggingface_hub knows no .eval_results")
    made = export.to_eval_results(TINY, dataset="me/bench", model=MODEL, source="https://example.org/runs")
    said = yaml.safe_load(made.content)
    entries = huggingface_hub.parse_eval_result_entries(said)
    assert huggingface_hub.eval_result_entries_to_yaml(entries) == said
    assert [entry.value for entry in entries] == [run.scores[run.primary].value for run in TINY]
    assert [entry.task_id for entry in entries] == list(TASKS)
    assert made.place.startswith(".eval_results/")


def test_another_protocol_is_another_task_of_the_evaluation_results() -> None:
    runs = [make_run(), make_run(protocol="vtbench-2025")]
    made = yaml.safe_load(export.to_eval_results(runs, dataset="me/bench", model=MODEL).content)
    assert [one["dataset"]["task_id"] for one in made] == ["reconstruction", "reconstruction@vtbench-2025"]
    half = [make_run(), make_run(precision="bf16")]
    with pytest.raises(ResultError, match=r"reconstruction/jpeg-q5 and reconstruction/jpeg-q5\+bf16 .*export each"):
        export.to_eval_results(half, dataset="me/bench", model=MODEL)


def test_a_model_card_takes_the_model_index(tmp_path: Path) -> None:
    made = export.to_model_index(TINY, model=MODEL)
    card = huggingface_hub.ModelCard(f"---\nlicense: apache-2.0\n{made.content}---\n# Tiny\n")
    found = card.data.eval_results
    assert found is not None
    values = {(one.task_name, one.metric_type): one.metric_value for one in found}
    assert values["reconstruction", "lpips"] == TINY[1].scores["lpips"].value
    assert len(values) == len(found) == sum(len(run.scores) for run in TINY) - len(made.left_out)
    assert card.data.to_dict()["model-index"] == yaml.safe_load(made.content)["model-index"]  # nothing is lost


def test_tasks_of_one_data_set_are_entries_of_their_own() -> None:
    tasks = [card.name for card in cards.tasks().values() if card.data.hub][:3]
    assert len({cards.find_task(task).data.hub for task in tasks}) < len(tasks)
    made = yaml.safe_load(export.to_model_index([make_run(task=task) for task in tasks], model=MODEL).content)
    assert sorted(one["dataset"]["name"] for one in made["model-index"][0]["results"]) == sorted(tasks)


@pytest.mark.parametrize(
    ("runs", "model", "words"),
    [
        ([make_run(weights="synthetic")], MODEL, "made-up weights"),
        ([make_run(limit=2)], MODEL, "first 32 pictures alone"),
        ([make_run(), make_run()], MODEL, "there twice"),
        ([make_run("jpeg-q5"), make_run("jpeg-q10")], MODEL, "several models"),
        (
            [make_run(task=one, digests={"weights": one[0] * 64}) for one in TASKS[:2]],
            MODEL,
            "weights differ .*, of reconstruction/jpeg-q5 rrrrrrrr.; a file is of one",
        ),
        ([make_run()], None, "--model OWNER/NAME"),
        ([make_run()], "no-owner", "--model OWNER/NAME"),
        ([], MODEL, "no runs"),
        ([make_run(scores={"psnr": Score(value=math.inf, scored=32, expected=32)})], MODEL, "nothing to export"),
    ],
)
def test_what_is_no_result_is_refused(runs: list[Run], model: str | None, words: str) -> None:
    with pytest.raises(ResultError, match=words):
        to_eee(runs, model)


def test_the_card_s_repository_is_that_of_published_weights_alone() -> None:
    published = make_run("ibq-16384", weights="published")
    assert json.loads(to_eee([published], None).content)["model_info"]["id"].count("/") == 1
    with pytest.raises(ResultError, match="--model OWNER/NAME"):
        to_eee([make_run("ibq-16384", weights="local", label="mine")], None)


def test_tasks_outside_of_the_hub_need_a_benchmark() -> None:
    with pytest.raises(ResultError, match="--dataset OWNER/NAME"):
        export.to_eval_results(TINY, model=MODEL)


def exported(*said: str) -> subprocess.CompletedProcess[str]:
    """Run `vtbench export` on two runs of one tokenizer."""
    files = [str(ROOT / "results" / task / "tiny-fsq-f8.json") for task in TASKS[:2]]
    command = [sys.executable, "-m", "vtbench", "export", *files, *said]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_writes_what_the_functions_make(tmp_path: Path) -> None:
    made = exported("--to", "model-index", "--model", MODEL)
    assert made.returncode == 0, made.stderr
    assert made.stdout == export.to_model_index(TINY[:2], model=MODEL).content
    assert "vtbench: left out: reconstruction/tiny-fsq-f8" in made.stderr
    wanted = export.to_eval_results(TINY[:2], dataset="us/pictures", model=MODEL)
    said = ("--to", "eval-results", "--model", MODEL, "--dataset", "us/pictures")
    assert exported(*said, "--out", str(tmp_path / "own.yaml")).returncode == 0
    assert (tmp_path / "own.yaml").read_text() == wanted.content
    who = ("--model", MODEL, "--organization", "us", "--relationship", "first_party")
    into = exported("--to", "eee", *who, "--out", str(tmp_path / "records"))
    assert into.returncode == 0, into.stderr
    (record,) = (tmp_path / "records").rglob("*.json")
    assert record.is_relative_to(tmp_path / "records" / "data") and json.loads(record.read_text())


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (("--to", "eee"), "--organization NAME"),
        (("--to", "model-index", "--out", "folder"), "expected a file such as folder.yaml"),
    ],
)
def test_what_the_command_lacks_is_one_line(said: tuple[str, ...], told: str) -> None:
    done = exported(*said)
    assert done.returncode == 2
    assert told in done.stderr and done.stderr.count("\n") == 1
