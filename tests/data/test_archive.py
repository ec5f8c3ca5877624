from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import shutil
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from PIL import Image

from vtbench import load_task
from vtbench.data import archive, folder
from vtbench.data.archive import Source
from vtbench.errors import ChangedError, DataError

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
    assert source.text == "page" and source.attributes == {"class"}
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
        "links that lead out of the archive": 3, "names that lead out": 3, "pipes and devices": 2,
        "links in a circle": 1, "links to nothing": 1,
    }  # fmt: skip
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "secret.png"]  # noqa: PTH208


def test_links_to_folders_inside_are_counted(tmp_path: Path) -> None:
    links = {"again": "set/in", "set/up": ".", "round": "again", "notes": "gone"}
    with tarfile.open(tmp_path / "a.tar", "w") as packed:
        about = tarfile.TarInfo("set/in/a.png")
        about.size = len(png(0))
        packed.addfile(about, io.BytesIO(png(0)))
        for name, target in links.items():
            about = tarfile.TarInfo(name)
            about.type, about.linkname = tarfile.SYMTYPE, target
            packed.addfile(about)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        zipped.writestr("set/in/a.png", png(0))
        for name, target in links.items():
            link = zipfile.ZipInfo(name)
            link.external_attr = 0o120777 << 16
            zipped.writestr(link, target)
    for kind in ("tar", "zip"):
        source = Source(size=16, path=tmp_path / f"a.{kind}")
        assert source.ids == ["set/in/a.png"]
        assert source.passed_over == {"links to folders, which are not entered here": 3}


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


# --- whole archives only ----------------------------------------------------------------------------------------------


def tar_of(path: Path, count: int, first: int = 0) -> bytes:
    return pack(path, {f"{seed}.png": png(seed) for seed in range(first, first + count)}).read_bytes()


@pytest.mark.parametrize("packed", [False, True])
def test_tar_whose_listing_stops_early_is_no_smaller_set(tmp_path: Path, packed: bool) -> None:
    whole = tar_of(tmp_path / "whole.tar", 3)
    second = whole.index(b"1.png")
    damaged = bytearray(whole)
    damaged[second + 150] ^= 0xFF  # in its checksum
    for content, message in (
        (bytes(damaged), f"the head of a member is damaged at byte {second}"),
        (whole[:second], f"it ends after {second} bytes without the mark of its end"),
        (whole[: second + 100], "damaged"),
        (whole + tar_of(tmp_path / "other.tar", 2, 3), "more follows after its end.*two archives joined"),
        (whole + b"x", "more follows after its end"),
    ):
        path = tmp_path / ("a.tar.gz" if packed else "a.tar")
        path.write_bytes(gzip.compress(content) if packed else content)
        with pytest.raises(DataError, match=rf"not a whole archive \(.*{message}") as caught:
            Source(size=16, path=path)
        assert "\n" not in str(caught.value)


def test_zips_that_were_joined_are_no_smaller_set(tmp_path: Path) -> None:
    first = pack(tmp_path / "a.zip", {"0.png": png(0)}).read_bytes()
    second = pack(tmp_path / "b.zip", {"1.png": png(1)}).read_bytes()
    (tmp_path / "c.zip").write_bytes(first + second)
    with pytest.raises(DataError, match=r"not a whole archive .*two archives joined"):
        Source(size=16, path=tmp_path / "c.zip")
    (tmp_path / "d.zip").write_bytes(b"#!/bin/sh\n" + second)  # one that unpacks itself
    assert Source(size=16, path=tmp_path / "d.zip").ids == ["1.png"]


def test_zip_that_lists_fewer_members_than_it_has_is_no_smaller_set(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", {f"{seed}.png": png(seed) for seed in range(3)})
    content = bytearray(path.read_bytes())
    first = content.index(b"PK\1\2")
    second = content.index(b"PK\1\2", first + 4)
    content[first + 32] = second - first  # its comment takes in the second entry
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"not a whole archive \(it lists 2 members, its end says 3\)"):
        Source(size=16, path=path)


def test_padding_is_no_damage(tmp_path: Path) -> None:
    whole = tar_of(tmp_path / "a.tar", 3)
    expected = Source(size=16, path=tmp_path / "a.tar").digest
    end = len(whole.rstrip(b"\0"))
    one_block = whole[: -(-end // 512) * 512 + 512]
    for name, content in (
        ("b.tar", whole + bytes(100_000)),
        ("c.tar", one_block),
        ("d.tar.gz", gzip.compress(whole) + bytes(5000)),
        ("e.tgz", gzip.compress(whole + bytes(5000))),
    ):
        (tmp_path / name).write_bytes(content)
        assert Source(size=16, path=tmp_path / name).digest == expected


def test_what_an_archive_is_its_first_bytes_say(tmp_path: Path) -> None:
    whole = tar_of(tmp_path / "a.tar", 2)
    zipped = pack(tmp_path / "a.zip", {f"{seed}.png": png(seed) for seed in range(2)}).read_bytes()
    expected = Source(size=16, path=tmp_path / "a.tar").digest
    for name, content in (
        ("b.tar", gzip.compress(whole)),
        ("b.tar.gz", whole),
        ("b.zip", whole),
        ("c.zip", gzip.compress(whole)),
        ("c.tar", zipped),
    ):
        (tmp_path / name).write_bytes(content)
        assert Source(size=16, path=tmp_path / name).digest == expected, name
    for name, content, message in (
        ("d.tar", bz2.compress(whole), "is packed by bzip2; unpack it"),
        ("e.tar.gz", lzma.compress(whole), "is packed by xz; unpack it"),
        ("f.tar", b"<!DOCTYPE html>" * 100, "not a whole archive"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message):
            Source(size=16, path=tmp_path / name)


def test_tar_whose_first_member_begins_with_pk_is_no_zip(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", {"PK01.png": png(0), "b.png": png(1)})
    assert Source(size=16, path=path).ids == ["PK01.png", "b.png"]


def test_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tar_of(tmp_path / "a.tar", 2)))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(DataError, match=r"no room to unpack it in .*TMPDIR"):
        Source(size=16, path=tmp_path / "a.tar.gz")


def test_nothing_is_left_of_what_was_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tar_of(tmp_path / "a.tar", 2)))
    source = Source(size=16, path=tmp_path / "a.tar.gz")
    assert source.read(1).image.shape == (3, 16, 16)
    assert list((tmp_path / "temporary").iterdir()) == []


# --- names ------------------------------------------------------------------------------------------------------------


def test_later_members_of_a_name_take_the_place_of_earlier_ones(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as packed:
        for seed in (0, 1):
            about = tarfile.TarInfo("a.png")
            about.size = len(png(seed))
            packed.addfile(about, io.BytesIO(png(seed)))
    source = Source(size=16, path=tmp_path / "a.tar")
    assert source.passed_over == {"members that a later one of the same name replaces": 1}
    expected = Source(size=16, path=pack(tmp_path / "b.tar", {"a.png": png(1)}))
    assert torch.equal(source.read(0).image, expected.read(0).image)


@pytest.mark.parametrize("kind", ["a.tar", "a.zip"])
def test_backslashes_part_folders_where_nothing_else_does(tmp_path: Path, kind: str) -> None:
    members = {"set\\0.png": png(0), "set\\in\\1.png": png(1), "..\\up.png": png(2), "C:\\x\\2.png": png(3)}
    table = {"set\\metadata.csv": b"file_name,text\n0.png,Harbour 12\nin/1.png,Meadow 47\n"}
    source = Source(size=None, path=pack(tmp_path / kind, members | table))
    assert source.ids == ["set/0.png", "set/in/1.png"]
    assert [source.read(index).lines[0].text for index in range(2)] == ["Harbour 12", "Meadow 47"]
    assert source.passed_over == {"names that lead out": 2}
    mixed = Source(size=None, path=pack(tmp_path / f"b{kind[1:]}", {"a\\b.png": png(0), "c/d.png": png(1)}))
    assert mixed.ids == ["a\\\\b.png", "c/d.png"]


def test_names_in_another_normal_form_are_found(tmp_path: Path) -> None:
    for name, said in (("cafe\u0301.png", "caf\u00e9.png"), ("caf\u00e9.png", "cafe\u0301.png")):
        table = f"file_name,text\n{said},Harbour 12\n".encode()
        source = Source(size=None, path=pack(tmp_path / "a.zip", {name: png(0), "metadata.csv": table}))
        assert source.read(0).lines[0].text == "Harbour 12"


def legacy_zip(path: Path, members: Mapping[bytes, bytes], extra: Mapping[bytes, bytes] | None = None) -> Path:
    """Pack names as bytes without saying what they are, as programs did before 2006 and some still do."""
    with zipfile.ZipFile(path, "w") as packed:
        for number, (name, content) in enumerate(members.items()):
            about = zipfile.ZipInfo("xyz"[number] * len(name))
            about.extra = (extra or {}).get(name, b"")
            packed.writestr(about, content)
    said = path.read_bytes()
    for number, name in enumerate(members):
        said = said.replace(b"xyz"[number : number + 1] * len(name), name)
    path.write_bytes(said)
    return path


def test_names_of_a_zip_that_names_no_encoding(tmp_path: Path) -> None:
    utf8, cp437, shift_jis = "grüße.png".encode(), "é.png".encode("cp437"), "写真写真.png".encode("shift-jis")
    assert Source(size=16, path=legacy_zip(tmp_path / "mac.zip", {utf8: png(0)})).ids == ["grüße.png"]
    assert Source(size=16, path=legacy_zip(tmp_path / "dos.zip", {cp437: png(0)})).ids == ["é.png"]
    stated = "写真写真.png".encode()
    field = b"\x01" + struct.pack("<I", zlib.crc32(shift_jis)) + stated
    extra = {shift_jis: struct.pack("<HH", 0x7075, len(field)) + field}
    assert Source(size=16, path=legacy_zip(tmp_path / "info.zip", {shift_jis: png(0)}, extra)).ids == ["写真写真.png"]
    table = {b"metadata.csv": "file_name,text\n写真写真.png,x\n".encode()}
    path = legacy_zip(tmp_path / "japan.zip", {shift_jis: png(0), **table})
    with pytest.raises(DataError, match="the archive doesn't say the encoding of its names: pack it again"):
        Source(size=16, path=path)
    assert len(Source(size=16, path=path, text=False)) == 1  # the picture itself is read all the same


def test_links_in_a_zip_that_stay_inside_are_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("in/good.png", png(1))
        for name, target in (("a.png", "in/good.png"), ("in/b.png", "good.png"), ("out.png", "../good.png")):
            link = zipfile.ZipInfo(name)
            link.external_attr = 0o120777 << 16
            packed.writestr(link, target)
    source = Source(size=16, path=tmp_path / "a.zip")
    assert source.ids == ["a.png", "in/b.png", "in/good.png"]
    assert source.passed_over == {"links that lead out of the archive": 1}
    assert torch.equal(source.read(0).image, source.read(2).image)


@pytest.mark.parametrize("kind", KINDS)
def test_companions_of_a_mac_are_passed_over_and_counted(tmp_path: Path, kind: str) -> None:
    members = {
        "./0.png": png(0), "./._0.png": b"\0\5\26\7", "./0.txt": b"Harbour 12", "./._0.txt": b"\0\5\26\7",
        "__MACOSX/._0.png": b"\0\5\26\7", ".ipynb_checkpoints/0-checkpoint.png": png(0), ".DS_Store": b"x",
        "0.seg.png": png(1), "1.heic": b"x",
    }  # fmt: skip
    source = Source(size=None, path=pack(tmp_path / kind, members))
    assert source.ids == ["0.png"] and source.read(0).lines[0].text == "Harbour 12"
    assert source.passed_over == {
        "companions (._*)": 2, ".heic files, which are not read": 1, "files in .ipynb_checkpoints": 1,
        "masks beside their pictures": 1,
    }  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_without_an_ending_and_hidden_ones_are_counted(tmp_path: Path, kind: str) -> None:
    (tmp_path / "set").mkdir()
    path = pack(tmp_path / "set" / kind, {"0.png": png(0), "1": png(1), "README": b"x", ".2.png": png(2)})
    for place in (path, path.parent):
        assert Source(size=None, path=place).passed_over == {"hidden files": 1, "pictures without an ending": 1}
    (path.parent / "beside").write_bytes(png(3))
    assert Source(size=None, path=path.parent).passed_over["pictures without an ending"] == 2


# --- shards -----------------------------------------------------------------------------------------------------------


def shards(place: Path, kind: str = "tar") -> Path:
    place.mkdir()
    for number in range(3):
        members = {f"{seed}.png": png(10 * number + seed) for seed in range(2)}
        pack(place / f"x-{number:03d}.{kind}", members | {"0.txt": f"text {number}".encode()})
    return place


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
@pytest.mark.parametrize("pattern", ["x-{000..002}.", "x-*.", "x-00[0-2].", "x-{000,001,002}.", ""])
def test_shards_are_one_set(tmp_path: Path, kind: str, pattern: str) -> None:
    place = shards(tmp_path / "set", kind)
    (place / "._x-000.tar").write_bytes(b"\0\5\26\7")
    task = load_task("kodak", data=place / f"{pattern}{kind}" if pattern else place, label="set")
    source = Source(size=None, path=place / f"{pattern}{kind}" if pattern else place)
    assert source.ids == [f"x-{number:03d}/{seed}.png" for number in range(3) for seed in range(2)]
    assert len(task) == 6 and task.card.data.source == "archive"
    assert [source.read(index).lines[0].text for index in (0, 2, 4)] == ["text 0", "text 1", "text 2"]
    single = Source(size=None, path=place / f"x-001.{kind}")
    assert torch.equal(source.read(3).image, single.read(1).image)


def test_archives_at_any_depth_are_one_set(tmp_path: Path) -> None:
    place = tmp_path / "set"
    (place / "more" / "in").mkdir(parents=True)
    for seed, name in enumerate(("a.tar", "b.zip", "more/a.tar", "more/in/c.tgz")):
        pack(place / name, {"x.png": png(seed), "in/y.png": png(10 + seed)})
    assert len(load_task("kodak", data=place)) == 8
    source = Source(size=None, path=place)
    assert source.ids == [
        f"{stem}/{name}" for stem in ("a", "b", "more/a", "more/in/c") for name in ("in/y.png", "x.png")
    ]
    single = Source(size=None, path=place / "more" / "a.tar")
    assert torch.equal(source.read(5).image, single.read(1).image)
    assert source.passed_over == {}
    (place / "more" / "d.tar").symlink_to("nothing.tar")
    with pytest.raises(DataError, match=r"more/d\.tar: is a link to nothing; bring what it points to"):
        load_task("kodak", data=place)
    (place / "more" / "d.tar").unlink()
    (place / "a").mkdir()
    pack(place / "a" / "in.tar", {"y.png": png(0)})
    with pytest.raises(DataError, match=r"a/in\.tar: a/in/y\.png is in a as well"):
        Source(size=None, path=place)


def test_what_lies_beside_archives_is_counted(tmp_path: Path) -> None:
    place = shards(tmp_path / "set")
    (tmp_path / "away").mkdir()
    pack(tmp_path / "away" / "y.tar", {"0.png": png(0)})
    (place / "x-003.tar").symlink_to(tmp_path / "away" / "y.tar")  # a shard on another disk is one
    (place / "away").symlink_to(tmp_path / "away")
    for name in (
        "a.heic", "a.parquet", "._x-000.tar", "b.tar.bz2", "c.7z", "x-004.tar.part", "__MACOSX/x-000.tar", "notes.md",
    ):  # fmt: skip
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_bytes(b"x")
    (place / "gone.png").symlink_to("nothing")
    source = Source(size=None, path=place)
    assert len(source) == 7 and source.ids[-1] == "x-003/0.png"
    assert source.passed_over == {
        ".heic files, which are not read": 1, "archives and tables of pictures, which are read on their own": 1,
        "companions (._*)": 1, "archives of other kinds, which are not read": 2, "files in __MACOSX": 1,
        "backups and downloads that are not whole": 1, "links to nothing": 1,
        "links to folders, which are not entered here": 1,
    }  # fmt: skip
    (place / "a.parquet").unlink()  # without it, the folder is one of archives for a task too
    assert load_task("kodak", data=place).found == len(source) + sum(source.passed_over.values()) - 1


def test_missing_and_damaged_shards_are_one_line(tmp_path: Path) -> None:
    place = shards(tmp_path / "set")
    for pattern, message in (
        ("x-{000..003}.tar", r"x-003\.tar: does not exist, one of the 4 that .* stands for"),
        ("y-*.tar", "does not exist"),
        ("x-{3..1}.tar", "is no range"),
        ("x-{0..999999999}.tar", "is no range"),
        ("x-{0..999}{0..999}.tar", "stands for 1000000 files"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            load_task("kodak", data=place / pattern)
        assert "\n" not in str(caught.value)
    (place / "x-001.tar").write_bytes((place / "x-001.tar").read_bytes()[:600])
    with pytest.raises(DataError, match=r"x-001\.tar: not a whole archive"):
        load_task("kodak", data=place)
    for kind in ("tar", "tar.gz"):
        other = tmp_path / f"parts of {kind}"
        other.mkdir()
        for number in (0, 2):
            pack(other / f"v-{number:05d}-of-00003.{kind}", {"a.png": png(number)})
        with pytest.raises(DataError, match="2 of 3 parts are there"):
            load_task("kodak", data=other)


@pytest.mark.parametrize("name", ["c-{}-of-00003", "c_{}_of_00003", "c-{}-of-00003-0123abc", "c_{}_of_00003_0123abc"])
def test_parts_that_say_how_many_they_are_are_all_there(tmp_path: Path, name: str) -> None:
    for number in range(2):
        pack(tmp_path / f"{name.format(f'{number:05d}')}.tar", {"a.png": png(number)})
    with pytest.raises(DataError, match=r"c: 2 of 3 parts are there; bring the others as well"):
        Source(size=16, path=tmp_path)
    pack(tmp_path / f"{name.format('00002')}.tar", {"a.png": png(2)})
    assert len(Source(size=16, path=tmp_path)) == 3


def test_a_table_beside_archives_speaks_of_their_pictures(tmp_path: Path) -> None:
    place = tmp_path / "set"
    (place / "more").mkdir(parents=True)
    for name in ("x.tar", "more/y.zip"):
        pack(place / name, {"0.png": png(0), "in/1.png": png(1)})
    (place / "metadata.csv").write_text("file_name,text,kind\nx/0.png,Harbour 12,quay\nx/in/1.png,Meadow 47,field\n")
    (place / "more" / "metadata.jsonl").write_text('{"file_name": "y/0.png", "text": "Lantern 98"}')
    task = load_task("text", data=place)
    said = {task.source.ids[index]: [line.text for line in task.read(index).lines] for index in range(4)}
    assert said == {"more/y/0.png": ["Lantern 98"], "more/y/in/1.png": [], "x/0.png": ["Harbour 12"],
                    "x/in/1.png": ["Meadow 47"]}  # fmt: skip
    assert "kind" in task.source.attributes
    (place / "metadata.csv").write_text("file_name,text\n0.png,Harbour 12\n")
    with pytest.raises(DataError, match=r"metadata\.csv: row 1 .*names '0\.png', which is not among the pictures"):
        load_task("text", data=place)


def test_shards_of_one_name_are_refused(tmp_path: Path) -> None:
    for kind in ("tar", "zip"):
        pack(tmp_path / f"x.{kind}", {"a.png": png(0)})
    with pytest.raises(DataError, match="two archives are called x"):
        Source(size=16, path=tmp_path)


def test_archive_that_is_cut_while_it_is_read_ends_the_run(tmp_path: Path) -> None:
    for after in (False, True):
        tar_of(tmp_path / "a.tar", 3)
        source = Source(size=16, path=tmp_path / "a.tar")
        if after:
            assert len(source.digest) == 64
        os.truncate(tmp_path / "a.tar", 1000)
        with pytest.raises(ChangedError if after else DataError, match=r"^1\.png: \d+ of its bytes are missing"):
            source.read(1)


def test_member_that_fails_names_its_shard(tmp_path: Path) -> None:
    place = shards(tmp_path / "set", "zip")
    content = bytearray((place / "x-001.zip").read_bytes())
    content[content.index(b"1.png") + 200] ^= 0xFF
    (place / "x-001.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"^x-001/1\.png: can't be read"):
        Source(size=16, path=place).read(3)


# --- damage at any byte -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["a.tar", "a.tar.gz", "a.zip"])
def test_a_flipped_byte_is_an_error_of_one_line_or_harmless(tmp_path: Path, kind: str) -> None:
    """No traceback, and never fewer pictures without a word."""
    members = {f"{seed}.png": png(seed) for seed in range(3)} | {"metadata.csv": b"file_name,text\n0.png,word\n"}
    whole = pack(tmp_path / kind, members).read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(300):
        content = bytearray(whole)
        content[int(generator.integers(len(whole)))] ^= int(generator.integers(1, 256))
        (tmp_path / kind).write_bytes(content)
        try:
            source = Source(size=8, path=tmp_path / kind, text=False)
        except DataError as error:
            assert "\n" not in str(error)
            continue
        named = sum(name.endswith(".png") for name in source.ids)
        assert named + sum(source.passed_over.values()) >= 2  # a name may have been hit, and then ends otherwise
        for index in range(len(source)):
            try:
                source.read(index)
            except DataError as error:
                assert "\n" not in str(error)
