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

    Needs memory for several float [B, M, A] of the largest level alone. M is at least 1.
    """
    index = _candidates(objects, priors, num_candidates)
    candidates = priors.boxes[index]
    overlaps = boxes.iou(candidates, objects[:, :, None].expand_as(candidates))
    count = index.shape[-1]
    threshold = overlaps.mean(-1, keepdim=True) + overlaps.std(-1, correction=min(1, count - 1), keepdim=True)
    is_inside = boxes.contain(objects[:, :, None], boxes.centres(candidates))
    claims = torch.where(is_object[..., None] & is_inside & (overlaps >= threshold), overlaps, 0.0)

    winner = _highest_claim(claims, index, num_priors=len(priors.boxes))
    for _ in range(_RESCUE_ROUNDS):
        has_prior = _wins(winner, index).any(-1)
        is_free = _at_candidates(winner, index) == claims.shape[1]
        wanted = torch.where((is_object & ~has_prior)[..., None] & is_free, overlaps, 0.0)
        is_best = torch.arange(count, device=index.device) == wanted.argmax(-1, keepdim=True)
        rescued = _highest_claim(torch.where(is_best, wanted, 0.0), index, num_priors=len(priors.boxes))
        # Rescue claims only free priors, where the winner is the number past the last object.
        winner = torch.minimum(winner, rescued)
    is_positive = winner < claims.shape[1]
    return torch.where(is_positive, winner, 0), is_positive


def _candidates(objects: Float[Tensor, "b m 4"], priors: Priors, num_candidates: int) -> Int[Tensor, "b m k"]:
    centres = boxes.centres(objects)
    prior_centres = boxes.centres(priors.boxes)
    start = 0
    nearest: list[Tensor] = []
    for size in priors.level_sizes:
        level = prior_centres[start : start + size]
        offset_x = centres[..., None, 0] - level[:, 0]
        offset_y = centres[..., None, 1] - level[:, 1]
        distance = offset_x.square() + offset_y.square()
        nearest.append(distance.topk(min(num_candidates, size), largest=False).indices + start)
        start += size
    return torch.cat(nearest, dim=-1)


def _highest_claim(
    claims: Float[Tensor, "b m k"], index: Int[Tensor, "b m k"], *, num_priors: int
) -> Int[Tensor, "b a"]:
    """The object with the highest positive claim on each prior, the first of equals; m where there is none."""
    batch, num_objects, _ = claims.shape
    highest = claims.new_zeros(batch, num_priors).scatter_reduce(1, index.flatten(1), claims.flatten(1), "amax")
    is_winner = (claims > 0) & (claims == _at_candidates(highest, index))
    rows = torch.arange(num_objects, device=index.device)[:, None]
    winner = torch.where(is_winner, rows, num_objects)
    nobody = torch.full((batch, num_priors), num_objects, dtype=torch.int64, device=index.device)
    return nobody.scatter_reduce(1, index.flatten(1), winner.flatten(1), "amin")


def _at_candidates(values: Tensor, index: Int[Tensor, "b m k"]) -> Tensor:
    return values.gather(1, index.flatten(1)).view_as(index)


def _wins(winner: Int[Tensor, "b a"], index: Int[Tensor, "b m k"]) -> Bool[Tensor, "b m k"]:
    rows = torch.arange(index.shape[1], device=index.device)[:, None]
    return _at_candidates(winner, index) == rows
