from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from vtbench import cards, weights
from vtbench.cards import TaskCard, TokenizerCard
from vtbench.catalogue import metrics
from vtbench.errors import CardError
from vtbench.protocols import PROTOCOLS

ROOT = Path(__file__).resolve().parent.parent
TOKENIZERS = cards.tokenizers()
TASKS = cards.tasks()

MINIMAL = """
name = "mine"
family = "mine"
network = "codec"
kind = "codec"
title = "Mine"
"""


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizer_card_fits_its_network(name: str) -> None:
    card = TOKENIZERS[name]
    module = import_module(f"vtbench.networks.{card.network}")
    module.Config.model_validate_json(cards.json.dumps(card.config))
    if card.weights is not None:
        assert card.license or card.source, "weights need a licence or a source"
    if card.kind == "discrete":
        assert card.code.codebook_sizes
    for reported in card.reported:
        assert reported.printed_in


@pytest.mark.parametrize("name", TASKS)
def test_task_card_names_metrics_that_exist(name: str) -> None:
    card = TASKS[name]
    assert set(card.metrics) <= set(metrics())
    assert card.primary in card.metrics
    assert card.protocol in PROTOCOLS
    assert (ROOT / "vtbench" / "data" / f"{card.data.source}.py").is_file()


def test_every_network_file_serves_a_card() -> None:
    files = {path.stem for path in (ROOT / "vtbench" / "networks").glob("[a-z]*.py")}
    assert files == {card.network for card in TOKENIZERS.values()}


def test_cards_of_one_network_agree_where_they_must() -> None:
    for first in TOKENIZERS.values():
        for second in TOKENIZERS.values():
            if first.family == second.family:
                assert (first.network, first.source) == (second.network, second.source)


@pytest.mark.parametrize("kind", ["tokenizers", "tasks"])
def test_card_folders_hold_no_code(kind: str) -> None:
    """A package of that name at the root would shadow the `tokenizers` library."""
    assert not list((ROOT / kind).rglob("*.py"))


def test_annotated_cards_of_the_readmes_are_valid(tmp_path: Path) -> None:
    for kind, model in (("tokenizers", TokenizerCard), ("tasks", TaskCard)):
        text = (ROOT / kind / "README.md").read_text()
        body = text.split("```toml\n")[1].split("```")[0]
        name = cards.tomllib.loads(body)["name"]
        path = tmp_path / f"{name}.toml"
        path.write_text(body)
        assert cards.load(path, model).name == name


def write(folder: Path, text: str, name: str = "mine") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINIMAL + "colour = 1", r"mine\.toml: colour: unknown key; remove it or correct its spelling"),
        (MINIMAL.replace('title = "Mine"', ""), r"mine\.toml: title: missing; add it"),
        (MINIMAL.replace('"codec"', '"os.system"', 1), r"mine\.toml: network: .*got 'os\.system'"),
        (MINIMAL + "[input]\nmultiple_of = 0", r"input\.multiple_of: .*greater than or equal to 1, got 0"),
        (MINIMAL.replace('"mine"', '"yours"', 1), r"name is 'yours', expected 'mine'"),
        (MINIMAL + "[input", "not valid TOML"),
        (
            MINIMAL + "[input]\nsizes = [224]\n[output]\nsize = 256",
            "size 256 is none of .* sizes 224, so that no picture",
        ),
    ],
)
def test_bad_card_says_file_key_and_expectation(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CardError, match=message):
        cards.load(write(tmp_path, text), TokenizerCard)


def test_a_task_card_names_engines_with_languages_and_those_of_packages() -> None:
    said = cards.find_task("text").model_dump()
    for name in ("rapidocr", "tesseract:deu", "tesseract:chi_sim+eng", "my-engine"):
        assert TaskCard.model_validate({**said, "ocr": name}).ocr == name
    for name in ("tesseract:", "tesseract:../eng", "../tesseract", "a b"):
        with pytest.raises(ValidationError, match="ocr"):
            TaskCard.model_validate({**said, "ocr": name})


def test_unreadable_card_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CardError, match=r"missing\.toml: can't be read"):
        cards.find_tokenizer(str(tmp_path / "missing.toml"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not a regular file"),
        (b"a=" + b"[" * 100_000, "nested too deeply"),
        (b"a." * 5000 + b"b=1", "nested too deeply"),
        (b"version = " + b"9" * 5000, "not valid TOML .Exceeds the limit"),
        (b"x" * (2 << 20), "2097152 bytes; expected a card"),
        ('name = "x"'.encode("utf-16"), "not valid TOML, which is UTF-8"),
        (bytes(range(256)), "not valid TOML"),
        (MINIMAL.encode() + b'"a\\nb\\u001b[31m" = 1', r"a\\nb\\x1b\[31m: unknown key"),
    ],
)
def test_files_that_are_no_cards_are_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "mine.toml"
    if content is None:
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    for read in (lambda: cards.load(path, TokenizerCard), lambda: cards.load(path, TaskCard)):
        with pytest.raises(CardError) as caught:
            read()
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 1500
    with pytest.raises(CardError, match=message):
        cards.load(path, TokenizerCard)
    if content is None:
        with pytest.raises(CardError, match=message):
            cards.tokenizers(tmp_path)


@pytest.mark.parametrize("hub", ["a", "a/b/c", "../b", "a/..", "a--b/c", "a/b.git", "a/b\x00", "-a/b", "a/" + "b" * 96])
def test_what_the_hub_calls_no_repository_is_refused_with_the_card(tmp_path: Path, hub: str) -> None:
    text = MINIMAL + f'[weights]\nhub = {json.dumps(hub)}\nfile = "x.pt"'
    with pytest.raises(CardError, match=r"weights\.hub: .*expected a repository of the hub"):
        cards.load(write(tmp_path, text), TokenizerCard)
    with pytest.raises(ValidationError):
        cards.Data(source="hub", hub=hub)


@pytest.mark.parametrize("revision", ["../x", "/x", "refs/../../x", "a\\b"])
def test_revision_that_leads_out_of_the_cache_is_refused(revision: str) -> None:
    with pytest.raises(ValidationError, match="inside its folder"):
        cards.Data(source="hub", hub="a/b", revision=revision)


def test_cards_of_the_suite_with_bytes_that_were_hit_are_read_or_told_in_one_line(tmp_path: Path) -> None:
    draw = random.Random(0)
    pieces = [b"\n", b'"', b"[", b"]", b"=", b"-1", b"9" * 30, b"\\u0000", b"true", b"{}", b"nan", b"../", b"\x1b"]
    told = 0
    for kind, model in (("tokenizers", TokenizerCard), ("tasks", TaskCard)):
        for original in sorted(cards.folder(kind).glob("*.toml"))[::8]:  # type: ignore[arg-type]
            for _ in range(25):
                content = bytearray(original.read_bytes())
                for _ in range(draw.randint(1, 4)):
                    place = draw.randrange(len(content))
                    if draw.random() < 0.4:
                        content[place] = draw.randrange(256)
                    else:
                        content[place : place + draw.randrange(20)] = draw.choice(pieces)
                path = tmp_path / original.name
                path.write_bytes(content)
                try:
                    card = cards.load(path, model)
                    if isinstance(card, TokenizerCard):
                        weights.cached(card)
                except CardError as error:
                    assert "\n" not in str(error) and len(str(error)) < 1500
                    told += 1
    assert told > 100


SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    st.sampled_from(sorted(TokenizerCard.model_fields)),
    st.recursive(SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner)),
)
def test_a_field_of_anything_is_refused_with_its_name_or_read(field: str, value: object) -> None:
    card = cards.find_tokenizer("ibq").model_dump(mode="json") | {field: value}
    try:
        TokenizerCard.model_validate_json(json.dumps(card))
    except ValidationError as error:
        said = cards.explain(error)
        assert field in said or "JSON" in said
        assert said.isprintable()


def test_alias_finds_the_card_and_exact_names_win() -> None:
    assert cards.find_tokenizer("ibq").name == "ibq-262144"
    assert cards.find_tokenizer("tiny").name == "tiny-fsq-f8"


@pytest.mark.parametrize(
    ("name", "hint"), [("ibq-1", "ibq-1024, ibq-16384"), ("jpg", "jpeg"), ("zzzz", "`vtbench list tokenizers`")]
)
def test_unknown_name_suggests_prefixes_then_close_names(name: str, hint: str) -> None:
    with pytest.raises(CardError, match=hint):
        cards.find_tokenizer(name)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("range = [0.0, 0.0]", "input.range: expected two different numbers"),
        ("decoded_range = [0.0, inf]", "input.decoded_range: expected two different numbers"),
        ("std = [1.0, 0.0, 1.0]", "input.std: expected three numbers, none of them 0"),
        ("mean = [nan, 0.0, 1.0]", "input.mean: expected three numbers"),
    ],
)
def test_a_range_of_no_width_is_refused_with_its_field(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(CardError, match=re.escape(said)):
        cards.load(write(tmp_path, f"{MINIMAL}\n[input]\n{line}\n"), TokenizerCard)


def test_a_users_folder_adds_cards_and_may_not_take_a_name(tmp_path: Path) -> None:
    write(tmp_path, MINIMAL)
    assert cards.find_tokenizer("mine", tmp_path).title == "Mine"
    write(tmp_path, MINIMAL.replace('"mine"', '"jpeg-q5"', 1), "jpeg-q5")
    with pytest.raises(CardError, match="the name 'jpeg-q5' is taken"):
        cards.tokenizers(tmp_path)


def test_digest_follows_meaning_not_layout(tmp_path: Path) -> None:
    one = cards.load(write(tmp_path, MINIMAL), TokenizerCard)
    same = cards.load(write(tmp_path, "# a comment\n" + MINIMAL), TokenizerCard)
    other = cards.load(write(tmp_path, MINIMAL.replace("Mine", "Thine")), TokenizerCard)
    assert cards.digest(one) == cards.digest(same) != cards.digest(other)


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["list", "tasks"], ["show", "jpeg"], ["list", "--json"]])
def test_looking_loads_no_torch(arguments: list[str]) -> None:
    code = (
        "import sys; from vtbench.cli import app\n"
        f"try: app({arguments!r}, standalone_mode=False)\n"
        "except SystemExit: pass\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'pandas', 'pyarrow', 'easyocr')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("kind", "name"), [("tokenizers", "jpeg-q5"), ("tasks", "reconstruction")])
def test_the_card_of_a_path_is_no_other_one_than_a_shipped_one_of_its_name(
    tmp_path: Path, kind: Literal["tokenizers", "tasks"], name: str
) -> None:
    said = (cards.folder(kind) / f"{name}.toml").read_text()
    path = tmp_path / f"{name}.toml"
    path.write_text(said)
    find = cards.find_tokenizer if kind == "tokenizers" else cards.find_task
    assert find(str(path)) == find(name)
    path.write_text(re.sub('title = ".*"', 'title = "Another"', said))
    with pytest.raises(CardError, match=rf"\.toml: the name '{name}' is taken by another card.*choose another"):
        find(str(path))
