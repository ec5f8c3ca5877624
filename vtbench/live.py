"""A live model as a tokenizer: three lines in a training loop, and nothing in the model changed afterwards."""

from __future__ import annotations

import contextlib
import logging
import math
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from vtbench import device as devices
from vtbench import fingerprint, snapshot
from vtbench.cards import Code, Input, TokenizerCard, explain
from vtbench.errors import CardError, VtbenchError
from vtbench.results import WeightsOrigin
from vtbench.tokenizer import Tokenizer, precision_of
from vtbench.types import NO_CODE, Codes

log = logging.getLogger("vtbench")

Encode = Callable[[Any, Tensor], Any]
Decode = Callable[[Any, Any], Tensor]

_OF = {"encode": "float pictures", "decode": "what encode gave"}

_EXPECTED = (
    "expected Codes, one float tensor (the latent), an integer tensor (indices) or a sequence of integer tensors "
    "(one a scale): give encode=lambda module, x: … that takes it out"
)


def wrap(
    module: object,
    *,
    name: str,
    range: tuple[float, float] = (-1.0, 1.0),
    multiple_of: int = 1,
    codebook_size: int | None = None,
    encode: Encode | None = None,
    decode: Decode | None = None,
) -> Tokenizer:
    """Make a tokenizer of a live model, to `evaluate` it between two steps of its training.

    The model is used where it is, in evaluation mode and without gradients. Mode, device, types, parameters, gradients,
    buffers and the state of all random numbers are as before afterwards. Its tensors and attributes are hashed whenever
    it is evaluated, so two steps never share a result; a model whose state can't be told is never taken for an earlier
    one.

    The modules are found in the object itself, its attributes and those of its modules, and what its functions refer
    to. One that is reached in another way keeps its mode, and is expected on the CPU. What DistributedDataParallel,
    DataParallel, torch.compile, AveragedModel and Lightning's Fabric wrap is taken out of them, and accelerate's
    autocast is passed by: one process may evaluate alone, in the model's own types. `encode` and `decode` get that.

    A model whose weights are of several types is fed what its first ones are, and named by the narrowest.

    Args:
        module: an nn.Module or another object with `encode` and `decode`; or a callable that takes float pictures
            (B, 3, H, W) to their reconstructions, whose codes nobody sees.
        name: what results call it: lower-case letters, digits, dots and dashes.
        range: what the levels 0 and 255 become on the way in, and on the way out.
        multiple_of: height and width are padded to a multiple of this and cropped again.
        codebook_size: number of codes, where `encode` gives integer tensors; every scale has as many.
        encode: `encode(module, x)` in place of the module's own method. It gives Codes, a float tensor (the latent),
            an integer tensor (indices), or a sequence of integer tensors (one a scale); each has the batch first.
            An index may be `vtbench.types.NO_CODE`, where the model's numbers are not finite; a latent shows it itself.
        decode: `decode(module, codes)` in place of the module's own; it gets what `encode` gave, and gives pictures.

    Raises:
        CardError: if the name or a number can't stand on a card.
        VtbenchError: if the model can neither encode and decode nor be called; later, when it is evaluated, if what it
            gives is none of these. If its weights are of another type than float32, float16 and bfloat16, on a
            device without float64, or shared out over processes.
    """
    module = _unwrapped(module)
    for argument, given in (("encode", encode), ("decode", decode)):
        if given is not None and not callable(given):
            raise VtbenchError(
                f"{argument}: got a {type(given).__name__}; expected a function of the module and {_OF[argument]}"
            )
    if codebook_size is not None and (not isinstance(codebook_size, int) or codebook_size < 1):
        raise VtbenchError(f"codebook_size {codebook_size!r}: expected a whole number from 1 up")
    own = encode is None and decode is None
    if own and not (hasattr(module, "encode") and hasattr(module, "decode")):
        if not callable(module):
            raise VtbenchError(f"{name}: a {type(module).__name__} has no encode and decode; give both as functions")
        _warn_of_hidden_codes(name, module)
        kind, ways = "opaque", None
    else:
        ways_given = {"encode": encode, "decode": decode}
        missing = [what for what, given in ways_given.items() if given is None and not hasattr(module, what)]
        if missing:
            raise VtbenchError(f"{name}: a {type(module).__name__} has no {missing[0]}; give it as {missing[0]}=")
        kind = "continuous" if codebook_size is None else "discrete"
        ways = (encode or (lambda model, x: model.encode(x)), decode or (lambda model, codes: model.decode(codes)))
    if _sharded(module, ways):
        raise VtbenchError(
            f"{name}: its weights are shared out over processes (FSDP); wrap a model that holds them whole, such as "
            "one filled by torch.distributed.checkpoint.state_dict.get_model_state_dict with full_state_dict=True"
        )
    try:
        low, high = (float(level) for level in range)
    except (TypeError, ValueError):
        low = high = math.nan
    if not math.isfinite(low) or not math.isfinite(high) or low == high:
        raise CardError(f"wrap: range {range!r}: expected two numbers, what the levels 0 and 255 become")
    try:
        card = TokenizerCard(
            name=name,
            family="live",
            network="live",
            kind=kind,  # type: ignore[arg-type]
            title=name,
            input=Input(range=(low, high), multiple_of=multiple_of),
            code=Code(codebook_sizes=() if codebook_size is None else (codebook_size,)),
        )
    except ValidationError as error:
        raise CardError(f"wrap: {explain(error)}") from error
    network = Live(module, ways, codebook_size)
    place, dtype = network.place
    precision_of(dtype, name)
    if reason := devices.unusable(place):
        raise VtbenchError(f"{name}: its device, {place}, can't be used here ({reason}); move it to the CPU or a GPU")
    return Tokenizer(card, network, held=network)


@dataclass(frozen=True)
class _Form:
    """How `encode` gave its codes, so that `decode` gets them back so."""

    codes: bool
    many: bool = False
    dtype: torch.dtype | None = None


class Live(nn.Module):
    """The network of a live tokenizer.

    It holds the model in a tuple, so that torch never takes it for a part of its own: nothing that is done to this
    module reaches the model.
    """

    def __init__(self, model: object, ways: tuple[Encode, Decode] | None, codebook_size: int | None) -> None:
        super().__init__()
        self._held = (model,)
        self._ways = ways
        self._codebook_size = codebook_size
        self._form: _Form | None = None
        self._still: dict[str, set[Tensor]] = {}  # parameters that passes left alone, of encode and of decode

    @property
    def _roots(self) -> list[object]:
        return [self._held[0], *(self._ways or ())]

    @property
    def _weighted(self) -> list[nn.Module]:
        """The modules that make up the model: hidden ones only where the others have no tensor."""
        shown = snapshot.outermost(*self._roots)
        return shown if any(True for _ in _floats(shown)) else [*shown, *snapshot.hidden(*self._roots)]

    @property
    def place(self) -> tuple[torch.device, torch.dtype]:
        """Where the model's tensors are, and of which type its first weights are, so what it is fed."""
        for tensor in _floats(self._weighted):
            return tensor.device, tensor.dtype
        return torch.device("cpu"), torch.float32

    @property
    def types(self) -> set[torch.dtype]:
        """The types of its weights."""
        return {one.dtype for module in self._weighted for one in module.parameters() if one.is_floating_point()}

    @property
    def parts(self) -> list[object]:
        """The model, its modules and the functions that stand in for its methods: whose code a run depends on."""
        modules = [*snapshot.outermost(*self._roots), *snapshot.hidden(*self._roots)]
        return [self._held[0], *modules, *(self._ways or ())]

    @property
    def size(self) -> int:
        """Count the model's parameters, each once; those of a layer that was never used have no number yet."""
        parameters = {one for module in self._weighted for one in module.parameters()}
        return sum(one.numel() for one in parameters if not is_lazy(one))

    def identity(self) -> tuple[WeightsOrigin, str]:
        """Hash the model's state as it is now (`fingerprint.module_digest`), and what stands in for its methods.

        Only a module says of itself what belongs to it: anything else is another model at every call.
        """
        model = self._held[0]
        if not isinstance(model, nn.Module) or not self._holds(model):
            return "local", uuid.uuid4().hex * 2
        beside = [value for way in self._ways or () for value in (way, *snapshot.held_by(way))]
        return "local", fingerprint.module_digest(model, beside)

    def _holds(self, model: nn.Module) -> bool:
        """Tell whether a module holds all modules that the functions in place of its methods name."""
        own = {part for one in (model, *snapshot.hidden(model)) for part in one.modules()}
        return own.issuperset(snapshot.outermost(*self._roots))

    def encode(self, x: Tensor) -> Codes:
        """Encode float pictures (B, 3, H, W) with the model as it is."""
        with self._untouched("encode"):
            if self._ways is None:
                return Codes(latent=_picture(self._held[0](x), "wrap a function that takes it out"))  # type: ignore[operator]
            return self._codes(self._ways[0](self._held[0], x))

    def decode(self, codes: Codes) -> Tensor:
        """Decode what `encode` gave."""
        if self._ways is None:
            assert codes.latent is not None
            return codes.latent
        with self._untouched("decode"):
            found = self._ways[1](self._held[0], self._given(codes))
            return _picture(found, "give decode=lambda module, codes: … that takes it out")

    def _codes(self, given: object) -> Codes:
        if isinstance(given, Codes):
            self._form = _Form(codes=True)
            return given
        parts = (given,) if isinstance(given, Tensor) else given
        if not isinstance(parts, Sequence) or not parts or not all(isinstance(part, Tensor) for part in parts):
            raise VtbenchError(f"encode gave a {type(given).__name__}; {_EXPECTED}")
        self._form = _Form(codes=False, many=not isinstance(given, Tensor), dtype=parts[0].dtype)
        whole = [not (part.is_floating_point() or part.is_complex()) for part in parts]
        if not any(whole) and len(parts) == 1 and parts[0].is_floating_point():
            return Codes(latent=parts[0])
        if not all(whole):
            given_types = ", ".join(str(part.dtype).removeprefix("torch.") for part in parts)
            raise VtbenchError(f"encode gave tensors of {given_types}; {_EXPECTED}")
        if self._codebook_size is None:
            raise VtbenchError("encode gave integers; say of how many codes, with codebook_size=")
        indices = tuple(part.to(torch.int64) for part in parts)
        for part in indices:
            if part.numel() and not NO_CODE <= int(part.min()) <= int(part.max()) < self._codebook_size:
                raise VtbenchError(
                    f"encode gave indices from {int(part.min())} to {int(part.max())}, "
                    f"expected 0 to {self._codebook_size - 1}, by codebook_size={self._codebook_size}"
                )
        return Codes(indices=indices, codebook_sizes=(self._codebook_size,) * len(indices))

    def _given(self, codes: Codes) -> object:
        form = self._form or _Form(codes=True)
        if form.codes:
            return codes
        tensors = codes.indices or (codes.latent,)
        found = [tensor.to(form.dtype) for tensor in tensors if tensor is not None]
        return found if form.many else found[0]

    @contextlib.contextmanager
    def _untouched(self, way: str) -> Iterator[None]:
        """Evaluation mode without gradients and with random numbers of its own; everything as before afterwards."""
        # Some models count usage or average a codebook in every forward pass, whatever their mode.
        before = snapshot.Snapshot(self._roots, self._still.get(way, set()))
        try:
            with torch.no_grad(), snapshot.numbers_of_its_own():
                before.settle()
                yield
        finally:
            with torch.no_grad():
                self._still[way] = before.restore()


def _picture(found: object, way: str) -> Tensor:
    if not isinstance(found, Tensor):
        raise VtbenchError(
            f"the model gave a {type(found).__name__}, expected a tensor of pictures (B, 3, H, W): {way}"
        )
    return found


def _floats(modules: Iterable[nn.Module]) -> Iterator[Tensor]:
    tensors = (tensor for module in modules for tensor in (*module.parameters(), *module.buffers()))
    return (tensor for tensor in tensors if tensor.is_floating_point())


def _unwrapped(module: object) -> object:
    """Take a module out of what trains, compiles or averages it.

    Trained on several devices, every process would have to take part in a forward pass.
    """
    while (wrapped := snapshot.inside(module)) is not None:
        module = wrapped
    return module


def _sharded(model: object, ways: tuple[Encode, Decode] | None) -> bool:
    """Tell whether processes share the weights out among them (FSDP, tensor parallelism)."""
    modules = {part for module in snapshot.outermost(model, *(ways or ())) for part in module.modules()}
    kinds = {kind.__name__ for part in modules for kind in type(part).__mro__}
    # By names, because torch may be built without what they are of.
    return "FullyShardedDataParallel" in kinds or any(
        hasattr(tensor, "device_mesh") for part in modules for tensor in part._parameters.values()
    )


def _warn_of_hidden_codes(name: str, module: object) -> None:
    """Say that a model which is only called holds one that has codes."""
    if isinstance(module, nn.Module):
        for child, part in module.named_children():
            if hasattr(part, "encode") and hasattr(part, "decode"):
                log.warning(
                    "%s: a %s has no encode and decode, so nobody sees its codes; its part %s has both: wrap that, or "
                    "give both as functions, for a rate",
                    *(name, type(module).__name__, child),
                )
                return
