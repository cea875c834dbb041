"""Average precision from matches, for the data set or for many resamplings of its images at once."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from detector.analysis.matching import Matches

RECALLS: Final = np.linspace(0, 1, 101)
_PIECE: Final = 2_000_000  # numbers at once


def of_ranked(is_right: NDArray[np.bool_], is_wrong: NDArray[np.bool_], num_objects: int) -> float:
    """Of one class at one threshold, its detections best first; -1 without objects."""
    if not num_objects:
        return -1.0
    one_image = np.zeros(len(is_right), np.int64)
    counts = np.array([float(num_objects)])
    return float(_weighted(is_right[None], (is_right | is_wrong)[None], one_image, np.ones((1, 1)), counts)[0, 0])


def by_class_and_sample(matches: Matches, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """[sample, 10, class], where a sample counts each image as often as `weights` [sample, image] says.

    A picture that is drawn twice gives the same curve as two equal pictures: between their detections the precision
    lies on no higher point. A sample without an object of the class has -1.
    """
    is_right, is_counted = matches.is_right, ~matches.is_ignored
    made = np.full((len(weights), len(is_right), matches.num_classes), -1.0)
    for row in range(matches.num_classes):
        part = matches.of_class(row)
        counts = weights @ matches.num_objects[:, row]
        known = np.flatnonzero(counts > 0)
        size = max(1, _PIECE // max(1, part.stop - part.start))
        for start in range(0, len(known), size):
            piece = known[start : start + size]
            made[piece, :, row] = _weighted(
                is_right[:, part], is_counted[:, part], matches.image_rows[part], weights[piece], counts[piece]
            )
    return made


def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the last two axes of what is defined, -1 where nothing is."""
    known = values > -1
    count = known.sum(axis=(-2, -1))
    total = np.where(known, values, 0).sum(axis=(-2, -1))
    return np.where(count > 0, total / np.maximum(count, 1), -1.0)


def _weighted(
    is_right: NDArray[np.bool_],
    is_counted: NDArray[np.bool_],
    image_rows: NDArray[np.int64],
    weights: NDArray[np.float64],
    num_objects: NDArray[np.float64],
) -> NDArray[np.float64]:
    """[sample, threshold] of one class; the curve can bend only where some threshold has a right detection."""
    places = np.flatnonzero(is_right.any(axis=0))
    made = np.zeros((len(weights), len(is_right)))
    if not places.size:
        return made
    at_places = weights[:, image_rows[places]]
    everything = _up_to(places, np.arange(len(image_rows)), image_rows, weights)
    for step, (right_here, counted_here) in enumerate(zip(is_right, is_counted, strict=True)):
        ignored = np.flatnonzero(~counted_here)  # few, as crowd regions are
        counted = everything - _up_to(places, ignored, image_rows, weights) if ignored.size else everything
        mine = np.flatnonzero(right_here[places])
        right = np.cumsum(at_places[:, mine], axis=1)
        # Whole numbers, so that this is exactly what pycocotools adds up.
        precision: NDArray[np.float64] = right / (counted[:, mine] + np.spacing(1))
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        recall = right / num_objects[:, None]
        reached = np.stack([np.searchsorted(row, RECALLS) for row in recall])
        padded = np.concatenate([envelope, np.zeros((len(envelope), 1))], axis=1)
        made[:, step] = np.take_along_axis(padded, reached, axis=1).mean(axis=1)
    return made


def _up_to(
    places: NDArray[np.int64],
    chosen: NDArray[np.int64],
    image_rows: NDArray[np.int64],
    weights: NDArray[np.float64],
) -> NDArray[np.float64]:
    """[sample, place], how many of the chosen detections, ascending, stand up to each place, itself included."""
    stretch = np.searchsorted(places, chosen)  # between two places, in which each stands
    before_the_end = stretch < len(places)
    stretches, starts = np.unique(stretch[before_the_end], return_index=True)
    made = np.zeros((len(weights), len(places)))
    if len(stretches):
        counted = weights[:, image_rows[chosen[before_the_end]]]
        made[:, stretches] = np.add.reduceat(counted, starts, axis=1)
    return np.cumsum(made, axis=1)
