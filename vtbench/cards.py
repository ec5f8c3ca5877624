"""Cards: what the suite knows about a tokenizer or a task, as data. The file system is the registry.

`tokenizers/<name>.toml` and `tasks/<name>.toml` are found by name; inside a wheel they lie in `vtbench/_cards/`. A
package of the user's brings a folder of cards of both kinds by the entry point group `vtbench.cards`, whose value is
the folder's dotted name: `mine = "my_package.cards"`.
No torch here: `vtbench list` reads every card in well under a second.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import tomllib
from collections.abc import Mapping
from importlib import metadata, util
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator, model_validator

from vtbench import files
from vtbench.errors import CardError, unknown
from vtbench.types import Strict

GROUP = "vtbench.cards"
"""Entry points of this group name folders of cards."""

Kind = Literal["tokenizers", "tasks"]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
ModuleName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
LANGUAGES = r"[A-Za-z0-9_]+(\+[A-Za-z0-9_]+)*"
"""How the languages that an OCR engine reads are named: deu+eng."""
EngineName = Annotated[str, Field(pattern=rf"^[A-Za-z0-9][A-Za-z0-9_.-]*(:{LANGUAGES})?$")]


class Input(Strict):
    """What a network is fed."""

    range: tuple[float, float] = (-1.0, 1.0)
    """What the levels 0 and 255 become."""
    decoded_range: tuple[float, float] | None = None
    """What the decoder gives for the levels 0 and 255, where it differs from what the encoder is fed."""
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    """Where given, (value - mean) / std is applied after `range`, per channel."""
    multiple_of: int = Field(default=1, ge=1)
    """Height and width are padded to a multiple of this and cropped again after decoding."""
    sizes: tuple[int, ...] = ()
    """The only square sizes that a network of fixed size takes; empty means any size."""

    @field_validator("range", "decoded_range")
    @classmethod
    def _two_ends(cls, ends: tuple[float, float] | None) -> tuple[float, float] | None:
        if ends is not None and (not all(map(math.isfinite, ends)) or ends[0] == ends[1]):
            raise ValueError("expected two different numbers, what the levels 0 and 255 become")
        return ends

    @field_validator("mean", "std")
    @classmethod
    def _finite(cls, values: tuple[float, ...] | None, info: ValidationInfo) -> tuple[float, ...] | None:
        if values is not None and (not all(map(math.isfinite, values)) or (info.field_name == "std" and 0 in values)):
            raise ValueError(f"expected three numbers{', none of them 0' if info.field_name == 'std' else ''}")
        return values


class Output(Strict):
    """What a network gives back."""

    size: int | None = Field(default=None, ge=1)
    """Height and width that it gives whatever it takes, as where its network first resizes what it is fed; the card's
    description names that rule. Pictures of this size alone are scored: no reconstruction is resized to fit."""


class Code(Strict):
    """What crosses the bottleneck."""

    codebook_sizes: tuple[int, ...] = ()
    """Number of codes, one entry a codebook or scale."""
    indices_per_token: int = Field(default=1, ge=1)
    """Indices that are one token together, such as the bits of a token of 2^36 values; each is of `codebook_sizes`."""
    tokens_at_256: int | None = None
    """Tokens of a 256x256 picture, all scales together."""
    latent_channels: int | None = None
    downsampling: int | None = None
    """Downsampling factor of each side."""


def _inside(path: str | None) -> str | None:
    """Refuse a path that would lead out of the folder that it is joined to."""
    if path is not None:
        parts = path.split("/")
        if path != path.strip() or "\\" in path or ":" in path or any(part in ("", ".", "..") for part in parts):
            raise ValueError("expected a path inside its folder: no leading /, no empty part, no .., no \\ and no :")
        if not path.isprintable():
            raise ValueError("expected a path of printable characters")
    return path


Inside = Annotated[str, AfterValidator(_inside)]

_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"


def _repository(name: str) -> str:
    """Refuse what the hub calls no repository; its client would end with an exception."""
    if not re.fullmatch(f"{_PART}/{_PART}", name) or len(name) > 96 or re.search(r"--|\.\.|\.git$", name):
        raise ValueError("expected a repository of the hub as OWNER/NAME, in letters, digits, dots and dashes")
    return name


Repository = Annotated[str, AfterValidator(_repository)]


class WeightsFile(Strict):
    """One of several files that hold the weights together."""

    file: Inside
    prefix: str = ""
    """What the file's names lack in front, such as "encoder."."""
    sha256: str | None = None


class WeightsSource(Strict):
    """Where the published weights lie and how their file is laid out."""

    package: Inside | None = None
    """A file that ships inside vtbench (`vtbench/assets/weights/`)."""
    hub: Repository | None = None
    """A repository on the Hugging Face hub, as owner/name."""
    url: str | None = None
    """A plain download address, where no hub has the file; with `files`, the address that their names are joined to."""
    file: Inside | None = None
    """One file in the hub's repository, or its name in the cache. A sharded checkpoint is named by its index."""
    files: tuple[WeightsFile, ...] = ()
    """Several files instead of one, such as encoder and decoder."""
    revision: Inside | None = None
    sha256: str | None = None
    """Digest of `file`; of several files each has its own."""
    key: str | Annotated[tuple[str, ...], Field(strict=False, min_length=1)] | None = None
    """The entry of the container that holds the tensors, such as "state_dict"; a list where it lies in further ones,
    outermost first."""
    strip: str | None = None
    """A prefix that the published names of the network lack, such as "module."; an error where no name begins so."""
    ema_prefix: str | None = None
    """Prefix of an exponential-moving-average copy, whose names may have lost their dots. The copy is used; an error
    where no name begins so."""
    drop: tuple[str, ...] = ()
    """Prefixes of tensors that training left in the file and the network does not have."""

    @property
    def is_published(self) -> bool:
        """Whether the file ships with vtbench or can be brought."""
        return bool(self.package or self.hub or self.url)

    @model_validator(mode="after")
    def _one_place(self) -> WeightsSource:
        if self.files and (self.file or self.package or self.sha256):
            raise ValueError("[[weights.files]] stands instead of file, package and sha256; remove one of them")
        return self


class Source(Strict):
    """The implementation that the network was checked against."""

    repository: str
    commit: str
    license: str


class Parity(Strict):
    """What holds the network against the published implementation; without it nothing does, at this card's numbers."""

    fixture: Name | None = None
    """tests/parity/<fixture>.npz: what the published code gave with this card's numbers and made-up weights."""
    small: str | None = Field(default=None, pattern=r"^test_\w+\.py$")
    """A file of tests/networks that holds the network against the published code with smaller numbers alone."""

    @model_validator(mode="after")
    def _one(self) -> Parity:
        if (self.fixture is None) == (self.small is None):
            raise ValueError("expected fixture or small, and not both")
        return self


class Reported(Strict):
    """A number printed by the authors; shown apart from what this suite measures."""

    dataset: str
    protocol: str
    metric: str
    value: float
    printed_in: str


class TokenizerCard(Strict):
    """One published variant of a tokenizer."""

    name: Name
    aliases: tuple[Name, ...] = ()
    family: str
    network: ModuleName
    """`ibq` means vtbench/networks/ibq.py; never a class, a dotted path or code."""
    kind: Literal["discrete", "continuous", "codec", "understanding", "opaque"]
    """discrete: indices into codebooks; continuous: floats; codec: a file; understanding: tokens that no decoder
    takes; opaque: nobody sees the codes, as of a live model that only reconstructs."""
    title: str
    description: str = ""
    config: dict[str, Any] = Field(default_factory=dict)
    """Checked by the network's own Config."""
    input: Input = Input()
    output: Output = Output()
    code: Code = Code()
    weights: WeightsSource | None = None
    """None for networks without any weights, such as codecs."""
    license: str | None = None
    """Licence of the weights."""
    paper: str | None = None
    source: Source | None = None
    parity: Parity | None = None
    reported: tuple[Reported, ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """The only square sizes of pictures whose reconstructions have that size too; empty means any size."""
        return self.input.sizes if self.output.size is None else (self.output.size,)

    def refusal(self, size: tuple[int, int] | None, of: str = "the task") -> str | None:
        """Say why pictures of a size can't be taken, or not given back; None where they can.

        Args:
            size: height and width; None where each picture has its own.
            of: what has these pictures.
        """
        if not self.sizes or (size and size[0] == size[1] and size[0] in self.sizes):
            return None
        wanted = " or ".join(f"{side}x{side}" for side in self.sizes)
        found = f"{size[1]}x{size[0]}" if size else "pictures of many sizes"
        choose = "choose a task of that size (`vtbench list tasks`)"
        return f"{self.name} takes {wanted} pixels only, {of} has {found}; {choose}"

    @model_validator(mode="after")
    def _comes_back(self) -> TokenizerCard:
        if self.input.sizes and not {*self.sizes} & {*self.input.sizes}:
            known = ", ".join(map(str, self.input.sizes))
            raise ValueError(
                f"[output] size {self.output.size} is none of [input] sizes {known}, so that no picture would come "
                "back in its size; correct one of them, or let the network resize its input"
            )
        return self


class Data(Strict):
    """Where a task's pictures come from."""

    source: ModuleName
    """`sample` means vtbench/data/sample.py."""
    hub: Repository | None = None
    """A data set on the Hugging Face hub, as owner/name."""
    config: str | None = None
    """Which of the data set's configurations."""
    revision: Inside | None = None
    """The commit that is read; where left out, what is cached or else the newest, and the run says which it was."""
    split: str | None = None
    """`Chinese+Hindi` reads both, and their names become the attribute `split`."""
    images: int | None = Field(default=None, ge=1)
    """How many pictures there are; another number is another set, under another name."""
    flat: bool = False
    """Pictures are known by their file names alone: a flat folder and one sorted into classes are the same set."""
    obtain: str | None = None
    """What to download from where, and which folder --data then names; in one sentence."""


class Geometry(Strict):
    """Which pixels are scored."""

    size: Annotated[int, Field(ge=1)] | Literal["native"]
    """Height and width in pixels; "native" keeps each picture as it is, one picture a batch."""
    crop: Literal["center", "letterbox"] = "center"
    """center: PIL-Lanczos resize of the short side, then the centre square (`geometry.resize_and_crop`). letterbox: the
    whole picture by the same filter inside a black square (`geometry.letterbox_window`), for known text."""

    @property
    def side(self) -> int | None:
        """Height and width in pixels; None at native size."""
        return None if self.size == "native" else self.size


class TaskCard(Strict):
    """One task: pictures, their geometry and the metrics that score them."""

    name: Name
    version: int = Field(ge=1)
    """Raised whenever a score could change."""
    family: Literal["reconstruction", "detail", "text", "stability", "tokens", "latents"]
    title: str
    description: str = ""
    data: Data
    geometry: Geometry
    metrics: tuple[str, ...]
    primary: str
    """The metric that ranks; the metric itself knows its direction."""
    group_by: tuple[str, ...] = ()
    """Sample attributes by which results are also broken down, such as "cap_height"."""
    protocol: str = "canonical"
    ocr: EngineName = "easyocr"
    """The engine that reads, where text is measured: `easyocr` means vtbench/ocr/easyocr.py, another name a package's
    entry point; with languages where it has some to choose from, as in `tesseract:deu+eng`."""
    foundation: str = "dinov2-base"
    """The foundation model that latents are compared with: a name, a folder, or a .npz file of its features."""
    normalisation: str = "text"
    """What is done to both texts before they are compared, by a name of `vtbench.metrics.text.NORMALISATIONS`."""


Card = TypeVar("Card", TokenizerCard, TaskCard)


def folder(kind: Kind) -> Path:
    """Where the cards lie: inside an installed wheel, or at the repository's root in an editable install."""
    here = Path(__file__).resolve().parent
    packaged = here / "_cards" / kind
    return packaged if packaged.is_dir() else here.parent / kind


def digest(card: TokenizerCard | TaskCard) -> str:
    """sha256 of what a card says, whatever its comments and order."""
    said = json.dumps(card.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def tokenizers(extra: Path | None = None) -> dict[str, TokenizerCard]:
    """Every tokenizer card by name, sorted: the suite's own, those of installed packages, and those of a folder.

    Args:
        extra: a further folder of cards of both kinds.

    Raises:
        CardError: if a folder or card can't be read, or a name is taken.
    """
    return _all("tokenizers", TokenizerCard, extra)


def tasks(extra: Path | None = None) -> dict[str, TaskCard]:
    """Every task card by name, sorted, as `tokenizers` does it."""
    return _all("tasks", TaskCard, extra)


def names(extra: Path | None = None) -> set[str]:
    """Name all tokenizers, with their aliases, and all tasks."""
    known = tokenizers(extra)
    return {*known, *(alias for card in known.values() for alias in card.aliases), *tasks(extra)}


def find_tokenizer(name: str, extra: Path | None = None) -> TokenizerCard:
    """Find a tokenizer by its exact name or alias; a path to a .toml file is read as it is.

    Raises:
        CardError: if nothing is called so; the message suggests names that begin so, then close ones. If the card of a
            path says other things than one that is called so already.
    """
    cards = tokenizers(extra)
    if name.endswith(".toml"):
        return _by_path(Path(name), TokenizerCard, cards)
    by_alias = {alias: card for card in cards.values() for alias in card.aliases}
    found = cards.get(name) or by_alias.get(name)
    if found is None:
        raise CardError(unknown("tokenizer", name, [*cards, *by_alias]))
    return found


def find_task(name: str, extra: Path | None = None) -> TaskCard:
    """Find a task by its exact name, or by the path of a .toml file, as `find_tokenizer` does it."""
    cards = tasks(extra)
    if name.endswith(".toml"):
        return _by_path(Path(name), TaskCard, cards)
    if name not in cards:
        raise CardError(unknown("task", name, list(cards)))
    return cards[name]


def _by_path(path: Path, model: type[Card], known: Mapping[str, Card]) -> Card:
    """Read a card that lies anywhere; its names are its own, since results know it by them."""
    card = load(path, model)
    for other in known.values():
        if other != card and (twice := _names(card) & _names(other)):
            raise CardError(
                f"{path}: the name {min(twice)!r} is taken by another card, which says other things; choose another"
            )
    return card


def _names(card: TokenizerCard | TaskCard) -> set[str]:
    return {card.name, *getattr(card, "aliases", ())}


def load(path: Path, model: type[Card]) -> Card:
    """Read and check one card file.

    Raises:
        CardError: naming the file, the key and what was expected.
    """
    text = _text(path)
    try:
        # Through JSON, because strict validation takes a JSON array for a tuple but refuses a TOML list.
        said = json.dumps(tomllib.loads(text), default=str)
    except RecursionError as error:
        raise CardError(f"{path}: not valid TOML (it is nested too deeply)") from error
    except ValueError as error:  # TOMLDecodeError is one; so is what a number of too many digits raises
        raise CardError(f"{path}: not valid TOML ({error}); compare it with the annotated card in README.md") from error
    try:
        card = model.model_validate_json(said)
    except ValidationError as error:
        raise CardError(f"{path}: {explain(error)}") from error
    if isinstance(card, TokenizerCard) and card.kind == "opaque":
        raise CardError(f"{path}: kind: opaque is a live model (`vtbench.wrap`); expected what a network's codes are")
    if card.name != path.stem:
        raise CardError(f"{path}: name is {card.name!r}, expected {path.stem!r} as the file's; rename one of them")
    return card


LARGEST = 1 << 20
"""Bytes of the largest card that is read."""


def _text(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():
            raise CardError(f"{path}: not a regular file; expected a card in TOML")
        if path.stat().st_size > LARGEST:
            raise CardError(f"{path}: {path.stat().st_size} bytes; expected a card in TOML, which is far smaller")
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise CardError(f"{path}: can't be read ({error.strerror}); expected a card in TOML") from error
    except UnicodeDecodeError as error:
        raise CardError(f"{path}: not valid TOML, which is UTF-8 ({error})") from error


def explain(error: ValidationError) -> str:
    """Put a validation error into one line: dotted key, what was expected, what was there."""
    parts = []
    for item in error.errors():
        if item["type"] == "json_invalid":  # what was there is the whole file
            if "recursion limit" in item["msg"]:
                return "nested too deeply"
            return item["msg"][0].lower() + item["msg"][1:]
        key = ".".join(_shortened(part).strip("'") for part in item["loc"]) or "the whole"
        if item["type"] == "extra_forbidden":
            parts.append(f"{key}: unknown key; remove it or correct its spelling")
        elif item["type"] == "missing":
            parts.append(f"{key}: missing; add it")
        else:
            said = item["msg"].removeprefix("Value error, ")  # what a validator of ours says
            parts.append(f"{key}: {said[0].lower()}{said[1:]}, got {_shortened(item['input'])}")
    return "; ".join(parts)


def _shortened(value: object) -> str:
    said = repr(value)
    return said if len(said) <= 200 else f"{said[:200]}…"


def _all(kind: Kind, model: type[Card], extra: Path | None) -> dict[str, Card]:
    if extra is not None and not files.is_dir(extra):
        raise CardError(f"{extra}: no such folder; --cards expects a folder of .toml cards")
    cards: dict[str, Card] = {}
    owner: dict[str, str] = {}
    own = folder(kind)
    places = [(own, ""), *_outside(), *([(extra, "")] if extra else [])]
    for place, package in places:
        for path in sorted(place.glob("*.toml")):
            if place != own and not _is_for(path, model):
                continue
            said = f"{path} ({package})" if package else str(path)
            card: Card = load(path, model)
            for name in (card.name, *getattr(card, "aliases", ())):
                if name in owner:
                    mend = f"rename it, or uninstall {package}" if package else "choose another"
                    raise CardError(f"{said}: the name {name!r} is taken by {owner[name]}; {mend}")
                owner[name] = said
            cards[card.name] = card
    return dict(sorted(cards.items()))


def _outside() -> list[tuple[Path, str]]:
    """The folders of cards that installed packages bring, each with its distribution and version.

    Raises:
        CardError: naming the distribution, where there is no such folder.
    """
    found: dict[Path, str] = {}
    for entry in sorted(metadata.entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.name
        try:
            spec = util.find_spec(entry.value)  # of what contains the folder it imports the packages, of it nothing
        except Exception as error:  # a package of somebody's, imported here for the first time
            raise CardError(f"{package}: its folder of cards {entry.value} can't be found ({error})") from error
        places = [Path(place) for place in (spec and spec.submodule_search_locations) or ()]
        if not any(place.is_dir() for place in places):
            raise CardError(f"{package}: {entry.value} is no folder of cards; correct its entry point ({GROUP})")
        found |= {place: package for place in places if place.is_dir()}
    return list(found.items())


def _is_for(path: Path, model: type[Card]) -> bool:
    """Tell tokenizer and task cards apart where both lie in one folder: only tokenizers name a network."""
    is_tokenizer = re.search(r"^network\s*=", _text(path), re.MULTILINE)
    return (model is TokenizerCard) == bool(is_tokenizer)
