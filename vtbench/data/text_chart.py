"""Pages of known text at nine glyph heights: how small may text be before a tokenizer destroys it?

The height of a page is its cap height: the pixels between the foot and the top of an "H". The font size is chosen so
that the H is that high exactly. Every height has three pages:

* page 0: language, black DejaVu Sans on white;
* page 1: language on a gradient or a photograph, which alternate over the heights, in other fonts and colours, at a
  contrast of high, medium and low by turns;
* page 2: random or confusable strings, which alternate, on plain grounds, in other fonts, at the same contrasts.

Page 0 differs between heights in nothing else, so it compares like with like; it alone has the attribute
`plain_height`, its cap height, by which results are grouped and the legibility threshold is found. The levels of the
other attributes lie interleaved over the heights; compare them by their legibility thresholds, which account for the
heights.

* language: English or English-looking words from a fixed list, lower case, capitalised or in capitals, with numbers
  of two to four digits between them. Words that begin with "i" or "l" are lower case always (a capital I and a small
  l are the same stroke in many fonts).
* random: strings of letters and digits of one case, without the signs that have a twin, so that no knowledge of a
  language helps a tokenizer or a reader.
* confusable: strings of signs that look alike (I l 1 |, O 0 o Q, rn m, ...), in fonts in which they do differ.

Everything is drawn at random, without looking at what an engine reads. A contrast is the difference in luma between
ink and background: what the colours give (150 levels or more), 80, or 40. A gradient runs over half of that; a
photograph, one of the suite's own sample pictures, is toned down to a standard deviation of an eighth of it.

Rendering is Pillow's with basic layout. Texts and places follow from the seed; the antialiased pixels also follow
from the FreeType that Pillow brings, so the digest is taken over the rendered pixels, the texts and the boxes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property, lru_cache
from itertools import count, cycle
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vtbench import data, images
from vtbench.errors import DataError
from vtbench.types import Sample, TextLine

HEIGHTS = (6, 8, 10, 12, 16, 20, 24, 32, 48)
"""Cap heights in pixels, three pages each."""

PAGES = 3
SEED = 20_250_601
MAX_LINES = 5
MAX_SIGNS = 20
"""Signs of a line. Reading costs an engine about the same a sign at every height, and small ones are many."""

MIN_SIZE = 192
"""Below this the largest letters leave no room for a word."""

Strings = Literal["language", "random", "confusable"]
Background = Literal["plain", "gradient", "photo"]
Contrast = Literal["high", "medium", "low"]
Colour = tuple[int, int, int]

LEVELS: dict[Contrast, int | None] = {"high": None, "medium": 80, "low": 40}
"""Luma between ink and background, of 255; high keeps the colours as they are."""


class Style(NamedTuple):
    """How one page looks: the ink is moved towards the paper where the contrast is less than high."""

    font: str
    file: str
    ink: Colour
    paper: Colour
    strings: Strings = "language"
    background: Background = "plain"
    contrast: Contrast = "high"
    photo: str = ""
    """The sample picture under the text, where the background is one."""


def _style(
    font: str,
    ink: Colour,
    paper: Colour,
    strings: Strings,
    background: Background,
    contrast: Contrast,
    photo: str = "",
) -> Style:
    return Style(font, _FILES[font], ink, paper, strings, background, contrast, photo)


_FILES = {
    "DejaVu Sans": "DejaVuSans.ttf",
    "DejaVu Sans Mono": "DejaVuSansMono.ttf",
    "DejaVu Serif": "DejaVuSerif.ttf",
    "Cabin": "Cabin-Regular.otf",
    "Cabin Bold": "Cabin-Bold.otf",
    "Gentium Basic": "GenBasR.ttf",
}
_SANS, _MONO, _SERIF, _CABIN, _BOLD, _GENTIUM = _FILES

PLAIN = Style(_SANS, _FILES[_SANS], (0, 0, 0), (255, 255, 255))
"""Page 0 of every height."""

VARIED = (
    _style(_SERIF, (30, 30, 30), (226, 222, 208), "language", "gradient", "high"),
    _style(_CABIN, (16, 36, 84), (214, 222, 232), "language", "photo", "medium", "coffee"),
    _style(_SANS, (222, 230, 222), (46, 52, 60), "language", "gradient", "low"),
    _style(_GENTIUM, (28, 18, 10), (222, 206, 180), "language", "photo", "high", "brick"),
    _style(_BOLD, (255, 255, 255), (40, 90, 140), "language", "gradient", "medium"),
    _style(_SERIF, (122, 20, 34), (226, 214, 210), "language", "photo", "low", "chelsea"),
    _style(_GENTIUM, (14, 52, 38), (206, 224, 206), "language", "gradient", "high"),
    _style(_CABIN, (244, 244, 244), (52, 66, 48), "language", "photo", "medium", "grass"),
    _style(_SANS, (40, 40, 40), (232, 196, 92), "language", "gradient", "low"),
)
"""Page 1 of each height, in the order of HEIGHTS."""

STRINGS = (
    _style(_SANS, (20, 20, 60), (252, 250, 240), "random", "plain", "low"),
    _style(_MONO, (0, 0, 0), (255, 255, 255), "confusable", "plain", "high"),
    _style(_CABIN, (90, 20, 20), (240, 240, 240), "random", "plain", "medium"),
    _style(_SERIF, (236, 232, 220), (30, 34, 40), "confusable", "plain", "low"),
    _style(_SERIF, (30, 30, 30), (250, 247, 238), "random", "plain", "high"),
    _style(_MONO, (16, 60, 36), (232, 244, 234), "confusable", "plain", "medium"),
    _style(_GENTIUM, (24, 40, 90), (236, 240, 248), "random", "plain", "low"),
    _style(_SERIF, (0, 0, 0), (244, 236, 220), "confusable", "plain", "high"),
    _style(_BOLD, (250, 250, 250), (96, 40, 90), "random", "plain", "medium"),
)
"""Page 2 of each height, in the order of HEIGHTS."""

VOCABULARY = """
able acorn after again amber anchor animal apple arch arrow autumn baker banner barley basket beach begin bell
berry bird blanket blue board boat bottle branch brave bread bridge bright broken brown bucket butter button cabin
cable camel camera canal candle canvas captain carbon carpet castle cedar chain chair chapter cherry circle city
clay clean climb cloud coast coffee copper corner cotton country cover cradle cream crown crystal dance daylight
deep desert diamond dinner distant doctor dolphin door double dragon dream drum early earth east echo edge eight
elbow empty engine evening every fabric family farmer feather fence fern field finger fire flag flower forest
forge found fox frame fresh friend frost garden garlic gate gentle glass glove gold grain grass gravel green
ground guitar habit hammer handle happy harbour harvest hazel heart hedge hidden hill hollow honey horizon horse
house hundred husband island ivory jacket jewel journey jungle kettle kind kitchen kite knee ladder lake lamp
large laugh lemon letter light linen little lizard lunch machine magnet maple marble market meadow melon memory
method middle minute mirror modern monkey morning mountain museum music napkin narrow nature needle nest never
night noble north number oak ocean office olive onion open orange orchard order otter outside oven owl oxygen
oyster paint palace paper parade parcel park pasture path peach pebble pencil pepper piano picture pigeon pillow
plain planet plate pocket polar pond potato powder prairie promise purple quarter queen question quick quiet
rabbit radio railway rapid raven record reed remain ribbon rice river road robin rocket roof rose round rubber
saddle sailor salmon salt sand season second seed shadow shelter shore silver simple sister sky slow smoke snow
soap south spark spider spoon spring square stable star station stone storm story stream street strong sugar
summer sunset swan table tailor talent temple tender thread thunder ticket tiger timber tomato torch tower town
travel treasure tree tulip tunnel turn twelve under unit upper valley velvet very village violet voice voyage
wagon walnut warm water weather west whale wheat wheel white wide willow window winter wolf wonder wood wool
yard year yellow young zebra zigzag
"""
WORDS = tuple(VOCABULARY.split())

UNLIKE = ("abcdefghjkmnpqrtuvwxyz346789", "ABCDEFGHJKLMNPQRTUVWXY346789")
"""Alphabets of random strings: what is left of a case when one sign of each set of twins has gone."""

ALIKE = ("Il1|", "O0oQ", "rnm", "vwyu", "cloa", "S58B", "Z27", "G6C", "5S3")
"""Alphabets of confusable strings; one string keeps to one of them."""

ASSETS = Path(__file__).resolve().parent.parent / "assets"


class Source(data.Source):
    """The 27 pages. Other sizes than 256 hold more or less text at the same heights."""

    def __init__(self, *, size: int | None, path: Path | None = None) -> None:
        if path is not None:
            raise DataError(f"text_chart: renders its own pages and takes no path, got {path}; leave --data out")
        if size is None or size < MIN_SIZE:
            raise DataError(f"text_chart: pages of {size} pixels leave no room for text; expected {MIN_SIZE} or more")
        self.size = size

    def __len__(self) -> int:
        """Three pages a height."""
        return PAGES * len(HEIGHTS)

    def sample_id(self, index: int) -> str:
        """Return an id such as "h08-0": cap height and page."""
        height, page = _height_and_page(index)
        return f"h{height:02d}-{page}"

    def read(self, index: int) -> Sample:
        """Render one page."""
        height, page = _height_and_page(index)
        style = style_of(index)
        picture, lines = _render(self.size, height, style, seed=SEED + index)
        attributes: dict[str, str | float] = {
            "cap_height": float(height),
            "font": style.font,
            "strings": style.strings,
            "background": style.background,
            "contrast": style.contrast,
        }
        if page == 0:
            attributes["plain_height"] = float(height)
        return Sample(self.sample_id(index), images.from_pil(picture), lines, attributes)

    @property
    def digest(self) -> str:
        """sha256 over ids, pixels, texts and boxes of all pages."""
        return self._rendered[0]

    @property
    def known_text(self) -> str:
        """What stands on all pages."""
        return self._rendered[1]

    @cached_property
    def _rendered(self) -> tuple[str, str]:
        """Digest and text of all pages."""
        total = hashlib.sha256()
        found: list[str] = []
        for index in range(len(self)):
            sample = self.read(index)
            said = [sample.id, list(sample.image.shape), [[line.text, line.box] for line in sample.lines]]
            total.update(json.dumps(said).encode())
            total.update(sample.image.numpy().tobytes())
            found += [line.text for line in sample.lines]
        return total.hexdigest(), "".join(found)


def style_of(index: int) -> Style:
    """How a page looks."""
    _, page = _height_and_page(index)
    return (PLAIN, VARIED[index // PAGES], STRINGS[index // PAGES])[page]


@lru_cache(maxsize=64)
def font_of(file: str, height: int) -> ImageFont.FreeTypeFont:
    """Load a font at the fractional size at which its H is `height` pixels high."""
    path = str(ASSETS / "fonts" / file)
    huge = ImageFont.truetype(path, 1000, layout_engine=ImageFont.Layout.BASIC)
    size = height * 1000.0 / _cap_height(huge)
    # The ratio alone suffices with the hinting of today's FreeType; the search keeps the promise with any other.
    for step in sorted(range(-64, 65), key=abs):
        font = ImageFont.truetype(path, size + step / 64.0, layout_engine=ImageFont.Layout.BASIC)
        if _cap_height(font) == height:
            return font
    raise DataError(f"{file}: no font size near {size:.2f} gives an H of {height} pixels; check the Pillow installed")


def _cap_height(font: ImageFont.FreeTypeFont) -> float:
    _, top, _, bottom = font.getbbox("H", anchor="ls")
    return bottom - top


def _height_and_page(index: int) -> tuple[int, int]:
    if not 0 <= index < PAGES * len(HEIGHTS):
        raise IndexError(f"page {index} of {PAGES * len(HEIGHTS)}")
    return HEIGHTS[index // PAGES], index % PAGES


def _render(size: int, height: int, style: Style, seed: int) -> tuple[Image.Image, tuple[TextLine, ...]]:
    """Fill a page with up to MAX_LINES lines, spread evenly from top to bottom, each at a random place from the left.

    So letters of every height fall on every part of a tokenizer's grid.
    """
    font = font_of(style.file, height)
    margin = size // 20
    # One box height for all lines, from the tallest ascender to the deepest descender, so that a line without either
    # is shown to a reader at the same scale as its neighbours.
    _, top, _, bottom = (int(side) for side in font.getbbox("Hbdfhklpqgjy0123456789|Q", anchor="ls"))
    pitch = -(-(bottom - top) * 5 // 4)
    free = size - 2 * margin - (bottom - top)
    number = min(MAX_LINES, 1 + free // pitch)
    pitch = max(pitch, free // MAX_LINES)
    first = (size - ((number - 1) * pitch + bottom - top)) // 2 - top

    words, places = _TEXTS[style.strings](seed), np.random.Philox(key=seed + 1_000_000)
    mask = Image.new("L", (size, size))
    draw = ImageDraw.Draw(mask)
    lines = []
    for baseline in range(first, first + number * pitch, pitch):
        text = _fill(words, font, size - 2 * margin)
        begin, end = _ink_columns(text, font)
        room = size - 2 * margin - (end - begin)
        left = margin + int(places.random_raw()) % (room + 1)
        draw.text((left - begin, baseline), text, fill=255, font=font, anchor="ls")
        lines.append(TextLine(text, (left, baseline + top, left + end - begin, baseline + bottom)))
    return _inked(np.asarray(mask), style, _background(size, style)), tuple(lines)


def _inked(mask: np.ndarray[Any, Any], style: Style, paper: np.ndarray[Any, Any]) -> Image.Image:
    """Lay the ink over the background; integers alone, so that every machine makes the same pixels."""
    ink = np.array(_ink_colour(style))
    share = mask.astype(np.int64)[:, :, None]
    blended = (paper.astype(np.int64) * (255 - share) + ink * share + 127) // 255  # (H, W, 3)
    return Image.fromarray(blended.astype(np.uint8))


def _luma(colour: Colour) -> int:
    """Thousandths of a level, ITU-R 601."""
    return 299 * colour[0] + 587 * colour[1] + 114 * colour[2]


def _ink_colour(style: Style) -> Colour:
    """The style's ink, moved straight towards the paper until the contrast is what the style says."""
    wanted = LEVELS[style.contrast]
    if wanted is None:
        return style.ink
    full = abs(_luma(style.ink) - _luma(style.paper))
    moved = [p + round((i - p) * 1000 * wanted / full) for i, p in zip(style.ink, style.paper, strict=True)]
    return moved[0], moved[1], moved[2]


def _background(size: int, style: Style) -> np.ndarray[Any, Any]:
    """Draw what lies under the text, uint8 (size, size, 3); its mean is the style's paper."""
    paper = np.array(style.paper, dtype=np.int64)
    flat = np.broadcast_to(paper, (size, size, 3))
    contrast = abs(_luma(_ink_colour(style)) - _luma(style.paper)) // 1000
    if style.background == "gradient":
        # From the upper left to the lower right, over half of the contrast.
        steps = np.add.outer(np.arange(size), np.arange(size)) - (size - 1)  # (H, W), -(size - 1) .. size - 1
        flat = flat + (steps * contrast // (4 * (size - 1)))[:, :, None]
    elif style.background == "photo":
        with Image.open(ASSETS / "sample" / f"{style.photo}.webp") as opened:
            picture = np.asarray(opened.convert("RGB"), dtype=np.int64)
        height, width = picture.shape[:2]
        # A picture smaller than the page is continued by its mirror image: enlarged it would be a blurred background.
        grown = np.pad(picture, ((0, max(0, size - height)), (0, max(0, size - width)), (0, 0)), mode="symmetric")
        cut = grown[:size, :size]
        deviation = cut - cut.sum((0, 1)) // size**2
        spread = max(1, int(np.sqrt((deviation**2).sum() / (3 * size**2))))
        limit = contrast // 4
        flat = flat + (deviation * contrast // (8 * spread)).clip(-limit, limit)
    return flat.clip(0, 255).astype(np.uint8)


def _ink_columns(text: str, font: ImageFont.FreeTypeFont) -> tuple[int, int]:
    """First column with ink and the one after the last, from the pen's start; the font's box has white sides too."""
    left, top, right, bottom = (int(side) for side in font.getbbox(text, anchor="ls"))
    pen = (8 - left, 8 - top)
    mask = Image.new("L", (right - left + 16, bottom - top + 16))
    ImageDraw.Draw(mask).text(pen, text, fill=255, font=font, anchor="ls")
    box = mask.getbbox()
    return (box[0] - pen[0], box[2] - pen[0]) if box else (0, 0)


def _fill(words: Iterator[str], font: ImageFont.FreeTypeFont, width: int) -> str:
    """Take words until a line is full; a word that doesn't fit is passed over, and after some of those it is."""
    line = ""
    passed_over = 0
    while passed_over < (6 if line else 2000):
        longer = f"{line} {next(words)}".strip()
        left, _, right, _ = font.getbbox(longer, anchor="ls")
        if right - left <= width and len(longer) <= MAX_SIGNS:
            line = longer
        else:
            passed_over += 1
    return line


def _draws(seed: int) -> Iterator[int]:
    """Random integers; Philox's raw output is the same in every version of numpy."""
    generator = np.random.Philox(key=seed)
    while True:
        yield int(generator.random_raw())


def _words(seed: int) -> Iterator[str]:
    """An endless stream of words and numbers."""
    draws = _draws(seed)
    recent: list[str] = []
    for place in cycle(range(1000)):
        choice, form = next(draws), next(draws)
        if place % 5 == 4:
            smallest = (10, 100, 1000)[form % 3]
            yield str(smallest + choice % (9 * smallest))
            continue
        word = WORDS[choice % len(WORDS)]
        if word in recent:
            continue
        recent = [*recent[-40:], word]
        if word[0] in "il" or form % 10 < 6:
            yield word
        else:
            yield word.upper() if form % 10 == 9 and not set(word) & set("il") else word.capitalize()


def _random_strings(seed: int) -> Iterator[str]:
    """Strings of three to six signs, each of one case."""
    draws = _draws(seed)
    while True:
        alphabet = UNLIKE[next(draws) % len(UNLIKE)]
        yield "".join(alphabet[next(draws) % len(alphabet)] for _ in range(3 + next(draws) % 4))


def _confusable_strings(seed: int) -> Iterator[str]:
    """Strings of three to five signs that look alike; the alphabets take turns."""
    draws = _draws(seed)
    for turn in count(next(draws) % len(ALIKE)):
        alphabet = ALIKE[turn % len(ALIKE)]
        yield "".join(alphabet[next(draws) % len(alphabet)] for _ in range(3 + next(draws) % 3))


_TEXTS = {"language": _words, "random": _random_strings, "confusable": _confusable_strings}
