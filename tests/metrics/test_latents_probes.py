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


@pytest.mark.parametrize(("scale", "turns"), probes.TRANSFORMS)
def test_a_decoder_that_copies_is_equivariant(photographs, scale, turns):
    pictures = photographs[:2, :, :64, :64]
    z = pictures.double()
    assert not probes.moved_rise(images.to_levels, pictures, pictures, z, distance, scale=scale, turns=turns).any()


@pytest.mark.parametrize("scale", [0.25, 0.5, 0.75])
def test_ties_of_a_scaled_picture_are_rounded_up(photographs, scale):
    """Every value is a whole number of 36ths, so a tie is known from whole numbers alone."""
    pictures = photographs[:, :, :64, :64]
    axis = {  # 6 times the weights of the pixels between which a position lies, and the first of these
        0.25: [(4 * i + 1, 3, 3) for i in range(16)],
        0.5: [(2 * i, 3, 3) for i in range(32)],
        0.75: [(4 * (i // 3) + i % 3, *((5, 1), (3, 3), (1, 5))[i % 3]) for i in range(48)],
    }[scale]
    first, *weights = (torch.tensor(one) for one in zip(*axis, strict=True))
    rows = sum(pictures.long()[:, :, first + k] * weights[k][:, None] for k in (0, 1))
    sixths = sum(rows[..., first + k] * weights[k] for k in (0, 1))
    wanted = (2 * sixths + 36) // 72
    assert (sixths % 36 == 18).any(), "no tie"
    assert (probes._moved_levels(pictures, scale, 0).long() == wanted).all()
    hwc = pictures[0].permute(1, 2, 0)
    assert (latents.se_levels(hwc, 90, scale).long() == torch.rot90(wanted[0], 1, (1, 2))).all()


@pytest.mark.parametrize(("scale", "turns"), probes.TRANSFORMS)
def test_a_tokenizer_is_less_so(tiny, scale, turns):
    decode, pictures, z = tiny
    assert (probes.moved_rise(decode, pictures, decode(z), z, distance, scale=scale, turns=turns) > 0).all()


def test_centred_tokens_forget_an_offset(tiny):
    z = tiny[2]
    at = {"height": 16, "width": 16}
    plain, moved = (latents.lds(probes.grid_tokens(x, center=True), **at) for x in (z, z + 9))
    assert plain.tolist() == pytest.approx(moved.tolist(), abs=1e-5)
    assert (latents.lds(probes.grid_tokens(z + 9, center=False), **at) < plain).all()
    with pytest.raises(DataError, match="multiples of 16"):
        probes.grid_tokens(z[..., :8, :8], center=True)
