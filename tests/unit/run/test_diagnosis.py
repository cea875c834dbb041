"""What is wrong with labels and settings is named, and nothing is where nothing is wrong."""

import dataclasses
import math
from collections.abc import Sequence

import pytest
import torch

from detector.config import ModelConfig, RunConfig
from detector.data.columns import ReadReport
from detector.evaluate.coco import ClassScore, Scores
from detector.run import diagnosis
from detector.run.diagnosis import Course
from detector.types import Targets
from tests.unit.train import make

CONFIG = make.config()
REPORT = ReadReport(
    images=8,
    background=0,
    listed=100,
    objects=100,
    crowd=0,
    dropped_no_area=0,
    dropped_outside=0,
    dropped_tiny=0,
    clipped=0,
    missing_files=0,
    findings=(),
)


def scores(*ap50: float) -> Scores:
    each = [ClassScore(name="abc"[k], category_id=k, ap=one, ap50=one, num_objects=5) for k, one in enumerate(ap50)]
    numbers = dict.fromkeys((field.name for field in dataclasses.fields(Scores)), 0)
    return Scores(**numbers | {"per_class": tuple(each), "notes": ()})  # type: ignore[arg-type]


def of_boxes(boxes: Sequence[Sequence[float]], labels: Sequence[int] | None = None, config: RunConfig = CONFIG) -> str:
    targets = Targets(
        boxes=torch.tensor([boxes], dtype=torch.float32),
        labels=torch.tensor([labels or [0] * len(boxes)]),
        is_object=torch.ones(1, len(boxes), dtype=torch.bool),
    )
    return "\n".join(diagnosis.of_boxes(targets, make.model(CONFIG).priors(make.HW), config))


def test_nothing_is_said_of_what_is_well() -> None:
    assert of_boxes([[4, 4, 36, 40], [50, 10, 80, 50]], [0, 1]) == ""
    assert diagnosis.of_course(Course(first=4.0, last=0.5, num_not_finite=0), CONFIG, "none") == []
    assert diagnosis.of_labels(REPORT, scores(0.5)) == []


@pytest.mark.parametrize("last", [3.0, 5.0, math.nan])
def test_a_loss_that_does_not_fall(last: float) -> None:
    (cause,) = diagnosis.of_course(Course(first=4.0, last=last, num_not_finite=0), CONFIG, "none")
    assert cause.startswith("the loss does not fall (4 at first")


def test_a_loss_that_is_not_finite() -> None:
    (cause,) = diagnosis.of_course(Course(first=4.0, last=0.1, num_not_finite=3), CONFIG, "none")
    assert "not finite in 3 steps: lower optim.lr" in cause


def test_a_trunk_of_random_weights_that_cannot_learn() -> None:
    frozen = dataclasses.replace(CONFIG, model=ModelConfig(norm="frozen"))
    course = Course(first=4.0, last=0.1, num_not_finite=0)
    assert "give --init" in diagnosis.of_course(course, frozen, "none")[0]
    assert diagnosis.of_course(course, frozen, "imagenet") == []


def test_tiny_objects_and_the_size_that_would_do() -> None:
    said = of_boxes([[4, 4, 8, 8], [40, 4, 44, 8]])
    assert "2 of 2 objects are under 8 pixels at image size 320; --image-size 640 would help" in said


def test_objects_in_the_same_place() -> None:
    assert "1 pair of objects of one class overlap" in of_boxes([[4, 4, 36, 40], [4, 4, 36, 41]])
    said = of_boxes([[4, 4, 36, 40], [4, 4, 36, 41]], [0, 1])
    assert "1 pair of objects of different classes in the same place" in said
    assert "of one class" not in said


def test_an_object_for_which_no_prior_answers() -> None:
    config = make.config({"assign.kind": "max_iou", "assign.rescue": False})
    assert "no prior answers for 1 of 2 objects" in of_boxes([[4, 4, 36, 36], [50, 10, 60, 20]], config=config)


def test_more_objects_than_are_kept() -> None:
    grid = [[8 * x, 5 * y, 8 * x + 12, 5 * y + 12] for x in range(10) for y in range(11)]
    assert "an image has 110 objects, and no more than 100" in of_boxes(grid)


def test_boxes_that_leave_their_images_and_the_worst_class() -> None:
    report = dataclasses.replace(REPORT, clipped=4, dropped_outside=3)
    first, second = diagnosis.of_labels(report, scores(0.5, 0.25, -1))
    assert first.startswith("7 of 100 boxes leave their image")
    assert second == "the worst class is b: AP50 0.25 of 5 objects"
