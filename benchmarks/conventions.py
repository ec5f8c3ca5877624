"""How far one and the same tokenizer moves by convention alone: docs/why-numbers-differ.md and what `show` says.

    python benchmarks/conventions.py [TOKENIZER...] [--write]

Every published protocol brings the same pictures (`reconstruction-512`, 512x512) to its own pixels at 256, passes them
through the tokenizer and scores them by its own rules. Then each rule in which it differs from canonical is put into
canonical alone, and what that moves is its effect. `--write` puts the tables into docs/why-numbers-differ.md and the
effects into vtbench/assets/deviations.json, where `vtbench show seed-voken` finds them.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vtbench import load_task, load_tokenizer
from vtbench.catalogue import find_metric
from vtbench.protocols import EFFECTS_ON, PROTOCOLS, Deviation, Lpips, Protocol, deviations
from vtbench.scoring import prepare, score
from vtbench.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "why-numbers-differ.md"
EFFECTS = ROOT / "vtbench" / "assets" / "deviations.json"
NAMES = EFFECTS_ON
BOTH_NETS = Lpips(nets=("alex", "vgg"))
CANONICAL = replace(PROTOCOLS["canonical"], lpips=BOTH_NETS, rfid=None)

Pictures = list[np.ndarray[Any, Any]]


def totals_under(protocol: Protocol, tokenizer: Tokenizer, pictures: Pictures, size: int = 256) -> dict[str, float]:
    """Take pictures through a tokenizer by one protocol's whole way."""
    inputs = [prepare(protocol, picture, size=size, value_range=tokenizer.span) for picture in pictures]
    decoded = []
    for x in inputs:
        fed = torch.from_numpy(x)[None]
        codes = tokenizer.encode_input(tokenizer.input_of(fed))
        out, reasons = tokenizer.attempt(codes, (fed.shape[-2], fed.shape[-1]), floats=True)
        assert reasons == [None]
        decoded.append(out[0].numpy())
    found = score(protocol, pictures, inputs, decoded, size=size, value_range=tokenizer.span).totals
    named = {"lpips" if name == "lpips_alex" else name: value for name, value in found.items()}
    return {name: value for name, value in named.items() if name in NAMES}


def effect_of(
    deviation: Deviation, protocol: Protocol, tokenizer: Tokenizer, pictures: Pictures, own: dict[int, dict[str, float]]
) -> dict[str, float]:
    """Measure what one deviation alone moves: canonical with it less `own`, canonical's totals at 256 and at 512."""
    changed = replace(CANONICAL, **{field: getattr(protocol, field) for field in deviation.fields})
    if "lpips" in deviation.fields and changed.lpips:
        changed = replace(changed, lpips=replace(changed.lpips, nets=BOTH_NETS.nets))
    # A rule of one metric moves no other: the others are not computed again.
    alone = {"psnr", "ssim", "lpips"} & set(deviation.fields)
    if alone:
        changed = replace(changed, **dict.fromkeys({"psnr", "ssim", "lpips"} - alone))
    size = 512 if "scored_at" in deviation.fields else 256  # at 256 nothing is resized for scoring
    after = totals_under(changed, tokenizer, pictures, size)
    return {name: value - own[size][name] for name, value in after.items()}


def shown(values: dict[str, float], name: str) -> str:
    """Print one value, or a dash where a protocol has none."""
    return f"{values[name]:.{find_metric(name).digits}f}" if name in values else "-"


def table(tokenizer: Tokenizer, pictures: Pictures) -> str:
    """Score one tokenizer under every protocol."""
    heads = [find_metric(name).title for name in NAMES]
    lines = [f"| protocol | {' | '.join(heads)} |", "| :-- |" + " --: |" * len(heads)]
    for protocol in PROTOCOLS.values():
        rule = CANONICAL if protocol.name == "canonical" else protocol
        if not {"psnr", "ssim"} & set(rule.metrics):
            continue  # TiTok's has rFID alone
        values = totals_under(rule, tokenizer, pictures)
        lines.append(f"| {protocol.name} | {' | '.join(shown(values, name) for name in NAMES)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the tables; write them where they are kept with --write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokenizers", nargs="*", default=["tiny-fsq-f8", "jpeg-q30"])
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    task = load_task("reconstruction-512", native=True)
    pictures = [task.read(index).image.permute(1, 2, 0).numpy() for index in range(len(task))]
    parts = []
    for name in options.tokenizers:
        parts.append(f"`{name}`:\n\n{table(load_tokenizer(name), pictures)}")
        print(parts[-1], end="\n\n", flush=True)
    first = load_tokenizer(options.tokenizers[0])
    own = {size: totals_under(CANONICAL, first, pictures, size) for size in (256, 512)}
    known: dict[str, dict[str, float]] = {}
    effects: dict[str, dict[str, dict[str, float]]] = {}
    for protocol in PROTOCOLS.values():
        for deviation in deviations(protocol):
            if deviation.fields == ("rfid",):
                continue  # the Inception network's weights are not part of the package index
            if deviation.sentence not in known:
                known[deviation.sentence] = effect_of(deviation, protocol, first, pictures, own)
            effects.setdefault(protocol.name, {})[deviation.sentence] = known[deviation.sentence]
    heads = " | ".join(find_metric(name).title for name in NAMES)
    lines = [f"| one rule changed in canonical | {heads} | found in |", "| :-- |" + " --: |" * 4 + " :-- |"]
    for sentence, effect in known.items():
        where = ", ".join(name for name, own in effects.items() if sentence in own)
        moved = " | ".join(f"{effect[name]:+.{find_metric(name).digits}f}" if name in effect else "" for name in NAMES)
        lines.append(f"| {sentence} | {moved} | {where} |")
    parts.append("\n".join(lines))
    print(parts[-1])
    if options.write:
        said = PAGE.read_text()
        for index, part in enumerate(parts):
            opening, closing = f"<!-- table {index} -->", f"<!-- end {index} -->"
            before, _, rest = said.partition(opening)
            said = f"{before}{opening}\n\n{part}\n\n{closing}{rest.partition(closing)[2]}"
        PAGE.write_text(said)
        record = {"tokenizer": options.tokenizers[0], "task": task.card.name, "data": task.digest, "effects": effects}
        EFFECTS.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
