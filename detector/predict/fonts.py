"""A font that can show a given text, as far as the machine has one."""

import unicodedata
from functools import cache
from typing import Final

from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Pillow searches the system's font folders for these. Its own font is tried first and has the letters of ASCII only.
_FILES: Final = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "Arial Unicode.ttf",
    "arial.ttf",
    "NotoSansCJK-Regular.ttc",
    "msyh.ttc",
    "PingFang.ttc",
)
_UNASSIGNED: Final = "\uffff"  # drawn as the font's sign for "I have no such letter"
_REPLACEMENT: Final = "?"


def fit(text: str, size: int) -> tuple[Font, str]:
    """Font and text to draw: the font that knows most of the letters, the rest without accents, or as "?"."""
    clean = _drawable(text)
    choices = [(font, _known(clean, font)) for font in _fonts(size)]
    return min(choices, key=lambda choice: _loss(clean, choice[1]))


def _loss(wanted: str, shown: str) -> int:
    return sum(a != b for a, b in zip(wanted, shown, strict=True))


def _drawable(text: str) -> str:
    """One line without control characters or half surrogates, which FreeType refuses."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _known(text: str, font: Font) -> str:
    return "".join(letter if letter.isspace() or _has(font, letter) else _plain(letter) for letter in text)


def _plain(letter: str) -> str:
    base = unicodedata.normalize("NFKD", letter)[0]
    return base if base.isascii() else _REPLACEMENT


@cache
def _fonts(size: int) -> tuple[Font, ...]:
    found: list[Font] = [ImageFont.load_default(size)]
    for name in _FILES:
        try:
            found.append(ImageFont.truetype(name, size))
        except OSError:
            continue
    return tuple(found)


@cache
def _has(font: Font, letter: str) -> bool:
    if letter.isascii():
        return True
    if isinstance(font, ImageFont.ImageFont):  # the bitmap font of a Pillow without FreeType
        return False
    return _shape(font, letter) != _shape(font, _UNASSIGNED)


def _shape(font: ImageFont.FreeTypeFont, letter: str) -> bytes:
    canvas = Image.new("L", (2 * round(font.size), 2 * round(font.size)))
    ImageDraw.Draw(canvas).text((0, 0), letter, font=font, fill=255)
    return canvas.tobytes()
