"""What a live model computes with, as one digest: its tensors, and whatever else its attributes hold.

Values are taken apart as pickle does it: an object is its class and its state, whoever wrote it. Classes and functions
go by their names, functions also by their code and what they were bound to. What can't be taken apart (a lock, an open
file) can't be told, and neither can a model that holds it.
"""

from __future__ import annotations

import copyreg
import hashlib
import types
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from vtbench.weights import state_digest

_ATOMS = (type(None), bool, int, float, complex, str, bytes)

_CONTAINERS = (list, tuple, dict, set, frozenset)
"""Classes that derive from these may hold more, and are taken apart like any object."""

_PARTS = ("_parameters", "_buffers", "_modules")

_BOOKKEEPING = vars(nn.Module()).keys()
"""What torch keeps in every module; of it only `_PARTS` is computed with, the rest is its mode and its hooks."""

_PASSED_OVER = (torch.device, RemovableHandle)
"""Where a model is, which the plan says, and may differ between processes; and what takes a hook away again."""

_COMPILED_FROM = "_torchdynamo_orig_callable"
"""Where torch.compile keeps a function that it was given."""

_COMPILED_MODULE = "_orig_mod"
"""The name of a module that torch.compile was given, among the parts of what it gave."""

_COMPILED_HERE = ("_compiled_call_impl", "_is_torch_compile")
"""What `nn.Module.compile` leaves in a module, which is else as it was."""

_MOST = 300_000
"""Values beside tensors that are looked at: what holds more holds data, such as a trainer with its pictures."""


class _UntellableError(Exception):
    """Something holds what nothing tells of."""


def module_digest(module: nn.Module, beside: Sequence[object] = ()) -> str:
    """sha256 of all that a live module computes with, as it is now.

    That is its tensors, also buffers that no checkpoint has, the classes of its parts and the values of their
    attributes. Its mode, hooks and device don't count. A module that holds what can't be told is another one at every
    call, and so is one that holds nothing: nothing says what it does.

    Args:
        module: of any kind.
        beside: further values that it computes with.
    """
    teller = _Teller()
    try:
        told = teller.tell([module, *beside])
    except (_UntellableError, RecursionError):
        told = None
    return uuid.uuid4().hex * 2 if told is None or not teller.found else told.hex()


class _Teller:
    """Makes one digest of a value and all that it holds, of each object once."""

    def __init__(self) -> None:
        self.found = False
        """Whether a module had a tensor or an attribute."""
        self._known: dict[int, tuple[object, bytes]] = {}  # with the object, since ids of those that are gone return
        self._left = _MOST

    def tell(self, value: object) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise _UntellableError
        kind = type(value)
        if kind in _ATOMS:
            return _joined(kind.__name__, [_bytes(value)])
        if id(value) not in self._known:
            self._known[id(value)] = value, b"%d" % len(self._known)  # what stands for it within itself
            self._known[id(value)] = value, self._told(value)
        return self._known[id(value)][1]

    def _all(self, kind: str, values: Iterable[object]) -> bytes:
        return _joined(kind, [self.tell(value) for value in values])

    def _told(self, value: object) -> bytes:
        kind = type(value)
        if isinstance(value, Tensor):
            if value.is_meta or value.layout != torch.strided or value.is_quantized or is_lazy(value):
                raise _UntellableError
            try:
                return _joined("tensor", [state_digest({"": value.resolve_conj().resolve_neg()}).encode()])
            except Exception as error:  # a kind of tensors of anybody's
                raise _UntellableError from error
        if isinstance(value, _PASSED_OVER):
            return _joined("passed over", [])
        if isinstance(value, nn.Module) and _COMPILED_MODULE in value._modules:
            return self.tell(value._modules[_COMPILED_MODULE])
        if isinstance(value, types.FunctionType) and _COMPILED_FROM in vars(value):
            return self.tell(vars(value)[_COMPILED_FROM])
        if isinstance(value, nn.Module):
            return self._module(value)
        if isinstance(value, list | tuple) and kind in _CONTAINERS:
            return self._all(kind.__name__, value)
        if isinstance(value, dict) and kind in _CONTAINERS:
            return self._all("dict", [part for item in value.items() for part in item])
        if isinstance(value, set | frozenset) and kind in _CONTAINERS:
            return _joined(kind.__name__, sorted(self.tell(item) for item in value))
        if isinstance(value, type):
            # A class that a function makes may be another one at every call.
            own = [one for one in vars(value).values() if isinstance(one, types.FunctionType)]
            local = [*value.__bases__, *own] if "<locals>" in value.__qualname__ else []
            return self._all("class", [value.__module__, value.__qualname__, *local])
        if isinstance(value, types.ModuleType):
            return self._all("module", [value.__name__])
        if isinstance(value, types.FunctionType):
            named, bound = (value.__module__, value.__qualname__), (value.__defaults__, value.__kwdefaults__)
            return self._all("function", [*named, value.__code__, *bound, *(value.__closure__ or ())])
        if isinstance(value, types.MethodType):
            return self._all("method", [value.__self__, value.__func__])
        if isinstance(value, types.CodeType):
            return self._all("code", [value.co_code, value.co_names, value.co_consts])
        if isinstance(value, types.CellType):
            return self._all("cell", [content(value)])
        return self._reduced(value)

    def _module(self, module: nn.Module) -> bytes:
        try:
            # What a module leaves out when it is copied (Lightning: its trainer) is none of its state.
            state: Any = module.__getstate__()  # type: ignore[no-untyped-call]
            extra = module.get_extra_state() if type(module).get_extra_state != nn.Module.get_extra_state else None
        except Exception as error:  # anybody's code
            raise _UntellableError from error
        if not isinstance(state, dict):
            raise _UntellableError
        parts = [vars(module)[name] for name in _PARTS]
        kept_by_torch = {*_BOOKKEEPING, *_COMPILED_HERE}
        own = _by_name({name: value for name, value in state.items() if name not in kept_by_torch})
        self.found = self.found or bool(own or parts[0] or parts[1])
        return self._all("nn.Module", [type(module), *parts, own, extra])

    def _reduced(self, value: object) -> bytes:
        """Take an object apart as pickle and copy do."""
        try:
            reduce = copyreg.dispatch_table.get(type(value))
            said: Any = reduce(value) if reduce else value.__reduce_ex__(4)
            if isinstance(said, str):  # a name in its module
                said = (getattr(value, "__module__", None), said)
            else:
                said = [list(part) if place in (3, 4) and part else part for place, part in enumerate(said)]
                if len(said) > 2 and type(said[2]) is dict:
                    said[2] = _by_name(said[2])
        except Exception as error:  # anybody's code
            raise _UntellableError from error
        return self._all("object", [type(value), *said])


def _by_name(attributes: dict[Any, object]) -> dict[Any, object]:
    """Attributes in an order that does not say when each was first set."""
    return {name: attributes[name] for name in sorted(attributes, key=str)}


def _joined(kind: str, parts: Iterable[bytes]) -> bytes:
    return hashlib.sha256(b"\0".join([kind.encode(), *parts])).digest()


def _bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    said = hex(value) if isinstance(value, int) else str(value)  # Python writes no long number out in decimals
    return said.encode("utf-8", "surrogatepass")


def content(cell: types.CellType) -> object:
    """What a function was bound to by one of its names; None where the name has no value yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None
