"""A package of the user's (examples/plugin), built, installed beside vtbench's wheel and used without a network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from vtbench import read_runs

ROOT = Path(__file__).resolve().parent.parent
PLUGIN = ROOT / "examples" / "plugin"

CLOSED = """
import socket

def refuse(self, address):
    raise AssertionError(f"something tried to reach {address}")

socket.socket.connect = refuse
"""
"""Python imports `sitecustomize` before anything else."""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    out = tmp_path_factory.mktemp("wheels")
    source = shutil.copytree(PLUGIN, tmp_path_factory.mktemp("source") / "plugin")  # nothing is built in the checkout
    for place in (ROOT, source):
        build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(place)]
        subprocess.run(build, check=True, capture_output=True)
    return sorted(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheels: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A folder with both wheels, which comes before this environment's packages; those are what they need."""
    site = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(site)]
    subprocess.run([*install, *map(str, wheels)], check=True, capture_output=True)
    (site / "sitecustomize.py").write_text(CLOSED)
    return {**os.environ, "PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}


def vtbench(arguments: list[str], place: Path, environment: dict[str, str]) -> str:
    command = [sys.executable, "-m", "vtbench", *arguments]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_the_cards(wheels: list[Path], installed: dict[str, str]) -> None:
    assert [path.name.split("-")[0] for path in wheels] == ["vtbench", "vtbench_example"]
    package = Path(installed["PYTHONPATH"]) / "vtbench_example"
    assert {path.stem for path in (package / "cards").iterdir()} == {"mosaic-f2", "mosaic-f8", "nameplates"}


def test_its_cards_are_listed_without_torch(installed: dict[str, str], tmp_path: Path) -> None:
    tokenizers = json.loads(vtbench(["list", "--json"], tmp_path, installed))
    tasks = json.loads(vtbench(["list", "tasks", "--json"], tmp_path, installed))
    assert {"mosaic-f2", "mosaic-f8", "ibq-262144"} <= {row["name"] for row in tokenizers}
    assert {"nameplates", "text"} <= {row["name"] for row in tasks}
    code = (
        "import sys; from vtbench import cards, catalogue;"
        "print(*cards.tokenizers(), *cards.tasks(), *catalogue.metrics(), 'torch' in sys.modules)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=installed, capture_output=True, text=True, check=True
    ).stdout.split()
    assert {"mosaic-f2", "nameplates", "chroma_error"} <= set(said)
    assert said[-1] == "False"


def test_its_tokenizers_run_on_its_task(installed: dict[str, str], tmp_path: Path) -> None:
    vtbench(
        ["run", "-t", "mosaic-f2", "-t", "mosaic-f8", "-t", "jpeg-q5", "--task", "nameplates", "--limit", "3"],
        tmp_path,
        installed,
    )
    runs = {run.tokenizer: run for run in read_runs(tmp_path / "results")}
    assert set(runs) == {"mosaic-f2", "mosaic-f8", "jpeg-q5"}
    fine, coarse = runs["mosaic-f2"], runs["mosaic-f8"]
    for run in runs.values():
        assert run.pictures.scored == 3
        assert all(run.scores[name].value is not None for name in ("cer", "chroma_error", "psnr"))
        assert run.scores["cer"].floor == 0.0  # the engine reads the originals without a mistake
        assert run.digests["enlarged/version"].endswith("at x2")
    assert fine.scores["cer"].value == 0.0
    assert coarse.scores["cer"].value > 0.5
    assert fine.scores["psnr"].value > coarse.scores["psnr"].value
    assert coarse.scores["bpp"].value == 9 / 64
    table = pd.read_parquet(tmp_path / ".vtbench" / "nameplates" / "mosaic-f2" / "images.parquet")
    assert list(table["id"]) == ["harbour", "meadow", "lantern"]
    assert list(table["reading/boxes"]) == ["harbour", "meadow", "lantern"]


def test_its_metric_equals_pillows_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's YCbCr is rounded to levels; the metric's is not."""
    import numpy as np
    import torch
    from PIL import Image

    monkeypatch.syspath_prepend(str(PLUGIN))
    from vtbench_example.chroma import chroma_error

    generator = np.random.default_rng(0)
    pair = generator.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    first, second = (
        np.asarray(Image.fromarray(picture).convert("YCbCr"), dtype=np.float64)[..., 1:] for picture in pair
    )
    expected = np.abs(first - second).mean()
    one, other = (torch.from_numpy(picture).permute(2, 0, 1)[None] for picture in pair)
    assert chroma_error(one, other).item() == pytest.approx(expected, abs=0.05)
    grey = torch.full((1, 3, 8, 8), 50, dtype=torch.uint8)
    assert chroma_error(grey, 2 * grey).item() == pytest.approx(0, abs=1e-12)
    assert chroma_error(one, other).dtype == torch.float64


@pytest.mark.heavy  # seconds of many processes or networks
def test_a_changed_metric_of_its_is_computed_again(installed: dict[str, str], tmp_path: Path) -> None:
    run = ["run", "-t", "mosaic-f8", "--task", "nameplates", "--limit", "1"]
    path = tmp_path / "results" / "nameplates" / "mosaic-f8.json"
    site = shutil.copytree(installed["PYTHONPATH"], tmp_path / "site")
    mine = {**installed, "PYTHONPATH": str(site)}
    vtbench(run, tmp_path, mine)
    before = json.loads(path.read_text())["scores"]["chroma_error"]["value"]
    file = site / "vtbench_example" / "chroma.py"
    file.write_text(file.read_text().replace(".mean((1, 2)) / 2", ".mean((1, 2)) / 4"))
    vtbench(run, tmp_path, mine)
    assert json.loads(path.read_text())["scores"]["chroma_error"]["value"] == pytest.approx(before / 2)


def test_a_second_package_with_its_names_is_refused_in_one_line(
    wheels: list[Path], installed: dict[str, str], tmp_path: Path
) -> None:
    other = tmp_path / "other" / "more_cards"
    other.mkdir(parents=True)
    shutil.copy(PLUGIN / "vtbench_example" / "cards" / "mosaic-f8.toml", other)
    about = tmp_path / "other" / "more_cards-2.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: more-cards\nVersion: 2.0\n")
    (about / "entry_points.txt").write_text("[vtbench.cards]\nmore = more_cards\n")
    both = {**installed, "PYTHONPATH": os.pathsep.join([installed["PYTHONPATH"], str(tmp_path / "other")])}
    done = subprocess.run(
        [sys.executable, "-m", "vtbench", "list"], cwd=tmp_path, env=both, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "mosaic-f8" in done.stderr
    assert "vtbench-example 0.1.0" in done.stderr
    assert "more-cards 2.0" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_package_whose_metric_cannot_be_loaded_is_told_in_one_line(installed: dict[str, str], tmp_path: Path) -> None:
    about = tmp_path / "broken-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[vtbench.metrics]\nmine = not_there:WORST\n")
    both = {**installed, "PYTHONPATH": os.pathsep.join([installed["PYTHONPATH"], str(tmp_path)])}
    command = [sys.executable, "-m", "vtbench", "list", "metrics"]
    done = subprocess.run(command, cwd=tmp_path, env=both, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "not_there:WORST" in done.stderr and "mend its package or uninstall it" in done.stderr
    assert done.stderr.count("\n") == 1
