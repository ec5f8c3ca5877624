"""The metadata of the embedded pictures: read by mlcroissant, true, and not stale."""

from __future__ import annotations

import hashlib
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from vtbench.data.sample import FOLDER, SIZES

ROOT = Path(__file__).resolve().parent.parent
FILES = {size: (FOLDER if size == SIZES[0] else FOLDER / str(size)) / "croissant.json" for size in SIZES}


@pytest.mark.parametrize("size", SIZES)
def test_it_is_what_the_program_writes(size: int) -> None:
    program = runpy.run_path(str(ROOT / "scripts" / "make_croissant.py"))
    assert FILES[size].read_text() == program["text_of"](size), "run scripts/make_croissant.py"


@pytest.mark.parametrize("size", SIZES)
def test_every_picture_is_in_it(size: int) -> None:
    said = {one["contentUrl"]: one for one in json.loads(FILES[size].read_text())["distribution"]}
    assert set(said) == {path.name for path in FILES[size].parent.glob("*.webp")}
    for name, one in said.items():
        assert one["sha256"] == hashlib.sha256((FILES[size].parent / name).read_bytes()).hexdigest()
        assert one["license"].startswith("https://") and one["creator"]["name"]


@pytest.mark.parametrize("size", SIZES)
def test_mlcroissant_finds_no_error(size: int) -> None:
    command = [
        *(sys.executable, "-W", "ignore", "-c"),
        "import sys, mlcroissant; print(len(mlcroissant.Dataset(sys.argv[1]).metadata.distribution))",
        str(FILES[size]),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(list(FILES[size].parent.glob("*.webp")))
