"""Cards that installed packages bring by the entry point group `vtbench.cards`."""

from __future__ import annotations

from pathlib import Path

import pytest

from vtbench import cards
from vtbench.errors import CardError

MINIMAL = """
name = "mine"
family = "mine"
network = "codec"
kind = "codec"
title = "Mine"
"""

TASK = """
name = "my-task"
version = 1
family = "reconstruction"
title = "Mine"
metrics = ["psnr"]
primary = "psnr"
[data]
source = "sample"
[geometry]
size = 256
"""


def write(folder: Path, text: str, name: str = "mine") -> None:
    (folder / f"{name}.toml").write_text(text)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with an empty folder of cards; each test's has a name of its own, as Python keeps them."""
    name = f"cards_of_{tmp_path.name}"
    folder = tmp_path / name / "cards"
    folder.mkdir(parents=True)
    (tmp_path / name / "__init__.py").touch()
    about = tmp_path / f"{name}-1.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (about / "entry_points.txt").write_text(f"[vtbench.cards]\nmine = {name}.cards\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def test_an_installed_package_adds_cards_of_both_kinds(package: Path, tmp_path: Path) -> None:
    tokenizers, tasks = cards.tokenizers(), cards.tasks()
    write(package, MINIMAL)
    write(package, TASK, "my-task")
    assert cards.find_tokenizer("mine").title == "Mine"
    assert cards.find_task("my-task").title == "Mine"
    assert set(cards.tokenizers()) == {*tokenizers, "mine"}
    assert set(cards.tasks()) == {*tasks, "my-task"}
    more = tmp_path / "more"
    more.mkdir()
    write(more, MINIMAL.replace('"mine"', '"yours"', 1), "yours")
    assert {"mine", "yours"} <= set(cards.tokenizers(more))


def test_an_installed_package_may_not_take_a_name_and_is_named(package: Path, tmp_path: Path) -> None:
    write(package, MINIMAL)
    with pytest.raises(CardError, match=r"the name 'mine' is taken by .*mine\.toml \(cards_of_.* 1\.2\)") as second:
        cards.tokenizers(package)  # a folder of the user's with the same name
    write(package, MINIMAL.replace('"mine"', '"tiny"', 1), "tiny")  # an alias of tiny-fsq-f8
    distribution = f"{package.parent.name} 1.2"
    with pytest.raises(CardError, match=r"the name 'tiny' is taken by .*tiny-fsq-f8\.toml") as first:
        cards.tokenizers()
    assert f"uninstall {distribution}" in str(first.value)
    assert "\n" not in f"{first.value}{second.value}"
    assert set(cards.tasks()) >= {"text"}  # the other kind's names are still there


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("{name}.nowhere", "1.2: {name}.nowhere is no folder of cards; correct its entry point"),
        ("{name}.module", "1.2: {name}.module is no folder of cards"),
        ("{name}_gone.cards", "1.2: its folder of cards {name}_gone.cards can't be found"),
        ("{name}.broken.cards", "1.2: its folder of cards {name}.broken.cards can't be found .division by zero"),
    ],
)
def test_a_package_without_its_folder_of_cards_is_one_line(package: Path, said: str, message: str) -> None:
    name = package.parent.name
    (package.parent / "module.py").touch()
    (package.parent / "broken.py").write_text("1 / 0\n")
    (entries,) = package.parent.parent.glob("*.dist-info/entry_points.txt")
    entries.write_text(f"[vtbench.cards]\nmine = {said.format(name=name)}\n")
    with pytest.raises(CardError, match=message.format(name=name)) as found:
        cards.tokenizers()
    assert "\n" not in str(found.value)
