"""What is left out of a scoring because its label is wrong."""

import json
from pathlib import Path

import pytest

from detector.evaluate import coco
from tests.unit.experiments import script

faults = script.load("label_faults")

TRUTH = {
    "images": [{"id": 7, "file_name": "a.jpg", "width": 100, "height": 100}],
    "categories": [{"id": 3, "name": "cell"}],
    "annotations": [
        {"id": 5, "image_id": 7, "category_id": 3, "bbox": [0, 0, 20, 20], "area": 400, "iscrowd": 0},
        {"id": 6, "image_id": 7, "category_id": 3, "bbox": [70, 70, 20, 20], "area": 400, "iscrowd": 0},
    ],
}
UNLABELLED = faults.Fault(file_name="a.jpg", category="cell", fault="unlabelled", bbox=(40, 0, 20, 20))
NOTHING = faults.Fault(file_name="a.jpg", category="cell", fault="nothing there", bbox=(70, 70, 20, 20), annotation=6)


def found(box: list[float], score: float) -> dict[str, object]:
    return {"image_id": 7, "category_id": 3, "bbox": box, "score": score}


RESULTS = [found([40, 0, 20, 20], 0.9), found([1, 0, 20, 20], 0.8), found([2, 1, 20, 20], 0.1)]


def ap50(tmp_path: Path, left_out: list[object]) -> float:
    (tmp_path / "truth.json").write_text(json.dumps(faults.ignored(TRUTH, left_out)), encoding="utf-8")
    (tmp_path / "found.json").write_text(json.dumps(RESULTS), encoding="utf-8")
    return coco.score(tmp_path / "truth.json", tmp_path / "found.json").ap50


def test_faults_count_neither_for_nor_against(tmp_path: Path) -> None:
    # One of two objects is found, behind a box where no label is: recall 0.5 at precision 0.5.
    assert ap50(tmp_path, []) == pytest.approx(51 / 101 * 0.5)
    assert ap50(tmp_path, [UNLABELLED]) == pytest.approx(51 / 101)
    assert ap50(tmp_path, [NOTHING]) == pytest.approx(0.5)
    assert ap50(tmp_path, [UNLABELLED, NOTHING]) == pytest.approx(1.0)


def test_a_wrong_label_that_is_found_is_no_mistake(tmp_path: Path) -> None:
    """Neither is one that is not: it is a place where nobody knows."""
    wrong = faults.Fault(file_name="a.jpg", category="cell", fault="box off", bbox=(0, 0, 20, 20), annotation=5)
    other = [found([1, 0, 20, 20], 0.9), found([70, 70, 20, 20], 0.8)]
    (tmp_path / "truth.json").write_text(json.dumps(faults.ignored(TRUTH, [wrong])), encoding="utf-8")
    (tmp_path / "found.json").write_text(json.dumps(other), encoding="utf-8")
    assert coco.score(tmp_path / "truth.json", tmp_path / "found.json").ap50 == pytest.approx(1.0)


def test_an_extra_box_meets_no_label_and_no_better_box() -> None:
    near = found([44, 0, 20, 20], 0.4)
    assert faults.extras([near, *RESULTS], TRUTH["annotations"]) == [RESULTS[0]]


@pytest.mark.parametrize(
    ("box", "is_at_border"),
    [
        ((2, 9, 9, 9), True),
        ((3, 9, 9, 9), False),
        ((9, 1, 9, 9), True),
        ((40, 9, 8, 9), True),
        ((40, 9, 7, 9), False),
        ((9, 20, 9, 8), True),
        ((9, 20, 9, 7), False),
    ],
)
def test_what_comes_near_a_side_is_at_the_border(box: tuple[int, ...], is_at_border: bool) -> None:
    assert faults.is_at_border(box, (50, 30)) == is_at_border
