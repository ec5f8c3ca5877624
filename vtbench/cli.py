"""The command line. torch is imported inside commands only: `vtbench --help` and `vtbench list` start without it."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from vtbench import __version__, cards, files, protocols
from vtbench.errors import CardError, ResultError, VtbenchError

if TYPE_CHECKING:
    from vtbench.cards import TaskCard, TokenizerCard
    from vtbench.protocols import Protocol
    from vtbench.results import Run

app = typer.Typer(
    help="Benchmark visual tokenizers: same pixels for everybody, every number tagged with how it was made.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
console = Console()
complaints = Console(stderr=True, soft_wrap=True, highlight=False)


class Listable(StrEnum):
    """What `vtbench list` knows."""

    tokenizers = "tokenizers"
    tasks = "tasks"
    protocols = "protocols"
    metrics = "metrics"


class Precision(StrEnum):
    """Types of a network's tensors."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"


CardsOption = Annotated[Path | None, typer.Option("--cards", help="A further folder of cards.")]
WorkOption = Annotated[Path, typer.Option(help="Shards while running; run.json and images.parquet after.")]


def main() -> None:
    """Run the command line: 0 done, 1 a check failed, 2 the user can mend it, anything else is a bug."""
    try:
        app(prog_name="vtbench")
    except VtbenchError as error:
        complaints.print(f"vtbench: {error}", markup=False)
        sys.exit(2)
    except BrokenPipeError:  # `vtbench list | head`
        sys.stderr.close()


def _version(wanted: bool) -> None:
    if wanted:
        console.print(f"vtbench {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    del version


# --- looking ----------------------------------------------------------------------------------------------------------


@app.command("list")
def list_(
    what: Annotated[Listable, typer.Argument(help="What to list.")] = Listable.tokenizers,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    cards_folder: CardsOption = None,
) -> None:
    """List tokenizers, tasks, protocols or metrics."""
    rows = _listing(what, cards_folder)
    if json:
        import json as encoder

        typer.echo(encoder.dumps(rows, indent=2))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in rows[0]:
        table.add_column(head.replace("_", " "), no_wrap=head == "name")
    for row in rows:
        table.add_row(*(_plain(value) for value in row.values()))
    console.print(table)


def _listing(what: Listable, extra: Path | None) -> list[dict[str, object]]:
    if what is Listable.tokenizers:
        return [
            {
                "name": card.name,
                "aliases": list(card.aliases),
                "kind": card.kind,
                "tokens_at_256": card.code.tokens_at_256,
                "codebook": list(card.code.codebook_sizes),
                "title": card.title,
            }
            for card in cards.tokenizers(extra).values()
        ]
    if what is Listable.tasks:
        return [
            {
                "name": card.name,
                "version": card.version,
                "size": card.geometry.size,
                "metrics": list(card.metrics),
                "ranked_by": card.primary,
                "title": card.title,
            }
            for card in cards.tasks(extra).values()
        ]
    if what is Listable.protocols:
        return [
            {
                "name": one.name,
                "title": one.title,
                "metrics": list(one.metrics),
                "geometry": one.geometry,
                "source": one.source,
            }
            for one in protocols.PROTOCOLS.values()
        ]
    return [
        {"name": one.name, "better": "higher" if one.higher_is_better else "lower", "what": one.description}
        for one in protocols.METRICS.values()
    ]


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(str(part) for part in value)
    return "" if value is None else str(value)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A tokenizer, task, protocol or metric.")],
    cards_folder: CardsOption = None,
) -> None:
    """Show one card, with what is cached of it."""
    if name in protocols.PROTOCOLS:
        _show_protocol(protocols.PROTOCOLS[name])
    elif name in protocols.METRICS:
        _show_fields(vars(protocols.METRICS[name]))
    elif name in cards.tasks(cards_folder):
        _show_fields(cards.find_task(name, cards_folder).model_dump(mode="json"))
    else:
        _show_tokenizer(cards.find_tokenizer(name, cards_folder))


def _show_protocol(protocol: Protocol) -> None:
    effects, measured = protocols.effects(protocol)
    fields: dict[str, object] = {
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
        fields["averaging"] = "PSNR from one pooled error; the others one value a picture, then the mean"
    elif protocol.batch_means:
        fields["averaging"] = f"{', '.join(protocol.batch_means)}: means of means of batches of {protocol.batch}"
    _show_fields(fields)
    for note in protocol.notes:
        console.print(f"  {note}", highlight=False, markup=False)
    if not effects:
        return
    title = f"\ndeviations from canonical, and what each alone moves ({measured})"
    table = Table(title=title, title_justify="left", box=None)
    for head in ("rule", *(protocols.METRICS[name].title for name in protocols.EFFECTS_ON)):
        table.add_column(head, justify="left" if head == "rule" else "right")
    for sentence, moved in effects:
        cells = (
            f"{moved[name]:+.{protocols.METRICS[name].digits}f}" if name in moved else "-"
            for name in protocols.EFFECTS_ON
        )
        table.add_row(sentence, *cells)
    console.print(table, markup=False)


def _show_tokenizer(card: TokenizerCard) -> None:
    from vtbench import weights

    fields = card.model_dump(mode="json", exclude={"reported"})
    if card.weights is None:
        fields["cached"] = "needs no weights"
    else:
        path = weights.cached(card.weights)
        fields["cached"] = str(path) if path else f"no; `vtbench fetch {card.name}` brings it"
        fields |= _size_of(card)
    _show_fields(fields)
    if card.reported:
        table = Table(title="reported by the authors, by their own protocols", title_justify="left", box=None)
        for head in ("metric", "value", "data set", "protocol", "printed in"):
            table.add_column(head)
        for row in card.reported:
            table.add_row(row.metric, f"{row.value:g}", row.dataset, row.protocol, row.printed_in)
        console.print(table)


def _size_of(card: TokenizerCard) -> dict[str, object]:
    """Count parameters in all and by part, and state the rate, from the network's own shapes."""
    import math

    import torch

    from vtbench.tokenizer import build_network

    with torch.device("meta"):  # shapes only: nothing is allocated or initialised
        network = build_network(card)
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    sizes: dict[str, object] = {"parameters": f"{sum(p.numel() for p in network.parameters()):,}"}
    sizes |= {f"parameters.{name}": f"{count:,}" for name, count in parts.items() if count}
    if card.code.tokens_at_256 and len(set(card.code.codebook_sizes)) == 1:
        bits = card.code.tokens_at_256 * math.log2(card.code.codebook_sizes[0])
        sizes["bits per pixel at 256"] = f"{bits / 256**2:.4f}"
    return sizes


def _show_fields(fields: dict[str, object]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in fields.items():
        if value in (None, "", [], {}, ()):
            continue
        if isinstance(value, dict):
            for inner, said in value.items():
                if said not in (None, "", [], {}):
                    table.add_row(f"{key}.{inner}", _plain(said))
        else:
            table.add_row(key, _plain(value))
    console.print(table, markup=False)


# --- running ----------------------------------------------------------------------------------------------------------


@app.command()
def run(
    tokenizer: Annotated[
        list[str], typer.Option("--tokenizer", "-t", help="Name or alias; repeats; `all` takes all that can run here.")
    ],
    task: Annotated[list[str], typer.Option("--task", help="Name; repeats; `all` takes all.")],
    protocol: Annotated[
        list[str], typer.Option(help="How pictures become numbers; repeats; the task's own where left out.")
    ] = [],  # noqa: B006  typer wants a list
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")] = "auto",
    precision: Annotated[Precision, typer.Option(help="Type of the network's tensors.")] = Precision.fp32,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures a forward pass.")] = 8,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first pictures; such a run is not ranked.")] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE",
            help="Pictures in place of the task's own: a folder, a .tar, .tar.gz or .zip archive, a .parquet file, or "
            "hub:OWNER/NAME[/CONFIG][@REVISION][:SPLIT]. A metadata.csv beside them may say what text they show.",
        ),
    ] = None,
    weights: Annotated[str | None, typer.Option(help="A checkpoint file, or `synthetic` (made up, unranked).")] = None,
    out: Annotated[Path, typer.Option(help="Summaries.")] = Path("results"),
    work: WorkOption = Path(".vtbench"),
    metric: Annotated[list[str], typer.Option(help="Measure this too, beside the task's own metrics; repeats.")] = [],  # noqa: B006
    require: Annotated[str, typer.Option(help="Metrics that must be scored, separated by commas.")] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Compute again what is there.")] = False,
    cards_folder: CardsOption = None,
) -> None:
    """Run tokenizers through tasks: the main job."""
    task_cards = [_with_metrics(card, metric) for card in _tasks(task, cards_folder)]
    chosen = _tokenizers(tokenizer, weights, cards_folder)
    for name in protocol:
        protocols.find_protocol(name)
    _check_sizes(chosen, task_cards)
    files.check_writable(out)
    files.check_writable(work)
    required = tuple(name.strip() for name in require.split(",") if name.strip())
    _check_required(required, task_cards)

    from vtbench import evaluate, load_task, load_tokenizer

    wanted = [(card, name) for card in task_cards for name in protocol or [card.protocol]]
    opened = [(load_task(card, data=data, native=name != "canonical"), name) for card, name in wanted]
    done: list[Run] = []
    try:
        for card in chosen:
            loaded = load_tokenizer(card, weights=weights, device=device, precision=precision.value)
            for one, rule in opened:
                under = "" if rule == "canonical" else f" under {rule}"
                with _Bar(f"{card.name} on {one.card.name}{under}") as bar:
                    done.append(
                        evaluate(
                            loaded,
                            one,
                            out=out,
                            work=work,
                            batch_size=batch_size,
                            limit=limit,
                            protocol=rule,
                            require=required,
                            overwrite=overwrite,
                            progress=bar.update,
                        )
                    )
    except KeyboardInterrupt:
        complaints.print(f"vtbench: interrupted; finished shards are in {work}: the same command resumes there")
        raise typer.Exit(130) from None
    finally:
        _print_runs(done)
    console.print(f"\nSummaries are in {out}, per-image tables in {work}; `vtbench leaderboard` makes the tables.")


def _tasks(names: list[str], extra: Path | None) -> list[TaskCard]:
    if names == ["all"]:
        from vtbench.task import is_here

        return [card for card in cards.tasks(extra).values() if is_here(card)]
    return [cards.find_task(name, extra) for name in dict.fromkeys(names)]


def _with_metrics(card: TaskCard, names: list[str]) -> TaskCard:
    """Add metrics of single pictures that any task can have."""
    for name in names:
        protocols.find_metric(name)
        if name not in protocols.PIXEL_METRICS:
            raise CardError(f"--metric {name}: belongs to certain tasks; expected {', '.join(protocols.PIXEL_METRICS)}")
    return card.model_copy(update={"metrics": tuple(dict.fromkeys((*card.metrics, *names)))})


def _tokenizers(names: list[str], weights: str | None, extra: Path | None) -> list[TokenizerCard]:
    """Find the cards, and the weights of each, before torch is loaded or anything is computed."""
    from vtbench.weights import cached, locate

    if weights is not None and weights != "synthetic":
        if not Path(weights).is_file():
            raise CardError(f"--weights {weights}: no such file; expected a checkpoint, or the word synthetic")
        if len(names) > 1 or names == ["all"]:
            raise CardError("--weights FILE belongs to one tokenizer; name just one with --tokenizer")
    if names == ["all"]:
        everything = cards.tokenizers(extra).values()
        return [card for card in everything if weights or card.weights is None or cached(card.weights)]
    found = {card.name: card for card in (cards.find_tokenizer(name, extra) for name in names)}
    if weights is None:
        for card in found.values():
            locate(card)
    return list(found.values())


def _check_sizes(chosen: list[TokenizerCard], task_cards: list[TaskCard]) -> None:
    for card in chosen:
        for task in task_cards:
            if card.input.sizes and task.geometry.side not in card.input.sizes:
                wanted = " or ".join(f"{side}x{side}" for side in card.input.sizes)
                side = task.geometry.side
                found = f"{side}x{side}" if side else "pictures of many sizes"
                raise CardError(
                    f"{card.name} takes {wanted} pixels only, {task.name} has {found}; "
                    "choose a task of that size (`vtbench list tasks`)"
                )


def _check_required(names: tuple[str, ...], task_cards: list[TaskCard]) -> None:
    """Refuse required metrics whose backbone is not here, before torch is loaded."""
    from vtbench import backbones

    for name in names:
        for card in task_cards:
            if reason := backbones.lacking(name, card.ocr):
                raise VtbenchError(f"--require {name}: {reason}")


class _Bar:
    """A progress bar with rate and remaining time; silent where the output is not a terminal."""

    def __init__(self, title: str) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task(title, total=None, rate="")

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def update(self, done: int, total: int) -> None:
        speed = self._progress.tasks[self._task].speed
        rate = f"{speed:.1f} images/s" if speed else ""
        self._progress.update(self._task, completed=done, total=total, rate=rate)


def _print_runs(runs: list[Run]) -> None:
    from vtbench import leaderboard

    for (task, protocol), group in leaderboard.tables(runs).items():
        metrics = [name for name in leaderboard.measured(group) if name not in protocols.CODE_METRICS[1:]]
        table = Table(title=f"\n{task}, protocol {protocol}", title_justify="left", box=None, header_style="bold")
        table.add_column("tokenizer", no_wrap=True)
        for name in metrics:
            arrow = "↑" if protocols.METRICS[name].higher_is_better else "↓"
            table.add_column(f"{name} {arrow}", justify="right", no_wrap=True)
        table.add_column("scored", justify="right", no_wrap=True)
        for one in group:
            scored = max((score.scored for score in one.scores.values()), default=0)
            name = one.tokenizer if one.ranked else f"{one.tokenizer} (not ranked)"
            cells = (leaderboard.shown(one.scores.get(metric), metric) for metric in metrics)
            table.add_row(name, *cells, f"{scored}/{one.images}")
        # At its natural width: a table whose numbers are cut off to fit a narrow terminal says nothing.
        Console(width=max(console.width, 40 + 16 * len(metrics))).print(table)
        for reason in leaderboard.missing(group):
            console.print(f"not scored: {reason}", markup=False, highlight=False, soft_wrap=True)


# --- tables and gates -------------------------------------------------------------------------------------------------


@app.command()
def leaderboard(
    results_folder: Annotated[Path, typer.Option("--results", help="Folder of the summaries.")] = Path("results"),
) -> None:
    """Write leaderboard.csv and LEADERBOARD.md out of the runs in a folder."""
    from vtbench import leaderboard as tables
    from vtbench import results

    runs = results.read(results_folder)
    if not runs:
        raise ResultError(f"{results_folder}: holds no runs; `vtbench run -t tiny --task reconstruction` makes one")
    for name, content in (("leaderboard.csv", tables.to_csv(runs)), ("LEADERBOARD.md", tables.to_markdown(runs))):
        files.write_atomic(results_folder / name, content.encode())
        console.print(str(results_folder / name), highlight=False)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder in the work folder, or its JSON.")],
    second: Annotated[Path, typer.Argument(metavar="RUN", help="The run it is compared with, likewise.")],
    work: WorkOption = Path(".vtbench"),
) -> None:
    """Compare two runs over the same pictures: paired differences with intervals and p-values."""
    from vtbench import leaderboard as tables
    from vtbench import results

    ours, theirs = results.find_run(first, work), results.find_run(second, work)
    found = tables.contrast(ours, theirs)
    title = f"{ours[0].stem} minus {theirs[0].stem} on {ours[0].task}"
    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    for head in (
        "metric",
        "first",
        "second",
        "difference",
        "95% interval",
        "pictures",
        "Wilcoxon p",
        "flip p",
        "Holm p",
    ):
        table.add_column(head, justify="left" if head == "metric" else "right", no_wrap=True)
    for one in found:
        metric = protocols.METRICS[one.metric]
        digits, change = metric.digits + 1, one.comparison.difference
        table.add_row(
            f"{one.metric} {'↑' if metric.higher_is_better else '↓'}",
            *(f"{number:.{digits}f}" for number in (one.first, one.second)),
            f"{change.mean:+.{digits}f}",
            f"{change.low:+.{digits}f} … {change.high:+.{digits}f}",
            str(change.pairs),
            *(f"{p:.2g}" for p in (one.comparison.wilcoxon, one.comparison.sign_flip, one.adjusted)),
        )
    Console(width=max(console.width, 120)).print(table)
    note = "Intervals: BCa bootstrap of the paired differences. Holm: the flip p-value, corrected for all rows."
    console.print(note, highlight=False)


@app.command()
def check(
    run_: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder in the work folder, or its JSON.")],
    baseline: Annotated[Path, typer.Option(help="The run it is held against, likewise.")],
    max_drop: Annotated[list[str], typer.Option(help="METRIC=AMOUNT: by how much it may get worse; repeats.")],
    junit: Annotated[Path | None, typer.Option(help="Also write JUnit XML here.")] = None,
    work: WorkOption = Path(".vtbench"),
) -> None:
    """Fail (exit 1) where a run is significantly worse than its baseline, beyond what is allowed."""
    from vtbench import leaderboard as tables
    from vtbench import results

    ours, theirs = results.find_run(run_, work), results.find_run(baseline, work)
    checks = tables.check(ours, theirs, _allowed(max_drop))
    table = Table(title=f"{ours[0].tokenizer} against {theirs[0].tokenizer} on {ours[0].task}", title_justify="left")
    for head in ("metric", "baseline", "run", "worse by", "95% interval", "allowed", "pictures", ""):
        table.add_column(head, justify="left" if head in ("metric", "") else "right")
    for one in checks:
        digits = protocols.METRICS[one.metric].digits + 1
        numbers = (one.baseline, one.value, one.drop.mean)
        table.add_row(
            one.metric,
            *(f"{number:.{digits}f}" for number in numbers),
            f"{one.drop.low:.{digits}f} … {one.drop.high:.{digits}f}",
            f"{one.allowed:g}",
            str(one.drop.pairs or "-"),
            "FAILED" if one.failed else "ok",
        )
    console.print(table)
    if junit:
        name = f"vtbench.{ours[0].task}.{ours[0].tokenizer}"
        files.write_atomic(junit, tables.to_junit(name, checks).encode())
    if any(one.failed for one in checks):
        raise typer.Exit(1)


def _allowed(pairs: list[str]) -> dict[str, float]:
    allowed = {}
    for pair in pairs:
        name, equals, amount = pair.partition("=")
        try:
            allowed[protocols.find_metric(name).name] = float(amount)
        except ValueError:
            equals = ""
        if not equals:
            raise ResultError(f"--max-drop {pair}: expected METRIC=AMOUNT, such as psnr=0.1")
    return allowed


@app.command()
def sheet(
    tokenizer: Annotated[list[str], typer.Option("--tokenizer", "-t", help="Name or alias; repeats.")],
    task: Annotated[list[str], typer.Option("--task", help="Name; repeats.")],
    samples: Annotated[int, typer.Option(min=1, help="Pictures of each task.")] = 3,
    out: Annotated[Path, typer.Option(help="A picture file.")] = Path("results/contact-sheet.webp"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    weights: Annotated[str | None, typer.Option(help="A checkpoint file, or `synthetic`.")] = None,
    cards_folder: CardsOption = None,
) -> None:
    """Draw originals and reconstructions side by side."""
    task_cards = _tasks(task, cards_folder)
    chosen = _tokenizers(tokenizer, weights, cards_folder)
    _check_sizes(chosen, task_cards)
    sides = {card.geometry.size for card in task_cards}
    if len(sides) > 1 or "native" in sides:
        shown = ", ".join(sorted(map(str, sides)))
        raise CardError(f"the tasks have pictures of these sizes: {shown}; a sheet takes one")
    import io

    from vtbench import load_task, load_tokenizer
    from vtbench.sheet import contact_sheet, pick

    rows = [sample for card in task_cards for sample in pick(load_task(card), samples)]
    drawn = contact_sheet([load_tokenizer(card, weights=weights, device=device) for card in chosen], rows)
    content = io.BytesIO()
    suffix = out.suffix.lower().lstrip(".")
    if suffix not in ("png", "webp"):
        raise ResultError(f"--out {out}: expected a name that ends in .png or .webp")
    drawn.save(content, suffix, lossless=True)
    files.write_atomic(out, content.getvalue())
    console.print(str(out), highlight=False)


# --- what a machine has -----------------------------------------------------------------------------------------------


@app.command()
def fetch(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="lpips, rfid, ocr, tokenizers or tasks.")],
    cards_folder: CardsOption = None,
) -> None:
    """Bring weights, data and metric backbones ahead of time, for machines without a network."""
    from vtbench import backbones, ocr, weights

    tasks = cards.tasks(cards_folder)
    others = [name for name in names if name not in tasks]
    wanted = {
        name: None if name in (*backbones.GROUPS, "ocr") else cards.find_tokenizer(name, cards_folder)
        for name in others
    }
    for name in names:
        if name in tasks:
            from vtbench.task import fetch as fetch_task

            console.print(f"{name}: {fetch_task(tasks[name])}", highlight=False, markup=False)
            continue
        card = wanted[name]
        if card is None:
            brought = {"easyocr": ocr.fetch("easyocr")} if name == "ocr" else backbones.fetch_group(name)
            for part, path in brought.items():
                console.print(f"{part}: {path}", highlight=False, markup=False)
            continue
        if card.weights and card.weights.package is None:
            licence = card.license or "not stated on its card; ask the authors before you use them"
            console.print(f"{card.name}: licence of the weights: {licence}", highlight=False, markup=False)
        found = weights.locate(card)
        console.print(f"{card.name}: {found or 'needs no weights'}", highlight=False, markup=False)


@app.command()
def doctor() -> None:
    """Say what is installed, cached and reachable, and the command that mends each gap."""
    from huggingface_hub import constants

    from vtbench import backbones, engine, ocr, weights
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
    for place, names in ((backbones, backbones.names()), (ocr, ocr.names())):
        for name in names:
            table.add_row(name, str(place.find(name) or place.missing(name)))
    for card in cards.tokenizers().values():
        if card.weights is not None:
            path = weights.cached(card.weights)
            table.add_row(card.name, str(path) if path else f"not cached; `vtbench fetch {card.name}`")
    for metric in protocols.METRICS.values():
        table.add_row(f"metric {metric.name}", backbones.lacking(metric.name) or "can be scored")
    console.print(table, markup=False)


if __name__ == "__main__":
    main()
