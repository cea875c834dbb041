"""Eight images learned by heart, or why not."""

import json
from pathlib import Path

import pytest

from detector.cli import train
from detector.data import coco
from detector.run import smoke_test
from tests.integration import shapes
from tests.integration.conftest import TINY


@pytest.fixture
def many(tmp_path: Path) -> Path:
    shapes.write(shapes.plain(tmp_path, "train"), count=12, seed=5)
    return tmp_path


def test_it_passes_and_leaves_nothing(
    many: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(many)
    before = sorted(many.rglob("*"))
    assert train([str(many), "--smoke", "--image-size", "128", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"]
    assert found["ap50"] >= 0.9
    assert found["num_images"] == 8
    assert found["loss"]["last"] < 0.5 * found["loss"]["first"]
    assert sorted(many.rglob("*")) == before


def test_labels_that_contradict_one_another_are_named(
    many: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(smoke_test, "STEPS", 4)
    tree = json.loads((many / "train.json").read_text())
    twins = [dict(one, id=one["id"] + 1000, category_id=47 - one["category_id"]) for one in tree["annotations"]]
    tree["annotations"] += twins
    (many / "train.json").write_text(json.dumps(tree))
    assert train([str(many), "--smoke", *TINY]) == 1
    said = capsys.readouterr().out
    assert said.startswith("FAIL  AP50 0")
    assert "of different classes in the same place: look at these labels" in said


def test_what_cannot_be_read_is_left_out(
    many: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(smoke_test, "STEPS", 4)
    for number in range(5):
        (many / "images" / f"5-{number}.png").write_bytes(b"no picture")
    train([str(many), "--smoke", *TINY])
    printed = capsys.readouterr()
    assert "on the 7 images" in printed.out
    assert printed.err.count("left out: ") == 5


def test_nothing_to_read_is_an_error(many: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for image in (many / "images").iterdir():
        image.write_bytes(b"no picture")
    assert train([str(many), "--smoke", *TINY]) == 3
    assert "none of its images with objects" in capsys.readouterr().err


def test_a_localizer_is_asked_for_the_main_object_alone(
    many: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(smoke_test, "STEPS", 2)
    options = ["--recipe", "localizer", "--image-size", "64", "--json"]
    train([str(many), "--smoke", *options])
    assert json.loads(capsys.readouterr().out)["num_objects"] == 8


def test_the_images_are_spread_over_the_classes(many: Path) -> None:
    tree = json.loads((many / "train.json").read_text())
    tree["categories"].append({"id": 50, "name": "rare"})
    box_of = {one["image_id"]: one["bbox"] for one in tree["annotations"]}
    for image in (9, 11):
        one = {"id": 2000 + image, "image_id": image, "category_id": 50, "bbox": box_of[image], "area": 9, "iscrowd": 0}
        tree["annotations"].append(one)
    (many / "train.json").write_text(json.dumps(tree))
    columns = coco.read(many / "train.json", many / "images")
    order = list(smoke_test.spread(columns))
    assert order[0] == 8
    assert 10 in order[:4]
    assert sorted(order) == list(range(12))
