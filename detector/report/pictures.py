"""Pictures with right, wrong and missed boxes, and crops around doubtful labels, small enough to lie within a page."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from detector.analysis.analyse import Analysis
from detector.analysis.label_errors import Suspect
from detector.analysis.matching import NONE
from detector.data import decode
from detector.predict import fonts

# Okabe and Ito 2008, as in `predict.colours`.
RIGHT: Final = (0, 158, 115)
WRONG: Final = (213, 94, 0)
MISSED: Final = (86, 180, 233)
LABEL: Final = (255, 255, 255)
_SIDE: Final = 720  # pixels of the longer side
_CROP: Final = 200
_AROUND: Final = 1.2  # of a crop's box is shown on each side
_QUALITY: Final = 78
_NAME: Final = 24  # letters

Box = Sequence[float]  # x, y, width, height
Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mark:
    box: Box
    colour: Colour
    text: str = ""
    is_dashed: bool = False


def judged(analysis: Analysis, image_row: int, path: Path) -> bytes:
    """A JPEG of one image: what was found rightly, wrongly (both solid), and what was missed (dashed).

    Raises:
        DataError: the image cannot be read.
    """
    matches, verdicts, names = analysis.matches, analysis.verdicts, analysis.truth.names
    here = matches.image_rows == image_row
    marks: list[_Mark] = []
    for flags, colour in ((verdicts.is_right, RIGHT), (verdicts.is_wrong, WRONG)):
        for k in np.flatnonzero(flags & here).tolist():
            text = "" if colour == RIGHT else f"{names[matches.class_rows[k]][:_NAME]} {matches.scores[k]:.2f}"
            marks.append(_Mark(box=analysis.found.boxes_xywh[matches.rows[k]].tolist(), colour=colour, text=text))
    objects = analysis.truth.objects
    for row in verdicts.missed[objects.image_rows[verdicts.missed] == image_row].tolist():
        name = names[objects.class_rows[row]][:_NAME]
        marks.append(_Mark(box=objects.boxes_xywh[row].tolist(), colour=MISSED, text=name, is_dashed=True))
    image = Image.fromarray(decode.read_image(path))
    factor = min(1.0, _SIDE / max(image.size))
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return _drawn(image.resize(size, Image.Resampling.LANCZOS), marks, (0.0, 0.0), factor)


def doubted(analysis: Analysis, suspect: Suspect, path: Path) -> bytes:
    """A JPEG of the surroundings of one doubtful label (white) and of what the model proposes (dashed).

    Raises:
        DataError: the image cannot be read.
    """
    objects = analysis.truth.objects
    marks: list[_Mark] = []
    if suspect.object_row != NONE:
        marks.append(_Mark(box=objects.boxes_xywh[suspect.object_row].tolist(), colour=LABEL))
    if suspect.box_xywh is not None:
        marks.append(_Mark(box=suspect.box_xywh, colour=WRONG, is_dashed=True))
    image = Image.fromarray(decode.read_image(path))
    window = _around([mark.box for mark in marks], image.size)
    part = image.crop(window)
    factor = _CROP / max(part.size)
    size = (max(1, round(part.width * factor)), max(1, round(part.height * factor)))
    return _drawn(part.resize(size, Image.Resampling.BICUBIC), marks, (window[0], window[1]), factor)


def _around(boxes: Sequence[Box], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A square window, as far as the image reaches."""
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, bottom = max(box[0] + box[2] for box in boxes), max(box[1] + box[3] for box in boxes)
    half = max(right - left, bottom - top, 24) * (0.5 + _AROUND)
    x, y = (left + right) / 2, (top + bottom) / 2
    window = (max(0, int(x - half)), max(0, int(y - half)), min(size[0], int(x + half)), min(size[1], int(y + half)))
    # A label wholly outside its image leaves no window.
    return window if window[0] < window[2] and window[1] < window[3] else (0, 0, *size)


def _drawn(image: Image.Image, marks: Sequence[_Mark], origin: tuple[float, float], factor: float) -> bytes:
    pen = ImageDraw.Draw(image)
    line = max(2, round(max(image.size) / 300))
    for mark in marks:
        x, y, w, h = mark.box
        left, top = (x - origin[0]) * factor, (y - origin[1]) * factor
        right, bottom = left + w * factor, top + h * factor
        corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
        for start, stop in pairwise(corners):
            for piece in _dashes(start, stop, 4.0 * line) if mark.is_dashed else [(start, stop)]:
                pen.line(piece, fill=mark.colour, width=line)
        if mark.text:
            font, shown = fonts.fit(mark.text, 12)
            at = (max(0, left), max(0, top - 14))
            pen.rectangle((*at, at[0] + font.getlength(shown) + 3, at[1] + 14), fill=mark.colour)
            pen.text((at[0] + 1, at[1]), shown, font=font, fill=(0, 0, 0))
    written = io.BytesIO()
    image.save(written, format="JPEG", quality=_QUALITY)
    return written.getvalue()


def _dashes(
    start: tuple[float, float], stop: tuple[float, float], length: float
) -> Iterator[tuple[tuple[float, float], tuple[float, float]]]:
    a, b = np.array(start), np.array(stop)
    whole = float(np.abs(b - a).max())
    if whole == 0:
        return
    step = (b - a) / whole * length
    # No box is so large that a page needs more dashes.
    for k in range(min(int(np.ceil(whole / (2 * length))), 500)):
        first = a + step * 2 * k
        last = first + step if np.abs(first + step - a).max() <= whole else b
        yield (float(first[0]), float(first[1])), (float(last[0]), float(last[1]))
