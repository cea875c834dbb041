import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from detector.errors import ConfigError, DataError
from detector.predict import colours, output
from detector.predict.finder import OneModel
from detector.predict.predictor import Detector
from detector.types import Detections, LabelMap, Placement, Preprocess

LABELS = LabelMap(names=("cat", "dog"), category_ids=(17, 18))
BOX = [1.25, 2.5, 20.5, 15.75]


def detect(images: Tensor, placements: Sequence[Placement]) -> list[Detections]:
    """One dog in every image but the wide ones, and a weak cat."""
    del images
    found: list[Detections] = []
    for placement in placements:
        kept = 2 if placement.original_hw[1] < 100 else 0
        found.append(
            Detections(
                boxes=torch.tensor([BOX, [0, 0, 5, 5]])[:kept],
                scores=torch.tensor([0.75, 0.2])[:kept],
                labels=torch.tensor([1, 0])[:kept],
                names=("dog", "cat")[:kept],
            )
        )
    return found


DETECTOR = Detector(OneModel(detect=detect, label_map=LABELS, preprocess=Preprocess(canvas_hw=(64, 64))))


def save(path: Path, size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 200, 200)).save(path)
    return path


def names(folder: Path) -> list[str]:
    """What lies in a folder, but for the marker that makes it ours."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".detector-predict")


def test_pictures_and_predictions(tmp_path: Path) -> None:
    images = [save(tmp_path / "in" / "b.png"), save(tmp_path / "in" / "a.jpg")]
    outcome = output.write(DETECTOR, images, folder=tmp_path / "new" / "out")
    assert names(outcome.folder) == ["a.jpg", "b.jpg", "predictions.json"]
    assert (outcome.num_images, outcome.num_detections, outcome.unreadable) == (2, 2, ())
    records = json.loads((outcome.folder / "predictions.json").read_text())
    assert records == [
        {
            "image_id": number,
            "file_name": name,
            "category_id": 18,
            "category_name": "dog",
            "bbox": [1.25, 2.5, 19.25, 13.25],
            "score": 0.75,
        }
        for number, name in ((1, "b.png"), (2, "a.jpg"))
    ]


def test_one_class_of_several_comes_with_the_probability_of_each(tmp_path: Path) -> None:
    def detect_one(images: Tensor, placements: Sequence[Placement]) -> list[Detections]:
        found = detect(images, placements)[0]
        rows = torch.tensor([[0.25, 0.75], [0.5, 0.5]])  # the second stays below the score that is written
        return [dataclasses.replace(found, class_scores=rows)]

    detector = Detector(
        OneModel(detect=detect_one, label_map=LABELS, preprocess=Preprocess(canvas_hw=(64, 64)), one_of_classes=True)
    )
    outcome = output.write(detector, [save(tmp_path / "a.png")], folder=tmp_path / "out", score=0.3)
    records = json.loads((outcome.folder / "predictions.json").read_text())
    assert [record["probabilities"] for record in records] == [{"cat": 0.25, "dog": 0.75}]


def test_the_picture_shows_the_box(tmp_path: Path) -> None:
    outcome = output.write(DETECTOR, [save(tmp_path / "a.png")], folder=tmp_path / "out")
    with Image.open(outcome.folder / "a.jpg") as picture:
        pixels = np.asarray(picture).astype(int)
    assert pixels.shape == (30, 40, 3)
    assert np.abs(pixels[10, 1] - colours.of_label(1)).max() < 60
    assert np.abs(pixels[25, 35] - 200).max() < 10


def test_the_score_cuts_pictures_and_predictions(tmp_path: Path) -> None:
    image = save(tmp_path / "a.png")
    assert output.write(DETECTOR, [image], folder=tmp_path / "x", score=0.1).num_detections == 2
    assert output.write(DETECTOR, [image], folder=tmp_path / "y", score=0.8).num_detections == 0
    assert json.loads((tmp_path / "y" / "predictions.json").read_text()) == []


def test_equal_stems_get_numbers(tmp_path: Path) -> None:
    images = [save(tmp_path / name) for name in ("p/a.jpg", "q/a.jpg", "q/a.png", "q/A-2.bmp")]
    outcome = output.write(DETECTOR, images, folder=tmp_path / "out")
    assert names(outcome.folder) == ["A-2-2.jpg", "a-2.jpg", "a-3.jpg", "a.jpg", "predictions.json"]
    records = json.loads((outcome.folder / "predictions.json").read_text())
    assert [record["file_name"] for record in records] == ["p/a.jpg", "q/a.jpg", "q/a.png", "q/A-2.bmp"]


def test_pictures_stay_in_the_folder(tmp_path: Path) -> None:
    image = save(tmp_path / "in" / "a.png")
    sneaky = tmp_path / "in" / "deeper" / ".." / "a.png"
    (tmp_path / "in" / "deeper").mkdir()
    output.write(DETECTOR, [sneaky, image.with_name("..b.png") if save(image.with_name("..b.png")) else image],
                 folder=tmp_path / "out")  # fmt: skip
    assert names(tmp_path / "out") == ["..b.jpg", "a.jpg", "predictions.json"]
    assert names(tmp_path) == ["in", "out"]


def test_odd_file_names(tmp_path: Path) -> None:
    images = [save(tmp_path / "in" / name) for name in ("a\nb.png", "ünïcödé 红.png", "-rf.png", "no suffix.png")]
    outcome = output.write(DETECTOR, images, folder=tmp_path / "out")
    assert len(names(outcome.folder)) == 5
    records = json.loads((outcome.folder / "predictions.json").read_text())
    assert [record["file_name"] for record in records] == [image.name for image in images]


def test_given_image_ids(tmp_path: Path) -> None:
    images = [save(tmp_path / "a.png"), save(tmp_path / "b.png")]
    output.write(DETECTOR, images, folder=tmp_path / "out", image_ids={images[0]: 900, images[1]: 4})
    records = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [record["image_id"] for record in records] == [900, 4]
    with pytest.raises(DataError, match=r"b.png: has no image id"):
        output.write(DETECTOR, images, folder=tmp_path / "out", image_ids={images[0]: 900})


def broken(path: Path) -> Path:
    path.write_bytes(b"no image")
    return path


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_an_unreadable_image_is_named_and_the_rest_go_on(tmp_path: Path, batch_size: int) -> None:
    images = [
        broken(tmp_path / "0.jpg"),
        save(tmp_path / "1.png"),
        broken(tmp_path / "2.jpg"),
        save(tmp_path / "3.png", (400, 30)),  # nothing is found in a wide one
        save(tmp_path / "4.png"),
        tmp_path / "none.jpg",
    ]
    outcome = output.write(DETECTOR, images, folder=tmp_path / "out", batch_size=batch_size)
    assert (outcome.num_images, outcome.num_detections) == (3, 2)
    assert [reason.split(": ")[0] for reason in outcome.unreadable] == [str(images[i]) for i in (0, 2, 5)]
    assert names(outcome.folder) == ["1.jpg", "3.jpg", "4.jpg", "predictions.json"]
    records = json.loads((outcome.folder / "predictions.json").read_text())
    assert [(record["image_id"], record["file_name"]) for record in records] == [(2, "1.png"), (5, "4.png")]


def test_all_unreadable_is_an_error(tmp_path: Path) -> None:
    images = [broken(tmp_path / "0.jpg"), tmp_path / "none.jpg"]
    with pytest.raises(DataError, match=r"0.jpg: .*\(0 of 2 images were read\)"):
        output.write(DETECTOR, images, folder=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    output.write(DETECTOR, [save(tmp_path / "1.png")], folder=tmp_path / "out")
    before = (tmp_path / "out" / "predictions.json").read_bytes()
    with pytest.raises(DataError):
        output.write(DETECTOR, images, folder=tmp_path / "out")
    assert names(tmp_path / "out") == ["1.jpg", "predictions.json"], "earlier results stay"
    assert (tmp_path / "out" / "predictions.json").read_bytes() == before


def test_progress_counts_to_the_end(tmp_path: Path) -> None:
    images = [broken(tmp_path / "0.jpg"), save(tmp_path / "1.png"), save(tmp_path / "2.png")]
    seen: list[tuple[int, int]] = []
    output.write(DETECTOR, images, folder=tmp_path / "out", progress=lambda done, of: seen.append((done, of)))
    assert seen == [(2, 3), (3, 3)]


def test_the_folder_of_an_earlier_run_is_used_again(tmp_path: Path) -> None:
    image = save(tmp_path / "a.png")
    for _ in range(2):
        output.write(DETECTOR, [image], folder=tmp_path / "out")
    assert names(tmp_path / "out") == ["a.jpg", "predictions.json"]


def test_pictures_of_an_earlier_run_go_and_the_users_own_stay(tmp_path: Path) -> None:
    out = tmp_path / "out"
    output.write(DETECTOR, [save(tmp_path / "a.png"), save(tmp_path / "b.png")], folder=out)
    theirs = save(out / "mine.jpg", (10, 10)).read_bytes()
    output.write(DETECTOR, [save(tmp_path / "c.png")], folder=out)
    assert names(out) == ["c.jpg", "mine.jpg", "predictions.json"]
    with pytest.raises(ConfigError, match=r"mine\.jpg: stands where a result is to be written"):
        output.write(DETECTOR, [save(tmp_path / "mine.png")], folder=out)
    assert (out / "mine.jpg").read_bytes() == theirs
    assert names(out) == ["c.jpg", "mine.jpg", "predictions.json"], "what is refused leaves the earlier results"


def test_a_run_that_was_interrupted_can_be_repeated(tmp_path: Path) -> None:
    images = [save(tmp_path / "a.png"), save(tmp_path / "b.png")]

    def interrupt(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        output.write(DETECTOR, images, folder=tmp_path / "out", progress=interrupt)
    assert names(tmp_path / "out") == ["a.jpg"]
    output.write(DETECTOR, images[1:], folder=tmp_path / "out")
    assert names(tmp_path / "out") == ["b.jpg", "predictions.json"]


def test_a_folder_with_predictions_of_another_tool_is_not_ours(tmp_path: Path) -> None:
    theirs = tmp_path / "album" / "predictions.json"
    save(tmp_path / "album" / "a.jpg")
    theirs.write_text("[1]")
    with pytest.raises(ConfigError, match=r"album: is not an empty folder, nor .* --out"):
        output.write(DETECTOR, [save(tmp_path / "a.png")], folder=tmp_path / "album")
    assert theirs.read_text() == "[1]"


def test_our_own_picture_behind_a_link_is_not_predicted_into_its_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    output.write(DETECTOR, [save(tmp_path / "a.png")], folder=out)
    link = tmp_path / "link.jpg"
    link.symlink_to(out / "a.jpg")
    with pytest.raises(ConfigError, match=r"holds link\.jpg"):
        output.write(DETECTOR, [link], folder=out)
    assert link.exists()


def test_the_users_files_are_never_replaced(tmp_path: Path) -> None:
    image = save(tmp_path / "in" / "a.jpg")
    theirs = save(tmp_path / "album" / "a.jpg", (10, 10))
    before = image.read_bytes(), theirs.read_bytes()
    with pytest.raises(ConfigError, match=r"in: holds a.jpg, which is to be predicted; choose another --out"):
        output.write(DETECTOR, [image], folder=tmp_path / "in")
    with pytest.raises(ConfigError, match=r"album: is not an empty folder"):
        output.write(DETECTOR, [image], folder=tmp_path / "album")
    with pytest.raises(ConfigError, match=r"a.jpg: is not an empty folder"):
        output.write(DETECTOR, [image], folder=theirs)
    assert (image.read_bytes(), theirs.read_bytes()) == before


def test_a_folder_with_sources_is_refused_even_after_a_run(tmp_path: Path) -> None:
    image = save(tmp_path / "a.jpg")
    (tmp_path / "predictions.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"holds a\.jpg"):
        output.write(DETECTOR, [image], folder=tmp_path)


def test_without_a_folder_the_next_free_number_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    image = save(tmp_path / "a.png")
    folders = [output.write(DETECTOR, [image]).folder for _ in range(2)]
    assert folders == [Path("runs/predict-001"), Path("runs/predict-002")]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    image = save(tmp_path / "a.png")
    with pytest.raises(ConfigError, match="choose another --out"):
        output.write(DETECTOR, [image], folder=image / "out")


def test_predictions_that_cannot_be_written_leave_no_half_file(tmp_path: Path) -> None:
    image = save(tmp_path / "a.png")

    def sabotage(done: int, of: int) -> None:
        del done, of
        (tmp_path / "out" / "predictions.json").mkdir()

    with pytest.raises(ConfigError, match="cannot be written"):
        output.write(DETECTOR, [image], folder=tmp_path / "out", progress=sabotage)
    assert names(tmp_path / "out") == ["a.jpg", "predictions.json"]


def test_pictures_are_written_as_they_come(tmp_path: Path) -> None:
    images = [save(tmp_path / f"{i}.png") for i in range(9)]
    written: list[int] = []

    def watch(canvases: Tensor, placements: Sequence[Placement]) -> list[Detections]:
        written.append(len(list((tmp_path / "out").glob("*.jpg"))))
        return detect(canvases, placements)

    detector = Detector(OneModel(detect=watch, label_map=LABELS, preprocess=Preprocess(canvas_hw=(64, 64))))
    output.write(detector, images, folder=tmp_path / "out", batch_size=3)
    assert written == [0, 3, 6]


def test_a_very_long_picture_is_made_shorter(tmp_path: Path) -> None:
    image = save(tmp_path / "long.png", (70_000, 1))
    outcome = output.write(DETECTOR, [image], folder=tmp_path / "out")
    with Image.open(outcome.folder / "long.jpg") as picture:
        assert picture.width == 65_500
