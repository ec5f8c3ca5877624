"""Runs that are finished, told without torch: what was asked, of what, and which plan that made.

A plan's digest takes torch to be found out. So a run leaves in its folder what it was asked for and what it found there
(`asked`), beside the plan that came of it. Where the same is asked again and the same is there, the plan is the same;
whether its run is finished, its table and summary say, as ever. Whatever can't be told for sure is left to the plan.
Importing this module loads no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pkgutil
import platform
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vtbench import cards, checkpoints, data, files, folders, needs, provenance, results, weights
from vtbench.cards import TaskCard, TokenizerCard
from vtbench.data import _shards
from vtbench.errors import VtbenchError
from vtbench.protocols import Protocol
from vtbench.results import Run
from vtbench.types import Strict

RECORD = "finished.json"
"""What a run leaves in its folder when it ends: what it was asked for, and its plan."""

_DRIVER = Path("/proc/driver/nvidia")

_VARIABLES = ("CUDA_", "NVIDIA_", "HIP_", "ROCR_", "ROCM_", "TORCH", "PYTORCH_", "LOCAL_RANK", "HF_")
"""How variables begin that choose a device or where something is looked for."""

_CHOSEN = {name: value for name, value in os.environ.items() if name.startswith(_VARIABLES)}
"""Those variables as the process was started with them: libraries set more as they are imported."""


class Record(Strict):
    """What a run was asked for, and what came of it."""

    asked: str
    plan: str
    label: str | None
    step: float | None


Surroundings = Mapping[str, Any]
"""What a plan depends on beside the tokenizer."""


def surroundings(command: Mapping[str, Any], task: TaskCard, rule: Protocol, work: Path) -> Surroundings | None:
    """Look at all that a plan depends on beside the tokenizer, as it is now.

    Args:
        command: of one task, places whole.
        task: its card, as the command changed it.
        rule: the protocol.
        work: the work folder.

    Returns:
        None where something can't be told without torch, or changed a moment ago.
    """
    try:
        said = {
            "task": cards.digest(task),
            "rule": repr(rule),
            "code": provenance.code_digest(),
            "assets": files.stamp(Path(__file__).resolve().parent / "assets"),
            "versions": provenance.versions(),
            "devices": _devices(),
            "data": _data(task, command),
            "needs": _needs(task, rule),
            "batches": {path.name: path.read_text() for path in (work / folders.BATCHES).glob("*.json")}
            if command["batch_size"] == "auto"
            else {},
        }
    except (VtbenchError, OSError):  # what is wrong is said where it is loaded
        return None
    return None if any(value is None for value in said.values()) else said


def asked(command: Mapping[str, Any], tokenizer: TokenizerCard, around: Surroundings | None) -> str | None:
    """Hash what is asked for of one tokenizer, its weights as they are now, and the surroundings.

    Returns:
        None where something can't be told without torch.
    """
    try:
        found, configuration = _weights(tokenizer, command), _configuration(tokenizer)
    except (VtbenchError, OSError):  # as above
        return None
    if found is None or configuration is None or around is None or command["diffusers"]:
        return None
    said = {
        "command": command,
        "tokenizer": cards.digest(tokenizer),
        "weights": found,
        "configuration": configuration,
        "around": around,
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def find(asked_now: str, tokenizer: TokenizerCard, task: TaskCard, out: Path, work: Path) -> Run | None:
    """Find the finished run of what is asked, its table and its summary whole and in their places."""
    for path in sorted(work.glob(f"{task.name}*/{tokenizer.name}*/{RECORD}")):
        try:
            record = Record.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            continue
        if record.asked != asked_now:
            continue
        with contextlib.suppress(VtbenchError, OSError):
            run, _ = results.find_run(path.parent, path.parent)
            run = run.model_copy(update={"label": record.label, "step": record.step})
            summary = out / run.task / f"{run.name}.json"
            if run.digests.get("plan") == record.plan and summary.read_bytes() == results.encode(run):
                folders.clean(path.parent, partial(_spent, path.parent, run))
                return run
    return None


def _spent(folder: Path, run: Run) -> dict[Path, str]:
    """Say which shards in a finished run's folder go; a trial leaves those of other plans, which may go on."""
    plan = str(run.digests["plan"])
    found = {} if run.trial else others(folder, plan, identity_of(folder, plan))
    return found | {folders.shards_of(folder, plan): ""}


def remember(asked_before: str | None, asked_after: str | None, run: Run, work: Path) -> None:
    """Leave in a finished run's folder what was asked, if that is still what it was when the run began.

    Raises:
        ResultError: if the folder can't be written.
    """
    known_device = run.device.startswith("cpu:") or (run.device.startswith("cuda:") and _graphics())
    outside = run.digests.get("network") is not None  # code of other packages, which only modules in memory tell
    path = work / run.task / run.name / RECORD
    if asked_before is None or asked_before != asked_after or outside or not known_device:
        path.unlink(missing_ok=True)
        return
    record = Record(asked=asked_before, plan=str(run.digests["plan"]), label=run.label, step=run.step)
    content = (record.model_dump_json(indent=1) + "\n").encode()
    if not path.is_file() or path.read_bytes() != content:
        files.write_atomic(path, content)


# --- plans that were begun --------------------------------------------------------------------------------------------


def identity_of(place: Path, plan: str = "") -> Mapping[str, Any] | None:
    """Read what decides the numbers of the plan that was begun in a folder.

    Args:
        place: a run's folder, or one of its folders of shards.
        plan: how the plan's digest must begin.

    Returns:
        None where no such plan is told there.
    """
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        said = json.loads((place / folders.BEGUN).read_bytes())
        identity = {name: dict(said["identity"][name]) for name in ("digests", "said")}
        return identity if str(said["plan"]).startswith(plan) else None
    return None


def others(folder: Path, plan: str, identity: Mapping[str, Any] | None) -> dict[Path, str]:
    """Find shards of other plans in a run's folder.

    Args:
        folder: the run's.
        plan: digest of the plan that is asked for.
        identity: what decides its numbers; None where that is not known.

    Returns:
        Folder of shards to what is said of them: how many they are, and in what the plans differ. Nothing is said of
        those that are merged already.
    """
    merged = None
    with contextlib.suppress(VtbenchError):
        merged = results.read_run(folder / results.RUN).digests.get("plan")
    found = {}
    for place in sorted(folder.glob("shards-*")):
        if place == folders.shards_of(folder, plan):
            continue
        there = identity_of(place, place.name.removeprefix("shards-"))
        how_many = sum(1 for _ in place.glob("*.parquet"))
        if not how_many or (merged and place == folders.shards_of(folder, merged)):
            found[place] = ""
            continue
        found[place] = f"{how_many} shard{'s' if how_many > 1 else ''} of another plan"
        if there is not None and identity is not None:
            found[place] += f", for these differ (there, here): {', '.join(differences(there, identity))}"
    return found


def beside(folder: Path, plan: str, identity: Mapping[str, Any] | None) -> str:
    """Say, as the end of a line about shards that lack, which other plans' lie there (`others`)."""
    return "".join(f". There are {said}" for said in others(folder, plan, identity).values() if said)


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Say in what two plans' `identity` differ, of which either may have been read from JSON."""
    before, after = (json.loads(json.dumps(one, sort_keys=True, default=str)) for one in (before, after))
    (old, new), (was, now) = ((before[what], after[what]) for what in ("digests", "said"))
    # Which files are needed follows from what is measured and who reads.
    follows = any(was.get(name) != now.get(name) for name in ("metrics", "unavailable", "OCR engine"))
    found = [
        name
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name) and not (follows and "/" in name and (name in old) != (name in new))
    ]
    for name in sorted({*was, *now}):
        found += _difference(name.replace("_", " "), was.get(name), now.get(name))
    return found


def _difference(name: str, old: object, new: object) -> list[str]:
    """Say in what one thing differs; of lists and of things within things only what does."""
    if old == new:
        return []
    if isinstance(old, dict) and isinstance(new, dict):
        return [said for key in sorted({*old, *new}) for said in _difference(key, old.get(key), new.get(key))]
    if isinstance(old, list) and isinstance(new, list):
        gone, come = ([one for one in a if one not in b] for a, b in ((old, new), (new, old)))
        changed = [f"{what} {', '.join(map(str, them))}" for what, them in (("without", gone), ("with", come)) if them]
        return [f"{name} ({'; '.join(changed) or 'in another order'})"]
    before, after = (one if isinstance(one, str) else json.dumps(one) for one in (old, new))
    return [f"{name} ({before}, {after})"]


# --- what a plan depends on -------------------------------------------------------------------------------------------


def _devices() -> list[object]:
    """What decides which device torch takes and what it is called."""
    nodes = [str(path) for folder in ("nvidia*", "kfd", "dri/render*") for path in Path("/dev").glob(folder)]
    return [platform.machine(), _graphics(), sorted(nodes), _CHOSEN]


def _graphics() -> list[str]:
    """What NVIDIA's driver says of itself and of each GPU; empty where there is none, or it does not say."""
    gpus = sorted(_DRIVER.glob("gpus/*/information"))
    return [path.read_text() for path in (_DRIVER / "version", *gpus)] if gpus else []


def _weights(card: TokenizerCard, command: Mapping[str, Any]) -> list[object] | None:
    if command["weights"] == ["synthetic"] or card.weights is None:
        return []
    if command["weights"]:
        given = [Path(place) for place in command["weights"]]
        said: list[object] = [files.stamp(place) if place.is_dir() else _digests(place) for place in given]
        return None if None in said else said
    found = weights.cached(card)
    return [_digests(path) for path in found] if found else None


def _configuration(card: TokenizerCard) -> list[str] | None:
    """Hash the configuration that a network reads where it is published; None where it is still to be brought."""
    place = weights.config_place(card)
    if place is None:
        return []
    path = weights.cached_config(place)
    return [files.sha256(path)] if path else None


def _digests(checkpoint: Path) -> list[str]:
    return [files.sha256(part) for part in checkpoints.files_of(checkpoint)]


def _data(task: TaskCard, command: Mapping[str, Any]) -> list[str] | None:
    """Stamp the files that a task's pictures come from; None where these are not known."""
    own, place = task.data, command["data"]
    if command["follow_links"] or own.source not in {module.name for module in pkgutil.iter_modules(data.__path__)}:
        return None
    if place is None or place.startswith("hub:"):
        hub = own.hub if place is None else "/".join(re.split("[/@:]", place)[1:3])
        roots = [_cache_of(hub)] if hub else []
    elif _shards.is_pattern(place):
        roots = _shards.expand(place)
    else:
        roots = [Path(place)]
    stamps = [(str(root), files.stamp(root)) for root in roots]
    return None if any(stamp is None for _, stamp in stamps) else [f"{root} {stamp}" for root, stamp in stamps]


def _cache_of(hub: str) -> Path:
    """Where the hub's client keeps a data set: all of its snapshots and which of them its names mean."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"datasets--{hub.replace('/', '--')}"


def _needs(task: TaskCard, rule: Protocol) -> dict[str, object]:
    """What each metric lacks here, or what it is computed with."""
    names = (*task.metrics, *((*rule.metrics, *rule.text_metrics) if rule.published else ()))
    return {name: needs.lacking(name, task) or needs.files_behind([name], task) for name in names}
