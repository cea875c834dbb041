"""From ground truth to the object each prior answers for."""

from dataclasses import dataclass
from typing import assert_never

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from detector.config import AssignConfig
from detector.geometry import boxes
from detector.targets import atss, max_iou, task_aligned
from detector.types import Assignment, Priors, Targets


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """What the network says of every prior so far, for an assignment that looks at it; without gradient."""

    scores: Tensor  # float32 [B, A, C]
    boxes: Tensor  # float32 [B, A, 4] xyxy canvas pixels


def assign(targets: Targets, priors: Priors, config: AssignConfig, predicted: Predicted | None = None) -> Assignment:
    """Match a padded batch without a loop over images or objects and without waiting for the device.

    `task_aligned` without `predicted` is ATSS. Rows that are no objects match nothing. A prior that is not positive is
    ignored when its centre lies strictly inside a crowd region (under `max_iou` also when its overlap lies between the
    thresholds).
    """
    batch, num_rows = targets.is_object.shape
    if num_rows == 0:
        nothing = torch.zeros(batch, len(priors.boxes), dtype=torch.bool, device=priors.boxes.device)
        is_ignored = torch.full_like(nothing, config.kind == "main")
        return Assignment(matched=nothing.long(), is_positive=nothing, is_ignored=is_ignored)
    is_between: Tensor | None = None
    kind = "atss" if config.kind == "task_aligned" and predicted is None else config.kind
    match kind:
        case "main":
            return _main(targets, priors)
        case "task_aligned":
            assert predicted is not None
            matched, is_positive = task_aligned.match(
                targets.boxes,
                targets.labels,
                targets.is_object,
                priors,
                predicted.scores,
                predicted.boxes,
                num_candidates=config.aligned_candidates,
                powers=config.aligned_powers,
            )
        case "atss":
            matched, is_positive = atss.match(targets.boxes, targets.is_object, priors, config.candidates)
        case "max_iou":
            matched, is_positive, is_between = max_iou.match(
                targets.boxes,
                targets.is_object,
                priors,
                positive_iou=config.positive_iou,
                negative_iou=config.negative_iou,
                rescue=config.rescue,
            )
        case _:
            assert_never(kind)
    is_ignored = torch.zeros_like(is_positive) if is_between is None else is_between
    if targets.is_crowd is not None:
        is_ignored = (is_ignored | _in_crowd(targets.boxes, targets.is_crowd, priors.boxes)) & ~is_positive
    return Assignment(matched=matched, is_positive=is_positive, is_ignored=is_ignored)


def _main(targets: Targets, priors: Priors) -> Assignment:
    """The one prior of each image answers for the largest object; without an object it is ignored."""
    area = torch.where(targets.is_object, boxes.area(targets.boxes), -1.0)
    is_positive = targets.is_object.any(dim=1, keepdim=True).expand(-1, len(priors.boxes))
    matched = area.argmax(dim=1, keepdim=True).expand(-1, len(priors.boxes))
    return Assignment(matched=matched, is_positive=is_positive, is_ignored=~is_positive)


def _in_crowd(
    regions: Float[Tensor, "b m 4"], is_crowd: Bool[Tensor, "b m"], priors: Float[Tensor, "a 4"]
) -> Bool[Tensor, "b a"]:
    is_inside = boxes.contain(regions[:, :, None], boxes.centres(priors))
    return (is_inside & is_crowd[..., None]).any(dim=1)
