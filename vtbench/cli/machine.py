"""What a machine has: `vtbench fetch` and `vtbench doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from vtbench import cards, catalogue, files
from vtbench.cli._terminal import CardsOption, app, console, fields


@app.command()
def fetch(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="lpips, rfid, ocr, tokenizers or tasks.")],
    cards_folder: CardsOption = None,
) -> None:
    """Bring weights, data and metric backbones ahead of time, for machines without a network."""
    from vtbench import backbones, weights

    tasks = cards.tasks(cards_folder)
    others = [name for name in names if name not in tasks]
    wanted = {name: None if name in backbones.GROUPS else cards.find_tokenizer(name, cards_folder) for name in others}
    for name in names:
        if name in tasks:
            from vtbench.task import fetch as fetch_task

            console.print(f"{name}: {fetch_task(tasks[name])}", soft_wrap=True)
            continue
        card = wanted[name]
        if card is None:
            for part, path in backbones.fetch_group(name).items():
                console.print(f"{part}: {path}", soft_wrap=True)
            continue
        if card.weights and card.weights.package is None:
            licence = card.license or "not stated on its card; ask the authors before you use them"
            console.print(f"{card.name}: licence of the weights: {licence}", soft_wrap=True)
        found = weights.locate(card)
        console.print(f"{card.name}: {found or 'needs no weights'}", soft_wrap=True)


@app.command()
def doctor() -> None:
    """Say what is installed, cached and reachable, and the command that mends each gap."""
    from huggingface_hub import constants

    from vtbench import backbones, engine, weights
    from vtbench import device as compute

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, version in engine.library_versions().items():
        table.add_row(name, version)
    import torch

    table.add_row("device", compute.name(torch.device(compute.pick("auto"))))
    table.add_row("cache", str(files.cache_folder()))
    table.add_row("hub", files.unreachable(constants.ENDPOINT) or f"{constants.ENDPOINT} answers")
    for backbone in get_args(protocols.Backbone):
        table.add_row(backbone, str(backbones.find(backbone) or backbones.missing(backbone)))
    for card in cards.tokenizers().values():
        if card.weights is not None:
            path = weights.cached(card.weights)
            table.add_row(card.name, str(path) if path else f"not cached; `vtbench fetch {card.name}`")
    for metric in protocols.METRICS.values():
        lacking = [need for need in metric.needs if backbones.find(need) is None]
        table.add_row(f"metric {metric.name}", f"lacks {', '.join(lacking)}" if lacking else "can be scored")
    console.print(table, markup=False)
