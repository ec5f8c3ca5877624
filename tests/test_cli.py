from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import resource
import shutil
import subprocess
import sys
import termios
import time
from pathlib import Path

import pandas
import pytest
from builders import make_run, write_pictures
from rich.console import Console

from vtbench import __version__, cards, files, results
from vtbench.cli import _chosen, _terminal

LONG = "x" * 300
"""Longer than a file's name may be."""

VTBENCH = [sys.executable, "-m", "vtbench"]


def vtbench(*arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*VTBENCH, *map(str, arguments)],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200", **environment},
    )


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


# --- looking ----------------------------------------------------------------------------------------------------------


def test_version_and_help() -> None:
    assert vtbench("--version").stdout.strip() == f"vtbench {__version__}"
    said = vtbench("--help").stdout
    for command in (
        "list",
        "show",
        "run",
        "demo",
        "leaderboard",
        "validate",
        "check",
        "report",
        "plot",
        "sheet",
        "fetch",
        "cache",
        "doctor",
    ):
        assert f"\n  {command} " in said


@pytest.mark.parametrize("what", ["tokenizers", "tasks", "protocols", "metrics"])
def test_lists_say_the_same_to_people_and_programs(what: str) -> None:
    rows = json.loads(vtbench("list", what, "--json").stdout)
    said = vtbench("list", what).stdout
    assert rows
    for row in rows:
        assert row["name"] in said


def test_show_explains_every_kind_of_name() -> None:
    assert "TencentARC/IBQ-Tokenizer-262144" in vtbench("show", "ibq").stdout
    assert "geometry.size" in vtbench("show", "text").stdout
    assert "255 v + 0.5 rounded down" in vtbench("show", "canonical").stdout
    shown = vtbench("show", "seed-voken").stdout
    assert "does not antialias" in " ".join(shown.split())
    assert "means of batches of 4" in " ".join(shown.split())
    assert "Gaussian" in vtbench("show", "ssim").stdout


def test_show_names_every_cached_file_of_a_card_and_its_values_a_pixel(tmp_path: Path) -> None:
    files = [tmp_path / "weights" / f"taef2_{part}.pth" for part in ("encoder", "decoder")]
    (tmp_path / "weights").mkdir()
    for file in files:
        file.touch()
    said = vtbench("show", "taef2", VTBENCH_CACHE=str(tmp_path), COLUMNS="400").stdout
    assert f"{files[0]}, {files[1]}" in said
    assert re.search(r"values per pixel at 256 +0\.5000\s", said)


def test_doctor_says_what_is_there_and_what_mends_the_rest(tmp_path: Path) -> None:
    endpoint = {"HF_ENDPOINT": "http://127.0.0.1:9", "TORCH_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path)}
    done = vtbench("doctor", **endpoint)
    assert done.returncode == 0, done.stderr
    assert "http://127.0.0.1:9 can't be reached" in done.stdout
    assert "vtbench fetch rfid" in done.stdout
    assert "vtbench fetch NAME" in done.stdout
    (lacking,) = re.findall(r"^not cached +(.*\S)", done.stdout, flags=re.MULTILINE)
    assert "ibq-262144" in lacking.split(", ")


# --- what a user can mend ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "twice", [["--data", "a", "--data=b"], ["--step", "5", "--step", "7"], ["--limit=1", "--limit=2"]]
)
def test_an_option_of_one_value_is_refused_twice(twice: list[str]) -> None:
    """The last value would pass for both."""
    done = vtbench("run", "-t", "jpeg", "--task", "reconstruction", *twice)
    assert done.returncode == 2
    assert f"{twice[0].partition('=')[0]} is given 2 times; it takes one value" in done.stderr


def test_the_help_names_every_command_in_whole_sentences() -> None:
    said = " ".join(vtbench("--help", COLUMNS="80").stdout.split())
    assert "..." not in said.partition("Commands:")[2]
    assert said.index(" run Run tokenizers") < said.index(" demo ") < said.index(" export ")


def test_a_live_model_s_kind_is_no_card_s(tmp_path: Path) -> None:
    (tmp_path / "seen.toml").write_text(
        'name = "seen"\nfamily = "x"\nnetwork = "codec"\nkind = "opaque"\ntitle = "x"\n[input]\nrange = [-1, 1]\n'
    )
    assert "opaque is a live model" in one_line(vtbench("show", "./seen.toml", cwd=tmp_path))


def test_a_wide_table_turns_on_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    heads, row = ["tokenizer", *(f"metric{number}" for number in range(12))], ["jpeg-q10", *map(str, range(12))]
    for terminal, first in ((True, "tokenizer  jpeg-q10"), (False, "tokenizer  metric0")):
        monkeypatch.setattr(_terminal, "console", Console(width=80, force_terminal=terminal, color_system=None))
        _terminal.table(heads, [row], turns=True)
        lines = capsys.readouterr().out.splitlines()
        assert " ".join(lines[0].split()).startswith(" ".join(first.split()))
        assert max(map(len, map(str.rstrip, lines))) < 80 or not terminal


def test_missing_weights_without_a_network_end_within_seconds(tmp_path: Path) -> None:
    started = time.monotonic()
    done = vtbench(
        *("run", "-t", "ibq", "--task", "text", "--out", tmp_path / "r", "--work", tmp_path / "w"),
        HF_ENDPOINT="http://127.0.0.1:9",
        HF_HUB_CACHE=str(tmp_path / "hub"),
    )
    said = one_line(done)
    assert time.monotonic() - started < 5
    for part in ("imagenet256_262144.ckpt", "TencentARC/IBQ-Tokenizer-262144", "vtbench fetch ibq-262144", "--weights"):
        assert part in said
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "-t", "ibqq", "--task", "text"], "did you mean"),
        (["run", "-t", "jpeg", "--task", "txt"], "no task is called 'txt'; did you mean text"),
        (["run", "-t", "jpeg", "--task", "text", "--protocol", "mine"], "expected one of: canonical"),
        (["run", "-t", "jpeg", "--task", "text", "--data", "."], "holds no picture"),
        (["run", "-t", "jpeg", "--task", "reconstruction", "--data", "/nonexistent"], "/nonexistent"),
        (["run", "-t", "tiny", "--task", "text", "--weights", "/nonexistent"], "no such file"),
        (["run", "-t", "tiny", "--task", "text", "--device", "cuda:9"], "can't be used here"),
        (["run", "-t", "jpeg", "--task", "reconstruction", "--require", "rfid"], "vtbench fetch rfid"),
        (["run", "-t", "jpeg", "--task", "reconstruction", "--require", "cer"], "does not measure it"),
        (["run", "-t", "./broken.toml", "--task", "text"], "broken.toml: family: missing"),
        (["show", "nothing"], "nothing is called 'nothing'"),
        (["show", "seed_voken"], "did you mean seed-voken, seed-voken-tv?"),
        (["show", "PSRN"], "did you mean psnr?"),
        (["leaderboard", "--results", "/nonexistent"], "no such folder"),
        (["run", "--task", "text"], "no tokenizer is named"),
        (["run", "-t", "jpeg", "--task", "text", "--ocr", "eye"], "no such OCR engine"),
        (["run", "-t", "jpeg", "--task", "text", "--shards", "5/4"], "expected I/N with I from 1 to N"),
        (["run", "-t", "jpeg", "--task", "text", "--name", "x"], "--name says which weights these are"),
        (["validate", "/nonexistent"], "no such folder"),
        (["fetch", "nothing"], "nothing to fetch is called 'nothing'"),
        (["fetch", "hub:a/b"], "hub:a/b"),
        (["list", "--family", "IBQ"], "did you mean ibq?"),
        (["run", "-t", "jpeg", "--task", "text", "--metric", "LPIPS"], "did you mean lpips"),
        (["run", "-t", "tiny", "--task", "text", "--device", "gpu"], "expected auto, cpu, cuda or cuda:1"),
        (["run", "-t", "jpeg", "--task", "text", "--diffusers", "a/b", "--weights", "w.pt"], "belongs to one"),
        (["run", "--diffusers", ".", "--task", "text", "--weights", "synthetic"], "holds weights of its own"),
        (["run", "-t", "jpeg", "--task", "text", "--data", LONG], "does not exist; expected a folder"),
        (["run", "-t", "jpeg", "--task", "text", "--data", f"{LONG}.tar"], "File name too long"),
        (["run", "-t", "jpeg", "--task", "text", "--data", f"{LONG}.parquet"], "expected a parquet file"),
        (["run", "-t", "jpeg", "--task", "text-tokbench", "--data", LONG], "/images: does not exist"),
        (["run", "-t", "jpeg", "--task", "text", "--cards", LONG], "no such folder"),
        (["run", "-t", "jpeg", "--task", "latents", "--features", LONG], "no folder of a foundation model"),
        (["run", "-t", "jpeg", "--task", "latents", "--features", f"{LONG}.npz"], "no such file of features"),
        (["run", "--diffusers", LONG, "--task", "text"], "no such folder, and not OWNER/NAME"),
        (["compare", LONG, LONG], "File name too long"),
        (["report", LONG, "--results", LONG], "no such folder"),
        (["validate", LONG], "no such folder"),
        (["check", "/nonexistent", "--baseline", "/nonexistent", "--max-drop", "psnr=1"], "can't be read"),
    ],
)
def test_what_a_user_can_mend_is_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "broken.toml").write_text('name = "broken"\nnetwork = "codec"\nkind = "codec"\ntitle = "x"\n')
    (tmp_path / "w.pt").write_bytes(b"not looked at")
    said = one_line(vtbench(*arguments, cwd=tmp_path, TORCH_HOME=str(tmp_path)))
    assert message in said


def test_two_of_one_name_are_refused_naming_both(tmp_path: Path) -> None:
    cards_of = {"tokenizers": ("-t", "jpeg-q5"), "tasks": ("--task", "reconstruction")}
    for kind, (option, name) in cards_of.items():
        said = Path(cards.folder(kind) / f"{name}.toml").read_text().replace(f'name = "{name}"', 'name = "own"')
        for folder, title in (("a", "One"), ("b", "Another")):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / "own.toml").write_text(re.sub('title = ".*"', f'title = "{title}"', said))
        rest = ("--task", "reconstruction") if option == "-t" else ("-t", "jpeg")
        told = one_line(vtbench("run", option, "a/own.toml", option, "b/own.toml", *rest, cwd=tmp_path))
        assert told == "vtbench: a/own.toml and b/own.toml are both called own; run them one at a time, or rename one\n"
        find = _chosen.tokenizers_of if option == "-t" else _chosen.tasks_of
        more = ([], None) if option == "-t" else (None,)
        same = [str(tmp_path / "a" / "own.toml"), str(tmp_path / "b" / ".." / "a" / "own.toml")]
        assert [card.title for card in find(same, *more)] == ["One"]


@pytest.mark.parametrize(
    ("file", "step"),
    [
        ("last-step=20000.ckpt", 20000),
        ("runs/step-3/iter_20.pth.tar", 20),
        ("epoch=3-step=20000-val=0.25.ckpt", 20000),
        ("global_step20000", 20000),
        ("vq_iter_400k.pth", 400_000),
        ("step-1.5M.safetensors", 1_500_000),
        ("step-1.5k", 1500),
        ("step_1e5.pt", 100_000),
        ("step_20000.0.pt", None),
        ("step-1.5", None),
        ("step-20,000.pt", None),
        ("step-20m.pt", None),
        ("iter_400x.pth", None),
        ("step=20_000.pt", None),
        ("step_100_2024.pt", 100),
        ("globalstep7.pt", 7),
        ("lastStep=7.pt", 7),
        ("multistep_4.pt", None),
        ("onestep-2.pt", None),
        ("step_1e999.pt", None),
        ("model.ckpt", None),
    ],
)
def test_the_step_is_read_from_a_files_name_where_it_is_a_number(file: str, step: float | None) -> None:
    assert _chosen.step_of(file) == step


def test_unwritable_folder_is_told_before_anything_is_computed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for option in ("--out", "--work"):
        done = vtbench("run", "-t", "jpeg", "--task", "reconstruction", option, tmp_path / "file" / "x", cwd=tmp_path)
        assert "can't be written" in one_line(done)


def test_size_that_a_network_cannot_take_names_both(tmp_path: Path) -> None:
    card = Path(cards.folder("tokenizers") / "jpeg-q5.toml").read_text()
    (tmp_path / "fixed.toml").write_text(card.replace('"jpeg-q5"', '"fixed"') + "sizes = [512]\n")
    said = one_line(vtbench("run", "-t", tmp_path / "fixed.toml", "--task", "reconstruction", cwd=tmp_path))
    assert "fixed takes 512x512 pixels only, reconstruction has 256x256" in said


@pytest.mark.parametrize("pair", ["psnr", "psnr=", "psnr=much", "=1"])
def test_malformed_tolerance_is_one_line(tmp_path: Path, pair: str) -> None:
    folder = tmp_path / "run"
    results.write(make_run(), folder / results.RUN)
    (folder / results.IMAGES).write_bytes(b"")
    assert "--max-drop" in one_line(vtbench("check", folder, "--baseline", folder, "--max-drop", pair)) or pair == "=1"


# --- the main job -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tokenizers on six pictures of the user's, with one that is broken."""
    place = tmp_path_factory.mktemp("job")
    folder = write_pictures(place / "cats", 6)
    (folder / "003.png").write_bytes(b"broken")
    task = ["--task", "reconstruction", "--data", folder, "--out", place / "results", "--work", place / "work"]
    done = vtbench("run", "-t", "jpeg", "-t", "tiny", *task)
    assert done.returncode == 0, done.stderr
    assert "5/6" in done.stdout
    assert "6 found, 5 scored, 1 failed" in done.stdout
    assert "vtbench fetch rfid" in done.stdout or "at least" in done.stdout
    return place


def test_summaries_and_tables_are_where_they_should_be(place: Path) -> None:
    found = results.read_runs(place / "results")
    assert [(run.task, run.tokenizer) for run in found] == [
        ("reconstruction@cats", "jpeg-q75"),
        ("reconstruction@cats", "tiny-fsq-f8"),
    ]
    table = results.read_images(place / "work" / "reconstruction@cats" / "tiny-fsq-f8" / results.IMAGES)
    assert len(table) == 6
    assert table["lpips"].notna().sum() == 5


def test_leaderboard_is_written_twice_the_same(place: Path) -> None:
    assert vtbench("leaderboard", "--results", place / "results").returncode == 0
    first = (place / "results" / "leaderboard.csv").read_bytes()
    assert vtbench("leaderboard", "--results", place / "results").returncode == 0
    assert (place / "results" / "leaderboard.csv").read_bytes() == first
    assert "reconstruction@cats" in (place / "results" / "LEADERBOARD.md").read_text()


def test_gate_passes_against_itself_and_fails_against_better(place: Path, tmp_path: Path) -> None:
    work = place / "work" / "reconstruction@cats"
    itself = vtbench("check", work / "tiny-fsq-f8", "--baseline", work / "tiny-fsq-f8", "--max-drop", "psnr=0")
    assert itself.returncode == 0, itself.stdout + itself.stderr
    junit = tmp_path / "junit.xml"
    gate = ["--max-drop", "psnr=0.1", "--max-drop", "lpips=0.01", "--junit", junit]
    worse = vtbench("check", work / "tiny-fsq-f8", "--baseline", work / "jpeg-q75", *gate)
    assert worse.returncode == 1, worse.stdout + worse.stderr
    assert "FAILED" in worse.stdout
    assert 'failures="' in junit.read_text()
    by_json = vtbench(
        *("check", place / "results" / "reconstruction@cats" / "tiny-fsq-f8.json", "--work", place / "work"),
        *("--baseline", work / "tiny-fsq-f8", "--max-drop", "psnr=0"),
    )
    assert by_json.returncode == 0, by_json.stderr


def test_synthetic_weights_run_and_are_not_ranked(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "cats", 2)
    done = vtbench(
        *("run", "-t", "tiny", "--weights", "synthetic", "--task", "reconstruction", "--data", folder), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "(made-up weights)" in done.stdout
    (run,) = results.read_runs(tmp_path / "results")
    assert run.weights == "synthetic"


@pytest.mark.parametrize(
    "environment", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "cp1252"}, {"TERM": "dumb"}]
)
def test_a_terminal_that_shows_less_never_changes_the_exit_code(place: Path, environment: dict[str, str]) -> None:
    for arguments in (["list", "metrics"], ["show", "psnr"], ["leaderboard", "--results", place / "results"]):
        done = vtbench(*arguments, **environment)
        assert done.returncode == 0, done.stderr


def test_a_closed_output_is_no_traceback() -> None:
    done = subprocess.run(
        f"{sys.executable} -m vtbench list --json | head -1", shell=True, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr


HOSTILE_CARD = """
name = "odd"
family = "jpeg [/x]"
network = "codec"
kind = "codec"
title = "JPEG [/x] \\u001b[31mred\\nnew line | ![p](http://x/y.png) # head"
description = "\\u001b]0;owned\\u0007 [bold]x[/bold] [/x] \\u202e"
license = "MIT\\u001b[2J"
[config]
format = "jpeg"
quality = 5
[input]
range = [0.0, 255.0]
"""


def test_a_card_of_marks_and_escape_sequences_is_shown_and_never_obeyed(tmp_path: Path) -> None:
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "odd.toml").write_text(HOSTILE_CARD)
    folder = write_pictures(tmp_path / "cats [x]\n\x1b[31m", 2)
    (folder / "000.png").rename(folder / "[bold]\n\x1b[31m|.png")
    (folder / "001.png").write_bytes(b"broken")
    with_cards = ["--cards", tmp_path / "cards"]
    run = ["run", "-t", "odd", *with_cards, "--task", "kodak", "--data", folder]
    said = []
    for command in (["list", *with_cards], ["show", "odd", *with_cards], run, ["leaderboard"]):
        done = vtbench(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout + done.stderr)
    said.append((tmp_path / "results" / "LEADERBOARD.md").read_text())
    assert not any(sign in text for text in said for sign in ("\x1b", "\x07", "\u202e"))
    assert r"JPEG [/x] \x1b[31mred new line" in said[1]
    assert "2 found, 1 scored, 1 failed" in said[2]


def on_terminal(*arguments: object, columns: int) -> str:
    """What a command prints on a terminal of so many columns, without its colours."""
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (25, columns))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [*VTBENCH, *map(str, arguments)],
        **{"stdin": subprocess.DEVNULL, "stdout": its, "stderr": its},
        env={**environment, "TERM": "xterm"},
    )
    os.close(its)
    said = b""
    with contextlib.suppress(OSError):  # Linux' way of saying that the other end is closed
        while part := os.read(ours, 1 << 16):
            said += part
    os.close(ours)
    assert process.wait() == 0, said
    return re.sub(r"\x1b\[[0-9;]*m", "", said.decode())


@pytest.mark.parametrize("what", ["tokenizers", "tasks", "protocols", "metrics"])
def test_lists_fit_a_narrow_terminal(what: str) -> None:
    said = on_terminal("list", what, columns=80)
    assert max(len(line.rstrip()) for line in said.splitlines()) <= 80
    rows = json.loads(vtbench("list", what, "--json").stdout)
    for row in rows:  # folded between words, and none of them lost
        assert row["name"] in said.split()
        assert set(row.get("description", "").split()) <= set(said.split())
    piped = vtbench("list", what, COLUMNS="80").stdout.partition("\n\n")[0]
    assert len(piped.splitlines()) == 1 + len(rows)
    assert all(row.get("description", "") in piped for row in rows)


def test_a_list_gives_rates_licences_and_parity_in_80_columns() -> None:
    said = vtbench("list", COLUMNS="80").stdout
    assert max(len(line.rstrip()) for line in said.splitlines()) <= 80
    row = next(line.split() for line in said.splitlines() if line.startswith("tiny-fsq-f8 "))
    assert row == ["tiny-fsq-f8", "discrete", "1024", "0.1890", "Apache-2.0", "yes", "-"]
    row = next(line.split() for line in said.splitlines() if line.startswith("sdxl-vae "))
    assert row == ["sdxl-vae", "continuous", "1024", "0.0625", "no", "small"]


def test_the_whole_registry_is_listed_in_under_a_second_of_work() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert len(vtbench("list").stdout.splitlines()) > 100
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2  # 0.7 s, on a machine at ease


def run_breaking(
    folder: Path, encode: str, *more: object, begin: str = "super().__init__()"
) -> subprocess.CompletedProcess[str]:
    """Run the network `breaks`, of a package of its own, on two pictures of two sizes."""
    (folder / "breaks.py").write_text(
        "import os\nfrom torch import nn\nfrom vtbench.errors import WeightsError\n"
        "from vtbench.types import Codes, Strict\n"
        "class Config(Strict): pass\n"
        "class Network(nn.Module):\n"
        f"    def __init__(self, config): {begin}\n"
        f"    def encode(self, x): {encode}\n"
        "    def decode(self, codes): return codes.latent\n"
    )
    info = folder / "breaks-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: breaks\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vtbench.networks]\nbreaks = breaks\n")
    (folder / "cards").mkdir()
    (folder / "cards" / "breaks.toml").write_text(
        'name = "breaks"\nfamily = "x"\nnetwork = "breaks"\nkind = "continuous"\ntitle = "x [/x]"\n'
    )
    pictures = write_pictures(folder / "cats", 2)
    return vtbench(
        *("run", "--cards", folder / "cards", "--task", "reconstruction", "--data", pictures, *more),
        cwd=folder,
        PYTHONPATH=os.pathsep.join((str(folder), os.environ.get("PYTHONPATH", ""))),
    )


@pytest.mark.parametrize(
    ("encode", "code", "said"),
    [
        ("raise RuntimeError('planted')", 3, "RuntimeError: planted"),
        ("return Codes(latent=x * float('nan'))", 2, "all 2 pictures failed"),
    ],
)
def test_what_is_wrong_with_one_network_leaves_the_others_their_runs(
    encode: str, code: int, said: str, tmp_path: Path
) -> None:
    done = run_breaking(tmp_path, encode, "-t", "breaks", "-t", "jpeg")
    assert done.returncode == code
    assert said in done.stderr
    assert [run.tokenizer for run in results.read_runs(tmp_path / "results")] == ["jpeg-q75"]


def test_an_exception_ends_any_command_with_its_traceback_and_a_code_of_its_own(place: Path, tmp_path: Path) -> None:
    """Python would end with 1, by which the gate says that a check failed."""
    alone = run_breaking(tmp_path, "raise RuntimeError('planted')", "-t", "breaks")
    assert alone.returncode == 3, alone.stderr
    assert "Traceback" in alone.stderr and alone.stderr.endswith("RuntimeError: planted\n")
    whole, odd = place / "work" / "reconstruction@cats" / "jpeg-q75", tmp_path / "odd"
    shutil.copytree(whole, odd)
    table = pandas.read_parquet(odd / results.IMAGES)
    table.assign(psnr="many").to_parquet(odd / results.IMAGES)
    said = json.loads((odd / results.RUN).read_text())
    said["digests"]["table"] = files.sha256(odd / results.IMAGES)
    (odd / results.RUN).write_text(json.dumps(said))
    gate = vtbench("check", odd, "--baseline", whole, "--max-drop", "psnr=0")
    assert gate.returncode == 3 and "Traceback" in gate.stderr, gate.stderr


@pytest.mark.parametrize(
    ("encode", "code", "said"),
    [
        ("raise RuntimeError('planted')", 3, "RuntimeError: planted"),
        ("return Codes(latent=x * float('nan'))", 2, "breaks on reconstruction@cats: all 2 pictures failed"),
    ],
)
def test_what_is_wrong_with_one_network_of_one_process_is_said_once_by_the_command(
    encode: str, code: int, said: str, tmp_path: Path
) -> None:
    tokenizers = ("jpeg", "breaks", "webp", "avif-q20")  # two for each process
    named = [part for one in tokenizers for part in ("-t", one)]
    done = run_breaking(tmp_path, encode, *named, "--processes", 2)
    assert done.returncode == code, done.stderr
    assert done.stderr.count(f"vtbench: {said}") + done.stderr.count(f"vtbench: breaks on reconstruction: {said}") == 1
    assert done.stderr.count("see above: breaks on reconstruction") == 1
    ran = sorted(run.tokenizer for run in results.read_runs(tmp_path / "results"))
    assert ran == ["avif-q20", "jpeg-q75", "webp-q75"]


def test_what_is_wrong_with_one_task_leaves_a_network_the_others(tmp_path: Path) -> None:
    fails = "return Codes(latent=x if x.shape[-1] == 256 else x * float('nan'))"
    done = run_breaking(tmp_path, fails, "-t", "breaks", "--task", "kodak", "--task", "detail")
    assert done.returncode == 2
    assert "breaks on kodak@cats: all 2 pictures failed" in done.stderr
    assert "without a result, see above: breaks on kodak\n" in done.stderr
    ran = {run.task.partition("@")[0] for run in results.read_runs(tmp_path / "results")}
    assert ran == {"reconstruction", "detail"}


def test_weights_that_one_process_lacks_are_one_line_and_leave_the_others_their_runs(tmp_path: Path) -> None:
    """In the last section of the command: what comes after it in that process hides nothing."""
    lacks = "super().__init__(); 'VTBENCH_LOCAL_RANK' in os.environ and self.lack()"
    lacks += "\n    def lack(self): raise WeightsError('no weights here')"
    own = ("-t", "jpeg", "-t", "webp", "-t", "breaks", "--processes", 2)  # the third is shared by both processes
    done = run_breaking(tmp_path, "return Codes(latent=x)", *own, begin=lacks)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("no weights here") == 1 and "Traceback" not in done.stderr, done.stderr
    assert sorted(run.tokenizer for run in results.read_runs(tmp_path / "results")) == ["jpeg-q75", "webp-q75"]


def test_a_package_that_lacks_is_said_of_its_tokenizer_alone(tmp_path: Path) -> None:
    for name in ("transformers", "diffusers", "far"):
        (tmp_path / f"{name}.py").write_text("import nowhere\n")
    info = tmp_path / "far-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: far\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vtbench.networks]\nfar = far\n")
    (tmp_path / "cards").mkdir()
    configs = {"far": "", "vfmvae": "latent_channels = 32", "diffusers": 'class = "AutoencoderKL"'}
    for name, config in configs.items():
        said = f'name = "{name}"\nfamily = "x"\nnetwork = "{name}"\nkind = "continuous"\ntitle = "x"\n'
        (tmp_path / "cards" / f"{name}.toml").write_text(f"{said}[config]\n{config}\n")
    done = vtbench(
        *("run", *(part for name in (*configs, "jpeg") for part in ("-t", name)), "--cards", tmp_path / "cards"),
        *("--task", "reconstruction", "--data", write_pictures(tmp_path / "cats", 1)),
        cwd=tmp_path,
        PYTHONPATH=os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", ""))),
    )
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if "nowhere" in line]
    for name, line in zip(configs, lines, strict=True):
        assert line.startswith(f"vtbench: {name}: ") and "install" in line
    assert [run.tokenizer for run in results.read_runs(tmp_path / "results")] == ["jpeg-q75"]


def test_validate_names_each_problem_and_the_leaderboard_shows_the_rest(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    shutil.copytree(place / "results", folder)
    task = folder / "reconstruction@cats"
    good = json.loads((task / "jpeg-q75.json").read_text())
    assert vtbench("validate", folder).returncode == 0

    def put(name: str, **change: object) -> None:
        (task / f"{name}.json").write_text(json.dumps(good | change))

    put("copy")
    put("old", schema_version=2)
    put("version", tokenizer="version", task_version=9, digests=good["digests"] | {"plan": "p"})
    put("tampered", tokenizer="tampered", images=5, digests=good["digests"] | {"plan": "q", "table": None})
    (task / "broken.json").write_text("{")
    (task / "nan.json").write_text(json.dumps(good).replace('"value": ', '"value": NaN, "was": ', 1))
    done = vtbench("validate", folder)
    assert done.returncode == 1, done.stderr
    for name, said in (
        ("copy.json", "belongs at reconstruction@cats/jpeg-q75.json"),
        ("copy.json", "is the same run as"),
        ("old.json", "another version of vtbench"),
        ("version.json", "has version 9"),
        ("tampered.json", "states no digest of table"),
        ("broken.json", "not the summary of a run"),
        ("nan.json", "not the summary of a run"),
    ):
        assert any(name in line and said in line for line in done.stdout.splitlines()), (name, said, done.stdout)
    board = vtbench("leaderboard", "--results", folder)
    assert board.returncode == 0
    assert "passed over" in board.stderr and "broken.json" in board.stderr
    assert "tiny-fsq-f8" in (folder / "LEADERBOARD.md").read_text()


def test_cache_shows_what_is_kept_and_deletes_what_it_is_told(tmp_path: Path) -> None:
    work, home = tmp_path / "work", tmp_path / "home"
    for path in (work / results.ORIGINALS / "features-1" / "a.npy", home / "weights" / "b.pth"):
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(3_000_000))
    busy, idle = work / "text" / "busy" / "shards-1", work / "text" / "idle" / "shards-1"
    for folder in (busy, idle):
        folder.mkdir(parents=True)
        (folder / "00000.parquet").write_bytes(b"x")
    places = {"VTBENCH_CACHE": str(home)}
    shown = vtbench("cache", "--work", work, **places).stdout
    assert [line.split()[:3] for line in shown.splitlines()[1:]] == [
        ["weights", "1", "3.0"],
        ["backbones", "0", "0.0"],
        ["originals", "1", "3.0"],
        ["shards", "2", "0.0"],
    ]
    with files.lock(busy.parent / "in-use", shared=True, wait=1, purpose="a run"):
        done = vtbench("cache", "--work", work, "--empty", "originals", "--empty", "shards", **places)
    assert "busy/shards-1 stays: a run is at work there" in done.stderr
    assert busy.is_dir()
    assert not idle.exists()
    assert not (work / results.ORIGINALS).exists()
    assert (home / "weights" / "b.pth").is_file()


def test_all_leaves_out_what_takes_pictures_of_another_size(tmp_path: Path) -> None:
    """And says so: one tokenizer of fixed size must not keep the others from running."""
    write_pictures(tmp_path / "in", 1)
    card = (Path(__file__).parent.parent / "tokenizers" / "jpeg-q5.toml").read_text()
    (tmp_path / "fixed.toml").write_text(
        card.replace('"jpeg-q5"', '"fixed"').replace("[input]", "[input]\nsizes = [512]")
    )
    done = vtbench(
        *("run", "-t", "all", "--cards", tmp_path, "--task", "kodak", "--data", tmp_path / "in", "--limit", 1),
        *("--out", tmp_path / "r", "--work", tmp_path / "w"),
        HF_HOME=str(tmp_path / "home"),
        XDG_CACHE_HOME=str(tmp_path / "cache"),
    )
    said = next(line for line in done.stderr.splitlines() if "fixed" in line)
    assert said.startswith("vtbench: passed over: fixed takes 512x512 pixels only, kodak has")
    assert list((tmp_path / "r").glob("kodak*/jpeg-q5.json")), done.stderr
    assert done.returncode == 0


def test_a_list_of_a_family_is_of_that_family_or_names_those_there_are() -> None:
    tasks = json.loads(vtbench("list", "tasks", "--family", "text", "--json").stdout)
    assert {"text", "text-512"} <= {row["name"] for row in tasks} and "detail" not in {row["name"] for row in tasks}
    assert "expected one of: atoken" in one_line(vtbench("list", "--family", "tiny"))
    assert "metrics are of no family" in one_line(vtbench("list", "metrics", "--family", "text"))


def test_the_last_line_of_a_run_names_the_command_that_shows_it(tmp_path: Path) -> None:
    said = ("run", "-t", "jpeg", "--task", "reconstruction", "--limit", 1, "--metric", "psnr", "--work", tmp_path / "w")
    done = vtbench(*said, "--out", tmp_path / "my results")
    assert f"`vtbench leaderboard --results '{tmp_path}/my results'` makes the tables" in done.stdout
    assert vtbench("leaderboard", "--results", tmp_path / "my results").returncode == 0
    assert "makes the tables" in vtbench(*said, cwd=tmp_path).stdout
    part = vtbench(*said[:-1], tmp_path / "v", "--out", tmp_path / "none", "--shards", "2/2")
    assert part.returncode == 0 and "Summaries" not in part.stdout


def test_a_name_for_weights_of_another_form_is_refused_before_they_are_opened(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"not looked at")
    said = vtbench("run", "-t", "tiny", "--task", "reconstruction", "--weights", tmp_path / "w.pt", "--name", "../x")
    assert one_line(said).startswith("vtbench: --name '../x': expected letters")
