"""From what a trainer saved to the tensors of one network under their published names.

Which entry of the container holds them, which prefix a wrapper put in front, which of two copies is the averaged one:
what is found is done and said; what is not clear is refused with the names that the user must choose between.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vtbench.cards import WeightsSource
from vtbench.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

_PLAIN_KEYS = ("state_dict", "model_state_dict", "model", "module", "network")
_EMA_KEYS = (
    *("ema", "ema_model", "model_ema", "state_dict_ema"),
    *("ema_state_dict", "model_state_dict_ema", "model_ema_state_dict"),
)
"""Entries of a container that hold a network's tensors, and those that hold their average."""

_RAW = "current_model_state"
"""Where Lightning's `WeightAveraging` puts the plain tensors; `state_dict` is then their average."""

_WRAPPERS = ("module.", "_orig_mod.", "model.", "network.")
"""What DistributedDataParallel and AveragedModel, torch.compile and trainers' own classes put in front of names."""

_MARKS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What wrappers of a part put into the middle of names; no network calls anything so itself."""

_AVERAGED = ("ema.", "ema_model.", "model_ema.", "ema_module.", "averaged_model.")

_AVERAGE_WORDS = frozenset({"ema", "swa", "avg", "average", "averaged", "averaging", "shadow", "polyak"})

_MOMENT_WORDS = frozenset({"exp", "sq", "square", "grad"})
"""Of names of what optimizers average: exp_avg, avg_sq, square_avg, grad_avg."""

_TOP = "the top level"

_TAKEN_OUT = "or save the plain tensors by themselves"

_BESIDE_AVERAGES = ("decay", "num_updates", "n_averaged", "initted", "step")
"""What averaging classes keep beside their tensors: LitEma, AveragedModel, ema-pytorch."""


@dataclass
class State:
    """Tensors on their way to their published names, and what was done to them."""

    tensors: dict[str, Tensor]
    ema: int = 0
    notes: list[str] = field(default_factory=list)


def open_container(
    container: Mapping[Any, Any], source: WeightsSource | None, wanted: Collection[str], *, partial: bool = False
) -> State:
    """Find a network's tensors in what a trainer saved.

    Args:
        container: tensors by name, or entries that hold such; arrays of NumPy count as tensors.
        source: what the card says of the layout.
        wanted: the network's published names; empty where they are not known, and then no prefix is found.
        partial: whether the container came as a mapping of the caller's, which may be one copy already: then a prefix
            of the card's that no name has is no error.

    Raises:
        WeightsError: if there are no tensors, if it is not clear which are meant, or if a prefix of the card's is in
            no name.
    """
    state = _entry(container, source, wanted)
    _unmark(state, wanted)
    if source and source.strip:
        _strip(state, source.strip, demanded=not partial)
    _find_prefix(state, wanted)
    if source and source.ema_prefix:
        _average(state, source.ema_prefix, wanted, demanded=not partial)
    drop = source.drop if source else ()
    state.tensors = dropped(state.tensors, drop)
    if empty := [name for name, tensor in state.tensors.items() if tensor.is_meta]:
        raise WeightsError(
            f"holds {len(empty)} tensors without values, on the meta device ({few(empty)}); "
            "save the model once its weights are loaded"
        )
    if wanted:
        _refuse_second_copy(state, wanted)
    return state


def dropped(state: Mapping[str, Tensor], prefixes: Iterable[str]) -> dict[str, Tensor]:
    """Leave out the tensors that a card says are not the network's."""
    unwanted = tuple(prefixes)
    return {name: tensor for name, tensor in state.items() if not name.startswith(unwanted)}


# --- entries ----------------------------------------------------------------------------------------------------------


def _entry(container: Mapping[Any, Any], source: WeightsSource | None, wanted: Collection[str]) -> State:
    key = source.key if source else None
    plain_keys: tuple[str, ...] = _PLAIN_KEYS
    ema_keys: tuple[str, ...] = _EMA_KEYS
    if _holds_tensors(container.get(_RAW)):
        plain_keys, ema_keys = (_RAW, *_PLAIN_KEYS[1:]), ("state_dict", *_EMA_KEYS)
    if isinstance(key, tuple):
        return _deep(container, key, wanted)
    if key is not None and _holds_tensors(container.get(key)):
        what = f"the entry {key}, as the card says"
        return _inner(container[key], what, wanted, averaged=_is_average(key) or key in ema_keys)
    own = _tensors(container)
    plain = [name for name in plain_keys if _holds_tensors(container.get(name))]
    averaged = [name for name in ema_keys if _holds_tensors(container.get(name))]
    if len(plain) + len(averaged) > 1:
        raise _several(plain + averaged, f'key = "{(averaged or plain)[0]}"')
    if plain or averaged:
        chosen = (plain or averaged)[0]
        if plain:
            _refuse_hidden_average(container, chosen, container[chosen], wanted)
        elif any(name in wanted for name in own) or _may_copy(own, container[chosen], wanted):
            raise _several([_TOP, chosen], f'key = "{chosen}"; {_TAKEN_OUT}')
        return _inner(container[chosen], f"the entry {chosen}", wanted, averaged=bool(averaged))
    if own:
        _refuse_hidden_average(container, _TOP, own, wanted)
        others = len(container) - len(own)
        notes = [f"{others} entries that are not tensors were left out"] if others else []
        return State(own, notes=notes)
    entries = [name for name, value in container.items() if isinstance(name, str) and _tensors(value)]
    if len(entries) == 1:
        averaged_alone = _is_average(entries[0])
        if not averaged_alone:
            _refuse_hidden_average(container, entries[0], container[entries[0]], wanted)
        return _inner(container[entries[0]], f"the entry {entries[0]}", wanted, averaged=averaged_alone)
    if entries:
        raise _several(entries, f'key = "{entries[0]}"')
    expected = (key,) if key else _PLAIN_KEYS
    if {"state", "param_groups"} <= container.keys():
        raise WeightsError("is an optimizer's state; expected the model's, which trainers save in a file beside it")
    if not container:
        raise WeightsError("is empty; expected a dictionary of tensors")
    raise WeightsError(f"holds no tensors (its keys are {few(container)}); expected them under {few(expected)}")


def _several(found: Sequence[str], such: str) -> WeightsError:
    return WeightsError(
        f"holds several sets of tensors ({few(found)}); say in the card which one is meant, such as {such}"
    )


def _refuse_hidden_average(container: Mapping[Any, Any], chosen: str, held: object, wanted: Collection[str]) -> None:
    """An average under another name or deeper than a network's tensors are looked for: nobody said what is meant."""
    hidden = [path for path, value in _averages_in(container) if _may_copy(value, held, wanted)]
    if hidden:
        such = "key = the list of names that leads to the average"
        such = f"{such}; {_TAKEN_OUT}" if chosen == _TOP else f'key = "{chosen}", or {such.removeprefix("key = ")}'
        raise _several([chosen, *(" > ".join(path) for path in hidden)], such)


def _averages_in(container: Mapping[Any, Any]) -> Iterator[tuple[tuple[str, ...], object]]:
    """Find the entries at any depth under a name that averages have, and their names; optimizers keep other ones."""
    left: list[tuple[tuple[str, ...], Mapping[Any, Any]]] = [((), container)]
    seen = set()
    while left:
        path, held = left.pop(0)
        if id(held) in seen or {"state", "param_groups"} <= held.keys():
            continue
        seen.add(id(held))
        for name, value in held.items():
            if isinstance(name, str) and _is_average(name):
                yield (*path, name), value
            elif isinstance(value, Mapping):
                left.append(((*path, str(name)), value))


def _may_copy(value: object, chosen: object, wanted: Collection[str]) -> bool:
    """Whether an entry may be a copy of the chosen network, by its shapes: metrics and losses are averaged too.

    An average of the parameters alone, or of a part, still has most of the shapes. What is chosen may hold a loss
    beside the network.
    """
    network = _arrays(chosen)
    known = set(wanted)
    network = [(name, one) for name, one in network if not known.isdisjoint(_endings(name))] or network
    shapes = {one.shape for _, one in _arrays(value)}
    return 2 * sum(one.shape in shapes for _, one in network) > len(network)


def _endings(name: str) -> Iterator[str]:
    """A name without none, one and more of its first parts."""
    parts = name.split(".")
    return (".".join(parts[first:]) for first in range(len(parts)))


def _arrays(value: object) -> list[tuple[str, Tensor]]:
    """The tensors that an entry holds at any depth, by their last names; single numbers, such as counts, are none."""
    found: list[tuple[str, Tensor]] = []
    left, seen = [value], set()
    while left:
        one = left.pop()
        if id(one) in seen or not isinstance(one, Mapping | list | tuple):
            continue
        seen.add(id(one))
        for name, inside in one.items() if isinstance(one, Mapping) else (("", part) for part in one):
            tensor = _tensor(inside)
            if tensor is None:
                left.append(inside)
            elif tensor.ndim:
                found.append((str(name), tensor))
    return found


def _deep(container: Mapping[Any, Any], path: Sequence[str], wanted: Collection[str]) -> State:
    """Follow a card's path through entries of entries."""
    entry: Any = container
    for depth, key in enumerate(path):
        if not isinstance(entry, Mapping) or key not in entry:
            found = few(entry) if isinstance(entry, Mapping) else f"a {type(entry).__name__}"
            raise WeightsError(f"has no entry {' > '.join(path[: depth + 1])}, as the card says; there is {found}")
        entry = entry[key]
    if not _tensors(entry):
        raise WeightsError(f"the entry {' > '.join(path)}, as the card says, holds no tensors")
    return _inner(
        entry, f"the entry {' > '.join(path)}, as the card says", wanted, averaged=any(map(_is_average, path))
    )


def _is_average(key: str) -> bool:
    """Tell by its name whether an entry holds averages, such as G_ema, modelEMA, avg_model or swa_state_dict."""
    words = {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", key)}
    return bool(words & _AVERAGE_WORDS) and not words & _MOMENT_WORDS


def _inner(entry: Mapping[Any, Any], what: str, wanted: Collection[str], *, averaged: bool) -> State:
    state = State(_tensors(entry)) if _tensors(entry) else _entry(entry, None, wanted)
    state.notes.insert(0, f"the tensors are those of {what}")
    if averaged:
        state.tensors = {n: t for n, t in state.tensors.items() if n not in _BESIDE_AVERAGES}
        state.ema = len(state.tensors)
    return state


def _holds_tensors(value: object) -> bool:
    """Whether an entry holds tensors, itself or in a further entry of a known name."""
    if not isinstance(value, Mapping):
        return False
    return bool(_tensors(value)) or any(_tensors(value.get(name)) for name in (*_PLAIN_KEYS, *_EMA_KEYS))


def _tensors(value: object) -> dict[str, Tensor]:
    if not isinstance(value, Mapping):
        return {}
    found = {name: _tensor(item) for name, item in value.items() if isinstance(name, str)}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def _tensor(value: object) -> Tensor | None:
    import numpy as np
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach()
    if not isinstance(value, np.ndarray):
        return None
    if value.dtype.name == "bfloat16":  # JAX's type, which NumPy and torch don't exchange
        return torch.from_numpy(np.array(value).view(np.uint16)).view(torch.bfloat16)
    if value.dtype.kind not in "fiub":
        return None
    # torch takes neither strides below zero, nor another byte order, nor unsigned numbers of more than 8 bits.
    array = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("="))
    if not array.flags.writeable:
        array = array.copy()
    return torch.from_numpy(array).reshape(value.shape)


# --- names ------------------------------------------------------------------------------------------------------------


def _renamed(state: State, names: Mapping[str, str]) -> None:
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        both = [old for old, new in names.items() if new == twice[0]]
        raise WeightsError(f"{' and '.join(both[:2])} both become {twice[0]}; leave one copy out with drop in the card")
    state.tensors = {names[name]: tensor for name, tensor in state.tensors.items()}


def _unmark(state: State, wanted: Collection[str]) -> None:
    names = {name: name if name in wanted else _MARKS.sub("", name) for name in state.tensors}
    changed = [name for name, new in names.items() if name != new]
    if changed:
        marks = sorted({mark for name in changed for mark in _MARKS.findall(name)})
        _renamed(state, names)
        state.notes.append(f"{few(f'{mark}.' for mark in marks)} was taken out of {len(changed)} names")


def _strip(state: State, prefix: str, *, demanded: bool) -> None:
    count = sum(name.startswith(prefix) for name in state.tensors)
    if not count:
        if demanded:
            raise WeightsError(f"no name begins with {prefix!r}, the card's strip ({few(state.tensors)})")
        return
    names = {name: name.removeprefix(prefix) for name in state.tensors}
    if prefix == "module.":
        state.tensors.pop("n_averaged", None)
        names.pop("n_averaged", None)
    _renamed(state, names)
    state.notes.append(f"the prefix {prefix} was stripped from {count} names, as the card says")


def _find_prefix(state: State, wanted: Collection[str]) -> None:
    """Strip the wrappers' prefix under which most of the wanted names stand, if more than stand there without it."""
    if not wanted:
        return
    known = set(wanted)
    candidates = {""}
    for name in state.tensors:
        prefix = ""
        while step := next((wrapper for wrapper in _WRAPPERS if name.startswith(wrapper, len(prefix))), None):
            prefix += step
            candidates.add(prefix)
    fits = {prefix: sum(prefix + name in state.tensors for name in known) for prefix in candidates}
    best = max(fits.values())
    if fits[""] == best:
        return
    chosen = sorted(prefix for prefix, count in fits.items() if count == best)
    if len(chosen) > 1:
        raise WeightsError(
            f"the network's names stand under {' and '.join(chosen)}; say in the card which is meant, "
            f'such as strip = "{chosen[0]}"'
        )
    prefix = chosen[0]
    names = {name: name.removeprefix(prefix) for name in state.tensors}
    if "module." in prefix and "n_averaged" in names and "n_averaged" not in known:
        # torch.optim.swa_utils.AveragedModel: all that it holds is averaged.
        del names["n_averaged"], state.tensors["n_averaged"]
        state.ema = sum(name.startswith(prefix) for name in state.tensors)
        state.notes.append("the tensors are those of an AveragedModel")
    count = sum(name.startswith(prefix) for name in state.tensors)
    _renamed(state, names)
    state.notes.append(f"the prefix {prefix} was stripped from {count} names")


# --- averages ---------------------------------------------------------------------------------------------------------


def _average(state: State, prefix: str, wanted: Collection[str], *, demanded: bool) -> None:
    """Take the averaged copy of every tensor that has one; its names may have lost their dots."""
    named = [name for name in state.tensors if name.startswith(prefix)]
    averages = {name.removeprefix(prefix).lstrip("."): state.tensors[name] for name in named}
    averages = {name: tensor for name, tensor in averages.items() if name not in _BESIDE_AVERAGES}
    if not averages:
        if demanded and not state.ema:
            raise WeightsError(
                f"no name begins with {prefix!r}, the card's ema_prefix ({few(state.tensors)}); a checkpoint without "
                "an averaged copy needs a card without ema_prefix"
            )
        return
    plain = {name: tensor for name, tensor in state.tensors.items() if name not in set(named)}
    targets = list(dict.fromkeys([*plain, *wanted]))
    by_letters = {name.replace(".", ""): name for name in targets}
    exact = set(targets)
    taken = {}
    for name, tensor in averages.items():
        forms = [name, *(name[len(wrapper) :] for wrapper in _WRAPPERS if name.startswith(wrapper))]
        owner = next((form for form in forms if form in exact), None)
        owner = owner or next((by_letters[form] for form in forms if form in by_letters), None)
        if owner is not None:
            taken[owner] = tensor
        elif not targets or not plain:
            taken[forms[-1]] = tensor
    if not taken:
        raise WeightsError(
            f"none of the {len(averages)} tensors under {prefix!r} is the average of another one ({few(averages)})"
        )
    state.tensors = plain | taken
    counted = [name for name in taken if name in wanted] if wanted else list(taken)
    state.ema = len(counted)
    state.notes.append(f"{state.ema} tensors are the averaged copy under {prefix}")


def _refuse_second_copy(state: State, wanted: Collection[str]) -> None:
    """A second copy of the network under a name that averages have: nobody said which of them is meant."""
    for prefix in _AVERAGED:
        names = [name for name in state.tensors if name.startswith(prefix) and name not in wanted]
        if names and not any(name.startswith(prefix) for name in wanted):
            raise WeightsError(
                f"holds an averaged copy beside the plain one ({few(names)}); say in the card which is meant: "
                f'ema_prefix = "{prefix}" for the average, drop = ["{prefix}"] for the plain one'
            )


def few(names: Iterable[object]) -> str:
    """The first five of some names, and how many more there are."""
    listed = [str(name) if str(name).isprintable() else ascii(name) for name in names]
    listed = [name if len(name) <= 120 else f"{name[:120]}…" for name in listed]
    return ", ".join(listed[:5]) + (f", … {len(listed) - 5} more" if len(listed) > 5 else "")
