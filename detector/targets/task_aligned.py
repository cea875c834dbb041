"""Task-aligned assignment (Feng et al. 2021, TOOD, section 3.3), for a padded batch at once."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from detector.geometry import boxes
from detector.types import Priors

# Objects without a prior may contend for the same one; each round serves at least one of those that contend.
_RESCUE_ROUNDS = 5


def match(
    objects: Float[Tensor, "b m 4"],
    labels: Int[Tensor, "b m"],
    is_object: Bool[Tensor, "b m"],
    priors: Priors,
    scores: Float[Tensor, "b a c"],
    predicted: Float[Tensor, "b a 4"],
    *,
    num_candidates: int,
    powers: tuple[float, float],
) -> tuple[Int[Tensor, "b a"], Bool[Tensor, "b a"]]:
    """The object of every prior and whether it is one; the object means nothing where it is not.

    Candidates of an object are the priors whose centres lie strictly inside. It claims those whose predictions are
    aligned best (of equals `topk` chooses), but none of alignment 0. A prior that several objects claim goes to
    the one of highest IoU with its predicted box, and of equals to the first.

    An object that gets no prior this way takes the free prior of highest IoU, if they overlap at all. If several such
    objects want one prior, the same rule decides, and the others try again, up to five times in all. No prior is ever
    taken away from an object. An object without area matches nothing.

    Needs memory for several float [B, M, A]. M is at least 1.

    Args:
        objects: In the frame of the priors.
        labels: Read only where `is_object`.
        is_object: The other rows match nothing.
        priors: Of the canvas.
        scores: Probability of each class; without gradient.
        predicted: Decoded xyxy box of each prior; without gradient.
        num_candidates: The most priors that an object claims.
        powers: Of the score and of the IoU in the alignment.
    """
    quality = boxes.pairwise_iou(objects, predicted.to(objects.dtype))
    alignment = _alignment(scores, quality, torch.where(is_object, labels, 0), powers)
    is_candidate = is_object[..., None] & boxes.contain(objects[:, :, None], boxes.centres(priors.boxes))
    # Cut off by comparison, not by a product: a prediction of NaN is no candidate either.
    alignment = torch.where(is_candidate & (alignment > 0), alignment, 0.0)
    winner = _highest_claim(_is_top(alignment, num_candidates), quality)

    overlaps = boxes.pairwise_iou(objects, priors.boxes.expand(len(objects), -1, -1))
    winner = _rescue(winner, torch.where(is_object[..., None], overlaps, 0.0))
    is_positive = winner < objects.shape[1]
    return torch.where(is_positive, winner, 0), is_positive


def _alignment(
    scores: Float[Tensor, "b a c"],
    quality: Float[Tensor, "b m a"],
    labels: Int[Tensor, "b m"],
    powers: tuple[float, float],
) -> Float[Tensor, "b m a"]:
    """Score of the object's class and IoU with the object, each to its power."""
    score = scores.mT.gather(1, labels[..., None].expand(quality.shape))
    return score.to(quality.dtype) ** powers[0] * quality ** powers[1]


def _is_top(alignment: Float[Tensor, "b m a"], count: int) -> Bool[Tensor, "b m a"]:
    """Where one of the `count` highest of a row stands, if it is above 0."""
    highest, index = alignment.topk(min(count, alignment.shape[-1]))
    return torch.zeros_like(alignment, dtype=torch.bool).scatter(-1, index, highest > 0)


def _highest_claim(is_claim: Bool[Tensor, "b m a"], quality: Float[Tensor, "b m a"]) -> Int[Tensor, "b a"]:
    """The claiming object of highest quality on each prior, the first of equals; m where none claims it."""
    num_objects = quality.shape[1]
    claims = torch.where(is_claim, quality, -1.0)
    is_winner = is_claim & (claims == claims.amax(1, keepdim=True))
    rows = torch.arange(num_objects, device=quality.device)[:, None]
    return torch.where(is_winner, rows, num_objects).amin(1)


def _rescue(winner: Int[Tensor, "b a"], overlaps: Float[Tensor, "b m a"]) -> Int[Tensor, "b a"]:
    """Give free priors, those whose winner is m, to objects that have none."""
    batch, num_objects, num_priors = overlaps.shape
    rows = torch.arange(num_objects, device=winner.device)
    for _ in range(min(num_objects, _RESCUE_ROUNDS)):
        has_prior = overlaps.new_zeros(batch, num_objects + 1, dtype=torch.bool).scatter(1, winner, value=True)
        is_free = winner == num_objects
        best, index = torch.where(is_free[:, None], overlaps, 0.0).max(-1)
        wanted = torch.where(has_prior[:, :num_objects], 0.0, best)
        highest = overlaps.new_zeros(batch, num_priors).scatter_reduce(1, index, wanted, "amax")
        is_winner = (wanted > 0) & (wanted == highest.gather(1, index))
        # What is wanted is free, and so holds the number past the last object.
        winner = winner.scatter_reduce(1, index, torch.where(is_winner, rows, num_objects), "amin")
    return winner
