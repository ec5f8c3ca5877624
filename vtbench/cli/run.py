"""Running: `vtbench run`, the main job, and `vtbench demo`."""

from __future__ import annotations

import os
import signal
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vtbench import cards, kept
from vtbench.cli._chosen import Command, Precision
from vtbench.cli._terminal import CardsOption, WorkOption, app, complaints, in_one_line, one_line, prepare
from vtbench.cli._work import INTERRUPTED, is_finished, perform
from vtbench.errors import VtbenchError, WeightsError
from vtbench.settings import WAIT, Settings

if TYPE_CHECKING:
    from vtbench.team import Team


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
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the network first (torch.compile): pays in long runs on a GPU.")
    ] = False,
    batch_size: Annotated[
        str, typer.Option(metavar="N|auto", help="Pictures a forward pass; auto takes the fastest that fits.")
    ] = "8",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first pictures; a run that leaves any out is not ranked.")
    ] = None,
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
    step: Annotated[
        float | None, typer.Option(help="Training step; from the file's name or --name where left out.")
    ] = None,
    ocr: Annotated[str | None, typer.Option(help="The OCR engine that reads, in place of the task's.")] = None,
    features: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE",
            help="What latents are compared with: dinov2-base, siglip2-base, a folder, or a .npz of ids and features.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Summaries.")] = Path("results"),
    work: WorkOption = Path(".vtbench"),
    metric: Annotated[list[str], typer.Option(help="Measure this too, beside the task's own metrics; repeats.")] = [],  # noqa: B006
    require: Annotated[str, typer.Option(help="Metrics that must be scored, separated by commas.")] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Compute again what is there.")] = False,
    shards: Annotated[
        str | None, typer.Option(metavar="I/N", help="Compute the I-th of N parts, from 1; the last one merges.")
    ] = None,
    wait: Annotated[
        float,
        typer.Option(
            min=0,
            help="Seconds to wait for a process that writes the same run, or for torchrun's without any progress.",
        ),
    ] = WAIT,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads that read pictures; one a core where left out, eight at most.")
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Processes of this machine that share the run; each takes a GPU, or its cores.")
    ] = 1,
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
    command = Command(
        task=task,
        tokenizer=tokenizer,
        diffusers=diffusers,
        protocol=protocol,
        device=device,
        precision=precision,
        compile=compiled,
        batch_size=batch_size,
        limit=limit,
        data=data,
        data_name=data_name,
        follow_links=follow_links,
        weights=weights,
        name=name,
        step=step,
        ocr=ocr,
        features=features,
        metric=metric,
        require=require,
        cards_folder=cards_folder,
    )
    rank, world = _part(shards)
    keep = kept.parse(keep_pictures) if keep_pictures is not None else None
    how = Settings(out, work, overwrite=overwrite, rank=rank, world=world, wait=wait, workers=workers)
    if processes > 1:
        if shards is not None or _job() is not None:
            raise VtbenchError("--processes shares a run by itself; leave --shards and torchrun out, or --processes")
        begun: AbstractContextManager[Team | None] = (
            nullcontext() if is_finished(command, how, keep) else _accompanied(command, how, keep, processes)
        )
    else:
        begun = _joined(shards, wait)
    with begun as team:
        code = perform(command, replace(how, team=team), keep)
    if code:
        raise typer.Exit(code)


DEMO_TASKS = ("reconstruction", "detail", "text")


DEMO_KEPT = "worst:3"


DEMO_SHEET = ("tiny-fsq-f8", "tiny-fsq-f16", "taef2", "jpeg-q5", "webp-q5", "avif-q20")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Summaries, tables, contact sheet and report.")] = Path("results"),
    work: WorkOption = Path(".vtbench"),
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first pictures of each task.")] = None,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that share the runs; one a core where left out, four at most (2 GB each)."),
    ] = None,
) -> None:
    """Run all that this machine has weights for through the embedded tasks, and draw the tables and the report."""
    from vtbench.cli.judge import leaderboard
    from vtbench.cli.report import report
    from vtbench.cli.sheet import sheet
    from vtbench.team import cores
    from vtbench.weights import locate

    shown = list(DEMO_SHEET)
    try:
        locate(cards.find_tokenizer("taef2"))  # the published tokenizer that is small enough for a demo
    except WeightsError as error:
        shown.remove("taef2")
        complaints.print(f"vtbench: goes on without taef2: {one_line(error)}")
    ended = None
    try:
        run(
            task=list(DEMO_TASKS),
            tokenizer=["all"],
            out=out,
            work=work,
            limit=limit,
            processes=processes or min(4, cores()),
            keep_pictures=DEMO_KEPT,
        )
    except typer.Exit as error:
        if error.exit_code == INTERRUPTED:
            raise
        ended = error  # what one tokenizer lacks keeps nobody from the tables of the others
    leaderboard(results_folder=out)
    sheet(tokenizer=shown, task=list(DEMO_TASKS), samples=2, out=out / "contact-sheet.webp")
    report(results_folder=out, work=work, out=out / "report.html")
    if ended is not None:
        raise ended


def _part(shards: str | None) -> tuple[int, int]:
    """Rank and world of --shards I/N."""
    if shards is None:
        return 0, 1
    part, _, whole = shards.partition("/")
    if not (part.isdecimal() and whole.isdecimal() and 1 <= int(part) <= int(whole)):
        raise VtbenchError(f"--shards {shards}: expected I/N with I from 1 to N, such as 3/16")
    return int(part) - 1, int(whole)


def _job() -> str | None:
    """Name torchrun's job, whose variables count only where torchrun itself set them."""
    return os.environ.get("TORCHELASTIC_RUN_ID")


def _joined(shards: str | None, wait: float) -> AbstractContextManager[Team | None]:
    """Join the other processes of torchrun."""
    job = _job()
    if shards is not None or job is None:
        return nullcontext()
    from vtbench.team import Team

    # torchrun calls every job "none" that it was given no name for.
    return Team.join(
        int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), wait=wait, job=None if job == "none" else job
    )


def _accompanied(command: Command, how: Settings, keep: kept.Wish | None, count: int) -> AbstractContextManager[Team]:
    """Start further processes of this machine that perform a command beside this one."""
    from vtbench.team import Team, cores

    # torch reads the variable when it is imported, here and in the others.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // count)))
    return Team.start(count, partial(_perform_beside, command, how, keep), wait=how.wait)


def _perform_beside(command: Command, how: Settings, keep: kept.Wish | None, team: Team) -> None:
    """Perform a command in a process that another one started; Ctrl-C is for that one, which then ends this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prepare()
    with in_one_line(), team:
        perform(command, replace(how, team=team), keep)
