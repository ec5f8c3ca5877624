"""What the documentation says a user can do, done."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from importlib import util
from pathlib import Path

import pytest
from builders import write_pictures
from test_cli import vtbench

from vtbench import cards, leaderboard, results
from vtbench.report import plots

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def test_a_stranger_adds_a_network_by_contributing_alone(tmp_path: Path) -> None:
    """The example file, in a package of one's own with an entry point, and a card in a folder of one's own."""
    (tmp_path / "pooling.py").write_text(CONTRIBUTING.split("```python\n")[1].split("```")[0])
    info = tmp_path / "pooling-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pooling\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vtbench.networks]\npooling = pooling\n")
    folder = tmp_path / "cards"
    folder.mkdir()
    (folder / "pooling-f4.toml").write_text(
        'name = "pooling-f4"\nfamily = "pooling"\nnetwork = "pooling"\nkind = "continuous"\ntitle = "Average pooling"\n'
        "[config]\nfactor = 4\n[input]\nrange = [-1.0, 1.0]\nmultiple_of = 4\n"
    )
    pictures = write_pictures(tmp_path / "cats", 2)
    done = vtbench(
        *("run", "-t", "pooling-f4", "--cards", folder, "--task", "reconstruction", "--data", pictures),
        cwd=tmp_path,
        PYTHONPATH=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    (run,) = results.read_runs(tmp_path / "results")
    assert run.scores["psnr"].value is not None
    assert "no rate" in (run.scores["bpp"].reason or "")


def test_a_stranger_adds_a_card_by_the_readme_of_the_cards(tmp_path: Path) -> None:
    body = (ROOT / "tokenizers" / "README.md").read_text().split("```toml\n")[1].split("```")[0]
    (tmp_path / "my-ibq.toml").write_text(body)
    done = vtbench("show", "my-ibq", "--cards", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "IBQ, retrained on my data" in done.stdout


def commands(text: str) -> list[str]:
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", text, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("#")[0].strip() for line in lines if line.startswith("vtbench ")]


@pytest.mark.parametrize("command", sorted(set(commands(README) + commands(CONTRIBUTING))))
def test_every_command_in_the_docs_exists_with_its_options(command: str) -> None:
    name, *rest = command.split()[1:]
    said = vtbench(name, "--help").stdout
    assert said, command
    for option in rest:
        if option.startswith("-"):
            assert option.split("=")[0] in said, f"{command}: {option}"


def test_every_make_target_in_the_docs_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for text in (README, CONTRIBUTING):
        assert set(re.findall(r"`make ([a-z]+)", text)) <= targets


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


def test_table_of_the_readme_is_that_of_the_committed_results(committed: Path) -> None:
    written = (committed / "LEADERBOARD.md").read_text()
    rows = [line for line in README.splitlines() if re.match(r"\| \d+ \| ", line)]
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
        assert all(standing.why is None for standing in standings), task
        group = [standing.run for standing in standings]
        names = [run.tokenizer for run in group]
        assert names[0] == "control-identity", task
        assert names[-1] == "control-mean", task
        assert all(run.scores["bpp"].value is not None or run.kind == "continuous" for run in group)
        for family in ("jpeg", "webp", "avif", "jxl"):
            same = [run for run in group if run.family == family]
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
