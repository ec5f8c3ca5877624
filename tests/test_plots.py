from __future__ import annotations

import re
from pathlib import Path

import pytest
from builders import make_run
from test_cli import one_line, vtbench
from test_report import CURVE, at

from vtbench import results
from vtbench.errors import ResultError
from vtbench.report import plots
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
