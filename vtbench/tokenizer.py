"""The one Tokenizer: it binds a card to a network and owns range, padding, clamping, rounding and cropping."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType
from typing import Literal, Protocol, cast

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from vtbench import cards as card_files
from vtbench import device as compute
from vtbench import files, images
from vtbench import weights as weight_files
from vtbench.cards import TokenizerCard
from vtbench.errors import CardError, DataError, VtbenchError, WeightsError
from vtbench.types import Codes

Precision = Literal["fp32", "fp16", "bf16"]

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Network(Protocol):
    """What a file in vtbench/networks/ provides as `Network`, an nn.Module built from that file's `Config`."""

    def encode(self, x: Tensor) -> Codes:
        """Encode float pictures in the card's range, (B, 3, H, W), H and W multiples of the card's `multiple_of`."""
        ...

    def decode(self, codes: Codes) -> Tensor:
        """Decode to float pictures in the card's range, (B, 3, H, W), unclamped."""
        ...


class Tokenizer:
    """A tokenizer as tasks and metrics see it: uint8 in, Codes across, uint8 out. Nobody subclasses it."""

    def __init__(
        self,
        card: TokenizerCard,
        network: Network,
        *,
        device: str = "cpu",
        precision: Precision = "fp32",
        state: weight_files.WeightsState = "none",
        digest: str | None = None,
    ) -> None:
        """Bind a network to its card.

        Args:
            card: what the network is; its `input` says range, padding and sizes.
            network: an nn.Module with `encode` and `decode`.
            device: a torch device name.
            precision: the type of the network's tensors and of what it is fed.
            state: where the weights came from.
            digest: sha256 of the weights.
        """
        if not isinstance(network, nn.Module):
            raise CardError(f"{card.name}: its network is a {type(network).__name__}, expected a torch nn.Module")
        self.card = card
        self.network = network
        self.device = torch.device(device)
        self.precision: Precision = precision
        self.weights_state = state
        self.weights_digest = digest
        self.parameters = sum(parameter.numel() for parameter in network.parameters())
        network.to(device=self.device, dtype=DTYPES[precision]).eval()
        spec = card.input
        self.span = images.value_range(*spec.range, spec.mean, spec.std)
        """What the levels 0 and 255 become on the way in, per channel where the card gives mean and std."""
        self._decoded_span = spec.decoded_range or self.span

    @torch.inference_mode()
    def encode(self, pictures: Tensor) -> Codes:
        """Encode uint8 pictures, (B, 3, H, W), on the tokenizer's device.

        Raises:
            DataError: if the network takes other sizes; pictures are never resized to fit.
        """
        check_pictures(pictures)
        return self.encode_floats(images.to_float(pictures.to(self.device), self.span))

    @torch.inference_mode()
    def encode_floats(self, pictures: Tensor) -> Codes:
        """Encode float32 pictures within `span`, (B, 3, H, W), for protocols that resize or scale without levels.

        Raises:
            DataError: if the network takes other sizes.
        """
        self.check_size((pictures.shape[-2], pictures.shape[-1]))
        x = images.pad_to_multiple(pictures.to(self.device), self.card.input.multiple_of)
        with compute.exact():
            return self.network.encode(x.to(DTYPES[self.precision]))

    @torch.inference_mode()
    def decode(self, codes: Codes, size: tuple[int, int]) -> Tensor:
        """Decode to uint8 pictures, (B, 3, height, width), on the tokenizer's device.

        Args:
            codes: all that the decoder may know of the pictures.
            size: height and width before padding; both sides know them.
        """
        return images.to_uint8(self._decode(codes, size), self._decoded_span)

    @torch.inference_mode()
    def decode_floats(self, codes: Codes, size: tuple[int, int]) -> Tensor:
        """Decode to float pictures within `span`, neither clamped nor rounded, for protocols that do so themselves."""
        decoded = self._decode(codes, size)
        return images.from_unit(images.to_unit(decoded, self._decoded_span), self.span)

    def _decode(self, codes: Codes, size: tuple[int, int]) -> Tensor:
        with compute.exact():
            decoded = self.network.decode(codes).to(self.device)
        if decoded.shape[-2] < size[0] or decoded.shape[-1] < size[1]:
            found = f"{decoded.shape[-1]}x{decoded.shape[-2]}"
            raise DataError(f"{self.card.name}: the codes decode to {found} pixels, fewer than {size[1]}x{size[0]}")
        return images.crop_to(decoded, size)

    def reconstruct(self, pictures: Tensor) -> Tensor:
        """Encode and decode uint8 pictures, (B, 3, H, W)."""
        return self.decode(self.encode(pictures), (pictures.shape[-2], pictures.shape[-1]))

    def check_size(self, size: tuple[int, int]) -> None:
        """Refuse a size that the network can't take.

        Raises:
            DataError: with both sizes.
        """
        sizes = self.card.input.sizes
        if sizes and (size[0] != size[1] or size[0] not in sizes):
            wanted = " or ".join(f"{side}x{side}" for side in sizes)
            raise DataError(
                f"{self.card.name} takes {wanted} pixels only, the task has {size[1]}x{size[0]}; "
                "choose a task of that size (`vtbench list tasks`)"
            )


def check_pictures(pictures: Tensor) -> None:
    """Refuse anything but a batch of uint8 RGB pictures.

    Raises:
        DataError: with the type and shape that were given.
    """
    if pictures.dtype != torch.uint8 or pictures.ndim != 4 or pictures.shape[1] != 3:
        raise DataError(f"expected uint8 pictures (B, 3, H, W), got {pictures.dtype} {tuple(pictures.shape)}")


def load_tokenizer(
    name: str | TokenizerCard,
    *,
    weights: str | Path | Mapping[str, Tensor] | None = None,
    device: str = "auto",
    precision: Precision = "fp32",
    cards: Path | None = None,
) -> Tokenizer:
    """Load a tokenizer by its name or alias, with its weights.

    Args:
        name: a card's exact name or alias, or a card.
        weights: None for the card's published file (cache first, then the hub); the path of a checkpoint; a mapping of
            published tensor name to tensor; or "synthetic" for made-up values (parity and speed; never ranked).
        device: "auto" for CUDA where there is one, or a torch device name.
        precision: "fp32", "fp16" or "bf16".
        cards: a further folder of cards.

    Raises:
        CardError: if there is no such card, or its config does not fit its network.
        WeightsError: if the weights are missing, damaged or another network's.
    """
    card = card_files.find_tokenizer(name, cards) if isinstance(name, str) else name
    state, origin, digest = _read_weights(card, weights)
    network = build_network(card)
    if origin == "synthetic":
        state = weight_files.synthetic_state(network)
    if state is not None:
        try:
            weight_files.load_state(network, state)
        except WeightsError as error:
            raise WeightsError(f"{card.name}: {error}") from error
    return Tokenizer(
        card,
        cast("Network", network),
        device=compute.pick(device),
        precision=precision,
        state=origin,
        digest=digest,
    )


def _read_weights(
    card: TokenizerCard, given: str | Path | Mapping[str, Tensor] | None
) -> tuple[Mapping[str, Tensor] | None, weight_files.WeightsState, str | None]:
    """Return the tensors under their published names, where they came from, and their sha256."""
    if card.weights is None:
        if given is not None and given != "synthetic":
            raise WeightsError(f"{card.name} has no weights; leave --weights out")
        return None, "none", None
    if given == "synthetic":
        return None, "synthetic", None
    if isinstance(given, Mapping):
        state = weight_files.dropped(given, card.weights.drop)
        return state, "local", weight_files.state_digest(state)
    if given is None:
        path = weight_files.locate(card)
        origin: weight_files.WeightsState = "published"
    else:
        path, origin = Path(given), "local"
    if path is None:
        return None, "none", None
    state = weight_files.read(path, card.weights)
    digest = files.sha256(path)
    if digest == card.weights.sha256:
        origin = "published"
    return state, origin, digest


def build_network(card: TokenizerCard) -> nn.Module:
    """Build the network that a card names, with untrained weights.

    Raises:
        CardError: if there is no such network, or the card's config does not fit it.
    """
    module = _network_module(card)
    try:
        config = module.Config.model_validate_json(_json(card.config))
    except ValidationError as error:
        raise CardError(f"{card.name}: [config] {card_files.explain(error)}") from error
    network: nn.Module = module.Network(config)
    return network


def _network_module(card: TokenizerCard) -> ModuleType:
    name = f"vtbench.networks.{card.network}"
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise VtbenchError(f"{card.name}: its network needs the package {error.name!r}; install it") from error
    # Networks that live outside the repository announce themselves as entry points of their package.
    for entry in metadata.entry_points(group="vtbench.networks", name=card.network):
        return cast("ModuleType", entry.load())
    raise CardError(
        f"{card.name}: no network is called {card.network!r}; expected vtbench/networks/{card.network}.py "
        "or an installed package with that entry point in the group vtbench.networks"
    )


def _json(config: object) -> str:
    import json

    return json.dumps(config, default=str)
