import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from vtbench import backbones, images, ocr
from vtbench.errors import DataError, WeightsError
from vtbench.metrics import cer
from vtbench.ocr.easyocr import _quiet

LINES = ("Harbour wall 1863", "seven green bottles", "Paris and Lima", "Room 204")


@pytest.fixture(scope="module")
def engine():
    return ocr.load("easyocr")


def _page(size=24, ink=(0, 0, 0), paper=(255, 255, 255)):
    page = Image.new("RGB", (336, 192), paper)
    draw, font, boxes = ImageDraw.Draw(page), ImageFont.load_default(size), []
    for index, line in enumerate(LINES):
        place = (12, 8 + 46 * index)
        draw.text(place, line, fill=ink, font=font)
        boxes.append(tuple(int(side) for side in draw.textbbox(place, line, font=font)))
    return images.from_pil(page), boxes


def test_clean_text_is_read_without_an_error_and_says_with_what(engine):
    image, boxes = _page()
    assert engine.read_boxes(image, boxes) == list(LINES)
    assert engine.name == "easyocr"
    assert engine.version.startswith("1.")
    assert engine.digests == backbones.digests("easyocr")


def test_a_page_is_read_in_reading_order(engine):
    image, _ = _page()
    assert engine.read_page(image) == "\n".join(LINES)


def test_colours_are_not_exchanged(engine):
    # Red on green of one luma if red and blue are exchanged, far apart as they are.
    image, boxes = _page(ink=(40, 60, 255), paper=(255, 137, 40))
    assert np.ptp(image.permute(1, 2, 0).numpy() @ [0.299, 0.587, 0.114]) > 70
    assert engine.read_boxes(image, boxes) == list(LINES)


def test_blurred_text_is_read_worse(engine):
    image, boxes = _page()
    small = torch.nn.functional.avg_pool2d(image[None].float(), 6)
    blurred = torch.nn.functional.interpolate(small, size=image.shape[-2:], mode="bilinear")[0].round().to(torch.uint8)
    read = engine.read_boxes(blurred, boxes)
    assert np.mean([cer(truth, text) for truth, text in zip(LINES, read, strict=True)]) > 0.3


def test_the_text_of_a_box_does_not_depend_on_the_others_or_their_order(engine):
    image, boxes = _page()
    blurred = torch.nn.functional.avg_pool2d(image[None].float(), 5, stride=1, padding=2)[0].round().to(torch.uint8)
    together = engine.read_boxes(blurred, boxes)
    assert [engine.read_boxes(blurred, [box])[0] for box in boxes] == together
    assert engine.read_boxes(blurred, boxes[::-1]) == together[::-1]
    assert engine.read_boxes(blurred, []) == []


def test_a_page_without_text_gives_an_empty_text(engine):
    assert engine.read_page(torch.full((3, 64, 96), 255, dtype=torch.uint8)) == ""


def test_a_page_reads_as_easyocr_reads_the_file(engine, tmp_path):
    image, _ = _page(size=14)
    images.to_pil(image).save(tmp_path / "page.png")
    with _quiet():
        found = engine._reader.readtext(str(tmp_path / "page.png"))
    words = [word for _, text, _ in found for word in text.split()]
    assert len(words) > 8
    assert sorted(engine.read_page(image).split()) == sorted(words)


@pytest.mark.parametrize("box", [(10, 10, 10, 30), (-1, 0, 20, 20), (300, 10, 337, 30), (30, 40, 20, 50)])
def test_a_box_that_is_empty_or_outside_is_refused(engine, box):
    image, _ = _page()
    with pytest.raises(DataError, match="336x192"):
        engine.read_boxes(image, [box])


def test_a_box_of_one_pixel_is_read(engine):
    image, _ = _page()
    assert len(engine.read_boxes(image, [(335, 191, 336, 192), (0, 0, 1, 192)])) == 2


def test_what_is_no_picture_is_refused(engine):
    with pytest.raises(DataError, match="uint8"):
        engine.read_page(torch.zeros(3, 32, 32))
    with pytest.raises(DataError, match="one uint8 picture"):
        engine.read_boxes(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), [])


def test_nothing_is_left_behind_in_the_home_or_in_the_process(tmp_path):
    code = (
        "import sys, torch; from vtbench import ocr; before = list(sys.path), torch.random.initial_seed();"
        "state = torch.random.get_rng_state(); engine = ocr.load();"
        "engine.read_page(torch.zeros(3, 32, 32, dtype=torch.uint8));"
        "engine.read_boxes(torch.zeros(3, 32, 32, dtype=torch.uint8), [(0, 0, 32, 16)]);"
        "assert sys.path == before[0]; assert torch.equal(state, torch.random.get_rng_state())"
    )
    home = {"HOME": str(tmp_path), "PYTHONWARNINGS": "error"}
    dropped = ("EASYOCR_MODULE_PATH", "MODULE_PATH", "XDG_CACHE_HOME")
    rest = {name: value for name, value in os.environ.items() if name not in dropped}
    done = subprocess.run([sys.executable, "-c", code], env=rest | home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("*")) == []


def test_other_weights_are_refused_before_they_are_opened(monkeypatch, tmp_path):
    (tmp_path / "model").mkdir()
    for file in ("craft_mlt_25k.pth", "english_g2.pth"):
        (tmp_path / "model" / file).write_bytes(b"retrained")
    monkeypatch.setenv("EASYOCR_MODULE_PATH", str(tmp_path))
    ocr.load.cache_clear()
    with pytest.raises(WeightsError, match="sha256"):
        ocr.load("easyocr")


@pytest.mark.parametrize("name", ["nothing", "../easyocr", "Easyocr", "os.path"])
def test_an_unknown_engine_is_refused(name):
    with pytest.raises(DataError, match="no such OCR engine"):
        ocr.load(name)


def test_reading_order_sorts_lines_from_the_top_and_pieces_from_the_left():
    found = [
        ((80, 12, 140, 30), "right"),
        ((10, 60, 50, 80), "below"),
        ((10, 8, 60, 28), "left"),
        ((90, 55, 120, 78), "too"),
    ]
    assert ocr.reading_order(found) == "left right\nbelow too"
    assert ocr.reading_order(found[::-1]) == "left right\nbelow too"
    assert ocr.reading_order([]) == ""


def test_reading_order_parts_lines_by_half_the_mean_height():
    first = ((50, 0, 90, 20), "first")
    assert ocr.reading_order([first, ((0, 10, 40, 30), "same")]) == "same first"
    assert ocr.reading_order([first, ((0, 11, 40, 31), "next")]) == "first\nnext"
