"""One HTML file out of runs: everything inside it, every text escaped, and a policy that forbids any request."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from vtbench import __version__, leaderboard, rates, results
from vtbench.catalogue import find_metric, metrics
from vtbench.report import content
from vtbench.report.content import Json, plain
from vtbench.report.gallery import Shelf, galleries
from vtbench.results import Run

ASSETS = Path(__file__).resolve().parent.parent / "assets" / "report"

STYLES = ("uPlot.min.css", "page.css")
SCRIPTS = ("uPlot.iife.min.js", "img-comparison-slider.js", "charts.js", "page.js")


@dataclass(frozen=True)
class Report:
    """A page, and the files that lie beside it."""

    html: bytes
    files: Mapping[str, bytes]
    """Pictures by their name in the folder; none where they are inside the page."""
    damaged: Sequence[str]
    """Per-image tables and lists of pictures that could not be read, each with the reason."""
    pictures: int
    """How many pictures it shows."""


def build(
    runs: Sequence[Run],
    work: Path,
    *,
    places: Mapping[int, Path] = MappingProxyType({}),
    title: str = "vtbench report",
    folder: str | None = None,
    rank_local: bool = False,
) -> Report:
    """Make the page.

    Args:
        runs: what is shown, in any order.
        work: the work folder, where per-image tables and kept pictures are looked for.
        places: by `id`, the folders or files that runs were named by; what lies beside them comes first.
        title: of the page.
        folder: name of a folder beside the page that takes all kept pictures; None puts the best, the median and the
            worst of each run inside the page.
        rank_local: give ranks to local weights too.
    """
    grouped = leaderboard.tables(runs, rank_local=rank_local)
    ordered = [standing.run for standings in grouped.values() for standing in standings]
    place = {id(run): at for at, run in enumerate(ordered)}
    looked = {at: results.find_table(run, work, places.get(id(run))) for at, run in enumerate(ordered)}
    tables = {at: found for at, found in looked.items() if found is not None}
    shelf = Shelf(folder)
    pictures, damaged = galleries(ordered, tables, shelf)
    comparable = [standing.run for standings in grouped.values() for standing in standings if standing.alike]
    views = [_view(at, *item, place, comparable) for at, item in enumerate(grouped.items())]
    data = {
        "metrics": _metrics(ordered),
        "runs": [_run(run) for run in ordered],
        "tables": [view.pop("data") for view in views],
        "galleries": pictures,
    }
    html = _render(
        title=plain(title),
        version=__version__,
        count=len(ordered),
        without=len(ordered) - len(tables),
        views=views,
        reported=content.reported(ordered),
        data=_script_json(data),
        images=_script_json(shelf.data),
        folder=folder is not None,
    )
    return Report(html, shelf.files, damaged, len(shelf.data))


def _metrics(runs: Sequence[Run]) -> Json:
    names = {name.partition("/")[0] for run in runs for name in run.scores}
    return {
        name: [metric.title, metric.direction, metric.digits, metric.arrow]
        for name, metric in metrics().items()
        if name in names
    }


def _run(run: Run) -> Json:
    number = content.number
    return {
        "name": content.named(run),
        "full": plain(run.name),
        "task": plain(run.task),
        "family": plain(run.family),
        "kind": run.kind,
        "tokens": run.tokens_per_image,
        "scores": {
            name: [number(score.value), number(score.low), number(score.high)]
            for name, score in run.scores.items()
            if score.value is not None and name in metrics()
        },
        "facts": content.surroundings(run),
    }


def _order(run: Run, place: leaderboard.Place | None) -> int | str:
    """Give what the column of places in rate classes is sorted by; "" where there is none."""
    if place is None:
        return ""
    unit, step = rates.class_order(run)
    return (unit * (len(rates.BOUNDS) + 1) + step) * 1_000_000 + place.rank


def _view(
    at: int,
    table: tuple[str, str],
    standings: Sequence[leaderboard.Standing],
    place: Mapping[int, int],
    comparable: Sequence[Run],
) -> Json:
    """Say what one table shows: rows for the template, and the rest for the page's script."""
    task, protocol = table
    group = [standing.run for standing in standings]
    alike = [standing.run for standing in standings if standing.alike]
    ranked = [standing.run for standing in standings if standing.rank is not None]
    primary = leaderboard.primary_of(standings)
    columns = content.columns(group, primary)
    ties, places = content.ties(standings, primary), leaderboard.places(standings)
    best = leaderboard.on_frontier(standings)
    rows = [
        {
            "run": place[id(run)],
            "rank": rank,
            "why": plain(why) if why else None,
            "ties": ties.get(row),
            "place": places[row],
            "order": _order(run, places[row]),
            "class": rates.rate_class(run),
            "name": content.named(run),
            "frontier": best[row],
            "words": plain(f"{run.name} {run.family} {run.kind} {run.weights} {run.precision} {run.device}").lower(),
            "cells": [content.cell(run.scores.get(column["name"]), column) for column in columns],
            "scored": f"{run.scores[primary].scored if primary in run.scores else 0}/{run.images}",
            "tokens": run.tokens_per_image,
            "weights": run.weights,
            "precision": run.precision,
            "device": plain(run.device),
            "version": plain(run.version),
        }
        for row, (run, rank, why, _) in enumerate(standings)
    ]
    qualities, curves, steps = content.qualities(group), content.curves(alike), content.steps(alike)
    diagnostics = content.diagnostics(alike, comparable)
    apart = [standing.run for standing in standings if not standing.alike]
    lines = {row for one in steps for _, row in one["points"]}
    return {
        "id": at,
        "task": plain(task),
        "protocol": plain(protocol),
        "version": (alike or group)[0].task_version,
        "primary": find_metric(primary),
        "columns": columns,
        "rows": rows,
        "classes": list(dict.fromkeys(map(rates.rate_class, sorted(group, key=rates.class_order)))),
        "missing": [plain(reason) for reason in (*leaderboard.missing(group), *leaderboard.unknown(group))],
        "curves": bool(curves),
        "steps": bool(steps),
        "diagnostics": diagnostics,
        "apart": {
            "diagnostics": [content.named(run) for run in apart],
            "curves": [content.named(run) for run in apart if content.curves([run])],
            "steps": [content.named(run) for run in apart if run.step is not None],
        },
        "alone": [content.named(run) for row, run in enumerate(alike) if run.step is not None and row not in lines],
        "data": {
            "title": plain(f"{task} ({protocol})"),
            "primary": primary,
            "runs": [place[id(run)] for run in group],
            "apart": [place[id(run)] for run in apart],
            "qualities": qualities,
            "frontiers": {
                name: {rate: [place[id(run)] for run in rates.frontier(ranked, name, rate)] for rate in RATES}
                for name in qualities
            },
            "anchors": {plain(name): [place[id(run)] for run in runs] for name, runs in content.anchors(alike).items()},
            "coded": {
                name: {place[id(alike[row])]: points for row, points in content.steps_of_codes(alike, name).items()}
                for name in qualities
            },
            "diagnostics": diagnostics
            and diagnostics
            | {
                "mates": {
                    place[id(alike[row])]: place[id(comparable[mate])] for row, mate in diagnostics["mates"].items()
                }
            },
            "savings": {name: content.savings(alike, name) for name in qualities},
            "curves": [
                {**one, "series": {place[id(alike[int(row)])]: points for row, points in one["series"].items()}}
                for one in curves
            ],
            "steps": [
                {**one, "points": [[step, place[id(alike[row])]] for step, row in one["points"]]} for one in steps
            ],
        },
    }


RATES = ("bpp", "bpp_entropy", "latent_values")
"""Metrics that may stand on the axis of rates; values a pixel on one of their own."""


def _script_json(value: Json) -> str:
    """Lay data out as JSON that can stand inside a script element whatever is in it."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _render(**values: Json) -> bytes:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    styles = [_asset(name) for name in STYLES]
    scripts = [_asset(name) for name in SCRIPTS]
    local = " file: 'self'" if values.pop("folder") else ""
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {' '.join(_hash(text) for text in scripts)}",
            f"style-src {' '.join(_hash(text) for text in styles)}",
            f"img-src data:{local}",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    trusted = {name: Markup(values.pop(name)) for name in ("data", "images")}  # escaped by _script_json
    text = environment.get_template("page.html.jinja").render(
        policy=policy,
        styles=[Markup(text) for text in styles],  # files of the package
        scripts=[Markup(text) for text in scripts],
        **trusted,
        **values,
    )
    return text.encode("utf-8", "replace")


def _asset(name: str) -> str:
    """Read a style or script, without the address of a map that no page has."""
    text = (ASSETS / name).read_text(encoding="utf-8")
    text = re.sub(r"//# sourceMappingURL=\S+\s*$", "", text)
    if "</script" in text or "</style" in text:
        raise ValueError(f"{name}: can't stand inside an element")
    return text


def _hash(text: str) -> str:
    """Name an inline style or script in a Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
