"""A picture file becomes 8-bit sRGB, as a viewer would show it."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import IO

import numpy as np
import pillow_jxl  # noqa: F401  importing it teaches Pillow to read .jxl
from PIL import Image, ImageCms, ImageFile, ImageOps, UnidentifiedImageError

from vtbench.errors import DataError

MAX_PIXELS = 178_956_970
"""A picture that claims more is refused before it is decoded; it is Pillow's own bound against bombs."""

FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "JXL", "PNG", "PPM", "TGA", "TIFF", "WEBP")
"""What `read` decodes, as Pillow calls it. Other formats stay closed: some of them start programs (EPS)."""


def read(source: Path | bytes | IO[bytes], name: str | None = None, *, plain: bool = False) -> Image.Image:
    """Read a picture file as 8-bit sRGB, as a viewer would show its first frame.

    In this order:

    * animations and files of several pictures: the first frame. pillow_jxl gives the last one of JPEG XL: refused;
    * orientation: turned upright as EXIF says, whatever XMP says; a JPEG XL file only as its own codestream says, as
      its standard asks, but for a recompressed JPEG, which is turned as that JPEG is;
    * 16-bit greyscale: v / 257, rounded (12-bit: v / 4095 * 255); a level that is declared transparent becomes white.
      Pillow keeps the high byte of 16-bit colour. 32-bit or signed integers and floats state no white level and are
      refused;
    * an embedded ICC profile: to sRGB by LittleCMS, perceptual intent, 8 bits. Pixels stay as they are where the
      profile moves no colour by more than one level (sRGB itself), is damaged, or is of another colour space;
    * CMYK without a usable profile: Pillow's formula, (255 - c) (255 - k) / 255;
    * alpha, also of palettes: laid over white, in sRGB levels.

    Args:
        source: a path, the file's bytes or an open file.
        name: what an error calls the file; a path's own name where left out.
        plain: Pillow's `convert("RGB")` and nothing else, as the published evaluation codes read: neither turned nor
            brought to sRGB, alpha dropped, 16-bit greys clipped.

    Raises:
        DataError: if it can't be decoded as it is meant, has no pixels or claims more than MAX_PIXELS; if a PNG holds
            fewer rows than it says, or a JPEG's last scan has no end. Damage inside a JPEG's scans can't be told.
    """
    shown = name or (source.name if isinstance(source, Path) else "picture")
    try:
        if isinstance(source, Path):
            with source.open("rb") as file:
                return _read(file, shown, plain)
        return _read(io.BytesIO(source) if isinstance(source, bytes) else source, shown, plain)
    except DataError:
        raise
    except Exception as error:  # decoders let through whatever their parsers meet: struct.error, KeyError, RuntimeError
        # Equal runs say the same: no object's address.
        reason = re.sub(r" at 0x[0-9a-f]+", "", " ".join(str(error).split())) or type(error).__name__
        raise DataError(f"{shown}: not a readable picture ({reason})") from error


def _read(file: IO[bytes], shown: str, plain: bool) -> Image.Image:
    if (claimed := _jpeg_xl_head(file)) is not None:  # pillow_jxl decodes while it opens
        width, height, animated = claimed
        _check_size(width, height, shown)
        if animated:
            raise DataError(
                f"{shown}: of an animated JPEG XL only the last frame can be read; convert its first to PNG"
            )
    try:
        opened = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise DataError(f"{shown}: not a readable picture ({_begins_as(file)})") from error
    with opened as picture:
        _check_size(picture.width, picture.height, shown)
        if what := _read_wrongly(file, picture):
            raise DataError(f"{shown}: {what}, which Pillow reads wrongly; convert it to PNG")
        _scale_transparency(picture)
        if not plain:
            _drop_xmp(picture)  # a TIFF is turned while it is loaded
            picture._exif = None  # read at the opening, with the XMP, where a JPEG has EXIF and states no density
        picture.load()
        if what := _damaged(file, picture):
            raise DataError(f"{shown}: {what}; it is damaged")
        if plain:
            return picture.convert("RGB")
        return _over_white(_in_srgb(_in_8_bits(_upright(picture), shown)))


def _read_wrongly(file: IO[bytes], picture: ImageFile.ImageFile) -> str | None:
    """Name the kind of a file whose levels Pillow gives as others without a word."""
    if picture.format == "JPEG2000" and not picture.mode.startswith("I;16"):
        begin = _jpeg_2000_codestream(file)
        channels = int.from_bytes(begin[40:42], "big")
        bits = {(one & 127) + 1 for one in begin[42 : 42 + 3 * channels : 3]}
        if begin.startswith(_JPEG_2000_SIZE) and bits != {8}:
            return f"a JPEG 2000 of {' and '.join(map(str, sorted(bits)))} bits"
    tags = getattr(picture, "tag_v2", {})
    if tags.get(_PLANES) == _APART and picture.tile and picture.tile[0].codec_name == "raw":
        bits = set(tags.get(_BITS, (1,)))
        if not bits <= {1, 8} or tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
            return f"an uncompressed TIFF of {' and '.join(map(str, sorted(bits)))} bits with a plane a channel"
    return None


_JPEG_2000_SIZE = b"\xff\x4f\xff\x51"
"""A codestream begins with it; then stand the number of channels and the bits of each (ISO/IEC 15444-1, annex A)."""


def _jpeg_2000_codestream(file: IO[bytes]) -> bytes:
    """Get the first bytes of a JPEG 2000 codestream, bare or in a box, as many as all of its channels may take."""
    file.seek(0)
    if file.read(8) == b"\0\0\0\x0cjP  ":
        for kind, _ in _boxes(file, 12):
            if kind == b"jp2c":
                break
    else:
        file.seek(0)
    return file.read(1 << 16)


def _boxes(file: IO[bytes], start: int) -> Iterator[tuple[bytes, int | None]]:
    """Give kind and length of the content of one box after the other, the file standing where its content begins.

    The length is None of one that reaches to the file's end, which is the last.
    """
    file.seek(start)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if length == 1:  # it follows, in 64 bits
            (length,) = struct.unpack(">Q", file.read(8))
        yield kind, max(start + length - file.tell(), 0) if length else None
        if length < 8:
            return
        start = file.seek(start + length)


# --- damage that Pillow's decoders pass over --------------------------------------------------------------------------


def _damaged(file: IO[bytes], picture: ImageFile.ImageFile) -> str | None:
    """Say what is missing of a picture that was decoded all the same, as far as that is cheap to tell."""
    if picture.format in ("JPEG", "MPO") and not _ends(file):
        return "its last scan has no end, so a part of the picture is missing"
    if picture.format != "PNG":
        return None
    file.seek(0)
    width, height, bits, colour, interlaced = struct.unpack(">16x2I2B2xB", file.read(29))
    # Rows that are missing are zeros in Pillow's picture; counting what a stream holds takes as long as decoding it.
    if not interlaced and np.asarray(picture.crop((0, height - 1, width, height))).any():
        return None
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    sides = [(-(-(width - x) // across), -(-(height - y) // down)) for x, y, across, down in passes]
    depth = bits * _CHANNELS[colour]
    whole = sum(high * (1 + -(-wide * depth // 8)) for wide, high in sides if wide > 0 and high > 0)
    found = _png_bytes(file)
    return f"holds {found} of the {whole} bytes that its size asks for" if found < whole else None


_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Of an interlaced PNG: the first pixel of each and its steps, across and down (the PNG specification, section 8)."""

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Channels by a PNG's type of colour."""


def _png_bytes(file: IO[bytes]) -> int:
    """Count the bytes that a PNG's pixels are packed from."""
    file.seek(8)
    unpacking, found = zlib.decompressobj(), 0
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        content = file.read(length + 4)[:length]
        while kind == b"IDAT" and content and not unpacking.eof:
            found += len(unpacking.decompress(content, 1 << 20))
            content = unpacking.unconsumed_tail
    return found


def _ends(file: IO[bytes]) -> bool:
    """Tell whether a JPEG's end is marked: what is cut off, and what was never downloaded, has no such mark.

    A mark of the end inside a segment, such as that of a thumbnail, is none of the picture.
    """
    file.seek(0)
    content, at = file.read(), 2
    while found := _MARKER.search(content, at):
        if found[0] == b"\xff\xd9":
            return True
        at = found.end() + int.from_bytes(content[found.end() : found.end() + 2], "big")
    return False


_MARKER = re.compile(rb"\xff[^\0\x01\xd0-\xd8\xff]")
"""What begins a segment, or ends the picture; others have no length, or stand within a scan (ITU-T T.81, annex B)."""


def _check_size(width: int, height: int, shown: str) -> None:
    if width * height > MAX_PIXELS:
        raise DataError(f"{shown}: {width}x{height} pixels, more than the {MAX_PIXELS} allowed")
    if not width * height:
        raise DataError(f"{shown}: {width}x{height} pixels, so there is nothing to score")


def _jpeg_xl_head(file: IO[bytes]) -> tuple[int, int, bool] | None:
    """Width, height and whether it is animated, as the head of a JPEG XL codestream says (ISO/IEC 18181-1, annex D)."""
    begin = _jpeg_xl_codestream(file)
    if not begin.startswith(_CODESTREAM):
        return None
    bits, at = int.from_bytes(begin, "little"), 8 * len(_CODESTREAM)

    def take(count: int) -> int:
        nonlocal at
        at += count
        return bits >> (at - count) & (1 << count) - 1

    def side(small: int) -> int:
        return 8 * (take(5) + 1) if small else take((9, 13, 18, 30)[take(2)]) + 1

    def size() -> tuple[int, int]:
        small = take(1)
        height = side(small)
        ratio = take(3)
        over, under = _RATIOS[ratio]
        return height * over // under if ratio else side(small), height

    width, height = size()
    if take(1) or not take(1):  # all fields have their defaults, or those of this kind have
        return width, height, False
    take(3)  # orientation
    if take(1):
        size()  # at which it wants to be shown
    preview = take(1)  # no encoder writes any; what follows it is not parsed here
    return width, height, not preview and bool(take(1))


_CODESTREAM = b"\xff\x0a"
_RATIOS = ((0, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


def _jpeg_xl_codestream(file: IO[bytes]) -> bytes:
    """Get the first bytes of a JPEG XL codestream, bare or in boxes, as many as its head may have."""
    file.seek(0)
    begin = file.read(32)
    if not begin.startswith(b"\0\0\0\x0cJXL \r\n\x87\n"):
        return begin
    found = b""
    for kind, length in _boxes(file, 12):
        if kind == b"jxlp":
            file.read(4)  # the part's number
            length = None if length is None else max(length - 4, 0)
        if kind in (b"jxlc", b"jxlp"):
            found += file.read(32 if length is None else min(32, length))
        if len(found) >= 32 or kind == b"jxlc":
            break
    return found


def _begins_as(file: IO[bytes]) -> str:
    """Say what a file is that is no picture, as far as its first bytes tell."""
    file.seek(0)
    begin = file.read(64)
    if not begin:
        return "it is empty"
    for sign, what in _OTHERS.items():
        if begin[4:12].startswith(sign) or begin.lstrip().lower().startswith(sign):
            return what
    return f"it is damaged or in none of the formats {', '.join(FORMATS)}"


_OTHERS = {
    b"version https://git-lfs": "it is a Git-LFS pointer; `git lfs pull` brings the file",
    b"<!doctype": "it is an HTML page",
    b"<html": "it is an HTML page",
    b"<svg": "it is an SVG drawing",
    b"<?xml": "it is XML, perhaps an SVG drawing",
    b"ftyphei": "it is HEIC; convert it to PNG",
    b"ftypmif1": "it is HEIF; convert it to PNG",
    b"%pdf": "it is a PDF document",
    b"%!ps": "it is a PostScript program",
}


def _scale_transparency(picture: ImageFile.ImageFile) -> None:
    """Bring the colour that a PNG declares transparent to the depth of Pillow's pixels; Pillow leaves it as stored."""
    clear = picture.info.get("transparency")
    if picture.format != "PNG" or clear is None:
        return
    stored = picture.tile[0].args  # gone once the pixels are loaded
    if stored in ("L;2", "L;4"):
        top = 2 ** int(stored[2]) - 1
        picture.info["transparency"] = (clear & top) * 255 // top
    elif stored == "RGB;16B":
        picture.info["transparency"] = tuple(value >> 8 for value in clear)


def _drop_xmp(picture: Image.Image) -> None:
    """Take away the XMP, whose orientation Pillow takes where EXIF says none."""
    for key in ("xmp", "XML:com.adobe.xmp"):
        picture.info.pop(key, None)


def _upright(picture: Image.Image) -> Image.Image:
    _drop_xmp(picture)  # a PNG may say it behind its pixels
    try:
        # Of a JPEG that was recompressed as JPEG XL, pillow_jxl gives the JPEG's own pixels, which lie as they did.
        turns = picture.format != "JXL" or getattr(picture, "jpeg", False)
        turned = turns and picture.getexif().get(_ORIENTATION, 1) != 1
        return ImageOps.exif_transpose(picture) if turned else picture
    except Exception:  # EXIF is free-form bytes to Pillow's parser; a damaged entry says nothing of the pixels
        return picture


def _in_8_bits(picture: Image.Image, shown: str) -> Image.Image:
    # Pillow gives the 16-bit greys of PGM files as 32-bit integers, scaled to 65535.
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in (None, "PPM")):
        levels = np.asarray(picture).astype(np.uint32)
        # Pillow gives the greys of TIFF files as they are stored: of 12 or 16 bits, 0 as black or as white.
        tags = getattr(picture, "tag_v2", {})
        white = 2 ** tags.get(_BITS, (16,))[0] - 1
        if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
            levels = white - levels
        reduced = ((levels * 255 + white // 2) // white).clip(max=255).astype(np.uint8)
        clear = picture.info.get("transparency")
        if isinstance(clear, int):
            reduced[levels == clear] = 255
        made = Image.fromarray(reduced)
        made.info = {key: value for key, value in picture.info.items() if key == "icc_profile"}
        return made
    signed = _SIGNED in getattr(picture, "tag_v2", {}).get(_SAMPLES, ())
    if signed or picture.mode in ("I", "F"):
        raise DataError(f"{shown}: 32-bit or signed pixels state no white level; convert it to 8 or 16 bits")
    # Pillow turns greys under associated alpha into those under separate alpha, and into nothing else.
    return picture.convert("LA") if picture.mode == "La" else picture


_ORIENTATION = 0x0112
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO, _PLANES, _APART, _SAMPLES, _SIGNED = 258, 262, 0, 284, 2, 339, 2  # of TIFF
_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}
_COLOURS = {"1": "L", "L": "L", "LA": "L", "CMYK": "CMYK"}


def _in_srgb(picture: Image.Image) -> Image.Image:
    profile = picture.info.get("icc_profile")
    if not isinstance(profile, bytes) or not profile:
        return picture
    alpha = _with_alpha(picture).getchannel("A") if picture.has_transparency_data else None
    mode = _COLOURS.get(picture.mode, "RGB")
    transform = _to_srgb(profile, mode)
    if transform is None and mode == "L":  # greys often carry the profile of the colour picture they came from
        mode, transform = "RGB", _to_srgb(profile, "RGB")
    if transform is None:
        return picture
    colours = picture if picture.mode == mode else (_with_alpha(picture) if alpha else picture).convert(mode)
    made = transform.apply(colours)
    made.info = {}
    if alpha is not None:
        made.putalpha(alpha)
    return made


def _with_alpha(picture: Image.Image) -> Image.Image:
    return picture if picture.mode == "RGBA" else picture.convert("RGBA")


@lru_cache(maxsize=32)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Build the way from a profile to sRGB; None where it can't be used or moves nothing."""
    intent = ImageCms.Intent.PERCEPTUAL
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != _SPACES[mode]:
            return None
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB", intent)
        if mode == "CMYK":
            return transform
        steps = np.arange(256, dtype=np.uint8) if mode == "L" else np.linspace(0, 255, 18).astype(np.uint8)
        grid = np.stack(np.meshgrid(*[steps] * 3), axis=-1).reshape(-1, 18, 3) if mode == "RGB" else steps[None]
        probe = Image.fromarray(grid)
        moved = np.asarray(transform.apply(probe), np.int16) - np.asarray(probe.convert("RGB"), np.int16)
    except Exception:  # damaged profiles are common, and viewers pass over them
        return None
    return transform if np.abs(moved).max() > 1 else None


def _over_white(picture: Image.Image) -> Image.Image:
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, _with_alpha(picture))
    return picture if picture.mode == "RGB" else picture.convert("RGB")
