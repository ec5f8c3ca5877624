"""A contact sheet: originals and what tokenizers make of them, side by side, at their own pixels.

Importing this module loads no torch; `pick` and `of_tokenizers` do.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from PIL import Image, ImageChops, ImageDraw, ImageFont

from vtbench import kept, leaderboard, results
from vtbench.catalogue import find_metric, metrics
from vtbench.errors import DataError, ResultError
from vtbench.results import Run

if TYPE_CHECKING:
    import pandas
    from torch import Tensor

    from vtbench.task import Task
    from vtbench.tokenizer import Tokenizer
    from vtbench.types import Sample

log = logging.getLogger("vtbench")

GAP = 6
"""Pixels between two cells."""

LINE = 18
"""Pixels that a line of text takes."""

FONT = 13
"""Pixels of the letters."""

NARROWEST = 220
"""Pixels of a column at least: three scores fit under a tile."""

MOST = 16383
"""Pixels a side that a sheet may have: WebP holds no more."""

SCORES = ("psnr", "lpips")
"""What stands under a tile, beside the metric that orders runs."""


@dataclass(frozen=True)
class Tile:
    """One reconstruction."""

    picture: Image.Image
    scores: Mapping[str, float]
    """By metric, in the order in which they are shown; NaN where the picture has no value."""


@dataclass(frozen=True)
class Row:
    """One picture, and what is made of it."""

    id: str
    original: Image.Image
    tiles: tuple[Tile | None, ...]
    """One a column; None where it is not kept."""


@dataclass(frozen=True)
class Sheet:
    """What is drawn."""

    heads: tuple[str, ...]
    """What stands above the columns, without that of the originals."""
    rows: tuple[Row, ...]


def extent(sizes: Sequence[tuple[int, int]], columns: int, *, differences: bool) -> tuple[int, int]:
    """Say how large a sheet will be.

    Args:
        sizes: width and height of each row's picture.
        columns: how many stand beside the originals.
        differences: whether there is one below each reconstruction.

    Returns:
        Width and height in pixels.

    Raises:
        ResultError: if either is more than `MOST`.
    """
    across = (columns + 1) * (_cell(sizes) + GAP) + GAP
    down = LINE + GAP + sum(_height(height, differences) for _, height in sizes)
    if max(across, down) > MOST:
        raise ResultError(f"the sheet would have {across} x {down} pixels, a side has {MOST} at most; show fewer")
    return across, down


def draw(sheet: Sheet, gain: int | None = None) -> Image.Image:
    """Draw one row a picture and one column a tokenizer, the original first; every picture unscaled.

    Args:
        sheet: what is drawn.
        gain: times which the absolute difference from the original stands below each reconstruction; None for none.

    Returns:
        An RGB picture with the heads above the columns, each id under its original and scores under reconstructions.

    Raises:
        ResultError: if it would be too large.
    """
    sizes = [row.original.size for row in sheet.rows]
    drawn = Image.new("RGB", extent(sizes, len(sheet.heads), differences=gain is not None), "white")
    pen = ImageDraw.Draw(drawn)
    font = ImageFont.load_default(FONT)
    width = _cell(sizes)

    def write(column: int, top: int, text: str) -> None:
        pen.text((GAP + column * (width + GAP), top + 1), shortened(text, width, font), fill="black", font=font)

    for column, head in enumerate(("original", *sheet.heads)):
        write(column, 2, escaped(head))
    top = LINE + GAP
    for row in sheet.rows:
        height = row.original.height
        below = top + height + LINE
        drawn.paste(row.original, (GAP, top))
        write(0, top + height, escaped(row.id))
        if gain is not None:
            write(0, below, f"difference x{gain}")
        for column, tile in enumerate(row.tiles, 1):
            if tile is None:
                write(column, top, "not kept")
                continue
            left = GAP + column * (width + GAP)
            drawn.paste(tile.picture, (left, top))
            write(column, top + height, "  ".join(_shown(name, value) for name, value in tile.scores.items()))
            if gain is not None:
                drawn.paste(difference(row.original, tile.picture, gain), (left, below))
        top += _height(height, gain is not None)
    return drawn


def difference(original: Image.Image, reconstruction: Image.Image, gain: int) -> Image.Image:
    """Give the absolute difference of two RGB pictures in levels, times `gain`, at most 255."""
    return ImageChops.difference(original, reconstruction).point([min(255, level * gain) for level in range(256)] * 3)


def shortened(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Cut a line that is wider than so many pixels, and end it with an ellipsis."""
    if font.getlength(text[: width + 1]) <= width:  # a letter takes a pixel or more
        return text
    shown = text[:width]
    while shown and font.getlength(shown + "…") > width:
        shown = shown[:-1]
    return shown + "…"


def escaped(text: str) -> str:
    """Show a text of somebody's in one line of ASCII, which is all that Pillow's own font has letters for."""
    return " ".join(text.split()).encode("unicode_escape").decode("ascii")


def _cell(sizes: Iterable[tuple[int, int]]) -> int:
    return max([NARROWEST, *(width for width, _ in sizes)])


def _height(height: int, differences: bool) -> int:
    return height + LINE + (height + GAP if differences else 0) + GAP


def _shown(name: str, value: float) -> str:
    if math.isnan(value):
        return f"{name} -"
    return f"{name} {leaderboard.digits(value, name).replace('∞', 'inf')}"  # the font has no ∞


# --- tokenizers -------------------------------------------------------------------------------------------------------


def pick(task: Task, count: int) -> list[Sample]:
    """Read pictures spread evenly over a task; one that can't be read is passed over, and that is said.

    Raises:
        DataError: if none of them can be read.
    """
    count = min(count, len(task))
    found = []
    for index in (place * len(task) // count for place in range(count)):
        try:
            found.append(task.read(index))
        except DataError as error:
            log.warning("%s: passed over: %s", task.sample_id(index), error)
    if not found:
        raise DataError(f"{task.card.name}: none of the pictures for the sheet can be read; name other ones")
    return found


def of_tokenizers(tokenizers: Iterable[Tokenizer], samples: Sequence[Sample]) -> Sheet:
    """Encode and decode pictures one by one, and score each.

    Args:
        tokenizers: columns, in order; each is used before the next is asked for.
        samples: rows.

    Returns:
        The sheet; its heads say bits per pixel over these pictures, its scores are PSNR, and LPIPS where its network
        is on this machine.

    Raises:
        DataError: if a tokenizer can't take a picture.
        WeightsError: if the network of LPIPS is another file.
    """
    from vtbench import backbones, images

    names = []
    for name in SCORES:
        lacks = [need for need in find_metric(name).needs if backbones.find(need) is None]
        if lacks:
            log.warning("no %s under the tiles: %s", name, backbones.missing(lacks[0]))
        else:
            names.append(name)
    heads = []
    columns = []
    for tokenizer in tokenizers:
        bits, pixels = 0.0, 0
        tiles = []
        for sample in samples:
            original = sample.image[None]
            height, width = original.shape[-2:]
            codes = tokenizer.encode(original)
            made = tokenizer.decode(codes, (height, width))
            bits, pixels = bits + sum(codes.bits or ()), pixels + height * width
            tiles.append(Tile(images.to_pil(made[0]), _measured(original.to(made.device), made, names)))
        heads.append(tokenizer.card.name + (f" {bits / pixels:.2f} bpp" if bits else ""))
        columns.append(tiles)
    rows = [
        Row(sample.id, images.to_pil(sample.image), tuple(tiles))
        for sample, *tiles in zip(samples, *columns, strict=True)
    ]
    return Sheet(tuple(heads), tuple(rows))


def _measured(original: Tensor, made: Tensor, names: Iterable[str]) -> dict[str, float]:
    """Score one pair of pictures, uint8 (1, 3, H, W), as runs do."""
    from vtbench import device as devices
    from vtbench import measures

    found = {}
    for metric in map(find_metric, names):
        found[metric.name] = math.nan
        with contextlib.suppress(DataError), devices.exact():  # a picture may be too small for LPIPS
            found[metric.name] = float(measures.function(metric.function or "")(original, made, **metric.options)[0])
    return found


# --- runs -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Shelf:
    """A run with its per-image table and what is kept beside it."""

    run: Run
    folder: Path
    table: pandas.DataFrame | None
    pictures: Mapping[int, kept.KeptPicture]
    """By their place in the task."""

    def tile(self, index: int, by: str) -> tuple[Image.Image, Tile] | None:
        """Read the original and the reconstruction; None where either is not kept."""
        picture = self.pictures.get(index)
        if picture is None or self.table is None:
            return None
        own = self.table[self.table["index"] == index]
        paths = [self.folder / kept.FOLDER / name for name in (picture.original, picture.reconstruction)]
        if own.empty or not all(path.is_file() for path in paths):
            return None
        original, reconstruction = map(_opened, paths)
        if original.size != reconstruction.size:
            raise ResultError(
                f"{paths[1]}: {_sides(reconstruction)}, its original has {_sides(original)}; delete {paths[1].parent} "
                "and run again with --keep-pictures"
            )
        names = [name for name in dict.fromkeys((by, *SCORES)) if name in own.columns]
        return original, Tile(reconstruction, {name: float(own[name].iloc[0]) for name in names})


def of_runs(
    runs: Sequence[Run],
    work: Path,
    *,
    worst: int,
    by: str | None = None,
    places: Mapping[int, Path] = MappingProxyType({}),
) -> tuple[Sheet, str | None]:
    """Take kept pictures of runs with the scores of their per-image tables.

    Args:
        runs: columns, in order, all of one task and the same pictures.
        work: the work folder, where tables and pictures lie.
        worst: how many pictures of the first run, the worst first.
        by: the metric that says which are worst; the one that ranks where left out.
        places: by `id`, the folders or files that runs were named by; tables and pictures beside them come first.

    Returns:
        The sheet, without runs of which nothing is kept; and what is not kept, None where all is.

    Raises:
        ResultError: if the runs are of several tasks or on different pictures, the first one's table is missing or has
            no values of that metric, nothing is kept, or what is kept is damaged.
    """
    _one_question(runs)
    shelves = [_open(run, work, places.get(id(run))) for run in runs]
    first = shelves[0]
    if first.table is None:
        raise ResultError(
            f"{first.run.name}: its per-image table is not in {first.folder}; name its work folder by --work, "
            "or run it again"
        )
    rank = _order(first.run, first.table, by)
    indices = [int(first.table["index"].iloc[row]) for row in kept.by_badness(first.table, rank)[:worst]]
    found = [{index: tile for index in indices if (tile := shelf.tile(index, rank))} for shelf in shelves]
    lacking = [len(indices) - len(own) for own in found]
    # A run keeps its own worst pictures by the metric that ranks; those of another run are sure to be among all alone.
    alone = not any(lacking[1:]) and rank == _order(first.run, first.table, None)
    said = _not_kept(runs, lacking, len(indices), f"worst:{worst}" if alone else "all")
    columns = [(shelf, own) for shelf, own in zip(shelves, found, strict=True) if own]
    if not columns:
        raise ResultError(str(said))
    ids = dict(zip(first.table["index"], first.table["id"], strict=True))
    rows = []
    for index in indices:
        pairs = [own.get(index) for _, own in columns]
        originals = [pair[0] for pair in pairs if pair is not None]
        if originals:
            tiles = tuple(None if pair is None else pair[1] for pair in pairs)
            rows.append(Row(str(ids[index]), originals[0], tiles))
    return Sheet(tuple(_head(shelf.run) for shelf, _ in columns), tuple(rows)), said


def _one_question(runs: Sequence[Run]) -> None:
    tasks = sorted({run.task for run in runs})
    if len(tasks) > 1:
        raise ResultError(f"the runs are of these tasks: {', '.join(tasks)}; a sheet shows one: name it by --task")
    if len({(run.task_version, run.digests.get("data")) for run in runs}) > 1:
        raise ResultError(f"the runs of {tasks[0]} are on different pictures; name runs on the same ones")


def _open(run: Run, work: Path, place: Path | None) -> _Shelf:
    path = results.find_table(run, work, place)
    if path is None:
        return _Shelf(run, work / run.task / run.name, None, {})
    pictures = {picture.index: picture for picture in kept.read(path.parent, run)}
    return _Shelf(run, path.parent, results.read_images(path), pictures)


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ResultError(f"{path}: can't be read ({error}); delete it and run again with --keep-pictures") from error


def _sides(picture: Image.Image) -> str:
    return f"{picture.width} x {picture.height} pixels"


def _order(run: Run, table: pandas.DataFrame, by: str | None) -> str:
    """Name the metric by which pictures are ordered, the one that ranks where `by` is None."""
    names = [name for name in metrics() if name in table.columns and table[name].dtype.kind == "f"]
    names = [name for name in names if table[name].notna().any()]
    if by is not None and by not in names:
        raise ResultError(f"--by {by}: {run.name} has no such values of its pictures; expected {', '.join(names)}")
    order = by or kept.ranking_column(run, names)
    if order is None:
        raise ResultError(f"{run.name} on {run.task} has no values of single pictures, so none is worst")
    return order


def _not_kept(runs: Sequence[Run], lacking: Sequence[int], of: int, wish: str) -> str | None:
    """Say in one line what is not kept, and how it would be."""
    lines = [f"{lacks} of {of} of {run.name}" for run, lacks in zip(runs, lacking, strict=True) if lacks]
    if not lines:
        return None
    published = any(run.protocol != results.CANONICAL for run in runs)
    return f"pictures not kept: {', '.join(lines)}; run again with --keep-pictures {wish}" + (
        "; runs under a published protocol keep none" if published else ""
    )


def _head(run: Run) -> str:
    rate = run.scores.get("bpp")
    return run.name + (f" {rate.value:.2f} bpp" if rate is not None and rate.value is not None else "")
