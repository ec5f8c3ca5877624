"""Processes that make one run together, over the store of torch.distributed's rendezvous.

The store carries control alone: who lives, how many pictures are done, who has come how far, what rank 0 says. The
shared folder carries the shards. No collective is called: one has a fixed time-out, while these processes wait as long
as any of them gets on; and an exception of one process must not leave the others inside a call that never returns.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pickle
import socket
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from vtbench.errors import OF_ONE, DataError, RefusedError, ToldError, VtbenchError

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from torch.distributed import TCPStore  # type: ignore[attr-defined]
    from torch.distributed.distributed_c10d import Store

T = TypeVar("T")

BEAT = 0.5
"""Seconds between two signs of life; each also brings the pictures that were done since the last one."""

POLL = 0.1
"""Seconds between two questions of a process that waits; at first it asks oftener, for most answers come at once."""

DEAD = 60.0
"""Seconds without a sign of life after which a process counts as dead."""

LEAVE = 5.0
"""Seconds that rank 0, which may serve the store, waits for the others to leave."""

HEARD = 3.0
"""Seconds that another rank gives rank 0 to say its error, before it says it itself."""

LONGEST = 365 * 24 * 3600.0
"""Seconds of patience that a store still can count."""

AGAIN = "committed shards are kept, and the same command goes on from there"


class ElsewhereError(RuntimeError):
    """Another process of the team ended a section by an exception that is a bug."""


class Team:
    """All processes of one run; each enters it, and all call `gather` and `announce` in the same order.

    Several pieces of work, of which one may fail without the others, are sections of their own.
    """

    def __init__(
        self, store: Store, rank: int, world: int, *, wait: float, job: str | None = None, alike: bool = False
    ) -> None:
        """Make a team.

        Args:
            store: the same for all processes; what earlier starts left in it is not read.
            rank: which of them this one is, from 0.
            world: how many they are.
            wait: seconds without any progress of anyone after which the team ends.
            job: names the start of all of them, the same after a restart; None where nothing does.
            alike: whether one of them started the others on its machine, so that none computes other numbers.
        """
        self.rank, self.world, self.job, self.alike = rank, world, job, alike
        self._meeting, self._store, self._wait = store, store, wait
        self._own = uuid.uuid4().hex
        self._welcomed: dict[int, bytes] = {}
        self._section, self._step = "", 0
        self._done, self._lock = 0, threading.Lock()
        self._counter = "pictures"
        self._told: Callable[[int], None] | None = None
        self._over = threading.Event()
        self._beats: dict[int, tuple[int, float]] = {}
        self._worker = threading.get_ident()
        self._place: list[tuple[int, int]] = []
        self._thread = threading.Thread(target=self._beat, name="vtbench-team", daemon=True)
        self._started: dict[int, BaseProcess] = {}
        self._gone: RuntimeError | None = None

    @classmethod
    @contextlib.contextmanager
    def start(cls, world: int, work: Callable[[Team], None], *, wait: float) -> Iterator[Team]:
        """Start the other processes of a team on this machine, and enter it as rank 0; they end with it.

        Args:
            world: how many they are with this one.
            work: what each of the others does with its team, which it has to enter; it is pickled.
            wait: seconds without any progress of anyone after which the team ends; `DEAD` at least.

        Raises:
            VtbenchError: if this build of torch has no store for them, or `wait` is more than a year.
        """
        import multiprocessing

        wait = _patience(wait)
        _check_available()
        store = _local_store(0)
        team, spawn = cls(store, 0, world, wait=wait, alike=True), multiprocessing.get_context("spawn")
        for rank in range(1, world):
            process: BaseProcess = spawn.Process(target=_begin, args=(store.port, rank, world, wait, work))
            process.start()
            team._started[rank] = process
        try:
            with team:
                try:
                    yield team
                except BaseException:
                    for process in team._started.values():
                        process.terminate()  # before they hear of it, and say it once more
                    raise
            for process in team._started.values():
                process.join(LEAVE)
        finally:
            for process in team._started.values():
                process.terminate()
                process.join()

    @classmethod
    def join(cls, rank: int, world: int, *, wait: float, job: str | None = None) -> Team:
        """Meet the others where MASTER_ADDR and MASTER_PORT say, as torchrun sets them; `wait` as in `start`.

        Raises:
            VtbenchError: if the store can't be reached within `wait` seconds, or that is more than a year.
        """
        wait = _patience(wait)
        _check_available()
        from torch.distributed.rendezvous import rendezvous

        try:
            place = f"env://?rank={rank}&world_size={world}"
            store, _, _ = next(rendezvous(place, timeout=timedelta(seconds=wait)))
        except (RuntimeError, ValueError) as error:
            raise VtbenchError(
                f"rank {rank}: the store of torchrun's rendezvous can't be reached ({_first_line(error)}); "
                "see whether its address (--rdzv-endpoint, --master-addr) is open from here"
            ) from error
        return cls(store, rank, world, wait=wait, job=job)

    def __enter__(self) -> Team:
        """Enter, and wait for rank 0.

        Raises:
            VtbenchError: if rank 0 does not come within `wait` seconds.
        """
        with self._asked():
            self._use(self._own if self.rank == 0 else self._welcome())
            self._store.set(f"host/{self.rank}", socket.gethostname())
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave; what the user can mend is said by rank 0 alone, unless it is busy or gone."""
        del kind, trace
        if self.rank == 0:
            with contextlib.suppress(RuntimeError):  # who comes late hears how it ended, in place of waiting
                self._until(self._answer, HEARD)
        self._over.set()
        self._thread.join(timeout=2 * BEAT)
        said = isinstance(error, VtbenchError) and not isinstance(error, ToldError)
        with contextlib.suppress(RuntimeError):  # the store may be gone with its host
            if error is not None and not isinstance(error, ToldError | ElsewhereError):
                self._store.set("ended", self._report(error))
            if self.rank == 0:
                self._store.set("over", "")
                self._until(lambda: self._store.add("left", 0) >= self.world - 1, 0 if error else LEAVE)
            elif said and self._until(lambda: self._store.check(["over"]), HEARD):
                raise ToldError(str(error)) from error
            else:
                self._store.add("left", 1)

    # --- what the processes do together ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Do a piece of work of its own: an exception in one process ends it in all of them, and the next may begin."""
        self._section, self._step = name, 0
        try:
            yield
        except (ToldError, ElsewhereError):
            raise
        except Exception as error:
            with contextlib.suppress(RuntimeError):
                self._store.set(f"failed/{name}", self._report(error))
            raise

    @contextlib.contextmanager
    def counting(self, told: Callable[[int], None] | None) -> Iterator[None]:
        """Count the pictures that all processes do from here on.

        Args:
            told: called in rank 0, from another thread, with the pictures that all have done.
        """
        self._counter, self._done = f"{self._section}/{self._step}/pictures", 0
        self._told = told if self.rank == 0 else None
        try:
            yield
        finally:
            self._told = None

    def add(self, pictures: int) -> None:
        """Report pictures done; the next sign of life takes them along.

        Raises:
            VtbenchError: if the store is gone, or a process that this one started ended: then all of them end.
        """
        with self._lock:
            self._done += pictures
        with self._asked():
            if self._gone is not None:
                raise self._gone
            if dead := [rank for rank in self._started if self._is_ended(rank)]:
                self._look()
                raise VtbenchError(f"{self._names(dead)} died; {AGAIN}")

    def gather(self, said: object) -> list[object] | None:
        """Leave something for rank 0, which waits for all and gets them in the order of their ranks; others get None.

        Raises:
            VtbenchError: in rank 0, if a process died, or if nobody got on for `wait` seconds; naming who lacks.
        """
        key = self._next()
        with self._asked():
            self._push()
            self._store.set(f"{key}/{self.rank}", _packed(said))
            return self._collect(key) if self.rank == 0 else None

    def announce(self, work: Callable[[], T]) -> T:
        """Let rank 0 do something, and give all what came of it, or its error.

        Raises:
            VtbenchError: what `work` raised, or if rank 0 died.
        """
        key = self._next()
        if self.rank == 0:
            try:
                result = work()
            except VtbenchError as error:
                with self._asked():
                    self._store.set(key, _packed((str(error), isinstance(error, OF_ONE), None)))
                raise
            with self._asked():
                self._store.set(key, _packed((None, False, result)))
            return result
        with self._asked():
            mark, since, pauses = -1, time.monotonic(), _pauses()
            while not self._store.check([key]):
                self._look()
                if self._is_dead(0):
                    raise ToldError(f"{self._name(0)} is dead; start the same command again")
                if (now := self._store.add("moves/0", 0)) != mark:
                    mark, since = now, time.monotonic()
                elif time.monotonic() - since >= self._wait:
                    raise VtbenchError(f"{self._name(0)} hangs: it did nothing for {self._wait:g} s; {AGAIN}")
                time.sleep(next(pauses))
            said, of_one, found = _unpacked(self._store.get(key))
        if said is not None:
            raise RefusedError(said) if of_one else ToldError(said)
        return cast("T", found)

    def meet(self) -> None:
        """Wait until all have come as far as this.

        Raises:
            VtbenchError: if one did not, naming it.
        """
        self.gather(None)
        self.announce(lambda: None)

    def deal(self, count: int) -> Iterator[int]:
        """Give out pieces of work, numbered from 0, each to the process that asks first; all call it together.

        Raises:
            VtbenchError: if another process failed meanwhile.
        """
        key = self._next()
        while True:
            with self._asked():
                self._look()
                number = self._store.add(key, 1) - 1
            if number >= count:
                return
            yield number

    def agree(self, what: str, said: object) -> None:
        """Refuse processes that would not do the same.

        Raises:
            VtbenchError: in rank 0, naming the first that differs from it, and what differs.
        """
        found = self.gather(said)

        def check() -> None:
            for rank, one in enumerate(found or []):
                if one != said:
                    raise VtbenchError(
                        f"{self._name(rank)} differs from rank 0 in {what}: {one}, rank 0: {said}; give every process "
                        "the same command, and every machine the same weights (`vtbench fetch`)"
                    )

        self.announce(check)

    # --- waiting -----------------------------------------------------------------------------------------------------

    def _collect(self, key: str) -> list[object]:
        found: dict[int, object] = {}
        mark, since, pauses = (-1, -1, -1), time.monotonic(), _pauses()
        while True:
            missing = [rank for rank in range(self.world) if rank not in found]
            for rank in missing:
                if self._store.check([f"{key}/{rank}"]):
                    found[rank] = _unpacked(self._store.get(f"{key}/{rank}"))
            if len(found) == self.world:
                self._push()  # all said how many pictures they did before they came here
                return [found[rank] for rank in range(self.world)]
            self._store.add(f"moves/{self.rank}", 1)  # who waits for others does not hang
            self._look()
            missing = [rank for rank in missing if rank not in found]
            if dead := [rank for rank in missing if self._is_dead(rank)]:
                raise VtbenchError(f"{self._names(dead)} died; {AGAIN}")
            moves = sum(self._store.add(f"moves/{rank}", 0) for rank in missing)
            now = (self._store.add(self._counter, 0), len(found), moves)
            if now != mark:
                mark, since = now, time.monotonic()
            elif time.monotonic() - since >= self._wait:
                raise VtbenchError(f"nothing came of {self._names(missing)} for {self._wait:g} s; {AGAIN}")
            time.sleep(next(pauses))

    def _look(self) -> None:
        """End, where another process said that it failed."""
        for key in (f"failed/{self._section}", "ended"):  # after its last section a process may end for all that failed
            if not self._store.check([key]):
                continue
            report = json.loads(self._store.get(key))
            said = f"{self._name(report['rank'])}: {report['text']}"
            if not report["mendable"]:
                raise ElsewhereError(said)
            if report["of_one"]:
                raise RefusedError(said) if self.rank else DataError(said)
            raise ToldError(said) if self.rank else VtbenchError(said)

    def _is_dead(self, rank: int) -> bool:
        """Tell whether a process ended, or gave signs of life once and gives none any more."""
        if self._is_ended(rank):
            return True
        beat, now = self._store.add(f"alive/{rank}", 0), time.monotonic()
        known, since = self._beats.get(rank, (0, now))
        if beat != known:
            known, since = beat, now
        self._beats[rank] = known, since
        return known > 0 and now - since >= DEAD

    def _is_ended(self, rank: int) -> bool:
        return rank in self._started and self._started[rank].exitcode is not None

    def _until(self, come: Callable[[], bool], seconds: float) -> bool:
        end, pauses = time.monotonic() + seconds, _pauses()
        while not (there := come()) and time.monotonic() < end:
            time.sleep(next(pauses))
        return there

    # --- the store ---------------------------------------------------------------------------------------------------

    # A restarted job meets in the store of its earlier starts. So all that a team says stands under a word that rank 0
    # made up for this start, and that it tells whoever asks under a word of its own.

    def _use(self, word: str) -> None:
        from torch.distributed.distributed_c10d import PrefixStore

        self._store = PrefixStore(word, self._meeting)

    def _welcome(self) -> str:
        self._meeting.set(f"hello/{self.rank}", self._own)
        answer = f"welcome/{self._own}"
        if not self._until(lambda: self._meeting.check([answer]), max(self._wait, POLL)):
            raise VtbenchError(f"rank {self.rank}: rank 0 did not come within {self._wait:g} s; {AGAIN}")
        return self._meeting.get(answer).decode()

    def _answer(self) -> bool:
        """Welcome whoever asked since the last call; tells whether all have come."""
        everyone = range(1, self.world)
        for rank in everyone:
            if self._meeting.check([f"hello/{rank}"]):
                word = self._meeting.get(f"hello/{rank}")
                if self._welcomed.get(rank) != word:  # one of an earlier start may have stood there
                    self._meeting.set(f"welcome/{word.decode()}", self._own)
                    self._welcomed[rank] = word
        return all(self._store.check([f"host/{rank}"]) for rank in everyone)

    @contextlib.contextmanager
    def _asked(self) -> Iterator[None]:
        """Say in one line that the store is gone."""
        try:
            yield
        except ElsewhereError:
            raise
        except RuntimeError as error:
            gone = f"the store of torchrun's rendezvous is gone, so its host ended ({_first_line(error)})"
            if self.alike:
                gone = "rank 0, which started it, ended"
            raise VtbenchError(f"rank {self.rank}: {gone}; {AGAIN}") from error

    def _beat(self) -> None:
        """Give signs of life until the team is left."""
        try:
            awaited = self.rank == 0
            while True:
                over = self._over.wait(POLL if awaited else BEAT)
                awaited = awaited and not self._answer()
                self._store.add(f"alive/{self.rank}", 1)
                self._store.add(f"moves/{self.rank}", self._moved())
                self._push()
                if over:
                    return
        except RuntimeError as error:  # the store is gone: whoever asks it next, or has done something, says so
            self._gone = error

    def _moved(self) -> int:
        """Say whether this process is elsewhere in its code than at the last call."""
        frame = sys._current_frames().get(self._worker)
        place = [] if frame is None else [(id(at), at.f_lasti) for at, _ in traceback.walk_stack(frame)]
        before, self._place = self._place, place
        return int(place != before)

    def _push(self) -> None:
        with self._lock:
            done, self._done = self._done, 0
            total = self._store.add(self._counter, done)
        if (told := self._told) is not None:
            told(total)

    def _next(self) -> str:
        self._step += 1
        return f"{self._section}/{self._step}"

    def _report(self, error: BaseException) -> str:
        said = _line(error) if isinstance(error, VtbenchError) else f"{type(error).__name__}: {_line(error)}"
        kinds = {"mendable": isinstance(error, VtbenchError), "of_one": isinstance(error, OF_ONE)}
        return json.dumps({"rank": self.rank, "text": said, **kinds})

    def _name(self, rank: int) -> str:
        return f"rank {rank}" + (f" on {host}" if (host := self._host(rank)) else "")

    def _names(self, ranks: Sequence[int]) -> str:
        return ", ".join(self._name(rank) for rank in ranks)

    def _host(self, rank: int) -> str | None:
        key = f"host/{rank}"
        return self._store.get(key).decode() if self._store.check([key]) else None


class Added:
    """Adds to a team's count what a progress bar of this process alone would show."""

    def __init__(self, team: Team) -> None:
        self._team, self._done = team, 0

    def set(self, done: int, in_all: int) -> None:
        """Report the pictures that came in since the last call; a count that begins again adds nothing twice."""
        del in_all
        self._team.add(max(0, done - self._done))
        self._done = max(self._done, done)


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin(port: int, rank: int, world: int, wait: float, work: Callable[[Team], None]) -> None:
    """Do a process's part of a team whose rank 0 started it."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read with torch: frames of C++ for each store that is gone
    from vtbench import device as devices

    os.environ[devices.NUMBER] = str(rank)
    work(Team(_local_store(port), rank, world, wait=wait, alike=True))


def _local_store(port: int) -> TCPStore:
    """Reach the store at a port of this machine; 0 makes one at a free port."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    return TCPStore("127.0.0.1", port, is_master=port == 0, wait_for_workers=False)


def _patience(wait: float) -> float:
    """Say how long a team waits: never less than a silent process is given, for it may be starting.

    Raises:
        VtbenchError: if no store can count that far.
    """
    if not 0 <= wait <= LONGEST:
        raise VtbenchError(f"--wait {wait:g}: expected seconds, from 0 to {LONGEST:.0f} (a year)")
    return max(wait, DEAD)


def _check_available() -> None:
    from torch import distributed

    if not distributed.is_available():
        raise VtbenchError("this build of torch has no torch.distributed; share the run with --shards I/N")


def _pauses() -> Iterator[float]:
    pause = POLL / 64
    while True:
        yield pause
        pause = min(2 * pause, POLL)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _first_line(error: BaseException) -> str:
    """What torch says of an error; frames of C++ stand below."""
    return str(error).partition("\n")[0].strip()


def _packed(value: object) -> str:
    return base64.b64encode(pickle.dumps(value)).decode()


def _unpacked(text: bytes) -> Any:  # noqa: ANN401
    return pickle.loads(base64.b64decode(text))
