"""The sentence with which a report begins: the weakest class, and why."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detector.analysis import analyse
from detector.analysis.analyse import Analysis
from detector.evaluate.coco import Truth
from detector.report import score_sections
from tests.unit.analysis import make


def truth_of(images: int) -> Truth:
    objects = make.scene(0, images=images, classes=3)
    return Truth(
        source=Path("truth.json"),
        image_ids=np.arange(images),
        category_ids=np.arange(3),
        names=("a", "b", "c"),
        objects=objects,
        records=np.arange(len(objects.class_rows)),
        notes=(),
    )


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    truth = truth_of(4)
    return analyse.analyse(truth, make.seen(truth.objects, 1))


def changed(analysis: Analysis, ap: float, ap50: float, precision: float, recall: float) -> Analysis:
    """Class b has these, all others are good."""
    good = [replace(one, ap=0.9, ap50=0.97) for one in analysis.scores.per_class]
    good[1] = replace(good[1], ap=ap, ap50=ap50)
    points = [*analysis.points]
    points[1] = replace(points[1], precision=precision, recall=recall)
    return replace(analysis, scores=replace(analysis.scores, per_class=tuple(good)), points=tuple(points))


@pytest.mark.parametrize(
    ("ap", "ap50", "precision", "recall", "why"),
    [
        (0.5, 0.95, 0.9, 0.9, "its boxes are not tight: between AP50 and AP it loses 45 points, the other classes 7."),
        (0.4, 0.5, 0.9, 0.55, "Much of it is missed: at the threshold of best F1, 45 %."),
        (0.4, 0.5, 0.6, 0.8, "at the threshold of best F1, 40 % of its detections are wrong."),
    ],
)
def test_says_why(ap: float, ap50: float, precision: float, recall: float, why: str, analysis: Analysis) -> None:
    said = score_sections.weakest(changed(analysis, ap, ap50, precision, recall))
    assert said is not None
    assert said.startswith(f"The weakest class is b, AP {ap:.3f}.")
    assert said.endswith(why)


def of_class_b(noise: float, widened: float) -> Analysis:
    """Its boxes alone are bad, by scatter or by bias."""
    truth = truth_of(12)
    found, bad = (make.seen(truth.objects, 1, noise=level) for level in (0.01, noise))
    is_b = (found.category_ids == 1)[:, None]
    boxes = np.where(is_b, bad.boxes_xywh * (1, 1, widened, 1), found.boxes_xywh)
    return analyse.analyse(truth, replace(found, boxes_xywh=boxes))


@pytest.mark.parametrize(("noise", "widened", "why"), [(0.1, 1.0, "scatter"), (0.01, 1.3, "bias")])
def test_says_whether_boxes_are_off_by_bias_or_scatter(noise: float, widened: float, why: str) -> None:
    made = of_class_b(noise, widened)
    said = score_sections.weakest(made)
    assert said is not None
    assert "The weakest class is b," in said
    assert "its boxes are not tight: between AP50 and AP it loses" in said
    assert f"That is mostly {why}" in said
    won, lost = (int(number) for number in re.findall(r"win back (\d+) of the (\d+)", said)[0])
    assert (won > 0.8 * lost) if why == "bias" else (won < 0.3 * lost)
    shown = score_sections.localization(made)
    assert "scatter %" in shown
    assert f"All boxes together scatter by {100 * made.localization[0].scatter:.1f} %" in shown


def test_says_whose_thresholds_they_are(analysis: Analysis) -> None:
    best, given = (
        score_sections.scores(analyse.analyse(analysis.truth, analysis.found, thresholds=values))
        for values in (None, (0.7, 0.2, 0.4))
    )
    assert "those of best F1" in best
    assert "those in the model file" not in best
    assert "those in the model file" in given
    assert '<td class="n">0.700</td>' in given


def test_a_class_that_no_detection_reaches(analysis: Analysis) -> None:
    strict = analyse.analyse(analysis.truth, analysis.found, thresholds=(0.0, 1.0, 0.0))
    point = strict.points[1]
    assert strict.are_thresholds_given
    said = score_sections.weakest(changed(strict, 0.4, 0.5, point.precision, point.recall))
    assert said is not None
    assert said.endswith("It is never found: no detection of it reaches the threshold in the model file.")


def test_a_class_without_objects_is_not_the_weakest(analysis: Analysis) -> None:
    per_class = [replace(one, num_objects=int(k == 0), ap=-1.0) for k, one in enumerate(analysis.scores.per_class)]
    alone = replace(analysis, scores=replace(analysis.scores, per_class=tuple(per_class)))
    assert score_sections.weakest(alone) is None
