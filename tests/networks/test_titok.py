from __future__ import annotations

import pytest
import torch
from held import hold
from torch.nn import functional as F

from vtbench import cards
from vtbench.errors import DataError
from vtbench.networks._maskgit import Widths
from vtbench.networks._patches import from_patches, to_patches
from vtbench.networks.titok import Config, Network, Transformer
from vtbench.tokenizer import load_tokenizer
from vtbench.types import Codes

HALF = Transformer(width=32, layers=2, heads=4)
PIXELS = Widths(channels=32, multipliers=(1, 1), blocks=1)
SMALL = {
    "first": Config(
        encoder=HALF, decoder=HALF, tokens=6, token_channels=4, codebook_size=64, first_generation=True,
        pixels=PIXELS, pixel_codes=16, pixel_channels=8, size=8, patch=2,
    ),
    "later": Config(encoder=HALF, decoder=HALF, tokens=6, token_channels=4, codebook_size=64, size=8, patch=2),
    "continuous": Config(encoder=HALF, decoder=HALF, tokens=6, token_channels=4, size=8, patch=2),
}  # fmt: skip


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parity
@pytest.mark.parametrize(
    "variant",
    [
        "titok-b64",
        "titok-bl128-vae-c16",
        "titok-bl128-vq8k",
        "titok-bl64-vae-c16",
        "titok-bl64-vq8k",
        "titok-l32",
        "titok-ll32-vae-c16",
        "titok-s128",
        "titok-sl256-vq8k",
    ],
)
def test_every_variant_agrees_with_the_published_implementation(variant):
    hold(variant)


@torch.inference_mode()
@pytest.mark.parametrize("generation", ["first", "later"])
def test_a_token_is_the_nearest_row_by_angle_or_by_distance(filled, generation):
    network = filled(Network, SMALL[generation])
    x = random(2, 3, 8, 8)
    codes = network.encode(x)
    assert codes.indices[0].shape == (2, 6)
    assert codes.bits == (6 * 6, 6 * 6)
    z, table = network.latent(x).squeeze(2).mT.double(), network.quantize.embedding.weight.double()
    if generation == "first":
        z, table = F.normalize(z, dim=-1), F.normalize(table, dim=-1)
    assert torch.equal(codes.indices[0], torch.cdist(z.flatten(0, 1), table).argmin(1).view(2, 6))


@torch.inference_mode()
def test_only_the_first_generation_leaves_the_encoders_last_step_untransposed(filled):
    latents = {}
    for generation in ("first", "later"):
        network = filled(Network, SMALL[generation])
        seen = []
        network.encoder.ln_post.register_forward_hook(lambda _module, _given, out, seen=seen: seen.append(out))
        latents[generation] = network.latent(random(1, 3, 8, 8))
        h = seen[0].reshape(1, 32, 6) if generation == "first" else seen[0].transpose(1, 2)
        weight, bias = network.encoder.conv_out.weight.flatten(1), network.encoder.conv_out.bias
        torch.testing.assert_close(latents[generation].squeeze(2), weight @ h + bias[:, None])
    assert (latents["first"] - latents["later"]).abs().max() > 0.1  # the weights are the same


@torch.inference_mode()
@pytest.mark.parametrize("generation", ["first", "later"])
def test_a_picture_is_coded_alike_alone_and_in_a_batch(filled, coded_alike, generation):
    coded_alike(filled(Network, SMALL[generation]), random(3, 3, 8, 8, seed=2))


@torch.inference_mode()
@pytest.mark.parametrize("generation", list(SMALL))
def test_a_second_instance_decodes_from_the_codes_alone(filled, generation):
    network = filled(Network, SMALL[generation])
    codes = network.encode(random(2, 3, 8, 8, seed=3))
    received = Codes(indices=codes.indices, latent=codes.latent, codebook_sizes=codes.codebook_sizes)
    decoded = network.decode(codes)
    assert decoded.shape == (2, 3, 8, 8)
    assert torch.equal(filled(Network, SMALL[generation]).decode(received), decoded)


@torch.inference_mode()
def test_a_continuous_token_is_the_mean(filled):
    network = filled(Network, SMALL["continuous"])
    x = random(2, 3, 8, 8)
    codes = network.encode(x)
    assert codes.bits is None
    assert torch.equal(codes.latent, network.latent(x)[:, :4])


def test_a_patch_is_ordered_row_column_colour():
    x = torch.arange(2 * 12 * 2 * 3).view(2, 12, 2, 3)
    out = from_patches(x, 2)
    assert out.shape == (2, 3, 4, 6)
    for dy in range(2):
        for dx in range(2):
            assert torch.equal(out[:, :, dy::2, dx::2], x[:, 3 * (2 * dy + dx) : 3 * (2 * dy + dx) + 3])
    assert torch.equal(to_patches(out, 2), x)


def test_another_size_is_refused():
    card = cards.find_tokenizer("titok-l32").model_copy(update={"config": SMALL["later"].model_dump()})
    tokenizer = load_tokenizer(card, weights="synthetic", device="cpu")
    with pytest.raises(DataError, match="256x256 pixels only"):
        tokenizer.encode(torch.zeros(1, 3, 128, 128, dtype=torch.uint8))


def test_every_card_says_what_its_network_does():
    found = [card for card in cards.tokenizers().values() if card.network == "titok"]
    assert len(found) == 9
    for card in found:
        config = Config.model_validate(card.config)
        assert card.kind == ("discrete" if config.codebook_size else "continuous")
        assert card.code.codebook_sizes == ((config.codebook_size,) if config.codebook_size else ())
        assert card.code.latent_channels == config.token_channels
        assert card.code.tokens_at_256 == config.tokens
        assert card.input.sizes == (config.size,)
