"""Result files of anybody's: told in one line, or shown as what they are; no table breaks, no terminal obeys them."""

from __future__ import annotations

import copy
import json
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import make_run
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cli import one_line, vtbench

from vtbench import leaderboard, results, validation
from vtbench.cli._work import print_runs
from vtbench.errors import ResultError

CONTENTS = {
    "huge": b'{"scores": [' + b"1," * 25_000_000,
    "deep": b"[" * 200_000,
    "objects": b'{"a":' * 200_000,
    "bytes": bytes(range(256)) * 10,
    "utf16": "{}".encode("utf-16"),
    "number": b'{"schema_version": 3, "images": ' + b"9" * 5000 + b"}",
    "escape": b'{"schema_version": 3, "tokenizer": "\\u001b[31m"}',
    "empty": b"",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder of one run and everything that is none."""
    folder = tmp_path_factory.mktemp("results")
    task = folder / "reconstruction"
    results.write(make_run(), task / "jpeg-q5.json")
    for name, content in CONTENTS.items():
        (task / f"{name}.json").write_bytes(content)
    os.mkfifo(task / "pipe.json")
    with socket.socket(socket.AF_UNIX) as made:
        here = Path.cwd()
        os.chdir(task)  # the path of a socket is short
        made.bind("socket.json")
        os.chdir(here)
    (task / "folder.json").mkdir()
    (task / "device.json").symlink_to("/dev/zero")
    (task / "dangling.json").symlink_to("nothing.json")
    (task / "circle.json").symlink_to("circle.json")
    return folder


ODD = (*CONTENTS, "pipe", "socket", "folder", "device", "dangling", "circle")


def test_leaderboard_and_validate_name_each_in_one_line_and_go_on(folder: Path) -> None:
    board = vtbench("leaderboard", "--results", folder)
    assert board.returncode == 0, board.stderr
    lines = board.stderr.splitlines()
    assert len(lines) == len(ODD) and max(map(len, lines)) < 500
    assert all(line.startswith("vtbench: passed over: ") for line in lines) and "\x1b" not in board.stderr
    for name in ODD:
        assert sum(f"/{name}.json: " in line for line in lines) == 1
    assert "jpeg-q5" in (folder / "LEADERBOARD.md").read_text()
    checked = vtbench("validate", folder)
    assert checked.returncode == 1
    assert checked.stdout.endswith(f"1 runs, {len(ODD)} problems\n")
    assert len(checked.stdout.splitlines()) == len(ODD) + 1


@pytest.mark.parametrize("name", ["huge", "deep", "escape", "pipe", "folder", "device", "circle"])
def test_compare_and_check_end_in_one_line(folder: Path, name: str) -> None:
    odd, good = (folder / "reconstruction" / f"{one}.json" for one in (name, "jpeg-q5"))
    assert f"{name}.json" in one_line(vtbench("compare", odd, good))
    if name in ("huge", "pipe"):
        assert len(one_line(vtbench("check", odd, "--baseline", good, "--max-drop", "psnr=1"))) < 500


# --- runs that are read, whatever they say ----------------------------------------------------------------------------

HOSTILE = "[/x]\n|# ![p](x)\x1b[31m\u202e"
VALUES: list[Any] = [
    None, "", HOSTILE, "Infinity", "-Infinity", "NaN", "../../etc", "/abs", 0, -1, 10**30, 1e308, True, [], {}, "\x00",
    "a" * 3000, {"x": {}}, ["a"], 1.5, {"psnr": {"value": None, "reason": "x", "scored": 0, "expected": 1}},
]  # fmt: skip
KEYS = (HOSTILE, "", "psnr/", "/", "evil", "psnr:floor", "a" * 3000)


def whole() -> dict[str, Any]:
    said: dict[str, Any] = json.loads(results.encode(make_run()))
    said["groups"] = {"cap_height": {"12": {"lpips": said["scores"]["lpips"]}}}
    said["scores"]["contrast/0.25"] = dict(said["scores"]["psnr"])
    return said


def paths(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield above
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from paths(value[key], (*above, key))


def changed(path: tuple[Any, ...], change: Any, *, rename: bool) -> Any:
    said: Any = copy.deepcopy(whole())
    place = said
    for key in path[:-1]:
        place = place[key]
    if rename:
        place[change] = place.pop(path[-1])
    elif path:
        place[path[-1]] = change
    else:
        said = change
    return said


def shown(said: Any, place: Path, capsys: pytest.CaptureFixture[str]) -> bool:
    """Read a summary and draw every table of it; tells whether it was read."""
    (place / "t").mkdir(exist_ok=True)
    path = place / "t" / "x.json"
    path.write_bytes(json.dumps(said).encode("utf-8", "surrogatepass"))
    others = [make_run("control-identity"), make_run("webp")]
    try:
        run = results.read_run(path)
    except ResultError as error:
        assert "\n" not in str(error) and len(str(error)) < 700
        validation.validate(place)
        return False
    capsys.readouterr()
    print_runs([run, others[0]])
    drawn = [leaderboard.to_markdown([run, *others]), leaderboard.to_csv([run, *others]), capsys.readouterr().out]
    for text in drawn:
        assert not any(bad in text for bad in ("\x1b", "\u202e", "\n|#", "\n# !"))
    validation.validate(place)
    return True


def test_any_change_of_a_summary_is_refused_or_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    every = [(path, change, False) for path in paths(whole()) for change in VALUES]
    every += [(path, key, True) for path in paths(whole()) if path and isinstance(path[-1], str) for key in KEYS]
    chosen = random.Random(0).sample(every, 700)
    chosen += [one for one in every if one[0] in (("primary",), ("scores", "psnr", "floor"), ("task",))]
    read = sum(shown(changed(*one[:2], rename=one[2]), tmp_path, capsys) for one in chosen)
    assert 50 < read < len(chosen)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.sampled_from(sorted(whole())), JSON, st.dictionaries(st.text(max_size=8), JSON, max_size=2))
def test_anything_in_a_field_is_refused_in_one_line_or_read(field: str, value: Any, beside: dict[str, Any]) -> None:
    said = whole() | beside | {field: value}
    try:
        content = json.dumps(said).encode("utf-8", "surrogatepass")
        run = results.Run.model_validate_json(content)
    except ValueError as error:
        assert str(error)
    else:
        leaderboard.to_markdown([run, make_run("webp")])
        leaderboard.to_csv([run, make_run("webp")])


def test_a_metric_that_ranks_and_is_none_is_no_rank() -> None:
    (found,) = leaderboard.tables([make_run(primary="nonsense")]).values()
    assert (found[0].rank, found[0].why) == (None, "nonsense was not scored")
    text = leaderboard.to_markdown([make_run(primary="nonsense"), make_run("webp")])
    assert "nonsense was not scored" in text


def test_a_floor_of_one_run_alone_leaves_the_others_columns_where_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    scores = dict(make_run().scores)
    scores["psnr"] = scores["psnr"].model_copy(update={"floor": 9.0})
    print_runs([make_run(scores=scores), make_run("webp")])
    lines = capsys.readouterr().out.splitlines()
    head = next(number for number, line in enumerate(lines) if "psnr floor" in line)
    assert [line.split()[-2:] for line in lines[head + 1 : head + 3]] == [["9.00", "32/32"], ["-", "32/32"]]
