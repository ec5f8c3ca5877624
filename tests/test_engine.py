from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from builders import SIDE, small_task, write_pictures
from PIL import Image, ImageDraw, ImageFont
from pyarrow import parquet

from vtbench import cards, engine, ocr, plan, provenance, published, results, scoring, shards, workfolder
from vtbench import device as devices
from vtbench.cards import Geometry
from vtbench.catalogue import find_metric
from vtbench.data import tokbench
from vtbench.engine import evaluate
from vtbench.errors import DataError, NoMemoryError, ResultError, VtbenchError
from vtbench.folders import BATCHES
from vtbench.live import wrap
from vtbench.measures import Outcome, Table, codes, sets
from vtbench.metrics import stability
from vtbench.metrics.frechet import frechet_distance, kernel_distance
from vtbench.plan import SHARD
from vtbench.protocols import PROTOCOLS
from vtbench.results import Run
from vtbench.settings import Settings
from vtbench.statistics import mean_interval
from vtbench.task import Task, load_task
from vtbench.tokenizer import Tokenizer, load_tokenizer
from vtbench.types import Codes, Key, Sample
from vtbench.workfolder import WorkFolder

FONTS = Path(engine.__file__).parent / "assets" / "fonts"
COUNT = 3 * SHARD + 5  # three whole shards and a part of one


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data") / "pictures", COUNT)


def test_a_column_that_is_text_for_some_pictures_is_text_in_every_shard(tmp_path: Path) -> None:
    place = write_pictures(tmp_path / "pictures", SHARD + 1)
    (place / "000.cls").write_text("sign")
    rows = [
        json.dumps({"file_name": f"{index:03d}.png", "class": 0.5 + index % 2 / 2}) for index in range(1, SHARD + 1)
    ]
    (place / "metadata.jsonl").write_text("\n".join(rows))
    run = evaluate(load_tokenizer("jpeg-q10"), small_task(place, metrics=("psnr",), group_by=("class",)), out=None)
    counts = {name: scores["psnr"].scored for name, scores in run.groups["class"].items()}
    assert counts == {"0.5": SHARD // 2, "1": SHARD // 2, "sign": 1}


def images_of(work: Path, run: Run) -> pd.DataFrame:
    return results.read_images(work / run.task / run.name / results.IMAGES)


def lasting(run: Run) -> dict[str, object]:
    """Everything of a run but how fast it went."""
    said = run.model_dump(exclude={"timing"})
    return said | {"digests": {key: value for key, value in run.digests.items() if key != "table"}}


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
    assert run.digests["code"] == provenance.code_digest()
    assert (run.pictures.found, run.pictures.scored, run.pictures.failed) == (COUNT, COUNT, 0)


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
evaluate(
    load_tokenizer("jpeg-q10"), small_task(Path(sys.argv[1])), out=sys.argv[2] + "/r", work=sys.argv[2] + "/w",
    rank=int(sys.argv[5]), world=int(sys.argv[6]), overwrite=sys.argv[7] == "overwrite", batch_size=int(sys.argv[8]),
)
"""


def start(
    folder: Path, place: Path, delay: float, *, rank: int = 0, world: int = 1, overwrite: bool = False, batch: int = 8
) -> subprocess.Popen[bytes]:
    said = (folder, place, delay, Path(__file__).parent, rank, world, "overwrite" if overwrite else "keep", batch)
    # The variables of a shell that torchrun did not make are nobody's business here.
    environment = {**os.environ, "RANK": "3", "WORLD_SIZE": "7"}
    return subprocess.Popen([sys.executable, "-c", RUN_SLOWLY, *map(str, said)], env=environment)


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


def ended(processes: list[subprocess.Popen[bytes]]) -> list[int]:
    """Every process ends; none waits for another's work."""
    return [process.wait(timeout=120) for process in processes]


def check_whole(place: Path, whole: tuple[Run, pd.DataFrame]) -> None:
    run = results.read_run(place / "r" / "small@pictures" / "jpeg-q10.json")
    assert lasting(run) == lasting(whole[0])
    pd.testing.assert_frame_equal(images_of(place / "w", run), whole[1])
    results.find_run(place / "r" / "small@pictures" / "jpeg-q10.json", place / "w")


@pytest.mark.parametrize("world", [2, 3, pytest.param(5, marks=pytest.mark.heavy)])
def test_several_processes_give_the_same_result(
    world: int, whole: tuple[Run, pd.DataFrame], folder: Path, tmp_path: Path
) -> None:
    assert ended([start(folder, tmp_path, 0.0, rank=rank, world=world) for rank in range(world)]) == [0] * world
    check_whole(tmp_path, whole)


def test_the_same_command_started_twice_gives_the_same_result(
    whole: tuple[Run, pd.DataFrame], folder: Path, tmp_path: Path
) -> None:
    assert ended([start(folder, tmp_path, 0.1), start(folder, tmp_path, 0.1)]) == [0, 0]
    check_whole(tmp_path, whole)


def test_two_overwriting_commands_give_the_same_result(
    whole: tuple[Run, pd.DataFrame], folder: Path, tmp_path: Path
) -> None:
    first = start(folder, tmp_path, 0.1, overwrite=True)
    second = start(folder, tmp_path, 0.0, overwrite=True)
    assert sorted(ended([first, second])) == [0, 0]
    check_whole(tmp_path, whole)


def test_another_batch_size_at_the_same_time_leaves_one_whole_run(folder: Path, tmp_path: Path) -> None:
    assert ended([start(folder, tmp_path, 0.05), start(folder, tmp_path, 0.05, batch=3)]) == [0, 0]
    results.find_run(tmp_path / "w" / "small@pictures" / "jpeg-q10", tmp_path / "w")


@pytest.mark.heavy  # seconds of many processes or networks
def test_a_late_process_and_another_number_of_processes_go_on(
    whole: tuple[Run, pd.DataFrame], folder: Path, tmp_path: Path
) -> None:
    assert ended([start(folder, tmp_path, 0.0, rank=0, world=3)]) == [0]  # ends though the others never came
    assert not list(tmp_path.glob("r/*/*.json"))
    assert ended([start(folder, tmp_path, 0.0, rank=rank, world=2) for rank in (1, 0)]) == [0, 0]
    check_whole(tmp_path, whole)


def test_a_finished_run_is_computed_again_in_parts(folder: Path, tmp_path: Path) -> None:
    """One part after the other, as in an array job on a small queue."""

    def part(rank: int, *, overwrite: bool) -> Run | None:
        places = {"out": tmp_path / "r", "work": tmp_path / "w"}
        return evaluate(
            load_tokenizer("jpeg-q5"), small_task(folder), rank=rank, world=2, overwrite=overwrite, **places
        )

    first = [part(rank, overwrite=False) for rank in (0, 1)]
    again = [part(rank, overwrite=True) for rank in (0, 1)]
    assert first[1] is not None and again[1] is not None
    assert lasting(again[1]) == lasting(first[1])
    assert again[1].timing != first[1].timing, "it was not computed again"


def test_damaged_and_deleted_shards_are_computed_again(
    whole: tuple[Run, pd.DataFrame], folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert ended([start(folder, tmp_path, 0.0, rank=0, world=2)]) == [0]
    first, second = shards_in(tmp_path)
    first.write_bytes(first.read_bytes()[:100])
    second.unlink()
    (first.parent.parent / ".run.json.x.tmp").write_text("left by a kill")
    run = evaluate(load_tokenizer("jpeg-q10"), small_task(folder), out=tmp_path / "r", work=tmp_path / "w")
    assert lasting(run) == lasting(whole[0])
    assert "damaged or deleted" in caplog.text
    assert not list(tmp_path.glob("w/*/*/.*.tmp"))
    assert evaluate(load_tokenizer("jpeg-q10"), small_task(folder), out=tmp_path / "r", work=tmp_path / "w") == run
    assert not shards_in(tmp_path)  # they go at the next start


def test_a_shard_that_is_not_its_own_is_computed_again(
    whole: tuple[Run, pd.DataFrame], folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each can be read: one of another program, one that lost rows, one that is another's."""
    places = {"out": tmp_path / "r", "work": tmp_path / "w"}
    tokenizer, task = load_tokenizer("jpeg-q10"), small_task(folder)
    assert evaluate(tokenizer, task, rank=0, world=2, **places) is None
    first, third = shards_in(tmp_path)
    parquet.write_table(parquet.read_table(first).slice(0, 5), first)
    (first.parent / "00001.parquet").write_bytes(third.read_bytes())
    parquet.write_table(pa.table({"x": [1]}), third)
    run = evaluate(tokenizer, task, **places)
    assert caplog.text.count("was damaged or deleted") == 3
    assert lasting(run) == lasting(whole[0])
    pd.testing.assert_frame_equal(images_of(tmp_path / "w", run), whole[1])


def test_a_work_folder_deleted_meanwhile_ends_with_the_same_result(
    whole: tuple[Run, pd.DataFrame], folder: Path, tmp_path: Path
) -> None:
    deleted: list[int] = []

    def delete_once(done: int, total: int) -> None:
        if done > total // 2 and not deleted:
            deleted.append(done)
            shutil.rmtree(tmp_path / "w", ignore_errors=True)  # a shard is being written meanwhile

    places = {"out": tmp_path / "r", "work": tmp_path / "w", "progress": delete_once}
    run = evaluate(load_tokenizer("jpeg-q10"), small_task(folder), **places)
    assert deleted
    assert lasting(run) == lasting(whole[0])
    pd.testing.assert_frame_equal(images_of(tmp_path / "w", run), whole[1])


def test_shards_that_another_process_deletes_are_computed_again(
    whole: tuple[Run, pd.DataFrame], folder: Path, tmp_path: Path
) -> None:
    """As one that was started later with --overwrite does."""
    deleted: list[Path] = []

    def delete_once(done: int, total: int) -> None:
        if done == total and not deleted:
            deleted.extend(shards_in(tmp_path)[:2])
            for shard in deleted:
                shard.unlink()

    places = {"out": tmp_path / "r", "work": tmp_path / "w", "progress": delete_once}
    run = evaluate(load_tokenizer("jpeg-q10"), small_task(folder), **places)
    assert len(deleted) == 2
    assert lasting(run) == lasting(whole[0])


def test_what_cannot_be_hashed_is_not_shared(folder: Path, tmp_path: Path) -> None:
    places = {"out": tmp_path / "r", "work": tmp_path / "w", "rank": 0, "world": 2}
    causes = "can't be hashed whole.* no nn.Module.* a lock.* an attribute, a global .* a hook; .* give world=1"
    with pytest.raises(VtbenchError, match=causes):
        evaluate(wrap(lambda x: x, name="same"), small_task(folder), **places)


def test_a_trial_that_ends_after_a_full_run_does_not_replace_it(folder: Path, tmp_path: Path) -> None:
    places = {"out": tmp_path / "r", "work": tmp_path / "w"}
    full: list[Run] = []

    def overtake(done: int, total: int) -> None:
        if done == total and not full:
            full.append(evaluate(load_tokenizer("jpeg-q5"), small_task(folder), **places))

    with pytest.raises(ResultError, match="would replace it by 3 pictures"):
        evaluate(load_tokenizer("jpeg-q5"), small_task(folder), limit=3, progress=overtake, **places)
    assert results.read_run(tmp_path / "r" / "small@pictures" / "jpeg-q5.json") == full[0]
    results.find_run(tmp_path / "w" / "small@pictures" / "jpeg-q5", tmp_path / "w")


def test_the_engine_that_really_reads_is_recorded() -> None:
    for engine_name in ("easyocr", "rapidocr"):
        if ocr.find(engine_name) is None:
            pytest.skip(f"{engine_name} is not on this machine")
        task = load_task(cards.find_task("text").model_copy(update={"ocr": engine_name}))
        digests = made(load_tokenizer("jpeg-q5"), task).digests
        assert {name.partition("/")[0] for name in digests if "/" in name} == {engine_name, "lpips-alex"}
        assert digests[f"{engine_name}/version"]


def test_a_merge_tells_which_shard_it_reads(folder: Path, tmp_path: Path) -> None:
    """Every shard for the table, and once more for each thing that totals are made of."""
    read: list[tuple[int, int]] = []
    how = Settings(out=tmp_path / "r", work=tmp_path / "w", merging=lambda *one: read.append(one))
    (run,) = engine.evaluate_together(load_tokenizer("tiny-fsq-f8"), [(small_task(folder), None)], how)
    assert run is not None
    shards = -(-run.images // SHARD)
    once = [(shard + 1, shards) for shard in range(shards)]
    assert read[:shards] == once
    assert len(read) > 2 * shards and set(read) == set(once)


def test_rank_outside_its_world_is_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(VtbenchError, match="rank 2 of world 2"):
        evaluate(load_tokenizer("jpeg-q5"), small_task(folder), out=tmp_path, work=tmp_path, rank=2, world=2)
    with pytest.raises(VtbenchError, match="expected a name or load_task"):
        evaluate(load_tokenizer("jpeg-q5"), 5)  # type: ignore[arg-type]
    with pytest.raises(VtbenchError, match="expected a name, load_tokenizer"):
        evaluate(None, small_task(folder))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *(("out", 5), ("work", None), ("batch_size", "8"), ("batch_size", 0), ("batch_size", True), ("limit", 2.5)),
        *(("label", 5), ("step", "x"), ("step", float("nan")), ("require", "psnr"), ("wait", "x"), ("workers", 0)),
    ],
)
def test_a_wrong_argument_is_one_line(argument: str, value: object, folder: Path, tmp_path: Path) -> None:
    said: dict[str, object] = {"out": tmp_path / "r", "work": tmp_path / "w"}
    with pytest.raises(VtbenchError, match=rf"^{argument} .*: expected "):
        evaluate("jpeg-q5", small_task(folder), **(said | {argument: value}))
    assert not list(tmp_path.iterdir())


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
    with pytest.raises(DataError, match="all 1 pictures failed; the commonest reason"):
        evaluate(load_tokenizer("jpeg-q10"), small_task(tmp_path / "bad"), out=tmp_path / "r", work=tmp_path / "w")


def test_two_equal_commands_at_once_write_both_their_summaries(folder: Path, tmp_path: Path) -> None:
    """The second to merge finds the run finished, and its own folder of summaries without it."""
    one = made(load_tokenizer("jpeg-q5"), small_task(folder), limit=2)
    places = [
        WorkFolder(one, Settings(tmp_path / out, tmp_path / "w", wait=1.0, workers=1)) for out in ("first", "second")
    ]
    with ExitStack() as stack:
        assert [place.begin(0, 1, stack) for place in places] == [None, None]
        workfolder.compute_missing(places[:1], None)
        runs = [place.end(None) for place in places]
    assert runs[0] == runs[1] is not None
    assert [results.read_run(place.summary) for place in places] == runs


def test_trial_does_not_replace_a_full_run(folder: Path, tmp_path: Path) -> None:
    places = {"out": tmp_path / "r", "work": tmp_path / "w"}
    tokenizer = load_tokenizer("jpeg-q5")
    full = evaluate(tokenizer, small_task(folder), **places)
    with pytest.raises(ResultError, match="would replace it by 3 pictures"):
        evaluate(tokenizer, small_task(folder), limit=3, **places)
    trial = evaluate(tokenizer, small_task(folder), limit=3, overwrite=True, **places)
    assert (trial.images, trial.unranked) == (3, "the first 3 pictures alone")
    assert lasting(evaluate(tokenizer, small_task(folder), **places)) == lasting(full)


def made(
    tokenizer: Tokenizer, task: Task, *, protocol: str | None = None, batch_size: int = 8, limit: int | None = None
) -> plan.Plan:
    return plan.make(tokenizer, task, protocol=protocol, batch_size=batch_size, how=Settings(None, limit=limit))


def test_what_decides_the_numbers_decides_the_plan(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "other" / name)
    plans = {
        made(tokenizer, task, limit=limit).digest
        for tokenizer in (load_tokenizer("jpeg-q5"), load_tokenizer("jpeg-q10"))
        for task in (small_task(folder), small_task(folder, version=2), small_task(tmp_path / "other"))
        for limit in (None, 1)
    }
    assert len(plans) == 12


def test_a_limit_that_leaves_no_picture_out_is_none(folder: Path) -> None:
    tokenizer, task = load_tokenizer("jpeg-q5"), small_task(folder)
    whole = made(tokenizer, task)
    for limit in (len(task), 1000):
        plan = made(tokenizer, task, limit=limit)
        assert (plan.digest, plan.count, plan.limit, plan.trial) == (whole.digest, len(task), None, None)
    assert made(tokenizer, task, limit=len(task) - 1).trial == f"{len(task) - 1} pictures"


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


# --- published protocols ----------------------------------------------------------------------------------------------


def native_task(folder: Path) -> Task:
    return small_task(folder, native=True)


def test_published_protocol_through_the_engine_equals_the_arrays_alone(folder: Path, tmp_path: Path) -> None:
    tokenizer, task = load_tokenizer("jpeg-q10"), native_task(folder)
    run = evaluate(tokenizer, task, out=tmp_path / "r", work=tmp_path / "w", protocol="vtbench-2025", batch_size=3)
    assert (run.protocol, run.name) == ("vtbench-2025", "jpeg-q10@vtbench-2025")
    rule = PROTOCOLS["vtbench-2025"]
    pictures = [task.read(index).image.permute(1, 2, 0).numpy() for index in range(COUNT)]
    span = tokenizer.span
    inputs = [scoring.prepare(rule, picture, size=SIDE, value_range=span) for picture in pictures]
    decoded = []
    for x in inputs:
        codes = tokenizer.encode_input(tokenizer.input_of(torch.from_numpy(x)[None]))
        decoded.append(tokenizer.attempt(codes, (SIDE, SIDE), floats=True)[0][0].numpy())
    wanted = scoring.score(rule, pictures, inputs, decoded, size=SIDE, value_range=span)
    for name, known in (("psnr", "psnr"), ("ssim", "ssim"), ("lpips", "lpips_alex")):
        assert run.scores[name].value == pytest.approx(wanted.totals[known], rel=1e-9)
    table = images_of(tmp_path / "w", run)
    assert list(table["psnr"]) == pytest.approx([image["psnr"] for image in wanted.images])
    assert not [column for column in table.columns if column.startswith("_")]
    assert run.scores["psnr"].value != pytest.approx(table["psnr"].mean(), abs=0.01)  # pooled, not averaged
    assert run.scores["psnr"].low is None  # an interval of the mean would be another quantity's
    assert (run.scores["lpips"].low or 1) < (run.scores["lpips"].value or 0) < (run.scores["lpips"].high or 0)


def test_batches_are_those_of_the_protocol(tmp_path: Path) -> None:
    """VTBench's SSIM takes its range from the batch: pale pictures score otherwise beside strong ones."""
    (tmp_path / "p").mkdir()
    generator = np.random.default_rng(0)
    for index in range(8):
        coarse = generator.integers(*((110, 140) if index < 5 else (0, 256)), (8, 8, 3)).astype(np.uint8)
        large = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        large.save(tmp_path / "p" / f"{index}.png")
    task = native_task(tmp_path / "p")
    scores = []
    for size in (1, 3, 8):
        places = {"out": tmp_path / f"r{size}", "work": tmp_path / f"w{size}", "batch_size": size}
        run = evaluate(load_tokenizer("jpeg-q10"), task, protocol="vtbench-2025", **places)
        table = images_of(places["work"], run)
        scores.append(run.scores["ssim"].value or 0)
        assert abs(scores[-1] - table["ssim"].mean()) > 0.01  # single pictures take their own range
    assert scores[0] == pytest.approx(scores[1]) == pytest.approx(scores[2])


def test_protocols_keep_apart(folder: Path, tmp_path: Path) -> None:
    tokenizer, task = load_tokenizer("jpeg-q10"), native_task(folder)
    places = {"out": tmp_path / "r", "work": tmp_path / "w", "limit": 8}
    for name in ("llamagen", "tokbench"):
        assert evaluate(tokenizer, task, protocol=name, **places).protocol == name
    evaluate(tokenizer, small_task(folder), **places)
    names = sorted(path.name for path in (tmp_path / "r").glob("*/*.json"))
    assert names == ["jpeg-q10.json", "jpeg-q10@llamagen.json", "jpeg-q10@tokbench.json"]


def test_pictures_of_native_size_run_one_by_one(folder: Path, tmp_path: Path) -> None:
    task = small_task(folder, geometry=Geometry(size="native"))
    run = evaluate(load_tokenizer("tiny"), task, out=tmp_path / "r", work=tmp_path / "w", limit=5)
    assert run.scores["psnr"].scored == 5
    cosmos = evaluate(
        load_tokenizer("tiny"), native_task(folder), out=tmp_path / "r", work=tmp_path / "w", limit=5, protocol="cosmos"
    )
    assert cosmos.scores["psnr"].scored == 5


def test_published_protocol_refuses_pictures_that_were_cropped_already(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"use load_task\(..., native=True\)"):
        evaluate(load_tokenizer("jpeg-q10"), small_task(folder), out=tmp_path, work=tmp_path, protocol="llamagen")


def test_every_protocol_takes_whole_batches_of_a_shard() -> None:
    assert all(SHARD % protocol.batch == 0 for protocol in PROTOCOLS.values())


# --- codes, stability, intervals --------------------------------------------------------------------------------------


def test_entropy_coded_rate_is_the_entropy_of_the_codes(folder: Path, tmp_path: Path) -> None:
    run = evaluate(load_tokenizer("tiny"), small_task(folder), out=tmp_path / "r", work=tmp_path / "w", limit=20)
    scores = {name: run.scores[name].value or 0 for name in run.scores}
    assert scores["bpp_entropy"] == pytest.approx(scores["code_entropy"] * (SIDE // 8) ** 2 / SIDE**2)
    assert scores["code_perplexity"] == pytest.approx(2 ** scores["code_entropy"])
    assert scores["bpp_entropy"] < scores["bpp"]


def test_stability_of_an_identity_and_of_a_codec(folder: Path, tmp_path: Path) -> None:
    change = {"family": "stability", "metrics": ("repeat_psnr", "repeat_drop", "token_agreement", "shift_psnr")}
    task = small_task(folder, **change, primary="repeat_psnr", geometry=Geometry(size=96))
    places = {"out": tmp_path / "r", "work": tmp_path / "w", "limit": 4}
    same = evaluate(load_tokenizer("control-identity"), task, **places).scores
    assert same["repeat_psnr"].value == same["shift_psnr"].value == np.inf
    assert same["repeat_drop"].value == 0
    assert same["token_agreement"].value is None
    tiny = evaluate(load_tokenizer("tiny"), task, **places).scores
    assert 0 < (tiny["token_agreement"].value or 0) < 1
    assert (tiny["repeat_psnr/1"].value or 0) > (tiny["repeat_psnr/8"].value or 0)
    assert 10 < (tiny["shift_psnr"].value or 0) < 60


def test_one_exact_shift_does_not_decide_the_mean_of_all() -> None:
    """Means of 2x2 pixels move with a picture by even numbers of pixels, and by no odd one."""

    def halved(pictures: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        small = torch.nn.functional.avg_pool2d(pictures.float(), 2)
        return torch.nn.functional.interpolate(small, scale_factor=2.0).to(torch.uint8), ()

    pictures = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = stability.shifts(halved, pictures, halved(pictures)[0])
    assert found["shift_psnr/2"] == found["shift_psnr/4"] == [np.inf, np.inf]
    assert found["shift_psnr"] == [pytest.approx(((one or 0) + 200) / 3) for one in found["shift_psnr/1"]]
    same = stability.shifts(lambda given: (given, ()), pictures, pictures)
    assert same["shift_psnr"] == [np.inf, np.inf]


def test_a_shift_counts_no_more_than_an_exact_one_and_a_drop_is_of_capped_decibels() -> None:
    """One level of one value is over 100 dB here: what moves it is no better than what moves none."""
    pictures = torch.randint(1, 255, (1, 3, 320, 320), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def damaged(times: list[int]) -> stability.Reconstruct:
        calls = iter(range(100))

        def reconstruct(given: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
            made = given.clone()
            if next(calls) in times:
                made[0, 0, 100, 100] += 1
            return made, ()

        return reconstruct

    exact = stability.shifts(damaged([]), pictures, pictures)
    assert exact["shift_psnr"] == [np.inf]
    one = stability.shifts(damaged([0]), pictures, pictures)
    assert (one["shift_psnr/1"][0] or 0) > 100
    assert one["shift_psnr"] == [100.0]
    assert stability.repeats(damaged([]), pictures, pictures, ())["repeat_drop"] == [0.0]
    lossless_once = stability.repeats(damaged([0]), pictures, pictures, ())
    assert lossless_once["repeat_psnr/1"] == [np.inf] and (lossless_once["repeat_psnr"][0] or 0) > 100
    assert lossless_once["repeat_drop"] == [0.0]
    darker = stability.repeats(lambda given: (given - 1, ()), pictures.clamp_min(20), pictures.clamp_min(20), ())
    assert darker["repeat_drop"] == [pytest.approx(100 - (darker["repeat_psnr"][0] or 0))]


def test_only_the_pictures_that_fail_on_a_later_pass_lack_their_stability(tmp_path: Path) -> None:
    """And pictures without anything within the margin lack what is compared there."""

    def decode(_: torch.nn.Module, z: torch.Tensor) -> torch.Tensor:
        return torch.where(z.mean((1, 2, 3), keepdim=True) > 0.6, torch.nan, z + 0.02)

    (tmp_path / "some").mkdir()
    for level in (60, 200):  # 200 is 0.57, and past 0.6 on the third pass
        Image.new("RGB", (96, 96), (level, level, level)).save(tmp_path / "some" / f"{level}.png")
    brighter = wrap(torch.nn.Identity(), name="brighter", encode=lambda _, x: x, decode=decode)
    change = {"family": "stability", "metrics": ("repeat_psnr", "shift_psnr"), "primary": "repeat_psnr"}
    for batch_size in (1, 2):
        task = small_task(tmp_path / "some", **change, geometry=Geometry(size=96))
        scores = evaluate(brighter, task, out=None, batch_size=batch_size).scores
        assert (scores["repeat_psnr"].scored, scores["shift_psnr"].scored) == (1, 2)
    scores = evaluate(brighter, small_task(tmp_path / "some", **change), out=None).scores
    assert scores["repeat_psnr"].scored == 1
    assert scores["shift_psnr"].reason == "shift PSNR of 64x64 pixels: its window needs at least 65x65"


def test_words_of_unknown_size_leave_tokbenchs_other_metrics(folder: Path) -> None:
    context = made(load_tokenizer("jpeg-q5"), small_task(folder)).measures[0].context
    metrics = [find_metric(name) for name in ("psnr", "word_accuracy", "ned")]
    measure = published.Published(metrics, replace(context, protocol=PROTOCOLS["tokbench"]))
    words = json.dumps([["Orange", "Orange", None]])
    table = pa.table({"psnr": [30.0], "word_accuracy": [1.0], "ned": [0.0], str(published.WORDS): [words]})
    scores = measure.scores(Table(table, intervals=lambda name: False))
    assert scores["psnr"].value == 30.0
    for name in ("word_accuracy", "ned"):
        assert scores[name].value is None
        assert "need the size of each word" in (scores[name].reason or "")


def test_sets_under_a_protocol_count_the_pictures_that_they_are_of(folder: Path) -> None:
    """Two of six pictures failed: neither the distance nor the Inception score is of them."""
    context = made(load_tokenizer("jpeg-q5"), small_task(folder)).measures[0].context
    metrics = [find_metric(name) for name in ("psnr", "rfid", "inception_score")]
    measure = published.Published(metrics, replace(context, protocol=PROTOCOLS["titok"]))
    generator = np.random.default_rng(0)
    columns: dict[str, list[object]] = {"index": list(range(6)), "psnr": [30.0, 31.0, 32.0, 33.0, None, None]}
    for key in (*published.FEATURES, published.LOGITS):
        columns[str(key)] = [*generator.normal(size=(4, 5)), None, None]
    scores = measure.scores(Table(pa.table(columns), intervals=lambda name: False))
    assert {name: (score.scored, score.expected) for name, score in scores.items()} == dict.fromkeys(
        ("psnr", "rfid", "inception_score"), (4, 6)
    )
    assert all(score.value is not None for score in scores.values())


def test_a_protocols_set_of_one_picture_says_so(folder: Path) -> None:
    context = made(load_tokenizer("jpeg-q5"), small_task(folder)).measures[0].context
    measure = published.Published([find_metric("rfid")], replace(context, protocol=PROTOCOLS["titok"]))
    columns = {str(key): [np.zeros(5), None, None] for key in published.FEATURES}
    table = pa.table({"index": [0, 1, 2], "reason": [None, "planted", "planted"], **columns})
    score = measure.scores(Table(table, intervals=lambda name: False))["rfid"]
    assert (score.value, score.scored, score.expected) == (None, 1, 3)
    assert score.reason == "rFID needs at least 2 pictures, 1 of 3 were scored; the others: planted"


def test_published_code_caps_nothing(folder: Path) -> None:
    context = made(load_tokenizer("jpeg-q5"), small_task(folder)).measures[0].context
    measure = published.Published([find_metric("psnr")], replace(context, protocol=PROTOCOLS["cosmos"]))
    for values in ([101.0, 107.0, 30.0], [float("inf"), 107.0, 30.0]):
        score = measure.scores(Table(pa.table({"psnr": values}), intervals=lambda name: True))["psnr"]
        assert score.value == pytest.approx(np.mean(values))
        assert (score.low is None) == np.isinf(values).any()


@pytest.mark.skipif(ocr.find("easyocr") is None, reason="EasyOCR's weights are not on this machine")
def test_text_that_the_engine_cannot_write_is_refused_wherever_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_pictures(tmp_path / "signs", 4)
    rows = [f"{index:03d}.png,{'harbour' if index < 3 else '港口的墙'}" for index in range(4)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,text", *rows]), encoding="utf-8")
    task = small_task(folder, family="text", metrics=("cer_page",), primary="cer_page")
    with pytest.raises(VtbenchError, match="easyocr can't write"):
        made(load_tokenizer("jpeg-q5"), task, batch_size=1, limit=1)
    assert "港口的墙" in task.known_text()
    monkeypatch.setattr(type(task.source), "known_text", None)  # as of a source that doesn't say it by itself
    assert "港口的墙" in task.known_text()


@pytest.mark.skipif(ocr.find("easyocr") is None, reason="EasyOCR's weights are not on this machine")
def test_heights_of_a_metadata_csv_give_the_legibility(tmp_path: Path) -> None:
    """All its cells are text, the lines and their boxes as JSON."""
    folder = tmp_path / "signs"
    folder.mkdir()
    rows = [["file_name", "lines", "cap_height"]]
    for index, size in enumerate((12, 12, 32, 32)):
        picture = Image.new("RGB", (160, 64), "white")
        font = ImageFont.truetype(str(FONTS / "DejaVuSans.ttf"), size)
        ImageDraw.Draw(picture).text((8, 8), "harbour", fill="black", font=font)
        picture.save(folder / f"{index}.png")
        left, top, right, bottom = font.getbbox("harbour")
        line = {"text": "harbour", "box": [8 + left - 2, 8 + top - 2, 8 + right + 2, 8 + bottom + 2]}
        rows.append([f"{index}.png", json.dumps([line]), f"{round(0.73 * size)}"])
    with (folder / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    metrics = ("cer", "cer_micro", "legibility")
    task = small_task(folder, native=True, family="text", metrics=metrics, primary="cer", group_by=("cap_height",))
    run = evaluate(load_tokenizer("control-identity"), task, out=None)
    assert set(run.groups["cap_height"]) == {"9", "23"}
    assert run.groups["cap_height"]["23"]["cer"].value == 0.0
    assert 9.0 <= (run.scores["legibility"].value or 0) < 23.0


@pytest.mark.skipif(ocr.find("easyocr") is None, reason="EasyOCR's weights are not on this machine")
@pytest.mark.parametrize("normalisation", ["verbatim", "text"])
def test_where_a_line_of_a_page_ends_is_no_error(tmp_path: Path, normalisation: str) -> None:
    folder = tmp_path / "signs"
    folder.mkdir()
    picture = Image.new("RGB", (200, 96), "white")
    font = ImageFont.truetype(str(FONTS / "DejaVuSans.ttf"), 24)
    ImageDraw.Draw(picture).multiline_text((8, 8), "harbour\nsixteen", fill="black", font=font, spacing=12)
    picture.save(folder / "0.png")
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "0.png", "text": "harbour\nsixteen"}) + "\n")
    card = {"family": "text", "metrics": ("cer_page", "wer_page"), "primary": "cer_page"}
    task = small_task(folder, native=True, normalisation=normalisation, **card)
    run = evaluate(load_tokenizer("control-identity"), task, out=None)
    scores = [run.scores[name] for name in ("cer_page", "wer_page")]
    assert [(score.value, score.floor) for score in scores] == [(0.0, 0.0)] * 2


def test_means_carry_their_interval(whole: tuple[Run, pd.DataFrame]) -> None:
    run, table = whole
    assert (run.scores["psnr"].low, run.scores["psnr"].high) == mean_interval(list(table["psnr"]))
    assert run.scores["bpp_entropy"].low is None


@pytest.mark.skipif(ocr.find("easyocr") is None, reason="EasyOCR's weights are not on this machine")
def test_text_under_vtbench_takes_the_reading_of_the_original_for_the_truth(tmp_path: Path) -> None:
    task = load_task("text", native=True)
    places = {"out": tmp_path / "r", "work": tmp_path / "w", "limit": 2, "protocol": "vtbench-2025"}
    same = evaluate(load_tokenizer("control-identity"), task, **places)
    assert (same.scores["cer_page"].value, same.scores["wer_page"].value) == (0.0, 0.0)
    changed = evaluate(load_tokenizer("jpeg-q5"), task, **places)
    table = images_of(tmp_path / "w", changed)
    assert 0 < (changed.scores["cer_page"].value or 0) < 2
    # Characters count over words: its WER is a multiple of its CER.
    assert (changed.scores["wer_page"].value or 0) > 2 * (changed.scores["cer_page"].value or 0)
    assert changed.scores["cer_page"].value != table["cer_page"].mean()


def test_a_text_task_is_ranked_by_text_under_protocols_that_score_it() -> None:
    tokenizer, task = load_tokenizer("jpeg-q5"), load_task("text", native=True)
    ranked = {rule: made(tokenizer, task, protocol=rule).primary for rule in ("vtbench-2025", "tokbench", "seed-voken")}
    assert ranked == {"vtbench-2025": "cer_page", "tokbench": "word_accuracy", "seed-voken": "psnr"}


@pytest.mark.skipif(ocr.find("easyocr") is None, reason="EasyOCR's weights are not on this machine")
def test_originals_are_read_once_and_give_the_floor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = load_task("text")
    places = {"out": tmp_path / "r", "work": tmp_path / "w", "limit": 3}
    same = evaluate(load_tokenizer("control-identity"), task, **places).scores
    assert same["cer"].floor == same["cer"].value
    assert same["cer"].excess == 0
    kept = list((tmp_path / "w" / results.ORIGINALS).glob("readings-easyocr-*/*.json"))
    assert len(kept) == 6  # three pages, in boxes and as a whole
    for file in kept:
        file.write_text(json.dumps(["nothing"] * len(json.loads(file.read_text()))))
    worse = evaluate(load_tokenizer("jpeg-q75"), task, **places).scores
    assert (worse["cer"].floor or 0) > 0.5, "the kept reading was not used"
    assert (worse["cer"].excess or 0) < 0


@pytest.mark.parametrize("count", [8, 40])
def test_distances_between_sets_come_from_the_features_of_all_pictures(count: int, folder: Path) -> None:
    generator = np.random.default_rng(0)
    sides = [generator.normal(shift, 1, (count, 16)).astype(np.float32) for shift in (0.0, 0.5)]
    keys = [Key("features", f"vtbench.metrics.frechet.inception_features/{side}", "raw") for side in sets.SIDES]
    table = pa.table({str(key): list(side) for key, side in zip(keys, sides, strict=True)})
    context = made(load_tokenizer("jpeg-q5"), small_task(folder)).measures[0].context
    rfid = replace(find_metric("rfid"), options=dict(find_metric("rfid").options) | {"minimum": 0})
    measure = sets.Measure([rfid, find_metric("kid")], context)
    scores = measure.scores(Table(table, intervals=lambda name: True))
    assert set(scores) == {"rfid", "kid"}
    assert scores["rfid"].value == pytest.approx(frechet_distance(*sides))
    assert scores["kid"].value == pytest.approx(kernel_distance(*sides))
    assert scores["rfid"].scored == count
    # Under 20 pictures groups of a jackknife would hold one each: no interval, and no crash.
    assert (scores["rfid"].low is None) == (scores["kid"].low is None) == (count < 20)


def test_a_set_is_refused_by_the_pictures_that_were_scored_not_by_those_expected(folder: Path) -> None:
    generator = np.random.default_rng(0)
    keys = [Key("features", f"vtbench.metrics.frechet.inception_features/{side}", "raw") for side in sets.SIDES]
    rows = [*generator.normal(size=(30, 8)), *[None] * 2070]
    reasons = [None] * 30 + ["planted"] * 2070
    table = pa.table({**{str(key): rows for key in keys}, "reason": reasons})
    context = made(load_tokenizer("jpeg-q5"), small_task(folder)).measures[0].context
    scores = sets.Measure([find_metric("rfid"), find_metric("kid")], context).scores(
        Table(table, intervals=lambda name: True)
    )
    assert scores["kid"].value is not None
    assert (scores["rfid"].value, scores["rfid"].low, scores["rfid"].scored) == (None, None, 30)
    assert scores["rfid"].reason == ("rFID needs at least 2048 pictures, 30 of 2100 were scored; the others: planted")


@pytest.mark.parametrize("name", ["reconstruction", "detail", "text", "stability", "latents"])
def test_every_column_of_a_table_has_a_name_of_its_own(name: str) -> None:
    task = load_task(name)
    attributes = {key for index in range(len(task)) for key in task.read(index).attributes}
    assert not {f"attribute/{name}" for name in attributes} & {*task.card.metrics, "bpp", "id", "index", "reason"}


def tokbench_copy(folder: Path, ratios: tuple[float, ...]) -> Path:
    """One picture of 800x800 a set, with a word of each relative height, in TokBench's layout."""
    (folder / "annotations").mkdir(parents=True)
    for name in tokbench.SETS:
        picture = Image.new("RGB", (800, 800), "white")
        words = []
        for row, ratio in enumerate(ratios):
            height, top = round(800 * ratio), 60 + 240 * row
            font = ImageFont.truetype(str(FONTS / "DejaVuSans.ttf"), height)
            ImageDraw.Draw(picture).text((50, top), "Orange", fill="black", font=font)
            left, upper, right, lower = font.getbbox("Orange")
            box = [50 + left, top + upper, 50 + right, top + lower]
            words.append({"rec": "Orange", "bbox": box, "ratio": ratio})
        place = folder / "images" / "text_data" / name
        place.mkdir(parents=True)
        picture.save(place / "img.png")
        said = [{"file_name": "img.png", "height": 800, "width": 800, "annotations": words}]
        (folder / "annotations" / f"text_{name}.json").write_text(json.dumps(said))
    return folder


@pytest.mark.skipif(ocr.find("easyocr") is None, reason="EasyOCR's weights are not on this machine")
def test_tokbench_scores_words_by_bins_of_their_height(tmp_path: Path) -> None:
    places = {"out": tmp_path / "r", "work": tmp_path / "w", "protocol": "tokbench", "limit": 2}
    task = load_task("text-tokbench", data=tokbench_copy(tmp_path / "all", (0.025, 0.035, 0.1)), native=True)
    scores = evaluate(load_tokenizer("control-identity"), task, **places).scores
    # At 256 pixels the large word stays legible and the smallest does not: one to two bins of three.
    assert 1 / 3 - 1e-9 <= (scores["word_accuracy"].value or 0) <= 2 / 3 + 1e-9
    assert 0 <= (scores["ned"].value or 0) < 0.5
    assert scores["psnr"].value is not None
    task = load_task("text-tokbench", data=tokbench_copy(tmp_path / "few", (0.025, 0.1)), native=True)
    empty = evaluate(load_tokenizer("control-identity"), task, **places).scores
    assert empty["word_accuracy"].value is None  # the published code prints nan
    assert empty["word_accuracy"].reason == published.EMPTY_BIN


class Counting(torch.nn.Module):
    """A tokenizer that counts the pictures it encodes and decodes, and loses what rounding to sixteenths loses."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(1))
        self.encoded: list[int] = []

    def __getstate__(self) -> dict[str, object]:
        """What it counts is none of its state: it is the same model before and after."""
        return {name: value for name, value in super().__getstate__().items() if name != "encoded"}

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        self.encoded.append(len(x))
        return self.gain * (x * 16).round() / 16

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        return latent


ALIKE = ("canonical", "seed-voken-tv", "vfm-vae", "titok")
"""Protocols that feed a picture of the task's size as it is."""


@pytest.mark.heavy  # seconds of many processes or networks
def test_protocols_that_feed_the_same_share_one_pass(tmp_path: Path) -> None:
    """And their numbers and tables are those of each alone."""
    module = Counting()
    tokenizer = wrap(module, name="counting")
    tasks = {native: load_task("reconstruction", native=native) for native in (False, True)}
    pairs = [(tasks[name != "canonical"], name) for name in ALIKE]

    def run(place: str, pairs: list[tuple[Task, str]]) -> list[Run]:
        module.encoded.clear()
        how = Settings(out=tmp_path / place / "r", work=tmp_path / place / "w", limit=10, batch_size=8)
        return engine.evaluate_together(tokenizer, pairs, how)

    together = run("together", pairs)
    # Its kind, the bottleneck twice, a warm-up; then each picture once.
    assert module.encoded == [1, 1, 1, 8, 8, 2]
    for pair, found in zip(pairs, together, strict=True):
        (alone,) = run(f"alone-{pair[1]}", [pair])
        assert sum(module.encoded) >= 10
        assert lasting(alone) == lasting(found)
        pd.testing.assert_frame_equal(
            images_of(tmp_path / "together" / "w", found), images_of(tmp_path / f"alone-{pair[1]}" / "w", alone)
        )
    assert len({found.scores["psnr"].value for found in together if "psnr" in found.scores}) > 1


def test_a_run_in_memory_is_warmed_up_as_one_with_folders(folder: Path, tmp_path: Path) -> None:
    encoded = []
    for places in ({"out": None}, {"out": tmp_path / "r", "work": tmp_path / "w"}):
        module = Counting()
        evaluate(wrap(module, name="counting"), small_task(folder), **places)
        encoded.append(module.encoded)
    assert encoded[0] == encoded[1]


def test_pairs_of_two_tasks_are_refused() -> None:
    pairs = [(load_task("reconstruction"), None), (load_task("detail"), None)]
    with pytest.raises(VtbenchError, match="several tasks"):
        engine.evaluate_together(load_tokenizer("jpeg-q5"), pairs, Settings(out=None))


class Hungry(Counting):
    """Has memory for three pictures at a time."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().encode(x)


def test_out_of_memory_halves_the_batch_and_loses_nothing(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = small_task(folder)
    plain = evaluate(wrap(Counting(), name="same"), task, out=tmp_path / "a", work=tmp_path / "aw")
    run = evaluate(wrap(Hungry(), name="same"), task, out=tmp_path / "b", work=tmp_path / "bw")
    assert "out of memory with 8 pictures a forward pass; goes on with 4" in caplog.text
    assert "goes on with 2" in caplog.text
    assert run.batch_size == 2, "what was run is what is recorded"
    assert plain.batch_size == 8
    pd.testing.assert_frame_equal(images_of(tmp_path / "bw", run), images_of(tmp_path / "aw", plain))


class Starved(Counting):
    """Has no memory for a bright picture."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        if float(x.max()) > 0.9:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().encode(x)


def test_a_picture_that_no_memory_suffices_for_is_a_row_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "some").mkdir()
    for name, level in (("a", 255), ("b", 60), ("c", 255), ("d", 90)):
        Image.new("RGB", (SIDE, SIDE), (level, level, level)).save(tmp_path / "some" / f"{name}.png")
    run = evaluate(wrap(Starved(), name="starved"), small_task(tmp_path / "some"), out=None)
    assert (run.pictures.scored, run.pictures.failed) == (2, 2)
    assert "out of memory for 64x64 pixels" in next(iter(run.pictures.reasons))


class Cramped(Counting):
    """Has memory for four pictures, those included that it decoded before and that somebody still holds."""

    def __init__(self) -> None:
        super().__init__()
        self.decoded: list[weakref.ref[torch.Tensor]] = []

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        held = [tensor for ref in self.decoded if (tensor := ref()) is not None]
        if sum(map(len, held)) + len(x) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().encode(x)

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        decoded = latent.clone()
        self.decoded.append(weakref.ref(decoded))
        return decoded


def test_what_is_done_of_a_halved_batch_leaves_its_memory_to_the_rest(folder: Path) -> None:
    run = evaluate(wrap(Cramped(), name="cramped"), small_task(folder), out=None, limit=8)
    assert (run.pictures.failed, run.batch_size) == (0, 4)


def test_what_protocols_share_gives_way_where_memory_ends(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    pairs = [(small_task(folder, native=name is not None), name) for name in (None, "llamagen")]
    how = Settings(out=None, limit=8, batch_size=4)
    runs = engine.evaluate_together(wrap(Cramped(), name="cramped"), pairs, how)
    assert [(run.pictures.failed, run.batch_size) for run in runs if run] == [(0, 4), (0, 4)]
    assert "protocols share no forward pass from here on" in caplog.text


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory",
    ],
)
def test_memory_that_ends_is_known_by_what_is_said_and_what_held_it_lets_go(said: str) -> None:
    seen: list[weakref.ref[torch.Tensor]] = []

    def fails() -> None:
        held = torch.zeros(1)
        seen.append(weakref.ref(held))
        raise RuntimeError(said)

    with pytest.raises(NoMemoryError) as raised, devices.memory():
        fails()
    assert "\n" not in str(raised.value) and seen[0]() is None
    with pytest.raises(RuntimeError, match="a bug"), devices.memory():
        raise RuntimeError("a bug")


class Failing(torch.nn.Module):
    """A tokenizer of one index a picture, by its first level; some pictures fail in the decoder, some have no code."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(1))
        self.decoded: list[list[int]] = []

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in super().__getstate__().items() if name != "decoded"}

    def encode(self, x: torch.Tensor) -> Codes:
        first = ((x[:, 0, 0, 0] + 1) * 127.5).round().long()
        return Codes(indices=(first[:, None, None],), codebook_sizes=(200,))

    def decode(self, codes: Codes) -> torch.Tensor:
        first = codes.indices[0][:, 0, 0]
        self.decoded.append(first.tolist())
        grey = (first / 127.5 - 1) * self.gain
        grey = torch.where(first % 3 == 0, torch.nan, grey)
        return grey[:, None, None, None].expand(-1, 3, 64, 64)


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_a_device_that_is_waited_for_once_a_batch_gives_the_same_rows(
    batch_size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where pictures fail in the decoder, or have indices that are no codes, in the first batch or a later one."""
    levels = [7, 8, 10, 250, 9, 11, 13, 240, 12, 14, 16, 17, 19, 20, 199, 200, 1, 2, 4, 5]
    (tmp_path / "in").mkdir()
    for number, level in enumerate(levels):
        Image.new("RGB", (64, 64), (level, level, level)).save(tmp_path / "in" / f"{number:02}.png")
    tables = []
    for asynchronous in ((), ("cpu",)):
        monkeypatch.setattr(shards, "ASYNCHRONOUS", asynchronous)
        module = Failing()
        place = tmp_path / str(len(tables))
        run = evaluate(
            wrap(module, name="failing"),
            small_task(tmp_path / "in"),
            out=place / "r",
            work=place / "w",
            batch_size=batch_size,
        )
        assert max(max(part) for part in module.decoded) == 199, "what is in no codebook is not looked up"
        tables.append(images_of(place / "w", run))
    pd.testing.assert_frame_equal(*tables)
    reasons = tables[0]["reason"]
    for level, reason, rate in zip(levels, reasons, tables[0]["bpp"], strict=True):
        if level > 199:
            assert f"gives indices from {level} to {level}, expected 0 to 199" in reason
        else:
            assert isinstance(reason, str) == (level % 3 == 0)
        assert np.isfinite(rate) == (level <= 199), "the rate of codes is known though their picture failed"


def test_passes_are_joined_on_the_cpu_where_the_device_has_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    picture, join, tried = torch.zeros(1, 3, 4, 4), torch.cat, []

    def cat(parts: list[torch.Tensor]) -> torch.Tensor:
        tried.append(len(parts))
        if len(tried) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return join(parts)

    monkeypatch.setattr(torch, "cat", cat)
    outcomes = [
        Outcome((Sample(str(n), picture[0]),), picture, picture, picture, Codes(latent=picture), None) for n in range(2)
    ]
    whole = shards._joined(outcomes)
    assert [sample.id for sample in whole.samples] == ["0", "1"]
    assert len(whole.reference) == len(whole.codes) == 2


def test_batches_are_filled_across_shards_and_the_same_for_every_process(folder: Path, tmp_path: Path) -> None:
    """A batch of 24 covers a shard and a half: a block is three shards, whoever computes it."""
    module = Counting()
    tokenizer = wrap(module, name="counting")
    task = small_task(folder)
    whole = evaluate(tokenizer, task, out=tmp_path / "a", work=tmp_path / "aw", batch_size=24)
    assert module.encoded[-3:] == [24, 24, 5]
    places = {"out": tmp_path / "b", "work": tmp_path / "bw", "batch_size": 24}
    assert evaluate(tokenizer, task, rank=1, world=2, **places) is None
    module.encoded.clear()
    run = evaluate(tokenizer, task, rank=0, world=2, **places)
    assert module.encoded[-2:] == [24, 24]
    assert run is not None
    assert lasting(run) == lasting(whole)
    pd.testing.assert_frame_equal(images_of(tmp_path / "bw", run), images_of(tmp_path / "aw", whole))


class Sparing(Counting):
    """Is fastest a picture in batches of four."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.05 * max(1.0, len(x) / 4) ** 2)  # far apart, for a busy machine
        return super().encode(x)


def test_an_automatic_batch_is_found_once_and_recorded(folder: Path, tmp_path: Path) -> None:
    task, module = small_task(folder), Sparing()
    places = {"out": tmp_path / "r", "work": tmp_path / "w", "limit": 12, "batch_size": "auto"}
    run = evaluate(wrap(module, name="sparing"), task, **places)
    assert run.batch_size == 4
    assert module.encoded[-3:] == [4, 4, 4]
    (kept,) = (tmp_path / "w" / BATCHES).glob("*.json")
    kept.write_text("3")
    assert evaluate(wrap(module, name="sparing"), task, **places).batch_size == 3, "it was tried again"


def test_a_metric_without_memory_takes_half_the_batch_and_a_picture_at_last_has_the_reason(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vtbench import metrics

    task, plain = small_task(folder), metrics.psnr
    whole = evaluate(load_tokenizer("jpeg-q10"), task, out=None, limit=6)

    def limited(most: int) -> object:
        def psnr(reference: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
            if len(reference) > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return plain(reference, reconstruction)

        return psnr

    monkeypatch.setattr(metrics, "psnr", limited(2))
    assert evaluate(load_tokenizer("jpeg-q10"), task, out=None, limit=6).scores["psnr"] == whole.scores["psnr"]
    monkeypatch.setattr(metrics, "psnr", limited(0))
    score = evaluate(load_tokenizer("jpeg-q10"), task, out=None, limit=6).scores["psnr"]
    assert (score.value, score.reason) == (None, "out of memory for psnr")


def test_a_measure_that_refuses_a_picture_has_the_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = codes.Measure.columns

    def picky(measure: codes.Measure, outcome: Outcome) -> object:
        if any(sample.id == "001.png" for sample in outcome.samples):
            raise DataError("not this one")
        return plain(measure, outcome)

    monkeypatch.setattr(codes.Measure, "columns", picky)
    run = evaluate(load_tokenizer("jpeg-q10"), small_task(folder), out=None, limit=6)
    assert (run.scores["bpp"].scored, run.scores["psnr"].scored) == (5, 6)


def test_a_measure_that_refuses_at_the_end_leaves_the_others_their_scores(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(measure: codes.Measure, table: Table) -> None:
        raise DataError("nothing can be made of them")

    monkeypatch.setattr(codes.Measure, "scores", refuse)
    run = evaluate(load_tokenizer("jpeg-q10"), small_task(folder), out=None, limit=2)
    assert (run.scores["bpp"].value, run.scores["bpp"].reason) == (None, "nothing can be made of them")
    assert run.scores["psnr"].value is not None


def test_a_run_that_cannot_be_merged_stops_no_other_protocols(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge = WorkFolder.merge

    def fails(place: WorkFolder, *more: object) -> Run:
        if place.plan.protocol.published:
            raise DataError("can't be merged")
        return merge(place, *more)

    monkeypatch.setattr(WorkFolder, "merge", fails)
    pairs = [(small_task(folder, native=name is not None), name) for name in ("llamagen", None)]
    how = Settings(out=tmp_path / "r", work=tmp_path / "w", limit=2)
    with pytest.raises(DataError, match="can't be merged"):
        engine.evaluate_together(load_tokenizer("jpeg-q10"), pairs, how)
    assert [path.name for path in (tmp_path / "r").rglob("*.json")] == ["jpeg-q10.json"]


def test_a_value_that_is_not_a_number_has_a_reason(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vtbench import metrics

    monkeypatch.setattr(metrics, "psnr", lambda x, y: torch.tensor([20.0, float("nan")], dtype=torch.float64))
    score = evaluate(load_tokenizer("jpeg-q10"), small_task(folder), out=None, limit=2).scores["psnr"]
    assert (score.value, score.scored) == (20.0, 1)


def test_a_slow_disk_makes_the_run_wait_instead_of_filling_memory(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vtbench import files
    from vtbench.shards import BEHIND

    write, ahead = files.write_atomic, []

    def slowly(path: Path, content: bytes) -> None:
        if path.suffix == ".parquet" and path.parent.name.startswith("shards-"):
            time.sleep(0.3)
        write(path, content)

    monkeypatch.setattr(files, "write_atomic", slowly)
    evaluate(
        load_tokenizer("jpeg-q10"),
        small_task(folder),
        out=tmp_path / "r",
        work=tmp_path / "w",
        progress=lambda done, _: ahead.append(done // SHARD - len(shards_in(tmp_path))),
    )
    assert max(ahead) <= BEHIND
