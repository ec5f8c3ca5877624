"""The gate of a whole project: what a pyproject allows, and the verdict for people, programs and CI. No torch here."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from pydantic import Field, ValidationError, field_validator

from vtbench import catalogue, results
from vtbench.cards import explain
from vtbench.comparison import COVERS, COVERS_SEEDS, Check, Found, Question, check_all
from vtbench.errors import CardError, ResultError
from vtbench.leaderboard import cell
from vtbench.statistics import Difference
from vtbench.types import Strict

SECTION = "tool.vtbench.check"


class Config(Strict):
    """The section `[tool.vtbench.check]` of a pyproject. In both paths {task} stands for the name of each task."""

    run: str
    """Folder, or JSON, of the run that is held; relative to the pyproject's folder, as all paths here."""
    baseline: list[str] = Field(min_length=1)
    """The same of the runs that it is held against: one, or several of other training seeds."""
    allow_missing: int = Field(default=0, ge=0, alias="allow-missing")
    """Pictures that may be scored on one side alone."""
    max_drop: dict[str, dict[str, float]] = Field(min_length=1, alias="max-drop")
    """By task and metric, by how much it may get worse."""

    @field_validator("baseline", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("max_drop")
    @classmethod
    def _known(cls, value: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        for task, amounts in value.items():
            if not amounts:
                raise ValueError(f"{task} names no metric; expected lines such as psnr = 0.1")
            for name, amount in amounts.items():
                if not amount >= 0:
                    raise ValueError(f"{task}.{name} is {amount:g}; expected 0 or more, by how much it may get worse")
                try:
                    catalogue.find_metric(name)
                except CardError as error:
                    raise ValueError(f"{task}: {error}") from error
        return value


@dataclass(frozen=True)
class Verdict:
    """What the gate says of one run."""

    run: Found
    baselines: Sequence[Found]
    checks: Sequence[Check]

    @property
    def failed(self) -> bool:
        """Tell whether any metric fails."""
        return any(check.failed for check in self.checks)

    @property
    def title(self) -> str:
        """Say what is held against what."""
        ours, theirs = shown(self.run), ", ".join(shown(one) for one in self.baselines)
        return f"{ours} against {theirs} on {self.run[0].task}"

    @property
    def covers(self) -> str:
        """Say what the intervals cover."""
        return COVERS_SEEDS if len(self.baselines) > 1 else COVERS


def shown(found: Found) -> str:
    """Name a run with the origin of its weights."""
    run = found[0]
    return run.name if run.weights == "none" else f"{run.name} ({run.weights} weights)"


def read_config(path: Path) -> Config:
    """Read `[tool.vtbench.check]` of a pyproject.

    Raises:
        ResultError: if there is no such file or section, or it is not as `Config` says.
    """
    try:
        section = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultError(
            f"{path}: can't be read ({error.strerror}); name a RUN, or the file with [{SECTION}] by --config"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ResultError(f"{path}: not TOML ({error}); correct it") from error
    for part in SECTION.split("."):
        section = section.get(part, {}) if isinstance(section, dict) else {}
    if not section:
        raise ResultError(
            f"{path}: has no [{SECTION}]; write run and baseline there, and what is allowed by task and metric under "
            f"[{SECTION}.max-drop.reconstruction], or name a RUN"
        )
    drops = section.get("max-drop")
    for name, limit in drops.items() if isinstance(drops, dict) else ():
        if not isinstance(limit, dict):
            raise ResultError(
                f"{path}: [{SECTION}.max-drop] {name}: expected a task in between, such as "
                f"[{SECTION}.max-drop.reconstruction] and in it {name} = {limit}"
            )
    try:
        return Config.model_validate(section)
    except ValidationError as error:
        raise ResultError(f"{path}: [{SECTION}] {explain(error)}") from error


def judge_project(path: Path, work: Path) -> list[Verdict]:
    """Hold the runs of all tasks that a pyproject names against their baselines, corrected for all metrics together.

    Args:
        path: of the pyproject.
        work: the work folder where the table of a JSON from a results folder is looked for.

    Raises:
        ResultError: if the section is not as it should be, a run is missing, or two can't be compared.
    """
    config = read_config(path)
    folder = path.parent

    def find(place: str, task: str) -> Found:
        found = results.find_run(folder / place.replace("{task}", task), work)
        if found[0].task != task:
            raise ResultError(
                f"{folder / place.replace('{task}', task)}: a run of {found[0].task}; [{SECTION}.max-drop] names it as "
                f"{task}; write {{task}} into the path where the task's name stands"
            )
        return found

    questions = [
        Question(find(config.run, task), [find(one, task) for one in config.baseline], allowed)
        for task, allowed in config.max_drop.items()
    ]
    checks = check_all(questions, allow_missing=config.allow_missing)
    return [Verdict(one.run, one.baselines, found) for one, found in zip(questions, checks, strict=True)]


# --- what is said of it -----------------------------------------------------------------------------------------------


def interval(difference: Difference, digits: int) -> str:
    """Show the interval of a difference."""
    low, high = difference.low, difference.high
    return "-" if low is None or high is None else f"{low:z.{digits}f} … {high:z.{digits}f}"


HEADS = ("metric", "baseline", "run", "worse by", "95% interval", "allowed", "pictures", "verdict")


def row(check: Check) -> tuple[str, ...]:
    """Show a check as cells, in the order of HEADS."""
    digits = catalogue.find_metric(check.metric).digits + 1
    return (
        check.metric,
        *("-" if one is None else f"{one:z.{digits}f}" for one in (check.baseline, check.value, check.drop.mean)),
        interval(check.drop, digits),
        f"{check.allowed:g}",
        str(check.drop.pairs or "-"),
        f"FAILED: {check.reason}" if check.failed else "ok",
    )


def to_object(verdict: Verdict) -> dict[str, object]:
    """Give a verdict as strict JSON has it: an infinite number is a string."""
    return {
        "task": verdict.run[0].task,
        "run": verdict.run[0].name,
        "baselines": [one[0].name for one in verdict.baselines],
        "checks": [
            {
                "metric": one.metric,
                "baseline": finite(one.baseline),
                "run": finite(one.value),
                "worse_by": finite(one.drop.mean),
                "low": one.drop.low,
                "high": one.drop.high,
                "allowed": finite(one.allowed),
                "pictures": one.drop.pairs,
                "missing": one.missing,
                "failed": one.failed,
                "reason": one.reason,
            }
            for one in verdict.checks
        ],
    }


def to_json(verdicts: Sequence[Verdict], *, whole: bool) -> str:
    """Write verdicts as JSON: one alone as an object, those of a whole project as a list of such."""
    objects = [to_object(one) for one in verdicts]
    return json.dumps(objects if whole else objects[0], indent=2, allow_nan=False)


def finite(number: float | None) -> float | str | None:
    """Give a number as strict JSON has it: an infinite one is a string."""
    return number if number is None or math.isfinite(number) else "Infinity" if number > 0 else "-Infinity"


def to_markdown(verdicts: Sequence[Verdict]) -> str:
    """Write a summary for a pull request or a job: the verdict, then one table a run."""
    failures = sum(check.failed for verdict in verdicts for check in verdict.checks)
    total = sum(len(verdict.checks) for verdict in verdicts)
    said = f"{failures} of {total} metrics fail" if failures else f"all {total} metrics within what is allowed"
    parts = [f"## {'❌' if failures else '✅'} vtbench: {said}"]
    for verdict in verdicts:
        lines = [_line(HEADS), _line((":--", *(["--:"] * 6), ":--"))]
        for check in verdict.checks:
            cells = [cell(one) for one in row(check)]
            lines.append(_line([*cells[:-1], f"**{cells[-1]}**" if check.failed else cells[-1]]))
        parts += [f"### {cell(verdict.title)}", "\n".join(lines)]
    parts += list(dict.fromkeys(verdict.covers for verdict in verdicts))
    return "\n\n".join(parts) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def to_annotations(verdicts: Sequence[Verdict]) -> list[str]:
    """Write GitHub's workflow commands that mark a job with each failure."""
    return [
        error_annotation(
            f"{check.metric} of {verdict.run[0].name} on {verdict.run[0].task}",
            f"{check.reason}; 95% interval {interval(check.drop, catalogue.find_metric(check.metric).digits + 1)}, "
            f"{check.drop.pairs} pictures",
        )
        for verdict in verdicts
        for check in verdict.checks
        if check.failed
    ]


def error_annotation(title: str, message: str) -> str:
    """Write one workflow command; nothing within the texts can end it or begin another."""
    for sign, code in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A")):
        title, message = title.replace(sign, code), message.replace(sign, code)
    return f"::error title={title.replace(':', '%3A').replace(',', '%2C')}::{message}"


def to_junit(verdicts: Sequence[Verdict]) -> str:
    """Write JUnit XML: one suite a run, one case a metric, with its numbers and interval as properties."""
    suites = [_suite(f"vtbench.{verdict.run[0].task}.{verdict.run[0].name}", verdict.checks) for verdict in verdicts]
    root = suites[0]
    if len(suites) > 1:
        counts = {key: str(sum(int(suite.attrib[key]) for suite in suites)) for key in ("tests", "failures")}
        root = ElementTree.Element("testsuites", {"name": "vtbench"} | counts)
        root.extend(suites)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def error_junit(message: str) -> str:
    """Write JUnit XML of a gate that could judge nothing, so that no earlier file passes for its verdict."""
    root = ElementTree.Element("testsuite", name="vtbench", tests="1", failures="0", errors="1")
    case = ElementTree.SubElement(root, "testcase", classname="vtbench", name="check")
    ElementTree.SubElement(case, "error", message=_printable(message))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def error_markdown(message: str) -> str:
    """Write the summary of a gate that could judge nothing."""
    return f"## ❌ vtbench: nothing was compared\n\n{cell(message)}\n"


def _printable(text: str) -> str:
    return "".join(sign if sign.isprintable() else "�" for sign in text)  # XML has no control characters


def _suite(name: str, checks: Sequence[Check]) -> ElementTree.Element:
    name = _printable(name)
    failures = sum(check.failed for check in checks)
    suite = ElementTree.Element("testsuite", name=name, tests=str(len(checks)), failures=str(failures))
    for check in checks:
        case = ElementTree.SubElement(suite, "testcase", classname=name, name=check.metric)
        properties = ElementTree.SubElement(case, "properties")
        numbers = {
            "baseline": check.baseline,
            "value": check.value,
            "drop": check.drop.mean,
            "low": check.drop.low,
            "high": check.drop.high,
            "allowed": check.allowed,
        }
        for key, number in numbers.items():
            if number is not None:
                ElementTree.SubElement(properties, "property", name=key, value=f"{number:.9g}")
        if check.reason:
            ElementTree.SubElement(case, "failure", message=f"{check.metric}: {check.reason}")
    return suite
