"""One COCO file becomes a data set with splits, and nothing of the user's changes."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from detector import cli, files
from detector.data import coco
from detector.errors import ConfigError, DataError
from detector.run import split
from tests.integration import shapes
from tests.integration.conftest import TINY


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Twenty images with two classes in `theirs/`."""
    theirs = shapes.plain(tmp_path / "theirs", "all")
    shapes.write(theirs, count=20, seed=1)
    return theirs.annotations


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def names_in(path: Path) -> set[str]:
    return {image["file_name"] for image in read(path)["images"]}


def test_every_image_and_object_is_in_one_split(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = read(file)
    file.write_text(json.dumps(whole | {"info": {"year": 1999}}), encoding="utf-8")
    before = files.sha256(file)
    out = tmp_path / "data"
    assert cli.main(["split", str(file), "--out", str(out), "--val", "0.2", "--test", "0.1", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["images"] == {"train": 14, "val": 4, "test": 2}
    parts = [read(out / f"{name}.json") for name in ("train", "val", "test")]
    for kind in ("images", "annotations"):
        together = [one for part in parts for one in part[kind]]
        assert sorted(together, key=lambda one: one["id"]) == sorted(whole[kind], key=lambda one: one["id"])
    for part in parts:
        assert {one["image_id"] for one in part["annotations"]} <= {one["id"] for one in part["images"]}
        assert (part["categories"], part["info"]) == (whole["categories"], {"year": 1999})
    assert files.sha256(file) == before
    assert sorted(path.name for path in out.iterdir()) == ["images", "test.json", "train.json", "val.json"]


def test_what_was_split_can_be_trained_and_scored(file: Path, tmp_path: Path) -> None:
    assert cli.main(["split", str(file), "--out", str(tmp_path / "data"), "--test", "0.2"]) == 0
    out = ["--out", str(tmp_path / "run")]
    assert cli.main(["train", str(tmp_path / "data"), "--steps", "2", "--set", "data.crops.share=0", *out, *TINY]) == 0
    assert cli.main(["eval", str(tmp_path / "run" / "best.safetensors"), str(tmp_path / "data")]) == 0


def test_the_seed_decides(file: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        split(file, None, tmp_path / name, val=0.3, seed=seed)
    names = [names_in(tmp_path / name / "val.json") for name in "abc"]
    assert names[0] == names[1] != names[2]


def test_each_split_has_every_class_as_far_as_there_are_images_of_it(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = read(file)
    tree["categories"] += [{"id": 77, "name": "once"}, {"id": 78, "name": "twice"}]
    images = [image["id"] for image in tree["images"]]
    box = {"bbox": [1, 1, 20, 20], "area": 400, "iscrowd": 0}
    tree["annotations"] += [
        {"id": 9000 + k, "image_id": images[place], "category_id": label, **box}
        for k, (place, label) in enumerate(((3, 77), (5, 78), (11, 78)))
    ]
    file.write_text(json.dumps(tree), encoding="utf-8")
    for seed in range(6):
        out = tmp_path / str(seed)
        assert cli.main(["split", str(file), "--out", str(out), "--val", "0.1", "--seed", str(seed)]) == 0
        train, val = (
            {one["category_id"] for one in read(out / f"{name}.json")["annotations"]} for name in ("train", "val")
        )
        assert {77, 78} <= train
        assert 78 in val
        said = capsys.readouterr().err
        assert "warning: val has no object of once: too few images have one, or --val is too small" in said


def test_one_file_is_never_in_two_splits(file: Path, tmp_path: Path) -> None:
    """Though two records name it, as where each object has a record of its own."""
    tree = read(file)
    tree["images"] += [{**image, "id": image["id"] + 1000} for image in tree["images"]]
    file.write_text(json.dumps(tree), encoding="utf-8")
    split(file, None, tmp_path / "data", val=0.3)
    train, val = (names_in(tmp_path / "data" / f"{name}.json") for name in ("train", "val"))
    assert len(train | val) == 20
    assert not train & val


def test_ids_may_be_written_as_text(file: Path, tmp_path: Path) -> None:
    """Also above 2**53, where a float holds every other number only."""
    tree = read(file)
    for one in tree["annotations"]:
        one["image_id"] = str(one["image_id"] + 2**53)
    for image in tree["images"]:
        image["id"] = str(image["id"] + 2**53)
    file.write_text(json.dumps(tree), encoding="utf-8")
    outcome = split(file, None, tmp_path / "data", val=0.3)
    assert sum(outcome.objects.values()) == len(tree["annotations"])
    for name in ("train", "val"):
        part = read(tmp_path / "data" / f"{name}.json")
        assert {one["image_id"] for one in part["annotations"]} <= {image["id"] for image in part["images"]}


def test_both_may_be_moved_together(file: Path, tmp_path: Path) -> None:
    split(file, None, file.parent / "data", val=0.3)
    moved = file.parent.rename(tmp_path / "moved")
    assert coco.read(moved / "data" / "val.json", moved / "data" / "images").report.missing_files == 0


def test_where_no_link_can_be_made_nothing_is_left(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    with pytest.raises(ConfigError, match=r"Operation not permitted.*choose another --out .a link to the images"):
        split(file, None, tmp_path / "data", val=0.3)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--val", "0"], "--val must be between 0 and 1, got 0"),
        (["--test", "-0.1"], "--test must be at least 0 and below 1"),
        (["--val", "0.6", "--test", "0.4"], "leave nothing to train on"),
        (["--seed", "-1"], "--seed must be at least 0, got -1"),
    ],
)
def test_absurd_numbers_are_refused(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert cli.main(["split", str(file), "--out", str(tmp_path / "data"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_a_folder_of_somebody_else_and_too_few_images_are_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not an empty folder"):
        split(file, None, file.parent, val=0.2)
    with pytest.raises(DataError, match="names 20 image files, which leaves none for test; change the shares"):
        split(file, None, tmp_path / "data", val=0.2, test=0.001)
    tree = read(file)
    for image in tree["images"]:
        image["file_name"] = tree["images"][0]["file_name"]
    file.write_text(json.dumps(tree), encoding="utf-8")
    with pytest.raises(DataError, match="names 1 image file, which leaves none for val; give more images"):
        split(file, None, tmp_path / "data", val=0.2)
    assert not (tmp_path / "data").exists()
