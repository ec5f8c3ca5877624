"""What a live model holds, kept before a forward pass and put back after it.

Models count usage, average codebooks, draw from generators of their own and register buffers in forward passes, also
in evaluation mode. `Snapshot` keeps all of that; `Snapshot.restore` puts back what changed, and touches nothing else.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import random
import types
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim.swa_utils import AveragedModel

from vtbench import fingerprint

log = logging.getLogger("vtbench")

_DEEPEST = 4
"""Steps along attributes, containers and functions, from the model or from one of its modules, up to which more of them
are looked for."""

_CONTAINERS = (dict, list, tuple, set)

_MOST = 2000
"""Items of a container, and of those within it, in which modules are looked for: one that holds more holds data."""

_ATOMS = {type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size}
"""They hold no module, and most attributes are of them."""

_WRAPPERS = (nn.parallel.DistributedDataParallel, nn.DataParallel, AveragedModel)

_WRAPPED_AS = (fingerprint.COMPILED_MODULE, "_original_module")
"""The names of what torch.compile and Lightning's Fabric wrap, among the parts of their wrappers."""

_CAST = "_original_forward"
"""Where accelerate keeps the forward that it has put its autocast around."""

_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


# --- what there is ----------------------------------------------------------------------------------------------------


def inside(module: object) -> nn.Module | None:
    """What is wrapped by something that trains, compiles or averages it; None where that is nothing known."""
    if isinstance(module, _WRAPPERS):
        return module.module
    if isinstance(module, nn.Module):
        return next((module._modules[name] for name in _WRAPPED_AS if name in module._modules), None)
    return None


def outermost(*roots: object) -> list[nn.Module]:
    """Find the outermost modules that objects and functions hold, each once; no attribute of a module is looked at."""
    return _outermost(_walk(roots, {}))


def hidden(*roots: object) -> list[nn.Module]:
    """Find the outermost further modules: those in attributes where torch takes them for no part of a module."""
    shown = {part for module in outermost(*roots) for part in module.modules()}
    return _outermost(part for part in _within(roots)[0] if part not in shown)


def _within(roots: Iterable[object]) -> tuple[list[nn.Module], list[object]]:
    """All modules that objects hold, hidden ones too, and all generators."""
    seen: dict[int, object] = {}
    objects = new = _walk(roots, seen)
    parts: dict[nn.Module, None] = {}
    while new:
        inner = {part: None for module in _outermost(new) for part in module.modules() if part not in parts}
        parts |= inner
        new = _walk((value for part in inner for value in _attributes(part)), seen)
        objects += new
    return list(parts), [one for one in objects if isinstance(one, _GENERATORS)]


def _outermost(objects: Iterable[object]) -> list[nn.Module]:
    found = dict.fromkeys(one for one in objects if isinstance(one, nn.Module))
    if len(found) == 1:
        return list(found)
    inner = {part for module in found for part in module.modules() if part is not module}
    return [module for module in found if module not in inner]


def _walk(roots: Iterable[object], seen: dict[int, object]) -> list[object]:
    """What objects hold, up to modules, whose inside is left out; `seen` also keeps ids from being given anew."""
    found: list[object] = []
    level: list[tuple[object, int | None]] = [(root, None) for root in roots]  # each with its outermost container
    left: dict[int, int] = {}
    for _ in range(_DEEPEST):
        new = []
        for held, outer in level:
            if type(held) not in _ATOMS and id(held) not in seen:
                seen[id(held)] = held
                new.append((held, outer))
        found += [held for held, _ in new]
        level = []
        for held, outer in new:
            if isinstance(held, _CONTAINERS):
                outer = id(held) if outer is None else outer
                left[outer] = left.get(outer, _MOST) - len(held)
                if left[outer] < 0:
                    continue
            if not isinstance(held, nn.Module):
                level += [(part, outer) for part in held_by(held)]
    return found


def _attributes(module: nn.Module) -> list[object]:
    """What a module holds beside its parts; all, where it does not tell what it computes with."""
    own = fingerprint.state_of(module)
    held = vars(module) if own is None else own
    return [value for name, value in held.items() if name not in fingerprint.KEPT_BY_TORCH]


def held_by(held: object) -> list[object]:
    """What an object refers to: attributes, items, and of a function what it was bound to and what it names."""
    if isinstance(held, types.ModuleType | type | Tensor):
        return []
    if isinstance(held, types.MethodType):
        return [held.__self__, held.__func__]
    if isinstance(held, functools.partial):
        return [held.func, *held.args, *held.keywords.values()]
    if isinstance(held, types.FunctionType):
        named = [held.__globals__.get(name) for name in sorted(fingerprint.globals_read(held.__code__))]
        return [*map(fingerprint.content, held.__closure__ or ()), *(held.__defaults__ or ()), *named]
    if isinstance(held, _CONTAINERS):
        return list(held.values() if isinstance(held, dict) else held)
    methods = [getattr(type(held), name, None) for name in ("encode", "decode", "__call__")]
    return [*getattr(held, "__dict__", {}).values(), *(one for one in methods if isinstance(one, types.FunctionType))]


# --- as it was --------------------------------------------------------------------------------------------------------


class Snapshot:
    """All that a pass may change in the modules that some objects hold, as it is now."""

    def __init__(self, roots: Sequence[object], still: Set[Tensor]) -> None:
        """Keep it.

        Args:
            roots: the model, and functions that stand in for its methods.
            still: parameters that an earlier pass left alone, as `restore` gave them: they are not copied again.
        """
        parts, generators = _within(roots)
        self._modules = [_Module(part) for part in parts]
        self._rewinds = [_rewind(generator) for generator in generators]
        parameters = dict.fromkeys(one for part in parts for one in part._parameters.values() if one is not None)
        buffers = dict.fromkeys(one for part in parts for one in part._buffers.values() if one is not None)
        self._parameters = [_Values(one, copied=one not in still, place="cpu") for one in parameters]
        self._buffers = [_Values(one, copied=True, place=None) for one in buffers]

    def settle(self) -> None:
        """Set evaluation mode, and take autocast and collectives out of forward passes."""
        for module in self._modules:
            module.settle()

    def restore(self) -> set[Tensor]:
        """Put back what changed since.

        Returns:
            The parameters that did not change.
        """
        for module in self._modules:
            module.restore()
        for rewind in self._rewinds:
            rewind()
        for buffer in self._buffers:
            buffer.restore()
        return {values.tensor for values in self._parameters if values.restore()}


class _Module:
    """Mode, names and forward of one module."""

    def __init__(self, part: nn.Module) -> None:
        self._part, self._mode = part, part.training
        self._own = dict(vars(part))
        tensors: list[dict[str, Any]] = [part._parameters, part._buffers]
        self._tensors = [(held, dict(held)) for held in tensors if type(held) is dict]  # a scripted module's stay
        self._hidden_names = set(part._non_persistent_buffers_set)

    def settle(self) -> None:
        if self._mode:
            self._part.training = False  # train() may be overridden, and would not say what was before
        forward = self._own.get(_CAST)
        if forward is None and fingerprint.COMPILED_MODULE not in self._part._modules:
            forward = inside(self._part)
        if forward is not None:
            vars(self._part)["forward"] = forward

    def restore(self) -> None:
        part, own = self._part, vars(self._part)
        if part.training != self._mode:
            part.training = self._mode
        if "forward" in self._own:
            own["forward"] = self._own["forward"]
        else:
            own.pop("forward", None)
        if any(now.keys() != before.keys() for now, before in self._tensors):
            # What says that a table is there, or how long it is, goes with it.
            own.clear()
            own.update(self._own)
            part._non_persistent_buffers_set.intersection_update(self._hidden_names)
        for now, before in self._tensors:
            if [*now, *map(id, now.values())] != [*before, *map(id, before.values())]:
                now.clear()
                now.update(before)


class _Values:
    """The values of one tensor."""

    def __init__(self, tensor: Tensor, *, copied: bool, place: str | None) -> None:
        self.tensor = tensor
        # Without memory, or with it in tensors of their own kind's making: they go by their names alone.
        self._opaque = is_lazy(tensor) or tensor.is_meta or type(tensor).__torch_dispatch__ is not _DISPATCH
        self._bytewise = not self._opaque and tensor.layout == torch.strided and not tensor.is_quantized
        self._data = None if self._opaque else tensor.data
        self._version = 0 if self._opaque or tensor.is_inference() else tensor._version
        self._copy = None
        if self._data is not None and copied:
            self._copy = self._data.clone() if place is None else self._data.to(place, copy=True)

    def restore(self) -> bool:
        """Put back what changed, and nothing where nothing did: autograd would take it for a change.

        Returns:
            Whether nothing did, as far as can be told.
        """
        tensor, data = self.tensor, self._data
        if data is None:
            return False
        swapped = self._bytewise and tensor.data_ptr() != data.data_ptr()
        if swapped:
            tensor.data = data
        written = not tensor.is_inference() and tensor._version != self._version
        if self._copy is None:
            if written:
                log.warning(
                    "a parameter of shape %s, which earlier forward passes left alone, was changed by one; it stays so",
                    tuple(tensor.shape),
                )
        else:
            written = not self._equals(self._copy) if self._bytewise else written
            if written:
                # The data has a version of its own: what autograd kept is right again.
                (data if self._bytewise else tensor).copy_(self._copy)
        return not (swapped or written)

    def _equals(self, copy: Tensor) -> bool:
        """Compare bytes: what is not a number equals itself."""
        return torch.equal(_bytes(self.tensor.data), _bytes(copy.to(self.tensor.device)))


_DISPATCH = Tensor.__torch_dispatch__


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.resolve_conj().resolve_neg().reshape(-1).contiguous().view(torch.uint8)


# --- random numbers ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def numbers_of_its_own() -> Iterator[None]:
    """Seed all random numbers, so that a model that draws gives the same result each time; as before afterwards."""
    generators = [torch.default_generator]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        generators += torch.cuda.default_generators
    rewinds = [_rewind(one) for one in generators]
    numbers, python = np.random.get_state(), random.getstate()
    try:
        for one in generators:
            one.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        yield
    finally:
        for rewind in rewinds:
            rewind()
        np.random.set_state(numbers)
        random.setstate(python)


def _rewind(generator: object) -> Callable[[], object]:
    """What puts a generator back to where it is now."""
    if isinstance(generator, torch.Generator):
        return functools.partial(generator.set_state, generator.get_state())
    if isinstance(generator, np.random.Generator):
        bits = generator.bit_generator
        return functools.partial(setattr, bits, "state", bits.state)
    if isinstance(generator, np.random.RandomState):
        return functools.partial(generator.set_state, generator.get_state(legacy=False))
    if isinstance(generator, random.Random) and not isinstance(generator, random.SystemRandom):
        return functools.partial(generator.setstate, generator.getstate())
    return lambda: None  # the system's own, which stand nowhere
