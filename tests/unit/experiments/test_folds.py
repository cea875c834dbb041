"""Cross-validation: every image is held out once."""

import json
from pathlib import Path

from tests.unit.experiments import script

folds = script.load("folds")


def test_every_image_is_in_one_part() -> None:
    for count, number in ((10, 5), (200, 5), (7, 3)):
        found = folds.parts(count, number)
        assert sorted(image for part in found for image in part) == list(range(1, count + 1))
        assert max(map(len, found)) - min(map(len, found)) <= 1
        assert found == folds.parts(count, number)


def split(name: str, files: list[str]) -> dict[str, list[dict[str, object]]]:
    """Ids begin at 1 in every split, as they do in many data sets."""
    images = [{"id": k, "file_name": file, "width": 9, "height": 9} for k, file in enumerate(files, start=1)]
    boxes = [{"id": k, "image_id": k, "category_id": 4, "bbox": [0, 0, k, 1]} for k in range(1, len(files) + 1)]
    return {"images": images, "annotations": boxes, "categories": [{"id": 4, "name": name}]}


def test_splits_become_one_with_their_boxes(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name, files in (("train", ["d.jpg", "a.jpg"]), ("test", ["b.jpg"])):
        (tmp_path / f"{name}.json").write_text(json.dumps(split("cat", files)), encoding="utf-8")
    whole, images = folds.gather(tmp_path)
    assert images == tmp_path / "images"
    assert [(one["id"], one["file_name"]) for one in whole["images"]] == [(1, "a.jpg"), (2, "b.jpg"), (3, "d.jpg")]
    width_of = {one["image_id"]: one["bbox"][2] for one in whole["annotations"]}
    assert width_of == {3: 1, 1: 2, 2: 1}
    assert len({one["id"] for one in whole["annotations"]}) == 3
