"""Scores and predictions as a user gets them."""

import contextlib
import io
import json
from pathlib import Path

import cv2
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detector import Detector
from detector.cli import evaluate, predict
from detector.run import scoring


def by_hand(ground_truth: Path, predictions: Path) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(ground_truth))
        evaluation = COCOeval(truth, truth.loadRes(str(predictions)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats.tolist()


TWELVE = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large"),
)


def test_the_twelve_numbers_are_those_of_pycocotools(
    run_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = run_folder / "best.safetensors"
    assert evaluate([str(model), str(data), "--split", "test", "--out", str(tmp_path / "e"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    results = Path(answer["results"])
    expected = by_hand(data / "test.json", results)
    assert [answer["scores"][name] for name in TWELVE] == expected
    assert max(expected) > 0

    assert evaluate(["--ground-truth", str(data / "test.json"), "--predictions", str(results), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"] == answer["scores"]
    rows = json.loads(results.read_text())
    assert {row["category_id"] for row in rows} <= {7, 40}
    assert {row["image_id"] for row in rows} == {1, 2, 3}
    assert min(row["score"] for row in rows) < 0.05


def test_results_of_other_settings_are_not_taken_for_the_models_own(
    run_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "m.safetensors"
    model.write_bytes((run_folder / "best.safetensors").read_bytes())
    found: list[tuple[int, Path | None]] = []
    for words in (["--set", "decode.max_detections=2"], []):
        assert evaluate([str(model), str(data), "--split", "test", "--json", *words]) == 0
        rows = json.loads(Path(json.loads(capsys.readouterr().out)["results"]).read_text())
        found.append((len(rows), scoring.saved_results(model, "test", data / "test.json")))
    (few, of_settings), (many, of_model) = found
    assert few <= 2 * 3 < many
    assert of_settings is None
    assert of_model is not None


def test_predict_draws_and_writes(
    run_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pictures"
    model = run_folder / "best.safetensors"
    sources = [str(data / "images" / "3-*.png"), str(data / "images" / "1-0.png")]
    assert predict([str(model), *sources, "--out", str(out), "--score", "0.001", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["num_images"] == 4
    rows = json.loads((out / "predictions.json").read_text())
    assert len(rows) == answer["num_detections"] > 0
    assert {row["category_name"] for row in rows} <= {"box", "disc"}
    pictures = sorted(path for path in out.iterdir() if path.suffix == ".jpg")
    assert len(pictures) == 4
    drawn = cv2.imread(str(pictures[0]))
    assert drawn is not None


def test_python_and_command_line_find_the_same(run_folder: Path, data: Path, tmp_path: Path) -> None:
    image = data / "images" / "3-1.png"
    assert (
        predict([str(run_folder / "best.safetensors"), str(image), "--out", str(tmp_path / "p"), "--score", "0.01"])
        == 0
    )
    rows = json.loads((tmp_path / "p" / "predictions.json").read_text())
    model = Detector.load(run_folder / "best.safetensors")
    from_path = model.predict(image, score=0.01)
    picture = cv2.imread(str(image))
    assert picture is not None
    from_array = model.predict(picture[:, :, ::-1], score=0.01)
    for found in (from_path, from_array):
        assert [row["score"] for row in rows] == found.scores.tolist()
        assert [row["category_name"] for row in rows] == list(found.names)
