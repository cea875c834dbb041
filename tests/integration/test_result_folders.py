"""What eval and predict leave in folders, with a model that has learnt nothing."""

import json
from pathlib import Path

import pytest

from detector import config_file, recipes
from detector.cli import main
from detector.model import detector as network
from detector.model import model_file
from detector.model.model_file import TrainedModel
from detector.types import LabelMap, Preprocess
from tests.integration import shapes


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    narrow = {f"model.heads.{name}.tower.width": 16 for name in ("classification", "box")}
    config = config_file.override(recipes.small(), narrow | {"model.pyramid.width": 16, "data.workers": 0})
    preprocess = Preprocess(canvas_hw=(48, 64))
    label_map = LabelMap(names=("box", "disc"), category_ids=(7, 40))
    made = network.build(config, num_classes=2, preprocess=preprocess)
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    model_file.save(path, TrainedModel(model=made, config=config, label_map=label_map, preprocess=preprocess))
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_eval_writes_detections_and_scores(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for _ in range(2):  # the same command again is no trouble
        assert main(["eval", str(model), str(data), "--out", str(out), "--device", "cpu", "--json"]) == 0
        printed = capsys.readouterr()
        assert printed.err == ""  # no progress where there is no terminal
        answer = json.loads(printed.out)
        assert names(out) == [".detector-eval", "predictions.json", "scores.json"]
        written = json.loads((out / "scores.json").read_text())
        assert set(written.pop("made_from")) == {"annotations", "decode", "models"}
        assert written == answer["scores"]
        assert answer["scores_file"] == str(out / "scores.json")


def test_eval_of_explicit_files(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = shapes.Split(annotations=tmp_path / "odd" / "truth.json", images=tmp_path / "elsewhere")
    shapes.write(split, count=2, seed=4)
    copy = tmp_path / "m.safetensors"
    copy.write_bytes(model.read_bytes())
    files = ["--annotations", str(split.annotations), "--images", str(split.images)]
    assert main(["eval", str(copy), *files, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"]["num_images"] == 2
    assert (tmp_path / "eval-truth" / "scores.json").is_file()


def test_eval_names_each_unreadable_file_once(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = shapes.plain(tmp_path, "test")
    shapes.write(split, count=3, seed=4)
    broken = split.images / "4-1.png"
    broken.write_bytes(broken.read_bytes()[:200])
    assert main(["eval", str(model), str(tmp_path), "--out", str(tmp_path / "out"), "--json"]) == 0
    (reason,) = json.loads(capsys.readouterr().out)["unreadable"]
    assert reason.startswith(f"{broken}: ")


@pytest.mark.parametrize("command", ["eval", "predict"])
def test_the_users_folder_is_refused_and_untouched(
    command: str, model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = tmp_path / "predictions.json"
    theirs.write_text("mine")
    assert (
        main([command, str(model), str(data / "images" if command == "predict" else data), "--out", str(tmp_path)]) == 2
    )
    assert f"{tmp_path}: is not an empty folder" in capsys.readouterr().err
    assert names(tmp_path) == ["predictions.json"]
    assert theirs.read_text() == "mine"


def test_eval_finds_a_folder_that_cannot_be_made_before_it_reads_the_model(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*_: object) -> None:
        raise AssertionError("the model was read first")

    monkeypatch.setattr(model_file, "load", load)
    (tmp_path / "file").touch()
    assert main(["eval", str(model), str(data), "--out", str(tmp_path / "file" / "out")]) == 2
    assert "--out" in capsys.readouterr().err


def test_a_model_that_cannot_be_read_leaves_no_folder(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.safetensors").write_text("no model")
    assert main(["eval", str(tmp_path / "text.safetensors"), str(data)]) == 4
    assert main(["eval", str(tmp_path / "gone" / "m.safetensors"), str(data)]) == 4
    assert names(tmp_path) == ["text.safetensors"]


def test_eval_advises_its_own_options(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(model), str(tmp_path)]) == 3
    assert "name the files with --annotations and --images" in capsys.readouterr().err
