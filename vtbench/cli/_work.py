"""Performing a command: its runs found, made, alone or with other processes, and shown."""

from __future__ import annotations

import shlex
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from vtbench import catalogue, files, finished, folders, kept, protocols
from vtbench.cards import TaskCard, TokenizerCard
from vtbench.cli._chosen import Chosen, Command, check_required, check_sizes, choose, recorded, step_of, weights_of
from vtbench.cli._terminal import complaints, console, one_line, table
from vtbench.errors import OF_ONE, ResultError, VtbenchError
from vtbench.results import CANONICAL, UNRANKED
from vtbench.settings import Settings

if TYPE_CHECKING:
    from vtbench.results import Run
    from vtbench.task import Task
    from vtbench.team import Team
    from vtbench.tokenizer import Tokenizer


INTERRUPTED = 130
"""The exit code of a command that Ctrl-C ended, as shells have it."""


def perform(command: Command, how: Settings, keep: kept.Wish | None = None) -> int:
    """Run tokenizers through tasks, print their tables and write their summaries.

    Args:
        command: what is asked for.
        how: where the runs are made, and by whom; the rest of it the command says.
        keep: which pictures are kept beside the per-image tables.

    Returns:
        The exit code: 0, 2 where a tokenizer or a task of it was refused, 3 where one ended by an exception.

    Raises:
        VtbenchError: if the user can mend something.
    """
    team = how.team
    files.recall_hashes(how.work / folders.HASHES)
    chosen = choose(command, speaks=how.speaks)
    check_sizes(chosen.tokenizers, chosen.tasks)
    files.check_writable(how.summaries)
    files.check_writable(how.work)
    required = tuple(one.strip() for one in command.require.split(",") if one.strip())
    check_required(required, chosen.tasks)
    step = command.step
    if step is None and command.weights:
        step = step_of(command.weights[0])
        step = step_of(command.name or "") if step is None else step

    how = replace(
        how,
        batch_size=_count(command.batch_size),
        limit=command.limit,
        label=command.name,
        step=step,
        require=required,
    )
    if team is not None:
        team.agree(
            "what they are to run",
            [[card.name for card in chosen.tokenizers], [card.name for card in chosen.tasks], chosen.rules],
        )
    work = _Work(command, how, keep, chosen)
    try:
        work.do()
    except KeyboardInterrupt:
        if how.speaks:
            complaints.print(f"vtbench: interrupted; finished shards are in {how.work}: the same command resumes there")
        raise typer.Exit(INTERRUPTED) from None
    finally:
        if how.speaks:
            print_runs(work.came.done)
    if work.came.broken:
        if how.speaks:
            complaints.print(f"vtbench: ended by an exception, see above: {', '.join(work.came.broken)}")
        return 3
    if work.came.refused:
        if how.speaks:
            complaints.print(f"vtbench: without a result, see above: {', '.join(work.came.refused)}")
        return 2
    if how.speaks and work.came.done:
        elsewhere = "" if how.out == Path("results") else f" --results {shlex.quote(str(how.out))}"
        console.print(
            f"\nSummaries are in {how.out}, per-image tables in {how.work}; "
            f"`vtbench leaderboard{elsewhere}` makes the tables.",
            soft_wrap=True,
        )
    return 0


SMALL = 128
"""Pictures a process from which on a task is large: eight shards, of which the last may leave others idle."""


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

    def __init__(self, command: Command, how: Settings, keep: kept.Wish | None, chosen: Chosen) -> None:
        self._command, self._how, self._keep, self._chosen = command, how, keep, chosen
        self._asked = _Asked(command, how, keep, chosen)
        ended = self._asked.ended()
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
        if self._how.team is not None and self._how.team.alike:
            self._deal(self._how.team)
        for card in self._chosen.tokenizers:
            if tasks := self._left[card.name]:
                self._make(card, tasks, self._how, self._bar)

    def _deal(self, team: Team) -> None:
        """Give each process whole runs of small tasks, whose shards are too few to keep all of them busy.

        Tokenizers that are no full round more are left to all processes together.
        """
        sizes = {name: _pictures(pairs, self._command.limit) for name, pairs in self._opened.items()}
        small = {name for name, pictures in sizes.items() if pictures < SMALL * team.world}
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
        _check_alike(team, self._command.device)
        in_all = sum(sizes[task.name] for _, own in pieces for task in own)
        how = replace(self._how, team=None)
        with (
            _Bar(f"{len(pieces)} tokenizers", shown=team.rank == 0) as bar,
            team.counting(lambda done: bar.update(done, in_all)),
        ):
            for number in team.deal(len(pieces)):
                card, own = pieces[number]
                turn = team.rank % len(own)  # each begins with another task, so no two compute the same originals
                self._make(card, own[turn:] + own[:turn], how, lambda _, task: _Share(team, sizes[task.name]))
            found = team.gather(self.came)
        self.came = team.announce(lambda: _together(found or []))

    def _make(self, card: TokenizerCard, tasks: Sequence[TaskCard], how: Settings, shown: _Shown) -> None:
        """Make the runs of a tokenizer; what is wrong with it on one task keeps nobody from the others."""
        from vtbench import load_tokenizer

        command = self._command
        loaded: Tokenizer | None = None
        with self._apart(card.name, how):
            loaded = load_tokenizer(
                card,
                weights=weights_of(card, self._chosen, command.weights),
                device=command.device,
                precision=command.precision.value,
                compiled=command.compile,
            )
            if how.team is not None:
                how.team.meet()  # where one process can't load it, none goes on to its tasks
        for task in tasks if loaded is not None else ():
            with self._apart(f"{card.name} on {task.name}", how), shown(card, task) as progress:
                its = replace(how, command=_of_one(command, self._chosen, card, task), merging=progress.merge)
                runs = self._evaluated(loaded, self._opened[task.name], its, progress)
                self.came.done += runs
                if how.speaks:
                    self._asked.remember(card, task, runs)

    def _evaluated(
        self, tokenizer: Tokenizer, pairs: Sequence[tuple[Task, str]], how: Settings, shown: _Bar | _Share
    ) -> list[Run]:
        """Evaluate on one task, under all of its protocols, and keep the pictures that are wanted."""
        from vtbench.engine import evaluate_together

        runs = evaluate_together(tokenizer, pairs, how, shown.update)
        for (task, _), ended in zip(pairs, runs, strict=True):
            if self._keep and how.speaks and ended is not None:
                folder = how.work / ended.task / ended.name
                kept.keep(tokenizer, task, ended, folder, self._keep, wait=how.wait, anew=how.overwrite)
        return [one for one in runs if one is not None]

    @contextmanager
    def _apart(self, name: str, how: Settings) -> Iterator[None]:
        """Keep what is wrong with one tokenizer, or with it on one task, from the others of the command."""
        try:
            with how.team.section(name) if how.team else nullcontext():
                yield
        except OF_ONE as error:
            if self._alone:
                raise
            self.came.refused.append(name)
            if how.speaks:
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
        return _Bar(_title(card, self._opened[task.name]), shown=self._how.speaks)


def _check_alike(team: Team, wanted: str) -> None:
    """Refuse processes on devices of several kinds: who is given a tokenizer would decide its numbers.

    Raises:
        VtbenchError: naming a process whose device is another.
    """
    import torch

    from vtbench import device as devices

    team.agree("its kind of device", devices.model(torch.device(devices.pick(wanted))))


def _together(parts: Sequence[object]) -> _Came:
    """Put together what came of the runs of each process."""
    came = _Came([], [], [])
    for part in parts:
        assert isinstance(part, _Came)
        came.done += part.done
        came.refused += part.refused
        came.broken += part.broken
    return came


def is_finished(command: Command, how: Settings, keep: kept.Wish | None) -> bool:
    """Tell, without torch, whether all that a command asks for is there."""
    files.recall_hashes(how.work / folders.HASHES)
    return None not in _Asked(command, how, keep, choose(command, speaks=False)).ended().values()


class _Asked:
    """Knows what each run of a command was asked for when the command began."""

    def __init__(self, command: Command, how: Settings, keep: kept.Wish | None, chosen: Chosen) -> None:
        self._command, self._how, self._keep, self._chosen = command, how, keep, chosen
        # A team computes together or not at all; what is overwritten or only merged is not asked for again.
        self._may_find = how.team is None and how.may_compute and not how.overwrite
        self._surroundings: dict[tuple[str, str], finished.Surroundings | None] = {}
        self._begun: dict[tuple[str, str, str], str | None] = {}

    def ended(self) -> dict[tuple[str, str], list[Run] | None]:
        """Give the finished runs of each tokenizer on each task."""
        chosen = self._chosen
        return {(card.name, task.name): self._found(card, task) for card in chosen.tokenizers for task in chosen.tasks}

    def _found(self, card: TokenizerCard, task: TaskCard) -> list[Run] | None:
        """Give the runs of a tokenizer on a task, where all are finished and nothing that is asked lacks."""
        how, found = self._how, []
        for rule in self._rules_of(task):
            if (task.name, rule) not in self._surroundings:
                self._surroundings[task.name, rule] = self._around(card, task, rule)
            asked = self._asked(card, task, rule, self._surroundings[task.name, rule])
            self._begun[card.name, task.name, rule] = asked
            run = finished.find(asked, card, task, how.summaries, how.work) if asked and self._may_find else None
            if run and (self._keep is None or kept.are_kept(run, how.work / run.task / run.name, self._keep)):
                found.append(run)
        return found if len(found) == len(self._rules_of(task)) else None

    def remember(self, card: TokenizerCard, task: TaskCard, runs: Sequence[Run]) -> None:
        """Leave beside finished runs what they were asked for; where that can't be written, they stand all the same."""
        if not self._how.may_compute:
            return
        by_rule = {run.protocol: run for run in runs}
        try:
            for rule in self._rules_of(task):
                if (run := by_rule.get(rule)) is not None:
                    now = self._asked(card, task, rule, self._around(card, task, rule))
                    finished.remember(self._begun[card.name, task.name, rule], now, run, self._how.work)
            files.keep_hashes(self._how.work / folders.HASHES)
        except (ResultError, OSError) as error:
            said = f"the run is whole; only finding it finished takes longer: {one_line(error)}"
            complaints.print(f"vtbench: {card.name} on {task.name}: {said}")

    def _rules_of(self, task: TaskCard) -> Sequence[str]:
        return self._chosen.rules or [protocols.find_protocol(task.protocol).name]

    def _around(self, card: TokenizerCard, task: TaskCard, rule: str) -> finished.Surroundings | None:
        said = self._said(card, task, rule)
        return finished.surroundings(said, task, protocols.find_protocol(rule), self._how.work)

    def _asked(
        self, card: TokenizerCard, task: TaskCard, rule: str, around: finished.Surroundings | None
    ) -> str | None:
        return finished.asked(self._said(card, task, rule), card, around)

    def _said(self, card: TokenizerCard, task: TaskCard, rule: str) -> dict[str, Any]:
        return _of_one(self._command, self._chosen, card, task) | {"protocol": [rule]}


def _of_one(command: Command, chosen: Chosen, card: TokenizerCard, task: TaskCard) -> dict[str, Any]:
    """Record a command as if it had named this tokenizer and this task alone."""
    return recorded(command, {"task": [task.name], "tokenizer": [], "diffusers": [], **chosen.named[card.name]})


def _count(said: str) -> int | Literal["auto"]:
    """Read --batch-size."""
    if said == "auto":
        return "auto"
    if not (said.isdecimal() and int(said) > 0):
        raise VtbenchError(f"--batch-size {said}: expected a whole number from 1 up, or auto")
    return int(said)


def _opened(card: TaskCard, rules: Sequence[str], command: Command) -> list[tuple[Task, str]]:
    """Open one task for some protocols, once for all that take its pictures as they are."""
    from vtbench import load_task

    native = [protocols.find_protocol(rule).published for rule in rules]
    tasks = {
        one: load_task(card, data=command.data, label=command.data_name, follow_links=command.follow_links, native=one)
        for one in dict.fromkeys(native)
    }
    return [(tasks[one], rule) for one, rule in zip(native, rules, strict=True)]


def _pictures(pairs: Sequence[tuple[Task, str]], limit: int | None) -> int:
    """Count the pictures of a task that was opened."""
    count = max(len(task) for task, _ in pairs)
    return count if limit is None else min(count, limit)


def _title(card: TokenizerCard, pairs: Sequence[tuple[Task, str]]) -> str:
    """Name what a progress bar is of."""
    rules = [rule for _, rule in pairs]
    return f"{card.name} on {pairs[0][0].card.name}" + (f" under {', '.join(rules)}" if rules != [CANONICAL] else "")


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
        from vtbench.team import Added

        self._added, self._pictures = Added(team), pictures

    def __enter__(self) -> _Share:
        return self

    def __exit__(self, *error: object) -> None:
        self.update(1, 1)  # whatever became of it, nothing of it is left

    def update(self, done: int, total: int) -> None:
        """Report how far it is; several protocols count the pictures one after the other."""
        self._added.set(self._pictures * done // max(1, total), self._pictures)

    def merge(self, shard: int, shards: int) -> None:
        """Say nothing: small runs are merged at once."""


_Shown = Callable[[TokenizerCard, TaskCard], "_Bar | _Share"]


def print_runs(runs: Sequence[Run]) -> None:
    """Print a table a task and protocol, what was not scored, and what became of the pictures."""
    from vtbench import leaderboard

    hidden = set(catalogue.of_measure("codes")) - {"bpp", "latent_values"}  # the rate alone
    for (task, protocol), standings in leaderboard.tables(runs).items():
        group = [standing.run for standing in standings]
        names = [name for name in leaderboard.measured(group) if name not in hidden]
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
            turns=True,
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
