"""Non-maximum suppression of many groups at once, and what the suppressed boxes say of the kept ones."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.ops import nms

from detector.geometry import boxes as box_math

# Pixels. Coordinates are rounded to this grid, so that moving a group sideways changes no bit of a width.
_GRID = 2.0**-20


def keep_best(
    boxes: Float[Tensor, "n 4"], scores: Float[Tensor, " n"], groups: Int[Tensor, " n"], iou_threshold: float
) -> Int[Tensor, " k"]:
    """Indices of the boxes that no better box of their own group overlaps by more than the threshold, best first.

    Of equal scores the earlier box is the better one. The result is that of a loop over the groups, bit for bit: the
    groups are laid side by side on a float64 axis, where they touch at most. Any integers may name the groups.

    Args:
        boxes: xyxy, finite, x1 >= x0 and y1 >= y0, of the size of an image. A box without area overlaps nothing.
        scores: Finite.
        groups: Usually one for each image and class.
        iou_threshold: In [0, 1].
    """
    if len(boxes) == 0:
        return torch.zeros(0, dtype=torch.int64, device=boxes.device)
    snapped = (boxes.double() / _GRID).round() * _GRID
    span = snapped.max() - snapped.min()
    offsets = _dense_ranks(groups) * span
    shift = torch.stack((offsets, torch.zeros_like(offsets)), dim=-1).repeat(1, 2)
    return nms(snapped + shift, scores.double(), iou_threshold)


def vote(
    kept: Float[Tensor, "b m 4"],
    kept_labels: Int[Tensor, "b m"],
    boxes: Float[Tensor, "b k 4"],
    scores: Float[Tensor, "b k"],
    labels: Int[Tensor, "b k"],
    *,
    width: float,
) -> Float[Tensor, "b m 4"]:
    """Each kept box as a mean of the boxes of its class that overlap it (Kim and Lee 2020, PAA, section 3.3).

    They weigh score * exp(-(1 - IoU)^2 / width). The paper's width is 0.025; a larger one hears farther neighbours.
    A box that nothing overlaps, not even itself, stays.

    Args:
        kept: xyxy, of each image, out of `boxes`.
        kept_labels: Their classes.
        boxes: All that suppression saw.
        scores: Theirs, in [0, 1].
        labels: Theirs.
        width: Above 0.
    """
    overlap = box_math.pairwise_iou(kept, boxes)
    counts = (kept_labels[:, :, None] == labels[:, None]) & (overlap > 0)
    weights = torch.exp(-((1 - overlap) ** 2) / width) * scores[:, None] * counts
    totals = weights.sum(-1, keepdim=True)
    is_alone = totals <= 0
    return torch.where(is_alone, kept, weights @ boxes / totals.masked_fill(is_alone, 1.0))


def agree(
    kept: Float[Tensor, "b m 4"],
    kept_scores: Float[Tensor, "b m"],
    kept_labels: Int[Tensor, "b m"],
    boxes: Float[Tensor, "b k 4"],
    scores: Float[Tensor, "b k"],
    labels: Int[Tensor, "b k"],
    views: Int[Tensor, "b k"],
    *,
    num_views: int,
    iou_threshold: float,
) -> Float[Tensor, "b m"]:
    """The score of each kept box as the mean of what the views give the object, for views of an image or of models.

    A view gives the best score among its boxes that belong to the kept one, and 0 where there is none. A box belongs to
    the best kept box of its class that it overlaps by more than the threshold, which is the one that suppressed it.

    Args:
        kept: xyxy, of each image, out of `boxes`, best first.
        kept_scores: Theirs. The mean is at least this over `num_views`.
        kept_labels: Their classes.
        boxes: All that suppression saw.
        scores: Theirs, in [0, 1].
        labels: Theirs.
        views: Which view, from 0, each of them is of.
        num_views: How many views there were, whether they found anything or not.
        iou_threshold: That of the suppression.
    """
    is_near = (kept_labels[:, :, None] == labels[:, None]) & (box_math.pairwise_iou(kept, boxes) > iou_threshold)
    said = (is_near & (is_near.cumsum(1) == 1)) * scores[:, None]
    by_view = said.new_zeros(*said.shape[:2], num_views).scatter_reduce(2, views[:, None].expand_as(said), said, "amax")
    return torch.maximum(kept_scores, by_view.sum(-1)) / num_views


def _dense_ranks(groups: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Number the groups 0, 1, 2, ...: small offsets leave more bits for the coordinates."""
    ordered, origin = groups.sort()
    is_new = torch.zeros_like(ordered)
    is_new[1:] = ordered[1:] != ordered[:-1]
    return torch.empty_like(ordered).scatter_(0, origin, is_new.cumsum(0)).double()
