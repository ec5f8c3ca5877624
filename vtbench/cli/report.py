"""Showing results: `vtbench report` and `vtbench plot`."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vtbench import files
from vtbench.cli._terminal import ResultsOption, WorkOption, app, complaints, console, one_line
from vtbench.cli.judge import accepted
from vtbench.errors import ResultError

if TYPE_CHECKING:
    from vtbench.results import Run


class Kind(StrEnum):
    """What can be drawn."""

    rate_distortion = "rate-distortion"
    legibility = "legibility"
    mtf = "mtf"
    contrast = "contrast"
    steps = "steps"


RunsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="[RUN]...",
        help="Names as in the results, TASK/NAME, with * for any part; JSON files or runs' folders; all if left out.",
    ),
]


@app.command()
def report(
    runs: RunsArgument = [],  # noqa: B006  typer wants a list
    results_folder: ResultsOption = Path("results"),
    work: WorkOption = Path(".vtbench"),
    out: Annotated[Path, typer.Option("--out", "-o", help="The page; its name ends in .html.")] = Path("report.html"),
    folder: Annotated[
        bool,
        typer.Option("--folder", help="All kept pictures as files in a folder beside the page, not three a run in it."),
    ] = False,
    title: Annotated[str, typer.Option(help="The page's title.")] = "vtbench report",
    rank_local: Annotated[bool, typer.Option("--rank-local", help="Give ranks to local weights too.")] = False,
) -> None:
    """Write one HTML page out of runs: tables, curves and pictures, without a server or a network."""
    from vtbench.report import page

    if out.suffix.lower() not in (".html", ".htm"):
        raise ResultError(f"--out {out}: expected a name that ends in .html")
    beside = out.with_name(f"{out.stem}-pictures") if folder else None
    shown = chosen(runs, results_folder)
    made = page.build(
        [run for run, _ in shown],
        work,
        places={id(run): place for run, place in shown if place is not None},
        title=title,
        folder=beside.name if beside is not None else None,
        rank_local=rank_local,
    )
    for said in made.damaged:
        complaints.print(f"vtbench: passed over: {one_line(said)}")
    if beside is not None:
        for name, content in made.files.items():
            files.write_atomic(beside / name, content)
    files.write_atomic(out, made.html)
    console.print(str(out), soft_wrap=True)
    if not made.pictures:
        console.print("It shows no pictures: `vtbench run … --keep-pictures worst:8` keeps them.", soft_wrap=True)


@app.command()
def plot(
    out: Annotated[Path, typer.Option("--out", "-o", help="A file; its name ends in .svg, .png or .pdf.")],
    kind: Annotated[Kind, typer.Argument(metavar="KIND", help="rate-distortion, legibility, mtf, contrast or steps.")],
    runs: RunsArgument = [],  # noqa: B006  typer wants a list
    task: Annotated[str | None, typer.Option(help="Which task's, where the runs are of several.")] = None,
    metric: Annotated[str | None, typer.Option(help="On the axis of quality, in place of the one that ranks.")] = None,
    results_folder: ResultsOption = Path("results"),
) -> None:
    """Draw runs for a paper (needs the extra `plots`)."""
    from vtbench.report import plots

    form = out.suffix.lower().lstrip(".")
    if form not in plots.FORMATS:
        raise ResultError(f"--out {out}: expected a name that ends in .svg, .png or .pdf")
    drawn = plots.panels(kind.value, [run for run, _ in chosen(runs, results_folder)], task=task, metric=metric)
    files.write_atomic(out, plots.draw(drawn, form))
    console.print(str(out), soft_wrap=True)


def chosen(names: Sequence[str], results_folder: Path) -> list[tuple[Run, Path | None]]:
    """Find the runs that a command names, in its order; all of the results folder where it names none.

    Returns:
        Each once, with the folder or file that it was named by, where it was.

    Raises:
        ResultError: if one is not found or was changed, or there is none.
    """
    from vtbench import validation

    places = {name: (validation.read(Path(name)), Path(name)) for name in names if files.exists(name)}
    known = accepted(results_folder) if len(places) < len(set(names)) or not names else []
    found: list[tuple[Run, Path | None]] = [] if names else [(run, None) for run in known]
    for name in names:
        own = [places[name]] if name in places else [(run, None) for run in _matching(name, known)]
        if not own:
            there = ", ".join(sorted({run.name for run in known})[:20]) or "none"
            raise ResultError(f"{name}: no such run in {results_folder}, no such file; there: {there}")
        found += own
    once: dict[Hashable, tuple[Run, Path | None]] = {}
    for run, place in found:
        before = once.setdefault(validation.identity(run), (run, place))
        if before[1] is None:
            once[validation.identity(run)] = (run, place)  # beside a named file lie pictures
        elif place is not None and run != before[0]:
            complaints.print(f"vtbench: passed over: {one_line(f'{place}: is the same run as {before[1]}')}")
    return list(once.values())


def _matching(name: str, known: Sequence[Run]) -> list[Run]:
    return [run for run in known if fnmatchcase(run.name, name) or fnmatchcase(f"{run.task}/{run.name}", name)]
