"""Diagnostics of a latent space: what moved latents and changed tokens decode to, and how latents lie on their grid.

A metric's option `of` names the function of `_PROBES` that makes its columns, and `total` that of `_TOTALS` where its
value comes from all pictures together. All draws belong to a picture's id. `vtbench.metrics.latents` has the formulas.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vtbench import device as devices
from vtbench import images, measures
from vtbench.bottleneck import MUTE, Bottleneck
from vtbench.catalogue import Metric
from vtbench.errors import DataError
from vtbench.measures import Column, Columns, Missing, Outcome, Table, means
from vtbench.metrics import latents
from vtbench.metrics.latents import probes
from vtbench.metrics.learned import SeenOnce
from vtbench.results import Score
from vtbench.statistics import jackknife_interval
from vtbench.types import Codes, Key, picked

Array = np.ndarray[Any, Any]

NO_GRID = "its tokens are no grid"
NOT_FINITE = "its latent has values that are not finite"
FLAT = "its latent is flat: no channel varies over the picture"
NO_CODES = "continuous latents have no tokens"
OTHER_KIND = {
    "codes": "its tokens are digits without a codebook: see the least certain digits",
    "digits": "its tokens have a codebook: see the nearest codes",
}

RATES = (0.25, 0.5, 0.9)
"""Shares of the tokens that are drawn anew; the middle one is the value, all are levels."""

NEAREST = 0.01
"""Share of the codebook from which a token is drawn anew: its nearest codes, the own one included; two at least."""

POOLED = Key("latent", "pooled", "raw")
"""Mean of each channel over the places of a picture."""

BLOCKS = Key("latent", "blocks", "raw")
"""Mean amplitude of each block-DCT coefficient of a picture, channel by channel."""

BLOCK = 8

_BLUR = {False: (7, 1.2), True: (11, 2.2)}
"""Taps and sigma of the spectrum match's blur, by whether 16 pixels or more of a side are one place."""


@dataclass(frozen=True)
class Seen:
    """One batch as the probes see it, all on the metrics' device but the latent."""

    bottleneck: Bottleneck
    ids: tuple[str, ...]
    pictures: Tensor
    """uint8, (B, 3, H, W)."""
    plain: Tensor
    """Their reconstructions, of the same shape."""
    codes: Codes
    z: Tensor
    """(B, C, h, w), or (B, T, C) where the tokens are no grid."""
    distance: probes.Distance = field(default_factory=SeenOnce)
    """LPIPS, which looks at `pictures` and `plain` once for all probes: most of the cost is its network's."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures."""
        return self.pictures.shape[-2], self.pictures.shape[-1]

    @property
    def grid(self) -> Tensor:
        """The latent where it is a grid.

        Raises:
            DataError: saying that it is none.
        """
        if self.z.ndim != 4 or min(self.z.shape[-2:]) < 2:
            raise DataError(NO_GRID)
        return self.z

    def decode(self, z: Tensor | Codes, scale: float = 1.0, turns: int = 0) -> Tensor:
        """Decode a latent or codes to uint8 pictures of the size of these, or of a share of it, or of these turned.

        Raises:
            DataError: if it can't be decoded to finite values of that size.
        """
        height, width = (math.floor(side * scale) for side in self.size)
        made, reasons = self.bottleneck.decode(z, (width, height) if turns % 2 else (height, width))
        for reason in reasons:
            if reason is not None:
                raise DataError(reason)
        return made.to(self.pictures.device)

    @staticmethod
    def of(bottleneck: Bottleneck, outcome: Outcome, place: torch.device) -> Seen:
        """Take what a batch left behind to the metrics' device."""
        return Seen(
            bottleneck=bottleneck,
            ids=tuple(sample.id for sample in outcome.samples),
            pictures=outcome.reference.to(place),
            plain=outcome.reconstruction.to(place),
            codes=outcome.codes,
            z=bottleneck.latent(outcome.codes),
        )

    def at(self, positions: Sequence[int]) -> Seen:
        """Take some pictures of the batch; of all of them what `distance` has seen is kept."""
        if len(positions) == len(self.ids):
            return self
        chosen = picked(positions)
        return replace(
            self,
            ids=tuple(self.ids[position] for position in positions),
            pictures=self.pictures[chosen],
            plain=self.plain[chosen],
            codes=self.codes.at(positions),
            z=self.z[chosen],
        )


class Measure(measures.Measure):
    """Moves latents and changes tokens, and looks at how they lie."""

    def columns(self, outcome: Outcome) -> Mapping[Key, Column]:
        """Give each metric and its levels, and what totals are made of; a picture that fails has its reason."""
        bottleneck = self.context.bottleneck
        if bottleneck is None or bottleneck.closed:
            return {}
        seen = Seen.of(bottleneck, outcome, self.context.device)
        found: Columns = {}
        for probe in dict.fromkeys(str(metric.options["of"]) for metric in self.metrics if "of" in metric.options):
            names = [metric.name for metric in self.metrics if metric.options.get("of") == probe]
            with devices.exact():
                found |= each(_PROBES[probe], names, seen)
        return found

    def scores(self, table: Table) -> dict[str, Score]:
        """Average what each picture has; totals have an interval by a jackknife."""
        closed = self.context.bottleneck.closed if self.context.bottleneck else None
        found: dict[str, Score] = {}
        for metric in self.metrics:
            if closed:
                found[metric.name] = Score.missing(closed, table.expected)
            elif total := metric.options.get("total"):
                found[metric.name] = _score(metric, table, *_TOTALS[str(total)])
            else:
                found |= means(metric, table)
        return found


def each(probe: Callable[[Seen, Columns], None], names: list[str], seen: Seen) -> Columns:
    """Run a probe on the batch, as `measures.each` does."""
    return measures.each(lambda rows, found: probe(seen.at(rows), found), names, range(len(seen.ids)))


def _score(metric: Metric, table: Table, key: Key, total: Callable[[Array], float]) -> Score:
    rows = list(table.arrays(key))
    if len(rows) < 2:
        reason = table.reason(metric.name) if not rows else f"{metric.title} needs two pictures or more"
        return Score.missing(reason, table.expected, scored=len(rows))
    features = np.stack(rows)
    value = total(features)
    if math.isnan(value):
        return Score.missing("it is not a number", table.expected, scored=len(rows))
    ends = jackknife_interval(lambda places: total(features[places]), len(rows)) or (None, None)
    return Score(value=value, low=ends[0], high=ends[1], scored=len(rows), expected=table.expected)


# --- probes: what a batch gives -----------------------------------------------------------------------------------


def _lpc(seen: Seen, found: Columns) -> None:
    total = torch.zeros(len(seen.ids), dtype=torch.float64)
    for rho, weight in zip(probes.RHOS, latents.lpc_weights(probes.RHOS), strict=True):
        moved = probes.lpc(seen.decode, seen.z, seen.ids, seen.distance, rhos=(rho,), plain=seen.plain).cpu()
        found[Key("lpc", f"{rho:g}")] = moved.tolist()
        total += weight * moved
    found[Key("lpc")] = total.tolist()


def _tokens(seen: Seen, found: Columns) -> None:
    changes = seen.bottleneck.changes
    if changes is None:
        raise DataError(MUTE if seen.codes.indices else NO_CODES)
    own, other = ("token_rise", "digit_rise") if changes == "codes" else ("digit_rise", "token_rise")
    found[Key(other)] = [Missing(OTHER_KIND["digits" if other == "digit_rise" else "codes"])] * len(seen.ids)
    before = seen.distance(seen.plain, seen.pictures).cpu()
    for rate, codes in zip(RATES, changed(seen, RATES), strict=True):
        rise = (seen.distance(seen.decode(codes), seen.pictures).cpu() - before).tolist()
        found[Key(own, f"{rate:g}")] = rise
        if rate == RATES[1]:
            found[Key(own)] = rise


def changed(seen: Seen, rates: tuple[float, ...]) -> list[Codes]:
    """Change a share of the tokens, at every rate those of the lower ones and more.

    Raises:
        DataError: if the network does not say which other codes there are.
    """
    digits = seen.bottleneck.changes == "digits"
    count = 2 if digits else max(2, round(NEAREST * max(seen.codes.codebook_sizes)))
    offered = seen.bottleneck.candidates(seen.pictures, min(count, *seen.codes.codebook_sizes))
    if not offered:
        raise DataError(MUTE)
    found = []
    for rate in rates:
        parts = []
        for scale, (own, other) in enumerate(zip(seen.codes.indices, offered, strict=True)):
            coins, ranks = [], []
            for name in seen.ids:
                random = probes.generator(name, f"tokens {scale}")
                coins.append(random.random(own.shape[1:]))
                ranks.append(random.integers(0, other.shape[-1], own.shape[1:]))
            rank = torch.from_numpy(np.stack(ranks)).to(own.device)
            if digits:
                rank = torch.ones_like(rank)  # the changed digit; of codes the own one is among the drawn
            drawn = other.gather(-1, rank[..., None])[..., 0]
            kept = torch.from_numpy(np.stack(coins)).to(own.device) > rate
            parts.append(torch.where(kept | (rank == 0), own, drawn))
        found.append(replace(seen.codes, indices=tuple(parts)))
    return found


def _moved(seen: Seen, found: Columns, name: str, transforms: Mapping[str, tuple[float, int]]) -> None:
    """Both of the equivariances: each transform is a level, their mean the value where all of them can be had."""
    if any(side % seen.bottleneck.tokenizer.card.input.multiple_of for side in seen.size):
        raise DataError("its pictures are padded, and what was added would move too")
    total, refused = torch.zeros(len(seen.ids), dtype=torch.float64), ""
    for level, (scale, turns) in transforms.items():
        try:
            rise = probes.moved_rise(
                functools.partial(seen.decode, scale=scale, turns=turns),
                *(seen.pictures, seen.plain, seen.grid, seen.distance),
                scale=scale,
                turns=turns,
            ).cpu()
        except DataError as error:
            refused = refused or str(error)
            continue
        found[Key(name, level)] = rise.tolist()
        total += rise / len(transforms)
    if refused:
        raise DataError(refused)
    found[Key(name)] = total.tolist()


def _scaled(seen: Seen, found: Columns) -> None:
    seen.bottleneck.check_any_size()
    _moved(seen, found, "scale_rise", {f"{s:g}": (s, k) for s, k in probes.TRANSFORMS if k == 0})


def _turned(seen: Seen, found: Columns) -> None:
    _moved(seen, found, "turn_rise", {str(90 * k): (s, k) for s, k in probes.TRANSFORMS if k})


def _spectrum(seen: Seen, found: Columns) -> None:
    z = seen.grid.double()
    # Rings hold 1e-8 a coefficient at least, so those of nothing would be white noise's.
    flat = (z.amax((-2, -1)) == z.amin((-2, -1))).all(1).tolist()
    mean, deviation = z.mean((-2, -1), keepdim=True), z.std((-2, -1), keepdim=True, correction=0)
    z = (z - mean) / torch.where(deviation > 0, deviation, 1.0)  # of the picture, so that no other one moves its value
    taps, sigma = _BLUR[seen.size[0] >= 16 * z.shape[-2]]
    x = images.to_float(seen.pictures)
    each = [
        latents.spectrum_match(x[i : i + 1], z[i : i + 1], blur_kernel=taps, blur_sigma=sigma)
        for i in range(len(seen.ids))
    ]
    shares = torch.cat([torch.as_tensor(one["latent_share"]) for one in each])
    high = shares[:, shares.shape[1] // 2 :].sum(1).tolist()
    for name, values in (("spectrum_kl", [float(one["kl"]) for one in each]), ("spectrum_high", high)):
        found[Key(name)] = [Missing(FLAT) if none else value for none, value in zip(flat, values, strict=True)]


def _blocks(seen: Seen, found: Columns) -> None:
    found[BLOCKS] = [
        amplitude.flatten().cpu().numpy() for amplitude in latents.block_amplitudes(seen.grid, block=BLOCK)
    ]


def _structure(seen: Seen, found: Columns) -> None:
    for center in (False, True):
        tokens = probes.grid_tokens(seen.grid, center=center)
        for name, function in (("lds", latents.lds), ("cds", latents.cds), ("rmsc", latents.rmsc)):
            values = function(tokens, height=probes.SIDE, width=probes.SIDE).tolist()
            found[Key(f"{name}_centred" if center else name)] = values


def pooled(z: Tensor) -> Tensor:
    """Mean of each channel over the places of a latent: float64, (B, C).

    Raises:
        DataError: if the latent has a value that is not finite, which would void what is made of all pictures.
    """
    found = z.double().mean((-2, -1) if z.ndim == 4 else 1)
    if not torch.isfinite(found).all():
        raise DataError(NOT_FINITE)
    return found


def _pooled(seen: Seen, found: Columns) -> None:
    found[POOLED] = list(pooled(seen.z).cpu().numpy())


_PROBES: Mapping[str, Callable[[Seen, Columns], None]] = {
    "lpc": _lpc,
    "tokens": _tokens,
    "scales": _scaled,
    "turns": _turned,
    "spectrum": _spectrum,
    "blocks": _blocks,
    "structure": _structure,
    "pooled": _pooled,
}


# --- totals: what all pictures together give ----------------------------------------------------------------------


def _block_high(amplitudes: Array) -> float:
    """Mean over channels and the later half of the coefficients, in zigzag order, of means over pictures."""
    means = amplitudes.mean(0).reshape(-1, BLOCK * BLOCK)
    means = means[means[:, 0] > 0]
    return float((means[:, BLOCK * BLOCK // 2 :] / means[:, :1]).mean()) if len(means) else math.nan


_TOTALS: Mapping[str, tuple[Key, Callable[[Array], float]]] = {
    "block_high": (BLOCKS, _block_high),
    "effective_rank": (POOLED, latents.effective_rank),
}
