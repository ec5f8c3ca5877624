"""Diagnostics of a latent space that need thousands of pictures: iFID, pFID, label purity, token gain, CKNNA.

Of pictures that are compared as two sets the odd ones are the second. All draws belong to a picture's id.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vtbench import device as devices
from vtbench import measures
from vtbench.backbones import foundation
from vtbench.errors import DataError, NoMemoryError, VtbenchError
from vtbench.measures import Column, Columns, Outcome, Table, function
from vtbench.measures.latents import NO_CODES, RATES, Seen, changed, each, pooled
from vtbench.measures.sets import INCEPTION
from vtbench.metrics import latents
from vtbench.metrics.frechet import frechet_distance
from vtbench.metrics.latents import probes
from vtbench.results import Score
from vtbench.statistics import jackknife_interval
from vtbench.types import Key

Array = np.ndarray[Any, Any]

NEIGHBOURS = 10
"""k of iFID and of CKNNA."""

CLIP = 0.95
"""Quantile to which features are clipped before CKNNA, as published."""

MOVED = "turned and scaled"

CHANGES = (MOVED, *(f"noise {level:g}" for level in (0.05, 0.1, 0.15, 0.2)))
"""What SE-CKNNA shows of every picture."""

LABELS = ("class", "label")
"""Attributes that may say what is on a picture; else the folder that it lies in."""

AT_ONCE = 8
"""Pictures that are decoded together where all of them are here."""

POOLED, LATENT, SHAPE = (Key("latent_sets", name, "raw") for name in ("pooled", "latent", "shape"))
SEEN = Key("latent_sets", "foundation", "raw")

REFERENCE = Key("features", f"{INCEPTION.replace(':', '.')}/reference", "raw")
"""Inception's features of the originals, which the measure `sets` keeps."""


class Measure(measures.Measure):
    """Keeps of every picture what the totals are made of."""

    _features: foundation.Features | None = None

    @functools.cached_property
    def _inception(self) -> Callable[[Tensor], Array]:
        network: Callable[[Tensor], Array] = function(INCEPTION)(self.context.device)
        return network

    def columns(self, outcome: Outcome) -> Mapping[Key, Column]:
        """Give what totals are made of; nothing has a value of its own."""
        bottleneck = self.context.bottleneck
        if bottleneck is None or bottleneck.closed:
            return {}
        seen = Seen.of(bottleneck, outcome, self.context.device)
        probes_: Mapping[str, Callable[[Seen, Columns], None]] = {
            "ifid": self._latent,
            "pfid": self._perturbed,
            "purity": self._pooled,
            "cknna": self._foundation,
        }
        found: Columns = {}
        for name, probe in probes_.items():
            if name in self.names:
                found |= each(probe, [name], seen)
        if {"cknna_se", "cknna_change"} & {*self.names} and not self._is_file:
            found |= each(self._changed, ["cknna_se"], seen)
        return found

    @property
    def _is_file(self) -> bool:
        return self.context.foundation.endswith(".npz")

    def _latent(self, seen: Seen, found: Columns) -> None:
        pooled(seen.z)  # refuses what would void all distances
        found[LATENT] = list(seen.z.float().flatten(1).cpu().numpy())
        found[SHAPE] = [np.array(seen.z.shape[1:])] * len(seen.ids)

    def _pooled(self, seen: Seen, found: Columns) -> None:
        found[POOLED] = list(pooled(seen.z).cpu().numpy())

    def _perturbed(self, seen: Seen, found: Columns) -> None:
        if seen.bottleneck.changes is None:
            raise DataError(NO_CODES)
        for rate, codes in zip(RATES, changed(seen, RATES), strict=True):
            found[Key("pfid", f"{rate:g}", "raw")] = list(self._inception(seen.decode(codes)))

    def _foundation(self, seen: Seen, found: Columns) -> None:
        self._pooled(seen, found)
        place = self.context.foundation
        if not self._is_file:
            model = foundation.load(place, self.context.device)
            found[SEEN] = list(model.features(seen.pictures).cpu().numpy())
            return
        if self._features is None:
            try:
                self._features = foundation.read(place)
            except DataError as error:  # wrong for every picture, and the user's to mend
                raise VtbenchError(str(error)) from error
        rows = self._features.rows
        if lacking := next((name for name in seen.ids if name not in rows), None):
            raise DataError(f"the file of features has no picture {lacking}")
        found[SEEN] = [rows[name] for name in seen.ids]

    def _changed(self, seen: Seen, found: Columns) -> None:
        """Show tokenizer and foundation model the same changed pictures: of each all changes, or none of them."""
        seen.bottleneck.check_any_size()  # whatever is drawn: pictures whose scale is 1 are another set than all
        columns = [self._shown(change, seen) for change in CHANGES]
        found |= {key: column for part in columns for key, column in part.items()}

    def _shown(self, change: str, seen: Seen) -> Columns:
        """Make one change to each picture by itself."""
        model = foundation.load(self.context.foundation, self.context.device)
        sides: tuple[list[Array], list[Array]] = ([], [])
        for name, picture in zip(seen.ids, seen.pictures, strict=True):
            scale, altered = 1.0, _altered(picture, name, change)
            if change == MOVED:
                turn, scale = latents.se_transforms(1, seed=_number(name))[0]
                altered = latents.se_levels(picture.permute(1, 2, 0), turn, scale)
            z = seen.bottleneck.latent(seen.bottleneck.tokenizer.encode(altered[None]))
            sides[0].append(pooled(z)[0].cpu().numpy())
            sides[1].append(model.features(altered[None], scale=scale)[0].cpu().numpy())
        return dict(zip(_sides(change), sides, strict=True))

    def scores(self, table: Table) -> dict[str, Score]:
        """Make each value of all pictures together."""
        bottleneck = self.context.bottleneck
        closed = bottleneck.closed if bottleneck else None
        ways: Mapping[str, Callable[[Table], dict[str, Score]]] = {
            "ifid": self._ifid,
            "pfid": self._pfid,
            "purity": self._purity,
            "token_gain": self._gain,
            "cknna": self._cknna,
            "cknna_se": self._cknna_se,
            "cknna_change": lambda table: {},
        }
        found: dict[str, Score] = {}
        for metric in self.metrics:
            if closed and (metric.name != "token_gain" or self.context.kind != "discrete"):  # its codes are seen
                found[metric.name] = Score.missing(closed, table.expected)
                continue
            try:
                with devices.exact():
                    found |= ways[metric.name](table)
            except DataError as error:
                found[metric.name] = Score.missing(str(error), table.expected)
        if "cknna_change" in self.names and not closed:
            found["cknna_change"] = self._change(found, table)
        return found

    def _ifid(self, table: Table) -> dict[str, Score]:
        places, (flat, shapes, features) = table.together(LATENT, SHAPE, REFERENCE)
        self._check("ifid", len(places), table, 2 * (NEIGHBOURS + 1))
        bottleneck = self.context.bottleneck
        assert bottleneck is not None
        names = [str(name) for name in table.values(Key("id"))]
        asked, others = np.arange(0, len(places), 2), np.arange(1, len(places), 2)
        z = torch.from_numpy(flat)
        nearest, weights = latents.interpolation_partners(z[asked], z[others], k=NEIGHBOURS)
        shares = weights.cumsum(1)
        size = (self.context.side, self.context.side)
        tokenizer = bottleneck.tokenizer
        made = []
        done, most = 0, AT_ONCE
        while done < len(asked):
            part = range(done, min(done + most, len(asked)))
            drawn = []
            for row in part:
                coin = probes.generator(names[places[asked[row]]], "partner").random()
                rank = min(int((shares[row] <= coin).sum()), NEIGHBOURS - 1)
                drawn.append(others[int(nearest[row, rank])])
            pair = z[asked[part.start : part.stop]], z[np.array(drawn)]
            between = latents.slerp(*pair, 0.5).view(len(part), *shapes[0].tolist())
            try:
                with devices.memory():
                    # Latents are kept as float32, whatever the network's type.
                    given = between.to(tokenizer.device, tokenizer.dtype)
                    pictures, reasons = bottleneck.decode(given, size)  # type: ignore[arg-type]
                    if reason := next((one for one in reasons if one), None):
                        raise DataError(reason)
                    made.append(self._inception(pictures.to(self.context.device)))
            except NoMemoryError:
                if len(part) == 1:
                    raise
                most = len(part) // 2
                continue
            done = part.stop
        value = frechet_distance(features[asked], np.concatenate(made))
        return {"ifid": Score(value=float(value), scored=len(asked), expected=table.expected)}

    def _pfid(self, table: Table) -> dict[str, Score]:
        found = {}
        for rate in RATES:
            places, (features, made) = table.together(REFERENCE, Key("pfid", f"{rate:g}", "raw"))
            self._check("pfid", len(places), table)
            value = float(frechet_distance(features, made))
            found[f"pfid/{rate:g}"] = Score(value=value, scored=len(places), expected=table.expected)
        return {"pfid": found[f"pfid/{RATES[1]:g}"], **found}

    def _purity(self, table: Table) -> dict[str, Score]:
        said = _labels(table)
        places, (features,) = table.together(POOLED)
        self._check("purity", len(places), table)
        known = {label: number for number, label in enumerate(dict.fromkeys(said))}
        labels = np.array([known[said[place]] for place in places])
        return {"purity": _total(lambda at: latents.label_purity(features[at], labels[at]), len(places), table)}

    def _gain(self, table: Table) -> dict[str, Score]:
        if self.context.kind != "discrete":
            raise DataError(NO_CODES)
        if self.context.indices_per_token > 1:
            raise DataError("its tokens have too many values to be counted, and come in several indices")
        levels = _finest(table)
        places, maps = table.together(*(Key("codes", level, "raw") for level in levels))
        self._check("token_gain", len(places), table, 4)
        if maps[0].shape[1] < 2:
            raise DataError("its pictures have one token each, and none before it")

        def gain(tokens: Array, size: int, at: Array) -> float:
            # By their places, so that leaving out pictures moves no other from one half to the other.
            fit, rest = tokens[at[at % 2 == 0]], tokens[at[at % 2 == 1]]
            # Both forms code the same tokens: those that have one before them.
            alone = latents.heldout_bits(fit, rest[:, 1:], size)
            return alone - latents.heldout_bits(fit, rest, size, context="previous")

        stated = self.context.codebook_sizes
        sizes = [
            stated[min(int(level), len(stated) - 1)] if stated else int(tokens.max()) + 1
            for level, tokens in zip(levels, maps, strict=True)
        ]

        def gains(at: Array) -> list[float]:
            return [gain(tokens, size, at) for tokens, size in zip(maps, sizes, strict=True)]

        found = {"token_gain": _total(lambda at: float(np.mean(gains(at))), len(places), table)}
        if len(levels) > 1:
            for level, value in zip(levels, gains(np.arange(len(places))), strict=True):
                found[f"token_gain/{level}"] = Score(value=value, scored=len(places), expected=table.expected)
        return found

    def _cknna(self, table: Table) -> dict[str, Score]:
        places, (mine, theirs) = table.together(POOLED, SEEN)
        value = self._aligned(mine, theirs, table, "cknna")
        null = NEIGHBOURS / len(places)
        return {
            "cknna": Score(value=value, scored=len(places), expected=table.expected),
            "cknna/null": Score(value=null, scored=len(places), expected=table.expected),
        }

    def _cknna_se(self, table: Table) -> dict[str, Score]:
        if self._is_file:
            raise DataError("a file of features knows no changed pictures; name a model with --features")
        found: dict[str, Score] = {}
        refused = ""
        for change in CHANGES:
            places, (mine, theirs) = table.together(*_sides(change))
            try:
                value = self._aligned(mine, theirs, table, "cknna_se")
            except DataError as error:
                refused = refused or str(error)
                continue
            found[f"cknna_se/{change}"] = Score(value=value, scored=len(places), expected=table.expected)
        if refused:
            return {"cknna_se": Score.missing(refused, table.expected), **found}
        mean = math.fsum(score.value or 0.0 for score in found.values()) / len(found)
        return {"cknna_se": Score(value=mean, scored=len(places), expected=table.expected), **found}

    def _change(self, found: Mapping[str, Score], table: Table) -> Score:
        """Compare with the clean value, of the pictures alone that could be changed."""
        clean, moved = (found.get(name) for name in ("cknna", "cknna_se"))
        if clean is None or moved is None or clean.value is None or moved.value is None:
            reasons = [score.reason for score in (moved, clean) if score and score.reason]
            return Score.missing(reasons[0] if reasons else "cknna and cknna_se are not measured", table.expected)
        before = clean.value
        if clean.scored != moved.scored:
            _, (mine, theirs, _) = table.together(POOLED, SEEN, _sides(MOVED)[0])
            try:
                with devices.exact():
                    before = self._aligned(mine, theirs, table, "cknna")
            except DataError as error:
                return Score.missing(str(error), table.expected)
        if before == 0:
            return Score.missing("CKNNA of the clean pictures is 0", table.expected)
        value = (moved.value - before) / abs(before)
        return Score(value=value, scored=moved.scored, expected=table.expected)

    def _aligned(self, mine: Array, theirs: Array, table: Table, name: str) -> float:
        self._check(name, len(mine), table, NEIGHBOURS + 2)
        value = latents.cknna(mine, theirs, k=NEIGHBOURS, clip=CLIP)
        if math.isnan(value):
            raise DataError("it is not a number: the self-similarities have a negative product")
        return value

    def _check(self, name: str, scored: int, table: Table, least: int = 2) -> None:
        """Refuse a metric for want of pictures that have all that it is made of.

        Raises:
            DataError: saying how many there are, and what the others lack.
        """
        metric = next(metric for metric in self.metrics if metric.name == name)
        reason = measures.too_few(metric, scored, table, least=least)
        if reason == measures.NO_PICTURE and name in ("ifid", "pfid"):
            raise DataError("it needs rfid's features of the originals: measure rfid beside it")
        if reason:
            raise DataError(reason)


def _sides(change: str) -> tuple[Key, Key]:
    """The columns of changed pictures, as the tokenizer and as the foundation model see them."""
    latent, model = (Key("cknna_se", f"{change}, {side}", "raw") for side in ("latent", "foundation"))
    return latent, model


def _altered(picture: Tensor, name: str, change: str) -> Tensor:
    """Add the noise that belongs to a picture, or none."""
    if change == MOVED:
        return picture
    level = float(change.removeprefix("noise "))
    return latents.se_noise(picture.permute(1, 2, 0), level, index=0, seed=_number(name)).permute(2, 0, 1)


def _number(name: str) -> int:
    """The number of a picture for its draws; published code counts the pictures, here it follows from the id."""
    return int.from_bytes(hashlib.sha256(f"se:{name}".encode()).digest()[:4], "little")


def _labels(table: Table) -> list[str]:
    for name in LABELS:
        said = table.attribute(name)
        if said and not {None, ""}.intersection(said):  # an empty cell is none, as of a document
            return [str(label) for label in said]
    folders = [str(name).rpartition("/")[0] for name in table.values(Key("id"))]
    if all(folders) and len(set(folders)) > 1:
        return folders
    raise DataError("labels are not known: a column `class` of metadata.csv, or a folder a class, says them")


def _finest(table: Table) -> list[str]:
    """Name the maps of codes of the most tokens: one scale, or all codebooks of which each position has an index."""
    levels = sorted(table.levels("codes", "raw"), key=int)
    counts = [len(next(table.arrays(Key("codes", level, "raw")), ())) for level in levels]
    return [level for level, count in zip(levels, counts, strict=True) if count == max(counts)]


def _total(value: Callable[[Array], float], count: int, table: Table) -> Score:
    ends = jackknife_interval(value, count) or (None, None)
    return Score(value=value(np.arange(count)), low=ends[0], high=ends[1], scored=count, expected=table.expected)
