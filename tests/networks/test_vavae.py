from __future__ import annotations

import pytest
import torch

from vtbench import cards
from vtbench.errors import DataError
from vtbench.networks.vavae import Config, Network
from vtbench.types import Codes

SMALL = Config(channels=32, multipliers=(1, 1, 2), blocks=1, z_channels=4)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parity
@pytest.mark.parametrize("variant", ["vavae-f16d16", "vavae-f16d32", "vavae-f16d64"])
def test_every_variant_agrees_with_the_published_implementation(hold, variant):
    hold(variant)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("variant", "fixture"),
    [
        ("e2e-sdvae", "e2e-sdvae"),
        ("repa-e-sdvae", "e2e-sdvae"),  # the same network
        ("e2e-vavae", "vavae-f16d32"),
        ("e2e-invae", "vavae-f16d32"),
    ],
)
def test_every_variant_of_repa_e_agrees_with_the_published_implementation(hold, variant, fixture):
    hold(variant, fixture)


def test_the_layout_of_stable_diffusion_attends_in_the_middle_alone():
    card = cards.find_tokenizer("e2e-sdvae")
    with torch.device("meta"):
        network = Network(Config.model_validate_json(cards.json.dumps(card.config)))
    assert sum(parameter.numel() for parameter in network.parameters()) == 83653863
    attending = {name.split(".attn")[0] for name in network.state_dict() if ".attn" in name}
    assert attending == {"encoder.mid", "decoder.mid"}


@torch.inference_mode()
def test_the_code_is_the_posteriors_mean(filled):
    network = filled(Network, SMALL)
    x = noise(2, 3, 16, 24)
    codes = network.encode(x)
    assert codes.latent.shape == (2, 4, 4, 6)
    assert torch.equal(codes.latent, network.latent(x)[:, :4])
    network.quant_conv.bias[4:] += 7  # the log variance
    assert torch.equal(network.encode(x).latent, codes.latent)
    assert codes.bits is None


@torch.inference_mode()
def test_a_second_instance_decodes_the_latent_alone(filled):
    x = noise(2, 3, 16, 24)
    codes = filled(Network, SMALL).encode(x)
    second = filled(Network, SMALL)
    decoded = second.decode(Codes(latent=codes.latent))
    assert decoded.shape == x.shape
    for index in range(2):
        alone = second.decode(Codes(latent=codes.latent[index : index + 1]))
        torch.testing.assert_close(alone[0], decoded[index], rtol=0, atol=1e-5)  # other float32 kernels


def test_codes_without_a_latent_are_refused(filled):
    with pytest.raises(DataError, match="hold no latent"):
        filled(Network, SMALL).decode(Codes())


def test_every_card_says_what_its_network_does():
    found = [card for card in cards.tokenizers().values() if card.network == "vavae"]
    assert {card.name for card in found} == {
        *("vavae-f16d16", "vavae-f16d32", "vavae-f16d64"),
        *("e2e-vavae", "e2e-invae", "e2e-sdvae", "repa-e-sdvae"),
    }
    for card in found:
        config = Config(**card.config)
        assert card.kind == "continuous"
        assert card.code.codebook_sizes == ()
        assert card.code.latent_channels == config.z_channels
        assert card.code.downsampling == card.input.multiple_of == 2 ** (len(config.multipliers) - 1)
        assert card.code.tokens_at_256 == (256 // card.code.downsampling) ** 2
