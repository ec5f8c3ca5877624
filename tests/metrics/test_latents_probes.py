"""The probes on the packaged tiny-fsq-f8: its own decoder, moved latents, noise that belongs to a picture."""

from itertools import pairwise

import pytest
import torch

from vtbench import images, load_tokenizer
from vtbench.errors import DataError
from vtbench.metrics import latents
from vtbench.metrics.latents import probes

NAMES = ("a", "b", "c", "d")


def distance(first, second):
    return (first.double() - second.double()).abs().mean((1, 2, 3))


@pytest.fixture(scope="module")
def tiny(photographs):
    network = load_tokenizer("tiny-fsq-f8", device="cpu").network

    @torch.inference_mode()
    def decode(z):
        return images.to_uint8(network.pixels(z))

    with torch.inference_mode():
        small = photographs[:, :, 64:192, 64:192]
        return decode, small, network.quantizer(network.latent(images.to_float(small)))


def test_lpc_belongs_to_the_picture_and_not_to_the_batch(tiny):
    decode, _, z = tiny
    whole = probes.lpc(decode, z, NAMES, distance)
    single = [float(probes.lpc(decode, z[i : i + 1], NAMES[i : i + 1], distance)) for i in (3, 1)]
    assert single == pytest.approx([float(whole[3]), float(whole[1])], abs=1e-2)
    assert not torch.equal(probes.lpc(decode, z, NAMES[::-1], distance), whole)


def test_more_noise_raises_lpc(tiny):
    decode, _, z = tiny
    values = [probes.lpc(decode, z, NAMES, distance, rhos=(rho,)) for rho in probes.RHOS]
    assert all((low < high).all() for low, high in pairwise(values))


def test_a_decoder_that_copies_is_equivariant(photographs):
    pictures = photographs[:2, :, :64, :64]
    found = probes.equivariance(images.to_uint8, pictures, images.to_float(pictures), distance)
    assert list(found) == list(probes.TRANSFORMS)
    assert all(float(value.abs().max()) < 0.01 for value in found.values())


def test_a_tokenizer_is_less_so(tiny):
    decode, pictures, z = tiny
    found = probes.equivariance(decode, pictures, z, distance)
    assert all((value > 0).all() for value in found.values())


def test_centred_tokens_forget_an_offset(tiny):
    z = tiny[2]
    at = {"height": 16, "width": 16}
    plain, moved = (latents.lds(probes.grid_tokens(x, center=True), **at) for x in (z, z + 9))
    assert plain.tolist() == pytest.approx(moved.tolist(), abs=1e-5)
    assert (latents.lds(probes.grid_tokens(z + 9, center=False), **at) < plain).all()
    with pytest.raises(DataError, match="multiples of 16"):
        probes.grid_tokens(z[..., :8, :8], center=True)


def test_the_least_certain_digit_crosses_its_nearest_boundary():
    bounded = torch.tensor([[0.1, 2.9, -0.45], [0.7, 0.45, 0.9]]).view(1, 2, 3, 1)  # three positions of two channels
    changed = probes.flip_least_certain(bounded, (4, 2), torch.tensor([0.2, 0.4, 0.6]).view(1, 3, 1), 0.5)
    assert changed[0, :, :, 0].tolist() == [[0, 3, 0], [0, 1, 1]]
    # Below the lowest level there is none: the last position's first digit is certain, its second is not.
    everywhere = probes.flip_least_certain(bounded, (4, 2), torch.zeros(1, 3, 1), 1.0)
    assert everywhere[0, :, :, 0].tolist() == [[0, 3, 0], [0, 1, 0]]
    with pytest.raises(DataError, match="outside their levels"):
        probes.flip_least_certain(bounded + 3, (4, 2), torch.zeros(1, 3, 1), 1.0)


def test_more_changed_tokens_are_farther_off(tiny):
    network = load_tokenizer("tiny-fsq-f8", device="cpu").network
    decode, pictures, _ = tiny
    half = (network.quantizer.levels // 2).view(1, -1, 1, 1)
    with torch.inference_mode():
        bounded = network.quantizer.bound(network.latent(images.to_float(pictures))) + half
    coin = torch.rand(4, 16, 16, generator=torch.Generator().manual_seed(0))
    levels = network.quantizer.levels.tolist()
    made = [(probes.flip_least_certain(bounded, levels, coin, a) - half) / half for a in (0.0, 0.25, 0.5, 0.9)]
    plain = decode(made[0])
    assert torch.equal(made[0], tiny[2])
    rises = [distance(decode(z.float()), plain) for z in made]
    assert all((low < high).all() for low, high in pairwise(rises))
