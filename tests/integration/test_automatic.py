"""Training without a recipe: settings are fitted, told, written down and kept. The learning curve."""

import json
import shutil
from pathlib import Path

import pytest

from detector import config_file, recipes
from detector.cli import train
from detector.config import RunConfig
from detector.data import sampling
from detector.model import detector as network
from detector.run import curve, material
from detector.run.data_paths import DataPaths
from detector.train.distributed import World
from tests.faults.child import NarrowBackbone
from tests.integration.conftest import TINY

RUN = ["--set", "data.workers=0", "--set", "length.evaluations=1", *TINY]


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "Backbone", NarrowBackbone)


def settings(folder: Path) -> RunConfig:
    return config_file.load(folder / "config.yaml")


def test_what_was_fitted_is_told_and_written_down(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert train([str(data), "--steps", "2", "--out", str(out), *RUN]) == 0
    said = capsys.readouterr().err.splitlines()
    lines = [line.removeprefix("auto: ") for line in said if line.startswith("auto: ")]
    assert lines[0].startswith("recipe small, fitted to 5 images with ")
    told = {line.split()[0]: line for line in lines[1:]}
    assert "yours, instead of 128" in told["data.image_size"]
    assert "yours, instead of 4" in told["data.batch_size"]
    assert told["model.backbone"].split()[1] == "resnet18"

    written = json.loads((out / "fit.json").read_text())
    assert [row["setting"] for row in written["choices"]] == list(told)
    assert settings(out).model.pyramid.first_level == int(told["model.pyramid.first_level"].split()[1])
    assert settings(out) != recipes.small()


def test_a_fitted_run_goes_on_with_its_settings(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert train([str(data), "--steps", "2", "--lr", "1e-4", "--out", str(out), *RUN]) == 0
    before = settings(out)
    capsys.readouterr()
    assert train([str(data), "--steps", "3", "--resume", "--out", str(out)]) == 0
    assert settings(out).optim == before.optim
    assert "auto:" not in capsys.readouterr().err
    assert train([str(data), "--out", str(out)]) == 0  # finished, and asked for no other settings
    assert train([str(data), "--out", str(out), "--lr", "2e-4"]) == 2
    assert "optim.lr = 0.0001, now it is 0.0002" in capsys.readouterr().err


def test_a_part_of_the_images(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    splits = material.read(DataPaths(folder=data))
    config = config_file.override(recipes.small(), {"data.share": 0.4, "precision": "float32"})
    part = material.gather(splits, config, World(), "none", None)
    rows = sampling.part(splits.train, 0.4, config.seed)
    assert [part.columns.file_name(k) for k in range(len(part.columns))] == [splits.train.file_name(k) for k in rows]
    assert part.val_columns is splits.val
    assert part.remarks == ("train: 2 of these images are learned from (data.share 0.4)",)


def test_a_learning_curve_is_measured_and_gone_on_with(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curve, "_FEWEST_IMAGES", 4)
    out = tmp_path / "curve"
    words = [str(data), "--learning-curve", "--steps", "2", "--out", str(out), *RUN, "--json"]
    trained: list[Path] = []
    real = curve.train

    def stopping(*args: object, out: Path, **kwargs: object) -> object:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(out)
        return real(*args, out=out, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(curve, "train", stopping)
    assert train(words) == 130
    assert [path.name for path in trained] == ["part-025", "part-050"]
    told = capsys.readouterr().err
    assert told.index("curve: 3 trainings of 2 steps each, about ") < told.index("curve: 25% of the training images")
    written = (out / "part-050" / "last.safetensors").stat().st_mtime_ns

    monkeypatch.setattr(curve, "train", real)
    assert train(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert [point["num_images"] for point in found["points"]] == [2, 3, 5]
    assert found["steps"] == 2
    assert found["forecast"]["num_images"] == 10
    assert found == json.loads((out / "curve.json").read_text())
    assert (out / "curve.svg").read_bytes().startswith(b"<?xml")
    assert (out / "part-050" / "last.safetensors").stat().st_mtime_ns == written
    assert (out / "fit.json").is_file()
    shares = [settings(out / f"part-{part}").data.share for part in ("025", "050", "100")]
    assert shares == [0.25, 0.5, 1.0]

    other = shutil.copytree(data, tmp_path / "other")
    (other / "train.json").write_text((data / "train.json").read_text() + "\n")
    weights = ["--init", str(out / "part-100" / "best.safetensors")]
    for changed in ([*words, "--lr", "0.1"], [*words, *weights], [str(other), *words[1:]]):
        assert train(changed) == 2
        assert "holds a learning curve of other settings, data or first weights" in capsys.readouterr().err


def test_a_learning_curve_needs_a_validation_split(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(["--train-json", str(data / "train.json"), "--learning-curve", *RUN]) == 3
    assert "scored on a validation split" in capsys.readouterr().err
