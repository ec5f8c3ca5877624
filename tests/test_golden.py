"""A golden run: small, deterministic, its numbers committed. Whoever moves a score sees it here first.

`python tests/test_golden.py` writes golden.json again; the CHANGELOG's section Scores then says which moved and why.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vtbench import evaluate, load_task, load_tokenizer, ocr
from vtbench.protocols import find_protocol

GOLDEN = Path(__file__).resolve().parent / "golden.json"

RUNS = [
    ("jpeg-q5", "reconstruction", "canonical"),
    ("tiny", "reconstruction", "canonical"),
    ("tiny", "detail", "canonical"),
    ("tiny", "text", "canonical"),
    ("tiny", "stability", "canonical"),
    ("tiny", "reconstruction", "vtbench-2025"),
    ("tiny", "reconstruction", "seed-voken"),
]


def numbers(tokenizer: str, task: str, protocol: str) -> dict[str, float]:
    opened = load_task(task, native=find_protocol(protocol).published)
    run = evaluate(load_tokenizer(tokenizer, device="cpu"), opened, out=None, limit=2, protocol=protocol)
    # Codes are counted over the pictures; that they are few makes use and entropy no less exact.
    return {name: score.value for name, score in run.scores.items() if score.value is not None}


@pytest.mark.skipif(ocr.find("easyocr") is None, reason="EasyOCR's weights are not on this machine")
@pytest.mark.parametrize(("tokenizer", "task", "protocol"), RUNS, ids=["-".join(run) for run in RUNS])
def test_no_score_moves_unseen(tokenizer: str, task: str, protocol: str) -> None:
    wanted = json.loads(GOLDEN.read_text())[f"{tokenizer}/{task}/{protocol}"]
    found = numbers(tokenizer, task, protocol)
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        # Another CPU rounds a learned network's last bits otherwise, and a pixel may then fall to the next level.
        assert found[name] == pytest.approx(float(value), rel=2e-4, abs=2e-4), name


if __name__ == "__main__":
    said = {f"{one}/{task}/{rule}": numbers(one, task, rule) for one, task, rule in RUNS}
    plain = {
        run: {name: value if abs(value) < 1e300 else "inf" for name, value in of.items()} for run, of in said.items()
    }
    GOLDEN.write_text(json.dumps(plain, indent=1, sort_keys=True) + "\n")
