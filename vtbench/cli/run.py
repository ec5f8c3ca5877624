"""Running: `vtbench run`, the main job, and `vtbench demo`."""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vtbench import cards, catalogue, files, kept, protocols
from vtbench.cards import TaskCard, TokenizerCard
from vtbench.cli._terminal import CardsOption, WorkOption, app, complaints, console, one_line, table
from vtbench.errors import CardError, VtbenchError

if TYPE_CHECKING:
    from torch import Tensor

    from vtbench.results import Run


class Precision(StrEnum):
    """Types of a network's tensors."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"


@app.command()
def run(
    task: Annotated[list[str], typer.Option("--task", help="Name; repeats; `all` takes all.")],
    tokenizer: Annotated[
        list[str], typer.Option("--tokenizer", "-t", help="Name or alias; repeats; `all` takes all that can run here.")
    ] = [],  # noqa: B006  typer wants a list
    diffusers: Annotated[
        list[str],
        typer.Option(
            metavar="PLACE",
            help="An autoencoder of the diffusers library: OWNER/NAME[/SUBFOLDER] on the hub, or a folder that "
            "save_pretrained wrote; repeats.",
        ),
    ] = [],  # noqa: B006
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
    data_name: Annotated[
        str | None, typer.Option(help="What the results call these pictures; the folder's name where left out.")
    ] = None,
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Also read pictures through links that lead out of the folder.")
    ] = False,
    weights: Annotated[
        list[str],
        typer.Option(help="A checkpoint file, or `synthetic` (made up, unranked); repeats for encoder and decoder."),
    ] = [],  # noqa: B006
    name: Annotated[
        str | None, typer.Option(help="What the results call these weights; 8 hex digits where left out.")
    ] = None,
    step: Annotated[float | None, typer.Option(help="Training step; from the file's name where left out.")] = None,
    ocr: Annotated[str | None, typer.Option(help="The OCR engine that reads, in place of the task's.")] = None,
    out: Annotated[Path, typer.Option(help="Summaries.")] = Path("results"),
    work: WorkOption = Path(".vtbench"),
    metric: Annotated[list[str], typer.Option(help="Measure this too, beside the task's own metrics; repeats.")] = [],  # noqa: B006
    require: Annotated[str, typer.Option(help="Metrics that must be scored, separated by commas.")] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Compute again what is there.")] = False,
    shards: Annotated[
        str | None, typer.Option(metavar="I/N", help="Compute the I-th of N parts, from 1; the last one merges.")
    ] = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for a process that writes the same run.")] = 600,
    keep_pictures: Annotated[
        str | None,
        typer.Option(
            metavar="worst:N|all",
            help="Keep originals and reconstructions losslessly beside the per-image table: the N worst by the metric "
            "that ranks, with the median and the best, or all. `vtbench report` shows them.",
        ),
    ] = None,
    cards_folder: CardsOption = None,
) -> None:
    """Run tokenizers through tasks: the main job."""
    rank, world = _place(shards)
    wish = kept.parse(keep_pictures) if keep_pictures is not None else None
    task_cards = [_adapted(card, metric, ocr) for card in tasks_of(task, cards_folder)]
    chosen = tokenizers_of(tokenizer, weights, cards_folder) if tokenizer else []
    folders: dict[str, Mapping[str, Tensor]] = {}
    for place in diffusers:
        from vtbench.networks.diffusers import card_for, load_folder

        chosen.append(card_for(place))
        if Path(place).is_dir():
            folders[chosen[-1].name] = load_folder(place)
    if not chosen:
        raise CardError("no tokenizer is named; give --tokenizer NAME (`vtbench list`) or --diffusers PLACE")
    if name is not None and (len(chosen) > 1 or not weights):
        raise CardError("--name says which weights these are; give it with --weights and just one --tokenizer")
    for one in protocol:
        protocols.find_protocol(one)
    check_sizes(chosen, task_cards)
    files.check_writable(out)
    files.check_writable(work)
    required = tuple(one.strip() for one in require.split(",") if one.strip())
    _check_required(required, task_cards)
    if step is None and weights:
        step = _step_of(weights[0])

    from vtbench import evaluate, load_task, load_tokenizer

    wanted = [(card, one) for card in task_cards for one in protocol or [card.protocol]]
    opened = [
        (
            load_task(
                card,
                data=data,
                label=data_name,
                follow_links=follow_links,
                native=protocols.find_protocol(one).published,
            ),
            one,
        )
        for card, one in wanted
    ]
    done: list[Run] = []
    broken: list[str] = []
    try:
        for card in chosen:
            try:
                own = folders.get(card.name) or given(weights)
                loaded = load_tokenizer(card, weights=own, device=device, precision=precision.value)
                for its_task, rule in opened:
                    under = "" if rule == "canonical" else f" under {rule}"
                    with _Bar(f"{card.name} on {its_task.card.name}{under}") as bar:
                        found = evaluate(
                            loaded,
                            its_task,
                            out=out,
                            work=work,
                            batch_size=batch_size,
                            limit=limit,
                            protocol=rule,
                            label=name,
                            step=step,
                            require=required,
                            overwrite=overwrite,
                            rank=rank,
                            world=world,
                            wait=wait,
                            progress=bar.update,
                        )
                    done += [found] if found is not None else []
                    if found is not None and wish is not None:
                        kept.keep(loaded, its_task, found, work / found.task / found.name, wish)
            except VtbenchError:
                raise
            except Exception as error:
                # One network's bug must not take the other tokenizers of the command with it.
                if len(chosen) == 1:
                    raise
                broken.append(card.name)
                complaints.print(traceback.format_exc())
                complaints.print(f"vtbench: {card.name}: {type(error).__name__}: {one_line(error)}")
    except KeyboardInterrupt:
        complaints.print(f"vtbench: interrupted; finished shards are in {work}: the same command resumes there")
        raise typer.Exit(130) from None
    finally:
        print_runs(done)
    if broken:
        complaints.print(f"vtbench: ended by an exception, see above: {', '.join(broken)}")
        raise typer.Exit(3)
    console.print(
        f"\nSummaries are in {out}, per-image tables in {work}; `vtbench leaderboard` makes the tables.", soft_wrap=True
    )


DEMO_TASKS = ("reconstruction", "detail", "text")
DEMO_KEPT = "worst:3"
DEMO_SHEET = ("tiny-fsq-f8", "tiny-fsq-f16", "taef2", "jpeg-q5", "webp-q5", "avif-q20")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Summaries, tables, contact sheet and report.")] = Path("results"),
    work: WorkOption = Path(".vtbench"),
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first pictures of each task.")] = None,
) -> None:
    """Run all that this machine has weights for through the embedded tasks, and draw the tables and the report."""
    from vtbench.cli.judge import leaderboard
    from vtbench.cli.report import report
    from vtbench.cli.sheet import sheet
    from vtbench.errors import WeightsError
    from vtbench.weights import locate_all

    shown = list(DEMO_SHEET)
    try:
        locate_all(cards.find_tokenizer("taef2"))  # the published tokenizer that is small enough for a demo
    except WeightsError as error:
        shown.remove("taef2")
        complaints.print(f"vtbench: goes on without taef2: {one_line(error)}")
    run(task=list(DEMO_TASKS), tokenizer=["all"], out=out, work=work, limit=limit, keep_pictures=DEMO_KEPT)
    leaderboard(results_folder=out)
    sheet(tokenizer=shown, task=list(DEMO_TASKS), samples=2, out=out / "contact-sheet.webp")
    report(results_folder=out, work=work, out=out / "report.html")


def given(weights: Sequence[str]) -> str | list[str] | None:
    """What `load_tokenizer` is given for the --weights of a command."""
    return None if not weights else weights[0] if len(weights) == 1 else list(weights)


def _place(shards: str | None) -> tuple[int, int]:
    """Rank and world: of --shards I/N, or of torchrun, whose variables count only where torchrun itself set them."""
    if shards is not None:
        part, _, whole = shards.partition("/")
        if not (part.isdecimal() and whole.isdecimal() and 1 <= int(part) <= int(whole)):
            raise VtbenchError(f"--shards {shards}: expected I/N with I from 1 to N, such as 3/16")
        return int(part) - 1, int(whole)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    return 0, 1


def _step_of(path: str) -> float | None:
    """Read the training step from a checkpoint's name, such as last-step=20000.ckpt; None where none stands there."""
    import re

    found = re.findall(r"(?:step|steps|iter|iteration|global_step)[-_=]?(\d+)", Path(path).stem, re.IGNORECASE)
    return float(found[-1]) if found else None


def tasks_of(names: list[str], extra: Path | None) -> list[TaskCard]:
    """Find the cards of tasks; `all` takes those whose pictures are here."""
    if names == ["all"]:
        from vtbench.task import is_here

        return [card for card in cards.tasks(extra).values() if is_here(card)]
    return [cards.find_task(name, extra) for name in dict.fromkeys(names)]


def _adapted(card: TaskCard, names: list[str], engine: str | None) -> TaskCard:
    """Add metrics of single pictures that any task can have, and change the engine that reads."""
    pairs = catalogue.of_measure("pairs")
    for name in names:
        catalogue.find_metric(name)
        if name not in pairs:
            raise CardError(f"--metric {name}: belongs to certain tasks; expected {', '.join(pairs)}")
    if engine is not None:
        from vtbench import ocr

        ocr.find(engine)  # a name that is no engine's is told before anything is computed
        card = card.model_copy(update={"ocr": engine})
    return card.model_copy(update={"metrics": tuple(dict.fromkeys((*card.metrics, *names)))})


def tokenizers_of(names: list[str], weights: Sequence[str], extra: Path | None) -> list[TokenizerCard]:
    """Find the cards, and the weights of each, before torch is loaded or anything is computed."""
    from vtbench.weights import cached, locate

    for place in weights:
        if place != "synthetic" and not Path(place).exists():
            raise CardError(f"--weights {place}: no such file; expected a checkpoint, or the word synthetic")
    if weights and list(weights) != ["synthetic"] and (len(names) > 1 or names == ["all"]):
        raise CardError("--weights FILE belongs to one tokenizer; name just one with --tokenizer")
    if names == ["all"]:
        everything = cards.tokenizers(extra).values()
        return [card for card in everything if weights or card.weights is None or cached(card.weights)]
    found = {card.name: card for card in (cards.find_tokenizer(name, extra) for name in names)}
    if not weights:
        for card in found.values():
            locate(card)
    return list(found.values())


def check_sizes(chosen: list[TokenizerCard], task_cards: list[TaskCard]) -> None:
    """Refuse a tokenizer of fixed size on a task of another, before anything is computed."""
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
    from vtbench import ocr

    for name in names:
        for card in task_cards:
            if reason := ocr.lacking(name, card.ocr):
                raise VtbenchError(f"--require {name}: {reason}")


class _Bar:
    """A progress bar with rate and remaining time; silent where the output is not a terminal."""

    def __init__(self, title: str) -> None:
        from rich.markup import escape
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task(escape(one_line(title)), total=None, rate="")

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def update(self, done: int, total: int) -> None:
        """Show how far it is."""
        speed = self._progress.tasks[self._task].speed
        rate = f"{speed:.1f} images/s" if speed else ""
        self._progress.update(self._task, completed=done, total=total, rate=rate)


def print_runs(runs: Sequence[Run]) -> None:
    """Print a table a task and protocol, what was not scored, and what became of the pictures."""
    from vtbench import leaderboard

    codes = catalogue.of_measure("codes")
    for (task, protocol), standings in leaderboard.tables(runs).items():
        group = [standing.run for standing in standings]
        names = [name for name in leaderboard.measured(group) if name not in codes[1:]]
        floors = [name for name in names if any((s := one.scores.get(name)) and s.floor is not None for one in group)]
        rows = []
        for one, _, why in standings:
            cells = [leaderboard.shown(one.scores.get(name), name) for name in names]
            cells += [leaderboard.digits(floor, name) for name in floors if (floor := _floor(one, name)) is not None]
            label = leaderboard.shown_name(one)
            rows.append([label if why is None else f"{label} ({why})", *cells, f"{one.pictures.scored}/{one.images}"])
        heads = [f"{name} {catalogue.find_metric(name).arrow}" for name in names]
        table(
            ["tokenizer", *heads, *(f"{name} floor" for name in floors), "scored"],
            rows,
            title=f"\n{task}, protocol {protocol}",
        )
        for reason in leaderboard.missing(group):
            console.print(f"not scored: {one_line(reason)}", soft_wrap=True)
        for line in dict.fromkeys(_counted(one) for one in group):
            if line:
                console.print(line, soft_wrap=True)


def _floor(run: Run, name: str) -> float | None:
    score = run.scores.get(name)
    return score.floor if score else None


def _counted(run: Run) -> str:
    """Say in one line what became of the pictures, where any was not scored."""
    counts = run.pictures
    if counts.found == counts.scored:
        return ""
    said = [f"{counts.found} found", f"{counts.scored} scored"]
    if counts.failed:
        reasons = "; ".join(f"{count}: {one_line(reason)}" for reason, count in counts.reasons.items())
        said.append(f"{counts.failed} failed ({reasons})")
    if counts.passed_over:
        kinds = ", ".join(f"{count} {one_line(kind)}" for kind, count in counts.passed_over.items())
        said.append(f"{sum(counts.passed_over.values())} passed over ({kinds})")
    if counts.left_out:
        said.append(f"{counts.left_out} left out by --limit")
    return f"pictures of {run.name}: {', '.join(said)}"
