"""Splits as one COCO file."""

import json
from pathlib import Path

import pytest

from detector.errors import DataError
from tests.unit.experiments import script

joined = script.load("joined")


def split(name: str, files: list[str]) -> dict[str, list[dict[str, object]]]:
    """Ids begin at 1 in every split, as they do in many data sets."""
    images = [{"id": k, "file_name": file, "width": 9, "height": 9} for k, file in enumerate(files, start=1)]
    boxes = [{"id": k, "image_id": k, "category_id": 4, "bbox": [0, 0, k, 1]} for k in range(1, len(files) + 1)]
    return {"images": images, "annotations": boxes, "categories": [{"id": 4, "name": name}]}


def test_splits_become_one_with_their_boxes(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name, files in (("train", ["d.jpg", "a.jpg"]), ("test", ["b.jpg"])):
        (tmp_path / f"{name}.json").write_text(json.dumps(split("cat", files)), encoding="utf-8")
    whole, images = joined.gather(tmp_path, ["train", "test"])
    assert images == tmp_path / "images"
    assert [(one["id"], one["file_name"]) for one in whole["images"]] == [(1, "a.jpg"), (2, "b.jpg"), (3, "d.jpg")]
    width_of = {one["image_id"]: one["bbox"][2] for one in whole["annotations"]}
    assert width_of == {3: 1, 1: 2, 2: 1}
    assert len({one["id"] for one in whole["annotations"]}) == 3


def test_no_file_is_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "train.json").write_text(json.dumps(split("cat", ["a.jpg"])), encoding="utf-8")
    out = tmp_path / "made" / "whole.json"
    monkeypatch.setattr("sys.argv", ["joined.py", str(tmp_path), "train", "--out", str(out)])
    joined.main()
    made = out.read_bytes()
    assert [image["file_name"] for image in json.loads(made)["images"]] == ["a.jpg"]
    with pytest.raises(SystemExit, match="File exists"):
        joined.main()
    assert out.read_bytes() == made


def write(folder: Path, name: str, content: object) -> None:
    (folder / "images").mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


def test_splits_that_do_not_go_together_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "train", split("cat", ["a.jpg"]))
    write(tmp_path, "val", split("dog", ["b.jpg"]))
    write(tmp_path, "test", split("cat", ["a.jpg"]))
    with pytest.raises(DataError, match=r"val\.json: has other categories"):
        joined.gather(tmp_path, ["train", "val"])
    for twice in (["train", "test"], ["train", "train"]):
        with pytest.raises(DataError, match=r"1 pictures are in several of the splits, such as a\.jpg"):
            joined.gather(tmp_path, twice)
    monkeypatch.setattr("sys.argv", ["joined.py", str(tmp_path), "train", "test", "--out", str(tmp_path / "o.json")])
    with pytest.raises(SystemExit, match=r"error: .*several of the splits"):
        joined.main()
    assert not (tmp_path / "o.json").exists()


def test_splits_with_folders_of_their_own_are_refused(tmp_path: Path) -> None:
    for name in ("train", "val"):
        (tmp_path / name).mkdir()
        content = json.dumps(split("cat", [f"{name}.jpg"]))
        (tmp_path / name / "_annotations.coco.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match="2 image folders, wanted is one"):
        joined.gather(tmp_path, ["train", "val"])
