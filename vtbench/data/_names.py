"""Names of files: which are pictures, which were meant as pictures and are passed over, and how names are shown."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath

SUFFIXES = frozenset({
    ".apng", ".avif", ".bmp", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jxl",
    ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp",
})  # fmt: skip
"""File names that end so are pictures, whatever their case."""

NOT_READ = frozenset({
    ".arw", ".cr2", ".cr3", ".dds", ".dng", ".eps", ".exr", ".hdr", ".heic", ".heif", ".ico", ".nef", ".orf", ".pfm",
    ".psd", ".raf", ".rw2", ".svg",
})  # fmt: skip
"""File names that end so were meant as pictures, and are not read."""

MASKS = frozenset({
    "alpha", "annotation", "color", "depth", "edge", "edges", "instance", "instances", "label", "labels", "mask",
    "masks", "matte", "normal", "normals", "panoptic", "seg", "segm", "segmentation", "semantic", "target",
})  # fmt: skip
"""0001.seg.png beside 0001.jpg is no picture of its own but what WebDataset calls another entry of the sample."""

PACKED = (".parquet", ".tar", ".tar.gz", ".tgz", ".zip")
"""What lies beside pictures and holds further ones is read on its own or not at all."""

NOBODYS = ("__MACOSX", ".ipynb_checkpoints", ".AppleDouble", ".thumbnails", "@eaDir")
"""Folders that programs make for themselves; what lies in them are copies of pictures, or no pictures."""

HINTS = {
    "links that lead out": "follow_links (--follow-links) reads them",
    "links to folders": "follow_links (--follow-links) reads what lies below them",
}
"""How a kind of what is passed over can be read all the same."""


def was_meant(name: PurePosixPath) -> bool:
    """Tell whether a file was meant as a picture, or as several, by the end of its name."""
    return name.suffix.lower() in SUFFIXES or name.suffix.lower() in NOT_READ or name.name.lower().endswith(PACKED)


def sort_out(names: Iterable[PurePosixPath]) -> tuple[list[PurePosixPath], dict[PurePosixPath, str]]:
    """Tell pictures from what was meant as one and is passed over.

    Returns:
        the pictures, and the others with their kinds in plain words.
    """
    pictures, left_out = [], {}
    meant = [name for name in names if was_meant(name)]
    stems = {str(name.with_suffix("")) for name in meant}
    for name in meant:
        kind = _kind(name, stems)
        if kind is None:
            pictures.append(name)
        else:
            left_out[name] = kind
    return pictures, left_out


def _kind(name: PurePosixPath, stems: set[str]) -> str | None:
    if name.name.startswith("._"):
        return "companions (._*)"
    if folder := next((part for part in name.parts[:-1] if part in NOBODYS), None):
        return f"files in {folder}"
    if name.name.lower().endswith(PACKED):
        return "archives and tables of pictures, which are read on their own"
    if name.suffix.lower() in NOT_READ:
        return f"{name.suffix.lower()} files, which are not read"
    first, *entry = name.with_suffix("").name.split(".")
    if entry and entry[-1].lower() in MASKS and str(name.parent / first) in stems:
        return "masks beside their pictures"
    return None


def counted(*kinds: Iterable[str]) -> dict[str, int]:
    """Count what is passed over by kind, the commonest first."""
    total = Counter(kind for part in kinds for kind in part)
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))


# --- how names are shown ----------------------------------------------------------------------------------------------


def printable(path: PurePosixPath | os.PathLike[str]) -> str:
    r"""Show a path in one line: undecodable bytes and unprintable characters escaped, backslashes doubled.

    Different paths are shown differently: a lone byte 0x85 is \x85, the control character U+0085 is \u0085.
    """
    decoded = os.fsencode(os.fspath(path)).replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")
    return "".join(sign if sign.isprintable() else _escape(sign) for sign in decoded)


def _escape(sign: str) -> str:
    return f"\\u{ord(sign):04x}" if 127 < ord(sign) < 256 else sign.encode("unicode_escape").decode()


def short(error: BaseException) -> str:
    """Put what an error says into one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
