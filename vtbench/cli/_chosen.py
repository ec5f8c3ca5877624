"""What a command names: tokenizers, tasks, protocols and weights, found and checked before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtbench import cards, catalogue, files, protocols
from vtbench.cards import Card, TaskCard, TokenizerCard
from vtbench.cli._terminal import complaints, one_line
from vtbench.data import _shards
from vtbench.errors import CardError, VtbenchError
from vtbench.results import LABEL, LABEL_FORM
from vtbench.types import Strict

if TYPE_CHECKING:
    from torch import Tensor


class Precision(StrEnum):
    """Types of a network's tensors."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"


class Command(Strict):
    """What a run is made of; `vtbench merge` reads it from the folder of a run that `vtbench run` began."""

    task: list[str]
    tokenizer: list[str]
    diffusers: list[str]
    protocol: list[str]
    device: str
    precision: Precision
    compile: bool = False
    batch_size: str
    limit: int | None
    data: str | None
    data_name: str | None
    follow_links: bool
    weights: list[str]
    name: str | None
    step: float | None
    ocr: str | None
    features: str | None
    metric: list[str]
    require: str
    cards_folder: Path | None


@dataclass(frozen=True)
class Chosen:
    """What a command names."""

    tasks: list[TaskCard]
    tokenizers: list[TokenizerCard]
    rules: list[str]
    """Protocols; none where each task takes its own."""
    named: dict[str, dict[str, list[str]]]
    """How each tokenizer is named in a command of its own."""
    folders: dict[str, str]
    """Folders of diffusers', which hold the weights of these tokenizers."""


def choose(command: Command, *, speaks: bool) -> Chosen:
    """Find what a command names, before anything is computed.

    Raises:
        CardError: if something of it does not exist, or does not fit the rest.
    """
    weights, extra = command.weights, command.cards_folder
    check_weights([*command.tokenizer, *command.diffusers], weights)
    if weights and (held := next(filter(files.is_dir, command.diffusers), None)):
        raise CardError(f"--weights: the folder --diffusers {held} holds weights of its own; leave one of both out")
    tasks = [adapted(card, command.metric, command.ocr, command.features) for card in tasks_of(command.task, extra)]
    tokenizers = tokenizers_of(command.tokenizer, weights, extra) if command.tokenizer else []
    if command.tokenizer == ["all"]:
        tokenizers = _fitting(tokenizers, tasks, speaks=speaks)
    folders: dict[str, str] = {}
    named = {card.name: {"tokenizer": [card.name]} for card in tokenizers}
    described: list[tuple[str, TokenizerCard]] = [(card.name, card) for card in tokenizers]
    for one in dict.fromkeys(command.diffusers):
        from vtbench.networks.diffusers import card_for

        card = card_for(one)
        described.append((one, card))
        named[card.name] = {"diffusers": [one]}
        # Cards of two folders may be equal, and their weights not.
        if files.is_dir(one) and not Path(folders.setdefault(card.name, one)).samefile(one):
            raise _clash(folders[card.name], one, card.name)
    tokenizers = _once(described)
    if not tokenizers:
        raise CardError("no tokenizer is named; give --tokenizer NAME (`vtbench list`) or --diffusers PLACE")
    if command.name is not None and (len(tokenizers) > 1 or not (weights or folders)):
        raise CardError(
            "--name says which weights these are; give it with --weights and just one --tokenizer, or with just one "
            "folder for --diffusers"
        )
    if command.name is not None and not LABEL.fullmatch(command.name):
        raise CardError(f"--name {command.name!r}: {LABEL_FORM}")
    rules = [protocols.find_protocol(one).name for one in dict.fromkeys(command.protocol)]
    return Chosen(tasks, tokenizers, rules, named, folders)


def recorded(command: Command, change: dict[str, Any]) -> dict[str, Any]:
    """Lay out what one run was made of as JSON that says the same in any folder."""

    def whole(place: str) -> str:
        return str(Path(place).absolute()) if files.exists(place) else place

    said: dict[str, Any] = command.model_dump(mode="json") | change
    for name, given_names in (("task", command.task), ("tokenizer", command.tokenizer)):
        # A card that was named by its file is known by that name here, and nowhere else.
        by_file = {Path(one).stem: str(Path(one).absolute()) for one in given_names if one.endswith(".toml")}
        said[name] = [by_file.get(one, one) for one in said[name]]
    said["diffusers"] = [whole(one) for one in said["diffusers"]]
    said["weights"] = [whole(one) for one in said["weights"]]
    for name in ("data", "features", "cards_folder"):
        if said[name] is not None:
            said[name] = whole(said[name])
    if command.data is not None and not command.data.startswith("hub:") and _shards.is_pattern(command.data):
        said["data"] = _shards.anchored(command.data)
    return said


def weights_of(
    card: TokenizerCard, chosen: Chosen, weights: Sequence[str]
) -> str | list[str] | Mapping[str, Tensor] | None:
    """What `load_tokenizer` is given for a tokenizer; a folder of diffusers' is read only for what is computed."""
    if card.name not in chosen.folders:
        return given(weights)
    from vtbench.networks.diffusers import load_folder

    return load_folder(chosen.folders[card.name])


def given(weights: Sequence[str]) -> str | list[str] | None:
    """What `load_tokenizer` is given for the --weights of a command."""
    return None if not weights else weights[0] if len(weights) == 1 else list(weights)


def step_of(path: str) -> float | None:
    """Read the training step from a checkpoint's name, such as last-step=20000.ckpt or iter_400k.pth.

    None where none stands there, the word is the end of another one (multistep_4.pt), or a number goes on as no step
    does (step-1.5.2.pt, iter_400x.pt) or in groups of digits, which may be one number or two (step=20_000.pt).
    """
    import re

    name = re.sub(r"\.[^.\d][^.]*$", "", Path(path).name)  # no ending begins with a digit
    number = r"(\d+(?:\.\d+(?=[eEkKM]))?)([eE]\d+|[kKM])?(?![A-Za-z0-9]|[.,]\d)"
    word = r"(?:(?<![A-Za-z])|(?<=[a-z])(?=[A-Z]))(?i:(?:global_?)?steps?|iter|iteration)"
    found = re.findall(rf"{word}[-_=]?(?!\d{{1,3}}(?:_\d{{3}})+(?!\d)){number}", name)
    if not found:
        return None
    digits, power = found[-1]
    step = float(digits + {"k": "e3", "K": "e3", "M": "e6"}.get(power, power))
    return step if math.isfinite(step) else None


def tasks_of(names: list[str], extra: Path | None) -> list[TaskCard]:
    """Find the cards of tasks; `all` takes those whose pictures are here."""
    if names == ["all"]:
        from vtbench.task import is_here

        return [card for card in cards.tasks(extra).values() if is_here(card)]
    return _once((name, cards.find_task(name, extra)) for name in names)


def adapted(card: TaskCard, names: list[str], engine: str | None, features: str | None) -> TaskCard:
    """Add metrics of single pictures that any task can have, and change the engine that reads and the model."""
    if engine is not None:
        from vtbench import ocr

        ocr.find(engine)  # a name that is no engine's is told before anything is computed
        card = card.model_copy(update={"ocr": engine})
    if features is not None:
        from vtbench.backbones import foundation

        if reason := foundation.lacking(features):
            raise CardError(f"--features {reason}")
        card = card.model_copy(update={"foundation": features})
    return card.model_copy(update={"metrics": catalogue.with_more(card.metrics, names)})


def tokenizers_of(names: list[str], weights: Sequence[str], extra: Path | None) -> list[TokenizerCard]:
    """Find the cards, and the weights of each, before torch is loaded or anything is computed."""
    from vtbench.weights import cached, locate

    if names == ["all"]:
        everything = cards.tokenizers(extra).values()
        return [card for card in everything if weights or card.weights is None or cached(card)]
    found = _once((name, cards.find_tokenizer(name, extra)) for name in names)
    if not weights:
        for card in found:
            locate(card)
    return found


def check_weights(names: Sequence[str], weights: Sequence[str]) -> None:
    """Refuse --weights that are not there, or are files for several tokenizers."""
    for place in weights:
        if place != "synthetic" and not files.exists(place):
            raise CardError(
                f"--weights {place}: no such file, or none that may be read; expected a checkpoint or synthetic"
            )
    if weights and list(weights) != ["synthetic"] and (len(names) > 1 or names == ["all"]):
        raise CardError("--weights FILE belongs to one tokenizer; name just one with --tokenizer or --diffusers")


def _once(named: Iterable[tuple[str, Card]]) -> list[Card]:
    """Take each card once, however often it is named.

    Raises:
        CardError: if two different ones have one name.
    """
    first: dict[str, tuple[str, Card]] = {}
    for place, card in named:
        before, same = first.setdefault(card.name, (place, card))
        if same != card:
            raise _clash(before, place, card.name)
    return [card for _, card in first.values()]


def _clash(one: str, other: str, name: str) -> CardError:
    """Say of two that results would know them by one name."""
    return CardError(f"{one} and {other} are both called {name}; run them one at a time, or rename one")


def _fitting(chosen: list[TokenizerCard], task_cards: list[TaskCard], *, speaks: bool) -> list[TokenizerCard]:
    """Leave out of `all` what can't take these tasks' pictures, and say so."""
    fitting = []
    for card in chosen:
        try:
            check_sizes([card], task_cards)
            fitting.append(card)
        except CardError as error:
            if speaks:
                complaints.print(f"vtbench: passed over: {one_line(error)}")
    return fitting


def check_sizes(chosen: list[TokenizerCard], task_cards: list[TaskCard]) -> None:
    """Refuse a tokenizer of fixed size on a task of another, before anything is computed."""
    for card in chosen:
        for task in task_cards:
            side = task.geometry.side
            if reason := card.refusal((side, side) if side else None, task.name):
                raise CardError(reason)


def check_required(names: tuple[str, ...], task_cards: list[TaskCard]) -> None:
    """Refuse required metrics whose backbone is not here, before torch is loaded."""
    from vtbench import needs

    for name in names:
        for card in task_cards:
            if reason := needs.lacking(name, card):
                raise VtbenchError(f"--require {name}: {reason}")
