"""The bottleneck of a tokenizer, laid open to diagnostics: the vectors that cross it, and decodes of changed ones.

A continuous tokenizer shows its latent as it is. A discrete network shows it where it has what `Open` names; all but
`decode` is left out of what a run needs.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

from vtbench import device as devices
from vtbench import images
from vtbench.errors import DataError
from vtbench.tokenizer import Tokenizer, clamped
from vtbench.types import Codes

CLOSED = "its network does not show what its codes stand for (`vectors`, see CONTRIBUTING.md)"
MUTE = "its network does not say which other codes a position might have had (`candidates`, see CONTRIBUTING.md)"
NO_LATENT = {
    "codec": "codecs have no latent",
    "opaque": "its codes are not seen",
    "understanding": "its tokens have no decoder",
}


class Open(Protocol):
    """What a discrete network has beside `encode` and `decode` where its bottleneck can be looked into.

    Its `decode` also takes Codes whose `latent` is in the place of indices: vectors as `vectors` gives them.
    """

    @property
    def changes(self) -> Literal["codes", "digits"]:
        """What `candidates` offers: the nearest codes, or the code with its least certain digit or bit changed."""
        ...

    def vectors(self, codes: Codes) -> Tensor:
        """What the decoder is given for indices: (B, C, h, w), or (B, T, C) where the tokens are no grid."""
        ...

    def candidates(self, x: Tensor, count: int) -> tuple[Tensor, ...]:
        """Other codes that the positions of pictures might have had.

        Args:
            x: as `encode` takes it.
            count: codes a position; of changed digits there are always two.

        Returns:
            int64, one tensor for each of `Codes.indices`, of its shape and one axis more: best first, so that the first
            are the codes of `encode`. What later scales are given is as `encode` left it. Empty where nothing is known.
        """
        ...


class Bottleneck:
    """One tokenizer's bottleneck."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    @property
    def closed(self) -> str | None:
        """Say why there is no latent to be seen; None where there is one."""
        kind = self.tokenizer.card.kind
        if kind == "discrete":
            return None if hasattr(self.tokenizer.network, "vectors") else CLOSED
        return NO_LATENT.get(kind)

    @property
    def changes(self) -> Literal["codes", "digits"] | None:
        """What may stand in the place of a code; None for continuous latents and where it is not known."""
        if self.tokenizer.card.kind != "discrete":
            return None
        found: Literal["codes", "digits"] | None = getattr(self.tokenizer.network, "changes", None)
        return found

    @torch.no_grad()
    def latent(self, codes: Codes) -> Tensor:
        """Give what the decoder takes: (B, C, h, w), or (B, T, C) where the tokens are no grid.

        Raises:
            DataError: if there is no latent.
        """
        if self.closed:
            raise DataError(f"{self.tokenizer.card.name}: {self.closed}")
        if codes.latent is not None:
            return codes.latent.to(self.tokenizer.device)
        network: Open = self.tokenizer.network  # type: ignore[assignment]
        return network.vectors(clamped(codes))

    def decode(self, z: Tensor | Codes, size: tuple[int, int]) -> tuple[Tensor, list[str | None]]:
        """Decode a latent, or changed codes, to uint8 pictures (B, 3, height, width); say of each why it can't be used.

        Args:
            z: as `latent` gives it, of the same type; or codes.
            size: of the pictures.

        Raises:
            DataError: if the network takes no such size, or gives another.
        """
        if isinstance(z, Tensor):
            z = Codes(latent=z, size=images.padded_size(size, self.tokenizer.card.input.multiple_of))
        return self.tokenizer.attempt(z, size)

    def check_any_size(self) -> None:
        """Refuse to be asked for pictures of another size than the network was made for.

        Raises:
            DataError: with the sizes that it takes.
        """
        sizes = self.tokenizer.card.sizes
        if sizes:
            raise DataError(f"it takes pictures of {' or '.join(str(size) for size in sizes)} px only")

    @torch.no_grad()
    def candidates(self, pictures: Tensor, count: int) -> tuple[Tensor, ...]:
        """Other codes that the positions of uint8 pictures (B, 3, H, W) might have had, as `Open.candidates` says."""
        network: Open = self.tokenizer.network  # type: ignore[assignment]
        x = self.tokenizer.fitted(self.tokenizer.input_of(pictures))
        with devices.exact():
            return network.candidates(x, count)
