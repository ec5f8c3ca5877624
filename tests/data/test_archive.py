from __future__ import annotations

import gzip
import io
import os
import tarfile
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from PIL import Image

from vtbench.data import archive, folder
from vtbench.data.archive import Source
from vtbench.errors import DataError

KINDS = ["a.tar", "a.tar.gz", "a.tgz", "a.ZIP"]


def png(seed: int) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(sink, "PNG")
    return sink.getvalue()


def pack(path: Path, members: Mapping[str, bytes]) -> Path:
    if path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
            for name, content in members.items():
                zipped.writestr(name, content)
        return path
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as packed:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            packed.addfile(about, io.BytesIO(content))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_same_pictures_and_digest_as_the_folder(tmp_path: Path, kind: str) -> None:
    members = {name: png(seed) for seed, name in enumerate(("b/2.png", "a b.png", "b/1.png", "ü.png"))}
    members |= {"notes.md": b"x", "metadata.csv": b"file_name,text\nb/2.png,word\n"}
    for name, content in members.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(content)
    packed = Source(size=16, path=pack(tmp_path / kind, members))
    plain = folder.Source(size=16, path=tmp_path / "in")
    assert packed.ids == plain.ids == ["a b.png", "b/1.png", "b/2.png", "ü.png"]
    assert packed.digest == plain.digest
    for index in (2, 0, 3, 1, 2):
        assert torch.equal(packed.read(index).image, plain.read(index).image)
        assert packed.read(index).lines == plain.read(index).lines
    assert packed.text == "page"


@pytest.mark.parametrize("kind", ["a.tar", "a.tar.gz", "a.zip"])
def test_any_order_from_several_threads(tmp_path: Path, kind: str) -> None:
    generator = np.random.default_rng(0)
    members = {f"{index:03d}.bin": generator.bytes(int(generator.integers(0, 400_000))) for index in range(100)}
    opened = archive.open_archive(pack(tmp_path / kind, members))
    order = [str(name) for name in generator.permutation(sorted(members))] + sorted(members)
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda name: opened.content(PurePosixPath(name)), order))
    assert all(content == members[name] for name, content in zip(order, read, strict=True))


def test_gzip_of_two_members_is_one_file(tmp_path: Path) -> None:
    whole = pack(tmp_path / "a.tar", {f"{seed}.png": png(seed) for seed in range(6)}).read_bytes()
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(whole[:5000]) + gzip.compress(whole[5000:]))
    assert Source(size=16, path=tmp_path / "b.tar.gz").digest == Source(size=16, path=tmp_path / "a.tar").digest


@pytest.mark.parametrize("kind", ["a.tar", "a.zip"])
def test_files_of_a_stem_belong_together(tmp_path: Path, kind: str) -> None:
    members = {
        "s/0001.jpg.png": png(0), "s/0001.txt": b"hello\nworld", "s/0001.cls": b"7",
        "s/0002.png": png(1), "s/0002.json": b'{"lines": [{"text": "x", "box": [0, 0, 9, 9]}], "height": 3}',
        "s/0003.png": png(2), "s/0003.json": b"[1, 2]",
        "s/0004.png": png(3), "s/0004.json": b"{broken", "t/0001.png": png(4),
    }  # fmt: skip
    source = Source(size=None, path=pack(tmp_path / kind, members))
    assert source.text == "page"
    first = source.read(0)
    assert [line.text for line in first.lines] == ["hello", "world"] and first.attributes == {"class": "7"}
    assert [(line.text, line.box) for line in source.read(1).lines] == [("x", (0, 0, 9, 9))]
    assert source.read(1).attributes == {}
    assert source.read(2).lines == () and source.read(4).lines == ()
    with pytest.raises(DataError, match=r"s/0004\.json: can't be read"):
        source.read(3)
    assert len(source.digest) == 64


def test_nothing_outside_a_tar_is_reached(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png(0))
    with tarfile.open(tmp_path / "a.tar", "w") as packed:

        def add(name: str, kind: bytes, target: str = "", content: bytes = b"") -> None:
            about = tarfile.TarInfo(name)
            about.type, about.linkname, about.size = kind, target, len(content)
            packed.addfile(about, io.BytesIO(content))

        add("good.png", tarfile.REGTYPE, content=png(1))
        add("../up.png", tarfile.REGTYPE, content=png(2))
        add("a/../../up.png", tarfile.REGTYPE, content=png(2))
        add("/etc/absolute.png", tarfile.REGTYPE, content=png(2))
        add("link.png", tarfile.SYMTYPE, "../secret.png")
        add("link-to-root.png", tarfile.SYMTYPE, str(tmp_path / "secret.png"))
        add("a/inner.png", tarfile.SYMTYPE, "../good.png")
        add("hard.png", tarfile.LNKTYPE, "good.png")
        add("hard-out.png", tarfile.LNKTYPE, "../secret.png")
        add("round.png", tarfile.SYMTYPE, "round.png")
        add("dangling.png", tarfile.SYMTYPE, "nothing.png")
        add("device.png", tarfile.CHRTYPE)
        add("pipe.png", tarfile.FIFOTYPE)
        add("folder.png", tarfile.DIRTYPE)
        add("last.png", tarfile.REGTYPE, content=png(3))
    source = Source(size=16, path=tmp_path / "a.tar")
    assert source.ids == ["a/inner.png", "good.png", "hard.png", "last.png"]
    assert torch.equal(source.read(0).image, source.read(1).image)
    assert torch.equal(source.read(2).image, source.read(1).image)
    assert source.passed_over == {
        "links that lead out": 3, "names that lead out": 3, "pipes and devices": 2,
        "links in a circle": 1, "links to nothing": 1,
    }  # fmt: skip
    assert source.found == 14
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "secret.png"]  # noqa: PTH208


def test_nothing_outside_a_zip_is_reached(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("good.png", png(1))
        for name in ("../up.png", "/etc/absolute.png", "a/../../up.png"):
            packed.writestr(name, png(2))
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        packed.writestr(link, "../secret.png")
    assert Source(size=16, path=tmp_path / "a.zip").ids == ["good.png"]


def test_damaged_members_fail_alone(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", {f"{seed}.png": png(seed) for seed in range(3)})
    content = bytearray(path.read_bytes())
    content[content.index(b"1.png") + 200] ^= 0xFF
    path.write_bytes(content)
    source = Source(size=16, path=path)
    assert source.read(0).image.shape == source.read(2).image.shape == (3, 16, 16)
    with pytest.raises(DataError, match=r"^1\.png: can't be read"):
        source.read(1)
    assert len(source.digest) == 64


def test_zip_bomb_is_not_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_BYTES", 1 << 20)
    path = pack(tmp_path / "a.zip", {"bomb.png": bytes(1 << 22), "good.png": png(0)})
    source = Source(size=16, path=path)
    with pytest.raises(DataError, match=r"bomb\.png: claims 4194304 bytes"):
        source.read(0)
    lying = path.read_bytes().replace((1 << 22).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    path.write_bytes(lying)
    with pytest.raises(DataError, match=r"bomb\.png"):
        Source(size=16, path=path).read(0)


def test_encrypted_member_is_one_line(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", {"a.png": png(0)})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x03\x04") + 6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png: can't be read \(.*encrypted"):
        Source(size=16, path=path).read(0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cut", [0, 10, 600, 1500])
def test_what_is_no_whole_archive_is_one_line(tmp_path: Path, kind: str, cut: int) -> None:
    path = pack(tmp_path / kind, {f"{seed}.png": png(seed) for seed in range(3)})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError) as caught:
        Source(size=16, path=path).read(1)
    said = str(caught.value)
    assert "\n" not in said and ("not a whole archive" in said or "holds no picture" in said)


def test_missing_and_other_files_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.tar.xz").write_bytes(b"")
    for name, message in (("no.zip", "No such file or directory"), ("a.tar.xz", "expected a name that ends")):
        with pytest.raises(DataError, match=message):
            Source(size=16, path=tmp_path / name)
    with pytest.raises(DataError, match="holds no picture"):
        Source(size=16, path=pack(tmp_path / "b.tar", {"a.txt": b""}))
