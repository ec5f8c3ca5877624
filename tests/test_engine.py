from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import SIDE, small_task, write_pictures
from PIL import Image

from vtbench import cards, engine, results
from vtbench.engine import SHARD, evaluate
from vtbench.errors import DataError, ResultError, VtbenchError
from vtbench.results import Run
from vtbench.tokenizer import load_tokenizer

COUNT = 3 * SHARD + 5  # three whole shards and a part of one


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data") / "pictures", COUNT)


def images_of(work: Path, run: Run) -> pd.DataFrame:
    return results.read_images(work / run.task / run.tokenizer / results.IMAGES)


def lasting(run: Run) -> dict[str, object]:
    """Everything of a run but how fast it went."""
    return run.model_dump(exclude={"timing", "batch_size"})


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, pd.DataFrame]:
    work = tmp_path_factory.mktemp("whole")
    run = evaluate(load_tokenizer("jpeg-q10"), small_task(folder), out=work / "results", work=work / "work")
    return run, images_of(work / "work", run)


def test_table_and_summary_agree(whole: tuple[Run, pd.DataFrame]) -> None:
    run, table = whole
    assert len(table) == COUNT
    assert list(table["index"]) == list(range(COUNT))
    assert run.scores["psnr"].value == pytest.approx(table["psnr"].mean(), rel=1e-12)
    assert run.scores["bpp"].value == pytest.approx(table["bpp"].mean(), rel=1e-12)
    assert (run.scores["psnr"].scored, run.scores["psnr"].expected) == (COUNT, COUNT)
    assert run.task == "small@pictures"
    assert run.digests["code"] == engine.code_digest()


def test_values_are_those_of_the_metric_alone(whole: tuple[Run, pd.DataFrame], folder: Path) -> None:
    from skimage.metrics import peak_signal_noise_ratio

    tokenizer, sample = load_tokenizer("jpeg-q10"), small_task(folder).read(7)
    after = tokenizer.reconstruct(sample.image[None])[0]
    expected = peak_signal_noise_ratio(sample.image.numpy(), after.numpy(), data_range=255)
    assert whole[1]["psnr"][7] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_batch_size_changes_nothing(
    batch_size: int, whole: tuple[Run, pd.DataFrame], folder: Path, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer("jpeg-q10")
    run = evaluate(tokenizer, small_task(folder), out=tmp_path / "r", work=tmp_path / "w", batch_size=batch_size)
    pd.testing.assert_frame_equal(images_of(tmp_path / "w", run), whole[1], check_exact=False, rtol=1e-12)


RUN_SLOWLY = """
import sys, time
from pathlib import Path
from vtbench import evaluate, load_tokenizer
from vtbench.networks import codec
encode = codec.Network.encode
codec.Network.encode = lambda self, x: (time.sleep(float(sys.argv[3])), encode(self, x))[1]
sys.path.insert(0, sys.argv[4])
from builders import small_task
evaluate(load_tokenizer("jpeg-q10"), small_task(Path(sys.argv[1])), out=sys.argv[2] + "/r", work=sys.argv[2] + "/w")
"""


def start(folder: Path, place: Path, delay: float, **environment: str) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-c", RUN_SLOWLY, str(folder), str(place), str(delay), str(Path(__file__).parent)]
    return subprocess.Popen(arguments, env={**os.environ, **environment})


def shards_in(place: Path) -> list[Path]:
    return sorted(place.glob("w/*/*/shards-*/*.parquet"))


def test_killed_run_resumes_to_the_same_result(whole: tuple[Run, pd.DataFrame], folder: Path, tmp_path: Path) -> None:
    process = start(folder, tmp_path, 0.5)
    deadline = time.monotonic() + 120
    while not shards_in(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    survived = {path: path.stat().st_mtime_ns for path in shards_in(tmp_path)}
    assert 0 < len(survived) < 4
    assert not list(tmp_path.glob("r/*/*.json"))

    kept: list[int] = []
    run = evaluate(
        load_tokenizer("jpeg-q10"),
        small_task(folder),
        out=tmp_path / "r",
        work=tmp_path / "w",
        progress=lambda done, _: kept.append(done),
    )
    assert kept[0] == SHARD * len(survived), "committed shards were computed again"
    assert lasting(run) == lasting(whole[0])
    pd.testing.assert_frame_equal(images_of(tmp_path / "w", run), whole[1])


def test_two_processes_give_the_same_result(whole: tuple[Run, pd.DataFrame], folder: Path, tmp_path: Path) -> None:
    processes = [start(folder, tmp_path, 0.0, RANK=str(rank), WORLD_SIZE="2") for rank in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    run = results.read_run(tmp_path / "r" / "small@pictures" / "jpeg-q10.json")
    assert lasting(run) == lasting(whole[0])
    pd.testing.assert_frame_equal(images_of(tmp_path / "w", run), whole[1])


def test_finished_run_is_not_computed_again_unless_asked(folder: Path, tmp_path: Path) -> None:
    tokenizer, task = load_tokenizer("jpeg-q5"), small_task(folder)
    calls: list[int] = []

    def go(**options: object) -> Run:
        calls.clear()
        return evaluate(
            tokenizer, task, out=tmp_path / "r", work=tmp_path / "w", progress=lambda *_: calls.append(1), **options
        )

    first = go()
    (tmp_path / "r" / first.task / "jpeg-q5.json").unlink()
    assert go() == first
    assert not calls
    assert (tmp_path / "r" / first.task / "jpeg-q5.json").is_file()
    assert lasting(go(overwrite=True)) == lasting(first)
    assert calls


def test_broken_picture_is_one_record_with_its_reason(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "some", 5)
    (folder / "002.png").write_bytes((folder / "002.png").read_bytes()[:80])
    run = evaluate(load_tokenizer("jpeg-q10"), small_task(folder), out=tmp_path / "r", work=tmp_path / "w")
    table = images_of(tmp_path / "w", run).set_index("id")
    assert len(table) == 5
    assert "not a readable picture" in table["reason"]["002.png"]
    assert np.isnan(table["psnr"]["002.png"])
    assert table["psnr"].notna().sum() == 4
    assert (run.scores["psnr"].scored, run.scores["psnr"].expected) == (4, 5)


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match="none of 1 pictures could be read"):
        evaluate(load_tokenizer("jpeg-q10"), small_task(tmp_path / "bad"), out=tmp_path / "r", work=tmp_path / "w")


def test_trial_does_not_replace_a_full_run(folder: Path, tmp_path: Path) -> None:
    places = {"out": tmp_path / "r", "work": tmp_path / "w"}
    tokenizer = load_tokenizer("jpeg-q5")
    full = evaluate(tokenizer, small_task(folder), **places)
    with pytest.raises(ResultError, match="would replace it by 3 pictures"):
        evaluate(tokenizer, small_task(folder), limit=3, **places)
    trial = evaluate(tokenizer, small_task(folder), limit=3, overwrite=True, **places)
    assert (trial.images, trial.ranked) == (3, False)
    assert lasting(evaluate(tokenizer, small_task(folder), **places)) == lasting(full)


def test_what_decides_the_numbers_decides_the_plan(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "other" / "a.png")
    plans = {
        engine._plan(tokenizer, task, limit, "canonical", ()).digest
        for tokenizer in (load_tokenizer("jpeg-q5"), load_tokenizer("jpeg-q10"))
        for task in (small_task(folder), small_task(folder, version=2), small_task(tmp_path / "other"))
        for limit in (None, 1)
    }
    assert len(plans) == 12


def test_metric_without_backbone_is_not_scored_with_the_reason(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    task = small_task(folder, metrics=("psnr", "rfid"))
    with pytest.raises(VtbenchError, match=r"--require rfid: inception is not on this machine .*vtbench fetch rfid"):
        evaluate(load_tokenizer("jpeg-q5"), task, out=tmp_path / "r", work=tmp_path / "w", require=("rfid",))
    run = evaluate(load_tokenizer("jpeg-q5"), task, out=tmp_path / "r", work=tmp_path / "w")
    assert run.scores["rfid"].value is None
    assert "vtbench fetch rfid" in (run.scores["rfid"].reason or "")


def test_codes_are_counted(folder: Path, tmp_path: Path) -> None:
    tiny = load_tokenizer("tiny")
    task = small_task(folder)
    run = evaluate(tiny, task, out=tmp_path / "r", work=tmp_path / "w", limit=20)
    size = tiny.card.code.codebook_sizes[0]
    tokens = (SIDE // 8) ** 2
    assert run.tokens_per_image == tokens
    assert run.scores["bpp"].value == pytest.approx(tokens * np.log2(size) / SIDE**2)
    seen = {
        code for index in range(20) for code in tiny.encode(task.read(index).image[None]).indices[0].flatten().tolist()
    }
    assert run.scores["code_usage"].value == pytest.approx(len(seen) / size)
    assert 0 < (run.scores["code_entropy"].value or 0) <= np.log2(20 * tokens)


def test_task_size_that_a_network_cannot_take_is_refused_before_anything_is_written(
    folder: Path, tmp_path: Path
) -> None:
    card = cards.find_tokenizer("tiny")
    fixed = card.model_copy(update={"input": card.input.model_copy(update={"sizes": (256,)})})
    with pytest.raises(DataError, match="takes 256x256 pixels only, the task has 64x64"):
        evaluate(load_tokenizer(fixed), small_task(folder), out=tmp_path / "r", work=tmp_path / "w")
    assert not list(tmp_path.iterdir())


def test_shard_of_an_older_layout_is_not_mistaken(folder: Path, tmp_path: Path) -> None:
    """A run.json that can't be read any more is computed anew, not a crash."""
    place = tmp_path / "w" / "small@pictures" / "jpeg-q5"
    place.mkdir(parents=True)
    (place / results.RUN).write_text(json.dumps({"schema_version": 0}))
    (place / results.IMAGES).write_bytes(b"")
    run = evaluate(load_tokenizer("jpeg-q5"), small_task(folder), out=tmp_path / "r", work=tmp_path / "w", limit=2)
    assert run.images == 2
