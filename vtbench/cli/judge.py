"""Judging: `vtbench leaderboard`, `vtbench compare`, `vtbench check` and `vtbench validate`."""

from __future__ import annotations

import json as encoder
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vtbench import catalogue, files
from vtbench.cli._terminal import JsonOption, ResultsOption, WorkOption, app, complaints, console, one_line, table
from vtbench.errors import ResultError

if TYPE_CHECKING:
    from vtbench.comparison import Check


@app.command()
def leaderboard(
    results_folder: ResultsOption = Path("results"),
    rank_local: Annotated[bool, typer.Option("--rank-local", help="Give ranks to local weights too.")] = False,
) -> None:
    """Write leaderboard.csv and LEADERBOARD.md out of the runs in a folder."""
    from vtbench import leaderboard as tables
    from vtbench import validation

    found = validation.validate(results_folder)
    for one in found.problems:
        if one.void:
            complaints.print(f"vtbench: passed over: {one_line(f'{results_folder / one.file}: {one.problem}')}")
    runs = found.accepted
    if not runs:
        raise ResultError(f"{results_folder}: holds no runs; `vtbench run -t tiny --task reconstruction` makes one")
    contents = (
        ("leaderboard.csv", tables.to_csv(runs, rank_local=rank_local)),
        ("LEADERBOARD.md", tables.to_markdown(runs, rank_local=rank_local)),
    )
    for name, content in contents:
        files.write_atomic(results_folder / name, content.encode())
        console.print(str(results_folder / name))


@app.command()
def validate(
    results_folder: Annotated[Path, typer.Argument(metavar="RESULTS", help="Folder of the summaries.")],
    work: Annotated[
        Path | None, typer.Option("--work", help="Compute means again from the per-image tables in this folder.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Check the results of one or several people: schema, layout, digests, duplicates, versions, finite values."""
    from vtbench import validation

    found = validation.validate(results_folder, work)
    if json:
        typer.echo(encoder.dumps([{"file": one.file, "problem": one.problem} for one in found.problems], indent=2))
    else:
        for one in found.problems:
            console.print(f"{one_line(one.file)}: {one_line(one.problem)}", soft_wrap=True)
        console.print(f"{found.runs} runs, {len(found.problems)} problems")
    if found.problems:
        raise typer.Exit(1)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder in the work folder, or its JSON.")],
    second: Annotated[Path, typer.Argument(metavar="RUN", help="The run it is compared with, likewise.")],
    work: WorkOption = Path(".vtbench"),
    json: JsonOption = False,
) -> None:
    """Compare two runs over the same pictures: paired differences with intervals and p-values."""
    from vtbench import comparison, results

    ours, theirs = results.find_run(first, work), results.find_run(second, work)
    found = comparison.contrast(ours, theirs)
    if json:
        rows = [
            {
                "metric": one.metric,
                "first": one.first,
                "second": one.second,
                "difference": one.comparison.difference.mean,
                "low": one.comparison.difference.low,
                "high": one.comparison.difference.high,
                "pictures": one.comparison.difference.pairs,
                "missing": one.missing,
                "wilcoxon": one.comparison.wilcoxon,
                "sign_flip": one.comparison.sign_flip,
                "adjusted": one.adjusted,
            }
            for one in found
        ]
        typer.echo(encoder.dumps({"first": ours[0].name, "second": theirs[0].name, "metrics": rows}, indent=2))
        return
    heads = ("metric", "first", "second", "difference", "95% interval", "pictures", "Wilcoxon p", "flip p", "Holm p")
    lines = []
    for one in found:
        metric = catalogue.find_metric(one.metric)
        digits, change = metric.digits + 1, one.comparison.difference
        lines.append(
            (
                f"{one.metric} {metric.arrow}",
                *(f"{number:.{digits}f}" for number in (one.first, one.second)),
                f"{change.mean:+.{digits}f}",
                _interval(change.low, change.high, digits),
                str(change.pairs),
                *(_p(p) for p in (one.comparison.wilcoxon, one.comparison.sign_flip, one.adjusted)),
            )
        )
    table(heads, lines, title=f"{_who(ours[0])} minus {_who(theirs[0])} on {ours[0].task}")
    if missing := max(one.missing for one in found):
        console.print(f"{missing} pictures are scored in one of the runs alone and left out.")
    console.print("Intervals: BCa bootstrap of the paired differences. Holm: the flip p-value, corrected for all rows.")


def _who(run: object) -> str:
    return f"{getattr(run, 'name', '')} ({getattr(run, 'weights', '')} weights)"


def _interval(low: float | None, high: float | None, digits: int) -> str:
    return "-" if low is None or high is None else f"{low:.{digits}f} … {high:.{digits}f}"


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


@app.command()
def check(
    run_: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder in the work folder, or its JSON.")],
    baseline: Annotated[
        list[Path], typer.Option(help="The run it is held against, likewise; repeats for other training seeds.")
    ],
    max_drop: Annotated[list[str], typer.Option(help="METRIC=AMOUNT: by how much it may get worse; repeats.")],
    allow_missing: Annotated[int, typer.Option(min=0, help="Pictures that may be scored on one side alone.")] = 0,
    junit: Annotated[Path | None, typer.Option(help="Also write JUnit XML here.")] = None,
    work: WorkOption = Path(".vtbench"),
    json: JsonOption = False,
) -> None:
    """Fail (exit 1) where a run is significantly worse than its baseline, beyond what is allowed."""
    from vtbench import comparison, results

    allowed = _allowed(max_drop)
    ours, theirs = results.find_run(run_, work), [results.find_run(one, work) for one in baseline]
    checks = comparison.check(ours, theirs, allowed, allow_missing=allow_missing)
    if junit:
        name = f"vtbench.{ours[0].task}.{ours[0].name}"
        files.write_atomic(junit, comparison.to_junit(name, checks).encode())
    if json:
        rows = [
            {
                "metric": one.metric,
                "baseline": one.baseline,
                "run": one.value,
                "worse_by": one.drop.mean,
                "low": one.drop.low,
                "high": one.drop.high,
                "allowed": one.allowed,
                "pictures": one.drop.pairs,
                "missing": one.missing,
                "failed": one.failed,
                "reason": one.reason,
            }
            for one in checks
        ]
        baselines = [one[0].name for one in theirs]
        typer.echo(encoder.dumps({"run": ours[0].name, "baselines": baselines, "checks": rows}, indent=2))
    else:
        _print_checks(checks, _who(ours[0]), [_who(one[0]) for one in theirs], ours[0].task)
    if any(one.failed for one in checks):
        raise typer.Exit(1)


def _print_checks(checks: list[Check], run: str, baselines: list[str], task: str) -> None:
    from vtbench import comparison

    lines = []
    for one in checks:
        digits = catalogue.find_metric(one.metric).digits + 1
        lines.append(
            (
                one.metric,
                *(f"{number:.{digits}f}" for number in (one.baseline, one.value, one.drop.mean)),
                _interval(one.drop.low, one.drop.high, digits),
                f"{one.allowed:g}",
                str(one.drop.pairs or "-"),
                f"FAILED: {one.reason}" if one.failed else "ok",
            )
        )
    table(
        ("metric", "baseline", "run", "worse by", "95% interval", "allowed", "pictures", ""),
        lines,
        title=f"{run} against {', '.join(baselines)} on {task}",
        left=(0, 7),
    )
    console.print(comparison.COVERS_SEEDS if len(baselines) > 1 else comparison.COVERS, soft_wrap=True)


def _allowed(pairs: list[str]) -> dict[str, float]:
    allowed = {}
    for pair in pairs:
        name, equals, amount = pair.partition("=")
        try:
            allowed[catalogue.find_metric(name).name] = float(amount)
        except ValueError:
            equals = ""
        if not equals:
            raise ResultError(f"--max-drop {pair}: expected METRIC=AMOUNT, such as psnr=0.1")
    return allowed
