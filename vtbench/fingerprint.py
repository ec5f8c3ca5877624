"""What a live model computes with, as one digest: its tensors, and whatever else its attributes hold.

Values are taken apart as pickle does it: an object is its class and its state, whoever wrote it. Classes and functions
go by their names, functions also by their code and what they were bound to. Of the user's own code that is reached by
name from encode, decode and forward there is more: a class is its attributes and methods, a function the globals that
it names. What can't be taken apart (a lock, an open file) can't be told, and neither can a model that holds it.
"""

from __future__ import annotations

import copyreg
import dis
import functools
import hashlib
import sys
import types
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as _modules
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from vtbench import files
from vtbench.weights import state_digest

_ATOMS = (type(None), bool, int, float, complex, str, bytes)

_CONTAINERS = (list, tuple, dict, set, frozenset)
"""Classes that derive from these may hold more, and are taken apart like any object."""

_PARTS = ("_parameters", "_buffers", "_modules")

KEPT_BY_TORCH = vars(nn.Module()).keys()
"""What torch keeps in every module; of it only `_PARTS` and `_HOOKS` are computed with."""

_HOOKS = ("_forward_pre_hooks", "_forward_hooks")

_BEGINNING = frozenset({"encode", "decode", "forward"})
"""Names by which a model is used; what they name in turn is reached from there."""

_OTHERS = {"torch", "vtbench"} | (sys.stdlib_module_names - {"__main__"})
"""Packages of which nobody expects that their classes and globals change while they are used."""

_PASSED_OVER = (torch.device, RemovableHandle)
"""Where a model is, which the plan says, and may differ between processes; and what takes a hook away again."""

_COMPILED_FROM = "_torchdynamo_orig_callable"
"""Where torch.compile keeps a function that it was given."""

COMPILED_MODULE = "_orig_mod"
"""The name of a module that torch.compile was given, among the parts of what it gave."""

_COMPILED_HERE = ("_compiled_call_impl", "_is_torch_compile")
"""What `nn.Module.compile` leaves in a module, which is else as it was."""

_MOST = 300_000
"""Values beside tensors that are looked at: what holds more holds data, such as a trainer with its pictures."""


class _UntellableError(Exception):
    """Something holds what nothing tells of."""


def module_digest(module: nn.Module, beside: Sequence[object] = ()) -> str:
    """sha256 of all that a live module computes with, as it is now.

    That is its tensors, also buffers that no checkpoint has, the classes of its parts, the values of their attributes
    and their forward hooks, and what the user's code names that encode, decode and forward reach. Its mode and device
    don't count. A module that holds what can't be told is another one at every call, and so is one that holds nothing:
    nothing says what it does.

    Args:
        module: of any kind.
        beside: further values that it computes with.
    """
    hooks = [*_modules._global_forward_pre_hooks.values(), *_modules._global_forward_hooks.values()]
    tensors: dict[int, tuple[Tensor, bytes]] = {}
    before: frozenset[str] = frozenset()
    reached = _BEGINNING
    try:
        while reached != before:  # code that was told has named more
            before = reached
            teller = _Teller(before, tensors)
            told = teller.whole([module, *beside, *hooks])
            reached = before | teller.named
    except (_UntellableError, RecursionError):
        return uuid.uuid4().hex * 2
    return told.hex() if teller.found else uuid.uuid4().hex * 2


class _Teller:
    """Makes one digest of a value and all that it holds, of each object once."""

    def __init__(self, reached: frozenset[str], tensors: dict[int, tuple[Tensor, bytes]]) -> None:
        """Begin anew.

        Args:
            reached: names that code uses; of classes and modules of the user's, attributes of other names don't count.
            tensors: digests that earlier tellers made, by ids.
        """
        self.found = False
        """Whether a module had a tensor or an attribute."""
        self.named: set[str] = set()
        """The names that all code uses which was told."""
        self._reached = reached
        self._tensors = tensors
        self._known: dict[int, tuple[object, bytes]] = {}  # with the object, since ids of those that are gone return
        self._behind: dict[tuple[int, str], tuple[object, str, object]] = {}
        """Attributes of classes and modules, and globals, to be told after what names them: they do so in circles."""
        self._left = _MOST

    def whole(self, value: object) -> bytes:
        """Tell a value, then the attributes and globals of the user's that its code reaches."""
        parts = [self.tell(value)]
        told: set[tuple[int, str]] = set()
        while new := [key for key in self._behind if key not in told]:
            told.update(new)
            for key in new:
                _, place, held = self._behind[key]
                parts.append(self._all("of", [place, key[1], held]))
        return _joined("whole", parts)

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
            if id(value) not in self._tensors:
                try:
                    digest = state_digest({"": value.resolve_conj().resolve_neg()})
                except Exception as error:  # a kind of tensors of anybody's
                    raise _UntellableError from error
                self._tensors[id(value)] = value, _joined("tensor", [digest.encode()])
            return self._tensors[id(value)][1]
        if isinstance(value, _PASSED_OVER):
            return _joined("passed over", [])
        if isinstance(value, nn.Module) and COMPILED_MODULE in value._modules:
            return self.tell(value._modules[COMPILED_MODULE])
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
            return self._class(value)
        if isinstance(value, types.ModuleType):
            if _is_the_users(value.__name__):
                self._after(vars(value), value.__name__, {n: v for n, v in vars(value).items() if n in self._reached})
            return self._all("module", [value.__name__])
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, staticmethod | classmethod):
            return self._all(kind.__name__, [value.__func__])
        if isinstance(value, functools._lru_cache_wrapper):
            return self._all("cached", [value.__wrapped__])
        if isinstance(value, property):
            return self._all("property", [value.fget])
        if isinstance(value, functools.cached_property):
            return self._all("property", [value.func])
        if isinstance(value, types.MemberDescriptorType):  # a slot, whose value the object tells
            return self._all("slot", [value.__name__])
        if isinstance(value, types.MethodType):
            return self._all("method", [value.__self__, value.__func__])
        if isinstance(value, types.CodeType):
            return self._all("code", [value.co_code, value.co_names, value.co_consts])
        if isinstance(value, types.CellType):
            return self._all("cell", [content(value)])
        return self._reduced(value)

    def _after(self, owner: object, place: str, values: Mapping[str, object]) -> None:
        for name in sorted(values):
            self._behind.setdefault((id(owner), name), (owner, place, values[name]))

    def _class(self, kind: type) -> bytes:
        """Tell a class by its name, and leave for later what it is by the user's code, in it or put into it."""
        own = _is_the_users(kind.__module__)
        values = {}
        for name, value in vars(kind).items():
            function = isinstance(value, types.FunctionType)
            # Python calls a method such as __getattr__ without a name; of modules it has called __init__ already.
            implicit = name[:2] == name[-2:] == "__"
            built = name == "__init__" and issubclass(kind, nn.Module)
            if not (function and not built if implicit else name in self._reached):
                continue
            if own or (function and _is_the_users(value.__globals__.get("__name__"))):
                values[name] = value
            elif function and kind is not nn.Module:  # it may call methods that the user's class has of its own
                self.named |= _names(value)
        self._after(kind, kind.__qualname__, values)
        return self._all("class", [kind.__module__, kind.__qualname__, *kind.__bases__])

    def _function(self, function: types.FunctionType) -> bytes:
        place = function.__globals__.get("__name__")
        self.named |= _names(function)
        if _is_the_users(place):
            read = globals_read(function.__code__)
            values = {name: function.__globals__[name] for name in read if name in function.__globals__}
            self._after(function.__globals__, str(place), values)
        named, bound = (function.__module__, function.__qualname__), (function.__defaults__, function.__kwdefaults__)
        return self._all("function", [*named, function.__code__, *bound, *(function.__closure__ or ())])

    def _module(self, module: nn.Module) -> bytes:
        state = state_of(module)
        if state is None:
            raise _UntellableError
        try:
            extra = module.get_extra_state() if type(module).get_extra_state != nn.Module.get_extra_state else None
        except Exception as error:  # anybody's code
            raise _UntellableError from error
        parts = [vars(module)[name] for name in _PARTS]
        hooks = [list(vars(module)[name].values()) for name in _HOOKS]
        passed_over = {*KEPT_BY_TORCH, *_COMPILED_HERE}
        own = _by_name({name: value for name, value in state.items() if name not in passed_over})
        self.found = self.found or bool(own or parts[0] or parts[1])
        return self._all("nn.Module", [type(module), *parts, own, extra, hooks])

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


def _is_the_users(module: object) -> bool:
    """Tell by its name whether a module is the user's, as a notebook is: not vtbench's, Python's nor installed."""
    if not isinstance(module, str) or module.partition(".")[0] in _OTHERS:
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is None or not files.is_installed(Path(file).resolve())


def _names(function: types.FunctionType) -> set[str]:
    """All names that a function's code uses, and its strings, by which it may get attributes."""
    codes = list(_codes(function.__code__))
    strings = {const for code in codes for const in code.co_consts if isinstance(const, str)}
    return strings.union(*(code.co_names for code in codes))


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """A function's code, and that of the functions inside it."""
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _codes(const)


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


def state_of(module: nn.Module) -> dict[str, Any] | None:
    """What a module computes with: not what it leaves out when it is copied (Lightning: its trainer).

    None where it does not tell.
    """
    try:
        state: Any = module.__getstate__()  # type: ignore[no-untyped-call]
    except Exception:  # anybody's code
        return None
    return state if isinstance(state, dict) else None


@functools.cache
def globals_read(code: types.CodeType) -> frozenset[str]:
    """Names of the globals that a function's code reads, and that of the functions inside it; no attribute's name."""
    steps = (step for one in _codes(code) for step in dis.get_instructions(one))
    return frozenset(step.argval for step in steps if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"))


def content(cell: types.CellType) -> object:
    """What a function was bound to by one of its names; None where the name has no value yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None
