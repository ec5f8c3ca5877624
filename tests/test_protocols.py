"""The protocols as data; tests/test_scoring.py holds what they compute against the published codes."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from conventions import CANONICAL, totals_under

from vtbench import load_task, load_tokenizer
from vtbench.catalogue import metrics
from vtbench.errors import CardError
from vtbench.protocols import PROTOCOLS, Protocol, deviations, effects, find_protocol

PUBLISHED = [protocol for protocol in PROTOCOLS.values() if protocol.name != "canonical"]


def test_every_protocol_names_metrics_that_exist() -> None:
    for protocol in PROTOCOLS.values():
        assert {*protocol.metrics, *protocol.text_metrics} <= set(metrics())
        assert protocol.source == "vtbench" or len(protocol.source.split()[-1]) == 40, "no full commit"


@pytest.mark.parametrize("protocol", PUBLISHED, ids=lambda protocol: protocol.name)
def test_every_rule_that_differs_is_said(protocol: Protocol) -> None:
    """A field that differs from canonical has its sentence, so no deviation can go unsaid."""
    said = {field for deviation in deviations(protocol) for field in deviation.fields}
    own = PROTOCOLS["canonical"]
    differs = {field.name for field in fields(Protocol) if getattr(protocol, field.name) != getattr(own, field.name)}
    differs -= {"name", "title", "source", "notes", "text"}
    absent = {name for name in ("psnr", "ssim", "lpips", "rfid") if getattr(protocol, name) is None}
    if not protocol.batch_means and not (protocol.psnr and protocol.psnr.pooled):
        differs -= {"batch"}  # how many pictures go together moves nothing then
    if protocol.name == "vtbench-2025":
        assert any("depends on the batch size" in note for note in protocol.notes)
        differs -= {"batch"}
    assert differs - absent <= said


def test_effects_are_those_of_the_deviations_as_they_are() -> None:
    for protocol in PUBLISHED:
        found, measured = effects(protocol)
        assert "tiny-fsq-f8 on reconstruction-512" in measured
        for sentence, moved in found:
            assert moved or sentence.startswith("rFID"), f"{protocol.name}: {sentence}: run benchmarks/conventions.py"


def test_an_effect_measured_again_is_the_one_that_is_stated() -> None:
    tokenizer, task = load_tokenizer("tiny-fsq-f8"), load_task("reconstruction-512", native=True)
    pictures = [task.read(index).image.permute(1, 2, 0).numpy() for index in range(len(task))]
    quick = replace(CANONICAL, ssim=None, lpips=None)
    before = totals_under(quick, tokenizer, pictures)["psnr"]
    protocol = PROTOCOLS["vtbench-2025"]
    stated = dict(effects(protocol)[0])
    for deviation in deviations(protocol):
        if deviation.fields in (("psnr",), ("reconstruction",)):
            changed = replace(quick, **{field: getattr(protocol, field) for field in deviation.fields})
            moved = totals_under(changed, tokenizer, pictures)["psnr"] - before
            assert moved == pytest.approx(stated[deviation.sentence]["psnr"], abs=1e-6)
            assert abs(moved) > 0.001


def test_floats_need_a_rounding_before_they_can_be_pixels() -> None:
    with pytest.raises(ValueError, match="needs a rounding other than pixels"):
        replace(PROTOCOLS["canonical"], geometry="tensor-bilinear")


def test_unknown_protocol_lists_those_there_are() -> None:
    with pytest.raises(CardError, match=r"no protocol is called 'ibq'; expected one of: canonical, vtbench-2025"):
        find_protocol("ibq")
