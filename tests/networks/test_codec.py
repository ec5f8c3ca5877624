from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image, JpegImagePlugin
from pydantic import ValidationError

from vtbench import cards
from vtbench.errors import DataError
from vtbench.networks.codec import Config, Network

FORMATS = ("jpeg", "webp", "avif", "jxl")


def pictures(height: int = 72, width: int = 104) -> torch.Tensor:
    """Three different pictures with smooth parts, an edge and a little noise: uint8 (3, 3, H, W)."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    noise = torch.Generator().manual_seed(5)
    batch = []
    for phase in (0.0, 1.0, 2.0):
        disc = ((x - 0.5) ** 2 + (y - 0.4) ** 2 < 0.06).float()
        planes = torch.stack([0.5 + 0.4 * torch.sin(9 * x + phase), 0.5 + 0.4 * torch.cos(7 * y + x + phase), disc])
        batch.append(planes + 0.02 * torch.randn(planes.shape, generator=noise))
    return (torch.stack(batch).clamp(0, 1) * 255).round().byte()


def psnr(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(10 * torch.log10(255**2 / (first.double() - second.double()).square().mean()))


@pytest.mark.parametrize("format", FORMATS)
def test_a_code_is_a_whole_file_and_its_bits_are_the_files(format, tmp_path):
    codes = Network(Config(format=format, quality=50)).encode(pictures())
    assert len(codes.bitstream) == 3
    for index, stream in enumerate(codes.bitstream):
        path = tmp_path / f"{index}.{format}"
        path.write_bytes(stream)
        assert codes.bits[index] == 8 * path.stat().st_size
        with Image.open(path) as file:  # another program's view: size and format are in the file
            assert (file.size, file.format) == ((104, 72), format.upper())
    assert len(set(codes.bitstream)) == 3


@pytest.mark.parametrize("format", FORMATS)
def test_a_second_instance_decodes_the_same_bytes(format):
    x = pictures()
    first = Network(Config(format=format, quality=40))
    codes = first.encode(x)
    decoded = Network(Config(format=format, quality=40)).decode(codes)
    assert decoded.dtype == torch.uint8
    assert decoded.shape == x.shape
    assert torch.equal(decoded, first.decode(codes))
    # Each picture comes back at its own place, upright and in RGB order: closer to itself than to any other.
    for index in range(3):
        errors = [(decoded[index].float() - x[other].float()).abs().mean() for other in range(3)]
        assert min(range(3), key=errors.__getitem__) == index
        assert psnr(decoded[index], x[index]) > 22


@pytest.mark.parametrize("format", FORMATS)
def test_quality_orders_rate_and_psnr(format):
    x = pictures()
    bits, values = [], []
    for quality in (5, 30, 75, 95):
        network = Network(Config(format=format, quality=quality))
        codes = network.encode(x)
        bits.append(sum(codes.bits))
        values.append(psnr(network.decode(codes), x))
    assert bits == sorted(set(bits))
    assert values == sorted(set(values))


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_bytes_each_time_and_from_several_threads(format):
    x = pictures()
    network = Network(Config(format=format, quality=30))
    once = network.encode(x).bitstream
    with ThreadPoolExecutor(4) as pool:
        assert all(codes.bitstream == once for codes in pool.map(network.encode, [x] * 8))
        decoded = network.decode(network.encode(x))
        assert all(torch.equal(other, decoded) for other in pool.map(network.decode, [network.encode(x)] * 8))


@pytest.mark.parametrize("format", ["jpeg", "avif"])  # WebP's narrow range and JPEG XL's dither may be a level off
def test_black_stays_black_and_white_stays_white(format):
    x = torch.stack([torch.zeros(3, 16, 24), torch.full((3, 16, 24), 255.0)]).byte()
    network = Network(Config(format=format, quality=75))
    assert torch.equal(network.decode(network.encode(x)), x)


def test_jpeg_has_halved_chroma_and_its_own_tables():
    (stream, *_) = Network(Config(format="jpeg", quality=50)).encode(pictures()).bitstream
    with Image.open(io.BytesIO(stream)) as file:
        assert JpegImagePlugin.get_sampling(file) == 2  # 4:2:0
    plain = io.BytesIO()
    with Image.open(io.BytesIO(stream)) as file:
        file.save(plain, format="JPEG", quality="keep", optimize=False)
    assert len(stream) < len(plain.getvalue())


def test_a_network_has_no_tensors():
    assert Network(Config(format="webp", quality=50)).state_dict() == {}


def test_a_picture_too_large_for_the_format_is_refused_with_its_size():
    with pytest.raises(DataError, match=r"webp can't hold a picture of 16400x8 pixels"):
        Network(Config(format="webp", quality=5)).encode(torch.zeros(1, 3, 8, 16_400, dtype=torch.uint8))


def test_a_damaged_file_is_refused():
    network = Network(Config(format="jpeg", quality=50))
    codes = network.encode(pictures())
    damaged = type(codes)(bitstream=(codes.bitstream[0][:100],))
    with pytest.raises(DataError, match="jpeg file: not a readable picture"):
        network.decode(damaged)


@pytest.mark.parametrize("wrong", [{"format": "gif", "quality": 50}, {"format": "jpeg", "quality": 0}])
def test_a_config_outside_the_codec_is_refused(wrong):
    with pytest.raises(ValidationError):
        Config(**wrong)


def test_each_codec_has_cards_of_at_least_three_rates_and_an_alias_on_the_highest():
    found = {}
    for card in cards.tokenizers().values():
        if card.network == "codec":
            config = Config(**card.config)
            assert card.name == f"{config.format}-q{config.quality}"
            assert card.input.range == (0.0, 255.0)
            found.setdefault(config.format, []).append((config.quality, card.aliases))
    assert set(found) == set(FORMATS)
    for format, rates in found.items():
        assert len(rates) >= 3
        assert [aliases for _, aliases in sorted(rates)] == [()] * (len(rates) - 1) + [(format,)]
