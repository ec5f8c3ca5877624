"""Looking: `vtbench list` and `vtbench show`."""

from __future__ import annotations

import json as encoder
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from vtbench import cards, catalogue, protocols
from vtbench.cards import TokenizerCard
from vtbench.cli._terminal import CardsOption, JsonOption, app, console, fields, table
from vtbench.errors import CardError, VtbenchError, meant
from vtbench.protocols import Protocol


class Listable(StrEnum):
    """What `vtbench list` knows."""

    tokenizers = "tokenizers"
    tasks = "tasks"
    protocols = "protocols"
    metrics = "metrics"


class Schema(StrEnum):
    """What `vtbench show --schema` knows."""

    card = "card"
    task = "task"
    run = "run"


_FOR_PROGRAMS = frozenset({"family", "aliases", "codebook", "title", "source", "geometry"})
"""What a table of 80 columns has no room for; --json gives it, and `vtbench show`."""


_LEGEND = """
Tokens and rate are those of 256x256; the rate is bits a pixel (discrete) or
floats a pixel (continuous). Parity: the network was held against the published
code with these numbers (yes), in small, or with another card's (kin)."""


@app.command("list")
def list_(
    what: Annotated[Listable, typer.Argument(help="What to list.")] = Listable.tokenizers,
    family: Annotated[str | None, typer.Option(help="Only tokenizers or tasks of this family.")] = None,
    json: JsonOption = False,
    cards_folder: CardsOption = None,
) -> None:
    """List tokenizers, tasks, protocols or metrics."""
    rows = _listing(what, cards_folder, family)
    if json:
        typer.echo(encoder.dumps(rows, indent=2))
        return
    if what is Listable.tokenizers:
        rows = [_shortened(row) for row in rows]
    elif what is Listable.tasks:
        rows = [{head: row[head] for head in row if head != "metrics"} for row in rows]  # up to twenty names each
    heads = [head for head in rows[0] if head not in _FOR_PROGRAMS]
    numbers = ("tokens", "rate", "version", "size")
    texts = [index for index, head in enumerate(heads) if head not in numbers]
    lines = [[row[head] for head in heads] for row in rows]
    table([head.replace("_", " ") for head in heads], lines, left=texts, gap=1 if what is Listable.tokenizers else 2)
    if what is Listable.tokenizers:
        console.print(_LEGEND, soft_wrap=True)


def _listing(what: Listable, extra: Path | None, family: str | None) -> list[dict[str, Any]]:
    if family is not None:
        _check_family(what, extra, family)
    if what is Listable.tokenizers:
        known = cards.tokenizers(extra).values()
        kin = _held_networks(known)
        return [_tokenizer_row(card, kin) for card in known if family in (None, card.family)]
    if what is Listable.tasks:
        return [
            {
                "name": card.name,
                "version": card.version,
                "size": card.geometry.size,
                "ranked_by": card.primary,
                "metrics": list(card.metrics),
                "title": card.title,
            }
            for card in cards.tasks(extra).values()
            if family in (None, card.family)
        ]
    if what is Listable.protocols:
        return [
            {
                "name": one.name,
                "metrics": list(one.metrics),
                "title": one.title,
                "geometry": one.geometry,
                "source": one.source,
            }
            for one in protocols.PROTOCOLS.values()
        ]
    return [
        {"name": one.name, "better": one.direction, "measure": one.measure, "description": one.description}
        for one in catalogue.metrics().values()
    ]


def _check_family(what: Listable, extra: Path | None, family: str) -> None:
    if what not in (Listable.tokenizers, Listable.tasks):
        raise CardError(f"--family {family}: {what.value} are of no family; give it with tokenizers or tasks")
    known = cards.tokenizers(extra) if what is Listable.tokenizers else cards.tasks(extra)
    families = sorted({card.family for card in known.values()})
    if family not in families:
        near = meant(family, families)
        raise CardError(f"--family {family}: no {what.value} are of it; {near}expected one of: {', '.join(families)}")


def _tokenizer_row(card: TokenizerCard, kin: Mapping[str, str]) -> dict[str, Any]:
    from vtbench import weights

    cached = "-" if card.weights is None else "yes" if weights.cached(card) else "no"
    return {
        "name": card.name,
        "family": card.family,
        "kind": card.kind,
        "tokens": card.code.tokens_at_256,
        "bpp": bits_per_pixel(card),
        "values": values_per_pixel(card),
        "license": card.license or "",
        "cached": cached,
        "parity": parity_of(card, kin)[0],
        "aliases": list(card.aliases),
        "codebook": list(card.code.codebook_sizes),
        "title": card.title,
    }


def _shortened(row: dict[str, Any]) -> dict[str, Any]:
    """Bring a tokenizer's row to 80 columns: one rate, and the beginnings of long words."""
    licence = row["license"].partition(";")[0].partition(",")[0][:12].strip()
    return {
        "name": row["name"],
        "kind": row["kind"][:10],
        "tokens": row["tokens"],
        "rate": row["bpp"] or row["values"],
        "license": licence,
        "cached": row["cached"],
        "parity": row["parity"],
    }


def _held_networks(known: Iterable[TokenizerCard]) -> dict[str, str]:
    """The networks that a fixture holds against the published code, each with the card whose numbers it has."""
    held: dict[str, str] = {}
    for card in known:
        if card.parity and card.parity.fixture:
            held.setdefault(card.network, card.name)
    return held


def parity_of(card: TokenizerCard, kin: Mapping[str, str]) -> tuple[str, str]:
    """Say in a word and in a sentence whether the network was held against the published implementation.

    Args:
        card: the tokenizer's.
        kin: networks that are held, each with the card whose numbers they have then.
    """
    if card.source is None:
        return "-", "there is no other implementation to compare with"
    whose = f"{card.source.repository} at {card.source.commit[:12]}"
    if card.parity and card.parity.fixture:
        return "yes", f"proven on made-up weights against {whose} (tests/parity/{card.parity.fixture}.npz)"
    if card.parity:
        return "small", f"proven with smaller numbers against {whose} (tests/networks/{card.parity.small})"
    if card.network in kin:
        return "kin", f"not proven with these numbers; the same network is, with those of {kin[card.network]}"
    return "no", "not proven"


def bits_per_pixel(card: TokenizerCard) -> str | None:
    """State the rate of a discrete tokenizer at 256x256, where its card says enough."""
    sizes = set(card.code.codebook_sizes)
    if not card.code.tokens_at_256 or len(sizes) != 1:
        return None
    bits = card.code.indices_per_token * math.log2(next(iter(sizes)))  # of a token
    return f"{card.code.tokens_at_256 * bits / 256**2:.4f}"


def values_per_pixel(card: TokenizerCard) -> str | None:
    """State how many floats a pixel of a continuous tokenizer's latent has at 256x256, where its card says enough."""
    if card.kind != "continuous" or not card.code.tokens_at_256 or not card.code.latent_channels:
        return None
    return f"{card.code.tokens_at_256 * card.code.latent_channels / 256**2:.4f}"


@app.command()
def show(
    name: Annotated[str | None, typer.Argument(help="A tokenizer, task, protocol or metric.")] = None,
    schema: Annotated[Schema | None, typer.Option(help="Print the JSON Schema of a card or a run instead.")] = None,
    cards_folder: CardsOption = None,
) -> None:
    """Show one card, with what is cached of it."""
    if schema is not None:
        typer.echo(encoder.dumps(_schema(schema), indent=2))
    elif name is None:
        raise typer.BadParameter("a tokenizer, task, protocol or metric is missing; `vtbench list` shows the names")
    elif name in protocols.PROTOCOLS:
        _show_protocol(protocols.PROTOCOLS[name])
    elif name in catalogue.metrics():
        fields(asdict(catalogue.find_metric(name)))
    elif name in cards.tasks(cards_folder):
        fields(cards.find_task(name, cards_folder).model_dump(mode="json"))
    elif name in (known := cards.names(cards_folder)) or name.endswith(".toml"):
        _show_tokenizer(cards.find_tokenizer(name, cards_folder), cards_folder)
    else:
        near = meant(name, known | set(protocols.PROTOCOLS) | set(catalogue.metrics()))
        raise CardError(
            f"nothing is called {name!r}; {near}`vtbench list tokenizers|tasks|protocols|metrics` shows all"
        )


def _schema(schema: Schema) -> dict[str, Any]:
    if schema is Schema.run:
        from vtbench import results

        return results.schema()
    model = cards.TokenizerCard if schema is Schema.card else cards.TaskCard
    return model.model_json_schema()


def _show_protocol(protocol: Protocol) -> None:
    effects, measured = protocols.effects(protocol)
    said: dict[str, object] = {
        "name": protocol.name,
        "title": protocol.title,
        "source": protocol.source,
        "metrics": protocol.metrics,
        "geometry": protocols.GEOMETRIES[protocol.geometry],
        "size": protocol.size or "native",
        "original": protocols.ROUNDINGS[protocol.reference],
        "reconstruction": protocols.ROUNDINGS[protocol.reconstruction],
        "averaging": "one value a picture, then the mean",
    }
    if protocol.psnr and protocol.psnr.pooled:
        said["averaging"] = "PSNR from one pooled error; the others one value a picture, then the mean"
    elif protocol.batch_means:
        said["averaging"] = f"{', '.join(protocol.batch_means)}: means of means of batches of {protocol.batch}"
    fields(said)
    for note in protocol.notes:
        console.print(f"  {note}")
    if not effects:
        return
    console.print(f"\ndeviations from canonical, and what each alone moves ({measured}):")
    for sentence, moved in effects:
        shifts = [
            f"{catalogue.find_metric(name).title} {moved[name]:+.{catalogue.find_metric(name).digits}f}"
            for name in protocols.EFFECTS_ON
            if name in moved
        ]
        console.print(f"  {sentence} {'; '.join(shifts) or 'not measured'}")


def _show_tokenizer(card: TokenizerCard, extra: Path | None) -> None:
    from vtbench import weights

    said = card.model_dump(mode="json", exclude={"reported", "parity"})
    said["parity"] = parity_of(card, _held_networks(cards.tokenizers(extra).values()))[1]
    if card.weights is None:
        said["cached"] = "needs no weights"
    else:
        paths = weights.cached(card)
        had = card.weights.is_published
        bring = f"`vtbench fetch {card.name}` brings it" if had else "no file is published; give one by --weights"
        said["cached"] = [str(path) for path in paths] or f"no; {bring}"
        said |= _size_of(card)
    fields(said)
    if card.reported:
        table(
            ("metric", "value", "data set", "protocol", "printed in"),
            [(row.metric, f"{row.value:g}", row.dataset, row.protocol, row.printed_in) for row in card.reported],
            title="reported by the authors, by their own protocols",
            left=(0, 2, 3, 4),
        )


def _size_of(card: TokenizerCard) -> dict[str, object]:
    """Count parameters in all and by part, and state the rate, from the network's own shapes."""
    from vtbench import weights
    from vtbench.tokenizer import build_network

    try:
        network = weights.build_empty(lambda: build_network(card))  # shapes only
    except VtbenchError as error:  # a package or a published configuration that is not here
        return {"parameters": f"not known here: {error}"}
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    sizes: dict[str, object] = {"parameters": f"{sum(p.numel() for p in network.parameters()):,}"}
    sizes |= {f"parameters.{name}": f"{count:,}" for name, count in parts.items() if count}
    if values := values_per_pixel(card):
        return sizes | {"values per pixel at 256": values}
    return sizes | {"bits per pixel at 256": bits_per_pixel(card)}
