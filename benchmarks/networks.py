"""How fast the networks encode and decode, and how much memory they take.

    python benchmarks/networks.py [NAME...] [--size 256 512] [--batch 1 8] [--device cpu] [--precision fp32]
        [--compile] [--layout]

Made-up weights do: speed does not depend on their values. Without names, the default card of every family is taken.
Each case runs in a process of its own, so that its peak memory is its own. Times are the best of several turns. With
--compile each case is also run through torch.compile, and the ratio of both and the seconds of compiling are printed;
with --layout, by turns, also with kernels in the order of memory that torch gives them, and the ratio.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections import defaultdict

import torch

from vtbench import cards, load_tokenizer


def measure(
    name: str, size: int, batch: int, device: str, precision: str, repeats: int, *, compiled: bool, layout: bool
) -> dict[str, float]:
    """Time one case in this process; with `layout` by turns in both orders of memory."""
    weights = None if _embedded(name) else "synthetic"
    tokenizer = load_tokenizer(name, weights=weights, device=device, precision=precision, compiled=compiled)
    pictures = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)
    times: dict[str, list[float]] = defaultdict(list)
    for turn in range((repeats + 1) * (1 + layout)):  # the first turn of each pays for allocation
        kind = "usual_" if layout and turn % 2 else ""
        for parameter in tokenizer.network.parameters() if layout else ():
            if parameter.ndim == 4:
                order = torch.contiguous_format if kind else torch.channels_last
                parameter.data = parameter.data.contiguous(memory_format=order)
        started = _now(device)
        codes = tokenizer.encode(pictures)
        between = _now(device)
        tokenizer.decode(codes, (size, size))
        times[f"{kind}encode"].append(between - started)
        times[f"{kind}decode"].append(_now(device) - between)
    if device == "cpu":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    else:
        peak = torch.cuda.max_memory_allocated() / 2**30
    best = {part: 1000 * min(found[1:]) / batch for part, found in times.items()}
    return {**best, "peak_gb": peak, "first": times["encode"][0] + times["decode"][0]}


def _embedded(name: str) -> bool:
    source = cards.find_tokenizer(name).weights
    return source is None or source.package is not None


def _now(device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def _default_names() -> list[str]:
    """The card that carries the family's alias, or the family's first."""
    by_family: dict[str, str] = {}
    for card in cards.tokenizers().values():
        if card.kind != "codec" and (card.family not in by_family or card.aliases):
            by_family[card.family] = card.name
    return list(by_family.values())


def main() -> None:
    """Print one Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--size", type=int, nargs="+", default=[256])
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--layout", action="store_true")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    common = (options.device, options.precision, options.repeats)
    if options.one:
        found = measure(
            options.names[0],
            options.size[0],
            options.batch[0],
            *common,
            compiled=options.compile,
            layout=options.layout,
        )
        print(json.dumps(found))
        return
    threads = torch.get_num_threads()
    print(f"{options.device}, {options.precision}, {threads} threads, best of {options.repeats}\n")
    print("| network | size | batch | encode ms/image | decode ms/image | peak GB |")
    print("| :-- | --: | --: | --: | --: | --: |")
    for name in options.names or _default_names():
        for size in options.size:
            for batch in options.batch:
                case = [name, "--one", "--size", str(size), "--batch", str(batch), "--device", options.device]
                case += ["--precision", options.precision, "--repeats", str(options.repeats)]
                case += ["--layout"] if options.layout else []
                plain = _shown(f"{name} | {size} | {batch}", case)
                if options.compile and plain:
                    fast = _shown(f"{name}, compiled | {size} | {batch}", [*case, "--compile"])
                    if fast:
                        gains = [plain[part] / fast[part] for part in ("encode", "decode")]
                        print(f"{'':4}gains {gains[0]:.2f} and {gains[1]:.2f}; compiled in {fast['first']:.0f} s")
                if options.layout and plain:
                    gains = [plain[f"usual_{part}"] / plain[part] for part in ("encode", "decode")]
                    print(f"{'':4}channels last is {gains[0]:.2f} and {gains[1]:.2f} times as fast", flush=True)


def _shown(row: str, case: list[str]) -> dict[str, float] | None:
    """Run a case in a process of its own, and print its row."""
    done = subprocess.run([sys.executable, __file__, *case], capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"| {row} | {done.stderr.strip().splitlines()[-1]} | | |", flush=True)
        return None
    found: dict[str, float] = json.loads(done.stdout)
    print(f"| {row} | {found['encode']:.1f} | {found['decode']:.1f} | {found['peak_gb']:.2f} |", flush=True)
    return found


if __name__ == "__main__":
    main()
