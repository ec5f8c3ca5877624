import os
import subprocess
import sys

import pytest
import torch

from vtbench import images, ocr
from vtbench.data.text_chart import Source
from vtbench.errors import WeightsError
from vtbench.ocr.easyocr import _quiet


@pytest.fixture(scope="module")
def engine():
    return ocr.load("easyocr")


def test_a_page_reads_as_easyocr_reads_the_file(engine, tmp_path):
    image = Source(size=256).read(9).image
    images.to_pil(image).save(tmp_path / "page.png")
    with _quiet():
        found = engine._reader.readtext(str(tmp_path / "page.png"))
    words = [word for _, text, _ in found for word in text.split()]
    assert len(words) > 8
    assert sorted(engine.read_page(image).split()) == sorted(words)


def test_nothing_is_left_behind_in_the_home_or_in_the_process(tmp_path):
    code = (
        "import sys, torch; from vtbench import ocr; before = list(sys.path), torch.random.initial_seed();"
        "state = torch.random.get_rng_state(); engine = ocr.load();"
        "engine.read_page(torch.zeros(3, 32, 32, dtype=torch.uint8));"
        "engine.read_boxes(torch.zeros(3, 32, 32, dtype=torch.uint8), [(0, 0, 32, 16)]);"
        "assert sys.path == before[0]; assert torch.equal(state, torch.random.get_rng_state())"
    )
    home = {"HOME": str(tmp_path), "PYTHONWARNINGS": "error,ignore:'mode' parameter is deprecated:DeprecationWarning"}
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
    ocr._loaded.cache_clear()
    with pytest.raises(WeightsError, match="sha256"):
        ocr.load("easyocr")


def test_the_layout_of_memory_does_not_change_what_is_read(engine):
    """On the CPU the networks lie channels last, which is faster; on reconstructions the texts are the same."""
    source, texts = Source(size=256), []
    pages = [source.read(index) for index in (1, 16)]
    for layout in (torch.contiguous_format, torch.channels_last):
        for part in ("detector", "recognizer"):
            getattr(engine._reader, part).to(memory_format=layout)
        read = []
        for page in pages:
            blurred = torch.nn.functional.avg_pool2d(page.image[None].float(), 3, stride=1, padding=1)[0]
            picture = blurred.round().to(torch.uint8)
            read.append((engine.read_boxes(picture, [line.box for line in page.lines]), engine.read_page(picture)))
        texts.append(read)
    assert texts[0] == texts[1]
