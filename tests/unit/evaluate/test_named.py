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
        ([(30, None), (20, "b/two.jpg")], [30, 20], 0),  # the name says what the id says
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


@pytest.mark.parametrize("key", ["note", "image_id"])
def test_a_name_is_seen_wherever_it_stands(tmp_path: Path, key: str) -> None:
    results, truth = write(tmp_path, NAMES, [(1, "b/two.jpg"), (2, "a/one.jpg")])
    records = json.loads(results.read_text())
    records[0] = {"note": "x" * 5000, **records[0]}
    if key == "image_id":
        records[1]["image_id"] = 2
        records[1]["file_name"] = "one\\/two.jpg"  # any escape
    results.write_text(json.dumps(records), encoding="utf-8")
    assert named.read(results, truth)[0].image_ids.tolist() == [20, 20 if key == "image_id" else 10]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([(20, "two.jpg"), (1, "a/one.jpg"), (30, None), (30, None)], "record 2: has no file_name, but record 1 has"),
        ([(1, None), (20, "two.jpg"), (1, "a/one.jpg")], r"record 0: has no file_name, but record 2 .*\(1\)"),
        ([(20, "three.jpg"), (30, None)], "record 0: file_name 'three.jpg' is not in"),
    ],
)
def test_records_without_a_name_do_not_turn_the_names_of_others_off(
    tmp_path: Path, found: list[tuple[int, str | None]], message: str
) -> None:
    results, truth = write(tmp_path, NAMES, found)
    with pytest.raises(DataError, match=message) as caught:
        named.read(results, truth)
    assert str(caught.value).startswith(f"{results}: record")


@pytest.mark.parametrize("name", [7, None, ["a/one.jpg"]])
def test_a_name_that_is_no_text_is_none(tmp_path: Path, name: object) -> None:
    results, truth = write(tmp_path, NAMES, [(30, None)])
    records = json.loads(results.read_text())
    results.write_text(json.dumps([records[0] | {"file_name": name}]), encoding="utf-8")
    assert named.read(results, truth)[0].image_ids.tolist() == [30]
