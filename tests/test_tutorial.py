"""docs/add-a-tokenizer.md, done step by step in an empty folder, without a network."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from vtbench.results import Run, read_runs

pytestmark = pytest.mark.heavy  # a package is built and trained

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "add-a-tokenizer.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


class Place:
    """The reader's folder and shell; what `pip install .` puts goes into a folder beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "reader"
        self.folder.mkdir()
        self._site = folder / "site"
        self.said: dict[str, str] = {}

    def do(self, language: str, text: str) -> None:
        if language == "sh":
            for line in text.splitlines():
                self.said[line] = self._run(line)
        else:
            path = self.folder / re.match(r"# (\S+)\n", text)[1]  # type: ignore[index]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def _run(self, line: str) -> str:
        name, *rest = shlex.split(line)
        python = sys.executable
        if name == "pip":  # without an index and into a folder, else as it stands
            options = ["--no-index", "--no-deps", "--no-build-isolation", "--quiet", "--target", str(self._site)]
            command = [python, "-m", "pip", *rest, *options]
        else:
            command = {"python": [python, *rest], "vtbench": [python, "-m", "vtbench", *rest]}[name]
        paths = os.pathsep.join([str(self._site), str(ROOT)])
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": paths, "PYTHONSAFEPATH": "1", "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def runs(self) -> dict[tuple[str, str], Run]:
        return {(run.name, run.task): run for run in read_runs(self.folder / "results")}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A folder in which every step of the page was done, in its order."""
    pytest.importorskip("diffusers")
    made = Place(tmp_path_factory.mktemp("tutorial"))
    for language, text in BLOCKS:
        made.do(language, text)
    return made


def test_the_package_runs_by_its_name(place: Place) -> None:
    run = place.runs()["patches-f4~first", "reconstruction"]
    assert run.weights == "local"
    assert run.scores["bpp"].value == 8 / 16
    assert 18 < (run.scores["psnr"].value or 0) < 40
    assert "256 patches of 4x4 pixels" in place.said["vtbench show patches-f4"]
    listed = place.said["vtbench list --family patches"]
    assert re.search(r"patches-f4 +discrete +4096 +0\.5000 +CC0-1\.0", listed)
    assert "patches-f4&#126;first" in (place.folder / "results" / "LEADERBOARD.md").read_text()


def test_its_tokens_are_held_against_the_pictures_segments(place: Place) -> None:
    run = place.runs()["patches-f4~first", "tokens"]
    assert run.scores["tokens_per_picture"].value == 56 * 56
    assert run.scores["homogeneity_gain"].value == 0.0
    assert 0.8 < (run.scores["homogeneity"].value or 0) < 1


def test_the_live_model_has_the_same_numbers(place: Place) -> None:
    run = place.runs()["patches-f4~first", "reconstruction"]
    assert place.said["python live.py"] == f"PSNR {run.scores['psnr'].value:.4f} dB at 0.5000 bits a pixel\n"


def test_the_folder_of_diffusers_runs(place: Place) -> None:
    (run,) = [run for run in place.runs().values() if run.kind == "continuous"]
    assert "my-vae" in run.name
    assert run.scores["latent_values"].value == 4 / 4
    assert run.scores["psnr"].scored == 2


def test_every_file_of_the_page_says_where_it_goes() -> None:
    assert {language for language, _ in BLOCKS} == {"toml", "python", "sh"}
    assert all(re.match(r"# \S+\n", text) for language, text in BLOCKS if language != "sh")
