"""A finished run is found without torch, and nothing that changed is taken for it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vtbench import cards, files, finished, protocols, provenance

REPOSITORY = Path(__file__).resolve().parent.parent
WEIGHTS = REPOSITORY / "vtbench" / "assets" / "weights" / "tiny-fsq-f8.safetensors"
SAMPLE = REPOSITORY / "vtbench" / "assets" / "sample"
RUN = ("-t", "tiny-fsq-f8", "--task", "reconstruction", "--device", "cpu", "--weights", "w.safetensors", "--data", "in")


def vtbench(folder: Path, *arguments: str, torch: bool) -> subprocess.CompletedProcess[str]:
    """Run vtbench in a folder; without torch, importing that ends the process with a traceback."""
    broken = folder.parent / "without"
    (broken / "torch").mkdir(parents=True, exist_ok=True)
    (broken / "torch" / "__init__.py").write_text("raise RuntimeError('torch was imported')\n")
    paths = [str(REPOSITORY)] if torch else [str(broken), str(REPOSITORY)]
    return subprocess.run(
        [sys.executable, "-m", "vtbench", "run", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "200", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def table_of(said: str) -> list[str]:
    """What is printed behind the progress bar."""
    return said[said.index("reconstruction@in, protocol") :].splitlines()


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A finished run on three pictures and weights of the user's, and the table that it printed."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    shutil.copytree(SAMPLE, folder / "in", ignore=lambda _, names: sorted(n for n in names if ".webp" not in n))
    for path in sorted((folder / "in").glob("*.webp"))[3:]:
        path.unlink()
    shutil.copy(WEIGHTS, folder / "w.safetensors")
    time.sleep(files.SETTLED + 0.2)
    made = vtbench(folder, *RUN, torch=True)
    assert made.returncode == 0, made.stderr
    return folder, table_of(made.stdout)


def test_a_finished_run_is_printed_without_torch(done: tuple[Path, list[str]]) -> None:
    folder, said = done
    place = next((folder / ".vtbench").glob("*/*/finished.json")).parent
    (own,) = place.glob("shards-*")
    (other := place / "shards-1").mkdir()
    said_there = json.loads((own / "plan.json").read_text())
    said_there["identity"]["said"] |= {"batch_size": 4}
    (other / "plan.json").write_text(json.dumps(said_there | {"plan": "1" * 64}))
    (other / "00000.parquet").touch()
    found = vtbench(folder, *RUN, torch=False)
    assert found.returncode == 0, found.stderr
    assert table_of(found.stdout) == said
    assert not own.exists() and not other.exists()
    told = "deletes 1 shard of another plan, for these differ (there, here): batch size (4, 8)\n"
    assert found.stderr == f"vtbench: {place.parent.name}/{place.name}: {told}"


@pytest.mark.parametrize(
    "more", [("--overwrite",), ("--batch-size", "4"), ("--limit", "2"), ("--precision", "bf16"), ("--out", "other")]
)
def test_another_command_is_not_finished(done: tuple[Path, list[str]], more: tuple[str, ...]) -> None:
    assert "torch was imported" in vtbench(done[0], *RUN, *more, torch=False).stderr


def test_another_device_is_not_finished(done: tuple[Path, list[str]]) -> None:
    said = ["cuda:0" if word == "cpu" else word for word in RUN]
    assert "torch was imported" in vtbench(done[0], *said, torch=False).stderr


def a_byte(path: Path) -> None:
    """Change one byte in place, and set the time of change back."""
    stat = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


RESULTS: dict[str, Callable[[Path], None]] = {
    "summary": lambda folder: a_byte(next((folder / "results").glob("*/*.json"))),
    "summary gone": lambda folder: next((folder / "results").glob("*/*.json")).unlink(),
    "table": lambda folder: a_byte(next((folder / ".vtbench").glob("*/*/images.parquet"))),
    "run": lambda folder: a_byte(next((folder / ".vtbench").glob("*/*/run.json"))),
    "record": lambda folder: a_byte(next((folder / ".vtbench").glob("*/*/finished.json"))),
}


@pytest.mark.parametrize("what", RESULTS)
def test_damaged_results_are_not_finished(done: tuple[Path, list[str]], what: str) -> None:
    folder, _ = done
    parts = ("results", ".vtbench")
    for part in parts:
        shutil.copytree(folder / part, folder.parent / "aside" / part)
    try:
        RESULTS[what](folder)
        assert "torch was imported" in vtbench(folder, *RUN, torch=False).stderr
    finally:
        for part in parts:
            shutil.rmtree(folder / part)
            shutil.move(folder.parent / "aside" / part, folder / part)


def test_a_changed_picture_is_not_finished(done: tuple[Path, list[str]]) -> None:
    """The last test on that run: nobody can make the file what it was."""
    folder, _ = done
    assert vtbench(folder, *RUN, torch=False).returncode == 0
    a_byte(next((folder / "in").glob("*.webp")))
    assert "torch was imported" in vtbench(folder, *RUN, torch=False).stderr


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two files of pictures and one of weights, whose times are settled."""
    (tmp_path / "in").mkdir()
    for name in ("in/a.png", "in/b.png", "w.pt"):
        (tmp_path / name).write_bytes(name.encode())
    time.sleep(files.SETTLED + 0.1)
    return tmp_path


FILES: dict[str, Callable[[Path], object]] = {
    "weights": lambda place: a_byte(place / "w.pt"),
    "picture": lambda place: a_byte(place / "in" / "a.png"),
    "picture more": lambda place: (place / "in" / "c.png").write_bytes(b"c"),
    "picture less": lambda place: (place / "in" / "a.png").unlink(),
    "picture renamed": lambda place: (place / "in" / "a.png").rename(place / "in" / "z.png"),
    "table of texts": lambda place: (place / "in" / "metadata.csv").write_text("file_name,text\n"),
}


@pytest.mark.parametrize("what", FILES)
def test_what_is_asked_names_all_files(what: str, place: Path) -> None:
    before = asked(place)
    assert before is not None
    assert before == asked(place)
    FILES[what](place)
    assert asked(place) != before
    time.sleep(files.SETTLED + 0.1)
    assert asked(place) not in (None, before)


def test_what_lies_behind_a_linked_folder_is_left_to_the_plan(place: Path) -> None:
    """TokBench's `images` and a pipeline's `vae` may be links, which their readers enter."""
    (place / "set").mkdir()
    assert files.stamp(place / "set") == files.stamp(place / "set") is not None
    (place / "set" / "images").symlink_to(place / "in")
    assert files.stamp(place / "set") is None


def asked(place: Path) -> str | None:
    """What a run on the files of a place would leave."""
    tokenizer, task = cards.find_tokenizer("tiny-fsq-f8"), cards.find_task("reconstruction")
    rule = protocols.find_protocol("canonical")
    command = {
        "data": str(place / "in"),
        "weights": [str(place / "w.pt")],
        "diffusers": [],
        "follow_links": False,
        "batch_size": "8",
    }
    return finished.asked(command, tokenizer, finished.surroundings(command, task, rule, place))


SURROUNDINGS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "code": lambda patch: patch.setattr(provenance, "code_digest", lambda: "other"),
    "libraries": lambda patch: patch.setattr(provenance, "versions", lambda: {"torch": "0"}),
    "GPUs": lambda patch: patch.setattr(finished, "_graphics", lambda: ["NVIDIA driver", "Model: another"]),
    "machine": lambda patch: patch.setattr("platform.machine", lambda: "another"),
    "backbones": lambda patch: patch.setattr("vtbench.needs.lacking", lambda *_: "lpips-alex is not on this machine"),
    "variables": lambda patch: patch.setattr(finished, "_CHOSEN", {"CUDA_VISIBLE_DEVICES": "1"}),
}


@pytest.mark.parametrize("what", SURROUNDINGS)
def test_what_is_asked_names_all_surroundings(what: str, monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    before = asked(place)
    assert before is not None
    SURROUNDINGS[what](monkeypatch)
    assert asked(place) not in (None, before)


def test_hashes_are_kept_of_settled_files_as_they_are(tmp_path: Path) -> None:
    old, new, kept = tmp_path / "old", tmp_path / "new", tmp_path / "kept.json"
    old.write_bytes(b"1")
    time.sleep(files.SETTLED + 0.1)
    new.write_bytes(b"2")
    digest, _ = files.sha256(old), files.sha256(new)
    files.keep_hashes(kept)
    said = {name: found for name, _, found in json.loads(kept.read_bytes())}
    assert said[str(old)] == digest
    assert str(new) not in said
    a_byte(old)
    files.recall_hashes(kept)
    assert files.sha256(old) != digest


def test_hashes_that_another_process_kept_meanwhile_are_kept_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, old = tmp_path / "hashes.json", time.time() - 3600
    for name in ("first", "second"):
        (tmp_path / name).write_text(name)
        os.utime(tmp_path / name, (old, old))
        monkeypatch.setattr(files, "_is_settled", lambda stamp: True)
        monkeypatch.setattr(files, "_hashed", {})  # a process of its own
        files.sha256(tmp_path / name)
        files.keep_hashes(place)
    assert [Path(name).name for name, _, _ in json.loads(place.read_text())] == ["first", "second"]
