"""A run killed again and again, at random instants, against the same run undisturbed: byte for byte the same.

Every life of the run is one to three processes (`--shards I/N`, N drawn anew, started in any order), each forked from
one that has loaded torch already, so that its life is spent in the run and not in imports. All are killed by SIGKILL
after a random time. A run that ends before its time is held against the undisturbed one and begun anew elsewhere, so
that merges are hit as well. After the last kill the run goes on to its end.
Run: python benchmarks/kills.py [--kills 100] [--pictures 2000]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

VOLATILE = ("timing",)
"""Fields of a run that two equal runs need not share: how fast it went, and when it was begun."""

CARD = """
name = "killed"
version = 1
family = "reconstruction"
title = "Killed"
primary = "psnr"
metrics = {metrics}
[data]
source = "folder"
[geometry]
size = {size}
"""


def write_pictures(folder: Path, count: int, size: int) -> None:
    """Write smooth noise: pictures that differ in every number."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(count):
        coarse = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC).save(folder / f"{index:05d}.png")


def start(place: Path, data: Path, part: str, log: Path) -> int:
    """Start `vtbench run` in a process of its own, without the imports; gives its number."""
    if (child := os.fork()) > 0:
        return child
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    from vtbench.cli import main as vtbench

    said = ["vtbench", "run", "-t", "jpeg-q10", "--task", "killed", "--cards", data, "--data", data / "pictures"]
    sys.argv = [str(one) for one in (*said, "--out", place / "r", "--work", place / "w", "--shards", part)]
    code = 1
    try:
        vtbench()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.stdout.flush()
        os._exit(code)


def live(children: list[int], seconds: float | None) -> tuple[int, list[int]]:
    """Let processes live for a time, then kill those that are left; gives how many, and the others' exit codes."""
    end = None if seconds is None else time.monotonic() + seconds
    codes = []
    while children and (end is None or time.monotonic() < end):
        for child in list(children):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                children.remove(child)
                codes.append(os.waitstatus_to_exitcode(status))
        time.sleep(0.005)
    for child in children:
        os.kill(child, signal.SIGKILL)
    for child in children:
        os.waitpid(child, 0)
    return len(children), codes


def final(place: Path) -> tuple[bytes, dict[str, object]] | None:
    """Read the table and the summary without its volatile fields; None before the run has ended."""
    (folder,) = [*(place / "w").glob("killed*/jpeg-q10")] or [place]
    (summary,) = [*(place / "r").glob("killed*/jpeg-q10.json")] or [place / "none"]
    if not (summary.is_file() and (folder / "images.parquet").is_file()):
        return None
    said = json.loads(summary.read_bytes())
    for name in VOLATILE:
        del said[name]
    return (folder / "images.parquet").read_bytes(), said


def differing(found: tuple[bytes, dict[str, object]], expected: tuple[bytes, dict[str, object]]) -> list[str]:
    """Name what differs: the table, or fields of the run, in their order too."""
    run, other = found[1], expected[1]
    fields = [name for name in [*run, *other] if json.dumps(run.get(name)) != json.dumps(other.get(name))]
    return [*(["the table"] if found[0] != expected[0] else []), *dict.fromkeys(fields)] or (
        ["the order of fields"] if list(run) != list(other) else []
    )


def main() -> None:
    """Kill, resume, compare; exit code 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="lives that end by SIGKILL")
    parser.add_argument("--life", type=float, help="the longest life, in seconds; a third into the run where left out")
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="few small pictures and cheap metrics")
    said = parser.parse_args()
    count, size, metrics = (
        (1600, 64, ["psnr", "ssim"]) if said.quick else (said.pictures, 256, ["psnr", "ssim", "lpips"])
    )
    os.environ["OMP_NUM_THREADS"] = "1"
    import vtbench.engine
    import vtbench.measures.pairs  # noqa: F401  loaded once, before the forks

    draw = random.Random(said.seed)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_pictures(root / "pictures", count, size)
        (root / "killed.toml").write_text(CARD.format(metrics=json.dumps(metrics), size=size))
        log = root / "log"
        began, since = time.monotonic(), time.time()
        live([start(root / "whole", root, "1/1", log)], None)
        undisturbed = time.monotonic() - began
        expected = final(root / "whole")
        if expected is None:
            sys.exit(f"the undisturbed run failed:\n{log.read_text()}")
        first = min(path.stat().st_mtime for path in root.glob("whole/w/*/*/shards-*/*.parquet")) - since
        life = said.life or first + min(8.0, (undisturbed - first) / 3)
        kills = processes = rounds = 0
        kept: list[int] = []
        while True:
            place = root / f"round-{rounds}"
            world = draw.choice((1, 2, 3))
            parts = draw.sample(range(1, world + 1), world)
            children = [start(place, root, f"{part}/{world}", log) for part in parts]
            killed, codes = live(children, draw.uniform(0, life) if kills < said.kills else None)
            if any(codes):
                sys.exit(f"a process ended with {codes}:\n{log.read_text()}")
            if killed:
                kills, processes = kills + 1, processes + killed
                kept.append(len([*place.glob("w/*/*/shards-*/*.parquet")]))
            if not killed:
                found = final(place)
                if found is None:
                    sys.exit(f"round {rounds}: ended without a result:\n{log.read_text()}")
                if wrong := differing(found, expected):
                    sys.exit(f"round {rounds} differs from the undisturbed run: {', '.join(wrong)}")
                rounds += 1
                if kills >= said.kills:
                    break
        between = sum(0 < one < -(-count // 16) for one in kept)
        if not between:
            sys.exit(f"all {kills} kills hit before the first shard or after the last: give another --life")
        print(f"{count} pictures of {size} px, undisturbed {undisturbed:.1f} s, first shard after {first:.1f} s")
        print(
            f"{kills} kills of {processes} processes over {rounds} runs and {time.monotonic() - began:.0f} s, "
            f"{between} of them between the first and the last shard"
        )
        print(f"every table and run is that of the undisturbed run, byte for byte, but for: {', '.join(VOLATILE)}")


if __name__ == "__main__":
    main()
