"""Forward passes: pictures through the tokenizer, each batch once, as far as memory lasts.

Before the first one it is found out whether the decoder uses what its encoder left behind, and which batch is fastest.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vtbench import device as devices
from vtbench.errors import DataError, NoMemoryError
from vtbench.plan import SHARD, Plan
from vtbench.tokenizer import Tokenizer
from vtbench.types import Codes

log = logging.getLogger("vtbench")


@dataclass(frozen=True)
class Pass:
    """What one forward pass left of some pictures."""

    count: int
    codes: Codes
    decoded: Tensor
    """As the network gave it; in what `Passes.through` gives, of the type of what went in."""
    checks: Tensor
    """Whether pictures can be used, as `Tokenizer.flaws` takes it; nobody has waited for it."""
    marks: Sequence[devices.Mark]
    """Before the encoder, between the two, and after the decoder."""
    most: int
    """Pictures that a forward pass had room for."""

    def seconds(self) -> tuple[float, float]:
        """Give the seconds of a picture in the encoder and the decoder; waits for the device."""
        before, between, after = self.marks
        return devices.between(before, between) / self.count, devices.between(between, after) / self.count


@dataclass(frozen=True)
class Refused:
    """A picture that the network refused, or has no memory for."""

    reason: str
    count: int = 1


class Passes:
    """The tokenizer's forward passes: pictures of one window that are fed alike go through once."""

    def __init__(self, plan: Plan) -> None:
        self._tokenizer = plan.tokenizer
        self.most = plan.batch_size
        """Pictures that fit into one forward pass."""
        self._shared = False
        self._may_share = True
        self._known: list[tuple[Tensor, list[Pass | Refused]]] = []

    def begin(self, *, shared: bool) -> None:
        """Begin a window; keep its passes where several plans take it."""
        self._shared = shared and self._may_share
        self._known = []

    def through(self, pictures: Tensor) -> Iterator[tuple[Tensor, Pass] | Refused]:
        """Take pictures of one size, as a measure feeds them, through the tokenizer, as many at once as memory lasts.

        Where they don't go through at once, what is done waits in the CPU's memory, so that all of the device's is
        there for the next ones.

        Yields:
            What went in, where `Pass.decoded` is, and what came of it; or one picture that was refused.
        """
        name = self._tokenizer.card.name
        done = 0
        while done < len(pictures):
            part = pictures[done : done + self.most]
            try:
                with devices.memory():
                    found = self._finished(part, self._tokenizer.device if len(part) == len(pictures) else devices.CPU)
            except NoMemoryError:
                if self._known:
                    self._shared, self._may_share, self._known = False, False, []
                    log.warning("%s: out of memory; protocols share no forward pass from here on", name)
                    continue
                if len(part) > 1:
                    self.most = len(part) // 2
                    log.warning(
                        "%s: out of memory with %d pictures a forward pass; goes on with %d",
                        *(name, len(part), self.most),
                    )
                    continue
                size = f"{part.shape[-1]}x{part.shape[-2]}"
                found = [Refused(f"{name}: out of memory for {size} pixels")]
            done += len(part)
            while found:  # nothing of them is held here while the next ones go through
                yield found.pop(0)

    def _finished(self, pictures: Tensor, place: torch.device) -> list[tuple[Tensor, Pass] | Refused]:
        """Take one batch through, bring what came out to the type of what went in, and both to a device."""
        tokenizer = self._tokenizer
        finish = tokenizer.floats if pictures.is_floating_point() else tokenizer.levels
        found: list[tuple[Tensor, Pass] | Refused] = []
        done = 0
        for one in self._passed(pictures):
            if isinstance(one, Refused):
                found.append(one)
            else:
                latent = one.codes.latent
                # Indices are few; a latent may be as large as a picture.
                codes = one.codes if latent is None else replace(one.codes, latent=latent.to(place))
                went_in = devices.send(pictures[done : done + one.count], place)
                found.append((went_in, replace(one, codes=codes, decoded=finish(one.decoded).to(place))))
            done += one.count
        return found

    def _passed(self, pictures: Tensor) -> list[Pass | Refused]:
        """Take one batch through, unless an equal one went through in this window."""
        fed = self._tokenizer.input_of(devices.send(pictures, self._tokenizer.device))
        for known, found in self._known:
            if known.shape == fed.shape and known.dtype == fed.dtype and torch.equal(known, fed):
                return found
        found = self._tried(fed)
        if self._shared:
            self._known.append((fed, found))
        return found

    def _tried(self, fed: Tensor) -> list[Pass | Refused]:
        """Encode and decode one batch; where the network refuses it, each picture alone, to tell which one it was."""
        tokenizer, size = self._tokenizer, (fed.shape[-2], fed.shape[-1])
        marks = [devices.mark(tokenizer.device)]
        try:
            codes = tokenizer.encode_input(fed)
            marks.append(devices.mark(tokenizer.device))
            decoded, checks = tokenizer.decoded(codes, size)
            marks.append(devices.mark(tokenizer.device))
        except DataError as error:
            if len(fed) > 1:
                return [one for picture in fed[:, None] for one in self._tried(picture)]
            return [Refused(str(error))]
        return [Pass(len(fed), codes, decoded, checks, marks, self.most)]


# --- before the first batch -------------------------------------------------------------------------------------------


def prepare(plan: Plan) -> None:
    """Do once, before the first batch, what no picture's time should hold.

    Raises:
        DataError: if the decoder uses what its encoder left behind.
    """
    _check_bottleneck(plan)
    _warm_up(plan)


def _check_bottleneck(plan: Plan) -> None:
    """Find out a decoder that uses what its encoder left behind, on the first picture that goes through it.

    The picture is decoded once more from a copy of its codes, after an unrelated picture was encoded.

    Raises:
        DataError: if the two reconstructions differ.
    """
    tokenizer, feeder = plan.tokenizer, plan.measures[0]
    if tokenizer.card.kind in ("opaque", "understanding"):
        return
    for index in range(min(plan.count, SHARD)):
        try:
            with devices.memory():
                sample = plan.task.read(index)
                picture = feeder.feed(sample)[None]
                floats = picture.is_floating_point()
                size = (picture.shape[-2], picture.shape[-1])
                codes = tokenizer.encode_input(tokenizer.input_of(picture))
                first, reasons = tokenizer.attempt(codes, size, floats=floats)
                # Noise: no picture, however flat or even, is like it.
                random = torch.Generator().manual_seed(0)
                noise = torch.randint(0, 256, sample.image.shape, dtype=torch.uint8, generator=random)
                kept = codes.copied()
                tokenizer.encode_input(tokenizer.input_of(feeder.feed(replace(sample, image=noise))[None]))
                second, _ = tokenizer.attempt(kept, size, floats=floats)
        except DataError:  # said of each picture, where it belongs
            continue
        if reasons[0] is not None:
            continue
        bound = _FLOATS if floats else 1.0
        if _apart(first, second) > bound:
            if _apart(second, tokenizer.attempt(kept, size, floats=floats)[0]) > bound:
                raise DataError(
                    f"{tokenizer.card.name}: its decoder gives another picture for the same codes every time, so no "
                    "number could be repeated; let it draw from a generator that it seeds itself"
                )
            raise DataError(
                f"{tokenizer.card.name}: its decoder gives another picture for the same codes after another "
                "picture was encoded, so it uses what its encoder left behind; decode from the codes alone"
            )
        return


def _apart(first: Tensor, second: Tensor) -> float:
    return (first.double() - second.double()).abs().max().item()


_FLOATS = 0.01
"""How far apart two reconstructions of the same codes may be, where they are floats of about [-1, 1]; a level at most
of those in levels. So much another kernel may round otherwise."""


def _warm_up(plan: Plan) -> None:
    """Pay for first-call costs (allocation, kernel choice) outside the clock."""
    if plan.task.size is not None and plan.tokenizer.parameters and not plan.protocol.published:
        warm = torch.full((min(plan.batch_size, plan.count), 3, *plan.task.size), 128, dtype=torch.uint8)
        try:
            with devices.memory():
                codes = plan.tokenizer.encode(warm)
                plan.tokenizer.attempt(codes, plan.task.size)
        except DataError:  # said of each picture, where it belongs; memory that ends halves the first batch there
            return


LARGEST = {"cpu": 32, "cuda": 512}
"""Pictures a forward pass beyond which nothing is gained."""

TRIAL = 10.0
"""Seconds of a trial after which no larger batch is tried."""


def best_batch(tokenizer: Tokenizer, size: tuple[int, int]) -> int:
    """Find the batch that is fastest a picture: doubled as long as that saves a twentieth, and as memory lasts.

    Args:
        tokenizer: which.
        size: height and width of the pictures.
    """
    if not tokenizer.parameters:
        return SHARD
    best, fastest = 1, float("inf")
    count = 1
    while count <= LARGEST.get(tokenizer.device.type, 32):
        pictures = torch.full((count, 3, *size), 128, dtype=torch.uint8)
        try:
            with devices.memory():
                for _ in range(2):  # the first call of a size chooses kernels
                    devices.synchronise(tokenizer.device)
                    began = time.perf_counter()
                    tokenizer.attempt(tokenizer.encode(pictures), size)
                    devices.synchronise(tokenizer.device)
                    spent = time.perf_counter() - began
        except NoMemoryError:
            break
        if spent / count < 0.95 * fastest:
            best, fastest = count, spent / count
        elif count > 4 * best:
            break
        if spent > TRIAL:
            break
        count *= 2
    return best
