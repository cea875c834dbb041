"""What is said of the data before the first step."""

import json
from pathlib import Path

from detector import config_file, recipes
from detector.run import introduction, material
from detector.run.data_paths import DataPaths
from detector.train.distributed import World
from tests.unit.data.make import Tree, annotation, dataset, image, picture, tree, write

CONFIG = config_file.override(recipes.small(), {"precision": "float32"})


def said(folder: Path) -> list[str]:
    splits = material.read(DataPaths(folder=folder))
    return list(introduction.of_data(material.gather(splits, CONFIG, World(), "none", None)))


def of_objects(count: int, name: str = "a.png") -> Tree:
    return tree(images=[image(1, name)], annotations=[annotation(1 + k) for k in range(count)])


def warnings(folder: Path) -> list[str]:
    return [line for line in said(folder) if line.startswith("warning: ")]


def test_without_a_validation_split_the_one_that_makes_it_is_named(tmp_path: Path) -> None:
    annotations, images = dataset(tmp_path, 3)
    lines = said(tmp_path)
    assert lines[0] == "train: 3 images (0 without objects), 6 objects, 0 crowd regions"
    cure = f"`detector split {annotations} --images {images} --out DIR` deals them into splits"
    assert lines[1].startswith(f"val: none; {cure}. ")
    assert lines[1].endswith("the last weights are kept as the best")
    assert len(lines) == 2


def test_a_validation_split_without_objects_is_named(tmp_path: Path) -> None:
    write(tmp_path, of_objects(1))
    write(tmp_path, of_objects(0), "val.json")
    assert said(tmp_path)[1].startswith(f"val: {tmp_path / 'val.json'} has no objects; ")
    write(tmp_path, tree(annotations=[annotation(iscrowd=1)]), "val.json")
    assert said(tmp_path)[1].startswith(f"val: {tmp_path / 'val.json'} has no objects but crowd regions; ")


def test_few_objects_to_score_on_are_warned_of(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "b.png")
    write(tmp_path, of_objects(1))
    write(tmp_path, of_objects(49, "b.png"), "val.json")
    (warning,) = warnings(tmp_path)
    assert warning.startswith(f"warning: {tmp_path / 'val.json'}: 49 objects to score on are few")
    assert "`detector split`" in warning
    write(tmp_path, of_objects(50, "b.png"), "val.json")
    assert not warnings(tmp_path)


def test_classes_with_few_objects_to_score_on_are_warned_of(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "b.png")
    classes = [{"id": k, "name": f"kind {k}"} for k in range(1, 9)]
    write(tmp_path, of_objects(1) | {"categories": classes})

    def validate(*counts: int) -> list[str]:
        ids = [1 + k for k, count in enumerate(counts) for _ in range(count)]
        content = tree(
            images=[image(1, "b.png")],
            annotations=[annotation(1 + k, category_id=category) for k, category in enumerate(ids)],
            categories=classes,
        )
        write(tmp_path, content, "val.json")
        return warnings(tmp_path)

    assert validate(50, 5, 0) == []
    (warning,) = validate(50, 4, 5)
    assert "val.json: 1 class has fewer than 5 objects to score on (kind 2 4); " in warning
    (warning,) = validate(50, *range(1, 8))
    assert "4 classes have fewer than 5 objects to score on (kind 2 1, kind 3 2, kind 4 3, kind 5 4); " in warning
    (warning,) = validate(50, *[1] * 7)
    assert "(kind 2 1, kind 3 1, kind 4 1, kind 5 1, kind 6 1, ...); " in warning


def test_images_of_both_splits_are_warned_of(tmp_path: Path) -> None:
    write(tmp_path, of_objects(1))
    write(tmp_path, of_objects(50), "val.json")
    (warning,) = warnings(tmp_path)
    train, val = tmp_path / "train.json", tmp_path / "val.json"
    assert warning.startswith(f"warning: 1 image is in {train} and in {val} ('a.png'), so the scores say little")


def test_images_of_one_name_in_two_folders_are_two(tmp_path: Path) -> None:
    """As in the layouts of Roboflow and COCO."""
    for name, count in (("train", 1), ("valid", 50)):
        picture(tmp_path / name / "a.png")
        (tmp_path / name / "_annotations.coco.json").write_text(json.dumps(of_objects(count)))
    assert not warnings(tmp_path)


def test_images_that_are_not_there_are_told_with_what_becomes_of_them(tmp_path: Path) -> None:
    for split in ("train", "val"):
        picture(tmp_path / "images" / f"{split}.png")
        content = of_objects(50, f"{split}.png")
        content["images"].append(image(2, f"{split} gone.png"))
        _, images = write(tmp_path, content, f"{split}.json")
    of_train, of_val = warnings(tmp_path)
    for line, name in ((of_train, "train.json"), (of_val, "val.json")):
        assert line.startswith(f"warning: {tmp_path / name}: 1 of its 2 images is not in {images}, and ")
        assert "copy" in line
    assert "stand in" in of_train
    assert "count as missed" in of_val
