from __future__ import annotations

import re
from pathlib import Path

import pytest
from builders import make_run
from test_cli import one_line, vtbench
from test_report import CURVE, at, data_of

from vtbench import cards, evaluate, load_task, load_tokenizer, results
from vtbench.errors import ResultError
from vtbench.report import content, page, plots
from vtbench.results import Score

FLOATS = at("floats", None, 0.12, "vae")
FLOATS = FLOATS.model_copy(
    update={"scores": {**FLOATS.scores, "latent_values": Score(value=0.5, scored=1, expected=1)}}
)
CODECS = [run.model_copy(update={"kind": "codec"}) for run in CURVE]
RUNS = [
    *CODECS,
    at("vq-1", 0.1, 0.55, "vq").model_copy(update={"kind": "discrete"}),
    FLOATS,
    at("control-identity", 24.0, 0.0, "control"),
]


def levels(name: str) -> list[results.Run]:
    scores = {f"{name}/{level}": Score(value=1 - level, scored=1, expected=1) for level in (0.1, 0.2, 0.5)}
    return [make_run(one, scores={**make_run().scores, **scores}) for one in ("a", "b")]


def heights() -> list[results.Run]:
    groups = {"plain_height": {h: {"cer": Score(value=1 / float(h), scored=1, expected=1)} for h in ("8", "16")}}
    return [make_run("a", "text", groups=groups)]


def steps() -> list[results.Run]:
    return [make_run("a", label=f"s{step}", step=float(step), weights="local") for step in (1, 2)]


EVERY = {
    "rate-distortion": RUNS,
    "legibility": heights(),
    "mtf": levels("mtf"),
    "contrast": levels("contrast"),
    "steps": steps(),
}


def test_bits_and_floats_stand_on_axes_of_their_own() -> None:
    bits, floats = plots.panels("rate-distortion", RUNS)
    assert (bits.x, floats.x) == ("bits/pixel", "values/pixel")
    assert {one.name: (one.line, len(one.points)) for one in bits.series} == {"jpeg": (True, 4), "vq": (False, 1)}
    assert [(one.name, one.labels, one.points[0][0]) for one in floats.series] == [("vae", ("floats",), 0.5)]
    assert bits.frontier[0] == (0.1, 0.55) and len(bits.frontier) == 5


def test_what_may_not_be_compared_is_left_out_and_named(caplog: pytest.LogCaptureFixture) -> None:
    odd = [at("part", 0.05, 0.1, limit=4), at("made-up", 0.06, 0.1, weights="synthetic")]
    without = plots.panels("rate-distortion", RUNS)
    assert plots.panels("rate-distortion", [*RUNS, *odd]) == without
    assert "made-up (made-up weights), part (the first 32 pictures alone)" in caplog.text
    local, *_ = plots.panels("rate-distortion", [*RUNS, at("mine", 0.05, 0.1, "vq", weights="local")])
    assert len(local.series[-1].points) == 2 and local.frontier == without[0].frontier


@pytest.mark.parametrize("kind", ["contrast", "steps"])
def test_curves_and_steps_are_of_what_may_be_compared(kind: plots.Kind, caplog: pytest.LogCaptureFixture) -> None:
    runs = [run.model_copy(update={"weights": "none"}) for run in EVERY[kind]]
    odd = runs[0].model_copy(update={"tokenizer": "part", "label": None, "limit": 4})
    others = [odd, odd.model_copy(update={"step": 9.0, "label": "s9"})]
    assert plots.panels(kind, [*runs, *others]) == plots.panels(kind, runs)
    assert "part (the first 32 pictures alone), part~s9 (the first 32 pictures alone)" in caplog.text
    with pytest.raises(ResultError, match="have nothing to draw"):
        plots.panels(kind, [make_run(), odd])


def test_steps_that_make_no_line_are_named(caplog: pytest.LogCaptureFixture) -> None:
    (panel,) = plots.panels("steps", [*steps(), make_run("b", label="seed1-2k", step=2000.0, weights="local")])
    assert [one.name for one in panel.series] == ["a"]
    assert "not drawn" in caplog.text and "b~seed1-2k" in caplog.text


def test_names_without_glyphs_or_end_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """Signs that no font has are named once, and a long name is cut: it left the axes no room."""
    odd = at("中文分词", 0.3, 0.4, "vq").model_copy(update={"kind": "discrete"})
    for form in plots.FORMATS:
        caplog.clear()
        plots.draw(plots.panels("rate-distortion", [*CODECS, odd]), form)
        assert [record.getMessage().count("中") for record in caplog.records] == [1]
    long = [run.model_copy(update={"family": "x" * 200 + "end"}) for run in CODECS]
    long.append(at("y" * 200 + "end", 0.3, 0.4, "vq").model_copy(update={"kind": "discrete"}))
    caplog.clear()
    drawn = plots.draw(plots.panels("rate-distortion", long), "svg").decode()
    assert "xend</text>" in drawn and "x" * 40 not in drawn
    assert not caplog.records  # nor have the axes no room


def test_more_names_than_there_is_room_for_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    many = [run.model_copy(update={"tokenizer": f"{run.tokenizer}-{at}"}) for at in range(120) for run in levels("mtf")]
    plots.draw(plots.panels("mtf", many), "png")
    assert [record.getMessage() for record in caplog.records] == ["the plot has no room for all names; name fewer runs"]


def test_a_colour_means_one_name_in_all_panels() -> None:
    drawn = plots.draw(plots.panels("rate-distortion", RUNS), "svg").decode()
    assert all(colour in drawn for colour in plots.COLOURS[:3]) and plots.COLOURS[3] not in drawn


@pytest.mark.parametrize("kind", list(EVERY))
def test_every_plot_is_drawn_in_every_form(kind: plots.Kind) -> None:
    drawn = plots.panels(kind, EVERY[kind])
    for form, head in (("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")):
        found = plots.draw(drawn, form)
        assert found.startswith(head)
        assert found == plots.draw(drawn, form)
    assert plots.fingerprint(drawn).encode() in plots.draw(drawn, "svg")


def test_fingerprint_follows_every_number() -> None:
    moved = [
        *RUNS[:-2],
        FLOATS.model_copy(update={"scores": {**FLOATS.scores, "lpips": Score(value=0.121, scored=1, expected=1)}}),
    ]
    assert plots.fingerprint(plots.panels("rate-distortion", RUNS)) == plots.fingerprint(
        plots.panels("rate-distortion", RUNS[::-1])
    )
    assert plots.fingerprint(plots.panels("rate-distortion", RUNS)) != plots.fingerprint(
        plots.panels("rate-distortion", moved)
    )


def test_what_cannot_be_drawn_is_said() -> None:
    with pytest.raises(
        ResultError, match=r"several tables: reconstruction under canonical, text under canonical.*--task"
    ):
        plots.panels("rate-distortion", [*RUNS, make_run("a", "text")])
    assert plots.panels("rate-distortion", [*RUNS, make_run("a", "text")], task="reconstruction")
    with pytest.raises(
        ResultError, match="no run of any task has what this plot shows; the runs are of reconstruction"
    ):
        plots.panels("mtf", RUNS)
    with pytest.raises(ResultError, match="have nothing to draw"):
        plots.panels("steps", steps()[:1])


def test_the_command_draws_committed_results(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parent.parent
    out = tmp_path / "plot.svg"
    done = vtbench("plot", "rate-distortion", "--task", "reconstruction", "--results", root / "results", "-o", out)
    assert done.returncode == 0, done.stderr
    assert re.search(r"sha256 of the data: [0-9a-f]{64}", out.read_text())
    assert ">jpeg</text>" in out.read_text()
    assert "ends in .svg" in one_line(
        vtbench("plot", "mtf", "--results", root / "results", "-o", tmp_path / "plot.gif")
    )
    assert "no metric is called" in one_line(
        vtbench("plot", "steps", "--metric", "nothing", "--results", root / "results", "-o", out)
    )


@pytest.mark.heavy  # seconds of many processes or networks
def test_depths_of_a_small_residual_network_are_a_line_of_their_own() -> None:
    """Of a real run: each depth at its own bits per pixel, in the plot and in the page."""
    config = {"channels": 32, "multipliers": [1, 1, 2], "blocks": 1, "z_channels": 16, "code_channels": 8}
    card = cards.find_tokenizer("dnd-16x16x4")
    code = card.code.model_copy(update={"codebook_sizes": (64,)})
    card = card.model_copy(update={"config": {**config, "codebook_size": 64, "depths": 3}, "code": code})
    task = cards.find_task("curve").model_copy(update={"metrics": ("curve_psnr", "curve_bpp")})
    network = load_tokenizer(card, weights="synthetic", device="cpu")
    run = evaluate(network, load_task(task), out=None, limit=2)
    run = run.model_copy(update={"weights": "published"})  # made-up ones are drawn nowhere
    bits, *_ = plots.panels("rate-distortion", [run], metric="curve_psnr")
    (line,) = [one for one in bits.series if one.line]
    steps = [f"depth={depth}" for depth in (1, 2, 3)]
    assert [x for x, *_ in line.points] == pytest.approx([run.scores[f"curve_bpp/{step}"].value for step in steps])
    assert [y for _, y, *_ in line.points] == pytest.approx(
        [run.scores[f"curve_psnr/{step}"].value for step in steps], rel=1e-5
    )
    assert "curve_bpp" not in content.qualities([run])
    data = data_of(page.build([run], Path("none")).html.decode())
    coded = data["tables"][0]["coded"]["curve_psnr"]["0"]  # type: ignore[index]
    assert [point[4] for point in coded] == steps


def test_a_diagnostic_is_drawn_against_the_reconstruction_by_the_same_weights() -> None:
    runs = results.read_runs(Path(__file__).resolve().parent.parent / "results")
    group = [run for run in runs if run.task == "latents"]
    found = content.diagnostics(group, runs)
    assert {"lpc", "lds"} <= set(found["names"]) and "lpips" in found["against"]
    assert [(runs[mate].task, runs[mate].name) for mate in found["mates"].values()] == [
        ("reconstruction", run.name) for run in group
    ]
    other = [group[0].model_copy(update={"digests": {**group[0].digests, "weights": "0" * 64}}), *group[1:]]
    assert content.diagnostics(other, runs)["alone"] == [content.named(group[0])]


def test_a_diagnostic_is_drawn_against_what_may_be_compared_alone() -> None:
    runs = results.read_runs(Path(__file__).resolve().parent.parent / "results")
    group = [run for run in runs if run.task == "latents"]
    odd = group[0].name
    changed = [
        run.model_copy(update={"limit": 4}) if (run.task, run.name) == ("reconstruction", odd) else run for run in runs
    ]
    data = data_of(page.build(changed, Path("none")).html.decode())
    (table,) = [one for one in data["tables"] if one["title"] == "latents (canonical)"]  # type: ignore[attr-defined]
    named = [run["name"] for run in data["runs"]]  # type: ignore[attr-defined]
    found = table["diagnostics"]
    assert found["alone"] == [odd]
    assert all(named[int(run)] == named[mate] for run, mate in found["mates"].items()) and len(found["mates"]) > 1
