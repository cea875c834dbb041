"""Draw detections into a picture, for people to look at."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from detector.predict import colours, fonts
from detector.predict.fonts import Font
from detector.types import Detections

CROWDED: Final = 25  # boxes; beyond it, labels are smaller and leave the score out
_LONGEST_NAME: Final = 32
_ELLIPSIS: Final = "..."
# Shares of an object under a label: up to the first a place is good, from the second on it is refused.
_LITTLE_HIDDEN: Final = 0.15
_MOST_HIDDEN: Final = 0.5
_Rectangle = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Style:
    """Sizes in pixels, fit to the picture and to how full it is."""

    line: int
    text: int
    with_score: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Label:
    """Text of one box, measured."""

    text: str
    font: Font
    width: int
    height: int
    padding: int


def draw(image: NDArray[np.uint8], found: Detections) -> NDArray[np.uint8]:
    """Return a copy of an RGB picture with boxes and labels; the best detection lies on top.

    Labels never leave the picture nor cover one another, and avoid small objects; in a narrow picture they are
    shortened. A box with no good place beside it stays without label; its colour still tells the class.
    """
    picture = Image.fromarray(image)
    pen = ImageDraw.Draw(picture)  # this copies the pixels, which are the caller's
    size = picture.size
    labels = cast("list[int]", found.labels.tolist())
    corners = cast("list[list[float]]", found.boxes.tolist())
    boxes = {i: _pixels(box, size) for i, box in enumerate(corners) if _touches(box, size)}
    style = _style(size, tuple(boxes.values()))
    for i, box in reversed(boxes.items()):
        _draw_box(pen, box, colours.of_label(labels[i]), style.line)
    covered = _Covered(boxes.values())
    for i, box in boxes.items():
        label = _fitting_label(found.names[i], float(found.scores[i]), style, size[0])
        place = None if label is None else _place(label, box, size, covered)
        if label is not None and place is not None:
            covered.labels.append(place)
            _draw_label(pen, label, place, colours.of_label(labels[i]))
    return np.asarray(picture)


class _Covered:
    """What a label may hide: earlier labels never, objects as little as can be."""

    def __init__(self, boxes: Iterable[_Rectangle]) -> None:
        self.labels: list[_Rectangle] = []
        self._boxes = np.array([*boxes], dtype=np.int64).reshape(-1, 4)
        self._boxes[:, 2:] += 1  # past the last pixel
        self._areas = (self._boxes[:, 2:] - self._boxes[:, :2]).prod(axis=1)

    def cost(self, place: _Rectangle) -> float:
        """The largest hidden share of an object; infinite where an earlier label would be hidden."""
        x0, y0, x1, y1 = place
        if any(x0 < right and left < x1 and y0 < bottom and top < y1 for left, top, right, bottom in self.labels):
            return float("inf")
        low = np.maximum(self._boxes[:, :2], (x0, y0))
        high = np.minimum(self._boxes[:, 2:], (x1, y1))
        return float(((high - low).clip(min=0).prod(axis=1) / self._areas).max())


def _style(size: tuple[int, int], boxes: Sequence[_Rectangle]) -> _Style:
    # The mean side, so that a panorama does not get the lines of its length.
    side = (size[0] * size[1]) ** 0.5
    line, text = side / 240, side / 36
    crowded = len(boxes) > CROWDED
    if crowded:
        usual = float(np.median([((x1 - x0 + 1) * (y1 - y0 + 1)) ** 0.5 for x0, y0, x1, y1 in boxes]))
        line, text = min(line, usual / 30), min(text * 0.8, usual / 5)
    return _Style(line=max(1, round(line)), text=max(9 if crowded else 12, round(text)), with_score=not crowded)


def _touches(box: Sequence[float], size: tuple[int, int]) -> bool:
    x0, y0, x1, y1 = box
    return bool(np.isfinite(box).all()) and x0 < size[0] and y0 < size[1] and x1 >= 0 and y1 >= 0


def _draw_box(pen: ImageDraw.ImageDraw, box: _Rectangle, colour: colours.Colour, line: int) -> None:
    x0, y0, x1, y1 = box
    # A thick line would fill a small box.
    pen.rectangle(box, outline=colour, width=max(1, min(line, (min(x1 - x0, y1 - y0) + 1) // 6)))


def _pixels(box: Sequence[float], size: tuple[int, int]) -> _Rectangle:
    """First and last pixel of the box in x and y, inside the picture."""
    x0, y0, x1, y1 = box
    left, top = (min(max(int(value), 0), limit - 1) for value, limit in zip((x0, y0), size, strict=True))
    right, bottom = (min(max(round(value) - 1, 0), limit - 1) for value, limit in zip((x1, y1), size, strict=True))
    return left, top, max(left, right), max(top, bottom)


def _fitting_label(name: str, score: float, style: _Style, width: int) -> _Label | None:
    """The longest label that a picture of this width can hold."""
    texts = _texts(name, score, with_score=style.with_score)
    labels = (_measure(text, style.text) for text in texts)
    return next((label for label in labels if label.width <= width), None)


def _texts(name: str, score: float, *, with_score: bool) -> Iterator[str]:
    """What a label may say, from the longest on."""
    whole = _shortened(name, _LONGEST_NAME)
    if with_score:
        yield f"{whole} {score:.2f}"
    yield whole
    for length in range(len(whole) - 1, len(_ELLIPSIS), -1):
        yield _shortened(name, length)


def _shortened(name: str, length: int) -> str:
    return name if len(name) <= length else name[: length - len(_ELLIPSIS)] + _ELLIPSIS


def _measure(text: str, size: int) -> _Label:
    font, shown = fonts.fit(text, size)
    padding = max(1, round(size / 6))
    # The height of the line, not of the letters at hand, so that labels are of one height.
    top, bottom = font.getbbox("Ag")[1::2]
    return _Label(
        text=shown,
        font=font,
        width=int(font.getlength(shown)) + 2 * padding + 1,
        height=round(bottom - top) + 2 * padding,
        padding=padding,
    )


def _place(label: _Label, box: _Rectangle, size: tuple[int, int], covered: _Covered) -> _Rectangle | None:
    """The place that hides least; the first in order where that is little."""
    best, best_cost = None, _MOST_HIDDEN
    for left, top in _corners(label, box):
        x = min(left, size[0] - label.width)
        place = (x, top, x + label.width, top + label.height)
        if x < 0 or top < 0 or place[3] > size[1]:
            continue
        cost = covered.cost(place)
        if cost <= _LITTLE_HIDDEN:
            return place
        if cost < best_cost:
            best, best_cost = place, cost
    return best


def _corners(label: _Label, box: _Rectangle) -> Iterator[tuple[int, int]]:
    """Places of a label, the best first: on the box, in its top, below it, in its bottom; at its left, at its right."""
    x0, y0, x1, y1 = box
    for left in (x0, max(x1 + 1 - label.width, 0)):
        yield left, y0 - label.height
        yield left, y0
        yield left, y1 + 1
        yield left, y1 + 1 - label.height


def _draw_label(pen: ImageDraw.ImageDraw, label: _Label, place: _Rectangle, colour: colours.Colour) -> None:
    left, top, right, bottom = place
    pen.rectangle((left, top, right - 1, bottom - 1), fill=colour)
    offset = label.font.getbbox("Ag")[1]
    at = (left + label.padding, top + label.padding - offset)
    pen.text(at, label.text, font=label.font, fill=colours.text_on(colour))
