"""The training objective: what the heads predicted against what the assignment asks of them."""

from typing import assert_never

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from detector.config import LossConfig
from detector.geometry import boxes, codec
from detector.loss import box, classification
from detector.targets import encode
from detector.types import Assignment, Losses, Prediction, Priors, Targets


def num_positives(assignment: Assignment) -> Int[Tensor, ""]:
    """Positive priors of the batch; stays on the device."""
    return assignment.is_positive.sum()


def losses(
    prediction: Prediction,
    priors: Priors,
    targets: Targets,
    assignment: Assignment,
    *,
    config: LossConfig,
    delta_std: codec.Std,
    num_positives: Tensor | None = None,
) -> Losses:
    """All terms, in float32 at least, each summed over the batch and divided by one count.

    GIoU is not computed, and zero, where its weight is zero. The target of the quality-focal loss is the IoU of the
    decoded prediction with its object, without gradient.

    Args:
        prediction: Output of the heads; may be of half precision.
        priors: Of the same canvas.
        targets: Ground truth.
        assignment: Made from the same targets and priors.
        config: Kinds of loss and their constants; the weights are not applied here.
        delta_std: The unit of the offsets.
        num_positives: The divisor, above 0. Without it: the positives of this batch, at least 1.
    """
    is_positive = assignment.is_positive
    count = is_positive.sum().clamp(min=1) if num_positives is None else num_positives
    logits = _at_least_float32(prediction.logits)
    # Cut off before decoding: whatever the head says elsewhere has no gradient, not even NaN.
    deltas = torch.where(is_positive[..., None], _at_least_float32(prediction.deltas), 0.0)
    matched = encode.matched_boxes(targets, assignment)
    decoded = codec.decode(deltas, priors.boxes, delta_std)

    giou = logits.new_zeros(())
    if config.giou_weight > 0:
        giou = box.giou(decoded, matched, is_positive) / count
    labels = encode.matched_labels(targets, assignment)
    quality = boxes.iou(decoded.detach(), matched)
    weight = (~assignment.is_ignored).to(logits.dtype)
    wanted = codec.encode(matched, priors.boxes, delta_std)
    return Losses(
        classification=_classification(logits, labels, is_positive, weight, quality, config) / count,
        smooth_l1=box.smooth_l1(deltas, wanted, is_positive, beta=config.smooth_l1_beta) / count,
        giou=giou,
    )


def weighted_total(losses: Losses, config: LossConfig) -> Float[Tensor, ""]:
    """The one number that is minimised."""
    return (
        config.classification_weight * losses.classification
        + config.smooth_l1_weight * losses.smooth_l1
        + config.giou_weight * losses.giou
    )


def _classification(
    logits: Float[Tensor, "b a c"],
    labels: Int[Tensor, "b a"],
    is_positive: Bool[Tensor, "b a"],
    weight: Float[Tensor, "b a"],
    quality: Float[Tensor, "b a"],
    config: LossConfig,
) -> Float[Tensor, ""]:
    alpha, gamma = config.focal_alpha, config.focal_gamma
    match config.classification:
        case "softmax":
            return classification.softmax(logits, labels, is_positive, weight)
        case "sigmoid":
            return classification.sigmoid(logits, labels, is_positive, weight)
        case "focal":
            return classification.focal(logits, labels, is_positive, weight, alpha=alpha, gamma=gamma)
        case "quality":
            return classification.quality_focal(logits, labels, is_positive, weight, quality=quality, gamma=gamma)
        case _:
            assert_never(config.classification)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
