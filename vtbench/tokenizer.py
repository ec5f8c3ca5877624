"""The one Tokenizer: it binds a card to a network and owns range, padding, clamping, rounding, cropping and checks."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module, metadata, util
from pathlib import Path
from types import ModuleType
from typing import Literal, Protocol, cast

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from vtbench import cards as card_files
from vtbench import device as devices
from vtbench import fingerprint, images
from vtbench import weights as weight_files
from vtbench.cards import Code, TokenizerCard
from vtbench.errors import CardError, DataError, VtbenchError, WeightsError
from vtbench.results import WeightsOrigin
from vtbench.types import NO_CODE, Codes, Regions

log = logging.getLogger("vtbench")

Precision = Literal["fp32", "fp16", "bf16"]

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""From the finest mantissa to the coarsest."""

NOT_FINITE = "gave values that are not finite"

OTHERWISE: dict[Precision, str] = {
    "fp32": "",
    "fp16": " (in fp16; fp32 or bf16 may do)",
    "bf16": " (in bf16; fp32 may do)",
}
"""Said of a network's wrong numbers: in half precision they may overflow or be rounded away."""

NO_PIXELS = "gives tokens for understanding and no pixels"


def precision_of(dtype: torch.dtype, name: str) -> Precision:
    """Name the precision of a live model's weights.

    Raises:
        VtbenchError: if they are of a type in which nothing is measured.
    """
    for precision, known in DTYPES.items():
        if dtype == known:
            return precision
    raise VtbenchError(
        f"{name}: its weights are {str(dtype).removeprefix('torch.')}; expected float32, float16 or bfloat16: give it "
        "such ones, by .float()"
    )


class Network(Protocol):
    """What a file in vtbench/networks/ provides as `Network`, an nn.Module built from that file's `Config`.

    One that reads a configuration from elsewhere than the card says its sha256 in an attribute `config_digest`.
    """

    def encode(self, x: Tensor) -> Codes:
        """Encode float pictures in the card's range, (B, 3, H, W), H and W multiples of the card's `multiple_of`.

        A network whose attribute `takes_levels` is true is fed uint8 pictures, and decodes to such.
        """
        ...

    def decode(self, codes: Codes) -> Tensor:
        """Decode to float pictures in the card's range, (B, 3, H, W), unclamped."""
        ...


class Held(Protocol):
    """A live model that a tokenizer holds without owning it (`vtbench.live`)."""

    @property
    def place(self) -> tuple[torch.device, torch.dtype]:
        """Where the model's tensors are now, and of which type its first weights are, so what it is fed."""
        ...

    @property
    def types(self) -> Set[torch.dtype]:
        """The types of its weights."""
        ...

    @property
    def parts(self) -> Sequence[object]:
        """The objects whose code it runs."""
        ...

    @property
    def size(self) -> int:
        """Count its parameters."""
        ...

    def identity(self) -> tuple[WeightsOrigin, str]:
        """Hash its tensors as they are now."""
        ...


@dataclass(frozen=True)
class Flaw:
    """What is wrong with one picture that went through."""

    reason: str
    of_codes: bool
    """Whether its codes can't be used either."""


class Tokenizer:
    """A tokenizer as tasks and metrics see it: uint8 in, Codes across, uint8 out. Nobody subclasses it."""

    def __init__(
        self,
        card: TokenizerCard,
        network: Network,
        *,
        device: str = "cpu",
        precision: Precision = "fp32",
        state: WeightsOrigin | None = None,
        digest: str | None = None,
        ema: int = 0,
        held: Held | None = None,
        compiled: bool = False,
    ) -> None:
        """Bind a network to its card.

        Args:
            card: what the network is; its `input` says range, padding and sizes.
            network: an nn.Module with `encode` and `decode`.
            device: a torch device name.
            precision: the type of the network's tensors and of what it is fed.
            state: where the weights came from; None for a live module, which is hashed whenever it is evaluated
                (`fingerprint.module_digest`).
            digest: sha256 of the weights, where `state` is given.
            ema: how many tensors came from an averaged copy.
            held: the live model behind the network, which stays where it is and as it is; `device`, `precision` and
                `state` are then the model's own.
            compiled: whether encode and decode go through torch.compile.
        """
        if not isinstance(network, nn.Module):
            raise CardError(f"{card.name}: its network is a {type(network).__name__}, expected a torch nn.Module")
        self.card = card
        """What it is: family, kind, range, padding, rate."""
        self.network = network
        self.ema = ema
        """How many of its tensors came from an averaged copy."""
        self.held = held
        self._device, self._precision = torch.device(device), precision
        self._origin, self._digest = state, digest
        network.to(device=self._device, dtype=DTYPES[precision]).eval()
        self.compiled = compiled
        """Whether encode and decode go through torch.compile, which moves the last bits of what they give."""
        if compiled:
            for name in ("encode", "decode"):
                setattr(network, name, devices.compiled(getattr(network, name), card.name))
        self._stamp = None if state is None else weight_files.stamp(network)
        spec = card.input
        self.span = images.value_range(*spec.range, spec.mean, spec.std)
        """What the levels 0 and 255 become on the way in, per channel where the card gives mean and std."""
        self._decoded_span = spec.decoded_range or self.span

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.held.place[0] if self.held else self._device

    @property
    def precision(self) -> Precision:
        """The type of the network's tensors; of a live model's, where they are of several, the narrowest."""
        if self.held is None:
            return self._precision
        first, types = precision_of(self.dtype, self.card.name), self.held.types
        return [name for name, dtype in DTYPES.items() if name == first or dtype in types][-1]

    @property
    def dtype(self) -> torch.dtype:
        """The type of what the network is fed; of a live model that of its first weights."""
        return self.held.place[1] if self.held else DTYPES[self._precision]

    @property
    def parameters(self) -> int:
        """Count the network's parameters."""
        if self.held:
            return self.held.size
        return sum(parameter.numel() for parameter in self.network.parameters())

    def identity(self) -> tuple[WeightsOrigin, str | None]:
        """Say where the weights came from and their sha256.

        A live module is hashed now, and is always local; so is a network whose weights were written to since they were
        loaded.
        """
        if self.held:
            return self.held.identity()
        assert isinstance(self.network, nn.Module)
        if self._origin is not None and self._stamp == weight_files.stamp(self.network):
            return self._origin, self._digest
        return "local", fingerprint.module_digest(self.network)

    def _defaults(self) -> AbstractContextManager[None]:
        """Of which type and where the network makes tensors: a live model as it is used to, any other as torch does."""
        return devices.as_set() if self.held else devices.plain()

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Codes:
        """Encode uint8 pictures, (B, 3, H, W), on the tokenizer's device.

        Raises:
            DataError: if the network takes other sizes (pictures are never resized to fit), or its codes are not what
                its card says.
        """
        check_pictures(pictures)
        return self._in_range(self.encode_input(self.input_of(pictures)))

    def input_of(self, pictures: Tensor) -> Tensor:
        """Bring pictures, (B, 3, H, W), to what the network is fed: two equal ones are encoded alike.

        Args:
            pictures: uint8, or float32 within `span`.

        Returns:
            float32 within `span`; uint8 for a network that `takes_levels`.
        """
        pictures = pictures.to(self.device)
        levels = pictures.dtype == torch.uint8
        if getattr(self.network, "takes_levels", False):
            return pictures if levels else images.to_uint8(pictures, self.span)
        return images.to_float(pictures, self.span) if levels else pictures

    def fitted(self, pictures: Tensor) -> Tensor:
        """Bring what `input_of` gave to the sides and type that the network takes."""
        x = images.pad_to_multiple(pictures, self.card.input.multiple_of)
        return x.to(self.dtype) if x.is_floating_point() else x

    @torch.no_grad()
    def encode_input(self, pictures: Tensor) -> Codes:
        """Encode what `input_of` gave, without waiting for the device: whether all indices are codes, `flaws` says.

        Raises:
            DataError: if the network takes other sizes, or its codes are not what its card says.
        """
        self.check_size((pictures.shape[-2], pictures.shape[-1]))
        x = self.fitted(pictures)
        with devices.exact(), self._defaults():
            codes = self.network.encode(x)
        if self.held and codes.indices and self.card.kind == "continuous":
            # Only its codes say of what kind a live model is.
            code = Code(codebook_sizes=codes.codebook_sizes, indices_per_token=codes.indices_per_token)
            self.card = self.card.model_copy(update={"kind": "discrete", "code": code})
        check_codes(self.card, codes, x)
        return codes

    def decode(self, codes: Codes, size: tuple[int, int]) -> Tensor:
        """Decode to uint8 pictures, (B, 3, height, width), on the tokenizer's device.

        Args:
            codes: all that the decoder may know of the pictures.
            size: height and width before padding; both sides know them.

        Raises:
            DataError: if the network gives another size than it took, values that are not finite, or no pixels at all.
        """
        pictures, reasons = self.attempt(codes, size)
        if self.card.kind == "understanding":
            raise DataError(f"{self.card.name}: {NO_PIXELS}; choose a task that needs none (`tokens`)")
        failed = [f"picture {index + 1} of {len(reasons)}: {reason}" for index, reason in enumerate(reasons) if reason]
        if failed:
            raise DataError("; ".join(failed[:3]))
        return pictures

    def attempt(self, codes: Codes, size: tuple[int, int], *, floats: bool = False) -> tuple[Tensor, list[str | None]]:
        """Decode as `decode`, and say of each picture why it can't be used, or None.

        Of a tokenizer for understanding there are no pixels, (B, 3, 0, 0), and nothing is wrong with that.

        Args:
            codes: as for `decode`.
            size: as for `decode`.
            floats: give float32 pictures within `span`, neither clamped nor rounded, for protocols that do so
                themselves.

        Raises:
            DataError: if the network gives another size than it took, which no picture of the batch survives.
        """
        decoded, checks = self.decoded(codes, size)
        reasons = [flaw.reason if flaw else None for flaw in self.flaws(codes, checks)]
        if any(reasons) and decoded.is_floating_point():
            decoded = decoded.nan_to_num()
        return (self.floats(decoded) if floats else self.levels(decoded)), reasons

    @torch.no_grad()
    def decoded(self, codes: Codes, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Decode without waiting for the device.

        Returns:
            What the network decodes, as `levels` and `floats` take it, and what `flaws` takes to find out whether a
            picture can be used.

        Raises:
            DataError: if the network gives another size than it took, which no picture of the batch survives.
        """
        on_device = _on(codes, self.device)
        ends = [end for part in on_device.indices for end in part.flatten(1).aminmax(dim=1)]
        if self.card.kind == "understanding":
            decoded = torch.empty((len(codes), 3, 0, 0), dtype=torch.uint8, device=self.device)
        else:
            with devices.exact(), self._defaults():
                # A GPU that looks up what is in no codebook can't be used any more.
                decoded = self.network.decode(clamped(on_device)).to(self.device)
            if decoded.dtype != torch.uint8:
                decoded = decoded.float()
            decoded = self._cropped(decoded, size, len(codes))
        finite = _finite(decoded)
        # An opaque model's latent is its picture.
        latent = None if self.card.kind == "opaque" else on_device.latent
        coded = torch.ones_like(finite) if latent is None else _finite(latent)
        return decoded, torch.stack([finite, coded, *ends], 1)

    def flaws(self, codes: Codes, checks: Tensor) -> list[Flaw | None]:
        """Say of each picture why it can't be used, or None; waits for what `decoded` gave beside the pictures."""
        found: list[Flaw | None] = []
        for finite, coded, *ends in checks.tolist():
            flaw = None if finite else Flaw(self._not_finite("the decoder"), of_codes=False)
            if not coded:
                flaw = Flaw(self._not_finite("its encoder"), of_codes=True)
            for error in self._beyond(ends, codes):
                flaw = Flaw(str(error), of_codes=True)
            found.append(flaw)
        return found

    def _not_finite(self, part: str) -> str:
        return f"{self.card.name}: {part} {NOT_FINITE}{OTHERWISE[self.precision]}"

    def _beyond(self, ends: Sequence[int], codes: Codes) -> Iterator[DataError]:
        """Refuse each part of the codes whose lowest and highest index, given in turn, are not of its codebook."""
        for low, high, size in zip(ends[::2], ends[1::2], codes.codebook_sizes, strict=False):
            if low == NO_CODE and high < size:
                yield DataError(self._not_finite("its encoder"))
            elif low < 0 or high >= size:
                said = f"gives indices from {low} to {high}, expected 0 to {size - 1}{OTHERWISE[self.precision]}"
                yield _refusal(self.card, said)

    def _in_range(self, codes: Codes) -> Codes:
        """Refuse indices that are no codes.

        Raises:
            DataError: with the indices, or saying that the encoder's values are not finite.
        """
        ends = [end for part in codes.indices for end in part.aminmax()]
        for error in self._beyond(torch.stack(ends).tolist() if ends else (), codes):
            raise error
        return codes

    def levels(self, decoded: Tensor) -> Tensor:
        """Round what `decoded` gave to uint8; what is not a number becomes some level."""
        return images.to_uint8(decoded, self._decoded_span) if decoded.is_floating_point() else decoded

    def floats(self, decoded: Tensor) -> Tensor:
        """Bring what `decoded` gave to floats within `span`, neither clamped nor rounded."""
        if not decoded.is_floating_point():
            return images.to_float(decoded, self.span)
        return images.from_unit(images.to_unit(decoded, self._decoded_span), self.span)

    def _cropped(self, decoded: Tensor, size: tuple[int, int], count: int) -> Tensor:
        """Crop what padding added; any other size than the input's is refused."""
        self.check_size(size)
        own = self.card.output.size
        wanted = (own, own) if own else images.padded_size(size, self.card.input.multiple_of)
        if tuple(decoded.shape) != (count, 3, *wanted):
            raise DataError(
                f"{self.card.name}: the network gave {tuple(decoded.shape)} for pictures of {size[1]}x{size[0]}, "
                f"expected {(count, 3, *wanted)}; a network that gives a size of its own says so in [output] size"
            )
        return images.crop_to(decoded, size)

    def reconstruct(self, pictures: Tensor) -> Tensor:
        """Encode and decode uint8 pictures, (B, 3, H, W)."""
        return self.decode(self.encode(pictures), (pictures.shape[-2], pictures.shape[-1]))

    @torch.no_grad()
    def curve(self, codes: Codes, size: tuple[int, int]) -> Iterator[tuple[str, float, Tensor]]:
        """Decode from the first depth or scale of the codes, from the first two, and so on to all of them.

        Args:
            codes: what one `encode` gave.
            size: height and width before padding.

        Yields:
            The option of the card that would code no more, such as "depth=2"; bits of one picture so far; uint8
            pictures, (B, 3, height, width). Nothing, where the network has no such steps.

        Raises:
            DataError: as `decode`.
        """
        own = getattr(self.network, "curve", None)
        if own is None:
            return
        with devices.exact(), self._defaults():
            for label, bits, decoded in own(clamped(_on(codes, self.device))):
                pictures = self._cropped(decoded.to(self.device).float(), size, len(codes))
                if not torch.isfinite(pictures).all():
                    raise DataError(f"{self._not_finite('the decoder')}, {label}")
                yield label, bits, images.to_uint8(pictures, self._decoded_span)

    @torch.no_grad()
    def regions(self, pictures: Tensor, codes: Codes) -> Regions | None:
        """Say which token each pixel belongs to; None where tokens have no place.

        A network may say it itself, by a method `regions` that takes what `encode` takes and gives int64 (B, H, W).
        Else the tokens are a grid if the card states a downsampling factor and the finest map of the codes has these
        sides: each stands for its square of pixels, however far its network looked, and all depths and scales share it.

        Args:
            pictures: uint8, (B, 3, H, W).
            codes: what `encode` gave for them.
        """
        size = (pictures.shape[-2], pictures.shape[-1])
        own = getattr(self.network, "regions", None)
        if own is not None:
            x = self.fitted(self.input_of(pictures))
            with devices.exact(), self._defaults():
                labels: Tensor = own(x)
            return Regions(images.crop_to(labels, size), codes.tokens or 0)
        padded = images.padded_size(size, self.card.input.multiple_of)
        grid, factor = _grid(codes), self.card.code.downsampling
        if grid is None or factor is None or (grid[0] * factor, grid[1] * factor) != padded:
            return None
        numbers = torch.arange(grid[0] * grid[1], device=self.device).view(1, *grid).expand(len(pictures), -1, -1)
        squares = numbers.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
        return Regions(images.crop_to(squares, size), grid[0] * grid[1])

    def check_size(self, size: tuple[int, int]) -> None:
        """Refuse a size that the network can't take, or can't give back.

        Raises:
            DataError: with both sizes.
        """
        if reason := self.card.refusal(size):
            raise DataError(reason)


def _grid(codes: Codes) -> tuple[int, int] | None:
    """Sides of the finest map of the codes, where they are maps."""
    maps = codes.indices[-1] if codes.indices else codes.latent
    if maps is None or maps.ndim < 3 or (not codes.indices and maps.ndim != 4):
        return None
    return (maps.shape[1], maps.shape[2]) if codes.indices else (maps.shape[2], maps.shape[3])


def _finite(values: Tensor) -> Tensor:
    """Say of each item of a batch, (B, ...), whether all of its numbers are finite: int64 (B,), 1 or 0."""
    return torch.isfinite(values).unsqueeze(-1).flatten(1).all(1).long()


def _on(codes: Codes, device: torch.device) -> Codes:
    """Move codes to a device."""
    return replace(
        codes,
        indices=tuple(part.to(device) for part in codes.indices),
        latent=None if codes.latent is None else codes.latent.to(device),
    )


def clamped(codes: Codes) -> Codes:
    """Bring indices into their codebooks: whoever looks them up may not have waited for `Tokenizer.flaws`."""
    sizes = codes.codebook_sizes or (None,) * len(codes.indices)
    clamped = [part.clamp(0, size and size - 1) for part, size in zip(codes.indices, sizes, strict=True)]
    return replace(codes, indices=tuple(clamped))


def _refusal(card: TokenizerCard, what: str) -> DataError:
    return DataError(f"{card.name}: its network {what}; correct the network, or its card")


def check_codes(card: TokenizerCard, codes: Codes, x: Tensor) -> None:
    """Refuse codes by which a network would tell its decoder more than its card says; their values are not looked at.

    Args:
        card: its kind and codebook sizes.
        codes: what the network gave.
        x: what it was fed, (B, 3, H, W).

    Raises:
        DataError: saying what was given and what was expected.
    """
    refuse = partial(_refusal, card)
    if not isinstance(codes, Codes):
        raise refuse(f"encodes to a {type(codes).__name__}, expected vtbench.types.Codes")
    parts = {"indices": bool(codes.indices), "latent": codes.latent is not None, "bitstream": bool(codes.bitstream)}
    given = {name for name, there in parts.items() if there}
    wanted = {"discrete": "indices", "codec": "bitstream"}.get(card.kind, "latent")
    if card.kind == "understanding" and len(given) == 1:
        wanted = "indices" if codes.indices else "latent"  # either is what a language model may be given
    if given != {wanted}:
        said = " and ".join(sorted(given)) or "nothing"
        raise refuse(f"is of the kind {card.kind} and gives {said}, expected {wanted} alone")
    counts = [len(part) for part in codes.indices]
    counts += [] if codes.latent is None else [len(codes.latent)]
    counts += [len(codes.bitstream)] if codes.bitstream else []
    if any(count != len(x) for count in counts):
        raise refuse(f"gives codes of other than the {len(x)} pictures that it was fed")
    if codes.size not in (None, (x.shape[-2], x.shape[-1])):
        raise refuse(f"states the size {codes.size} for pictures of {(x.shape[-2], x.shape[-1])}")
    each, stated = codes.indices_per_token, card.code.indices_per_token
    if each != stated or any(part.shape[-1] % each for part in codes.indices):
        rows = _sizes([part.shape[-1] for part in codes.indices]) or "no"
        raise refuse(f"gives {rows} indices in a row and {each} of them a token, its card says {stated} a token")
    if any(part.dtype != torch.int64 for part in codes.indices):
        raise refuse(f"gives indices of type {codes.indices[0].dtype}, expected int64")
    if codes.indices:
        known, found = card.code.codebook_sizes, codes.codebook_sizes
        if len(found) != len(codes.indices):
            raise refuse(f"gives {len(codes.indices)} index tensors and {len(found)} codebook sizes")
        if known and found not in (known, known[:1] * len(found) if len(set(known)) == 1 else known):
            raise refuse(f"has codebooks of {_sizes(found)} codes, its card says {_sizes(known)}")
        first = codes.indices[0]
        if len(found) == 1 < len(known) and first.ndim == 4 and first.shape[-1] != len(known):
            # Fewer depths than the card's, such as by an option: their indices would be counted as one codebook's.
            raise refuse(f"gives {first.shape[-1]} indices a position, its card names {len(known)} codebooks")


def _sizes(sizes: Sequence[int]) -> str:
    return " ".join(str(size) for size in sizes[:8])


def check_pictures(pictures: Tensor) -> None:
    """Refuse anything but a batch of uint8 RGB pictures.

    Raises:
        DataError: with the type and shape that were given.
    """
    if pictures.dtype != torch.uint8 or pictures.ndim != 4 or pictures.shape[1] != 3:
        raise DataError(f"expected uint8 pictures (B, 3, H, W), got {pictures.dtype} {tuple(pictures.shape)}")


@devices.plain()
def load_tokenizer(
    name: str | TokenizerCard,
    *,
    weights: str | Path | Sequence[str | Path] | Mapping[str, Tensor] | None = None,
    device: str = "auto",
    precision: Precision = "fp32",
    cards: Path | None = None,
    compiled: bool = False,
) -> Tokenizer:
    """Load a tokenizer by its name or alias, with its weights.

    Args:
        name: a card's exact name or alias, or a card.
        weights: None for the card's published files (cache first, then the hub); the path of a checkpoint, or of
            several where encoder and decoder lie apart; a mapping of published tensor name to tensor; or "synthetic"
            for made-up values (parity and speed; never ranked).
        device: "auto" for CUDA where there is one, or a torch device name.
        precision: "fp32", "fp16" or "bf16".
        cards: a further folder of cards.
        compiled: whether encode and decode go through torch.compile: up to minutes before the first batch, and less
            time for each.

    Raises:
        CardError: if there is no such card, its config does not fit its network, or a package lacks that this needs.
        WeightsError: if the weights are missing, damaged or another network's.
        VtbenchError: if an argument is none of its kind.
    """
    if precision not in DTYPES:
        raise VtbenchError(f"precision {precision!r}: expected one of {', '.join(DTYPES)}")
    if not isinstance(name, str | TokenizerCard):
        raise VtbenchError(f"tokenizer: got a {type(name).__name__}; expected a card's name, or a card")
    card = card_files.find_tokenizer(name, cards) if isinstance(name, str) else name
    where = devices.pick(device)
    empty = card.weights is not None  # what is loaded afterwards needs no values before
    network = weight_files.build_empty(lambda: build_network(card)) if empty else build_network(card)
    if weights == "synthetic" and card.weights is not None:
        weight_files.load_state(network, weight_files.synthetic_state(network), copy=False)
        loaded = weight_files.Loaded(None, "synthetic", None)
    else:
        given = None if weights == "synthetic" else _paths(weights)
        loaded = weight_files.find_state(card, given, wanted=set(weight_files.published_names(network).values()))
        _load(card, network, loaded, shared=isinstance(weights, Mapping))
    for note in loaded.notes:
        log.warning("%s: %s", card.name, note)
    if precision != "fp32":
        devices.lay_out(network)
    return Tokenizer(
        card,
        cast("Network", network),
        device=where,
        precision=precision,
        state=loaded.origin,
        digest=loaded.digest,
        ema=loaded.ema,
        compiled=compiled,
    )


def _paths(
    weights: str | Path | Sequence[str | Path] | Mapping[str, Tensor] | None,
) -> str | Path | Sequence[Path] | Mapping[str, Tensor] | None:
    if weights is None or isinstance(weights, str | Path | Mapping):
        return weights
    if isinstance(weights, Sequence):
        return [Path(path) for path in weights]
    raise VtbenchError(f"weights: got a {type(weights).__name__}; expected a path, several, or a mapping of tensors")


def _load(card: TokenizerCard, network: nn.Module, loaded: weight_files.Loaded, *, shared: bool) -> None:
    """Fill a network with what was found."""
    if loaded.state is None:
        return
    # A network whose published files come in several namings brings them to one.
    renamed = getattr(network, "renamed", None)
    state = renamed(loaded.state) if renamed else loaded.state
    try:
        weight_files.load_state(network, state, copy=shared)
    except WeightsError as error:
        raise WeightsError(f"{card.name}: {error}") from error


def build_network(card: TokenizerCard) -> nn.Module:
    """Build the network that a card names, with untrained weights.

    Raises:
        CardError: if there is no such network, a package lacks that it needs, or the card's config does not fit it.
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
        if util.find_spec(name) is not None:
            return import_module(name)
        # Networks that live outside the repository announce themselves as entry points of their package.
        for entry in metadata.entry_points(group="vtbench.networks", name=card.network):
            return cast("ModuleType", entry.load())
    except ModuleNotFoundError as error:
        raise CardError(f"{card.name}: its network needs the package {error.name!r}; install it") from error
    raise CardError(
        f"{card.name}: no network is called {card.network!r}; expected vtbench/networks/{card.network}.py "
        "or an installed package with that entry point in the group vtbench.networks"
    )


def _json(config: object) -> str:
    import json

    return json.dumps(config, default=str)
