"""Scores of files alone."""

import json
from pathlib import Path

import pytest

from detector import run
from detector.errors import DataError

FOUND: dict[str, object] = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2], "score": 0.5}


def files(folder: Path, found: list[dict[str, object]]) -> tuple[Path, Path]:
    truth, results = folder / "truth.json", folder / "found.json"
    objects = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2], "area": 4, "iscrowd": 0}]
    images = [{"id": 1, "file_name": "a.jpg", "width": 9, "height": 9}]
    tree = {"images": images, "categories": [{"id": 1, "name": "a"}], "annotations": objects}
    truth.write_text(json.dumps(tree), encoding="utf-8")
    results.write_text(json.dumps(found), encoding="utf-8")
    return truth, results


@pytest.mark.parametrize("key", ["image_id", "category_id"])
def test_an_unknown_id_names_the_file_and_the_record(tmp_path: Path, key: str) -> None:
    truth, results = files(tmp_path, [FOUND, FOUND | {key: 99999}])
    with pytest.raises(DataError) as caught:
        run.evaluate_files(truth, results)
    assert str(caught.value).startswith(f"{results}: record 1: {key} 99999 is not in {truth}, which has 1 ")


def test_no_detection_is_said(tmp_path: Path) -> None:
    scores, _ = run.evaluate_files(*files(tmp_path, []))
    assert (scores.ap, scores.notes) == (0, ("there are no detections, so all scores are 0",))
    scores, _ = run.evaluate_files(*files(tmp_path, [FOUND]))
    assert (scores.ap, scores.notes) == (pytest.approx(1), ())
