import json
from pathlib import Path
from typing import Any

import pytest

from detector.errors import DataError
from detector.evaluate import named


def write(folder: Path, names: dict[int, str], found: list[tuple[int, str | None]]) -> tuple[Path, Path]:
    truth, results = folder / "truth.json", folder / "found.json"
    images = [{"id": i, "file_name": name, "width": 9, "height": 9} for i, name in names.items()]
    truth.write_text(
        json.dumps({"images": images, "categories": [{"id": 1, "name": "a"}], "annotations": []}), encoding="utf-8"
    )
    records: list[dict[str, Any]] = [
        {"image_id": i, "category_id": 1, "bbox": [1, 1, 2, 2], "score": 0.5}
        | ({} if name is None else {"file_name": name})
        for i, name in found
    ]
    results.write_text(json.dumps(records), encoding="utf-8")
    return results, truth


NAMES = {10: "a/one.jpg", 20: "b/two.jpg", 30: "b/one.jpg"}


@pytest.mark.parametrize(
    ("found", "ids", "moved"),
    [
        ([(1, "b/two.jpg"), (2, "a/one.jpg")], [20, 10], 2),
        ([(1, "two.jpg")], [20], 1),
        ([(1, "other/two.jpg")], [20], 1),
        ([(20, "b/two.jpg"), (2, "b\\one.jpg")], [20, 30], 1),
        ([(20, "two.jpg")], [20], 0),
        ([(30, None), (10, None)], [30, 10], 0),
        ([(30, None), (10, "b/two.jpg")], [30, 10], 0),  # not all are named: the ids stand
        ([], [], 0),
    ],
)
def test_images_are_found_by_name(
    tmp_path: Path, found: list[tuple[int, str | None]], ids: list[int], moved: int
) -> None:
    results, notes = named.read(*write(tmp_path, NAMES, found))
    assert results.image_ids.tolist() == ids
    assert bool(notes) == bool(moved)
    if moved:
        assert notes[0].startswith(f"{moved} detections have another image_id")


@pytest.mark.parametrize("name", ["three.jpg", "one.jpg"])
def test_a_name_that_is_unknown_or_stands_for_two_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"record 1: file_name '{name}' is not in .*, or not there once"):
        named.read(*write(tmp_path, NAMES, [(1, "two.jpg"), (2, name)]))
