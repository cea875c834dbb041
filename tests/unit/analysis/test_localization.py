import dataclasses
import re

import numpy as np
import pytest

from detector.analysis import localization, matching
from detector.evaluate import engines
from detector.evaluate.results import Results
from tests.unit.analysis import make

TRUTH = make.scene(5, images=80)
FOUND = make.seen(TRUTH, 6, noise=0.03)
NAMES = ("a", "b", "c")


def with_boxes(found: Results, boxes: np.ndarray) -> Results:
    return dataclasses.replace(found, boxes_xywh=boxes)


def measured(found: Results) -> dict[str, localization.LocalizationError]:
    return {one.group: one for one in localization.measure(matching.match(TRUTH, found), TRUTH, found, NAMES)}


def wider(found: Results, factor: float) -> np.ndarray:
    boxes = found.boxes_xywh.copy()
    boxes[:, 0] -= boxes[:, 2] * (factor - 1) / 2
    boxes[:, 2] *= factor
    return boxes


@pytest.mark.parametrize("factor", [0.95, 1.05, 1.1])
def test_an_injected_width_is_found_and_sized(factor: float) -> None:
    before, after = measured(FOUND)["all"], measured(with_boxes(FOUND, wider(FOUND, factor)))["all"]
    assert after.wide.relative == pytest.approx(factor - 1, abs=0.01)
    assert (1 + after.wide.relative) / (1 + before.wide.relative) == pytest.approx(factor, abs=0.002)
    assert abs(after.tall.relative) < 0.005
    assert after.wide.is_clear
    word = "wider" if factor > 1 else "narrower"
    assert f"% {word} than their objects" in (after.sentence() or "")


def test_the_gain_is_what_taking_it_out_gives() -> None:
    bad = with_boxes(FOUND, wider(FOUND, 1.1))
    one = measured(bad)["all"]
    scores = [engines.curves("hotcoco", TRUTH, found).twelve() for found in (bad, FOUND)]
    assert one.ap75_gain == pytest.approx(scores[1][2] - scores[0][2], abs=0.01)
    assert one.ap_gain > 0.05
    assert f"{100 * one.ap75_gain:+.1f} AP75" in (one.sentence() or "")


def test_a_shift_in_pixels() -> None:
    boxes = FOUND.boxes_xywh.copy()
    boxes[:, :2] += (3, -2)
    one = measured(with_boxes(FOUND, boxes))["all"]
    assert one.right.pixels == pytest.approx(3, abs=0.3)
    assert one.down.pixels == pytest.approx(-2, abs=0.3)
    assert "far right" in (one.sentence() or "")
    assert "far up" in (one.sentence() or "")


def test_a_size_is_no_place() -> None:
    boxes = FOUND.boxes_xywh.copy()
    boxes[:, 1] += 0.06 * boxes[:, 3]
    boxes[:, 3] *= 0.88  # about the same centre
    said = measured(with_boxes(FOUND, boxes))["all"].sentence()
    assert said is not None
    assert re.fullmatch(r"boxes 1\d\.\d % shorter than their objects: \+.* AP if fixed", said)


def test_scatter_is_the_noise() -> None:
    few, many = (measured(make.seen(TRUTH, 6, noise=noise))["all"] for noise in (0.02, 0.06))
    assert few.scatter == pytest.approx(0.02, rel=0.15)
    assert many.scatter == pytest.approx(0.06, rel=0.15)
    # A bias leaves it as it is.
    boxes = FOUND.boxes_xywh * (1, 1, 1.05, 1)
    assert measured(with_boxes(FOUND, boxes))["all"].scatter == pytest.approx(measured(FOUND)["all"].scatter, rel=0.05)


def test_a_bias_of_one_class_alone() -> None:
    boxes = np.where((FOUND.category_ids == 1)[:, None], wider(FOUND, 1.06), FOUND.boxes_xywh)
    groups = measured(with_boxes(FOUND, boxes))
    assert groups["b"].wide.relative == pytest.approx(0.06, abs=0.01)
    assert abs(groups["a"].wide.relative) < 0.01
    assert groups["a"].sentence() is None


def test_nothing_is_said_of_chance() -> None:
    said: list[str | None] = []
    for seed in range(10):
        found = make.seen(TRUTH, 100 + seed, noise=0.05)
        errors = localization.measure(matching.match(TRUTH, found), TRUTH, found, NAMES)
        said += [one.sentence() for one in errors]
    assert sum(one is not None for one in said) <= 0.1 * len(said)


def test_taking_a_bias_out_and_in_again() -> None:
    bias = np.array([0.1, -0.05, np.log(1.2), np.log(0.9)])
    boxes = np.random.default_rng(0).uniform(1, 50, (20, 4))
    sides = boxes[:, 2:] * np.exp(bias[2:])
    centres = boxes[:, :2] + boxes[:, 2:] / 2 + bias[:2] * boxes[:, 2:]
    biased = np.concatenate([centres - sides / 2, sides], axis=1)
    assert localization.corrected(biased, bias) == pytest.approx(boxes)


def test_boxes_without_area_are_left_out() -> None:
    truth = make.objects([(0, 0, [0, 0, 10, 10])])
    found = make.found([(0, 0, [0, 0, 0, 10], 0.9), (0, 0, [0, 0, 10, 11], 0.5)])
    (every, size, label) = localization.measure(matching.match(truth, found), truth, found, ("a",))
    assert (every.num_pairs, size.group, label.group) == (1, "small", "a")
    assert every.sentence() is None  # of one pair nothing is known
