"""evaluate(): one tokenizer on one task, in shards that survive a kill.

A shard is the unit of resume: samples are cut by index into shards of a fixed size, whatever the batch size or the
number of processes. A computed shard is committed atomically; a later start skips it; the merge reads all of them in
order. Processes share the work by blocks, whole shards that whole batches fill. So one process, several, or a killed
and resumed run give the same table.

A process by itself waits for nobody's work. It computes the shards that are its own and not there, and ends; the one
that then finds all of them merges. In a `Team` rank 0 says what is not there, each computes its part, and rank 0 merges
when all have told it that theirs is committed. Shards are named by the digest of the plan, so nothing that was computed
otherwise is mixed in.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, TypeVar, overload

import pyarrow as pa

from vtbench import device as devices
from vtbench import files, passes, provenance, shards, summary
from vtbench.errors import DataError, VtbenchError
from vtbench.finished import differences
from vtbench.folders import BATCHES
from vtbench.plan import Plan
from vtbench.plan import make as make_plan
from vtbench.protocols import find_protocol
from vtbench.published import fed
from vtbench.results import Run
from vtbench.settings import WAIT, Progress, Settings
from vtbench.shards import Job, Want
from vtbench.summary import Shard
from vtbench.task import Task, load_task
from vtbench.team import Added, Team
from vtbench.tokenizer import Tokenizer, load_tokenizer
from vtbench.workfolder import Counted, WorkFolder, alike, compute_missing

log = logging.getLogger("vtbench")

T = TypeVar("T")


@overload
def evaluate(
    tokenizer: Tokenizer | str,
    task: Task | str,
    *,
    out: str | Path | None = ...,
    work: str | Path = ...,
    batch_size: int | Literal["auto"] = ...,
    limit: int | None = ...,
    protocol: str | None = ...,
    label: str | None = ...,
    step: float | None = ...,
    require: Sequence[str] = ...,
    overwrite: bool = ...,
    wait: float = ...,
    workers: int | None = ...,
    progress: Progress | None = ...,
) -> Run: ...


@overload
def evaluate(
    tokenizer: Tokenizer | str,
    task: Task | str,
    *,
    out: str | Path | None = ...,
    work: str | Path = ...,
    batch_size: int | Literal["auto"] = ...,
    limit: int | None = ...,
    protocol: str | None = ...,
    label: str | None = ...,
    step: float | None = ...,
    require: Sequence[str] = ...,
    overwrite: bool = ...,
    rank: int,
    world: int,
    wait: float = ...,
    workers: int | None = ...,
    progress: Progress | None = ...,
) -> Run | None: ...


@devices.plain()
def evaluate(
    tokenizer: Tokenizer | str,
    task: Task | str,
    *,
    out: str | Path | None = "results",
    work: str | Path = ".vtbench",
    batch_size: int | Literal["auto"] = 8,
    limit: int | None = None,
    protocol: str | None = None,
    label: str | None = None,
    step: float | None = None,
    require: Sequence[str] = (),
    overwrite: bool = False,
    rank: int = 0,
    world: int = 1,
    wait: float = WAIT,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Run | None:
    """Run one tokenizer through one task and write its summary and per-image table.

    Args:
        tokenizer: what is measured, or the name of its card.
        task: the pictures and metrics, or the name of its card.
        out: folder of the summaries; `<out>/<task>/<name>.json` is written. None keeps everything in memory: no file
            at all is written.
        work: folder of the shards, and of `run.json` and `images.parquet` after; a killed run resumes from here.
        batch_size: pictures a forward pass; it moves no number beyond the rounding of floats, but of a tokenizer that
            draws: what is drawn for a picture depends on its place in the batch. "auto" takes the fastest that fits,
            found by trial once and kept in `work` (without `out` by each call); it is what the run records.
        limit: only the first pictures; a run that leaves any out is shown but never ranked.
        protocol: how pictures become numbers; the task's own where left out.
        label: what the run's name says of weights that are not the card's own; the first 8 hex digits of their sha256
            where left out. (The `label` of `load_task` names pictures.)
        step: the training step of the weights.
        require: metrics whose absence is an error instead of an empty column.
        overwrite: compute again what is already there, and replace what would be protected.
        rank: which of `world` processes this one is, from 0; it computes every world-th shard.
        world: how many processes share the run's shards in one work folder, each called with a rank of its own.
        wait: seconds to wait for another process that is just writing a run of this name; ten minutes by default.
        workers: threads that read pictures; one a core, eight at most, where left out.
        progress: told how far it is.

    Returns:
        The summary; None in a process that ended before all shards of the others were there.

    Raises:
        DataError: if the tokenizer can't take the task's size, every picture failed, or a published protocol is asked
            of a task whose pictures were not loaded as they are.
        ChangedError: if pictures changed or vanished while they were read.
        ResultError: if a folder can't be written, a full run would be replaced by a part of one, or a run of this name
            is on other pictures.
        VtbenchError: if an argument is none of its kind, or a required metric can't be scored.
    """
    how = Settings(
        out=Path(out) if isinstance(out, str) else out,
        work=Path(work) if isinstance(work, str) else work,
        batch_size=batch_size,
        limit=limit,
        label=label,
        step=step,
        require=require,
        overwrite=overwrite,
        rank=rank,
        world=world,
        wait=wait,
        workers=workers,
    )
    how.check()  # before anything is loaded
    return evaluate_together(_tokenizer_of(tokenizer), [(_task_of(task, protocol), protocol)], how, progress)[0]


@devices.plain()
def evaluate_together(
    tokenizer: Tokenizer, pairs: Sequence[tuple[Task, str | None]], how: Settings, progress: Progress | None = None
) -> list[Run | None]:
    """Run one tokenizer through one task under several protocols: what two of them feed alike is encoded once.

    Args:
        tokenizer: what is measured.
        pairs: a task and a protocol each, None for the task's own; the tasks are one, loaded for the canonical
            protocol or (`native=True`) for published ones.
        how: the arguments of `evaluate`.
        progress: told how far it is.

    Returns:
        What `evaluate` gives for each pair; the numbers are those of each pair alone.

    Raises:
        VtbenchError: as `evaluate`; and if the pairs are of several tasks.
    """
    how.check()
    plans = _plans(tokenizer, pairs, how)
    if how.out is None:
        return _in_memory(plans, how, progress)
    folders = [WorkFolder(plan, how) for plan in plans]
    with ExitStack() as stack:
        if how.team is not None:
            return list(_with_team(how.team, folders, progress, stack))
        return _alone(folders, how, progress, stack)


def _tokenizer_of(tokenizer: object) -> Tokenizer:
    """Take a name for what it names; refuse what is neither."""
    if isinstance(tokenizer, str):
        return load_tokenizer(tokenizer)
    if not isinstance(tokenizer, Tokenizer):
        raise VtbenchError(
            f"tokenizer: got a {type(tokenizer).__name__}; expected a name, load_tokenizer(...) or wrap(...)"
        )
    return tokenizer


def _task_of(task: object, protocol: str | None) -> Task:
    """Take a name for what it names; refuse what is neither."""
    if isinstance(task, str):
        return load_task(task, native=protocol is not None and find_protocol(protocol).published)
    if not isinstance(task, Task):
        raise VtbenchError(f"task: got a {type(task).__name__}; expected a name or load_task(...)")
    return task


def _plans(tokenizer: Tokenizer, pairs: Sequence[tuple[Task, str | None]], how: Settings) -> list[Plan]:
    """Make the plan of each pair, after it is known of a live model what it gives and how many pictures it takes.

    Raises:
        VtbenchError: as `evaluate_together`.
    """
    if len({task.card.name for task, _ in pairs}) != 1:
        raise VtbenchError("these pairs are of several tasks; evaluate each task by itself")
    _, world = how.part
    if world > 1 and tokenizer.identity() != tokenizer.identity():
        raise VtbenchError(
            f"{tokenizer.card.name}: this live model can't be hashed whole, so it is another one in every process: it "
            "is no nn.Module, or what it computes with includes a lock, an open file or the like, in an attribute, a "
            "global that its code reads or a hook; take that out, or give world=1"
        )
    if tokenizer.held is not None:
        _settle(tokenizer, *pairs[0])
    batch_size = _batch_size(tokenizer, pairs[0][0], how)
    return [make_plan(tokenizer, task, protocol=protocol, batch_size=batch_size, how=how) for task, protocol in pairs]


def _batch_size(tokenizer: Tokenizer, task: Task, how: Settings) -> int:
    """Find out what "auto" is here: once for all processes and restarts, for it moves the last bits of numbers."""
    if how.batch_size != "auto":
        return how.batch_size
    if task.size is None:
        return 1
    if how.out is None:
        return passes.best_batch(tokenizer, task.size)
    said = [tokenizer.card.name, tokenizer.precision, tokenizer.compiled, devices.model(tokenizer.device), task.size]
    key = hashlib.sha256(json.dumps([*said, provenance.versions()], sort_keys=True).encode()).hexdigest()[:16]
    kept = how.work / BATCHES / f"{key}.json"
    with files.lock(kept.with_suffix(".lock"), wait=how.wait, purpose="finding the best batch size"):
        try:
            known = json.loads(kept.read_bytes())
            if isinstance(known, int) and known > 0:
                return known
        except (OSError, ValueError):
            pass
        found = passes.best_batch(tokenizer, task.size)
        files.write_atomic(kept, json.dumps(found).encode())
    log.info("%s: batches of %d", tokenizer.card.name, found)
    return found


def _settle(tokenizer: Tokenizer, task: Task, protocol: str | None) -> None:
    """Encode the first picture that can be: a live model's codes alone say of what kind they are."""
    rule = find_protocol(protocol or task.card.protocol)
    for index in range(len(task)):
        try:
            with devices.memory():
                image = task.read(index).image
                if rule.published:
                    image = fed(rule, image.permute(1, 2, 0).numpy(), task.card.geometry.side, tokenizer.span)
                tokenizer.encode_input(tokenizer.input_of(image[None]))
            return
        except DataError:  # said of each picture, where it belongs
            continue


# --- plans that take their way together ------------------------------------------------------------------------------


def _in_memory(plans: Sequence[Plan], how: Settings, progress: Progress | None) -> list[Run | None]:
    """Evaluate without a file."""
    tables: list[tuple[Plan, dict[int, pa.Table]]] = [(plan, {}) for plan in plans]
    for group in alike(tables, lambda one: one[0]):
        first = group[0][0]
        passes.prepare(first)

        def jobs(group: Sequence[tuple[Plan, dict[int, pa.Table]]] = group, first: Plan = first) -> Iterator[Job]:
            for block in range(first.blocks):
                wants = [Want(plan, first.shards_of(block), found.__setitem__) for plan, found in group]
                yield Job(first.pictures_of(block), wants, lambda: None)

        shards.compute_all(first, jobs(), Counted(progress, 0, first.count).add, how.workers)
    runs: list[Run | None] = []
    for plan, found in tables:
        run = summary.finish(plan, [Shard.of(found[index]) for index in range(plan.shards)])[0]
        summary.check(run)
        runs.append(run)
    return runs


def _alone(
    folders: Sequence[WorkFolder], how: Settings, progress: Progress | None, stack: ExitStack
) -> list[Run | None]:
    """Compute what is this process's and not there, and merge where that was the last."""
    found = [folder.begin(*how.part, stack) for folder in folders]
    left = [folder for folder, run in zip(folders, found, strict=True) if run is None]
    if how.may_compute:
        for group in alike(left, lambda folder: folder.plan):
            compute_missing(group, progress)
    return _ended(folders, found, lambda folder: folder.end(progress))


def _with_team(team: Team, folders: Sequence[WorkFolder], progress: Progress | None, stack: ExitStack) -> Sequence[Run]:
    """Compute what is not there with all processes of a team; rank 0 says what that is, and merges."""
    plans = team.gather([folder.plan.identity for folder in folders])

    def begin() -> list[Run | list[int]]:
        _check_same(plans or [])
        found = [folder.begin(0, 1, stack) for folder in folders]
        return [run or sorted(folder.lacks()) for folder, run in zip(folders, found, strict=True)]

    said = team.announce(begin)
    lacked = {id(folder): set(one) for folder, one in zip(folders, said, strict=True) if isinstance(one, list)}
    left = [folder for folder in folders if id(folder) in lacked]
    groups = alike(left, lambda folder: folder.plan)
    in_all = waiting = 0
    for group in groups:
        first = group[0].plan
        lacking = set().union(*(lacked[id(folder)] for folder in group))
        blocks = sorted({index // first.block for index in lacking})[team.rank :: team.world]
        own = {index for block in blocks for index in first.shards_of(block)}
        for folder in group:
            folder.join(own & lacked[id(folder)], stack, alone=team.rank > 0)
        in_all += first.count
        waiting += sum(len(first.indices(index)) for index in lacking)

    def told(pictures: int) -> None:
        if progress is not None:
            progress(min(in_all - waiting + pictures, in_all), in_all)

    if left:
        with team.counting(told):
            for group in groups:
                compute_missing(group, Added(team).set)
            team.gather(None)

    return team.announce(lambda: _ended(folders, said, WorkFolder.merge))


def _ended(folders: Sequence[WorkFolder], found: Sequence[object], end: Callable[[WorkFolder], T]) -> list[Run | T]:
    """End each run that was not there before, whatever is wrong with the others.

    Raises:
        VtbenchError: what is wrong with the first that can't be ended.
    """
    runs: list[Run | T] = []
    errors: list[VtbenchError] = []
    for folder, run in zip(folders, found, strict=True):
        try:
            runs.append(run if isinstance(run, Run) else end(folder))
        except VtbenchError as error:
            errors.append(error)
    for other in errors[1:]:
        log.warning("%s", other)
    if errors:
        raise errors[0]
    return runs


def _check_same(plans: Sequence[object]) -> None:
    """Refuse processes whose machines would compute other numbers.

    Raises:
        VtbenchError: naming the ranks, and what differs.
    """
    for rank, own in enumerate(plans):
        for first, other in zip(plans[0], own, strict=True):  # type: ignore[call-overload]
            if found := differences(first, other):
                raise VtbenchError(
                    f"rank {rank} would compute other numbers than rank 0, for these differ: {', '.join(found)}; "
                    "give all processes the same command, versions, files and kind of device"
                )
