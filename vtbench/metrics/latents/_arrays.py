"""numpy arrays or torch tensors in, float64 tensors on their device inside, the same kind out."""

from __future__ import annotations

import math
import operator
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from vtbench.errors import DataError

NumpyArray = np.ndarray[Any, np.dtype[Any]]
Array = NumpyArray | Tensor
ArrayT = TypeVar("ArrayT", NumpyArray, Tensor)

BLOCK_VALUES = 2**24
"""float64 values that one block of a large matrix takes: 128 MiB."""


def floats(values: Array, name: str, shape: str, *, device: torch.device | None = None) -> Tensor:
    """Give a float64 tensor, on the device of the values or another.

    Args:
        values: real numbers, with as many axes as `shape` names.
        name: what the error calls them.
        shape: the axes, such as "(N, D)"; "..." stands for any number of further ones.
        device: where to; that of the values where left out.

    Raises:
        DataError: if the axes are others, one is empty, or a value is not finite.
    """
    made = tensor(values, name, shape, device).to(torch.float64)
    if not torch.isfinite(made).all():
        raise DataError(f"{name}: not all values are finite; expected real numbers")
    return made


def integers(values: Array, name: str, shape: str, *, device: torch.device | None = None) -> Tensor:
    """Give an int64 tensor, on the device of the values or another; shapes as for `floats`.

    Raises:
        DataError: if the axes are others, one is empty, or the values are no integers.
    """
    made = tensor(values, name, shape, device)
    if made.is_floating_point():
        raise DataError(f"{name}: {made.dtype} values; expected integers")
    return made.to(torch.int64)


def tensor(values: Array, name: str, shape: str, device: torch.device | None = None) -> Tensor:
    """Give a tensor of the values' own type, on the device of the values or another; shapes as for `floats`.

    Raises:
        DataError: if they are no real numbers, the axes are others, or one is empty.
    """
    if isinstance(values, Tensor) and not values.is_complex():
        made = values.detach()
    elif isinstance(values, np.ndarray) and values.dtype.kind in "fiub":
        made = torch.from_numpy(np.array(values))  # copied: a read-only array has no tensor of its own
    else:
        raise DataError(f"{name}: {type(values).__name__}; expected a numpy array or a torch tensor of numbers")
    named = [axis for axis in shape.strip("()").split(",") if axis.strip() not in ("", "...")]
    right = made.ndim >= len(named) if "..." in shape else made.ndim == len(named)
    if not right or made.numel() == 0:
        raise DataError(f"{name}: shape {tuple(made.shape)}; expected {shape}, no axis empty")
    return made if device is None else made.to(device)


def whole(value: object, name: str, least: int | None = None, most: int | None = None) -> int:
    """Give a whole number within the bounds, where there are any.

    Raises:
        DataError: if it is another, or none.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise DataError(f"{name}: {value!r:.60}; expected a whole number") from None
    if (least is not None and number < least) or (most is not None and number > most):
        raise DataError(f"{name}: {number}; expected {f'at least {least}' if most is None else f'{least} to {most}'}")
    return number


def real(value: object, name: str, *, above: float = -math.inf, most: float = math.inf) -> float:
    """Give a finite number above a bound, and at most another.

    Raises:
        DataError: if it is another, or none.
    """
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        number = math.nan
    if isinstance(value, str) or not (math.isfinite(number) and above < number <= most):
        bounds = [f"above {above:g}"] * (above > -math.inf) + [f"at most {most:g}"] * (most < math.inf)
        raise DataError(f"{name}: {value!r:.60}; expected {', '.join(['a finite number', *bounds])}")
    return number


def same_kind(made: Tensor, given: ArrayT, *, dtype: bool = False) -> ArrayT:
    """Give the result as what the input was, numpy array or tensor, and in its floating type where `dtype` says so."""
    if isinstance(given, Tensor):
        return made.to(given.dtype) if dtype and given.is_floating_point() else made
    array = made.cpu().numpy()
    return cast(ArrayT, array.astype(given.dtype) if dtype and given.dtype.kind == "f" else array)


def rows_at_a_time(columns: int) -> int:
    """Rows of a matrix of that many columns that fit a block; a function of the sizes alone, so that values repeat."""
    return max(1, BLOCK_VALUES // max(1, columns))


def smallest(costs: Tensor, count: int) -> Tensor:
    """Indices of the smallest values of each row, ascending, ties by index: (N, M) -> int64 (N, count)."""
    if count >= costs.shape[1]:
        return costs.sort(dim=1, stable=True).indices[:, :count]
    values, found = costs.topk(count, dim=1, largest=False)
    candidates = costs <= values[:, -1:]
    found = found.sort(dim=1).values
    for row in (candidates.sum(1) > count).nonzero().flatten().tolist():  # a tie at the border, which topk cuts anyhow
        places = candidates[row].nonzero().flatten()
        order = costs[row, places].sort(stable=True).indices[:count]
        found[row] = places[order].sort().values
    order = costs.gather(1, found).sort(dim=1, stable=True).indices
    return found.gather(1, order)
