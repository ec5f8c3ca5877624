from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from vtbench import cards, images
from vtbench.errors import DataError
from vtbench.networks.hook import Config, Network
from vtbench.tokenizer import load_tokenizer
from vtbench.types import Codes
from vtbench.weights import load_state, synthetic_state

PARITY = Path(__file__).parent.parent / "parity"
IMAGENET = images.value_range(0.0, 1.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
TINY = {"side": 64, "tokens": 5, "stem": 8, "seed_channels": 32, "heads": 4, "token_channels": 24}


@pytest.fixture
def tiny(filled):
    return filled(Network, Config(**TINY))


@pytest.fixture(scope="module")
def picture():
    with Image.open(PARITY / "picture.png") as picture:
        return images.from_pil(picture)[None]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def check(network: Network, levels: torch.Tensor, fixture: str, step: int) -> None:
    """Hold tokens, attention and regions against the published code's for the same levels and made-up weights."""
    golden = {name: torch.from_numpy(array) for name, array in np.load(PARITY / f"{fixture}.npz").items()}
    x = images.to_float(levels, IMAGENET)
    torch.testing.assert_close(network.encode(x).latent.flatten(), golden["latent"], rtol=0, atol=2e-5)
    attention = network.attention(x).flatten()[::step]
    torch.testing.assert_close(attention, golden["attention"], rtol=1e-4, atol=1e-7)
    seeds = network.regions(x)[0, ::4, ::4].flatten()
    assert (seeds == golden["regions"]).float().mean() > 0.999  # two tokens may attend to a seed alike but for rounding


def test_a_reduced_network_agrees_with_the_published_implementation(tiny, picture):
    check(tiny, picture[:, :, 16:80, 32:96], "hook-tiny", 3)


@pytest.mark.parity
def test_the_classifiers_tokenizer_agrees_with_the_published_implementation(picture):
    network = load_tokenizer("hook-cls-6", weights="synthetic", device="cpu").network
    check(network, picture[:, :, :224, :224], "hook-cls-6", 61)


@pytest.mark.parity
def test_the_segmenters_tokenizer_agrees_with_the_published_implementation(picture):
    network = load_tokenizer("hook-seg-8", weights="synthetic", device="cpu").network
    check(network, picture.repeat_interleave(2, 2).repeat_interleave(2, 3), "hook-seg-8", 61)


@torch.inference_mode()
def test_every_pixel_belongs_to_the_token_that_attends_to_its_seed_most(tiny):
    x = noise(2, 3, 64, 64)
    regions, attention = tiny.regions(x), tiny.attention(x)
    assert regions.shape == (2, 64, 64)
    assert regions.dtype == torch.int64
    torch.testing.assert_close(attention.sum((2, 3)), torch.ones(2, 5))
    for row, column in ((0, 0), (3, 3), (4, 3), (20, 61), (63, 63)):
        assert regions[1, row, column] == attention[1, :, row // 4, column // 4].argmax()
    assert len(regions.unique()) > 3


@torch.inference_mode()
def test_the_first_block_looks_at_a_quarter_of_the_picture_and_the_second_at_all(tiny):
    seeds = noise(1, 16, 16, 32)
    changed = seeds.clone()
    changed[0, 0, 0] = noise(32, seed=1) * 5
    first, second = tiny.semantic_module
    moved = (first(changed) - first(seeds)).abs().sum(-1)[0] > 0
    assert moved[:8, :8].float().mean() > 0.9  # the rest by less than float32 can tell
    assert not moved[8:].any()
    assert not moved[:, 8:].any()
    assert ((second(changed) - second(seeds)).abs().sum(-1) > 0).float().mean() > 0.9


@torch.inference_mode()
def test_a_picture_is_coded_alike_alone_and_in_a_batch(tiny):
    x = noise(3, 3, 64, 64, seed=2)
    codes = tiny.encode(x)
    assert codes.bits is None
    assert codes.latent.shape == (3, 5, 24)
    for index in range(3):
        alone = tiny.encode(x[index : index + 1]).latent[0]
        torch.testing.assert_close(alone, codes.latent[index], rtol=0, atol=1e-5)
        assert torch.equal(tiny.regions(x[index : index + 1])[0], tiny.regions(x)[index])


def test_there_is_no_way_back_to_pixels(tiny):
    with pytest.raises(DataError, match="HOOK has no decoder"):
        tiny.decode(Codes(latent=torch.zeros(1, 5, 24)))


def test_another_size_is_refused(tiny):
    with pytest.raises(DataError, match="takes 64x64 pixels only, got 64x32"):
        tiny.encode(torch.zeros(1, 3, 32, 64))


def test_the_counters_that_training_stores_are_left_out():
    card = cards.find_tokenizer("hook-cls-6").model_copy(update={"config": TINY})
    state = synthetic_state(Network(Config(**TINY)))
    norms = [name.removesuffix("running_mean") for name in state if name.endswith("running_mean")]
    counters = {f"{name}num_batches_tracked": torch.tensor(7) for name in norms}
    assert len(counters) == 4
    own = load_tokenizer(card, weights=state | counters, device="cpu").network
    twin = Network(Config(**TINY)).eval()
    load_state(twin, state)
    x = noise(1, 3, 64, 64)
    assert torch.equal(own.encode(x).latent, twin.encode(x).latent)


@pytest.mark.parametrize(
    ("change", "message"), [({"side": 36}, "multiple of 8"), ({"heads": 3}, "a multiple of heads")]
)
def test_numbers_that_do_not_fit_each_other_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        Config(**TINY | change)


def test_every_card_says_what_its_network_does():
    found = [card for card in cards.tokenizers().values() if card.network == "hook"]
    assert len(found) == 2
    for card in found:
        config = Config(**card.config)
        assert card.kind == "understanding"
        assert card.input.sizes == (config.side,)
        assert card.code.latent_channels == config.token_channels
        assert card.name.endswith(f"-{config.tokens}")
        assert card.weights.hub is card.weights.url is card.weights.file is None
        assert "publish no weights" in card.description
