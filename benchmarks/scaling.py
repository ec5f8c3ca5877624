"""How much faster two processes are than one, each with one thread: `torchrun --nproc-per-node 1` against 2.

Both make the same run anew, in turn; what counts is the rate while all processes compute, as the times of the shards'
files say: starting Python, loading torch and hashing the data takes either as long. The whole command's time stands
beside it, and whether the tables are the same bytes. Measure on a quiet machine: the load is printed.
Run: python benchmarks/scaling.py [--tokenizer tiny] [--pictures 800] [--rounds 3]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from kills import write_pictures

from vtbench.plan import SHARD

PROCESSES = (1, 2)


class Measured(NamedTuple):
    """One run."""

    command: float
    """Seconds of the whole command."""
    rate: float
    """Pictures a second, from when every process had written its first shard until the last one was written."""
    table: bytes


def measure(processes: int, place: Path, data: Path, said: argparse.Namespace) -> Measured:
    """Make the run with some processes of one thread each."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    run = ["-m", "vtbench", "run", "-t", said.tokenizer, "--task", "reconstruction", "--data", str(data), "--workers"]
    places = ["1", "--out", str(place / "r"), "--work", str(place / "w")]
    began = time.time()
    done = subprocess.run(
        [*torchrun, *run, *places], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, check=False
    )
    command = time.time() - began
    if done.returncode:
        sys.exit(done.stderr.decode(errors="replace"))
    (table,) = place.glob("w/*/*/images.parquet")
    written = [path.stat().st_mtime for path in sorted(place.glob("w/*/*/shards-*/*.parquet"))]
    # Shards are dealt out in turn, so these are the first ones of all processes.
    since = max(written[:processes])
    later = sum(one > since for one in written)
    return Measured(command, later * SHARD / (max(written) - since), table.read_bytes())


def main() -> None:
    """Measure in turn, and print the ratios of the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", default="tiny")
    parser.add_argument("--pictures", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=3)
    said = parser.parse_args()
    found: dict[int, list[Measured]] = {count: [] for count in PROCESSES}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_pictures(root / "pictures", said.pictures, 256)
        before = os.getloadavg()[0]
        for turn in range(said.rounds):
            for count in PROCESSES:
                found[count].append(measure(count, root / f"{count}-{turn}", root / "pictures", said))
    print(f"{said.tokenizer}, {said.pictures} pictures of 256 px, {os.cpu_count()} cores, load before {before:.1f}")
    print(f"{'processes':>9} {'command s':>10} {'pictures/s':>11} {'ratio':>6} {'command ratio':>14}")
    medians = {
        count: (statistics.median(run.command for run in runs), statistics.median(run.rate for run in runs))
        for count, runs in found.items()
    }
    for count, (command, rate) in medians.items():
        ratios = f"{rate / medians[1][1]:>6.2f} {medians[1][0] / command:>14.2f}"
        print(f"{count:>9} {command:>10.1f} {rate:>11.1f} {ratios}")
    same = len({run.table for runs in found.values() for run in runs}) == 1
    print(f"tables of all {len(PROCESSES) * said.rounds} runs: {'the same bytes' if same else 'THEY DIFFER'}")
    sys.exit(not same)


if __name__ == "__main__":
    main()
