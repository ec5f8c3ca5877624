import csv
import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from vtbench import cards, geometry, images
from vtbench.data import open_source, sample
from vtbench.errors import DataError

POOL = Path(__file__).resolve().parents[2] / "training" / "pool.csv"


@pytest.fixture(scope="module", params=[256, 512])
def source(request):
    opened = sample.Source(size=request.param)
    assert opened.index.size == request.param
    return opened


def test_every_picture_is_what_the_index_says(source):
    seen = set()
    for index, entry in enumerate(source.index.pictures):
        picture = source.read(index)
        assert picture.id == entry.id == source.sample_id(index)
        assert picture.image.dtype == torch.uint8 and picture.image.shape == (3, source.index.size, source.index.size)
        assert picture.attributes == {"category": entry.category}
        assert entry.category in {"photo", "texture", "science", "graphic"}
        pixels = picture.image.permute(1, 2, 0).contiguous().numpy().tobytes()
        assert hashlib.sha256(pixels).hexdigest() == entry.sha256
        seen.add(entry.sha256)
    assert len(seen) == len(source) == {256: 29, 512: 17}[source.index.size]


def test_files_are_lossless_webp_and_all_are_indexed(source):
    files = sorted(path.name for path in source.folder.glob("*.webp"))
    assert files == sorted(entry.file for entry in source.index.pictures)
    for file in files:
        data = (source.folder / file).read_bytes()
        assert data[12:16] == b"VP8L", file  # the lossless bitstream
        with Image.open(source.folder / file) as picture:
            assert picture.size == (source.index.size, source.index.size)
    most = {256: 3_000_000, 512: 6_000_000}[source.index.size]
    assert sum((source.folder / file).stat().st_size for file in files) < most


def test_every_picture_is_credited_under_a_free_licence_without_share_alike(source):
    page = (source.folder / "LICENSES.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (\S+\.webp) \|(.+)$", page, re.MULTILINE))
    for entry in source.index.pictures:
        assert entry.license in {"CC0 1.0", "CC BY 2.0", "CC BY 4.0", "Public domain", "Apache-2.0"}
        for said in (entry.title, entry.author, entry.license, entry.license_url, entry.source, entry.change):
            assert said and said in rows[entry.file], (entry.file, said)
    assert len(rows) == len(source)


def test_nothing_at_512_was_enlarged():
    for entry in sample.Source(size=512).index.pictures:
        side = re.fullmatch(r"resized and cropped from (\d+)x(\d+)", entry.change)
        assert entry.change in {"rendered", "same pixels"} or min(map(int, side.groups())) >= 512, entry.id


def test_no_picture_is_one_that_the_tiny_tokenizers_were_trained_on(source):
    with POOL.open(encoding="utf-8", newline="") as file:
        trained = {(row["package"], Path(row["path"]).name) for row in csv.DictReader(file)}
    assert ("lomiri-wallpapers-16.04", "umang_by_Abhishek_Mudgal.jpg") in trained  # same names as the index gives
    for entry in source.index.pictures:
        release, _, name = entry.package.partition(": ")
        assert (release.removeprefix("Debian ").split(" ")[0], name) not in trained, entry.id


def test_a_set_is_brought_to_the_sizes_of_networks_that_take_no_other():
    for size, own in sample.SHRUNK.items():
        small, whole = sample.Source(size=size), sample.Source(size=own)
        assert [small.sample_id(index) for index in range(len(small))] == [
            whole.sample_id(index) for index in range(len(whole))
        ]
        assert small.digest != whole.digest
        expected = geometry.resize_and_crop(images.to_pil(whole.read(2).image), size)
        assert torch.equal(small.read(2).image, images.from_pil(expected))


@pytest.mark.parametrize("size", [128, 384, 1024])
def test_another_size_is_refused_with_all_numbers(size):
    with pytest.raises(DataError, match=rf"256x256 and 512x512, the task asks for {size}x{size}; .* 256 or 512"):
        sample.Source(size=size)


def test_a_path_is_refused(tmp_path):
    with pytest.raises(DataError, match="take no path"):
        sample.Source(size=256, path=tmp_path)


def test_changed_pixels_are_noticed(tmp_path, monkeypatch):
    for file in (path for path in sample.FOLDER.iterdir() if path.is_file()):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(sample, "FOLDER", tmp_path)
    with Image.open(tmp_path / "astronaut.webp") as opened:
        picture = opened.convert("RGB")
    picture.putpixel((3, 4), (1, 2, 3))
    picture.save(tmp_path / "astronaut.webp", lossless=True)
    with pytest.raises(DataError, match=r"astronaut\.webp: pixels have sha256"):
        sample.Source(size=256).read(0)


def test_digest_changes_with_a_picture(source, tmp_path, monkeypatch):
    said = json.loads((source.folder / "index.json").read_text(encoding="utf-8"))
    said["pictures"][5]["sha256"] = "0" * 64
    changed = tmp_path / source.folder.relative_to(sample.FOLDER)
    changed.mkdir(exist_ok=True)
    (changed / "index.json").write_text(json.dumps(said), encoding="utf-8")
    before = source.digest
    monkeypatch.setattr(sample, "FOLDER", tmp_path)
    assert sample.Source(size=source.index.size).digest != before


def test_a_damaged_index_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "index.json").write_text('{"size": "big"}')
    monkeypatch.setattr(sample, "FOLDER", tmp_path)
    with pytest.raises(DataError, match="install vtbench again") as caught:
        sample.Source(size=256)
    assert "\n" not in str(caught.value)


def test_task_cards_open_their_sources_and_group_by_what_the_samples_have():
    found = cards.tasks()
    assert {"reconstruction", "reconstruction-512", "detail", "text"} <= set(found)
    for name, count in (("reconstruction", 29), ("reconstruction-512", 17), ("detail", 33), ("text", 27)):
        card = found[name]
        opened = open_source(card.data.source, size=card.geometry.size)
        assert len(opened) == count
        assert f"{count} " in card.description
        assert set(card.group_by) <= {key for index in range(count) for key in opened.read(index).attributes}
        assert card.primary in card.metrics


def test_the_annotated_card_in_the_readme_loads(tmp_path):
    text = (cards.folder("tasks") / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    path = tmp_path / "my-photos.toml"
    path.write_text(block, encoding="utf-8")
    card = cards.load(path, cards.TaskCard)
    said = {line.split("=")[0].strip() for line in block.splitlines() if "=" in line.split("#")[0]}
    fields = set(cards.TaskCard.model_fields) - {"data", "geometry"}
    assert said == fields | set(cards.Data.model_fields) | set(cards.Geometry.model_fields)  # it shows every key
    assert (Path(sample.__file__).parent / f"{card.data.source}.py").is_file()
