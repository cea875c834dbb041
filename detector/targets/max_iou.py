"""Matching by highest overlap (Ren et al. 2015, section 3.1.2; the thresholds of Lin et al. 2017, RetinaNet)."""

from jaxtyping import Bool, Float, Int
from torch import Tensor

from detector.geometry import boxes
from detector.types import Priors


def match(
    objects: Float[Tensor, "b m 4"],
    is_object: Bool[Tensor, "b m"],
    priors: Priors,
    *,
    positive_iou: float,
    negative_iou: float,
    rescue: bool,
) -> tuple[Int[Tensor, "b a"], Bool[Tensor, "b a"], Bool[Tensor, "b a"]]:
    """The object of every prior, whether it is positive, and whether it lies between the thresholds.

    A prior goes to the object it overlaps most, if by `positive_iou` or more; from `negative_iou` up to there it is
    between. With `rescue`, the priors that an object overlaps most (all of them, when several tie) are positive at any
    overlap above 0, each still for the object that it itself overlaps most. This is torchvision's `Matcher`, except
    that an object that overlaps no prior does not make every prior positive.

    Needs memory for several float [B, M, A]. M is at least 1.
    """
    everywhere = priors.boxes.expand(len(objects), -1, -1)
    # Below any overlap: what is not an object is no prior's best.
    overlaps = boxes.pairwise_iou(objects, everywhere).masked_fill_(~is_object[..., None], -1.0)
    best, matched = overlaps.max(dim=1)
    is_positive = best >= positive_iou
    if rescue:
        best_of_object = overlaps.amax(dim=2, keepdim=True)
        # An object that overlaps nothing has no best prior.
        is_positive |= (overlaps == best_of_object.masked_fill_(best_of_object <= 0, 2.0)).any(dim=1)
    return matched, is_positive, (best >= negative_iou) & ~is_positive
