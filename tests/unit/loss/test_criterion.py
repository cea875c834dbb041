from typing import Literal, get_args

import pytest
import torch
import torchvision
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.retinanet import RetinaNetClassificationHead, RetinaNetRegressionHead

from detector.config import AssignConfig, Classification, LossConfig
from detector.geometry import boxes, codec, priors
from detector.loss import criterion
from detector.targets import assign, encode
from detector.types import Assignment, Losses, Prediction, Priors, Targets
from tests import strategies

PRIORS = priors.make((strategies.CANVAS, strategies.CANVAS), (32, 64), (2.0,), (1.0,), "centre")
STD = (0.1, 0.1, 0.2, 0.2)
KINDS = get_args(Classification)
NUM_CLASSES = 3


def _prediction(kind: str, batch: int, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Prediction:
    generator = torch.Generator().manual_seed(seed)
    num_logits = NUM_CLASSES + (kind == "softmax")
    return Prediction(
        logits=torch.randn(batch, len(PRIORS.boxes), num_logits, generator=generator).to(dtype).requires_grad_(),
        deltas=torch.randn(batch, len(PRIORS.boxes), 4, generator=generator).to(dtype).requires_grad_(),
    )


def _losses(prediction: Prediction, targets: Targets, config: LossConfig, count: Tensor | None = None) -> Losses:
    assignment = assign.assign(targets, PRIORS, AssignConfig())
    return criterion.losses(prediction, PRIORS, targets, assignment, config=config, delta_std=STD, num_positives=count)


def _one_object(is_object: bool = True) -> Targets:
    return Targets(
        boxes=torch.tensor([[[20.0, 20.0, 80.0, 90.0]]]),
        labels=torch.tensor([[1]]),
        is_object=torch.tensor([[is_object]]),
        is_crowd=torch.tensor([[False]]),
    )


@given(strategies.padded_targets(), st.sampled_from(KINDS), st.integers(0, 2**31))
def test_every_batch_has_finite_losses_and_gradients(targets: Targets, kind: Classification, seed: int) -> None:
    config = LossConfig(classification=kind, giou_weight=2.0)
    prediction = _prediction(kind, len(targets.boxes), seed=seed)
    found = _losses(prediction, targets, config)
    for value in (found.classification, found.smooth_l1, found.giou):
        assert value.shape == ()
        assert value.dtype == torch.float32
        assert value.isfinite()
        assert value >= 0
    gradients = torch.autograd.grad(criterion.weighted_total(found, config), (prediction.logits, prediction.deltas))
    assert all(gradient.isfinite().all() for gradient in gradients)


@given(strategies.padded_targets(), st.sampled_from(KINDS))
def test_ignored_and_background_priors_teach_the_boxes_nothing(targets: Targets, kind: Classification) -> None:
    config = LossConfig(classification=kind, giou_weight=1.0)
    prediction = _prediction(kind, len(targets.boxes))
    assignment = assign.assign(targets, PRIORS, AssignConfig())
    found = criterion.losses(prediction, PRIORS, targets, assignment, config=config, delta_std=STD)
    to_logits, to_deltas = torch.autograd.grad(
        criterion.weighted_total(found, config), (prediction.logits, prediction.deltas)
    )
    assert (to_logits[assignment.is_ignored] == 0).all()
    assert (to_logits[~assignment.is_ignored] != 0).any(-1).all()
    assert (to_deltas[~assignment.is_positive] == 0).all()
    assert (to_deltas[assignment.is_positive] != 0).any(-1).all()


@settings(max_examples=50)
@given(strategies.padded_targets(max_rows=3, max_images=1, crowds=False), st.integers(0, 2**31))
def test_is_torchvisions_retinanet_loss_for_one_image(targets: Targets, seed: int) -> None:
    assignment = assign.assign(targets, PRIORS, AssignConfig(kind="max_iou"))
    prediction = _prediction("focal", 1, seed=seed)
    config = LossConfig(classification="focal", smooth_l1_beta=0.0)
    unit = (1.0, 1.0, 1.0, 1.0)
    found = criterion.losses(prediction, PRIORS, targets, assignment, config=config, delta_std=unit)

    rows = targets.is_object[0].nonzero()[:, 0]
    truth = [{"boxes": targets.boxes[0, rows], "labels": targets.labels[0, rows]}]
    if len(rows) > 0:
        overlaps = torchvision.ops.box_iou(truth[0]["boxes"], PRIORS.boxes)
        assume((overlaps.amax(1) > 0).all())
        matcher = torchvision.models.detection._utils.Matcher(0.5, 0.4, allow_low_quality_matches=True)
        matches = [matcher(overlaps)]
    else:
        matches = [torch.full((len(PRIORS.boxes),), -1)]
    outputs = {"cls_logits": prediction.logits, "bbox_regression": prediction.deltas}
    classes = RetinaNetClassificationHead(4, 1, NUM_CLASSES).compute_loss(truth, outputs, matches)
    offsets = RetinaNetRegressionHead(4, 1).compute_loss(truth, outputs, [PRIORS.boxes], matches)
    torch.testing.assert_close(found.classification, classes, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.smooth_l1, offsets, rtol=1e-4, atol=1e-4)


def test_divisor_is_the_batchs_positives_unless_given() -> None:
    one, config = _one_object(), LossConfig(giou_weight=1.0)
    targets = Targets(
        boxes=one.boxes.repeat(2, 1, 1),
        labels=one.labels.repeat(2, 1),
        is_object=one.is_object.repeat(2, 1),
        is_crowd=one.is_crowd.repeat(2, 1),
    )
    prediction = _prediction("quality", 2)
    count = criterion.num_positives(assign.assign(targets, PRIORS, AssignConfig()))
    assert count > 1
    default, by_four = _losses(prediction, targets, config), _losses(prediction, targets, config, torch.tensor(4.0))
    for name in ("classification", "smooth_l1", "giou"):
        torch.testing.assert_close(getattr(default, name) * count, getattr(by_four, name) * 4)


def test_without_positives_the_divisor_is_one() -> None:
    targets, config = _one_object(is_object=False), LossConfig(classification="sigmoid")
    prediction = _prediction("sigmoid", 1)
    found = _losses(prediction, targets, config)
    torch.testing.assert_close(found.classification, F.softplus(prediction.logits).sum())
    assert found.smooth_l1.item() == 0


def test_the_perfect_prediction() -> None:
    targets = _one_object()
    assignment = assign.assign(targets, PRIORS, AssignConfig())
    deltas = codec.encode(encode.matched_boxes(targets, assignment), PRIORS.boxes, STD)
    logits = torch.full((1, len(PRIORS.boxes), NUM_CLASSES), -20.0)
    logits[..., 1] = torch.where(assignment.is_positive, 20.0, -20.0)
    for kind in ("sigmoid", "focal", "quality"):
        config = LossConfig(classification=kind, giou_weight=1.0)
        found = _losses(Prediction(logits=logits, deltas=deltas), targets, config)
        assert criterion.weighted_total(found, config).item() == pytest.approx(0, abs=1e-4)


def test_quality_target_is_the_iou_of_the_decoded_box_without_gradient() -> None:
    targets, config = _one_object(), LossConfig(classification="quality")
    assignment = assign.assign(targets, PRIORS, AssignConfig())
    prediction = _prediction("quality", 1)
    found = _losses(prediction, targets, config)
    overlap = boxes.iou(
        codec.decode(prediction.deltas, PRIORS.boxes, STD), targets.boxes.expand(1, len(PRIORS.boxes), 4)
    )
    target = torch.zeros(1, len(PRIORS.boxes), NUM_CLASSES)
    target[..., 1] = torch.where(assignment.is_positive, overlap.detach(), 0.0)
    probability = prediction.logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(prediction.logits, target, reduction="none")
    expected = ((target - probability).abs() ** 2 * entropy).sum() / assignment.is_positive.sum()
    torch.testing.assert_close(found.classification, expected)
    assert torch.autograd.grad(found.classification, prediction.deltas, allow_unused=True) == (None,)


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_heads_are_judged_in_float32(kind: Classification) -> None:
    config = LossConfig(classification=kind, giou_weight=1.0)
    half = _prediction(kind, 1, dtype=torch.bfloat16)
    full = Prediction(logits=half.logits.float(), deltas=half.deltas.float())
    found, expected = _losses(half, _one_object(), config), _losses(full, _one_object(), config)
    for name in ("classification", "smooth_l1", "giou"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    assert found.classification.dtype == torch.float32


def test_giou_is_skipped_at_weight_zero_and_kept_otherwise() -> None:
    prediction = _prediction("quality", 1)
    assert _losses(prediction, _one_object(), LossConfig(giou_weight=0.0)).giou.item() == 0
    assert _losses(prediction, _one_object(), LossConfig(giou_weight=0.1)).giou.item() > 0


@pytest.mark.parametrize("rubbish", [1e30, float("inf"), float("nan")])
def test_rubbish_offsets_of_background_priors_do_no_harm(rubbish: float) -> None:
    targets, config = _one_object(), LossConfig(giou_weight=1.0)
    is_positive = assign.assign(targets, PRIORS, AssignConfig()).is_positive
    clean = _prediction("quality", 1)
    dirty = Prediction(
        logits=clean.logits, deltas=torch.where(is_positive[..., None], clean.deltas.detach(), rubbish).requires_grad_()
    )
    found, expected = _losses(dirty, targets, config), _losses(clean, targets, config)
    torch.testing.assert_close(criterion.weighted_total(found, config), criterion.weighted_total(expected, config))
    gradients = torch.autograd.grad(criterion.weighted_total(found, config), (dirty.logits, dirty.deltas))
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_of_the_total(kind: Classification) -> None:
    config = LossConfig(classification=kind, giou_weight=1.0, smooth_l1_weight=0.5)
    found = _prediction(kind, 1, dtype=torch.float64)
    targets = _one_object()
    assignment = assign.assign(targets, PRIORS, AssignConfig())

    def total(logits: Tensor, deltas: Tensor) -> Tensor:
        prediction = Prediction(logits=logits, deltas=deltas)
        terms = criterion.losses(prediction, PRIORS, targets, assignment, config=config, delta_std=STD)
        return criterion.weighted_total(terms, config)

    assert torch.autograd.gradcheck(total, (found.logits, found.deltas.detach()))
    # The quality target follows the offsets, and is held fixed on purpose.
    if kind != "quality":
        assert torch.autograd.gradcheck(total, (found.logits.detach(), found.deltas))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", ["atss", "max_iou"])
@pytest.mark.parametrize("num_rows", [0, 3])
def test_nothing_waits_for_the_device(kind: Classification, rule: Literal["atss", "max_iou"], num_rows: int) -> None:
    """A meta tensor has no values: reading one, a shape that depends on one, or mixing in a CPU tensor raises."""
    config = LossConfig(classification=kind, giou_weight=1.0)
    with torch.device("meta"):
        targets = Targets(
            boxes=torch.empty(2, num_rows, 4),
            labels=torch.empty(2, num_rows, dtype=torch.int64),
            is_object=torch.empty(2, num_rows, dtype=torch.bool),
            is_crowd=torch.empty(2, num_rows, dtype=torch.bool),
        )
        num_logits = NUM_CLASSES + (kind == "softmax")
        prediction = Prediction(
            logits=torch.empty(2, len(PRIORS.boxes), num_logits, requires_grad=True),
            deltas=torch.empty(2, len(PRIORS.boxes), 4, requires_grad=True),
        )
    reference = Priors(boxes=PRIORS.boxes.to("meta"), level_sizes=PRIORS.level_sizes)
    assignment = assign.assign(targets, reference, AssignConfig(kind=rule))
    terms = criterion.losses(prediction, reference, targets, assignment, config=config, delta_std=STD)
    gradients = torch.autograd.grad(criterion.weighted_total(terms, config), (prediction.logits, prediction.deltas))
    assert all(gradient.is_meta for gradient in gradients)


def test_weighted_total() -> None:
    terms = Losses(classification=torch.tensor(1.0), smooth_l1=torch.tensor(10.0), giou=torch.tensor(100.0))
    config = LossConfig(classification_weight=2.0, smooth_l1_weight=0.5, giou_weight=0.25)
    assert criterion.weighted_total(terms, config).item() == 2 + 5 + 25


def test_num_positives_counts_the_whole_batch() -> None:
    flags = torch.tensor([[True, False], [True, True]])
    assignment = Assignment(matched=torch.zeros(2, 2, dtype=torch.int64), is_positive=flags, is_ignored=~flags)
    assert criterion.num_positives(assignment).item() == 3
