"""Tables of pictures, memory-mapped by the `datasets` library: .parquet files, and what `save_to_disk` wrote.

The column of pictures is the one of type Image, else one of bytes that are pictures; of several, the one that is called
image or the like. A column `text` (text, a number or several) is known text; `lines` (each with its `text` and its
`box`) is known text with its place; columns of plain values are what results can be grouped by. Classes are read by
their names.

`datasets` lays parquet files out in its cache for access by number, so that 50,000 pictures never sit in memory. It
knows a file again by its path and time alone; here the layout is also named after size, times to the nanosecond and
inode, so a file that was replaced is never mistaken for the one before.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from vtbench import data as sources
from vtbench import files, pictures
from vtbench.data import _shards, _splits
from vtbench.data._known import Known, known_of_row
from vtbench.data._names import counted, printable, short
from vtbench.data._pictures import MAX_BYTES, Contents, Crop, fitted
from vtbench.data._tables import heads
from vtbench.errors import ChangedError, DataError, ResultError
from vtbench.types import Sample

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, Features

SAVED = ("dataset_dict.json", "state.json")
"""Files of a folder that `save_to_disk` wrote; the first where there are several splits."""

NAMED = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp")
"""Where several columns hold pictures, these are taken first."""

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
    short: frozenset[str]
    """Columns of long floats, some of which were short ones."""
    heads: Mapping[str, str]
    """What each column is called here, that of pictures aside."""


class Table:
    """The rows of one split or several, and the files that they come from."""

    def __init__(
        self,
        root: Path,
        splits: Mapping[str, Sequence[Path]],
        split: str | None,
        shown: str,
        *,
        lenient: bool = False,
        text: bool = True,
    ) -> None:
        """Open it.

        Args:
            root: a folder, below which the files are; or the one file, which may be a part of something larger.
            splits: files by split, where it is known which those are; else their names say it, as `_splits` does.
            split: which one; several with + between them; None for the only one.
            shown: what errors call it.
            lenient: where there is one split alone, it is the one that is meant, whatever its name.
            text: whether known text is needed; where not, several columns that could be it are attributes.

        Raises:
            DataError: if it can't be opened, holds no pictures or no such split, or has columns of one name.
        """
        below = None if splits else _shards.below(root)
        listed = below.files if below else [file for part in splits.values() for file in part]

        def ending(*ends: str) -> list[Path]:
            return below.parts(ends) if below else [file for file in listed if file.name.lower().endswith(ends)]

        self._saved = not splits and any((root / name).is_file() for name in SAVED)
        if self._saved:  # beside its files lies what `datasets` computed from them
            self.files = [file for file in listed if file.suffix == ".arrow" and not file.name.startswith("cache-")]
        else:
            self.files = ending(".parquet")
        if not self.files:
            raise DataError(f"{shown}: holds no table of pictures; expected .parquet files")
        if not root.is_file():
            _shards.check_whole(self.files)
        self.shown = shown
        self._text = text
        self._short: set[str] = set()
        """Columns of which some parts have short floats and others long ones, or whole numbers."""
        self._stamp = self._now(opening=True)
        some = self.files[0]
        how = f"name its files, such as {printable(some.parent)}/*{some.suffix}" if lenient else "name the split"
        if splits:
            among = set(self.files)
            splits = {name: [file for file in part if file in among] for name, part in splits.items()}
        elif not self._saved:
            strict = split is not None and not lenient
            splits = _splits.by_name(root, self.files, shown=shown, strict=strict, advice=how)
        saved = self._load(root, {}) if self._saved else {}
        there = saved or {name: part for name, part in splits.items() if part}
        names = _splits.chosen(there, split, shown=shown, lenient=lenient, advice=how)
        self.split = None if lenient and len(there) == 1 else split
        """Which one was asked for; None where it is the only one that can be meant."""
        loaded = saved or self._load(root, {name: splits[name] for name in names})
        self.left_out = below.beside(self.files, "the tables") if below else []
        """What lies beside them and is not read: its kind in plain words, one entry a file."""
        self.parts = [_part(name, loaded[name], shown, text, self._short) for name in names]
        self.check()

    def check(self) -> None:
        """Compare size, times and inode of every file with those at the opening.

        Raises:
            ChangedError: if one is another file now.
        """
        if self._now() != self._stamp:
            raise ChangedError(f"{self.shown}: changed or vanished while it was being used; start the run again")

    def _now(self, *, opening: bool = False) -> str | None:
        try:
            said = [_stamped(file) for file in self.files]
        except OSError as error:
            if opening:
                raise DataError(f"{error.filename}: can't be read ({error.strerror})") from error
            return None
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()

    def _load(self, root: Path, splits: Mapping[str, Sequence[Path]]) -> dict[str, Dataset]:
        import datasets
        from datasets.data_files import DataFilesList

        try:
            with _quiet():
                if self._saved:
                    saved = datasets.load_from_disk(str(root))
                    found = dict(saved) if isinstance(saved, datasets.DatasetDict) else {"train": saved}
                    # A format that was saved with it would hide columns and turn values into arrays.
                    return {name: rows.with_format(None) for name, rows in found.items()}
                _check_cache()

                # Lists of files as they are: of texts `datasets` makes patterns, of a folder it guesses which count.
                def given(part: Sequence[Path]) -> DataFilesList:
                    return DataFilesList([str(file) for file in part], [(str(_stamped(file)),) for file in part])

                read_as = self._read_as([file for part in splits.values() for file in part])
                builder = f"vtbench-{str(self._stamp)[:16]}"
                if read_as is None:
                    return dict(
                        datasets.load_dataset(
                            "parquet", builder, data_files={name: given(part) for name, part in splits.items()}
                        )
                    )
                found = {}
                for name, part in splits.items():
                    runs = [
                        datasets.load_dataset(
                            "parquet", builder, data_files={name: given(list(run))}, features=kinds, columns=list(kinds)
                        )[name]
                        for kinds, run in itertools.groupby(part, key=read_as.__getitem__)
                    ]
                    found[name] = datasets.concatenate_datasets(runs)  # a column that one lacks is empty there
                return found
        except DataError:
            raise
        except Exception as error:  # pyarrow's, the builder's and the operating system's errors, of many classes
            raise DataError(f"{self.shown}: can't be opened ({short(error.__cause__ or error)})") from error

    def _read_as(self, parts: Sequence[Path]) -> dict[Path, Features] | None:
        """Tell which columns are read of each part, and as what; None where the columns of all are the same.

        `datasets` makes them what the first part has, so that "007" becomes 7. What would be turned is refused here;
        what nobody reads may differ.
        """
        from datasets import ClassLabel, Features, Image

        found = {file: _columns(file) for file in dict.fromkeys(parts)}
        first = next(iter(found))
        if all(columns == found[first] for columns in found.values()):
            return None
        kinds: dict[str, list[object]] = {}
        for name, column in (pair for columns in found.values() for pair in columns.items()):
            kinds.setdefault(name, []).append(column.kind)
        held = [name for name in kinds if Image in map(type, kinds[name])]
        held = _named_first(held or [name for name in kinds if any(map(_holds_bytes, kinds[name]))])
        called = _called((name for name in kinds if name not in held), self.shown, self._text)
        how = "expected the same columns in all; write them so, or name the files that are meant"
        whole: dict[str, _Column] = {}
        for name, some in kinds.items():
            needed = name in held or called[name] in ("text", "lines")
            if not needed and not any(getattr(kind, "dtype", "") in _PLAIN for kind in some):
                continue
            if called.get(name) == "file_name" or name.startswith("__index_level_"):
                continue  # pandas writes an index where a table was filtered, and nowhere else
            having = {file: columns[name] for file, columns in found.items() if name in columns}
            one = next(iter(having))
            if needed and len(having) < len(found):
                other = next(file for file in found if file not in having)
                first, second = sorted((one, other), key=list(found).index)
                said = f"{_said(having.get(first))} in {first.name} and {_said(having.get(second))} in {second.name}"
                raise DataError(f"{self.shown}: column {name} is {said}; {how}")
            for other, there in having.items():
                here = whole.get(name, there)
                both = _both(here, there)
                if both is None:
                    said = f"{here.type} in {one.name} and {there.type} in {other.name}"
                    raise DataError(f"{self.shown}: column {name} is {said}; {how}")
                classed = ClassLabel in (type(here.kind), type(there.kind)) and "null" not in (here.type, there.type)
                if classed and here.kind != there.kind:
                    among = f"in {one.name} than in {other.name}"
                    raise DataError(f"{self.shown}: column {name} has other classes {among}; {how}")
                whole[name] = both
            if whole[name].type == "double" and any(
                column.type in ("float", "halffloat") for column in having.values()
            ):
                self._short.add(name)
        return {
            file: Features({name: column.kind for name, column in whole.items() if name in columns})
            for file, columns in found.items()
        }


class _Column(NamedTuple):
    type: pa.DataType
    kind: object
    """What `datasets` makes of it."""


def _said(column: _Column | None) -> str:
    return "missing" if column is None else str(column.type)


def _columns(file: Path) -> dict[str, _Column]:
    """List the columns of a parquet file; categories, as pandas writes them, are what they are of."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Features

    schema = pq.read_schema(file)
    for number, field in enumerate(schema):
        if pa.types.is_dictionary(field.type):
            schema = schema.set(number, field.with_type(field.type.value_type))
    kinds = Features.from_arrow_schema(schema)
    return {field.name: _Column(field.type, kinds[field.name]) for field in schema}


def _both(one: _Column, two: _Column) -> _Column | None:
    """Give what columns of two parts are together; None where one can't be the other without being turned."""
    import pyarrow as pa
    from datasets import Features

    kind = _merged(one.type, two.type)
    if kind is None or kind == one.type:
        return kind and one
    return two if kind == two.type else _Column(kind, Features.from_arrow_schema(pa.schema([("both", kind)]))["both"])


def _merged(one: pa.DataType, two: pa.DataType) -> pa.DataType | None:
    """Give the type that holds values of both with nothing lost or turned; None where there is none."""
    import pyarrow as pa

    is_a = pa.types
    if one == two or is_a.is_null(two):
        return one
    if is_a.is_null(one):
        return two
    if all(is_a.is_list(kind) or is_a.is_large_list(kind) or is_a.is_fixed_size_list(kind) for kind in (one, two)):
        inner = _merged(one.value_type, two.value_type)
        return inner and pa.list_(inner)
    if is_a.is_struct(one) and is_a.is_struct(two):
        names, others = ([kind.field(number).name for number in range(kind.num_fields)] for kind in (one, two))
        merged = {name: _merged(one.field(name).type, two.field(name).type) for name in names if name in others}
        return pa.struct(merged) if len(merged) == len(names) == len(others) and all(merged.values()) else None
    if all(is_a.is_integer(kind) or is_a.is_floating(kind) for kind in (one, two)):
        if is_a.is_floating(one) or is_a.is_floating(two):  # whole numbers with a gap between them are floats
            return pa.float64()
        return pa.uint64() if is_a.is_unsigned_integer(one) and is_a.is_unsigned_integer(two) else pa.int64()
    families = ((is_a.is_string, is_a.is_large_string), (is_a.is_binary, is_a.is_large_binary))
    return one if any(any(of(one) for of in some) and any(of(two) for of in some) for some in families) else None


def _stamped(file: Path) -> tuple[str, int, int, int, int]:
    at = file.stat()
    return str(file), at.st_size, at.st_mtime_ns, at.st_ctime_ns, at.st_ino


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave it to our own line to say what is wrong; a bar only where somebody sees it move."""
    import datasets
    from datasets.utils import logging

    level, bars = logging.get_verbosity(), not datasets.are_progress_bars_disabled() and not sys.stderr.isatty()
    logging.set_verbosity(logging.CRITICAL)
    if bars:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            datasets.enable_progress_bars()


def _check_cache() -> None:
    """Refuse a cache that can't be written before `datasets` calls it a fault of the table."""
    import datasets

    try:
        files.check_writable(Path(datasets.config.HF_DATASETS_CACHE))
    except ResultError as error:
        raise DataError(f"{error}: `datasets` lays tables out there; set HF_HOME or HF_DATASETS_CACHE") from error


def _part(name: str, rows: Dataset, shown: str, text: bool, short: Set[str]) -> Part:
    from datasets import Image

    picture = _picture_column(rows, shown)
    called = _called((key for key in rows.column_names if key != picture), shown, text)
    plain = tuple(key for key, kind in rows.features.items() if key in called and getattr(kind, "dtype", "") in _PLAIN)
    known = [key for key, own in called.items() if own in ("text", "lines")]
    wide = frozenset(key for key in plain if rows.features[key].dtype in ("int64", "uint64") and _is_wide(rows, key))
    rows = rows.select_columns(list(dict.fromkeys([picture, *plain, *known])))
    if isinstance(rows.features[picture], Image):
        rows = rows.cast_column(picture, Image(decode=False))
    return Part(name, rows, picture, plain, wide, frozenset(short), called)


def _called(names: Iterable[str], shown: str, text: bool) -> dict[str, str]:
    try:
        return heads(names, text=text)
    except ValueError as error:
        raise DataError(f"{shown}: {error}") from error


def _row(part: Part, rows: Dataset, number: int, name: str) -> dict[str, Any]:
    """Read a row of a part, of some of its columns."""
    try:
        row = dict(rows[number])
    except Exception as error:  # text that is no UTF-8, and what else Arrow finds when it looks at a row
        raise DataError(f"{name}: its row can't be read ({short(error)})") from error
    row = {column: _meant(part.rows.features[column], value) for column, value in row.items()}
    row |= {column: _shortened(row[column]) for column in part.short if isinstance(row.get(column), float)}
    return row | {column: str(row[column]) for column in part.as_text if row[column] is not None}


def _meant(kind: object, value: Any) -> Any:  # noqa: ANN401  a cell of any kind
    """Read a cell as it was written: a class by its name, a short float by the digits that it has."""
    from datasets import ClassLabel

    if isinstance(value, list):
        inner = kind[0] if isinstance(kind, list) else getattr(kind, "feature", None)
        return [_meant(inner, one) for one in value]
    if value is None:
        return None
    if isinstance(kind, ClassLabel):  # a picture without one has the number -1
        return kind.names[value] if 0 <= value < len(kind.names) else None
    short = {"float16": np.float16, "float32": np.float32}.get(getattr(kind, "dtype", ""))
    return value if short is None else float(str(short(value)))


def _shortened(value: float) -> float:
    """Read a long float that a short one may have become by the short one's digits."""
    with np.errstate(over="ignore"):
        short = np.float32(value)
    return float(str(short)) if float(short) == value else value


def _is_wide(rows: Dataset, column: str) -> bool:
    import pyarrow.compute as pc

    ends = pc.min_max(rows.data.column(column)).as_py()
    return any(end is not None and abs(end) > 1 << 53 for end in ends.values())


def _picture_column(rows: Dataset, shown: str) -> str:
    from datasets import Image

    found = [str(name) for name, kind in rows.features.items() if isinstance(kind, Image)]
    if not found:  # without the hub's schema: {bytes, path} as a struct, or plain bytes, which are looked at
        bare = [str(name) for name, kind in rows.features.items() if _holds_bytes(kind)]
        found = [name for name in bare if _is_picture(rows, name)]
    if not found:
        raise DataError(f"{shown}: no column holds pictures (there are {', '.join(rows.column_names)})")
    found = _named_first(found)
    if len(found) > 1:
        raise DataError(f"{shown}: columns {', '.join(found)} hold pictures; rename the one that is meant to image")
    return found[0]


def _named_first(found: Sequence[str]) -> list[str]:
    """Of several columns of pictures give the one that its name says is meant, else all."""
    return [name for wanted in NAMED for name in found if name.lower() == wanted][:1] or list(found)


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


def _named_files(part: Part) -> Iterator[str]:
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


class Pictures(sources.Source):
    """The rows of a table by number, as pictures."""

    revision: str | None = None

    def __init__(self, table: Table, *, size: int | None, crop: Crop, home: Path, text: bool) -> None:
        """Read a table.

        Args:
            table: the rows.
            size: height and width that a task asks for; None gives each picture as it is.
            crop: how a picture is brought to that size.
            home: the folder in which files lie that rows may name in place of holding their bytes.
            text: whether known text is needed.
        """
        self.size = size
        self.crop: Crop = crop
        self._table = table
        self._home = home.resolve()
        self._needs_text = text
        self._contents = Contents(self._named)
        self._ends = list(itertools.accumulate(len(part.rows) for part in table.parts))

    def __len__(self) -> int:
        """Count the rows."""
        return self._ends[-1]

    def sample_id(self, index: int) -> str:
        """Return the number of the row, after the name of its split where there are several."""
        part, row = self._place(index)
        return f"{part.name}/{row:05d}" if len(self._ends) > 1 else f"{row:05d}"

    @property
    def text(self) -> Literal["none", "page", "boxes"]:
        """Whether text is known, and where on the picture."""
        found = set()
        for part in self._table.parts:
            kinds = {part.heads.get(key, key): kind for key, kind in part.rows.features.items()}
            listed = kinds.get("lines")
            inner = listed[0] if isinstance(listed, list) else getattr(listed, "feature", None)
            inner = listed if isinstance(listed, Mapping) else inner  # one object of lists
            if inner is not None:
                found.add("boxes" if isinstance(inner, Mapping) and "box" in inner else "page")
            elif "text" in kinds:
                found.add("page")
        return "page" if "page" in found else "boxes" if found else "none"

    @cached_property
    def known_text(self) -> str:
        """What the columns of text say of all pictures."""
        found: list[str] = []
        for part in self._table.parts:
            rows = part.rows.remove_columns(part.picture)
            for number in range(len(rows)):
                with contextlib.suppress(DataError):  # that picture's own row says so
                    known = self._known(_row(part, rows, number, part.name), part.name)
                    found += [text for text, _, _ in known.lines]
        return "".join(found)

    @property
    def passed_over(self) -> Mapping[str, int]:
        """Files beside those of the rows that were meant as pictures, or as several, by kind."""
        return counted(self._table.left_out)

    @property
    def attributes(self) -> frozenset[str]:
        """Names of the columns of plain values."""
        names = {part.heads[key] for part in self._table.parts for key in part.plain}
        return frozenset(names - {"text", "file_name"} | ({"split"} if len(self._ends) > 1 else set()))

    def read(self, index: int) -> Sample:
        """Read one picture (`pictures.read` says how) and bring it to the task's size."""
        self._table.check()
        part, number = self._place(index)
        name = self.sample_id(index)
        row = _row(part, part.rows, number, name)
        content = self._content(row.pop(part.picture), name)
        known = self._known(row, name)
        if len(self._ends) > 1:
            known = Known(known.lines, {**known.attributes, "split": part.name})
        return fitted(name, pictures.read(content, name, plain=self.crop == "plain"), known, self.size, self.crop)

    @cached_property
    def digest(self) -> str:
        """sha256 over the contents of the files that are read, the split and the geometry."""
        said: list[object] = [self.size, self.crop, self._table.split]
        for file in self._table.files:
            try:
                with file.open("rb") as stream:
                    said.append(hashlib.file_digest(stream, "sha256").hexdigest())
            except OSError as error:
                raise ChangedError(f"{printable(file)}: vanished ({error.strerror}); start the run again") from error
        self._table.check()
        for path in (path for part in self._table.parts for path in _named_files(part)):
            try:
                said.append(self._contents.digest(PurePosixPath(path)))
            except DataError as error:
                said.append(str(error))
        return hashlib.sha256(json.dumps(said, default=str).encode()).hexdigest()

    def _known(self, row: Mapping[str, Any], name: str) -> Known:
        """Read what is known of a picture from the other cells of its row."""
        try:
            return known_of_row(row, text=self._needs_text)
        except (ValueError, OverflowError) as error:
            raise DataError(f"{name}: its text can't be read ({short(error)})") from error

    def _place(self, index: int) -> tuple[Part, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = bisect.bisect_right(self._ends, index)
        return self._table.parts[part], index - (self._ends[part - 1] if part else 0)

    def _content(self, cell: object, name: str) -> bytes:
        content = cell.get("bytes") if isinstance(cell, Mapping) else cell
        if isinstance(content, bytes):
            return content
        if not isinstance(cell, Mapping) or not cell.get("path"):
            raise DataError(f"{name}: the row holds no picture")
        try:
            return self._contents.read(PurePosixPath(cell["path"]))
        except DataError as error:
            raise DataError(f"{name}: {error}") from error

    def _named(self, path: PurePosixPath) -> bytes:
        """Read a file that a row names: one that came with the data set, no other on this machine."""
        file = Path(path)
        try:
            if not file.is_file() or not file.resolve().is_relative_to(self._home):
                raise DataError(f"the row names {printable(file)}, which is not among the data set's files")
            with file.open("rb") as stream:
                return stream.read(MAX_BYTES)
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
            raise DataError(f"the row names {printable(file)}, which can't be read ({short(error)})") from error
