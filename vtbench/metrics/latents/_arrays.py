"""numpy arrays or torch tensors in, float64 tensors on their device inside, the same kind out."""

from __future__ import annotations

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
        shape: the axes, such as "(N, D)".
        device: where to; that of the values where left out.

    Raises:
        DataError: if the axes are others, one is empty, or a value is not finite.
    """
    made = _tensor(values, name, shape, device).to(torch.float64)
    if not torch.isfinite(made).all():
        raise DataError(f"{name}: not all values are finite; expected real numbers")
    return made


def integers(values: Array, name: str, shape: str, *, device: torch.device | None = None) -> Tensor:
    """Give an int64 tensor, on the device of the values or another; "(N, ...)" takes any axes after the first.

    Raises:
        DataError: if the axes are others, one is empty, or the values are no integers.
    """
    made = _tensor(values, name, shape, device)
    if made.is_floating_point() or made.is_complex():
        raise DataError(f"{name}: {made.dtype} values; expected integers")
    return made.to(torch.int64)


def _tensor(values: Array, name: str, shape: str, device: torch.device | None) -> Tensor:
    if isinstance(values, Tensor):
        made = values.detach()
    elif isinstance(values, np.ndarray) and values.dtype.kind in "fiub":
        made = torch.from_numpy(np.array(values))  # copied: a read-only array has no tensor of its own
    else:
        raise DataError(f"{name}: {type(values).__name__}; expected a numpy array or a torch tensor of numbers")
    axes = shape.count(",") + 1 if "," in shape and not shape.endswith(",)") else 1
    right = made.ndim >= 1 if "..." in shape else made.ndim == axes
    if not right or made.numel() == 0:
        raise DataError(f"{name}: shape {tuple(made.shape)}; expected {shape}, no axis empty")
    return made if device is None else made.to(device)


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
