import json
from pathlib import Path

import pytest

from detector.data import layout
from detector.errors import DataError
from tests.unit.data import make


def _put(root: Path, annotations: str, image: str | None, file_name: str = "a.png") -> None:
    path = root / annotations
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(make.tree(images=[make.image(1, file_name)])))
    if image:
        make.picture(root / image)


@pytest.mark.parametrize(
    ("split", "annotations", "image", "root"),
    [
        ("train", "train.json", "images/a.png", "images"),
        ("train", "train.json", "a.png", "."),
        ("train", "train.json", "train/a.png", "train"),
        ("train", "train.json", "images/train/a.png", "images/train"),
        ("val", "valid.json", "images/a.png", "images"),
        ("validation", "val.json", "images/a.png", "images"),
        ("train", "annotations/instances_train2017.json", "train2017/a.png", "train2017"),
        ("val", "annotations/instances_val2014.json", "images/val2014/a.png", "images/val2014"),
        ("test", "annotations/instances_test.json", "images/a.png", "images"),
        ("train", "annotations/instances_train2017.json", "images/train/a.png", "images/train"),
        ("val", "valid/_annotations.coco.json", "valid/a.png", "valid"),
        ("test", "test/_annotations.coco.json", "test/a.png", "test"),
    ],
)
def test_each_layout_is_found(tmp_path: Path, split: str, annotations: str, image: str, root: str) -> None:
    _put(tmp_path, annotations, image)
    assert layout.find(tmp_path, split) == layout.SplitFiles(annotations=tmp_path / annotations, images=tmp_path / root)


def test_the_folder_that_holds_the_named_image_wins(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    _put(tmp_path, "train.json", "train/a.png")
    assert layout.find(tmp_path, "train").images == tmp_path / "train"


def test_a_file_name_with_folders_is_followed(tmp_path: Path) -> None:
    _put(tmp_path, "train.json", "images/train/a.png", file_name="train/a.png")
    assert layout.find(tmp_path, "train").images == tmp_path / "images"


def test_layouts_are_tried_in_order(tmp_path: Path) -> None:
    _put(tmp_path, "train/_annotations.coco.json", None)
    _put(tmp_path, "annotations/instances_train2017.json", None)
    assert layout.find(tmp_path, "train").annotations.name == "instances_train2017.json"
    _put(tmp_path, "train.json", None)
    assert layout.find(tmp_path, "train").annotations.name == "train.json"


def test_a_damaged_annotation_file_is_still_found(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "train.json").write_bytes(b'{"images": [{"file_name": "\\ud8')
    assert layout.find(tmp_path, "train").images == tmp_path / "images"


def test_two_candidates_are_an_error_that_names_both(tmp_path: Path) -> None:
    _put(tmp_path, "annotations/instances_val2014.json", None)
    _put(tmp_path, "annotations/instances_val2017.json", None)
    with pytest.raises(DataError, match=r"instances_val2014.*instances_val2017.*--val-json"):
        layout.find(tmp_path, "val")


def test_the_advice_is_that_of_the_command(tmp_path: Path) -> None:
    _put(tmp_path, "train.json", "images/a.png")
    with pytest.raises(DataError, match=r"--train-json, --val-json and --images$"):
        layout.find(tmp_path, "test")
    with pytest.raises(DataError, match=r"name the files with --annotations and --images$") as caught:
        layout.find(tmp_path, "test", advice=layout.FOR_EVAL)
    assert "--train-json" not in str(caught.value)
    assert "; give --split train, or name the files" in str(caught.value)


def test_a_missing_split_says_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it is empty"):
        layout.find(tmp_path, "train")
    _put(tmp_path, "train.json", "images/a.png")
    with pytest.raises(DataError, match=r"'val'; looked for val\.json.*it holds images/, train\.json.*present: train"):
        layout.find(tmp_path, "val")


def test_a_missing_folder_and_a_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such data folder"):
        layout.find(tmp_path / "none", "train")
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(DataError, match="not a data folder"):
        layout.find(tmp_path / "x.json", "train")


def test_available_splits(tmp_path: Path) -> None:
    assert layout.available_splits(tmp_path) == ()
    _put(tmp_path, "train/_annotations.coco.json", None)
    _put(tmp_path, "valid/_annotations.coco.json", None)
    assert layout.available_splits(tmp_path) == ("train", "val")


def test_explicit_paths(tmp_path: Path) -> None:
    _put(tmp_path, "mine.json", "images/a.png")
    assert layout.explicit(tmp_path / "mine.json").images == tmp_path / "images"
    assert layout.explicit(tmp_path / "mine.json", tmp_path).images == tmp_path
    with pytest.raises(DataError, match="--images"):
        layout.explicit(tmp_path / "mine.json", tmp_path / "none")
