"""Draw the README's pictures of the report and of the rate-distortion plot; run it again whenever the results change.

    python scripts/report_pictures.py                 (after `make demo`; needs Chromium)

The report is that of the demo's tasks, with the pictures that the demo kept.
Writes results/report.png and results/rate-distortion.svg. Each says in its metadata of which results it is, by which a
test finds one that is stale.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vtbench import files, leaderboard, results
from vtbench.cli.run import DEMO_TASKS
from vtbench.report import page, plots
from vtbench.results import Run

RESULTS = Path(__file__).resolve().parent.parent / "results"
TASK, GALLERY = "reconstruction", "tiny-fsq-f8"
SIZE = {"width": 1280, "height": 700}
MARK = "sha256 of what it shows"


def shown(runs: Sequence[Run]) -> str:
    """sha256 over the table that the picture of the report shows, and over the files that give the page its looks."""
    (standings,) = (
        found for (task, protocol), found in leaderboard.tables(runs).items() if (task, protocol) == (TASK, "canonical")
    )
    rows = [
        [one.rank, one.run.name, {name: repr(score) for name, score in one.run.scores.items()}] for one in standings
    ]
    looks = {name: files.sha256(page.ASSETS / name) for name in ("page.html.jinja", *page.STYLES, *page.SCRIPTS)}
    return hashlib.sha256(json.dumps([rows, looks], sort_keys=True).encode()).hexdigest()


def screenshot(html: bytes) -> Image.Image:
    """Open the page at the task's table, and draw the window, the charts and the gallery one below the other."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "report.html"
        path.write_bytes(html)
        own = playwright.chromium.executable_path
        browser = playwright.chromium.launch(
            executable_path=own if Path(own).exists() else shutil.which("chromium"), args=["--no-sandbox"]
        )
        window = browser.new_page(viewport=SIZE, color_scheme="light")  # type: ignore[arg-type]
        window.goto(path.as_uri())
        window.get_by_role("tab", name=TASK, exact=True).click()
        window.wait_for_timeout(500)
        panel = window.locator("[role=tabpanel]:visible")
        panel.locator(".gallery select.run").select_option(label=GALLERY)
        window.wait_for_timeout(500)
        parts = [window.screenshot(), panel.locator(".rates").screenshot(), panel.locator(".gallery").screenshot()]
        browser.close()
    pictures = [Image.open(io.BytesIO(part)).convert("RGB") for part in parts]
    drawn = Image.new("RGB", (max(one.width for one in pictures), sum(one.height for one in pictures)), "white")
    top = 0
    for one in pictures:
        drawn.paste(one, ((drawn.width - one.width) // 2, top))
        top += one.height
    return drawn


def main() -> None:
    """Write both."""
    runs = results.read_runs(RESULTS)
    of_demo = [run for run in runs if run.task in DEMO_TASKS]
    picture = screenshot(page.build(of_demo, RESULTS.parent / ".vtbench").html)
    said, sink = PngInfo(), io.BytesIO()
    said.add_text("Description", f"{MARK}: {shown(runs)}")
    picture.save(sink, "png", optimize=True, pnginfo=said)
    files.write_atomic(RESULTS / "report.png", sink.getvalue())
    files.write_atomic(
        RESULTS / "rate-distortion.svg", plots.draw(plots.panels("rate-distortion", runs, task=TASK), "svg")
    )


if __name__ == "__main__":
    main()
