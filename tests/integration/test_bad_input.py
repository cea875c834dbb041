"""A user's mistake gets one line that names the file and the cure, the exit code of its family, and leaves nothing."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from detector.cli import main
from tests.integration import shapes
from tests.integration.conftest import TINY


def broken(folder: Path, change: Callable[[dict[str, list[dict[str, object]]]], object]) -> Path:
    """A data set with one fault."""
    split = shapes.plain(folder, "train")
    shapes.write(split, count=2, seed=0)
    tree = json.loads(split.annotations.read_text())
    change(tree)
    split.annotations.write_text(json.dumps(tree))
    return folder


def set_first(table: str, key: str, value: object) -> Callable[[dict[str, list[dict[str, object]]]], object]:
    return lambda tree: tree[table][0].update({key: value})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_first("annotations", "category_id", 99), ["train.json", "annotation", "99"]),
        (set_first("annotations", "image_id", 77), ["train.json", "annotation", "77"]),
        (set_first("annotations", "bbox", [1, 2, -3, 4]), ["train.json", "annotation", "-3"]),
        (set_first("annotations", "bbox", [1, 2]), ["train.json", "annotation", "bbox"]),
        (set_first("images", "file_name", "../secret.png"), ["train.json", "../secret.png"]),
        (lambda tree: tree["categories"].clear(), ["train.json", "categories"]),
        (lambda tree: tree["annotations"].clear(), ["train.json", "no object"]),
        (lambda tree: tree["images"].clear(), ["train.json", "image"]),
        (lambda tree: tree.pop("annotations"), ["train.json", "annotations"]),
    ],
)
def test_faulty_annotations(
    tmp_path: Path,
    change: Callable[[dict[str, list[dict[str, object]]]], object],
    words: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    code = main(["train", str(broken(tmp_path / "data", change)), "--steps", "1", "--out", str(out), *TINY])
    refused(code, 3, words, capsys)
    assert not out.exists()


def test_missing_and_broken_files(
    tmp_path: Path, data: Path, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ["--steps", "1", "--out", str(tmp_path / "run"), *TINY]
    model = run_folder / "best.safetensors"
    cut = tmp_path / "cut"
    shapes.write(shapes.plain(cut, "train"), count=1, seed=0)
    (cut / "train.json").write_text((cut / "train.json").read_text()[:100])
    text = tmp_path / "text.safetensors"
    text.write_text("no model")
    occupied = tmp_path / "occupied"
    occupied.mkdir()
    (occupied / "thesis.txt").write_text("mine")
    cases = [
        (["train", str(tmp_path / "nowhere"), *train], 3, ["nowhere"]),
        (["train", str(cut), *train], 3, ["train.json"]),
        (["train", str(data), *train, "--set", "optim.lrr=1"], 2, ["optim.lrr", "optim.lr"]),
        (["train", str(data), *train, "--init", str(text)], 4, ["text.safetensors"]),
        (["train", str(data), *train, "--init", "nothing.pth"], 4, ["nothing.pth"]),
        (["train", str(data), "--steps", "1", "--out", str(occupied), *TINY], 2, ["occupied", "--out"]),
        (["eval", str(text), str(data)], 4, ["text.safetensors"]),
        (["eval", str(tmp_path / "gone.safetensors"), str(data)], 4, ["gone.safetensors"]),
        (["eval", str(model), str(tmp_path / "nowhere")], 3, ["nowhere"]),
        (["predict", str(model), str(tmp_path / "no.jpg")], 3, ["no.jpg"]),
        (["predict", str(text), str(data / "images")], 4, ["text.safetensors"]),
        (["trian", str(data)], 2, ["trian", "train"]),
    ]
    for arguments, code, words in cases:
        refused(main(arguments), code, words, capsys)
    assert (occupied / "thesis.txt").read_text() == "mine"
    assert not (tmp_path / "run").exists()


def test_classes_that_differ_between_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, name in enumerate(("train", "val")):
        shapes.write(shapes.plain(tmp_path, name), count=2, seed=seed)
    tree = json.loads((tmp_path / "val.json").read_text())
    tree["categories"][1]["name"] = "Disc"
    (tmp_path / "val.json").write_text(json.dumps(tree))
    code = main(["train", str(tmp_path), "--steps", "1", "--out", str(tmp_path / "run"), *TINY])
    refused(code, 3, ["val.json", "disc", "Disc"], capsys)


def refused(code: int, expected: int, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert code == expected, captured.err
    assert captured.out == ""
    assert lines[-1].startswith("error: ")
    assert "Traceback" not in captured.err
    for word in words:
        assert word in lines[-1], lines[-1]
