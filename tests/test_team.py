"""Processes that make one run together: `Team` by itself, torchrun, array jobs, and whatever kills or stops them."""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from builders import small_task, write_pictures
from torch.distributed import HashStore

from vtbench import evaluate, finished, load_task, load_tokenizer, plan, results, team
from vtbench.errors import OF_ONE, DataError, ResultError, ToldError, VtbenchError
from vtbench.plan import SHARD
from vtbench.team import ElsewhereError, Team
from vtbench.workfolder import WorkFolder

COUNT = 6 * SHARD + 5
ROOT = Path(__file__).resolve().parent.parent
NAME = "small@pictures/jpeg-q10"
CARD = """
name = "small"
version = 1
family = "reconstruction"
title = "Small"
primary = "psnr"
metrics = ["psnr", "ssim"]
[data]
source = "folder"
[geometry]
size = 64
"""


# --- the team alone ---------------------------------------------------------------------------------------------------


def together(
    world: int, work: Callable[[Team], object], wait: float = 20.0, store: HashStore | None = None
) -> list[object]:
    """Let threads be the processes of a team; give what each returned or raised."""
    store, found = store or HashStore(), [None] * world

    def one(rank: int) -> None:
        member = Team(store, rank, world, wait=wait)
        try:
            with member:
                found[rank] = work(member)
        except Exception as error:
            found[rank] = error

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive(), "a process waits for ever"
    return found


def test_rank_0_gathers_from_all_and_announces_to_all() -> None:
    def work(member: Team) -> object:
        gathered = member.gather(member.rank * 10)
        return member.announce(lambda: gathered)

    assert together(3, work) == [[0, 10, 20]] * 3


def test_each_piece_of_work_is_dealt_to_one_process_and_none_waits_for_another() -> None:
    def work(member: Team) -> object:
        own = []
        for number in member.deal(7):
            own.append(number)
            time.sleep(1.0 if member.rank == 0 else 0.05)  # who is slow is given less
        gathered = member.gather(own)
        return [gathered, list(member.deal(0))]

    (parts, none), second, third = together(3, work)
    assert sorted(number for part in parts for number in part) == list(range(7))
    assert len(parts[0]) == 1
    assert none == [] and second == third == [None, []]


def test_who_fails_with_a_piece_of_work_ends_the_others_before_their_next() -> None:
    def work(member: Team) -> object:
        own = []
        for number in member.deal(1000):
            own.append(number)
            if member.rank == 1:
                raise ResultError("the disk is full")
            time.sleep(0.05)
        return own

    first, second = together(2, work)
    assert isinstance(first, VtbenchError) and "the disk is full" in str(first)
    assert isinstance(second, ToldError | ResultError)


def test_pictures_of_all_are_counted_by_rank_0() -> None:
    told: list[int] = []

    def work(member: Team) -> None:
        with member.counting(told.append):
            for _ in range(5):
                member.add(member.rank + 1)
            member.gather(None)
            member.announce(lambda: time.sleep(2 * team.BEAT))

    together(3, work)
    assert told == sorted(told)
    assert told[-1] == 5 * (1 + 2 + 3)


def test_rank_0_goes_on_waiting_while_anyone_gets_on_and_then_names_who_does_not() -> None:
    def work(member: Team) -> None:
        with member.counting(None):
            if member.rank == 1:
                for _ in range(4):  # three times the patience, and something comes all the time
                    time.sleep(1.5)
                    member.add(1)
            if member.rank == 2:
                time.sleep(9)
            member.gather(None)
            member.announce(lambda: None)

    first, second, third = together(3, work, wait=2.0)
    assert isinstance(first, VtbenchError) and not isinstance(first, ToldError)
    assert str(first).startswith(f"nothing came of rank 2 on {socket.gethostname()} for 2 s")
    assert isinstance(second, ToldError) and isinstance(third, ToldError), "rank 0 alone says it"


def test_rank_0_waits_for_who_works_without_a_finished_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(team, "BEAT", 0.02)  # a hundred looks at where it is within the patience, as in ten minutes

    def work(member: Team) -> None:
        with member.counting(None):
            end, x = time.monotonic() + 5, torch.rand(256, 256)
            while member.rank == 1 and time.monotonic() < end:  # one long batch, as a network goes through it
                x = x @ x
                x = x.sort().values
                x = x.T.contiguous().softmax(0)
                x = torch.nn.functional.gelu(x)
            member.gather(None)
            member.announce(lambda: None)

    assert together(2, work, wait=2.0) == [None, None]


def test_a_dead_process_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(team, "DEAD", 2.0)
    monkeypatch.setattr(team, "LEAVE", 0.5)
    began = time.monotonic()

    def work(member: Team) -> None:
        member.gather(None)
        if member.rank == 1:
            member._over.set()  # its signs of life end, as those of a killed process do
            time.sleep(5)
            return
        member.gather(None)
        member.announce(lambda: None)

    first, _, third = together(3, work, wait=600.0)
    assert str(first).startswith("rank 1 on ") and "died" in str(first)
    assert isinstance(third, ToldError)
    assert time.monotonic() - began < 30


def test_a_dead_rank_0_is_noticed_by_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(team, "DEAD", 2.0)

    def work(member: Team) -> None:
        member.gather(None)
        if member.rank == 0:
            member._over.set()
            time.sleep(5)
            return
        member.announce(lambda: None)

    assert "rank 0 on" in str(together(2, work)[1])


def test_what_the_user_can_mend_is_said_once() -> None:
    def work(member: Team) -> None:
        def refuse() -> None:
            raise ResultError("the folder is full")

        member.announce(refuse)

    first, second = together(2, work)
    assert (type(first), str(first)) == (ResultError, "the folder is full")
    assert (type(second), str(second)) == (ToldError, "the folder is full")


def test_who_comes_after_rank_0_failed_hears_it_at_once() -> None:
    store, found = HashStore(), []

    def first() -> None:
        with contextlib.suppress(ResultError), Team(store, 0, 2, wait=20):
            raise ResultError("the folder is full")

    thread = threading.Thread(target=first)
    thread.start()
    time.sleep(0.5)  # rank 0 has failed by now
    began = time.monotonic()
    with pytest.raises(ToldError, match="the folder is full"), Team(store, 1, 2, wait=20) as member:
        found.append(member.announce(lambda: None))
    assert not found and time.monotonic() - began < 10
    thread.join(timeout=30)


def test_another_ranks_error_is_said_by_rank_0() -> None:
    def work(member: Team) -> None:
        if member.rank == 1:
            raise ResultError("the folder is full")
        member.gather(None)

    first, second = together(2, work)
    assert str(first) == f"rank 1 on {socket.gethostname()}: the folder is full"
    assert not isinstance(first, ToldError)
    assert isinstance(second, ToldError)


def test_a_bug_ends_its_section_in_all_processes_and_the_next_begins() -> None:
    def work(member: Team) -> object:
        with pytest.raises((KeyError, ElsewhereError)) as raised, member.section("first"):
            if member.rank == 1:
                raise KeyError("planted")
            member.gather(None)
            member.announce(lambda: None)
        with member.section("second"):
            gathered = member.gather(type(raised.value).__name__)
            return member.announce(lambda: gathered)

    expected = ["ElsewhereError", "KeyError", "ElsewhereError"]
    assert together(3, work) == [expected] * 3


def test_what_is_wrong_with_one_tokenizer_ends_its_section_and_the_next_begins() -> None:
    """Whoever finds it; rank 0 has an error to show, the others have none."""

    def refuse() -> None:
        raise DataError("all pictures failed")

    def work(member: Team) -> object:
        found = []
        for who in (0, 1):
            try:
                with member.section(f"of {who}"):
                    if member.rank == who == 1:
                        refuse()
                    member.gather(None)
                    member.announce(refuse if who == 0 else lambda: None)
            except OF_ONE as error:
                found.append(type(error).__name__)
        with member.section("last"):
            gathered = member.gather(found)
            return member.announce(lambda: gathered)

    expected = [["DataError", "DataError"], ["RefusedError", "DataError"], ["RefusedError", "RefusedError"]]
    assert together(3, work) == [expected] * 3


def test_a_rank_0_that_hangs_is_noticed_by_the_others() -> None:
    """It gives signs of life, for those come from a thread of their own."""
    free = threading.Event()

    def work(member: Team) -> None:
        member.gather(None)
        try:
            member.announce(lambda: free.wait(30))
        finally:
            free.set()

    _, second = together(2, work, wait=3.0)
    assert "rank 0" in str(second) and "hangs: it did nothing for 3 s" in str(second)


def test_processes_that_were_asked_for_different_things_are_told_apart() -> None:
    def work(member: Team) -> None:
        member.agree("what they are to run", [["tiny"], ["text"]] if member.rank < 2 else [["tiny", "ibq"], ["text"]])

    first, second, third = together(3, work)
    assert str(first).startswith("rank 2 on ") and "differs from rank 0 in what they are to run" in str(first)
    assert isinstance(second, ToldError) and isinstance(third, ToldError)


def test_a_restart_reads_nothing_that_earlier_starts_left_in_the_store() -> None:
    """torchrun keeps its store where it restarts processes, and does not always count the restart."""
    store = HashStore()

    def work(member: Team) -> object:
        gathered = member.gather((member.world, member.rank))
        if member.world == 3 and member.rank == 2:
            raise ResultError("ends the first start")
        return member.announce(lambda: gathered)

    first = together(3, work, store=store)
    assert isinstance(first[2], VtbenchError)
    assert together(2, work, store=store) == [[(2, 0), (2, 1)]] * 2
    assert together(4, work, store=store) == [[(4, 0), (4, 1), (4, 2), (4, 3)]] * 4


def test_processes_that_would_compute_other_numbers_are_told_apart() -> None:
    one = {"digests": {"code": "a", "weights": None}, "said": {"device": "cuda: A", "limit": 5}}
    other = {"digests": {"code": "b", "weights": None}, "said": {"device": "cuda: B", "limit": 5}}
    assert finished.differences(one, one) == []
    assert finished.differences(one, other) == ["code", "device (cuda: A, cuda: B)"]


def test_what_differs_between_plans_is_named_as_users_know_it(tmp_path: Path) -> None:
    """A batch size that moves nothing is not, and neither is the task where its metrics or its reader differ."""
    pictures = write_pictures(tmp_path / "in", 1)

    def identity(batch_size: int = 8, **change: object) -> dict[str, object]:
        return plan.make(
            load_tokenizer("jpeg-q10"), small_task(pictures, **change),
            protocol=None, limit=None, batch_size=batch_size, label=None, step=None, require=(), originals=None,
        ).identity  # fmt: skip

    one = identity()
    assert finished.differences(one, identity(batch_size=4)) == []
    assert finished.differences(one, identity(metrics=("ssim", "lpips"))) == ["metrics (without psnr; with lpips)"]
    assert finished.differences(one, identity(ocr="rapidocr")) == ["OCR engine (easyocr, rapidocr)"]
    assert finished.differences(one, identity(primary="ssim")) == ["task"]
    other = json.loads(json.dumps(one)) | {
        "said": {**one["said"], "versions": {**one["said"]["versions"], "torch": "1"}}
    }
    assert finished.differences(other, one) == [f"torch (1, {one['said']['versions']['torch']})"]


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_pictures(folder / "pictures", COUNT)
    (folder / "cards").mkdir()
    (folder / "cards" / "small.toml").write_text(CARD)
    return folder


def command(data: Path, place: Path, *more: object) -> list[str]:
    said = ("run", "-t", "jpeg-q10", "--task", "small", "--cards", data / "cards", "--data", data / "pictures")
    return ["-m", "vtbench", *map(str, (*said, "--out", place / "r", "--work", place / "w", *more))]


def torchrun(*options: object) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", *map(str, options)]


def finish(said: list[str], cwd: Path | None = None, **change: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200", **change}
    return subprocess.run(said, capture_output=True, text=True, check=False, env=environment, timeout=240, cwd=cwd)


def bytes_of(place: Path) -> tuple[bytes, dict[str, object], dict[str, object]]:
    """The table, and the run without its timing and the state of the checkout, from both folders."""
    runs = [json.loads((place / path).read_bytes()) for path in (f"r/{NAME}.json", f"w/{NAME}/run.json")]
    for run in runs:
        for name in ("timing", "commit", "dirty"):  # somebody may commit while the tests run
            del run[name]
    results.find_run(place / f"r/{NAME}.json", place / "w")
    return (place / "w" / NAME / results.IMAGES).read_bytes(), *runs


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, object], dict[str, object]]:
    place = tmp_path_factory.mktemp("whole")
    done = finish([sys.executable, *command(data, place)])
    assert done.returncode == 0, done.stderr
    return bytes_of(place)


Whole = tuple[bytes, dict[str, object], dict[str, object]]


def shards_in(place: Path) -> list[Path]:
    return sorted(place.glob(f"w/{NAME}/shards-*/*.parquet"))


def test_torchrun_makes_one_run_with_one_bar_and_one_table(data: Path, whole: Whole, tmp_path: Path) -> None:
    done = finish([*torchrun("--nproc-per-node", 3), *command(data, tmp_path)])
    assert done.returncode == 0, done.stderr
    assert bytes_of(tmp_path) == whole
    assert done.stdout.count("reconstruction") == 0
    assert done.stdout.count(f"{COUNT}/{COUNT} ") == 1, "one progress bar, counting all"
    assert done.stdout.count("protocol canonical") == done.stdout.count("Summaries are in") == 1
    assert "vtbench:" not in done.stderr


def test_what_is_wrong_is_one_line_from_rank_0(data: Path, tmp_path: Path) -> None:
    done = finish([*torchrun("--nproc-per-node", 2), *command(data, tmp_path, "--metric", "nothing")])
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if "vtbench: " in line]
    assert len(lines) == 1 and "nothing" in lines[0], done.stderr


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def started() -> Iterator[Callable[[list[str]], subprocess.Popen[str]]]:
    """Start commands, each in a session of its own, and end what is left of them."""
    processes: list[subprocess.Popen[str]] = []

    def start(said: list[str]) -> subprocess.Popen[str]:
        out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
        # In the background of a shell the tests themselves may not hear Ctrl-C, which commands would inherit.
        heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        processes.append(subprocess.Popen(said, preexec_fn=heard, **out))
        return processes[-1]

    yield start
    for process in processes:
        with process:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def nodes(port: int, how_many: str, *more: object) -> list[str]:
    place = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}", "--rdzv-id", "job", "--local-addr")
    return torchrun("--nnodes", how_many, "--nproc-per-node", 1, *place, "localhost", *more)


@pytest.mark.heavy  # minutes of a busy machine
def test_two_nodes_make_one_run(
    data: Path, whole: Whole, tmp_path: Path, started: Callable[[list[str]], subprocess.Popen[str]]
) -> None:
    port = free_port()
    agents = [started([*nodes(port, "2"), *command(data, tmp_path)]) for _ in range(2)]
    said = [agent.communicate(timeout=240)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    assert sum(one.count("protocol canonical") for one in said) == 1
    assert bytes_of(tmp_path) == whole


def wait_for(come: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not come():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.02)


SLOW = """
import os, pathlib, sys, time
from vtbench.networks import codec
encode, held = codec.Network.encode, os.environ.get("HELD_ALONE")
def slowly(self, x):
    time.sleep(float(os.environ.get("SLEEP", "0.25")))
    while held and os.environ["WORLD_SIZE"] == "1" and any(pathlib.Path(held).glob("w/*/*/shards-*/*.parquet")):
        time.sleep(0.25)  # until the agent ends this process, since another node has come
        if os.getppid() == 1:
            sys.exit("the agent is gone")
    return encode(self, x)
codec.Network.encode = slowly
from vtbench.cli import main
if __name__ == "__main__":
    main()
"""


def slow(data: Path, place: Path, tmp_path: Path, *more: object) -> list[str]:
    """The same command, of which each batch takes a quarter of a second longer, or $SLEEP."""
    (tmp_path / "slow.py").write_text(SLOW)
    return [str(tmp_path / "slow.py"), *command(data, place, *more)[2:]]


def workers_of(agent: int, said: str = "slow.py") -> list[int]:
    children = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
    return [int(child) for child in children if said in Path(f"/proc/{child}/cmdline").read_text()]


@pytest.mark.heavy  # minutes of a busy machine
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the children of torchrun in /proc")
def test_a_killed_worker_is_restarted_and_goes_on(
    data: Path, whole: Whole, tmp_path: Path, started: Callable[[list[str]], subprocess.Popen[str]]
) -> None:
    """With --overwrite, which a restart does not do once more."""
    options = ("--nproc-per-node", 2, "--max-restarts", 1, "--rdzv-id", "job", "--rdzv-backend", "c10d")
    agent = started(
        [*torchrun(*options, "--rdzv-endpoint", "localhost:0"), *slow(data, tmp_path, tmp_path, "--overwrite")]
    )
    wait_for(lambda: len(shards_in(tmp_path)) >= 2)
    survived = {path: path.stat().st_mtime_ns for path in shards_in(tmp_path)}
    os.kill(workers_of(agent.pid)[-1], signal.SIGKILL)
    said, _ = agent.communicate(timeout=240)
    assert agent.returncode == 0, said
    assert bytes_of(tmp_path) == whole
    assert {path: path.stat().st_mtime_ns for path in survived} == survived, "committed shards were computed again"


@pytest.mark.heavy  # minutes of a busy machine
def test_a_node_that_joins_later_takes_its_part(
    data: Path,
    whole: Whole,
    tmp_path: Path,
    started: Callable[[list[str]], subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = free_port()
    options = ("--max-restarts", 2, "--rdzv-conf", "last_call_timeout=1,join_timeout=120", "--monitor-interval", "0.1")
    # torch 2.14's agent says its address in the first round alone, where the rounds share a store.
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    # With its first shard the first node waits: the second comes before the end, however busy the machine is.
    monkeypatch.setenv("HELD_ALONE", str(tmp_path))
    first = started([*nodes(port, "1:2", *options), *slow(data, tmp_path, tmp_path)])
    wait_for(lambda: shards_in(tmp_path))
    survived = {path: path.stat().st_mtime_ns for path in shards_in(tmp_path)}
    second = started([*nodes(port, "1:2", *options), *slow(data, tmp_path, tmp_path)])
    said = [agent.communicate(timeout=240)[0] for agent in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], said
    assert bytes_of(tmp_path) == whole
    assert {path: path.stat().st_mtime_ns for path in survived} == survived, "committed shards were computed again"


# --- processes of one machine without torchrun ------------------------------------------------------------------------


def test_processes_of_one_machine_make_one_run_and_find_it_finished(data: Path, whole: Whole, tmp_path: Path) -> None:
    said = [sys.executable, *command(data, tmp_path, "--processes", 3)]
    done = finish(said)
    assert done.returncode == 0, done.stderr
    assert bytes_of(tmp_path) == whole
    assert done.stdout.count(f"{COUNT}/{COUNT} ") == done.stdout.count("protocol canonical") == 1
    assert "vtbench:" not in done.stderr
    again = finish([sys.executable, "-X", "importtime", *said[1:]])
    assert again.returncode == 0 and "protocol canonical" in again.stdout
    assert "| torch\n" not in again.stderr, "a finished run needs no torch and no processes"


SAYS_DEVICE = """
import torch
from vtbench import device as devices
def say(place, member):
    torch.cuda.is_available, torch.cuda.device_count = lambda: True, lambda: 8
    with member:
        (place / str(member.rank)).write_text(" ".join(map(devices.pick, ("auto", "cuda", "cpu"))))
"""


def test_each_process_of_one_machine_takes_a_gpu_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "says_device.py").write_text(SAYS_DEVICE)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "said").mkdir()
    say = importlib.import_module("says_device").say
    with Team.start(3, functools.partial(say, tmp_path / "said"), wait=60):
        wait_for(lambda: len(list((tmp_path / "said").iterdir())) == 2)
    found = {path.name: path.read_text() for path in (tmp_path / "said").iterdir()}
    assert found == {"1": "cuda:1 cuda:1 cpu", "2": "cuda:2 cuda:2 cpu"}


def test_small_tasks_are_dealt_out_by_tokenizers_and_give_the_same_bytes(data: Path, tmp_path: Path) -> None:
    """Five of them and two processes: the fifth is shared."""
    tokenizers = ["jpeg-q10", "jpeg-q75", "webp-q5", "avif-q20", "control-mean"]
    said = ["-m", "vtbench", "run", "--task", "reconstruction", "--task", "detail", "--limit", "20"]
    said += [part for name in tokenizers for part in ("-t", name)]
    for place, more in ((tmp_path / "one", []), (tmp_path / "two", ["--processes", "2"])):
        places = ["--out", str(place / "r"), "--work", str(place / "w")]
        done = finish([sys.executable, *said, *more, *places])
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("protocol canonical") == 2, "one table a task"
        again = finish([sys.executable, "-X", "importtime", *said, *more, *places])
        assert "| torch\n" not in again.stderr, "whoever made them, the runs are found finished without torch"
    assert "4 tokenizers" in done.stdout and done.stdout.count("160/160 ") == 1, "one bar for those that are dealt out"
    assert done.stdout.count("control-mean on ") == 2
    for task in ("reconstruction", "detail"):
        for name in tokenizers:
            one, two = ((tmp_path / place / "w" / task / name / "images.parquet") for place in ("one", "two"))
            assert one.read_bytes() == two.read_bytes()


def test_what_is_wrong_with_a_shared_run_is_one_line(data: Path, tmp_path: Path) -> None:
    for more, wanted in (
        (("--metric", "nothing"), "nothing"),
        (("--shards", "1/2"), "leave --shards and torchrun out"),
        (("--require", "rfid"), "rfid"),
    ):
        done = finish([sys.executable, *command(data, tmp_path, "--processes", 2, *more)])
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1 and wanted in done.stderr, done.stderr


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the children of a command in /proc")
def test_a_process_that_dies_ends_the_shared_run_and_the_next_goes_on(
    data: Path, whole: Whole, tmp_path: Path, started: Callable[[list[str]], subprocess.Popen[str]]
) -> None:
    said = [sys.executable, *slow(data, tmp_path, tmp_path, "--processes", 2)]
    first = started(said)
    wait_for(lambda: len(shards_in(tmp_path)) >= 2)
    (other,) = workers_of(first.pid, "spawn_main")
    os.kill(other, signal.SIGKILL)
    text, _ = first.communicate(timeout=team.DEAD / 2)
    assert first.returncode == 2
    assert "rank 1 on " in text and "died; committed shards are kept" in text
    survived = {path: path.stat().st_mtime_ns for path in shards_in(tmp_path)}
    assert finish(said).returncode == 0
    assert bytes_of(tmp_path) == whole
    assert {path: path.stat().st_mtime_ns for path in survived} == survived, "committed shards were computed again"


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the children of a command in /proc")
def test_ctrl_c_ends_all_processes_of_a_shared_run(
    data: Path,
    tmp_path: Path,
    started: Callable[[list[str]], subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLEEP", "2")  # so that it is at work when the signal comes
    first = started([sys.executable, *slow(data, tmp_path, tmp_path, "--processes", 2)])
    wait_for(lambda: shards_in(tmp_path))
    others = workers_of(first.pid, "spawn_main")
    os.killpg(first.pid, signal.SIGINT)  # as a terminal does it
    text, _ = first.communicate(timeout=60)
    assert first.returncode == 130
    assert text.count("vtbench: interrupted; finished shards are in") == 1 and "Traceback" not in text
    assert len(others) == 1 and not any(Path(f"/proc/{one}").exists() for one in others)


STARTS = """
import functools, os, pathlib, signal, sys, time
from vtbench.cli._terminal import in_one_line, prepare
from vtbench.team import Team
def works(place, member):
    prepare()
    with in_one_line(), member:
        counts(place, member)
def counts(place, member):
    for number in range(600):
        time.sleep(0.1)
        (place / str(member.rank)).write_text(str(os.getpid()))
        member.add(1)
    member.meet()
if __name__ == "__main__":
    place, dies = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    with in_one_line(), Team.start(2, functools.partial(works, place), wait=600) as team:
        while not (place / "1").exists() or not (place / "1").read_text():
            time.sleep(0.1)
        os.kill(int((place / "1").read_text()) if dies else os.getpid(), signal.SIGKILL)
        counts(place, team)
"""


@pytest.mark.parametrize("dies", [0, 1])
def test_when_one_of_one_machine_is_killed_the_others_end_with_what_is_in_hand(dies: int, tmp_path: Path) -> None:
    """And say so in a line."""
    (tmp_path / "starts.py").write_text(STARTS)
    (tmp_path / "at").mkdir()
    began = time.monotonic()
    done = finish([sys.executable, str(tmp_path / "starts.py"), str(tmp_path / "at"), str(dies)])  # until both ended
    assert time.monotonic() - began < 45, "it worked to the end of its share"
    assert done.returncode == (2 if dies else -signal.SIGKILL)
    who = f"rank 1 on {socket.gethostname()} died" if dies else "rank 1: rank 0, which started it, ended"
    assert done.stderr == f"vtbench: {who}; committed shards are kept, and the same command goes on from there\n"


def test_a_team_is_given_the_time_that_its_start_takes(tmp_path: Path) -> None:
    """`--wait 0` means the other processes that write the same run."""
    said = STARTS.replace("wait=600", "wait=0").replace("signal.SIGKILL", "0").replace("range(600)", "range(20)")
    said = said.replace(
        "        counts(place, team)\n", "        team.meet()\n"
    )  # at once, and the other after two seconds
    (tmp_path / "starts.py").write_text(said)
    (tmp_path / "at").mkdir()
    done = finish([sys.executable, str(tmp_path / "starts.py"), str(tmp_path / "at"), "1"])
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("wait", ["inf", "1e15"])
def test_a_wait_that_nothing_can_count_is_one_line(wait: str, data: Path, tmp_path: Path) -> None:
    joined = {"TORCHELASTIC_RUN_ID": "none", "RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
    for more, change in ((("--processes", 2), {}), ((), joined)):
        done = finish([sys.executable, *command(data, tmp_path, "--wait", wait, *more)], **change)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert "expected seconds, from 0 to 31536000 (a year)" in done.stderr


# --- array jobs -------------------------------------------------------------------------------------------------------


def merge(place: Path, *more: object) -> subprocess.CompletedProcess[str]:
    places = ("--out", place / "r", "--work", place / "w")
    return finish([sys.executable, "-m", "vtbench", "merge", *map(str, (*more, *places))])


@pytest.mark.heavy  # seconds of many processes or networks
def test_merge_says_what_lacks_and_then_merges_without_computing(data: Path, whole: Whole, tmp_path: Path) -> None:
    assert merge(tmp_path).stderr.count("no run was begun there") == 1
    assert finish([sys.executable, *command(data, tmp_path, "--shards", "2/2")]).returncode == 0
    early = merge(tmp_path)
    assert early.returncode == 2
    assert early.stderr == f"vtbench: {NAME}: 4 of 7 shards are not there; start the jobs again that compute them\n"
    assert finish([sys.executable, *command(data, tmp_path, "--shards", "1/2")]).returncode == 0  # the last one merges
    assert bytes_of(tmp_path) == whole
    assert "every run there is merged" in merge(tmp_path).stdout

    # As if the last one had been killed while it merged.
    for path in (f"r/{NAME}.json", f"w/{NAME}/run.json", f"w/{NAME}/images.parquet"):
        (tmp_path / path).unlink()
    kept = {path: path.stat().st_mtime_ns for path in shards_in(tmp_path)}
    done = merge(tmp_path, NAME)
    assert done.returncode == 0, done.stderr
    assert "protocol canonical" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in shards_in(tmp_path)} == kept
    assert bytes_of(tmp_path) == whole

    (tmp_path / f"r/{NAME}.json").unlink()
    assert merge(tmp_path).returncode == 0  # merged before, and written to another --out
    assert bytes_of(tmp_path) == whole


def test_what_was_named_by_its_place_is_merged_from_another_folder(tmp_path: Path) -> None:
    home = tmp_path / "home"
    write_pictures(home, 4)
    for number in range(2):
        with tarfile.open(home / f"x-{number}.tar", "w") as archive:
            for picture in sorted(home.glob("*.png"))[number::2]:
                archive.add(picture, picture.name)
    (home / "small.toml").write_text(CARD)
    codec = (ROOT / "tokenizers" / "jpeg-q10.toml").read_text()
    (home / "mine.toml").write_text(codec.replace('"jpeg-q10"', '"mine"'))
    for place, pattern in ((tmp_path / "1", "x-{0..1}.tar"), (tmp_path / "2", "./x-*.tar")):
        said = ("run", "-t", "mine.toml", "--task", "./small.toml", "--data", pattern, "--data-name", "x")
        places = map(str, ("--out", place / "r", "--work", place / "w"))
        done = finish([sys.executable, "-m", "vtbench", *said, *places], cwd=home, PYTHONPATH=str(ROOT))
        assert done.returncode == 0, done.stderr
        summary = place / "r" / "small@x" / "mine.json"
        before = results.read_run(summary).digests
        summary.unlink()
        (place / "w" / "small@x" / "mine" / "run.json").unlink()
        done = merge(place)
        assert done.returncode == 0, done.stderr
        assert results.read_run(summary).digests == before


def test_a_run_of_python_stops_no_other_merge(data: Path, whole: Whole, tmp_path: Path) -> None:
    assert finish([sys.executable, *command(data, tmp_path, "--shards", "1/1")]).returncode == 0
    for name, text in (("merged", None), ("begun", None), ("broken", "{")):
        folder = tmp_path / "w" / "small@pictures" / f"a-{name}"
        shutil.copytree(tmp_path / "w" / NAME, folder)
        record = folder / "plan.json"
        record.write_text(text or json.dumps(json.loads(record.read_text()) | {"command": None}))
        if name != "merged":
            (folder / "run.json").unlink()
        else:
            shutil.copy(tmp_path / "r" / f"{NAME}.json", tmp_path / "r" / "small@pictures" / f"a-{name}.json")
    for path in (f"r/{NAME}.json", f"w/{NAME}/run.json"):
        (tmp_path / path).unlink()
    done = merge(tmp_path)
    assert done.returncode == 2
    said = done.stderr.splitlines()
    assert (
        len(said) == 2
        and "a-begun: was begun from Python" in said[0]
        and "a-broken" in said[1]
        and "damaged" in said[1]
    )
    assert bytes_of(tmp_path) == whole


def test_one_lock_holds_a_block_and_that_of_others_is_let_go_at_once(data: Path, tmp_path: Path) -> None:
    """Thousands of open lock files would be too many."""
    task = load_task("small", data=data / "pictures", cards=data / "cards")
    made = plan.make(
        load_tokenizer("jpeg-q10"), task,
        protocol=None, limit=None, batch_size=8, label=None, step=None, require=(), originals=None,
    )  # fmt: skip
    folder = WorkFolder(
        *(made, tmp_path / "r", tmp_path / "w"), wait=5, overwrite=False, may_compute=True, command=None, job=None
    )
    with contextlib.ExitStack() as stack, contextlib.ExitStack() as mine, contextlib.ExitStack() as theirs:
        folder.begin(0, 1, stack)
        folder.shards.mkdir(parents=True, exist_ok=True)
        before = len(list(Path("/proc/self/fd").iterdir()))
        assert folder.claim(range(3), theirs, polite=True) == [0, 1, 2]
        assert len(list(Path("/proc/self/fd").iterdir())) == before + 1
        assert folder.claim(range(3), mine, polite=True) == []
        assert folder.claim(range(3), mine, polite=False) == [0, 1, 2]
        assert len(list(Path("/proc/self/fd").iterdir())) == before + 1
        assert folder.claim(range(3, 4), mine, polite=True) == [3]
        assert len(list(Path("/proc/self/fd").iterdir())) == before + 2


def test_merge_refuses_what_was_computed_otherwise_and_what_is_damaged(data: Path, tmp_path: Path) -> None:
    assert finish([sys.executable, *command(data, tmp_path)]).returncode == 0
    for path in (f"r/{NAME}.json", f"w/{NAME}/run.json"):
        (tmp_path / path).unlink()
    record = tmp_path / "w" / NAME / "plan.json"
    before = record.read_text()
    record.write_text(before.replace('"device": "cpu: ', '"device": "cuda: H100 of '))
    done = merge(tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "computed otherwise than would be here: device (cuda: H100 of " in done.stderr
    record.write_text(before)
    shards_in(tmp_path)[3].write_bytes(b"PAR1")
    done = merge(tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "00003.parquet: damaged" in done.stderr
    assert len(shards_in(tmp_path)) == 7
    record.write_text("{")
    assert "damaged; start the command again" in merge(tmp_path).stderr


def test_shards_of_another_plan_give_way_to_a_whole_run_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a trial nor a part of another plan takes them; whoever does says so, and why."""
    pictures = write_pictures(tmp_path / "pictures", 3 * SHARD)

    def made(*metrics: str, **how: object) -> list[str]:
        caplog.clear()
        task = small_task(pictures, metrics=metrics)
        evaluate(load_tokenizer("jpeg-q10"), task, out=tmp_path / "r", work=tmp_path / "w", **how)
        return caplog.messages

    both = ("psnr", "ssim")
    (said,) = made(*both, rank=0, world=2)
    assert "1 of 3 shards are not there yet" in said and "another plan" not in said
    first = set(shards_in(tmp_path))
    assert not made(*both, limit=4)
    assert first < set(shards_in(tmp_path)), "a trial took the shards of a run that may go on"
    said = made("psnr", rank=1, world=2)[-1]
    assert "2 of 3 shards are not there yet" in said
    assert said.endswith("There are 2 shards of another plan, for these differ (there, here): metrics (without ssim)")
    assert first < set(shards_in(tmp_path))

    said = made("psnr")[0]
    assert said.endswith("deletes 2 shards of another plan, for these differ (there, here): metrics (without ssim)")
    assert not first & set(shards_in(tmp_path))
    (said,) = made(*both)
    assert said.endswith("computed anew, for these differ (before, now): metrics (with ssim)")
    assert made(*both) == []
    assert not shards_in(tmp_path)


def test_a_part_says_that_the_others_shards_are_of_another_plan(data: Path, tmp_path: Path) -> None:
    for part, more in (("1/2", ()), ("2/2", ("--metric", "gmsd"))):
        assert finish([sys.executable, *command(data, tmp_path, "--shards", part, *more)]).returncode == 0
    done = merge(tmp_path)
    assert done.returncode == 2
    assert "4 of 7 shards are not there" in done.stderr
    assert "There are 4 shards of another plan, for these differ (there, here): metrics (with gmsd)" in done.stderr


# --- what stops a run -------------------------------------------------------------------------------------------------


@pytest.mark.heavy  # as long as a busy machine takes for sixteen hundred pictures
def test_killed_again_and_again_the_run_is_the_same_byte_for_byte() -> None:
    done = finish([sys.executable, str(ROOT / "benchmarks" / "kills.py"), "--kills", "8", "--quick"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 kills" in done.stdout


MOUNTS = (
    shutil.which("unshare")
    and not subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
    ).returncode
)
in_a_mount = pytest.mark.skipif(not MOUNTS, reason="this machine lets nobody mount a small disk")


def on_a_disk(script: str, place: Path) -> subprocess.CompletedProcess[str]:
    """Run a shell script with a disk of half a megabyte at `place`, which only it sees."""
    mount = f"set -e; mount -t tmpfs -o size=512k none {place}; "
    return finish(["unshare", "-rm", "sh", "-c", mount + script])


FREE = 24
"""Kilobytes left on the full disk: for the lock, the record and some of the seven shards, of 4 kB each."""


@in_a_mount
def test_a_full_disk_is_one_line_and_loses_nothing(data: Path, whole: Whole, tmp_path: Path) -> None:
    for place in ("w", "kept"):
        (tmp_path / place).mkdir()
    run = " ".join([sys.executable, *command(data, tmp_path)])
    work = tmp_path / "w"
    fill = f"head -c {512 - FREE}k /dev/zero > {work}/filler"
    copy = f"rm {work}/filler; cp -r {work}/. {tmp_path}/kept"
    done = on_a_disk(f"{fill}; code=0; {run} || code=$?; {copy}; exit $code", work)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert "No space left on device" in done.stderr
    shutil.rmtree(tmp_path / "w")
    (tmp_path / "kept").rename(tmp_path / "w")
    survived = {path: path.stat().st_mtime_ns for path in shards_in(tmp_path)}
    assert 0 < len(survived) < 7
    assert finish([sys.executable, *command(data, tmp_path)]).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in survived} == survived
    assert bytes_of(tmp_path) == whole


def test_what_only_saves_time_later_keeps_no_table_off_the_screen(data: Path, whole: Whole, tmp_path: Path) -> None:
    """As on a disk that is full when all of a run is written."""
    for place in ("w/hashes.json", f"w/{NAME}/finished.json"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "w" / "small@pictures" / "jpeg-q75" / "finished.json" / "in").mkdir(parents=True)
    done = finish([sys.executable, *command(data, tmp_path, "-t", "jpeg-q75")])
    assert done.returncode == 0, done.stderr
    assert "jpeg-q10" in done.stdout and "jpeg-q75" in done.stdout and "protocol canonical" in done.stdout
    said = done.stderr.splitlines()
    assert len(said) == 2 and all("the run is whole; only finding it finished takes longer" in line for line in said)
    assert bytes_of(tmp_path) == whole


@in_a_mount
def test_a_folder_that_becomes_read_only_is_one_line(data: Path, tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    run = " ".join([sys.executable, *command(data, tmp_path)])
    done = on_a_disk(f"mount -o remount,ro {tmp_path}/w; {run}", tmp_path / "w")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "can't be written (Read-only file system); choose a folder that can" in done.stderr


def test_pictures_that_vanish_are_one_line_and_committed_shards_stay(
    data: Path, whole: Whole, tmp_path: Path, started: Callable[[list[str]], subprocess.Popen[str]]
) -> None:
    shutil.copytree(data, tmp_path / "data")
    process = started([sys.executable, *slow(tmp_path / "data", tmp_path, tmp_path, "--workers", 1)])
    wait_for(lambda: shards_in(tmp_path))
    shutil.rmtree(tmp_path / "data" / "pictures")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 2, said
    assert "start the run again" in said.splitlines()[-1]
    assert "Traceback" not in said
    survived = {path: path.stat().st_mtime_ns for path in shards_in(tmp_path)}
    assert survived
    shutil.copytree(data / "pictures", tmp_path / "data" / "pictures")
    assert finish([sys.executable, *command(tmp_path / "data", tmp_path)]).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in survived} == survived
    assert bytes_of(tmp_path) == whole


@pytest.mark.parametrize("world", [1, 2, 3, pytest.param(5, marks=pytest.mark.heavy)])
def test_any_number_of_processes_in_any_order_gives_the_same_bytes(
    world: int, data: Path, whole: Whole, tmp_path: Path, started: Callable[[list[str]], subprocess.Popen[str]]
) -> None:
    parts = list(range(1, world + 1))
    random.Random(world).shuffle(parts)
    processes = [started([sys.executable, *command(data, tmp_path, "--shards", f"{part}/{world}")]) for part in parts]
    said = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * world, said
    assert bytes_of(tmp_path) == whole
