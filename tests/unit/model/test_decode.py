"""Decoding against a plain loop, and what it refuses."""

import pytest
import torch
from torch import Tensor
from torchvision.ops import nms

from detector.config import Classification, DecodeConfig
from detector.errors import DetectorError
from detector.geometry import codec, priors
from detector.model.decode import CanvasDetections, pack, unpack
from detector.types import Prediction, Priors

STD = (0.1, 0.1, 0.2, 0.2)
CLASSES = 4
EXTENTS = torch.tensor([[64.0, 96.0], [64.0, 50.0], [30.0, 96.0]])


def some_priors() -> Priors:
    return priors.make((64, 96), (8, 16), (4.0,), (1.0,), anchoring="centre")


def random_prediction(outputs: int = CLASSES, *, with_factor: bool = False) -> Prediction:
    count = len(some_priors().boxes)
    factor = torch.rand(3, count) if with_factor else None
    return Prediction(logits=torch.randn(3, count, outputs), deltas=torch.randn(3, count, 4), score_factor=factor)


def run(
    prediction: Prediction, config: DecodeConfig, classification: Classification = "quality"
) -> list[CanvasDetections]:
    packed = pack(prediction, some_priors(), EXTENTS, classification=classification, delta_std=STD, config=config)
    return unpack(packed)


def plain(prediction: Prediction, image: int, config: DecodeConfig) -> tuple[Tensor, Tensor, Tensor]:
    """The same by loops over candidates and classes."""
    scores = prediction.logits[image].sigmoid()
    if prediction.score_factor is not None:
        scores = scores * prediction.score_factor[image][:, None]
    order = scores.flatten().sort(descending=True, stable=True).indices[: config.candidates]
    order = order[scores.flatten()[order] >= config.min_score]
    height, width = EXTENTS[image].tolist()
    boxes = codec.decode(prediction.deltas[image], some_priors().boxes, STD).clamp(min=0)
    boxes = torch.minimum(boxes, torch.tensor([width, height, width, height]))
    rows: list[tuple[float, int, Tensor]] = []
    for label in range(CLASSES):
        mine = order[order % CLASSES == label]
        kept = mine[nms(boxes[mine // CLASSES], scores.flatten()[mine], config.nms_iou)]
        rows += [(scores.flatten()[i].item(), label, boxes[i // CLASSES]) for i in kept]
    rows = sorted(rows, key=lambda row: -row[0])[: config.max_detections]
    return (
        torch.stack([row[2] for row in rows]),
        torch.tensor([row[0] for row in rows]),
        torch.tensor([row[1] for row in rows]),
    )


@pytest.mark.parametrize(
    "config",
    [
        DecodeConfig(nms_iou=0.3),
        DecodeConfig(candidates=20),
        DecodeConfig(min_score=0.7, nms_iou=0.5),
        DecodeConfig(max_detections=5),
    ],
)
@pytest.mark.parametrize("with_factor", [False, True])
def test_equals_the_plain_loop(config: DecodeConfig, with_factor: bool) -> None:
    prediction = random_prediction(with_factor=with_factor)
    for image, found in enumerate(run(prediction, config)):
        boxes, scores, labels = plain(prediction, image, config)
        torch.testing.assert_close(found.boxes, boxes)
        torch.testing.assert_close(found.scores, scores)
        assert torch.equal(found.labels, labels)


def test_candidates_of_each_level_leave_room_for_the_coarse_one() -> None:
    prediction = random_prediction()
    fine = some_priors().level_sizes[0]
    prediction.logits[:, :fine] += 10
    for per_level, expected in ((False, False), (True, True)):
        config = DecodeConfig(candidates=8, candidates_per_level=per_level, nms_iou=1.0)
        sides = (run(prediction, config)[0].scores < 0.99).any().item()
        assert sides is expected


def test_softmax_never_reports_background() -> None:
    prediction = random_prediction(CLASSES + 1)
    prediction.logits[..., -1] = 20
    for found in run(prediction, DecodeConfig(min_score=0.01), "softmax"):
        assert len(found.scores) == 0


def test_voting_moves_boxes_and_nothing_else() -> None:
    prediction = random_prediction()
    alone, together = (run(prediction, DecodeConfig(voting=width, nms_iou=0.3)) for width in (0.0, 0.025))
    for before, after in zip(alone, together, strict=True):
        assert torch.equal(before.scores, after.scores)
        assert torch.equal(before.labels, after.labels)
        assert torch.equal(before.class_scores, after.class_scores)
    moved = (alone[0].boxes - together[0].boxes).abs().amax(1)
    assert (moved > 0.01).float().mean() > 0.5
    assert moved.max() < 64


def test_nothing_found_is_empty() -> None:
    found = run(random_prediction(), DecodeConfig(min_score=0.99999))
    assert [tuple(one.boxes.shape) for one in found] == [(0, 4)] * 3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("field", ["logits", "deltas"])
def test_output_that_is_not_finite_is_refused(field: str, value: float) -> None:
    prediction = random_prediction()
    prediction.logits[0, 0] = 9  # makes sure that row 0 is decoded
    getattr(prediction, field)[0, 0, 0] = value
    with pytest.raises(DetectorError, match="not finite"):
        run(prediction, DecodeConfig())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_factor_that_is_not_finite_is_refused(value: float) -> None:
    prediction = random_prediction(with_factor=True)
    assert prediction.score_factor is not None
    prediction.score_factor[1, 2] = value
    with pytest.raises(DetectorError, match="not finite"):
        run(prediction, DecodeConfig())
