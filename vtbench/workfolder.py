"""The work folder of a run: its shards while it runs, its table and summary after, and who is at work there."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from vtbench import files, finished, passes, results, shards, summary
from vtbench.errors import ResultError
from vtbench.finished import differences
from vtbench.plan import Plan
from vtbench.results import Run
from vtbench.shards import Job, Progress, Want
from vtbench.summary import Shard

log = logging.getLogger("vtbench")

ATTEMPTS = 5
"""How often a process computes shards of its own that another one deleted."""

OVERWRITTEN = "overwritten-by"
"""Which job of several processes deleted what was in a folder: --overwrite holds once, whatever restarts the job."""


class WorkFolder:
    """The files of one run: its shards while it runs, its table and summary after."""

    def __init__(
        self,
        plan: Plan,
        out: Path,
        work: Path,
        *,
        wait: float,
        overwrite: bool,
        may_compute: bool,
        command: Mapping[str, Any] | None,
        job: str | None,
        merging: Progress | None = None,
    ) -> None:
        """Find the places; a folder for summaries that can't be written is told now.

        Args:
            plan: what is computed.
            out: folder of the summaries.
            work: folder of all work folders.
            wait: seconds to wait for another process.
            overwrite: compute again what is there, and replace what would be protected.
            may_compute: whether pictures may be computed.
            command: what `vtbench run` was asked for, for `vtbench merge`.
            job: of processes that make the run together; None where there is no team.
            merging: told which shard the merge reads, of how many; it reads all of them once for each thing that it
                makes of them.
        """
        self.plan = plan
        self.summary = out / plan.task.card.name / f"{plan.name}.json"
        self.folder = work / plan.task.card.name / plan.name
        self.shards = finished.shards_of(self.folder, plan.digest)
        self.wait = wait
        self.overwrite = overwrite
        self.may_compute = may_compute
        self.mine: Collection[int] = ()
        """The shards that this process computes."""
        self._command = command
        self._job = job
        self._merging = merging
        files.check_writable(self.summary.parent)

    def begin(self, rank: int, world: int, stack: ExitStack) -> Run | None:
        """Make the folder ready; give the finished run, where it is there already."""
        plan = self.plan
        self.mine = {index for block in range(rank, plan.blocks, world) for index in plan.shards_of(block)}
        self._protect()
        if not self.may_compute:
            self._check_record()
        self._clean(parts=world > 1 or not self.may_compute)
        self._hold(stack)
        if self.overwrite and not self._is_overwritten():
            for index in self.mine:
                self._path(index).unlink(missing_ok=True)
            self._note_overwritten()
        elif (done := self._finished()) is not None:
            return self._publish(done)
        else:
            self._tell_changes()
        if self.may_compute:
            self._record()
        return None

    def join(self, mine: Collection[int], stack: ExitStack, *, alone: bool) -> None:
        """Take the shards that are this process's in a team; one that did not begin the folder holds it by itself."""
        self.mine = mine
        if alone:
            self._hold(stack)

    def end(self, workers: int | None, progress: Progress | None) -> Run | None:
        """Merge, where all shards are there; else say how many are not.

        Raises:
            ResultError: if some are not there and none may be computed.
        """
        missing = [index for index in range(self.plan.shards) if not self._path(index).is_file()]
        if not missing:
            return self.merge(workers, progress)
        said = (
            f"{self.plan.name} on {self.plan.task.card.name}: {len(missing)} of {self.plan.shards} shards are not there"
        )
        beside = finished.beside(self.folder, self.plan.digest, self.plan.identity)
        if not self.may_compute:
            raise ResultError(f"{said}; start what computes them again{beside}")
        log.warning(
            "%s yet; the process that commits the last one merges. "
            "If none is running any more, start the same command again%s",
            said,
            beside,
        )
        return None

    def lacks(self) -> set[int]:
        """Say which shards of this process's are not there."""
        return {index for index in self.mine if not self._path(index).is_file()}

    def claim(self, block: range, claims: ExitStack, *, polite: bool) -> list[int]:
        """Say which shards of a block are this process's to compute now, and keep other processes from the block.

        Its first shard names the lock: one a shard would be more open files than a process may have. Where others cut
        other blocks of the same shards, both may compute some; each is written whole, and they are equal.
        """
        if not polite:
            return self._lacked_of(block)
        if not self._lacked_of(block):
            return []
        with ExitStack() as claim:
            free = claim.enter_context(files.try_lock(self._path(block[0]).with_suffix(".lock")))
            found = self._lacked_of(block) if free else []  # another process may have committed some meanwhile
            if found:
                claims.push(claim.pop_all())  # held until they are committed; others are let go at once
        return found

    def _lacked_of(self, block: range) -> list[int]:
        return [index for index in block if index in self.mine and not self._path(index).is_file()]

    def commit(self, index: int, table: pa.Table) -> None:
        """Write a shard."""
        files.write_atomic(self._path(index), _to_bytes(table))

    def _hold(self, stack: ExitStack) -> None:
        """Keep others from cleaning the folder while this process is at work in it."""
        purpose = f"cleaning {self.folder}"
        stack.enter_context(files.lock(self.folder / "in-use", shared=True, wait=self.wait, purpose=purpose))

    def _is_overwritten(self) -> bool:
        """Tell whether this job, before it was restarted with other processes, did already what --overwrite means."""
        with contextlib.suppress(OSError):
            return self._job is not None and (self.folder / OVERWRITTEN).read_text() == self._job
        return False

    def _note_overwritten(self) -> None:
        if self._job is not None:
            (self.folder / results.RUN).unlink(missing_ok=True)  # what stands there from now on is this job's
            files.write_atomic(self.folder / OVERWRITTEN, self._job.encode())

    def _record(self) -> None:
        """Leave what `vtbench merge` needs to know, and beside the shards what they are of."""
        said = {
            "plan": self.plan.digest,
            "shards": self.plan.shards,
            "protocol": self.plan.protocol.name,
            "command": self._command,
            "identity": self.plan.identity,
        }
        content = json.dumps(said, indent=1, sort_keys=True, default=str).encode()
        for place in (self.shards, self.folder):
            files.write_atomic(place / finished.BEGUN, content)

    def _check_record(self) -> None:
        """Refuse to merge, by a plan that gives other numbers, what was computed by another.

        Raises:
            ResultError: saying what differs.
        """
        before = finished.identity_of(self.folder)
        if before is None:
            raise ResultError(f"{self.folder}: no run was begun there, so there is nothing to merge")
        if found := differences(before, self.plan.identity):
            raise ResultError(
                f"{self.folder}: its shards were computed otherwise than would be here: {', '.join(found)}; "
                "merge on a machine like the one that computed them"
            )

    def _protect(self) -> None:
        """Keep a full result from being replaced by a trial, and one on other pictures from sharing the name."""
        if self.overwrite:
            return
        plan = self.plan
        for path in (self.summary, self.folder / results.RUN):
            if not path.is_file():
                continue
            try:
                there = results.read_run(path)
            except ResultError:  # of another version, or damaged: nothing that is worth keeping
                continue
            if "@" in plan.task.card.name and there.digests.get("data") != plan.digests["data"]:
                other, own = (str(digests.get("data"))[:12] for digests in (there.digests, plan.digests))
                raise ResultError(
                    f"{path} is on other pictures that go by the same name (data {other}, these are {own}); "
                    "name these with --data-name, or give --overwrite"
                )
            if plan.trial and not there.trial:
                raise ResultError(
                    f"{path} is a full run, and this one would replace it by {plan.trial}; "
                    "choose another --out and --work, or give --overwrite"
                )

    def _clean(self, *, parts: bool) -> None:
        """Remove what earlier starts left, as long as no process is at work here: halves of files, spent shards.

        Of a run that is computed again in parts, one after another, this plan's shards stay: other parts' are new.
        Those of another plan give way to a whole run alone: beside a trial, or a part of a run that is not finished,
        they may still go on.
        """

        def spent() -> Mapping[Path, str]:
            ended = self._finished() is not None
            found = {self.shards: ""} if ended and not (parts and self.overwrite) else {}
            if not self.plan.trial and (ended or not parts):
                found |= finished.others(self.folder, self.plan.digest, self.plan.identity)
            return found

        finished.clean(self.folder, spent)

    def _finished(self) -> Run | None:
        """The run of exactly this plan, where an earlier start completed it and its table is whole."""
        try:
            run, _ = results.find_run(self.folder, self.folder)
        except ResultError:
            return None
        return run if run.digests.get("plan") == self.plan.digest else None

    def _tell_changes(self) -> None:
        """Say what changed since the run that is finished here."""
        with contextlib.suppress(ResultError):
            old = results.read_run(self.folder / results.RUN)
            before = finished.identity_of(self.folder, str(old.digests.get("plan")))
            if before and (found := differences(before, self.plan.identity)):
                log.warning(
                    "%s on %s: computed anew, for these differ (before, now): %s", old.name, old.task, ", ".join(found)
                )

    def _publish(self, run: Run) -> Run:
        """Put a finished run's summary where it belongs, under the label and step that it goes by now."""
        run = run.model_copy(update={"label": self.plan.label, "step": self.plan.step})
        summary.check(run)
        results.write(run, self.summary)
        return run

    def _path(self, index: int) -> Path:
        return self.shards / f"{index:05d}.parquet"

    def _shard(self, index: int) -> Shard | None:
        """Read a shard whole and keep of it what is not raw; None where it is damaged, gone, or not this plan's."""
        try:
            table = parquet.read_table(self._path(index))
        except (OSError, pa.ArrowException):
            return None
        said = (table.schema.metadata or {}).get(b"plan", b"").decode()
        if said != self.plan.digest or table.column("index").to_pylist() != list(self.plan.indices(index)):
            return None
        return Shard.of(table, partial(self._column, index))

    def _column(self, index: int, name: str) -> pa.ChunkedArray:
        """Read one column of a shard while it is merged."""
        if self._merging is not None:
            self._merging(index + 1, self.plan.shards)
        return column(self._path(index), name)

    def merge(self, workers: int | None, progress: Progress | None = None) -> Run:
        """Read all shards, and write table and summary so that nobody ever sees those of two runs together.

        Raises:
            ResultError: if a shard can't be read though it was computed again.
        """
        parts = []
        for index in range(self.plan.shards):
            if self._merging is not None:
                self._merging(index + 1, self.plan.shards)
            part = self._shard(index)
            if part is None:
                if not self.may_compute:
                    raise ResultError(f"{self._path(index)}: damaged; start what computes it again")
                self._path(index).unlink(missing_ok=True)
                log.warning("%s: shard %d was damaged or deleted, and is computed again", self.plan.name, index)
                self.mine = [index]
                compute_missing([self], workers, progress)
                part = self._shard(index)
            if part is None:
                raise ResultError(f"{self._path(index)}: damaged as soon as it was written; who writes to it?")
            parts.append(part)
        with files.lock(self.folder / "owner", wait=self.wait, purpose=f"writing {self.folder}"):
            self._protect()
            if not self.overwrite and (done := self._finished()) is not None:  # another process merged meanwhile
                return self._publish(done)  # its summary may lie elsewhere, or not be there yet
            run, images = summary.finish(self.plan, parts)
            content = _to_bytes(images)
            run = run.model_copy(update={"digests": {**run.digests, "table": results.table_digest(content)}})
            files.write_atomic(self.folder / results.IMAGES, content)
            results.write(run, self.folder / results.RUN)
            summary.check(run)
            results.write(run, self.summary)
        return run


def column(path: Path, name: str) -> pa.ChunkedArray:
    """Read one column of a shard.

    Raises:
        ResultError: if it vanished or was damaged meanwhile.
    """
    try:
        return parquet.read_table(path, columns=[name]).column(name)
    except (OSError, pa.ArrowException) as error:
        raise ResultError(f"{path}: can't be read any more ({error}); start the same command again") from error


def _to_bytes(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def alike(folders: Sequence[WorkFolder]) -> list[list[WorkFolder]]:
    """Put those together whose batches are cut alike."""
    sizes = dict.fromkeys(folder.plan.batch_size for folder in folders)
    return [[folder for folder in folders if folder.plan.batch_size == size] for size in sizes]


def pictures_of(plan: Plan, chosen: range) -> range:
    """Say which pictures some shards in a row hold."""
    return range(plan.indices(chosen[0]).start, plan.indices(chosen[-1]).stop)


def compute_missing(folders: Sequence[WorkFolder], workers: int | None, progress: Progress | None) -> None:
    """Compute and commit the shards of this process that are not there.

    Raises:
        ResultError: if they vanish again and again.
    """
    for _ in range(ATTEMPTS):  # another process may delete some meanwhile, to compute them again
        for polite in (True, False):
            _compute_once(folders, workers, progress, polite=polite)
        if not any(folder.lacks() for folder in folders):
            return
    raise ResultError(f"{folders[0].shards}: shards vanish while they are computed; who deletes them?")


def _compute_once(
    folders: Sequence[WorkFolder], workers: int | None, progress: Progress | None, *, polite: bool
) -> None:
    """Compute what is not there.

    Two processes that were given the same shards take turns: one that another process has begun is left to it by the
    polite, and computed by the others.
    """
    first = folders[0].plan
    lacked = set().union(*(folder.lacks() for folder in folders))
    in_all = sum(len(first.indices(index)) for index in set().union(*(folder.mine for folder in folders)))
    done = in_all - sum(len(first.indices(index)) for index in lacked)
    counted = Counted(progress, done, in_all)
    if not lacked:
        return
    passes.check_bottleneck(first)
    passes.warm_up(first)
    with ExitStack() as all_claims:

        def jobs() -> Iterator[Job]:
            for block in sorted({index // first.block for index in lacked}):
                claims = ExitStack()
                all_claims.callback(claims.close)
                wants = [
                    Want(folder.plan, chosen, folder.commit)
                    for folder in folders
                    if (chosen := folder.claim(first.shards_of(block), claims, polite=polite))
                ]
                if wants:
                    yield Job(pictures_of(first, first.shards_of(block)), wants, claims.close)

        shards.compute_all(jobs(), counted.add, workers)


class Counted:
    """Counts pictures for a progress bar."""

    def __init__(self, progress: Progress | None, done: int, in_all: int) -> None:
        self._progress, self._done, self._in_all = progress, done, in_all
        self.add(0)

    def add(self, pictures: int) -> None:
        """Count pictures that are done; those that a batch takes along once more count once."""
        self._done = min(self._done + pictures, self._in_all)
        if self._progress:
            self._progress(self._done, self._in_all)
