"""Names of files: which are pictures, which were meant as pictures and are passed over, and how names are shown."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath

SUFFIXES = frozenset({
    ".apng", ".avif", ".bmp", ".dib", ".gif", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe", ".jpeg", ".jpf", ".jpg",
    ".jpx", ".jxl", ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp",
})  # fmt: skip
"""File names that end so are pictures, whatever their case."""

NOT_READ = frozenset({
    ".3fr", ".arw", ".bpg", ".cr2", ".cr3", ".crw", ".dcm", ".dcr", ".dds", ".dng", ".eps", ".erf", ".exr", ".fff",
    ".fits", ".flif", ".hdr", ".heic", ".heics", ".heif", ".hif", ".icns", ".ico", ".iiq", ".jxr", ".kdc", ".mef",
    ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pam", ".pcx", ".pef", ".pfm", ".psb", ".psd", ".qoi", ".raf", ".raw",
    ".rw2", ".rwl", ".sgi", ".sr2", ".srf", ".srw", ".svg", ".svgz", ".wdp", ".x3f", ".xcf",
})  # fmt: skip
"""File names that end so were meant as pictures, and are not read."""

HALVES = ("~", ".bak", ".crdownload", ".download", ".filepart", ".incomplete", ".orig", ".part", ".partial", ".tmp")
"""What programs put behind the names of copies and of downloads that are not whole yet."""

MASKS = frozenset({
    "alpha", "annotation", "color", "depth", "edge", "edges", "instance", "instances", "label", "labels", "mask",
    "masks", "matte", "normal", "normals", "panoptic", "seg", "segm", "segmentation", "semantic", "target",
})  # fmt: skip
"""0001.seg.png beside 0001.jpg is no picture of its own but what WebDataset calls another entry of the sample."""

PACKED = (".parquet", ".tar", ".tar.gz", ".tgz", ".zip")
"""What lies beside pictures and holds further ones is read on its own or not at all."""

PACKED_OTHERWISE = (
    ".7z", ".rar", ".tar.bz2", ".tar.lz4", ".tar.lzma", ".tar.xz", ".tar.zst", ".tbz", ".tbz2", ".txz", ".tzst",
)  # fmt: skip
"""What is packed in a way that is not read."""

OTHERS = frozenset({
    ".7z", ".arrow", ".avi", ".bin", ".bz2", ".caption", ".ckpt", ".cls", ".csv", ".db", ".doc", ".docx", ".flac",
    ".gz", ".h5", ".hdf5", ".htm", ".html", ".ini", ".ipynb", ".json", ".jsonl", ".lock", ".log", ".m4a", ".mat", ".md",
    ".md5", ".mkv", ".mov", ".mp3", ".mp4", ".npy", ".npz", ".ods", ".ogg", ".onnx", ".pdf", ".pickle", ".pkl", ".pt",
    ".pth", ".py", ".rar", ".rst", ".safetensors", ".sh", ".sha256", ".sqlite", ".srt", ".toml", ".tsv", ".txt", ".wav",
    ".webm", ".xls", ".xlsx", ".xml", ".xz", ".yaml", ".yml", ".zst", *PACKED, *PACKED_OTHERWISE,
})  # fmt: skip
"""File names that end so were never meant as pictures, so that their first bytes need no look."""

NOBODYS = ("__MACOSX", ".ipynb_checkpoints", ".AppleDouble", ".thumbnails", "@eaDir")
"""Folders that programs make for themselves; what lies in them are copies of pictures, or no pictures."""

_GOES_ON = re.compile(
    rf".*(?:{'|'.join(map(re.escape, sorted({*SUFFIXES, *PACKED})))})(?:\.\d+|[?:].*)", re.DOTALL | re.IGNORECASE
)
"""A second download has a number behind its ending (.jpg.1), one named after its address a query (.jpg?w=3)."""

_BEGIN = re.compile(
    rb"\x89PNG\r\n|\xff\xd8\xff|GIF8[79]a|BM.{4}\0{4}|II\*\0|MM\0\*|RIFF.{4}WEBP|\xff\x0a|\xff\x4f\xff\x51"
    rb"|\0\0\0\x0c(?:JXL |jP  )|.{4}ftyp(?:avi[fs]|hei[cmsx]|mif1|msf1)",
    re.DOTALL,
)
"""How files of pictures begin."""

BEGIN = 16
"""So many bytes of a file tell whether it is one."""

GO_ON = "names that go on behind the ending"
BARE = "pictures without an ending"
STRANGE = "pictures under other endings"

HINTS = {
    GO_ON: "rename those that go on behind .jpg and the like (.jpg.1, .jpg?w=3)",
    BARE: "give those without an ending theirs (.jpg, .png)",
    STRANGE: "give those under other endings theirs (.jpg, .png)",
    "links that lead out": "follow_links (--follow-links) reads them",
    "links to folders": "follow_links (--follow-links) reads what lies below them",
}
"""How a kind of what is passed over can be read all the same."""


def was_meant(name: PurePosixPath) -> bool:
    """Tell whether a file was meant as a picture, or as several, by the end of its name."""
    end = _ending(name)
    return (
        end in SUFFIXES
        or end in NOT_READ
        or name.name.lower().endswith((*PACKED, *PACKED_OTHERWISE))
        or _is_half(name)
        or _goes_on(name)
    )


def _ending(name: PurePosixPath) -> str:
    return name.suffix.strip().lower()


def _is_half(name: PurePosixPath) -> bool:
    half = next((end for end in HALVES if name.name.lower().endswith(end)), None)
    if half is None:
        return False
    whole = name.name[: -len(half)]
    return _ending(PurePosixPath(whole)) in SUFFIXES or whole.lower().endswith(PACKED)


def _goes_on(name: PurePosixPath) -> bool:
    return _ending(name) not in SUFFIXES and _GOES_ON.fullmatch(name.name) is not None


def is_hidden(name: PurePosixPath) -> bool:
    """Tell whether a file is hidden, or in a folder that is."""
    return any(part.startswith(".") for part in name.parts)


def sort_out(
    names: Iterable[PurePosixPath], begin: Callable[[PurePosixPath], bytes]
) -> tuple[list[PurePosixPath], dict[PurePosixPath, str]]:
    """Tell pictures from what was meant as one and is passed over.

    Args:
        names: of files.
        begin: gives the first `BEGIN` bytes of a file whose name tells nothing: it has no ending, or one that is
            unknown and lies where pictures lie.

    Returns:
        the pictures, and the others with their kinds in plain words.
    """
    pictures, left_out = [], {}
    listed = list(names)
    named = {name for name in listed if was_meant(name)}
    places = {name.parent for name in named if _ending(name) in SUFFIXES}
    told: dict[PurePosixPath, str] = {}
    for name in listed:
        # Where no name is a picture's, the files of unknown endings may be all the pictures that there are.
        unknown = _is_unknown(name) and (name.parent in places or not places)
        if name not in named and (_is_bare(name) or unknown) and _BEGIN.match(begin(name)):
            told[name] = STRANGE if name.suffix else BARE
    meant = [name for name in listed if name in named or name in told]
    stems = {str(name.with_suffix("")) for name in meant}
    for name in meant:
        kind = told.get(name) or _kind(name, stems)
        if kind is None:
            pictures.append(name)
        else:
            left_out[name] = kind
    return pictures, left_out


def _is_bare(name: PurePosixPath) -> bool:
    """Tell a name without an ending; in the hub's cache, links beside blobs/ name what is in there."""
    return not name.suffix and not is_hidden(name) and name.parent.name != "blobs"


def _is_unknown(name: PurePosixPath) -> bool:
    return bool(name.suffix) and _ending(name) not in OTHERS and not is_hidden(name) and name.parent.name != "blobs"


def _kind(name: PurePosixPath, stems: set[str]) -> str | None:
    if name.name.startswith("._"):
        return "companions (._*)"
    if folder := next((part for part in name.parts[:-1] if part in NOBODYS), None):
        return f"files in {folder}"
    if name.name.lower().endswith(PACKED):
        return "archives and tables of pictures, which are read on their own"
    if name.name.lower().endswith(PACKED_OTHERWISE):
        return "archives of other kinds, which are not read"
    if _is_half(name):
        return "backups and downloads that are not whole"
    if _ending(name) in NOT_READ:
        return f"{_ending(name)} files, which are not read"
    if is_hidden(name):
        return "hidden files"
    if _goes_on(name):
        return GO_ON
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
