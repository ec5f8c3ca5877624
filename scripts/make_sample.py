"""Make the embedded samples: photographs brought to size by the canonical rule, and graphics rendered here.

Writes *.webp (lossless), index.json and LICENSES.md: the set of 256x256 into vtbench/assets/sample, that of 512x512
into its folder 512. The photographs come from four places:

    pip download --no-deps scikit-image==0.26.0 scikit-learn==1.9.1        (unpack the wheels)
    apt-get download lomiri-wallpapers-16.04 wordpress-theme-twentytwentytwo      (20.04.0-2, 6.1.9; Debian 12)
    dpkg -x lomiri*.deb lomiri && dpkg -x wordpress*.deb theme

    python scripts/make_sample.py --scikit-image skimage/data --scikit-learn sklearn/datasets/images \
        --lomiri lomiri/usr/share/backgrounds \
        --theme theme/usr/share/wordpress/wp-content/themes/twentytwentytwo/assets/images

One picture a source: never two crops of one photograph in a set, and none of training/pool.csv. A picture belongs here
only if its licence lets anybody use, change and pass it on without a share-alike clause; at 512 only if its short side
has 512 pixels, so that nothing is enlarged.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from vtbench import geometry, pictures

SMALL, LARGE = 256, 512
OUT = Path(__file__).resolve().parent.parent / "vtbench" / "assets" / "sample"
FONTS = OUT.parent / "fonts"

PUBLIC_DOMAIN = ("Public domain", "https://creativecommons.org/publicdomain/mark/1.0/")
CC0 = ("CC0 1.0", "https://creativecommons.org/publicdomain/zero/1.0/")
CC_BY_2 = ("CC BY 2.0", "https://creativecommons.org/licenses/by/2.0/")
CC_BY_4 = ("CC BY 4.0", "https://creativecommons.org/licenses/by/4.0/")
APACHE = ("Apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0")

LOMIRI = "https://gitlab.com/ubports/development/core/lomiri-wallpapers"


class Picture(NamedTuple):
    """One photograph: where its file lies and what its source says of it."""

    id: str
    package: str
    file: str
    title: str
    author: str
    license: tuple[str, str]
    source: str
    category: str
    sizes: tuple[int, ...] = (SMALL, LARGE)
    """The sets that have it."""


PICTURES = (
    Picture(
        "astronaut", "scikit-image", "astronaut.png", "Eileen Collins, astronaut", "NASA", PUBLIC_DOMAIN,
        "https://flic.kr/p/r9qvLn", "photo",
    ),
    Picture(
        "brick", "scikit-image", "brick.png", "Bricks25", "CC0Textures", CC0,
        "https://cc0textures.com/view.php?tex=Bricks25", "texture",
    ),
    Picture(
        "camera", "scikit-image", "camera.png", "Photographer with a camera", "Lav Varshney", CC0,
        "https://github.com/scikit-image/scikit-image/issues/3927", "photo",
    ),
    Picture(
        "cell", "scikit-image", "cell.png", "Cell floating in saline, quantitative phase image",
        "Paul Müller, Mirjam Schürmann, Salvatore Girardo, Gheorghe Cojoc, Jochen Guck", CC0,
        "https://doi.org/10.1364/OE.26.010729", "science",
    ),
    Picture(
        "chelsea", "scikit-image", "chelsea.png", "Chelsea the cat", "Stefan van der Walt", CC0,
        "https://scikit-image.org/docs/stable/api/skimage.data.html#skimage.data.chelsea", "photo", (SMALL,),
    ),
    Picture(
        "china", "scikit-learn", "china.jpg", "Pagoda above a lake in China", "danielbuechele", CC_BY_2,
        "https://www.flickr.com/photos/danielbuechele/6061409035/", "photo", (SMALL,),
    ),
    Picture(
        "clock", "scikit-image", "clock_motion.png", "Wall clock, blurred by motion", "Stefan van der Walt",
        PUBLIC_DOMAIN, "https://scikit-image.org/docs/stable/api/skimage.data.html#skimage.data.clock", "photo",
        (SMALL,),
    ),
    Picture(
        "coffee", "scikit-image", "coffee.png", "Cup of coffee, courtesy of Pikolo Espresso Bar",
        "Rachel Michetti", CC0,
        "https://scikit-image.org/docs/stable/api/skimage.data.html#skimage.data.coffee", "photo", (SMALL,),
    ),
    Picture(
        "dandelions", "lomiri", "seeding_by_Clements_Engelhardt.jpg", "seeding", "Clemens Engelhardt", CC0,
        LOMIRI, "photo",
    ),
    Picture(
        "dogs", "lomiri", "friends_by_Aitzol_Berasategi.jpg", "friends", "Aitzol Berasategi", CC_BY_4, LOMIRI, "photo"
    ),
    Picture(
        "ducks", "theme", "ducks.jpg", "Ducks (detail made for the theme)", "Goyō Hashiguchi", CC0,
        "https://www.rawpixel.com/image/3813787/illustration-image-flower-art-floral", "graphic", (LARGE,),
    ),
    Picture(
        "fig", "lomiri", "Picture_0B_by_freespace.jpg", "Picture 0B", "Trevor “Freespace”", CC_BY_4,
        LOMIRI, "photo",
    ),
    Picture(
        "flower", "scikit-learn", "flower.jpg", "Dahlia",
        "vultilion (by the link of the source; its text credits danielbuechele)", CC_BY_2,
        "https://www.flickr.com/photos/vultilion/6056698931/", "photo", (SMALL,),
    ),
    Picture(
        "grass", "scikit-image", "grass.png", "Grass 01", "linolafett", CC0,
        "https://www.deviantart.com/linolafett/art/Grass-01-434853879", "texture",
    ),
    Picture(
        "gravel", "scikit-image", "gravel.png", "Gravel04", "CC0Textures", CC0,
        "https://cc0textures.com/view.php?tex=Gravel04", "texture",
    ),
    Picture(
        "horse", "scikit-image", "horse.png", "Horse, silhouette", "Andreas Preuss (marauder)", CC0,
        "https://openclipart.org/detail/158377/horse-by-marauder", "graphic", (SMALL,),
    ),
    Picture(
        "hubble", "scikit-image", "hubble_deep_field.jpg", "Hubble eXtreme Deep Field", "NASA", PUBLIC_DOMAIN,
        "http://hubblesite.org/newscenter/archive/releases/2012/37/image/a/", "science",
    ),
    Picture(
        "retina", "scikit-image", "retina.jpg", "Fundus photograph of a normal left eye", "Mikael Häggström", CC0,
        "https://commons.wikimedia.org/wiki/File:Fundus_photograph_of_normal_left_eye.jpg", "science",
    ),
    Picture(
        "rocket", "scikit-image", "rocket.jpg", "Falcon 9 with DSCOVR before launch", "SpaceX", PUBLIC_DOMAIN,
        "https://www.flickr.com/photos/spacexphotos/16511594820/", "photo", (SMALL,),
    ),
    Picture(
        "sunset", "lomiri", "sunset_by_Aitzol_Berasategi.jpg", "sunset", "Aitzol Berasategi", CC_BY_4, LOMIRI, "photo"
    ),
    Picture(
        "text", "scikit-image", "text.png", "Handwriting on lined paper (Corner.png)", "not stated", PUBLIC_DOMAIN,
        "https://en.wikipedia.org/wiki/File:Corner.png", "photo", (SMALL,),
    ),
    Picture("wine", "lomiri", "Wine_by_Jakkub_Mede.jpg", "Wine", "Jakub Mede", CC_BY_4, LOMIRI, "photo"),
)  # fmt: skip


def font(file: str, size: float) -> ImageFont.FreeTypeFont:
    """Load one of the embedded fonts."""
    return ImageFont.truetype(str(FONTS / file), size, layout_engine=ImageFont.Layout.BASIC)


SANS, SERIF, MONO, CABIN, BOLD = (
    "DejaVuSans.ttf", "DejaVuSerif.ttf", "DejaVuSansMono.ttf", "Cabin-Regular.otf", "Cabin-Bold.otf",
)  # fmt: skip


def page(colour: str, size: int = SMALL) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Start an empty graphic."""
    picture = Image.new("RGB", (size, size), colour)
    return picture, ImageDraw.Draw(picture)


PROSE = (
    "The survey began in the spring of 1987 and covered forty villages along the river. Each household was asked how "
    "much water it drew, from which well, and at what hour. The answers were written on cards, sorted by hand and "
    "counted twice. In the end only nine had to be set aside."
)


def wrap(text: str, face: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Break a text into lines no wider than `width`."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if face.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def document() -> Image.Image:
    """A page of a report: heading, two paragraphs, a figure box, a footnote."""
    picture, draw = page("#fdfcf8")
    draw.text((20, 24), "3  Water and its Users", "#202020", font(SERIF, 15), anchor="ls")
    draw.line((20, 31, 236, 31), "#909090")
    face, y = font(SERIF, 9.5), 48
    lines = wrap(PROSE, face, 216)
    for line in lines:
        draw.text((20, y), line, "#1c1c1c", face, anchor="ls")
        y += 14
    draw.rectangle((20, y - 2, 112, y + 62), outline="#606060", fill="#eef1f4")
    for bar, height in enumerate((18, 32, 27, 44, 52, 38)):
        draw.rectangle((28 + 14 * bar, y + 56 - height, 37 + 14 * bar, y + 56), "#5b7fa6")
    beside = wrap("Figure 4. Litres drawn each day, by the number of persons in a household.", face, 112)
    for number, line in enumerate(beside):
        draw.text((122, y + 10 + 14 * number), line, "#1c1c1c", face, anchor="ls")
    draw.line((20, 236, 80, 236), "#909090")
    draw.text((20, 247), "2  See the tables on page 118.", "#303030", font(SERIF, 7.5), anchor="ls")
    draw.text((236, 247), "57", "#303030", font(SERIF, 8.5), anchor="rs")
    return picture


def table() -> Image.Image:
    """A table of numbers with a coloured head, striped rows and a row of totals."""
    picture, draw = page("white")
    draw.text((12, 20), "Orders by region", "#1d2733", font(BOLD, 14), anchor="ls")
    edges, rows = (12, 84, 134, 190, 244), 11
    draw.rectangle((12, 30, 244, 48), "#24476b")
    for column, head in enumerate(("Region", "Units", "Value", "Change")):
        right = edges[column + 1] - 6
        if column:
            draw.text((right, 43), head, "white", font(BOLD, 10), anchor="rs")
        else:
            draw.text((18, 43), head, "white", font(BOLD, 10), anchor="ls")
    places = "Northland Eastmark Harbour Lowlands Midland Oakshire Rivermouth Southend Uplands Westbury"
    chance, units, value = random.Random(5), 0, 0
    for row in range(rows):
        top = 49 + 18 * row
        last = row == rows - 1
        if row % 2 or last:
            draw.rectangle((12, top, 244, top + 17), "#d9e4ef" if last else "#f1f4f7")
        count, price, change = chance.randrange(120, 980), chance.randrange(4, 60) * 100, chance.randrange(-90, 140)
        units, value = (units, value) if last else (units + count, value + price)
        cells = (
            "Total" if last else places.split()[row],
            f"{units if last else count:,}",
            f"{value if last else price:,}",
            f"{change / 10:+.1f} %",
        )
        colour = "#a3242f" if change < 0 else "#1e6b3a"
        face = font(BOLD if last else CABIN, 10.5)
        draw.text((18, top + 13), cells[0], "#1d2733", face, anchor="ls")
        for column in (1, 2, 3):
            draw.text(
                (edges[column + 1] - 6, top + 13),
                cells[column],
                colour if column == 3 else "#1d2733",
                face,
                anchor="rs",
            )
        draw.line((12, top + 17, 244, top + 17), "#cfd6dd")
    for edge in edges:
        draw.line((edge, 30, edge, 48 + 18 * rows), "#cfd6dd")
    return picture


def interface() -> Image.Image:
    """A settings window: title bar, side list, switches, a slider, a text field and buttons."""
    picture, draw = page("#8fa3b8")
    for y in range(SMALL):  # a desktop behind the window
        draw.line((0, y, SMALL, y), (92 + y // 4, 120 + y // 5, 158 + y // 8))
    draw.rounded_rectangle((11, 13, 247, 247), 8, "#5d6f84")
    draw.rounded_rectangle((9, 10, 246, 244), 8, "#f5f6f8")
    draw.rounded_rectangle((9, 10, 246, 40), 8, "#2f3b4c")
    draw.rectangle((9, 30, 246, 34), "#2f3b4c")
    draw.rectangle((9, 34, 246, 40), "#f5f6f8")
    for number, colour in enumerate(("#ee6a5f", "#f5bd4f", "#61c454")):
        draw.ellipse((17 + 14 * number, 18, 25 + 14 * number, 26), colour)
    draw.text((128, 26), "Display settings", "#e8edf3", font(BOLD, 11), anchor="ms")
    draw.rectangle((9, 35, 80, 236), "#e6eaef")
    for number, name in enumerate(("General", "Display", "Sound", "Network", "Power", "Users", "About")):
        top = 42 + 22 * number
        if number == 1:
            draw.rounded_rectangle((13, top, 76, top + 18), 4, "#3b78d8")
        draw.ellipse((18, top + 5, 26, top + 13), "#ffffff" if number == 1 else "#8c99a8")
        draw.text((31, top + 13), name, "white" if number == 1 else "#26303b", font(CABIN, 10.5), anchor="ls")
    for number, (name, on) in enumerate((("Night colours", True), ("Auto brightness", False), ("Show grid", True))):
        y = 48 + 24 * number
        draw.text((90, y + 10), name, "#26303b", font(CABIN, 11), anchor="ls")
        draw.rounded_rectangle((208, y, 234, y + 13), 6, "#3b78d8" if on else "#b9c2cc")
        draw.ellipse((222 if on else 209, y + 1, 233 if on else 220, y + 12), "white")
    draw.text((90, 136), "Brightness", "#26303b", font(CABIN, 11), anchor="ls")
    draw.text((234, 136), "64 %", "#5a6673", font(CABIN, 10), anchor="rs")
    draw.rounded_rectangle((90, 145, 234, 149), 2, "#c4ccd5")
    draw.rounded_rectangle((90, 145, 182, 149), 2, "#3b78d8")
    draw.ellipse((176, 140, 189, 153), "white", outline="#8c99a8")
    draw.text((90, 172), "Screen name", "#26303b", font(CABIN, 11), anchor="ls")
    draw.rounded_rectangle((90, 178, 234, 198), 4, "white", outline="#9fabb8")
    draw.text((97, 192), "Reading room 2", "#26303b", font(CABIN, 11), anchor="ls")
    draw.line((175, 182, 175, 194), "#26303b")
    draw.rounded_rectangle((128, 212, 178, 232), 4, "#dde3e9", outline="#b3bdc8")
    draw.text((153, 226), "Cancel", "#26303b", font(CABIN, 11), anchor="ms")
    draw.rounded_rectangle((184, 212, 234, 232), 4, "#3b78d8")
    draw.text((209, 226), "Apply", "white", font(BOLD, 11), anchor="ms")
    return picture


def chart() -> Image.Image:
    """A line chart of three series with grid, labels and a legend; the lines are drawn four times as large."""
    scale = 4
    big = Image.new("RGB", (SMALL * scale, SMALL * scale), "white")
    draw = ImageDraw.Draw(big)
    for step in range(6):
        y = (44 + 34 * step) * scale
        draw.line((36 * scale, y, 244 * scale, y), "#e1e4e8", scale)
    for step in range(9):
        x = (36 + 26 * step) * scale
        draw.line((x, 44 * scale, x, 214 * scale), "#eef0f2", scale)
    chance = random.Random(11)
    for colour, start, drift in (("#c0392b", 60.0, 0.9), ("#2471a3", 110.0, 0.35), ("#239b56", 150.0, -0.5)):
        level, points = start, []
        for step in range(53):
            level += drift + chance.uniform(-7, 7)
            points.append(((36 + 4 * step) * scale, (214 - max(4.0, min(166.0, level))) * scale))
        draw.line(points, colour, 6, joint="curve")
        for point in points[::13]:
            draw.ellipse((point[0] - 11, point[1] - 11, point[0] + 11, point[1] + 11), "white", outline=colour, width=5)
    draw.line((36 * scale, 44 * scale, 36 * scale, 214 * scale, 244 * scale, 214 * scale), "#303840", 6)
    picture = big.resize((SMALL, SMALL), Image.Resampling.BOX)
    draw = ImageDraw.Draw(picture)
    draw.text((128, 20), "Wind speed at three masts", "#20262c", font(SANS, 12), anchor="ms")
    for step in range(6):
        draw.text((31, 47 + 34 * step), str(50 - 10 * step), "#40484f", font(SANS, 8.5), anchor="rs")
    for step in range(5):
        draw.text((36 + 52 * step, 226), f"{6 * step:02d} h", "#40484f", font(SANS, 8.5), anchor="ms")
    for number, (name, colour) in enumerate((("North", "#c0392b"), ("Ridge", "#2471a3"), ("Valley", "#239b56"))):
        draw.line((52 + 64 * number, 242, 66 + 64 * number, 242), colour, 2)
        draw.text((71 + 64 * number, 246), name, "#20262c", font(SANS, 9.5), anchor="ls")
    return picture


def colours() -> Image.Image:
    """Hue against lightness, with a grey ramp and a row of steps."""
    picture, _ = page("black")
    pixels = picture.load()
    if pixels is None:
        raise RuntimeError("the new picture has no pixels")
    for y in range(SMALL):
        for x in range(SMALL):
            if y < 192:
                sector, part = divmod(x * 6 / SMALL, 1.0)
                ramp = ((1, part, 0), (1 - part, 1, 0), (0, 1, part), (0, 1 - part, 1), (part, 0, 1), (1, 0, 1 - part))
                hue, light = ramp[int(sector)], 2 * (1 - y / 191)
                pixels[x, y] = tuple(
                    round(255 * (value * light if light <= 1 else value + (1 - value) * (light - 1))) for value in hue
                )
            else:
                level = x if y < 224 else x // 16 * 17
                pixels[x, y] = (level, level, level)
    return picture


def ladder() -> Image.Image:
    """The same words from 6 to 26 pixels of font size, upright and reversed out."""
    picture, draw = page("white")
    draw.rectangle((0, 138, SMALL, SMALL), "#14181d")
    for top, ink, sizes in ((8, "#101010", (6, 7, 8, 9, 10, 12, 14, 17)), (141, "#f2f2ee", (24, 18, 14, 11, 8))):
        y = float(top)
        for number, size in enumerate(sizes):
            face = font((SANS, CABIN, SERIF, MONO)[number % 4], size)
            y += size * 1.2
            line = wrap(3 * "Quick brown foxes jump over lazy dogs 2048 times ", face, SMALL - 16)[0]
            draw.text((8, round(y)), line, ink, face, anchor="ls")
            y += size * 0.22 + 1
    return picture


def street_map(size: int = SMALL) -> Image.Image:
    """A map: land, a river, lakes, parks, roads of three classes, a railway and names; what lies outside is cut off."""
    scale, edge = 4, size + 5
    big = Image.new("RGB", (size * scale, size * scale), "#f3efe6")
    draw = ImageDraw.Draw(big)

    def to(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(x * scale, y * scale) for x, y in points]

    def curve(seed: int, start: tuple[float, float], heading: float, bend: float) -> list[tuple[float, float]]:
        chance, points, turn = random.Random(seed), [start], 0.0
        for _ in range(120 if size == SMALL else 320):
            turn = 0.9 * turn + chance.uniform(-bend, bend)
            heading += turn
            points.append((points[-1][0] + 3 * math.cos(heading), points[-1][1] + 3 * math.sin(heading)))
        return to(points)

    draw.polygon(to([(150, 20), (228, 12), (240, 60), (206, 84), (158, 66)]), "#cfe3b8")
    draw.polygon(to([(14, 176), (62, 168), (78, 214), (40, 238), (10, 222)]), "#cfe3b8")
    draw.polygon(to([(330, 96), (420, 74), (468, 118), (402, 150), (338, 140)]), "#cfe3b8")
    draw.polygon(to([(60, 372), (150, 352), (196, 410), (128, 470), (44, 440)]), "#cfe3b8")
    chance = random.Random(3)
    for row in range(size // 27):
        for column in range(size // 27):
            x, y = 14 + 27 * column + chance.uniform(-3, 3), 14 + 27 * row + chance.uniform(-3, 3)
            draw.rectangle(
                (x * scale, y * scale, (x + 9) * scale, (y + 6) * scale), "#ddd3c3", outline="#c9bda9", width=2
            )
    draw.line(curve(1, (-5, 92), 0.25, 0.05), "#9cc7e6", 13 * scale, joint="curve")
    for lake in ((168, 150, 226, 190), (336, 372, 430, 432)):
        draw.ellipse([side * scale for side in lake], "#9cc7e6", outline="#7fb0d3", width=4)
    for place in range(size // 27):
        offset = 8 + 27 * place
        draw.line(to([(offset, -5), (offset + 14, edge)]), "#ffffff", 3 * scale)
        draw.line(to([(-5, offset + 12), (edge, offset - 8)]), "#ffffff", 3 * scale)
    roads = [(21, (-5.0, 40.0), 0.5), (8, (60.0, -5.0), 1.3), (17, (edge, 200.0), 3.3)]
    if size > SMALL:
        roads += [(5, (-5.0, 330.0), 0.1), (14, (400.0, -5.0), 1.6)]
    for seed, start, heading in roads:
        road = curve(seed, start, heading, 0.03)
        draw.line(road, "#c98a2b", 6 * scale, joint="curve")
        draw.line(road, "#fbd57e", 4 * scale, joint="curve")
    rail = curve(30, (edge, 110), 2.7, 0.02)
    draw.line(rail, "#4a4a4a", 7)
    for first, second in zip(rail[::2], rail[1::2], strict=False):
        dx, dy = (second[1] - first[1]) / 2, (first[0] - second[0]) / 2
        draw.line((first[0] - dx, first[1] - dy, first[0] + dx, first[1] + dy), "#4a4a4a", 5)
    picture = big.resize((size, size), Image.Resampling.BOX)
    draw = ImageDraw.Draw(picture)
    for spot, name, height, ink in (
        ((128, 128), "Millbrook", 15, "#2b2b2b"), ((196, 46), "Hill Park", 10, "#3c6a2c"),
        ((44, 206), "Old Orchard", 9, "#3c6a2c"), ((197, 173), "Lake Ann", 9, "#2b5f86"),
        ((52, 62), "Westgate", 10, "#2b2b2b"), ((404, 112), "Castle Gardens", 10, "#3c6a2c"),
        ((122, 412), "Long Meadow", 10, "#3c6a2c"), ((383, 402), "Mill Pond", 9, "#2b5f86"),
        ((320, 300), "Ferrybridge", 15, "#2b2b2b"), ((452, 236), "Eastfield", 10, "#2b2b2b"),
        ((84, 306), "Quarry Lane", 8, "#2b2b2b"), ((430, 476), "Southwell", 10, "#2b2b2b"),
    ):  # fmt: skip
        draw.text(spot, name, ink, font(SANS, height), anchor="mm", stroke_width=2, stroke_fill="#ffffff")
    return picture


def icons() -> Image.Image:
    """Sixteen flat icons on coloured tiles, with thin strokes and small shapes; drawn four times as large."""
    scale = 4
    big = Image.new("RGB", (SMALL * scale, SMALL * scale), "#eceff3")
    draw = ImageDraw.Draw(big)
    tiles = ("#d9534f", "#e08e2b", "#d8b51f", "#5fa845", "#2f9e8f", "#2f86c4", "#5561c0", "#8a4fb0") * 2

    def shape(number: int) -> None:
        x, y = 32 + 64 * (number % 4), 32 + 64 * (number // 4)

        def at(*values: float) -> tuple[float, ...]:
            return tuple((value + (x, y)[place % 2]) * scale for place, value in enumerate(values))

        draw.rounded_rectangle(at(-26, -26, 26, 26), 10 * scale, tiles[number])
        ink, thin = "white", 2 * scale
        match number:
            case 0:  # house
                draw.polygon(at(-16, -1, 0, -16, 16, -1), ink)
                draw.rectangle(at(-11, -1, 11, 15), ink)
                draw.rectangle(at(-3, 4, 3, 15), tiles[number])
            case 1:  # envelope
                draw.rectangle(at(-16, -10, 16, 12), outline=ink, width=thin)
                draw.line(at(-16, -10, 0, 3, 16, -10), ink, thin)
            case 2:  # sun
                draw.ellipse(at(-7, -7, 7, 7), ink)
                for ray in range(12):
                    a, b = math.cos(ray * math.pi / 6), math.sin(ray * math.pi / 6)
                    draw.line(at(10 * a, 10 * b, 17 * a, 17 * b), ink, thin)
            case 3:  # leaf
                steps = [step / 8 for step in range(-8, 9)]
                blade = [(9 * side * (1 - step * step), 16 * side * step) for side in (-1, 1) for step in steps]
                turned = [value * 0.7 for across, along in blade for value in (across + along, across - along)]
                draw.polygon(at(*turned), ink)
                draw.line(at(-17, 17, 7, -7), tiles[number], 5)
                draw.line(at(-17, 17, -10, 10), ink, thin)
            case 4:  # magnifier
                draw.ellipse(at(-14, -14, 6, 6), outline=ink, width=3 * scale)
                draw.line(at(4, 4, 15, 15), ink, 4 * scale)
            case 5:  # clock
                draw.ellipse(at(-16, -16, 16, 16), outline=ink, width=thin)
                draw.line(at(0, -10, 0, 0, 8, 5), ink, thin)
            case 6:  # bars
                for bar, height in enumerate((10, 18, 26, 32)):
                    draw.rectangle(at(-16 + 9 * bar, 16 - height, -11 + 9 * bar, 16), ink)
            case 7:  # music
                draw.line(at(-7, 10, -7, -14, 12, -17, 12, 7), ink, thin)
                draw.ellipse(at(-15, 6, -6, 14), ink)
                draw.ellipse(at(4, 3, 13, 11), ink)
            case 8:  # cross
                draw.rectangle(at(-5, -16, 5, 16), ink)
                draw.rectangle(at(-16, -5, 16, 5), ink)
            case 9:  # lock
                draw.arc(at(-9, -17, 9, 3), 180, 360, ink, 3 * scale)
                draw.rectangle(at(-13, -4, 13, 15), ink)
                draw.ellipse(at(-3, 2, 3, 8), tiles[number])
            case 10:  # star
                points = []
                for step in range(10):
                    radius, angle = (17, 7)[step % 2], step * math.pi / 5
                    points += [radius * math.sin(angle), -radius * math.cos(angle)]
                draw.polygon(at(*points), ink)
            case 11:  # grid
                for row in range(3):
                    for column in range(3):
                        left, top = -16 + 12 * column, -16 + 12 * row
                        draw.rectangle(at(left, top, left + 8, top + 8), ink)
            case 12:  # arrows
                draw.line(at(-15, -6, 9, -6), ink, 3 * scale)
                draw.polygon(at(7, -13, 17, -6, 7, 1), ink)
                draw.line(at(15, 8, -9, 8), ink, 3 * scale)
                draw.polygon(at(-7, 1, -17, 8, -7, 15), ink)
            case 13:  # pin
                draw.ellipse(at(-11, -17, 11, 5), ink)
                draw.polygon(at(-10, 0, 10, 0, 0, 18), ink)
                draw.ellipse(at(-4, -10, 4, -2), tiles[number])
            case 14:  # waves
                for ring in range(4):
                    draw.arc(at(-5 - 5 * ring, 6 - 5 * ring, 5 + 5 * ring, 16 + 5 * ring), 225, 315, ink, thin)
            case _:  # target
                for radius in (16, 10, 4):
                    draw.ellipse(at(-radius, -radius, radius, radius), outline=ink, width=thin)

    for number in range(16):
        shape(number)
    return big.resize((SMALL, SMALL), Image.Resampling.BOX)


def sentences(count: int) -> str:
    """Prose of invented facts."""
    chance = random.Random(23)
    who = ("The mill", "The lower village", "Every second household", "The ferry company", "A farm by the weir")
    did = ("used", "reported", "stored", "sold", "returned")
    what = ("barrels of water", "sacks of barley", "crates of apples", "loads of timber", "bales of wool")
    when = ("before the flood", "in the dry summer", "under the old lease", "against expectation", "in the spring")
    found = []
    for _ in range(count):
        note = f" [{chance.randrange(9, 40)}]" if chance.random() < 0.3 else ""
        deed = f"{chance.choice(who)} {chance.choice(did)} {chance.randrange(12, 980)} {chance.choice(what)}"
        found.append(f"{deed} {chance.choice(when)} of {chance.randrange(1961, 1999)}{note}.")
    return " ".join(found)


def report() -> Image.Image:
    """A page in two columns of small type, with a title, a summary, a figure and a footnote."""
    picture, draw = page("#fdfcf8", LARGE)
    draw.text((256, 34), "Water and Trade along the River", "#202020", font(SERIF, 20), anchor="ms")
    draw.text((256, 51), "Results of the second survey", "#505050", font(SERIF, 11), anchor="ms")
    y = 70
    for line in wrap(PROSE, font(SERIF, 8.5), 400):
        draw.text((56, y), line, "#303030", font(SERIF, 8.5), anchor="ls")
        y += 11
    draw.line((24, y, 488, y), "#909090")
    top, face = y + 16, font(SERIF, 9.5)
    lines = iter(wrap(PROSE + " " + sentences(60), face, 222))
    for left, begin in ((24, top), (266, top + 138)):
        for y in range(begin, 482, 13):
            draw.text((left, y), next(lines), "#1c1c1c", face, anchor="ls")
    draw.rectangle((266, top - 8, 488, top + 104), outline="#606060", fill="#eef1f4")
    chance = random.Random(4)
    for bar in range(24):
        height = round(20 + 2.4 * bar + chance.uniform(-14, 14))
        draw.rectangle(
            (274 + 9 * bar, top + 98 - height, 279 + 9 * bar, top + 98), "#b5623f" if bar % 6 == 5 else "#5b7fa6"
        )
    draw.text((266, top + 117), "Figure 2. Barrels a month, 1997 and 1998.", "#303030", font(SERIF, 8.5), anchor="ls")
    draw.line((24, 487, 120, 487), "#909090")
    draw.text((24, 499), "1  See the tables on page 118.", "#303030", font(SERIF, 7.5), anchor="ls")
    draw.text((488, 499), "58", "#303030", font(SERIF, 8.5), anchor="rs")
    return picture


def large_map() -> Image.Image:
    """The map of four times the area, at the same scale."""
    return street_map(LARGE)


def screen() -> Image.Image:
    """A screen of four panels: window, line chart, table and icons at the size that they have alone."""
    picture, _ = page("white", LARGE)
    for place, panel in enumerate((interface, chart, table, icons)):
        picture.paste(panel(), (SMALL * (place % 2), SMALL * (place // 2)))
    return picture


GRAPHICS: tuple[tuple[str, str, Callable[[], Image.Image], int], ...] = (
    ("document", "Page of a report", document, SMALL),
    ("table", "Table of numbers", table, SMALL),
    ("interface", "Settings window", interface, SMALL),
    ("chart", "Line chart", chart, SMALL),
    ("colours", "Hue, lightness and grey ramps", colours, SMALL),
    ("ladder", "Text from 6 to 26 pixels", ladder, SMALL),
    ("map", "Street map of an invented town", street_map, SMALL),
    ("icons", "Sheet of icons", icons, SMALL),
    ("map", "Street map of an invented town", large_map, LARGE),
    ("report", "Page of a report in two columns", report, LARGE),
    ("screen", "Screen of four panels", screen, LARGE),
)

RELEASES = {
    "scikit-image": "scikit-image 0.26.0",
    "scikit-learn": "scikit-learn 1.9.1",
    "lomiri": "Debian lomiri-wallpapers-16.04 20.04.0-2",
    "theme": "Debian wordpress-theme-twentytwentytwo 6.1.9+dfsg1-0+deb12u1",
}

STATED = {
    SMALL: (
        "The licence of each photograph is what its source states: the docstrings of `skimage/data/_fetchers.py`",
        "(scikit-image 0.26.0), `sklearn/datasets/images/README.txt` (scikit-learn 1.9.1) and the copyright file of",
        "Debian's package lomiri-wallpapers-16.04 (20.04.0-2). “Public domain” links to the mark that describes it.",
    ),
    LARGE: (
        "The licence of each photograph is what its source states: the docstrings of `skimage/data/_fetchers.py`",
        "(scikit-image 0.26.0), the copyright file of Debian's package lomiri-wallpapers-16.04 (20.04.0-2) and, for",
        "the print of ducks, `readme.txt` of the WordPress theme Twenty Twenty-Two (Debian's package",
        "wordpress-theme-twentytwentytwo 6.1.9). “Public domain” links to the mark that describes it.",
    ),
}
"""Where the licences of each set are stated."""


def save(path: Path, picture: Image.Image) -> tuple[str, int]:
    """Write lossless WebP, check that it decodes to the exact pixels, return their sha256 and the bytes of the file."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", lossless=True, quality=100, method=6, exact=True)
    pixels = picture.tobytes()
    if Image.open(buffer).convert("RGB").tobytes() != pixels:
        raise RuntimeError(f"{path.stem}: WebP did not give back the exact pixels")
    path.write_bytes(buffer.getvalue())
    return hashlib.sha256(pixels).hexdigest(), len(buffer.getvalue())


def licenses(entries: list[dict[str, str]], size: int) -> str:
    """Write the page that credits every picture of one set."""
    kept = "“rendered” or “same pixels”" if size == LARGE else "“rendered”"
    lines = [
        "# Sources and licences of the sample pictures",
        "",
        f"{len(entries)} pictures, {size}x{size}, lossless WebP. Written by `scripts/make_sample.py` together with",
        "`index.json`, which says the same for programs.",
        "",
        f"Unless a row says {kept}, the picture was **changed**: converted to RGB (transparent parts laid over",
        f"white), resized with a Lanczos filter so that its short side has {size} pixels, and cropped to the centre",
        "square. Nothing else was done to it. The authors endorse neither these versions nor this project.",
        "",
    ]
    if size == LARGE:
        lines[-1:] = [
            "No picture was enlarged. “Same pixels”: it had this size and was only encoded anew, as RGB where it was",
            "grey.",
            "",
        ]
    lines += [
        "| file | title | author | licence | source | change |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for entry in entries:
        via = f"{entry['source']} (via {entry['package']})" if entry["package"] else f"this project: {entry['source']}"
        license_link = f"[{entry['license']}]({entry['license_url']})"
        lines.append(
            f"| {entry['file']} | {entry['title']} | {entry['author']} | {license_link} | {via} | {entry['change']} |"
        )
    lines += ["", *STATED[size], ""]
    return "\n".join(lines)


def make(size: int, folder: Path, originals: dict[str, Path]) -> None:
    """Make one set."""
    folder.mkdir(parents=True, exist_ok=True)
    entries, total = [], 0
    for item in PICTURES:
        if size not in item.sizes:
            continue
        original = pictures.read(originals[item.package] / item.file)
        if size == LARGE and min(original.size) < size:
            raise RuntimeError(f"{item.file} would have to be enlarged from {original.width}x{original.height}")
        digest, length = save(folder / f"{item.id}.webp", geometry.resize_and_crop(original, size))
        total += length
        entries.append({
            "id": item.id, "file": f"{item.id}.webp", "title": item.title, "author": item.author,
            "license": item.license[0], "license_url": item.license[1], "source": item.source,
            "package": f"{RELEASES[item.package]}: {item.file}",
            "change": "same pixels" if original.size == (size, size)
            else f"resized and cropped from {original.width}x{original.height}",
            "category": item.category, "sha256": digest,
        })  # fmt: skip
    for name, title, render, of in GRAPHICS:
        if of != size:
            continue
        digest, length = save(folder / f"{name}.webp", render())
        total += length
        entries.append({
            "id": name, "file": f"{name}.webp", "title": title, "author": "The vtbench authors",
            "license": APACHE[0], "license_url": APACHE[1], "source": "scripts/make_sample.py", "package": "",
            "change": "rendered", "category": "graphic", "sha256": digest,
        })  # fmt: skip
    entries.sort(key=lambda entry: entry["id"])
    index = {"size": size, "pictures": entries}
    (folder / "index.json").write_text(json.dumps(index, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "LICENSES.md").write_text(licenses(entries, size), encoding="utf-8")
    sys.stdout.write(f"{size}x{size}: {len(entries)} pictures, {total:,} bytes\n")


def main() -> None:
    """Make both sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for package in RELEASES:
        parser.add_argument(f"--{package}", type=Path, required=True, help=f"folder with the pictures of {package}")
    said = vars(parser.parse_args())
    originals = {package: said[package.replace("-", "_")] for package in RELEASES}
    make(SMALL, OUT, originals)
    make(LARGE, OUT / str(LARGE), originals)


if __name__ == "__main__":
    main()
