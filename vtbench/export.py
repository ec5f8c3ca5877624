"""Runs in the formats that others publish results in. No torch here.

* `eee`: a record of Every Eval Ever, schema 0.3 (`every_eval_ever/schemas/eval.schema.json` of the package
  every-eval-ever 0.3.0; the place in its datastore is that of its validator's `check_path_structure`).
* `eval-results`: entries of a model repository's `.eval_results/*.yaml` (https://huggingface.co/docs/hub/eval-results;
  `huggingface_hub.EvalResultEntry`).
* `model-index`: the block of a model card's metadata (`huggingface_hub.EvalResult`, which builds it).

None of these can say everything that a run says. What one can't hold is left out and named, never bent to fit.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from vtbench import cards
from vtbench.catalogue import Metric, metrics
from vtbench.errors import CardError, ResultError
from vtbench.results import CANONICAL, Run, Score
from vtbench.types import Key

PROJECT = "https://github.com/vtbench/vtbench"

COLLECTION = "vtbench"
"""The folder of Every Eval Ever's datastore that the records belong in."""

REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
"""A repository of the hub: owner/name."""

Relationship = Literal["first_party", "third_party", "collaborative", "other"]
"""How whoever ran the evaluation stands to whoever made the model, in Every Eval Ever's words."""


@dataclass(frozen=True)
class Exported:
    """One file's content, and what it does not hold."""

    content: str
    """JSON or YAML."""
    place: str
    """Where the format wants the file, relative to the repository that takes it."""
    left_out: tuple[str, ...]
    """Scores that the format can't hold, each with its reason."""


class _Row(NamedTuple):
    run: Run
    column: str
    metric: Metric
    score: Score
    value: float


def to_eee(
    runs: Sequence[Run],
    *,
    organization: str,
    relationship: Relationship,
    created: float,
    model: str | None = None,
    source: str | None = None,
    extra: Path | None = None,
) -> Exported:
    """Write one record of Every Eval Ever of all runs of one model; field names are those of its schema 0.3.

    Metrics whose best value is 1 are left out: the schema knows better by being lower or higher alone.

    Args:
        runs: of one model, on any tasks.
        organization: who ran them.
        relationship: how they stand to the model's makers.
        created: when the record is made, in seconds since 1970.
        model: owner/name of the model; where left out, the hub's repository that the tokenizer's card names.
        source: an address where the runs can be read.
        extra: a further folder of cards.

    Raises:
        ResultError: if the runs can't be published, or are of several models, or the model has no name.
    """
    first, name = _one_model(runs, model, extra)
    rows, left_out = _rows(runs, one_sided=True)
    data = {(run.task, run.name): _eee_data(run, extra) for run in runs}  # reads cards: once a run
    moment = str(int(created))
    details = {"network": first.family, "kind": first.kind, "parameters": str(first.parameters)}
    record = {
        "schema_version": "0.3.0",
        "evaluation_id": f"{COLLECTION}/{name}/{moment}",
        "evaluation_timestamp": max(run.timing.started for run in runs),
        "retrieved_timestamp": moment,
        "source_metadata": {
            "source_name": "vtbench",
            "source_type": "evaluation_run",
            "source_organization_name": organization,
            "evaluator_relationship": relationship,
            "additional_details": {"url": source or PROJECT},
        },
        "eval_library": {"name": "vtbench", "version": first.version, "additional_details": {"url": PROJECT}},
        "model_info": {
            "name": _model_of(first),
            "id": name,
            "developer": name.partition("/")[0],
            "additional_details": {
                "deployment_type": "self_deployed",
                "model_availability": "open_weights" if first.weights in ("published", "packaged") else "unknown",
                "weights": first.weights,
                **details,
            },
        },
        "evaluation_results": [_eee_result(row, data[row.run.task, row.run.name]) for row in rows],
    }
    # A place of its own for these runs, and the same one whenever they are exported again.
    seed = json.dumps(sorted([run.task, run.name, run.digests.get("plan") or ""] for run in runs))
    file = uuid.UUID(bytes=hashlib.sha256(seed.encode()).digest()[:16], version=4)
    owner, _, own = name.partition("/")
    text = json.dumps(record, indent=2, allow_nan=False) + "\n"
    return Exported(text, f"data/{COLLECTION}/{owner}/{own}/{file}.json", left_out)


def _eee_result(row: _Row, data: dict[str, Any]) -> dict[str, Any]:
    run, score = row.run, row.score
    key = Key.parse(row.column)
    metric: dict[str, Any] = {
        "evaluation_description": row.metric.description,
        "metric_id": f"{COLLECTION}.{key.metric}",
        "metric_name": row.metric.title,
        "lower_is_better": row.metric.direction == "lower",
    }
    if key.level:
        metric["metric_parameters"] = {"level": key.level}
    said = {"scored": str(score.scored), "expected": str(score.expected)}
    if score.infinite:
        said |= {"infinite": str(score.infinite), "infinite_counts_as": str(row.metric.cap)}
    if score.floor is not None:
        said |= {"value_of_the_originals": repr(score.floor)}
    details: dict[str, Any] = {"score": row.value, "details": said}
    if score.low is not None and score.high is not None and math.isfinite(score.low) and math.isfinite(score.high):
        interval = {"lower": score.low, "upper": score.high, "confidence_level": 0.95}
        details["uncertainty"] = {"confidence_interval": interval, "num_samples": score.scored}
    return {
        "evaluation_result_id": f"{run.task}/{run.name}/{row.column}",
        "evaluation_name": _task_of(run),
        "source_data": data,
        "evaluation_timestamp": run.timing.started,
        "metric_config": {**metric, "additional_details": {"protocol": run.protocol, "precision": run.precision}},
        "score_details": details,
    }


def _eee_data(run: Run, extra: Path | None) -> dict[str, Any]:
    said = {"task_version": str(run.task_version), "device": run.device}
    said |= {f"sha256_{name}": digest for name, digest in sorted(run.digests.items()) if digest}
    said |= {f"version_{name}": version for name, version in sorted(run.versions.items())}
    said |= {"vtbench": run.version} | ({"commit": run.commit} if run.commit else {})
    hub, split = _hub_data(run, extra)
    if hub is None:
        return {"dataset_name": run.task, "source_type": "other", "additional_details": said}
    if run.data_revision:
        said["revision"] = run.data_revision
    found = {"dataset_name": run.task, "source_type": "hf_dataset", "hf_repo": hub, "samples_number": run.images}
    return {**found, **({"hf_split": split} if split else {}), "additional_details": said}


def to_eval_results(
    runs: Sequence[Run],
    *,
    dataset: str | None = None,
    model: str | None = None,
    source: str | None = None,
    extra: Path | None = None,
) -> Exported:
    """Write entries for a model repository's `.eval_results/`, one a run: the value of the task's primary metric.

    Field names are those of `huggingface_hub.EvalResultEntry` as `eval_result_entries_to_yaml` writes them. The hub
    shows them where `dataset` is a benchmark whose eval.yaml names the task.

    Args:
        runs: of one model, on any tasks.
        dataset: owner/name of the hub's benchmark; where left out, the data set that a task's card names.
        model: owner/name of the model; where left out, the hub's repository that the tokenizer's card names.
        source: an address where the runs can be read.
        extra: a further folder of cards.

    Raises:
        ResultError: if the runs can't be published, or are of several models, or two differ in precision alone, or a
            task is of no data set of the hub.
    """
    _one_model(runs, model, extra)
    seen: dict[str, Run] = {}
    for run in runs:
        other = seen.setdefault(_task_of(run), run)
        if other is not run:  # the hub tells entries by data set and task
            raise ResultError(
                f"{other.task}/{other.name} and {run.task}/{run.name} differ in precision alone, and a file holds one "
                "value a task; export each"
            )
    rows, left_out = _rows(runs, one_sided=False, wanted=lambda run, column: column == run.primary)
    entries = []
    for run, column, metric, score, value in rows:
        hub = dataset or _hub_data(run, extra)[0]
        if hub is None:
            raise ResultError(f"{run.task} is of no data set of the hub; name the benchmark by --dataset OWNER/NAME")
        if not REPOSITORY.fullmatch(hub):
            raise ResultError(f"--dataset {hub}: expected OWNER/NAME of a data set on the hub")
        said: dict[str, str] = {"id": hub, "task_id": _task_of(run)}
        if run.data_revision and dataset is None:
            said["revision"] = run.data_revision
        notes = f"{column} ({metric.arrow}), protocol {run.protocol}, {run.precision}, {score.scored} pictures"
        notes += f", task version {run.task_version}, vtbench {run.version}"
        entry: dict[str, Any] = {"dataset": said, "value": value, "date": run.timing.started}
        if source:
            entry["source"] = {"url": source, "name": "vtbench"}
        entries.append({**entry, "notes": notes})
    return Exported(_yaml(entries), f".eval_results/{COLLECTION}.yaml", left_out)


def to_model_index(
    runs: Sequence[Run], *, model: str | None = None, source: str | None = None, extra: Path | None = None
) -> Exported:
    """Write the block `model-index` of a model card's metadata, every score of every run.

    Built by `huggingface_hub.EvalResult`, whose attributes name the fields.

    Args:
        runs: of one model, on any tasks.
        model: owner/name of the model; where left out, the hub's repository that the tokenizer's card names.
        source: an address where the runs can be read.
        extra: a further folder of cards.

    Raises:
        ResultError: if the runs can't be published, or are of several models, or the model has no name.
    """
    from huggingface_hub.repocard_data import EvalResult, eval_results_to_model_index

    _, name = _one_model(runs, model, extra)
    rows, left_out = _rows(runs, one_sided=False)
    sets = {run.task: _hub_data(run, extra) for run in runs}
    found = []
    for run, column, metric, score, value in rows:
        hub, split = sets[run.task]
        level = Key.parse(column).level
        found.append(
            EvalResult(
                task_type="image-to-image",
                task_name=run.task,
                dataset_type=hub or run.task,
                dataset_name=run.task,
                # The library makes one entry of all that share type, configuration, split and revision of a data set.
                dataset_config=f"{run.task}, version {run.task_version}",
                dataset_split=split,
                dataset_revision=run.data_revision,
                dataset_args={"sha256": run.digests.get("data")},
                metric_type=column,
                metric_name=f"{metric.title} at {level}" if level else metric.title,
                metric_value=value,
                metric_config=run.protocol,
                metric_args={
                    "precision": run.precision,
                    "pictures": score.scored,
                    "low": score.low,
                    "high": score.high,
                },
                source_name="vtbench",
                source_url=source or PROJECT,
            )
        )
    block = {"model-index": eval_results_to_model_index(name.partition("/")[2], found)}
    return Exported(_yaml(block), "README.md", left_out)


# --- what may be published --------------------------------------------------------------------------------------------


def by_model(runs: Sequence[Run]) -> list[list[Run]]:
    """Group runs by tokenizer and label, in the order of these."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.tokenizer, run.label or "", run.task, run.name)):
        groups.setdefault((run.tokenizer, run.label or ""), []).append(run)
    return list(groups.values())


def _model_of(run: Run) -> str:
    return run.tokenizer + (f"~{run.label}" if run.label else "")


def _task_of(run: Run) -> str:
    """Name the task as formats without a place for the protocol tell values apart."""
    return run.task if run.protocol == CANONICAL else f"{run.task}@{run.protocol}"


def _one_model(runs: Sequence[Run], model: str | None, extra: Path | None) -> tuple[Run, str]:
    """Refuse what is no result of one nameable model; give its first run and its name."""
    if not runs:
        raise ResultError("no runs to export; name the JSON of one")
    names = sorted({_model_of(run) for run in runs})
    if len(names) > 1:
        raise ResultError(f"the runs are of several models ({', '.join(names[:4])}); a file is of one, export each")
    seen: dict[tuple[str, str], Run] = {}
    for run in runs:
        if run.weights == "synthetic":
            raise ResultError(f"{run.task}/{run.name} has made-up weights, which are no model's result")
        if run.limit is not None:
            raise ResultError(f"{run.task}/{run.name} is of the first {run.images} pictures alone; run the whole task")
        if (run.task, run.name) in seen:
            raise ResultError(f"{run.task}/{run.name} is there twice; name every run once")
        seen[run.task, run.name] = run
        if run.digests.get("weights") != runs[0].digests.get("weights"):
            told = [f"{one.task}/{one.name} {str(one.digests.get('weights'))[:8]}" for one in (runs[0], run)]
            raise ResultError(
                f"the runs are of several models, for their weights differ (sha256 of {', of '.join(told)}); "
                "a file is of one, export each"
            )
    name = model or _repository(runs[0], extra)
    if name is None or not REPOSITORY.fullmatch(name):
        what = f"--model {name}" if name else f"{names[0]} is in no repository of the hub that its card names"
        raise ResultError(f"{what}; say which model it is by --model OWNER/NAME")
    return runs[0], name


def _repository(run: Run, extra: Path | None) -> str | None:
    """Find the hub's repository of published weights; local ones are not what lies there."""
    if run.weights != "published":
        return None
    try:
        card = cards.find_tokenizer(run.tokenizer, extra)
    except CardError:
        return None
    return card.weights.hub if card.weights else None


def _hub_data(run: Run, extra: Path | None) -> tuple[str | None, str | None]:
    """Find the hub's data set of a task and its split; pictures of the user's own are of none."""
    try:
        data = cards.find_task(run.task, extra).data
    except CardError:
        return None, None
    return data.hub, data.split


def _rows(
    runs: Sequence[Run], *, one_sided: bool, wanted: Callable[[Run, str], bool] = lambda run, column: True
) -> tuple[list[_Row], tuple[str, ...]]:
    rows: list[_Row] = []
    left_out: list[str] = []
    for run in runs:
        for column, score in run.scores.items():
            if not wanted(run, column):
                continue
            metric = metrics().get(Key.parse(column).metric)
            if metric is None:
                left_out.append(f"{run.task}/{run.name}: {column}: no installed package measures it")
                continue
            reason = _reason(metric, score, one_sided=one_sided)
            if reason is None and score.value is not None:
                rows.append(_Row(run, column, metric, score, score.value))
            else:
                left_out.append(f"{run.task}/{run.name}: {column}: {reason}")
    if not rows:
        raise ResultError(f"nothing to export: {'; '.join(left_out[:3]) or 'the runs have no such score'}")
    return rows, tuple(left_out)


def _reason(metric: Metric, score: Score, *, one_sided: bool) -> str | None:
    if score.value is None:
        return score.reason
    if not math.isfinite(score.value):
        return "is infinite, for which the format has no number"
    if one_sided and metric.direction == "one":
        return "is best at 1, and the format knows lower or higher alone"
    return None


def _yaml(content: object) -> str:
    import yaml  # huggingface_hub brings it

    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
