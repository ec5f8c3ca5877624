"""Checks a folder of results, of one or of several people: what stands there may be compared, or is named. No torch."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vtbench import cards, catalogue, checkpoints, files, results, weights
from vtbench.errors import CardError, ResultError
from vtbench.protocols import PROTOCOLS, Protocol
from vtbench.results import Run, Score
from vtbench.statistics import commonest
from vtbench.types import Key, as_text

if TYPE_CHECKING:
    import pandas

WANTED = ("tokenizer", "task", "data", "code", "plan", "table")
"""Digests that every run has."""

OF_ALL = ("code_usage", "code_entropy", "code_perplexity", "bpp_entropy")
"""Metrics of a measure of means that come from all pictures."""

MEANS = ("pairs", "text", "charts", "stability", "tokens", "curve", "latents", "codes")
"""Measures that average what they find in single pictures; what they make of all pictures together has no column."""


@dataclass(frozen=True)
class Problem:
    """What is wrong with one file."""

    file: str
    problem: str
    void: bool = False
    """Whether no leaderboard may show the file: it can't be read, is there twice, or was changed."""


@dataclass(frozen=True)
class Report:
    """What a folder holds."""

    runs: int
    problems: tuple[Problem, ...]
    accepted: tuple[Run, ...]
    """Runs in `<task>/` that a leaderboard may show."""
    tables: int
    """Per-image tables that runs were held against."""


def validate(folder: Path, work: Path | None = None) -> Report:
    """Look at every file below `<folder>/<task>/`: schema, place, digests, values, duplicates, versions, pictures.

    Args:
        folder: of the summaries.
        work: a folder with per-image tables in `<task>/<name>/`; means are computed again from those that are there.

    Raises:
        ResultError: if there is no such folder, or `work` is none.
    """
    if not files.is_dir(folder):
        raise ResultError(f"{folder}: no such folder; `vtbench run` makes one of summaries")
    if work is not None and not files.is_dir(work):
        raise ResultError(f"--work {work}: no such folder; expected the work folder that the runs were made in")
    found: dict[str, Run] = {}
    held = 0
    problems: list[Problem] = []
    for path in sorted(path for path in folder.rglob("*") if not _hidden(path, folder)):
        shown = path.relative_to(folder).as_posix()
        if path.suffix != ".json":
            if "/" in shown and files.is_file(path):
                problems.append(Problem(shown, "is no summary of a run; leave such files above the tasks' folders"))
            continue
        try:
            run = results.read_run(path)
            _strict(path)
        except ResultError as error:
            problems.append(Problem(shown, str(error).removeprefix(f"{path}: "), void=True))
            continue
        found[shown] = run
        if shown != _wanted(run):
            # A file of another name in the right folder is still shown; what lies elsewhere is nobody's result.
            problems.append(Problem(shown, f"belongs at {_wanted(run)}", void=shown.count("/") != 1))
        problems += [Problem(shown, what) for what in _of_one(run)]
        problems += [Problem(shown, what, void=True) for what in _changed(run)]
        if work is not None:
            held += _table_of(run, work) is not None
            problems += [Problem(shown, what, void=True) for what in _unlike_its_table(run, work)]
    problems += _of_all(found)
    void = {one.file for one in problems if one.void}
    accepted = tuple(run for shown, run in found.items() if shown not in void)
    return Report(len(found), tuple(sorted(problems, key=lambda one: (one.file, one.problem))), accepted, held)


def read(place: Path) -> Run:
    """Read one summary that tables may show: its file, or the folder that a run left.

    Raises:
        ResultError: if it can't be read, or `validate` would say of it that it was changed.
    """
    run = results.read_run(place)
    _strict(place / results.RUN if files.is_file(place / results.RUN) else place)
    for what in _changed(run):
        raise ResultError(f"{place}: {what}; run it again, or leave it out")
    return run


def identity(run: Run) -> Hashable:
    """Say what two summaries of one run share; one without a plan's digest is like its equals alone."""
    return run.task, run.name, run.digests.get("plan") or results.encode(run)


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _strict(path: Path) -> None:
    """Refuse what other parsers than Python's do not read: NaN and Infinity as bare words."""

    def refuse(word: str) -> None:
        raise ResultError(f"{path}: holds {word}, which is no JSON; it was written by another program")

    json.loads(path.read_bytes(), parse_constant=refuse)


def _wanted(run: Run) -> str:
    return f"{run.task}/{run.name}.json"


def _of_one(run: Run) -> Iterator[str]:
    lacking = [name for name in WANTED if not run.digests.get(name)]
    if run.weights in ("published", "packaged", "local") and not run.digests.get("weights"):
        lacking.append("weights")
    if lacking:
        yield f"states no digest of {', '.join(lacking)}"
    if run.weights == "local" and not run.label:
        yield "has local weights and no label, so it goes by the published model's name"
    if run.label is None and _has_other_weights(run):
        yield f"says {run.weights} weights, and its weights' digest is not the one on the card of {run.tokenizer}"


def _has_other_weights(run: Run) -> bool:
    """Say whether a run that claims the card's own weights was made with others; a card may state no digest of them."""
    digest = run.digests.get("weights")
    if run.weights not in ("published", "packaged") or digest is None:
        return False
    try:
        source = cards.find_tokenizer(run.tokenizer).weights
    except CardError:  # a card of somebody's own
        return False
    parts = weights.parts_of(source) if source else ()
    stated = [part.sha256 for part in parts if part.sha256 and not part.file.endswith(checkpoints.INDEX)]
    if not stated or len(stated) < len(parts):  # the digest of an index says nothing of its shards, which a run states
        return False
    if len(stated) == 1:
        return not digest.startswith(stated[0])  # some publishers state the first digits alone
    return all(len(one) == len(digest) for one in stated) and digest != weights.joined(stated)


def _changed(run: Run) -> Iterator[str]:
    """Name what no run that is known here writes, or what somebody changed by hand or by another program."""
    if run.primary not in catalogue.metrics():
        yield f"is ranked by {run.primary}, which no installed package measures; install the one that does"
    counts = run.pictures
    if counts.found != counts.scored + counts.failed + sum(counts.passed_over.values()) + counts.left_out:
        yield "its pictures don't add up: found is not scored + failed + passed over + left out"
    for name, score in run.scores.items():
        if score.scored > score.expected or score.expected != run.images:
            yield f"{name}: {score.scored} of {score.expected} pictures scored, the run has {run.images}"
        elif score.low is not None and score.high is not None and not score.low <= score.high:
            yield f"{name}: its interval ends before it begins"
        elif _outside(name, score):
            yield f"{name}: {score.value:g} is outside of its own interval, {score.low:g} to {score.high:g}"


def _outside(name: str, score: Score) -> bool:
    """Say whether a mean over pictures lies outside of its bootstrap interval, where it can't lie."""
    if _averaged(name) is None or None in (score.value, score.low, score.high):
        return False
    value, low, high = (float(end) for end in (score.value, score.low, score.high) if end is not None)
    slack = 1e-9 * abs(value)  # of equal values the ends are sums in another order
    return not low - slack <= value <= high + slack


def _averaged(name: str) -> catalogue.Metric | None:
    """Find the metric of a score that is a mean over pictures; None where it comes from all of them together."""
    metric = catalogue.metrics().get(Key.parse(name).metric)
    if metric is None or metric.measure not in MEANS or metric.options.get("read") == "lines":
        return None
    return None if "total" in metric.options or metric.name in OF_ALL else metric


def _table_of(run: Run, work: Path) -> Path | None:
    """Find what lies where a run's per-image table belongs in the work folder."""
    path = work / run.task / run.name / results.IMAGES
    try:
        return path if path.is_file() else None
    except (OSError, ValueError):  # a name that no file can have
        return None


def _unlike_its_table(run: Run, work: Path) -> Iterator[str]:
    """Compute the means over pictures again, where the per-image table is there and the protocol takes such."""
    path = _table_of(run, work)
    if path is None:
        return
    try:
        if files.sha256(path) != run.digests.get("table"):
            yield f"its per-image table {path} is of another run, or was changed since"
            return
        table, rule = results.read_images(path), PROTOCOLS.get(run.protocol)
    except (OSError, ResultError) as error:  # the other runs are looked at all the same
        yield f"its per-image table can't be read: {error}"
        return
    yield from _unlike(run.scores, table, rule)
    for attribute, groups in run.groups.items():
        column = f"attribute/{attribute}"
        if column not in table:
            continue
        values = table[column].dropna().map(as_text)
        for value, scores in groups.items():
            part = table.loc[values.index[values == value]]
            yield from (f"{attribute} {value}: {what}" for what in _unlike(scores, part, rule))


def _unlike(scores: Mapping[str, Score], table: pandas.DataFrame, rule: Protocol | None) -> Iterator[str]:
    """Name the counts, the means, and the means of the originals, that are not those of a table's pictures."""
    for name, score in scores.items():
        metric = _averaged(name)
        if metric is None or name not in table:
            continue
        values = table[name].tolist()
        if not all(value is None or isinstance(value, int | float) for value in values):
            yield f"{name}: its per-image table has no numbers"
            continue
        if rule is None or not rule.is_plain_mean(name):
            continue
        scored = sum(value is not None and not math.isnan(value) for value in values)
        if score.value is not None and score.scored != scored:
            yield f"{name}: says {score.scored} pictures scored, its per-image table has {scored}"
        cap = None if rule.published else metric.cap  # published code caps nothing
        own = results.summarise(values, score.expected, "not scored", cap=cap, interval=False).value
        if not _same(score.value, own):
            yield f"{name}: says {score.value}, its per-image table gives {own}"
        floor = str(Key.parse(name)._replace(role="floor"))
        known = table[floor].dropna().tolist() if floor in table and own is not None else []
        original = math.fsum(known) / len(known) if known else None
        if not _same(score.floor, original):
            yield f"{name}: says {score.floor} of the originals, its per-image table gives {original}"


def _same(said: float | None, own: float | None) -> bool:
    return said is own if said is None or own is None else math.isclose(said, own, abs_tol=1e-12)


def _of_all(found: dict[str, Run]) -> Iterator[Problem]:
    by_plan: dict[Hashable, list[str]] = {}
    by_task: dict[str, list[str]] = {}
    for shown, run in found.items():
        by_plan.setdefault(identity(run), []).append(shown)
        by_task.setdefault(run.task, []).append(shown)
    for same in by_plan.values():
        first, *others = sorted(same, key=lambda shown: shown != _wanted(found[shown]))  # the copy is the misplaced one
        for shown in others:
            yield Problem(shown, f"is the same run as {first}", void=True)
    for task, beside in by_task.items():
        version = commonest(found[shown].task_version for shown in beside)
        pictures = commonest(found[shown].digests.get("data") for shown in beside)
        for shown in beside:
            run = found[shown]
            if run.task_version != version:
                yield Problem(shown, f"has version {run.task_version} of {task}, most have {version}")
            elif run.digests.get("data") != pictures:
                yield Problem(shown, f"is on other pictures than most runs of {task}")
