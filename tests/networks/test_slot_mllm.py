from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from vtbench import cards, images
from vtbench.errors import DataError
from vtbench.networks.slot_mllm import Config, Network, SlotAttention
from vtbench.tokenizer import load_tokenizer
from vtbench.types import Codes
from vtbench.weights import load_state, published_names, synthetic_state

PARITY = Path(__file__).parent.parent / "parity"
IMAGENET = images.value_range(0.0, 1.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

# Never published: made by the published modules with other numbers, small enough for every test run.
TINY = {
    "vision_width": 64,
    "vision_blocks": 2,
    "vision_heads": 4,
    "grid": 5,
    "bridge": 48,
    "slots": 8,
    "width": 64,
    "layers": 4,
    "heads": 4,
    "depth": 3,
    "codebook_size": 256,
    "code_channels": 8,
    "mixers": 2,
    "mixer_heads": 4,
}


def tempered(config: Config) -> Network:
    """Fill as the fixtures were: with plain random weights patches and slots become alike and take one code."""
    network = Network(config).eval()
    state = synthetic_state(network)
    gains = {".gamma": 0.2, "crossattention.self.query.weight": 6, "attention.output.dense": 0.3}
    for name, tensor in state.items():
        for part, gain in gains.items():
            if part in name:
                tensor *= gain
    state["quantize.layers.0._codebook.embed"] *= (config.codebook_size * config.code_channels) ** 0.5
    load_state(network, state)
    return network


@pytest.fixture(scope="module")
def tiny():
    return tempered(Config(**TINY))


@pytest.fixture(scope="module")
def picture():
    with Image.open(PARITY / "picture.png") as picture:
        return images.from_pil(picture)[None]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def check(network: Network, levels: torch.Tensor, fixture: str) -> None:
    """Hold slots, tokens and what the diffusion model is given against the published code's."""
    golden = {name: torch.from_numpy(array) for name, array in np.load(PARITY / f"{fixture}.npz").items()}
    x = images.to_float(levels, IMAGENET)
    torch.testing.assert_close(network.latent(x).flatten()[::5], golden["latent"], rtol=0, atol=2e-5)
    (found,) = network.encode(x).indices
    expected = golden["tokens"].long()
    sure = golden["margin"].view(found.shape) > 1e-3
    assert sure.float().mean() > 0.95
    assert torch.equal(found[sure], expected[sure])
    codes = Codes(indices=(expected,), codebook_sizes=(network.codes,))
    prompt, embedding = network.conditions(codes)
    torch.testing.assert_close(prompt.flatten()[::13], golden["prompt"], rtol=0, atol=2e-5)
    torch.testing.assert_close(embedding.flatten()[::3], golden["picture"], rtol=0, atol=2e-5)


def test_a_reduced_network_agrees_with_the_published_implementation(tiny, picture):
    check(tiny, picture[:, :, :112, :112], "slot-mllm-tiny")


@pytest.mark.parity
def test_the_published_variant_agrees_with_the_published_implementation(picture):
    network = tempered(Config(**cards.find_tokenizer("slot-mllm").config))
    check(network, picture.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :448, :448], "slot-mllm")


@torch.inference_mode()
def test_each_index_is_the_nearest_row_to_what_the_ones_before_left_over(tiny):
    x = noise(2, 3, 112, 112)
    codes = tiny.encode(x)
    (indices,) = codes.indices
    assert indices.shape == (2, 8, 3)
    assert indices.dtype == torch.int64
    assert codes.bits == (8 * 3 * 8.0,) * 2
    residual = tiny.quantize.project_in(tiny.latent(x)).double()
    table = tiny.quantize.embed[0].double()
    for depth in range(3):
        assert torch.equal(indices[..., depth], torch.cdist(residual, table.expand(2, -1, -1)).argmin(-1))
        residual = residual - table[indices[..., depth]]
    assert len(indices.unique()) > 10


@torch.inference_mode()
def test_every_slot_competes_with_all():
    attention = SlotAttention(16, 16, 2)
    slots, patches = noise(1, 4, 16), noise(1, 9, 16, seed=1)
    changed = slots.clone()
    changed[0, 3] = noise(16, seed=2)
    # A rival takes more or less of the patches, so that every slot feels it.
    assert ((attention(changed, patches) - attention(slots, patches)).abs().sum(-1) > 1e-6).all()


@torch.inference_mode()
def test_a_picture_is_coded_alike_alone_and_in_a_batch(tiny):
    x = noise(3, 3, 112, 112, seed=2)
    codes = tiny.encode(x)
    for index in range(3):
        alone = tiny.encode(x[index : index + 1])
        assert torch.equal(alone.indices[0][0], codes.indices[0][index])
        for one, other in zip(tiny.conditions(alone), tiny.conditions(codes), strict=True):
            torch.testing.assert_close(one[0], other[index], rtol=0, atol=1e-5)


def test_pixels_are_another_networks(tiny):
    with pytest.raises(DataError, match=r"Stable Diffusion 2\.1 unCLIP, which is not part of this suite"):
        tiny.decode(Codes(indices=(torch.zeros(1, 8, 3, dtype=torch.int64),), codebook_sizes=(256,)))


def test_the_published_names_are_those_of_the_inference_class():
    names = published_names(Network(Config(**TINY)))
    model = "image_tokenizer.model."
    assert len(set(names.values())) == len(names)
    assert names["vision.blocks.1.ls2.gamma"] == "backbone.dinov2.blocks.1.ls2.gamma"
    assert names["qformer.query_tokens"] == f"{model}query_tokens"
    assert names["qformer.norm.bias"] == f"{model}Qformer.bert.embeddings.LayerNorm.bias"
    expected = f"{model}Qformer.bert.encoder.layer.2.crossattention.self.gru.weight_ih"
    assert names["qformer.layer.2.crossattention.self.gru.weight_ih"] == expected
    assert names["quantize.embed"] == "quantize.layers.0._codebook.embed"
    assert names["mixer.pos_embed"] == "pos_embed"
    assert names["mixer_image.pos_embed"] == "pos_embed_image"
    assert names["mixer.blocks.0.attn.qkv.weight"] == "blocks.0.attn.qkv.weight"
    assert names["mixer_image.blocks.1.mlp.fc2.bias"] == "blocks_image.1.mlp.fc2.bias"
    assert names["image_down.4.weight"] == "image_down.4.weight"


def test_what_the_file_holds_besides_is_left_out_and_nothing_more():
    card = cards.find_tokenizer("slot-mllm").model_copy(update={"config": TINY})
    state = synthetic_state(Network(Config(**TINY)))
    assert not [name for name in state if name.startswith(card.weights.drop)]
    layer = "image_tokenizer.model.Qformer.bert.encoder.layer.10."
    besides = ("unet.conv_in.weight", f"{layer}output.dense.bias", "quantize.layers.0._codebook.cluster_size")
    load_tokenizer(card, weights=state | {name: torch.zeros(1) for name in besides}, device="cpu")


def test_heads_that_do_not_divide_their_width_are_refused():
    with pytest.raises(ValidationError, match="heads must divide their width"):
        Config(**TINY | {"mixer_heads": 3})


def test_the_card_says_what_its_network_does():
    (card,) = [card for card in cards.tokenizers().values() if card.network == "slot_mllm"]
    config = Config(**card.config)
    assert card.kind == "understanding"
    assert card.code.codebook_sizes == (config.codebook_size,)
    assert card.code.latent_channels == config.code_channels
    assert card.weights.hub is card.weights.url is card.weights.file is None
    assert f"{config.slots * config.depth} tokens" in card.description
