"""Running: `vtbench run`, the main job, and `vtbench demo`."""

from __future__ import annotations

import math
import os
import shlex
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vtbench import cards, catalogue, files, finished, kept, protocols
from vtbench.cards import Card, TaskCard, TokenizerCard
from vtbench.cli._terminal import (
    CardsOption,
    WorkOption,
    app,
    complaints,
    console,
    in_one_line,
    one_line,
    prepare,
    table,
)
from vtbench.data import _shards
from vtbench.errors import OF_ONE, CardError, VtbenchError, WeightsError
from vtbench.results import LABEL, LABEL_FORM, UNRANKED
from vtbench.types import Strict

if TYPE_CHECKING:
    from torch import Tensor

    from vtbench.results import Run
    from vtbench.task import Task
    from vtbench.team import Team
    from vtbench.tokenizer import Tokenizer


class Precision(StrEnum):
    """Types of a network's tensors."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"


class Command(Strict):
    """What a run is made of; `vtbench merge` reads it from the folder of a run that `vtbench run` began."""

    task: list[str]
    tokenizer: list[str]
    diffusers: list[str]
    protocol: list[str]
    device: str
    precision: Precision
    compile: bool = False
    batch_size: str
    limit: int | None
    data: str | None
    data_name: str | None
    follow_links: bool
    weights: list[str]
    name: str | None
    step: float | None
    ocr: str | None
    features: str | None
    metric: list[str]
    require: str
    cards_folder: Path | None


@dataclass(frozen=True)
class Place:
    """Where a run is made, and by whom."""

    out: Path
    work: Path
    overwrite: bool = False
    rank: int = 0
    world: int = 1
    team: Team | None = None
    wait: float = 600
    workers: int | None = None
    compute: bool = True
    keep: kept.Wish | None = None
    """Which pictures are kept beside the per-image tables."""

    @property
    def speaks(self) -> bool:
        """Whether this process says what was done: of a team rank 0 alone."""
        return self.team is None or self.team.rank == 0


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
    step: Annotated[float | None, typer.Option(help="Training step; from the file's name where left out.")] = None,
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
    ] = 600,
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
    wish = kept.parse(keep_pictures) if keep_pictures is not None else None
    place = Place(out, work, overwrite, rank, world, None, wait, workers, keep=wish)
    if processes > 1:
        if shards is not None or _job() is not None:
            raise VtbenchError("--processes shares a run by itself; leave --shards and torchrun out, or --processes")
        begun: AbstractContextManager[Team | None] = (
            nullcontext() if _is_finished(command, place) else _accompanied(command, place, processes)
        )
    else:
        begun = _joined(shards, wait)
    with begun as team:
        code = perform(command, replace(place, team=team))
    if code:
        raise typer.Exit(code)


def perform(command: Command, place: Place) -> int:
    """Run tokenizers through tasks, print their tables and write their summaries.

    Returns:
        The exit code: 0, 2 where a tokenizer or a task of it was refused, 3 where one ended by an exception.

    Raises:
        VtbenchError: if the user can mend something.
    """
    team = place.team
    files.recall_hashes(place.work / finished.HASHES)
    chosen = _chosen(command, speaks=place.speaks)
    check_sizes(chosen.tokenizers, chosen.tasks)
    files.check_writable(place.out)
    files.check_writable(place.work)
    required = tuple(one.strip() for one in command.require.split(",") if one.strip())
    _check_required(required, chosen.tasks)
    step = command.step
    if step is None and command.weights:
        step = _step_of(command.weights[0])

    how_many = _count(command.batch_size)
    if team is not None:
        team.agree(
            "what they are to run",
            [[card.name for card in chosen.tokenizers], [card.name for card in chosen.tasks], chosen.rules],
        )
    work = _Work(command, place, chosen, how_many, step, required)
    try:
        work.do()
    except KeyboardInterrupt:
        if place.speaks:
            complaints.print(
                f"vtbench: interrupted; finished shards are in {place.work}: the same command resumes there"
            )
        raise typer.Exit(INTERRUPTED) from None
    finally:
        if place.speaks:
            print_runs(work.came.done)
    if work.came.broken:
        if place.speaks:
            complaints.print(f"vtbench: ended by an exception, see above: {', '.join(work.came.broken)}")
        return 3
    if work.came.refused:
        if place.speaks:
            complaints.print(f"vtbench: without a result, see above: {', '.join(work.came.refused)}")
        return 2
    if place.speaks and work.came.done:
        elsewhere = "" if place.out == Path("results") else f" --results {shlex.quote(str(place.out))}"
        console.print(
            f"\nSummaries are in {place.out}, per-image tables in {place.work}; "
            f"`vtbench leaderboard{elsewhere}` makes the tables.",
            soft_wrap=True,
        )
    return 0


@dataclass
class _Came:
    """What came of the runs of a command."""

    done: list[Run]
    refused: list[str]
    """Tokenizers, or such on one task, without a result for something that the user can mend."""
    broken: list[str]
    """Those that an exception ended."""


class _Work:
    """The runs that a command asks for: finds those that are there, and makes the others."""

    def __init__(
        self,
        command: Command,
        place: Place,
        chosen: _Chosen,
        batch_size: int | Literal["auto"],
        step: float | None,
        required: Sequence[str],
    ) -> None:
        self._command, self._place, self._chosen = command, place, chosen
        self._batch_size, self._step, self._required = batch_size, step, required
        self._asked = _Asked(command, place, chosen.named, chosen.rules)
        ended = self._asked.ended(chosen)
        self._alone = len(ended) == 1
        self._left = {
            card.name: [task for task in chosen.tasks if ended[card.name, task.name] is None]
            for card in chosen.tokenizers
        }
        self._opened = {
            task.name: _opened(task, chosen.rules or [task.protocol], command)
            for task in chosen.tasks
            if any(task in tasks for tasks in self._left.values())
        }
        self.came = _Came([run for runs in ended.values() for run in runs or []], [], [])

    def do(self) -> None:
        """Make all that is left, with the other processes of a team."""
        if self._place.team is not None and self._place.team.alike:
            self._deal(self._place.team)
        for card in self._chosen.tokenizers:
            if tasks := self._left[card.name]:
                self._make(card, tasks, self._place, self._bar)

    def _deal(self, team: Team) -> None:
        """Give each process whole runs of small tasks, whose shards are too few to keep all of them busy.

        Tokenizers that are no full round more are left to all processes together.
        """
        sizes = {name: _pictures(pairs, self._command.limit) for name, pairs in self._opened.items()}
        small = {name for name, pictures in sizes.items() if pictures <= SMALL * team.world}
        pieces = [
            (card, own)
            for card in self._chosen.tokenizers
            if (own := [task for task in self._left[card.name] if task.name in small])
        ]
        pieces = pieces[: len(pieces) // team.world * team.world]
        if not pieces:
            return
        for card, own in pieces:
            self._left[card.name] = [task for task in self._left[card.name] if task not in own]
        in_all = sum(sizes[task.name] for _, own in pieces for task in own)
        place = replace(self._place, team=None)
        with (
            _Bar(f"{len(pieces)} tokenizers", shown=team.rank == 0) as bar,
            team.counting(lambda done: bar.update(done, in_all)),
        ):
            for number in team.deal(len(pieces)):
                card, own = pieces[number]
                turn = team.rank % len(own)  # each begins with another task, so no two compute the same originals
                self._make(card, own[turn:] + own[:turn], place, lambda _, task: _Share(team, sizes[task.name]))
            found = team.gather(self.came)
        self.came = team.announce(lambda: _together(found or []))

    def _make(self, card: TokenizerCard, tasks: Sequence[TaskCard], place: Place, shown: _Shown) -> None:
        """Make the runs of a tokenizer; what is wrong with it on one task keeps nobody from the others."""
        computed = None
        with self._apart(card.name, place):
            computed = _Computed(
                *(card, self._command, place, self._batch_size, self._step, self._required),
                self._chosen.named[card.name],
                _weights_of(card, self._chosen, self._command.weights),
            )
            if place.team is not None:
                place.team.meet()  # where one process can't load it, none goes on to its tasks
        for task in tasks if computed else ():
            with self._apart(f"{card.name} on {task.name}", place), shown(card, task) as progress:
                runs = computed.runs(task.name, self._opened[task.name], progress)
                if place.speaks:
                    self._asked.remember(card, task, runs)
                self.came.done += runs

    @contextmanager
    def _apart(self, name: str, place: Place) -> Iterator[None]:
        """Keep what is wrong with one tokenizer, or with it on one task, from the others of the command."""
        try:
            with place.team.section(name) if place.team else nullcontext():
                yield
        except OF_ONE as error:
            if self._alone:
                raise
            self.came.refused.append(name)
            if place.speaks:
                said = one_line(error)
                whose = "" if said.startswith(name.partition(" ")[0]) else f"{name}: "  # many say it themselves
                complaints.print(f"vtbench: {whose}{said}")
        except VtbenchError:
            raise
        except Exception as error:
            if self._alone:
                raise
            self.came.broken.append(name)
            complaints.print(traceback.format_exc())
            complaints.print(f"vtbench: {name}: {type(error).__name__}: {one_line(error)}")

    def _bar(self, card: TokenizerCard, task: TaskCard) -> _Bar:
        return _Bar(_title(card, self._opened[task.name]), shown=self._place.speaks)


def _together(parts: Sequence[object]) -> _Came:
    """Put together what came of the runs of each process."""
    came = _Came([], [], [])
    for part in parts:
        assert isinstance(part, _Came)
        came.done += part.done
        came.refused += part.refused
        came.broken += part.broken
    return came


@dataclass(frozen=True)
class _Chosen:
    """What a command names."""

    tasks: list[TaskCard]
    tokenizers: list[TokenizerCard]
    rules: list[str]
    """Protocols; none where each task takes its own."""
    named: dict[str, dict[str, list[str]]]
    """How each tokenizer is named in a command of its own."""
    folders: dict[str, str]
    """Folders of diffusers', which hold the weights of these tokenizers."""


def _chosen(command: Command, *, speaks: bool) -> _Chosen:
    """Find what a command names, before anything is computed.

    Raises:
        CardError: if something of it does not exist, or does not fit the rest.
    """
    weights, extra = command.weights, command.cards_folder
    check_weights([*command.tokenizer, *command.diffusers], weights)
    if weights and (held := next(filter(files.is_dir, command.diffusers), None)):
        raise CardError(f"--weights: the folder --diffusers {held} holds weights of its own; leave one of both out")
    tasks = [_adapted(card, command.metric, command.ocr, command.features) for card in tasks_of(command.task, extra)]
    tokenizers = tokenizers_of(command.tokenizer, weights, extra) if command.tokenizer else []
    if command.tokenizer == ["all"]:
        tokenizers = _fitting(tokenizers, tasks, speaks=speaks)
    folders: dict[str, str] = {}
    named = {card.name: {"tokenizer": [card.name]} for card in tokenizers}
    described: list[tuple[str, TokenizerCard]] = [(card.name, card) for card in tokenizers]
    for one in dict.fromkeys(command.diffusers):
        from vtbench.networks.diffusers import card_for

        card = card_for(one)
        described.append((one, card))
        named[card.name] = {"diffusers": [one]}
        # Cards of two folders may be equal, and their weights not.
        if files.is_dir(one) and not Path(folders.setdefault(card.name, one)).samefile(one):
            raise _clash(folders[card.name], one, card.name)
    tokenizers = _once(described)
    if not tokenizers:
        raise CardError("no tokenizer is named; give --tokenizer NAME (`vtbench list`) or --diffusers PLACE")
    if command.name is not None and (len(tokenizers) > 1 or not (weights or folders)):
        raise CardError(
            "--name says which weights these are; give it with --weights and just one --tokenizer, or with just one "
            "folder for --diffusers"
        )
    if command.name is not None and not LABEL.fullmatch(command.name):
        raise CardError(f"--name {command.name!r}: {LABEL_FORM}")
    rules = [protocols.find_protocol(one).name for one in dict.fromkeys(command.protocol)]
    return _Chosen(tasks, tokenizers, rules, named, folders)


def _weights_of(
    card: TokenizerCard, chosen: _Chosen, weights: Sequence[str]
) -> str | list[str] | Mapping[str, Tensor] | None:
    """What `load_tokenizer` is given for a tokenizer; a folder of diffusers' is read only for what is computed."""
    if card.name not in chosen.folders:
        return given(weights)
    from vtbench.networks.diffusers import load_folder

    return load_folder(chosen.folders[card.name])


def _is_finished(command: Command, place: Place) -> bool:
    """Tell, without torch, whether all that a command asks for is there."""
    files.recall_hashes(place.work / finished.HASHES)
    chosen = _chosen(command, speaks=False)
    return None not in _Asked(command, place, chosen.named, chosen.rules).ended(chosen).values()


class _Asked:
    """Knows what each run of a command was asked for when the command began."""

    def __init__(
        self, command: Command, place: Place, named: Mapping[str, Mapping[str, list[str]]], rules: Sequence[str]
    ) -> None:
        self._command, self._place, self._named, self._rules = command, place, named, rules
        # A team computes together or not at all; what is overwritten or only merged is not asked for again.
        self._may_find = place.team is None and place.compute and not place.overwrite
        self._surroundings: dict[tuple[str, str], finished.Surroundings | None] = {}
        self._begun: dict[tuple[str, str, str], str | None] = {}

    def ended(self, chosen: _Chosen) -> dict[tuple[str, str], list[Run] | None]:
        """Give the finished runs of each tokenizer on each task."""
        return {(card.name, task.name): self._found(card, task) for card in chosen.tokenizers for task in chosen.tasks}

    def _found(self, card: TokenizerCard, task: TaskCard) -> list[Run] | None:
        """Give the runs of a tokenizer on a task, where all are finished and nothing that is asked lacks."""
        place, found = self._place, []
        for rule in self._rules_of(task):
            if (task.name, rule) not in self._surroundings:
                self._surroundings[task.name, rule] = self._around(card, task, rule)
            asked = self._asked(card, task, rule, self._surroundings[task.name, rule])
            self._begun[card.name, task.name, rule] = asked
            run = finished.find(asked, card, task, place.out, place.work) if asked and self._may_find else None
            if run and (place.keep is None or kept.are_kept(run, place.work / run.task / run.name, place.keep)):
                found.append(run)
        return found if len(found) == len(self._rules_of(task)) else None

    def remember(self, card: TokenizerCard, task: TaskCard, runs: Sequence[Run]) -> None:
        """Leave beside finished runs what they were asked for."""
        if not self._place.compute:
            return
        by_rule = {run.protocol: run for run in runs}
        for rule in self._rules_of(task):
            if (run := by_rule.get(rule)) is not None:
                now = self._asked(card, task, rule, self._around(card, task, rule))
                finished.remember(self._begun[card.name, task.name, rule], now, run, self._place.work)
        files.keep_hashes(self._place.work / finished.HASHES)

    def _rules_of(self, task: TaskCard) -> Sequence[str]:
        return self._rules or [protocols.find_protocol(task.protocol).name]

    def _around(self, card: TokenizerCard, task: TaskCard, rule: str) -> finished.Surroundings | None:
        said = self._said(card, task, rule)
        return finished.surroundings(said, task, protocols.find_protocol(rule), self._place.work)

    def _asked(
        self, card: TokenizerCard, task: TaskCard, rule: str, around: finished.Surroundings | None
    ) -> str | None:
        return finished.asked(self._said(card, task, rule), card, around)

    def _said(self, card: TokenizerCard, task: TaskCard, rule: str) -> dict[str, Any]:
        change = {"task": [task.name], "tokenizer": [], "diffusers": [], "protocol": [rule], **self._named[card.name]}
        return recorded(self._command, change)


class _Computed:
    """Runs of one tokenizer that are not finished, or not known to be."""

    def __init__(
        self,
        card: TokenizerCard,
        command: Command,
        place: Place,
        batch_size: int | Literal["auto"],
        step: float | None,
        required: Sequence[str],
        named: Mapping[str, list[str]],
        weights: str | list[str] | Mapping[str, Tensor] | None,
    ) -> None:
        from vtbench import load_tokenizer

        self._card, self._command, self._place = card, command, place
        self._batch_size, self._step, self._required, self._named = batch_size, step, required, named
        self._loaded: Tokenizer = load_tokenizer(
            card,
            weights=weights,
            device=command.device,
            precision=command.precision.value,
            compiled=command.compile,
        )

    def runs(self, task: str, pairs: Sequence[tuple[Task | str, str | None]], shown: _Bar | _Share) -> list[Run]:
        """Evaluate on the task of a card, under all of its protocols, and keep the pictures that are wanted."""
        from vtbench.engine import Settings, evaluate_together

        command, place = self._command, self._place
        how = Settings(
            out=place.out,
            work=place.work,
            batch_size=self._batch_size,
            limit=command.limit,
            label=command.name,
            step=self._step,
            require=self._required,
            overwrite=place.overwrite,
            rank=place.rank,
            world=place.world,
            wait=place.wait,
            workers=place.workers,
            team=place.team,
            compute=place.compute,
            command=recorded(command, {"task": [task], "tokenizer": [], "diffusers": [], **self._named}),
            merging=shown.merge,
        )
        runs = evaluate_together(self._loaded, pairs, how, shown.update)
        for (its_task, _), ended in zip(pairs, runs, strict=True):
            if place.keep and place.speaks and ended is not None and not isinstance(its_task, str):
                folder = place.work / ended.task / ended.name
                kept.keep(self._loaded, its_task, ended, folder, place.keep, wait=place.wait)
        return [one for one in runs if one is not None]


def recorded(command: Command, change: dict[str, Any]) -> dict[str, Any]:
    """Lay out what one run was made of as JSON that says the same in any folder."""

    def whole(place: str) -> str:
        return str(Path(place).absolute()) if files.exists(place) else place

    said: dict[str, Any] = command.model_dump(mode="json") | change
    for name, given_names in (("task", command.task), ("tokenizer", command.tokenizer)):
        # A card that was named by its file is known by that name here, and nowhere else.
        by_file = {Path(one).stem: str(Path(one).absolute()) for one in given_names if one.endswith(".toml")}
        said[name] = [by_file.get(one, one) for one in said[name]]
    said["diffusers"] = [whole(one) for one in said["diffusers"]]
    said["weights"] = [whole(one) for one in said["weights"]]
    for name in ("data", "features", "cards_folder"):
        if said[name] is not None:
            said[name] = whole(said[name])
    if command.data is not None and not command.data.startswith("hub:") and _shards.is_pattern(command.data):
        said["data"] = _shards.anchored(command.data)
    return said


SMALL = 128
"""Pictures a process up to which a task is small: eight shards, of which the last may leave others idle."""

INTERRUPTED = 130
"""The exit code of a command that Ctrl-C ended, as shells have it."""

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
    from vtbench.weights import locate_all

    shown = list(DEMO_SHEET)
    try:
        locate_all(cards.find_tokenizer("taef2"))  # the published tokenizer that is small enough for a demo
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


def given(weights: Sequence[str]) -> str | list[str] | None:
    """What `load_tokenizer` is given for the --weights of a command."""
    return None if not weights else weights[0] if len(weights) == 1 else list(weights)


def _count(said: str) -> int | Literal["auto"]:
    """Read --batch-size."""
    if said == "auto":
        return "auto"
    if not (said.isdecimal() and int(said) > 0):
        raise VtbenchError(f"--batch-size {said}: expected a whole number from 1 up, or auto")
    return int(said)


def _opened(card: TaskCard, rules: Sequence[str], command: Command) -> list[tuple[Task | str, str | None]]:
    """Open one task for some protocols, once for all that take its pictures as they are."""
    from vtbench import load_task

    native = [protocols.find_protocol(rule).published for rule in rules]
    tasks = {
        one: load_task(card, data=command.data, label=command.data_name, follow_links=command.follow_links, native=one)
        for one in dict.fromkeys(native)
    }
    return [(tasks[one], rule) for one, rule in zip(native, rules, strict=True)]


def _pictures(pairs: Sequence[tuple[Task | str, str | None]], limit: int | None) -> int:
    """Count the pictures of a task that was opened."""
    count = max(len(task) for task, _ in pairs if not isinstance(task, str))
    return count if limit is None else min(count, limit)


def _title(card: TokenizerCard, pairs: Sequence[tuple[Task | str, str | None]]) -> str:
    """Name what a progress bar is of."""
    names = [task if isinstance(task, str) else task.card.name for task, _ in pairs]
    rules = [rule for _, rule in pairs if rule not in (None, "canonical")]
    return f"{card.name} on {names[0]}" + (f" under {', '.join(map(str, rules))}" if rules else "")


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


def _accompanied(command: Command, place: Place, count: int) -> AbstractContextManager[Team]:
    """Start further processes of this machine that perform a command beside this one."""
    from vtbench.team import Team, cores

    # torch reads the variable when it is imported, here and in the others.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // count)))
    return Team.start(count, partial(_perform_beside, command, place), wait=place.wait)


def _perform_beside(command: Command, place: Place, team: Team) -> None:
    """Perform a command in a process that another one started; Ctrl-C is for that one, which then ends this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prepare()
    with in_one_line(), team:
        perform(command, replace(place, team=team))


def _step_of(path: str) -> float | None:
    """Read the training step from a checkpoint's name, such as last-step=20000.ckpt or iter_400k.pth.

    None where none stands there, or a number goes on as no step does (step-1.5.2.pt, iter_400x.pt).
    """
    import re

    name = re.sub(r"\.[^.\d][^.]*$", "", Path(path).name)  # no ending begins with a digit
    number = r"(\d+(?:\.\d+(?=[eEkKM]))?)([eE]\d+|[kKM])?(?![A-Za-z0-9]|[.,]\d)"
    found = re.findall(f"(?i:step|steps|iter|iteration|global_step)[-_=]?{number}", name)
    if not found:
        return None
    digits, power = found[-1]
    step = float(digits + {"k": "e3", "K": "e3", "M": "e6"}.get(power, power))
    return step if math.isfinite(step) else None


def tasks_of(names: list[str], extra: Path | None) -> list[TaskCard]:
    """Find the cards of tasks; `all` takes those whose pictures are here."""
    if names == ["all"]:
        from vtbench.task import is_here

        return [card for card in cards.tasks(extra).values() if is_here(card)]
    return _once((name, cards.find_task(name, extra)) for name in names)


def _adapted(card: TaskCard, names: list[str], engine: str | None, features: str | None) -> TaskCard:
    """Add metrics of single pictures that any task can have, and change the engine that reads and the model."""
    if engine is not None:
        from vtbench import ocr

        ocr.find(engine)  # a name that is no engine's is told before anything is computed
        card = card.model_copy(update={"ocr": engine})
    if features is not None:
        from vtbench.backbones import foundation

        if reason := foundation.lacking(features):
            raise CardError(f"--features {reason}")
        card = card.model_copy(update={"foundation": features})
    return card.model_copy(update={"metrics": catalogue.with_more(card.metrics, names)})


def tokenizers_of(names: list[str], weights: Sequence[str], extra: Path | None) -> list[TokenizerCard]:
    """Find the cards, and the weights of each, before torch is loaded or anything is computed."""
    from vtbench.weights import cached, locate

    if names == ["all"]:
        everything = cards.tokenizers(extra).values()
        return [card for card in everything if weights or card.weights is None or cached(card)]
    found = _once((name, cards.find_tokenizer(name, extra)) for name in names)
    if not weights:
        for card in found:
            locate(card)
    return found


def check_weights(names: Sequence[str], weights: Sequence[str]) -> None:
    """Refuse --weights that are not there, or are files for several tokenizers."""
    for place in weights:
        if place != "synthetic" and not files.exists(place):
            raise CardError(
                f"--weights {place}: no such file, or none that may be read; expected a checkpoint or synthetic"
            )
    if weights and list(weights) != ["synthetic"] and (len(names) > 1 or names == ["all"]):
        raise CardError("--weights FILE belongs to one tokenizer; name just one with --tokenizer or --diffusers")


def _once(named: Iterable[tuple[str, Card]]) -> list[Card]:
    """Take each card once, however often it is named.

    Raises:
        CardError: if two different ones have one name.
    """
    first: dict[str, tuple[str, Card]] = {}
    for place, card in named:
        before, same = first.setdefault(card.name, (place, card))
        if same != card:
            raise _clash(before, place, card.name)
    return [card for _, card in first.values()]


def _clash(one: str, other: str, name: str) -> CardError:
    """Say of two that results would know them by one name."""
    return CardError(f"{one} and {other} are both called {name}; run them one at a time, or rename one")


def _fitting(chosen: list[TokenizerCard], task_cards: list[TaskCard], *, speaks: bool) -> list[TokenizerCard]:
    """Leave out of `all` what can't take these tasks' pictures, and say so."""
    fitting = []
    for card in chosen:
        try:
            check_sizes([card], task_cards)
            fitting.append(card)
        except CardError as error:
            if speaks:
                complaints.print(f"vtbench: passed over: {one_line(error)}")
    return fitting


def check_sizes(chosen: list[TokenizerCard], task_cards: list[TaskCard]) -> None:
    """Refuse a tokenizer of fixed size on a task of another, before anything is computed."""
    for card in chosen:
        for task in task_cards:
            if card.sizes and task.geometry.side not in card.sizes:
                wanted = " or ".join(f"{side}x{side}" for side in card.sizes)
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
            if reason := ocr.lacking(name, card.ocr, card.foundation):
                raise VtbenchError(f"--require {name}: {reason}")


LONG_MERGE = 2.0
"""Seconds after which the progress bar says that it is merging."""


class _Bar:
    """A progress bar with rate and remaining time; silent where the output is not a terminal."""

    def __init__(self, title: str, *, shown: bool) -> None:
        from rich.markup import escape
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not shown,
        )
        self._title = escape(one_line(title))
        self._task = self._progress.add_task(self._title, total=None, rate="")
        self._merge_began: float | None = None

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

    def merge(self, shard: int, shards: int) -> None:
        """Show which shard is merged, where merging takes so long that one would ask."""
        now = time.monotonic()
        self._merge_began = self._merge_began or now
        if now - self._merge_began > LONG_MERGE:
            said = f"{self._title}, merging shards"
            self._progress.update(self._task, description=said, completed=shard, total=shards, rate="")


class _Share:
    """Reports to a team what is done of a run that this process makes by itself."""

    def __init__(self, team: Team, pictures: int) -> None:
        self._team, self._pictures, self._done = team, pictures, 0

    def __enter__(self) -> _Share:
        return self

    def __exit__(self, *error: object) -> None:
        self.update(1, 1)  # whatever became of it, nothing of it is left

    def update(self, done: int, total: int) -> None:
        """Report the pictures that came in since the last call; several protocols count them one after the other."""
        now = self._pictures * done // max(1, total)
        self._team.add(max(0, now - self._done))
        self._done = max(self._done, now)

    def merge(self, shard: int, shards: int) -> None:
        """Say nothing: small runs are merged at once."""


_Shown = Callable[[TokenizerCard, TaskCard], "_Bar | _Share"]


def print_runs(runs: Sequence[Run]) -> None:
    """Print a table a task and protocol, what was not scored, and what became of the pictures."""
    from vtbench import leaderboard

    codes = catalogue.of_measure("codes")
    for (task, protocol), standings in leaderboard.tables(runs).items():
        group = [standing.run for standing in standings]
        names = [name for name in leaderboard.measured(group) if name not in codes[1:]]
        floors = [name for name in names if any((s := one.scores.get(name)) and s.floor is not None for one in group)]
        rows = []
        for one, _, why, _ in standings:
            cells = [leaderboard.shown(one.scores.get(name), name) for name in names]
            cells += [leaderboard.shown_floor(one.scores.get(name), name) for name in floors]
            label = leaderboard.shown_name(one)
            of_one = why not in (None, UNRANKED)  # what is said of all stands under the table
            rows.append([f"{label} ({why})" if of_one else label, *cells, leaderboard.behind(one)])
        heads = [f"{name} {catalogue.find_metric(name).arrow}" for name in names]
        table(
            ["tokenizer", *heads, *(f"{name} floor" for name in floors), "scored"],
            rows,
            title=f"\n{task}, protocol {protocol}",
        )
        if any(one.why == UNRANKED for one in standings):
            console.print(UNRANKED)
        for one in group:
            _print_curve(one)
        for reason in leaderboard.missing(group):
            console.print(f"not scored: {one_line(reason)}", soft_wrap=True)
        for line in leaderboard.pictures(group):
            console.print(one_line(line), soft_wrap=True)


def _print_curve(run: Run) -> None:
    """Print what a run says of each depth or scale, a row a step."""
    from vtbench import leaderboard
    from vtbench.types import Key

    known = {Key.parse(key): score for key, score in run.scores.items() if score.value is not None}
    names = [name for name in catalogue.of_measure("curve") if Key(name) in known]
    steps = dict.fromkeys(key.level for key in known if key.level and key.metric in names)
    if steps:
        rows = [[step, *(leaderboard.shown(known.get(Key(name, step)), name) for name in names)] for step in steps]
        heads = [f"{name.removeprefix('curve_')} {catalogue.find_metric(name).arrow}" for name in names]
        table(["coded", *heads], rows, title=f"\n{leaderboard.shown_name(run)} on {run.task}, from the first codes")
