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
    said = one.sentence() or ""
    assert said.endswith(f"taking it out gives {100 * one.ap_gain:+.1f} AP")
    assert "AP75" not in said


def test_a_gain_of_one_threshold_alone_is_no_reason() -> None:
    one = measured(with_boxes(FOUND, wider(FOUND, 1.1)))["all"]
    lucky = dataclasses.replace(one, ap_gain=0.0004, ap75_gain=0.167)
    assert (one.is_worth_mending, lucky.is_worth_mending) == (True, False)
    assert (lucky.sentence() or "").endswith("taking it out gives no AP, so leave it")


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
    assert re.fullmatch(
        r"boxes 1\d\.\d ± 0\.\d % shorter than their objects \(\d+ pairs\); taking it out gives \+\d+\.\d AP", said
    )


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


def test_nothing_is_said_of_chance_in_one_of_many_groups() -> None:
    truth = make.scene(8, images=170, classes=60)
    said: list[str] = []
    for seed in range(4):
        found = make.seen(truth, 200 + seed, noise=0.07, found_share=1.0)
        names = tuple(map(str, range(60)))
        said += localization.told(localization.measure(matching.match(truth, found), truth, found, names))
    assert sum("no clear bias" in line for line in said) == 4
    assert len(said) <= 5


def shifted(pixels: float) -> np.ndarray:
    return FOUND.boxes_xywh + np.array([pixels, 0, 0, 0])


@pytest.mark.parametrize(
    ("boxes", "says", "has_advice"),
    [
        (wider(FOUND, 1.05), r"all: boxes [45]\.\d ± 0\.\d % wider than their objects \(\d+ pairs\); taking.*", True),
        (shifted(3.0), r"all: boxes \d\.\d ± 0\.\d % of a side too far right \(about [23]\.\d px\) .* AP", True),
        (
            FOUND.boxes_xywh,
            r"all: no clear bias \(width [+-]0\.\d ± 0\.\d %, .* of an object's side; .*",
            False,
        ),
    ],
)
def test_says_what_was_measured_how_sure_it_is_and_what_to_do(boxes: np.ndarray, says: str, has_advice: bool) -> None:
    found = with_boxes(FOUND, boxes)
    lines = localization.told(localization.measure(matching.match(TRUTH, found), TRUTH, found, NAMES))
    assert re.fullmatch(says, lines[0]), lines[0]
    assert (lines[-1].startswith("what to do: ")) == has_advice
    # What all boxes have is not said again of each group; three pixels are another part of a small object's side.
    assert len(lines) == 1 + has_advice


def test_few_boxes_say_nothing() -> None:
    truth = make.objects([(image, 0, [0, 0, 20, 20]) for image in range(19)])
    found = make.found([(image, 0, [0, 0, 24, 20], 0.9) for image in range(19)])
    lines = localization.told(localization.measure(matching.match(truth, found), truth, found, ("a",)))
    assert lines == ("19 boxes meet an object; fewer than 20 say nothing of bias",)
    assert localization.told(()) == ("0 boxes meet an object; fewer than 20 say nothing of bias",)


def test_one_scoring_tells_the_gain_of_each_class() -> None:
    factors = np.array([1.0, 1.08, 0.9])[FOUND.category_ids][:, None]
    found = with_boxes(FOUND, np.concatenate([FOUND.boxes_xywh[:, :2], FOUND.boxes_xywh[:, 2:] * factors], axis=1))
    groups = measured(found)
    before = engines.curves("hotcoco", TRUTH, found).twelve()
    for k, name in enumerate(NAMES):
        one = groups[name]
        bias = [one.right.relative, one.down.relative, np.log1p(one.wide.relative), np.log1p(one.tall.relative)]
        mine = found.category_ids == k
        boxes = found.boxes_xywh.copy()
        boxes[mine] = localization.corrected(boxes[mine], np.array(bias))
        after = engines.curves("hotcoco", TRUTH, with_boxes(found, boxes)).twelve()
        assert one.ap_gain == pytest.approx(after[0] - before[0], abs=1e-9)
        assert one.ap75_gain == pytest.approx(after[2] - before[2], abs=1e-9)
    assert groups["c"].ap_gain > 0.01


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
