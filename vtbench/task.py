"""A Task: the card that says what is scored, bound to the source that has the pictures."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from vtbench import cards as card_files
from vtbench import catalogue
from vtbench import data as sources
from vtbench.cards import Data, TaskCard
from vtbench.errors import DataError, VtbenchError
from vtbench.types import Sample

IN_BOXES = {
    "cer": "cer_page",
    "wer": "wer_page",
    "cer_micro": None,
    "ned": None,
    "word_accuracy": None,
    "legibility": None,
}
"""Metrics that read text in known boxes, and the like that find it on the page."""


class Task:
    """A fixed list of pictures at one size, with the metrics that score them."""

    def __init__(self, card: TaskCard, source: sources.Source, *, native: bool = False) -> None:
        self.card = card
        """What is scored and how: metrics, geometry, protocol."""
        self.source = source
        self.native = native
        """Whether pictures come as they are, for protocols that bring them to the task's size themselves."""

    def __len__(self) -> int:
        return len(self.source)

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of every picture; None where each keeps its own."""
        side = self.card.geometry.side
        return None if side is None else (side, side)

    @property
    def digest(self) -> str:
        """sha256 of what defines the pictures."""
        return self.source.digest

    @property
    def revision(self) -> str | None:
        """The commit of the data set that was really read; None where its source has no such."""
        return getattr(self.source, "revision", None)

    @property
    def found(self) -> int:
        """Picture files and files that were meant as pictures: those that are read and those passed over."""
        return len(self) + sum(self.passed_over.values())

    @property
    def passed_over(self) -> Mapping[str, int]:
        """Files that were meant as pictures and are not read: how many of each kind, the kind in plain words."""
        found: Mapping[str, int] = getattr(self.source, "passed_over", {})
        return found

    def sample_id(self, index: int) -> str:
        """Return the id of one picture, known without reading it."""
        return self.source.sample_id(index)

    def known_text(self) -> str:
        """Give all text that is known of the pictures; they are not read where their source says it without them."""
        said: str | None = getattr(self.source, "known_text", None)
        if said is not None:
            return said
        found: list[str] = []
        for index in range(len(self)):
            with contextlib.suppress(DataError):  # that picture's own row says so
                found += [line.text for line in self.source.read(index).lines]
        return "".join(found)

    def read(self, index: int) -> Sample:
        """Read one picture; several threads may do so at once.

        Raises:
            DataError: with the reason, where this one can't be had.
            ChangedError: if it is not what the digest was computed from, or has vanished since.
        """
        sample = self.source.read(index)
        if self.size is not None and not self.native and tuple(sample.image.shape) != (3, *self.size):
            found = tuple(sample.image.shape)
            raise DataError(f"{sample.id}: the source gave {found}, the task has (3, {self.size[0]}, {self.size[1]})")
        return sample


def load_task(
    name: str | TaskCard,
    *,
    data: str | Path | None = None,
    label: str | None = None,
    follow_links: bool = False,
    cards: Path | None = None,
    native: bool = False,
    metrics: Sequence[str] = (),
) -> Task:
    """Load a task by its name.

    Args:
        name: a card's exact name, or a card.
        data: pictures of the user's in place of the task's own: a folder, a .tar, .tar.gz or .zip archive, a .parquet
            file, several archives (`x-{000..009}.tar`, `x-*.tar`), or `hub:OWNER/NAME[/CONFIG][@REVISION][:SPLIT]`.
            The task is then called `<task>@<label>`, so that results on other pictures never share a table with its
            own; where the card says how its own data is had, these are as many pictures and no label is given, they
            are taken for a copy of it and the name stays.
        label: what stands behind the @: small letters, digits, points and dashes. Where left out, the place's name.
            (The `label` of `evaluate` names weights.)
        follow_links: also read what links that lead out of a folder point to; refused where `data` is no folder of
            picture files.
        cards: a further folder of cards.
        native: read pictures as they are, for published protocols, which bring them to the card's size by rules of
            their own. Embedded pictures are those of the card's size.
        metrics: of single pictures, measured beside the task's own, as `vtbench run --metric` has it.

    Raises:
        CardError: if there is no such task, or no such metric for any task.
        DataError: if its pictures can't be opened, or the task needs known text and the data has none; if the label
            is of another form, or names the task's own pictures.
    """
    card = card_files.find_task(name, cards) if isinstance(name, str) else name
    if isinstance(metrics, str):
        raise VtbenchError(f"metrics: got {metrics!r}; expected a list of names, such as [{metrics!r}]")
    if metrics:
        card = card.model_copy(update={"metrics": catalogue.with_more(card.metrics, metrics)})
    native = native or card.protocol != "canonical"
    if label is not None and not LABEL.fullmatch(label):
        raise DataError(f"label {label!r}: expected small letters, digits, points and dashes, such as my-photos")
    if data is None:
        if label is not None:
            raise DataError(f"label {label!r} names other pictures than {card.name}'s own; name them as well, by data")
        return Task(card, _own(card, native, follow_links), native=native)
    return _with_data(card, data, label, native, follow_links)


LABEL = re.compile(r"[a-z0-9][a-z0-9.-]*")


def is_here(card: TaskCard) -> bool:
    """Tell whether a task's own pictures are on this machine; touches no network."""
    return sources.is_here(card.data)


def fetch(card: TaskCard) -> str:
    """Bring a task's own pictures where they are not on this machine, and say where they are.

    Raises:
        DataError: if they can't be had, or only by hand; the message says how.
    """
    try:
        return sources.bring(card.data)
    except DataError as error:
        raise DataError(f"{card.name}: {error}") from error


def _reads(card: TaskCard) -> bool:
    """Whether known text is needed."""
    return any(metric in (*IN_BOXES, *IN_BOXES.values()) for metric in card.metrics)


def _own(card: TaskCard, native: bool, follow_links: bool) -> sources.Source:
    side, crop = card.geometry.side, str(card.geometry.crop)
    try:
        return sources.open_source(
            card.data.source,
            size=side,
            crop=crop,
            data=card.data,
            native=native,
            text=_reads(card),
            follow_links=follow_links,
        )
    except DataError as error:
        raise DataError(f"{card.name}: {error}") from error


def _with_data(card: TaskCard, data: str | Path, label: str | None, native: bool, follow_links: bool) -> Task:
    """Put pictures of the user's in place of a task's own, and score what can be scored on them."""
    reads = _reads(card)
    if reads and card.geometry.side is not None:
        # A crop would cut text off, and what is cut off can't be read.
        card = card.model_copy(update={"geometry": card.geometry.model_copy(update={"crop": "letterbox"})})
    source = sources.open_place(
        data, geometry=card.geometry, data=card.data, native=native, text=reads, follow_links=follow_links
    )
    if reads:
        known = getattr(source, "text", "none")
        if known == "none":
            columns = sorted(getattr(source, "attributes", ()))
            only = f" (it has {', '.join(columns[:8])})" if columns else ""
            raise DataError(
                f"{card.name} compares with known text, and {data} has none{only}; put a metadata.csv with the columns "
                "file_name and text beside the pictures, or use --data with a reconstruction task"
            )
        if known == "page":
            metrics = dict.fromkeys(found for metric in card.metrics if (found := IN_BOXES.get(metric, metric)))
            primary = IN_BOXES.get(card.primary, card.primary) or "cer_page"
            card = card.model_copy(update={"metrics": tuple(metrics), "primary": primary})
    if label is None and card.data.obtain and card.data.images == len(source):
        return Task(card, source, native=native)
    grouped = tuple(name for name in card.group_by if name in getattr(source, "attributes", ()))
    update: dict[str, object] = {
        "name": f"{card.name}@{label or sources.label_of(data)}",
        "data": Data(source=sources.source_of(data, card.data)),
        "group_by": grouped,
    }
    return Task(card.model_copy(update=update), source, native=native)
