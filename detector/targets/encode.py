"""What each prior is to predict. Every value means something only where the assignment is positive."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from detector.types import Assignment, Targets


def matched_boxes(targets: Targets, assignment: Assignment) -> Float[Tensor, "b a 4"]:
    """Box of the object that each prior answers for; zeros in a batch without rows."""
    if targets.boxes.shape[1] == 0:
        return targets.boxes.new_zeros(*assignment.matched.shape, 4)
    return targets.boxes.gather(1, assignment.matched[..., None].expand(-1, -1, 4))


def matched_labels(targets: Targets, assignment: Assignment) -> Int[Tensor, "b a"]:
    """Label of the object that each prior answers for; zeros in a batch without rows."""
    if targets.labels.shape[1] == 0:
        return torch.zeros_like(assignment.matched)
    return targets.labels.gather(1, assignment.matched)
