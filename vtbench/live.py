"""A live model as a tokenizer: three lines in a training loop, and nothing in the model changed afterwards."""

from __future__ import annotations

import contextlib
import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from vtbench import weights
from vtbench.cards import Code, Input, TokenizerCard, explain
from vtbench.errors import CardError, DataError, VtbenchError
from vtbench.results import WeightsOrigin
from vtbench.tokenizer import Tokenizer
from vtbench.types import Codes

Encode = Callable[[Any, Tensor], Any]
Decode = Callable[[Any, Any], Tensor]


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

    The model is used where it is, in evaluation mode and without gradients. Mode, device, types, gradients and the
    state of all random numbers are as before afterwards. Its tensors are hashed whenever it is evaluated, so two steps
    never share a result; a model that holds no tensors that can be found is never taken for an earlier one.

    Args:
        module: an nn.Module or another object with `encode` and `decode`; or a callable that takes float pictures
            (B, 3, H, W) to their reconstructions, whose codes nobody sees.
        name: what results call it: lower-case letters, digits, dots and dashes.
        range: what the levels 0 and 255 become on the way in, and on the way out.
        multiple_of: height and width are padded to a multiple of this and cropped again.
        codebook_size: number of codes, where `encode` gives integer tensors.
        encode: `encode(module, x)` in place of the module's own method. It gives Codes, a float tensor (the latent),
            an integer tensor (indices) or a sequence of these (one a scale).
        decode: `decode(module, codes)` in place of the module's own; it gets what `encode` gave.

    Raises:
        CardError: if the name or a number can't stand on a card.
        VtbenchError: if the model can neither encode and decode nor be called.
    """
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
        card = TokenizerCard(
            name=name,
            family="live",
            network="live",
            kind=kind,  # type: ignore[arg-type]
            title=name,
            input=Input(range=(float(range[0]), float(range[1])), multiple_of=multiple_of),
            code=Code(codebook_sizes=() if codebook_size is None else (codebook_size,)),
        )
    except ValidationError as error:
        raise CardError(f"wrap: {explain(error)}") from error
    except (TypeError, ValueError, IndexError) as error:
        raise CardError(f"wrap: range {range!r}: expected two numbers") from error
    network = Live(module, ways, codebook_size)
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
        """Count the model's parameters."""
        return sum(p.numel() for module in self.modules_within for p in module.parameters())

    def identity(self) -> tuple[WeightsOrigin, str]:
        """Hash the model's tensors as they are now; a model without any is another one at every call."""
        state = {
            f"{index}.{name}": tensor
            for index, module in enumerate(self.modules_within)
            for name, tensor in module.state_dict().items()
            if isinstance(tensor, Tensor)
        }
        return "local", weights.state_digest(state) if state else uuid.uuid4().hex * 2

    def encode(self, x: Tensor) -> Codes:
        """Encode float pictures (B, 3, H, W) with the model as it is."""
        with self._untouched():
            if self._ways is None:
                return Codes(latent=_picture(self._held[0](x)))  # type: ignore[operator]
            return self._codes(self._ways[0](self._held[0], x))

    def decode(self, codes: Codes) -> Tensor:
        """Decode what `encode` gave."""
        if self._ways is None:
            assert codes.latent is not None
            return codes.latent
        with self._untouched():
            return _picture(self._ways[1](self._held[0], self._given(codes)))

    def _codes(self, given: object) -> Codes:
        if isinstance(given, Codes):
            self._form = _Form(codes=True)
            return given
        parts = (given,) if isinstance(given, Tensor) else given
        if not isinstance(parts, Sequence) or not parts or not all(isinstance(part, Tensor) for part in parts):
            raise DataError(
                f"encode gave a {type(given).__name__}; expected Codes, a float tensor (the latent) or an integer "
                "tensor (indices): give encode=lambda module, x: … that takes it out"
            )
        self._form = _Form(codes=False, many=not isinstance(given, Tensor), dtype=parts[0].dtype)
        if parts[0].is_floating_point():
            if len(parts) > 1:
                raise DataError(f"encode gave {len(parts)} float tensors; expected one latent: give encode=")
            return Codes(latent=parts[0])
        if self._codebook_size is None:
            raise DataError("encode gave integers; say of how many codes, with codebook_size=")
        return Codes(
            indices=tuple(part.to(torch.int64) for part in parts),
            codebook_sizes=(self._codebook_size,) * len(parts),
        )

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
        modes = [(part, part.training) for module in self.modules_within for part in module.modules()]
        numbers, python = np.random.get_state(), random.getstate()
        devices = list(_range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            torch.manual_seed(0)  # a model that draws gives the same result each time
            try:
                for part, _ in modes:
                    part.training = False
                yield
            finally:
                for part, was in modes:
                    part.training = was
                np.random.set_state(numbers)
                random.setstate(python)


_range = range


def _picture(found: object) -> Tensor:
    if not isinstance(found, Tensor):
        raise DataError(
            f"the model gave a {type(found).__name__}, expected a tensor of pictures (B, 3, H, W): "
            "give decode=lambda module, codes: … that takes it out"
        )
    return found


def _modules(model: object, ways: tuple[Encode, Decode] | None) -> list[nn.Module]:
    """Find the modules that an object, a bound method or a function's closure holds, each once."""
    found: list[nn.Module] = []
    for held in (model, *(ways or ())):
        cells = [cell.cell_contents for cell in getattr(held, "__closure__", None) or ()]
        own = vars(held).values() if hasattr(held, "__dict__") else ()
        for part in (held, getattr(held, "__self__", None), *cells, *own):
            if isinstance(part, nn.Module) and not any(part is other for other in found):
                found.append(part)
        if isinstance(held, nn.Module):
            return [held]
    return found
