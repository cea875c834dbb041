"""Adaptive training sample selection (Zhang et al. 2020, algorithm 1), for a padded batch at once."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from detector.geometry import boxes
from detector.types import Priors

# Crowded small objects contend for the same priors; each round serves at least one of those that contend.
_RESCUE_ROUNDS = 3


def match(
    objects: Float[Tensor, "b m 4"], is_object: Bool[Tensor, "b m"], priors: Priors, num_candidates: int
) -> tuple[Int[Tensor, "b a"], Bool[Tensor, "b a"]]:
    """The object of every prior and whether it is one; the object means nothing where it is not.

    Candidates of an object are the priors of each level whose centres are nearest to its own (of equally near ones
    `topk` chooses). Those reach it whose centre lies strictly inside and whose IoU is at least the mean plus the
    standard deviation (of a sample, as in the authors' code) of its candidates' IoUs. A prior that reaches several
    objects goes to the one of highest IoU, and of equals to the first.

    An object that gets no prior this way takes, of its candidates that are still free and overlap it, the one of
    highest IoU. If several such objects want one prior, the same rule decides, and the others try again, up to three
    times. No prior is ever taken away from an object. An object without area matches nothing.

    Needs memory for several float [B, M, A]. M is at least 1.
    """
    index = _candidates(objects, priors, num_candidates)
    candidates = priors.boxes[index]
    overlaps = boxes.iou(candidates, objects[:, :, None].expand_as(candidates))
    threshold = overlaps.mean(-1, keepdim=True) + overlaps.std(-1, correction=min(1, index.shape[-1] - 1), keepdim=True)
    is_inside = boxes.contain(objects[:, :, None], boxes.centres(candidates))
    bids = _bids(overlaps) * is_object[..., None]

    num_objects = objects.shape[1]
    # Of each prior the highest bid so far; 0 where it is free.
    accepted = torch.zeros(len(index), len(priors.boxes), dtype=torch.int64, device=index.device)
    claims = bids * (is_inside & (overlaps >= threshold))
    accepted = accepted.scatter_reduce(1, index.flatten(1), claims.flatten(1), "amax")
    for _ in range(_RESCUE_ROUNDS):
        there = accepted.gather(1, index.flatten(1)).view_as(index)
        is_served = ((there == bids) & (bids > 0)).any(-1, keepdim=True)
        best, where = (bids * ((there == 0) > is_served)).max(-1, keepdim=True)
        # A bid of 0 changes nothing.
        accepted = accepted.scatter_reduce(1, index.gather(2, where)[..., 0], best[..., 0], "amax")
    is_positive = accepted > 0
    return (num_objects - 1 - accepted % num_objects) * is_positive, is_positive


def _bids(overlaps: Float[Tensor, "b m k"]) -> Int[Tensor, "b m k"]:
    """Whole numbers in the order of the overlaps and, of equal ones, in the reverse order of the objects.

    So the highest bid decides both at once. 0 without an overlap. The bits of positive floats are ordered as they are.
    """
    num_objects = overlaps.shape[1]
    later = torch.arange(num_objects - 1, -1, -1, device=overlaps.device)
    bits = overlaps.float().view(torch.int32)
    return (bits.long() * num_objects + later[:, None]) * (overlaps > 0)


def _candidates(objects: Float[Tensor, "b m 4"], priors: Priors, num_candidates: int) -> Int[Tensor, "b m k"]:
    x, y = boxes.centres(objects)[..., None].unbind(2)
    prior_x, prior_y = boxes.centres(priors.boxes).unbind(-1)
    distance = (x - prior_x).square_() + (y - prior_y).square_()
    start = 0
    nearest: list[Tensor] = []
    for size in priors.level_sizes:
        level = distance[..., start : start + size]
        nearest.append(level.topk(min(num_candidates, size), largest=False).indices + start)
        start += size
    return torch.cat(nearest, dim=-1)
