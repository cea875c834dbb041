"""Training as a user starts it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from detector import Detector
from detector.cli import train
from detector.model import model_file
from tests.integration import shapes
from tests.integration.conftest import TINY


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return model_file.read_tensors(folder / "last.safetensors")[0]


def test_overfits_eight_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train", "val"):
        shapes.write(shapes.plain(tmp_path, name), count=8, seed=5)
    still = ("augment.scale=[1,1]", "augment.aspect=[1,1]", "augment.horizontal_flip=0", "augment.vertical_flip=0")
    calm = ("augment.brightness=0", "augment.contrast=0", "augment.saturation=0", "augment.hue=0")
    settings = [*still, *calm, "data.crops.share=0", "optim.warmup_steps=10", "length.evaluations=1"]
    options = ["--steps", "80", "--image-size", "128", "--batch-size", "8", "--lr", "0.002", "--json"]
    options += [word for setting in settings for word in ("--set", setting)]
    assert train([str(tmp_path), "--out", str(tmp_path / "run"), *options]) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert scores["ap50"] >= 0.95


def test_the_same_seed_gives_the_same_weights_with_any_number_of_workers(data: Path, tmp_path: Path) -> None:
    def run(name: str, *options: str) -> dict[str, torch.Tensor]:
        crops = ["--set", "data.crops.share=0.5"]  # both shapes of batches
        assert train([str(data), "--steps", "4", "--out", str(tmp_path / name), *TINY, *crops, *options]) == 0
        return weights(tmp_path / name)

    first = run("first")
    for name, options in (("again", ()), ("one", ("--workers", "1")), ("four", ("--workers", "4"))):
        other = run(name, *options)
        assert first.keys() == other.keys()
        assert all(torch.equal(first[key], other[key]) for key in first), name
    other_seed = run("seed", "--seed", "1")
    assert not torch.equal(first["heads.box.output.weight"], other_seed["heads.box.output.weight"])


def roboflow(folder: Path, name: str) -> shapes.Split:
    part = folder / {"val": "valid"}.get(name, name)
    return shapes.Split(annotations=part / "_annotations.coco.json", images=part)


def coco(folder: Path, name: str) -> shapes.Split:
    return shapes.Split(annotations=folder / f"annotations/instances_{name}2017.json", images=folder / f"{name}2017")


@pytest.mark.parametrize("layout", [roboflow, coco])
def test_other_layouts_need_no_option(layout: type[shapes.Split], tmp_path: Path) -> None:
    for seed, name in enumerate(("train", "val")):
        shapes.write(layout(tmp_path, name), count=3, seed=seed)
    out = tmp_path / "run"
    assert train([str(tmp_path), "--steps", "1", "--out", str(out), *TINY]) == 0
    assert sorted(json.loads((out / "data.json").read_text())["splits"]) == ["train", "val"]


def test_what_a_run_leaves_behind(run_folder: Path, data: Path) -> None:
    assert {path.name for path in run_folder.iterdir()} >= {
        *("config.yaml", "environment.json", "data.json", "metrics.jsonl", "train.log"),
        *("best.safetensors", "last.safetensors"),
    }
    rows = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["kind"] == "train"
    assert rows[-1]["kind"] == "evaluation"
    assert rows[-1]["step"] == 40
    trained = model_file.load(run_folder / "best.safetensors")
    assert trained.label_map.category_ids == (7, 40)
    assert trained.preprocess.canvas_hw == (48, 64)


def test_a_run_can_be_repeated_from_its_configuration(run_folder: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    assert train([str(data), "--config", str(run_folder / "config.yaml"), "--out", str(out)]) == 0
    first, second = weights(run_folder), weights(out)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_without_a_validation_split_the_end_is_the_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shapes.write(shapes.plain(tmp_path, "train"), count=3, seed=0)
    out = tmp_path / "run"
    assert train([str(tmp_path), "--steps", "2", "--out", str(out), "--json", *TINY]) == 0
    assert json.loads(capsys.readouterr().out)["scores"] is None
    assert len(Detector.load(out / "best.safetensors").names) == 2


def test_a_bad_image_is_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = shapes.plain(tmp_path, "train")
    shapes.write(split, count=4, seed=0)
    broken = split.images / "0-2.png"
    broken.write_bytes(broken.read_bytes()[:200])
    assert train([str(tmp_path), "--epochs", "1", "--out", str(tmp_path / "run"), *TINY]) == 0
    line = next(line for line in capsys.readouterr().err.splitlines() if "left out" in line)
    assert str(broken) in line


@pytest.mark.parametrize("classification", ["softmax", "sigmoid", "focal"])
def test_every_cross_entropy_trains(classification: str, data: Path, tmp_path: Path) -> None:
    options = ["--set", f"loss.classification={classification}", "--set", "assign.kind=max_iou"]
    out = tmp_path / "run"
    assert train([str(data), "--steps", "1", "--out", str(out), *TINY, *options]) == 0
    assert len(Detector.load(out / "best.safetensors").predict(data / "images" / "2-0.png", score=0.0).scores) > 0


def interrupt(arguments: Sequence[str], metrics: Path) -> tuple[int, str]:
    """Start a training as its own process and press Ctrl-C once it has written a line."""
    command = [sys.executable, "-m", "detector", "train", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    try:
        deadline = time.monotonic() + 120
        while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, errors


@pytest.mark.parametrize("workers", ["0", "1"])
def test_ctrl_c_leaves_a_model(data: Path, tmp_path: Path, workers: str) -> None:
    out = tmp_path / "run"
    code, errors = interrupt(
        [str(data), "--minutes", "30", "--out", str(out), "--workers", workers, *TINY], out / "metrics.jsonl"
    )
    assert code == 130
    assert "Traceback" not in errors
    for name in ("best", "last"):
        assert Detector.load(out / f"{name}.safetensors").names == ("box", "disc")
