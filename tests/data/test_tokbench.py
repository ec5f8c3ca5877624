from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vtbench import geometry
from vtbench.data.tokbench import SETS, Source
from vtbench.errors import DataError

WORDS = [
    {"rec": "Exit", "bbox": [10, 20, 50.9, 40], "ratio": 0.2},
    {"rec": "way", "bbox": [[60, 20], [90, 22], [89, 35], [61, 33]], "ratio": 0.13},
]


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (100, 120, 3), dtype=np.uint8))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy with one picture a set, in the layout of the published data set."""
    (tmp_path / "annotations").mkdir()
    for seed, name in enumerate(SETS):
        place = tmp_path / "images" / "text_data" / name
        place.mkdir(parents=True)
        picture(seed).save(place / "img_1.png")
        picture(seed).save(place / "not-annotated.png")
        said = [{"file_name": "img_1.png", "height": 100, "width": 120, "annotations": WORDS}]
        (tmp_path / "annotations" / f"text_{name}.json").write_text(json.dumps(said))
    return tmp_path


def test_words_boxes_and_sizes_are_those_of_the_annotations(copy: Path) -> None:
    source = Source(size=None, path=copy)
    assert len(source) == len(SETS) and source.text == "boxes" and source.attributes == {"set"}
    samples = [source.read(index) for index in range(len(source))]
    assert {sample.attributes["set"] for sample in samples} == set(SETS)
    for sample in samples:
        assert [(line.text, line.box, line.ratio) for line in sample.lines] == [
            ("Exit", (10, 20, 50, 40), 0.2),
            ("way", (60, 20, 90, 35), 0.13),
        ]


def test_canvas_is_tokbenchs_own(copy: Path) -> None:
    sample = Source(size=256, path=copy).read(0)
    assert torch.equal(sample.image, geometry.fit(picture(SETS.index("cord")), "letterbox", 256))
    assert sample.lines[0].box == (21, 63, 107, 107)  # 256 / 120 across, 214 / 100 and 21 pixels down


def test_zip_is_read_in_place_and_is_the_same(copy: Path) -> None:
    plain, before = Source(size=256, path=copy), Source(size=256, path=copy).digest
    with zipfile.ZipFile(copy / "images.zip", "w") as packed:
        for file in sorted((copy / "images").rglob("*.png")):
            packed.write(file, file.relative_to(copy))
    shutil.rmtree(copy / "images")
    zipped = Source(size=256, path=copy)
    assert zipped.ids == plain.ids == [f"{name}/img_1.png" for name in sorted(SETS)]
    assert zipped.digest == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "can't be read"),
        ("{", "not an annotation file"),
        ('[{"file_name": "img_1.png"}]', "not an annotation file"),
        (
            '[{"file_name": "gone.png", "width": 1, "height": 1, "annotations": []}]',
            "has no picture text_data/ic13/gone",
        ),
    ],
)
def test_what_is_wrong_with_a_copy_is_one_line(copy: Path, content: str | None, message: str) -> None:
    file = copy / "annotations" / "text_ic13.json"
    file.unlink()
    if content is not None:
        file.write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        Source(size=256, path=copy)
    assert "\n" not in str(caught.value)


def test_picture_of_another_size_than_annotated_fails_alone(copy: Path) -> None:
    sink = io.BytesIO()
    Image.new("RGB", (10, 10)).save(sink, "PNG")
    (copy / "images" / "text_data" / "tt" / "img_1.png").write_bytes(sink.getvalue())
    source = Source(size=256, path=copy)
    index = next(index for index in range(8) if source.sample_id(index).startswith("tt/"))
    with pytest.raises(DataError, match="marked on"):
        source.read(index)
    assert source.read((index + 1) % 8).lines


def test_without_a_copy_it_says_how_to_name_one() -> None:
    with pytest.raises(DataError, match="--data"):
        Source(size=256)
