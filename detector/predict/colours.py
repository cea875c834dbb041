"""A colour for every class, told apart by people of normal and of red-green blind sight."""

import colorsys
from typing import Final

Colour = tuple[int, int, int]

# Okabe and Ito 2008, without black and ordered so that the first few differ most in lightness as well.
_OKABE_ITO: Final[tuple[Colour, ...]] = (
    (0, 114, 178),  # blue
    (230, 159, 0),  # orange
    (0, 158, 115),  # green
    (213, 94, 0),  # vermilion
    (86, 180, 233),  # sky blue
    (204, 121, 167),  # purple
    (240, 228, 66),  # yellow
)
_GOLDEN: Final = 0.6180339887498949
_LIGHTNESS: Final = (0.35, 0.75, 0.55)


def of_label(label: int) -> Colour:
    """RGB that depends on the label alone. Past the seventh class hues repeat nearly, with other lightness."""
    if label < len(_OKABE_ITO):
        return _OKABE_ITO[label]
    step = label - len(_OKABE_ITO)
    red, green, blue = colorsys.hls_to_rgb(step * _GOLDEN % 1, _LIGHTNESS[step % len(_LIGHTNESS)], 0.7)
    return round(red * 255), round(green * 255), round(blue * 255)


def text_on(background: Colour) -> Colour:
    """Black or white, whichever stands out more (WCAG 2 contrast; never under 4.5)."""
    white_contrast = 1.05 / (_luminance(background) + 0.05)
    black_contrast = (_luminance(background) + 0.05) / 0.05
    return (255, 255, 255) if white_contrast >= black_contrast else (0, 0, 0)


def _luminance(colour: Colour) -> float:
    red, green, blue = (_linear(channel / 255) for channel in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(channel: float) -> float:
    return channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4
