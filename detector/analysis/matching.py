"""Which detection meets which object, once, as pycocotools decides it; the analyses read the answer."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detector.evaluate.engines import Objects
from detector.evaluate.results import Results

IOU_THRESHOLDS: Final = np.linspace(0.5, 0.95, 10)
LIMIT: Final = 100  # detections for an image and class
NONE: Final = -1
_CERTAIN: Final = 1 - 1e-10  # the highest IoU that pycocotools asks for


@dataclass(frozen=True, slots=True, kw_only=True)
class Matches:
    """Detections of each class, best first. What the limit cuts off is not here."""

    num_images: int
    num_classes: int
    rows: NDArray[np.int64]  # [K], of the results
    image_rows: NDArray[np.int64]  # [K]
    class_rows: NDArray[np.int64]  # [K], ascending
    scores: NDArray[np.float64]  # [K]
    objects: NDArray[np.int64]  # [10, K], row of the object met at each IoU threshold, NONE where there is none
    is_ignored: NDArray[np.bool_]  # [10, K], met a crowd region: neither right nor wrong
    num_objects: NDArray[np.int64]  # [image, class], crowd regions not counted

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def is_right(self) -> NDArray[np.bool_]:
        """[10, K], met an object of its class."""
        return (self.objects != NONE) & ~self.is_ignored

    def of_class(self, row: int) -> slice:
        """Where the detections of a class stand."""
        start, stop = np.searchsorted(self.class_rows, [row, row + 1]).tolist()
        return slice(start, stop)


def match(truth: Objects, found: Results) -> Matches:
    """Match detections, whose ids of images and classes are rows as in `truth`, at every IoU threshold."""
    kept = _within_limit(found)
    ranked = kept[np.lexsort((kept, found.image_ids[kept], -found.scores[kept], found.category_ids[kept]))]
    images, classes = found.image_ids[ranked], found.category_ids[ranked]
    objects = np.full((len(IOU_THRESHOLDS), len(ranked)), NONE, np.int64)
    is_ignored = np.zeros(objects.shape, np.bool_)
    for mine, theirs in _pairs(images, classes, truth):
        # Real objects first, as a stable sort leaves them.
        theirs = theirs[np.argsort(truth.is_crowd[theirs], kind="stable")]
        is_crowd = truth.is_crowd[theirs]
        overlaps = iou(found.boxes_xywh[ranked[mine]], truth.boxes_xywh[theirs], is_crowd)
        met = _greedy(overlaps, is_crowd)
        objects[:, mine] = np.where(met == NONE, NONE, theirs[met])
        is_ignored[:, mine] = (met != NONE) & is_crowd[met]
    counts = np.zeros((truth.num_images, truth.num_classes), np.int64)
    real = ~truth.is_crowd
    np.add.at(counts, (truth.image_rows[real], truth.class_rows[real]), 1)
    return Matches(
        num_images=truth.num_images,
        num_classes=truth.num_classes,
        rows=ranked,
        image_rows=images,
        class_rows=classes,
        scores=found.scores[ranked],
        objects=objects,
        is_ignored=is_ignored,
        num_objects=counts,
    )


def iou(
    boxes: NDArray[np.float64], others: NDArray[np.float64], is_crowd: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Overlap of xywh boxes [n, m]: the shared part of the union, or of the first box where the other is a crowd."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, :2] + boxes[:, None, 2:], others[None, :, :2] + others[None, :, 2:])
    sides = high - low
    shared = np.where((sides > 0).all(axis=2), sides.prod(axis=2), 0.0)
    areas: NDArray[np.float64] = boxes[:, 2:].prod(axis=1)
    other_areas: NDArray[np.float64] = others[:, 2:].prod(axis=1)
    union: NDArray[np.float64] = areas[:, None] + other_areas[None] - shared
    if is_crowd is not None:
        union = np.where(is_crowd[None], areas[:, None], union)
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)


def _within_limit(found: Results) -> NDArray[np.int64]:
    """The best detections of each image and class, as many as count."""
    order = np.lexsort((-found.scores, found.category_ids, found.image_ids))
    images, classes = found.image_ids[order], found.category_ids[order]
    begins = np.ones(len(order), np.bool_)
    begins[1:] = (images[1:] != images[:-1]) | (classes[1:] != classes[:-1])
    starts = np.flatnonzero(begins)
    rank = np.arange(len(order)) - starts[np.cumsum(begins) - 1] if len(order) else np.empty(0, np.int64)
    return order[rank < LIMIT]


def _pairs(
    images: NDArray[np.int64], classes: NDArray[np.int64], truth: Objects
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Detections and objects of each image and class that has both, each in its own order."""
    keys = images * truth.num_classes + classes
    order = np.argsort(keys, kind="stable")
    object_keys = truth.image_rows * truth.num_classes + truth.class_rows
    object_order = np.argsort(object_keys, kind="stable")
    both = np.intersect1d(keys, object_keys)
    bounds = [np.searchsorted(keys[order], both, side) for side in ("left", "right")]
    object_bounds = [np.searchsorted(object_keys[object_order], both, side) for side in ("left", "right")]
    for start, stop, first, last in zip(*bounds, *object_bounds, strict=True):
        yield order[start:stop], object_order[first:last]


def _greedy(overlaps: NDArray[np.float64], is_crowd: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Column met by each row, best row first; [10, n]. Of equal overlaps the later column is met."""
    needed = np.minimum(IOU_THRESHOLDS, _CERTAIN)[:, None]
    met = np.full((len(needed), len(overlaps)), NONE, np.int64)
    is_free = np.ones((len(needed), len(is_crowd)), np.bool_)
    steps = np.arange(len(needed))
    last = len(is_crowd) - 1
    # A row that reaches no column at the lowest threshold meets nothing.
    for row in np.flatnonzero((overlaps >= needed[0]).any(axis=1)).tolist():
        overlap: NDArray[np.float64] = overlaps[row]
        fits = is_free & (overlap >= needed)
        # A crowd region is met only where no object is.
        wish = overlap - 2 * is_crowd
        value = np.where(fits, wish, -np.inf)
        best = last - np.argmax(value[:, ::-1], axis=1)
        hit = fits[steps, best]
        met[hit, row] = best[hit]
        is_free[steps[hit], best[hit]] = is_crowd[best[hit]]
    return met
