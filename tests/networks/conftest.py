"""Holds networks against what their published implementations computed with the same made-up weights.

`tests/parity/picture.png` is the input of every fixture here; `tests/parity/<variant>.npz` holds the tokens with their
margins (or the whole latent of a continuous network), and evenly strided values of the latent and the reconstruction.
The weights are those of `weights.fill_values` with seed 0. Tokens of several scales follow one another. A network whose
own arithmetic is noisier than float32 says in its fixture how much it may differ.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from vtbench import cards, images
from vtbench.cards import Parity, TokenizerCard
from vtbench.tokenizer import load_tokenizer
from vtbench.types import Codes, Strict
from vtbench.weights import load_state, synthetic_state

FOLDER = Path(__file__).parent.parent / "parity"

# Float32 noise of the published code against float64 is below 5e-6 (latent) and 1.5e-5 (reconstruction), while a wrong
# epsilon of the normalisation moves them by 5e-5 and 1.5e-4.
LATENT_ATOL = 2e-5
RECONSTRUCTION_ATOL = 5e-5
SURE_MARGIN = 1e-3  # a token whose two best scores are closer may flip on another machine


class Golden:
    """The published implementation's output for one variant."""

    def __init__(self, variant: str, span: images.Range) -> None:
        self.values = np.load(FOLDER / f"{variant}.npz")
        with Image.open(FOLDER / "picture.png") as picture:
            self.input = images.to_float(images.from_pil(picture)[None], span)

    def check_latent(self, latent: Tensor) -> None:
        self._check("latent", latent, LATENT_ATOL)

    def check_reconstruction(self, reconstruction: Tensor) -> None:
        self._check("reconstruction", reconstruction, RECONSTRUCTION_ATOL)

    def check_tokens(self, codes: Codes) -> None:
        found, expected = (
            torch.cat([part.flatten() for part in parts]) for parts in (codes.indices, self.tokens(codes))
        )
        sure = torch.from_numpy(self.values["margin"]) > SURE_MARGIN
        assert sure.float().mean() > 0.95
        assert torch.equal(found[sure], expected[sure])

    def tokens(self, codes: Codes) -> tuple[Tensor, ...]:
        flat = torch.from_numpy(self.values["tokens"].astype(np.int64))
        parts = flat.split([part.numel() for part in codes.indices])
        return tuple(part.view(like.shape) for part, like in zip(parts, codes.indices, strict=True))

    def latent(self, shape: torch.Size) -> Tensor:
        return torch.from_numpy(self.values["latent"]).view(shape)

    def _check(self, name: str, found: Tensor, atol: float) -> None:
        expected = torch.from_numpy(self.values[name])
        strided = found.flatten()[:: int(self.values[f"{name}_step"])]
        assert strided.shape == expected.shape
        atol = float(self.values.get(f"{name}_atol", atol))
        torch.testing.assert_close(strided, expected, rtol=0, atol=atol)


@pytest.fixture
def hold(monkeypatch):
    """Check a network, as its card builds it, against its fixture: latent, tokens, then pixels from the given codes."""
    torch.set_num_threads(1)

    @torch.inference_mode()
    def check(variant: str, fixture: str | None = None, span: images.Range | None = None) -> None:
        tokenizer = load_tokenizer(variant, weights="synthetic", device="cpu")
        golden = Golden(fixture or variant, span or tokenizer.span)
        if isinstance(variant, str):
            assert tokenizer.card.parity == Parity(fixture=fixture or variant)
        network = tokenizer.network
        latents = []
        monkeypatch.setattr(network, "latent", lambda x: latents.append(type(network).latent(network, x)) or latents[0])
        codes = network.encode(golden.input)
        if codes.latent is not None:
            golden.check_latent(codes.latent)
            given = Codes(latent=golden.latent(codes.latent.shape))
        else:
            golden.check_latent(latents[0])
            golden.check_tokens(codes)
            given = Codes(indices=golden.tokens(codes), codebook_sizes=codes.codebook_sizes, size=codes.size)
        golden.check_reconstruction(network.decode(given))

    return check


@pytest.fixture
def filled():
    """Build a small network with made-up weights, and another that is equal to it."""

    def build(network: Callable[[Strict], nn.Module], config: Strict) -> nn.Module:
        built = network(config).eval()
        load_state(built, synthetic_state(built))
        return built

    return build


@pytest.fixture
def cards_that_agree():
    """Find the cards of a network with one codebook, and hold what each says of its code against its config."""

    def check(network: str, model: type[Strict]) -> list[TokenizerCard]:
        found = [card for card in cards.tokenizers().values() if card.network == network]
        for card in found:
            config = model(**card.config)
            assert card.code.codebook_sizes == (config.codebook_size,)
            assert card.code.latent_channels == config.code_channels
            assert card.code.downsampling == card.input.multiple_of == 2 ** (len(config.multipliers) - 1)
            assert card.code.tokens_at_256 == (256 // card.code.downsampling) ** 2
        return found

    return check


@pytest.fixture
def coded_alike():
    """Check that pictures get the same codes and pixels alone as together."""

    def check(network: nn.Module, x: Tensor) -> None:
        codes = network.encode(x)
        decoded = network.decode(codes)
        for index in range(3):
            alone = network.encode(x[index : index + 1])
            assert torch.equal(alone.indices[0][0], codes.indices[0][index])
            torch.testing.assert_close(network.decode(alone)[0], decoded[index], rtol=0, atol=1e-5)  # other kernels
        assert len(codes.indices[0].unique()) > 3

    return check
