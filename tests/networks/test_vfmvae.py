from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor, nn

from vtbench import cards, images
from vtbench.errors import CardError, DataError, WeightsError
from vtbench.networks.vfmvae import Config, Network, Vision
from vtbench.tokenizer import build_network
from vtbench.types import Codes
from vtbench.weights import load_state, read, synthetic_state

pytest.importorskip("transformers")

PARITY = Path(__file__).parent.parent / "parity"

# A shape that was never published: a fixture of the published code, small enough for every test run.
SMALL = Config(
    latent_channels=8,
    vision=Vision(width=128, hidden=512, layers=12, heads=2),
    features=(0, 6, -1),
    feature_channels=32,
    style_channels=64,
    widths=(64, 64, 64, 64, 64, 32),
    side_widths=(64, 32, 32, 32),
    depth=1,
)
TINY = Config(
    latent_channels=4,
    vision=Vision(width=32, hidden=48, layers=2, heads=2, image_size=128),
    features=(0, 1, -1),
    feature_channels=8,
    style_channels=16,
    widths=(16, 16, 16, 16, 16, 16),
    side_widths=(64, 8, 8, 8),
    depth=1,
)

# The fixtures' weights are `synthetic_state` times these. Factors that the network applies at run time (0.01, one over
# the root of the inputs) would otherwise leave every style near zero and let a wrong one pass.
GAINS = (
    (r"^mapping\.mlp\.fc\d\.weight$", 2000.0),
    (r"^mapping\.mlp\.fc\d\.bias$", 100.0),
    (r"\.affine(_pw1)?\.proj\.weight$", 8.0),
    (r"\.affine(_pw1)?\.proj\.bias$", 10.0),
    (r"\.torgb\.weight$", 4.0),
    (r"\.(conv0|convs1\.\d+)\.gamma$", 5.0),
)


def tempered(network: nn.Module) -> nn.Module:
    state = synthetic_state(network)
    for name, tensor in state.items():
        for pattern, gain in GAINS:
            if re.search(pattern, name):
                tensor *= gain
    load_state(network, state)
    return network.eval()


@pytest.fixture(scope="module")
def tiny() -> nn.Module:
    """In float64, where a batch and its single pictures can be compared closely."""
    return tempered(Network(TINY)).double()


@pytest.fixture(scope="module")
def small() -> nn.Module:
    return tempered(Network(SMALL))


@pytest.fixture
def picture() -> Tensor:
    torch.set_num_threads(1)
    with Image.open(PARITY / "picture.png") as file:
        return images.to_float(images.from_pil(file)[None], (0.0, 1.0))


@torch.inference_mode()
def hold(network: nn.Module, x: Tensor, fixture: str, atol: float) -> None:
    golden = {name: torch.from_numpy(array) for name, array in np.load(PARITY / f"{fixture}.npz").items()}
    latent = network.encode(x).latent
    torch.testing.assert_close(latent.flatten(), golden["latent"], rtol=0, atol=2e-5)
    decoded = network.decode(Codes(latent=golden["latent"].view(latent.shape)))
    assert decoded.shape == x.shape
    strided = decoded.flatten()[:: golden["reconstruction_step"]]
    torch.testing.assert_close(strided, golden["reconstruction"], rtol=0, atol=atol)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# The reduced network's pictures reach from -20 to 30, so that float32 noise of the published code against float64 is
# 1e-4. Left-out noise maps move them by more than 1, an epsilon of 1e-6 in the upsampling units alone by 4e-4.
def test_a_reduced_network_agrees_with_the_published_implementation(small, picture):
    hold(small, picture, "vfm-vae-small", 2e-4)


def test_another_size_agrees_with_the_published_implementation(small, picture):
    hold(small, picture[:, :, 32:224, 64:256], "vfm-vae-small-192", 2e-4)


@pytest.mark.parity
def test_the_published_variant_agrees_with_the_published_implementation(picture):
    hold(tempered(build_network(cards.find_tokenizer("vfm-vae"))), picture, "vfm-vae-f16d32", 5e-5)


@torch.inference_mode()
def test_the_code_is_the_posteriors_mean(tiny):
    x = noise(1, 3, 64, 64)
    codes = tiny.encode(x)
    assert codes.latent.shape == (1, 4, 4, 4)
    assert torch.equal(codes.latent, tiny.latent(x)[:, :4])
    assert not torch.equal(codes.latent, tiny.latent(x)[:, 4:])
    assert codes.indices == ()
    assert codes.bits is None


@torch.inference_mode()
def test_a_second_instance_decodes_the_latent_alone(tiny):
    codes = tiny.encode(noise(1, 3, 64, 64, seed=1))
    second = tempered(Network(TINY)).double()
    assert torch.equal(second.decode(Codes(latent=codes.latent)), tiny.decode(codes))


@torch.inference_mode()
def test_a_picture_is_coded_alike_alone_and_in_a_batch(tiny):
    x = noise(2, 3, 64, 64, seed=2)
    codes = tiny.encode(x)
    decoded = tiny.decode(codes)
    for index in range(2):
        alone = tiny.encode(x[index : index + 1])
        torch.testing.assert_close(alone.latent[0], codes.latent[index], rtol=0, atol=1e-12)
        torch.testing.assert_close(tiny.decode(alone)[0], decoded[index], rtol=0, atol=1e-9)
    assert (decoded[0] - decoded[1]).abs().max() > 0.1


@torch.inference_mode()
@pytest.mark.parametrize("size", [(64, 192), (192, 128)])
def test_a_rectangle_keeps_its_sides(tiny, size):
    codes = tiny.encode(noise(1, 3, *size))
    assert codes.latent.shape == (1, 4, size[0] // 16, size[1] // 16)
    assert tiny.decode(codes).shape == (1, 3, *size)


def test_codes_without_a_latent_are_refused(tiny):
    with pytest.raises(DataError, match="hold no latent"):
        tiny.decode(Codes())


def test_features_must_be_layers_of_the_vision_model():
    with pytest.raises(ValidationError, match="at most the number of layers, 24"):
        Config(latent_channels=32, features=(0, 25))


def test_without_transformers_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(CardError, match=r"transformers .*vtbench\[vfm\]"):
        Network(TINY)


@pytest.mark.parametrize("nested", ["", "vision_model."])
def test_the_vision_models_names_are_those_of_the_checkpoint_however_transformers_nests_it(nested):
    published = "vfm_encoder.encoder.vision_model.vision_model.encoder.layers.0.mlp.fc1.weight"
    assert Network.published_name(f"vision.{nested}encoder.layers.0.mlp.fc1.weight") == published
    assert Network.published_name("synthesis.z_convs.0.1.0.weight") == "synthesis.z_convs.0.1.0.weight"


def test_constants_of_a_checkpoint_are_checked(tiny):
    constants = {
        "synthesis.blocks.1.seperate_upsample_conv.blur_weight": torch.tensor(
            [[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]
        ).repeat(16, 1, 1, 1)
        / 16,
        "ldm_adapter.post_quant.blocks.0.attn.zero_k_bias": torch.zeros(64),
    }
    state = synthetic_state(tiny)
    assert not constants.keys() & state.keys()
    network = Network(TINY)
    load_state(network, state | constants)
    for name, tensor in constants.items():
        with pytest.raises(WeightsError, match=f"another constant.*{name}"):
            load_state(network, state | {name: tensor + 0.01})


def test_a_training_snapshot_loads_its_average(tiny, tmp_path):
    source = cards.find_tokenizer("vfm-vae").weights
    state = synthetic_state(tiny)
    unused = {prefix.removesuffix(".") + ".weight": torch.ones(2) for prefix in source.drop}
    path = tmp_path / "snapshot.pth"
    plain = {name: tensor + 1 for name, tensor in state.items()}
    torch.save({"G": plain, "D": unused, "G_ema": state | unused, "training_set_kwargs": {"resolution": 256}}, path)
    network = Network(TINY)
    load_state(network, read(path, source))
    assert torch.equal(network.mapping.mlp["fc0"].weight, state["mapping.mlp.fc0.weight"])


def test_the_card_says_what_its_network_does():
    card = cards.find_tokenizer("vfm-vae")
    assert [found.name for found in cards.tokenizers().values() if found.network == "vfmvae"] == [card.name]
    config = Config(**card.config)
    assert card.code.latent_channels == config.latent_channels
    assert card.code.tokens_at_256 == (256 // card.code.downsampling) ** 2
    assert card.input.range == (0.0, 1.0)
    assert card.input.multiple_of == 4 * card.code.downsampling  # block 0 takes 4x4 positions of the latent as one
