"""Random changes to one training image. The one module that knows albumentations.

Every number drawn depends on (seed, epoch, index) alone, so that the order of work, the count of loader processes and
a resumed run change nothing.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from detector.config import AugmentConfig
from detector.data.letterbox import paste, resize
from detector.geometry import letterbox
from detector.types import Sample

Key = tuple[int, int, int]
"""(seed, epoch, index)"""
Rectangle = tuple[int, int, int, int]
"""Left, top, right, bottom in whole pixels."""
Framing = Literal["zoomed", "mosaic", "whole"]
"""How an image is shown: zoomed and placed at random; likewise, as one of the four of a mosaic; as scoring shows it."""

_ONE_IMAGE = 1  # the first number of every random stream of this module; 0 is the order of the images
_TURNS = (None, cv2.ROTATE_90_COUNTERCLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_CLOCKWISE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A cut-out of an image, the size it is brought to, and where it lies on the canvas."""

    source: Rectangle
    size_hw: tuple[int, int]  # before a quarter turn
    top_left: tuple[int, int]  # after it


@dataclass(frozen=True, slots=True, kw_only=True)
class Colours:
    """Factors of the four changes, and the order in which they come."""

    brightness: float
    contrast: float
    saturation: float
    hue: float
    order: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """All that was drawn for one image, in the order in which it is done."""

    window: Window
    shown_hw: tuple[int, int]
    quarter_turns: int = 0  # counter-clockwise
    flip_horizontal: bool
    flip_vertical: bool
    colours: Colours | None

    @property
    def size_hw(self) -> tuple[int, int]:
        """Of the picture on its canvas."""
        return turned_size(self.window.size_hw, self.quarter_turns)

    def on_reduced(self, factor: int) -> Self:
        """The same for an image that was reduced by `factor`."""
        return self if factor == 1 else dataclasses.replace(self, window=reduced(self.window, factor))


class Augmenter:
    """Zoom, cut and place; turn and flip; jitter colours.

    Zoom is relative to the fit on `canvas_hw`, whatever part of the canvas is shown. What is drawn depends on the size
    of the image alone, so that a reader may know it before it decodes.
    """

    def __init__(self, config: AugmentConfig, canvas_hw: tuple[int, int], padding: int) -> None:
        self._config = config
        self._in_mosaic = dataclasses.replace(config, scale=config.mosaic_scale)
        self._canvas_hw = canvas_hw
        self._padding = padding
        self._has_colours = any((config.brightness, config.contrast, config.saturation, config.hue))
        self._jitter = _jitter()

    def __call__(self, sample: Sample, rng_key: Key, window_hw: tuple[int, int] | None = None) -> Sample:
        """The sample on the canvas, or on a part of it of the size `window_hw`."""
        height, width = sample.image.shape[:2]
        return self.apply(sample, self.draw((height, width), rng_key, window_hw))

    def draw(
        self,
        size_hw: tuple[int, int],
        rng_key: Key,
        window_hw: tuple[int, int] | None = None,
        *,
        part: int = 0,
        framing: Framing = "zoomed",
    ) -> Change:
        """What is to be done to an image of this size.

        Args:
            size_hw: Of the image.
            rng_key: Of the sample.
            window_hw: Of the canvas it is shown on; None for the whole one.
            part: Which of the images of the sample; each has random numbers of its own.
            framing: How it is shown.
        """
        rng = generator(rng_key, _ONE_IMAGE, *((part,) if part else ()))
        turns = self._draw_turns(rng)
        upright_hw = turned_size(size_hw, turns)
        shown_hw = self._canvas_hw if window_hw is None else window_hw
        if framing == "whole":
            window = _whole(upright_hw, shown_hw)
        else:
            config = self._in_mosaic if framing == "mosaic" else self._config
            window = draw_window(rng, config, upright_hw, shown_hw, letterbox.fit(size_hw, self._canvas_hw).scale)
        return self._change(rng, _before_turn(window, upright_hw, turns), shown_hw, turns)

    def draw_cut_out(self, size_hw: tuple[int, int], rng: np.random.Generator, source: Rectangle) -> Change:
        """What is to be done to a part of an image of this size, so that it looks as the whole image might."""
        config = self._config
        turns = self._draw_turns(rng)
        scale = letterbox.fit(size_hw, self._canvas_hw).scale * _log_uniform(rng, config.scale)
        stretch = math.sqrt(_log_uniform(rng, config.aspect))
        left, top, right, bottom = source
        height, width = (
            max(1, round(side)) for side in ((bottom - top) * scale / stretch, (right - left) * scale * stretch)
        )
        window = Window(source=source, size_hw=(height, width), top_left=(0, 0))
        return self._change(rng, window, turned_size((height, width), turns), turns)

    def _draw_turns(self, rng: np.random.Generator) -> int:
        share = self._config.quarter_turns
        # Where there are none, nothing is drawn: what follows stays as it was before there were any.
        return int(rng.integers(1, 4)) if share and rng.random() < share else 0

    def _change(self, rng: np.random.Generator, window: Window, shown_hw: tuple[int, int], turns: int) -> Change:
        config = self._config
        return Change(
            window=window,
            shown_hw=shown_hw,
            quarter_turns=turns,
            flip_horizontal=bool(rng.random() < config.horizontal_flip),
            flip_vertical=bool(rng.random() < config.vertical_flip),
            colours=_draw_colours(rng, config) if self._has_colours else None,
        )

    def apply(self, sample: Sample, change: Change) -> Sample:
        """Do it.

        Objects of which less than `min_visibility` is left become regions to ignore; what is left smaller than a pixel
        is gone.
        """
        window = change.window
        cut = cut_out(sample, window, self._config.min_visibility)
        image = _flip(turn(cut.image, change.quarter_turns), change)
        if change.colours is not None:
            c = change.colours
            image = self._jitter(image, c.brightness, c.contrast, c.saturation, c.hue, list(c.order))
        top, left = window.top_left
        boxes = turn_boxes(cut.boxes, window.size_hw, change.quarter_turns)
        return Sample(
            image=paste(image, change.shown_hw, window.top_left, self._padding),
            boxes=_flip_boxes(boxes, change.size_hw, change) + np.array([left, top, left, top], np.float32),
            labels=cut.labels,
            is_crowd=cut.is_crowd,
        )


def generator(rng_key: Key, purpose: int, *more: int) -> np.random.Generator:
    """Numbers that nothing else draws."""
    seed, epoch, index = rng_key
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(purpose, epoch, index, *more))))


def turned_size(size_hw: tuple[int, int], quarter_turns: int) -> tuple[int, int]:
    height, width = size_hw
    return (width, height) if quarter_turns % 2 else (height, width)


def turn(image: NDArray[np.uint8], quarter_turns: int) -> NDArray[np.uint8]:
    """Counter-clockwise."""
    code = _TURNS[quarter_turns % 4]
    return image if code is None else np.asarray(cv2.rotate(image, code), np.uint8)


def turn_boxes(boxes: NDArray[np.float32], size_hw: tuple[int, int], quarter_turns: int) -> NDArray[np.float32]:
    """Boxes [N, 4] of an image of this size, as the turned image has them."""
    height, width = size_hw
    x1, y1, x2, y2 = boxes.T
    match quarter_turns % 4:
        case 1:
            return np.stack((y1, width - x2, y2, width - x1), axis=1)
        case 2:
            return np.stack((width - x2, height - y2, width - x1, height - y1), axis=1)
        case 3:
            return np.stack((height - y2, x1, height - y1, x2), axis=1)
        case _:
            return boxes


def _before_turn(window: Window, upright_hw: tuple[int, int], turns: int) -> Window:
    """The window of the image that, cut and then turned, gives this window of the turned image."""
    if turns == 0:
        return window
    source = turn_boxes(np.array([window.source], np.float32), upright_hw, 4 - turns)[0]
    left, top, right, bottom = (int(side) for side in source)
    return dataclasses.replace(window, source=(left, top, right, bottom), size_hw=turned_size(window.size_hw, turns))


def reduction(window: Window) -> int:
    """The largest power of two, up to 8, by which the image may be reduced first: nothing is enlarged again."""
    for factor in (8, 4, 2):
        left, top, right, bottom = _cells(window.source, factor)
        height, width = window.size_hw
        if right - left >= width and bottom - top >= height:
            return factor
    return 1


def reduced(window: Window, factor: int) -> Window:
    """The same window on an image reduced by `factor`, less the parts of squares at its border."""
    return window if factor == 1 else dataclasses.replace(window, source=_cells(window.source, factor))


def _cells(source: Rectangle, factor: int) -> Rectangle:
    """The whole squares inside."""
    left, top, right, bottom = source
    return -(-left // factor), -(-top // factor), right // factor, bottom // factor


def draw_window(
    rng: np.random.Generator, config: AugmentConfig, size_hw: tuple[int, int], shown_hw: tuple[int, int], scale: float
) -> Window:
    """What of an image is shown in `shown_hw` pixels, at a random zoom around `scale`.

    Zoom and aspect are uniform in their logarithm, the place is uniform.
    """
    scale *= _log_uniform(rng, config.scale)
    stretch = math.sqrt(_log_uniform(rng, config.aspect))
    top, bottom, height, y = _span(rng, size_hw[0], shown_hw[0], scale / stretch)
    left, right, width, x = _span(rng, size_hw[1], shown_hw[1], scale * stretch)
    return Window(source=(left, top, right, bottom), size_hw=(height, width), top_left=(y, x))


def _whole(size_hw: tuple[int, int], shown_hw: tuple[int, int]) -> Window:
    height, width = size_hw
    resized_hw = letterbox.resized_hw(letterbox.fit(size_hw, shown_hw), shown_hw)
    return Window(source=(0, 0, width, height), size_hw=resized_hw, top_left=(0, 0))


def cut_out(sample: Sample, window: Window, min_visibility: float) -> Sample:
    """Cut and resize once; boxes follow by the very factors of the pixels."""
    left, top, right, bottom = window.source
    height, width = window.size_hw
    scale = np.array([width / (right - left), height / (bottom - top)] * 2, np.float64)
    whole = (sample.boxes - np.array([left, top, left, top])) * scale
    boxes = np.clip(whole, 0, [width, height, width, height])
    visibility = _area(boxes) / np.maximum(_area(whole), 1e-9)
    kept = np.flatnonzero((boxes[:, 2:] - boxes[:, :2] >= 1).all(axis=1))
    return Sample(
        image=resize(sample.image[top:bottom, left:right], window.size_hw),
        boxes=boxes[kept].astype(np.float32),
        labels=sample.labels[kept],
        is_crowd=sample.is_crowd[kept] | (visibility[kept] < min_visibility),
    )


def _log_uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    low, high = bounds
    return low * math.exp(rng.random() * math.log(high / low))


def _span(rng: np.random.Generator, size: int, canvas: int, scale: float) -> tuple[int, int, int, int]:
    """Along one side: start and stop in the image, length and start on the canvas."""
    place = rng.random()
    wanted = max(size * scale, 1.0)
    if wanted <= canvas:
        length = min(round(wanted), canvas)
        return 0, size, length, int(place * (canvas - length + 1))
    shown = max(round(canvas / scale), 1)
    start = int(place * (size - shown + 1))
    return start, start + shown, canvas, 0


def _draw_colours(rng: np.random.Generator, config: AugmentConfig) -> Colours:
    brightness, contrast, saturation = (
        1 + spread * (2 * rng.random() - 1) for spread in (config.brightness, config.contrast, config.saturation)
    )
    return Colours(
        brightness=brightness,
        contrast=contrast,
        saturation=saturation,
        hue=config.hue * (2 * rng.random() - 1),
        order=tuple(rng.permutation(4).tolist()),
    )


def _flip(image: NDArray[np.uint8], change: Change) -> NDArray[np.uint8]:
    match change.flip_horizontal, change.flip_vertical:
        case False, False:
            return image
        case True, vertical:
            return np.asarray(cv2.flip(image, -1 if vertical else 1), np.uint8)
        case False, True:
            return np.asarray(cv2.flip(image, 0), np.uint8)


def _flip_boxes(boxes: NDArray[np.float32], size_hw: tuple[int, int], change: Change) -> NDArray[np.float32]:
    height, width = size_hw
    flipped = boxes.copy()
    if change.flip_horizontal:
        flipped[:, [0, 2]] = width - boxes[:, [2, 0]]
    if change.flip_vertical:
        flipped[:, [1, 3]] = height - boxes[:, [3, 1]]
    return flipped


def _area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)


def _jitter() -> Callable[..., NDArray[np.uint8]]:
    """The change of colours as albumentations makes it, to which the numbers are given.

    Its own pipeline would give each of its transforms the same random numbers: with both flips at 0.5 an image would
    be turned by half or not at all, and the turned ones would be the dark ones.
    """
    with _without_update_check():
        import albumentations
    return albumentations.ColorJitter(p=1.0).apply


@contextmanager
def _without_update_check() -> Generator[None]:
    """Keep albumentations off the network: it asks for a newer version when it is imported."""
    name = "NO_ALBUMENTATIONS_UPDATE"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
