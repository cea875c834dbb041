"""Several images in one training sample: mosaic, copy-paste of objects, mixup.

As in `augment`, every number depends on (seed, epoch, index) alone. Each of the three has random streams of its own, so
that one of them switched on or off leaves the others as they were.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from detector.config import AugmentConfig, CopyPasteConfig
from detector.data.augment import Change, Framing, Key, Rectangle, generator
from detector.data.columns import Columns
from detector.types import Sample

# The first numbers of random streams, beside those of `augment` and the loader.
_MOSAIC, _MIXUP, _COPY_PASTE = 2, 3, 4
_PARTS = 4  # of a mosaic
_SEAMS = (0.2, 0.8)  # of a side; Bochkovskiy's own program draws its seams there
# Zhang et al. draw from Beta(1.5, 1.5) and weight the losses by the shares. Boxes here have no weight, so both images
# must be seen well: as in YOLOv5, the shares lie within a tenth of a half, more or less.
_EVEN = 32.0
_TRIES = 50  # places for an object


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One of the images of a sample, and the part of its canvas where it is shown."""

    part: int = 0
    row: int | None = None
    """None for the image whose turn it is."""
    hw: tuple[int, int]
    top_left: tuple[int, int] = (0, 0)
    framing: Framing = "zoomed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Donor:
    """An image and those of its objects that are to be pasted, by their position in the columns."""

    row: int
    objects: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blend:
    """The image to mix with, and how much is left of the one that is there."""

    tile: Tile
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Which images go into a sample."""

    canvas_hw: tuple[int, int]
    tiles: tuple[Tile, ...]
    donor: Donor | None = None
    blend: Blend | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CutOut:
    """An object with what lies around it, ready to be pasted."""

    sample: Sample
    box: NDArray[np.float32]  # [4], of the object itself; the soft border is outside


class Mixer:
    """Draws which images go into a sample."""

    def __init__(self, columns: Columns, config: AugmentConfig) -> None:
        self._config = config
        self._num_images = len(columns)
        self._pool = _Pool(columns, config.copy_paste) if config.copy_paste.probability > 0 else None

    def plan(self, rng_key: Key, window_hw: tuple[int, int], *, is_clean: bool) -> Plan:
        config = self._config
        alone = (Tile(hw=window_hw, framing="whole" if is_clean else "zoomed"),)
        if is_clean or not config.mixes:
            return Plan(canvas_hw=window_hw, tiles=alone)
        return Plan(
            canvas_hw=window_hw,
            tiles=self._mosaic(generator(rng_key, _MOSAIC), window_hw) or alone,
            donor=self._donor(generator(rng_key, _COPY_PASTE)),
            blend=self._blend(generator(rng_key, _MIXUP), window_hw),
        )

    def _mosaic(self, rng: np.random.Generator, window_hw: tuple[int, int]) -> tuple[Tile, ...] | None:
        if rng.random() >= self._config.mosaic:
            return None
        height, width = window_hw
        y, x = _seam(rng, height), _seam(rng, width)
        partners = rng.integers(self._num_images, size=_PARTS - 1).tolist()
        return tuple(
            Tile(part=part, row=row, hw=hw, top_left=top_left, framing="mosaic")
            for part, (row, hw, top_left) in enumerate(
                (
                    (None, (y, x), (0, 0)),
                    (partners[0], (y, width - x), (0, x)),
                    (partners[1], (height - y, x), (y, 0)),
                    (partners[2], (height - y, width - x), (y, x)),
                )
            )
        )

    def _donor(self, rng: np.random.Generator) -> Donor | None:
        config = self._config.copy_paste
        if self._pool is None or rng.random() >= config.probability:
            return None
        return self._pool.draw(rng, int(rng.integers(1, config.objects + 1)))

    def _blend(self, rng: np.random.Generator, window_hw: tuple[int, int]) -> Blend | None:
        if rng.random() >= self._config.mixup:
            return None
        tile = Tile(part=_PARTS, row=int(rng.integers(self._num_images)), hw=window_hw)
        return Blend(tile=tile, share=float(rng.beta(_EVEN, _EVEN)))


class _Pool:
    """The objects that may be pasted: those that their image shows whole, as far as its border tells."""

    def __init__(self, columns: Columns, config: CopyPasteConfig) -> None:
        boxes = columns.boxes
        sizes_hw = np.repeat(columns.sizes_hw, np.diff(columns.offsets), axis=0)
        touches = (boxes[:, :2] < 1).any(axis=1) | (boxes[:, 2:] > sizes_hw[:, ::-1] - 1).any(axis=1)
        self._offsets = columns.offsets
        self._objects: NDArray[np.int64] = np.flatnonzero(~touches & ~columns.is_crowd)
        labels = columns.labels[self._objects]
        counts = np.bincount(labels)
        self._weights: NDArray[np.float64] = 1 / counts[labels] if config.even_classes else np.ones(len(labels))
        self._sums: NDArray[np.float64] = np.cumsum(self._weights)

    def draw(self, rng: np.random.Generator, count: int) -> Donor | None:
        """One object of all, and up to `count - 1` others of its image, each as likely as its weight says."""
        if len(self._objects) == 0:
            return None
        wanted = rng.random() * float(self._sums[-1])
        place = int(np.searchsorted(self._sums, wanted, side="right"))
        drawn = int(self._objects[min(place, len(self._objects) - 1)])
        row = int(np.searchsorted(self._offsets, drawn, side="right")) - 1
        start, stop = np.searchsorted(self._objects, self._offsets[row : row + 2]).tolist()
        beside = self._objects[start:stop]
        order = np.argsort(rng.exponential(size=len(beside)) / self._weights[start:stop], kind="stable")
        others = [one for one in beside[order].tolist() if one != drawn]
        return Donor(row=row, objects=(drawn, *others[: count - 1]))


def most_images(config: AugmentConfig) -> int:
    """Of how many images a sample may have the objects; pasted ones count as an image."""
    return (_PARTS if config.mosaic else 1) + (config.mixup > 0) + (config.copy_paste.probability > 0)


def placing(rng_key: Key) -> np.random.Generator:
    """What is drawn while objects are pasted."""
    return generator(rng_key, _COPY_PASTE, 1)


def against_the_seams(change: Change, tile: Tile) -> Change:
    """A picture of a mosaic that does not fill its part touches the point where the four meet."""
    if tile.framing != "mosaic":
        return change
    y, x = (
        room - side if start == 0 else 0
        for room, side, start in zip(tile.hw, change.size_hw, tile.top_left, strict=True)
    )
    return replace(change, window=replace(change.window, top_left=(y, x)))


def pictures(tiles: Sequence[Tile], changes: Sequence[Change]) -> list[Rectangle]:
    """Where on the canvas each tile shows its picture and no grey."""
    found: list[Rectangle] = []
    for tile, change in zip(tiles, changes, strict=True):
        top, left = (a + b for a, b in zip(tile.top_left, change.window.top_left, strict=True))
        found.append((left, top, left + change.size_hw[1], top + change.size_hw[0]))
    return found


def mosaic(tiles: Sequence[Tile], samples: Sequence[Sample], canvas_hw: tuple[int, int]) -> Sample:
    """The tiles in their places; they fill the canvas."""
    image = np.empty((*canvas_hw, 3), np.uint8)
    boxes: list[NDArray[np.float32]] = []
    for tile, sample in zip(tiles, samples, strict=True):
        (top, left), (height, width) = tile.top_left, tile.hw
        image[top : top + height, left : left + width] = sample.image
        boxes.append(sample.boxes + np.array([left, top, left, top], np.float32))
    return _together(image, boxes, samples)


def mixup(sample: Sample, other: Sample, share: float) -> Sample:
    """Both, one seen through the other."""
    image = np.asarray(cv2.addWeighted(sample.image, share, other.image, 1 - share, 0.0), np.uint8)
    return _together(image, [sample.boxes, other.boxes], [sample, other])


def around(box: NDArray[np.float32], size_hw: tuple[int, int], feather: float) -> Rectangle:
    """A box with room for a soft border, in whole pixels of its image."""
    x1, y1, x2, y2 = (float(side) for side in box)
    height, width = size_hw
    x, y = feather * (x2 - x1), feather * (y2 - y1)
    left, top = max(0, math.floor(x1 - x)), max(0, math.floor(y1 - y))
    right, bottom = min(width, math.ceil(x2 + x)), min(height, math.ceil(y2 + y))
    return left, top, max(right, left + 1), max(bottom, top + 1)


def copy_paste(
    sample: Sample,
    cut_outs: Sequence[CutOut],
    grounds: Sequence[Rectangle],
    rng: np.random.Generator,
    config: AugmentConfig,
) -> Sample:
    """Lay each cut-out somewhere on one of the grounds where it and no object overlap by more than the bound.

    Where no such place is found, it is left out. Of a covered object the box goes as far as it can be seen.
    """
    image = sample.image.copy()
    boxes, labels, is_crowd = sample.boxes.copy(), sample.labels, sample.is_crowd
    areas = _areas(boxes)
    covered = np.zeros(len(boxes))
    for cut in cut_outs:
        height, width = cut.sample.image.shape[:2]
        limit = config.copy_paste.overlap
        room = np.minimum(np.maximum(limit - covered, 0) * areas, limit * height * width)
        room[is_crowd] = np.inf
        found = _place(rng, grounds, (height, width), boxes, room)
        if found is None:
            continue
        left, top = found
        shift = np.array([left, top, left, top], np.float32)
        here = image[top : top + height, left : left + width]
        alpha = _alpha((height, width), cut.box)[:, :, None]
        here[:] = np.rint(here + alpha * (cut.sample.image - here.astype(np.float32)))
        patch = np.array([left, top, left + width, top + height], np.float32)
        covered += np.where(is_crowd, 0.0, _covered(boxes, patch[None])[0] / np.maximum(areas, 1e-9))
        boxes = np.where(is_crowd[:, None], boxes, _trimmed(boxes, cut.box + shift))
        boxes = np.concatenate((boxes, cut.sample.boxes + shift))
        labels = np.concatenate((labels, cut.sample.labels))
        is_crowd = np.concatenate((is_crowd, cut.sample.is_crowd))
        areas = np.concatenate((areas, _areas(cut.sample.boxes)))
        covered = np.concatenate((covered, np.zeros(len(cut.sample.labels))))
    kept = np.flatnonzero((boxes[:, 2:] - boxes[:, :2] >= 1).all(axis=1))
    hidden = covered > 1 - config.min_visibility
    return Sample(image=image, boxes=boxes[kept], labels=labels[kept], is_crowd=(is_crowd | hidden)[kept])


def _seam(rng: np.random.Generator, side: int) -> int:
    low, high = _SEAMS
    return min(max(round(side * (low + (high - low) * rng.random())), 1), side - 1)


def _together(image: NDArray[np.uint8], boxes: Sequence[NDArray[np.float32]], samples: Sequence[Sample]) -> Sample:
    return Sample(
        image=image,
        boxes=np.concatenate(boxes),
        labels=np.concatenate([sample.labels for sample in samples]),
        is_crowd=np.concatenate([sample.is_crowd for sample in samples]),
    )


def _place(
    rng: np.random.Generator,
    grounds: Sequence[Rectangle],
    size_hw: tuple[int, int],
    boxes: NDArray[np.float32],
    room: NDArray[np.float64],
) -> tuple[int, int] | None:
    """Left and top of the first of some random places where no box is covered by more than its `room` in pixels."""
    size_wh = np.array(size_hw[::-1])
    ground = np.array(grounds)[rng.integers(len(grounds), size=_TRIES)]
    free = ground[:, 2:] - ground[:, :2] - size_wh
    corners = ground[:, :2] + (rng.random((_TRIES, 2)) * (np.maximum(free, 0) + 1)).astype(np.int64)
    patches = np.concatenate((corners, corners + size_wh), axis=1)
    fits = np.flatnonzero((free >= 0).all(axis=1) & (_covered(boxes, patches) <= room).all(axis=1))
    return None if len(fits) == 0 else (int(corners[fits[0], 0]), int(corners[fits[0], 1]))


def _covered(boxes: NDArray[np.float32], patches: NDArray[np.generic]) -> NDArray[np.float64]:
    """Area [P, N] of each box under each patch."""
    low = np.maximum(boxes[None, :, :2], patches[:, None, :2])
    high = np.minimum(boxes[None, :, 2:], patches[:, None, 2:])
    return np.prod(np.maximum(high - low, 0).astype(np.float64), axis=2)


def _areas(boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.prod((boxes[:, 2:] - boxes[:, :2]).astype(np.float64), axis=1)


def _trimmed(boxes: NDArray[np.float32], patch: NDArray[np.float32]) -> NDArray[np.float32]:
    """The smallest boxes around what a patch leaves uncovered; without area where it leaves nothing."""
    left, top, right, bottom = (np.float32(side) for side in patch)
    x1, y1, x2, y2 = boxes.T
    over_height, over_width = (top <= y1) & (bottom >= y2), (left <= x1) & (right >= x2)
    meets = (left < x2) & (right > x1) & (top < y2) & (bottom > y1)
    sides: list[NDArray[np.float32]] = [
        np.where(meets & over_height & (left <= x1), np.minimum(right, x2), x1),
        np.where(meets & over_width & (top <= y1), np.minimum(bottom, y2), y1),
        np.where(meets & over_height & (right >= x2), np.maximum(left, x1), x2),
        np.where(meets & over_width & (bottom >= y2), np.maximum(top, y1), y2),
    ]
    return np.stack(sides, axis=1)


def _alpha(size_hw: tuple[int, int], box: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 on the box, falling to 0 at the borders of the cut-out around it."""
    height, width = size_hw
    x1, y1, x2, y2 = (float(side) for side in box)
    return np.outer(_ramp(height, y1, y2), _ramp(width, x1, x2))


def _ramp(length: int, start: float, stop: float) -> NDArray[np.float32]:
    centres = np.arange(length) + 0.5
    rising, falling = centres / max(start, 1e-9), (length - centres) / max(length - stop, 1e-9)
    return np.minimum(np.minimum(rising, falling), 1).astype(np.float32)
