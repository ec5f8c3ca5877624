"""A Task: the card that says what is scored, bound to the source that has the pictures."""

from __future__ import annotations

import re
from pathlib import Path

from vtbench import cards as card_files
from vtbench.cards import Data, TaskCard
from vtbench.data import Source, hub, open_place, open_source, tokbench
from vtbench.errors import DataError
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

    def __init__(self, card: TaskCard, source: Source, *, native: bool = False) -> None:
        self.card = card
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

    def sample_id(self, index: int) -> str:
        """Return the id of one picture, known without reading it."""
        return self.source.sample_id(index)

    def read(self, index: int) -> Sample:
        """Read one picture; several threads may do so at once.

        Raises:
            DataError: with the reason, where this one can't be had.
        """
        sample = self.source.read(index)
        if self.size is not None and not self.native and tuple(sample.image.shape) != (3, *self.size):
            found = tuple(sample.image.shape)
            raise DataError(f"{sample.id}: the source gave {found}, the task has (3, {self.size[0]}, {self.size[1]})")
        return sample


def load_task(
    name: str | TaskCard, *, data: str | Path | None = None, cards: Path | None = None, native: bool = False
) -> Task:
    """Load a task by its name.

    Args:
        name: a card's exact name, or a card.
        data: pictures of the user's in place of the task's own: a folder, a .tar, .tar.gz or .zip archive, a .parquet
            file, or hub:OWNER/NAME[/CONFIG][@REVISION][:SPLIT]. The task is then called `<name>@<data>`, so that
            results on other pictures never share a table with its own; where the card says how its own data is had,
            and these are as many pictures, they are taken for a copy of it and the name stays.
        cards: a further folder of cards.
        native: read pictures as they are, for published protocols, which bring them to the card's size by rules of
            their own. Embedded pictures are those of the card's size.

    Raises:
        CardError: if there is no such task.
        DataError: if its pictures can't be opened, or the task needs known text and the data has none.
    """
    card = card_files.find_task(name, cards) if isinstance(name, str) else name
    native = native or card.protocol != "canonical"
    if data is not None:
        return _with_data(card, data, native)
    if card.data.source == "folder":
        raise DataError(_to_obtain(card))
    side, crop = card.geometry.side, str(card.geometry.crop)
    if native and not _embedded(card):
        side, crop = None, "plain"
    return Task(card, open_source(card.data.source, size=side, crop=crop, data=card.data), native=native)


def is_here(card: TaskCard) -> bool:
    """Tell whether a task's own pictures are on this machine; touches no network."""
    if card.data.source in ("hub", "tokbench"):
        return hub.is_here(card.data, patterns=_files(card))
    return card.data.source not in ("folder", "archive")


def fetch(card: TaskCard) -> str:
    """Bring a task's pictures from the hub where they are not on this machine, and say where they are.

    Raises:
        DataError: if they can't be had, or only by hand; the message says how.
    """
    if card.data.source in ("hub", "tokbench"):
        folder, revision = hub.bring(card.data, patterns=_files(card))
        return f"{folder} (revision {revision})"
    if not is_here(card):
        raise DataError(_to_obtain(card))
    return "its pictures come with vtbench"


def _files(card: TaskCard) -> tuple[str, ...] | None:
    return tokbench.FILES if card.data.source == "tokbench" else None


def _to_obtain(card: TaskCard) -> str:
    how = card.data.obtain or "Name the folder or archive of your pictures with --data."
    expected = f", {card.data.images} of them," if card.data.images else ""
    return f"{card.name}: its pictures{expected} do not come with vtbench. {' '.join(how.split())}"


def _embedded(card: TaskCard) -> bool:
    return card.data.source == "sample" or card.data.source.endswith("_chart")


def _with_data(card: TaskCard, data: str | Path, native: bool) -> Task:
    """Put pictures of the user's in place of a task's own, and score what can be scored on them."""
    reads = any(metric in (*IN_BOXES, *IN_BOXES.values()) for metric in card.metrics)
    if reads and card.geometry.side is not None:
        # A crop would cut text off, and what is cut off can't be read.
        card = card.model_copy(update={"geometry": card.geometry.model_copy(update={"crop": "letterbox"})})
    geometry = card.geometry.model_copy(update={"size": "native", "crop": "plain"}) if native else card.geometry
    source = open_place(data, geometry=geometry, data=card.data)
    if reads:
        known = getattr(source, "text", "none")
        if known == "none":
            raise DataError(
                f"{card.name} compares with known text, and {data} has none; put a metadata.csv with the columns "
                "file_name and text beside the pictures, or use --data with a reconstruction task"
            )
        if known == "page":
            metrics = dict.fromkeys(found for metric in card.metrics if (found := IN_BOXES.get(metric, metric)))
            primary = IN_BOXES.get(card.primary, card.primary) or "cer_page"
            card = card.model_copy(update={"metrics": tuple(metrics), "primary": primary})
    if card.data.obtain and card.data.images == len(source):
        return Task(card, source, native=native)
    kind = type(source).__module__.rsplit(".", 1)[-1]
    grouped = tuple(name for name in card.group_by if name in getattr(source, "attributes", ()))
    update: dict[str, object] = {"name": f"{card.name}@{_label(data)}", "data": Data(source=kind)}
    return Task(card.model_copy(update=update | {"group_by": grouped}), source, native=native)


def _label(data: str | Path) -> str:
    said = str(data)
    if said.startswith("hub:"):
        said = said.removeprefix("hub:")
    else:
        said = re.sub(r"\.(tar|tgz|tar\.gz|zip|parquet)$", "", Path(said).resolve().name, flags=re.IGNORECASE)
    return re.sub(r"[^a-z0-9.-]+", "-", said.lower()).strip("-.") or "data"
