"""Judging: `vtbench leaderboard`, `vtbench compare`, `vtbench check` and `vtbench validate`."""

from __future__ import annotations

import json as encoder
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vtbench import catalogue, files
from vtbench.cli._terminal import JsonOption, ResultsOption, WorkOption, app, complaints, console, one_line, table
from vtbench.errors import ResultError, VtbenchError

if TYPE_CHECKING:
    from vtbench.comparison import Contrast
    from vtbench.gate import Verdict
    from vtbench.results import Run


@app.command()
def leaderboard(
    results_folder: ResultsOption = Path("results"),
    rank_local: Annotated[bool, typer.Option("--rank-local", help="Give ranks to local weights too.")] = False,
) -> None:
    """Write leaderboard.csv and LEADERBOARD.md out of the runs in a folder."""
    from vtbench import leaderboard as tables

    runs = accepted(results_folder)
    for said in tables.unknown(runs):
        complaints.print(f"vtbench: not shown: {one_line(said)}")
    contents = (
        ("leaderboard.csv", tables.to_csv(runs, rank_local=rank_local)),
        ("LEADERBOARD.md", tables.to_markdown(runs, rank_local=rank_local)),
    )
    for name, content in contents:
        files.write_atomic(results_folder / name, content.encode())
        console.print(str(results_folder / name))


def accepted(results_folder: Path) -> list[Run]:
    """Read the runs of a results folder that can be shown, and say on stderr what is passed over.

    Raises:
        ResultError: if there is none.
    """
    from vtbench import validation

    found = validation.validate(results_folder)
    for one in found.problems:
        if one.void:
            complaints.print(f"vtbench: passed over: {one_line(f'{results_folder / one.file}: {one.problem}')}")
    if not found.accepted:
        raise ResultError(f"{results_folder}: holds no runs; `vtbench run -t tiny --task reconstruction` makes one")
    return sorted(found.accepted, key=lambda run: (run.task, run.protocol, run.name))


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
        held = "" if work is None else f", {found.tables} held against their per-image tables in {work}"
        console.print(f"{found.runs} runs, {len(found.problems)} problems{held}", soft_wrap=True)
    if found.problems:
        raise typer.Exit(1)
    if not found.runs:
        raise ResultError(f"{results_folder}: holds no runs; expected <task>/<name>.json, as `vtbench run` writes them")


@app.command()
def compare(
    first: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run's folder or JSON, or its name in the work folder.")
    ],
    second: Annotated[Path, typer.Argument(metavar="RUN", help="The run it is compared with, likewise.")],
    work: WorkOption = Path(".vtbench"),
    json: JsonOption = False,
) -> None:
    """Compare two runs over the same pictures: paired differences with intervals and p-values."""
    from vtbench import comparison, gate, results

    ours, theirs = results.find_run(first, work), results.find_run(second, work)
    found = comparison.contrast(ours, theirs)
    if json:
        said = {"first": ours[0].name, "second": theirs[0].name, "metrics": [_contrast(one) for one in found]}
        typer.echo(encoder.dumps(said, indent=2, allow_nan=False))
        return
    heads = ("metric", "first", "second", "difference", "95% interval", "pictures", "Wilcoxon p", "flip p", "Holm p")
    lines = []
    for one in found:
        metric = catalogue.find_metric(one.metric)
        name, digits = f"{one.metric} {metric.arrow}", metric.digits + 1
        values = ("-" if number is None else f"{number:z.{digits}f}" for number in (one.first, one.second))
        cells = (name, *values, "-" if one.difference is None else f"{one.difference:+z.{digits}f}")
        if one.comparison is None:
            lines.append((*cells, "-", "0", *["-"] * 3))
            continue
        change = one.comparison.difference
        tests = (one.comparison.wilcoxon, one.comparison.sign_flip, one.adjusted)
        lines.append((*cells, gate.interval(change, digits), str(change.pairs), *map(_p, tests)))
    table(heads, lines, title=f"{gate.shown(ours)} minus {gate.shown(theirs)} on {ours[0].task}")
    for one in found:
        if one.reason:
            how = "is not compared" if one.difference is None else "has no test"
            console.print(f"{one.metric} {how}: {one.reason}.", soft_wrap=True)
        if one.left_out:
            console.print(
                f"{one.metric}: {one.left_out} pictures are infinite and left out; "
                f"{one.infinite[0]} are so in the first run, {one.infinite[1]} in the second.",
                soft_wrap=True,
            )
    if missing := max((one.missing for one in found if one.comparison), default=0):
        console.print(f"{missing} pictures are scored in one of the runs alone and left out.")
    console.print("Intervals: BCa bootstrap of the paired differences. Holm: the flip p-value, corrected for all rows.")


def _contrast(one: Contrast) -> dict[str, object]:
    """Give a contrast as JSON has it."""
    from vtbench.gate import finite

    compared = one.comparison
    difference = None if compared is None else compared.difference
    return {
        "metric": one.metric,
        "first": finite(one.first),
        "second": finite(one.second),
        "difference": finite(one.difference),
        "low": None if difference is None else difference.low,
        "high": None if difference is None else difference.high,
        "pictures": 0 if difference is None else difference.pairs,
        "missing": one.missing,
        "left_out": one.left_out,
        "infinite": list(one.infinite),
        "wilcoxon": None if compared is None else compared.wilcoxon,
        "sign_flip": None if compared is None else compared.sign_flip,
        "adjusted": one.adjusted,
        "reason": one.reason,
    }


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


@app.command()
def check(
    run_: Annotated[
        Path | None,
        typer.Argument(metavar="[RUN]", help="A run's folder or JSON, or its name in the work folder."),
    ] = None,
    baseline: Annotated[
        list[Path], typer.Option(help="The run it is held against, likewise; repeats for other training seeds.")
    ] = [],  # noqa: B006  typer wants a list
    max_drop: Annotated[list[str], typer.Option(help="METRIC=AMOUNT: by how much it may get worse; repeats.")] = [],  # noqa: B006
    allow_missing: Annotated[
        int | None, typer.Option(min=0, help="Pictures that may be scored on one side alone; 0 where left out.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="The file whose [tool.vtbench.check] is checked without a RUN; pyproject.toml.")
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Also write JUnit XML here.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Also write a summary in Markdown here.")] = None,
    work: WorkOption = Path(".vtbench"),
    json: JsonOption = False,
) -> None:
    """Fail (exit 1) where a run is significantly worse than its baseline, beyond what is allowed.

    Without a RUN, all that [tool.vtbench.check] of ./pyproject.toml, or of --config, names is checked. Where GitHub
    runs it, failures become annotations and the summary that of the job.
    """
    from vtbench import gate

    on_github = os.environ.get("GITHUB_ACTIONS") == "true"
    try:
        if run_ is None:
            if baseline or max_drop or allow_missing is not None:
                raise ResultError(
                    "--baseline, --max-drop and --allow-missing belong to a RUN; name one, or write them into "
                    f"[{gate.SECTION}]"
                )
            verdicts = gate.judge_project(config or Path("pyproject.toml"), work)
        elif config is not None:
            raise ResultError(f"{run_}: a RUN is checked by --baseline and --max-drop; leave RUN or --config out")
        else:
            verdicts = [_judged(run_, baseline, max_drop, allow_missing or 0, work)]
    except VtbenchError as error:
        if on_github:
            typer.echo(gate.error_annotation("vtbench check", one_line(error)), err=json)
        if junit:
            files.write_atomic(junit, gate.error_junit(one_line(error)).encode())
        if markdown:
            files.write_atomic(markdown, gate.error_markdown(one_line(error)).encode())
        raise
    if junit:
        files.write_atomic(junit, gate.to_junit(verdicts).encode())
    if markdown:
        files.write_atomic(markdown, gate.to_markdown(verdicts).encode())
    if on_github and (summary := os.environ.get("GITHUB_STEP_SUMMARY")):
        _append(Path(summary), gate.to_markdown(verdicts))
    if json:
        typer.echo(gate.to_json(verdicts, whole=run_ is None))
    else:
        for verdict in verdicts:
            table(gate.HEADS, [gate.row(one) for one in verdict.checks], title=verdict.title, left=(0, 7))
        for line in dict.fromkeys(verdict.covers for verdict in verdicts):
            console.print(line, soft_wrap=not console.is_terminal)
    if on_github:
        for line in gate.to_annotations(verdicts):
            typer.echo(line, err=json)  # GitHub reads both streams; a program reads the JSON alone
    if any(verdict.failed for verdict in verdicts):
        raise typer.Exit(1)


def _judged(run: Path, baseline: list[Path], max_drop: list[str], allow_missing: int, work: Path) -> Verdict:
    """Hold the one run of the command line against its baselines."""
    from vtbench import comparison, gate, results

    if not baseline or not max_drop:
        lacking = " and ".join(name for name, said in (("--baseline", baseline), ("--max-drop", max_drop)) if not said)
        raise ResultError(f"{run}: needs {lacking}; or leave RUN out, and [{gate.SECTION}] of a pyproject says it")
    allowed = _allowed(max_drop)
    ours, theirs = results.find_run(run, work), [results.find_run(one, work) for one in baseline]
    return gate.Verdict(ours, theirs, comparison.check(ours, theirs, allowed, allow_missing=allow_missing))


def _append(path: Path, text: str) -> None:
    """Add to the summary of a job, of which earlier commands may have written a part."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ResultError(f"$GITHUB_STEP_SUMMARY, {path}: can't be written ({error.strerror}); unset it") from error


def _allowed(pairs: list[str]) -> dict[str, float]:
    allowed: dict[str, float] = {}
    for pair in pairs:
        name, equals, amount = pair.partition("=")
        try:
            limit = float(amount)
        except ValueError:
            equals = ""
        if not equals:
            raise ResultError(f"--max-drop {pair}: expected METRIC=AMOUNT, such as psnr=0.1")
        name = catalogue.find_metric(name).name
        if name in allowed:
            raise ResultError(f"--max-drop {pair}: {name} is there twice; expected one amount a metric, leave one out")
        allowed[name] = limit
    return allowed
