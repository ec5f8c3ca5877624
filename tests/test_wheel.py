"""The wheel, built and installed elsewhere: what a user gets who never saw the repository."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from vtbench import cards

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the wheel's files come first; its dependencies are those of this one."""
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return {**os.environ, "PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}


def run(arguments: list[str], place: Path, environment: dict[str, str]) -> str:
    command = [sys.executable, "-m", "vtbench", *arguments]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel_holds_what_it_must_and_stays_small(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in (
        "sample/LICENSES.md",
        "LICENSE_DEJAVU",
        "tiny-fsq-f8.safetensors",
        "page.html.jinja",
        "LICENSE_uplot",
        "py.typed",
    ):
        assert any(name.endswith(wanted) for name in names), wanted
    large = ROOT / "vtbench" / "assets" / "sample" / "512"
    assert {f"vtbench/assets/sample/512/{path.name}" for path in large.iterdir()} <= set(names)
    assert not any(name.startswith(("tests/", "training/")) for name in names)
    assert wheel.stat().st_size < 16 * 2**20


def test_all_cards_are_listed_outside_the_checkout(installed: dict[str, str], tmp_path: Path) -> None:
    origin = [sys.executable, "-c", "import vtbench; print(vtbench.__file__)"]
    where = subprocess.run(origin, cwd=tmp_path, env=installed, capture_output=True, text=True, check=True).stdout
    assert installed["PYTHONPATH"] in where
    listed = json.loads(run(["list", "--json"], tmp_path, installed))
    assert [row["name"] for row in listed] == list(cards.tokenizers())
    assert [row["name"] for row in json.loads(run(["list", "tasks", "--json"], tmp_path, installed))] == list(
        cards.tasks()
    )


def test_main_job_runs_outside_the_checkout(installed: dict[str, str], tmp_path: Path) -> None:
    said = run(["run", "-t", "tiny", "--task", "reconstruction", "--limit", "2"], tmp_path, installed)
    assert "2/2" in said
    summary = json.loads((tmp_path / "results" / "reconstruction" / "tiny-fsq-f8.json").read_text())
    assert summary["weights"] == "packaged"
    assert summary["commit"] is None


@pytest.mark.heavy  # seconds of many processes or networks
def test_every_embedded_task_runs_outside_the_checkout(installed: dict[str, str], tmp_path: Path) -> None:
    tasks = ("reconstruction", "detail", "text", "stability")
    asked = [part for task in tasks for part in ("--task", task)]
    run(["run", "-t", "jpeg", *asked, "--limit", "2"], tmp_path, installed)
    for task in tasks:
        summary = json.loads((tmp_path / "results" / task / "jpeg-q75.json").read_text())
        table = pd.read_parquet(tmp_path / ".vtbench" / task / "jpeg-q75" / "images.parquet")
        assert list(table["id"]) == list(dict.fromkeys(table["id"]))
        assert len(table) == summary["images"] == 2
        assert table["psnr"].mean() == pytest.approx(summary["scores"]["psnr"]["value"])
