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
    from vtbench import backbones, ocr, task, weights

    tasks = cards.tasks(cards_folder)
    known = {*tasks, *backbones.GROUPS, "ocr"}
    found = {name: cards.find_tokenizer(name, cards_folder) for name in names if name not in known}
    for name in names:
        if name in tasks:
            said = {name: task.fetch(tasks[name])}
        elif name == "ocr":
            said = {"easyocr": str(ocr.fetch("easyocr"))}
        elif name in backbones.GROUPS:
            said = {part: str(path) for part, path in backbones.fetch_group(name).items()}
        else:
            card = found[name]
            if card.weights and card.weights.package is None:
                licence = card.license or "not stated on its card; ask the authors before you use them"
                console.print(f"{card.name}: licence of the weights: {licence}", soft_wrap=True)
            paths = weights.locate_all(card)
            said = {card.name: ", ".join(str(path) for path in paths) or "needs no weights"}
        for part, place in said.items():
            console.print(f"{part}: {place}", soft_wrap=True)


@app.command()
def doctor() -> None:
    """Say what is installed, cached and reachable, and the command that mends each gap."""
    import torch
    from huggingface_hub import constants

    from vtbench import backbones, ocr, provenance, weights
    from vtbench import device as compute

    said: dict[str, str] = dict(provenance.versions())
    said["device"] = compute.name(torch.device(compute.pick("auto")))
    said["cache"] = str(files.cache_folder())
    said["hub"] = files.unreachable(constants.ENDPOINT) or f"{constants.ENDPOINT} answers"
    for name in backbones.names():
        said[name] = str(backbones.find(name) or backbones.missing(name))
    for name in ocr.names():
        said[name] = str(ocr.find(name) or ocr.missing(name))
    for card in cards.tokenizers().values():
        if card.weights is not None:
            path = weights.cached(card.weights)
            said[card.name] = str(path) if path else f"not cached; `vtbench fetch {card.name}`"
    for metric in catalogue.metrics():
        said[f"metric {metric}"] = ocr.lacking(metric, "easyocr") or "can be scored"
    fields(said)
