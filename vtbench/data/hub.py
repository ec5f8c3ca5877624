"""Pictures of a data set on the Hugging Face hub, through the `datasets` library, memory-mapped.

The cache is asked first. Only what is not there is downloaded, and only the files of the configuration that is asked
for. What another tool brought is held against the hub's list of files once, unless its parts say how many they are.
Without a network this ends within seconds, saying what is missing and how to bring it. `datasets` lays tables out for
access by number, so that 50,000 pictures never sit in memory.

`_rows` says which columns are read; `_splitfiles` reads sets of picture files and of archives.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING, Literal

from pydantic import ValidationError

from vtbench import data as sources
from vtbench import files
from vtbench.cards import Data, explain
from vtbench.data import _rows, _shards
from vtbench.data._names import printable, short
from vtbench.data._pictures import Crop
from vtbench.data._splitfiles import SplitPictures
from vtbench.errors import DataError, ResultError
from vtbench.types import Sample

if TYPE_CHECKING:
    from datasets.utils.metadata import MetadataConfigs

log = logging.getLogger("vtbench")

PLACE = re.compile(r"hub:(?P<hub>\w[\w.-]*/\w[\w.-]*)(/(?P<config>[^@:]+))?(@(?P<revision>[^:]+))?(:(?P<split>.+))?")
"""How `--data` names a data set on the hub: hub:OWNER/NAME[/CONFIG][@REVISION][:SPLIT]."""

ABOUT = "README.md"


class Source(sources.Source):
    """The pictures of one split, or of several: rows of tables, one split after the other, or files by their names."""

    def __init__(
        self,
        *,
        size: int | None,
        path: Path | None = None,
        crop: Crop = "center",
        data: Data | None = None,
        text: bool = True,
    ) -> None:
        """Open the data set that a card names.

        Args:
            size: height and width that a task asks for; None gives each picture as it is.
            path: in place of the card's data set: a .parquet file, several (`x-{000..009}.parquet`, `x-*.parquet`), a
                folder of them or one that `save_to_disk` wrote; or a place on the hub, as `parse` reads it.
            crop: how a picture is brought to that size.
            data: which data set, configuration, revision and split.
            text: whether known text is needed.
        """
        data = data or Data(source="hub")
        if path is not None and str(path).startswith("hub:"):
            data, path = parse(str(path)), None
        self._revision: str | None = None
        if path is not None:
            self._held = _of_user(path, data, size, crop, text)
            return
        if data.hub is None:
            raise DataError("hub: no data set named; give --data hub:OWNER/NAME[/CONFIG][@REVISION][:SPLIT]")
        root, self._revision = snapshot(data)
        splits, shown = _splits(root, data), str(data.hub)
        if _holds_tables(root, splits):
            table = _rows.Table(root, splits, data.split, shown, text=text)
            home = root.parent.parent  # links lead to ../../blobs
            self._held = _rows.Pictures(table, size=size, crop=crop, home=home, text=text)
        else:
            self._held = SplitPictures(root, splits, data.split, shown, lenient=False, size=size, crop=crop, text=text)
        if data.images not in (None, len(self)):
            raise DataError(
                f"{data.hub} at {self._revision} has {len(self)} pictures, the card expects {data.images}; the data "
                "set has changed, or part of it is missing"
            )

    @property
    def text(self) -> Literal["none", "page", "boxes"]:
        """Whether text is known, and where on the picture."""
        return self._held.text

    @property
    def known_text(self) -> str | None:
        """All text that is known."""
        return self._held.known_text

    @property
    def attributes(self) -> frozenset[str]:
        """Names of what results can be grouped by."""
        return self._held.attributes

    @property
    def revision(self) -> str | None:
        """The commit that is read; None of files that the user names."""
        return self._revision

    @property
    def passed_over(self) -> Mapping[str, int]:
        """Files that were meant as pictures, or as several, and are not read, by kind."""
        return self._held.passed_over

    @property
    def digest(self) -> str:
        """sha256 over the contents that are read, the split and the geometry."""
        return self._held.digest

    def __len__(self) -> int:
        """Count the pictures."""
        return len(self._held)

    def sample_id(self, index: int) -> str:
        """Return the number of a row, after the name of its split where there are several, or the name of a file."""
        return self._held.sample_id(index)

    def read(self, index: int) -> Sample:
        """Read one picture and bring it to the task's size."""
        return self._held.read(index)


def _of_user(path: Path, data: Data, size: int | None, crop: Crop, text: bool) -> sources.Source:
    """Open files of the user's; what the card says of its own data holds where there is such."""
    shown = printable(path)
    if files.is_dir(path):
        splits = _splits(path, data) if _head(path) else {}
        lenient = not splits
        if not _holds_tables(path, splits):
            return SplitPictures(path, splits, data.split, shown, lenient=lenient, size=size, crop=crop, text=text)
        table = _rows.Table(path, splits, data.split, shown, lenient=lenient, text=text)
        if splits:  # tables of other splits and configurations are no slip
            listed = _shards.below(path)
            table.left_out = listed.beside({*table.files, *listed.parts((".parquet",))}, "the tables")
    elif files.exists(path):
        table = _rows.Table(path, {"train": [path]}, None, shown, text=text)
    elif _shards.is_pattern(str(path)):
        table = _rows.Table(path.parent, {"train": _shards.expand(str(path))}, None, shown, text=text)
    else:
        raise DataError(f"{shown}: does not exist; expected a parquet file or a folder of them")
    return _rows.Pictures(table, size=size, crop=crop, home=path, text=text)


def _holds_tables(root: Path, splits: Mapping[str, Sequence[Path]]) -> bool:
    if splits:
        return any(file.name.lower().endswith(".parquet") for part in splits.values() for file in part)
    return any((root / name).is_file() for name in _rows.SAVED) or _shards.below(root).has_parts((".parquet",))


def parse(place: str) -> Data:
    """Read hub:OWNER/NAME[/CONFIG][@REVISION][:SPLIT].

    Raises:
        DataError: if it is of another form.
    """
    found = PLACE.fullmatch(place)
    if found is None:
        raise DataError(f"{place}: expected hub:OWNER/NAME[/CONFIG][@REVISION][:SPLIT]")
    said = found.groupdict()
    try:
        return Data(
            source="hub", hub=said["hub"], config=said["config"], revision=said["revision"], split=said["split"]
        )
    except ValidationError as error:
        raise DataError(f"{place}: expected hub:OWNER/NAME[/CONFIG][@REVISION][:SPLIT] ({explain(error)})") from error


# --- bringing ---------------------------------------------------------------------------------------------------------


def takes(place: str, data: Data) -> bool:
    """Take the hub's places, .parquet files, a folder of them without a picture, and what `save_to_disk` wrote.

    A folder of both is one of pictures, but where it is a copy of the card's own data set.
    """
    path = Path(place)
    if place.startswith("hub:") or (place.lower().endswith(".parquet") and "://" not in place):
        return True
    if not files.is_dir(path):
        return False
    if any((path / name).is_file() for name in _rows.SAVED):
        return True
    if not _shards.named_so(path, (".parquet",)):
        return False
    listed = _shards.below(path)
    return listed.has_parts((".parquet",)) and (_is_copy(path, data) or not listed.holds_pictures())


def _is_copy(path: Path, data: Data) -> bool:
    """Tell whether a folder's README names the configuration that a card asks for."""
    try:
        return data.source == "hub" and data.config in (None, *_head(path)) and any(_splits(path, data).values())
    except DataError:
        return False


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
    looks_whole = here is not None and _is_whole(here, data, patterns)
    if here is not None and looks_whole and _is_certain(here, data, patterns):
        return here, here.name
    # The hub client retries for 25 s without a network and hangs on a silent server, so ask first.
    reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else files.unreachable(constants.ENDPOINT)
    if reason and here is not None and looks_whole:
        return _unsure(here, data, reason)
    if reason:
        raise DataError(f"{_missing(data)} ({reason})")
    try:
        about = _download(data, here.name if here is not None and looks_whole else data.revision, [ABOUT])
        wanted = patterns or [pattern for part in _configured(about, data).values() for pattern in part]
        asked = [ABOUT, *wanted] if wanted else None
        expected = _listed(data, about.name, asked)
    except DataError as error:  # gated, gone, too many requests
        if here is None or not looks_whole:
            raise
        return _unsure(here, data, _reason(error))
    marker = _marker(about, data, patterns)
    begun = _begun(marker)
    with contextlib.suppress(ResultError):  # a cache that is only read may still be whole
        files.write_atomic(begun, b"")
    folder = _download(data, about.name, asked)
    if lacking := [name for name in expected if not (folder / name).is_file()]:
        raise DataError(f"{_missing(data)} ({len(lacking)} of {len(expected)} files lack, such as {lacking[0]})")
    with contextlib.suppress(ResultError):
        files.write_atomic(marker, json.dumps(expected).encode())
        begun.unlink(missing_ok=True)
    return folder, folder.name


def _unsure(here: Path, data: Data, reason: str) -> tuple[Path, str]:
    """Give what looks whole, and say that nobody can tell whether it is."""
    log.warning(
        "data set %s was brought by another tool; without the hub's list of its files it can't be told whether all are "
        "there (%s)", _name(data), reason,
    )  # fmt: skip
    return here, here.name


def _name(data: Data) -> str:
    return f"{data.hub}/{data.config}" if data.config else str(data.hub)


def _missing(data: Data) -> str:
    revision = f" at {data.revision}" if data.revision else ""
    return (
        f"data set {_name(data)}{revision} is not on this machine, or only in part: run `vtbench fetch` with the "
        f"task's name, or with hub:{data.hub}, where there is a network, or copy HF_HOME from a machine that has it"
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

    with _told(data, revision):
        found = snapshot_download(
            str(data.hub),
            repo_type="dataset",
            revision=revision,
            cache_dir=constants.HF_HUB_CACHE,
            endpoint=constants.ENDPOINT,
            allow_patterns=list(patterns) if patterns is not None else None,
        )
    return Path(found)


def _listed(data: Data, commit: str, patterns: Sequence[str] | None) -> list[str]:
    """Ask the hub which files there are to bring; where it fails, its client may take the cache for the whole."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

    with _told(data, commit):
        there = HfApi(constants.ENDPOINT).list_repo_files(str(data.hub), repo_type="dataset", revision=commit)
    return sorted(filter_repo_objects(there, allow_patterns=list(patterns) if patterns is not None else None))


@contextlib.contextmanager
def _told(data: Data, revision: str | None) -> Iterator[None]:
    """Say in one line what the hub refuses."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        yield
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
        raise DataError(f"{_missing(data)} ({constants.ENDPOINT}: {_reason(error)})") from error


def _reason(error: BaseException) -> str:
    return short(error.__cause__ or error).split(" For more information", 1)[0]


def _marker(snapshot: Path, data: Data, patterns: Sequence[str] | None) -> Path:
    """The list of files of a finished download; it lies beside the snapshots, so that a copy of HF_HOME has it."""
    what = hashlib.sha256(json.dumps([data.config, patterns]).encode()).hexdigest()[:12]
    return snapshot.parent.parent / f".vtbench-{snapshot.name}-{what}.json"


def _begun(marker: Path) -> Path:
    """What lies there while such a download is under way, and after one that broke off."""
    return marker.with_suffix(".begun")


def _is_whole(snapshot: Path, data: Data, patterns: Sequence[str] | None) -> bool:
    """Tell whether the files are here, as far as can be told from them."""
    marker = _marker(snapshot, data, patterns)
    if marker.is_file():
        return all((snapshot / name).is_file() for name in json.loads(marker.read_bytes()))
    # Brought by another tool: perhaps whole where every split has files, and numbered parts are all there.
    parts = _parts(snapshot, data, patterns)
    return bool(parts) and not _begun(marker).is_file() and all(files and _is_complete(files) for files in parts)


def _is_certain(snapshot: Path, data: Data, patterns: Sequence[str] | None) -> bool:
    """Tell whether files that look whole are: a finished download, or parts that say how many they are."""
    if _marker(snapshot, data, patterns).is_file():
        return True
    return all(_shards.is_part(file) for files in _parts(snapshot, data, patterns) for file in files)


def _parts(snapshot: Path, data: Data, patterns: Sequence[str] | None) -> list[list[Path]]:
    wanted = {pattern: [pattern] for pattern in patterns} if patterns else _configured(snapshot, data)
    return [_files(snapshot, part) for part in wanted.values()]


def _is_complete(files: Sequence[Path]) -> bool:
    try:
        _shards.check_whole(files)
    except DataError:
        return False
    return True


# --- configurations ---------------------------------------------------------------------------------------------------


def _splits(folder: Path, data: Data) -> dict[str, list[Path]]:
    """List the files of each split of a configuration; nothing where the data set names none."""
    patterns = _configured(folder, data)
    return {split: _files(folder, part) for split, part in patterns.items()}


def _configured(folder: Path, data: Data) -> dict[str, list[str]]:
    """Read from the head of a data set's README which files each split of a configuration has; empty where none."""
    from datasets.data_files import sanitize_patterns

    shown = _name(data) if data.hub else printable(folder)
    configs = _head(folder)
    if not configs:
        if data.config is not None:
            raise DataError(f"{shown}: the data set names no configurations; leave {data.config!r} out")
        return {}
    try:
        chosen = data.config or configs.get_default_config_name()
    except ValueError as error:
        raise DataError(f"{shown}: names no default configuration ({short(error)}); name one of its") from error
    if chosen not in configs:
        what = f"has no configuration {chosen!r}" if chosen else "which configuration"
        raise DataError(f"{shown}: {what}; expected one of {', '.join(configs)}")
    said = configs[chosen].get("data_files") or f"{configs[chosen].get('data_dir', '.')}/**"
    try:
        splits: dict[str, list[str]] = sanitize_patterns(said)
    except ValueError as error:
        raise DataError(f"{shown}: its configuration {chosen} can't be read ({short(error)})") from error
    for pattern in (pattern for part in splits.values() for pattern in part):
        if ".." in PurePosixPath(pattern).parts or pattern.startswith("/") or "://" in pattern:
            raise DataError(f"{shown}: its files {pattern!r} lie outside the data set; they are not read")
    # The hub's list of files says a.parquet, and never ./a.parquet.
    return {split: [pattern.removeprefix("./") for pattern in part] for split, part in splits.items()}


def _head(folder: Path) -> MetadataConfigs:
    """Read the configurations in the head of a data set's README."""
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard

    if not (folder / ABOUT).is_file():
        return MetadataConfigs()
    try:
        about = DatasetCard.load(folder / ABOUT, ignore_metadata_errors=True).data
        return MetadataConfigs.from_dataset_card_data(about)
    except Exception as error:  # YAML of somebody's: a scanner, parser, type or value error
        raise DataError(f"{printable(folder / ABOUT)}: its head can't be read ({short(error)})") from error


def _files(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """List the files that patterns stand for; as for `datasets`, hidden ones only where a pattern says so."""
    found = {
        file
        for pattern in patterns
        for one in ((pattern, f"{pattern}/*") if pattern.endswith("**") else (pattern,))
        for file in folder.glob(one)
        if file.is_file() and _hidden(PurePosixPath(pattern)) == _hidden(file.relative_to(folder))
    }
    return sorted(found)


def _hidden(path: PurePath) -> int:
    return sum(part.startswith(".") for part in path.parts)
