"""One COCO file becomes a data set with splits, and nothing of the user's changes."""

import json
from pathlib import Path
from typing import Any

import pytest

from detector import cli, files
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


def test_training_has_every_class_and_what_the_others_lack_is_said(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = read(file)
    tree["categories"].append({"id": 77, "name": "rare"})
    tree["annotations"][0]["category_id"] = 77
    file.write_text(json.dumps(tree), encoding="utf-8")
    for seed in range(6):
        out = tmp_path / str(seed)
        assert cli.main(["split", str(file), "--out", str(out), "--val", "0.5", "--seed", str(seed)]) == 0
        assert any(one["category_id"] == 77 for one in read(out / "train.json")["annotations"])
        assert "warning: val has no object of rare" in capsys.readouterr().err


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
    tree = read(file)
    for one in tree["annotations"]:
        one["image_id"] = str(one["image_id"])
    file.write_text(json.dumps(tree), encoding="utf-8")
    outcome = split(file, None, tmp_path / "data", val=0.3)
    assert sum(outcome.objects.values()) == len(tree["annotations"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--val", "0"], "--val must be between 0 and 1, got 0"),
        (["--test", "-0.1"], "--test must be at least 0 and below 1"),
        (["--val", "0.6", "--test", "0.4"], "leave nothing to train on"),
    ],
)
def test_absurd_shares_are_refused(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert cli.main(["split", str(file), "--out", str(tmp_path / "data"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_a_folder_of_somebody_else_and_too_few_images_are_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not an empty folder"):
        split(file, None, file.parent, val=0.2)
    with pytest.raises(DataError, match="has 20 images, which leaves none for test"):
        split(file, None, tmp_path / "data", val=0.2, test=0.001)
    assert not (tmp_path / "data").exists()
