"""One truth for every door, thresholds in the model file, reports and comparisons as a user gets them."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detector import Detector
from detector.cli import compare, evaluate, main, predict, report
from detector.data import coco
from detector.errors import DetectorError
from detector.model import model_file
from detector.run import finding, scoring, subject
from detector.run.data_paths import DataPaths
from detector.train import run_folder as run_folders
from detector.train.distributed import World

NUMBERS = ("ap", "ap50", "ap75", "ar_1", "ar_10", "ar_100", "per_class")


@pytest.fixture
def run(run_folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may write into."""
    return shutil.copytree(run_folder, tmp_path / "run")


def answer_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out)


def test_training_eval_and_the_file_of_predict_give_the_same_numbers(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    best = [row for row in rows if row["kind"] == "evaluation" and row["is_best"]][-1]
    assert evaluate([str(run / "best.safetensors"), str(data), "--split", "val", "--json"]) == 0
    scored = answer_of(capsys)
    assert (scored["scores"]["ap"], scored["scores"]["ap50"]) == (best["ap"], best["ap50"])

    names = {image["id"]: image["file_name"] for image in json.loads((data / "val.json").read_text())["images"]}
    pictures = [str(data / "images" / name) for name in sorted(names.values(), reverse=True)]
    out = tmp_path / "pictures"
    assert predict([str(run / "best.safetensors"), *pictures, "--score", "0", "--out", str(out), "--json"]) == 0
    capsys.readouterr()
    found = out / "predictions.json"
    assert evaluate(["--ground-truth", str(data / "val.json"), "--predictions", str(found), "--json"]) == 0
    again = answer_of(capsys)["scores"]
    assert {name: again[name] for name in NUMBERS} == {name: scored["scores"][name] for name in NUMBERS}
    assert "matched by file name" in again["notes"][-1]
    assert again["intervals"] == scored["scores"]["intervals"]


def test_a_file_that_names_other_images_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = {"image_id": 1, "file_name": "elsewhere.jpg", "category_id": 7, "bbox": [1, 2, 3, 4], "score": 0.5}
    found = tmp_path / "found.json"
    found.write_text(json.dumps([record]))
    assert evaluate(["--ground-truth", str(data / "val.json"), "--predictions", str(found)]) == 3
    assert "file_name 'elsewhere.jpg' is not in" in capsys.readouterr().err


def test_thresholds_go_into_the_model_and_predict_takes_them(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "best.safetensors"
    before = model_file.load(path)
    assert before.thresholds is None
    argv = [str(path), str(data), "--split", "val", "--write-thresholds", "recall=0.5", "--json"]
    assert evaluate(argv) == 0
    answer = answer_of(capsys)
    after = model_file.load(path)
    assert after.thresholds == tuple(answer["thresholds"].values())
    assert after.config == before.config
    assert all(
        torch.equal(a, b)
        for a, b in zip(before.model.state_dict().values(), after.model.state_dict().values(), strict=True)
    )
    # Scores do not depend on them: low ones are kept.
    assert evaluate([str(path), str(data), "--split", "val", "--json"]) == 0
    assert answer_of(capsys)["scores"] == answer["scores"]

    image = next((data / "images").iterdir())
    model = Detector.load(path)
    everything, found = model.predict(image, score=0), model.predict(image)
    assert model.thresholds == after.thresholds
    least = torch.tensor(after.thresholds, dtype=torch.float64)
    assert len(found) == int((everything.scores.double() >= least[everything.labels]).sum())
    assert len(model.predict(image, score=0.999)) <= len(found)
    out = tmp_path / "p"
    assert answer["thresholds_reached"].keys() == answer["thresholds"].keys()
    assert predict([str(path), str(image), "--out", str(out), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["num_detections"] == len(found)
    of_each = ", ".join(f"{name} {score:.3f}" for name, score in answer["thresholds"].items())
    assert said.err.splitlines() == [
        f"predict: least scores are the thresholds in the model file: {of_each}; --score X takes one for all"
    ]
    assert predict([str(path), str(image), "--out", str(out), "--score", "0.5"]) == 0
    assert "threshold" not in capsys.readouterr().err
    assert predict([str(path), str(path), str(image), "--out", str(out)]) == 0
    said = capsys.readouterr().err
    assert f"predict: thresholds in {path}, {path} are not used, for several models are fused; the least" in said
    assert "score is 0.3, the default" in said


@pytest.mark.parametrize("wish", ["f2", "precision", "precision=0", "recall=1.1", "precision=x", "f1=0.5"])
def test_a_wish_that_cannot_be_read(run: Path, data: Path, wish: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate([str(run / "best.safetensors"), str(data), "--write-thresholds", wish]) == 2
    assert "--write-thresholds takes f1, precision=X or recall=X" in capsys.readouterr().err


def test_a_diverged_model_is_an_error_and_no_perfect_score(run: Path, data: Path) -> None:
    trained = model_file.load(run / "best.safetensors")
    name, bias = [(n, p) for n, p in trained.model.named_parameters() if "box" in n and n.endswith("bias")][-1]
    assert bias.numel() % 4 == 0, name
    with torch.no_grad():
        bias.fill_(float("nan"))
    columns = coco.read(data / "val.json", data / "images", label_map=trained.label_map)
    with pytest.raises(DetectorError, match="not finite"):
        finding.find([trained], columns, World(), lambda _: None)


def test_report_is_one_file_and_uses_saved_results(run: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = (data / "val.json").read_bytes()
    model = (run / "best.safetensors").read_bytes()
    shutil.rmtree(run / "eval-val")  # that training left
    assert report([str(run), "--json"]) == 0
    first = capsys.readouterr()
    answer = json.loads(first.out)
    page = Path(answer["report"])
    assert page == run / "report.html"
    assert "running" in first.err
    content = page.read_text()
    assert len(content) < 10 * 2**20
    assert 'id="training"' in content
    assert answer["scores"]["intervals"].keys() == {"ap", "ap50", "ap75"}
    queue = json.loads(Path(answer["labels"]).read_text())
    assert queue["annotations"]
    assert evaluate([str(run / "best.safetensors"), str(data), "--split", "val", "--json"]) == 0
    assert answer_of(capsys)["scores"] == answer["scores"]

    assert report([str(run)]) == 0
    again = capsys.readouterr()
    assert "reading" in again.err
    assert page.read_text() == content
    assert (data / "val.json").read_bytes() == truth
    assert (run / "best.safetensors").read_bytes() == model


def test_saved_results_of_a_changed_model_or_changed_data_are_not_used(run: Path, data: Path) -> None:
    model, truth = run / "best.safetensors", data / "val.json"
    assert scoring.saved_results(model, "val", truth) is not None
    assert scoring.saved_results(model, "val", data / "test.json") is None
    assert scoring.saved_results(model, "test", truth) is None
    model_file.write_thresholds(model, tuple(0.5 for _ in model_file.load(model).label_map.names))
    assert scoring.saved_results(model, "val", truth) is None


def test_report_judges_at_the_thresholds_that_predict_takes(
    run: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = run / "best.safetensors"
    labels = model_file.load(model).label_map
    place = subject.Place.find(run)
    files = place.split(DataPaths(), "val")
    before = subject.look(place, files, "val", device="cpu", as_predicted=True).analysis
    assert not before.are_thresholds_given
    model_file.write_thresholds(model, tuple(0.1 + k / 1000 for k in range(len(labels))))
    wanted = [0.1 + labels.names.index(name) / 1000 for name in before.truth.names]
    assert subject.look(place, files, "val", device="cpu", as_predicted=True).analysis.thresholds.tolist() == wanted
    assert subject.look(place, files, "val", device="cpu").analysis.thresholds.tolist() == before.thresholds.tolist()
    assert report([str(run)]) == 0
    capsys.readouterr()
    assert "those in the model file, which predict takes too" in (run / "report.html").read_text()


def test_report_finds_the_data_from_elsewhere(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data)
    noted = run_folders.fingerprint(Path("val.json"), Path("images"), images=3, objects=9)
    assert noted.annotations == str(data / "val.json")
    monkeypatch.chdir(tmp_path)
    assert report([str(run)]) == 0
    content = json.loads((run / "data.json").read_text())
    content["splits"]["val"]["annotations"] = str(tmp_path / "gone.json")
    (run / "data.json").write_text(json.dumps(content))
    assert report([str(run)]) == 2
    assert f"{tmp_path}/gone.json: the val data of the run are no longer there; name" in capsys.readouterr().err


def test_the_folder_above_runs_is_answered_with_one_of_them(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["report"], ["status"]):
        assert main([*command, str(run.parent)]) != 0
        assert f"name the folder of a run, such as {run}" in capsys.readouterr().err


def test_report_writes_over_nothing_of_others(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine.html"
    mine.write_text("<p>my page</p>")
    assert report([str(run), "--out", str(mine)]) == 2
    assert "was not written by this command" in capsys.readouterr().err
    assert mine.read_text() == "<p>my page</p>"


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["nowhere"], 4, "no such run folder"),
        (["{run}", "--split", "test"], 2, "saw no test data"),
        (["{tmp}"], 4, "holds no best.safetensors"),
    ],
)
def test_report_says_what_is_missing(
    run: Path, tmp_path: Path, argv: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report([word.format(run=run, tmp=tmp_path) for word in argv]) == code
    assert words in capsys.readouterr().err


def test_compare_says_what_differs(
    run: Path, run_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(run_folder, tmp_path / "other")
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(config.replace("seed: 0", "seed: 5"))
    out = tmp_path / "compare.html"
    assert compare([str(run), str(other), "--out", str(out), "--json"]) == 0
    answer = answer_of(capsys)
    assert answer["settings"] == [["seed", "0", "5"]]
    assert answer["data"] == []
    assert answer["flipped"] == []
    assert answer["differences"]["ap"]["value"] == 0
    assert answer["differences"]["ap"]["verdict"] == "no clear difference"
    assert "Settings" in out.read_text()
    assert compare([str(run), str(other / "last.safetensors"), str(data), "--split", "test"]) == 0
    printed = capsys.readouterr().out
    assert "AP50" in printed
    assert "images in which B has fewer wrong and missed boxes than A" in printed
    assert f"A  {run / 'best.safetensors'}\nB  {other / 'last.safetensors'}" in printed
    assert "note: " not in printed
    (other / "best.safetensors").unlink()
    assert compare([str(run), str(other), "--json"]) == 0
    answer = answer_of(capsys)
    assert answer["models"] == [str(run / "best.safetensors"), str(other / "last.safetensors")]
    assert answer["notes"] == [f"{other}: has no best model, so last.safetensors is compared"]
    assert np.isfinite(answer["differences"]["ap75"]["share_better"])
