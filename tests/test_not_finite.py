"""Numbers that are not finite on the way to the codes: the picture fails with its reason, no code stands for them."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch
from discrete import SMALL, small
from PIL import Image
from torch import Tensor, nn

from vtbench import cards, evaluate, load_task, load_tokenizer, wrap
from vtbench.bottleneck import Bottleneck
from vtbench.errors import DataError
from vtbench.networks import hook, slot_mllm, tae
from vtbench.networks._taming import best_codes
from vtbench.networks.magvit2 import signs_to_index
from vtbench.tokenizer import Network, Precision, Tokenizer
from vtbench.types import NO_CODE

REASON = "its encoder gave values that are not finite"


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_no_code_stands_for_what_is_not_finite(name: str, bad: float) -> None:
    """The picture beside it is coded as ever."""
    tokenizer = small(name)
    generator = torch.Generator().manual_seed(0)
    floats = tokenizer.input_of(torch.randint(0, 256, (2, 3, 64, 64), generator=generator, dtype=torch.uint8))
    before = tokenizer.encode_input(floats)
    floats[1] = bad
    codes = tokenizer.encode_input(floats)
    assert all(torch.equal(part[0], whole[0]) for part, whole in zip(codes.indices, before.indices, strict=True))
    assert all((part[1] == NO_CODE).all() for part in codes.indices)
    Bottleneck(tokenizer).latent(codes)
    list(tokenizer.curve(codes, (64, 64)))
    _, reasons = tokenizer.attempt(codes, (64, 64))
    assert reasons == [None, f"{tokenizer.card.name}: {REASON}"]
    with pytest.raises(DataError, match=REASON):
        tokenizer.decode(codes, (64, 64))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_one_number_that_is_not_finite_voids_its_index_alone(bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the codebook comes in several parts."""
    generator = torch.Generator().manual_seed(0)
    z, table = torch.randn(2, 3, 2, 2, generator=generator), torch.randn(7, 3, generator=generator)
    whole, signs = best_codes(z, table, -table.square().sum(1) / 2), signs_to_index(z)
    z[1, 2, 0, 1] = bad
    monkeypatch.setattr("vtbench.networks._taming.SCORES_AT_ONCE", 16)
    for found, expected in ((best_codes(z, table, -table.square().sum(1) / 2), whole), (signs_to_index(z), signs)):
        assert found[1, 0, 1] == NO_CODE
        assert (found != expected).sum() == 1


def test_residual_indices_for_understanding_are_no_codes_either() -> None:
    numbers = {"codebook_size": 8, "code_channels": 4, "width": 16, "heads": 2, "depth": 3}
    config = cards.find_tokenizer("slot-mllm").config | numbers
    quantizer = slot_mllm.Quantizer(slot_mllm.Config(**config))
    nn.init.normal_(quantizer.embed)
    slots = torch.randn(2, 5, 16)
    slots[1, 3] = torch.nan
    found = quantizer.indices(slots)
    assert (found[1, 3] == NO_CODE).all()
    assert (found == NO_CODE).sum() == 3


def _overflowing(card: str, network: nn.Module, layer: nn.Module, precision: Precision) -> Tokenizer:
    """A network one of whose layers has weights that half precision holds, and whose outputs it doesn't."""
    for weight in network.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
    weight = cast("Tensor", layer.weight)
    with torch.no_grad():
        weight.mul_(60000 / weight.abs().max())
    found = cards.find_tokenizer(card)
    return Tokenizer(found, cast("Network", network), precision=precision, state="synthetic", digest="0" * 64)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tokens_for_understanding_are_looked_at(precision: Precision) -> None:
    network = hook.Network(hook.Config(**cards.find_tokenizer("hook-cls-6").config))
    tokenizer = _overflowing("hook-cls-6", network, network.downsample_module.conv1, precision)
    pictures = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8)
    _, reasons = tokenizer.attempt(tokenizer.encode(pictures), (224, 224))
    said = f"hook-cls-6: {REASON} (in fp16; fp32 or bf16 may do)"
    assert reasons == [said if precision == "fp16" else None]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_latent_is_looked_at_though_its_decoder_hides_that_it_is_infinite(precision: Precision) -> None:
    network = tae.Network(tae.Config(**cards.find_tokenizer("taesd").config))
    tokenizer = _overflowing("taesd", network, network.encoder[-1], precision)
    pictures = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    codes = tokenizer.encode(pictures)
    with torch.no_grad():
        assert torch.isfinite(tokenizer.network.decode(codes)).all()
    _, reasons = tokenizer.attempt(codes, (64, 64))
    assert reasons == [f"taesd: {REASON} (in fp16; fp32 or bf16 may do)" if precision == "fp16" else None]


def test_a_tokenizer_of_the_suite_says_that_half_precision_is_too_narrow_for_it(photographs: Tensor) -> None:
    codes = load_tokenizer("tiny-fsq-f16", precision="bf16").encode(photographs[:1])
    assert codes.indices[0].min() >= 0
    with pytest.raises(DataError, match=rf"^tiny-fsq-f16: {REASON} \(in fp16; fp32 or bf16 may do\)$"):
        load_tokenizer("tiny-fsq-f16", precision="fp16").encode(photographs[:1])


class Model(nn.Module):
    """A live model whose latent of bright pictures overflows."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def latent(self, x: Tensor) -> Tensor:
        z = nn.functional.avg_pool2d(x, 16) * self.gain
        return torch.where(z.mean((1, 2, 3), keepdim=True) > 0, torch.inf, z)

    def indices(self, x: Tensor) -> Tensor:
        z = self.latent(x)[:, 0]
        return torch.where(z.isfinite(), ((z.clamp(-1, 1) + 1) * 3.5).round().long(), NO_CODE)


def _from_indices(_: Model, codes: Tensor) -> Tensor:
    return (codes[:, None] / 3.5 - 1).expand(-1, 3, -1, -1).repeat_interleave(16, 2).repeat_interleave(16, 3)


def _from_latent(_: Model, z: Tensor) -> Tensor:
    return z.nan_to_num().clamp(-1, 1).repeat_interleave(16, 2).repeat_interleave(16, 3)


@pytest.mark.parametrize("kind", ["indices", "latent"])
def test_a_live_models_codes_are_looked_at(kind: str, tmp_path: Path) -> None:
    for number, level in enumerate((10, 60, 200)):
        Image.new("RGB", (64, 64), (level,) * 3).save(tmp_path / f"{number}.png")
    if kind == "indices":
        live = wrap(Model(), name="live", codebook_size=8, encode=lambda m, x: m.indices(x), decode=_from_indices)
    else:
        live = wrap(Model(), name="live", encode=lambda m, x: m.latent(x), decode=_from_latent)
    run = evaluate(live, load_task("reconstruction", data=tmp_path), out=None)
    assert (run.scores["psnr"].scored, run.pictures.reasons) == (2, {f"live: {REASON}": 1})
