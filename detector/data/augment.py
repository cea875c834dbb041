"""Random changes to training images. The one module that knows albumentations.

Every number drawn depends on (seed, epoch, index) alone, so that the order of work, the count of loader processes and
a resumed run change nothing.
"""

import math
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.config import AugmentConfig
from detector.data.letterbox import paste, resize
from detector.geometry import letterbox
from detector.types import Sample

Key = tuple[int, int, int]
"""(seed, epoch, index)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A whole-pixel cut-out of an image, the size it is brought to, and where it lies on the canvas."""

    source: tuple[int, int, int, int]  # left, top, right, bottom
    size_hw: tuple[int, int]
    top_left: tuple[int, int]


class Augmenter:
    """Zoom, cut and place; flip; jitter colours.

    Zoom is relative to the fit on `canvas_hw`, whatever part of the canvas is shown.
    """

    def __init__(self, config: AugmentConfig, canvas_hw: tuple[int, int], padding: int) -> None:
        self._config = config
        self._canvas_hw = canvas_hw
        self._padding = padding
        self._pipeline = _pipeline(config)

    def __call__(self, sample: Sample, rng_key: Key, window_hw: tuple[int, int] | None = None) -> Sample:
        """The sample on the canvas, or on a part of it of the size `window_hw`.

        Objects of which less than `min_visibility` is left become regions to ignore; what is left smaller than a pixel
        is gone.
        """
        seed, epoch, index = rng_key
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(1, epoch, index))))
        shown_hw = self._canvas_hw if window_hw is None else window_hw
        fitted = letterbox.fit(_size_hw(sample), self._canvas_hw).scale
        window = draw_window(rng, self._config, _size_hw(sample), shown_hw, fitted)
        cut = cut_out(sample, window, self._config.min_visibility)
        changed = self._flip_and_jitter(cut, seed=int(rng.integers(2**32)))
        top, left = window.top_left
        shift = np.array([left, top, left, top], np.float32)
        return Sample(
            image=paste(changed.image, shown_hw, window.top_left, self._padding),
            boxes=changed.boxes + shift,
            labels=changed.labels,
            is_crowd=changed.is_crowd,
        )

    def _flip_and_jitter(self, sample: Sample, *, seed: int) -> Sample:
        self._pipeline.set_random_seed(seed)
        made = self._pipeline(image=sample.image, bboxes=sample.boxes, rows=np.arange(len(sample.labels)))
        rows = np.asarray(made["rows"], np.int64)
        return Sample(
            image=made["image"],
            boxes=np.asarray(made["bboxes"], np.float32).reshape(-1, 4),
            labels=sample.labels[rows],
            is_crowd=sample.is_crowd[rows],
        )


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


def _size_hw(sample: Sample) -> tuple[int, int]:
    height, width = sample.image.shape[:2]
    return height, width


def _area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)


def _pipeline(config: AugmentConfig) -> Any:
    with _without_update_check():
        import albumentations
    return albumentations.Compose(
        [
            albumentations.HorizontalFlip(p=config.horizontal_flip),
            albumentations.VerticalFlip(p=config.vertical_flip),
            albumentations.ColorJitter(
                brightness=(1 - config.brightness, 1 + config.brightness),
                contrast=(1 - config.contrast, 1 + config.contrast),
                saturation=(1 - config.saturation, 1 + config.saturation),
                hue=(-config.hue, config.hue),
                p=1.0,
            ),
        ],
        bbox_params=albumentations.BboxParams(format="pascal_voc", label_fields=["rows"], clip=True),
    )


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
