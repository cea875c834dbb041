"""What is said of the data before the first step."""

from pathlib import Path

from detector import config_file, recipes
from detector.run import introduction, material
from detector.run.data_paths import DataPaths
from detector.train.distributed import World
from tests.unit.data.make import Tree, annotation, dataset, image, tree, write

CONFIG = config_file.override(recipes.small(), {"precision": "float32"})


def said(folder: Path) -> list[str]:
    splits = material.read(DataPaths(folder=folder))
    return list(introduction.of_data(material.gather(splits, CONFIG, World(), "none", None)))


def of_objects(count: int) -> Tree:
    return tree(annotations=[annotation(1 + k) for k in range(count)])


def test_without_a_validation_split_the_one_that_makes_it_is_named(tmp_path: Path) -> None:
    annotations, _ = dataset(tmp_path, 3)
    lines = said(tmp_path)
    assert lines[0] == "train: 3 images (0 without objects), 6 objects, 0 crowd regions"
    assert lines[1].startswith(f"val: none; `detector split {annotations}` deals them into splits. ")
    assert lines[1].endswith("the last weights are kept as the best")
    assert len(lines) == 2


def test_a_validation_split_without_objects_is_named(tmp_path: Path) -> None:
    write(tmp_path, of_objects(1))
    write(tmp_path, of_objects(0), "val.json")
    assert said(tmp_path)[1].startswith(f"val: {tmp_path / 'val.json'} has no objects; ")
    write(tmp_path, tree(annotations=[annotation(iscrowd=1)]), "val.json")
    assert said(tmp_path)[1].startswith(f"val: {tmp_path / 'val.json'} has no objects but crowd regions; ")


def test_few_objects_to_score_on_are_warned_of(tmp_path: Path) -> None:
    write(tmp_path, of_objects(1))
    write(tmp_path, of_objects(49), "val.json")
    (warning,) = [line for line in said(tmp_path) if line.startswith("warning: ")]
    assert warning.startswith(f"warning: {tmp_path / 'val.json'}: 49 objects to score on are few")
    assert "`detector split`" in warning
    write(tmp_path, of_objects(50), "val.json")
    assert not [line for line in said(tmp_path) if line.startswith("warning: ")]


def test_images_that_are_not_there_are_told_with_what_becomes_of_them(tmp_path: Path) -> None:
    two = [image(), image(2, "gone.png")]
    _, images = write(tmp_path, tree(images=two, annotations=[annotation(1 + k) for k in range(50)]))
    write(tmp_path, tree(images=two, annotations=[annotation(1 + k) for k in range(50)]), "val.json")
    of_train, of_val = [line for line in said(tmp_path) if line.startswith("warning: ")]
    for line, name in ((of_train, "train.json"), (of_val, "val.json")):
        assert line.startswith(f"warning: {tmp_path / name}: 1 of its 2 images is not in {images}, and ")
        assert "copy" in line
    assert "stand in" in of_train
    assert "count as missed" in of_val
