"""Checks a folder of results, of one or of several people: what stands there may be compared, or is named. No torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vtbench import results
from vtbench.errors import ResultError
from vtbench.results import Run

WANTED = ("tokenizer", "task", "data", "code", "plan", "table")
"""Digests that every run has."""


@dataclass(frozen=True)
class Problem:
    """What is wrong with one file."""

    file: str
    problem: str


@dataclass(frozen=True)
class Report:
    """What a folder holds."""

    runs: int
    problems: tuple[Problem, ...]


def validate(folder: Path) -> Report:
    """Look at every JSON below `<folder>/<task>/`: schema, place, digests, values, duplicates, versions, pictures.

    Raises:
        ResultError: if there is no such folder.
    """
    if not folder.is_dir():
        raise ResultError(f"{folder}: no such folder; expected the folder of the summaries")
    found: dict[str, Run] = {}
    problems: list[Problem] = []
    for path in sorted(path for path in folder.rglob("*.json") if not path.name.startswith(".")):
        shown = path.relative_to(folder).as_posix()
        try:
            run = results.read_run(path)
            _strict(path)
        except ResultError as error:
            problems.append(Problem(shown, str(error).removeprefix(f"{path}: ")))
            continue
        found[shown] = run
        problems += [Problem(shown, what) for what in _of_one(shown, run)]
    problems += _of_all(found)
    return Report(len(found), tuple(sorted(problems, key=lambda one: (one.file, one.problem))))


def _strict(path: Path) -> None:
    """Refuse what other parsers than Python's do not read: NaN and Infinity as bare words."""

    def refuse(word: str) -> None:
        raise ResultError(f"{path}: holds {word}, which is no JSON; it was written by another program")

    json.loads(path.read_bytes(), parse_constant=refuse)


def _of_one(shown: str, run: Run) -> Iterator[str]:
    wanted = f"{run.task}/{run.name}.json"
    if shown != wanted:
        yield f"belongs at {wanted}"
    lacking = [name for name in WANTED if not run.digests.get(name)]
    if run.weights in ("published", "packaged", "local") and not run.digests.get("weights"):
        lacking.append("weights")
    if lacking:
        yield f"states no digest of {', '.join(lacking)}"
    if run.weights == "local" and not run.label:
        yield "has local weights and no label, so it goes by the published model's name"
    counts = run.pictures
    if counts.found != counts.scored + counts.failed + sum(counts.passed_over.values()) + counts.left_out:
        yield "its pictures don't add up: found is not scored + failed + passed over + left out"
    for name, score in run.scores.items():
        if score.scored > score.expected or score.expected != run.images:
            yield f"{name}: {score.scored} of {score.expected} pictures scored, the run has {run.images}"
        elif score.low is not None and score.high is not None and not score.low <= score.high:
            yield f"{name}: its interval ends before it begins"


def _of_all(found: dict[str, Run]) -> Iterator[Problem]:
    by_plan: dict[str, list[str]] = {}
    by_task: dict[str, list[str]] = {}
    for shown, run in found.items():
        by_plan.setdefault(f"{run.digests.get('plan')} {run.name}", []).append(shown)
        by_task.setdefault(run.task, []).append(shown)
    for files in by_plan.values():
        for shown in files[1:]:
            yield Problem(shown, f"is the same run as {files[0]}")
    for task, files in by_task.items():
        versions = Counter(found[shown].task_version for shown in files)
        pictures = Counter(found[shown].digests.get("data") for shown in files)
        for shown in files:
            run = found[shown]
            if run.task_version != _commonest(versions):
                yield Problem(shown, f"has version {run.task_version} of {task}, most have {_commonest(versions)}")
            elif run.digests.get("data") != _commonest(pictures):
                yield Problem(shown, f"is on other pictures than most runs of {task}")


def _commonest(counts: Counter[object] | Counter[int] | Counter[str | None]) -> object:
    ordered: Sequence[tuple[object, int]] = sorted(counts.items(), key=lambda item: (item[1], str(item[0])))
    return ordered[-1][0]
