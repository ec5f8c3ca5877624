"""A card says that its network was proven only where a test of tests/networks proves it."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

from vtbench import cards
from vtbench.cards import TokenizerCard
from vtbench.cli.look import parity_of

NETWORKS = Path(__file__).parent / "networks"
FIXTURES = Path(__file__).parent / "parity"
PROVEN = [card for card in cards.tokenizers().values() if card.parity]


@functools.cache
def proofs(file: str) -> set[str]:
    """Names that stand in the tests of a file that hold a network against what the published code computed.

    Those are the tests that read a fixture, or hand its name to `hold` or `check`, which do; of each its parameters and
    its own texts count.
    """
    tree = ast.parse((NETWORKS / file).read_text())
    constants = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    found: set[str] = set()
    for node in tree.body:
        if not (isinstance(node, ast.FunctionDef) and node.name.startswith("test_")):
            continue
        calls = [ast.unparse(call.func) for call in ast.walk(node) if isinstance(call, ast.Call)]
        if not {"hold", "check", "np.load"} & set(calls):
            continue
        used = [constants[part.id] for part in ast.walk(node) if isinstance(part, ast.Name) and part.id in constants]
        parts = [part for tree in (node, *used) for part in ast.walk(tree) if isinstance(part, ast.Constant)]
        found |= {part.value.removesuffix(".npz") for part in parts if isinstance(part.value, str)}
    return found


@pytest.mark.parametrize("card", PROVEN, ids=[card.name for card in PROVEN])
def test_what_a_card_calls_proven_is_held_by_a_test(card: TokenizerCard) -> None:
    assert card.parity is not None
    assert card.source is not None
    if card.parity.fixture is None:
        assert (NETWORKS / str(card.parity.small)).is_file()
        return
    assert (FIXTURES / f"{card.parity.fixture}.npz").is_file()
    said = proofs(f"test_{card.network}.py")
    assert card.parity.fixture in said
    assert {card.name, *card.aliases} & said


def test_a_name_that_no_test_holds_is_not_proven() -> None:
    assert "var-512" not in proofs("test_var.py")
    assert "infinity-d64" not in proofs("test_infinity.py")
    assert "dnd-24x24x1" not in proofs("test_dnd.py")


def test_the_diffusers_classes_of_cards_are_those_that_are_held_in_small() -> None:
    from vtbench.networks._diffusers import FACTS

    own = [card for card in cards.tokenizers().values() if card.network == "diffusers"]
    assert own
    for card in own:
        assert card.parity == cards.Parity(small="test_diffusers.py")
        assert card.config["class"] in FACTS  # of which test_diffusers.py holds every one


def test_what_is_said_of_a_card_follows_from_it() -> None:
    known = cards.tokenizers()
    kin = {"var": "var-256"}
    assert parity_of(known["var-256"], kin)[0] == "yes"
    assert "tests/parity/var-256.npz" in parity_of(known["var-256"], kin)[1]
    assert parity_of(known["var-512"], kin) == (
        "kin",
        "not proven with these numbers; the same network is, with those of var-256",
    )
    assert parity_of(known["var-512"], {})[0] == "no"
    assert parity_of(known["sdxl-vae"], kin)[0] == "small"
    assert parity_of(known["jpeg-q5"], kin)[0] == "-"
