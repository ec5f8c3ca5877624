import numpy as np
import pytest
import torch

from vtbench.data import text_chart
from vtbench.data.text_chart import HEIGHTS, PLAIN, STYLES, WORDS, Source
from vtbench.errors import DataError


@pytest.fixture(scope="module", params=[256, 512])
def pages(request):
    source = Source(size=request.param)
    return [source.read(index) for index in range(len(source))]


@pytest.fixture(scope="module")
def small():
    source = Source(size=256)
    return [source.read(index) for index in range(len(source))]


def style_of(index):
    return PLAIN if index % 2 == 0 else STYLES[index // 2]


def test_two_pages_a_height(small):
    assert [page.id for page in small][:3] == ["h08-0", "h08-1", "h10-0"]
    assert [page.attributes["cap_height"] for page in small] == [float(h) for h in HEIGHTS for _ in range(2)]
    assert {page.attributes["font"] for page in small[::2]} == {"DejaVu Sans"}
    assert len({page.attributes["font"] for page in small[1::2]}) == 5
    for page in small:
        assert page.image.shape == (3, 256, 256) and page.image.dtype == torch.uint8


def test_all_ink_is_inside_the_boxes_and_each_box_holds_ink(pages):
    for index, page in enumerate(pages):
        paper = torch.tensor(style_of(index).paper, dtype=torch.uint8)[:, None, None]
        ink = (page.image != paper).any(dim=0)
        outside = ink.clone()
        for line in page.lines:
            left, top, right, bottom = line.box
            assert ink[top:bottom, left].any() and ink[top:bottom, right - 1].any()  # tight from left to right
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


def test_pages_are_full(small):
    for page in small:
        widest = max(line.box[2] - line.box[0] for line in page.lines)
        assert widest > 0.6 * 256
        assert page.lines[-1].box[3] - page.lines[0].box[1] > 0.6 * 256


def test_capitals_are_as_high_as_the_page_says(small):
    """Measured in the pixels, on lines that begin with a flat capital; partly covered rows count in part."""
    measured = 0
    for index, page in enumerate(small):
        style = style_of(index)
        paper, full = np.array(style.paper, dtype=float), np.array(style.ink, dtype=float)
        for line in page.lines:
            if line.text[0] not in "BDEFHKMNPRTUVWYZ":
                continue
            left, top, _, bottom = line.box
            height = page.attributes["cap_height"]
            stem = page.image[:, top:bottom, left : left + max(2, round(0.45 * height))].numpy().astype(float)
            share = ((stem - paper[:, None, None]).sum(0) / (full - paper).sum()).max(axis=1)
            # A stem thinner than a pixel is grey from foot to top: its usual grey counts as full.
            share = (share / np.median(share[share > 0])).clip(0, 1)
            assert abs(share.sum() - height) <= 0.5, (page.id, line.text, share.sum())
            measured += 1
    assert measured >= 15


def test_every_font_at_every_height_measures_exactly():
    for file in {style.file for style in (PLAIN, *STYLES)}:
        for height in HEIGHTS:
            _, top, _, bottom = text_chart.font_of(file, height).getbbox("H", anchor="ls")
            assert bottom - top == height


def test_words_come_from_the_list_without_what_is_ambiguous(pages):
    known = {word: word for word in WORDS}
    for page in pages:
        for token in " ".join(line.text for line in page.lines).split(" "):
            if token.isdigit():
                assert 10 <= int(token) <= 9999
                continue
            assert token.isalpha() and token.lower() in known
            assert token in (token.lower(), token.capitalize(), token.upper())
            assert token.islower() or token[0] not in "IL"
            assert not token.isupper() or not set(token) & set("IL")


def test_the_words_are_the_same_always(small):
    """Pinned: if this must change, raise the version of tasks/text.toml."""
    assert [line.text for line in small[12].lines] == ["stream", "Family 14", "fire table", "926 60"]
    assert small[0].lines[0].text == "Gentle corner apple bucket 25 west 481"
    assert small[5].lines[3].text == "34 Wheat owl road ivory"


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
    with pytest.raises(DataError, match="takes no path"):
        Source(size=256, path=tmp_path)
    with pytest.raises(IndexError):
        Source(size=256).read(16)
    smallest = Source(size=text_chart.MIN_SIZE)
    for index in range(len(smallest)):
        assert smallest.read(index).lines and all(line.text for line in smallest.read(index).lines)
