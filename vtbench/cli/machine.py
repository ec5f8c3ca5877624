"""What a machine has: `vtbench fetch`, `vtbench cache` and `vtbench doctor`."""

from __future__ import annotations

import shutil
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vtbench import cards, catalogue, files, results
from vtbench.cli._terminal import CardsOption, WorkOption, app, complaints, console, fields, table
from vtbench.errors import CardError, meant
from vtbench.folders import unused


@app.command()
def fetch(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="lpips, rfid, ocr, tokenizers, tasks, or hub:OWNER/NAME.")
    ],
    cards_folder: CardsOption = None,
) -> None:
    """Bring weights, data and metric backbones ahead of time, for machines without a network."""
    from vtbench import backbones, ocr, task, weights
    from vtbench.data import hub

    tasks = cards.tasks(cards_folder)
    parts = {*backbones.GROUPS, "ocr"}
    known = cards.names(cards_folder) | parts
    for name in names:
        if name not in known and not name.startswith("hub:") and not name.endswith(".toml"):
            raise CardError(
                f"nothing to fetch is called {name!r}; {meant(name, known)}expected a name of `vtbench list`"
            )
    for name in names:
        if name in tasks:
            said = {name: task.fetch(tasks[name])}
        elif name.startswith("hub:"):
            said = {name: hub.bring(hub.parse(name))}
        elif name == "ocr":
            said = {"easyocr": str(ocr.fetch("easyocr"))}
        elif name in backbones.GROUPS:
            said = {part: str(path) for part, path in backbones.fetch_group(name).items()}
        else:
            card = cards.find_tokenizer(name, cards_folder)
            if card.weights and card.weights.package is None:
                licence = card.license or "not stated on its card; ask the authors before you use them"
                console.print(f"{card.name}: licence of the weights: {licence}", soft_wrap=True)
            paths = weights.locate(card)
            said = {card.name: ", ".join(str(path) for path in paths) or "needs no weights"}
        for part, place in said.items():
            console.print(f"{part}: {place}", soft_wrap=True)


class Kept(StrEnum):
    """What vtbench keeps on a machine to save time."""

    weights = "weights"
    backbones = "backbones"
    originals = "originals"
    shards = "shards"


@app.command()
def cache(
    empty: Annotated[list[Kept], typer.Option(help="Delete this; repeats.")] = [],  # noqa: B006  typer wants a list
    work: WorkOption = Path(".vtbench"),
) -> None:
    """Show what is kept to save time, and delete it: it is fetched or computed again when it is wanted.

    weights: published checkpoints that do not come from the hub, whose own cache `hf cache` manages; backbones: of the
    metrics; originals: features and OCR readings of pictures before any tokenizer; shards: what runs computed, until
    they are merged and begun once more.
    """
    places = {
        Kept.weights: [files.cache_folder() / "weights"],
        Kept.backbones: [files.cache_folder() / "backbones"],
        Kept.originals: [work / results.ORIGINALS],
        Kept.shards: sorted(work.glob("*/*/shards-*")),
    }
    for kind in dict.fromkeys(empty):
        for folder in places[kind]:
            if kind is not Kept.shards:
                shutil.rmtree(folder, ignore_errors=True)
                continue
            with unused(folder.parent) as alone:
                if alone:
                    shutil.rmtree(folder, ignore_errors=True)
                else:
                    complaints.print(f"vtbench: {folder} stays: a run is at work there", soft_wrap=True)
    rows = []
    for kind, folders in places.items():
        sizes = [size for folder in folders for size in files.sizes(folder)]
        where = folders[0] if len(folders) == 1 else f"{len(folders)} folders in {work}"
        rows.append((kind.value, len(sizes), f"{sum(sizes) / 1e6:,.1f} MB", str(where)))
    table(("kept", "files", "size", "place"), rows, left=(0, 3))


@app.command()
def doctor() -> None:
    """Say what is installed, cached and reachable, and the command that mends each gap."""
    import torch
    from huggingface_hub import constants

    from vtbench import backbones, needs, ocr, provenance, weights
    from vtbench import device as devices

    said: dict[str, object] = dict(provenance.versions())
    said["device"] = devices.name(torch.device(devices.pick("auto")))
    said["cache"] = str(files.cache_folder())
    said["hub"] = files.unreachable(constants.ENDPOINT) or f"{constants.ENDPOINT} answers"
    for name in backbones.names():
        said[name] = str(backbones.find(name) or backbones.missing(name))
    for name in ocr.names():
        said[name] = str(ocr.find(name) or ocr.missing(name))
    lacking = {}
    for card in cards.tokenizers().values():
        if card.weights is not None:
            if paths := weights.cached(card):
                said[card.name] = str(paths[0])
            else:
                lacking[card.name] = card.weights.is_published
    said["not cached"] = [name for name, published in lacking.items() if published]
    said["for --weights alone"] = [name for name, published in lacking.items() if not published]
    usual = cards.find_task("reconstruction")  # names no engine and no model of its own
    reasons = {metric: needs.lacking(metric, usual) for metric in catalogue.metrics()}
    said["metrics"] = [metric for metric, reason in reasons.items() if reason is None]
    said |= {f"metric {metric}": reason for metric, reason in reasons.items() if reason is not None}
    fields(said)
    if said["not cached"]:
        console.print("`vtbench fetch NAME` brings what is not cached and that can be had.", soft_wrap=True)
