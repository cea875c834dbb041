"""A model of half the size: it scores the same, every door takes it, and its card says what was measured."""

import json
import runpy
import shutil
from pathlib import Path

import pytest
import torch

from detector import Detector, cli, files
from detector.errors import DataError
from detector.model import model_file
from tests.integration.conftest import TINY

ROOT = Path(__file__).parents[2]
SHIP = ROOT / "tools" / "experiments" / "ship.py"


def export(run_folder: Path, precision: str, path: Path) -> Path:
    argv = ["export", str(run_folder / "best.safetensors"), "--precision", precision, "--out", str(path)]
    assert cli.main(argv) == 0
    tensors, _ = model_file.read_tensors(path)
    assert {str(tensor.dtype) for tensor in tensors.values()} == {f"torch.{precision}", "torch.float32", "torch.int64"}
    return path


def average_precision(model: Path, data: Path, out: Path) -> float:
    assert cli.main(["eval", str(model), str(data), "--out", str(out)]) == 0
    return json.loads((out / "scores.json").read_text())["ap"]


def test_it_scores_the_same(run_folder: Path, data: Path, tmp_path: Path) -> None:
    full = average_precision(run_folder / "best.safetensors", data, tmp_path / "full")
    assert full > 0
    for precision in ("float16", "bfloat16"):
        half = export(run_folder, precision, tmp_path / f"{precision}.safetensors")
        assert average_precision(half, data, tmp_path / precision) == pytest.approx(full, abs=1e-3)
        assert half.stat().st_size < 0.52 * (run_folder / "best.safetensors").stat().st_size


def test_every_other_door_takes_it(
    run_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = export(run_folder, "float16", tmp_path / "half.safetensors")
    picture = sorted((data / "images").iterdir())[0]
    assert Detector.load(half).predict(picture, score=0.0).boxes.dtype == torch.float32
    options = ["--init", str(half), "--steps", "1", "--set", "data.crops.share=0", "--out", str(tmp_path / "run")]
    assert cli.main(["train", str(data), *options, *TINY]) == 0
    printed = capsys.readouterr().err
    assert "\nweights: " not in printed  # all was taken
    assert f"weights from {half}" in printed
    before = files.sha256(half)
    assert cli.main(["eval", str(half), str(data), "--out", str(tmp_path / "e"), "--write-thresholds", "f1"]) == 0
    assert files.sha256(half) != before
    assert model_file.read_tensors(half)[0]["backbone.conv1.weight"].dtype in model_file.HALVES


@pytest.mark.parametrize(
    ("name", "said"),
    [("best.safetensors", "exists"), ("half.pt", "let it end in .safetensors"), ("no/h.safetensors", "cannot")],
)
def test_a_place_that_will_not_do_is_refused(
    run_folder: Path, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    model = run_folder / "best.safetensors"
    before = files.sha256(model)
    assert cli.main(["export", str(model), "--out", str(run_folder / name)]) == 2
    assert said in capsys.readouterr().err
    assert files.sha256(model) == before


@pytest.mark.parametrize(
    ("source", "said"), [("", "is a folder; give a model file"), ("gone.pth", "no such model file")]
)
def test_what_is_no_model_file_is_said_first(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, said: str
) -> None:
    assert cli.main(["export", str(run_folder / source), "--out", str(tmp_path / "half.safetensors")]) == 4
    assert said in capsys.readouterr().err


def test_the_card_says_what_was_measured(run_folder: Path, data: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    other = {"file": "another.safetensors", "sha256": "0"}
    (weights / "manifest.json").write_text(json.dumps([other]))
    options = ["--name", "tiny", "--commit", "abc123", "--data-licence", "MIT", "--limit", "Not for use."]
    moved = shutil.copytree(run_folder, tmp_path / "moved")
    environment = json.loads((moved / "environment.json").read_text())
    typed = ["/a/detector", "train", f"{data}/../{data.name}", "--out", "/b/run", "--steps", "2"]
    (moved / "environment.json").write_text(json.dumps(environment | {"command": typed}))
    for folder in (run_folder, moved):  # the second time over the first
        runpy.run_path(str(SHIP))["main"]([str(folder), str(data), *options, "--weights", str(weights)])
    manifest = json.loads((weights / "manifest.json").read_text())
    assert [entry["file"] for entry in manifest] == ["another.safetensors", "tiny.safetensors"]
    entry = manifest[1]
    path = weights / "tiny.safetensors"
    assert (entry["sha256"], entry["bytes"]) == (files.sha256(path), path.stat().st_size)
    assert entry["ap"] == average_precision(path, data, tmp_path / "eval")
    assert entry["commit"] == "abc123"
    assert entry["command"] == f"detector train {data} --out {moved} --steps 2"
    card = (weights / "tiny.md").read_text()
    assert f"| all | {entry['ap']:.3f} (" in card
    assert all(f"| {name} | {ap:.3f} |" in card for name, ap in entry["ap_per_class"].items())
    assert "- Not for use." in card
    assert "learned from 5 images, " in card
    assert "recipe auto |" in card
    assert "by the file itself on a CPU in float32" in card
    assert "commit `abc123`" in card


def test_what_is_shipped_stays_where_its_successor_fails(run_folder: Path, data: Path, tmp_path: Path) -> None:
    weights, no_test = tmp_path / "weights", shutil.copytree(data, tmp_path / "data")
    (no_test / "test.json").unlink()
    options = ["--name", "tiny", "--commit", "abc123", "--data-licence", "MIT", "--weights", str(weights)]
    ship = runpy.run_path(str(SHIP))["main"]
    ship([str(run_folder), str(data), *options])
    before = {path.name: path.read_bytes() for path in weights.iterdir()}
    with pytest.raises(DataError, match="no annotation file for split 'test'"):
        ship([str(run_folder), str(no_test), *options])
    with pytest.raises(SystemExit):
        ship([str(run_folder), str(data), *options, "--commit", "HEAD"])
    assert {path.name: path.read_bytes() for path in weights.iterdir()} == before


def test_a_run_without_validation_split_ships_its_last_weights(data: Path, tmp_path: Path) -> None:
    options = ["--train-json", str(data / "train.json"), "--images", str(data / "images"), "--out", str(tmp_path / "r")]
    assert cli.main(["train", *options, "--steps", "2", "--set", "data.crops.share=0", *TINY]) == 0
    made = ["--name", "tiny", "--commit", "abc123", "--data-licence", "MIT", "--weights", str(tmp_path / "w")]
    runpy.run_path(str(SHIP))["main"]([str(tmp_path / "r"), str(data), *made, "--before", "made the data"])
    card = (tmp_path / "w" / "tiny.md").read_text()
    assert "| data | learned from 5 images, " in card
    assert "best weights chosen on" not in card
    assert "\nmade the data\ndetector train" in card
    assert set(json.loads((tmp_path / "w" / "manifest.json").read_text())[0]["splits"]) == {"train", "test"}


def test_shipped_files_score_here_what_their_manifest_says(tmp_path: Path) -> None:
    """On whatever machine runs this: numbers of a card are good for every reader's."""
    entries = json.loads((ROOT / "weights" / "manifest.json").read_text())
    assert entries
    for entry in entries:
        model, out = ROOT / "weights" / entry["file"], tmp_path / entry["file"]
        assert cli.main(["eval", str(model), str(ROOT / entry["data"]), "--split", "test", "--out", str(out)]) == 0
        scores = json.loads((out / "scores.json").read_text())
        of_class = {one["name"]: one["ap"] for one in scores["per_class"]}
        assert of_class == pytest.approx(entry["ap_per_class"], abs=1e-3)
        assert {name: scores[name] for name in ("ap", "ap50", "ap75")} == pytest.approx(
            {name: entry[name] for name in ("ap", "ap50", "ap75")}, abs=1e-3
        )
