"""How predictable tokens are: entropies by counting, and bits of tokens that were not counted.

Plug-in entropies lie where n is small: uniform random codes of a codebook of 16384 on 29 pictures of 16x16 tokens show
0.4 bits given the left neighbour, not 14. Report the gain of `heldout_bits`, from some 2000 pictures on; it is negative
on noise. No correlation with gFID has been published.

All plug-in values are in bits, from tokens (B, T) or (B, H, W), integers of any size.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from vtbench.errors import DataError
from vtbench.metrics.latents._arrays import Array, integers, whole

Context = Literal["previous", "left", "up", "left+up"]


def token_entropy(tokens: Array, *, miller_madow: bool = False) -> float:
    """Plug-in entropy of the codes in bits; with Miller and Madow's correction, + (codes seen - 1) / (2 n ln 2).

    Raises:
        DataError: if there is no token, or they are no integers.
    """
    codes = _compact(integers(tokens, "tokens", "(B, ...)").flatten())
    correction = int(codes.max()) / (2 * len(codes) * math.log(2)) if miller_madow else 0.0
    return _entropy(codes) + correction


def conditional_entropy(tokens: Array, *, context: Context = "previous") -> float:
    """Plug-in H(token | context) = H(context, token) - H(context) in bits, over the pairs within a picture.

    Args:
        tokens: integers (B, T) or (B, H, W).
        context: the token before in raster order, the left, the upper, or the left and the upper neighbour.

    Raises:
        DataError: if there is no such neighbour.
    """
    codes = _compacted(tokens)
    before, target = _pairs(codes, context, int(codes.max()) + 1)
    before = _compact(before)
    return _entropy(_joint(before, target)) - _entropy(before)


def position_information(tokens: Array) -> float:
    """Plug-in mutual information in bits of a token's place in the sequence and its code.

    Raises:
        DataError: if they are no integers (B, ...).
    """
    codes = _compacted(tokens).flatten(1)
    place = torch.arange(codes.shape[1], device=codes.device).expand_as(codes)
    flat, places = codes.flatten(), place.flatten()
    return _entropy(flat) + _entropy(places) - _entropy(_joint(places, flat))


def prefix_entropies(tokens: Array, *, length: int) -> list[float]:
    """Plug-in H(token t | all before) in bits over pictures, t = 1 .. length, in raster order.

    It falls to 0 at about log(pictures) / log(codes), whatever the tokenizer (arXiv 2605.06207: the entropy cliff).

    Raises:
        DataError: if the sequences are shorter.
    """
    codes = _compacted(tokens).flatten(1)
    length = whole(length, "tokens of a prefix", 1, codes.shape[1])
    prefix = torch.zeros_like(codes[:, 0])
    values, before = [], 0.0
    for step in range(length):
        prefix = _joint(prefix, codes[:, step])
        entropy = _entropy(prefix)
        values.append(entropy - before)
        before = entropy
    return values


def heldout_bits(train: Array, test: Array, size: int, *, context: Context | None = None) -> float:
    """Code tokens by what others taught: mean bits a token of `test`, under counts of `train`.

    Without a context: (count + 1/2) / (n + size / 2). With one: Witten and Bell's mixture, c / (c + types) of the
    relative frequency after that context, the rest of the first form; only tokens that have the context are coded.

    Args:
        train: integers (B, T) or (B, H, W), each in 0 .. size - 1.
        test: the same of other pictures.
        size: of the codebook.
        context: as for `conditional_entropy`.

    Raises:
        DataError: if a token is outside the codebook, or there is no such neighbour.
    """
    fit = integers(train, "train", "(B, ...)")
    rest = integers(test, "test", "(B, ...)", device=fit.device)
    low, high = (int(f(torch.stack([f(fit), f(rest)]))) for f in (torch.min, torch.max))
    if low < 0 or high >= whole(size, "codes of the codebook", 1):
        raise DataError(f"tokens from {low} to {high}: expected 0 to {size - 1}")
    codes = _compact(torch.cat([fit.flatten(), rest.flatten()]))
    fit, rest = codes[: fit.numel()].view_as(fit), codes[fit.numel() :].view_as(rest)
    counts = torch.bincount(fit.flatten(), minlength=int(codes.max()) + 1).double()
    order0 = (counts + 0.5) / (fit.numel() + size / 2)
    if context is None:
        return float(-order0[rest.flatten()].log2().mean())
    kinds = len(counts)
    (before, target), (asked_before, asked) = _pairs(fit, context, kinds), _pairs(rest, context, kinds)
    both = _compact(torch.cat([before, asked_before]))
    before, asked_before = both[: len(before)], both[len(before) :]
    pairs, times = torch.unique(before * kinds + target, return_counts=True)
    places = int(both.max()) + 1
    seen = torch.bincount(before, minlength=places).double()[asked_before]
    types = torch.bincount(pairs // kinds, minlength=places).double()[asked_before]
    key = asked_before * kinds + asked
    at = torch.searchsorted(pairs, key).clamp_max(len(pairs) - 1)
    count = torch.where(pairs[at] == key, times[at], 0).double()
    # c / (c + types) * count / c is count / (c + types); a context that was never seen leaves the first form alone.
    mixed = (count + types * order0[asked]) / (seen + types)
    return float(-torch.where(seen > 0, mixed, order0[asked]).log2().mean())


def _compacted(tokens: Array) -> Tensor:
    codes = integers(tokens, "tokens", "(B, ...)")
    if codes.ndim < 2:
        raise DataError(f"tokens of {tuple(codes.shape)}: expected (B, T) or (B, H, W)")
    return _compact(codes.flatten()).view_as(codes)


def _compact(codes: Tensor) -> Tensor:
    """Number the codes that occur from 0 on, in their order: pairs of huge codebooks would not fit 64 bits."""
    inverse: Tensor = torch.unique(codes, return_inverse=True)[1]
    return inverse


def _joint(first: Tensor, second: Tensor) -> Tensor:
    return _compact(first * (int(second.max()) + 1) + second)


def _entropy(codes: Tensor) -> float:
    counts = torch.unique(codes, return_counts=True)[1].double()
    share = counts / counts.sum()
    return max(0.0, -math.fsum((share * share.log2()).tolist()))


def _pairs(codes: Tensor, context: Context, kinds: int) -> tuple[Tensor, Tensor]:
    """Contexts and targets, flat, from (B, T) or (B, H, W), each in 0 .. kinds - 1.

    One number stands for one context in every set of tokens that is paired under the same `kinds`.
    """
    if codes.ndim < 2:
        raise DataError(f"tokens of {tuple(codes.shape)}: expected (B, T) or (B, H, W)")
    if context == "previous":
        codes = codes.flatten(1)
        before, target = codes[:, :-1], codes[:, 1:]
    elif context not in ("left", "up", "left+up"):
        raise DataError(f'context "{context}": expected previous, left, up or left+up')
    elif codes.ndim != 3:
        raise DataError(f'context "{context}" of tokens {tuple(codes.shape)}: expected a grid (B, H, W)')
    elif context == "left":
        before, target = codes[:, :, :-1], codes[:, :, 1:]
    elif context == "up":
        before, target = codes[:, :-1], codes[:, 1:]
    else:
        left, up, target = codes[:, 1:, :-1], codes[:, :-1, 1:], codes[:, 1:, 1:]
        before = left * kinds + up
    if target.numel() == 0:
        raise DataError(f'context "{context}" of tokens {tuple(codes.shape)}: no token has it')
    return before.flatten(), target.flatten()
