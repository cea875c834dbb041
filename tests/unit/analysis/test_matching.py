"""Our own matching is a third scorer: its AP are those of pycocotools, threshold by threshold."""

import dataclasses

import numpy as np
import pytest
from pycocotools import mask

from detector.analysis import average_precision, error_types, matching, operating
from detector.analysis.matching import NONE
from detector.evaluate import engines
from detector.evaluate.engines import Objects
from detector.evaluate.results import Results
from tests.unit.analysis import make
from tests.unit.evaluate import generate
from tests.unit.evaluate.test_engines import results_of, truth_of


@pytest.mark.parametrize("start", range(0, 400, 100))
def test_equals_the_engines(start: int) -> None:
    for seed in range(start, start + 100):
        case = generate.case(seed)
        truth, found = truth_of(case), results_of(case, by_row=True)
        require_equal(truth, found, "hotcoco", seed)


def require_equal(truth: Objects, found: Results, engine: engines.Engine, seed: int) -> None:
    precision = engines.curves(engine, truth, found).precision[..., 0, 2]  # [threshold, recall, class]
    wanted = np.where((precision > -1).any(axis=1), precision.mean(axis=1), -1)
    made = make.ap_by_class(matching.match(truth, found))
    assert np.abs(made - wanted).max() <= 1e-12, seed


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_areas_outside_the_range_of_coco(engine: engines.Engine) -> None:
    """Objects of an area below zero or above 1e10, and detections above: many of each, crowds among them."""
    for seed in range(60):
        rng = np.random.default_rng(seed)
        case = generate.case(seed)
        truth, found = truth_of(case), results_of(case, by_row=True)
        count = len(truth.areas)
        areas = np.where(rng.random(count) < 0.4, rng.choice([-1.0, -1e-300, 1.1e10], count), truth.areas)
        boxes = found.boxes_xywh.copy()
        boxes[rng.random(len(boxes)) < 0.1, 2:] = 2e5
        truth, found = dataclasses.replace(truth, areas=areas), dataclasses.replace(found, boxes_xywh=boxes)
        require_equal(truth, found, engine, seed)


def test_what_is_ignored_is_neither_right_wrong_nor_missed() -> None:
    rows = [(0, 0, [0, 0, 10, 10]), (0, 0, [50, 0, 10, 10]), (0, 0, [0, 50, 10, 10])]
    truth = dataclasses.replace(make.objects(rows), areas=np.array([100.0, 2e10, 2e10]))
    results = make.found(
        [
            (0, 0, [0, 0, 10, 10], 0.9),
            (0, 0, [50, 0, 10, 10], 0.8),
            (0, 0, [50, 0, 10, 9], 0.7),
            (0, 0, [9, 99, 2e5, 2e5], 0.6),
        ]
    )
    matches, overlaps = make.met(truth, results)
    # An object meets one detection even so; only a crowd region forgives many.
    assert matches.is_ignored[0].tolist() == [False, True, False, True]
    assert matches.num_objects.tolist() == [[1]]
    verdicts = operating.judge(matches, truth, np.array([0.0]))
    assert verdicts.is_wrong.tolist() == [False, False, True, False]
    assert verdicts.missed.tolist() == []
    assert {one.kind: one.count for one in error_types.costs(matches, overlaps, truth)}["missed"] == 0


def test_thresholds_are_those_of_the_engines() -> None:
    assert (matching.IOU_THRESHOLDS == engines._IOU_THRESHOLDS).all()
    assert (average_precision.RECALLS == engines._RECALLS).all()


@pytest.mark.parametrize("seed", range(20))
def test_iou_is_pycocotools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes = np.round(rng.uniform(0, 20, (12, 4)), int(rng.integers(0, 3)))
    others = np.round(rng.uniform(0, 20, (9, 4)), int(rng.integers(0, 3)))
    crowd = rng.random(9) < 0.4
    assert (matching.iou(boxes, others, crowd) == mask.iou(boxes, others, crowd.astype(np.uint8).tolist())).all()


def test_says_which_object_is_met() -> None:
    truth = make.objects([(0, 0, [0, 0, 10, 10]), (0, 0, [20, 0, 10, 10]), (1, 0, [0, 0, 10, 10])])
    found = make.found(
        [(0, 0, [20, 0, 10, 10], 0.5), (0, 0, [0, 0, 10, 10], 0.9), (0, 0, [0, 0, 10, 9], 0.4), (1, 0, [5, 5, 9, 9], 1)]
    )
    matches = matching.match(truth, found)
    assert matches.rows.tolist() == [3, 1, 0, 2]
    assert matches.objects[0].tolist() == [NONE, 0, 1, NONE]
    assert matches.is_right[0].tolist() == [False, True, True, False]


def test_a_crowd_region_forgives_many() -> None:
    truth = make.objects([(0, 0, [0, 0, 100, 100]), (0, 0, [0, 0, 10, 10])], crowd=[0])
    found = make.found([(0, 0, [50, 50, 10, 10], 0.9), (0, 0, [70, 50, 10, 10], 0.8), (0, 0, [0, 0, 10, 10], 0.7)])
    matches = matching.match(truth, found)
    assert matches.is_ignored[0].tolist() == [True, True, False]
    assert matches.objects[0].tolist() == [0, 0, 1]
    assert matches.num_objects.tolist() == [[1]]


def test_nothing_found_and_nothing_there() -> None:
    nothing = make.found([])
    assert len(matching.match(make.objects([(0, 0, [0, 0, 1, 1])]), nothing)) == 0
    matches = matching.match(make.objects([], images=1, classes=1), make.found([(0, 0, [0, 0, 1, 1], 0.5)]))
    assert matches.objects[0].tolist() == [NONE]
    assert make.ap_by_class(matches).tolist() == [[-1.0]] * 10
