import dataclasses

import numpy as np
import pytest

from detector.analysis import average_precision, bootstrap, matching
from detector.analysis.matching import Matches
from detector.evaluate.engines import Objects
from detector.evaluate.results import Results
from tests.unit.analysis import make
from tests.unit.evaluate import generate
from tests.unit.evaluate.test_engines import results_of, truth_of


def repeated(truth: Objects, found: Results, weights: list[int]) -> tuple[Objects, Results]:
    """The data set with each image as often as said, as new images."""
    images = [(image, copy) for image, count in enumerate(weights) for copy in range(count)]
    parts = [np.flatnonzero(truth.image_rows == image) for image, _ in images]
    found_parts = [np.flatnonzero(found.image_ids == image) for image, _ in images]
    rows, found_rows = np.concatenate(parts), np.concatenate(found_parts)
    return dataclasses.replace(
        truth,
        num_images=len(images),
        image_rows=np.repeat(np.arange(len(images)), [len(part) for part in parts]),
        class_rows=truth.class_rows[rows],
        boxes_xywh=truth.boxes_xywh[rows],
        areas=truth.areas[rows],
        is_crowd=truth.is_crowd[rows],
    ), Results(
        image_ids=np.repeat(np.arange(len(images)), [len(part) for part in found_parts]),
        category_ids=found.category_ids[found_rows],
        boxes_xywh=found.boxes_xywh[found_rows],
        # Without ties: which of equal scores comes first is nobody's promise.
        scores=found.scores[found_rows],
    )


@pytest.mark.parametrize("seed", range(40))
def test_a_weight_is_a_repetition(seed: int) -> None:
    case = generate.case(seed)
    truth, found = truth_of(case), results_of(case, by_row=True)
    rng = np.random.default_rng(seed)
    found = dataclasses.replace(found, scores=rng.permutation(len(found)) / max(1, len(found)))
    weights = [1, *rng.integers(0, 4, truth.num_images - 1).tolist()]
    made = average_precision.by_class_and_sample(matching.match(truth, found), np.array([weights], np.float64))[0]
    again = make.ap_by_class(matching.match(*repeated(truth, found, weights)))
    assert np.abs(made - again).max() <= 1e-12


def test_the_interval_holds_the_score_and_shrinks_with_images() -> None:
    widths = []
    for images in (20, 320):
        truth = make.scene(1, images=images)
        matches = matching.match(truth, make.seen(truth, 2, found_share=0.7))
        low_ap, of_50, of_75 = bootstrap.intervals(matches)
        ap = float(average_precision.mean(make.ap_by_class(matches)))
        assert low_ap.low < ap < low_ap.high
        assert of_50.low >= of_75.low
        widths.append(low_ap.high - low_ap.low)
    # The square root of 16, give or take what chance does.
    assert 2.5 < widths[0] / widths[1] < 6.5


def test_covers_the_truth_as_often_as_it_says() -> None:
    # Each scene is a sample of the same world, whose AP a large scene tells.
    world = make.scene(99, images=900)
    found = make.seen(world, 98, noise=0.06, found_share=0.8)
    truth_ap = float(average_precision.mean(make.ap_by_class(matching.match(world, found))))
    covered = 0
    for seed in range(30):
        scene = make.scene(seed, images=20)
        matches = matching.match(scene, make.seen(scene, 1000 + seed, noise=0.06, found_share=0.8))
        interval = bootstrap.draw(matches, 200).intervals()[0]
        covered += interval.low <= truth_ap <= interval.high
    assert covered >= 26  # 27 to 28 of 30 over many more scenes


def test_is_the_same_every_time() -> None:
    truth = make.scene(3, images=20)
    matches = matching.match(truth, make.seen(truth, 4))
    assert bootstrap.intervals(matches) == bootstrap.intervals(matches)


def test_a_model_is_no_better_than_itself() -> None:
    truth = make.scene(3, images=20)
    matches = matching.match(truth, make.seen(truth, 4))
    for one in bootstrap.differences(matches, matches):
        assert (one.value, one.interval.low, one.interval.high, one.share_better) == (0, 0, 0, 0.5)
        assert not one.is_clear


def test_a_better_model_is_seen_though_the_intervals_overlap() -> None:
    truth = make.scene(3, images=40)
    worse, better = (matching.match(truth, make.seen(truth, 4, noise=noise)) for noise in (0.055, 0.05))
    difference = bootstrap.differences(worse, better)[0]
    assert difference.value > 0
    assert difference.share_better > 0.99
    assert difference.is_clear
    assert bootstrap.intervals(worse)[0].high > bootstrap.intervals(better)[0].low


def test_without_objects_there_is_nothing_to_say() -> None:
    matches = matching.match(make.objects([], images=3, classes=1), make.found([(0, 0, [0, 0, 1, 1], 0.5)]))
    assert bootstrap.intervals(matches) == ()
    assert bootstrap.differences(matches, matches) == ()


def test_fewer_samples_where_there_is_much() -> None:
    assert bootstrap.num_samples(1000) == bootstrap.SAMPLES
    assert bootstrap.num_samples(10**9) == bootstrap.FEWEST


def test_an_interval_leaves_out_one_in_forty_at_each_end_and_is_mirrored_at_the_score() -> None:
    values = np.linspace(0.3, 0.7, 1001)[:, None] * (1, 1, 1)
    middle, high, low = bootstrap.Draws(scored=np.array([0.5, 0.6, 0.35]), values=values).intervals()
    assert (middle.low, middle.high) == pytest.approx((0.31, 0.69))
    assert (high.low, high.high) == pytest.approx((0.51, 0.89))
    assert (low.low, low.high) == pytest.approx((0.01, 0.39))


def test_images_are_drawn_with_replacement_as_many_as_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []

    def score(matches: Matches, weights: np.ndarray) -> np.ndarray:
        seen.append(weights)
        return np.zeros((len(weights), 10, matches.num_classes))

    truth = make.scene(3, images=100)
    matches = matching.match(truth, make.seen(truth, 4))
    monkeypatch.setattr(average_precision, "by_class_and_sample", score)
    bootstrap.draw(matches, 300)
    first, *drawn = np.concatenate(seen)
    assert (first == 1).all()
    assert len(drawn) == 300
    assert (np.sum(drawn, axis=1) == 100).all()
    # Of many images a share of 1/e is not drawn, and as many are drawn once.
    assert np.mean(np.array(drawn) == 0) == pytest.approx(np.exp(-1), abs=0.01)
    assert np.mean(np.array(drawn) == 1) == pytest.approx(np.exp(-1), abs=0.01)


def test_a_difference_is_of_the_same_images_and_its_interval_holds_95_in_100() -> None:
    truth = make.scene(3, images=30)
    a, b = (matching.match(truth, make.seen(truth, seed, noise=0.06)) for seed in (4, 5))
    moved = (bootstrap.draw(b).values - bootstrap.draw(a).values)[:, 0]
    found = bootstrap.differences(a, b)[0]
    assert np.mean(moved < found.interval.low) == pytest.approx(0.025, abs=0.001)
    assert np.mean(moved > found.interval.high) == pytest.approx(0.025, abs=0.001)
    assert found.share_better == pytest.approx(np.mean(moved > 0), abs=0.01)


def test_more_resamplings_begin_with_the_same_ones() -> None:
    truth = make.scene(3, images=12)
    matches = matching.match(truth, make.seen(truth, 4, found_share=0.7))
    few, many = bootstrap.draw(matches, 20).values, bootstrap.draw(matches, 50).values
    assert np.array_equal(few, many[:20])
