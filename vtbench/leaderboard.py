"""Tables out of runs: leaderboard.csv and LEADERBOARD.md. No torch here.

The same runs give the same bytes, whatever order they are read in.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

from vtbench import backbones, rates
from vtbench.catalogue import find_metric, metrics, of_measure
from vtbench.data import HINTS
from vtbench.results import CANONICAL, LOCAL, UNRANKED, Run, Score, run_name
from vtbench.statistics import commonest

CEILING = "control-identity"
"""The tokenizer that keeps every pixel: its values are those of the originals."""

Table = tuple[str, str]
"""Task and protocol: what one table is about. A table never mixes two."""


class Standing(NamedTuple):
    """A run's place in its table."""

    run: Run
    rank: int | None
    why: str | None
    """Why it has no rank."""
    alike: bool
    """Whether it may be compared with those that have a rank; where none has one, with most of the table."""


def tables(runs: Sequence[Run], *, rank_local: bool = False) -> dict[Table, list[Standing]]:
    """Group runs by task and protocol; inside, ranked ones first, best first.

    A run has a rank only where it may be compared with the others of its table: a full task, published or packaged
    weights or none, a finite value, and the pictures, task version and metric backbones of the table's majority.
    Nothing ranks above the originals: where a table holds CEILING, a better value than its own counts as equal to it
    (an OCR engine that misreads an original may read a reconstruction of it by luck). Ties in the primary metric are
    broken by PSNR, then by name.

    Args:
        runs: in any order.
        rank_local: give ranks to local weights too.
    """
    groups: dict[Table, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.task, run.protocol, run.name, run.timing.started)):
        groups.setdefault((run.task, run.protocol), []).append(run)
    return {table: _standings(group, rank_local) for table, group in groups.items()}


def _standings(group: Sequence[Run], rank_local: bool) -> list[Standing]:
    why = {id(run): run.unranked for run in group}
    if rank_local:
        why = {key: None if reason == LOCAL else reason for key, reason in why.items()}
    known = [run for run in group if run.weights != "synthetic"]
    unlike = _unlike(known, [run for run in known if why[id(run)] is None] or known)
    for run in group:
        if why[id(run)] in (None, LOCAL, UNRANKED):
            why[id(run)] = unlike.get(id(run), why[id(run)])
    alike = {id(run) for run in known if id(run) not in unlike}
    found = [Standing(run, None, why[id(run)], id(run) in alike) for run in group]
    primary = primary_of(found)
    ceiling = [_badness(run, primary) for run in group if run.tokenizer == CEILING and why[id(run)] is None]

    def place(one: Standing) -> tuple[bool, float, float, str]:
        worse = max(_badness(one.run, primary), *ceiling, -math.inf)
        return one.why is not None, worse, _badness(one.run, "psnr"), one.run.name

    ordered = enumerate(sorted(found, key=place), start=1)
    return [one if one.why else one._replace(rank=position) for position, one in ordered]


def _unlike(runs: Sequence[Run], voters: Sequence[Run]) -> dict[int, str]:
    """Say, by `id`, in what runs differ from most voters; what differs in one thing has no vote in the next."""

    def of(file: str) -> Callable[[Run], Hashable]:
        return lambda one: one.digests.get(file)

    def all_of(name: str) -> Callable[[Run], Hashable]:
        return lambda one: tuple(sorted(files_of(one, name).items())) or None

    compared: list[tuple[str, Callable[[Run], Hashable]]] = [
        ("another task version", lambda one: one.task_version),
        ("other pictures", lambda one: (one.digests.get("data"), one.limit)),
        ("another metric ranks it", lambda one: one.primary),
        ("another OCR engine", lambda one: engines(one) or None),
    ]
    for file in sorted({file for run in runs for file in run.digests if "/" in file}):
        name = file.partition("/")[0]
        compared.append((f"another {name}", of(file) if pinned(name) else all_of(name)))
    unlike: dict[int, str] = {}
    for what, value in compared:
        left = [run for run in voters if id(run) not in unlike]
        known = [value(run) for run in left if value(run) is not None]
        if known:
            fits = (None, commonest(known))
            unlike |= {id(run): what for run in runs if id(run) not in unlike and value(run) not in fits}
    left = [run for run in voters if id(run) not in unlike]
    most = max((run.scores[run.primary].scored for run in left if _has(run, run.primary)), default=0)
    for run in runs:
        if id(run) in unlike or not _has(run, run.primary):
            continue
        if run.scores[run.primary].scored < most:
            unlike[id(run)] = f"{run.scores[run.primary].scored} of {most} pictures scored"
        elif _badness(run, run.primary) == math.inf:
            unlike[id(run)] = f"{run.primary} is infinite"
    return unlike


def engines(run: Run) -> tuple[str, ...]:
    """Name the OCR engines that read for a run: the backbones whose version is recorded beside their files."""
    return tuple(sorted(file.removesuffix("/version") for file in run.digests if file.endswith("/version")))


def files_of(run: Run, backbone: str) -> dict[str, str | None]:
    """Give the digests of the files behind a backbone or an OCR engine of a run, by the files' names."""
    parts = ((file.partition("/"), digest) for file, digest in run.digests.items())
    return {file: digest for (name, slash, file), digest in parts if slash and name == backbone}


def pinned(backbone: str) -> bool:
    """Tell whether a backbone is one network wherever it lies: each of its files is held against a known digest."""
    return backbone in backbones.names()


class Place(NamedTuple):
    """A run's place among those of its rate class."""

    rates: str
    """The class (`rates.rate_class`)."""
    rank: int
    among: int
    """How many of the class have a rank."""


def places(standings: Sequence[Standing]) -> list[Place | None]:
    """Rank within rate classes, in the order of the table; None for controls and what has no rank at all."""
    classes = [
        rates.rate_class(one.run) if one.rank is not None and one.run.family != rates.CONTROLS else None
        for one in standings
    ]
    sizes = Counter(classes)
    return [
        None if own is None else Place(own, classes[: at + 1].count(own), sizes[own]) for at, own in enumerate(classes)
    ]


def on_frontier(standings: Sequence[Standing]) -> list[bool]:
    """Say of each ranked run whether no other of the table takes fewer bits and is better in what ranks."""
    ranked = [one.run for one in standings if one.rank is not None]
    best = {id(run) for run in rates.frontier(ranked, primary_of(standings))}
    return [id(one.run) in best for one in standings]


def primary_of(standings: Sequence[Standing]) -> str:
    """Name the metric that ranks in a table: what has no rank has no say, unless nothing has one."""
    ranked = [one.run for one in standings if one.why is None]
    alike = [one.run for one in standings if one.alike]
    return commonest(run.primary for run in ranked or alike or [one.run for one in standings])


def _badness(run: Run, metric: str) -> float:
    score = run.scores.get(metric)
    return math.inf if score is None or score.value is None else find_metric(metric).badness(score.value)


def shown_name(run: Run) -> str:
    """Name a run within its table, which says the protocol already."""
    return run_name(run.tokenizer, run.label, run.precision, CANONICAL)


def to_csv(runs: Sequence[Run], *, rank_local: bool = False) -> str:
    """Write one row a (task, protocol, tokenizer).

    Beside a metric's value stand the ends of its 95% interval and the number of pictures behind it.
    """
    names = [name for name in metrics() if any(name in run.scores for run in runs)]
    known = {name for run in runs for name, score in run.scores.items() if score.floor is not None}
    floors = [name for name in names if name in known]
    columns = [
        *("task", "task_version", "protocol", "rank", "rate_class", "rank_in_class", "frontier", "unranked"),
        *("run", "tokenizer", "label", "step", "family"),
        *("kind", "tokens", "codebook_size"),
        *("parameters", "images_expected"),
        *(f"{name}{suffix}" for name in names for suffix in ("", "_low", "_high", "_scored")),
        *(f"{name}_{what}" for name in floors for what in ("floor", "excess")),
        *("not_scored", "encode_per_second", "decode_per_second", "device", "precision", "weights", "weights_sha256"),
        "data_sha256",
        *("version", "commit", "dirty", "torch", "date"),
    ]
    sink = io.StringIO()
    writer = csv.DictWriter(sink, columns, lineterminator="\n")
    writer.writeheader()
    for standings in tables(runs, rank_local=rank_local).values():
        for standing, place, best in zip(standings, places(standings), on_frontier(standings), strict=True):
            said = {"rate_class": place.rates, "rank_in_class": place.rank} if place else {}
            writer.writerow(_csv_row(standing, names) | said | {"frontier": best})
    return sink.getvalue()


def _csv_row(standing: Standing, names: Sequence[str]) -> dict[str, object]:
    run = standing.run
    row: dict[str, object] = {
        "task": run.task,
        "task_version": run.task_version,
        "protocol": run.protocol,
        "rank": standing.rank,
        "unranked": standing.why,
        "run": run.name,
        "tokenizer": run.tokenizer,
        "label": run.label,
        "step": run.step,
        "family": run.family,
        "kind": run.kind,
        "tokens": run.tokens_per_image,
        "codebook_size": " ".join(str(size) for size in run.codebook_sizes),
        "parameters": run.parameters,
        "images_expected": run.images,
        "not_scored": "; ".join(f"{name}: {score.reason}" for name, score in run.scores.items() if score.reason),
        "encode_per_second": _rounded(run.timing.encode_per_second, 6),
        "decode_per_second": _rounded(run.timing.decode_per_second, 6),
        "device": run.device,
        "precision": run.precision,
        "weights": run.weights,
        "weights_sha256": run.digests.get("weights"),
        "data_sha256": run.digests.get("data"),
        "version": run.version,
        "commit": run.commit,
        "dirty": run.dirty,
        "torch": run.versions.get("torch"),
        "date": run.timing.started[:10],
    }
    for name in names:
        score = run.scores.get(name)
        if score:
            row |= {f"{name}_{end}": _rounded(getattr(score, end), 9) for end in ("low", "high")}
            row |= {name: _rounded(score.value, 9), f"{name}_scored": score.scored}
            if score.floor is not None:
                row |= {f"{name}_{what}": _rounded(getattr(score, what), 9) for what in ("floor", "excess")}
    return {column: _plain(value) if isinstance(value, str) else value for column, value in row.items()}


def _rounded(value: float | None, digits: int) -> float | None:
    """Round to significant digits: decimals would leave nothing of a small value."""
    return None if value is None else float(f"{value:.{digits}g}")


def to_markdown(runs: Sequence[Run], *, rank_local: bool = False) -> str:
    """Write one table a task and protocol, with the reasons of what is missing below it."""
    parts = [
        "# Leaderboard",
        "Made by `vtbench leaderboard` from the runs in this folder. Every table is one task at one size under one "
        "protocol; `n` is pictures behind the metric that ranks, of pictures expected. Arrows say which way is "
        "better. Only what may be compared has a rank: a full task, published or packaged weights or none, finite "
        "values, the pictures, version and backbones of the table's majority. Nothing ranks above "
        f"`{CEILING}`, the originals: a better value than its own counts as equal, and PSNR decides. "
        "In brackets stands the 95% interval of the metric that ranks. The rank within the rate class compares what "
        "takes about as many bits (or floats, which are never weighed against bits); ◆ is on the frontier: no other "
        "takes fewer bits and is better. →1: the nearest to 1 is best, from either side.",
    ]
    for (task, protocol), standings in tables(runs, rank_local=rank_local).items():
        group = [standing.run for standing in standings]
        first = next((one.run for one in standings if one.alike), group[0])
        parts.append(f"## {cell(task)} (version {first.task_version}, protocol {cell(protocol)})")
        parts.append(ranking(standings))
        parts += [f"Not scored: {cell(reason)}." for reason in missing(group)]
        parts += [f"{cell(line)}." for line in pictures(group)]
        parts += [f"Not shown: {cell(line)}." for line in unknown(group)]
        known = [(metrics()[name], score.floor) for name, score in first.scores.items() if name in metrics()]
        if floors := [(metric, floor) for metric, floor in known if floor is not None]:
            said = ", ".join(f"{metric.title} {floor:.{metric.digits}f}" for metric, floor in floors)
            parts.append(f"The engine's own floor, on the originals: {said}. What lies above it is the tokenizer's.")
        others = [one for one in standings if one.why and one.why != UNRANKED]
        if unranked := [f"{cell(shown_name(one.run))} ({cell(one.why)})" for one in others]:
            parts.append(f"Not ranked: {', '.join(unranked)}.")
        parts += diagnosed(group)
        for attribute in dict.fromkeys(attribute for run in group for attribute in run.groups):
            for name in (primary_of(standings), "legibility"):
                if labels := _labels(group, attribute, name):
                    parts.append(f"{find_metric(name).title} by {cell(attribute.replace('_', ' '))}:")
                    parts.append(by_group(group, attribute, name, labels))
        for name in curves(group):
            parts.append(f"{find_metric(name).title} by level (`{name}/level`):")
            parts.append(by_level(group, name))
    return "\n\n".join(parts) + "\n"


def ranking(standings: Sequence[Standing]) -> str:
    """Draw the runs of one table as Markdown, best first."""
    group, primary = [standing.run for standing in standings], primary_of(standings)
    apart = ("bpp", "latent_values", "bpp_entropy", "code_perplexity")
    names = [name for name in measured(group) if name not in apart]
    ranks = any(one.rank is not None for one in standings)
    heads = [f"**{_head(name)}**" if name == primary and ranks else _head(name) for name in names]
    first = ["", "tokenizer", "in its rate class", _linked("bpp"), _linked("latent_values"), "tokens"]
    lines = [[*first, *heads, "n", "enc/s", "dec/s", "weights", "precision", "version"]]
    for (run, rank, *_), place, best in zip(standings, places(standings), on_frontier(standings), strict=True):
        rate = (run.timing.encode_per_second, run.timing.decode_per_second)
        lines.append(
            [
                str(rank or "-"),
                cell(shown_name(run)) + (" ◆" if best else ""),
                f"{place.rank}/{place.among}: {place.rates}" if place else "-",
                shown(run.scores.get("bpp"), "bpp"),
                shown(run.scores.get("latent_values"), "latent_values"),
                str(run.tokens_per_image or "-"),
                *(
                    shown(run.scores.get(name), name) + (_interval(run, name) if name == primary else "")
                    for name in names
                ),
                behind(run, primary),
                *(f"{value:.{0 if value >= 10 else 1}f}" if value else "-" for value in rate),
                *(run.weights, run.precision, cell(run.version)),
            ]
        )
    return _markdown(lines, left=(1,))


def measured(group: Sequence[Run]) -> list[str]:
    """Name the metrics for which at least one run has a value, in the order of tables."""
    return [name for name in metrics() if any(_has(run, name) for run in group)]


def missing(group: Sequence[Run]) -> list[str]:
    """Say why metrics of a task were not scored, each reason once, with the runs that it is of where it is not of all.

    That a codec has no codebook goes without saying.
    """
    apart = (*of_measure("codes"), "token_agreement")
    runs: dict[tuple[str, str], list[str]] = {}
    for run in group:
        for name, score in run.scores.items():
            if score.reason and name not in apart:
                runs.setdefault((score.reason, name), []).append(shown_name(run))
    names: dict[tuple[str, str], list[str]] = {}
    for (reason, name), own in runs.items():
        of = "" if len(own) == len(group) else f" of {_several(own)}"
        names.setdefault((of, reason), []).append(name)
    place = {name: position for position, name in enumerate(metrics())}

    def listed(own: list[str]) -> str:
        return ", ".join(sorted(own, key=lambda name: (place.get(name.partition("/")[0], len(place)), name)))

    return sorted(f"{listed(own)}{of}: {reason}" for (of, reason), own in names.items())


def unknown(group: Sequence[Run]) -> list[str]:
    """Name the metrics that runs have and no installed package measures, with the runs, so that no table shows them."""
    runs: dict[str, list[str]] = {}
    for run in group:
        for name in dict.fromkeys(key.partition("/")[0] for key in run.scores):
            if name not in metrics():
                runs.setdefault(name, []).append(shown_name(run))
    return [f"{name} of {_several(own)}: no installed package measures it" for name, own in sorted(runs.items())]


def _several(names: Sequence[str]) -> str:
    return f"{', '.join(names[:3])}{f' and {len(names) - 3} more' * (len(names) > 3)}"


def pictures(group: Sequence[Run]) -> list[str]:
    """Say what became of the pictures, where any was not scored or lacks a metric: a line for runs that are alike."""
    alike: dict[str, list[str]] = {}
    for run in group:
        for said in (_found(run), _fewer(run)):
            if said:
                alike.setdefault(said, []).append(shown_name(run))
    return [f"Pictures of {_several(names)}: {said}" for said, names in alike.items()]


def _found(run: Run) -> str:
    counts = run.pictures
    if counts.found == counts.scored:
        return ""
    said = [f"{counts.found} found", f"{counts.scored} scored"]
    if counts.failed:
        reasons = "; ".join(f"{count}: {reason}" for reason, count in counts.reasons.items())
        said.append(f"{counts.failed} failed ({reasons})")
    if counts.passed_over:
        kinds = ", ".join(f"{count} {kind}" for kind, count in counts.passed_over.items())
        hints = dict.fromkeys(f"; {HINTS[kind]}" for kind in counts.passed_over if kind in HINTS)
        said.append(f"{sum(counts.passed_over.values())} passed over ({kinds}{''.join(hints)})")
    if counts.left_out:
        said.append(f"{counts.left_out} left out by --limit")
    return ", ".join(said)


def _fewer(run: Run) -> str:
    """Name the metrics that some of the scored pictures lack."""
    own = {name: score for name, score in run.scores.items() if "/" not in name and score.value is not None}
    fewer: dict[int, list[str]] = {}
    for name, score in own.items():
        if score.scored < run.pictures.scored:
            fewer.setdefault(score.scored, []).append(name)
    said = [f"{', '.join(names)} of {count} of the {run.pictures.scored} scored" for count, names in fewer.items()]
    return f"{'; '.join(said)} (images.parquet says why, picture by picture)" if said else ""


def diagnosed(group: Sequence[Run]) -> list[str]:
    """Say of each diagnostic that a table holds what it is, what is known of it and how it misleads, as a list."""
    known = [metric for name in measured(group) if (metric := find_metric(name)).evidence]
    if not known:
        return []
    said = [
        f"* {cell(metric.title)} {metric.arrow}: {cell(metric.description)}. Evidence: {cell(metric.evidence)} "
        f"Warning: {cell(metric.warning)}"
        for metric in known
    ]
    return [
        "Nothing ranks by these diagnostics; the rows go by their reconstruction, and arrows say which way is meant to "
        "be better:",
        "\n".join(said),
    ]


def by_group(group: Sequence[Run], attribute: str, name: str, labels: Sequence[str]) -> str:
    """Draw one metric for values of one attribute that results are grouped by."""
    lines = [["tokenizer", *(cell(label) for label in labels)]]
    for run in group:
        values = run.groups.get(attribute, {})
        lines.append([cell(shown_name(run)), *(shown(values.get(label, {}).get(name), name) for label in labels)])
    return _markdown(lines, left=(0,))


def _labels(group: Sequence[Run], attribute: str, name: str) -> list[str]:
    """Values of an attribute for which some run has a metric, in order."""
    found = {
        label
        for run in group
        for label, scores in run.groups.get(attribute, {}).items()
        if name in scores and scores[name].value is not None
    }
    return sorted(found, key=_number_first)


def curves(group: Sequence[Run]) -> list[str]:
    """Name the metrics that have values by level, such as the contrast of each frequency."""
    found = {name.split("/")[0] for run in group for name in run.scores if "/" in name}
    return [name for name in metrics() if name in found]


def by_level(group: Sequence[Run], name: str) -> str:
    """Draw one metric at each of its levels."""
    labels = {key.partition("/")[2] for run in group for key in run.scores if key.startswith(f"{name}/")}
    ordered = sorted(labels, key=_number_first)
    lines = [["tokenizer", *(cell(label) for label in ordered)]]
    lines += [
        [cell(shown_name(run)), *(shown(run.scores.get(f"{name}/{label}"), name) for label in ordered)] for run in group
    ]
    return _markdown(lines, left=(0,))


def _has(run: Run, name: str) -> bool:
    return name in run.scores and run.scores[name].value is not None


DOCS = "https://github.com/vtbench/vtbench/blob/main/docs/metrics.md"

SECTIONS = {
    "pairs": "pairs-of-pictures",
    "sets": "sets-of-pictures",
    "codes": "codes",
    "curve": "rate-and-quality-by-depth-or-scale",
    "tokens": "tokens-as-parts-of-a-picture",
    "stability": "stability",
    "text": "text-and-detail",
    "charts": "text-and-detail",
    "latents": "latent-spaces",
    "latent_sets": "latent-spaces",
}
"""Where DOCS explains the metrics of a measure."""


def _head(name: str) -> str:
    return f"{_linked(name)} {find_metric(name).arrow}"


def _linked(name: str) -> str:
    """Link a metric's title to what explains it; one of another package has no such place."""
    metric = find_metric(name)
    section = SECTIONS.get(metric.measure)
    return f"[{metric.title}]({DOCS}#{section})" if section else metric.title


def _interval(run: Run, name: str) -> str:
    score = run.scores.get(name)
    if score is None or score.low is None or score.high is None:
        return ""
    return f" ({digits(score.low, name)} to {digits(score.high, name)})"


def position(label: str) -> float | None:
    """Read the number of a level: "0.25", or "scales=3"; None where it is a word."""
    found = re.fullmatch(r"(?:[A-Za-z_ -]+=)?(-?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)", label)
    number = float(found[1]) if found else math.nan
    return number if math.isfinite(number) else None


def _number_first(label: str) -> tuple[bool, float, str]:
    number = position(label)
    return number is None, number or 0.0, label


def shown(score: Score | None, name: str) -> str:
    """Print a score: a dash where there is none, ∞ for an infinite PSNR."""
    if score is None or score.value is None:
        return "-"
    return digits(score.value, name)


def shown_floor(score: Score | None, name: str) -> str:
    """Print what the OCR engine alone gets wrong: a dash where nothing says it."""
    return "-" if score is None or score.floor is None else digits(score.floor, name)


def behind(run: Run, name: str | None = None) -> str:
    """Print how many pictures are behind a metric, the one that ranks where none is named, of those expected."""
    score = run.scores.get(name or run.primary)
    return f"{score.scored if score else 0}/{run.images}"


def digits(value: float, name: str) -> str:
    """Print a value with the decimals of its metric."""
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:.{find_metric(name).digits}f}"


def _markdown(lines: Sequence[Sequence[str]], left: tuple[int, ...]) -> str:
    head, *rest = lines
    rule = [":--" if column in left else "--:" for column in range(len(head))]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *rest))


def cell(text: object) -> str:
    """Show a text of somebody's within Markdown: in one line, without control characters, its marks escaped.

    A tilde becomes its number: GitHub strikes out what stands between two, and not every renderer knows it escaped.
    """
    return re.sub(r"([\\`*\[\]<>|#!])", r"\\\1", _plain(str(text))).replace("~", "&#126;")


def _plain(text: str) -> str:
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
