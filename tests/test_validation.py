"""A folder of results of several people: each fault is named at its file, and at no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders import make_run

from vtbench import results, validation
from vtbench.results import Run


def placed(folder: Path, run: Run) -> Path:
    path = folder / run.task / f"{run.name}.json"
    results.write(run, path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("jpeg-q5", "jpeg-q10", "jpeg-q20"):
        placed(tmp_path, make_run(name))
    assert not validation.validate(tmp_path).problems
    return tmp_path


def only_problem(folder: Path) -> tuple[str, str]:
    problems = validation.validate(folder).problems
    assert len(problems) == 1, problems
    return problems[0].file, problems[0].problem


def test_another_task_version_is_named(folder: Path) -> None:
    placed(folder, make_run("jpeg-q20", task_version=2))
    file, problem = only_problem(folder)
    assert file == "reconstruction/jpeg-q20.json" and "version 2" in problem and "most have 1" in problem


def test_other_pictures_are_named(folder: Path) -> None:
    digests = make_run().digests | {"data": "0" * 64}
    placed(folder, make_run("jpeg-q20", digests=digests))
    file, problem = only_problem(folder)
    assert file == "reconstruction/jpeg-q20.json" and "other pictures" in problem


def test_a_copy_is_misplaced_and_a_duplicate(folder: Path) -> None:
    results.write(make_run("jpeg-q5"), folder / "reconstruction" / "zz.json")
    problems = validation.validate(folder).problems
    assert {one.file for one in problems} == {"reconstruction/zz.json"}
    assert any("belongs at reconstruction/jpeg-q5.json" in one.problem for one in problems)
    assert any("same run as reconstruction/jpeg-q5.json" in one.problem for one in problems)


@pytest.mark.parametrize("word", ["NaN", "Infinity"])
def test_bare_words_are_no_json(folder: Path, word: str) -> None:
    path = folder / "reconstruction" / "jpeg-q20.json"
    text = path.read_text()
    assert "24.5" in text
    path.write_text(text.replace("24.5", word))
    assert only_problem(folder)[0] == "reconstruction/jpeg-q20.json"


def test_an_old_schema_is_named(folder: Path) -> None:
    path = folder / "reconstruction" / "jpeg-q20.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 2}))
    file, problem = only_problem(folder)
    assert file == "reconstruction/jpeg-q20.json" and "another version of vtbench" in problem


def test_an_edited_count_and_a_lost_digest_are_named(folder: Path) -> None:
    path = folder / "reconstruction" / "jpeg-q20.json"
    said = json.loads(path.read_text())
    said["pictures"]["scored"] = 31
    path.write_text(json.dumps(said))
    assert "don't add up" in only_problem(folder)[1]
    digests = {name: value for name, value in make_run().digests.items() if name != "table"}
    placed(folder, make_run("jpeg-q20", digests=digests))
    assert "no digest of table" in only_problem(folder)[1]
