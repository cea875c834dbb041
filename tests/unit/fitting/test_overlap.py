"""How much labelled objects of one class cover one another."""

import numpy as np
import pytest

from detector.fitting import overlap

PAIR = [[0, 0, 10, 10], [5, 0, 15, 10]]  # IoU 1/3


def most(boxes: list[list[float]], labels: list[int]) -> list[float]:
    return overlap.most_of_each(np.array(boxes, np.float64), np.array(labels)).round(3).tolist()


def test_the_nearest_of_the_same_class() -> None:
    assert most(PAIR, [0, 0]) == [0.333, 0.333]
    assert most(PAIR, [0, 1]) == [0, 0]
    assert most([*PAIR, [7, 0, 17, 10]], [0, 0, 0]) == [0.333, 0.667, 0.667]


def test_an_object_labelled_twice_overlaps_nothing() -> None:
    assert most([[0, 0, 10, 10], [0, 0, 10, 10]], [0, 0]) == [0, 0]


def test_boxes_without_area_overlap_nothing() -> None:
    assert most([[3, 3, 3, 3], [3, 3, 3, 3]], [0, 0]) == [0, 0]


def test_images_are_apart() -> None:
    boxes, labels = np.array(PAIR, np.float64), np.zeros(2, np.int64)
    assert overlap.typical(boxes, labels, np.array([0, 1])) == 0
    assert round(overlap.typical(boxes, labels, np.array([4, 4])), 3) == 0.333
    assert overlap.typical(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, np.int64)) == 0


def test_one_in_fifty_is_what_counts() -> None:
    apart = np.array([[100.0 * k, 0, 100.0 * k + 10, 10] for k in range(1, 200)])
    boxes = np.concatenate([np.array(PAIR, np.float64), apart])
    assert overlap.typical(boxes, np.zeros(len(boxes), np.int64), np.zeros(len(boxes), np.int64)) == 0
    below = [np.add(PAIR, [0, 500.0 * k, 0, 500.0 * k]) for k in (1, 2, 3)]
    more = np.concatenate([boxes, *below])
    assert overlap.typical(more, np.zeros(len(more), np.int64), np.zeros(len(more), np.int64)) > 0


def test_a_very_full_image_is_thinned() -> None:
    """Evenly, and what is left is still compared: each object has a neighbour 1,250 places on."""
    apart = np.array([[100.0 * k, 0, 100.0 * k + 10, 10] for k in range(1250)])
    boxes = np.concatenate([apart, np.add(apart, [5, 0, 5, 0])])
    found = overlap.most_of_each(boxes, np.zeros(2500, np.int64))
    assert 1000 < len(found) < 2000
    assert found == pytest.approx(1 / 3)
