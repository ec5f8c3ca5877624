"""Drawing: `vtbench sheet`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vtbench import files
from vtbench.cli._chosen import check_sizes, check_weights, given, tasks_of, tokenizers_of
from vtbench.cli._terminal import CardsOption, ResultsOption, WorkOption, app, complaints, console, one_line
from vtbench.cli.report import chosen
from vtbench.errors import CardError, ResultError

if TYPE_CHECKING:
    from vtbench.sheet import Sheet

FORMATS = ("png", "webp")
"""Lossless ones."""

SHOWN = 3
"""Pictures, where nobody says how many."""


@app.command()
def sheet(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="[RUN]...",
            help="Show kept pictures of these runs: names as in the results, TASK/NAME, with * for any part; files or "
            "folders. Needs no network.",
        ),
    ] = [],  # noqa: B006  typer wants a list
    tokenizer: Annotated[
        list[str], typer.Option("--tokenizer", "-t", help="Show what this makes of pictures: a name or alias; repeats.")
    ] = [],  # noqa: B006
    task: Annotated[list[str], typer.Option(help="Name; repeats. Of runs, the one task that they are of.")] = [],  # noqa: B006
    data: Annotated[
        str | None,
        typer.Option(metavar="PLACE", help="Pictures in place of the task's own, as `vtbench run --data` takes them."),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, max=100, help="Pictures of each task, spread evenly over it; 3 where left out.")
    ] = None,
    worst: Annotated[
        int | None, typer.Option(min=1, max=100, help="So many of the first run's worst pictures; 3 where left out.")
    ] = None,
    by: Annotated[
        str | None, typer.Option(metavar="METRIC", help="Says which are worst; the one that ranks where left out.")
    ] = None,
    difference: Annotated[
        int | None,
        typer.Option(
            metavar="GAIN", min=1, max=16, help="Below each reconstruction its absolute difference, times 1 to 16."
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="A picture file; its name ends in .png or .webp.")] = Path(
        "results/contact-sheet.webp"
    ),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    weights: Annotated[
        list[str], typer.Option(help="A checkpoint file, or `synthetic`; repeats for encoder and decoder.")
    ] = [],  # noqa: B006
    results_folder: ResultsOption = Path("results"),
    work: WorkOption = Path(".vtbench"),
    cards_folder: CardsOption = None,
) -> None:
    """Draw originals and reconstructions side by side, losslessly, of tokenizers (-t, --task) or of finished runs.

    Under the originals stand their ids, under the others their scores: of tokenizers PSNR, and LPIPS where its network
    is on this machine; of runs the values of their tables.
    """
    form = out.suffix.lower().lstrip(".")
    if form not in FORMATS:
        raise ResultError(f"--out {out}: expected a name that ends in .png or .webp")
    if bool(runs) == bool(tokenizer):
        raise CardError("name what a sheet shows: tokenizers (-t NAME --task TASK), or runs of the results folder")
    for_tokenizers = {"--data": data, "--samples": samples, "--weights": weights or None}
    of_others = {"--worst": worst, "--by": by} if tokenizer else for_tokenizers
    if wrong := [name for name, value in of_others.items() if value is not None]:
        raise CardError(f"{wrong[0]} is for {'runs' if tokenizer else 'tokenizers'}; leave it out")
    files.check_writable(out.parent)
    from vtbench import sheet as drawing

    if runs:
        shown = _of_runs(runs, task, results_folder, work, worst or SHOWN, by)
    else:
        task_cards = tasks_of(task, cards_folder)
        if not task_cards:
            raise CardError("--task is missing; `vtbench list tasks` shows the names")
        check_weights(tokenizer, weights)
        cards = tokenizers_of(tokenizer, weights, cards_folder)
        check_sizes(cards, task_cards)
        from vtbench import load_task, load_tokenizer

        rows = [one for card in task_cards for one in drawing.pick(load_task(card, data=data), samples or SHOWN)]
        sides = [(one.image.shape[-1], one.image.shape[-2]) for one in rows]
        drawing.extent(sides, len(cards), differences=difference is not None)  # told before anything is computed
        loaded = (load_tokenizer(card, weights=given(weights), device=device) for card in cards)
        shown = drawing.of_tokenizers(loaded, rows)
    content = io.BytesIO()
    drawing.draw(shown, difference).save(content, form, lossless=True)
    files.write_atomic(out, content.getvalue())
    console.print(str(out), soft_wrap=True)


def _of_runs(names: list[str], tasks: list[str], results_folder: Path, work: Path, worst: int, by: str | None) -> Sheet:
    """Find runs and their kept pictures, and say what of them is not kept."""
    from vtbench.sheet import of_runs

    found = chosen(names, results_folder)
    own = [run for run, _ in found if not tasks or run.task in tasks]
    if not own:
        there = ", ".join(sorted({run.task for run, _ in found}))
        raise ResultError(f"--task {', '.join(tasks)}: none of these runs is of it; they are of {there}")
    places = {id(run): place for run, place in found if place is not None}
    shown, lacking = of_runs(own, work, worst=worst, by=by, places=places)
    if lacking:
        complaints.print(f"vtbench: {one_line(lacking)}")
    return shown
