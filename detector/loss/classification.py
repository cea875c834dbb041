"""Classification losses: sums over priors and classes; the caller divides.

Shared arguments:

    logits       of every prior and class
    labels       class of the matched object; read only where is_positive
    is_positive  where the prior answers for an object; elsewhere it is background
    weight       of every prior; 0 leaves it out

Values and gradients are finite for finite logits. The three sigmoid losses take every entry for background and then
correct the one entry of each positive prior, so that no dense one-hot target is built.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F


def softmax(
    logits: Float[Tensor, "*n c"],
    labels: Int[Tensor, "*n"],
    is_positive: Bool[Tensor, "*n"],
    weight: Float[Tensor, "*n"],
) -> Float[Tensor, ""]:
    """Cross entropy of a softmax whose last entry is background."""
    background = logits.shape[-1] - 1
    target = torch.where(is_positive, labels, background)
    entropy = F.cross_entropy(logits.flatten(0, -2), target.flatten(), reduction="none")
    return (entropy * weight.flatten()).sum()


def categorical(
    logits: Float[Tensor, "*n c"], labels: Int[Tensor, "*n"], is_positive: Bool[Tensor, "*n"]
) -> Float[Tensor, ""]:
    """Cross entropy of a softmax over the classes alone; only positive priors count."""
    target = torch.where(is_positive, labels, 0)
    entropy = F.cross_entropy(logits.flatten(0, -2), target.flatten(), reduction="none")
    return torch.where(is_positive.flatten(), entropy, 0.0).sum()


def soft_target(
    logits: Float[Tensor, "*n"], target: Float[Tensor, "*n"], is_positive: Bool[Tensor, "*n"]
) -> Float[Tensor, ""]:
    """Binary cross entropy with a target in [0, 1]; only positive priors count."""
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return torch.where(is_positive, entropy, 0.0).sum()


def sigmoid(
    logits: Float[Tensor, "*n c"],
    labels: Int[Tensor, "*n"],
    is_positive: Bool[Tensor, "*n"],
    weight: Float[Tensor, "*n"],
) -> Float[Tensor, ""]:
    """Binary cross entropy of each class by itself."""
    at_label = _at_label(logits, labels, is_positive)
    correction = F.softplus(-at_label) - F.softplus(at_label)
    return _sum(F.softplus(logits), correction, is_positive, weight)


def focal(
    logits: Float[Tensor, "*n c"],
    labels: Int[Tensor, "*n"],
    is_positive: Bool[Tensor, "*n"],
    weight: Float[Tensor, "*n"],
    *,
    alpha: float,
    gamma: float,
) -> Float[Tensor, ""]:
    """Focal loss (Lin et al. 2017, eq. 5). `alpha` weighs positives, 1 - `alpha` negatives."""
    at_label = _at_label(logits, labels, is_positive)
    as_positive, as_negative = _modulated(torch.stack((-at_label, at_label)), gamma).unbind()
    correction = torch.sub(alpha * as_positive, as_negative, alpha=1 - alpha)
    return _sum(_modulated(logits, gamma), correction, is_positive, weight, negative=1 - alpha)


def quality_focal(
    logits: Float[Tensor, "*n c"],
    labels: Int[Tensor, "*n"],
    is_positive: Bool[Tensor, "*n"],
    weight: Float[Tensor, "*n"],
    *,
    quality: Float[Tensor, "*n"],
    gamma: float,
) -> Float[Tensor, ""]:
    """Quality focal loss (Li et al. 2020, Generalized Focal Loss, eq. 6; `gamma` is the paper's beta).

    The target of a positive prior at its label is `quality`, in [0, 1]; every other target is 0.
    """
    at_label = _at_label(logits, labels, is_positive)
    # Below gamma = 1 the power has an infinite slope at 0, so it starts a little to the right.
    miss = (quality - at_label.sigmoid()).abs().clamp(min=1e-6)
    entropy = quality * F.softplus(-at_label) + (1 - quality) * F.softplus(at_label)
    correction = miss**gamma * entropy - _modulated(at_label, gamma)
    return _sum(_modulated(logits, gamma), correction, is_positive, weight)


def _at_label(logits: Tensor, labels: Tensor, is_positive: Tensor) -> Tensor:
    index = labels * is_positive
    return logits.gather(-1, index[..., None])[..., 0]


def _modulated(logits: Tensor, gamma: float) -> Tensor:
    """p**gamma * -log(1 - p): the loss of a background entry."""
    # The power as an exponential: p**gamma itself has an infinite slope at p = 0 when gamma < 1.
    return (gamma * F.logsigmoid(logits)).exp() * F.softplus(logits)


def _sum(
    as_negative: Tensor, correction: Tensor, is_positive: Tensor, weight: Tensor, *, negative: float = 1.0
) -> Tensor:
    per_prior = torch.add(correction.masked_fill(~is_positive, 0.0), as_negative.sum(-1), alpha=negative)
    return (per_prior * weight).sum()
