"""A Task: the card that says what is scored, bound to the source that has the pictures."""

from __future__ import annotations

import re
from pathlib import Path

from vtbench import cards as card_files
from vtbench.cards import Data, TaskCard
from vtbench.data import Source, open_source
from vtbench.errors import DataError
from vtbench.types import Sample


class Task:
    """A fixed list of pictures at one size, with the metrics that score them."""

    def __init__(self, card: TaskCard, source: Source) -> None:
        self.card = card
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of every picture."""
        return self.card.geometry.size, self.card.geometry.size

    @property
    def digest(self) -> str:
        """sha256 of what defines the pictures."""
        return self.source.digest

    def sample_id(self, index: int) -> str:
        """Return the id of one picture, known without reading it."""
        return self.source.sample_id(index)

    def read(self, index: int) -> Sample:
        """Read one picture.

        Raises:
            DataError: with the reason, where this one can't be had.
        """
        sample = self.source.read(index)
        if tuple(sample.image.shape) != (3, *self.size):
            found = tuple(sample.image.shape)
            raise DataError(f"{sample.id}: the source gave {found}, the task has (3, {self.size[0]}, {self.size[1]})")
        return sample


def load_task(name: str | TaskCard, *, data: Path | None = None, cards: Path | None = None) -> Task:
    """Load a task by its name.

    Args:
        name: a card's exact name, or a card.
        data: a folder with pictures of the user's in place of the task's own; the task is then called
            `<name>@<folder>`, so that results on other pictures never share a table with its own.
        cards: a further folder of cards.

    Raises:
        CardError: if there is no such task.
        DataError: if its pictures can't be opened, or the task needs known text and a plain folder has none.
    """
    card = card_files.find_task(name, cards) if isinstance(name, str) else name
    if data is not None:
        if card.family == "text":
            raise DataError(
                f"{card.name} compares with known text, and a folder of pictures has none; "
                "use --data with a reconstruction task"
            )
        label = re.sub(r"[^a-z0-9.-]+", "-", data.resolve().name.lower()).strip("-.") or "data"
        card = card.model_copy(
            update={"name": f"{card.name}@{label}", "data": Data(source="folder"), "group_by": None},
        )
    return Task(card, open_source(card.data.source, size=card.geometry.size, path=data))
