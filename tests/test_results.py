from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
from builders import make_run
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from vtbench import files, results
from vtbench.errors import ResultError
from vtbench.results import Score, summarise
from vtbench.types import ROLES, Key, Role


def test_run_survives_its_file_with_infinity(tmp_path: Path) -> None:
    scores = {"psnr": Score(value=math.inf, scored=2, expected=2, infinite=2)}
    run = make_run(scores=scores, primary="psnr")
    results.write(run, tmp_path / "a" / "run.json")
    assert results.read_run(tmp_path / "a" / "run.json") == run
    assert math.isinf(results.read_run(tmp_path / "a" / "run.json").scores["psnr"].value or 0)


def test_missing_value_needs_a_reason_and_the_other_way_round() -> None:
    with pytest.raises(ValidationError, match="needs a reason"):
        Score(value=None, scored=0, expected=3)
    with pytest.raises(ValidationError, match="needs a reason"):
        Score(value=1.0, reason="why", scored=3, expected=3)


def test_mean_counts_what_was_scored() -> None:
    assert summarise([1.0, None, 3.0], 3, "no").model_dump() == {
        "value": 2.0,
        "reason": None,
        "scored": 2,
        "expected": 3,
        "infinite": 0,
        "floor": None,
        "low": 1.0,
        "high": 3.0,
    }
    assert summarise([1.0, None, 3.0], 3, "no", interval=False).low is None
    assert summarise([None, None], 2, "no picture").value is None
    assert summarise([], 0, "no picture").reason == "no picture"


def test_infinite_psnr_counts_the_cap_beside_finite_values() -> None:
    mixed = summarise([math.inf, 20.0], 2, "no", cap=100.0)
    assert (mixed.value, mixed.infinite) == (60.0, 1)
    assert summarise([math.inf, math.inf], 2, "no", cap=100.0).value == math.inf
    uncapped = summarise([math.inf, 20.0], 2, "no")  # a metric without a cap
    assert (uncapped.value, uncapped.low, uncapped.infinite) == (math.inf, None, 1)


def test_a_finite_value_counts_no_more_than_an_infinite_one() -> None:
    """One level of one pixel is 101 dB at 256 px: the order of equal, nearly equal and other pictures holds."""
    perfect, nearly, other = (
        summarise(values, 2, "no", cap=100.0).value or 0.0
        for values in ([math.inf, math.inf], [math.inf, 101.07], [101.07, 60.0])
    )
    assert perfect > nearly > other == 80.0
    assert summarise([101.07, 101.07], 2, "no", cap=100.0).value == nearly == 100.0
    assert summarise([101.07, 60.0], 2, "no").value == pytest.approx(80.535)  # a metric without a cap
    assert summarise([-101.0, -60.0], 2, "no", cap=-100.0).value == -80.0


def test_the_cap_is_for_infinite_values_of_its_sign() -> None:
    for cap in (None, 100.0):
        broken = summarise([-math.inf, 20.0], 2, "no", cap=cap)
        assert (broken.value, broken.scored, broken.infinite, broken.low) == (-math.inf, 2, 1, None)
        assert summarise([-math.inf, -math.inf], 2, "no", cap=cap).value == -math.inf
    both = summarise([-math.inf, math.inf, 20.0], 3, "no")
    assert (both.value, both.infinite) == (None, 2) and "both signs" in str(both.reason)
    assert summarise([-math.inf, math.inf], 2, "no", cap=100.0).value == -math.inf
    assert Score.model_validate_json(broken.model_dump_json()).value == -math.inf


def test_only_whole_runs_with_real_weights_are_ranked() -> None:
    assert make_run().unranked is None
    assert make_run(weights="packaged").unranked is None
    assert make_run(weights="local").unranked == "local weights"
    assert make_run(weights="synthetic").unranked == "made-up weights"
    assert make_run(limit=8).unranked == "the first 32 pictures alone"
    assert make_run(primary="cer").unranked == "cer was not scored"


def test_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    files.write_atomic(path, b"old")

    def broken(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", broken)
    with pytest.raises(ResultError, match="No space left on device"):
        files.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


def test_a_lock_is_held_though_nothing_can_be_written_into_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "pwrite", broken)
    with files.lock(tmp_path / "owner", wait=0.0, purpose="testing"), files.try_lock(tmp_path / "owner") as free:
        assert not free


def test_place_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="can't be written"):
        files.check_writable(tmp_path / "file" / "results")


@pytest.mark.parametrize("content", ["", "{", '{"schema_version": 3}'])
def test_file_that_is_no_run_is_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "task" / "x.json"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(ResultError, match=r"^[^\n]*x\.json: not the summary of a run"):
        results.read_runs(tmp_path)


def test_runs_are_read_in_one_order(tmp_path: Path) -> None:
    for name in ("webp-q5", "avif-q20", "jpeg-q5"):
        results.write(make_run(name), tmp_path / "reconstruction" / f"{name}.json")
    assert [run.tokenizer for run in results.read_runs(tmp_path)] == ["avif-q20", "jpeg-q5", "webp-q5"]
    with pytest.raises(ResultError, match="no such folder"):
        results.read_runs(tmp_path / "none")


def test_summary_of_another_version_is_one_short_line(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(make_run().model_dump_json().replace('"schema_version":3', '"schema_version":2'))
    with pytest.raises(ResultError, match=r"run.json: written by another version of vtbench; run it again") as caught:
        results.read_run(path)
    assert len(str(caught.value)) < 300


def test_a_name_says_weights_precision_and_protocol_in_this_order() -> None:
    assert results.run_name("ibq", None, "fp32", "canonical") == "ibq"
    assert results.run_name("ibq", "step-20000", "bf16", "seed-voken") == "ibq~step-20000+bf16@seed-voken"
    assert make_run(protocol="seed-voken", precision="bf16").name == "jpeg-q5+bf16@seed-voken"


def test_nan_is_never_read_nor_written() -> None:
    with pytest.raises(ValidationError, match="NaN is no value"):
        Score(value=math.nan, scored=1, expected=1)


def test_shipped_schema_is_that_of_a_run() -> None:
    shipped = Path(results.__file__).parent / "assets" / "run.schema.json"
    assert json.loads(shipped.read_text()) == results.schema(), "write it again: vtbench show --schema run"


def test_flat_names_task_and_metric() -> None:
    assert make_run().flat() == {"reconstruction/psnr": 24.5, "reconstruction/lpips": 0.3}


def test_a_huge_file_and_a_pipe_are_one_short_line(tmp_path: Path) -> None:
    (tmp_path / "huge.json").write_text('{"tokenizer": "' + "x" * 50_000_000)
    with pytest.raises(ResultError) as caught:
        results.read_run(tmp_path / "huge.json")
    assert len(str(caught.value)) < 600
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(ResultError, match="not a regular file"):
        results.read_run(tmp_path / "pipe.json")


@given(st.from_regex(r"[a-z][a-z0-9_]*", fullmatch=True), st.text(max_size=8), st.sampled_from(ROLES))
@settings(derandomize=True, deadline=None)
def test_a_columns_name_says_its_key(metric: str, level: str, role: Role) -> None:
    key = Key(metric, level, role)
    ambiguous = role == "value" and level.rpartition(":")[2] in ROLES[1:]  # no level of ours ends so
    assert Key.parse(str(key)) == key or ambiguous
