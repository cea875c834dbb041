import numpy as np
import pytest

from detector.analysis import calibration, confusion, matching, operating, worst
from tests.unit.analysis import make

BOX = [0, 0, 40, 40]
TRUTH = make.objects([(image, 0, BOX) for image in range(4)] + [(0, 1, [100, 0, 40, 40])], classes=3)
FOUND = make.found(
    [
        (0, 0, BOX, 0.9),
        (1, 0, BOX, 0.8),
        (2, 0, [200, 0, 40, 40], 0.7),
        (2, 0, BOX, 0.6),
        (3, 0, [200, 0, 40, 40], 0.5),
        (3, 0, [300, 0, 40, 40], 0.5),
        (3, 0, BOX, 0.4),
        (0, 0, [100, 0, 40, 40], 0.3),
    ]
)
MATCHES, OVERLAPS = make.met(TRUTH, FOUND)


def test_the_curve_has_one_point_a_score() -> None:
    curve = operating.curve(MATCHES, 0)
    assert curve is not None
    assert curve.thresholds == pytest.approx([0.85, 0.75, 0.65, 0.55, 0.45, 0.35, 0.3])
    assert curve.precision == pytest.approx([1, 1, 2 / 3, 3 / 4, 3 / 6, 4 / 7, 4 / 8])
    assert curve.recall == pytest.approx([0.25, 0.5, 0.5, 0.75, 0.75, 1, 1])
    assert curve.f1[0] == pytest.approx(0.4)


def test_a_class_without_objects_or_detections_has_none() -> None:
    assert operating.curve(MATCHES, 1) is None
    assert operating.curve(MATCHES, 2) is None
    assert operating.choose(MATCHES, 1, "f1").threshold == operating.FALLBACK


@pytest.mark.parametrize(
    ("aim", "wanted", "threshold", "reached"),
    [
        ("f1", 0, 0.55, True),
        ("precision", 0.75, 0.55, True),
        ("precision", 0.9, 0.75, True),
        ("recall", 0.5, 0.75, True),
        ("recall", 1, 0.35, True),
    ],
)
def test_the_wanted_threshold(aim: operating.Aim, wanted: float, threshold: float, reached: bool) -> None:
    point = operating.choose(MATCHES, 0, aim, wanted)
    assert point.threshold == pytest.approx(threshold)
    assert point.is_reached == reached


def test_what_cannot_be_reached_is_said() -> None:
    truth = make.objects([(0, 0, BOX), (1, 0, BOX)])
    found = make.found([(0, 0, [200, 0, 9, 9], 0.9), (0, 0, BOX, 0.8)])
    matches = matching.match(truth, found)
    precise, complete = operating.choose(matches, 0, "precision", 0.9), operating.choose(matches, 0, "recall", 0.9)
    assert (precise.is_reached, precise.precision) == (False, 0.5)
    assert (complete.is_reached, complete.recall) == (False, 0.5)


def test_a_threshold_gives_what_the_choice_says() -> None:
    truth = make.scene(0)
    matches = matching.match(truth, make.seen(truth, 1, found_share=0.8))
    for row in range(3):
        point = operating.choose(matches, row, "f1")
        assert operating.at(matches, row, point.threshold) == point
        verdicts = operating.judge(matches, truth, np.array([point.threshold] * 3))
        mine = matches.class_rows == row
        right, wrong = (verdicts.is_right & mine).sum(), (verdicts.is_wrong & mine).sum()
        assert right / (right + wrong) == pytest.approx(point.precision)
        assert 1 - (truth.class_rows[verdicts.missed] == row).sum() / (truth.class_rows == row).sum() == pytest.approx(
            point.recall
        )


@pytest.mark.parametrize(
    ("threshold", "precision", "recall"),
    [(0.9, 1, 1 / 4), (0.8, 1, 2 / 4), (0.6, 3 / 4, 3 / 4), (0.61, 2 / 3, 2 / 4), (0.0, 4 / 8, 1), (0.4, 4 / 7, 1)],
)
def test_a_threshold_takes_what_reaches_it(threshold: float, precision: float, recall: float) -> None:
    point = operating.at(MATCHES, 0, threshold)
    assert (point.threshold, point.precision, point.recall) == pytest.approx((threshold, precision, recall))
    verdicts = operating.judge(MATCHES, TRUTH, np.full(3, threshold))
    assert verdicts.is_right.sum() == pytest.approx(4 * recall)
    assert verdicts.is_wrong.sum() == pytest.approx(4 * recall / precision - 4 * recall)


def test_each_class_has_its_own_threshold() -> None:
    truth = make.objects([(0, 0, BOX), (0, 1, BOX)])
    matches = matching.match(truth, make.found([(0, 0, BOX, 0.5), (0, 1, BOX, 0.5)]))
    for thresholds, right in (((0.4, 0.6), [0]), ((0.6, 0.4), [1]), ((0.5, 0.5), [0, 1])):
        verdicts = operating.judge(matches, truth, np.array(thresholds))
        assert matches.class_rows[verdicts.is_right].tolist() == right
        assert truth.class_rows[verdicts.missed].tolist() == sorted({0, 1} - set(right))


def test_scores_far_apart() -> None:
    matches = matching.match(make.objects([(0, 0, BOX)]), make.found([(0, 0, BOX, 0.9), (0, 0, [200, 0, 9, 9], 0.1)]))
    assert (operating.at(matches, 0, 0.6).precision, operating.at(matches, 0, 0.6).recall) == (1, 1)
    nothing = operating.at(matches, 0, 0.95)
    assert (nothing.recall, nothing.f1) == (0, 0)
    assert np.isnan(nothing.precision)


def test_of_a_class_without_objects_nothing_is_said() -> None:
    point = operating.at(MATCHES, 2, 0.7)
    assert point.threshold == 0.7
    assert np.isnan([point.precision, point.recall, point.f1]).all()


def test_verdicts_confusion_and_tallies() -> None:
    verdicts = operating.judge(MATCHES, TRUTH, np.array([0.2, 0.2, 0.2]))
    made = confusion.matrix(MATCHES, OVERLAPS, verdicts, TRUTH)
    assert made.tolist() == [[4, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [3, 0, 0, 0]]
    tallies = worst.tallies(MATCHES, verdicts, TRUTH)
    assert [(one.right, one.wrong, one.missed) for one in tallies] == [(1, 1, 1), (1, 0, 0), (1, 1, 0), (1, 2, 0)]
    assert [one.image_row for one in worst.worst(tallies, 9)] == [0, 3, 2]


def test_every_object_and_every_shown_detection_is_in_the_matrix_once() -> None:
    truth = make.scene(7)
    found = make.seen(truth, 8, found_share=0.8)
    matches, overlaps = make.met(truth, found)
    verdicts = operating.judge(matches, truth, np.array([0.1, 0.2, 0.3]))
    made = confusion.matrix(matches, overlaps, verdicts, truth)
    assert made[:-1].sum(axis=1).tolist() == np.bincount(truth.class_rows, minlength=3).tolist()
    shown = verdicts.is_right | verdicts.is_wrong
    assert made[:, :-1].sum(axis=0).tolist() == np.bincount(matches.class_rows[shown], minlength=3).tolist()


def test_scores_that_are_frequencies_are_calibrated() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(4000)
    truth = make.objects([(image, 0, BOX) for image in range(4000)])
    boxes = [BOX if rng.random() < score else [200, 0, 9, 9] for score in scores]
    found = make.found([(image, 0, boxes[image], float(scores[image])) for image in range(4000)])
    honest = calibration.calibrate(matching.match(truth, found))
    assert honest.error < 0.03
    assert sum(one.count for one in honest.bins) == 4000
    sure = make.found([(image, 0, boxes[image], 0.999) for image in range(4000)])
    proud = calibration.calibrate(matching.match(truth, sure))
    assert proud.error == pytest.approx(0.5, abs=0.03)
    assert len(proud.bins) == 1


def test_no_detection_no_calibration() -> None:
    made = calibration.calibrate(matching.match(TRUTH, make.found([])))
    assert made.bins == ()
    assert np.isnan(made.error)
