"""The report in a real browser: headless Chromium, driven by Playwright."""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from builders import make_run
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright
from test_report import hostile_runs

from vtbench import kept, results
from vtbench.report import page as report
from vtbench.results import Score

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium: Playwright's own, or the system's; without one these tests fail in CI and are skipped elsewhere."""
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        found = (
            own
            if Path(own).exists()
            else next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        )
        if found is None:
            said = "no Chromium is here: apt-get install chromium, or playwright install chromium"
            pytest.fail(said) if os.environ.get("CI") else pytest.skip(said)
        with playwright.chromium.launch(executable_path=found, args=["--no-sandbox"]) as started:
            yield started


class Watched:
    """A page and what went wrong on it: messages of the console, exceptions, requests and dialogs."""

    def __init__(self, browser: Browser, path: Path, viewport: dict[str, int] = WIDE, scheme: str = "light") -> None:
        self.page: Page = browser.new_page(viewport=viewport, color_scheme=scheme)  # type: ignore[arg-type]
        self.troubles: list[str] = []
        own = path.resolve().as_uri()
        self.page.on("console", lambda message: self.troubles.append(message.text))
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.troubles.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self._requested(request.url, own))
        self.page.goto(own)

    def _requested(self, url: str, own: str) -> None:
        if url != own and not url.startswith(("data:", own.removesuffix(".html") + "-pictures/")):
            self.troubles.append(f"request of {url}")

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *error: object) -> None:
        self.page.close()
        if error[0] is None:
            assert self.troubles == []


@pytest.fixture(scope="module")
def path(report_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's report, with three checkpoints of one tokenizer beside its runs."""
    runs = results.read_runs(report_demo / "results")
    template = next(run for run in runs if run.tokenizer == "tiny-fsq-f8" and run.task == "reconstruction")
    steps = [
        template.model_copy(update={"step": float(step), "label": f"s{step}", "weights": "local", "precision": "bf16"})
        for step in (1000, 2000, 3000)
    ]
    out = tmp_path_factory.mktemp("page") / "report.html"
    out.write_bytes(report.build([*runs, *steps], report_demo / "work").html)
    return out


def open_tab(page: Page, name: str) -> str:
    """Open a tab, and give the selector of its panel."""
    tab = page.get_by_role("tab", name=name, exact=True)
    tab.click()
    return f"#{tab.get_attribute('aria-controls')}"


def until(page: Page, condition: str) -> None:
    """Wait for a condition; Playwright's own way evaluates strings inside the page, which the policy forbids."""
    for _ in range(200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(25)
    raise AssertionError(f"never came true: {condition}")


def names(page: Page, panel: str) -> list[str]:
    return page.locator(f"{panel} .board tbody tr:not([hidden]) th.name bdi").all_inner_texts()


def test_every_tab_opens_without_a_complaint(browser: Browser, path: Path) -> None:
    with Watched(browser, path) as watched:
        tabs = watched.page.get_by_role("tab")
        assert tabs.all_inner_texts() == ["reconstruction", "text", "Two runs"]
        for at in range(tabs.count()):
            tabs.nth(at).click()
            assert watched.page.locator("[role=tabpanel]:visible").count() == 1


def test_tabs_obey_the_keyboard(browser: Browser, path: Path) -> None:
    with Watched(browser, path) as watched:
        watched.page.get_by_role("tab").first.focus()
        for key, wanted in (
            ("ArrowRight", "text"),
            ("End", "Two runs"),
            ("ArrowRight", "reconstruction"),
            ("ArrowLeft", "Two runs"),
            ("Home", "reconstruction"),
        ):
            watched.page.keyboard.press(key)
            assert watched.page.locator("[role=tab][aria-selected=true]").inner_text() == wanted
            assert watched.page.evaluate("document.activeElement.innerText") == wanted


def test_tables_sort_with_what_is_missing_last(browser: Browser, path: Path) -> None:
    with Watched(browser, path) as watched:
        page, panel = watched.page, open_tab(watched.page, "reconstruction")
        head = page.locator(f"{panel} .board thead").get_by_role("button", name="PSNR (dB) ↑")
        column = page.locator(f"{panel} .board thead th").all_inner_texts().index("PSNR (dB) ↑")
        shown = f"{panel} .board tbody tr > :nth-child({column + 1})"
        head.click()
        found = [float(text) for text in page.locator(shown).evaluate_all("cells => cells.map(c => c.dataset.v)")]
        assert found == sorted(found) and np.isinf(found[-1]) and len(set(found)) > 4
        head.click()
        assert [
            float(text) for text in page.locator(shown).evaluate_all("cells => cells.map(c => c.dataset.v)")
        ] == found[::-1]
        assert page.locator(f"{panel} [aria-sort]").get_attribute("aria-sort") == "descending"
        for _ in range(2):
            page.locator(f"{panel} .board thead").get_by_role("button", name="code usage").click()
            at = (
                page.locator(f"{panel} .board thead th")
                .all_inner_texts()
                .index(page.locator(f"{panel} [aria-sort]").inner_text())
            )
            texts = page.locator(f"{panel} .board tbody tr > :nth-child({at + 1})").evaluate_all(
                "cells => cells.map(c => c.dataset.v)"
            )
            assert texts[0] != "" and texts[-1] == ""


def test_places_sort_by_rate_class(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "committed.html"
    path.write_bytes(report.build(results.read_runs(Path(__file__).parent.parent / "results"), tmp_path).html)
    with Watched(browser, path) as watched:
        page, panel = watched.page, open_tab(watched.page, "reconstruction")
        listed = page.locator(f"{panel} .class option").all_inner_texts()[1:]
        page.locator(f"{panel} .board thead").get_by_role("button", name="in its rate class").click()
        seen = page.locator(f"{panel} .board td.place small").all_inner_texts()
        assert len(set(seen)) > 1 and list(dict.fromkeys(seen)) == [one for one in listed if one in seen]
        bits = [one for one in listed if one.endswith("bits/pixel")]
        assert bits == sorted(bits, key=lambda one: float(one.removeprefix("from ").removeprefix("under ").split()[0]))


def test_tables_filter(browser: Browser, path: Path) -> None:
    with Watched(browser, path) as watched:
        page, panel = watched.page, open_tab(watched.page, "reconstruction")
        everything = len(names(page, panel))
        page.locator(f"{panel} .words").fill("JPEG codec")
        assert sorted(names(page, panel)) == ["jpeg-q10", "jpeg-q30", "jpeg-q5"]
        assert page.locator(f"{panel} .shown").inner_text() == f"3 of {everything} runs"
        page.locator(f"{panel} .words").fill("")
        page.locator(f"{panel} .ranked").check()
        assert names(page, panel) == []  # four pictures alone are never ranked
        page.locator(f"{panel} .ranked").uncheck()
        page.locator(f"{panel} .class").select_option("from 3 bits/pixel")
        assert names(page, panel) == ["control-identity"]
        page.locator(f"{panel} .class").select_option("")
        assert len(names(page, panel)) == everything


def test_rates_are_drawn_and_compared_with_the_chosen_anchor(browser: Browser, path: Path) -> None:
    with Watched(browser, path) as watched:
        page, panel = watched.page, open_tab(watched.page, "reconstruction")
        assert page.locator(f"{panel} .bits canvas").count() == 1
        assert page.locator(f"{panel} .floats").is_hidden()
        assert page.locator(f"{panel} .anchor option").all_inner_texts() == ["jpeg", "webp"]
        before = page.locator(f"{panel} .savings").inner_text()
        page.locator(f"{panel} .anchor").select_option("webp")
        after = page.locator(f"{panel} .savings").inner_text()
        assert "webp (curve)" in before and "jpeg (curve)" in after and before != after
        page.locator(f"{panel} .quality").select_option("psnr")
        assert "PSNR" in page.locator(f"{panel} .savings").inner_text()
        page.locator(f"{panel} .rate").select_option("tokens")
        page.locator(f"{panel} .bits summary").click()
        expect(page.locator(f"{panel} .bits tbody th").first).to_have_text(re.compile(r"^tiny-fsq-f8"))
        legend = page.locator(f"{panel} .curves .legend button").first
        legend.click()
        assert legend.get_attribute("aria-pressed") == "false"


def test_curves_show_legibility_and_steps_are_drawn(browser: Browser, path: Path) -> None:
    with Watched(browser, path) as watched:
        page, panel = watched.page, open_tab(watched.page, "text")
        assert page.locator(f"{panel} .curves .curve option:checked").inner_text() == "CER by plain height (px)"
        assert "text is legible" in page.locator(f"{panel} .curves .note").inner_text()
        panel = open_tab(page, "reconstruction")
        page.locator(f"{panel} .steps summary").click()  # the table is drawn when the browser tells that it opened
        expect(page.locator(f"{panel} .steps tbody tr")).to_have_count(3)


def test_gallery_shows_the_worst_first_and_moves_by_keys(browser: Browser, path: Path) -> None:
    with Watched(browser, path) as watched:
        page, panel = watched.page, open_tab(watched.page, "reconstruction")
        page.locator(f"{panel} .gallery .run").select_option(label="jpeg-q5")
        listed = page.locator(f"{panel} .pictures option").all_inner_texts()
        values = [float(text.split()[0]) for text in listed]
        assert values == sorted(values, reverse=True) and len(values) == 4
        page.locator(f"{panel} .by").select_option("psnr")
        values = [float(text.split()[0]) for text in page.locator(f"{panel} .pictures option").all_inner_texts()]
        assert values == sorted(values)
        page.locator(f"{panel} .flicker").focus()
        first = page.locator(f"{panel} .pictures").evaluate("list => list.selectedIndex")
        page.keyboard.press("n")
        assert page.locator(f"{panel} .pictures").evaluate("list => list.selectedIndex") == first + 1
        page.locator(f"{panel} .pictures").focus()  # where a picture was chosen, the keys go on working
        page.keyboard.press("p")
        assert page.locator(f"{panel} .pictures").evaluate("list => list.selectedIndex") == first


def test_slider_and_flicker_obey_keys(browser: Browser, path: Path) -> None:
    with Watched(browser, path) as watched:
        page, panel = watched.page, open_tab(watched.page, "reconstruction")
        slider = page.locator(f"{panel} img-comparison-slider")
        slider.focus()
        page.keyboard.press("ArrowRight", delay=250)
        moved = slider.evaluate("slider => slider.value")
        assert moved > 50
        assert float(slider.get_attribute("aria-valuenow") or 0) == pytest.approx(moved, abs=1)
        seen = []
        for _ in range(2):
            page.keyboard.press("f")
            seen.append((page.locator(f"{panel} .seen").inner_text(), slider.evaluate("slider => slider.value")))
        assert seen == [("Original", 100), ("Reconstruction", 0)]


def test_short_presses_move_the_slider(browser: Browser, path: Path) -> None:
    with Watched(browser, path) as watched:
        page, panel = watched.page, open_tab(watched.page, "reconstruction")
        slider = page.locator(f"{panel} img-comparison-slider")
        slider.focus()
        seen = []
        for keys in (["ArrowRight"] * 5, ["ArrowLeft"] * 7, ["End"], ["ArrowRight"], ["Home"], ["Alt+End"]):
            for key in keys:
                page.keyboard.press(key)
            seen.append((slider.evaluate("slider => slider.value"), slider.get_attribute("aria-valuenow")))
        assert seen == [(55, "55"), (48, "48"), (100, "100"), (100, "100"), (0, "0"), (0, "0")]


def test_zoom_keeps_pixels_and_both_views_together(browser: Browser, path: Path) -> None:
    with Watched(browser, path) as watched:
        page, panel = watched.page, open_tab(watched.page, "reconstruction")
        slide, difference = page.locator(f"{panel} .slide"), page.locator(f"{panel} .difference")
        page.locator(f"{panel} .zoom").select_option("8")
        until(page, f"document.querySelector('{panel} .stack').offsetWidth === 2048")
        rendering = "image => getComputedStyle(image).imageRendering"
        assert page.locator(f"{panel} .stack img").first.evaluate(rendering) == "pixelated"
        where = "[...document.querySelectorAll('%s .view')].map(view => `${view.scrollLeft},${view.scrollTop}`).join()"
        slide.evaluate("view => view.scrollTo(300, 200)")
        until(page, f"{where % panel} === '300,200,300,200'")
        difference.evaluate("view => view.scrollTo(10, 20)")
        until(page, f"{where % panel} === '10,20,10,20'")
        page.locator(f"{panel} .flicker").focus()
        page.keyboard.press("-")
        assert page.locator(f"{panel} .zoom").input_value() == "4"


def test_difference_is_that_of_the_pictures_times_the_gain(browser: Browser, path: Path, report_demo: Path) -> None:
    """The screen shows |original - reconstruction| x gain, held against the kept files."""
    with Watched(browser, path) as watched:
        page, panel = watched.page, open_tab(watched.page, "reconstruction")
        page.locator(f"{panel} .gallery .run").select_option(label="jpeg-q5")
        page.locator(f"{panel} .zoom").select_option("1")
        page.locator(f"{panel} .amplify").fill("3")
        until(page, f"document.querySelector('{panel} .stack').offsetWidth === 256")
        page.locator(f"{panel} .stack").evaluate(
            "e => Object.assign(e.style, {position: 'fixed', left: 0, top: 0, zIndex: 9})"
        )
        shown = Image.open(io.BytesIO(page.locator(f"{panel} .stack").screenshot())).convert("RGB")
        name = page.locator(f"{panel} .pictures option:checked").inner_text().split()[-1]
    run = next(
        run
        for run in results.read_runs(report_demo / "results")
        if (run.task, run.name) == ("reconstruction", "jpeg-q5")
    )
    folder = report_demo / "work" / run.task / run.name
    one = next(picture for picture in kept.read(folder, run) if picture.id == name)
    pair = [
        np.asarray(Image.open(folder / kept.FOLDER / file), dtype=np.int64)
        for file in (one.original, one.reconstruction)
    ]
    wanted = np.clip(np.abs(pair[0] - pair[1]) * 3, 0, 255)
    assert wanted.max() > 60
    assert np.abs(np.asarray(shown, dtype=np.int64) - wanted).max() <= 3  # levels: the browser rounds twice


def test_an_outlier_point_leads_to_its_picture(browser: Browser, path: Path) -> None:
    with Watched(browser, path) as watched:
        page, panel = watched.page, open_tab(watched.page, "reconstruction")
        over = page.locator(f"{panel} .gallery .u-over")
        before = page.locator(f"{panel} .pictures").input_value()
        box = over.bounding_box()
        assert box
        tried = set()
        over.scroll_into_view_if_needed()
        for x in range(4, int(box["width"]), 12):
            for y in range(4, int(box["height"]), 40):
                over.click(position={"x": x, "y": y})
                tried.add(page.locator(f"{panel} .pictures").input_value())
            if len(tried) > 2:
                break
        assert tried - {before}


def test_readings_mark_their_edits(browser: Browser, path: Path) -> None:
    with Watched(browser, path) as watched:
        page, panel = watched.page, open_tab(watched.page, "text")
        page.locator(f"{panel} .gallery .run").select_option(label="tiny-fsq-f8")
        heads = page.locator(f"{panel} .reading h4").all_inner_texts()
        assert heads == ["What is written", "Read on the original", "Read on the reconstruction"]
        written = page.locator(f"{panel} .reading pre").first.inner_text()
        last = page.locator(f"{panel} .reading pre").last
        assert last.locator("del, ins").count() > 0
        assert (
            last.evaluate("e => [...e.childNodes].filter(n => n.nodeName !== 'INS').map(n => n.textContent).join('')")
            == written
        )


def test_two_runs_show_what_differs_around_them(browser: Browser, path: Path) -> None:
    with Watched(browser, path) as watched:
        page, panel = watched.page, open_tab(watched.page, "Two runs")
        page.locator(f"{panel} .first").select_option(label="tiny-fsq-f8")
        page.locator(f"{panel} .second").select_option(label="tiny-fsq-f8~s1000+bf16")
        rows = page.get_by_role("region", name="Surroundings").locator("tbody tr").all_inner_texts()
        assert sorted(rows) == [
            "label\t-\ts1000",
            "precision\tfp32\tbf16",
            "step\t-\t1000.0",
            "weights\tpackaged\tlocal",
        ]
        scores = page.get_by_role("region", name="Scores").locator("tbody tr").all_inner_texts()
        assert any(row.startswith("LPIPS") or row.startswith("PSNR") for row in scores)


def test_words_of_a_table_are_shown_and_two_protocols_named(browser: Browser, tmp_path: Path) -> None:
    out = tmp_path / "protocols.html"
    scores = {"lpips": Score(value=0.3, scored=12, expected=33, low=0.2, high=0.4)}
    runs = [make_run(scores=scores), make_run(scores=scores, protocol="seed-voken")]
    out.write_bytes(report.build(runs, tmp_path).html)
    with Watched(browser, out) as watched:
        page = watched.page
        said = page.locator(".board .said:visible").first
        assert said.inner_text() == "(0.2000 to 0.4000; 12 of 33 pictures)"
        assert said.evaluate("e => e.offsetWidth") == 1  # for those who listen
        page.locator(".spelled:visible").check()
        assert said.evaluate("e => e.offsetWidth") > 50
        panel = open_tab(page, "Two runs")
        page.locator(f"{panel} .second").select_option("1")
        assert "These are runs under two protocols" in page.locator(f"{panel} .result").inner_text()
        assert page.locator(f"{panel} thead th").all_inner_texts()[1:3] == ["jpeg-q5", "jpeg-q5@seed-voken"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["wide", "phone"])
def test_axe_finds_nothing(browser: Browser, path: Path, viewport: dict[str, int], scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    with Watched(browser, path, viewport, scheme) as watched:
        tabs = watched.page.get_by_role("tab")
        for at in range(tabs.count()):
            tabs.nth(at).click()
            for details in watched.page.locator("[role=tabpanel]:visible details > summary").all():
                details.click()
            found = Axe().run(watched.page)
            assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_sticks_out_of_the_window(browser: Browser, path: Path, width: int) -> None:
    with Watched(browser, path, {"width": width, "height": 800}) as watched:
        tabs = watched.page.get_by_role("tab")
        for at in range(tabs.count()):
            tabs.nth(at).click()
            assert watched.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_hostile_texts_run_nothing(browser: Browser, tmp_path: Path) -> None:
    out = tmp_path / "hostile.html"
    out.write_bytes(report.build(hostile_runs(), tmp_path, title="<script>hacked=1</script>").html)
    with Watched(browser, out) as watched:
        tabs = watched.page.get_by_role("tab")
        for at in range(tabs.count()):
            tabs.nth(at).click()
            for select in watched.page.locator("[role=tabpanel] select:visible").all():
                for value in select.locator("option").evaluate_all("options => options.map(o => o.value)"):
                    select.select_option(value)
        assert watched.page.evaluate("typeof hacked") == "undefined"
        assert watched.page.locator("img").count() == 0
        assert "onerror=hacked" in watched.page.locator("main").inner_text()


def test_a_hostile_table_runs_nothing(browser: Browser, report_demo: Path, tmp_path: Path) -> None:
    """Ids and readings of a per-image table are somebody's texts too."""
    import pandas as pd

    from vtbench.files import sha256

    attack = "</script><img src=x onerror=hacked=1>"
    run = next(one for one in results.read_runs(report_demo / "results") if (one.task, one.name) == ("text", "jpeg-q5"))
    folder = tmp_path / "work" / "text" / "jpeg-q5"
    shutil.copytree(report_demo / "work" / "text" / "jpeg-q5", folder)
    table = pd.read_parquet(folder / results.IMAGES)
    for column in ("id", "reading/boxes", "reading/boxes:floor"):
        table[column] = attack + table[column]
    table.to_parquet(folder / results.IMAGES)
    digest = sha256(folder / results.IMAGES)
    index = folder / kept.FOLDER / kept.INDEX
    index.write_text(index.read_text().replace(run.digests["table"] or "", digest))
    out = tmp_path / "hostile.html"
    made = report.build([run.model_copy(update={"digests": {**run.digests, "table": digest}})], tmp_path / "work")
    assert made.pictures == 6 and not made.damaged
    out.write_bytes(made.html)
    with Watched(browser, out) as watched:
        assert watched.page.evaluate("typeof hacked") == "undefined"
        assert "onerror=hacked" in watched.page.locator(".pictures").inner_text()
        assert "onerror=hacked" in watched.page.locator(".reading").inner_text()


def test_folder_mode_shows_its_files(browser: Browser, report_demo: Path, tmp_path: Path) -> None:
    runs = results.read_runs(report_demo / "results")
    made = report.build(runs, report_demo / "work", folder="report-pictures")
    (tmp_path / "report-pictures").mkdir()
    for name, content in made.files.items():
        (tmp_path / "report-pictures" / name).write_bytes(content)
    (tmp_path / "report.html").write_bytes(made.html)
    with Watched(browser, tmp_path / "report.html") as watched:
        panel = open_tab(watched.page, "reconstruction")
        until(watched.page, f"[...document.querySelectorAll('{panel} .view img')].every(i => i.naturalWidth === 256)")
        assert watched.page.locator(f"{panel} .view img").count() == 4


def test_two_hundred_runs_are_light_and_quick(browser: Browser, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)

    def score(value: float) -> Score:
        return Score(value=value, scored=32, expected=32, low=value * 0.9, high=value * 1.1)

    runs = []
    for at in range(200):
        value = float(generator.uniform(0.05, 0.6))
        scores = {name: score(value) for name in ("lpips", "cer", "wer", "mtf", "contrast")}
        scores |= {
            "psnr": score(40 - 30 * value),
            "ssim": score(1 - value),
            "bpp": score(float(generator.uniform(0.05, 1))),
        }
        scores |= {f"contrast/{level}": score(value) for level in (0.03, 0.06, 0.12, 0.25, 0.5)}
        groups = {
            "plain_height": {
                str(height): {name: score(value) for name in ("cer", "wer")}
                for height in (6, 8, 10, 12, 16, 24, 32, 48)
            }
        }
        codec = at % 4 == 0
        runs.append(
            make_run(
                f"t{at:03d}",
                "reconstruction" if at % 2 else "text",
                family=f"f{at % 12}",
                kind="codec" if codec else "discrete",
                scores=scores,
                groups=groups,
            )
        )
    out = tmp_path / "many.html"
    out.write_bytes(report.build(runs, tmp_path).html)
    assert out.stat().st_size < 5_000_000
    with Watched(browser, out) as watched:
        session = watched.page.context.new_cdp_session(watched.page)
        session.send("Performance.enable")
        panel = open_tab(watched.page, "text")
        watched.page.locator(f"{panel} .board thead").get_by_role("button", name="PSNR (dB)").click()
        watched.page.locator(f"{panel} .words").fill("f4")
        assert watched.page.locator(f"{panel} .bits canvas").count() == 1
        assert 0 < len(names(watched.page, panel)) < 100
        measured = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    # Of the page's main thread, from its start: loading, two tables with their charts, sorting and filtering. On a
    # machine that does nothing else this is the time that passes; what others take of a busy one is not the page's.
    assert measured["ThreadTime"] < 2.0
