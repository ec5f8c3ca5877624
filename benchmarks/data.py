"""How fast pictures are read, against a plain Pillow loop of as many threads, and whether memory stays flat.

Run: python benchmarks/data.py            (a minute or two; writes a temporary folder of some 100 MB)

Both sides decode, resize by the same rule and end in a uint8 tensor; they take turns, and the ratio is that of their
median times. Memory is the largest resident set while pictures are read, looked at after every shard, in a process of
its own for each number (Linux).
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vtbench import load_tokenizer, plan, shards
from vtbench.cards import Data, Geometry, TaskCard
from vtbench.settings import Settings
from vtbench.task import Task, load_task

torch.set_num_threads(1)

SIDE = 256
COUNT = 128
SHAPES = ((500, 375), (375, 500), (640, 480), (500, 333))  # as photographs of ImageNet and COCO are
TURNS = 5
FEW, MANY = 200, 20_000
TARGET = 0.95


def photographs(folder: Path, count: int, shapes: tuple[tuple[int, int], ...]) -> Path:
    """Write JPEGs with the texture of photographs: noise of every scale, so that they cost what photographs cost."""
    generator = np.random.default_rng(0)
    folder.mkdir()
    for index in range(count):
        width, height = shapes[index % len(shapes)]
        total = np.zeros((height, width, 3), np.float32)
        for cells in (4, 16, 64):
            coarse = Image.fromarray(generator.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
            total += np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32) / cells**0.5
        levels = 255 * (total - total.min()) / np.ptp(total)
        Image.fromarray(levels.astype(np.uint8)).save(folder / f"{index:06d}.jpg", quality=90)
    return folder


def task_of(place: Path) -> Task:
    """A task at 256 px over a folder or archive."""
    card = TaskCard(
        name="bench",
        version=1,
        family="reconstruction",
        title="Benchmark",
        data=Data(source="folder"),
        geometry=Geometry(size=SIDE),
        metrics=("psnr",),
        primary="psnr",
    )
    return load_task(card, data=place)


def ours(task: Task) -> int:
    """Read all pictures by the engine's own path."""
    return sum(len(window.pictures) for window in windows(task, len(task)))


def windows(task: Task, count: int) -> Iterator[shards.Window]:
    """Read pictures ahead as a run of JPEG does, and do nothing with them."""
    how = Settings(None, limit=count)
    made = plan.make(load_tokenizer("jpeg-q30"), task, protocol=None, batch_size=8, how=how)
    job = shards.Job(range(count), [shards.Want(made, range(made.shards), lambda shard, table: None)], lambda: None)
    with ThreadPoolExecutor(shards.workers()) as readers:
        for window in shards.read_ahead([job], readers):
            for _, reads in window.reads:
                assert all(read.result().sample for read in reads)
            yield window


def plain(files: list[Path]) -> int:
    """Read all pictures by what anybody would write in ten lines."""

    def read(file: Path) -> torch.Tensor:
        with Image.open(file) as opened:
            picture = opened.convert("RGB")
        scale = SIDE / min(picture.size)
        size = (int(picture.width * scale), int(picture.height * scale))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
        left, top = (picture.width - SIDE) // 2, (picture.height - SIDE) // 2
        picture = picture.crop((left, top, left + SIDE, top + SIDE))
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()

    with ThreadPoolExecutor(shards.workers()) as pool:
        return sum(1 for _ in pool.map(read, files))


def seconds(call: Callable[[], int]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def memory(place: Path, count: int) -> int:
    """Largest resident set, in bytes, of a process that reads `count` pictures."""
    done = subprocess.run(
        [sys.executable, __file__, "--memory", str(place), str(count)], check=True, capture_output=True, text=True
    )
    return int(done.stdout)


def read_and_weigh(place: Path, count: int) -> None:
    """Be the process that `memory` starts."""
    task = task_of(place)
    largest = 0
    for _ in windows(task, count):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        largest = max(largest, pages * resource.getpagesize())
    print(largest)


def main() -> int:
    """Print both tables; 1 where reading a folder falls behind the plain loop."""
    worst = True
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        folder = photographs(place / "photographs", COUNT, SHAPES)
        files = sorted(folder.iterdir())
        with zipfile.ZipFile(place / "a.zip", "w") as zipped, tarfile.open(place / "a.tar", "w") as packed:
            for file in files:
                zipped.write(file, file.name)
                packed.add(file, file.name)
        with tarfile.open(place / "a.tar.gz", "w:gz") as packed:
            for file in files:
                packed.add(file, file.name)
        print(f"{COUNT} JPEGs, {shards.workers()} threads, median of {TURNS}")
        print(f"{'source':>12} {'pictures/s':>12} {'plain loop':>12} {'ratio':>8}")
        archives = [(f"a.{end}", place / f"a.{end}") for end in ("zip", "tar", "tar.gz")]
        for kind, source in (("folder", folder), *archives):
            task = task_of(source)
            ours(task), plain(files)
            pairs = [(seconds(lambda: ours(task)), seconds(lambda: plain(files))) for _ in range(TURNS)]  # noqa: B023
            mine, theirs = (COUNT / statistics.median(side) for side in zip(*pairs, strict=True))
            ratio = statistics.median(b / a for a, b in pairs)
            print(f"{kind:>12} {mine:12.1f} {theirs:12.1f} {ratio:8.3f}")
            worst = worst and (ratio >= TARGET or kind != "folder")
        shutil.rmtree(folder)
        small = photographs(place / "small", MANY, ((64, 48),))
        few, many = memory(small, FEW), memory(small, MANY)
        print(f"memory: {few / 2**20:.1f} MiB for {FEW} pictures, {many / 2**20:.1f} MiB for {MANY}")
    return 0 if worst else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        read_and_weigh(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        sys.exit(main())
