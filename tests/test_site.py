"""The documentation as a site (`make docs`): it builds without a warning, and what it says of the code is so."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import griffe
import pytest

import vtbench.metrics

ROOT = Path(__file__).resolve().parent.parent
SHOWN = re.findall(r"^::: (\S+)", (ROOT / "docs" / "api.md").read_text(), flags=re.MULTILINE)


def build(place: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "NO_COLOR": "1"}
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    done = build(ROOT, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    page = (tmp_path / "site" / "api" / "index.html").read_text()
    for name in vtbench.__all__:
        assert f'id="vtbench.{name}"' in page, name
    start = (tmp_path / "site" / "index.html").read_text()
    assert 'href="training-loops/"' in start and 'href="tasks/"' in start  # links of the README lead to pages


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What the site is made of, to be broken."""
    place = tmp_path / "copy"
    place.mkdir()
    nothing = shutil.ignore_patterns("*.pyc", "__pycache__", "tests")
    for name in ("docs", "vtbench", "scripts", "examples", "tasks", "tokenizers", "training", "results", ".ci"):
        shutil.copytree(ROOT / name, place / name, ignore=nothing)
    for name in ("mkdocs.yml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, place / name)
    return place


def test_a_parameter_that_is_not_there_and_a_link_to_nowhere_end_the_build(copy: Path, tmp_path: Path) -> None:
    engine = copy / "vtbench" / "engine.py"
    text = engine.read_text()
    assert "        batch_size: pictures" in text
    engine.write_text(text.replace("        batch_size: pictures", "        batchsize: pictures"))
    readme = copy / "README.md"
    readme.write_text(readme.read_text() + "\n[gone](docs/gone.md)\n")
    done = build(copy, tmp_path / "site")
    assert done.returncode != 0
    assert "Parameter 'batchsize' does not appear in the function signature" in done.stderr
    assert "README.md links to docs/gone.md, which is not there" in done.stderr


def test_what_is_public_is_on_the_page_and_every_member_says_what_it_is() -> None:
    assert {f"vtbench.{name}" for name in vtbench.__all__} <= set(SHOWN)
    assert {f"vtbench.metrics.{name}" for name in vtbench.metrics.__all__} <= set(SHOWN)
    package = griffe.load("vtbench", search_paths=[ROOT])

    def shown(path: str) -> list[griffe.Object | griffe.Alias]:
        found = package[path.removeprefix("vtbench.")]
        return [one for one in found.members.values() if one.is_public] if found.is_module else [found]

    silent = []
    for one in (one for path in SHOWN for one in shown(path)):
        thing = one.final_target if one.is_alias else one
        inner = thing.members.values() if thing.is_class else []
        silent += [
            part.path
            for part in (thing, *inner)
            if not part.is_alias and not part.name.startswith("_") and not part.has_docstring
        ]
    assert sorted(set(silent)) == sorted(PLAIN)


PLAIN = {
    "vtbench.tokenizer.Tokenizer.network",
    "vtbench.tokenizer.Tokenizer.held",
    "vtbench.task.Task.source",
    "vtbench.results.Run.task_family",
    "vtbench.metrics.frechet.FrechetDistance.resize",
    "vtbench.metrics.frechet.FrechetDistance.dtype",
    "vtbench.metrics.frechet.FrechetDistance.network",
    "vtbench.metrics.frechet.FrechetDistance.device",
    "vtbench.measures.Measure.metrics",
    "vtbench.measures.Measure.names",
    "vtbench.measures.Measure.context",
    "vtbench.ocr.File.Engine",
}
"""Members that the page leaves out: they hold what the constructor was given, or what its name says."""
