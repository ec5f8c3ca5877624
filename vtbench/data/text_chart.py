"""Pages of known words at eight glyph heights: how small may text be before a tokenizer destroys it?

The height of a page is its cap height: the pixels between the foot and the top of an "H". The font size is chosen so
that the H is that high exactly. Every height has two pages: the first is always black DejaVu Sans on white, so that
heights compare like with like; the second changes font and colours.

The words are English or English-looking, from a fixed list, lower case, capitalised or in capitals, with numbers of
two to four digits between them. They are drawn at random, without looking at what an engine reads. What is ambiguous
by nature is left out as a class: punctuation, isolated letters and digits, random strings, and words that begin with
"i" or "l" in any but lower case (a capital I and a small l are the same stroke in many fonts).

Rendering is Pillow's with basic layout. Words and lines follow from the seed; the antialiased pixels also follow
from the FreeType that Pillow brings, so the digest is taken over the rendered pixels, the texts and the boxes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property, lru_cache
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vtbench import images
from vtbench.errors import DataError
from vtbench.types import Sample, TextLine

HEIGHTS = (8, 10, 12, 16, 20, 24, 32, 48)
"""Cap heights in pixels, two pages each."""

SEED = 20_250_601
MAX_LINES = 6
"""Lines of a page; reading costs an engine about the same a letter at every height, and small letters are many."""

MIN_SIZE = 192
"""Below this the largest letters leave no room for a word."""

Colour = tuple[int, int, int]


class Style(NamedTuple):
    """How one page looks."""

    font: str
    file: str
    ink: Colour
    paper: Colour


PLAIN = Style("DejaVu Sans", "DejaVuSans.ttf", (0, 0, 0), (255, 255, 255))
STYLES = (
    Style("DejaVu Serif", "DejaVuSerif.ttf", (30, 30, 30), (250, 247, 238)),
    Style("Cabin", "Cabin-Regular.otf", (16, 36, 84), (234, 242, 250)),
    Style("DejaVu Sans Mono", "DejaVuSansMono.ttf", (222, 230, 222), (22, 27, 34)),
    Style("Gentium Basic", "GenBasR.ttf", (48, 28, 20), (244, 233, 212)),
    Style("Cabin Bold", "Cabin-Bold.otf", (255, 255, 255), (26, 74, 122)),
    Style("DejaVu Serif", "DejaVuSerif.ttf", (122, 20, 34), (253, 245, 240)),
    Style("Gentium Basic", "GenBasR.ttf", (14, 72, 48), (236, 246, 236)),
    Style("Cabin", "Cabin-Regular.otf", (40, 40, 40), (255, 214, 92)),
)
"""The second page of each height, in the order of HEIGHTS."""

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

FONTS = Path(__file__).resolve().parent.parent / "assets" / "fonts"


class Source:
    """The sixteen pages. Other sizes than 256 hold more or less text at the same heights."""

    def __init__(self, *, size: int, path: Path | None = None) -> None:
        if path is not None:
            raise DataError(f"text_chart: renders its own pages and takes no path, got {path}; leave --data out")
        if size < MIN_SIZE:
            raise DataError(f"text_chart: pages of {size} pixels leave no room for text; expected {MIN_SIZE} or more")
        self.size = size

    def __len__(self) -> int:
        """Two pages a height."""
        return 2 * len(HEIGHTS)

    def sample_id(self, index: int) -> str:
        """Return an id such as "h08-0": cap height and page."""
        height, page = _height_and_page(index)
        return f"h{height:02d}-{page}"

    def read(self, index: int) -> Sample:
        """Render one page."""
        height, page = _height_and_page(index)
        style = PLAIN if page == 0 else STYLES[index // 2]
        picture, lines = _render(self.size, height, style, seed=SEED + index)
        attributes: dict[str, str | float] = {"cap_height": float(height), "font": style.font}
        return Sample(self.sample_id(index), images.from_pil(picture), lines, attributes)

    @cached_property
    def digest(self) -> str:
        """sha256 over ids, pixels, texts and boxes of all pages."""
        total = hashlib.sha256()
        for index in range(len(self)):
            sample = self.read(index)
            said = [sample.id, list(sample.image.shape), [[line.text, line.box] for line in sample.lines]]
            total.update(json.dumps(said).encode())
            total.update(sample.image.numpy().tobytes())
        return total.hexdigest()


@lru_cache(maxsize=64)
def font_of(file: str, height: int) -> ImageFont.FreeTypeFont:
    """Load a font at the fractional size at which its H is `height` pixels high."""
    path = str(FONTS / file)
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
    if not 0 <= index < 2 * len(HEIGHTS):
        raise IndexError(f"page {index} of {2 * len(HEIGHTS)}")
    return HEIGHTS[index // 2], index % 2


def _render(size: int, height: int, style: Style, seed: int) -> tuple[Image.Image, tuple[TextLine, ...]]:
    """Fill a page with up to MAX_LINES lines, left-aligned, spread evenly from top to bottom."""
    font = font_of(style.file, height)
    margin = size // 20
    # One box height for all lines, from the tallest ascender to the deepest descender, so that a line without either
    # is shown to a reader at the same scale as its neighbours.
    _, top, _, bottom = (int(side) for side in font.getbbox("Hbdfhklpqgjy0123456789", anchor="ls"))
    pitch = -(-(bottom - top) * 5 // 4)
    free = size - 2 * margin - (bottom - top)
    count = min(MAX_LINES, 1 + free // pitch)
    pitch = max(pitch, free // MAX_LINES)
    first = (size - ((count - 1) * pitch + bottom - top)) // 2 - top

    picture = Image.new("RGB", (size, size), style.paper)
    draw = ImageDraw.Draw(picture)
    words = _words(seed)
    lines = []
    for number in range(count):
        text = _fill(words, font, size - 2 * margin)
        baseline = first + number * pitch
        left, right = _ink(text, font, size)
        draw.text((margin - left, baseline), text, fill=style.ink, font=font, anchor="ls")
        lines.append(TextLine(text, (margin, baseline + top, margin + right - left, baseline + bottom)))
    return picture, tuple(lines)


def _ink(text: str, font: ImageFont.FreeTypeFont, size: int) -> tuple[int, int]:
    """First column with ink and the one after the last, from the pen's start; getbbox counts the white sides too."""
    mask = Image.new("L", (3 * size, 2 * size))
    ImageDraw.Draw(mask).text((size, size), text, fill=255, font=font, anchor="ls")
    box = mask.getbbox()
    return (box[0] - size, box[2] - size) if box else (0, 0)


def _fill(words: Iterator[str], font: ImageFont.FreeTypeFont, width: int) -> str:
    """Take words until a line is full; a word that doesn't fit is passed over, and after some of those it is."""
    line = ""
    passed_over = 0
    while passed_over < (6 if line else 2000):
        longer = f"{line} {next(words)}".strip()
        left, _, right, _ = font.getbbox(longer, anchor="ls")
        if right - left <= width:
            line = longer
        else:
            passed_over += 1
    return line


def _words(seed: int) -> Iterator[str]:
    """An endless stream of words and numbers; Philox's raw output is the same in every version of numpy."""
    draws = np.random.Philox(key=seed)
    recent: list[str] = []
    for place in cycle(range(1000)):
        choice, form = (int(raw) for raw in draws.random_raw(2))
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
