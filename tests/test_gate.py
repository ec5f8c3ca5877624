"""The gate of a project: its section of pyproject.toml, what it writes for GitHub, and the example's workflow."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from builders import make_run
from typer.testing import CliRunner, Result
from workflows import Done, Runner

from vtbench import gate, results
from vtbench.cli import app
from vtbench.errors import ResultError
from vtbench.results import Score
from vtbench.statistics import Difference

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "ci"

BASE = np.random.default_rng(0).normal(25, 3, 40)

SECTION = """
[tool.vtbench.check]
run = "now/{task}/mine"
baseline = "released/{task}/mine"
[tool.vtbench.check.max-drop.reconstruction]
psnr = 0.1
lpips = 0.01
[tool.vtbench.check.max-drop.text]
cer = 0.02
"""


def save(folder: Path, task: str, **columns: np.ndarray) -> None:
    folder.mkdir(parents=True)
    ids = [f"{index}.png" for index in range(40)]
    pd.DataFrame({"id": ids, **columns}).to_parquet(folder / results.IMAGES)
    scores = {name: Score(value=float(values.mean()), scored=40, expected=40) for name, values in columns.items()}
    run = make_run("mine", task, scores=scores)
    digests = {**run.digests, "table": results.table_digest((folder / results.IMAGES).read_bytes())}
    results.write(run.model_copy(update={"digests": digests}), folder / results.RUN)


def project(folder: Path, *, worse: float = 0.0) -> Path:
    """A pyproject with the runs that it names; CER is worse by so much."""
    for side, drop in (("released", 0.0), ("now", worse)):
        save(folder / side / "reconstruction" / "mine", "reconstruction", psnr=BASE, lpips=BASE / 100)
        save(folder / side / "text" / "mine", "text", cer=BASE / 100 + drop)
    (folder / "pyproject.toml").write_text(SECTION)
    return folder / "pyproject.toml"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def check(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["check", *map(str, arguments)])


# --- the section of pyproject.toml ------------------------------------------------------------------------------------


def test_an_amount_without_a_task_says_where_it_belongs(here: Path) -> None:
    project(here)
    (here / "pyproject.toml").write_text(
        SECTION.split("[tool.vtbench.check.max-drop")[0] + "[tool.vtbench.check.max-drop]\npsnr = 0.1\n"
    )
    with pytest.raises(ResultError, match=r"psnr: expected a task in between, such as .*max-drop\.reconstruction\]"):
        gate.judge_project(here / "pyproject.toml", here)


def test_no_number_is_minus_zero() -> None:
    difference = Difference(mean=-1e-9, low=-1e-9, high=1e-9, pairs=3)
    assert gate.interval(difference, 3) == "0.000 … 0.000"


def test_one_command_checks_all_tasks_and_metrics(here: Path) -> None:
    project(here)
    done = check("--json")
    assert done.exit_code == 0, done.output
    found = [(one["task"], [row["metric"] for row in one["checks"]]) for one in json.loads(done.stdout)]
    assert found == [("reconstruction", ["psnr", "lpips"]), ("text", ["cer"])]


def test_one_metric_of_one_task_fails_the_whole(here: Path) -> None:
    project(here, worse=0.05)
    done = check()
    assert done.exit_code == 1, done.output
    assert "worse by 0.05, allowed 0.02" in done.stdout
    assert done.stdout.count("FAILED") == 1


def test_paths_are_relative_to_the_pyproject(here: Path) -> None:
    path = project(here / "elsewhere", worse=0.05)
    assert check("--config", path).exit_code == 1
    assert isinstance(check().exception, ResultError)  # no pyproject.toml where the command stands


def test_tasks_share_one_correction(here: Path) -> None:
    """A drop just significant alone passes where other tasks are asked too: the gate is one test."""
    noise = np.random.default_rng(3).normal(0, 0.01, 40)
    drop = 0.36 * noise.std() - noise.mean() + noise
    path = project(here, worse=drop)
    path.write_text(path.read_text().replace("cer = 0.02", "cer = 0.0"))
    assert check().exit_code == 0
    alone = re.sub(r"\[tool.vtbench.check.max-drop.reconstruction\]\n.*\n.*\n", "", path.read_text())
    path.write_text(alone)
    assert check().exit_code == 1


def test_several_baselines_of_the_section(here: Path) -> None:
    path = project(here, worse=0.05)
    save(here / "other" / "reconstruction" / "mine", "reconstruction", psnr=BASE, lpips=BASE / 100)
    save(here / "other" / "text" / "mine", "text", cer=BASE / 100 + 0.06)
    text = path.read_text()
    path.write_text(text.replace('"released/{task}/mine"', '["released/{task}/mine", "other/{task}/mine"]'))
    assert check().exit_code == 0, "two seeds differ by more than the run from their mean"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[tool.vtbench.check", "[tool.others.check", r"has no \[tool.vtbench.check\]; write run and baseline"),
        ("[tool.vtbench.check]", "[tool.vtbench.check", "not TOML"),
        ('run = "now/{task}/mine"', "", "run: missing; add it"),
        ('"released/{task}/mine"', "[]", "baseline: list should have at least 1 item"),
        ("psnr = 0.1", 'psnr = "0.1"', r"max-drop.reconstruction.psnr: .* number, got '0.1'"),
        ("psnr = 0.1", "psnr = nan", "psnr is nan; expected 0 or more"),
        ("psnr = 0.1", "psnr = -1", "psnr is -1; expected 0 or more"),
        ("psnr = 0.1", "psrn = 0.1", "no metric is called 'psrn'"),
        ("cer = 0.02", "", "text names no metric"),
        ("[tool.vtbench.check]", "[tool.vtbench.check]\nallow_missing = 1", "allow_missing: unknown key"),
        ('"now/{task}/mine"', '"now/text/mine"', "a run of text; .* names it as reconstruction"),
        ('"now/{task}/mine"', '"new/{task}/mine"', "new/reconstruction/mine.*can't be read"),
        ("check.max-drop.text", 'check.max-drop."text@other"', "now/text@other/mine.*can't be read"),
    ],
)
def test_what_is_wrong_with_the_section_is_one_line(here: Path, old: str, new: str, said: str) -> None:
    path = project(here)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    error = check().exception
    assert isinstance(error, ResultError)
    assert re.search(said, str(error)), error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--baseline", "x"], "belong to a RUN"),
        (["--allow-missing", 3], "belong to a RUN"),
        (["x"], "needs --baseline and --max-drop"),
        (["x", "--baseline", "x", "--max-drop", "psnr=0.1", "--max-drop", "psnr=9"], "psnr is there twice"),
        (["x", "--config", "pyproject.toml"], "leave RUN or --config out"),
    ],
)
def test_two_ways_are_not_mixed(here: Path, arguments: list[object], said: str) -> None:
    project(here)
    error = check(*arguments).exception
    assert isinstance(error, ResultError)
    assert said in str(error)


# --- what GitHub is told ----------------------------------------------------------------------------------------------


def test_job_gets_its_summary_and_annotations(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project(here, worse=0.05)
    summary = here / "summary.md"
    summary.write_text("what an earlier command said\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    assert not re.search("^::", check("--markdown", here / "own.md").stdout, re.MULTILINE)
    assert summary.read_text() == "what an earlier command said\n"  # not on GitHub, though the variable is set
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    done = check()
    (line,) = re.findall("^::.*$", done.stdout, re.MULTILINE)
    assert line.startswith("::error title=cer of mine on text::worse by 0.05, allowed 0.02; 95%25 interval 0.05000 … ")
    assert summary.read_text() == "what an earlier command said\n" + (here / "own.md").read_text()
    written = (here / "own.md").read_text()
    assert "❌ vtbench: 1 of 3 metrics fail" in written
    rows = [line.split(" | ") for line in written.splitlines() if re.match(r"\| (psnr|lpips|cer) ", line)]
    assert [len(row) for row in rows] == [len(gate.HEADS)] * 3
    assert [row[-1] for row in rows] == ["ok |", "ok |", "**FAILED: worse by 0.05, allowed 0.02** |"]
    with_json = check("--json")
    assert json.loads(with_json.stdout)[1]["checks"][0]["failed"] is True
    assert "::error" in with_json.stderr


def test_what_cannot_be_compared_is_an_annotation_too(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project(here)
    shutil.rmtree(here / "now")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert check().stdout.startswith("::error title=vtbench check::")


def test_nothing_in_a_text_ends_an_annotation() -> None:
    line = gate.error_annotation("a,b::c", "100%\n::add-mask::x\r\n")
    assert line == "::error title=a%2Cb%3A%3Ac::100%25%0A::add-mask::x%0D%0A"


def test_hostile_names_stay_cells(here: Path) -> None:
    save(here / "now", "text", cer=BASE / 100)
    path = here / "now" / results.RUN
    path.write_text(path.read_text().replace('"mine"', '"a|b<script>\\n::error::x"'))
    done = check("now", "--baseline", "now", "--max-drop", "cer=0", "--markdown", "own.md", "--junit", "own.xml")
    assert done.exit_code == 0, done.output
    assert not re.search("^::", done.stdout, re.MULTILINE)
    written = (here / "own.md").read_text()
    assert "<script>" not in written.replace(r"\<script", "") and "\n::" not in written
    assert "script" in ElementTree.parse(here / "own.xml").getroot().attrib["name"]


def test_junit_of_several_tasks_is_one_file(here: Path) -> None:
    project(here, worse=0.05)
    check("--junit", "gate.xml")
    root = ElementTree.parse(here / "gate.xml").getroot()
    assert (root.tag, root.attrib["tests"], root.attrib["failures"]) == ("testsuites", "3", "1")
    assert [suite.attrib["name"] for suite in root] == ["vtbench.reconstruction.mine", "vtbench.text.mine"]
    numbers = {one.attrib["name"]: float(one.attrib["value"]) for one in root[1][0][0]}
    assert numbers["drop"] == pytest.approx(0.05)
    assert numbers["low"] <= numbers["drop"] <= numbers["high"]


def test_what_cannot_be_compared_is_an_error_in_the_files_too(here: Path) -> None:
    """What an earlier check wrote must not pass for this one's verdict."""
    project(here)
    files = ("--junit", "gate.xml", "--markdown", "gate.md")
    assert check(*files).exit_code == 0
    shutil.rmtree(here / "now")
    assert isinstance(check(*files).exception, ResultError)
    root = ElementTree.parse(here / "gate.xml").getroot()
    assert (root.attrib["tests"], root.attrib["errors"]) == ("1", "1")
    assert "can't be read" in root[0][0].attrib["message"] and root[0][0].tag == "error"
    assert (here / "gate.md").read_text().startswith("## ❌ vtbench: nothing was compared")


def test_infinite_values_are_strict_json(here: Path) -> None:
    save(here / "now", "text", psnr=np.full(40, np.inf))
    path = here / "now" / results.RUN
    found = json.loads(path.read_text())["scores"]["psnr"]["value"]
    assert found == "Infinity"
    done = check("now", "--baseline", "now", "--max-drop", "psnr=inf", "--json")
    (row,) = json.loads(done.stdout, parse_constant=pytest.fail)["checks"]
    assert row["allowed"] == "Infinity"


# --- the example's workflow -------------------------------------------------------------------------------------------

THERE = """
import socket, sys
sys.path.append({packages!r})

def refuse(self, address):
    raise AssertionError(f"something tried to reach {{address}}")

socket.socket.connect = refuse
"""
"""Python imports `sitecustomize` before anything else: packages of this environment stand behind one's own."""


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    home = tmp_path_factory.mktemp("runner")
    (home / "there").mkdir()
    (home / "there" / "sitecustomize.py").write_text(THERE.format(packages=sysconfig.get_path("purelib")))
    repository = home / "repository"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "."],
        cwd=EXAMPLE, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    for file in listed:  # what somebody's run left in the folder is not of the repository
        (repository / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(EXAMPLE / file, repository / file)
    environment = {
        "PYTHONPATH": str(home / "there"),
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",  # what the two packages need is in this environment
        "PIP_NO_BUILD_ISOLATION": "false",  # pip's way to say that it may not make another environment to build in
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "COLUMNS": "120",
    }
    return Runner(home, repository, {"vtbench/vtbench": ROOT}, environment)


def said(done: list[Done]) -> str:
    return "\n".join(f"$ {one.name}\n{one.output}" for one in done)


WORKFLOW = Path(".github/workflows/gate.yml")


@pytest.mark.heavy  # a minute: it installs and runs an environment of its own
def test_workflow_of_the_example(runner: Runner) -> None:
    """Unchanged it passes; with the mistake it fails, out of the cache; what can't be compared ends it with 2."""
    passed = runner.job(WORKFLOW)
    assert [one.code for one in passed] == [0] * len(passed), said(passed)
    assert "✅ vtbench: all 5 metrics within what is allowed" in runner.summary
    assert set(runner.uploaded) == {"gate.xml", "now/"}
    made = [one.name for one in passed if "-m venv" in one.name]
    assert len(made) == 1
    python = runner.home / "temp" / "vtbench" / "bin" / "python"
    code = "import vtbench, eigenpatch; print(vtbench.__file__, eigenpatch.__file__)"
    places = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True,
                            env={**os.environ, **runner.environment}, cwd="/").stdout.split()  # fmt: skip
    assert all(place.startswith(str(runner.home / "temp")) for place in places), places  # installed, both

    failed = runner.job(WORKFLOW, "patch -p1 < regression.patch")
    assert not any("-m venv" in one.name for one in failed), "the environment comes out of the cache"
    (last,) = [one for one in failed if one.code]
    assert last.name.startswith("vtbench check"), said(failed)
    assert last.code == 1
    assert re.search("^::error title=psnr of eigenpatch~new on reconstruction::worse by", last.output, re.MULTILINE)
    assert "metrics fail" in runner.summary and "❌" in runner.summary
    assert ElementTree.parse(runner.uploaded["gate.xml"]).getroot().attrib["failures"] != "0"

    other = """sed -i 's/"task_version": [0-9]*/"task_version": 99/' baseline/detail/*/run.json"""
    unlike = runner.job(WORKFLOW, other)
    (last,) = [one for one in unlike if one.code]
    assert (last.code, last.name.split()[:2]) == (2, ["vtbench", "check"]), said(unlike)
    assert "the runs differ in task version" in last.output
    assert re.search("^::error title=vtbench check::", last.output, re.MULTILINE)


def test_baseline_holds_what_the_readme_says() -> None:
    """The two files a run, of the tasks that the section names, and nothing else."""
    config = gate.read_config(EXAMPLE / "pyproject.toml")
    for task in config.max_drop:
        folder = EXAMPLE / config.baseline[0].replace("{task}", task)
        run, _ = results.find_run(folder, EXAMPLE)
        assert (run.task, run.label) == (task, "v1")


def test_readme_gives_the_commands_of_the_workflow() -> None:
    """The workflow's own command, which a test runs; and the same under the names of a baseline."""
    (block, renewed) = re.findall(r"```bash\n(.*?)```", (EXAMPLE / "README.md").read_text(), re.DOTALL)
    workflow = " ".join((EXAMPLE / WORKFLOW).read_text().split())
    ours, theirs = (next(line for line in text.splitlines() if "vtbench run" in line) for text in (block, renewed))
    assert ours in workflow
    assert theirs.replace("--name v1", "--name new").replace("--work baseline", "--work now") == ours
    described = (ROOT / "action.yml").read_text()
    for command in ("pip install", "vtbench fetch", "vtbench check"):
        assert command in block and command in described


def test_every_installation_of_the_action_is_constrained() -> None:
    """Whoever pins the action pins the numbers: the user's own package moves no library."""
    lines = [line for line in (ROOT / "action.yml").read_text().splitlines() if "pip install --quiet" in line]
    assert len(lines) == 2 and all('--constraint "$ACTION/constraints.txt"' in line for line in lines)
