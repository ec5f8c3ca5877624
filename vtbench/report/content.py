"""What the page says of runs: tables with intervals and ties, rates at equal quality, curves, steps, surroundings."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vtbench import cards, leaderboard, rates
from vtbench.catalogue import find_metric, metrics, of_measure
from vtbench.errors import ResultError
from vtbench.leaderboard import Standing
from vtbench.results import CANONICAL, Run, Score, run_name

Json = Any
"""What becomes JSON in the page."""

NOTHING = "-"
"""What stands in a table where there is no value."""

LONGEST = 300
"""Characters of a name or path that are shown."""

LEGIBLE = 0.1
"""The CER under which text counts as legible (`metrics.text.legibility_threshold`)."""

LEVELS: Mapping[str, str] = {
    "contrast": "cycles/pixel",
    "mtf": "cycles/pixel",
    "spectral_ratio": "cycles/pixel",
    "coherence": "cycles/pixel",
    "line_survival": "line width (px)",
    "repeat_psnr": "round trips",
    "shift_psnr": "shift (px)",
    **dict.fromkeys(("curve_psnr", "curve_ssim", "curve_lpips", "curve_bpp"), "depths or scales decoded"),
}
"""What the levels of a metric are."""

CODED = "curve_bpp"
"""The rate of each depth or scale: what its tokenizer's curve is drawn against."""

FACTS = (
    *("protocol", "weights", "label", "step", "ema", "precision", "compiled", "device", "batch_size", "limit"),
    *("version", "commit", "dirty"),
)
"""Fields of a run that make up its surroundings, beside versions and digests."""


def plain(text: object) -> str:
    """Show a text of somebody's: without control characters and signs that turn the direction of what follows."""
    shown = "".join(sign if sign.isprintable() else "\ufffd" for sign in str(text))
    return shown if len(shown) <= LONGEST else shown[:LONGEST] + "…"


def number(value: float | None, digits: int = 6) -> float | str | None:
    """Give a number as JSON can have it, to so many significant digits; infinite ones as a string."""
    if value is None or math.isnan(value):
        return None
    return ("Infinity" if value > 0 else "-Infinity") if math.isinf(value) else float(f"{value:.{digits}g}")


def named(run: Run) -> str:
    """Name a run within its table."""
    return plain(leaderboard.shown_name(run))


# --- tables -----------------------------------------------------------------------------------------------------------


def columns(group: Sequence[Run], primary: str) -> list[Json]:
    """Say which metrics a table shows, each with the scale that its whiskers share: first the rate and what ranks."""
    found = []
    for name in _in_order(leaderboard.measured(group), primary):
        metric = find_metric(name)
        # The ceiling and the bottom would squeeze all others into a corner.
        between = [run for run in group if run.family != rates.CONTROLS] or group
        known = [score for run in between if (score := run.scores.get(name)) is not None]
        ends = [end for score in known for end in (score.value, score.low, score.high)]
        finite = [end for end in ends if end is not None and math.isfinite(end)]
        found.append(
            {
                "name": name,
                "title": metric.title,
                "arrow": metric.arrow,
                "description": metric.description,
                "scale": (min(finite), max(finite)) if finite else (0.0, 0.0),
            }
        )
    return found


def _in_order(names: Sequence[str], primary: str) -> list[str]:
    first = [name for name in ("bpp", "latent_values", primary) if name in names]
    return [*first, *(name for name in names if name not in first)]


WIDTH = 64
"""Units of a whisker's drawing."""


def cell(score: Score | None, column: Json) -> Json:
    """Show a score in a table: its text, what it sorts by, and where its whisker lies."""
    said: Json = {
        "text": NOTHING,
        "sort": "",
        "why": "not measured",
        "interval": "",
        "low": "",
        "high": "",
        "whisker": None,
    }
    if score is None:
        return said
    if score.value is None:
        return {**said, "why": plain(score.reason)}
    said |= {"text": leaderboard.digits(score.value, column["name"]), "sort": number(score.value, 9), "why": ""}
    if score.low is not None and score.high is not None:
        low, high = (leaderboard.digits(end, column["name"]) for end in (score.low, score.high))
        said["interval"] = f"{low} to {high}"
        said["low"], said["high"] = number(score.low, 9), number(score.high, 9)
        start, end = column["scale"]
        if start <= score.low and score.high <= end and end > start:
            places = [2 + (WIDTH - 4) * (at - start) / (end - start) for at in (score.low, score.value, score.high)]
            said["whisker"] = [round(place, 1) for place in places]
    if score.scored != score.expected:
        said["interval"] = (said["interval"] + f"; {score.scored} of {score.expected} pictures").lstrip("; ")
    return said


def ties(standings: Sequence[Standing], primary: str) -> dict[int, str]:
    """Say with which other ranks each rank is tied: each value lies inside the other's interval.

    Returns:
        By the position in the table: ranks such as "3, 5 to 7"; positions without ties are left out.
    """
    known = [(at, one.rank, one.run.scores[primary]) for at, one in enumerate(standings) if one.rank is not None]
    found = {}
    for at, _, own in known:
        tied = [rank for other, rank, score in known if other != at and _inside(own, score) and _inside(score, own)]
        if tied:
            found[at] = _ranges(sorted(tied))
    return found


def _inside(score: Score, other: Score) -> bool:
    if score.value is None or other.low is None or other.high is None:
        return False
    return other.low <= score.value <= other.high


def _ranges(numbers: Sequence[int]) -> str:
    parts: list[list[int]] = []
    for one in numbers:
        if parts and one == parts[-1][-1] + 1:
            parts[-1].append(one)
        else:
            parts.append([one])
    return ", ".join(f"{part[0]} to {part[-1]}" if len(part) > 2 else ", ".join(map(str, part)) for part in parts)


def reported(runs: Iterable[Run]) -> list[Json]:
    """Put numbers that authors printed beside those measured under the same protocol; nothing of other protocols."""
    known = cards.tokenizers()
    rows = []
    for run in runs:
        card = known.get(run.tokenizer)
        if card is None or run.protocol == CANONICAL or run.label is not None:
            continue
        for one in card.reported:
            score = run.scores.get(one.metric)
            if one.protocol == run.protocol and score is not None and score.value is not None:
                rows.append(
                    {
                        "name": named(run),
                        "metric": find_metric(one.metric).title,
                        "measured": leaderboard.digits(score.value, one.metric),
                        "interval": cell(score, {"name": one.metric, "scale": (0.0, 0.0)})["interval"],
                        "pictures": f"{score.scored} of {plain(run.task)}",
                        "reported": f"{one.value:g}",
                        "dataset": plain(one.dataset),
                        "printed": plain(one.printed_in),
                    }
                )
    return rows


# --- rates ------------------------------------------------------------------------------------------------------------


def qualities(group: Sequence[Run]) -> list[str]:
    """Name the metrics that may stand on the axis of quality."""
    rates_alone = (*of_measure("codes"), CODED)
    return [name for name in leaderboard.measured(group) if name not in rates_alone]


def anchors(group: Sequence[Run]) -> dict[str, list[Run]]:
    """Give the codecs that have two qualities or more, by family."""
    found: dict[str, list[Run]] = {}
    for run in group:
        if run.kind == "codec" and run.family != rates.CONTROLS:
            found.setdefault(run.family, []).append(run)
    return {family: members for family, members in sorted(found.items()) if len(members) > 1}


def steps_of_codes(group: Sequence[Run], metric: str) -> dict[int, list[Json]]:
    """Give the curve of each run that was decoded from the first of its codes, from more and from all of them.

    Returns:
        By the run's place in the group: [bits per pixel, value, low, high, step] by rising rate; nothing for a metric
        that is not measured by steps, or for a run with fewer than two of them.
    """
    if metric == CODED or metric not in of_measure("curve"):
        return {}
    found: dict[int, list[Json]] = {}
    for at, run in enumerate(group):
        points = []
        for name, score in run.scores.items():
            rate = run.scores.get(f"{CODED}/{name.partition('/')[2]}") if name.startswith(f"{metric}/") else None
            if rate is not None and rate.value is not None and score.value is not None:
                ends = [number(end) for end in (score.value, score.low, score.high)]
                points.append([number(rate.value), *ends, plain(name.partition("/")[2])])
        if len(points) > 1:
            found[at] = sorted(points, key=lambda point: float(point[0]))
    return found


def savings(group: Sequence[Run], metric: str) -> dict[str, list[Json]]:
    """Compare everything with every anchor at equal quality, or say why it can't be.

    Returns:
        By anchor: rows of who, percent or None, and the range of quality or the reason.
    """
    if find_metric(metric).direction == "one":
        return {}
    families = anchors(group)
    curves = {family: _curve(members, metric) for family, members in families.items()}
    singles = [run for run in group if run.family != rates.CONTROLS and run.family not in families]
    found: dict[str, list[Json]] = {}
    for family, anchor in curves.items():
        rows: list[Json] = []
        for other, curve in curves.items():
            if other != family:
                rows.append(_saving_row(f"{plain(other)} (curve)", metric, curve, anchor))
        for run in singles:
            rows.append(_saving_row(named(run), metric, run, anchor))
        found[plain(family)] = rows
    return found


def _curve(members: Sequence[Run], metric: str) -> rates.Curve | str:
    try:
        return rates.Curve(members, metric)
    except ResultError as error:
        return str(error)


def _saving_row(who: str, metric: str, one: rates.Curve | Run | str, anchor: rates.Curve | str) -> Json:
    try:
        if isinstance(anchor, str):
            raise ResultError(f"the anchor: {anchor}")
        if isinstance(one, str):
            raise ResultError(one)
        if isinstance(one, rates.Curve):
            saving = rates.saving(one, anchor)
        else:
            saving = rates.saving_of_point(one, anchor, metric)
    except ResultError as error:
        return [who, None, str(error)]
    sign = 1.0 if find_metric(metric).direction == "higher" else -1.0
    ends = sorted((sign * saving.low, sign * saving.high))
    shown = " to ".join(dict.fromkeys(leaderboard.digits(end, metric) for end in ends))
    return [who, number(saving.percent, 4), f"at {shown}"]


# --- curves -----------------------------------------------------------------------------------------------------------


def curves(group: Sequence[Run]) -> list[Json]:
    """Give every score that has a curve: by level (contrast by frequency), and by group (CER by glyph height).

    Returns:
        Each with its points by the run's place in the group: [x, value, low, high].
    """
    found: list[Json] = []
    for name in leaderboard.curves(group):
        by_run = {
            at: {key.partition("/")[2]: score for key, score in run.scores.items() if key.startswith(f"{name}/")}
            for at, run in enumerate(group)
        }
        found.append(_curve_of(f"{name}/level", name, LEVELS.get(name, "level"), by_run))
    for attribute in dict.fromkeys(attribute for run in group for attribute in run.groups):
        shown = [run.groups.get(attribute, {}) for run in group]
        known = {name for groups in shown for scores in groups.values() for name in scores}
        for name in (name for name in metrics() if name in known):
            by_run = {
                at: {label: scores[name] for label, scores in groups.items() if name in scores}
                for at, groups in enumerate(shown)
            }
            label = attribute.replace("_", " ") + (" (px)" if attribute.endswith("_height") else "")
            found.append(_curve_of(f"{name}/{attribute}", name, label, by_run))
    return [one for one in found if one["labels"] or one["series"]]


def _curve_of(key: str, name: str, axis: str, by_run: Mapping[int, Mapping[str, Score]]) -> Json:
    labels = list(dict.fromkeys(label for scores in by_run.values() for label in scores))
    places: dict[str, float | None] = {label: leaderboard.position(label) for label in labels}
    words: list[str] = []
    if any(place is None for place in places.values()):
        words = sorted(labels)
        places = {label: float(at) for at, label in enumerate(words)}
    series = {}
    for at, scores in by_run.items():
        points = [
            [places[label], *(number(end) for end in (score.value, score.low, score.high))]
            for label, score in scores.items()
            if score.value is not None
        ]
        if points:
            series[at] = sorted(points, key=lambda point: float(point[0] or 0.0))
    return {
        "key": plain(key),
        "title": f"{find_metric(name).title} by {plain(axis)}",
        "metric": name,
        "axis": plain(axis),
        "labels": [plain(word) for word in words],
        "line": LEGIBLE if name == "cer" and axis.endswith("(px)") else None,
        "series": series,
    }


def steps(group: Sequence[Run]) -> list[Json]:
    """Find the trainings of which there are runs at several steps: a line each, by rising step.

    Runs whose labels differ in the step and epoch alone are of one training. Two at one step are of two that nothing
    tells apart: they are no line.

    Returns:
        By line, its name and its points: [step, place in the group].
    """
    found: dict[str, list[tuple[float, int]]] = {}
    for at, run in enumerate(group):
        if run.step is not None and math.isfinite(run.step):
            found.setdefault(_training(run, run.step), []).append((run.step, at))
    return [
        {"name": plain(name), "points": [[step, at] for step, at in sorted(members)]}
        for name, members in sorted(found.items())
        if len(members) > 1 and len({step for step, _ in members}) == len(members)
    ]


_STEP = re.compile(
    r"(?:(?<![A-Za-z])(?:global_?step|steps?|iter(?:ation)?s?|s)[-_]?)?"
    r"(?<![\d.])(\d+(?:\.\d+)?)([eE]\d+|[kKM])?(?![A-Za-z0-9]|\.\d)"
)
"""A number in a label that may be the step."""


def _training(run: Run, step: float) -> str:
    """Name the training that a run is of: its tokenizer, and what its label says beside the step and the epoch."""
    label = run.label or ""
    spelled = [
        one
        for one in _STEP.finditer(label)
        if float(one[1] + {"k": "e3", "K": "e3", "M": "e6"}.get(one[2] or "", one[2] or "")) == step
    ]
    if not spelled or label == (run.digests.get("weights") or "")[:8]:
        return run_name(run.tokenizer, None, run.precision, CANONICAL)
    rest = label[: spelled[-1].start()] + label[spelled[-1].end() :]
    rest = re.sub(r"(?i)(?<![A-Za-z])epoch[-_]?\d*", "", rest).strip("-_.")
    return run_name(run.tokenizer, rest, run.precision, CANONICAL)


# --- diagnostics ---------------------------------------------------------------------------------------------------


def diagnostics(group: Sequence[Run], runs: Sequence[Run]) -> Json:
    """Say which diagnostics may be drawn against which metrics of the same tokenizers' reconstruction.

    Args:
        group: the runs of one table, those alone that may be compared.
        runs: the same of all tables.

    Returns:
        Names of diagnostics; names of metrics; by the place in `group` the place in `runs` of the reconstruction by the
        same weights under the same protocol; and the names of runs that have none. None where nothing can be drawn.
    """
    names = [name for name in leaderboard.measured(group) if find_metric(name).evidence]
    known = {_same(run): at for at, run in enumerate(runs) if run.task == "reconstruction"}
    mates = {at: known[_same(run)] for at, run in enumerate(group) if _same(run) in known}
    against = qualities([runs[at] for at in mates.values()])
    if not names or not against:
        return None
    alone = [named(run) for at, run in enumerate(group) if at not in mates]
    return {"names": names, "against": against, "mates": mates, "alone": alone}


def _same(run: Run) -> tuple[str, str, str | None]:
    return run.name, run.protocol, run.digests.get("weights")


# --- surroundings -----------------------------------------------------------------------------------------------------


def surroundings(run: Run) -> dict[str, str]:
    """Say under what a run was made: what two runs may differ in beside their scores."""
    said = {name.replace("_", " "): getattr(run, name) for name in FACTS}
    said |= {"parameters": run.parameters, "task version": run.task_version, "data revision": run.data_revision}
    said |= {f"version of {name}": version for name, version in run.versions.items()}
    said |= {
        f"sha256 of {name}": digest[:12]
        for name, digest in run.digests.items()
        if digest is not None and name not in ("plan", "table")
    }
    return {plain(name): plain(value) for name, value in said.items() if value is not None}
