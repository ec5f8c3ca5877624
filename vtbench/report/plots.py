"""Pictures for papers out of runs: what is drawn as data, then drawn by matplotlib in one style."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from vtbench import leaderboard, rates
from vtbench.catalogue import find_metric
from vtbench.errors import ResultError
from vtbench.leaderboard import Standing
from vtbench.report import content
from vtbench.results import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

log = logging.getLogger("vtbench")

Kind = Literal["rate-distortion", "legibility", "mtf", "contrast", "steps"]

FORMATS = ("svg", "png", "pdf")

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#7a3aa8", "#555555")
"""Told apart by the colour-blind too, after Okabe and Ito; the yellow darkened for white paper."""

MARKERS = "os^Dv*PX"

WIDTH = 5.5
"""Inches: the text width of the common conference styles."""

LONGEST = 40
"""Characters of a name that are drawn."""


@dataclass(frozen=True)
class Series:
    """Points of one name: x, value, and the ends of the value's interval where it has one."""

    name: str
    points: tuple[tuple[float, float, float | None, float | None], ...]
    line: bool
    labels: tuple[str, ...] = ()
    """A name for each point, where they are not one run's or family's curve."""


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    x: str
    y: str
    series: tuple[Series, ...]
    logarithmic: bool = False
    threshold: float | None = None
    """A level that is marked."""
    frontier: tuple[tuple[float, float], ...] = ()
    title: str = ""


def panels(kind: Kind, runs: Sequence[Run], *, task: str | None = None, metric: str | None = None) -> list[Panel]:
    """Say what a plot shows.

    Args:
        kind: which plot.
        runs: those that are drawn.
        task: which task's, where the runs are of several.
        metric: what stands on the axis of quality in place of the metric that ranks; some plots have their own.

    Raises:
        ResultError: if there is nothing to draw, or the runs are of several tasks.
        CardError: if there is no such metric.
    """
    if metric is not None:
        find_metric(metric)
    standings = _one_table(runs, task, _DRAWABLE[kind])
    apart = [one for one in standings if not one.alike and _DRAWABLE[kind](one.run)]
    if names := [f"{content.named(one.run)} ({content.plain(one.why)})" for one in apart]:
        log.warning("not drawn, since they may not be compared with the others: %s", ", ".join(names))
    found = _DRAWN[kind](standings, metric)
    if not any(panel.series for panel in found):
        raise ResultError(f"{kind}: these runs have nothing to draw; choose others, or another --task or --metric")
    return [panel for panel in found if panel.series]


def fingerprint(drawn: Sequence[Panel]) -> str:
    """sha256 over all that a plot shows: it stands in the file, and says whether the file is of these results."""
    return hashlib.sha256(json.dumps([asdict(panel) for panel in drawn], sort_keys=True).encode()).hexdigest()


def _one_table(runs: Sequence[Run], task: str | None, fits: Callable[[Run], bool]) -> list[Standing]:
    tables = {
        (name, protocol): standings
        for (name, protocol), standings in leaderboard.tables(runs).items()
        if (task is None or name == task) and any(fits(one.run) for one in standings)
    }
    if not tables:
        there = ", ".join(sorted({run.task for run in runs}))
        raise ResultError(f"no run of {task or 'any task'} has what this plot shows; the runs are of {there}")
    if len(tables) > 1:
        names = ", ".join(f"{name} under {protocol}" for name, protocol in tables)
        raise ResultError(
            f"the runs are of several tables: {names}; a plot shows one: choose with --task, or name runs"
        )
    return next(iter(tables.values()))


def _rate_distortion(standings: Sequence[Standing], metric: str | None) -> list[Panel]:
    name = metric or leaderboard.primary_of(standings)
    group = _alike(standings)
    ranked = [one.run for one in standings if one.rank is not None]
    families = content.anchors(group)
    coded = content.steps_of_codes(group, name)
    lines = [
        Series(
            content.named(group[at]), tuple((x, y, low, high) for x, y, low, high, _ in points if _finite(y)), line=True
        )
        for at, points in coded.items()
    ]
    rest = [
        run
        for at, run in enumerate(group)
        if run.family != rates.CONTROLS and run.family not in families and at not in coded
    ]
    made = []
    for along, label in (("bpp", "bits/pixel"), ("latent_values", "values/pixel")):
        series = [_points(family, members, name, along, line=True) for family, members in families.items()]
        for family in dict.fromkeys(run.family for run in rest):
            series.append(_points(family, [run for run in rest if run.family == family], name, along, line=False))
        series += lines if along == "bpp" else []
        best = rates.frontier(ranked, name, along)
        made.append(
            Panel(
                x=label,
                y=_headed(name),
                series=tuple(one for one in series if one.points),
                logarithmic=True,
                frontier=tuple((_value(run, along), _value(run, name)) for run in best),
                title="" if along == "bpp" else "continuous",
            )
        )
    return made


def _finite(value: object) -> bool:
    """Tell whether `content.number` gave a number; an infinite one is a word."""
    return isinstance(value, float)


def _value(run: Run, name: str) -> float:
    score = run.scores.get(name)
    return math.nan if score is None or score.value is None else score.value


def _points(title: str, runs: Sequence[Run], name: str, along: str, *, line: bool) -> Series:
    found = []
    for run in runs:
        x, y = _value(run, along), _value(run, name)
        if math.isfinite(x) and math.isfinite(y) and x > 0:
            score = run.scores[name]
            found.append(((x, y, score.low, score.high), content.named(run)))
    found.sort()
    return Series(content.plain(title), tuple(p for p, _ in found), line, () if line else tuple(n for _, n in found))


def _alike(standings: Sequence[Standing]) -> list[Run]:
    """Give the runs that may be compared: what else differs would show as the tokenizers' own difference."""
    return [one.run for one in standings if one.alike]


def _curve(key: Callable[[Mapping[str, Any]], bool]) -> Callable[[Sequence[Standing], str | None], list[Panel]]:
    def draw(standings: Sequence[Standing], metric: str | None) -> list[Panel]:
        del metric
        group = _alike(standings)
        one = next((one for one in content.curves(group) if key(one)), None)
        if one is None:
            return []
        series = [
            Series(
                content.named(group[at]),
                tuple((x, y, low, high) for x, y, low, high in points if isinstance(y, float)),
                line=True,
            )
            for at, points in one["series"].items()
        ]
        xs = [x for drawn in series for x, *_ in drawn.points]
        wide = bool(xs) and min(xs) > 0 and max(xs) / min(xs) >= 6
        return [Panel(one["axis"], _headed(one["metric"]), tuple(series), wide, one["line"])]

    return draw


def _steps(standings: Sequence[Standing], metric: str | None) -> list[Panel]:
    group = _alike(standings)
    name = metric or leaderboard.primary_of(standings)
    trainings = content.steps(group)
    drawn = {at for one in trainings for _, at in one["points"]}
    if alone := [content.named(run) for at, run in enumerate(group) if run.step is not None and at not in drawn]:
        log.warning(
            "not drawn, since no other step of their training is here, or nothing tells trainings apart: %s",
            ", ".join(alone),
        )
    series = []
    for one in trainings:
        found = []
        for step, at in one["points"]:
            value = _value(group[at], name)
            if math.isfinite(value):
                score = group[at].scores[name]
                found.append((float(step), value, score.low, score.high))
        series.append(Series(one["name"], tuple(found), line=True))
    return [Panel("step", _headed(name), tuple(one for one in series if one.points))]


def _headed(name: str) -> str:
    metric = find_metric(name)
    return f"{metric.title} {metric.arrow}"


def _has_level(name: str) -> Callable[[Run], bool]:
    return lambda run: any(key.startswith(f"{name}/") for key in run.scores)


_DRAWN: Mapping[Kind, Callable[[Sequence[Standing], str | None], list[Panel]]] = {
    "rate-distortion": _rate_distortion,
    "legibility": _curve(lambda one: one["key"] in ("cer/plain_height", "cer/cap_height")),
    "mtf": _curve(lambda one: one["key"] == "mtf/level"),
    "contrast": _curve(lambda one: one["key"] == "contrast/level"),
    "steps": _steps,
}

_DRAWABLE: Mapping[Kind, Callable[[Run], bool]] = {
    "rate-distortion": lambda run: True,
    "legibility": lambda run: any(
        "cer" in s for a in ("plain_height", "cap_height") for s in run.groups.get(a, {}).values()
    ),
    "mtf": _has_level("mtf"),
    "contrast": _has_level("contrast"),
    "steps": lambda run: run.step is not None,
}


# --- drawing ----------------------------------------------------------------------------------------------------------


def draw(drawn: Sequence[Panel], form: str) -> bytes:
    """Draw panels beside each other.

    Args:
        drawn: what is shown.
        form: one of FORMATS.

    Returns:
        The file. The same panels give the same bytes under one version of matplotlib.

    Raises:
        ResultError: if matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ResultError("plots need matplotlib; pip install 'vtbench[plots]' brings it") from error
    from matplotlib.figure import Figure

    style: Any = {
        "font.size": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.6,
        "grid.linewidth": 0.4,
        "grid.color": "#d5d9e0",
        "lines.linewidth": 1.1,
        "lines.markersize": 3.5,
        "legend.frameon": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "vtbench",
        "pdf.fonttype": 42,
    }
    with matplotlib.rc_context(style):
        widths = [3.0, *[1.0] * (len(drawn) - 1)]
        figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
        axes = figure.subplots(1, len(drawn), width_ratios=widths, squeeze=False, sharey=True)[0]
        look = _look(drawn)
        for place, panel in zip(axes, drawn, strict=True):
            _panel(place, panel, look)
        for place in axes[1:]:
            place.set_ylabel("")
        _legend(figure, drawn, look)
        written = io.BytesIO()
        said = f"vtbench plot, sha256 of the data: {fingerprint(drawn)}"
        metadata: dict[str, dict[str, str | None]] = {
            "svg": {"Date": None, "Description": said},
            "png": {"Software": None, "Description": said},
            "pdf": {"CreationDate": None, "Subject": said},
        }
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            figure.savefig(written, format=form, dpi=300, metadata=metadata[form])
    _say(caught)
    return written.getvalue()


def _say(caught: Sequence[warnings.WarningMessage]) -> None:
    """Say in a line what matplotlib says of each sign, once while it measures and once while it draws."""
    codes, others = set(), {}
    for one in caught:
        if found := re.match(r"Glyph (\d+) .*missing from", str(one.message)):
            codes.add(int(found[1]))
        else:
            others[str(one.message)] = one
    if codes:
        signs = "".join(content.plain(chr(code)) for code in sorted(codes))
        log.warning("the plot's font lacks %s: boxes stand in their place; name such runs otherwise", signs)
    for message, one in others.items():
        if message.startswith("constrained_layout not applied"):
            log.warning("the plot has no room for all names; name fewer runs")
        else:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


Look = Mapping[str, tuple[str, str]]
"""Colour and marker by name."""


def _look(drawn: Sequence[Panel]) -> Look:
    """Give every name of a figure its colour and marker, the same in all panels."""
    names = dict.fromkeys(one.name for panel in drawn for one in panel.series)
    return {
        name: (COLOURS[at % len(COLOURS)], MARKERS[at // len(COLOURS) % len(MARKERS)]) for at, name in enumerate(names)
    }


def _panel(axes: Axes, panel: Panel, look: Look) -> None:
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=2, foreground="white")]
    for one in panel.series:
        colour, marker = look[one.name]
        xs, ys = [point[0] for point in one.points], [point[1] for point in one.points]
        axes.plot(xs, ys, color=colour, marker=marker, linestyle="-" if one.line else "none", zorder=3)
        for x, _, low, high in one.points:
            if low is not None and high is not None and math.isfinite(float(low)) and math.isfinite(float(high)):
                axes.plot([x, x], [low, high], color=colour, linewidth=0.7, alpha=0.5, zorder=2)
        for (x, y, *_), label in zip(one.points, one.labels, strict=False):
            drawn = axes.annotate(
                _short(label), (x, y), xytext=(4, 3), textcoords="offset points", color=colour, fontsize=7
            )
            drawn.set(zorder=4, path_effects=halo)
    if panel.frontier:
        axes.plot(*zip(*panel.frontier, strict=True), color="black", linestyle=":", linewidth=0.9, zorder=1)
    if panel.threshold is not None:
        axes.axhline(panel.threshold, color="#555555", linestyle="--", linewidth=0.7, zorder=1)
    if panel.logarithmic:
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(panel.x)
    axes.set_ylabel(panel.y)
    axes.set_title(panel.title, fontsize=8)
    axes.margins(x=0.12)
    axes.grid(visible=True)
    axes.set_axisbelow(True)


def _short(name: str) -> str:
    """Leave out the middle of a name that would leave the axes no room; beginnings and ends tell names apart."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST // 2]}…{name[-LONGEST // 2 + 1 :]}"


def _legend(figure: Figure, drawn: Sequence[Panel], look: Look) -> None:
    """Name the lines under the first panel; points carry their names themselves."""
    from matplotlib.lines import Line2D

    lines = [one.name for one in drawn[0].series if one.line]
    handles = [Line2D([], [], color=look[name][0], marker=look[name][1], label=_short(name)) for name in lines]
    if any(panel.frontier for panel in drawn):
        handles.append(Line2D([], [], color="black", linestyle=":", linewidth=0.9, label="frontier"))
    if handles:
        longest = max(len(str(handle.get_label())) for handle in handles)
        columns = max(1, min(len(handles), 100 // (longest + 8)))  # as many as the figure is wide
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, handlelength=1.6)
