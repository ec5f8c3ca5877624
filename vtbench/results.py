"""Results: the summary of a run, its per-image table, and how both are written and read. No torch here."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, WithJsonSchema, model_validator

from vtbench import files
from vtbench.cards import explain
from vtbench.errors import ResultError
from vtbench.statistics import mean_interval
from vtbench.types import Strict

if TYPE_CHECKING:
    import pandas

ORIGINALS = "originals"
"""Folder in the work folder: what was computed of originals alone, so that it is computed but once."""

IMAGES = "images.parquet"
RUN = "run.json"

CLUSTER = "attribute/document"
"""The column that says which pictures show one document: an interval draws them together."""

LARGEST = 1 << 26
"""Bytes of the largest summary that is read."""

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""What a label of weights looks like: a part of file names."""

LABEL_FORM = "expected letters, digits, dots, dashes and underscores, a letter or digit first"

WeightsOrigin = Literal["published", "packaged", "local", "synthetic", "none"]
"""published: the card's own file; packaged: one that ships inside vtbench; local: a file, mapping or live model of the
user's; synthetic: made up; none: there is nothing to load."""

BOTH_SIGNS = "infinite values of both signs have no mean"
"""Why a metric has no score though pictures have values."""

UNRANKED = "nothing ranks by diagnostics"
"""Why no run of the family `latents` has a rank."""

LOCAL = "local weights"
"""Why a run of somebody's own weights has no rank, unless it is asked for."""

CANONICAL = "canonical"
"""The suite's own protocol, which a run's name does not say."""


def _from_json(value: object) -> object:
    """JSON has no infinite number: in a file it is the string."""
    return float(value) if value in ("Infinity", "-Infinity") else value


def _not_nan(value: float) -> float:
    if math.isnan(value):
        raise ValueError("NaN is no value; a missing one is null, with a reason")
    return value


Number = Annotated[
    float,
    BeforeValidator(_from_json),
    AfterValidator(_not_nan),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"enum": ["Infinity", "-Infinity"]}]}),
]
"""A value that may be infinite and is never NaN."""


class Score(Strict):
    """One metric over all pictures of a task."""

    value: Number | None
    """None where it was not scored: never 0, never a perfect score."""
    reason: str | None = None
    """Why it was not scored, and the command that mends it."""
    scored: int = Field(ge=0)
    """Pictures behind the value."""
    expected: int = Field(ge=0)
    """Pictures that the task has."""
    infinite: int = 0
    """Pictures whose value is infinite (PSNR of equal pictures)."""
    floor: Number | None = None
    """The same metric of the originals themselves, where an OCR engine reads: what the engine alone gets wrong."""
    low: Number | None = None
    """Lower end of the 95% interval; None where the metric has none, or only one picture was scored."""
    high: Number | None = None
    """Upper end of the 95% interval."""

    @classmethod
    def missing(cls, reason: str, expected: int, *, scored: int = 0) -> Score:
        """Say why there is no value; `scored` pictures were looked at all the same."""
        return cls(value=None, reason=reason, scored=scored, expected=expected)

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
    """Pictures a second through the decoder."""
    seconds: float
    """From reading the first picture to the last metric, all shards together."""
    started: str
    """When the first shard was begun; UTC, ISO 8601."""


class Pictures(Strict):
    """What became of the pictures: found = scored + failed + passed over + left out."""

    found: int
    """Picture files of the source, and files that look meant as such."""
    scored: int
    """Pictures that were read and reconstructed."""
    failed: int
    """Pictures that could not be read or reconstructed."""
    reasons: dict[str, int] = Field(default_factory=dict)
    """The commonest reasons of what failed, and how many pictures each had."""
    passed_over: dict[str, int] = Field(default_factory=dict)
    """What the source did not take for pictures of the set, by kind."""
    left_out: int = 0
    """Pictures after the first ones that `--limit` took."""


class Run(Strict):
    """What one tokenizer scored on one task, and everything that made the numbers what they are."""

    schema_version: Literal[3] = 3
    """Raised whenever a Run gains, loses or changes a field."""
    tokenizer: str
    """The name of the card, or of the live model."""
    label: str | None = None
    """Which weights, where they are not the card's own; see `run_name`."""
    step: float | None = None
    """Training step of the weights, where known."""
    family: str
    """The tokenizer's family, as its card says."""
    kind: Literal["discrete", "continuous", "codec", "understanding", "opaque"]
    """What its codes are; opaque: nobody sees them."""
    task: str
    """The task's name; `<task>@<label>` on pictures of the user's."""
    task_family: str
    task_version: int
    """The task card's version: raised whenever a score could change."""
    protocol: str
    """How pictures became numbers; canonical is the suite's own way."""
    primary: str
    """The metric that ranks."""
    scores: dict[str, Score]
    """By metric; "contrast/0.25" is the metric `contrast` at its level 0.25."""
    groups: dict[str, dict[str, dict[str, Score]]] = Field(default_factory=dict)
    """The same scores by attribute of the pictures and its value, such as `groups["cap_height"]["12"]["cer"]`."""
    tokens_per_image: int | None = None
    """Tokens of one picture, over all scales and depths; None where there are none."""
    codebook_sizes: tuple[int, ...] = ()
    """Codes an index chooses from, one entry a codebook or scale."""
    parameters: int
    """Parameters of the network."""
    images: int
    """Pictures that the task has, or `limit` where that is less."""
    pictures: Pictures
    """What became of the pictures that were found."""
    limit: int | None = None
    """Only the first so many pictures were asked for, and the task has more."""
    weights: WeightsOrigin
    """Where the weights came from: published, packaged, local, synthetic or none."""
    ema: int = 0
    """How many tensors came from an averaged copy of the weights."""
    data_revision: str | None = None
    """The commit of the hub's data set that was really read."""
    digests: dict[str, str | None]
    """sha256 of the cards, weights, data, code, network, metric backbones, plan and per-image table."""
    version: str
    """vtbench's own."""
    commit: str | None
    """The commit of vtbench's checkout."""
    dirty: bool | None
    """Whether code or cards differed from the commit; both are None outside a checkout."""
    versions: dict[str, str]
    """Python and the libraries that can move a number."""
    device: str
    """The device that computed, by type and model."""
    precision: Literal["fp32", "fp16", "bf16"]
    """The type of the network's numbers."""
    compiled: bool = False
    """Whether the network went through torch.compile."""
    batch_size: int
    """Pictures a forward pass."""
    timing: Timing
    """How fast it went."""

    @property
    def name(self) -> str:
        """Name it uniquely within its task, its files and folders too."""
        return run_name(self.tokenizer, self.label, self.precision, self.protocol)

    @property
    def trial(self) -> bool:
        """Whether it is of made-up weights, or of the first pictures alone."""
        return self.weights == "synthetic" or self.limit is not None

    @property
    def unranked(self) -> str | None:
        """Say why a leaderboard may not place it, whatever else stands there; None where it may."""
        if self.weights == "synthetic":
            return "made-up weights"
        if self.limit is not None:
            return f"the first {self.images} pictures alone"
        score = self.scores.get(self.primary)
        if score is None or score.value is None:
            return f"{self.primary} was not scored"
        if self.task_family == "latents":
            return UNRANKED
        return LOCAL if self.weights == "local" else None

    def flat(self) -> dict[str, float]:
        """Give every score by "task/metric", as loggers want them; what was not scored is left out."""
        return {f"{self.task}/{name}": score.value for name, score in self.scores.items() if score.value is not None}


def run_name(tokenizer: str, label: str | None, precision: str, protocol: str) -> str:
    """Name a run: "ibq-262144", "ibq-262144~step-20000", "ibq-262144+bf16@seed-voken".

    The card alone stands for its own weights in fp32 under the canonical protocol; behind it, in this order, a label
    of other weights, another precision and a published protocol.
    """
    return (
        tokenizer
        + (f"~{label}" if label else "")
        + (f"+{precision}" if precision != "fp32" else "")
        + (f"@{protocol}" if protocol != CANONICAL else "")
    )


def schema() -> dict[str, Any]:
    """Give the JSON Schema of a run's summary, as it is shipped in vtbench/assets/run.schema.json."""
    return Run.model_json_schema(mode="serialization")


def clusters_of(documents: Iterable[object]) -> list[Hashable]:
    """Say which pictures an interval draws together: those of one document; one without is a cluster of its own."""
    return [
        place if said in (None, "") or (isinstance(said, float) and math.isnan(said)) else str(said)
        for place, said in enumerate(documents)
    ]


def capped(value: float, cap: float | None) -> float:
    """Give what a value counts in a mean beside others: no more than the cap, or no less than a negative one.

    Finite values too: one level of one pixel at 256 px is 101 dB, and equal pictures may not count less than that.
    """
    if cap is None:
        return value
    return min(value, cap) if cap >= 0 else max(value, cap)


def summarise(
    values: Sequence[float | None],
    expected: int,
    reason: str,
    *,
    cap: float | None = None,
    clusters: Sequence[Hashable] | None = None,
    interval: bool = True,
) -> Score:
    """Average the values of single pictures; `reason` is said where none was scored.

    Values count up to `cap`; a mean of infinite values alone is infinite, and so is one with an infinite value that has
    no cap. Of both signs together there is none.

    Args:
        values: one a picture; None where it was not scored.
        expected: how many there should be.
        reason: why there is none.
        cap: what a value beyond it counts, as `catalogue.Metric.cap` says.
        clusters: of each picture, where several show one document (`clusters_of`).
        interval: whether to compute the 95% interval (`statistics.mean_interval`).
    """
    places = [place for place, value in enumerate(values) if value is not None and not math.isnan(value)]
    scored = [value for value in values if value is not None and not math.isnan(value)]
    if not scored:
        return Score.missing(reason, expected)
    infinite = sum(math.isinf(value) for value in scored)
    alone = infinite == len(scored) and len(set(scored)) == 1
    finite = scored if alone else [capped(value, cap) for value in scored]
    endless = {value for value in finite if math.isinf(value)}
    if len(endless) > 1:
        return Score(value=None, reason=BOTH_SIGNS, scored=0, expected=expected, infinite=infinite)
    if endless:
        return Score(value=endless.pop(), scored=len(scored), expected=expected, infinite=infinite)
    ends: tuple[float | None, float | None] = (None, None)
    own = [clusters[place] for place in places] if clusters else None
    if interval and len(set(own) if own else finite) > 1:
        ends = mean_interval(finite, own)
    mean = math.fsum(finite) / len(finite)
    return Score(value=mean, scored=len(finite), expected=expected, infinite=infinite, low=ends[0], high=ends[1])


# --- files ------------------------------------------------------------------------------------------------------------


def encode(run: Run) -> bytes:
    """Lay a summary out as JSON that every parser reads, indented so that its differences can be read."""
    return (run.model_dump_json(indent=2) + "\n").encode()


def write(run: Run, path: Path) -> None:
    """Write the summary of a run."""
    files.write_atomic(path, encode(run))


def read_run(path: Path) -> Run:
    """Read one summary: its file, or the folder that a run left in the work folder.

    Raises:
        ResultError: if it is missing, truncated, no regular file or of another schema.
    """
    try:
        if files.is_file(path / RUN):
            path = path / RUN
        if path.exists() and not path.is_file():
            what = f"a folder without {RUN}" if path.is_dir() else "not a regular file"
            raise ResultError(f"{path}: {what}; expected the JSON of a run, or the folder that it left")
        if path.stat().st_size > LARGEST:
            raise ResultError(f"{path}: {path.stat().st_size} bytes; expected the JSON of a run, which is far smaller")
        content = path.read_bytes()
    except OSError as error:
        raise ResultError(f"{path}: can't be read ({error.strerror}); expected the JSON of a run") from error
    try:
        return Run.model_validate_json(content)
    except ValidationError as error:
        if any(item["loc"] == ("schema_version",) for item in error.errors()):
            raise ResultError(
                f"{path}: written by another version of vtbench; run it again with --overwrite"
            ) from error
        lacking = [
            str(item["loc"][0]) for item in error.errors() if item["type"] == "missing" and len(item["loc"]) == 1
        ]
        why = f"it lacks {', '.join(lacking[:3])} and {len(lacking) - 3} more" if len(lacking) > 3 else explain(error)
        raise ResultError(f"{path}: not the summary of a run: {why[:300]}; leave such files elsewhere") from error


def read_runs(folder: str | Path) -> list[Run]:
    """Read all summaries under a results folder, in the order of task and name whatever the file system says.

    Args:
        folder: where `<task>/<name>.json` lie.

    Raises:
        ResultError: if there is no such folder, or a file of it can't be read.
    """
    folder = Path(folder)
    if not files.is_dir(folder):
        raise ResultError(f"{folder}: no such folder; `vtbench run` makes one (its --out)")
    return sorted(map(read_run, folder.glob("*/*.json")), key=lambda run: (run.task, run.protocol, run.name))


def find_run(place: Path, work: Path) -> tuple[Run, Path]:
    """Find a run and its per-image table.

    Args:
        place: the folder that a run left in the work folder, the JSON of a run, or TASK/NAME of a run in the work
            folder.
        work: the work folder where the table of a JSON from the results folder is looked for.

    Returns:
        The run, and the path of its `images.parquet`.

    Raises:
        ResultError: if either is missing, or the table is of another run or was changed since.
    """
    if not files.exists(place):
        place = _in_work(place, work)
    run = read_run(place)
    candidates = {folder: _table_digest_in(folder) for folder in (_beside(place), work / run.task / run.name)}
    for folder, digest in candidates.items():
        if digest is not None and digest == run.digests.get("table"):
            return run, folder / IMAGES
    changed = any(digest is not None for digest in candidates.values())
    what = "is of another run, or was changed since" if changed else f"is not in {work / run.task / run.name}"
    raise ResultError(
        f"{place}: its per-image table {what}; keep the work folder's {run.task}/{run.name}/ ({RUN} and {IMAGES}) "
        "and name that folder, or run it again"
    )


def _in_work(place: Path, work: Path) -> Path:
    """Find the folder of a run in the work folder by TASK/NAME, or by its name where one task alone has it."""
    if len(place.parts) == 1:
        found = sorted(path.parent for path in work.glob(f"*/*/{RUN}") if path.parent.name == place.name)
        if len(found) > 1:
            told = ", ".join(f"{path.parent.name}/{path.name}" for path in found)
            raise ResultError(f"{place}: {len(found)} runs in {work} are called so; expected one of {told}")
        return found[0] if found else place
    return work / place if files.is_file(work / place / RUN) else place


def find_table(run: Run, work: Path, place: Path | None = None) -> Path | None:
    """Find the per-image table of a run: the one whose sha256 the run states; None without it.

    Args:
        run: whose table it is.
        work: the work folder, where it is looked for by the run's name.
        place: the folder or JSON that a user named the run by; beside it the table is looked for first.
    """
    beside = [] if place is None else [_beside(place)]
    for folder in (*beside, work / run.task / run.name):
        path = folder / IMAGES
        try:
            mine = folder in beside or path.resolve().is_relative_to(work.resolve())
            if mine and path.is_file() and files.sha256(path) == run.digests.get("table"):
                return path
        except (OSError, ValueError):  # a name that no file can have
            continue
    return None


def _table_digest_in(folder: Path) -> str | None:
    """sha256 of the per-image table in a folder; None where none can be read, as by a name that no file can have."""
    try:
        return files.sha256(folder / IMAGES) if (folder / IMAGES).is_file() else None
    except (OSError, ValueError):
        return None


def _beside(place: Path) -> Path:
    return place if files.is_dir(place) else place.parent


def read_images(path: Path) -> pandas.DataFrame:
    """Read a per-image table: one row a picture, one column a metric, `id` and `reason` beside them."""
    import pandas

    try:
        return pandas.read_parquet(path)
    except (OSError, ValueError) as error:
        raise ResultError(f"{path}: not a whole per-image table ({error}); run it again with --overwrite") from error


def table_digest(content: bytes) -> str:
    """sha256 of a per-image table's file, by which its run knows it."""
    return hashlib.sha256(content).hexdigest()
