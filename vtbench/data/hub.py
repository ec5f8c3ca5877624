"""Pictures of a data set on the Hugging Face hub, through the `datasets` library, memory-mapped.

The cache is asked first. Only what is not there is downloaded, and only the files of the configuration that is asked
for; `datasets` then lays them out for access by number, so that 50,000 pictures never sit in memory. Without a network
this ends within seconds, saying what is missing and how to bring it.

The column of pictures is the first of type Image. A column `text` (a string, or several) is known text; `lines` (each
with its `text` and its `box`) is known text with its place; columns of plain values are what results can be grouped by.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from vtbench import files, pictures
from vtbench.cards import Data
from vtbench.data._pictures import MAX_BYTES, SUFFIXES, Crop, Known, fitted, known_of_row, printable, short
from vtbench.errors import DataError
from vtbench.types import Sample

if TYPE_CHECKING:
    from datasets import Dataset

PLACE = re.compile(r"hub:(?P<hub>\w[\w.-]*/\w[\w.-]*)(/(?P<config>[^@:]+))?(@(?P<revision>[^:]+))?(:(?P<split>.+))?")
"""How `--data` names a data set on the hub: hub:OWNER/NAME[/CONFIG][@REVISION][:SPLIT]."""

ABOUT = "README.md"


class Source:
    """The rows of one split, or of several one after the other, by number."""

    def __init__(
        self, *, size: int | None, path: Path | None = None, crop: Crop = "center", data: Data | None = None
    ) -> None:
        """Open the data set that a card names.

        Args:
            size: height and width that a task asks for; None gives each picture as it is.
            path: a .parquet file or a folder of them on this machine, in place of the hub.
            crop: how a picture is brought to that size.
            data: which data set, configuration, revision and split.
        """
        self.size = size
        self.crop: Crop = crop
        if path is not None and str(path).startswith("hub:"):
            data, path = parse(str(path)), None
        elif path is not None and not path.exists():
            raise DataError(f"{printable(path)}: does not exist; expected a parquet file or a folder of them")
        self.data = data or Data(source="hub")
        self.revision: str | None = None
        if path is not None:
            self.shown, self._root = printable(path), path.resolve()
        else:
            if self.data.hub is None:
                raise DataError("hub: no data set named; give --data hub:OWNER/NAME[/CONFIG][@REVISION][:SPLIT]")
            self.shown = self.data.hub
            self._root, self.revision = snapshot(self.data)
        self.files, self._parts = _open(self._root, self.data, self.shown)
        self._ends: list[int] = []
        for _, rows in self._parts:
            self._ends.append(len(rows) + (self._ends[-1] if self._ends else 0))
        if path is None and self.data.images not in (None, len(self)):
            raise DataError(
                f"{self.shown} at {self.revision} has {len(self)} pictures, the card expects {self.data.images}; "
                "the data set has changed, or part of it is missing"
            )

    def __len__(self) -> int:
        """Count the rows."""
        return self._ends[-1]

    def sample_id(self, index: int) -> str:
        """Return the number of the row, after the name of its split where there are several."""
        part, row = self._place(index)
        return f"{self._parts[part][0]}/{row:05d}" if len(self._parts) > 1 else f"{row:05d}"

    @property
    def text(self) -> Literal["none", "page", "boxes"]:
        """Whether text is known, and where on the picture."""
        columns = {name for _, rows in self._parts for name in rows.column_names}
        return "boxes" if "lines" in columns else "page" if "text" in columns else "none"

    @property
    def attributes(self) -> frozenset[str]:
        """Names of the columns of plain values."""
        names = {name for _, rows in self._parts for name in rows.column_names if name not in ("text", "lines")}
        return frozenset(names - {_picture_column(rows, self.shown) for _, rows in self._parts} | self._split_name)

    @property
    def _split_name(self) -> set[str]:
        return {"split"} if len(self._parts) > 1 else set()

    def read(self, index: int) -> Sample:
        """Read one picture (`pictures.read` says how) and bring it to the task's size."""
        part, number = self._place(index)
        split, rows = self._parts[part]
        name = self.sample_id(index)
        row = dict(rows[number])
        content = self._content(row.pop(_picture_column(rows, self.shown)), name)
        try:
            known = known_of_row({key: value for key, value in row.items() if value is not None})
        except (TypeError, ValueError, KeyError) as error:
            raise DataError(f"{name}: its text can't be read ({short(error)})") from error
        if self._split_name:
            known = Known(known.lines, {**known.attributes, "split": split})
        return fitted(name, pictures.read(content, name, plain=self.crop == "plain"), known, self.size, self.crop)

    @cached_property
    def digest(self) -> str:
        """sha256 over the contents of the files that were read, the split and the geometry."""
        said: list[object] = [self.size, self.crop, self.data.split]
        for file in self.files:
            with file.open("rb") as stream:
                said.append(hashlib.file_digest(stream, "sha256").hexdigest())
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()

    def _place(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = bisect.bisect_right(self._ends, index)
        return part, index - (self._ends[part - 1] if part else 0)

    def _content(self, cell: Mapping[str, Any] | None, name: str) -> bytes:
        if cell is None:
            raise DataError(f"{name}: the row holds no picture")
        if isinstance(cell["bytes"], bytes):
            return cell["bytes"]
        # A row may name a file in place of holding it: one that came with the data set, no other on this machine.
        file = Path(cell["path"] or "")
        home = self._root.parent.parent if self.revision else self._root  # a snapshot's files are links to ../../blobs
        if not file.is_file() or not file.resolve().is_relative_to(home.resolve()):
            raise DataError(f"{name}: the row names {printable(file)}, which is not among the data set's files")
        with file.open("rb") as stream:
            return stream.read(MAX_BYTES)


def parse(place: str) -> Data:
    """Read hub:OWNER/NAME[/CONFIG][@REVISION][:SPLIT].

    Raises:
        DataError: if it is of another form.
    """
    found = PLACE.fullmatch(place)
    if found is None:
        raise DataError(f"{place}: expected hub:OWNER/NAME[/CONFIG][@REVISION][:SPLIT]")
    said = found.groupdict()
    return Data(source="hub", hub=said["hub"], config=said["config"], revision=said["revision"], split=said["split"])


# --- bringing ---------------------------------------------------------------------------------------------------------


def takes(place: str, data: Data) -> bool:
    """Take the hub's places, .parquet files, and a folder of them where a card asks for the hub."""
    if place.startswith("hub:") or place.lower().endswith(".parquet"):
        return True
    return data.source == "hub" and Path(place).is_dir() and any(Path(place).rglob("*.parquet"))


def is_here(data: Data, *, patterns: Sequence[str] | None = None) -> bool:
    """Tell whether the files that `bring` would give are on this machine; touches no network."""
    here = _cached(data)
    return here is not None and _is_whole(here, data, patterns)


def bring(data: Data, *, patterns: Sequence[str] | None = None) -> str:
    """Bring a data set where it is not on this machine, and say where it is; raises as `snapshot` does."""
    folder, revision = snapshot(data, patterns=patterns)
    return f"{folder} (revision {revision})"


def snapshot(data: Data, *, patterns: Sequence[str] | None = None) -> tuple[Path, str]:
    """Find the files of a data set on this machine, or download them with progress and resume.

    Args:
        data: which data set, configuration and revision.
        patterns: the files that are wanted; where left out, those of the configuration.

    Returns:
        The folder of the snapshot, and the commit that it is of.

    Raises:
        DataError: within seconds where there is no network; naming what is missing and how to bring it.
    """
    from huggingface_hub import constants

    here = _cached(data)
    if here is not None and _is_whole(here, data, patterns):
        return here, here.name
    if constants.HF_HUB_OFFLINE:
        raise DataError(f"{_missing(data)} (HF_HUB_OFFLINE is set)")
    # The hub client retries for 25 s without a network and hangs on a silent server, so ask first.
    if reason := files.unreachable(constants.ENDPOINT):
        raise DataError(f"{_missing(data)} ({reason})")
    about = _download(data, data.revision, [ABOUT])
    wanted = patterns or [pattern for part in _configured(about, data, _name(data)).values() for pattern in part]
    folder = _download(data, about.name, [ABOUT, *wanted] if wanted else None)
    there = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    files.write_atomic(_marker(folder, data, patterns), json.dumps(there).encode())
    return folder, folder.name


def _name(data: Data) -> str:
    return f"{data.hub}/{data.config}" if data.config else str(data.hub)


def _missing(data: Data) -> str:
    revision = f" at {data.revision}" if data.revision else ""
    return (
        f"data set {_name(data)}{revision} is not on this machine, or only in part: run `vtbench fetch` with the "
        "task's name where there is a network, or copy HF_HOME from a machine that has it"
    )


def _cached(data: Data) -> Path | None:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        found = snapshot_download(
            str(data.hub),
            repo_type="dataset",
            revision=data.revision,
            cache_dir=constants.HF_HUB_CACHE,
            local_files_only=True,
            allow_patterns=[ABOUT],  # newer clients refuse a snapshot that lacks what is asked for: `_is_whole` does
        )
    except LocalEntryNotFoundError:
        return None
    return Path(found) if Path(found).is_dir() else None


def _download(data: Data, revision: str | None, patterns: Sequence[str] | None) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        found = snapshot_download(
            str(data.hub),
            repo_type="dataset",
            revision=revision,
            cache_dir=constants.HF_HUB_CACHE,
            endpoint=constants.ENDPOINT,
            allow_patterns=list(patterns) if patterns is not None else None,
        )
    except GatedRepoError as error:
        raise DataError(
            f"data set {data.hub} is gated; accept its terms on the hub, run `hf auth login`, then try again"
        ) from error
    except RevisionNotFoundError as error:
        raise DataError(f"data set {data.hub} has no revision {revision}; correct it") from error
    except RepositoryNotFoundError as error:
        raise DataError(
            f"no data set is called {data.hub}, or it is private; correct the name or run `hf auth login`"
        ) from error
    except Exception as error:  # the client lets its HTTP library's errors through, and that library changes
        raise DataError(f"{_missing(data)} ({short(error)})") from error
    return Path(found)


def _marker(snapshot: Path, data: Data, patterns: Sequence[str] | None) -> Path:
    """The list of files of a finished download; it lies beside the snapshots, so that a copy of HF_HOME has it."""
    what = hashlib.sha256(json.dumps([data.config, patterns]).encode()).hexdigest()[:12]
    return snapshot.parent.parent / f".vtbench-{snapshot.name}-{what}.json"


def _is_whole(snapshot: Path, data: Data, patterns: Sequence[str] | None) -> bool:
    marker = _marker(snapshot, data, patterns)
    if marker.is_file():
        return all((snapshot / name).is_file() for name in json.loads(marker.read_bytes()))
    # Brought by another tool: whole where every split has files, and numbered parts are all there.
    wanted = {pattern: [pattern] for pattern in patterns} if patterns else _configured(snapshot, data, _name(data))
    if not wanted:
        return False
    parts: list[list[Path]] = [_files(snapshot, part) for part in wanted.values()]
    return all(files and _is_complete(files) for files in parts)


def _is_complete(files: Sequence[Path]) -> bool:
    numbered = [found for file in files if (found := re.search(r"-of-(\d+)\.\w+$", file.name))]
    groups: dict[str, int] = {}
    for found in numbered:
        stem = re.sub(r"-\d+$", "", found.string[: found.start()])
        groups[f"{stem}/{found[1]}"] = groups.get(f"{stem}/{found[1]}", 0) + 1
    return all(count == int(group.rsplit("/", 1)[1]) for group, count in groups.items())


# --- opening ----------------------------------------------------------------------------------------------------------


def _configured(folder: Path, data: Data, shown: str) -> dict[str, list[str]]:
    """Read from the head of a data set's README which files each split of a configuration has; empty where none."""
    head = _head(folder)
    found = [one for one in head.get("configs") or [] if isinstance(one, dict)]
    if not found:
        if data.config is not None:
            raise DataError(f"{shown}: the data set names no configurations; leave {data.config!r} out")
        return {}
    names = [str(one.get("config_name", "default")) for one in found]
    chosen = data.config or next((str(one["config_name"]) for one in found if one.get("default")), None)
    if chosen is None:
        chosen = "default" if "default" in names else names[0] if len(names) == 1 else None
    if chosen not in names:
        what = f"has no configuration {chosen!r}" if chosen else "which configuration"
        raise DataError(f"{shown}: {what}; expected one of {', '.join(names)}")
    said = found[names.index(chosen)].get("data_files")
    if isinstance(said, str):
        said = [said]
    if isinstance(said, dict):
        said = [{"split": split, "path": path} for split, path in said.items()]
    splits: dict[str, list[str]] = {}
    for one in said or [f"{found[names.index(chosen)].get('data_dir', '.')}/**"]:
        split, path = (one["split"], one["path"]) if isinstance(one, dict) else ("train", one)
        patterns = [path] if isinstance(path, str) else list(path)
        for pattern in patterns:
            if ".." in PurePosixPath(pattern).parts or pattern.startswith("/") or "://" in pattern:
                raise DataError(f"{shown}: its files {pattern!r} lie outside the data set; they are not read")
        splits.setdefault(str(split), []).extend(patterns)
    return splits


def _head(folder: Path) -> dict[str, Any]:
    from huggingface_hub import DatasetCard

    if not (folder / ABOUT).is_file():
        return {}
    try:
        return dict(DatasetCard.load(folder / ABOUT, ignore_metadata_errors=True).data.to_dict())
    except Exception as error:  # YAML of somebody's: a scanner, parser, type or value error
        raise DataError(f"{printable(folder / ABOUT)}: its head can't be read ({short(error)})") from error


def _files(folder: Path, patterns: Sequence[str]) -> list[Path]:
    found = {
        file
        for pattern in patterns
        for one in ((pattern, f"{pattern}/*") if pattern.endswith("**") else (pattern,))
        for file in folder.glob(one)
        if file.is_file()
    }
    return sorted(found)


def _open(root: Path, data: Data, shown: str) -> tuple[list[Path], list[tuple[str, Dataset]]]:
    from datasets import DatasetDict, Image, load_dataset

    if root.is_file():
        splits = {"train": [root]}
    elif configured := _configured(root, data, shown):
        splits = {split: _files(root, patterns) for split, patterns in configured.items()}
    else:
        splits = {}
    listed = [file for part in splits.values() for file in part] or [file for file in root.rglob("*") if file.is_file()]
    files = sorted(file for file in listed if file.suffix == ".parquet")
    module = "parquet" if files else "imagefolder"
    if not files:
        files = sorted(file for file in listed if file.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"{shown}: holds neither parquet nor picture files; download it and name a folder with --data")
    where: dict[str, Any] = {"data_dir": str(root)}
    if splits:
        where = {"data_files": {split: [str(file) for file in part] for split, part in splits.items() if part}}
    options = {"drop_labels": True} if module == "imagefolder" else {}
    try:
        loaded = load_dataset(module, **where, **options)
    except Exception as error:  # pyarrow's, the builder's and the operating system's errors, of many classes
        raise DataError(f"{shown}: can't be opened ({short(error.__cause__ or error)})") from error
    if not isinstance(loaded, DatasetDict):
        raise DataError(f"{shown}: expected a data set with splits")
    names = data.split.split("+") if data.split else list(loaded)
    if data.split is None and len(names) > 1:
        raise DataError(f"{shown}: which split? Expected one of {', '.join(names)}, or several with + between them")
    parts = []
    for name in names:
        if name not in loaded:
            raise DataError(f"{shown}: has no split {name!r}; expected one of {', '.join(loaded)}")
        rows = loaded[name]
        column = _picture_column(rows, shown)
        plain = [key for key, kind in rows.features.items() if getattr(kind, "dtype", "") in _PLAIN]
        keep = dict.fromkeys([column, *plain, *(key for key in ("text", "lines") if key in rows.column_names)])
        parts.append((name, rows.select_columns(list(keep)).cast_column(column, Image(decode=False))))
    return files, parts


_PLAIN = frozenset({
    "string", "large_string", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "float32", "float64",
})  # fmt: skip


def _picture_column(rows: Dataset, shown: str) -> str:
    from datasets import Image

    for name, kind in rows.features.items():
        if isinstance(kind, Image):
            return str(name)
    raise DataError(f"{shown}: no column holds pictures (there are {', '.join(rows.column_names)})")
