from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vtbench import cards
from vtbench.errors import DataError, WeightsError
from vtbench.networks.tae import Config, Network
from vtbench.tokenizer import load_tokenizer
from vtbench.types import Codes
from vtbench.weights import load_state, synthetic_state

SMALL = {"latent_channels": 4, "width": 8}
LAYOUTS = {
    "plain": Config(**SMALL),
    "pooled": Config(**SMALL, pooled=True),
    "f32": Config(**SMALL, downsampling=32),
}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("variant", ["taesd", "taesd3", "taef2", "taesana"])
def test_every_layout_agrees_with_the_published_implementation(hold, variant):
    hold(variant, span=(-1.0, 1.0))  # what the authors' code was fed when the fixture was made


@torch.inference_mode()
def test_the_first_layers_follow_the_formula(filled):
    network = filled(Network, LAYOUTS["plain"])
    x = noise(1, 3, 16, 16)
    h = F.conv2d(x, network.encoder[0].weight, network.encoder[0].bias, padding=1)
    block = network.encoder[1].conv
    branch = h
    for index in (0, 2, 4):
        branch = F.conv2d(branch, block[index].weight, block[index].bias, padding=1)
        branch = branch.relu() if index < 4 else branch
    torch.testing.assert_close(network.encoder[:2](x), (branch + h).relu(), rtol=0, atol=1e-6)


@torch.inference_mode()
def test_the_pooled_branch_carries_the_whole_picture(filled):
    x, changed = noise(1, 3, 128, 128), noise(1, 3, 128, 128)
    changed[..., 120:, 120:] += 1
    plain, pooled = filled(Network, LAYOUTS["plain"]), filled(Network, LAYOUTS["pooled"])
    assert torch.equal(plain.latent(x)[..., 0, 0], plain.latent(changed)[..., 0, 0])
    assert not torch.allclose(pooled.latent(x)[..., 0, 0], pooled.latent(changed)[..., 0, 0], rtol=0, atol=1e-6)


@torch.inference_mode()
def test_the_decoder_saturates_outliers_of_the_latent(filled):
    network = filled(Network, LAYOUTS["plain"])
    sign = noise(1, 4, 4, 4).sub(0.5).sign()
    far, farther = (network.decode(Codes(latent=scale * sign)) for scale in (100.0, 1000.0))
    assert torch.equal(far, farther)  # 3 tanh(100 / 3) is 3 to the last bit
    assert not torch.allclose(far, network.decode(Codes(latent=3 * sign)), rtol=0, atol=1e-3)


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.inference_mode()
def test_a_second_instance_decodes_the_latent_alone(filled, layout):
    config = LAYOUTS[layout]
    x = noise(3, 3, 64, 96)
    network = filled(Network, config)
    codes = network.encode(x)
    assert codes.latent.shape == (3, 4, 64 // config.downsampling, 96 // config.downsampling)
    assert codes.latent.is_contiguous()
    assert codes.bits is None
    second = filled(Network, config)
    decoded = second.decode(Codes(latent=codes.latent))
    assert decoded.shape == x.shape
    assert decoded.is_contiguous()
    assert torch.equal(decoded, network.decode(network.encode(x)))
    for index in range(3):
        alone = network.encode(x[index : index + 1])
        torch.testing.assert_close(alone.latent[0], codes.latent[index], rtol=0, atol=1e-5)  # other float32 kernels
        torch.testing.assert_close(second.decode(alone)[0], decoded[index], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_encoding_leaves_its_input_as_it_is(filled):
    x = noise(1, 3, 64, 64)
    network = filled(Network, LAYOUTS["f32"])
    latent = network.encode(x).latent
    kept = latent.clone()
    network.decode(Codes(latent=latent))
    assert torch.equal(latent, kept)
    assert torch.equal(x, noise(1, 3, 64, 64))


def test_gradients_flow_through_the_operations_in_place(filled):
    network = filled(Network, LAYOUTS["pooled"])
    x = noise(1, 3, 16, 16).requires_grad_()
    network.decode(network.encode(x)).square().mean().backward()
    assert x.grad.abs().sum() > 0


def test_codes_without_a_latent_are_refused(filled):
    with pytest.raises(DataError, match="hold no latent"):
        filled(Network, LAYOUTS["plain"]).decode(Codes())


def test_one_of_the_two_files_is_not_enough(filled):
    network = filled(Network, LAYOUTS["plain"])
    encoder = {name: tensor for name, tensor in synthetic_state(network).items() if name.startswith("encoder.")}
    with pytest.raises(WeightsError, match=r"missing .*decoder\.1\.weight"):
        load_state(network, encoder)


def test_a_mapping_of_both_files_makes_the_tokenizer():
    card = cards.find_tokenizer("taesd")
    state = synthetic_state(Network(Config()))
    tokenizer = load_tokenizer(card, weights=state, device="cpu")
    assert tokenizer.parameters == 2_445_063  # README: 1,222,532 in the encoder and 1,222,531 in the decoder
    pictures = (noise(1, 3, 40, 30) * 255).to(torch.uint8)
    assert tokenizer.reconstruct(pictures).shape == pictures.shape


def test_every_card_says_what_its_network_does():
    found = [card for card in cards.tokenizers().values() if card.network == "tae"]
    assert {card.name for card in found} == {"taesd", "taesdxl", "taesd3", "taef1", "taef2", "taesana"}
    for card in found:
        config = Config(**card.config)
        assert config.width == 64
        assert card.kind == "continuous"
        assert card.input.range == (0.0, 1.0)
        assert card.code.codebook_sizes == ()
        assert card.code.latent_channels == config.latent_channels
        assert card.code.downsampling == card.input.multiple_of == config.downsampling
        assert card.code.tokens_at_256 == (256 // config.downsampling) ** 2
