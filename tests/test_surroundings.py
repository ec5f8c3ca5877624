"""Terminals, pipes, caches and addresses as they are elsewhere: one right line each, and the exit code of the work."""

from __future__ import annotations

import http.server
import math
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from builders import make_run, write_pictures
from test_cli import VTBENCH, one_line, vtbench

from vtbench import load_task, results
from vtbench.errors import DataError
from vtbench.results import Score


def finished(folder: Path, name: str, ssim: list[float]) -> Path:
    """A run with a table of single pictures, as `vtbench run` leaves it."""
    place = folder / "reconstruction" / name
    place.mkdir(parents=True)
    ids = [f"{index:02d}.png" for index in range(len(ssim))]
    pd.DataFrame({"id": ids, "reason": None, "ssim": ssim}).to_parquet(place / results.IMAGES)
    known = [value for value in ssim if not math.isnan(value)]
    mean = Score(value=sum(known) / len(known), scored=len(known), expected=len(ssim))
    table = results.table_digest((place / results.IMAGES).read_bytes())
    digests = make_run().digests | {"table": table}
    run = make_run(
        name, scores={"ssim": mean}, primary="ssim", images=len(ssim), digests=digests,
        pictures={"found": len(ssim), "scored": len(ssim), "failed": 0},
    )  # fmt: skip
    results.write(run, place / results.RUN)
    return place


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("two")
    better = finished(folder, "better", [0.9 + 0.001 * index for index in range(12)])
    return finished(folder, "worse", [0.5 + 0.001 * index for index in range(12)]), better


def commands(two: tuple[Path, Path]) -> list[tuple[list[object], int]]:
    worse, better = two
    gate = ["check", worse, "--baseline", better, "--max-drop"]
    return [
        (["list"], 0),
        (["show", "ibq"], 0),
        (["compare", worse, better], 0),
        ([*gate, "ssim=0.1"], 1),
        (["show", "nothing"], 2),
    ]


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "cp1252:strict"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_what_a_terminal_can_show_never_changes_an_exit_code(
    two: tuple[Path, Path], environment: dict[str, str]
) -> None:
    for arguments, code in commands(two):
        done = vtbench(*arguments, **environment)
        assert done.returncode == code, (arguments, done.stderr)
        assert "Traceback" not in done.stderr


def test_who_stops_reading_changes_no_exit_code(two: tuple[Path, Path]) -> None:
    """A gate that found nothing wrong must not fail since somebody looks at its first line alone."""
    for arguments, code in commands(two):
        if code == 2:
            continue
        reading, writing = os.pipe()
        os.close(reading)  # nobody reads, from the first byte on
        done = subprocess.run(
            [*VTBENCH, *map(str, arguments)], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
        )
        os.close(writing)
        assert (done.returncode, done.stderr) == (code, ""), arguments


def test_a_run_goes_on_when_nobody_reads_its_output(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "cats", 2)
    said = ["run", "-t", "jpeg-q5", "-t", "control-identity", "--task", "kodak", "--data", folder]
    line = " ".join([*VTBENCH, *map(str, said)])
    done = subprocess.run(
        ["bash", "-c", f"{line} 2>&1 | head -1; exit ${{PIPESTATUS[0]}}"], cwd=tmp_path, check=False, timeout=300
    )
    assert done.returncode == 0
    names = [run.tokenizer for run in results.read_runs(tmp_path / "results")]
    assert names == ["control-identity", "jpeg-q5"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("arguments", [["list", "--json"], ["show", "--schema", "run"], ["--version"]])
def test_a_full_disk_is_told(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*VTBENCH, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("vtbench: the standard output can't be written (No space left on device)")
    assert done.stderr.count("\n") == 1


def test_a_command_without_any_output_works(two: tuple[Path, Path]) -> None:
    line = " ".join([*VTBENCH, "check", str(two[0]), "--baseline", str(two[1]), "--max-drop", "ssim=0.1"])
    done = subprocess.run(["bash", "-c", f"{line} >&- 2>&-"], check=False)
    assert done.returncode == 1


# --- what can't be compared, and what is allowed to be missing --------------------------------------------------------


def test_missing_pictures_fail_unless_allowed_and_other_questions_are_two(tmp_path: Path) -> None:
    whole = finished(tmp_path / "a", "whole", [0.9] * 6)
    lacking = finished(tmp_path / "b", "lacking", [0.9] * 5 + [float("nan")])
    gate = ["check", lacking, "--baseline", whole, "--max-drop", "ssim=0.1"]
    strict = vtbench(*gate)
    assert strict.returncode == 1
    assert "FAILED: 1 pictures are scored on one side alone" in strict.stdout
    assert vtbench(*gate, "--allow-missing", 1).returncode == 0
    assert vtbench(*gate, "--allow-missing", -1).returncode == 2
    run = results.read_run(whole / results.RUN)
    for change in ({"task": "detail"}, {"task_version": 2}, {"protocol": "seed-voken"}, {"digests": {"data": "x"}}):
        other = tmp_path / str(next(iter(change)))
        other.mkdir()
        (other / results.IMAGES).write_bytes((whole / results.IMAGES).read_bytes())
        made = run.model_copy(update=change | {"digests": run.digests | change.get("digests", {})})  # type: ignore[operator]
        results.write(made, other / results.RUN)
        assert "differ" in (said := one_line(vtbench(*gate[:1], other, *gate[2:]))) or "other pictures" in said
        one_line(vtbench("compare", other, whole))
    assert "metrics of both runs: ssim" in one_line(vtbench(*gate[:-1], "lpips=0.1"))


# --- addresses and caches ---------------------------------------------------------------------------------------------


class Portal(http.server.BaseHTTPRequestHandler):
    """A server that is no hub: everything is one page, or an error."""

    status = 200

    def do_HEAD(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def portal() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Portal) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("hf.co", "'hf.co' is no address of a server; expected one such as https://huggingface.co"),
        ("", "'' is no address of a server"),
        ("file:///etc", "'file:///etc' is no address of a server"),
        ("https://[::bad", "HF_ENDPOINT: 'https://[::bad' is no address"),
        ("http://a:b", "HF_ENDPOINT: 'http://a:b' is no address"),
        ("http://127.0.0.1:9", "http://127.0.0.1:9 can't be reached"),
    ],
)
def test_a_wrong_endpoint_is_one_right_line(tmp_path: Path, endpoint: str, message: str) -> None:
    environment = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path)}
    assert message in last_line(vtbench("fetch", "ibq", **environment))
    if endpoint == "hf.co":
        data = ["--task", "kodak", "--data", "hub:a/b", "--out", tmp_path / "r", "--work", tmp_path / "w"]
        assert message in one_line(vtbench("run", "-t", "jpeg", *data, **environment))


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (200, "X-Repo-Commit|does not seem to be on"),  # the client's words, new and old
        (404, "404"),
        (503, "answers 503 Service Unavailable"),
    ],
)
def test_an_endpoint_that_is_no_hub_is_named_with_its_answer(
    tmp_path: Path, portal: str, monkeypatch: pytest.MonkeyPatch, status: int, message: str
) -> None:
    monkeypatch.setattr(Portal, "status", status)
    said = last_line(vtbench("fetch", "ibq", HF_ENDPOINT=portal, HF_HOME=str(tmp_path)))
    assert portal in said and re.search(message, said)


def test_unwritable_caches_are_one_right_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    inside = str(tmp_path / "file" / "cache")
    said = last_line(vtbench("fetch", "taesd", VTBENCH_CACHE=inside))
    assert f"{inside}/weights" in said and "can't be written" in said
    folder = write_pictures(tmp_path / "cats", 2)
    content = [(folder / f"00{index}.png").read_bytes() for index in range(2)]
    pd.DataFrame({"image": content}).to_parquet(tmp_path / "x.parquet")
    task = ["--task", "kodak", "--data", tmp_path / "x.parquet", "--out", tmp_path / "r", "--work", tmp_path / "w"]
    said = one_line(vtbench("run", "-t", "jpeg", *task, HF_HOME=inside))
    assert f"{inside}/datasets: can't be written" in said and "set HF_HOME or HF_DATASETS_CACHE" in said
    (tmp_path / "x.parquet").write_bytes(b"hello")
    assert "x.parquet: can't be opened" in one_line(vtbench("run", "-t", "jpeg", *task, HF_HOME=str(tmp_path)))


@pytest.mark.parametrize("home", [None, "/nonexistent"])
def test_no_home_is_no_obstacle(tmp_path: Path, home: str | None) -> None:
    folder = write_pictures(tmp_path / "cats", 2)
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    environment |= {"HOME": home} if home else {}
    said = ["run", "-t", "jpeg-q5", "--task", "kodak", "--data", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "vtbench", *said], cwd=tmp_path, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert results.read_runs(tmp_path / "results")[0].pictures.scored == 2


def test_an_address_in_place_of_a_folder_is_told(tmp_path: Path) -> None:
    address = "https://example.com/x.tar"
    said = one_line(vtbench("run", "-t", "jpeg", "--task", "kodak", "--data", address, cwd=tmp_path))
    assert f"{address}: is an address; download it" in said
    for place in ("s3://bucket/x/", "https://example.com/x-{000..009}.tar", "file:///x", "HTTP://x/a.parquet"):
        with pytest.raises(DataError, match="is an address; download it"):
            load_task("kodak", data=place)
