"""How far the diagnostics of a latent space move with what they should not see: few pictures, scale, offset, sampling.

    python benchmarks/latents.py [--write docs/latents.md]
    python benchmarks/latents.py --cost [--pictures 8]

Prints two Markdown tables: values of noise, by the number of pictures; and values of the embedded pictures' latents
under the packaged tokenizers, as they are and changed. With --write also puts them between the markers of that file.
With --cost prints instead what the task `latents` costs beside a plain reconstruction, and CKNNA of 10,000 pictures:
seconds of a processor, which other work on the machine does not move.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vtbench import evaluate, images, load_tokenizer
from vtbench.data import sample
from vtbench.errors import WeightsError
from vtbench.metrics import latents
from vtbench.metrics.latents import probes

NOISE, CHANGES = "noise", "changes"

COUNTS = (29, 200, 1000, 4000)

TOKENIZERS = {"tiny-fsq-f8": (7, 1.2), "tiny-fsq-f16": (11, 2.2)}
"""Taps and sigma of the spectrum match's blur, as published for f8 and f16; f8 at 256 px has 32 rows and takes none."""

COSTED = ("tiny-fsq-f8", "tiny-fsq-f16", "taef2")

SAMPLING = 0.25
"""Noise that stands for a sampled posterior, in standard deviations of the channel."""


def noise_rows(count: int) -> dict[str, str]:
    """Measure pictures that have nothing in common, and codes that are drawn uniformly."""
    generator = np.random.default_rng(count)
    a, b = generator.standard_normal((count, 64)), generator.standard_normal((count, 768))
    codes = generator.integers(0, 1024, (count, 16, 16))
    half = count // 2
    bits = [latents.heldout_bits(codes[:half], codes[half:, :, 1:], 1024)]
    bits.append(latents.heldout_bits(codes[:half], codes[half:], 1024, context="left"))
    return {
        "CKNNA, k = 10": f"{latents.cknna(a, b):.3f}",
        "k / n": f"{10 / count:.3f}",
        "shared neighbours, k = 10": f"{latents.mutual_knn(a, b):.3f}",
        "effective rank of 64 equal directions": f"{latents.effective_rank(a):.1f}",
        "label purity, 10 labels": f"{latents.label_purity(a, generator.integers(0, 10, count)):.2f}",
        "bits after the left neighbour, plug-in, of 10": f"{latents.conditional_entropy(codes, context='left'):.2f}",
        "bits of a code in its place, plug-in, of 0": f"{latents.position_information(codes):.2f}",
        "held-out gain of the left neighbour, bits": f"{bits[0] - bits[1]:+.3f}",
    }


def noise_table() -> str:
    """Make the first table: rows are values, columns numbers of pictures."""
    found = [noise_rows(count) for count in COUNTS]
    lines = [f"| pictures | {' | '.join(str(count) for count in COUNTS)} |", "| :-- |" + " --: |" * len(COUNTS)]
    return "\n".join(lines + [f"| {name} | {' | '.join(column[name] for column in found)} |" for name in found[0]])


def changes() -> dict[str, Callable[[Tensor], Tensor]]:
    """Name what is done to the latents (B, C, h, w)."""
    generator = torch.Generator().manual_seed(0)

    def turned(z: Tensor) -> Tensor:
        axes = torch.linalg.qr(torch.randn(z.shape[1], z.shape[1], generator=generator, dtype=z.dtype)).Q
        return torch.einsum("dc,bchw->bdhw", axes, z)

    def sampled(z: Tensor) -> Tensor:
        return z + SAMPLING * deviation(z) * torch.randn(z.shape, generator=generator, dtype=z.dtype)

    def shuffled(z: Tensor) -> Tensor:
        order = torch.randperm(z.shape[2] * z.shape[3], generator=generator)
        return z.flatten(2)[:, :, order].view_as(z)

    return {
        "as it is": lambda z: z,
        "10 times as large": lambda z: 10 * z,
        "two deviations added to each channel": lambda z: z + 2 * deviation(z),
        "channels rotated": turned,
        f"noise of {SAMPLING:g} deviations": sampled,
        "white noise of its deviations": lambda z: (sampled(z) - z) / SAMPLING,
        "places shuffled": shuffled,
    }


def deviation(z: Tensor) -> Tensor:
    """Give the standard deviation of each channel, (1, C, 1, 1)."""
    return z.std((0, 2, 3), keepdim=True)


def change_cells(pictures: Tensor, z: Tensor, blur: tuple[int, float]) -> dict[str, float]:
    """Measure latents (B, C, h, w) of pictures within [-1, 1]: means over the pictures."""
    found = {}
    for name, x in (("KL", z), ("KL, standardised over all", (z - z.mean((0, 2, 3), keepdim=True)) / deviation(z))):
        found[name] = float(latents.spectrum_match(pictures, x, blur_kernel=blur[0], blur_sigma=blur[1])["kl"])
    found["block, upper half"] = float(latents.block_spectrum(z)[:, 32:].mean())
    at = {"height": probes.SIDE, "width": probes.SIDE}
    for name, measure in (("LDS", latents.lds), ("CDS", latents.cds), ("RMSC", latents.rmsc)):
        for centred in (False, True):
            value = float(measure(probes.grid_tokens(z, center=centred), **at).mean())
            found[f"{name}, centred" if centred else name] = value
    return {**found, "effective rank": latents.effective_rank(z.mean((2, 3)))}


def change_table(count: int) -> str:
    """Make the second table: rows are tokenizers and changes, columns values."""
    source = sample.Source(size=256)
    pictures = images.to_float(torch.stack([source.read(index).image for index in range(count)]))
    lines: list[str] = []
    for name, blur in TOKENIZERS.items():
        with torch.inference_mode():
            z = torch.cat([latent_of(name, part) for part in pictures.split(8)]).double()
        for change, function in changes().items():
            cells = change_cells(pictures, function(z), blur)
            if not lines:
                lines += [f"| {count} pictures | {' | '.join(cells)} |", "| :-- |" + " --: |" * len(cells)]
            lines.append(f"| {name}, {change} | {' | '.join(f'{value:.3g}' for value in cells.values())} |")
    return "\n".join(lines)


def latent_of(name: str, pictures: Tensor) -> Tensor:
    """Give what a packaged tokenizer's decoder takes, of pictures within [-1, 1]."""
    network = load_tokenizer(name, device="cpu").network
    return network.quantizer(network.latent(pictures))


def cost(count: int) -> None:
    """Print seconds of a processor a picture, of the task and of what it is compared with, and CKNNA's in all."""
    print("| tokenizer | encode, decode | task reconstruction | task latents | times the first | times the second |")
    print("| :-- | --: | --: | --: | --: | --: |")
    for name in COSTED:
        try:
            tokenizer = load_tokenizer(name, device="cpu")
        except WeightsError as error:
            print(f"{name}: {error}")
            continue
        source = sample.Source(size=256)
        pictures = torch.stack([source.read(index).image for index in range(count)])
        tokenizer.reconstruct(pictures[:1])
        spent = [seconds(lambda: [tokenizer.reconstruct(part) for part in pictures.split(8)])]  # noqa: B023
        for task in ("reconstruction", "latents"):
            evaluate(tokenizer, task, out=None, limit=2)  # loads LPIPS, and what intervals need
            spent.append(seconds(lambda: evaluate(tokenizer, task, out=None, limit=count)))  # noqa: B023
        cells = [f"{one / count:.2f}" for one in spent] + [f"{spent[2] / one:.1f}" for one in spent[:2]]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    generator = np.random.default_rng(0)
    a, b = generator.standard_normal((10_000, 32)), generator.standard_normal((10_000, 768))
    spent_on_it = seconds(lambda: latents.cknna(a, b, clip=0.95))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"CKNNA, 10,000 pictures, 32 and 768 values: {spent_on_it:.0f} s, {peak:.1f} GiB at most in all")


def seconds(call: Callable[[], object]) -> float:
    """Seconds that this process spends on a processor."""
    before = time.process_time()
    call()
    return time.process_time() - before


def main() -> None:
    """Print the tables, and write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=29, help="of the embedded ones, for the second table")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--cost", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.cost:
        return cost(options.pictures)
    for marker, table in ((NOISE, noise_table()), (CHANGES, change_table(options.pictures))):
        print(table, end="\n\n")
        if options.write:
            begin, end = f"<!-- {marker}: begin -->", f"<!-- {marker}: end -->"
            before, rest = options.write.read_text().split(begin)
            options.write.write_text(f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}")


if __name__ == "__main__":
    main()
