from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from detector.errors import CheckpointError, ConfigError, DataError
from detector.predict import predictor
from detector.predict.finder import OneModel
from detector.predict.predictor import Detector
from detector.types import Detections, LabelMap, Placement, Preprocess

LABELS = LabelMap(names=("cat", "dog"), category_ids=(17, 18))
CANVAS = (32, 64)


class Fake:
    """Finds in every image its placement's size and its top-left colour."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, images: Tensor, placements: Sequence[Placement]) -> list[Detections]:
        assert images.dtype == torch.uint8
        assert images.shape[1:] == (3, *CANVAS)
        assert len(images) == len(placements)
        self.batches.append(len(images))
        return [self.one(image, placement) for image, placement in zip(images, placements, strict=True)]

    def one(self, image: Tensor, placement: Placement) -> Detections:
        height, width = placement.original_hw
        red = float(image[0, 0, 0])
        return Detections(
            boxes=torch.tensor([[0, 0, width, height], [red, 0, 1, 1], [0, 0, 1, 1]], dtype=torch.float32),
            scores=torch.tensor([0.9, 0.3, 0.25]),
            labels=torch.tensor([1, 0, 1]),
            names=("dog", "cat", "dog"),
        )


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
def detector(fake: Fake) -> Detector:
    return Detector(OneModel(detect=fake, label_map=LABELS, preprocess=Preprocess(canvas_hw=CANVAS)))


def picture(height: int = 20, width: int = 30, red: int = 7) -> NDArray[np.uint8]:
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = red
    return image


def test_an_array_is_rgb(detector: Detector) -> None:
    found = detector.predict(picture(red=99))
    assert found.boxes.tolist() == [[0, 0, 30, 20], [99, 0, 1, 1]]
    assert found.names == ("dog", "cat")


def test_a_file_gives_what_its_array_gives(detector: Detector, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(picture(red=50)).save(path)
    for source in (path, str(path)):
        assert detector.predict(source).boxes.tolist() == detector.predict(picture(red=50)).boxes.tolist()


@pytest.mark.parametrize(("score", "kept"), [(0.0, 3), (0.25, 3), (0.28, 2), (0.9, 1), (1.0, 0)])
def test_score_is_the_least_kept(detector: Detector, score: float, kept: int) -> None:
    score = float(np.float32(score)) if score else score
    found = detector.predict(picture(), score=score)
    assert len(found) == len(found.boxes) == len(found.scores) == len(found.labels) == len(found.names) == kept


def test_the_default_score_is_as_documented(detector: Detector) -> None:
    assert detector.predict(picture()).scores.min() >= 0.3


def test_results_are_ordinary_tensors() -> None:
    def infer(images: Tensor, placements: Sequence[Placement]) -> list[Detections]:
        with torch.inference_mode():
            return Fake()(images, placements)

    found = Detector(OneModel(detect=infer, label_map=LABELS, preprocess=Preprocess(canvas_hw=CANVAS))).predict(
        picture()
    )
    found.boxes.add_(1)  # fails on a tensor of inference mode


def test_many_come_in_order_and_in_batches(detector: Detector, fake: Fake) -> None:
    found = list(detector.predict_many([picture(red=i) for i in range(5)], batch_size=2))
    assert [one.boxes[1, 0].item() for one in found] == [0, 1, 2, 3, 4]
    assert fake.batches == [2, 2, 1]


def test_many_sizes_in_one_batch(detector: Detector) -> None:
    found = list(detector.predict_many([picture(10, 300), picture(90, 5), picture(1, 1)]))
    assert [one.boxes[0, 2:].tolist() for one in found] == [[300, 10], [5, 90], [1, 1]]


def test_none_gives_none(detector: Detector) -> None:
    assert list(detector.predict_many([])) == []


def test_an_endless_source_is_read_as_far_as_needed(detector: Detector) -> None:
    read: list[int] = []

    def endless() -> Iterator[NDArray[np.uint8]]:
        for number in count():
            read.append(number)
            yield picture()

    assert len(list(islice(detector.predict_many(endless(), batch_size=3), 7))) == 7
    assert len(read) == 9


def test_nothing_is_read_before_the_first_result_is_asked_for(detector: Detector) -> None:
    stream = detector.predict_many(["none.jpg"])
    with pytest.raises(DataError, match=r"none\.jpg"):
        next(stream)


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan")])
def test_a_score_out_of_range_is_refused_at_once(detector: Detector, score: float) -> None:
    with pytest.raises(ValueError, match="score must be between 0 and 1"):
        detector.predict_many([], score=score)


def test_an_empty_batch_is_refused_at_once(detector: Detector) -> None:
    with pytest.raises(ValueError, match="batch_size must be >= 1, got 0"):
        detector.predict_many([], batch_size=0)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (picture().astype(np.float32), "must be uint8 .* got float32"),
        (picture()[..., 0], r"\[h, w, 3\] .* got shape \(20, 30\)"),
        (np.zeros((20, 30, 4), np.uint8), r"got shape \(20, 30, 4\)"),
        (np.zeros((3, 20, 30), np.uint8), r"got shape \(3, 20, 30\)"),
        (np.zeros((0, 30, 3), np.uint8), r"not empty, got shape \(0, 30, 3\)"),
        (torch.zeros(20, 30, 3), "path or an array .* got Tensor"),
        (None, "path or an array .* got NoneType"),
    ],
)
def test_what_is_no_image_is_refused(detector: Detector, image: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        detector.predict(image)  # pyright: ignore[reportArgumentType]


def test_views_with_negative_strides_are_welcome(detector: Detector) -> None:
    bgr = np.ascontiguousarray(picture(red=42)[..., ::-1])
    assert detector.predict(bgr[..., ::-1]).boxes[1, 0] == 42


def test_the_callers_array_stays_as_it_is(detector: Detector) -> None:
    image = picture()
    image.flags.writeable = False
    detector.predict(image)


def test_names_and_label_map(detector: Detector) -> None:
    assert detector.names == ("cat", "dog")
    assert detector.label_map is LABELS


def test_load_refuses_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.safetensors"):
        Detector.load(tmp_path / "none.safetensors")
    with pytest.raises(ConfigError, match="gpu"):
        Detector.load(tmp_path / "none.safetensors", device="gpu")


def test_what_reaches_the_threshold_of_its_class_is_found() -> None:
    found = Detections(
        boxes=torch.zeros(4, 4),
        scores=torch.tensor([0.5, 0.5, 0.25, 0.25]),
        labels=torch.tensor([0, 1, 0, 1]),
        names=("cat", "dog", "cat", "dog"),
    )
    kept = predictor._at_least(found, torch.tensor([0.5, 0.25], dtype=torch.float64))
    assert (kept.scores.tolist(), kept.labels.tolist()) == ([0.5, 0.5, 0.25], [0, 1, 1])
