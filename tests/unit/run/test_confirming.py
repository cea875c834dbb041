"""What counts as the same score."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detector.errors import CheckpointError
from detector.evaluate.coco import Scores, Truth
from detector.run import confirming
from tests.unit.analysis import make

SCORES = Scores(
    ap=0.5,
    ap50=0.8,
    ap75=0.5,
    ap_small=-1.0,
    ap_medium=0.3,
    ap_large=0.6,
    ar_1=0.3,
    ar_10=0.5,
    ar_100=0.6,
    ar_small=-1.0,
    ar_medium=0.5,
    ar_large=0.7,
    per_class=(),
    num_images=3,
    num_detections=9,
    num_tied=0,
    notes=(),
)
BEST = Path("runs/a/best.safetensors")


def test_equal_to_the_last_bit_or_an_error_that_names_what_differs() -> None:
    confirming.require_same(BEST, SCORES, SCORES, np.zeros(12))
    other = replace(SCORES, ap75=0.5 + 1e-12, ar_100=0.4)
    with pytest.raises(CheckpointError) as found:
        confirming.require_same(BEST, SCORES, other, np.zeros(12))
    said = str(found.value)
    assert said.startswith("runs/a/best.safetensors: scored anew")
    assert "AP, IoU 0.75: 0.5 in training, 0.500000000001 from the file" in said
    assert "recall, 100 detections: 0.6 in training, 0.4 from the file" in said
    assert "2 of 12" in said
    assert found.value.exit_code == 4


def test_a_size_that_comes_or_goes_differs() -> None:
    with pytest.raises(CheckpointError, match="small"):
        confirming.require_same(BEST, SCORES, replace(SCORES, ap_small=0.0), np.full(12, 1e-3))


def truth(count: int, side: float) -> Truth:
    """As many objects of class 0, and twice as many of class 1."""
    rows = [(image, label, [0.0, 0.0, side, side]) for image in range(count) for label in (0, 1, 1)]
    return Truth(
        source=Path("truth.json"),
        image_ids=np.arange(count),
        category_ids=np.arange(2),
        names=("a", "b"),
        objects=make.objects(rows),
        records=np.arange(3 * count),
        notes=(),
    )


def test_where_rounding_differs_one_object_may_fall_to_the_other_side_of_a_threshold() -> None:
    few = confirming.tolerances(truth(5, 50.0))
    assert few.tolist() == pytest.approx([0.01, 0.1, 0.1, 1e-3, 0.01, 1e-3, 0.01, 0.01, 0.01, 1e-3, 0.01, 1e-3])
    assert (confirming.tolerances(truth(2000, 50.0)) == 1e-3).all()
