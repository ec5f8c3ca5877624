"""Which engines there are, where their files are, and which characters they write."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

import vtbench
from vtbench import cards, evaluate, images, load_task, load_tokenizer, ocr
from vtbench.data.text_chart import Source
from vtbench.errors import DataError, WeightsError
from vtbench.ocr import easyocr, tesseract

FONT = Path(vtbench.__file__).parent / "assets" / "fonts" / "DejaVuSans.ttf"  # Pillow's own has no ß

GERMAN = "Die schöne Straße über den Fluß"
CHINESE = "港口的墙 1863"


def _needs(name):
    if ocr.find(name) is None:
        pytest.skip(ocr.missing(name))


def _run(code, **environment):
    surroundings = {**os.environ, **environment}
    done = subprocess.run([sys.executable, "-c", code], env=surroundings, capture_output=True, text=True, check=False)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def test_neither_torch_nor_an_engine_is_loaded_to_ask_about_them():
    code = (
        "import sys; from vtbench import ocr\n"
        "for name in ocr.names():\n"
        "    ocr.missing(name), ocr.digests(name)\n"
        "    ocr.find(name) and (ocr.version(name), ocr.unreadable(name, 'plain'))\n"
        "print([name for name in ('torch', 'easyocr', 'rapidocr') if name in sys.modules])"
    )
    assert _run(code) == "[]"


def test_easyocr_names_its_files_its_folders_and_its_command(monkeypatch, tmp_path):
    monkeypatch.setenv("EASYOCR_MODULE_PATH", str(tmp_path))
    said = ocr.missing("easyocr")
    assert f"craft_mlt_25k.pth and english_g2.pth in {tmp_path / 'model'}" in said and "\n" not in said
    assert said.endswith("run `vtbench fetch ocr`")


def test_a_wrong_file_in_easyocrs_own_folder_is_refused_not_skipped(monkeypatch, tmp_path):
    (tmp_path / "model").mkdir()
    monkeypatch.setenv("EASYOCR_MODULE_PATH", str(tmp_path))
    for file in ("craft_mlt_25k.pth", "english_g2.pth"):
        (tmp_path / "model" / file).write_bytes(b"retrained")
    with pytest.raises(WeightsError, match=r"craft_mlt_25k\.pth: sha256"):
        ocr.find("easyocr")


def test_easyocrs_weights_come_from_the_package_and_are_reported(monkeypatch, tmp_path):
    monkeypatch.setenv("EASYOCR_MODULE_PATH", str(tmp_path))
    _needs("easyocr")
    assert ocr.find("easyocr").name == "models" and ocr.fetch("easyocr") == ocr.find("easyocr")
    assert ocr.digests("easyocr") == {
        "craft_mlt_25k.pth": "4a5efbfb48b4081100544e75e1e2b57f8de3d84f213004b14b85fd4b3748db17",
        "english_g2.pth": "e2272681d9d67a04e2dff396b6e95077bc19001f8f6d3593c307b9852e1c29e8",
    }


def test_an_engine_that_fetch_does_not_bring_says_what_does(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(WeightsError, match=r"run `apt-get install tesseract-ocr`$"):
        ocr.fetch("tesseract")
    assert ocr.missing("tesseract:chi_sim+eng").endswith("run `apt-get install tesseract-ocr tesseract-ocr-chi-sim`")


@pytest.mark.parametrize("name", ["tesseract:", "tesseract:../eng", "tesseract:deu+", "tesseract:deu eng"])
def test_what_is_no_list_of_languages_is_refused(name):
    with pytest.raises(DataError, match="not a list of languages"):
        ocr.find(name)


def test_languages_are_for_engines_that_have_some_to_choose_from():
    with pytest.raises(DataError, match="easyocr has no languages to choose from"):
        ocr.load("easyocr:de")


# --- characters -------------------------------------------------------------------------------------------------------


def test_easyocrs_characters_are_its_models():
    from easyocr.config import recognition_models

    assert easyocr.characters() == set(recognition_models["gen2"]["english_g2"]["characters"])
    if ocr.find("easyocr"):
        reader = ocr.load("easyocr")._reader
        assert easyocr.characters() == set(reader.lang_char)  # those outside of it are taken out of what was read


def test_an_english_text_is_readable_by_every_engine_that_is_here():
    """The embedded pages; Tesseract's English file has no circumflex and no grave accent."""
    source = Source(size=256)
    text = "".join(line.text for index in range(len(source)) for line in source.read(index).lines)
    for name in ocr.names():
        if ocr.find(name):
            assert ocr.unreadable(name, text) is None, name


@pytest.mark.parametrize("text", ["", "ﬁve  words\u200b\u00ad and \u2009more…", "\ufeffplain\n", "２０６"])
def test_what_normalises_to_readable_text_is_readable(text):
    _needs("easyocr")
    assert ocr.unreadable("easyocr", text) is None


def test_signs_that_nobody_sees_and_accents_by_themselves_are_readable():
    _needs("rapidocr")
    assert ocr.lost("rapidocr", "葛\ufe00城\U000e0100市\u034f長") == 0.0
    assert ocr.unreadable("rapidocr", "don\u00b4t \u00a8so\u00a8") is None  # it writes both, and no mark alone
    assert ocr.lost("rapidocr", "12\u0600") == pytest.approx(1 / 3)  # a sign of Arabic that is seen, and compared


def test_characters_outside_are_named_with_their_share_and_the_engines_that_read_them():
    _needs("easyocr")
    said = ocr.unreadable("easyocr", GERMAN)
    assert said.startswith("easyocr can't write ß ö ü (15.4% of the text); ") and "\n" not in said
    if ocr.find("rapidocr"):
        assert "better: rapidocr" in said
        assert ocr.unreadable("rapidocr", GERMAN) is None
    if ocr.find("tesseract:deu"):
        assert "tesseract:deu" in said and "tesseract," not in said
        assert ocr.unreadable("tesseract:deu", GERMAN) is None
        assert ocr.unreadable("tesseract", GERMAN).startswith("tesseract can't write ß ö ü")


def test_one_that_is_not_installed_is_named_with_its_command():
    _needs("easyocr")
    code = (
        "import importlib.util as util; real = util.find_spec;"
        "util.find_spec = lambda name, *rest: None if name == 'onnxruntime' else real(name, *rest);"
        f"from vtbench import ocr; print(ocr.unreadable('easyocr', {CHINESE!r}))"
    )
    said = _run(code, PATH="/nonexistent")
    assert said.startswith("easyocr can't write 口 墙 港 的 (50.0% of the text); rapidocr would read it, but ")
    assert said.endswith("run `pip install 'vtbench[rapidocr]'`")


def test_where_no_engine_has_all_the_nearest_is_named_with_what_it_lacks():
    _needs("rapidocr")
    assert "rapidocr (all but ά)" in ocr.unreadable("easyocr", "Ελλάδα")
    assert "no engine that is installed can" in ocr.unreadable("rapidocr", "Москва")
    many = "".join(chr(code) for code in range(ord("А"), ord("я")))
    assert "and 51 more characters" in ocr.unreadable("rapidocr", many)


def test_an_engine_that_is_not_here_is_not_asked(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(WeightsError, match="tesseract:deu is not on this machine"):
        ocr.unreadable("tesseract:deu", GERMAN)


def test_the_alphabet_of_a_language_stands_in_its_file(tmp_path):
    listed = "6\nNULL 0\nJoined 7\n|Broken|0|1 7\nä 3\nfi 3\nß 3\n".encode()
    offsets = [-1] * 24
    offsets[17], offsets[21], offsets[23] = 4 + 8 * 24, 4 + 8 * 24 + 5, 4 + 8 * 24 + 5 + len(listed)
    file = tmp_path / "xxx.traineddata"
    file.write_bytes(struct.pack("<i24q", 24, *offsets) + b"12345" + listed + b"5.0")
    assert tesseract._alphabet(file, "one") == set("äfiß ")
    for damaged in (b"", b"no such file", file.read_bytes()[:150], struct.pack("<i24q", 24, *[-1] * 24)):
        file.write_bytes(damaged)
        with pytest.raises(WeightsError, match="not a language of Tesseract"):
            tesseract._alphabet(file, str(damaged))


# --- languages --------------------------------------------------------------------------------------------------------


def _page(text, font):
    page = Image.new("RGB", (640, 80), "white")
    ImageDraw.Draw(page).text((20, 20), text, fill="black", font=font)
    box = ImageDraw.Draw(page).textbbox((20, 20), text, font=font)
    return images.from_pil(page), [tuple(int(side) for side in box)]


@pytest.mark.parametrize("name", ["rapidocr", "tesseract:deu"])
def test_german_is_read_by_an_engine_that_has_its_letters(name):
    _needs(name)
    engine = ocr.load(name)
    assert engine.name == name and engine.digests == ocr.digests(name)
    image, boxes = _page(GERMAN, ImageFont.truetype(FONT, 28))
    assert engine.read_boxes(image, boxes) == [GERMAN]


def test_english_is_read_whatever_else_tesseract_has(monkeypatch):
    _needs("tesseract")
    assert ocr.load("tesseract").digests.keys() == {"eng.traineddata"}
    if "deu" in tesseract.languages():
        assert ocr.load("tesseract:deu+eng").digests.keys() == {"deu.traineddata", "eng.traineddata"}
        assert ocr.find("tesseract:deu+eng").is_dir()
    assert not {"eng", "osd"} & set(tesseract.languages())


# --- from outside -----------------------------------------------------------------------------------------------------

ENGINE = """
from pathlib import Path

SCRIPTS = ("GREEK",)


def find():
    return Path(__file__)


def missing():
    return "greek is not on this machine: run `pip install greek`"


def digests():
    return {"greek.py": "0" * 64}


def version():
    return "1"


def characters():
    return frozenset("Ελλάδα ")


class Engine:
    name = "greek"

    def __init__(self, device):
        self.digests, self.version = digests(), version()

    def read_boxes(self, image, boxes):
        return ["Ελλάδα" for _ in boxes]

    def read_page(self, image):
        return "Ελλάδα"
"""


@pytest.fixture
def outside(monkeypatch, tmp_path):
    """A package of somebody's, installed: a module and the entry point that names it."""
    (tmp_path / "greek.py").write_text(ENGINE)
    (tmp_path / "greek-1.dist-info").mkdir()
    (tmp_path / "greek-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: greek\nVersion: 1\n")
    entries = tmp_path / "greek-1.dist-info" / "entry_points.txt"
    entries.write_text("[vtbench.ocr]\ngreek = greek\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield entries
    sys.modules.pop("greek", None)
    ocr._loaded.cache_clear()


def test_an_engine_comes_from_another_package(outside):
    assert ocr.names() == ("easyocr", "rapidocr", "tesseract", "greek")
    assert ocr.find("greek").name == "greek.py" and ocr.fetch("greek") == ocr.find("greek")
    assert ocr.version("greek") == ocr.load("greek").version == "1"
    assert ocr.digests("greek") == {"greek.py": "0" * 64}
    assert ocr.unreadable("greek", "Ελλάδα") is None
    assert ocr.load("greek").read_boxes(torch.zeros(3, 8, 8, dtype=torch.uint8), [(0, 0, 8, 8)]) == ["Ελλάδα"]
    if ocr.find("easyocr"):
        assert ocr.unreadable("easyocr", "Ελλάδα").endswith("better: greek")


@pytest.mark.parametrize("protocol", [None, "vtbench-2025"])
def test_what_an_edited_engine_reads_of_originals_is_read_anew(outside, tmp_path, protocol):
    """Its version may be the same, and nobody hashes its code for what is kept of originals."""
    pages = tmp_path / "pages"
    pages.mkdir()
    Image.effect_noise((256, 256), 80).convert("RGB").save(pages / "a.png")
    (pages / "metadata.csv").write_text("file_name,text\na.png,Ελλάδα\n", encoding="utf-8")
    update = {"ocr": "greek", "metrics": ("cer_page",), "primary": "cer_page"}
    task = load_task(cards.find_task("text").model_copy(update=update), data=pages, native=protocol is not None)

    def read():
        places = {"out": tmp_path / "results", "work": tmp_path / "work", "protocol": protocol}
        found = evaluate(load_tokenizer("jpeg-q5"), task, **places).scores["cer_page"]
        return found.floor if protocol is None else found.value

    assert read() == 0.0
    (tmp_path / "greek.py").write_text(ENGINE.replace('"Ελλάδα"', '"Ελλάς"'))
    sys.modules.pop("greek")
    ocr._loaded.cache_clear()
    if protocol is None:
        assert read() > 0.0  # the floor is of what is read now
    else:
        assert read() == 0.0  # both sides are


def test_two_engines_never_share_a_name(outside):
    outside.write_text("[vtbench.ocr]\neasyocr = greek\n")
    with pytest.raises(DataError, match="easyocr: two OCR engines of this name"):
        ocr.names()
