"""Where a run that is resumed without naming its data looks for them."""

import json
from pathlib import Path
from typing import Any

import pytest

from detector.data.layout import SplitFiles
from detector.errors import ConfigError
from detector.run.data_paths import DataPaths
from detector.train import lock


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    run.mkdir()
    (run / lock.FILE).touch()
    return run


def note(run: Path, splits: Any) -> None:
    (run / "data.json").write_text(json.dumps({"splits": splits}))


def test_both_splits_where_they_were(run: Path, tmp_path: Path) -> None:
    splits: dict[str, dict[str, str]] = {}
    for name in ("train", "val"):
        (tmp_path / f"{name}-pictures").mkdir()
        (tmp_path / f"{name}.json").touch()
        folder = str(tmp_path / f"{name}-pictures")
        splits[name] = {"annotations": str(tmp_path / f"{name}.json"), "image_folder": folder}
    note(run, splits)
    found = DataPaths.of_run(run)
    for name in ("train", "val"):
        expected = SplitFiles(annotations=tmp_path / f"{name}.json", images=tmp_path / f"{name}-pictures")
        assert found.split(name) == expected
        assert found.has(name)
    assert not found.has("test")
    (tmp_path / "val-pictures").rmdir()
    again = f"name the data: detector train DATA --resume --out {run}"
    with pytest.raises(ConfigError) as caught:
        DataPaths.of_run(run)
    gone = f"{tmp_path}/val-pictures: the val data of {run} are no longer there; bring them back, or {again}"
    assert str(caught.value) == gone
    (tmp_path / "train.json").unlink()
    with pytest.raises(ConfigError, match=r"/train\.json: the train data of"):
        DataPaths.of_run(run)


def test_a_validation_split_that_is_named_is_taken_in_place_of_the_noted_one(run: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("train", "other"):
        (tmp_path / f"{name}.json").touch()
    train = {"annotations": str(tmp_path / "train.json"), "image_folder": str(pictures)}
    note(run, {"train": train, "val": {**train, "annotations": str(tmp_path / "gone.json")}})
    found = DataPaths.of_run(run, val_json=tmp_path / "other.json", images=pictures)
    assert found.split("train").annotations == tmp_path / "train.json"
    assert found.split("val") == SplitFiles(annotations=tmp_path / "other.json", images=pictures)
    assert found.has("val")


def test_images_that_were_not_noted_are_looked_for(run: Path, tmp_path: Path) -> None:
    (tmp_path / "train.json").touch()
    (tmp_path / "images").mkdir()
    note(run, {"train": {"annotations": str(tmp_path / "train.json")}})
    assert DataPaths.of_run(run).split("train").images == tmp_path / "images"


@pytest.mark.parametrize("splits", [None, [], {"train": {}}, {"train": None}], ids=str)
def test_what_notes_no_data_asks_for_them(run: Path, splits: Any) -> None:
    note(run, splits)
    with pytest.raises(ConfigError, match=r"data\.json: does not say where the data are; name the data: detector"):
        DataPaths.of_run(run)


def test_no_run_and_no_note(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.json: cannot be read \(No such file or directory\), so no data"):
        DataPaths.of_run(run)
    with pytest.raises(ConfigError, match="nowhere: holds no run to resume; name DATA, and leave --resume out"):
        DataPaths.of_run(tmp_path / "nowhere")
