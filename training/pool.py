"""Build the training pool: download Debian packages, keep the pictures that are CC0, public domain or CC BY.

    python training/pool.py            # fetch what training/pool.csv lists, check every digest
    python training/pool.py --update   # search the packages of sources.toml again and rewrite training/pool.csv

Needs `apt-get` and `dpkg` (Debian 12 or a machine whose apt sources include it), nothing is installed.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import hashlib
import io
import re
import struct
import subprocess
import sys
import tomllib
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
ALLOWED = re.compile(r"(CC0|CC0-1\.0|public-domain|PD|CC-BY-[0-9.]+)")  # CC-BY-SA, GPL and the like never match in full
PICTURES = {".jpg", ".jpeg", ".png", ".webp"}
MIN_SIDE = 200
COLUMNS = ["file", "package", "version", "path", "author", "licence", "width", "height", "split", "sha256"]


def unpack(name: str, version: str | None, cache: Path) -> Path:
    """Download and unpack one Debian package below `cache`, once; returns its root folder."""
    root = cache / name
    if not root.exists():
        cache.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", f"{name}={version}" if version else name], cwd=cache, check=True)
        (archive,) = cache.glob(f"{name}_*.deb")
        subprocess.run(["dpkg", "-x", archive, root], check=True)
        archive.unlink()
    return root


def paragraphs(text: str) -> Iterator[dict[str, str]]:
    """The paragraphs of a machine-readable Debian copyright file (DEP 5), continuation lines joined."""
    for block in re.split(r"\n[ \t]*\n", text):
        fields: dict[str, str] = {}
        key = ""
        for line in block.splitlines():
            if match := re.match(r"([A-Za-z-]+):(.*)", line):
                key = match[1]
                fields[key] = match[2].strip()
            elif key:
                fields[key] += "\n" + line.strip()
        yield fields


class Licences:
    """The licence and author of a path, by a package's copyright file: the last matching paragraph counts."""

    def __init__(self, text: str) -> None:
        self.rules = [
            ([stem(pattern.removeprefix("./")) for pattern in p["Files"].split()], p.get("Copyright", ""), p["License"])
            for p in paragraphs(text)
            if "Files" in p and "License" in p
        ]

    def find(self, path: str) -> tuple[str, str]:
        """Author and licence of `path`; an unmatched path has no licence."""
        author, licence = "", ""
        for patterns, rule_author, rule_licence in self.rules:
            if any(fnmatch.fnmatchcase(stem(path), pattern) for pattern in patterns):
                author, licence = " ".join(rule_author.split()), rule_licence.splitlines()[0].strip()
        return author, licence


def stem(path: str) -> str:
    """`path` without a picture's suffix: packagers convert JPEG and PNG to WebP and keep the old names in the list."""
    return re.sub(r"\.(jpe?g|png|webp)$", "", path)


def bundle(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The files of a Qt binary resource bundle (rcc, format versions 1 to 3) that are stored raw or by zlib."""
    magic, version, tree, payload, names = struct.unpack(">4sIIII", data[:20])
    if magic != b"qres":
        return
    entry = 22 if version >= 2 else 14
    stack = [(0, "")]
    while stack:
        index, folder = stack.pop()
        at = tree + entry * index
        name_offset, flags = struct.unpack(">IH", data[at : at + 6])
        start = names + name_offset
        length = struct.unpack(">H", data[start : start + 2])[0]
        name = data[start + 6 : start + 6 + 2 * length].decode("utf-16-be") if index else ""
        path = f"{folder}/{name}" if folder else name
        if flags & 2:
            count, first = struct.unpack(">II", data[at + 6 : at + 14])
            stack.extend((child, path) for child in range(first, first + count))
            continue
        start = payload + struct.unpack(">I", data[at + 10 : at + 14])[0]
        size = struct.unpack(">I", data[start : start + 4])[0]
        content = data[start + 4 : start + 4 + size]
        yield path, zlib.decompress(content[4:]) if flags & 1 else content


def files(folder: Path, prefix: str) -> Iterator[tuple[str, bytes]]:
    """Every picture below `folder` as (path in the words of the copyright file, bytes)."""
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".rcc":
            yield from sorted((name.removeprefix("gcompris/"), data) for name, data in bundle(path.read_bytes()))
        elif path.suffix.lower() in PICTURES and path.is_file():
            yield prefix + path.relative_to(folder).as_posix(), path.read_bytes()


def search(source: dict[str, object], cache: Path) -> Iterator[tuple[dict[str, str], bytes]]:
    """The pictures of one package that may be used, as (manifest row, bytes)."""
    name, version = str(source["name"]), str(source["version"])
    root = unpack(name, version, cache)
    include, exclude = source["include"], source.get("exclude", [])
    assert isinstance(include, list)
    assert isinstance(exclude, list)
    statement = source.get("statement")
    licences = Licences((root / "usr/share/doc" / name / "copyright").read_text())
    for path, data in files(root / str(source["root"]), str(source["prefix"])):
        if not any(fnmatch.fnmatchcase(path, p) for p in include) or any(fnmatch.fnmatchcase(path, p) for p in exclude):
            continue
        if Path(path).suffix.lower() not in PICTURES:
            continue
        if isinstance(statement, dict):
            if statement["words"] not in (root / statement["file"]).read_text():
                raise SystemExit(f"{name}: {statement['file']} no longer says '{statement['words']}'")
            author, licence = statement["author"], statement["licence"]
        else:
            author, licence = licences.find(path)
        if not ALLOWED.fullmatch(licence):
            continue
        picture: Image.Image = Image.open(io.BytesIO(data))
        if min(picture.size) < MIN_SIDE:
            continue
        if "A" in picture.getbands() and np.asarray(picture.getchannel("A")).min() < 250:
            continue  # cut-outs: what lies under transparent pixels was never meant to be seen
        digest = hashlib.sha256(data).hexdigest()
        width, height = picture.size
        row = {
            "file": f"{digest[:16]}{Path(path).suffix.lower()}",
            "package": name,
            "version": version,
            "path": path,
            "author": author,
            "licence": licence,
            "width": str(width),
            "height": str(height),
            "split": "validation" if int(digest[:8], 16) / 2**32 < float(str(source.get("hold_out", 0))) else "train",
            "sha256": digest,
        }
        yield row, data


def main() -> None:
    """Parse the command line and build the pool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="rewrite pool.csv from what the packages hold")
    parser.add_argument("--pool", type=Path, default=HERE / "pool", help="where the pictures go (git-ignored)")
    parser.add_argument("--cache", type=Path, default=HERE / "pool" / "packages", help="where packages are unpacked")
    args = parser.parse_args()

    sources = tomllib.loads((HERE / "sources.toml").read_text())
    rows: dict[str, dict[str, str]] = {}
    args.pool.mkdir(parents=True, exist_ok=True)
    manifest = HERE / "pool.csv"
    listed: set[str] | None = None
    if not args.update:
        with manifest.open(newline="") as stream:
            listed = {row["sha256"] for row in csv.DictReader(stream)}
    for source in sources["package"]:
        for row, data in search(source, args.cache):
            if listed is None or row["sha256"] in listed:
                (args.pool / row["file"]).write_bytes(data)
                rows.setdefault(row["sha256"], row)
    for font in sources["fonts"]:
        unpack(font["name"], None, args.cache)
    if listed is None:
        with manifest.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows.values())
    elif missing := listed - rows.keys():
        raise SystemExit(f"{len(missing)} of {len(listed)} pictures of {manifest} were not found in the packages")
    sys.stdout.write(f"{len(rows)} pictures in {args.pool}\n")


if __name__ == "__main__":
    main()
