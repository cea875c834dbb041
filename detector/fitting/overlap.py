"""How much labelled objects of one class cover one another: what suppression must not take for double findings."""

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from detector.geometry import boxes as geometry

SAME = 0.9
"""Two labels that overlap more are one object that was labelled twice."""
_RARE = 0.98
_MOST_PAIRS = 4_000_000
"""Of one image; beyond it, objects are passed over evenly."""
_MOST_OBJECTS = 20_000


def typical(boxes: NDArray[np.float64], labels: NDArray[np.int64], rows: NDArray[np.int64]) -> float:
    """The overlap that one object in fifty exceeds; of a data set, images are taken in order until there are enough."""
    nearest = [
        most_of_each(boxes[start:stop], labels[start:stop]) for start, stop in _images(rows) if start < _MOST_OBJECTS
    ]
    return float(np.quantile(np.concatenate(nearest), _RARE)) if nearest else 0.0


def most_of_each(boxes: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """For each object of an image, the highest IoU with another of its class; 0 where there is none."""
    step = max(1, int(len(boxes) / np.sqrt(_MOST_PAIRS)) + 1) if len(boxes) ** 2 > _MOST_PAIRS else 1
    boxes, labels = boxes[::step], labels[::step]
    found = np.zeros(len(boxes))
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        if len(places) == 1:
            continue
        of_class = torch.from_numpy(boxes[places])
        iou = geometry.pairwise_iou(of_class, of_class).numpy()
        np.fill_diagonal(iou, 0)
        found[places] = np.where(iou > SAME, 0, iou).max(axis=1)
    return found


def _images(rows: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Where the objects of each image begin and end; objects of an image stand together."""
    cuts = np.flatnonzero(np.diff(rows)) + 1
    ends = [0, *cuts.tolist(), len(rows)]
    return [(start, stop) for start, stop in pairwise(ends) if start < stop]
