"""What the documentation says of the results, the targets and the hooks; tests/test_docs_run.py runs its code."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from importlib import util
from pathlib import Path

import pytest

from vtbench import cards, leaderboard, results
from vtbench.report import plots

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def test_every_make_target_in_the_docs_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    for text in (README, CONTRIBUTING, workflow):
        assert set(re.findall(r"(?:`|run: |^)make ([a-z-]+)", text, flags=re.MULTILINE)) <= targets


def test_the_hooks_before_a_commit_are_the_lines_of_make_check() -> None:
    """All of what `make check` lints and formats with, in its words; the hooks name the files behind them."""
    hooks = re.findall(r"entry: \.venv/bin/(ruff .*)$", (ROOT / ".pre-commit-config.yaml").read_text(), re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()
    check = makefile.split("\ncheck:")[1].split("\n\n")[0]
    assert [f"{hook} ." for hook in hooks] == re.findall(r"\$\(BIN\)/(ruff .*)$", check, re.MULTILINE)


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results as committed: `make demo`, or runs of one's own, may have changed those of the checkout."""
    if not (ROOT / ".git").exists():
        return ROOT / "results"
    place = tmp_path_factory.mktemp("committed")
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", "HEAD", "results"], capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as packed:
        packed.extractall(place, filter="data")
    return place / "results"


def test_nothing_is_committed_that_is_left_out() -> None:
    command = ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == ""


def test_table_of_the_readme_is_that_of_the_committed_results(committed: Path) -> None:
    written = (committed / "LEADERBOARD.md").read_text()
    rows = [line for line in README.splitlines() if re.match(r"\| \d+ \| [^|]+ \| [^|]+ \| ", line)]
    assert len(rows) >= 10
    for row in rows:
        assert row in written, row
    assert (committed / "contact-sheet.webp").is_file()
    assert "results/contact-sheet.webp" in README


def test_pictures_of_the_readme_are_of_the_committed_results(committed: Path) -> None:
    """`make pictures` draws both anew."""
    from PIL import Image

    spec = util.spec_from_file_location("report_pictures", ROOT / "scripts" / "report_pictures.py")
    assert spec and spec.loader
    script = util.module_from_spec(spec)
    spec.loader.exec_module(script)
    runs = results.read_runs(committed)
    with Image.open(committed / "report.png") as picture:
        said = picture.info["Description"]
    assert said == f"{script.MARK}: {script.shown(runs)}"
    drawn = plots.panels("rate-distortion", runs, task="reconstruction")
    assert plots.fingerprint(drawn) in (committed / "rate-distortion.svg").read_text()
    assert "results/report.png" in README and "results/rate-distortion.svg" in README


def test_leaderboard_follows_from_the_committed_runs(committed: Path) -> None:
    runs = results.read_runs(committed)
    assert leaderboard.to_markdown(runs) == (committed / "LEADERBOARD.md").read_text()
    assert leaderboard.to_csv(runs) == (committed / "leaderboard.csv").read_text()
    assert {run.tokenizer for run in runs} <= set(cards.tokenizers())


def test_committed_results_say_what_they_must(committed: Path) -> None:
    """The order that no honest run can miss: nothing lost is first, nothing kept is last, more bits look better."""
    for (task, _), standings in leaderboard.tables(results.read_runs(committed)).items():
        group = [standing.run for standing in standings]
        names = [run.tokenizer for run in group]
        if group[0].task_family == "latents":  # the controls and codecs have no latent, and nothing ranks
            assert all(standing.rank is None and standing.why == results.UNRANKED for standing in standings), task
            assert {run.kind for run in group} <= {"discrete", "continuous"}, task
            quality = [run.scores["lpips"].value or 0 for run in group]
            assert quality == sorted(quality), task
            continue
        assert all(standing.why is None for standing in standings), task
        if group[0].task_family == "tokens":  # nor have they tokens
            assert all(run.scores["tokens_per_picture"].value for run in group), task
            continue
        assert names[0] == "control-identity", task
        assert names[-1] == "control-mean", task
        assert all(run.scores["bpp"].value is not None or run.kind == "continuous" for run in group)
        for family in ("jpeg", "webp", "avif", "jxl"):
            same = [run for run in group if run.family == family and "ssim" in run.scores]
            by_rate = sorted(same, key=lambda run: run.scores["bpp"].value or 0)
            quality = [run.scores["ssim"].value or 0 for run in by_rate]
            assert quality == sorted(quality), (task, family)


def test_text_gets_legible_with_its_height(committed: Path) -> None:
    """CER of the small tokenizer falls from the smallest letters to the largest, and the originals are read."""
    text = {run.tokenizer: run for run in results.read_runs(committed) if run.task == "text"}
    groups = text["tiny-fsq-f8"].groups["plain_height"]
    by_height = {float(height): scores["cer"].value or 0 for height, scores in groups.items()}
    heights = sorted(by_height)
    small, large = heights[: len(heights) // 2], heights[len(heights) // 2 :]
    assert min(by_height[height] for height in small[:2]) > max(by_height[height] for height in large[-2:])
    originals = text["control-identity"]
    assert originals.scores["cer"].excess == 0
    assert all(run.scores["cer"].floor == originals.scores["cer"].value for run in text.values())
    assert (originals.groups["strings"]["language"]["cer"].value or 0) <= 0.05  # 6 px and gradients included
    legible = {name: text[name].scores["legibility"].value for name in ("control-identity", "tiny-fsq-f8")}
    assert 6 <= (legible["control-identity"] or 0) < (legible["tiny-fsq-f8"] or 0)
