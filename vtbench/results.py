"""Results: the summary of a run, its per-image table, and how both are written and read. No torch here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError, model_validator

from vtbench import files
from vtbench.cards import explain
from vtbench.errors import ResultError
from vtbench.statistics import mean_interval
from vtbench.types import Strict

if TYPE_CHECKING:
    import pandas

IMAGES = "images.parquet"
RUN = "run.json"

CLUSTER = "document"
"""The attribute that says which pictures show one document: an interval draws them together."""


class Score(Strict):
    """One metric over all pictures of a task."""

    value: float | None
    """None where it was not scored: never 0, never a perfect score."""
    reason: str | None = None
    """Why it was not scored, and the command that mends it."""
    scored: int = Field(ge=0)
    """Pictures behind the value."""
    expected: int = Field(ge=0)
    """Pictures that the task has."""
    infinite: int = 0
    """Pictures whose value is infinite (PSNR of equal pictures)."""
    floor: float | None = None
    """The same metric of the originals themselves, where an OCR engine reads: what the engine alone gets wrong."""
    low: float | None = None
    """Ends of the 95% interval; None where the metric has none, or only one picture was scored."""
    high: float | None = None

    @property
    def excess(self) -> float | None:
        """What of an error rate is the tokenizer's: the value less the floor."""
        return None if self.value is None or self.floor is None else self.value - self.floor

    @model_validator(mode="after")
    def _missing_has_a_reason(self) -> Score:
        if (self.value is None) != (self.reason is not None):
            raise ValueError("a missing value needs a reason, and only a missing value has one")
        return self


class Timing(Strict):
    """How fast it went; the only part of a run that differs between two equal runs."""

    encode_per_second: float | None
    """Pictures a second through the encoder."""
    decode_per_second: float | None
    seconds: float
    """From reading the first picture to the last metric, all shards together."""
    started: str
    """UTC, ISO 8601."""


class Run(Strict):
    """What one tokenizer scored on one task, and everything that made the numbers what they are."""

    schema_version: Literal[2] = 2
    tokenizer: str
    family: str
    kind: Literal["discrete", "continuous", "codec"]
    task: str
    task_family: str
    task_version: int
    protocol: str
    primary: str
    """The metric that ranks."""
    scores: dict[str, Score]
    """By metric; "contrast/0.25" is the metric `contrast` at its level 0.25."""
    groups: dict[str, dict[str, dict[str, Score]]] = Field(default_factory=dict)
    """The same scores by attribute of the pictures and its value, such as groups["cap_height"]["12"]["cer"]."""
    tokens_per_image: int | None = None
    codebook_sizes: tuple[int, ...] = ()
    parameters: int
    images: int
    """Pictures that the task has, or `limit` where that is less."""
    limit: int | None = None
    weights: Literal["published", "local", "synthetic", "none"]
    data_revision: str | None = None
    """The commit of the hub's data set that was really read."""
    digests: dict[str, str | None]
    """sha256 of the tokenizer card, task card, weights, data, code and metric backbones."""
    version: str
    """vtbench's own."""
    commit: str | None
    dirty: bool | None
    """Whether code or cards differed from the commit; both are None outside a checkout."""
    versions: dict[str, str]
    """Python and the libraries that can move a number."""
    device: str
    precision: Literal["fp32", "fp16", "bf16"]
    batch_size: int
    timing: Timing

    @property
    def stem(self) -> str:
        """Name its files and folders: the tokenizer, and the protocol where it is not canonical."""
        return file_stem(self.tokenizer, self.protocol)

    @property
    def ranked(self) -> bool:
        """Whether a leaderboard may place it: made-up weights and parts of a task are shown, never ranked."""
        return self.weights != "synthetic" and self.limit is None


def file_stem(tokenizer: str, protocol: str) -> str:
    """Name the files of a run: "ibq-262144", or "ibq-262144@seed-voken"."""
    return tokenizer if protocol == "canonical" else f"{tokenizer}@{protocol}"


def summarise(
    values: Sequence[float | None],
    expected: int,
    reason: str,
    *,
    cap: float | None = None,
    clusters: Sequence[str] | None = None,
    interval: bool = True,
) -> Score:
    """Average the values of single pictures; `reason` is said where none was scored.

    Infinite values count `cap` beside finite ones; a mean of infinite values alone is infinite, and one without a cap.

    Args:
        values: one a picture; None where it was not scored.
        expected: how many there should be.
        reason: why there is none.
        cap: what an infinite value counts, as `protocols.Metric.cap` says.
        clusters: the document of each picture, where several show one.
        interval: whether to compute the 95% interval (`statistics.mean_interval`).
    """
    places = [place for place, value in enumerate(values) if value is not None and not math.isnan(value)]
    scored = [value for value in values if value is not None and not math.isnan(value)]
    if not scored:
        return Score(value=None, reason=reason, scored=0, expected=expected)
    infinite = sum(math.isinf(value) for value in scored)
    if infinite == len(scored) or (infinite and cap is None):
        return Score(value=math.inf, scored=len(scored), expected=expected, infinite=infinite)
    finite = [cap if cap is not None and math.isinf(value) else value for value in scored]
    ends: tuple[float | None, float | None] = (None, None)
    if interval and len(finite) > 1:
        ends = mean_interval(finite, [clusters[place] for place in places] if clusters else None)
    mean = math.fsum(finite) / len(finite)
    return Score(value=mean, scored=len(finite), expected=expected, infinite=infinite, low=ends[0], high=ends[1])


# --- files ------------------------------------------------------------------------------------------------------------


def write(run: Run, path: Path) -> None:
    """Write the summary of a run, indented so that its differences can be read."""
    files.write_atomic(path, (run.model_dump_json(indent=2, exclude_defaults=False) + "\n").encode())


def read_run(path: Path) -> Run:
    """Read one summary.

    Raises:
        ResultError: if it is missing, truncated or of another schema.
    """
    try:
        return Run.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ResultError(f"{path}: can't be read ({error.strerror}); expected the JSON of a run") from error
    except ValidationError as error:
        if any(item["loc"] == ("schema_version",) for item in error.errors()):
            raise ResultError(
                f"{path}: written by another version of vtbench; run it again with --overwrite"
            ) from error
        raise ResultError(f"{path}: not the summary of a run: {explain(error)}") from error


def read(folder: Path) -> list[Run]:
    """Read all summaries under a results folder, in the order of task and tokenizer whatever the file system says."""
    if not folder.is_dir():
        raise ResultError(f"{folder}: no such folder; `vtbench run` makes one, --results names another")
    runs = [read_run(path) for path in folder.glob("*/*.json")]
    return sorted(runs, key=lambda run: (run.task, run.protocol, run.tokenizer))


def find_run(place: Path, work: Path) -> tuple[Run, Path]:
    """Find a run and its per-image table.

    Args:
        place: the folder that a run left in the work folder, or the JSON of a run.
        work: the work folder where the table of a JSON from the results folder is looked for.

    Returns:
        The run, and the path of its `images.parquet`.

    Raises:
        ResultError: if either is missing, or the table is of another run.
    """
    run = read_run(place / RUN if place.is_dir() else place)
    candidates = [(place if place.is_dir() else place.parent), work / run.task / run.stem]
    for folder in candidates:
        images, summary = folder / IMAGES, folder / RUN
        if images.is_file() and summary.is_file() and read_run(summary) == run:
            return run, images
    raise ResultError(
        f"{place}: its per-image table is not in {candidates[-1]}; keep the work folder's "
        f"{run.task}/{run.stem}/ ({RUN} and {IMAGES}) and name that folder, or run it again"
    )


def read_images(path: Path) -> pandas.DataFrame:
    """Read a per-image table: one row a picture, one column a metric, `id` and `reason` beside them."""
    import pandas

    try:
        return pandas.read_parquet(path)
    except (OSError, ValueError) as error:
        raise ResultError(f"{path}: not a whole per-image table ({error}); run it again with --overwrite") from error
