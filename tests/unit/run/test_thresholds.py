"""Thresholds in a model file: what the split says nothing of stays, and what decides is said."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from detector.evaluate.coco import Truth
from detector.run import thresholds
from detector.run.thresholds import ClassPoint, Wanted
from detector.types import LabelMap
from tests.unit.analysis import make

BOX = [0.0, 0.0, 9.0, 9.0]
LABELS = LabelMap(names=("a", "b", "c"), category_ids=(1, 2, 9))  # the file has no c, and no object of b
WANTED = Wanted(aim="precision", value=0.9)


def chosen(*, right: bool, stored: tuple[float, ...] | None) -> tuple[ClassPoint, ...]:
    objects = make.objects([(0, 0, BOX)], classes=2)
    matches, _ = make.met(objects, make.found([(0, 0, BOX if right else [50.0, 50.0, 9.0, 9.0], 0.6)]))
    truth = Truth(
        source=Path("truth.json"),
        image_ids=np.arange(1),
        category_ids=np.array([1, 2]),
        names=("a", "b"),
        objects=objects,
        records=np.arange(1),
        notes=(),
    )
    return thresholds.choose(WANTED, matches, truth, LABELS, stored)


@pytest.mark.parametrize(("stored", "kept"), [(None, (0.3, 0.3)), ((0.1, 0.77, 0.88), (0.77, 0.88))])
def test_a_class_that_the_split_lacks_keeps_its_threshold(
    stored: tuple[float, ...] | None, kept: tuple[float, float]
) -> None:
    made = chosen(right=True, stored=stored)
    assert tuple(one.point.threshold for one in made) == (0.6, *kept)
    assert [one.is_kept for one in made] == [False, stored is not None, stored is not None]
    said = thresholds.lines(made)
    assert "precision 1.000" in said[0]
    assert f"from {kept[0]:.3f}" in said[1]
    assert said[1].endswith("the default stands" if stored is None else "the threshold of the model file stays")


def test_whether_the_wanted_value_was_reached() -> None:
    assert [one.is_reached for one in chosen(right=True, stored=None)] == [True, None, None]
    assert [one.is_reached for one in chosen(right=False, stored=None)] == [False, None, None]


def test_what_decides_is_one_line() -> None:
    assert thresholds.told(LABELS, (0.5, 0.1234, 1.0)) == (
        "least scores are the thresholds in the model file: a 0.500, b 0.123, c 1.000; --score X takes one for all"
    )
    many = LabelMap(names=tuple(f"n{i}" for i in range(80)), category_ids=tuple(range(80)))
    said = thresholds.told(many, tuple(i / 100 for i in range(80)))
    assert "n9 0.090, 70 more from 0.100 to 0.790; --score" in said
    assert "\n" not in thresholds.told(dataclasses.replace(many, names=("x\ny", *many.names[1:])), (math.pi / 4,) * 80)
