from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import PIL
import pytest
import tifffile
import torch
from PIL import Image, PngImagePlugin
from torchvision.transforms import functional as tv
from torchvision.transforms.v2 import functional as tv2

from vtbench import geometry, images, pictures
from vtbench.errors import DataError
from vtbench.protocols import GEOMETRIES, Geometry

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
    assert np.array_equal(np.asarray(geometry.resize_and_crop(picture, 256)), np.asarray(expected))


def test_picture_of_the_right_size_is_untouched() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8))
    assert geometry.resize_and_crop(picture, 256) is picture


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, kind, **options)
    return sink.getvalue()


def test_alpha_is_laid_over_white() -> None:
    half = Image.new("RGBA", (2, 1), (0, 0, 0, 128))
    assert pictures.read(encoded(half, "PNG")).getpixel((0, 0)) == (127, 127, 127)


def test_exif_orientation_is_applied() -> None:
    picture = Image.new("RGB", (8, 4), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    assert pictures.read(encoded(picture, "JPEG", exif=exif)).size == (4, 8)


@pytest.mark.parametrize("content", [b"", b"not a picture", encoded(Image.new("RGB", (64, 64)), "PNG")[:60]])
def test_broken_file_is_one_line_with_its_name(content: bytes) -> None:
    with pytest.raises(DataError, match=r"^cat\.png: not a readable picture \([^\n]+\)$"):
        pictures.read(content, "cat.png")


# --- what `read` makes of files ---------------------------------------------------------------------------------------


def levels(picture: Image.Image, kind: str = "PNG", **options: object) -> np.ndarray:
    return np.asarray(pictures.read(encoded(picture, kind, **options)))


RAMP = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)


def test_sixteen_bit_greys_are_divided_by_257_and_rounded() -> None:
    values = np.array([[0, 128, 129, 257, 385, 386, 32896, 65406, 65407, 65535]], dtype=np.uint16)
    expected = np.floor(values / 257.0 + 0.5)
    assert expected[0].tolist() == [0, 0, 1, 1, 1, 2, 128, 254, 255, 255]
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(levels(Image.fromarray(values), kind), np.repeat(expected[..., None], 3, -1))
    pgm = b"P5 10 1 65535\n" + values.astype(">u2").tobytes()
    assert np.array_equal(np.asarray(pictures.read(pgm))[..., 0], expected)
    assert np.array_equal(levels(Image.fromarray(RAMP))[..., 1].flatten(), np.arange(256))


def tiff(data: bytes, width: int, bits: int, photometric: int = 1, planes: int = 1) -> bytes:
    """One uncompressed row of greys; Pillow writes neither 12 bits, nor 16 with 0 as white, nor separate planes."""
    tags = {
        256: width,
        257: 1,
        258: bits,
        259: 1,
        262: photometric,
        273: 8,
        277: 1,
        278: 1,
        279: len(data),
        284: planes,
    }
    entries = b"".join(struct.pack("<HHIHxx", tag, 3, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_greys_of_tiff_run_from_its_black_to_its_white() -> None:
    twelve = tiff(bytes.fromhex("000800fff010"), 4, 12)
    assert np.asarray(pictures.read(twelve))[0, :, 0].tolist() == [0, 128, 255, 1]
    inverted = tiff(struct.pack("<4H", 0, 257, 128, 65535), 4, 16, photometric=0)
    assert np.asarray(pictures.read(inverted))[0, :, 0].tolist() == [255, 254, 255, 0]


def test_sixteen_bit_colour_keeps_its_high_byte() -> None:
    ppm = b"P6 1 1 65535\n" + np.array([0x01FF, 0x80FF, 0xFFFF], dtype=">u2").tobytes()
    assert abs(np.asarray(pictures.read(ppm)).flatten().astype(int) - [1, 128, 255]).max() <= 1


@pytest.mark.parametrize("values", [np.full((2, 2), 70000, np.int32), np.full((2, 2), 0.5, np.float32)])
def test_32_bits_without_a_white_level_are_refused(values: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"state no white level"):
        pictures.read(encoded(Image.fromarray(values), "TIFF"))


def test_signed_bytes_are_refused() -> None:
    tifffile.imwrite(sink := io.BytesIO(), np.arange(-8, 8, dtype=np.int8).reshape(4, 4), photometric="minisblack")
    with pytest.raises(DataError, match=r"signed pixels state no white level"):
        pictures.read(sink.getvalue())


def test_greys_under_associated_alpha_are_laid_over_white() -> None:
    values = np.array([[[100, 255], [50, 128], [0, 0]]], np.uint8)
    options = {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": ["assocalpha"]}
    tifffile.imwrite(sink := io.BytesIO(), values, **options)
    found = np.asarray(pictures.read(sink.getvalue()))[0].astype(int)
    assert np.abs(found - np.array([[100], [50 + 127], [255]])).max() <= 1


def test_transparency_of_every_kind_is_laid_over_white() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([200, 10, 10, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    assert levels(palette, transparency=0)[0].tolist() == [[255, 255, 255], [0, 0, 255]]
    assert levels(palette, transparency=bytes([51, 255]))[0].tolist() == [[244, 206, 206], [0, 0, 255]]
    grey = Image.fromarray(np.array([[[100, 0], [100, 255]]], np.uint8), "LA")
    assert levels(grey)[0, :, 0].tolist() == [255, 100]
    assert levels(Image.new("L", (1, 1), 7), transparency=7)[0, 0].tolist() == [255] * 3
    assert levels(Image.new("RGB", (1, 1), (1, 2, 3)), transparency=(1, 2, 3))[0, 0].tolist() == [255] * 3
    assert levels(Image.fromarray(np.array([[7, 65535]], np.uint16)), transparency=7)[0, :, 0].tolist() == [255, 255]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(bits: int, colour: int, row: bytes, clear: bytes) -> bytes:
    """One row of two pixels and a colour that is declared transparent; Pillow writes no greys of 2 or 4 bits."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, bits, colour, 0, 0, 0)) + chunk(b"tRNS", clear)
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (png(1, 0, b"\x40", b"\0\0"), [255, 255]),
        (png(2, 0, b"\x10", b"\0\0"), [255, 85]),
        (png(2, 0, b"\x10", b"\0\1"), [0, 255]),
        (png(4, 0, b"\x3a", b"\0\3"), [255, 170]),
        (png(8, 0, b"\7\x09", b"\0\7"), [255, 9]),
        (png(16, 2, bytes(6) + b"\x12\0" * 3, b"\x12\0" * 3), [0, 255]),
    ],
)
def test_png_colour_declared_transparent_is_that_of_the_file_at_every_depth(
    content: bytes, expected: list[int]
) -> None:
    assert np.asarray(pictures.read(content))[0, :, 0].tolist() == expected


@pytest.mark.skipif(int(PIL.__version__.partition(".")[0]) < 12, reason="Pillow 11.3 refuses such files")
def test_palette_that_holds_its_own_alpha_is_laid_over_white() -> None:
    head = bytes([0, 1, 1, 0, 0, 2, 0, 32]) + struct.pack("<HHHHBB", 0, 0, 2, 1, 8, 8)
    tga = head + bytes([1, 2, 3, 0, 4, 5, 6, 255]) + b"\0\1"
    assert np.asarray(pictures.read(tga))[0].tolist() == [[255, 255, 255], [6, 5, 4]]


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_modes_of_few_colours_become_rgb(mode: str) -> None:
    picture = pictures.read(encoded(Image.new("RGB", (2, 2), (255, 255, 255)).convert(mode), "PNG"))
    assert picture.mode == "RGB"
    assert picture.getpixel((0, 0)) == (255, 255, 255)


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("#ff0000", "#00ff00")]
    for kind in ("GIF", "PNG", "WEBP"):
        content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=10, lossless=True)
        assert pictures.read(content).getpixel((0, 0)) == (255, 0, 0), kind


def test_animated_jpeg_xl_is_refused() -> None:
    red_then_green = (
        "ff0a41044d002026080401003c004b188b15805dd4ff00223053aa893f080405003c004b188b15805dd4ff000e03abaa893f"
    )
    with pytest.raises(DataError, match=r"^a: .*animated JPEG XL"):
        pictures.read(bytes.fromhex(red_then_green), "a")


@pytest.mark.parametrize("turn", range(1, 9))
def test_every_exif_orientation_is_undone(turn: int) -> None:
    from PIL import ImageOps

    upright = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(2, 4, 3))
    backwards = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}  # the turn that undoes it
    exif = Image.Exif()
    exif[0x0112] = backwards[turn]
    upright.getexif()[0x0112] = backwards[turn]
    stored = ImageOps.exif_transpose(upright)
    exif[0x0112] = turn
    assert np.array_equal(levels(stored, "PNG", exif=exif), np.asarray(upright))


def test_jpeg_xl_is_turned_by_its_codestream_alone() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert pictures.read(encoded(Image.new("RGB", (8, 4), "red"), "JXL", exif=exif.tobytes())).size == (8, 4)


def test_jpeg_recompressed_as_jpeg_xl_is_turned_as_the_jpeg_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a.jpg").write_bytes(encoded(Image.new("RGB", (64, 32), "red"), "JPEG", exif=exif))
    with Image.open(tmp_path / "a.jpg") as jpeg:
        assert pictures.read(encoded(jpeg, "JXL", lossless_jpeg=True)).size == (32, 64)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_that_of_exif_alone(kind: str) -> None:
    said = b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    options: dict[str, object] = {"xmp": said}
    if kind == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", said.decode())
        options = {"pnginfo": text}
    if kind == "TIFF":
        options = {"tiffinfo": {700: said}}
    exif = Image.Exif()
    exif[0x0112] = 3
    picture = Image.new("RGB", (8, 4), "red")
    assert pictures.read(encoded(picture, kind, **options)).size == (8, 4)
    assert pictures.read(encoded(picture, kind, exif=exif, **options)).size == (8, 4)
    exif = Image.Exif()
    exif[0x010F] = "maker"
    assert pictures.read(encoded(picture, kind, exif=exif, **options)).size == (8, 4)
    exif[0x0112] = 6
    turned: dict[str, object] = {"tiffinfo": {700: said, 0x0112: 6}} if kind == "TIFF" else {"exif": exif, **options}
    assert pictures.read(encoded(picture, kind, **turned)).size == (4, 8)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's, where it says the same
def test_damaged_exif_is_passed_over() -> None:
    content = encoded(Image.new("RGB", (8, 4), "red"), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff broken")
    assert pictures.read(content).size == (8, 4)


# --- embedded profiles ------------------------------------------------------------------------------------------------


def profile(
    red: tuple[float, float], green: tuple[float, float], blue: tuple[float, float], gamma: float | None
) -> bytes:
    """A small ICC v4 matrix profile, D65 white, written by hand: Pillow makes none but sRGB."""

    def fixed(value: float) -> bytes:
        return round(value * 65536).to_bytes(4, "big", signed=True)

    # Columns of RGB to XYZ (D65), then Bradford's adaptation to D50.
    corners = np.array([[x / y, 1, (1 - x - y) / y] for x, y in (red, green, blue)]).T
    white = np.array([0.95047, 1.0, 1.08883])
    matrix = corners * np.linalg.solve(corners, white)
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    d50 = np.array([0.96422, 1.0, 0.82521])
    adapted = np.linalg.inv(bradford) @ np.diag((bradford @ d50) / (bradford @ white)) @ bradford @ matrix
    xyz = [b"XYZ \0\0\0\0" + b"".join(fixed(value) for value in column) for column in (*adapted.T, d50)]
    text = "test".encode("utf-16-be")
    named = b"mluc\0\0\0\0" + (1).to_bytes(4, "big") + (12).to_bytes(4, "big") + b"enUS"
    named += len(text).to_bytes(4, "big") + (28).to_bytes(4, "big") + text
    curve = b"para\0\0\0\0\0\0\0\0" + fixed(gamma or 1)
    if gamma is None:  # sRGB's own
        terms = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
        curve = b"para\0\0\0\0\0\3\0\0" + b"".join(fixed(term) for term in terms)
    tags = [(b"desc", named), (b"cprt", named), *zip((b"rXYZ", b"gXYZ", b"bXYZ", b"wtpt"), xyz, strict=True)]
    tags += [(name, curve) for name in (b"rTRC", b"gTRC", b"bTRC")]
    table, body, place = len(tags).to_bytes(4, "big"), b"", 128 + 4 + 12 * len(tags)
    for name, data in tags:
        data += bytes(-len(data) % 4)
        table += name + (place + len(body)).to_bytes(4, "big") + len(data).to_bytes(4, "big")
        body += data
    head = b"\0\0\0\0lcms\x04\x30\0\0mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(24) + bytes(4)
    head += b"".join(fixed(value) for value in d50) + bytes(48)
    whole = head[:128] + table + body
    return len(whole).to_bytes(4, "big") + whole[4:]


WIDE = profile((0.64, 0.33), (0.21, 0.71), (0.15, 0.06), 2.2)  # Adobe RGB (1998)


def adobe_to_srgb(values: np.ndarray) -> np.ndarray:
    """The published matrices of Adobe RGB (1998) and sRGB, without LittleCMS."""
    adobe = np.array([[0.57667, 0.18556, 0.18823], [0.29734, 0.62736, 0.07529], [0.02703, 0.07069, 0.99134]])
    srgb = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])
    linear = np.clip(((values / 255) ** 2.2) @ adobe.T @ srgb.T, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def test_embedded_profile_is_turned_to_srgb() -> None:
    values = np.random.default_rng(0).integers(60, 200, (8, 8, 3), dtype=np.uint8)  # within sRGB's gamut, mostly
    found = levels(Image.fromarray(values), icc_profile=WIDE)
    expected = adobe_to_srgb(values.astype(float))
    inside = (expected > 1).all(-1) & (expected < 254).all(-1)
    assert inside.sum() > 40
    assert np.abs(found - expected)[inside].max() <= 1.5  # LittleCMS works in 8 and 16 bits
    assert np.abs(found.astype(int) - values)[inside].max() > 8


def test_alpha_and_profile_go_together() -> None:
    values = np.full((1, 2, 4), (200, 80, 80, 255), dtype=np.uint8)
    values[0, 1, 3] = 0
    found = levels(Image.fromarray(values), icc_profile=WIDE)
    assert np.abs(found[0, 0] - adobe_to_srgb(np.array([200.0, 80, 80]))).max() <= 1.5
    assert found[0, 1].tolist() == [255, 255, 255]


def test_pixels_under_srgb_itself_stay_as_they_are() -> None:
    from PIL import ImageCms

    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    values = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert np.array_equal(levels(Image.fromarray(values), icc_profile=srgb), values)
    # Another maker's sRGB: LittleCMS alone would move some pixels by a level.
    rounded = profile((0.6404, 0.33), (0.3, 0.6), (0.15, 0.06), None)
    way = ImageCms.profileToProfile(Image.fromarray(values), io.BytesIO(rounded), io.BytesIO(srgb))
    assert 0 < np.abs(np.asarray(way).astype(int) - values).max() <= 1
    assert np.array_equal(levels(Image.fromarray(values), icc_profile=rounded), values)


@pytest.mark.parametrize("broken", [b"not a profile", WIDE[:200], WIDE[:16] + b"CMYK" + WIDE[20:]])
def test_damaged_profile_and_one_of_another_space_are_passed_over(broken: bytes) -> None:
    values = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert np.array_equal(levels(Image.fromarray(values), icc_profile=broken), values)


def test_grey_picture_may_carry_a_colour_profile() -> None:
    found = levels(Image.new("L", (2, 2), 20), icc_profile=WIDE)
    assert np.abs(found[0, 0] - adobe_to_srgb(np.array([20.0] * 3))).max() <= 1.5
    assert abs(int(found[0, 0, 0]) - 20) > 3


def test_cmyk_without_a_profile_follows_pillow() -> None:
    picture = Image.new("CMYK", (2, 2), (10, 200, 100, 30))
    assert levels(picture, "TIFF")[0, 0].tolist() == [216, 49, 137]
    assert np.abs(levels(picture, "JPEG", quality=100)[0, 0].astype(int) - [216, 49, 137]).max() <= 4  # JPEG's own loss


def test_pictures_without_pixels_or_with_far_too_many_are_refused() -> None:
    with pytest.raises(DataError, match=r"^a\.ppm: "):
        pictures.read(b"P6 0 4 255\n", "a.ppm")
    with pytest.raises(DataError, match=r"^b\.ppm: .*pixels"):
        pictures.read(b"P6 20000 20000 255\n" + bytes(100), "b.ppm")


def boxes(*parts: tuple[bytes, bytes]) -> bytes:
    head = (b"JXL ", b"\r\n\x87\n"), (b"ftyp", b"jxl \0\0\0\0jxl ")
    return b"".join(struct.pack(">I", 8 + len(data)) + kind + data for kind, data in (*head, *parts))


def test_jpeg_xl_with_far_too_many_pixels_is_refused_before_it_is_decoded() -> None:
    """pillow_jxl decodes while Pillow opens, so its own bound comes too late."""
    fields = 0b0 | 2 << 1 | 29_999 << 3 | 1 << 21  # not small; 18 bits of height less 1; as wide as high
    bomb = b"\xff\x0a" + fields.to_bytes(3, "little")
    exif = (b"Exif", bytes(100))
    split = boxes((b"jxlp", bytes(4) + bomb[:1]), exif, (b"jxlp", b"\0\0\0\1" + bomb[1:]))
    for content in (bomb, boxes(exif, (b"jxlc", bomb)), split):
        with pytest.raises(DataError, match=r"^a\.jxl: 30000x30000 pixels, more than"):
            pictures.read(content, "a.jxl")


@pytest.mark.parametrize("size", [(8, 8), (40, 24), (256, 256), (301, 1), (1, 5000), (12, 10), (35, 20), (300, 200)])
def test_jpeg_xl_says_its_size_before_it_is_decoded(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    for boxed in (False, True):
        content = encoded(Image.new("RGB", size), "JXL", use_container=boxed)
        assert pictures.read(content).size == size
        with monkeypatch.context() as patch, pytest.raises(DataError, match=f"^a: {size[0]}x{size[1]} pixels"):
            patch.setattr(pictures, "MAX_PIXELS", 0)
            pictures.read(content[:-1], "a")  # it can't be decoded


def test_other_formats_stay_closed() -> None:
    """Pillow would start a program to draw EPS."""
    content = encoded(Image.new("RGB", (8, 8)), "EPS")
    with pytest.raises(DataError, match="PostScript program"):
        pictures.read(content, "harmless.png")


@pytest.mark.filterwarnings("ignore")  # Pillow warns of much that it then reads
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "JXL", "JPEG2000", "PPM", "TGA"])
def test_damaged_bytes_end_in_a_picture_or_in_one_line(kind: str) -> None:
    generator = np.random.default_rng(0)
    whole = encoded(Image.fromarray(generator.integers(0, 256, (24, 24, 3), dtype=np.uint8)), kind)
    for _ in range(40):
        damaged = bytearray(whole)
        for place in generator.integers(0, len(damaged), 3):
            damaged[place] = generator.integers(0, 256)
        try:
            assert pictures.read(bytes(damaged[: generator.integers(1, len(damaged))]), "x").mode == "RGB"
        except DataError as error:
            assert "\n" not in str(error)


def test_adm_halves_large_pictures_before_it_resizes() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1100, 1300, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    halved = pixels.reshape(550, 2, 650, 2, 3).mean((1, 3)).reshape(275, 2, 325, 2, 3).mean((1, 3))
    found = geometry.fit(picture, "adm", 256).permute(1, 2, 0).numpy().astype(float)
    again = Image.fromarray(np.floor(halved + 0.5).astype(np.uint8)).resize((303, 256), Image.Resampling.BICUBIC)
    wanted = np.asarray(again.crop((23, 0, 279, 256))).astype(float)
    assert np.abs(found - wanted).max() <= 4  # Pillow rounds to levels after each halving
    straight = np.asarray(picture.resize((303, 256), Image.Resampling.BICUBIC).crop((23, 0, 279, 256))).astype(float)
    assert np.abs(found - straight).mean() > 3


@pytest.mark.parametrize("rule", [name for name in GEOMETRIES if name != "native-padded"])
@pytest.mark.parametrize("shape", [(300, 301), (301, 300), (256, 256), (700, 256), (90, 120)])
def test_every_geometry_gives_the_size_that_was_asked(rule: Geometry, shape: tuple[int, int]) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))
    found = geometry.fit(picture, rule, 256)
    assert found.shape == (3, 256, 256)
    if shape == (256, 256) and rule != "tensor-bilinear":
        assert torch.equal(found, images.from_pil(picture)), "a picture of the right size was changed"


def test_native_padding_is_black_and_half_of_it_before() -> None:
    picture = Image.fromarray(np.full((33, 47, 3), 200, dtype=np.uint8))
    found = geometry.fit(picture, "native-padded", 256)
    assert found.shape == (3, 48, 48)
    left, top = geometry.padded_window(47, 33)
    assert (left, top) == (0, 7)
    assert (found[:, top : top + 33, left : left + 47] == 200).all()
    assert found.sum() == 3 * 33 * 47 * 200


@pytest.mark.parametrize(("ending", "kind"), [("jp2", "a JPEG 2000 of 16 bits"), ("tif", "an uncompressed TIFF of 16")])
def test_what_pillow_reads_as_other_levels_is_refused_by_its_kind(tmp_path: Path, ending: str, kind: str) -> None:
    white, path = np.full((32, 48, 3), 65535, np.uint16), tmp_path / f"white.{ending}"
    if ending == "jp2":
        assert cv2.imwrite(str(path), white)
    else:
        tifffile.imwrite(path, white.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    with pytest.raises(DataError, match=f"white.{ending}: {kind}.*convert it to PNG"):
        pictures.read(path)
    cv2.imwrite(str(tmp_path / "eight.jp2"), np.full((32, 48, 3), 255, np.uint8))
    assert pictures.read(tmp_path / "eight.jp2").getextrema() == ((255, 255),) * 3


@pytest.mark.parametrize("length", [0, 1])  # 1: the box says its length in 64 bits
def test_jpeg_2000_of_many_bits_is_refused_behind_boxes_of_any_size(tmp_path: Path, length: int) -> None:
    assert cv2.imwrite(str(tmp_path / "a.jp2"), np.full((32, 48, 3), 65535, np.uint16))
    whole = (tmp_path / "a.jp2").read_bytes()
    at = whole.index(b"jp2c") - 4
    box = bytes(100_000)
    head = struct.pack(">I4sQ", 1, b"free", 16 + len(box)) if length else struct.pack(">I4s", 8 + len(box), b"free")
    with pytest.raises(DataError, match="a JPEG 2000 of 16 bits"):
        pictures.read(whole[:at] + head + box + whole[at:])


# --- damage that decoders pass over -----------------------------------------------------------------------------------


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_whose_last_scan_has_no_end_is_refused(progressive: bool) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x010E] = "\xff\xd9"  # the end of a thumbnail is none of the picture
    whole = encoded(noise, "JPEG", quality=90, progressive=progressive, exif=exif)
    assert pictures.read(whole + b"\xff\xd8 what a phone puts behind it").size == (96, 96)
    assert pictures.read(whole[:-2] + b"\xff\xff\xff\xd9").size == (96, 96)
    third = len(whole) // 3
    for damaged in (whole[:third] + bytes(len(whole) - third), whole[:-2] + bytes(1000)):
        with pytest.raises(DataError, match=r"^a: .*damaged|^a: not a readable picture"):
            pictures.read(damaged, "a")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16"])
def test_png_with_fewer_rows_than_its_size_is_refused(mode: str) -> None:
    bits, colour, row = {"1": (1, 0, 1), "L": (8, 0, 8), "P": (8, 3, 8), "RGB": (8, 2, 24), "RGBA": (8, 6, 32),
                         "I;16": (16, 0, 16)}[mode]  # fmt: skip

    def made(rows: int) -> bytes:
        data = zlib.compress((b"\0" + bytes(row)) * rows)
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, bits, colour, 0, 0, 0))
        head += chunk(b"PLTE", bytes(3)) * (mode == "P")
        parts = chunk(b"IDAT", data[:5]) + chunk(b"IDAT", data[5:])
        return b"\x89PNG\r\n\x1a\n" + head + parts + chunk(b"IEND", b"")

    assert pictures.read(made(8)).size == (8, 8)
    with pytest.raises(DataError, match=rf"^a: holds {4 * (row + 1)} of the {8 * (row + 1)} bytes .*; it is damaged"):
        pictures.read(made(4), "a")


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 8), (9, 17)])
def test_interlaced_png_is_read_whole_or_refused(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0]), dtype=np.uint8)
    rows = b""
    passes = (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)
    for x, y, across, down in passes:
        part = pixels[y::down, x::across]
        rows += b"".join(b"\0" + line.tobytes() for line in part) if part.size else b""
    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 1))
    whole, *cut = (
        head + chunk(b"IDAT", zlib.compress(rows[: len(rows) - lacking])) + chunk(b"IEND", b"")
        for lacking in range(min(len(rows), 60))
    )
    assert np.array_equal(np.asarray(pictures.read(whole))[..., 0], pixels)
    for damaged in cut:  # Pillow itself notices most of them
        with pytest.raises(DataError, match=r"^a: "):
            pictures.read(damaged, "a")
