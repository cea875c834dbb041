"""Which detection meets which object, once, as pycocotools decides it; the analyses read the answer."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detector.evaluate import sizes
from detector.evaluate.engines import Objects
from detector.evaluate.results import Results

IOU_THRESHOLDS: Final = np.linspace(0.5, 0.95, 10)
LIMIT: Final = 100  # detections for an image and class
NONE: Final = -1
_NEEDED: Final = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)  # the highest IoU that pycocotools asks for
_PIECE: Final = 1_000_000  # pairs of boxes at once


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
    is_ignored: NDArray[np.bool_]  # [10, K], neither right nor wrong, as what it met or its size counts nowhere
    num_objects: NDArray[np.int64]  # [image, class], without those that are ignored

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
    keys = images * truth.num_classes + classes
    object_keys = truth.image_rows * truth.num_classes + truth.class_rows
    near = _near(found.boxes_xywh[ranked], keys, truth, object_keys)
    is_torn = np.bincount(near.detections, minlength=len(ranked))[near.detections] > 1
    contested = np.unique(keys[near.detections[is_torn]])
    not_real = truth.is_ignored
    _match_uncontested(near.of(~np.isin(keys[near.detections], contested)), truth, objects, is_ignored)
    for mine, theirs in _groups(keys, object_keys, contested):
        # Real objects first, as a stable sort leaves them.
        theirs = theirs[np.argsort(not_real[theirs], kind="stable")]
        is_crowd = truth.is_crowd[theirs]
        overlaps = iou(found.boxes_xywh[ranked[mine]], truth.boxes_xywh[theirs], is_crowd)
        met = _greedy(overlaps, is_crowd, not_real[theirs])
        objects[:, mine] = np.where(met == NONE, NONE, theirs[met])
        is_ignored[:, mine] = (met != NONE) & not_real[theirs[met]]
    found_areas: NDArray[np.float64] = found.boxes_xywh[ranked, 2:].prod(axis=1)
    is_ignored |= (objects == NONE) & ~sizes.within(found_areas)
    counts = np.zeros((truth.num_images, truth.num_classes), np.int64)
    real = ~not_real
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
    crowd = np.zeros(len(others), np.bool_) if is_crowd is None else is_crowd
    return _iou(boxes[:, None], others[None], crowd[None])


def _iou(boxes: NDArray[np.float64], others: NDArray[np.float64], is_crowd: NDArray[np.bool_]) -> NDArray[np.float64]:
    low = np.maximum(boxes[..., :2], others[..., :2])
    high = np.minimum(boxes[..., :2] + boxes[..., 2:], others[..., :2] + others[..., 2:])
    sides = high - low
    shared = np.where((sides > 0).all(axis=-1), sides.prod(axis=-1), 0.0)
    areas: NDArray[np.float64] = boxes[..., 2:].prod(axis=-1)
    other_areas: NDArray[np.float64] = others[..., 2:].prod(axis=-1)
    union = np.where(is_crowd, areas, areas + other_areas - shared)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Near:
    """Detections and objects of the same image and class that overlap enough for the lowest threshold."""

    detections: NDArray[np.int64]  # [E]
    objects: NDArray[np.int64]  # [E]
    overlaps: NDArray[np.float64]  # [E]

    def of(self, chosen: NDArray[np.bool_]) -> "_Near":
        return _Near(detections=self.detections[chosen], objects=self.objects[chosen], overlaps=self.overlaps[chosen])


def _near(boxes: NDArray[np.float64], keys: NDArray[np.int64], truth: Objects, object_keys: NDArray[np.int64]) -> _Near:
    order = np.argsort(object_keys, kind="stable")
    first, last = (np.searchsorted(object_keys[order], keys, side) for side in ("left", "right"))
    counts = last - first
    ends = np.cumsum(counts)
    parts = [_Near(detections=np.empty(0, np.int64), objects=np.empty(0, np.int64), overlaps=np.empty(0))]
    start = 0
    while start < len(keys):
        stop = max(start + 1, int(np.searchsorted(ends, ends[start] - counts[start] + _PIECE, "right")))
        mine = np.repeat(np.arange(start, stop), counts[start:stop])
        place = np.arange(len(mine)) - np.repeat(
            ends[start:stop] - counts[start:stop] - ends[start] + counts[start], counts[start:stop]
        )
        theirs = order[first[mine] + place]
        overlaps = _iou(boxes[mine], truth.boxes_xywh[theirs], truth.is_crowd[theirs])
        parts.append(_Near(detections=mine, objects=theirs, overlaps=overlaps).of(overlaps >= IOU_THRESHOLDS[0]))
        start = stop
    return _Near(
        detections=np.concatenate([part.detections for part in parts]),
        objects=np.concatenate([part.objects for part in parts]),
        overlaps=np.concatenate([part.overlaps for part in parts]),
    )


def _match_uncontested(near: _Near, truth: Objects, objects: NDArray[np.int64], is_ignored: NDArray[np.bool_]) -> None:
    """Where every detection is near one object at most, each object is met by its best detection that reaches it."""
    not_real = truth.is_ignored
    order = np.lexsort((near.detections, near.objects))
    rows, theirs, overlaps = near.detections[order], near.objects[order], near.overlaps[order]
    for step, needed in enumerate(_NEEDED):
        reaches = overlaps >= needed
        mine, met = rows[reaches], theirs[reaches]
        is_met = np.ones(len(met), np.bool_)
        is_met[1:] = met[1:] != met[:-1]
        is_met |= truth.is_crowd[met]
        objects[step, mine[is_met]] = met[is_met]
        is_ignored[step, mine[is_met]] = not_real[met[is_met]]


def _groups(
    keys: NDArray[np.int64], object_keys: NDArray[np.int64], wanted: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Detections and objects of each wanted key, each in its own order."""
    order, object_order = (np.argsort(some, kind="stable") for some in (keys, object_keys))
    bounds = [np.searchsorted(keys[order], wanted, side) for side in ("left", "right")]
    object_bounds = [np.searchsorted(object_keys[object_order], wanted, side) for side in ("left", "right")]
    for start, stop, first, last in zip(*bounds, *object_bounds, strict=True):
        yield order[start:stop], object_order[first:last]


def _greedy(
    overlaps: NDArray[np.float64], is_crowd: NDArray[np.bool_], not_real: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Column met by each row, best row first; [10, n]. Of equal overlaps the later column is met."""
    needed = _NEEDED[:, None]
    met = np.full((len(needed), len(overlaps)), NONE, np.int64)
    is_free = np.ones((len(needed), len(is_crowd)), np.bool_)
    steps = np.arange(len(needed))
    last = len(is_crowd) - 1
    # A row that reaches no column at the lowest threshold meets nothing.
    for row in np.flatnonzero((overlaps >= needed[0]).any(axis=1)).tolist():
        overlap: NDArray[np.float64] = overlaps[row]
        fits = is_free & (overlap >= needed)
        # What is ignored is met only where no real object is.
        wish = overlap - 2 * not_real
        value = np.where(fits, wish, -np.inf)
        best = last - np.argmax(value[:, ::-1], axis=1)
        hit = fits[steps, best]
        met[hit, row] = best[hit]
        is_free[steps[hit], best[hit]] = is_crowd[best[hit]]
    return met
