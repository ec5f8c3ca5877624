"""The example of a training loop, run for a few steps."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LOOP = ROOT / "examples" / "training_loop.py"


@pytest.mark.heavy  # seconds of many processes or networks
def test_the_loop_trains_validates_and_logs(tmp_path: Path) -> None:
    steps = ("--steps", "4", "--every", "2", "--text-every", "4", "--text-limit", "1")
    done = subprocess.run(
        [sys.executable, str(LOOP), "--out", "runs", *steps],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "runs" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = {(int(row["step"]), row["name"]): float(row["value"]) for row in rows}
    assert {step for step, _ in found} == {2, 4}
    assert {"train/loss", "reconstruction/psnr", "reconstruction/lpips"} <= {name for step, name in found if step == 2}
    assert (4, "text/cer") in found
    assert found[2, "reconstruction/psnr"] != found[4, "reconstruction/psnr"]
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]  # validation wrote nothing
