from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vtbench import cards, images, wrap
from vtbench.cards import Input, Output, TokenizerCard
from vtbench.device import lay_out, pick
from vtbench.errors import CardError, DataError, VtbenchError, WeightsError
from vtbench.tokenizer import Tokenizer, load_tokenizer
from vtbench.types import Codes
from vtbench.weights import stamp


class Copy(nn.Module):
    """Keeps what it is fed, so that every change of a pixel is the Tokenizer's."""

    def encode(self, x: Tensor) -> Codes:
        assert x.shape[-1] % 16 == 0
        assert x.shape[-2] % 16 == 0
        return Codes(latent=x)

    def decode(self, codes: Codes) -> Tensor:
        assert codes.latent is not None
        return codes.latent


def card(**change: object) -> TokenizerCard:
    said = {"name": "copy", "family": "copy", "network": "copy", "kind": "continuous", "title": "Copy"}
    return TokenizerCard.model_validate(said | {"input": Input(multiple_of=16)} | change)


@pytest.mark.parametrize("spec", [Input(multiple_of=16), Input(range=(0.0, 1.0), multiple_of=16)])
def test_nothing_is_lost_on_the_way_through(spec: Input) -> None:
    pictures = torch.randint(0, 256, (3, 3, 37, 250), dtype=torch.uint8)
    assert torch.equal(Tokenizer(card(input=spec), Copy()).reconstruct(pictures), pictures)


def test_decoder_with_a_range_of_its_own_is_read_in_that_range() -> None:
    class Shifted(Copy):
        def decode(self, codes: Codes) -> Tensor:
            return super().decode(codes) * 2 - 1

    pictures = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8)
    spec = Input(range=(0.0, 1.0), decoded_range=(-1.0, 1.0), multiple_of=16)
    assert torch.equal(Tokenizer(card(input=spec), Shifted()).reconstruct(pictures), pictures)


def test_fixed_size_is_refused_with_both_sizes() -> None:
    tokenizer = Tokenizer(card(input=Input(sizes=(256,))), Copy())
    with pytest.raises(DataError, match=r"copy takes 256x256 pixels only, the task has 512x384"):
        tokenizer.encode(torch.zeros(1, 3, 384, 512, dtype=torch.uint8))


def test_a_network_that_gives_one_size_is_given_pictures_of_that_size_alone() -> None:
    class Fixed(Copy):
        def decode(self, codes: Codes) -> Tensor:
            return torch.zeros(len(codes), 3, 32, 32)

    tokenizer = Tokenizer(card(output=Output(size=32)), Fixed())
    assert tokenizer.reconstruct(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape == (1, 3, 32, 32)
    for refused in (
        lambda: tokenizer.encode(torch.zeros(1, 3, 48, 48, dtype=torch.uint8)),
        lambda: tokenizer.decode(Codes(latent=torch.zeros(1, 3, 48, 48)), (48, 48)),
    ):
        with pytest.raises(DataError, match=r"copy takes 32x32 pixels only, the task has 48x48"):
            refused()


@pytest.mark.parametrize("bad", [torch.zeros(1, 3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8)])
def test_anything_but_a_uint8_batch_is_refused(bad: Tensor) -> None:
    with pytest.raises(DataError, match="expected uint8 pictures"):
        Tokenizer(card(), Copy()).encode(bad)


class Short(Copy):
    def decode(self, codes: Codes) -> Tensor:
        return super().decode(codes)[..., :-16, :]


def test_too_small_an_output_is_refused_with_both_sizes() -> None:
    with pytest.raises(DataError, match=r"gave \(1, 3, 16, 48\) for pictures of 40x20, expected \(1, 3, 32, 48\)"):
        Tokenizer(card(), Short()).reconstruct(torch.zeros(1, 3, 20, 40, dtype=torch.uint8))


@pytest.mark.parametrize("name", ["tiny", "jpeg-q10", "webp-q30", "control-mean", "control-identity"])
def test_a_second_instance_decodes_from_bytes_alone(name: str, photographs: Tensor) -> None:
    """Nothing but the codes crosses: they go through bytes, and another instance decodes them."""
    codes = load_tokenizer(name).encode(photographs[:2])
    plain = {
        "indices": tuple(part.numpy() for part in codes.indices),
        "bitstream": codes.bitstream,
        "size": codes.size,
        "codebook_sizes": codes.codebook_sizes,
    }
    received = pickle.loads(pickle.dumps(plain))
    received["indices"] = tuple(torch.from_numpy(part) for part in received["indices"])
    second = load_tokenizer(name).decode(Codes(**received), (256, 256))
    assert torch.equal(second, load_tokenizer(name).reconstruct(photographs[:2]))


def test_bits_of_codes() -> None:
    indices = (torch.zeros(2, 4, 4, dtype=torch.int64), torch.zeros(2, 2, 2, dtype=torch.int64))
    assert Codes(indices=indices, codebook_sizes=(1024, 16)).bits == (176.0, 176.0)
    assert Codes(bitstream=(b"abc", b"a")).bits == (24.0, 8.0)
    assert Codes(latent=torch.zeros(1, 4, 2, 2)).bits is None


def test_synthetic_weights_are_made_up_the_same_everywhere() -> None:
    one, two = (load_tokenizer("tiny", weights="synthetic") for _ in range(2))
    assert one.identity() == ("synthetic", None)
    assert one.identity()[1] is None
    assert all(torch.equal(a, b) for a, b in zip(one.network.parameters(), two.network.parameters(), strict=True))


def test_published_file_given_by_path_is_still_the_published_one(tmp_path: Path) -> None:
    tiny = cards.find_tokenizer("tiny")
    assert tiny.weights is not None
    path = Path(cards.__file__).parent / "assets" / "weights" / str(tiny.weights.package)
    assert load_tokenizer("tiny", weights=path).identity()[0] == "packaged"
    state = load_tokenizer("tiny").network.state_dict()
    torch.save({"state_dict": {name: tensor + 0.01 for name, tensor in state.items()}}, tmp_path / "mine.ckpt")
    assert load_tokenizer("tiny", weights=tmp_path / "mine.ckpt").identity()[0] == "local"
    assert load_tokenizer("tiny", weights=state).identity()[0] == "local"


def _scaled(weight: Tensor) -> None:
    weight.mul_(0.9)


def _scaled_behind_autograd(weight: Tensor) -> None:
    weight.data.mul_(0.9)


def _reversed(weight: Tensor) -> None:
    weight.copy_(weight.flip(1))


def _replaced(weight: Tensor) -> None:
    weight.data = weight.data.flip(1)


@pytest.mark.parametrize("change", [_scaled, _scaled_behind_autograd, _reversed, _replaced])
@pytest.mark.parametrize("weights", [None, "synthetic"])
def test_weights_that_were_trained_on_are_no_longer_those_that_were_loaded(
    change: Callable[[Tensor], None], weights: str | None
) -> None:
    tokenizer = load_tokenizer("tiny", weights=weights)
    loaded = tokenizer.identity()
    tokenizer.reconstruct(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    assert tokenizer.identity() == loaded
    assert isinstance(tokenizer.network, nn.Module)
    with torch.no_grad():
        change(next(weight for weight in tokenizer.network.parameters() if weight.ndim == 4))
    found = tokenizer.identity()
    assert found[0] == "local"
    assert found[1] not in (None, loaded[1])
    assert tokenizer.identity() == found


def _shared(tokenizer: Tokenizer) -> Tokenizer:
    assert isinstance(tokenizer.network, nn.Module)
    tokenizer.network.share_memory()
    return tokenizer


def _loaded_again(tokenizer: Tokenizer) -> Tokenizer:
    assert isinstance(tokenizer.network, nn.Module)
    tokenizer.network.load_state_dict(copy.deepcopy(tokenizer.network.state_dict()))
    return tokenizer


def _channels_last(tokenizer: Tokenizer) -> Tokenizer:
    assert isinstance(tokenizer.network, nn.Module)
    tokenizer.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return tokenizer


@pytest.mark.parametrize(
    "moved",
    [copy.deepcopy, lambda tokenizer: pickle.loads(pickle.dumps(tokenizer)), _shared, _loaded_again, _channels_last],
)
def test_weights_are_the_same_wherever_they_lie(moved: Callable[[Tokenizer], Tokenizer]) -> None:
    tokenizer = load_tokenizer("tiny")
    loaded = tokenizer.identity()
    assert moved(tokenizer).identity() == loaded


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_stamp_tells_weights_in_another_order(dtype: torch.dtype) -> None:
    """Of powers of two, in numbers that eight bytes hold none or several of, and of ones in a matrix."""
    for held in (torch.tensor([1, 2, 4]), torch.arange(600_001) % 2 + 1, torch.eye(600), torch.eye(2).repeat(3, 700)):
        one, other = nn.Module(), nn.Module()
        one.register_buffer("held", held.to(dtype))
        other.register_buffer("held", held.to(dtype).roll(1, 0))
        assert not torch.equal(one.held, other.held)
        assert stamp(one) == stamp(copy.deepcopy(one)) != stamp(other)


def test_weights_of_another_variant_are_refused(tmp_path: Path) -> None:
    state = load_tokenizer("tiny-fsq-f16").network.state_dict()
    with pytest.raises(WeightsError, match=r"tiny-fsq-f8: the checkpoint does not fit"):
        load_tokenizer("tiny-fsq-f8", weights=state)
    with pytest.raises(WeightsError, match="no such file"):
        load_tokenizer("tiny", weights=tmp_path / "none.ckpt")
    with pytest.raises(WeightsError, match="has no weights"):
        load_tokenizer("jpeg", weights=state)


def test_card_whose_network_or_config_is_wrong_is_one_line() -> None:
    with pytest.raises(CardError, match="no network is called 'copy'"):
        load_tokenizer(card())
    with pytest.raises(CardError, match=r"\[config\] quality: missing"):
        load_tokenizer(card(network="codec", config={"format": "jpeg"}))


def test_network_from_another_package_comes_through_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere.py").write_text(
        "from torch import nn\nfrom vtbench.types import Codes, Strict\n"
        "class Config(Strict):\n    gain: float\n"
        "class Network(nn.Module):\n"
        "    def __init__(self, config):\n        super().__init__()\n        self.gain = config.gain\n"
        "    def encode(self, x):\n        return Codes(latent=x * self.gain)\n"
        "    def decode(self, codes):\n        return codes.latent / self.gain\n"
    )
    info = tmp_path / "elsewhere-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vtbench.networks]\nfaraway = elsewhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    tokenizer = load_tokenizer(card(network="faraway", config={"gain": 2.0}))
    pictures = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8)
    assert torch.equal(tokenizer.reconstruct(pictures), pictures)


def test_device_that_is_not_there_is_one_line() -> None:
    with pytest.raises(VtbenchError, match="device 'nonsense': there is none of this name"):
        pick("nonsense")


def test_device_without_float64_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = torch.empty

    def without(*size: int, dtype: torch.dtype | None = None, **named: Any) -> Tensor:
        if dtype is torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype. Please use float32 instead.")
        return empty(*size, dtype=dtype, **named)

    monkeypatch.setattr(torch, "empty", without)
    with pytest.raises(VtbenchError, match=r"^device 'cpu' can't be used here \(Cannot convert a MPS .* try --device"):
        pick("cpu")
    with pytest.raises(VtbenchError, match=r"^mine: its device, cpu, can't be used here \(Cannot convert a MPS "):
        wrap(torch.nn.Conv2d(3, 3, 1), name="mine")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_stays_close(precision: str, photographs: Tensor) -> None:
    full = load_tokenizer("tiny").reconstruct(photographs[:1]).float()
    low = load_tokenizer("tiny", precision=precision).reconstruct(photographs[:1]).float()
    assert (full - low).abs().mean() < 4  # grey levels; some codes flip, the picture stays


@pytest.mark.parametrize(("precision", "last"), [("fp32", False), ("bf16", True), ("fp16", True)])
def test_half_precision_keeps_its_kernels_channels_last(precision: str, last: bool) -> None:
    kernels = [one for one in load_tokenizer("tiny", precision=precision).network.parameters() if one.ndim == 4]
    wide = [one for one in kernels if one.shape[1] > 1 and one[0, 0].numel() > 1]  # of others both orders are one
    assert wide and all(one.is_contiguous(memory_format=torch.channels_last) is last for one in wide)


class Flat(nn.Module):
    """Flattens what a convolution gave by `view`, and reads a table of four dimensions so."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 8, 8)
        self.table = nn.Parameter(torch.zeros(1, 4, 2, 2))
        self.back = nn.ConvTranspose2d(4, 3, 8, 8)

    def encode(self, x: Tensor) -> Codes:
        return Codes(latent=self.conv(x).view(len(x), -1) + self.table.view(1, -1))

    def decode(self, codes: Codes) -> Tensor:
        assert codes.latent is not None
        decoded: Tensor = self.back(codes.latent.view(-1, 4, 2, 2))
        return decoded


def test_networks_and_parts_of_others_keep_their_layout_in_half_precision() -> None:
    network = Flat()
    lay_out(network)
    Tokenizer(card(), network, precision="bf16").reconstruct(torch.zeros(2, 3, 16, 16, dtype=torch.uint8))
    held = nn.Sequential(nn.Conv2d(3, 4, 8, 8), Flat())
    lay_out(held)
    assert [one.is_contiguous() for one in held.parameters() if one.ndim == 4] == [False, True, True, True]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_codecs_keep_every_level_at_any_precision(precision: str, photographs: Tensor) -> None:
    assert torch.equal(load_tokenizer("control-identity", precision=precision).reconstruct(photographs), photographs)


def test_cards_config_is_json() -> None:
    for known in cards.tokenizers().values():
        json.dumps(known.config)


def test_a_latent_may_be_a_number_a_picture() -> None:
    class Mean(Copy):
        def encode(self, x: Tensor) -> Codes:
            return Codes(latent=x.mean((1, 2, 3)))

        def decode(self, codes: Codes) -> Tensor:
            assert codes.latent is not None
            return codes.latent.view(-1, 1, 1, 1).expand(-1, 3, 16, 16)

    pictures = torch.full((2, 3, 16, 16), 7, dtype=torch.uint8)
    assert torch.equal(Tokenizer(card(), Mean()).reconstruct(pictures), pictures)


def test_floats_come_back_in_the_range_that_was_fed() -> None:
    """A decoder may have a range of its own; protocols get all floats in the encoder's."""
    plain = load_tokenizer("tiny")
    card = plain.card.model_copy(update={"input": plain.card.input.model_copy(update={"decoded_range": (-3.0, 5.0)})})
    tokenizer = Tokenizer(card, plain.network)
    pictures = torch.randint(0, 256, (2, 3, 32, 40), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    codes = tokenizer.encode(pictures)
    floats, reasons = tokenizer.attempt(codes, (32, 40), floats=True)
    assert reasons == [None, None]
    assert floats.shape == (2, 3, 32, 40)
    assert torch.equal(images.to_uint8(floats, tokenizer.span), tokenizer.decode(codes, (32, 40)))
    assert not torch.equal(tokenizer.decode(codes, (32, 40)), plain.decode(codes, (32, 40)))
