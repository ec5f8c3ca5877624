"""What every engine promises: each is run as it is, and left out with its reason where it is not installed."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from vtbench import images, ocr
from vtbench.data.text_chart import Source
from vtbench.errors import DataError, WeightsError
from vtbench.metrics.text import cer, characters, micro

LINES = ("Harbour wall 1863", "seven green bottles", "Paris and Lima", "Room 204")
ENGINES = ("easyocr", "rapidocr", "tesseract")


@pytest.fixture(scope="module", params=ENGINES)
def engine(request):
    if ocr.find(request.param) is None:
        pytest.skip(ocr.missing(request.param))
    return ocr.load(request.param)


def _page(size=24, ink=(0, 0, 0), paper=(255, 255, 255)):
    page = Image.new("RGB", (336, 192), paper)
    draw, font, boxes = ImageDraw.Draw(page), ImageFont.load_default(size), []
    for index, line in enumerate(LINES):
        place = (12, 8 + 46 * index)
        draw.text(place, line, fill=ink, font=font)
        boxes.append(tuple(int(side) for side in draw.textbbox(place, line, font=font)))
    return images.from_pil(page), boxes


def _blurred(image, width):
    small = torch.nn.functional.avg_pool2d(image[None].float(), width)
    return torch.nn.functional.interpolate(small, size=image.shape[-2:], mode="bilinear")[0].round().to(torch.uint8)


def test_clean_text_is_read_without_an_error_and_says_with_what(engine):
    image, boxes = _page()
    assert engine.read_boxes(image, boxes) == list(LINES)
    assert engine.digests == ocr.digests(engine.name)
    assert all(len(digest) == 64 for digest in engine.digests.values()) and engine.digests
    assert any(letter.isdigit() for letter in engine.version)
    assert ocr.version(engine.name) == engine.version


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
    rates = [
        np.mean([cer(truth, text) for truth, text in zip(LINES, engine.read_boxes(picture, boxes), strict=True)])
        for picture in (image, _blurred(image, 8), _blurred(image, 16))
    ]
    assert rates[0] < rates[1] < rates[2] and rates[2] > 0.7


def test_the_text_of_a_box_does_not_depend_on_the_others_or_their_order(engine):
    image, boxes = _page()
    blurred = torch.nn.functional.avg_pool2d(image[None].float(), 5, stride=1, padding=2)[0].round().to(torch.uint8)
    together = engine.read_boxes(blurred, boxes)
    assert [engine.read_boxes(blurred, [box])[0] for box in boxes] == together
    assert engine.read_boxes(blurred, boxes[::-1]) == together[::-1]
    assert engine.read_boxes(blurred, []) == []


def test_lines_of_all_widths_are_read_as_alone(engine):
    """Small, blurred letters: what is read of them hangs on how wide a batch is padded."""
    page = Source(size=256).read(0)
    blurred = torch.nn.functional.avg_pool2d(page.image[None].float(), 5, stride=1, padding=2)[0].round()
    boxes = [line.box for line in page.lines]
    together = engine.read_boxes(blurred.to(torch.uint8), boxes)
    assert [engine.read_boxes(blurred.to(torch.uint8), [box])[0] for box in boxes] == together


@pytest.mark.parametrize("side", [96, 192])
def test_pages_of_any_batch_and_order_are_read_as_alone(engine, side):
    """Blurred pages of two sizes, of one width of line and of others, and one without text between them."""
    image, boxes = _page()
    pictures = [_blurred(image, 2)[:, : side + 60], torch.full((3, 50, 80), 200, dtype=torch.uint8), image]
    pictures += [_blurred(image, width)[:, :side] for width in (3, 4)]
    lines = [[box for box in boxes if box[3] <= picture.shape[-2]] for picture in pictures]
    lines[1] = [(5, 5, 60, 20)]
    alone = [engine.read_page(picture) for picture in pictures]
    within = [engine.read_boxes(picture, own) for picture, own in zip(pictures, lines, strict=True)]
    assert len(set(alone)) > 2 and sum(map(len, within)) > 8
    for order in (range(5), range(4, -1, -1), (2, 0, 2), (3,), ()):
        chosen, own = [pictures[index] for index in order], [lines[index] for index in order]
        assert ocr.read_pages(engine, chosen) == [alone[index] for index in order]
        assert ocr.read_boxes(engine, chosen, own) == [within[index] for index in order]


@pytest.mark.skipif(ocr.find("rapidocr") is None, reason="rapidocr is not installed")
@pytest.mark.parametrize("name", ["easyocr", "rapidocr"])
def test_lines_of_several_pages_share_calls_of_the_recogniser(name, monkeypatch):
    engine, seen = ocr.load(name), []
    image, boxes = _page()
    if name == "easyocr":
        network = engine._reader.recognizer
        hook = network.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
        ocr.read_boxes(engine, [image] * 3, [boxes[:1]] * 3)
        hook.remove()
    else:
        session = engine._recognise.session
        monkeypatch.setattr(engine._recognise, "session", lambda lines: seen.append(len(lines)) or session(lines))
        ocr.read_boxes(engine, [image] * 3, [boxes[:1]] * 3)
    assert seen == [3]


def test_an_engine_without_batches_is_asked_page_by_page():
    class Single:
        def read_boxes(self, image, boxes):
            return [f"{int(image.sum())} {box}" for box in boxes]

        def read_page(self, image):
            return str(int(image.sum()))

    pictures = [torch.full((3, 2, 2), level, dtype=torch.uint8) for level in (1, 2)]
    assert ocr.read_pages(Single(), pictures) == ["12", "24"]
    assert ocr.read_boxes(Single(), pictures, [[], [(0, 0, 1, 1)]]) == [[], ["24 (0, 0, 1, 1)"]]


def test_rapidocr_gets_the_colours_in_the_order_of_its_own_reader(tmp_path):
    """A file that RapidOCR opens itself becomes the array that it is given here."""
    if ocr.find("rapidocr") is None:
        pytest.skip(ocr.missing("rapidocr"))
    from vtbench.ocr.rapidocr import _bgr

    image, _ = _page(ink=(200, 30, 90), paper=(20, 220, 160))
    images.to_pil(image).save(tmp_path / "page.png")
    opened = ocr.load("rapidocr")._reader.load_img(str(tmp_path / "page.png"))
    assert np.array_equal(_bgr(image), opened)


def test_texts_of_tesseract_are_parted_as_old_and_new_releases_print_them():
    from vtbench.ocr.tesseract import parted

    assert parted("one\n\ftwo\n", 2) == parted("one\n\ftwo\n\f", 2) == ["one\n", "two\n"]
    assert parted("", 1) == parted("\f", 1) == [""]
    assert parted("one\n\f", 2) == ["one\n", ""]  # nothing was read in the second
    with pytest.raises(DataError, match="3 texts for 2 pictures"):
        parted("one\ftwo\fthree", 2)


def test_nothing_is_read_where_nothing_is_written(engine):
    blank = torch.full((3, 64, 96), 255, dtype=torch.uint8)
    assert engine.read_page(blank) == ""
    image, boxes = _page()
    image[:, 40:] = 255  # only the first line stays
    assert engine.read_boxes(image, boxes) == [LINES[0], "", "", ""]
    assert engine.read_boxes(image, boxes[:0:-1] + boxes[:1]) == ["", "", "", LINES[0]]


@pytest.mark.parametrize("box", [(10, 10, 10, 30), (-1, 0, 20, 20), (300, 10, 337, 30), (30, 40, 20, 50)])
def test_a_box_that_is_empty_or_outside_is_refused(engine, box):
    image, _ = _page()
    with pytest.raises(DataError, match="336x192"):
        engine.read_boxes(image, [box])


def test_a_box_of_one_pixel_is_read(engine):
    image, _ = _page()
    assert len(engine.read_boxes(image, [(335, 191, 336, 192), (0, 0, 1, 192), (0, 50, 40, 51)])) == 3


def test_what_is_no_picture_is_refused(engine):
    with pytest.raises(DataError, match="uint8"):
        engine.read_page(torch.zeros(3, 32, 32))
    with pytest.raises(DataError, match="one uint8 picture"):
        engine.read_boxes(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), [])


def test_the_plain_pages_of_language_are_read_almost_without_an_error(engine):
    """The floor that docs/text.md promises: at most 0.5% from 16 px on, in known boxes."""
    source, rates, sizes = Source(size=256), [], []
    for index in range(len(source)):
        page = source.read(index)
        if page.id in ("h16-0", "h20-0", "h24-0", "h32-0", "h48-0"):
            truth = " ".join(line.text for line in page.lines)
            read = engine.read_boxes(page.image, [line.box for line in page.lines])
            rates.append(cer(truth, " ".join(read)))
            sizes.append(characters(truth))
    assert sum(sizes) > 250
    assert micro(rates, sizes) <= 0.005


@pytest.mark.parametrize("name", ["nothing", "../easyocr", "Easyocr", "os.path"])
def test_an_unknown_engine_is_refused(name):
    with pytest.raises(DataError, match="no such OCR engine"):
        ocr.load(name)


def test_an_engine_that_is_not_installed_says_so_with_the_command(monkeypatch, tmp_path):
    ocr._loaded.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(WeightsError, match=r"^tesseract is not on this machine .* `apt-get install tesseract-ocr`$"):
        ocr.load("tesseract")
    code = (
        "import sys, importlib.util as util; real = util.find_spec;"
        "util.find_spec = lambda name, *rest: None if name == 'onnxruntime' else real(name, *rest);"
        "from vtbench import ocr; ocr.load('rapidocr')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].startswith("vtbench.errors.WeightsError: rapidocr is not on this machine")
    assert done.stderr.splitlines()[-1].endswith("run `pip install 'vtbench[rapidocr]'`")


@pytest.mark.skipif(ocr.find("rapidocr") is None, reason="rapidocr is not installed")
def test_other_models_of_rapidocr_are_refused_before_they_are_opened(tmp_path):
    real = ocr.find("rapidocr")
    (tmp_path / "rapidocr" / "models").mkdir(parents=True)
    (tmp_path / "rapidocr" / "__init__.py").touch()
    for file in ocr.digests("rapidocr"):
        shutil.copy(real / file, tmp_path / "rapidocr" / "models" / file)
    (tmp_path / "rapidocr" / "models" / "PP-OCRv6_rec_small.onnx").write_bytes(b"retrained")
    code = "from vtbench import ocr; ocr.load('rapidocr')"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "PP-OCRv6_rec_small.onnx: sha256 is" in done.stderr.splitlines()[-1]


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
