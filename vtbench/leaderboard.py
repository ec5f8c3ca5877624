"""Tables out of runs: leaderboard.csv, LEADERBOARD.md and the gate that compares two runs. No torch here.

The same runs give the same bytes, whatever order they are read in.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from vtbench.errors import ResultError
from vtbench.protocols import CODE_METRICS, METRICS, find_metric
from vtbench.results import CLUSTER, Run, Score, read_images
from vtbench.statistics import Comparison, Difference, compare, holm, paired_difference

if TYPE_CHECKING:
    import pandas

CEILING = "control-identity"
"""The tokenizer that keeps every pixel: its values are those of the originals."""

Table = tuple[str, str]
"""Task and protocol: what one table is about. A table never mixes two."""


def tables(runs: Sequence[Run]) -> dict[Table, list[Run]]:
    """Group runs by task and protocol; inside, ranked ones first, best first.

    Nothing ranks above the originals: where a table holds CEILING, a better value than its own counts as equal to it
    (an OCR engine that misreads an original may read a reconstruction of it by luck). Ties in the primary metric are
    broken by PSNR, then by name.
    """
    groups: dict[Table, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.task, run.protocol)):
        groups.setdefault((run.task, run.protocol), []).append(run)
    return {table: _ordered(group) for table, group in groups.items()}


def _ordered(group: Sequence[Run]) -> list[Run]:
    primary = group[0].primary
    ceiling = [_badness(run, primary) for run in group if run.tokenizer == CEILING and run.ranked]

    def place(run: Run) -> tuple[bool, float, float, str]:
        return not run.ranked, max(_badness(run, primary), *ceiling, -math.inf), _badness(run, "psnr"), run.tokenizer

    return sorted(group, key=place)


def _badness(run: Run, metric: str) -> float:
    score = run.scores.get(metric)
    if score is None or score.value is None:
        return math.inf
    return -score.value if METRICS[metric].higher_is_better else score.value


def to_csv(runs: Sequence[Run]) -> str:
    """Write one row a (task, protocol, tokenizer).

    Beside a metric's value stand the ends of its 95% interval and the number of pictures behind it.
    """
    metrics = [name for name in METRICS if any(name in run.scores for run in runs)]
    known = {name for run in runs for name, score in run.scores.items() if score.floor is not None}
    floors = [name for name in metrics if name in known]
    columns = [
        *("task", "task_version", "protocol", "rank", "tokenizer", "family", "kind", "tokens", "codebook_size"),
        *("parameters", "images_expected"),
        *(f"{name}{suffix}" for name in metrics for suffix in ("", "_low", "_high", "_scored")),
        *(f"{name}_{what}" for name in floors for what in ("floor", "excess")),
        *("not_scored", "encode_per_second", "decode_per_second", "device", "precision", "weights", "weights_sha256"),
        "data_sha256",
        *("version", "commit", "dirty", "torch", "date"),
    ]
    sink = io.StringIO()
    writer = csv.DictWriter(sink, columns, lineterminator="\n")
    writer.writeheader()
    for group in tables(runs).values():
        for position, run in enumerate(group, start=1):
            writer.writerow(_csv_row(run, position if run.ranked else None, metrics))
    return sink.getvalue()


def _csv_row(run: Run, rank: int | None, metrics: Sequence[str]) -> dict[str, object]:
    row: dict[str, object] = {
        "task": run.task,
        "task_version": run.task_version,
        "protocol": run.protocol,
        "rank": rank,
        "tokenizer": run.tokenizer,
        "family": run.family,
        "kind": run.kind,
        "tokens": run.tokens_per_image,
        "codebook_size": " ".join(str(size) for size in run.codebook_sizes),
        "parameters": run.parameters,
        "images_expected": run.images,
        "not_scored": "; ".join(f"{name}: {score.reason}" for name, score in run.scores.items() if score.reason),
        "encode_per_second": _rounded(run.timing.encode_per_second, 1),
        "decode_per_second": _rounded(run.timing.decode_per_second, 1),
        "device": run.device,
        "precision": run.precision,
        "weights": run.weights,
        "weights_sha256": run.digests.get("weights"),
        "data_sha256": run.digests.get("data"),
        "version": run.version,
        "commit": run.commit,
        "dirty": run.dirty,
        "torch": run.versions.get("torch"),
        "date": run.timing.started[:10],
    }
    for name in metrics:
        score = run.scores.get(name)
        if score:
            row |= {f"{name}_{end}": _rounded(getattr(score, end), 6) for end in ("low", "high")}
            row |= {name: _rounded(score.value, 6), f"{name}_scored": score.scored}
            if score.floor is not None:
                row |= {f"{name}_{what}": _rounded(getattr(score, what), 6) for what in ("floor", "excess")}
    return row


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def to_markdown(runs: Sequence[Run]) -> str:
    """Write one table a task and protocol, with the reasons of what is missing below it."""
    parts = [
        "# Leaderboard",
        "Made by `vtbench leaderboard` from the runs in this folder. Every table is one task at one size under one "
        "protocol; `n` is pictures scored of pictures expected. Arrows say which way is better. Nothing ranks above "
        f"`{CEILING}`, the originals: a better value than its own counts as equal, and PSNR decides.",
    ]
    for (task, protocol), group in tables(runs).items():
        first = group[0]
        parts.append(f"## {task} (version {first.task_version}, protocol {protocol})")
        parts.append(ranking(group))
        parts += [f"Not scored: {reason}." for reason in missing(group)]
        if len({run.digests.get("data") for run in group}) > 1:
            parts.append("**Not one set of pictures:** " + "; ".join(_by_pictures(group)) + ".")
        if floors := [(name, score.floor) for name, score in first.scores.items() if score.floor is not None]:
            said = ", ".join(f"{METRICS[name].title} {floor:.{METRICS[name].digits}f}" for name, floor in floors)
            parts.append(f"The engine's own floor, on the originals: {said}. What lies above it is the tokenizer's.")
        if unranked := [run.tokenizer for run in group if not run.ranked]:
            parts.append(f"Not ranked (made-up weights or a part of the task): {', '.join(unranked)}.")
        for attribute in dict.fromkeys(attribute for run in group for attribute in run.groups):
            for name in (first.primary, "legibility"):
                if labels := _labels(group, attribute, name):
                    parts.append(f"{METRICS[name].title} by {attribute.replace('_', ' ')}:")
                    parts.append(by_group(group, attribute, name, labels))
        for name in curves(group):
            parts.append(f"{METRICS[name].title} by level (`{name}/level`):")
            parts.append(by_level(group, name))
    return "\n\n".join(parts) + "\n"


def _by_pictures(group: Sequence[Run]) -> list[str]:
    """Name the runs on each of several sets of pictures that go by one task's name."""
    sets: dict[str, list[str]] = {}
    for run in group:
        sets.setdefault(str(run.digests.get("data"))[:12], []).append(run.tokenizer)
    return [f"{', '.join(names)} on {digest}" for digest, names in sets.items()]


def ranking(group: Sequence[Run]) -> str:
    """Draw the runs of one table as Markdown, best first."""
    metrics = [name for name in measured(group) if name not in ("bpp", "bpp_entropy", "code_perplexity")]
    primary = group[0].primary
    heads = [f"**{_head(name)}**" if name == primary else _head(name) for name in metrics]
    lines = [["", "tokenizer", "bits/pixel", "tokens", *heads, "n", "enc/s", "dec/s"]]
    for position, run in enumerate(group, start=1):
        scored = max((run.scores[name].scored for name in metrics if _has(run, name)), default=0)
        rate = (run.timing.encode_per_second, run.timing.decode_per_second)
        lines.append(
            [
                str(position) if run.ranked else "-",
                run.tokenizer,
                shown(run.scores.get("bpp"), "bpp"),
                str(run.tokens_per_image or "-"),
                *(shown(run.scores.get(name), name) for name in metrics),
                f"{scored}/{run.images}",
                *(f"{value:.{0 if value >= 10 else 1}f}" if value else "-" for value in rate),
            ]
        )
    return _markdown(lines, left=(1,))


def measured(group: Sequence[Run]) -> list[str]:
    """Name the metrics for which at least one run has a value, in the order of tables."""
    return [name for name in METRICS if any(_has(run, name) for run in group)]


def missing(group: Sequence[Run]) -> list[str]:
    """Say why metrics of a task were not scored; that a codec has no codebook goes without saying."""
    reasons = {
        f"{name}: {score.reason}"
        for run in group
        for name, score in run.scores.items()
        if score.reason and name not in (*CODE_METRICS, "token_agreement")
    }
    return sorted(reasons)


def by_group(group: Sequence[Run], attribute: str, name: str, labels: Sequence[str]) -> str:
    """Draw one metric for values of one attribute that results are grouped by."""
    lines = [["tokenizer", *labels]]
    for run in group:
        values = run.groups.get(attribute, {})
        lines.append([run.tokenizer, *(shown(values.get(label, {}).get(name), name) for label in labels)])
    return _markdown(lines, left=(0,))


def _labels(group: Sequence[Run], attribute: str, name: str) -> list[str]:
    """Values of an attribute for which some run has a metric, in order."""
    found = {
        label
        for run in group
        for label, scores in run.groups.get(attribute, {}).items()
        if name in scores and scores[name].value is not None
    }
    return sorted(found, key=_number_first)


def curves(group: Sequence[Run]) -> list[str]:
    """Name the metrics that have values by level, such as the contrast of each frequency."""
    found = {name.split("/")[0] for run in group for name in run.scores if "/" in name}
    return [name for name in METRICS if name in found]


def by_level(group: Sequence[Run], name: str) -> str:
    """Draw one metric at each of its levels."""
    labels = {key.partition("/")[2] for run in group for key in run.scores if key.startswith(f"{name}/")}
    ordered = sorted(labels, key=_number_first)
    lines = [["tokenizer", *ordered]]
    lines += [[run.tokenizer, *(shown(run.scores.get(f"{name}/{label}"), name) for label in ordered)] for run in group]
    return _markdown(lines, left=(0,))


def _has(run: Run, name: str) -> bool:
    return name in run.scores and run.scores[name].value is not None


def _head(name: str) -> str:
    metric = METRICS[name]
    return f"{metric.title} {'↑' if metric.higher_is_better else '↓'}"


def _number_first(label: str) -> tuple[bool, float, str]:
    try:
        return False, float(label), label
    except ValueError:
        return True, 0.0, label


def shown(score: Score | None, name: str) -> str:
    """Print a score: a dash where there is none, ∞ for an infinite PSNR."""
    if score is None or score.value is None:
        return "-"
    return "∞" if math.isinf(score.value) else f"{score.value:.{METRICS[name].digits}f}"


def _markdown(lines: Sequence[Sequence[str]], left: tuple[int, ...]) -> str:
    head, *rest = lines
    rule = [":--" if column in left else "--:" for column in range(len(head))]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *rest))


# --- two runs ---------------------------------------------------------------------------------------------------------

Found = tuple[Run, Path]
"""A run and its per-image table, as `results.find_run` finds them."""


@dataclass(frozen=True)
class Check:
    """How much worse a run is than its baseline in one metric."""

    metric: str
    baseline: float
    value: float
    drop: Difference
    """Positive is worse, whatever the metric's direction."""
    allowed: float

    @property
    def failed(self) -> bool:
        """Worse by more than is allowed, and not by chance: the interval of the drop excludes zero."""
        return self.drop.mean > self.allowed and self.drop.low > 0


@dataclass(frozen=True)
class Contrast:
    """How two runs differ in one metric over the same pictures."""

    metric: str
    first: float
    second: float
    comparison: Comparison
    """First minus second."""
    adjusted: float
    """The sign-flip p-value after Holm's correction over all metrics compared."""


def check(run: Found, baseline: Found, allowed: Mapping[str, float]) -> list[Check]:
    """Hold a run against a baseline over the same pictures.

    Args:
        run: what is held.
        baseline: what it is held against.
        allowed: for every metric, by how much it may get worse.

    Raises:
        ResultError: if the two are not of the same task, version, protocol and pictures, or lack a metric.
    """
    _same_question(run[0], baseline[0])
    tables = _joined(run, baseline)
    checks = []
    for name, limit in allowed.items():
        find_metric(name)
        values = [one.scores[name].value if name in one.scores else None for one in (run[0], baseline[0])]
        if values[0] is None or values[1] is None:
            which = "the run" if values[0] is None else "the baseline"
            common = ", ".join(other for other in run[0].scores if _has(run[0], other) and _has(baseline[0], other))
            raise ResultError(f"{name}: {which} has no such score; both have {common}")
        sign = 1.0 if METRICS[name].higher_is_better else -1.0
        pairs = _pairs(tables, name)
        if pairs is None:  # a distance between sets has no value a picture: the difference stands without an interval
            distance = sign * (values[1] - values[0])
            drop = Difference(distance, distance, distance, 0)
        elif not pairs[0]:
            raise ResultError(f"{name}: no picture was scored in both runs; run both again on the same task")
        else:
            ours, theirs, clusters = pairs
            drop = paired_difference([sign * v for v in theirs], [sign * v for v in ours], clusters)
        checks.append(Check(name, values[1], values[0], drop, limit))
    return checks


def contrast(first: Found, second: Found) -> list[Contrast]:
    """Compare two runs over the same pictures in every metric that both have for single pictures.

    Raises:
        ResultError: if the two are not of the same task, version, protocol and pictures, or share no metric.
    """
    _same_question(first[0], second[0])
    tables = _joined(first, second)
    found = []
    for name in METRICS:
        pairs = _pairs(tables, name)
        if pairs is None or not pairs[0]:
            continue
        ours, theirs, clusters = pairs
        means = [math.fsum(values) / len(values) for values in (ours, theirs)]
        found.append((name, means, compare(ours, theirs, clusters)))
    if not found:
        raise ResultError(f"the two runs of {first[0].task} share no metric of single pictures; run both again")
    adjusted = holm([comparison.sign_flip for _, _, comparison in found])
    return [
        Contrast(name, means[0], means[1], comparison, p)
        for (name, means, comparison), p in zip(found, adjusted, strict=True)
    ]


def _joined(first: Found, second: Found) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """Both per-image tables over the pictures that both have, in one order."""
    ours, theirs = read_images(first[1]).set_index("id"), read_images(second[1]).set_index("id")
    both = [name for name in ours.index if name in theirs.index]
    return ours.loc[both], theirs.loc[both]


def _pairs(
    tables: tuple[pandas.DataFrame, pandas.DataFrame], name: str
) -> tuple[list[float], list[float], list[str] | None] | None:
    """Values of one metric in both runs, infinite ones capped, and the clusters; None where it has none a picture."""
    ours, theirs = tables
    if name not in ours.columns or name not in theirs.columns:
        return None
    cap = METRICS[name].cap
    both = ours[name].notna() & theirs[name].notna()
    first, second = ([float(value) for value in table.loc[both, name]] for table in tables)
    if cap is not None:
        first, second = ([cap if math.isinf(value) else value for value in values] for values in (first, second))
    finite = [index for index in range(len(first)) if math.isfinite(first[index]) and math.isfinite(second[index])]
    clusters = [str(value) for value in ours.loc[both, CLUSTER]] if CLUSTER in ours.columns else None
    return (
        [first[index] for index in finite],
        [second[index] for index in finite],
        [clusters[index] for index in finite] if clusters else None,
    )


def _same_question(run: Run, baseline: Run) -> None:
    for what in ("task", "task_version", "protocol"):
        ours, theirs = getattr(run, what), getattr(baseline, what)
        if ours != theirs:
            raise ResultError(f"the runs differ in {what.replace('_', ' ')}: {ours} and {theirs}; compare equal ones")
    if run.digests.get("data") != baseline.digests.get("data"):
        raise ResultError(f"the two runs of {run.task} are on different pictures; run the baseline again on these")


def to_junit(name: str, checks: Sequence[Check]) -> str:
    """Write the checks as a JUnit test suite, one case a metric."""
    failures = sum(check.failed for check in checks)
    suite = ElementTree.Element("testsuite", name=name, tests=str(len(checks)), failures=str(failures))
    for check in checks:
        case = ElementTree.SubElement(suite, "testcase", classname=name, name=check.metric)
        if check.failed:
            said = f"{check.metric} is worse by {check.drop.mean:.6g}, allowed {check.allowed:.6g}"
            ElementTree.SubElement(case, "failure", message=said)
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
