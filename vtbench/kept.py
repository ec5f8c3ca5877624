"""Kept pictures: originals and reconstructions of a run, lossless, beside its per-image table (`--keep-pictures`).

`<work>/<task>/<run>/pictures/` holds `<index>.original.webp` and `<index>.webp`, and `kept.json`, which says of which
plan and table they are. Importing this module loads no torch; `keep` does.
"""

from __future__ import annotations

import io
import logging
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, ValidationError

from vtbench import files, folders, results
from vtbench.catalogue import find_metric
from vtbench.errors import DataError, ResultError
from vtbench.results import Run
from vtbench.types import Strict

if TYPE_CHECKING:
    import pandas

    from vtbench.task import Task
    from vtbench.tokenizer import Tokenizer

log = logging.getLogger("vtbench")

FOLDER = "pictures"
INDEX = "kept.json"

TOLERANCE = 0.05
"""dB by which a picture decoded again may differ from the PSNR in the table: another batch rounds otherwise."""


class KeptPicture(Strict):
    """One picture of which original and reconstruction are kept."""

    index: int = Field(ge=0)
    """Its place in the task, by which its files are named."""
    id: str
    text: tuple[str, ...] = ()
    """The known lines on it, where the task has such."""

    @property
    def original(self) -> str:
        """The file name of the original."""
        return f"{self.index:06d}.original.webp"

    @property
    def reconstruction(self) -> str:
        """The file name of the reconstruction."""
        return f"{self.index:06d}.webp"


class Kept(Strict):
    """What is kept of a run."""

    plan: str | None = None
    """sha256 of what decided the run's numbers: equal tables may be of other pictures."""
    table: str
    """sha256 of the per-image table that they belong to."""
    pictures: tuple[KeptPicture, ...]


@dataclass(frozen=True)
class Wish:
    """Which pictures are kept."""

    worst: int | None
    """So many of the worst by the metric that ranks, and the median and the best; None keeps all."""


def parse(text: str) -> Wish:
    """Read `worst:N` or `all`.

    Raises:
        ResultError: if it is neither.
    """
    if text == "all":
        return Wish(None)
    if found := re.fullmatch(r"worst:([1-9][0-9]{0,6})", text):
        return Wish(int(found[1]))
    raise ResultError(f"--keep-pictures {text}: expected all, or worst:N with a whole number from 1, such as worst:8")


def read(folder: Path, run: Run) -> tuple[KeptPicture, ...]:
    """Say what is kept of a run; nothing where its plan or its table has changed since.

    Args:
        folder: the run's folder in the work folder.
        run: whose plan and table the pictures must be of.

    Raises:
        ResultError: if the list is damaged.
    """
    path = folder / FOLDER / INDEX
    if not path.is_file():
        return ()
    try:
        found = Kept.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ResultError(f"{path}: not a list of kept pictures; delete it and run again") from error
    own = run.digests.get("plan"), run.digests.get("table")
    return found.pictures if (found.plan, found.table) == own else ()


def by_badness(table: pandas.DataFrame, metric: str) -> list[int]:
    """Order the rows that have a value of a metric, worst first; equal ones as they stand."""
    badness = find_metric(metric).badness
    known = [(-badness(float(value)), row) for row, value in enumerate(table[metric]) if not math.isnan(value)]
    return [row for _, row in sorted(known)]


def ranking_column(run: Run, columns: Iterable[str]) -> str | None:
    """Name the metric by which single pictures of a run are ordered: the one that ranks, else the first with values."""
    known = set(columns)
    return next((name for name in (run.primary, *run.scores) if name in known), None)


def best_median_worst(rows: Sequence[int]) -> list[int]:
    """Pick three of rows that are ordered worst first."""
    return list(dict.fromkeys((rows[-1], rows[len(rows) // 2], rows[0]))) if rows else []


def keep(
    tokenizer: Tokenizer, task: Task, run: Run, folder: Path, wish: Wish, *, wait: float, anew: bool = False
) -> None:
    """Decode chosen pictures of a finished run again and write them losslessly into its folder.

    Args:
        tokenizer: the one that made the run.
        task: the one that the run is of.
        run: as `evaluate` returned it.
        folder: the run's folder in the work folder.
        wish: which pictures.
        wait: seconds to wait for another process that writes into the folder.
        anew: whether those that are kept already are decoded and written again.

    Raises:
        ResultError: if the table is missing, the folder can't be written or another process still writes into it.
    """
    if run.protocol != results.CANONICAL:
        log.warning("%s on %s: no pictures are kept of a published protocol's run", run.name, run.task)
        return
    with folders.owned(folder, wait):
        table = _table(folder)
        wanted = _wanted(table, run, wish)
        if not anew and _are_there(wanted, run, folder):
            return
        place = folder / FOLDER
        (place / INDEX).unlink(missing_ok=True)  # first: whatever ends this process, no list names what is gone
        for old in place.glob("*.webp"):
            old.unlink(missing_ok=True)
        kept = [picture for index in wanted if (picture := _keep_one(tokenizer, task, index, table, place)) is not None]
        said = Kept(plan=run.digests.get("plan"), table=str(run.digests["table"]), pictures=tuple(kept))
        files.write_atomic(place / INDEX, (said.model_dump_json(indent=1) + "\n").encode())


def are_kept(run: Run, folder: Path, wish: Wish) -> bool:
    """Tell whether `keep` would have nothing to do or to say; raises as it does."""
    return run.protocol == results.CANONICAL and _are_there(_wanted(_table(folder), run, wish), run, folder)


def _table(folder: Path) -> pandas.DataFrame:
    return results.read_images(results.find_run(folder, folder)[1])


def _wanted(table: pandas.DataFrame, run: Run, wish: Wish) -> list[int]:
    name = ranking_column(run, table.columns)
    if wish.worst is None or name is None:
        chosen = [row for row, reason in enumerate(table["reason"]) if not isinstance(reason, str)]
    else:
        rows = by_badness(table, name)
        chosen = list(dict.fromkeys((*rows[: wish.worst], *best_median_worst(rows))))
    return sorted(int(table["index"][row]) for row in chosen)


def _are_there(wanted: Iterable[int], run: Run, folder: Path) -> bool:
    place = folder / FOLDER
    there = {
        picture.index
        for picture in read(folder, run)
        if (place / picture.original).is_file() and (place / picture.reconstruction).is_file()
    }
    return set(wanted) <= there


def _keep_one(tokenizer: Tokenizer, task: Task, index: int, table: pandas.DataFrame, place: Path) -> KeptPicture | None:
    from vtbench import images
    from vtbench.metrics import psnr

    try:
        sample = task.read(index)
        original = sample.image[None]
        height, width = original.shape[-2:]
        again = tokenizer.decode(tokenizer.encode(original), (height, width)).cpu()
    except DataError as error:
        log.warning("%s: not kept: %s", task.sample_id(index), error)
        return None
    if "psnr" in table.columns:
        then, now = float(table["psnr"][table["index"] == index].iloc[0]), float(psnr(original, again)[0])
        if then != now and not abs(then - now) <= TOLERANCE:
            log.warning("%s: decoded again it has %.2f dB, the table says %.2f", sample.id, now, then)
    picture = KeptPicture(index=index, id=sample.id, text=tuple(line.text for line in sample.lines))
    for name, pixels in ((picture.original, original), (picture.reconstruction, again)):
        content = io.BytesIO()
        images.to_pil(pixels[0]).save(content, "webp", lossless=True, quality=100, method=4)
        files.write_atomic(place / name, content.getvalue())
    return picture
