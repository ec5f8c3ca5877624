"""Every metric ranks the distortions that docs/metrics.md says it sees."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


def _benchmark():
    spec = importlib.util.spec_from_file_location("sensitivity", ROOT / "benchmarks" / "sensitivity.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sensitivity = _benchmark()


def _cells():
    """The table of the docs: (metric, distortion) to its cell."""
    written = (ROOT / "docs" / "metrics.md").read_text().split(sensitivity.BEGIN)[1].split(sensitivity.END)[0]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in written.strip().splitlines()]
    names = [re.sub(r" \(.*", "", name) for name in head[1:]]
    return {(row[0], name): cell for row in rows for name, cell in zip(names, row[1:], strict=True)}


SEEN = [pair for pair, cell in _cells().items() if cell.startswith("**")]


def test_the_table_holds_every_metric_and_distortion():
    assert set(_cells()) == {(metric, name) for metric in sensitivity.METRICS for name in sensitivity.DISTORTIONS}
    for cell in _cells().values():
        assert cell.startswith("**") == (float(cell.strip("*%")) >= 100 * sensitivity.SEEN)


@pytest.mark.parametrize(("metric", "distortion"), SEEN, ids=["-".join(pair) for pair in SEEN])
def test_what_a_metric_is_said_to_see_it_ranks(metric, distortion, photographs):
    count = 1 if metric.startswith("lpips") else 3
    for picture in photographs[:count, :, 40:208, 40:208]:
        assert sensitivity.ranked(metric, distortion, picture)


def test_strengths_in_another_order_are_not_ranked(photographs, monkeypatch):
    picture = photographs[0, :, 40:208, 40:208]
    for name, (function, strengths) in sensitivity.DISTORTIONS.items():
        monkeypatch.setitem(sensitivity.DISTORTIONS, name, (function, strengths[::-1]))
        assert not any(sensitivity.ranked(metric, name, picture) for metric in ("psnr", "ssim", "ciede2000", "gmsd"))


def test_the_colour_shift_keeps_the_luma(photographs):
    picture = photographs[0].clamp(60, 190)
    moved = sensitivity.distorted("colour shift", picture)[-1].double() - picture.double()
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    assert (torch.einsum("c,chw->hw", luma, moved)).abs().max() < 0.5  # rounding of three channels to levels
    assert moved.abs().amax() == 40
