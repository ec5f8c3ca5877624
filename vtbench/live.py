"""A live model as a tokenizer: three lines in a training loop, and nothing in the model changed afterwards."""

from __future__ import annotations

import contextlib
import dis
import functools
import math
import random
import types
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from vtbench import device as devices
from vtbench import fingerprint
from vtbench.cards import Code, Input, TokenizerCard, explain
from vtbench.errors import CardError, VtbenchError
from vtbench.results import WeightsOrigin
from vtbench.tokenizer import Tokenizer, precision_of
from vtbench.types import NO_CODE, Codes

Encode = Callable[[Any, Tensor], Any]
Decode = Callable[[Any, Any], Tensor]

_OF = {"encode": "float pictures", "decode": "what encode gave"}

_EXPECTED = (
    "expected Codes, one float tensor (the latent), an integer tensor (indices) or a sequence of integer tensors "
    "(one a scale): give encode=lambda module, x: … that takes it out"
)

_DEEPEST = 4
"""Steps from the model along attributes, containers and functions, up to which its modules are looked for."""

_LONGEST = 1000
"""Items of a container in which modules are looked for at most: a longer one holds data."""

_WRAPPERS = (nn.parallel.DistributedDataParallel, nn.DataParallel)


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

    The modules are found in the object itself, its attributes, and what its functions refer to. One that is reached in
    another way keeps its mode, and is expected on the CPU. What DistributedDataParallel and DataParallel wrap is taken
    out of them, so one process may evaluate alone.

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
            gives is none of these. If its weights are of another type than float32, float16 and bfloat16, or on a
            device without float64.
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
        kind, ways = "opaque", None
    else:
        ways_given = {"encode": encode, "decode": decode}
        missing = [what for what, given in ways_given.items() if given is None and not hasattr(module, what)]
        if missing:
            raise VtbenchError(f"{name}: a {type(module).__name__} has no {missing[0]}; give it as {missing[0]}=")
        kind = "continuous" if codebook_size is None else "discrete"
        ways = (encode or (lambda model, x: model.encode(x)), decode or (lambda model, codes: model.decode(codes)))
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

    @property
    def modules_within(self) -> list[nn.Module]:
        """The modules that make up the model, as far as they can be found."""
        return _modules(self._held[0], self._ways)

    @property
    def place(self) -> tuple[torch.device, torch.dtype]:
        """Where the model's tensors are, and of which type its weights are."""
        for module in self.modules_within:
            for tensor in (*module.parameters(), *module.buffers()):
                if tensor.is_floating_point():
                    return tensor.device, tensor.dtype
        return torch.device("cpu"), torch.float32

    @property
    def parts(self) -> list[object]:
        """The model, its modules and the functions that stand in for its methods: whose code a run depends on."""
        return [self._held[0], *self.modules_within, *(self._ways or ())]

    @property
    def size(self) -> int:
        """Count the model's parameters, each once."""
        return sum(one.numel() for one in {p for module in self.modules_within for p in module.parameters()})

    def identity(self) -> tuple[WeightsOrigin, str]:
        """Hash the model's state as it is now (`fingerprint.module_digest`), and what stands in for its methods.

        Only a module says of itself what belongs to it: anything else is another model at every call.
        """
        model = self._held[0]
        if not isinstance(model, nn.Module) or self.modules_within != [model]:
            return "local", uuid.uuid4().hex * 2
        beside = [value for way in self._ways or () for value in (way, *_held_by(way))]
        return "local", fingerprint.module_digest(model, beside)

    def encode(self, x: Tensor) -> Codes:
        """Encode float pictures (B, 3, H, W) with the model as it is."""
        with self._untouched():
            if self._ways is None:
                return Codes(latent=_picture(self._held[0](x), "wrap a function that takes it out"))  # type: ignore[operator]
            return self._codes(self._ways[0](self._held[0], x))

    def decode(self, codes: Codes) -> Tensor:
        """Decode what `encode` gave."""
        if self._ways is None:
            assert codes.latent is not None
            return codes.latent
        with self._untouched():
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
    def _untouched(self) -> Iterator[None]:
        """Evaluation mode without gradients and with random numbers of its own; everything as before afterwards."""
        parts = list({part: None for module in self.modules_within for part in module.modules()})
        modes = [part.training for part in parts]
        buffers = [(part, name, tensor) for part in parts for name, tensor in part._buffers.items()]
        with torch.no_grad(), _numbers_of_its_own():
            # Some models count usage or average a codebook in every forward pass, whatever their mode.
            contents = [None if tensor is None else tensor.clone() for _, _, tensor in buffers]
            try:
                for part in parts:
                    part.training = False  # train() may be overridden, and would not say what was before
                yield
            finally:
                for part, mode in zip(parts, modes, strict=True):
                    part.training = mode
                for (part, name, tensor), content in zip(buffers, contents, strict=True):
                    part._buffers[name] = tensor
                    # A copy without a change would count as one to autograd, between forward and backward.
                    if tensor is not None and content is not None and not torch.equal(tensor, content):
                        tensor.copy_(content)


@contextlib.contextmanager
def _numbers_of_its_own() -> Iterator[None]:
    """Seed all random numbers, so that a model that draws gives the same result each time; as before afterwards."""
    generators = [torch.default_generator]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        generators += torch.cuda.default_generators
    states, numbers, python = [one.get_state() for one in generators], np.random.get_state(), random.getstate()
    try:
        for one in generators:
            one.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        yield
    finally:
        for one, state in zip(generators, states, strict=True):
            one.set_state(state)
        np.random.set_state(numbers)
        random.setstate(python)


def _picture(found: object, way: str) -> Tensor:
    if not isinstance(found, Tensor):
        raise VtbenchError(
            f"the model gave a {type(found).__name__}, expected a tensor of pictures (B, 3, H, W): {way}"
        )
    return found


def _unwrapped(module: object) -> object:
    """Take a module out of what trains it on several devices, where every process would have to take part."""
    while isinstance(module, _WRAPPERS):
        module = module.module
    return module


def _modules(model: object, ways: tuple[Encode, Decode] | None) -> list[nn.Module]:
    """Find the outermost modules that a model and the functions in place of its methods hold, each once."""
    found: dict[nn.Module, None] = {}
    seen: dict[int, object] = {}
    level: list[object] = [model, *(ways or ())]
    for _ in range(_DEEPEST):
        new = list({id(held): held for held in level if id(held) not in seen}.values())
        seen |= {id(held): held for held in new}
        found |= {held: None for held in new if isinstance(held, nn.Module)}
        level = [part for held in new if not isinstance(held, nn.Module) for part in _held_by(held)]
    inner = {part for module in found for part in module.modules() if part is not module}
    return [module for module in found if module not in inner]


def _held_by(held: object) -> list[object]:
    """What an object refers to: attributes, items, and of a function what it was bound to and what it names."""
    if isinstance(held, types.ModuleType | type | Tensor):
        return []
    if isinstance(held, types.MethodType):
        return [held.__self__, held.__func__]
    if isinstance(held, functools.partial):
        return [held.func, *held.args, *held.keywords.values()]
    if isinstance(held, types.FunctionType):
        named = [held.__globals__.get(name) for name in sorted(_names(held.__code__))]
        return [*map(fingerprint.content, held.__closure__ or ()), *(held.__defaults__ or ()), *named]
    if isinstance(held, Mapping | list | tuple | set):
        items = held.values() if isinstance(held, Mapping) else held
        return list(items) if len(held) <= _LONGEST else []
    methods = [getattr(type(held), name, None) for name in ("encode", "decode", "__call__")]
    return [*getattr(held, "__dict__", {}).values(), *(one for one in methods if isinstance(one, types.FunctionType))]


def _names(code: types.CodeType) -> set[str]:
    """The global names of a function and of those inside it."""
    inner = (_names(part) for part in code.co_consts if isinstance(part, types.CodeType))
    own = {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return own.union(*inner)
