"""Drawing: `vtbench sheet`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vtbench import files
from vtbench.cli._terminal import CardsOption, app, console
from vtbench.cli.run import check_sizes, given, tasks_of, tokenizers_of
from vtbench.errors import CardError, ResultError


@app.command()
def sheet(
    tokenizer: Annotated[list[str], typer.Option("--tokenizer", "-t", help="Name or alias; repeats.")],
    task: Annotated[list[str], typer.Option("--task", help="Name; repeats.")],
    samples: Annotated[int, typer.Option(min=1, help="Pictures of each task.")] = 3,
    out: Annotated[Path, typer.Option(help="A picture file.")] = Path("results/contact-sheet.webp"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    weights: Annotated[
        list[str], typer.Option(help="A checkpoint file, or `synthetic`; repeats for encoder and decoder.")
    ] = [],  # noqa: B006
    cards_folder: CardsOption = None,
) -> None:
    """Draw originals and reconstructions side by side."""
    task_cards = tasks_of(task, cards_folder)
    chosen = tokenizers_of(tokenizer, weights, cards_folder)
    check_sizes(chosen, task_cards)
    sides = {card.geometry.size for card in task_cards}
    if len(sides) > 1 or "native" in sides:
        shown = ", ".join(sorted(map(str, sides)))
        raise CardError(f"the tasks have pictures of these sizes: {shown}; a sheet takes one")
    import io

    from vtbench import load_task, load_tokenizer
    from vtbench.sheet import contact_sheet, pick

    rows = [sample for card in task_cards for sample in pick(load_task(card), samples)]
    drawn = contact_sheet([load_tokenizer(card, weights=given(weights), device=device) for card in chosen], rows)
    content = io.BytesIO()
    suffix = out.suffix.lower().lstrip(".")
    if suffix not in ("png", "webp"):
        raise ResultError(f"--out {out}: expected a name that ends in .png or .webp")
    drawn.save(content, suffix, lossless=True)
    files.write_atomic(out, content.getvalue())
    console.print(str(out))
