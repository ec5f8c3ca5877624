"""TokBench's pictures with text: words of several data sets, with their boxes and relative sizes.

The data set is a folder, or the same on the hub, of `annotations/text_<set>.json` and the pictures in `images.zip` (or
a folder `images/`), under text_data/<set>/. An annotation file is a list: file_name, height, width, and for each word
`rec` (what it says), `bbox` (left, top, right, bottom, or four corners) and `ratio` (its size relative to the picture).

Source of the layout: https://github.com/wjf5203/TokBench, commit a77070c (eval.sh, doctr/datasets/ocr_json.py).
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

from vtbench import files
from vtbench.cards import Data
from vtbench.data import hub, links_of
from vtbench.data._known import Box, Known
from vtbench.data._names import printable, short
from vtbench.data._pictures import Crop, Files, Pictures
from vtbench.data.archive import open_archive
from vtbench.data.folder import Folder
from vtbench.errors import DataError

SETS = ("ic13", "ic15", "tt", "textocr", "cord", "sroie", "infograph", "docvqa")
"""ICDAR 2013 and 2015, Total-Text, TextOCR, CORD, SROIE, InfographicVQA and DocVQA."""

FILES = ("annotations/text_*.json", "images.zip")


class Source(Pictures):
    """The annotated pictures of all eight sets, by set and name."""

    def __init__(
        self,
        *,
        size: int | None,
        path: Path | None = None,
        crop: Crop = "letterbox",
        data: Data | None = None,
        text: bool = True,
        follow_links: bool = False,
    ) -> None:
        """Open a downloaded copy, or bring it from the hub.

        Args:
            size: height and width that a task asks for; None gives each picture as it is.
            path: a folder with annotations/ and images/ or images.zip.
            crop: how a picture is brought to that size.
            data: where on the hub it lies.
            text: whether the annotated words are needed.
            follow_links: also read what links in images/ point to that lead out of it.
        """
        revision = None
        if path is None:
            if data is None or data.hub is None:
                raise DataError("tokbench: no path given; name the folder of your copy with --data PATH")
            path, revision = hub.snapshot(data, patterns=FILES)
        shown = printable(path)
        packed = path / "images.zip"
        if files.is_file(packed) and follow_links:
            raise DataError(links_of(f"{printable(packed)} is"))
        held: Files
        held = open_archive(packed) if files.is_file(packed) else Folder(path / "images", follow_links=follow_links)
        places = {name.parts[-3:]: name for name in held.names if "text_data" in name.parts[-3:-2]}
        known: dict[PurePosixPath, Known] = {}
        for name in SETS:
            for file, said in _annotations(path / "annotations" / f"text_{name}.json", name):
                place = places.get(("text_data", name, file))
                if place is None:
                    raise DataError(f"{shown}: has no picture text_data/{name}/{file}, which is annotated")
                known[place] = said
        super().__init__(held, size=size, crop=crop, text=text, shown=shown, known=known)
        self.ids = [printable(PurePosixPath(*name.parts[-2:])) for name in self.names]
        self.revision = revision


def takes(place: str, data: Data) -> bool:
    """Take a copy of TokBench's own where a card asks for TokBench."""
    return data.source == "tokbench" and not place.startswith("hub:")


def is_here(data: Data) -> bool:
    """Tell whether its files are in the hub's cache."""
    return hub.is_here(data, patterns=FILES)


def bring(data: Data) -> str:
    """Bring its files from the hub, and say where they are."""
    return hub.bring(data, patterns=FILES)


def _annotations(path: Path, name: str) -> list[tuple[str, Known]]:
    try:
        said = json.loads(path.read_bytes())
        return [
            (
                str(one["file_name"]),
                Known(
                    tuple((str(word["rec"]), _box(word["bbox"]), float(word["ratio"])) for word in one["annotations"]),
                    {"set": name},
                    (int(one["width"]), int(one["height"])),
                ),
            )
            for one in said
        ]
    except OSError as error:
        raise DataError(f"{printable(path)}: can't be read ({error.strerror}); expected TokBench's file") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{printable(path)}: not an annotation file of TokBench ({short(error)})") from error


def _box(said: list[Any]) -> Box:
    """Take whole pixels towards zero, as TokBench's crops do; the box round four corners."""
    if len(said) == 4 and all(isinstance(corner, list) for corner in said):
        across, down = [int(corner[0]) for corner in said], [int(corner[1]) for corner in said]
        return min(across), min(down), max(across), max(down)
    left, top, right, bottom = (int(value) for value in said)
    return left, top, right, bottom
