"""Decoding against a plain loop, and what it refuses."""

import pytest
import torch
from torch import Tensor
from torchvision.ops import nms

from detector.config import Classification, DecodeConfig
from detector.errors import DetectorError
from detector.geometry import boxes as box_math
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


def two_views(*, with_factor: bool) -> tuple[Prediction, Priors]:
    """Of the same priors; the second says other things."""
    first, second, plain = random_prediction(), random_prediction(), some_priors()
    factor = torch.rand(3, 2 * len(plain.boxes)) if with_factor else None
    prediction = Prediction(
        logits=torch.cat((first.logits, second.logits), dim=1),
        deltas=torch.cat((first.deltas, second.deltas), dim=1),
        score_factor=factor,
    )
    return prediction, Priors(boxes=plain.boxes.repeat(2, 1), level_sizes=plain.level_sizes * 2)


def plainly_agreed(
    prediction: Prediction, both: Priors, image: int, config: DecodeConfig
) -> list[tuple[float, int, list[float]]]:
    """What two views say together, by loops: score, label and box, best first."""
    scores = prediction.logits[image].sigmoid()
    if prediction.score_factor is not None:
        scores = scores * prediction.score_factor[image][:, None]
    order = scores.flatten().sort(descending=True, stable=True).indices[: 2 * config.candidates].tolist()
    height, width = EXTENTS[image].tolist()
    boxes = codec.decode(prediction.deltas[image], both.boxes, STD).clamp(min=0)
    boxes = torch.minimum(boxes, torch.tensor([width, height, width, height]))
    iou = box_math.pairwise_iou(boxes, boxes)
    kept: list[int] = []
    for one in order:
        near = [k for k in kept if k % CLASSES == one % CLASSES and iou[k // CLASSES, one // CLASSES] > config.nms_iou]
        if scores.flatten()[one] >= config.min_score and not near:
            kept.append(one)
    kept = kept[: config.max_detections]
    said = {one: [0.0, 0.0] for one in kept}
    for one in order:
        near = [k for k in kept if k % CLASSES == one % CLASSES and iou[k // CLASSES, one // CLASSES] > config.nms_iou]
        if near:
            view = int(one // CLASSES >= len(both.boxes) // 2)
            said[near[0]][view] = max(said[near[0]][view], scores.flatten()[one].item())
    means = [(max(scores.flatten()[k].item(), sum(said[k])) / 2, k) for k in kept]
    rows = [(mean, k % CLASSES, boxes[k // CLASSES].tolist()) for mean, k in means if mean >= config.min_score]
    return sorted(rows, key=lambda row: -row[0])


@pytest.mark.parametrize(
    "config",
    [
        DecodeConfig(nms_iou=0.3, min_score=0.3),
        DecodeConfig(nms_iou=0.3, min_score=0.01, candidates=20),
        DecodeConfig(nms_iou=0.5, min_score=0.01, max_detections=8),
    ],
)
@pytest.mark.parametrize("with_factor", [False, True])
def test_two_views_equal_the_plain_loop(config: DecodeConfig, with_factor: bool) -> None:
    prediction, both = two_views(with_factor=with_factor)
    packed = pack(prediction, both, EXTENTS, classification="quality", delta_std=STD, config=config, num_views=2)
    changed_order = 0
    for image, found in enumerate(unpack(packed)):
        expected = plainly_agreed(prediction, both, image, config)
        assert found.scores.tolist() == pytest.approx([row[0] for row in expected], abs=1e-6)
        assert found.labels.tolist() == [row[1] for row in expected]
        torch.testing.assert_close(found.boxes, torch.tensor([row[2] for row in expected]), atol=1e-4, rtol=1e-5)
        assert len(expected) > 2
        changed_order += found.class_scores.amax(1).argsort(descending=True).tolist() != [*range(len(expected))]
    assert changed_order > 0, "else sorting anew was not put to the test"


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
