"""A colour for every class, told apart by people of normal and of red-green blind sight."""

import colorsys
from typing import Final

Colour = tuple[int, int, int]

_TABLE: Final[tuple[Colour, ...]] = (
    # Okabe and Ito 2008, without black; blue and orange, the first two, differ most.
    (0, 114, 178),  # blue
    (230, 159, 0),  # orange
    (0, 158, 115),  # green
    (213, 94, 0),  # vermilion
    (86, 180, 233),  # sky blue
    (204, 121, 167),  # purple
    (240, 228, 66),  # yellow
    # One after another the colour that lies furthest, in CIELAB, from all before it, in the worst of three sights:
    # normal, protanopia and deuteranopia (Machado et al. 2009).
    (0, 0, 255),
    (119, 0, 0),
    (153, 255, 170),
    (102, 17, 68),
    (51, 34, 170),
    (102, 119, 255),
    (119, 255, 255),
    (85, 187, 102),
    (0, 51, 119),
    (136, 221, 187),
    (204, 238, 119),
    (119, 34, 51),
    (170, 68, 34),
)
_GOLDEN: Final = 0.6180339887498949  # of a turn: successive hues spread evenly, however many there are


def of_label(label: int) -> Colour:
    """RGB that depends on the label alone. Past the table only neighbours are sure to differ clearly."""
    if label < len(_TABLE):
        return _TABLE[label]
    red, green, blue = colorsys.hls_to_rgb((label - len(_TABLE)) * _GOLDEN % 1, 0.5, 0.7)
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
