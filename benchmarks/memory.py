"""Whether memory grows with the number of pictures: peak of a run of 4,000 pictures against one of 400, and of a merge.

    python benchmarks/memory.py [--few 400] [--many 4000] [--rows 50000]

Each case is a process of its own. The merge is of made-up rows with Inception features and 256 tokens a picture: rFID
with its interval, the use of the codebook, and the table.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from overhead import photographs
from pyarrow import parquet

from vtbench import evaluate, load_task, load_tokenizer, measures, plan, summary, workfolder
from vtbench.catalogue import find_metric
from vtbench.plan import SHARD, Plan
from vtbench.settings import Settings
from vtbench.task import Task

FEATURES = "features/vtbench.metrics.frechet.inception_features"


def run(count: int, place: Path) -> dict[str, float]:
    """Evaluate JPEG on `count` pictures."""
    task = photographs(place / "pictures", count)
    task = Task(task.card.model_copy(update={"metrics": ("psnr", "ssim")}), task.source)
    began = time.perf_counter()
    evaluate(load_tokenizer("jpeg-q30"), task, out=place / "r", work=place / "w")
    return {"seconds": time.perf_counter() - began}


def merge(count: int, place: Path) -> dict[str, float]:
    """Merge made-up shards."""
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((256, 2048)).astype(np.float32) / 16
    shards = -(-count // SHARD)
    for shard in range(shards):
        rows = min(SHARD, count - shard * SHARD)
        before = np.abs(rng.standard_normal((rows, 256), dtype=np.float32) @ mixing)
        after = before + 0.05 * np.abs(rng.standard_normal((rows, 2048), dtype=np.float32))
        columns = {
            "index": pa.array(range(shard * SHARD, shard * SHARD + rows)),
            "id": [f"{shard}-{row}" for row in range(rows)],
            "reason": pa.array([None] * rows, pa.string()),
            "psnr": rng.uniform(20, 30, rows),
            "bpp": np.full(rows, 0.05),
            f"{FEATURES}/reference:raw": list(before),
            f"{FEATURES}/reconstruction:raw": list(after),
            "codes/0:raw": list(rng.integers(0, 16_384, (rows, 256))),
        }
        clock = {"started": "", "batch": 8, "encode": 1.0, "decode": 1.0, "images": rows, "total": 2.0}
        table = pa.table(columns).replace_schema_metadata({"clock": json.dumps(clock), "plan": ""})
        parquet.write_table(table, place / f"{shard:05d}.parquet", compression="none")
    made = _plan(count)
    paths = [place / f"{shard:05d}.parquet" for shard in range(shards)]
    began = time.perf_counter()
    parts = [summary.Shard.of(parquet.read_table(path), partial(workfolder.column, path)) for path in paths]
    found = summary.finish(made, parts)[0]
    spent = time.perf_counter() - began
    assert found.scores["rfid"].value is not None
    return {"seconds": spent, "cpu": time.process_time()}


def _plan(count: int) -> Plan:
    """A plan of `count` pictures with rFID, whatever backbones are here."""
    made = plan.make(
        load_tokenizer("tiny-fsq-f8"),
        load_task("reconstruction"),  # its pictures are not read
        protocol=None,
        batch_size=8,
        how=Settings(None),
    )
    names = ("psnr", "rfid", "bpp", "code_usage", "code_entropy", "bpp_entropy")
    context = dataclasses.replace(made.measures[0].context, codebook_sizes=(16_384,))
    built = measures.build([find_metric(name) for name in names], context)
    return dataclasses.replace(made, count=count, unavailable={}, measures=tuple(built))


def in_a_process(what: str, count: int) -> dict[str, float]:
    """Run one case in a process of its own, and give what it measured."""
    done = subprocess.run(
        [sys.executable, __file__, "--case", what, str(count)], check=True, capture_output=True, text=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--few", type=int, default=400)
    parser.add_argument("--many", type=int, default=4000)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.case:
        with tempfile.TemporaryDirectory() as name:
            found = {"run": run, "merge": merge}[said.case[0]](int(said.case[1]), Path(name))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        print(json.dumps({**found, "peak": peak}))
        return
    cases = [("run", said.few), ("run", said.many), ("merge", said.rows)]
    found = [in_a_process(*case) for case in cases]
    print(f"{'case':>8} {'pictures':>10} {'seconds':>10} {'peak MiB':>10}")
    for (what, count), one in zip(cases, found, strict=True):
        print(f"{what:>8} {count:>10} {one['seconds']:>10.1f} {one['peak']:>10.0f}")
    print(f"peak of {said.many} pictures over that of {said.few}: {found[1]['peak'] / found[0]['peak']:.3f}")


if __name__ == "__main__":
    main()
