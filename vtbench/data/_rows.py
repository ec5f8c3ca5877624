"""Tables of pictures, memory-mapped by the `datasets` library: .parquet files, and what `save_to_disk` wrote.

`datasets` lays parquet files out in its cache for access by number, so that 50,000 pictures never sit in memory. It
knows a file again by its path and time alone; here the layout is also named after size, times to the nanosecond and
inode, so a file that was replaced is never mistaken for the one before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vtbench import pictures
from vtbench.data import _shards
from vtbench.data._names import SUFFIXES, short
from vtbench.data._tables import own_names
from vtbench.errors import ChangedError, DataError

if TYPE_CHECKING:
    from datasets import Dataset

SAVED = ("dataset_dict.json", "state.json")
"""Files of a folder that `save_to_disk` wrote; the first where there are several splits."""

NAMED = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp")
"""Where several columns hold bytes of pictures, these are taken first."""

_PLAIN = frozenset({
    "bool", "string", "large_string", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float32", "float64",
})  # fmt: skip


class Part(NamedTuple):
    """One split."""

    name: str
    rows: Dataset
    picture: str
    """Name of the column of pictures."""
    plain: tuple[str, ...]
    """Columns of plain values."""
    as_text: frozenset[str]
    """Those of them with whole numbers that a float can't hold."""


class Table:
    """The rows of one split or several, and the files that they come from."""

    def __init__(self, root: Path, splits: Mapping[str, Sequence[Path]], split: str | None, shown: str) -> None:
        """Open it.

        Args:
            root: a folder, below which the files are; or the one file, which may be a part of something larger.
            splits: files by split, where it is known which those are.
            split: which one; several with + between them; None for the only one.
            shown: what errors call it.

        Raises:
            DataError: if it can't be opened, holds no pictures or no such split.
        """
        listed = [file for part in splits.values() for file in part] or [
            file for file in sorted(root.rglob("*")) if file.is_file()
        ]
        self.files = [file for file in listed if file.suffix.lower() in (".parquet", ".arrow")]
        images = [] if self.files else [file for file in listed if file.suffix.lower() in SUFFIXES]
        if not self.files and not images:
            raise DataError(
                f"{shown}: holds neither parquet nor picture files; download it and name a folder or its archives with "
                "--data"
            )
        if not root.is_file():
            _shards.check_whole(self.files)
        self._shown = shown
        self._stamp = self._now(opening=True)
        loaded = self._load(root, splits, images)
        names = split.split("+") if split else list(loaded)
        if split is None and len(names) > 1:
            raise DataError(f"{shown}: which split? Expected one of {', '.join(names)}, or several with + between them")
        if missing := next((name for name in names if name not in loaded), None):
            raise DataError(f"{shown}: has no split {missing!r}; expected one of {', '.join(loaded)}")
        self.parts = [_part(name, loaded[name], shown) for name in names]
        self.check()

    def check(self) -> None:
        """Compare size, times and inode of every file with those at the opening.

        Raises:
            ChangedError: if one is another file now.
        """
        if self._now() != self._stamp:
            raise ChangedError(f"{self._shown}: changed or vanished while it was being used; start the run again")

    def _now(self, *, opening: bool = False) -> str | None:
        try:
            found = [(str(file), file.stat()) for file in self.files]
        except OSError as error:
            if opening:
                raise DataError(f"{error.filename}: can't be read ({error.strerror})") from error
            return None
        said = [(name, at.st_size, at.st_mtime_ns, at.st_ctime_ns, at.st_ino) for name, at in found]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()

    def _load(self, root: Path, splits: Mapping[str, Sequence[Path]], images: Sequence[Path]) -> dict[str, Dataset]:
        import datasets

        where: dict[str, Any] = {"data_dir": str(root)}
        if splits:
            where = {"data_files": {split: [str(file) for file in part] for split, part in splits.items() if part}}
        try:
            if not splits and any((root / name).is_file() for name in SAVED):
                saved = datasets.load_from_disk(str(root))
                return dict(saved) if isinstance(saved, datasets.DatasetDict) else {"train": saved}
            if images:
                return dict(datasets.load_dataset("imagefolder", drop_labels=True, **where))
            return dict(datasets.load_dataset("parquet", f"vtbench-{str(self._stamp)[:16]}", **where))
        except Exception as error:  # pyarrow's, the builder's and the operating system's errors, of many classes
            raise DataError(f"{self._shown}: can't be opened ({short(error.__cause__ or error)})") from error


def _part(name: str, rows: Dataset, shown: str) -> Part:
    from datasets import Image

    picture = _picture_column(rows, shown)
    plain = tuple(key for key, kind in rows.features.items() if getattr(kind, "dtype", "") in _PLAIN)
    known = [key for key, own in zip(rows.column_names, own_names(dict.fromkeys(rows.column_names)), strict=True)
             if own in ("text", "lines")]  # fmt: skip
    wide = frozenset(key for key in plain if rows.features[key].dtype in ("int64", "uint64") and _is_wide(rows, key))
    rows = rows.select_columns(list(dict.fromkeys([picture, *plain, *known])))
    if isinstance(rows.features[picture], Image):
        rows = rows.cast_column(picture, Image(decode=False))
    return Part(name, rows, picture, plain, wide)


def _is_wide(rows: Dataset, column: str) -> bool:
    import pyarrow.compute as pc

    ends = pc.min_max(rows.data.column(column)).as_py()
    return any(end is not None and abs(end) > 1 << 53 for end in ends.values())


def _picture_column(rows: Dataset, shown: str) -> str:
    from datasets import Image

    for name, kind in rows.features.items():
        if isinstance(kind, Image):
            return str(name)
    # Without the hub's schema: {bytes, path} as a struct, or plain bytes, which are looked at.
    found = [str(name) for name, kind in rows.features.items() if _holds_bytes(kind) and _is_picture(rows, str(name))]
    named = [name for wanted in NAMED for name in found if name.lower() == wanted]
    if not found:
        raise DataError(f"{shown}: no column holds pictures (there are {', '.join(rows.column_names)})")
    if len(found) > 1 and not named:
        raise DataError(f"{shown}: columns {', '.join(found)} hold pictures; rename the one that is meant to image")
    return (named or found)[0]


def _holds_bytes(kind: object) -> bool:
    held = kind.get("bytes") if isinstance(kind, Mapping) else kind
    return getattr(held, "dtype", "") in ("binary", "large_binary", "binary_view")


def _is_picture(rows: Dataset, column: str) -> bool:
    for number in range(min(len(rows), 16)):
        cell = rows[number][column]
        content = cell.get("bytes") if isinstance(cell, Mapping) else cell
        if content:
            try:
                pictures.read(content)
            except DataError:
                continue
            return True
    return False


def named_files(part: Part) -> Iterator[str]:
    """Give the files that rows name in place of holding their bytes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = part.rows.data.column(part.picture)
    if not pa.types.is_struct(column.type) or column.type.get_field_index("path") < 0:
        return
    for chunk in column.chunks:
        bare = pc.and_(pc.is_null(pc.struct_field(chunk, "bytes")), pc.is_valid(pc.struct_field(chunk, "path")))
        for path in pc.struct_field(chunk, "path").filter(bare):
            yield str(path.as_py())
