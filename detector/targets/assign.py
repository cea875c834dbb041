"""From ground truth to the object each prior answers for."""

from typing import assert_never

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from detector.config import AssignConfig
from detector.geometry import boxes
from detector.targets import atss, max_iou
from detector.types import Assignment, Priors, Targets


def assign(targets: Targets, priors: Priors, config: AssignConfig) -> Assignment:
    """Match a padded batch without a loop over images or objects and without waiting for the device.

    Rows that are no objects match nothing. A prior that is not positive is ignored when its centre lies strictly inside
    a crowd region (under `max_iou` also when its overlap lies between the thresholds).
    """
    batch, num_rows = targets.is_object.shape
    if num_rows == 0:
        nothing = torch.zeros(batch, len(priors.boxes), dtype=torch.bool, device=priors.boxes.device)
        return Assignment(matched=nothing.long(), is_positive=nothing, is_ignored=nothing)
    is_ignored = _in_crowd(targets.boxes, targets.is_crowd, priors.boxes)
    match config.kind:
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
            is_ignored |= is_between
        case _:
            assert_never(config.kind)
    return Assignment(matched=matched, is_positive=is_positive, is_ignored=is_ignored & ~is_positive)


def _in_crowd(
    regions: Float[Tensor, "b m 4"], is_crowd: Bool[Tensor, "b m"], priors: Float[Tensor, "a 4"]
) -> Bool[Tensor, "b a"]:
    is_inside = boxes.contain(regions[:, :, None], boxes.centres(priors))
    return (is_inside & is_crowd[..., None]).any(dim=1)
