import os
import struct
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vtbench import cards, geometry, images, load_task, results
from vtbench.backbones import foundation
from vtbench.cli import report, run
from vtbench.data import archive
from vtbench.data._shards import below
from vtbench.data.folder import Source, printable
from vtbench.errors import CardError, DataError, ResultError, WeightsError
from vtbench.networks.diffusers import card_for, load_folder


def picture(width=40, height=30, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def ids(source):
    return [source.sample_id(index) for index in range(len(source))]


def only(folder, size=16):
    source = Source(size=size, path=folder)
    assert len(source) == 1
    return source.read(0).image


def test_sorted_recursive_walk_with_relative_ids(tmp_path):
    for name in ("b/2.png", "b/10.PNG", "a.jpg", "c/d/e.webp", "b.bmp", "z.GIF", "v.ppm", "w.tif", "x.avif", "y.jxl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture().save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "folder.png").mkdir()
    source = Source(size=16, path=tmp_path)
    assert ids(source) == [
        "a.jpg", "b.bmp", "b/10.PNG", "b/2.png", "c/d/e.webp", "v.ppm", "w.tif", "x.avif", "y.jxl", "z.GIF",
    ]  # fmt: skip
    for index in range(len(source)):
        sample = source.read(index)
        assert sample.id == source.sample_id(index)
        assert sample.image.shape == (3, 16, 16) and sample.image.dtype == torch.uint8


@pytest.mark.parametrize("shape", [(40, 30), (30, 41), (8, 11)])
def test_pixels_follow_the_canonical_rule_also_when_enlarging(tmp_path, shape):
    picture(*shape).save(tmp_path / "a.png")
    expected = images.from_pil(geometry.resize_and_crop(picture(*shape), 16))
    assert torch.equal(only(tmp_path), expected)


def test_empty_missing_and_file_paths_are_one_line_errors(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    for path, said in (
        (tmp_path, "holds no picture"),
        (tmp_path / "no", "does not exist"),
        (tmp_path / "a.txt", "file"),
    ):
        with pytest.raises(DataError, match=said) as caught:
            Source(size=16, path=path)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="--data"):
        Source(size=16)


def hostile(folder):
    picture(64, 64).save(folder / "whole.png")
    data = (folder / "whole.png").read_bytes()
    (folder / "truncated.png").write_bytes(data[: len(data) // 2])
    (folder / "header-only.png").write_bytes(data[:20])
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 0xFF
    (folder / "flipped-bit.png").write_bytes(damaged)
    picture(64, 64).save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:-200])
    (folder / "zero.png").write_bytes(b"")
    (folder / "text.png").write_text("this is not a picture\n")
    (folder / "zero.jxl").write_bytes(b"")
    picture(64, 64).save(folder / "cut.jxl")
    (folder / "cut.jxl").write_bytes((folder / "cut.jxl").read_bytes()[:300])
    # A valid head that claims 100,000 x 100,000 pixels.
    (folder / "bomb.ppm").write_bytes(b"P6 100000 100000 255\n" + bytes(100))
    (folder / "fake.bmp").write_bytes(b"BM" + struct.pack("<IHHI", 0xFFFFFFFF, 0, 0, 54))
    return {path.name for path in folder.iterdir()} - {"whole.png"}


def test_each_broken_picture_fails_alone_with_a_reason(tmp_path):
    broken = hostile(tmp_path)
    source = Source(size=16, path=tmp_path)
    assert len(source) == len(broken) + 1
    for index, name in enumerate(ids(source)):
        if name == "whole.png":
            assert source.read(index).image.shape == (3, 16, 16)
            continue
        with pytest.raises(DataError) as caught:
            source.read(index)
        assert name in str(caught.value) and "\n" not in str(caught.value)
    assert len(source.digest) == 64


def test_one_pixel_is_enlarged(tmp_path):
    Image.new("RGB", (1, 1), (10, 20, 30)).save(tmp_path / "a.png")
    assert torch.equal(only(tmp_path), torch.tensor([10, 20, 30], dtype=torch.uint8)[:, None, None].expand(3, 16, 16))


def test_exif_turns_the_picture(tmp_path):
    original = Image.new("RGB", (32, 32), "black")
    original.paste((255, 255, 255), (0, 0, 32, 16))  # white above
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    original.save(tmp_path / "a.png", exif=exif)
    shown = only(tmp_path, size=32)
    assert shown[:, :, :8].min() == 0 and shown[:, :, :8].max() == 0  # what was below is on the left
    assert shown[:, :, 24:].min() == 255


def test_modes_become_rgb(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=100)
    Image.fromarray(np.full((16, 16), 0x8080, dtype=np.uint16)).save(tmp_path / "deep.png")
    clear = Image.new("P", (16, 16), 0)
    clear.putpalette([200, 10, 10, 0, 0, 255])
    clear.save(tmp_path / "palette.png", transparency=0)
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("#ff0000", "#00ff00")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    source = Source(size=16, path=tmp_path)
    found = {name: source.read(index).image for index, name in enumerate(ids(source))}
    assert all(image.shape == (3, 16, 16) for image in found.values())
    red = torch.tensor([255, 0, 0])[:, None, None]
    assert (found["cmyk.jpg"].int() - red).abs().max() <= 4  # JPEG
    assert found["palette.png"].min() == 255  # transparent, so white
    assert torch.equal(found["moving.gif"].int(), red.expand(3, 16, 16).int())  # the first frame


def test_odd_names_become_distinct_printable_ids(tmp_path):
    names = [
        b"a b.png",
        b"new\nline.png",
        b"\xff\xfe.png",
        b"\\xff\xfe.png",
        b"\x85.png",
        "\x85.png".encode(),
        "ü.png".encode(),
    ]
    for name in names:
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:  # noqa: PTH118, PTH123
            picture().save(file, "PNG")
    source = Source(size=16, path=tmp_path)
    assert len(set(ids(source))) == len(source) == len(names)
    assert all(name.isprintable() and name.encode() for name in ids(source))
    assert {"a b.png", "new\\nline.png", "\\xff\\xfe.png", "\\\\xff\\xfe.png", "ü.png"} <= set(ids(source))
    for index in range(len(source)):
        assert source.read(index).image.shape == (3, 16, 16)
    assert printable(Path("a/b.png")) == "a/b.png"


def test_links_inside_are_read_links_outside_are_not(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    picture().save(inside / "a.png")
    picture().save(outside / "secret.png")
    (inside / "b.png").symlink_to("a.png")
    (inside / "c.png").symlink_to(outside / "secret.png")
    (inside / "away").symlink_to(outside)
    (inside / "round").symlink_to(inside)
    (inside / "notes.txt").symlink_to(outside / "secret.png")  # never meant as a picture
    (inside / "loop.png").symlink_to("loop.png")
    (inside / "broken.png").symlink_to("nothing.png")
    os.mkfifo(inside / "pipe.png")
    source = Source(size=16, path=inside)
    assert ids(source) == ["a.png", "b.png"]
    assert source.passed_over == {
        "links to nothing": 2, "links in a circle": 1, "links that lead out": 1, "links to folders": 1,
        "pipes and devices": 1,
    }  # fmt: skip
    followed = Source(size=16, path=inside, follow_links=True)
    assert ids(followed) == ["a.png", "away/secret.png", "b.png", "c.png"]
    assert followed.passed_over == {"links to nothing": 2, "links in a circle": 1, "pipes and devices": 1}
    assert all(followed.read(index).image.shape == (3, 16, 16) for index in range(4))


def test_folders_that_link_to_each_other_are_entered_once_a_way(tmp_path):
    for name in "ab":
        (tmp_path / "r" / name).mkdir(parents=True)
    picture().save(tmp_path / "r" / "a" / "1.png")
    picture().save(tmp_path / "r" / "b" / "2.png")
    (tmp_path / "r" / "a" / "l").symlink_to("../b")
    (tmp_path / "r" / "b" / "m").symlink_to("../a")
    source = Source(size=16, path=tmp_path / "r", follow_links=True)
    assert ids(source) == ["a/1.png", "a/l/2.png", "b/2.png", "b/m/1.png"]
    assert source.passed_over == {"links in a circle": 2}
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "back").symlink_to(tmp_path)  # above the folder itself
    (tmp_path / "r" / "c").symlink_to(tmp_path / "away")
    source = Source(size=16, path=tmp_path / "r", follow_links=True)
    assert len(source) == 4 and source.passed_over == {"links in a circle": 3}


def test_folder_of_nothing_but_links_says_how_to_follow_them(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        picture().save(tmp_path / name)
        (tmp_path / "in" / name).symlink_to(tmp_path / name)
    with pytest.raises(DataError, match=r"passed over: 2 links that lead out; follow_links \(--follow-links\)"):
        Source(size=16, path=tmp_path / "in")
    task = load_task("kodak", data=tmp_path / "in", follow_links=True)
    assert len(task) == task.found == 2


def test_hubs_own_cache_is_followed_within_its_repository(tmp_path):
    repository = tmp_path / "datasets--a--b"
    snapshot = repository / "snapshots" / "0123abc"
    (snapshot / "data").mkdir(parents=True)
    (repository / "blobs").mkdir()
    picture().save(repository / "blobs" / "beef", "PNG")
    picture().save(tmp_path / "secret.png")
    (snapshot / "data" / "a.png").symlink_to("../../../blobs/beef")
    (snapshot / "data" / "out.png").symlink_to(tmp_path / "secret.png")
    for place in (snapshot, snapshot / "data", repository):
        source = Source(size=16, path=place)
        assert len(source) == 1 and source.read(0).image.shape == (3, 16, 16)
        assert source.passed_over == {"links that lead out": 1}


def test_what_is_passed_over_is_counted_by_kind(tmp_path):
    for name in (
        "a.png", "._a.png", "__MACOSX/a.png", "__MACOSX/._a.png", ".ipynb_checkpoints/a-checkpoint.png", "b/0001.jpg",
        "b/0001.seg.png", "b/0001.Depth.PNG", "@eaDir/a.png", "c.heic", "c.DNG", "d.svg", "v1.0.png", "v1.1.png",
        "only.mask.png",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture().save(tmp_path / name, "PNG")
    for name in ("notes.txt", "._notes.txt", "a.pdf", "c.mp4"):  # never meant as pictures
        (tmp_path / name).write_text("x")
    (tmp_path / "more.tar.gz").write_bytes(b"x")
    source = Source(size=16, path=tmp_path)
    assert ids(source) == ["a.png", "b/0001.jpg", "only.mask.png", "v1.0.png", "v1.1.png"]
    assert source.passed_over == {
        "companions (._*)": 2, "masks beside their pictures": 2, ".dng files, which are not read": 1,
        ".heic files, which are not read": 1, ".svg files, which are not read": 1, "files in .ipynb_checkpoints": 1,
        "files in __MACOSX": 1, "files in @eaDir": 1,
        "archives and tables of pictures, which are read on their own": 1,
    }  # fmt: skip
    (tmp_path / "phone").mkdir()
    for index in range(2):
        (tmp_path / "phone" / f"{index}.HEIC").write_bytes(b"x")
    with pytest.raises(DataError, match=r"holds no picture that is read; passed over: 2 \.heic files"):
        Source(size=16, path=tmp_path / "phone")


def test_hidden_pictures_and_names_that_do_not_end_as_pictures_do_are_counted(tmp_path):
    names = ("a.png", "b", "c.jpg.1", "d.jpg?w=3", "e.png:large", "f.tar.gz.2", "g.jpg?x=1.png", ".trashed-1-x.jpg")
    for name in (*names, ".git/x.png", ".git/lfs/objects/beef", "in/LICENSE"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture().save(tmp_path / name, "PNG")
    for name in ("in/LICENSE", "v1.2", "notes.txt.1"):
        (tmp_path / name).write_text("x")
    source = Source(size=16, path=tmp_path)
    assert ids(source) == ["a.png", "g.jpg?x=1.png"]
    assert source.passed_over == {
        "names that go on behind the ending": 4, "hidden files": 2, "pictures without an ending": 1,
    }  # fmt: skip
    for name in ("a.png", "g.jpg?x=1.png"):
        (tmp_path / name).unlink()
    with pytest.raises(DataError, match=r"give those without an ending theirs \(\.jpg, \.png\)"):
        Source(size=16, path=tmp_path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "JXL", "JPEG2000"])
def test_pictures_without_an_ending_are_told_by_their_first_bytes(tmp_path, kind):
    picture().save(tmp_path / "b", kind)
    picture().save(tmp_path / "a.png")
    assert Source(size=16, path=tmp_path).passed_over == {"pictures without an ending": 1}


def test_pictures_under_other_endings_are_counted_where_pictures_lie(tmp_path):
    names = ("scan.2021", "Mr. Smith", "u.dat", "x.jpg_large", "y.jpg!d", "z.jpg@w=3", "w.jpg (1)", "v.jpg - Copy")
    (tmp_path / "in").mkdir()
    for name in ("a.png", *names, "notes.txt", ".x.dat", "in/beef.dat"):
        picture().save(tmp_path / name, "PNG")
    (tmp_path / "t.pam").write_bytes(b"P7\n")
    (tmp_path / "other.dat").write_bytes(b"x")
    source = Source(size=16, path=tmp_path)
    assert ids(source) == ["a.png"]
    assert source.passed_over == {"pictures under other endings": 8, ".pam files, which are not read": 1}
    (tmp_path / "a.png").unlink()
    (tmp_path / "t.pam").unlink()
    with pytest.raises(DataError, match=r"9 pictures under other endings; give those under other endings theirs"):
        Source(size=16, path=tmp_path)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        for name in ("0.png", "1.2021"):
            packed.write(tmp_path / "u.dat", name)
    assert archive.Source(size=16, path=tmp_path / "a.zip").passed_over == {"pictures under other endings": 1}


@pytest.mark.parametrize("name", ["a.txt", "metadata.csv"])
def test_text_behind_a_link_that_leads_out_is_told(tmp_path, name, caplog):
    (tmp_path / "in").mkdir()
    picture().save(tmp_path / "in" / "a.png")
    (tmp_path / "away").write_text("Lantern" if name == "a.txt" else "file_name,text\na.png,Lantern\n")
    (tmp_path / "in" / name).symlink_to(tmp_path / "away")
    with pytest.raises(
        DataError, match=rf"{name}: .*link that leads out of the folder; follow_links \(--follow-links\)"
    ):
        load_task("text", data=tmp_path / "in")
    assert len(load_task("kodak", data=tmp_path / "in")) == 1  # pixels alone are wanted
    assert ("leads out of the folder" in caplog.text) == (name == "metadata.csv")
    task = load_task("text", data=tmp_path / "in", follow_links=True)
    assert task.read(0).lines[0].text == "Lantern"
    for target in ("nothing", name):  # the latter in a circle
        (tmp_path / "in" / name).unlink()
        (tmp_path / "in" / name).symlink_to(target)
        with pytest.raises(DataError, match=rf"{name}: is a link to nothing; bring what it points to, or remove"):
            load_task("text", data=tmp_path / "in")


@pytest.mark.parametrize("target", ["../away", "nothing"])
def test_a_class_behind_a_link_that_is_not_followed_stops_no_text(tmp_path, target):
    (tmp_path / "in").mkdir()
    picture().save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "a.txt").write_text("Lantern")
    (tmp_path / "away").write_text("3")
    (tmp_path / "in" / "a.cls").symlink_to(target)
    assert load_task("text", data=tmp_path / "in").read(0).lines[0].text == "Lantern"


def test_the_folder_itself_may_be_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    picture().save(tmp_path / "real" / "a.png")
    (tmp_path / "link").symlink_to("real")
    assert ids(Source(size=16, path=tmp_path / "link")) == ["a.png"]


@pytest.fixture
def as_somebody():
    """A folder of somebody's who is not root, whom no permission binds."""
    import huggingface_hub.file_download  # noqa: F401  imported late else, and somebody may not read where Python lies

    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        root = os.geteuid() == 0
        try:
            if root:
                os.chown(place, 65534, -1)
                os.seteuid(65534)
            yield Path(place)
        finally:
            for folder in (Path(place), *Path(place).iterdir()):
                folder.chmod(0o755)
            if root:
                os.seteuid(0)


@pytest.mark.parametrize("locked", ["a", "a/b"])
def test_folder_that_may_not_be_searched_is_one_line(as_somebody, locked):
    (as_somebody / "a").mkdir()
    (as_somebody / "a" / "b").mkdir()
    for name in ("a/0.png", "a/b/1.png"):
        picture().save(as_somebody / name)
    (as_somebody / "a" / "c.png").symlink_to(as_somebody / "a" / "b" / "1.png")
    (as_somebody / locked).chmod(0o644)
    try:
        for opened in (lambda: load_task("reconstruction", data=as_somebody / "a"), lambda: below(as_somebody / "a")):
            with pytest.raises(DataError, match=rf"{locked}: can't be listed .*check the permissions$"):
                opened()
        if locked == "a":
            for place in ("a/b", "a/x.parquet", "a/x-*.tar"):
                with pytest.raises(DataError, match=r"can't be listed .*check the permissions$"):
                    load_task("reconstruction", data=as_somebody / place)
            said = {"task": ["reconstruction"], "tokenizer": ["jpeg-q10"], "out": as_somebody / "r"}
            with pytest.raises(DataError, match="can't be listed"):
                run.run(**said, work=as_somebody / "w", data=str(as_somebody / "a" / "b"))
            with pytest.raises(CardError, match="no such file, or none that may be read"):
                run.run(**said, work=as_somebody / "w", weights=[str(as_somebody / "a" / "0.png")])
    finally:
        (as_somebody / locked).chmod(0o755)


def test_other_places_that_may_not_be_looked_at_are_one_line(as_somebody):
    locked = as_somebody / "a"
    (locked / "b").mkdir(parents=True)
    locked.chmod(0o644)
    place = locked / "b"
    for reads in (results.read_run, lambda place: results.find_run(place, as_somebody)):
        with pytest.raises(ResultError, match=r"b: can't be read \(Permission denied\)"):
            reads(place)
    with pytest.raises(ResultError, match="no such folder"):
        results.read_runs(place)
    with pytest.raises(ResultError, match="holds no runs"):
        report.chosen([str(place)], as_somebody)
    with pytest.raises(CardError, match="no such folder"):
        cards.tasks(place)
    with pytest.raises(CardError, match="no such folder, and not OWNER/NAME"):
        card_for(str(place))
    with pytest.raises(CardError, match=r"no config\.json of an autoencoder"):
        card_for(str(locked))
    with pytest.raises(WeightsError, match="none of"):
        load_folder(locked)
    for name in ("b", "b.npz"):
        assert "no " in foundation.lacking(str(locked / name)) and not foundation.is_users(str(locked / name))
        assert foundation.digests(str(locked / name)) == {}


def test_digest_follows_names_contents_and_size_only(tmp_path):
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        picture().save(tmp_path / place / "a.png")
    first = Source(size=16, path=tmp_path / "one").digest
    assert first == Source(size=16, path=tmp_path / "two").digest
    assert first != Source(size=32, path=tmp_path / "two").digest
    (tmp_path / "two" / "a.png").rename(tmp_path / "two" / "b.png")
    assert first != Source(size=16, path=tmp_path / "two").digest
    picture(seed=1).save(tmp_path / "one" / "a.png")
    assert first != Source(size=16, path=tmp_path / "one").digest


def test_a_file_that_vanishes_fails_alone(tmp_path):
    picture().save(tmp_path / "a.png")
    source = Source(size=16, path=tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"a\.png: can't be read"):
        source.read(0)
