"""What each detection overlaps most, of its own class and of the others."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.analysis.matching import NONE, Matches, iou
from detector.evaluate.engines import Objects
from detector.evaluate.results import Results


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlaps:
    """In the order of the matches; what is ignored is no object here."""

    same_iou: NDArray[np.float64]  # [K]
    same_object: NDArray[np.int64]  # [K], NONE where the image has no object of the class
    other_iou: NDArray[np.float64]  # [K]
    other_object: NDArray[np.int64]  # [K]


def of(matches: Matches, truth: Objects, found: Results) -> Overlaps:
    """Look at every image once; `found` by row."""
    count = len(matches)
    made = Overlaps(
        same_iou=np.zeros(count),
        same_object=np.full(count, NONE),
        other_iou=np.zeros(count),
        other_object=np.full(count, NONE),
    )
    real = np.flatnonzero(~truth.is_ignored)
    real = real[np.argsort(truth.image_rows[real], kind="stable")]
    order = np.argsort(matches.image_rows, kind="stable")
    bounds = np.arange(truth.num_images + 1)
    starts = np.searchsorted(matches.image_rows[order], bounds).tolist()
    object_starts = np.searchsorted(truth.image_rows[real], bounds).tolist()
    for image in range(truth.num_images):
        mine = order[starts[image] : starts[image + 1]]
        theirs = real[object_starts[image] : object_starts[image + 1]]
        if mine.size and theirs.size:
            values = iou(found.boxes_xywh[matches.rows[mine]], truth.boxes_xywh[theirs])
            is_same = matches.class_rows[mine][:, None] == truth.class_rows[theirs][None]
            _best(np.where(is_same, values, -1), mine, theirs, made.same_iou, made.same_object)
            _best(np.where(is_same, -1, values), mine, theirs, made.other_iou, made.other_object)
    return made


def _best(
    values: NDArray[np.float64],
    mine: NDArray[np.int64],
    theirs: NDArray[np.int64],
    best: NDArray[np.float64],
    who: NDArray[np.int64],
) -> None:
    place = values.argmax(axis=1)
    value = values[np.arange(len(mine)), place]
    best[mine] = np.maximum(value, 0)
    who[mine] = np.where(value >= 0, theirs[place], NONE)
