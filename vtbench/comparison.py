"""Two runs over the same pictures: paired differences, and the gate that fails where one got worse. No torch here."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vtbench.catalogue import OCR, find_metric, metrics
from vtbench.errors import ResultError
from vtbench.leaderboard import engines, files_of, pinned
from vtbench.protocols import PROTOCOLS
from vtbench.results import CLUSTER, Run, capped, clusters_of, read_images
from vtbench.statistics import Comparison, Difference, compare, holm, mean, spread_of_means

if TYPE_CHECKING:
    import pandas

Found = tuple[Run, Path]
"""A run and its per-image table, as `results.find_run` finds them."""

LEVEL = 0.05
"""The share of false alarms that the gate allows, over all its metrics together."""

COVERS = (
    "Intervals cover the choice of pictures, over the pictures that both runs scored. They do not cover what another "
    "training seed would move: give several baselines of other seeds (--baseline repeats) to cover that too."
)
COVERS_SEEDS = "Intervals cover the choice of pictures and, from the spread of the baselines, another training seed."


@dataclass(frozen=True)
class Check:
    """How much worse a run is than its baselines in one metric."""

    metric: str
    baseline: float
    """Mean over the pictures that all runs scored, and over the baselines; a set metric's own value, and whatever else
    a protocol makes of all pictures together."""
    value: float | None
    """The same of the run; None where it has no value and the baselines have one."""
    drop: Difference
    """Positive is worse, whatever the metric's direction; infinite where the run has no value."""
    allowed: float
    adjusted: float | None
    """The p-value of the drop after Holm's correction over all metrics of the gate; None where there is no test, or so
    few pictures that it could not reach LEVEL whatever they say: the interval alone decides then."""
    missing: int
    """Pictures that one side scored and the other did not; of a set metric, by how many the two numbers differ."""
    allowed_missing: int
    infinite: int
    """Of the pictures that are infinite in one or both, those that got worse less those that got better."""
    lacking: str | None = None
    """Why the run has no value."""

    @property
    def reason(self) -> str | None:
        """Say why it fails; None where it passes."""
        if self.value is None:
            return f"has no value: {self.lacking}"
        if self.missing > self.allowed_missing:
            return f"{self.missing} pictures are scored on one side alone"
        if self.infinite > 0:
            return f"{self.infinite} pictures became infinitely worse"
        if not self.drop.mean > self.allowed:
            return None
        # Worse by more than is allowed, and not by chance: the interval of the drop excludes zero.
        if self.drop.low is not None and self.drop.low <= 0:
            return None
        if self.adjusted is not None and self.adjusted >= LEVEL:
            return None
        return f"worse by {self.drop.mean:.6g}, allowed {self.allowed:.6g}"

    @property
    def failed(self) -> bool:
        """Tell whether the gate fails here."""
        return self.reason is not None


@dataclass(frozen=True)
class Contrast:
    """How two runs differ in one metric over the same pictures."""

    metric: str
    first: float | None
    """Means over the pictures that are compared, or what the protocol makes of all together; None if there is none."""
    second: float | None
    comparison: Comparison | None
    """First minus second; None where no picture can be compared, or none has a part of its own in the score."""
    adjusted: float | None
    """The sign-flip p-value after Holm's correction over all metrics compared."""
    missing: int
    """Pictures that one run scored and the other did not."""
    left_out: int = 0
    """Pictures that both runs scored and that are infinite in one or both, so that there is no difference."""
    infinite: tuple[int, int] = (0, 0)
    """How many of these are infinite in the first run, and how many in the second."""
    reason: str | None = None
    """Why there is no comparison."""

    @property
    def difference(self) -> float | None:
        """First minus second; None where either is missing, or both are infinite."""
        if self.comparison is not None:
            return self.comparison.difference.mean
        if self.first is None or self.second is None or math.isnan(self.first - self.second):
            return None
        return self.first - self.second


@dataclass(frozen=True)
class _Pairs:
    """Values of one metric in both runs, picture by picture."""

    first: list[float]
    second: list[float]
    clusters: list[Hashable] | None
    missing: int
    endless: tuple[int, int]
    """Of the pictures that both runs scored, those that are infinite in the first and in the second; without the
    capped ones."""
    left_out: int
    """Pictures that are infinite in either."""
    infinite: int
    """Of these, the ones that are worse in the first less those that are worse in the second."""

    @property
    def scored(self) -> bool:
        """Tell whether a picture has a value in either run."""
        return bool(self.first or self.left_out or self.missing)


def check(
    run: Found, baselines: Sequence[Found], allowed: Mapping[str, float], *, allow_missing: int = 0
) -> list[Check]:
    """Hold a run against baselines over the same pictures.

    Args:
        run: what is held.
        baselines: what it is held against: one, or several of other training seeds.
        allowed: for every metric, by how much it may get worse.
        allow_missing: pictures that may be scored on one side alone.

    Raises:
        ResultError: if they are not of the same task, version, protocol, pictures and backbones, lack a metric, or an
            amount is no number.
    """
    return check_all([Question(run, baselines, allowed)], allow_missing=allow_missing)[0]


@dataclass(frozen=True)
class Question:
    """A run of one task, the baselines that it is held against, and by how much each metric may get worse."""

    run: Found
    baselines: Sequence[Found]
    allowed: Mapping[str, float]


def check_all(questions: Sequence[Question], *, allow_missing: int = 0) -> list[list[Check]]:
    """Hold the runs of several tasks against their baselines: `check`, corrected for the metrics of all tasks together.

    Raises:
        ResultError: as `check`.
    """
    found = [
        (number, name, limit, against)
        for number, question in enumerate(questions)
        for name, limit, against in _compared(question)
    ]
    pvalues = [_p(against, len(found)) for *_, against in found]
    adjusted = iter(holm([p for p in pvalues if p is not None]))
    checks: list[list[Check]] = [[] for _ in questions]
    for (number, name, limit, against), p in zip(found, pvalues, strict=True):
        checks[number].append(
            Check(
                metric=name,
                baseline=mean([one.second for one in against]),
                value=against[0].first,
                drop=spread_of_means([one.drop for one in against]),
                allowed=limit,
                adjusted=None if p is None else next(adjusted),
                missing=max(one.missing for one in against),
                allowed_missing=allow_missing,
                infinite=max(one.infinite for one in against),
                lacking=against[0].lacking,
            )
        )
    return checks


def _compared(question: Question) -> list[tuple[str, float, list[_Against]]]:
    """Compare one run in each of its metrics with each of its baselines."""
    run, baselines = question.run, question.baselines
    if not baselines:
        raise ResultError("no baseline was given; name one run to compare with")
    for baseline in baselines:
        scored = [name for name in question.allowed if _value(run[0], name) is not None]
        _same_question(run[0], baseline[0], [name for name in scored if _value(baseline[0], name) is not None])
    for name, limit in question.allowed.items():
        if not limit >= 0:
            raise ResultError(f"{name}: it may get worse by {limit:g}; expected 0 or more")
    own = read_images(run[1])
    others = [read_images(baseline[1]) for baseline in baselines]
    found = []
    for name, limit in question.allowed.items():
        pairs = zip(baselines, others, strict=True)
        found.append((name, limit, [_against(name, run[0], baseline[0], own, other) for baseline, other in pairs]))
    return found


@dataclass(frozen=True)
class _Against:
    """One metric of a run against one baseline."""

    first: float | None
    second: float
    drop: Difference
    p: float | None
    missing: int
    infinite: int
    units: int = 0
    """Pictures, or documents, whose signs the test flips."""
    lacking: str | None = None


def _p(against: Sequence[_Against], metrics: int) -> float | None:
    """The least sure of several comparisons; of n units the test's least p-value is 2^(1 - n)."""
    known = [one.p for one in against if one.p is not None and 2.0 ** (1 - one.units) * metrics < LEVEL]
    return max(known) if known else None


def _against(name: str, run: Run, baseline: Run, own: pandas.DataFrame, other: pandas.DataFrame) -> _Against:
    metric = find_metric(name)
    values = [_value(one, name) for one in (run, baseline)]
    if values[0] is None and values[1] is not None and name in run.scores:
        score = run.scores[name]
        missing = baseline.scores[name].scored - score.scored
        return _Against(None, values[1], Difference(math.inf, None, None, 0), None, missing, 0, lacking=score.reason)
    if values[0] is None or values[1] is None:
        which = run.name if values[0] is None else baseline.name
        common = ", ".join(sorted(_scored(run) & _scored(baseline))) or "none"
        raise ResultError(f"{name}: {which} has no such score; metrics of both runs: {common}")
    columns = name in own.columns and name in other.columns
    pairs = _pairs(name, own, other, run.protocol) if columns else None
    if pairs is None or not _is_mean(name, run.protocol, (own, other)):
        # What comes from all pictures together has no share of a picture: the difference stands without an interval.
        drop = metric.badness(values[0]) - metric.badness(values[1])
        drop = 0.0 if math.isnan(drop) else drop  # infinite in both
        missing = pairs.missing if pairs else abs(run.scores[name].scored - baseline.scores[name].scored)
        return _Against(values[0], values[1], Difference(drop, None, None, 0), None, missing, 0)
    if not pairs.first:
        if pairs.left_out or not pairs.missing:
            return _Against(values[0], values[1], Difference(0.0, None, None, 0), None, pairs.missing, pairs.infinite)
        raise ResultError(f"{name}: no picture was scored in both runs; run both again on the same task")
    worse = [[metric.badness(value) for value in side] for side in (pairs.first, pairs.second)]
    compared = compare(worse[0], worse[1], pairs.clusters)
    means = [math.fsum(side) / len(side) for side in (pairs.first, pairs.second)]
    units = len(set(pairs.clusters)) if pairs.clusters else len(pairs.first)
    return _Against(means[0], means[1], compared.difference, compared.sign_flip, pairs.missing, pairs.infinite, units)


def contrast(first: Found, second: Found) -> list[Contrast]:
    """Compare two runs over the same pictures in every metric that both have for single pictures.

    A metric that no picture can be compared in is there with its reason, and so is one of which the protocol makes
    something else than the mean over pictures: its two scores stand without a test.

    Raises:
        ResultError: if the two are not of the same task, version, protocol, pictures and backbones, or share no metric.
    """
    tables = read_images(first[1]), read_images(second[1])
    names = [name for name in metrics() if all(name in table.columns for table in tables)]
    _same_question(first[0], second[0], [name for name in names if all(table[name].notna().any() for table in tables)])
    protocol = first[0].protocol
    paired = {name: pairs for name in names if (pairs := _pairs(name, *tables, protocol)).scored}
    found = [
        _contrast(name, pairs) if _is_mean(name, protocol, tables) else _untested(name, first[0], second[0], pairs)
        for name, pairs in paired.items()
    ]
    if not found:
        raise ResultError(f"the two runs of {first[0].task} share no metric of single pictures; run both again")
    pvalues = [None if one.comparison is None else one.comparison.sign_flip for one in found]
    adjusted = iter(holm([p for p in pvalues if p is not None]))
    return [replace(one, adjusted=None if p is None else next(adjusted)) for one, p in zip(found, pvalues, strict=True)]


def _contrast(name: str, pairs: _Pairs) -> Contrast:
    """Compare two runs in one metric, before the correction for the others."""
    if not pairs.first:
        reason = "every picture is infinite in one of the runs" if pairs.left_out else "no picture has it in both runs"
        return Contrast(name, None, None, None, None, pairs.missing, pairs.left_out, pairs.endless, reason)
    means = [math.fsum(values) / len(values) for values in (pairs.first, pairs.second)]
    compared = compare(pairs.first, pairs.second, pairs.clusters)
    return Contrast(name, means[0], means[1], compared, None, pairs.missing, pairs.left_out, pairs.endless)


def _untested(name: str, first: Run, second: Run, pairs: _Pairs) -> Contrast:
    """Put two scores beside each other that are no means over pictures, without a test."""
    reason = f"{first.protocol} makes it of all pictures together, so there is no test picture by picture"
    return Contrast(name, _value(first, name), _value(second, name), None, None, pairs.missing, reason=reason)


def _is_mean(name: str, protocol: str, tables: Sequence[pandas.DataFrame]) -> bool:
    """Tell whether a score is the mean over pictures; the mean over batches is one where all batches are whole."""
    rule = PROTOCOLS.get(protocol)
    if rule is None or rule.is_plain_mean(name):
        return True
    return name in rule.batch_means and not any(table[name].notna().sum() % rule.batch for table in tables)


def _value(run: Run, name: str) -> float | None:
    return run.scores[name].value if name in run.scores else None


def _scored(run: Run) -> set[str]:
    return {name for name, score in run.scores.items() if score.value is not None and "/" not in name}


def _pairs(name: str, own: pandas.DataFrame, other: pandas.DataFrame, protocol: str) -> _Pairs:
    """Pair one metric's values by the pictures' ids, capped as in a mean."""
    metric, rule = find_metric(name), PROTOCOLS.get(protocol)
    cap = None if rule is not None and rule.published else metric.cap  # published code caps nothing
    sides = []
    for table in (own, other):
        known = table[table[name].notna()]
        values = [capped(float(value), cap) for value in known[name]]
        sides.append(dict(zip(known["id"], values, strict=True)))
    first, second = sides
    both = [picture for picture in first if picture in second]
    finite = [p for p in both if math.isfinite(first[p]) and math.isfinite(second[p])]
    paired = set(finite)
    left_out = [(metric.badness(first[p]), metric.badness(second[p])) for p in both if p not in paired]
    endless = sum(math.isinf(first[p]) for p in both), sum(math.isinf(second[p]) for p in both)
    clusters = None
    if CLUSTER in own.columns:
        of = dict(zip(own["id"], clusters_of(own[CLUSTER]), strict=True))
        clusters = [of[picture] for picture in finite]
    missing = len(first) + len(second) - 2 * len(both)
    return _Pairs(
        first=[first[picture] for picture in finite],
        second=[second[picture] for picture in finite],
        clusters=clusters,
        missing=missing,
        endless=endless,
        left_out=len(left_out),
        infinite=sum(one > another for one, another in left_out) - sum(one < another for one, another in left_out),
    )


def _same_question(run: Run, baseline: Run, names: Iterable[str]) -> None:
    """Refuse runs that were not asked the same, or whose metrics of these names were not computed by the same."""
    for what in ("task", "task_version", "protocol"):
        ours, theirs = getattr(run, what), getattr(baseline, what)
        if ours != theirs:
            raise ResultError(f"the runs differ in {what.replace('_', ' ')}: {ours} and {theirs}; compare equal ones")
    if run.digests.get("data") != baseline.digests.get("data"):
        raise ResultError(f"the two runs of {run.task} are on different pictures; run the baseline again on these")
    needs = {need for name in names for need in find_metric(name).needs}
    ours, theirs = engines(run), engines(baseline)
    if OCR in needs and ours != theirs:
        readers = [" and ".join(one) or "no engine that it states" for one in (ours, theirs)]
        raise ResultError(
            f"the two runs of {run.task} were read by {readers[0]} and by {readers[1]}; run the baseline again with "
            "the same --ocr"
        )
    for name in sorted(needs - {OCR} | set(ours if OCR in needs else ())):
        files = [files_of(one, name) for one in (run, baseline)]
        if pinned(name) and all(files):  # whichever of its files was used, it is the same network
            files = [{file: one[file] for file in files[0].keys() & files[1].keys()} for one in files]
        differing = sorted(
            file for file in files[0].keys() | files[1].keys() if files[0].get(file) != files[1].get(file)
        )
        if differing:
            raise ResultError(
                f"the two runs of {run.task} differ in {name}/{differing[0]}; run the baseline again with this {name}"
            )
