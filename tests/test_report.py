from __future__ import annotations

import hashlib
import html
import json
import math
import re
import shutil
import subprocess
import tarfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import make_run, small_task, write_pictures
from PIL import Image
from scipy.integrate import trapezoid
from test_cli import one_line, vtbench

from vtbench import evaluate, files, kept, leaderboard, load_tokenizer, rates, results, statistics
from vtbench.cli.report import chosen
from vtbench.errors import ResultError
from vtbench.metrics import text as text_metrics
from vtbench.report import content, gallery, page
from vtbench.results import Score

OF_THE_WHOLE_SET = {"bpp_entropy", "code_usage", "code_entropy", "code_perplexity", "cer_micro", "legibility"}
"""Metrics that no mean of single pictures gives."""


class Board(HTMLParser):
    """Every table row of a page that belongs to a run: the text, sorting value and interval of each cell."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[tuple[int, list[dict[str, str]]]] = []
        self.heads: list[list[str]] = []
        self._head = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if tag == "table":
            self.heads.append([])
        elif tag == "button" and self._head:
            self.heads[-1].append("")
        elif tag == "thead":
            self._head = True
        elif tag == "tr" and "data-run" in found:
            self._head = False
            self.rows.append((int(found["data-run"]), []))
        elif tag in ("td", "th") and "data-v" in found:
            self.rows[-1][1].append(found)

    def handle_data(self, data: str) -> None:
        if self._head and self.heads and self.heads[-1]:
            self.heads[-1][-1] += data


def data_of(text: str) -> dict[str, object]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])  # type: ignore[no-any-return]


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_every_number_follows_from_the_per_image_tables(report_demo: Path) -> None:
    """The ten lines: read the table, cap what is infinite, average, resample."""
    runs = results.read_runs(report_demo / "results")
    text = page.build(runs, report_demo / "work").html.decode()
    ordered = [one.run for standings in leaderboard.tables(runs).values() for one in standings]
    checked: set[str] = set()
    for (place, cells), group in zip(Board(text).rows, ordered, strict=True):
        run = ordered[place]
        assert run is group
        table = pd.read_parquet(report_demo / "work" / run.task / run.name / "images.parquet")
        group = [one for one in ordered if one.task == run.task]
        names = [column["name"] for column in content.columns(group, run.primary)]
        for name, cell in zip(names, cells[3:], strict=False):
            if cell["data-v"] == "":
                assert run.scores[name].value is None or name not in run.scores
                continue
            if name in OF_THE_WHOLE_SET:
                continue
            values = table[name].dropna().to_numpy()
            if not np.isinf(values).all():
                values = np.where(np.isinf(values), 100.0, values)
                clusters = list(table["attribute/document"]) if "attribute/document" in table else None
                low, high = statistics.mean_interval(list(values), clusters)
                assert float(cell["data-low"]) == pytest.approx(low, rel=1e-7)
                assert float(cell["data-high"]) == pytest.approx(high, rel=1e-7)
            shown = cell["data-v"].replace("Infinity", "inf")
            assert float(shown) == pytest.approx(values.mean(), rel=1e-7), (run.name, name)
            checked.add(name)
    assert {"psnr", "ssim", "bpp", "cer", "wer", "cer_page"} <= checked


def test_gallery_has_the_values_of_single_pictures(report_demo: Path) -> None:
    runs = results.read_runs(report_demo / "results")
    data = data_of(page.build(runs, report_demo / "work").html.decode())
    found = data["galleries"]
    assert isinstance(found, dict) and len(found) == len(runs)
    for place, shown in found.items():
        run = data["runs"][int(place)]  # type: ignore[index]
        table = pd.read_parquet(report_demo / "work" / run["task"] / run["name"] / "images.parquet").set_index("id")
        assert shown["of"] == len(table) == len(shown["ids"])
        for name in shown["metrics"]:
            wanted = [table[name][picture] for picture in shown["ids"]]
            got = [
                math.nan if one is None else float(str(one).replace("Infinity", "inf")) for one in shown["values"][name]
            ]
            assert got == pytest.approx(wanted, rel=1e-5, nan_ok=True)


def test_legible_means_the_same_as_in_the_metric() -> None:
    heights, rates_, sizes = [8.0, 10.0], [content.LEGIBLE + 0.2, content.LEGIBLE - 0.1], [10.0, 10.0]
    found = text_metrics.legibility_threshold(heights, rates_, sizes).value
    assert found is not None
    crossing = 8.0 + (10.0 - 8.0) * (rates_[0] - content.LEGIBLE) / (rates_[0] - rates_[1])
    assert 8.0 < found <= 10.0
    assert found == pytest.approx(crossing, abs=0.2)


# --- rates ------------------------------------------------------------------------------------------------------------


def at(name: str, bpp: float | None, lpips: float, family: str = "jpeg", **change: object) -> results.Run:
    scores = {"lpips": Score(value=lpips, scored=32, expected=32, low=lpips - 0.02, high=lpips + 0.02)}
    if bpp is not None:
        scores["bpp"] = Score(value=bpp, scored=32, expected=32)
    return make_run(name, family=family, scores=scores, **change)


CURVE = [at("jpeg-q5", 0.2, 0.5), at("jpeg-q30", 0.5, 0.3), at("jpeg-q60", 0.9, 0.2), at("jpeg-q75", 1.4, 0.1)]


def test_a_curve_of_half_the_bits_saves_half() -> None:
    half = [
        at(f"half-{i}", (run.scores["bpp"].value or 0) / 2, run.scores["lpips"].value or 0, "half")
        for i, run in enumerate(CURVE)
    ]
    saving = rates.saving(rates.Curve(half, "lpips"), rates.Curve(CURVE, "lpips"))
    assert saving.percent == pytest.approx(-50.0)
    assert (saving.low, saving.high) == (-0.5, -0.1)


def test_rate_difference_is_that_of_a_numeric_integral() -> None:
    from scipy.interpolate import PchipInterpolator

    other = [at("o1", 0.15, 0.45, "o"), at("o2", 0.4, 0.26, "o"), at("o3", 1.0, 0.15, "o")]
    found = rates.saving(rates.Curve(other, "lpips"), rates.Curve(CURVE, "lpips"))
    quality = np.linspace(-0.45, -0.15, 200_001)
    logs = [
        PchipInterpolator(
            [-(r.scores["lpips"].value or 0) for r in runs], np.log([r.scores["bpp"].value for r in runs])
        )(quality)
        for runs in (other, CURVE)
    ]
    assert found.percent == pytest.approx(100 * np.expm1(trapezoid(logs[0] - logs[1], quality) / 0.3), rel=1e-6)
    assert (found.low, found.high) == (-0.45, -0.15)


def test_outside_the_overlap_no_rate_is_given() -> None:
    anchor = rates.Curve(CURVE, "lpips")
    better = [at("a", 0.2, 0.05, "b"), at("b", 0.4, 0.02, "b")]
    with pytest.raises(ResultError, match="no quality is reached by both"):
        rates.saving(rates.Curve(better, "lpips"), anchor)
    with pytest.raises(ResultError, match="better than its highest"):
        rates.saving_of_point(better[0], anchor, "lpips")
    with pytest.raises(ResultError, match="worse than the anchor's lowest"):
        rates.saving_of_point(at("c", 0.2, 0.6), anchor, "lpips")
    with pytest.raises(ResultError, match="no bits/pixel"):
        rates.saving_of_point(at("c", None, 0.3), anchor, "lpips")
    with pytest.raises(ResultError, match="1 points make no curve"):
        rates.Curve(CURVE[:1], "lpips")
    with pytest.raises(ResultError, match="does not rise with the rate"):
        rates.Curve([*CURVE, at("worse", 2.0, 0.15)], "lpips")
    same = rates.saving_of_point(CURVE[1], anchor, "lpips")
    assert same.percent == pytest.approx(0.0, abs=1e-9)


def test_frontier_leaves_out_what_is_beaten_and_what_has_no_bits() -> None:
    runs = [
        *CURVE,
        at("beaten", 0.6, 0.4, "x"),
        at("cheap", 0.1, 0.6, "x"),
        at("floats", None, 0.01, "x"),
        at("control-identity", 24.0, 0.0, "control"),
    ]
    assert [run.tokenizer for run in rates.frontier(runs, "lpips")] == [
        "cheap",
        "jpeg-q5",
        "jpeg-q30",
        "jpeg-q60",
        "jpeg-q75",
    ]
    assert [run.tokenizer for run in rates.frontier(runs[::-1], "lpips")] == [
        "cheap",
        "jpeg-q5",
        "jpeg-q30",
        "jpeg-q60",
        "jpeg-q75",
    ]


def test_rate_classes_never_mix_bits_and_floats() -> None:
    floats = at("floats", None, 0.1)
    floats = floats.model_copy(
        update={"scores": {**floats.scores, "latent_values": Score(value=0.25, scored=1, expected=1)}}
    )
    named = [
        rates.rate_class(run)
        for run in (
            at("a", 0.25, 0.1),
            floats,
            at("b", 0.3, 0.1),
            at("c", 0.001, 0.1),
            at("d", 24.0, 0.1),
            at("e", None, 0.1),
        )
    ]
    assert named == [
        "0.1 to 0.3 bits/pixel",
        "0.1 to 0.3 values/pixel",
        "0.3 to 1 bits/pixel",
        "under 0.03 bits/pixel",
        "from 3 bits/pixel",
        "no rate",
    ]


def test_ties_lie_inside_each_others_interval() -> None:
    runs = [at("a", 0.1, 0.10), at("b", 0.1, 0.11), at("c", 0.1, 0.125), at("d", 0.1, 0.5)]
    (standings,) = leaderboard.tables(runs).values()
    assert content.ties(standings, "lpips") == {0: "2", 1: "1, 3", 2: "2"}
    wide = at("a", 0.1, 0.10).model_copy(
        update={"scores": {"lpips": Score(value=0.1, scored=32, expected=32, low=0.0, high=0.9)}}
    )
    (standings,) = leaderboard.tables([wide, at("d", 0.1, 0.5)]).values()
    assert [one.rank for one in standings] == [1, 2]
    assert content.ties(standings, "lpips") == {}  # the one holds the other, but not the other way round


def test_what_may_not_be_compared_is_part_of_no_curve_or_frontier() -> None:
    codecs = [run.model_copy(update={"kind": "codec"}) for run in CURVE]
    runs = [*codecs, at("part", 0.3, 0.05, limit=4, kind="codec"), at("mine", 0.1, 0.3, "vq", weights="local")]
    data = data_of(page.build(runs, Path("nowhere")).html.decode())
    names = [run["name"] for run in data["runs"]]  # type: ignore[attr-defined]
    (table,) = data["tables"]  # type: ignore[misc]
    assert [names[at] for at in table["apart"]] == ["part"]
    assert {names[at] for at in table["anchors"]["jpeg"]} == {run.name for run in CURVE}
    assert {names[at] for at in table["frontiers"]["lpips"]["bpp"]} == {
        run.name for run in CURVE
    }  # as the table's mark
    assert [who for who, *_ in table["savings"]["lpips"]["jpeg"]] == ["mine"]


def test_surroundings_and_heads_of_two_runs_say_the_protocol() -> None:
    data = data_of(page.build([make_run(), make_run(protocol="seed-voken")], Path("nowhere")).html.decode())
    found = [(run["full"], run["facts"]["protocol"]) for run in data["runs"]]  # type: ignore[attr-defined]
    assert found == [("jpeg-q5", "canonical"), ("jpeg-q5@seed-voken", "seed-voken")]


def test_intervals_and_reasons_are_words_and_not_a_title_alone() -> None:
    scores = {"lpips": Score(value=0.3, scored=12, expected=33, low=0.2, high=0.4)}
    psnr = {"psnr": Score(value=None, reason="no <reason>", scored=0, expected=33)}
    other = make_run("other", scores={**scores, "psnr": Score(value=20.0, scored=33, expected=33)})
    text = page.build([make_run(scores={**scores, **psnr}), other], Path("nowhere")).html.decode()
    assert '<span class="said"> (0.2000 to 0.4000; 12 of 33 pictures)</span>' in text
    assert '<span class="said"> (no &lt;reason&gt;)</span>' in text


def test_reported_stands_beside_what_the_same_protocol_measured() -> None:
    scores = {"psnr": Score(value=22.0, scored=29, expected=29)}
    card = next(
        card
        for card in page.content.cards.tokenizers().values()
        if any(r.protocol == "seed-voken" and r.metric == "psnr" for r in card.reported)
    )
    same = make_run(card.name, scores=scores, primary="psnr", protocol="seed-voken")
    other = make_run(card.name, scores=scores, primary="psnr")
    own = make_run(card.name, scores=scores, primary="psnr", protocol="seed-voken", label="mine", weights="local")
    rows = content.reported([same, other, own])
    assert rows and {row["metric"] for row in rows} == {"PSNR (dB)"}
    wanted = [f"{one.value:g}" for one in card.reported if (one.protocol, one.metric) == ("seed-voken", "psnr")]
    assert [row["reported"] for row in rows] == wanted
    assert rows[0]["pictures"] == "29 of reconstruction"


def test_levels_and_groups_become_curves() -> None:
    scores = {f"contrast/{level}": Score(value=level, scored=1, expected=1) for level in (0.5, 0.25)}
    groups = {
        "plain_height": {h: {"cer": Score(value=0.1, scored=1, expected=1, low=0.05, high=0.2)} for h in ("12", "8")},
        "strings": {"random": {"cer": Score(value=0.3, scored=1, expected=1)}},
    }
    found = {
        one["key"]: one for one in content.curves([make_run(scores={**make_run().scores, **scores}, groups=groups)])
    }
    assert found["contrast/level"]["series"][0] == [[0.25, 0.25, None, None], [0.5, 0.5, None, None]]
    assert found["cer/plain_height"]["series"][0] == [[8.0, 0.1, 0.05, 0.2], [12.0, 0.1, 0.05, 0.2]]
    assert found["cer/plain_height"]["line"] == content.LEGIBLE
    assert found["cer/strings"]["labels"] == ["random"]
    assert [leaderboard.position(label) for label in ("scales=3", "0.25", "depth=2", "red-green", "1e-3")] == [
        3.0,
        0.25,
        2.0,
        None,
        0.001,
    ]


def test_curves_of_what_may_not_be_compared_are_named_and_not_drawn() -> None:
    scores = make_run().scores | {"contrast/0.5": Score(value=0.5, scored=1, expected=1)}
    runs = [make_run(f"r{at}", scores=scores, step=float(at), weights="local") for at in (1, 2)]
    runs += [make_run("r1", scores=scores, label="s9", step=9.0, weights="local")]
    odd = [make_run("r1", scores=scores, label=f"s{at}", step=float(at), weights="local", limit=4) for at in (4, 5)]
    text = page.build([*runs, *odd], Path("nowhere")).html.decode()
    data = data_of(text)
    names = [run["name"] for run in data["runs"]]  # type: ignore[attr-defined]
    (table,) = data["tables"]  # type: ignore[misc]
    assert {names[int(at)] for at in table["curves"][0]["series"]} == {"r1", "r2", "r1~s9"}
    assert [[names[at] for _, at in one["points"]] for one in table["steps"]] == [["r1", "r1~s9"]]
    said = "Not drawn, for they may not be compared with the others: <bdi>r1~s4</bdi>, <bdi>r1~s5</bdi>."
    assert text.count(said) == 2
    assert re.search("Not drawn, for no other step of their training is here, [^:]*: <bdi>r2</bdi>\\.", text)


def test_two_trainings_are_two_lines() -> None:
    labels = {"seed0-1k": 1000, "seed0-2k": 2000, "seed1-1k": 1000, "seed1-2k": 2000, "seed1-alone-3k": 3000}
    runs = [make_run("a", label=label, step=float(step), weights="local") for label, step in labels.items()]
    assert content.steps(runs) == [
        {"name": "a~seed0", "points": [[1000.0, 0], [2000.0, 1]]},
        {"name": "a~seed1", "points": [[1000.0, 2], [2000.0, 3]]},
    ]


@pytest.mark.parametrize(
    "labels",
    [("step-1000", "step-2000"), ("epoch3-step1000", "epoch5-step2000"), ("iter_1k", "iter_2k"), ("first", "last"),
     ("1e3", "2e3"), ("rrrrrrrr", "last"), (None, "last")],
)  # fmt: skip
def test_steps_of_one_training_are_one_line(labels: tuple[str | None, str | None]) -> None:
    runs = [make_run("a", label=label, step=step) for label, step in zip(labels, (1000.0, 2000.0), strict=True)]
    assert [(one["name"], len(one["points"])) for one in content.steps(runs)] == [("a", 2)]


def test_trainings_that_nothing_tells_apart_make_no_line() -> None:
    runs = [make_run("a", label=label, step=step) for label, step in (("x", 1.0), ("y", 1.0), ("z", 2.0))]
    assert content.steps(runs) == []


def test_steps_need_two_of_one_tokenizer() -> None:
    runs = [make_run("a", label=f"s{step}", step=float(step), weights="local") for step in (20, 10)] + [
        make_run("b", step=1.0)
    ]
    assert content.steps(runs) == [{"name": "a", "points": [[10.0, 1], [20.0, 0]]}]


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_kept_pictures_are_those_that_were_scored(report_demo: Path) -> None:
    """Lossless: the PSNR of the files is the table's."""
    for run in results.read_runs(report_demo / "results"):
        folder = report_demo / "work" / run.task / run.name
        table = pd.read_parquet(folder / "images.parquet").set_index("index")
        pictures = kept.read(folder, run)
        order = kept.by_badness(table.reset_index(), run.primary)
        assert {picture.index for picture in pictures} == {
            int(table.index[row]) for row in {order[0], order[len(order) // 2], order[-1]}
        }
        for one in pictures:
            pair = [
                np.asarray(Image.open(folder / kept.FOLDER / name), dtype=np.float64)
                for name in (one.original, one.reconstruction)
            ]
            error = np.mean((pair[0] - pair[1]) ** 2)
            assert (math.inf if error == 0 else 10 * math.log10(255**2 / error)) == pytest.approx(
                table["psnr"][one.index], abs=1e-4
            )
            assert bool(one.text) == (run.task == "text")


def test_pictures_of_another_table_are_not_shown(report_demo: Path) -> None:
    run = results.read_runs(report_demo / "results")[0]
    folder = report_demo / "work" / run.task / run.name
    assert kept.read(folder, run)
    assert kept.read(folder, run.model_copy(update={"digests": {**run.digests, "table": "0" * 64}})) == ()


def test_pictures_that_are_gone_are_not_listed_and_are_kept_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, tokenizer = small_task(write_pictures(tmp_path / "pictures", 2)), load_tokenizer("jpeg-q10")
    run = evaluate(tokenizer, task, out=tmp_path / "r", work=tmp_path / "w")
    folder = tmp_path / "w" / run.task / run.name

    def keep(said: str) -> None:
        kept.keep(tokenizer, task, run, folder, kept.parse(said), wait=0.2)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    keep("worst:1")
    (one, _) = kept.read(folder, run)
    (folder / kept.FOLDER / one.original).unlink()
    assert not kept.are_kept(run, folder, kept.parse("all"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(kept, "_keep_one", killed)
        keep("all")
    assert kept.read(folder, run) == ()
    with files.lock(folder / "owner", wait=0, purpose="keeping"), pytest.raises(ResultError, match="holds it"):
        keep("all")
    keep("all")
    assert kept.are_kept(run, folder, kept.parse("all"))


def test_pictures_of_other_data_are_not_shown_and_are_written_anew(tmp_path: Path) -> None:
    """The control gives all pictures back, so its table is the same whatever they are."""
    (tmp_path / "in").mkdir()
    tokenizer, runs = load_tokenizer("control-identity"), []
    folder = tmp_path / "w" / "small@in" / "control-identity"
    shown = folder / kept.FOLDER / "000000.original.webp"
    for level in (10, 200):
        Image.new("RGB", (64, 64), (level,) * 3).save(tmp_path / "in" / "a.png")
        task = small_task(tmp_path / "in")
        runs.append(evaluate(tokenizer, task, out=tmp_path / "r", work=tmp_path / "w", overwrite=True))
        assert kept.read(folder, runs[-1]) == ()
        kept.keep(tokenizer, task, runs[-1], folder, kept.parse("all"), wait=1)
        assert int(np.asarray(Image.open(shown)).max()) == level
    assert runs[0].digests["table"] == runs[1].digests["table"]
    before = shown.stat().st_mtime_ns
    for anew in (False, True):
        kept.keep(tokenizer, task, runs[-1], folder, kept.parse("all"), wait=1, anew=anew)
        assert (shown.stat().st_mtime_ns > before) == anew


@pytest.mark.parametrize("said", ["worst", "worst:0", "worst:-1", "best:3", "", "ALL"])
def test_what_is_kept_is_said_in_one_way(said: str, tmp_path: Path) -> None:
    with pytest.raises(ResultError, match=r"expected all, or worst:N"):
        kept.parse(said)
    assert "expected all, or worst:N" in one_line(
        vtbench("run", "-t", "jpeg", "--task", "reconstruction", "--keep-pictures", said, cwd=tmp_path)
    )


def test_folder_mode_writes_every_kept_picture(report_demo: Path, tmp_path: Path) -> None:
    places = ("--results", report_demo / "results", "--work", report_demo / "work")
    done = vtbench("report", *places, "--out", tmp_path / "r.html", "--folder")
    assert done.returncode == 0, done.stderr
    files = {path.read_bytes() for path in (tmp_path / "r-pictures").iterdir()}
    assert files == {path.read_bytes() for path in (report_demo / "work").glob("*/*/pictures/*.webp")}
    assert b"data:image/webp" not in (tmp_path / "r.html").read_bytes()


def test_many_pictures_are_thinned_but_the_worst_stay() -> None:
    rows = list(range(5000))
    found = gallery._thinned(rows)
    assert len(found) == len(set(found)) == gallery.MOST
    assert found[:100] == rows[:100] and found[-1] == 4999
    assert gallery._thinned(rows[:7]) == rows[:7]


def test_edits_lead_from_the_one_text_to_the_other() -> None:
    for expected, read in (("Crown 173", "Cowr 173!"), ("", "x"), ("abc", ""), ("same", "same"), ("a\nb", "a b")):
        parts = gallery.edits(expected, read)
        assert "".join(text for mark, text in parts if mark in "=-") == expected
        assert "".join(text for mark, text in parts if mark in "=+") == read
    assert gallery.edits("kitten", "sitting") == [
        ["-", "k"],
        ["+", "s"],
        ["=", "itt"],
        ["-", "e"],
        ["+", "i"],
        ["=", "n"],
        ["+", "g"],
    ]


# --- the command ------------------------------------------------------------------------------------------------------


def test_runs_are_named_or_found(report_demo: Path, tmp_path: Path) -> None:
    places = ("--results", report_demo / "results", "--work", report_demo / "work", "--out", tmp_path / "r.html")
    for name in (
        "jpeg-q5",
        "text/jpeg-q5",
        report_demo / "results" / "text" / "jpeg-q5.json",
        report_demo / "work" / "text" / "jpeg-q5",
    ):
        assert vtbench("report", name, *places).returncode == 0
        data = data_of((tmp_path / "r.html").read_text())
        assert {run["name"] for run in data["runs"]} == {"jpeg-q5"}  # type: ignore[attr-defined]
        assert len(data["runs"]) == (2 if name == "jpeg-q5" else 1)  # type: ignore[arg-type]
    assert vtbench("report", "text/jpeg-*", *places).returncode == 0
    data = data_of((tmp_path / "r.html").read_text())
    assert sorted(run["name"] for run in data["runs"]) == ["jpeg-q10", "jpeg-q30", "jpeg-q5"]  # type: ignore[attr-defined]
    assert "no such run" in one_line(vtbench("report", "nothing", *places))
    assert "ends in .html" in one_line(vtbench("report", *places[:-1], tmp_path / "r.txt"))
    assert "holds no runs" in one_line(vtbench("report", "--results", tmp_path, "--out", tmp_path / "r.html"))
    assert "no such folder" in one_line(vtbench("report", "--results", tmp_path / "none", "--out", tmp_path / "r.html"))


def test_a_run_is_shown_once_however_it_is_named(report_demo: Path, tmp_path: Path) -> None:
    folder = report_demo / "results" / "text"
    named = folder / "jpeg-q5.json"
    other = folder / ".." / "text" / "jpeg-q5.json"
    work = report_demo / "work" / "text" / "jpeg-q5"
    found = chosen(["text/*", str(named), str(other), str(work), "text/jpeg-q5"], report_demo / "results")
    assert [run.name for run, _ in found] == [path.stem for path in sorted(folder.glob("*.json"))]
    assert {place for _, place in found} == {None, named}
    # One of other numbers that says it is the same run is passed over, and named.
    run = results.read_run(named)
    copy = tmp_path / "copy.json"
    results.write(run.model_copy(update={"device": "another"}), copy)
    done = vtbench("report", named, copy, "--out", tmp_path / "r.html")
    assert done.returncode == 0
    assert f"passed over: {copy}: is the same run as {named}" in done.stderr.replace("\n", "")
    assert len(data_of((tmp_path / "r.html").read_text())["runs"]) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("command", ["report", "sheet"])
def test_a_run_that_was_changed_is_refused_by_its_name_too(report_demo: Path, tmp_path: Path, command: str) -> None:
    run = results.read_run(report_demo / "results" / "text" / "jpeg-q5.json")
    name, score = next((name, score) for name, score in run.scores.items() if score.high is not None)
    better = score.model_copy(update={"value": 2.0 * score.high + 1.0})
    results.write(run.model_copy(update={"scores": {**run.scores, name: better}}), tmp_path / "changed.json")
    done = vtbench(
        command, tmp_path / "changed.json", "--out", tmp_path / ("r.html" if command == "report" else "r.png")
    )
    assert done.returncode == 2
    assert "outside of its own interval" in one_line(done) and "changed.json" in one_line(done)


def test_a_run_named_by_its_folder_shows_what_lies_beside_it(report_demo: Path, tmp_path: Path) -> None:
    named = report_demo / "work" / "text" / "jpeg-q5"
    for place in (named, named / results.RUN):
        assert vtbench("report", place, "--work", tmp_path, "--out", tmp_path / "r.html").returncode == 0
        assert (tmp_path / "r.html").read_text().count("data:image/webp") == 6


def test_same_runs_give_the_same_page(report_demo: Path) -> None:
    runs = results.read_runs(report_demo / "results")
    assert page.build(runs, report_demo / "work").html == page.build(runs[::-1], report_demo / "work").html


def test_damaged_lists_of_pictures_are_passed_over_and_said(report_demo: Path, tmp_path: Path) -> None:
    shutil.copytree(report_demo / "work", tmp_path / "work")
    (tmp_path / "work" / "text" / "jpeg-q5" / kept.FOLDER / kept.INDEX).write_text("{}")
    (tmp_path / "work" / "text" / "jpeg-q10" / "images.parquet").write_bytes(b"PAR1 not")
    done = vtbench(
        "report", "--results", report_demo / "results", "--work", tmp_path / "work", "--out", tmp_path / "r.html"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1 and "not a list of kept pictures" in done.stderr
    assert "Of 1 runs no per-image table was found" in (tmp_path / "r.html").read_text()


# --- safety -----------------------------------------------------------------------------------------------------------

ATTACK = "\"'><img src=x onerror=hacked=1></script><script>hacked=1</script><!--{{7*7}}\u202e\x1b]0;"


def hostile_runs() -> list[results.Run]:
    score = {
        "lpips": Score(value=0.3, scored=2, expected=2, low=0.2, high=0.4),
        "bpp": Score(value=0.3, scored=2, expected=2),
        "psnr": Score(value=None, reason=ATTACK, scored=0, expected=2),
    }
    groups = {ATTACK: {ATTACK: {"lpips": Score(value=0.2, scored=1, expected=1)}}}
    said = {
        "scores": score,
        "groups": groups,
        "family": ATTACK,
        "kind": "discrete",
        "version": ATTACK,
        "device": ATTACK,
        "versions": {ATTACK: ATTACK},
        "data_revision": ATTACK,
    }
    levels = {f"contrast/{ATTACK}": Score(value=0.2, scored=1, expected=1)}
    return [
        make_run(ATTACK, **said),
        make_run(f"second{ATTACK}", **{**said, "label": ATTACK, "step": 1.0, "scores": {**score, **levels}}),
        make_run("plain", ATTACK, **said),
        make_run(f"long{ATTACK}\0" + "x" * 5000, ATTACK, **said),
    ]


def test_hostile_texts_are_text() -> None:
    found = page.build(hostile_runs(), Path("nowhere"), title=ATTACK).html.decode()
    body, _, _ = found.partition('<script type="application/json"')
    assert "<img" not in body and body.count("<script") == 0
    assert "&lt;img src=x onerror" in body
    assert "\u202e" not in found and "\x1b" not in found
    assert "49" not in re.findall(r"<h1>(.*?)</h1>", found)[0]
    for part in re.findall(r'<script type="application/json" id="[a-z]+">(.*?)</script>', found, re.DOTALL):
        assert not set("<>&") & set(part)
    assert found.count("</script>") == 2 + len(page.SCRIPTS)
    assert data_of(found)["runs"][0]["facts"]["device"] == content.plain(ATTACK)  # type: ignore[index]


def test_a_run_outside_the_work_folder_is_not_read(report_demo: Path) -> None:
    run = next(one for one in results.read_runs(report_demo / "results") if one.task == "text")
    work = report_demo / "work" / "reconstruction"
    outside = run.model_copy(update={"task": "../text"})
    assert page.build([outside], work).pictures == 0
    assert page.build([run], report_demo / "work").pictures > 0


def test_policy_names_every_inline_part_and_nothing_else() -> None:
    found = page.build([make_run()], Path("nowhere")).html.decode()
    policy = html.unescape(re.findall(r'Content-Security-Policy" content="([^"]*)"', found)[0])
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy and "http" not in policy
    inline = re.findall(r"<style>(.*?)</style>|<script>(.*?)</script>", found, re.DOTALL)
    assert len(inline) == len(page.STYLES) + len(page.SCRIPTS)
    for style, script in inline:
        assert page._hash(style or script) in policy
    assert not re.search(r'\s(style|on[a-z]+)="', found.partition("<script")[0])


def test_no_torch_stands_in_the_way_of_a_report() -> None:
    code = "import sys; import vtbench.report.page, vtbench.cli.report, vtbench.kept; assert 'torch' not in sys.modules"
    import sys

    subprocess.run([sys.executable, "-c", code], check=True)


# --- what is not ours -------------------------------------------------------------------------------------------------

VENDORED = json.loads((page.ASSETS / "vendored.json").read_text())


@pytest.mark.parametrize("package", VENDORED, ids=[one["package"] for one in VENDORED])
def test_vendored_files_are_what_their_list_says(package: dict[str, object]) -> None:
    licence = (page.ASSETS / f"LICENSE_{package['package']}").read_text()
    assert package["license"] == "MIT" and "Permission is hereby granted" in licence and "Copyright (c)" in licence
    for name, said in package["files"].items():  # type: ignore[attr-defined]
        assert hashlib.sha256((page.ASSETS / name).read_bytes()).hexdigest() == said["sha256"], name


def test_every_file_of_the_report_is_ours_or_listed() -> None:
    listed = {name for one in VENDORED for name in one["files"]} | {f"LICENSE_{one['package']}" for one in VENDORED}
    ours = {"vendored.json", "page.html.jinja", "page.css", "page.js", "charts.js"}
    assert {path.name for path in page.ASSETS.iterdir()} == listed | ours


@pytest.mark.parametrize("package", VENDORED, ids=[one["package"] for one in VENDORED])
def test_vendored_files_are_the_registrys(package: dict[str, object], tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed: the registry's package can't be fetched to compare with")
    asked = f"{package['package']}@{package['version']}"
    done = subprocess.run(
        ["npm", "pack", "--silent", asked], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    if done.returncode != 0:
        pytest.skip(f"{asked} can't be had from the registry here: {done.stderr.strip()[-200:]}")
    with tarfile.open(tmp_path / done.stdout.strip().splitlines()[-1]) as archive:
        for name, said in package["files"].items():  # type: ignore[attr-defined]
            member = archive.extractfile(f"package/{said['in_package']}")
            assert member is not None and member.read() == (page.ASSETS / name).read_bytes(), name
