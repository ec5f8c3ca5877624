"""What the exact search over a large codebook costs, in chunks and as one matrix product, in one run.

    python benchmarks/code_search.py [--codes 262144] [--channels 256] [--pictures 1 8]

A picture has 256 tokens. Times are the best of several turns; memory is what each way adds to its own
process.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
from torch import Tensor

from vtbench.networks._taming import best_codes


def plain(z: Tensor, table: Tensor) -> Tensor:
    """All scores at once."""
    scores = z.movedim(1, -1).flatten(0, 2) @ table.mT
    return scores.argmax(1).view(z.shape[0], *z.shape[2:])


WAYS = {"plain": plain, "chunked": best_codes}


def measure(way: str, codes: int, channels: int, pictures: int, repeats: int) -> dict[str, float]:
    """Time one way in this process, and how far its peak memory rises above the codebook and the latent."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(codes, channels, generator=generator)
    z = torch.randn(pictures, channels, 16, 16, generator=generator)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        found = WAYS[way](z, table)
        times.append(time.perf_counter() - started)
    added = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"ms": 1000 * min(times) / pictures, "mb": added / 2**10, "sum": float(found.sum())}


def main() -> None:
    """Print one Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--codes", type=int, default=262144)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--pictures", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = (options.codes, options.channels)
    if options.one:
        print(json.dumps(measure(options.one, *sizes, options.pictures[0], options.repeats)))
        return
    print("| codes | pictures | way | ms/picture | added MB |\n| --: | --: | :-- | --: | --: |")
    for pictures in options.pictures:
        found = {}
        for way in WAYS:
            case = ["--one", way, "--codes", str(options.codes), "--channels", str(options.channels)]
            case += ["--pictures", str(pictures), "--repeats", str(options.repeats)]
            done = subprocess.run([sys.executable, __file__, *case], capture_output=True, text=True, check=True)
            found[way] = json.loads(done.stdout)
            print(
                f"| {options.codes} | {pictures} | {way} | {found[way]['ms']:.1f} | {found[way]['mb']:.0f} |",
                flush=True,
            )
        if found["plain"]["sum"] != found["chunked"]["sum"]:
            raise SystemExit("the two ways chose different codes")


if __name__ == "__main__":
    main()
