"""The single-object localizer as a user trains and asks it."""

import json
from pathlib import Path

import pytest
import torch

from detector import Detector
from detector.cli import evaluate, predict, train
from detector.evaluate.results import Results
from detector.geometry import boxes
from tests.integration import one_object

TINY = ("--recipe", "localizer", "--image-size", "64", "--batch-size", "4", "--set", "length.evaluations=1")
# Three seeds of weights and data gave IoU 0.80 to 0.82 and accuracy 0.99 to 1.00.
LEAST_IOU = 0.7
LEAST_ACCURACY = 0.95


def options(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def test_learns_the_class_and_the_box_from_scratch(tmp_path: Path) -> None:
    """A place must be learned from the zero padding of the convolutions alone, for the pooling keeps none."""
    one_object.write(tmp_path, "train", count=300, seed=1)
    one_object.write(tmp_path, "test", count=100, seed=2)
    short = ["--steps", "140", "--image-size", "96", "--batch-size", "16"]
    out = tmp_path / "run"
    assert train([str(tmp_path), "--recipe", "localizer", *short, "--out", str(out), "--workers", "0"]) == 0

    tree = json.loads((tmp_path / "test.json").read_text())
    files = [tmp_path / "images" / image["file_name"] for image in tree["images"]]
    model = Detector.load(out / "best.safetensors")
    overlaps: list[float] = []
    hits: list[bool] = []
    for found, annotation in zip(model.predict_many(files, score=0.0), tree["annotations"], strict=True):
        assert len(found) == 1
        x, y, width, height = map(float, annotation["bbox"])
        overlaps.append(boxes.iou(found.boxes[0], torch.tensor([x, y, x + width, y + height])).item())
        hits.append(found.names[0] == one_object.SHAPES[annotation["category_id"] - 1])
    assert sum(overlaps) / len(overlaps) >= LEAST_IOU
    assert sum(hits) / len(hits) >= LEAST_ACCURACY


@pytest.fixture(scope="module")
def barely_trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file, of a data set with up to three objects an image."""
    out = tmp_path_factory.mktemp("run") / "localizer"
    assert train([str(data), *TINY, "--steps", "2", "--out", str(out)]) == 0
    return out / "best.safetensors"


def test_every_probability_is_written(barely_trained: Path, data: Path, tmp_path: Path) -> None:
    images = sorted((data / "images").glob("3-*.png"))
    assert predict([str(barely_trained), *map(str, images), "--out", str(tmp_path / "out")]) == 0
    results = tmp_path / "out" / "predictions.json"
    records = json.loads(results.read_text())
    assert [record["image_id"] for record in records] == [1, 2, 3]
    for record in records:
        shares = record["probabilities"]
        assert tuple(shares) == ("box", "disc")
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
        assert shares[record["category_name"]] == record["score"] == max(shares.values())
    assert len(Results.read(results)) == 3  # a key of ours does not keep others from reading


def test_one_answer_an_image_scores_on_several_objects(
    barely_trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate([str(barely_trained), str(data), "--out", str(tmp_path / "e"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert 0 <= answer["scores"]["ap"] <= 1
    rows = json.loads(Path(answer["results"]).read_text())
    assert sorted(row["image_id"] for row in rows) == [1, 2, 3]


def test_a_single_class_is_certain_and_no_matter_for_balance(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one_object.write(tmp_path, "train", count=4, seed=1, shapes=("circle",))
    out = tmp_path / "run"
    assert train([str(tmp_path), *TINY, "--epochs", "2", "--out", str(out)]) == 0
    assert "even share" not in capsys.readouterr().err  # no weight lets a loss of zero teach
    assert Detector.load(out / "last.safetensors").predict(tmp_path / "images" / "train-0.png").scores.item() == 1


def test_trains_in_stages_one_head_after_the_other(data: Path, tmp_path: Path) -> None:
    stages = (
        "[{name: box first, share: 0.5, weights: {classification.cross_entropy: 0}, learn: [backbone, box]},"
        " {name: all, share: 0.5, reset: [classification]}]"
    )
    out = tmp_path / "run"
    settings = options(f"stages={stages}", "memory.heads=sequential", "balance.kind=imtl_g")
    assert train([str(data), *TINY, "--steps", "4", "--out", str(out), *settings]) == 0
    found = Detector.load(out / "last.safetensors").predict(data / "images" / "3-0.png", score=0.0)
    assert found.class_scores is not None
    torch.testing.assert_close(found.class_scores.sum(dim=1), torch.ones(1))


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("data.crops.share=0.5", "data.crops.share"),
        ("assign.kind=atss", "assign.kind"),
        ("loss.classification=focal", "loss.classification"),
        ("model.neck=pyramid", "model.neck = pyramid"),
    ],
)
def test_what_does_not_go_with_it_is_said(
    setting: str, key: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train([str(data), *TINY, "--steps", "1", "--out", str(tmp_path / "run"), *options(setting)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert key in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("setting", ["model.neck=pool", "assign.kind=main", "loss.classification=categorical"])
def test_its_parts_do_not_go_with_a_pyramid(
    setting: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train([str(data), "--steps", "1", "--out", str(tmp_path / "run"), *options(setting)]) == 2
    assert "recipe localizer" in capsys.readouterr().err
