"""Draw docs/latents/moved.webp: what moved latents and changed tokens of the embedded tokenizers decode to.

    python scripts/latent_pictures.py

One row a tokenizer; TAEF2 where its weights are on this machine. From left to right: the original, its reconstruction,
noise of a tenth and of the whole of the latent's length, half and nine tenths of the tokens changed (empty where there
are none), the latent scaled to a half and enlarged again for the eye, and the latent turned, its decode turned back.
"""

# ruff: noqa: T201, TID253  (a script may load torch at once, and prints what it drew)

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vtbench import load_tokenizer
from vtbench.bottleneck import Bottleneck
from vtbench.data import sample
from vtbench.errors import WeightsError
from vtbench.measures.latents import Seen, changed
from vtbench.metrics.latents import perturb_latent, probes, transform

PLACE = Path(__file__).resolve().parent.parent / "docs" / "latents" / "moved.webp"

PICTURE = "chelsea"

TOKENIZERS = ("taef2", "tiny-fsq-f8", "tiny-fsq-f16")


def row(name: str, picture: Tensor) -> Tensor:
    """Draw one tokenizer: uint8 (3, 256, 256) -> (3, 256, 8 * 256)."""
    tokenizer = load_tokenizer(name, device="cpu")
    bottleneck = Bottleneck(tokenizer)
    batch, size = picture[None], (picture.shape[1], picture.shape[2])
    codes = tokenizer.encode(batch)
    plain = tokenizer.decode(codes, size)
    z = bottleneck.latent(codes)
    seen = Seen(bottleneck, (PICTURE,), batch, plain, codes, z)
    noise = probes.seeded_noise([PICTURE], z.shape[1:], purpose="lpc")
    shown = [batch, plain, *(seen.decode(perturb_latent(z, noise, rho)) for rho in (0.1, 1.0))]
    if codes.indices:
        shown += [seen.decode(one) for one in changed(seen, (0.5, 0.9))]
    else:
        shown += [torch.full_like(batch, 255)] * 2
    small = seen.decode(transform(z, scale=0.5), 0.5).float()
    shown.append(F.interpolate(small, size, mode="nearest").byte())
    shown.append(torch.rot90(seen.decode(transform(z, turns=1)), 1, (-2, -1)))
    return torch.cat([one[0] for one in shown], dim=2)


def main() -> None:
    """Draw the rows."""
    torch.set_num_threads(1)
    source = sample.Source(size=256)
    index = next(i for i in range(len(source)) if PICTURE in source.sample_id(i))
    rows = []
    for name in TOKENIZERS:
        try:
            rows.append(row(name, source.read(index).image))
        except WeightsError as error:
            print(f"{name} is left out: {error}")
    PLACE.parent.mkdir(exist_ok=True)
    drawn = torch.cat(rows, dim=1).permute(1, 2, 0).numpy()
    Image.fromarray(drawn).resize((drawn.shape[1] // 2, drawn.shape[0] // 2)).save(PLACE, quality=80, method=6)
    print(f"{PLACE}: {len(rows)} rows")


if __name__ == "__main__":
    main()
