"""Holds a network, as its card builds it, against what its published implementation computed with made-up weights.

`tests/parity/<variant>.npz` holds the tokens (or the whole latent of a continuous network)
and evenly strided values of the reconstruction that the published code decodes from them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vtbench import images
from vtbench.cards import Parity
from vtbench.tokenizer import load_tokenizer
from vtbench.types import Codes

FOLDER = Path(__file__).parent / "parity"


def picture() -> torch.Tensor:
    """The shared picture, uint8 (1, 3, 256, 256)."""
    with Image.open(FOLDER / "picture.png") as opened:
        return images.from_pil(opened)[None]


@torch.inference_mode()
def hold(variant: str, *, latent_atol: float = 2e-5, atol: float = 5e-5) -> None:
    """Check tokens or latent, then the pixels decoded from the published ones."""
    torch.set_num_threads(1)
    values = np.load(FOLDER / f"{variant}.npz")
    tokenizer = load_tokenizer(variant, weights="synthetic", device="cpu")
    assert tokenizer.card.parity == Parity(fixture=variant)
    codes = tokenizer.encode(picture())
    if "latent" in values:
        assert codes.latent is not None
        expected = torch.from_numpy(values["latent"]).view(codes.latent.shape)
        torch.testing.assert_close(codes.latent, expected, rtol=0, atol=latent_atol)
        given = Codes(latent=expected)
    else:
        # Tokens of several scales follow one another.
        parts = torch.from_numpy(values["tokens"].astype(np.int64)).split([part.numel() for part in codes.indices])
        tokens = tuple(part.view(found.shape) for part, found in zip(parts, codes.indices, strict=True))
        same = torch.cat([(part == found).flatten() for part, found in zip(tokens, codes.indices, strict=True)])
        assert same.float().mean() >= 0.999  # one near a border may flip on another machine
        given = Codes(indices=tokens, codebook_sizes=codes.codebook_sizes, size=codes.size)
    decoded = tokenizer.network.decode(given).flatten()[:: int(values["step"])]
    torch.testing.assert_close(decoded, torch.from_numpy(values["reconstruction"]), rtol=0, atol=atol)
