"""A folder of results of several people: each fault is named at its file, and at no other."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
from builders import make_run
from test_cli import one_line, vtbench

from vtbench import cards, files, leaderboard, published, results, validation
from vtbench.errors import ResultError
from vtbench.leaderboard import to_csv
from vtbench.protocols import find_protocol
from vtbench.results import Run, Score
from vtbench.types import Key


def placed(folder: Path, run: Run) -> Path:
    path = folder / run.task / f"{run.name}.json"
    results.write(run, path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("jpeg-q5", "jpeg-q10", "jpeg-q20"):
        placed(tmp_path, make_run(name))
    assert not validation.validate(tmp_path).problems
    return tmp_path


def only_problem(folder: Path) -> tuple[str, str]:
    problems = validation.validate(folder).problems
    assert len(problems) == 1, problems
    return problems[0].file, problems[0].problem


def test_another_task_version_is_named(folder: Path) -> None:
    placed(folder, make_run("jpeg-q20", task_version=2))
    file, problem = only_problem(folder)
    assert file == "reconstruction/jpeg-q20.json" and "version 2" in problem and "most have 1" in problem


def test_other_pictures_are_named(folder: Path) -> None:
    digests = make_run().digests | {"data": "0" * 64}
    placed(folder, make_run("jpeg-q20", digests=digests))
    file, problem = only_problem(folder)
    assert file == "reconstruction/jpeg-q20.json" and "other pictures" in problem


def test_a_copy_is_misplaced_and_a_duplicate(folder: Path) -> None:
    results.write(make_run("jpeg-q5"), folder / "reconstruction" / "zz.json")
    problems = validation.validate(folder).problems
    assert {one.file for one in problems} == {"reconstruction/zz.json"}
    assert any("belongs at reconstruction/jpeg-q5.json" in one.problem for one in problems)
    assert any("same run as reconstruction/jpeg-q5.json" in one.problem for one in problems)


@pytest.mark.parametrize("word", ["NaN", "Infinity"])
def test_bare_words_are_no_json(folder: Path, word: str) -> None:
    path = folder / "reconstruction" / "jpeg-q20.json"
    text = path.read_text()
    assert "24.5" in text
    path.write_text(text.replace("24.5", word))
    assert only_problem(folder)[0] == "reconstruction/jpeg-q20.json"


def test_an_old_schema_is_named(folder: Path) -> None:
    path = folder / "reconstruction" / "jpeg-q20.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 2}))
    file, problem = only_problem(folder)
    assert file == "reconstruction/jpeg-q20.json" and "another version of vtbench" in problem


def test_an_edited_count_and_a_lost_digest_are_named(folder: Path) -> None:
    path = folder / "reconstruction" / "jpeg-q20.json"
    said = json.loads(path.read_text())
    said["pictures"]["scored"] = 31
    path.write_text(json.dumps(said))
    assert "don't add up" in only_problem(folder)[1]
    digests = {name: value for name, value in make_run().digests.items() if name != "table"}
    placed(folder, make_run("jpeg-q20", digests=digests))
    assert "no digest of table" in only_problem(folder)[1]


def test_three_people_s_results(tmp_path: Path) -> None:
    """A duplicate, an old schema, a tampered file, another task version: each is named, and the rest is shown."""
    whole = Score(value=24.5, scored=32, expected=32, low=24.0, high=25.0)
    lpips = Score(value=0.3, scored=32, expected=32)
    scores = {"psnr": whole, "lpips": lpips}
    for person, names in {"ann": ("q5", "q10"), "bo": ("q20", "q30"), "cy": ("q40", "q50", "q60")}.items():
        for name in names:
            digests = make_run().digests | {"plan": (person + name).ljust(64, "0")}
            placed(tmp_path, make_run(f"jpeg-{name}", scores=scores, digests=digests))
    assert not validation.validate(tmp_path).problems
    task = tmp_path / "reconstruction"
    (task / "jpeg-q5-of-bo.json").write_bytes((task / "jpeg-q5.json").read_bytes())
    old = json.loads((task / "jpeg-q20.json").read_text()) | {"schema_version": 2}
    (task / "jpeg-q20.json").write_text(json.dumps(old))
    tampered = (task / "jpeg-q40.json").read_text().replace("24.5", "34.5")
    (task / "jpeg-q40.json").write_text(tampered)
    placed(tmp_path, make_run("jpeg-q50", scores=scores, task_version=2))

    found = validation.validate(tmp_path)
    said = {(one.file.partition("/")[2], one.problem) for one in found.problems}
    wanted = {
        "jpeg-q5-of-bo.json": "is the same run as reconstruction/jpeg-q5.json",
        "jpeg-q20.json": "another version of vtbench",
        "jpeg-q40.json": "34.5 is outside of its own interval, 24 to 25",
        "jpeg-q50.json": "has version 2 of reconstruction, most have 1",
    }
    assert {file for file, _ in said} == set(wanted)
    for file, words in wanted.items():
        assert any(name == file and words in problem for name, problem in said), (file, said)
    assert sorted(run.name for run in found.accepted) == ["jpeg-q10", "jpeg-q30", "jpeg-q5", "jpeg-q50", "jpeg-q60"]

    done = subprocess.run([sys.executable, "-m", "vtbench", "validate", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 1 and all(file in done.stdout for file in wanted)
    done = subprocess.run(
        [sys.executable, "-m", "vtbench", "leaderboard", "--results", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert sum("passed over" in line for line in done.stderr.splitlines()) == 3
    rows = list(csv.DictReader((tmp_path / "leaderboard.csv").read_text().splitlines()))
    assert {row["tokenizer"] for row in rows if row["rank"]} == {"jpeg-q5", "jpeg-q10", "jpeg-q30", "jpeg-q60"}
    assert [(row["tokenizer"], row["unranked"]) for row in rows if not row["rank"]] == [
        ("jpeg-q50", "another task version")
    ]
    assert to_csv(found.accepted) == (tmp_path / "leaderboard.csv").read_text()


def test_of_equally_common_versions_the_later_one_counts_everywhere(tmp_path: Path) -> None:
    for version in (9, 10):
        placed(tmp_path, make_run(f"jpeg-q{version}", task_version=version))
    assert only_problem(tmp_path) == ("reconstruction/jpeg-q9.json", "has version 9 of reconstruction, most have 10")
    (standings,) = leaderboard.tables(validation.validate(tmp_path).accepted).values()
    assert [(one.run.tokenizer, one.why) for one in standings] == [
        ("jpeg-q10", None),
        ("jpeg-q9", "another task version"),
    ]


def test_what_lies_too_deep_is_no_result_and_is_said(folder: Path) -> None:
    run = make_run("webp-q30")
    results.write(run, folder / "alice" / "reconstruction" / "webp-q30.json")
    assert only_problem(folder) == (
        "alice/reconstruction/webp-q30.json",
        "belongs at reconstruction/webp-q30.json",
    )
    assert len(validation.validate(folder).accepted) == 3
    command = [sys.executable, "-m", "vtbench", "report", "--results", str(folder), "--out", str(folder / "r.html")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "passed over: " in done.stderr and "alice/reconstruction/webp-q30.json: belongs at" in done.stderr


def test_runs_without_a_plan_are_no_duplicates_of_each_other(folder: Path) -> None:
    for task in ("reconstruction", "detail"):
        run = make_run("webp-q30", task)
        placed(folder, run.model_copy(update={"digests": {**run.digests, "plan": None}}))
    assert {one.problem for one in validation.validate(folder).problems} == {"states no digest of plan"}


def test_what_nothing_here_measures_ranks_nobody(folder: Path) -> None:
    scores = {"sharpness": Score(value=1.0, scored=32, expected=32)}
    placed(folder, make_run("jpeg-q20", primary="sharpness", scores=scores))
    assert "no installed package measures" in only_problem(folder)[1]
    assert len(validation.validate(folder).accepted) == 2


def test_a_file_that_is_no_summary_is_named(folder: Path) -> None:
    (folder / "README.md").write_text("Our results.")
    (folder / "reconstruction" / ".gitkeep").write_text("")
    assert not validation.validate(folder).problems
    (folder / "reconstruction" / "notes.txt").write_text("fine")
    assert only_problem(folder)[0] == "reconstruction/notes.txt"


def test_other_weights_than_the_card_s_are_named(folder: Path) -> None:
    weights = cards.find_tokenizer("tiny-fsq-f8").weights
    assert weights is not None and weights.sha256
    digests = make_run().digests | {"weights": weights.sha256}
    placed(folder, make_run("tiny-fsq-f8", weights="packaged", digests=digests))
    assert not validation.validate(folder).problems
    placed(folder, make_run("tiny-fsq-f8", weights="packaged", digests=digests | {"weights": "0" * 64}))
    assert "not the one on the card" in only_problem(folder)[1]


def test_weights_are_known_by_the_first_digits_and_by_several_files(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A card may state a part of a digest, one for each of several files, or that of an index, which is no weights'."""
    ones, twos = "1" * 64, "2" * 64
    stated = {
        "short": f'file = "a.pt"\nsha256 = "{ones[:12]}"\n',
        "index": f'file = "a.safetensors.index.json"\nsha256 = "{ones}"\n',
        "two": f'[[weights.files]]\nfile = "a"\nsha256 = "{ones}"\n[[weights.files]]\nfile = "b"\nsha256 = "{twos}"\n',
        "parts": '[[weights.files]]\nfile = "a"\nsha256 = "1"\n[[weights.files]]\nfile = "b"\n',
    }
    about = tmp_path / "site" / "ours-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: ours\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[vtbench.cards]\nours = ours_cards\n")
    (tmp_path / "site" / "ours_cards").mkdir()
    for name, weights in stated.items():
        card = f'name = "{name}"\nfamily = "x"\nnetwork = "ibq"\nkind = "discrete"\ntitle = "x"\n[weights]\n{weights}'
        (tmp_path / "site" / "ours_cards" / f"{name}.toml").write_text(card)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    results_folder = tmp_path / "r"

    def named(**digests: str) -> set[str]:
        for name, digest in digests.items():
            whole = make_run().digests | {"weights": digest}
            placed(results_folder, make_run(name, weights="published", digests=whole))
        problems = validation.validate(results_folder).problems
        assert all("not the one on the card" in one.problem for one in problems), problems
        return {Path(one.file).stem for one in problems}

    both = hashlib.sha256((ones + twos).encode()).hexdigest()
    assert named(short=ones, index=twos, two=both, parts=twos) == set()
    assert named(short=twos, index=ones, two=ones, parts=ones) == {"short", "two"}


def test_what_runs_write_are_the_means_of_their_tables(tmp_path: Path) -> None:
    """Of every measure that averages: nothing is said of a run as it was written, and each edited mean is named."""
    tasks = [part for task in ("detail", "stability", "tokens") for part in ("--task", task)]
    vtbench("run", "-t", "tiny-fsq-f16", *tasks, "--limit", 2, "--out", tmp_path / "r", "--work", tmp_path / "w")
    assert validation.validate(tmp_path / "r", tmp_path / "w").problems == ()
    changed: set[tuple[str, str]] = set()
    for run in results.read_runs(tmp_path / "r"):
        columns = pandas.read_parquet(tmp_path / "w" / run.task / run.name / results.IMAGES).columns
        scores = dict(run.scores)
        for name, score in run.scores.items():
            if name in columns and score.value not in (None, math.inf):
                scores[name] = score.model_copy(update={"value": score.value + 1e-6})
                changed.add((run.task, name))
        placed(tmp_path / "r", run.model_copy(update={"scores": scores}))
    found = validation.validate(tmp_path / "r", tmp_path / "w").problems
    said = {(one.file.partition("/")[0], one.problem.partition(": says")[0]) for one in found if "table" in one.problem}
    assert said == changed
    assert {"psnr", "bpp", "mtf", "repeat_psnr", "homogeneity_gain"} <= {name for _, name in changed}


def test_means_of_groups_and_of_the_originals_are_computed_again(tmp_path: Path) -> None:
    table = tmp_path / "w" / "text" / "jpeg-q5" / results.IMAGES
    table.parent.mkdir(parents=True)
    columns = {
        "attribute/cap_height": [8.0, 8.0, None, 12.5],
        "cer": [0.5, 0.7, 0.9, 0.1],
        "cer:floor": [0.0, 0.2, None, 0.1],
    }
    pandas.DataFrame({"id": list("abcd"), **columns}).to_parquet(table)
    digests = make_run().digests | {"table": files.sha256(table)}
    counts = {"found": 4, "scored": 4, "failed": 0}

    def problems(whole: float, floor: float, eight: float) -> list[str]:
        cer = Score(value=whole, floor=floor, scored=4, expected=4)
        micro = Score(value=0.123, scored=4, expected=4)  # of all text together, of which the table has no column
        part = {"8": {"cer": Score(value=eight, floor=0.1, scored=2, expected=2)}}
        part["12.5"] = {"cer": Score(value=0.1, floor=0.1, scored=1, expected=1)}
        scores = {"cer": cer, "cer_micro": micro}
        run = make_run("jpeg-q5", "text", scores=scores, primary="cer", images=4, pictures=counts, digests=digests)
        placed(tmp_path / "r", run.model_copy(update={"groups": {"cap_height": part}}))
        return [one.problem for one in validation.validate(tmp_path / "r", tmp_path / "w").problems]

    assert problems(0.55, 0.1, 0.6) == []
    assert [one.partition(",")[0] for one in problems(0.5, 0.1, 0.6)] == ["cer: says 0.5"]
    assert [one.partition(",")[0] for one in problems(0.55, 0.3, 0.6)] == ["cer: says 0.3 of the originals"]
    assert [one.partition(",")[0] for one in problems(0.55, 0.1, 0.5)] == ["cap_height 8: cer: says 0.5"]


def test_what_published_code_makes_of_all_text_says_nothing_against_its_table(tmp_path: Path) -> None:
    table = tmp_path / "w" / "text" / "jpeg-q5@vtbench-2025" / results.IMAGES
    table.parent.mkdir(parents=True)
    pandas.DataFrame({"id": ["a", "b"], "cer_page": [0.1, 0.3], "wer_page": [0.2, 0.4]}).to_parquet(table)
    digests = make_run().digests | {"table": files.sha256(table)}
    scores = {name: Score(value=0.25, scored=32, expected=32) for name in ("cer_page", "wer_page")}
    run = make_run("jpeg-q5", "text", protocol="vtbench-2025", scores=scores, primary="cer_page", digests=digests)
    placed(tmp_path / "r", run)
    assert not validation.validate(tmp_path / "r", tmp_path / "w").problems


def test_means_are_computed_again_from_the_tables(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    work = tmp_path_factory.mktemp("work")
    table = work / "reconstruction" / "jpeg-q5" / results.IMAGES
    table.parent.mkdir(parents=True)
    pandas.DataFrame({"id": ["a", "b"], "psnr": [20.0, 30.0]}).to_parquet(table)
    digests = make_run().digests | {"table": files.sha256(table)}

    def write(psnr: float) -> None:
        scores = {name: Score(value=psnr, scored=2, expected=2) for name in ("psnr",)}
        scores["lpips"] = Score(value=0.3, scored=2, expected=2)
        counts = {"found": 2, "scored": 2, "failed": 0}
        placed(folder, make_run("jpeg-q5", scores=scores, images=2, pictures=counts, digests=digests))

    write(25.0)
    assert not validation.validate(folder, work).problems
    write(26.0)
    assert not validation.validate(folder).problems
    (problem,) = validation.validate(folder, work).problems
    assert (
        problem.file == "reconstruction/jpeg-q5.json" and "says 26.0, its per-image table gives 25.0" in problem.problem
    )
    table.write_bytes(table.read_bytes() + b" ")
    (problem,) = validation.validate(folder, work).problems
    assert "changed since" in problem.problem


def test_a_claim_of_more_pictures_than_the_table_has_is_named(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Ranks and gates ask how many pictures are behind a value."""
    work = tmp_path_factory.mktemp("work")
    table = work / "reconstruction" / "jpeg-q5" / results.IMAGES
    table.parent.mkdir(parents=True)
    pandas.DataFrame({"id": list("abc"), "lpips": [0.2, 0.4, None]}).to_parquet(table)
    digests = make_run().digests | {"table": files.sha256(table)}

    def problems(scored: int) -> list[str]:
        scores = {"lpips": Score(value=0.3, scored=scored, expected=3)}
        counts = {"found": 3, "scored": 3, "failed": 0}
        placed(folder, make_run("jpeg-q5", scores=scores, images=3, pictures=counts, digests=digests))
        return [one.problem for one in validation.validate(folder, work).problems]

    assert problems(2) == []
    assert problems(3) == ["lpips: says 3 pictures scored, its per-image table has 2"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no table", "its per-image table can't be read: .*not a whole per-image table"),
        (None, "psnr: its per-image table has no numbers"),
    ],
)
def test_a_table_that_is_none_ends_no_validation(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, content: bytes | None, said: str
) -> None:
    """Nor does a name that no file can have: the other files are looked at all the same."""
    work = tmp_path_factory.mktemp("work")
    table = work / "reconstruction" / "jpeg-q5" / results.IMAGES
    table.parent.mkdir(parents=True)
    pandas.DataFrame({"id": ["a"], "psnr": ["high"]}).to_parquet(table)
    if content is not None:
        table.write_bytes(content)
    placed(folder, make_run("jpeg-q5", digests=make_run().digests | {"table": files.sha256(table)}))
    results.write(make_run("a" * 300), folder / "reconstruction" / "long.json")
    found = {one.file: one.problem for one in validation.validate(folder, work).problems}
    assert set(found) == {"reconstruction/jpeg-q5.json", "reconstruction/long.json"}
    assert re.search(said, found["reconstruction/jpeg-q5.json"])
    assert "belongs at" in found["reconstruction/long.json"]


@pytest.mark.parametrize(
    ("protocol", "last", "plain"),
    [
        ("vtbench-2025", 100.0, ["lpips"]),
        ("seed-voken", 100.0, ["lpips", "lpips_vgg"]),
        ("lightningdit", 100.0, ["psnr"]),
        ("cosmos", math.inf, ["lpips_vgg", "psnr", "ssim"]),  # nothing is capped
    ],
)
def test_means_are_those_of_the_protocol(protocol: str, last: float, plain: list[str], tmp_path: Path) -> None:
    """What is pooled or averaged by batches says nothing against its table; a changed plain mean does."""
    rule = find_protocol(protocol)
    values = [*(10.0 * number for number in range(2, 10)), last]
    columns = {name: values for name in rule.metrics if name not in ("rfid", "inception_score")}
    keys = {Key(name): column for name, column in columns.items()}
    raw = {published.ERROR: 1.0, published.LOW: 0.0, published.HIGH: 255.0, published.WHOLE: 0.5}
    if protocol == "vtbench-2025":
        keys |= {key: [value] * 9 for key, value in raw.items()}
    table = tmp_path / "work" / "reconstruction" / f"jpeg-q5@{protocol}" / results.IMAGES
    table.parent.mkdir(parents=True)
    pandas.DataFrame({"id": list("abcdefghi"), **columns}).to_parquet(table)
    digests = make_run().digests | {"table": files.sha256(table)}

    def problems(said: dict[str, float]) -> list[str]:
        scores = {name: Score(value=value, scored=9, expected=32) for name, value in said.items()}
        placed(tmp_path / "r", make_run("jpeg-q5", protocol=protocol, scores=scores, digests=digests))
        found = validation.validate(tmp_path / "r", tmp_path / "work").problems
        return [one.problem.partition(":")[0] for one in found]

    right = published.totals(rule, keys)
    assert problems(right) == []
    assert problems(dict.fromkeys(right, 35.0)) == plain


def test_a_work_folder_that_is_none_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ResultError, match="typo: no such folder; expected the work folder"):
        validation.validate(tmp_path / "empty", tmp_path / "typo")
    assert "holds no runs" in one_line(vtbench("validate", tmp_path / "empty"))


def test_it_says_how_many_runs_were_held_against_their_tables(tmp_path: Path) -> None:
    said = ("run", "-t", "jpeg", "--task", "reconstruction", "--limit", 1, "--out", tmp_path / "r", "--work")
    vtbench(*said, tmp_path / "w")
    (tmp_path / "other").mkdir()
    for work, held in ((tmp_path / "w", 1), (tmp_path / "other", 0)):
        done = vtbench("validate", tmp_path / "r", "--work", work)
        assert f"1 runs, 0 problems, {held} held against their per-image tables in {work}" in done.stdout
