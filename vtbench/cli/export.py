"""Publishing: `vtbench export`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vtbench import files
from vtbench.cli._terminal import CardsOption, app, complaints, console, one_line
from vtbench.errors import ResultError

if TYPE_CHECKING:
    from vtbench.export import Exported
    from vtbench.results import Run


@app.command()
def export(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="JSONs of runs, or their folders.")],
    to: Annotated[
        Literal["eee", "eval-results", "model-index"],
        typer.Option(help="Every Eval Ever's record, the hub's .eval_results, or a model card's metadata."),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write this file; a folder gets each model's file where the format wants it."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="OWNER/NAME of the model, where its card names no repository of the hub.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="eval-results: OWNER/NAME of the hub's benchmark that the tasks are of.")
    ] = None,
    organization: Annotated[str | None, typer.Option(help="eee: who ran them.")] = None,
    relationship: Annotated[
        Literal["first_party", "third_party", "collaborative", "other"] | None,
        typer.Option(help="eee: how they stand to the model's makers."),
    ] = None,
    source: Annotated[str | None, typer.Option(help="An address where the runs can be read.")] = None,
    cards_: CardsOption = None,
) -> None:
    """Write runs in a format that others publish results in; what it can't hold is named on stderr."""
    from vtbench import export as formats
    from vtbench import results

    found = [results.read_run(one) for one in runs]

    def written(group: list[Run]) -> Exported:
        if to == "eval-results":
            return formats.to_eval_results(group, dataset=dataset, model=model, source=source, extra=cards_)
        if to == "model-index":
            return formats.to_model_index(group, model=model, source=source, extra=cards_)
        if not organization or relationship is None:
            raise ResultError("--to eee says who ran the evaluation: --organization NAME --relationship third_party")
        return formats.to_eee(
            group,
            organization=organization,
            relationship=relationship,
            created=time.time(),
            model=model,
            source=source,
            extra=cards_,
        )

    into = out is not None and not out.suffix
    if into and to != "eee":
        raise ResultError(f"-o {out}: expected a file such as {out}.yaml; folders are for --to eee")
    if into and model and len(formats.by_model(found)) > 1:
        raise ResultError(f"--model {model}: the runs are of several models; export each")
    for one in [written(group) for group in (formats.by_model(found) if into else [found])]:
        for reason in one.left_out:
            complaints.print(f"vtbench: left out: {one_line(reason)}")
        if out is None:
            typer.echo(one.content, nl=False)
            continue
        path = out / one.place if into else out
        files.write_atomic(path, one.content.encode())
        console.print(str(path), soft_wrap=True)
