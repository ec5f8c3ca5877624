from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as tv
from torchvision.transforms.v2 import functional as tv2

from vtbench import images
from vtbench.errors import DataError

LEVELS = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(1, 3, 16, 16)


@pytest.mark.parametrize("span", [(-1.0, 1.0), (0.0, 1.0), (0.0, 255.0), ((-2.1, -2.0, -1.8), (2.2, 2.4, 2.6))])
def test_all_256_levels_survive_the_way_there_and_back(span: images.Range) -> None:
    assert torch.equal(images.to_uint8(images.to_float(LEVELS, span), span), LEVELS)


def test_levels_equal_float64_arithmetic_rounded_once() -> None:
    values = np.arange(256) / 127.5 - 1.0
    found = images.to_float(LEVELS)[0, 0].flatten().numpy()
    assert np.array_equal(found, values.astype(np.float32))


def test_normalised_range_is_that_of_torchvision() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    found = images.to_float(LEVELS, images.value_range(0.0, 1.0, mean, std))
    expected = tv.normalize(LEVELS.float() / 255, list(mean), list(std))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)  # float32 arithmetic in torchvision


def test_rounding_is_half_up_and_clamped() -> None:
    values = torch.tensor([-3.0, 0.49999, 0.5, 1.5, 2.5, 254.5, 300.0]).reshape(1, 1, 1, 7).expand(1, 3, 1, 7)
    assert images.to_uint8(values, (0.0, 255.0))[0, 0, 0].tolist() == [0, 0, 1, 2, 3, 255, 255]


def test_low_precision_output_is_rounded_from_its_own_value() -> None:
    value = torch.full((1, 3, 1, 1), 0.30078125, dtype=torch.bfloat16)
    assert images.to_uint8(value)[0, 0, 0, 0].item() == 166  # (0.30078125 + 1) * 127.5 = 165.85


@pytest.mark.parametrize(("height", "width", "multiple"), [(37, 250, 16), (16, 32, 16), (1, 1, 8)])
def test_padding_comes_off_again(height: int, width: int, multiple: int) -> None:
    x = torch.rand(2, 3, height, width)
    padded = images.pad_to_multiple(x, multiple)
    assert padded.shape[-2] % multiple == 0
    assert padded.shape[-1] % multiple == 0
    assert torch.equal(images.crop_to(padded, (height, width)), x)
    assert torch.equal(padded[..., -1, -1], x[..., -1, -1])


@pytest.mark.parametrize("shape", [(500, 375), (375, 500), (257, 256), (256, 259), (100, 61), (301, 640)])
def test_geometry_is_that_of_torchvision(shape: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    picture = Image.fromarray(generator.integers(0, 256, (shape[1], shape[0], 3), dtype=np.uint8))
    resized = tv2.resize(picture, [256], interpolation=tv2.InterpolationMode.LANCZOS)
    expected = tv2.center_crop(resized, [256, 256])
    assert np.array_equal(np.asarray(images.resize_and_crop(picture, 256)), np.asarray(expected))


def test_picture_of_the_right_size_is_untouched() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8))
    assert images.resize_and_crop(picture, 256) is picture


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, kind, **options)
    return sink.getvalue()


def test_alpha_is_laid_over_white() -> None:
    half = Image.new("RGBA", (2, 1), (0, 0, 0, 128))
    assert images.read(encoded(half, "PNG")).getpixel((0, 0)) == (127, 127, 127)


def test_exif_orientation_is_applied() -> None:
    picture = Image.new("RGB", (8, 4), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    assert images.read(encoded(picture, "JPEG", exif=exif)).size == (4, 8)


@pytest.mark.parametrize("content", [b"", b"not a picture", encoded(Image.new("RGB", (64, 64)), "PNG")[:60]])
def test_broken_file_is_one_line_with_its_name(content: bytes) -> None:
    with pytest.raises(DataError, match=r"^cat\.png: not a readable picture \([^\n]+\)$"):
        images.read(content, "cat.png")
