import hashlib
import json

import numpy as np
import pytest
import torch
from PIL import features

from vtbench.data import text_chart
from vtbench.data.text_chart import (
    ALIKE,
    HEIGHTS,
    PAGES,
    PLAIN,
    STRINGS,
    UNLIKE,
    VARIED,
    WORDS,
    Source,
    style_of,
)
from vtbench.errors import DataError

LUMA = np.array([0.299, 0.587, 0.114])
FREETYPE = "2.14.3"
"""With which the digests of the pixels were taken."""


@pytest.fixture(scope="module", params=[256, 512])
def pages(request):
    source = Source(size=request.param)
    return [source.read(index) for index in range(len(source))]


@pytest.fixture(scope="module")
def small():
    source = Source(size=256)
    return [source.read(index) for index in range(len(source))]


def ink_of(page):
    """How much of the ink each pixel has, 0 to 1: measured against the same page without any text."""
    style = style_of(text_index(page))
    empty = text_chart._background(page.image.shape[-1], style).astype(float)
    full = np.array(text_chart._ink_colour(style), dtype=float)
    picture = page.image.permute(1, 2, 0).numpy().astype(float)
    return ((picture - empty) @ LUMA) / ((full - empty) @ LUMA)


def text_index(page):
    height, number = page.id[1:].split("-")
    return HEIGHTS.index(int(height)) * PAGES + int(number)


def test_three_pages_a_height_and_what_is_on_them(small):
    assert [page.id for page in small][:4] == ["h06-0", "h06-1", "h06-2", "h08-0"]
    assert [page.attributes["cap_height"] for page in small] == [float(h) for h in HEIGHTS for _ in range(3)]
    for page in small:
        assert page.image.shape == (3, 256, 256) and page.image.dtype == torch.uint8
    first = {"strings": "language", "background": "plain", "contrast": "high", "font": "DejaVu Sans"}
    assert all({key: page.attributes[key] for key in first} == first for page in small[::3])
    assert {page.attributes["background"] for page in small[1::3]} == {"gradient", "photo"}
    assert {page.attributes["strings"] for page in small[1::3]} == {"language"}
    assert {page.attributes["strings"] for page in small[2::3]} == {"random", "confusable"}
    assert {page.attributes["background"] for page in small[2::3]} == {"plain"}
    for third in (small[1::3], small[2::3]):
        assert {page.attributes["contrast"] for page in third} == {"high", "medium", "low"}
    assert len({page.attributes["font"] for page in small}) == 6
    assert [page.attributes.get("plain_height") for page in small[::3]] == [float(height) for height in HEIGHTS]
    assert not any("plain_height" in page.attributes for page in (*small[1::3], *small[2::3]))


@pytest.mark.parametrize("attribute", ["background", "contrast", "strings"])
def test_the_levels_of_an_attribute_lie_interleaved_over_the_heights(small, attribute):
    """On pages 1 and 2, no level has only small or only large letters: their mean logarithms are close."""
    for third in (small[1::3], small[2::3]):
        heights = {}
        for page in third:
            heights.setdefault(page.attributes[attribute], []).append(page.attributes["cap_height"])
        means = [np.exp(np.mean(np.log(found))) for found in heights.values()]
        assert max(means) / min(means) < 1.8, heights


def test_all_ink_is_inside_the_boxes_and_each_box_holds_ink(pages):
    for page in pages:
        ink = np.abs(ink_of(page)) > 0.004
        outside = ink.copy()
        near = 1 if page.attributes["contrast"] == "high" else 2  # a pale edge of a pale letter is less than a level
        for line in page.lines:
            left, top, right, bottom = line.box
            assert ink[top:bottom, left : left + near].any() and ink[top:bottom, right - near : right].any()  # tight
            outside[top:bottom, left:right] = False
        assert not outside.any(), page.id


def test_boxes_stay_clear_of_the_border_and_of_each_other(pages):
    for page in pages:
        size = page.image.shape[-1]
        for line in page.lines:
            left, top, right, bottom = line.box
            assert left >= size // 20 and right <= size - size // 20
            assert top >= size // 20 and bottom <= size - size // 20
        for above, below in zip(page.lines, page.lines[1:], strict=False):
            # A reader that adds 0.15 of the height on each side must not see the neighbour.
            height = above.box[3] - above.box[1]
            assert below.box[1] - above.box[3] >= 0.2 * height


def test_lines_begin_at_different_places_of_a_tokenizers_grid(small):
    begins = [line.box[0] % 16 for page in small for line in page.lines]
    assert len(set(begins)) == 16


def test_pages_hold_enough_to_read_and_not_more(pages):
    for page in pages:
        assert 2 <= len(page.lines) <= text_chart.MAX_LINES
        assert all(0 < len(line.text) <= text_chart.MAX_SIGNS for line in page.lines)
        if page.attributes["cap_height"] <= 20:
            assert sum(len(line.text) for line in page.lines) >= 60
    assert 1500 < sum(len(line.text) for page in pages for line in page.lines) < 2700


def test_capitals_are_as_high_as_the_page_says(small):
    """Measured in the pixels, on lines that begin with a flat capital; partly covered rows count in part."""
    measured = 0
    for page in small:
        ink, height = ink_of(page), page.attributes["cap_height"]
        for line in page.lines:
            if line.text[0] not in "BDEFHKMNPRTUVWYZ" or page.attributes["contrast"] == "low":
                continue
            left, top, _, bottom = line.box
            share = ink[top:bottom, left : left + max(2, round(0.45 * height))].max(axis=1)
            # A stem thinner than a pixel is grey from foot to top: its usual grey counts as full.
            share = (share / np.median(share[share > 0.02])).clip(0, 1)
            assert abs(share[share > 0.02].sum() - height) <= 0.6, (page.id, line.text, share.sum())
            measured += 1
    assert measured >= 15


def test_every_font_at_every_height_measures_exactly():
    for file in {style.file for style in (PLAIN, *VARIED, *STRINGS)}:
        for height in HEIGHTS:
            _, top, _, bottom = text_chart.font_of(file, height).getbbox("H", anchor="ls")
            assert bottom - top == height


def test_contrasts_are_what_they_say(small):
    for index, page in enumerate(small):
        style, ink = style_of(index), ink_of(page)
        picture = page.image.permute(1, 2, 0).numpy().astype(float) @ LUMA
        inked = np.abs(picture[ink > 0.99].mean() - picture[np.abs(ink) < 0.01].mean()) if (ink > 0.99).any() else None
        wanted = {"high": None, "medium": 80, "low": 40}[style.contrast]
        if inked is None:
            assert page.attributes["cap_height"] <= 10, page.id  # strokes thinner than a pixel are never full
        elif wanted is None:
            assert inked >= 150, page.id
        else:
            assert inked == pytest.approx(wanted, abs=4), page.id


def test_backgrounds_are_what_they_say(small):
    for index in range(len(small)):
        style = style_of(index)
        ground = text_chart._background(256, style).astype(float)
        contrast = abs((np.array(text_chart._ink_colour(style)) - np.array(style.paper)) @ LUMA)
        assert np.abs(ground.mean((0, 1)) - style.paper).max() < 4  # clipped at white here and there
        luma = ground @ LUMA
        if style.background == "plain":
            assert np.ptp(luma) == 0
        elif style.background == "gradient":
            assert np.ptp(luma) == pytest.approx(contrast / 2, abs=contrast / 10)
            assert (np.diff(luma, axis=0) >= 0).all() and (np.diff(luma, axis=1) >= 0).all()
        else:
            assert luma.std() == pytest.approx(contrast / 8, rel=0.25)
            # A quarter of the contrast at most in each direction: the text stands out everywhere.
            assert np.abs(ground - style.paper).max() <= contrast / 4 + 1


def test_a_photograph_is_the_sample_picture_and_continues_as_its_mirror_image():
    style = VARIED[3]
    small, large = text_chart._background(256, style), text_chart._background(512, style)
    with text_chart.Image.open(text_chart.ASSETS / "sample" / f"{style.photo}.webp") as opened:
        picture = np.asarray(opened.convert("L"), dtype=float)
    assert np.corrcoef(small.astype(float).mean(2).ravel(), picture.ravel())[0, 1] > 0.9
    assert np.array_equal(large, large[::-1]) and np.array_equal(large, large[:, ::-1])
    assert np.abs(large[:256, :256].astype(int) - small).max() <= 1


def test_words_come_from_the_list_without_what_is_ambiguous(pages):
    known = {word: word for word in WORDS}
    for page in pages:
        if page.attributes["strings"] != "language":
            continue
        for token in " ".join(line.text for line in page.lines).split(" "):
            if token.isdigit():
                assert 10 <= int(token) <= 9999
                continue
            assert token.isalpha() and token.lower() in known
            assert token in (token.lower(), token.capitalize(), token.upper())
            assert token.islower() or token[0] not in "IL"
            assert not token.isupper() or not set(token) & set("IL")


def test_random_strings_have_no_twins_and_confusable_ones_nothing_else(pages):
    for page in pages:
        tokens = " ".join(line.text for line in page.lines).split(" ")
        if page.attributes["strings"] == "random":
            assert all(any(set(token) <= set(alphabet) for alphabet in UNLIKE) for token in tokens)
            assert all(token in (token.lower(), token.upper()) for token in tokens)
            for twins in ("Il1|", "O0oD", "5Ss", "2Zz"):
                assert all(len(set(twins) & set(alphabet)) <= 1 for alphabet in UNLIKE), twins
            assert not any(token.lower() in WORDS for token in tokens)
        elif page.attributes["strings"] == "confusable":
            assert all(any(set(token) <= set(alphabet) for alphabet in ALIKE) for token in tokens)
            assert page.attributes["font"] in ("DejaVu Sans Mono", "DejaVu Serif")


@pytest.mark.parametrize("file", ["DejaVuSansMono.ttf", "DejaVuSerif.ttf"])
def test_confusable_signs_differ_in_the_fonts_that_they_are_set_in(file):
    for alphabet in ALIKE:
        masks = [bytes(text_chart.font_of(file, 12).getmask(sign)) for sign in alphabet]
        assert len(set(masks)) == len(alphabet)


def texts_digest(pages):
    said = [[page.id, [[line.text, line.box] for line in page.lines]] for page in pages]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


TEXTS = {256: "bfde70e715a18763", 512: "4e3c43d343b2d464"}
PIXELS = {256: "f6e2853fcf78eb22", 512: "db82560a887a150e"}
"""If one of these must change, raise the versions of the text tasks."""


def test_the_texts_and_their_places_are_the_same_always(pages):
    assert texts_digest(pages) == TEXTS[pages[0].image.shape[-1]]


@pytest.mark.skipif(
    features.version("freetype2") != FREETYPE, reason=f"the pixels are pinned with FreeType {FREETYPE} alone"
)
@pytest.mark.parametrize("size", [256, 512])
def test_the_pixels_are_the_same_always(size):
    assert Source(size=size).digest[:16] == PIXELS[size]


def test_reading_twice_gives_the_same(small):
    again = Source(size=256)
    for index, page in enumerate(small):
        twin = again.read(index)
        assert torch.equal(twin.image, page.image) and twin.lines == page.lines and twin.id == page.id


def test_digest_covers_pixels_and_texts(monkeypatch):
    before = Source(size=256).digest
    assert before == Source(size=256).digest != Source(size=320).digest
    monkeypatch.setattr(text_chart, "SEED", text_chart.SEED + 1)
    assert Source(size=256).digest != before
    monkeypatch.undo()
    monkeypatch.setattr(text_chart, "PLAIN", PLAIN._replace(ink=(1, 0, 0)))
    assert Source(size=256).digest != before


def test_sizes_and_paths_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(DataError, match="expected 192 or more"):
        Source(size=128)
    with pytest.raises(DataError, match="expected 192 or more"):
        Source(size=None)
    with pytest.raises(DataError, match="takes no path"):
        Source(size=256, path=tmp_path)
    with pytest.raises(IndexError):
        Source(size=256).read(27)
    smallest = Source(size=text_chart.MIN_SIZE)
    for index in range(len(smallest)):
        assert smallest.read(index).lines and all(line.text for line in smallest.read(index).lines)
