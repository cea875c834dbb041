"""Distillation losses: what a student network says against what a frozen teacher says of the same images.

`hidden` and `attention` are means over one pyramid level and belong to no scale. `class_logits` and `box_deltas` are
sums over priors, of equal layout and class order in both networks; the caller divides. The gradient goes to the student
alone. All arithmetic is in float32 at least. Values and gradients are finite for finite input.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

# Least variance that is divided by. Exact scale invariance above it, a finite slope for what does not vary.
_LEAST_VARIANCE = 1e-6
# Least mean square of a feature map that is divided by.
_LEAST_ENERGY = 1e-12


def hidden(student: Float[Tensor, "b c h w"], teacher: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """Distance of standardised features (Cao et al. 2022, PKD): 1 - Pearson's r, as mean over channels.

    Each channel is standardised over all images and cells of the level. One that does not vary in one of the networks
    costs 1/2, in both of them nothing.
    """
    difference = _standardised_channels(_at_least_float32(student)) - _standardised_channels(_constant(teacher))
    return difference.square().mean() / 2


def attention(
    student: Float[Tensor, "b c h w"], teacher: Float[Tensor, "b d h w"], temperature: float = 1.0
) -> Float[Tensor, ""]:
    """Divergence of where the networks look: temperature**2 KL(teacher || student), as mean over images.

    The map is the mean square over channels (Zagoruyko and Komodakis 2017, section 3.1), standardised in each image and
    turned into a distribution over cells by a softmax of this temperature (Yang et al. 2022, FGD). The widths of the
    networks may differ.
    """
    of_student = _attention_logits(_at_least_float32(student)) / temperature
    of_teacher = _attention_logits(_constant(teacher)) / temperature
    return temperature**2 * _divergence(of_student, of_teacher).mean()


def class_logits(
    student: Float[Tensor, "*n c"], teacher: Float[Tensor, "*n c"], weight: Float[Tensor, "*n"], *, softmax: bool
) -> Float[Tensor, ""]:
    """Classification against the teacher's probabilities; `weight` 0 leaves a prior out.

    Sigmoid heads: |r_t - r_s| BCE(r_s, r_t), r the probabilities: quality focal loss of gamma 1 whose target is the
    teacher's r (Wang et al. 2024, CrossKD). As in `classification.quality_focal` the gradient flows through both
    factors, and the entropy of the target stays in. `softmax`: KL(teacher || student) over the last axis.
    """
    student, teacher = _at_least_float32(student), _constant(teacher)
    if softmax:
        per_prior = _divergence(student, teacher)
    else:
        target = teacher.sigmoid()
        entropy = F.binary_cross_entropy_with_logits(student, target, reduction="none")
        per_prior = ((target - student.sigmoid()).abs() * entropy).sum(-1)
    return (per_prior * _constant(weight)).sum()


def box_deltas(
    student: Float[Tensor, "*n 4"], teacher: Float[Tensor, "*n 4"], weight: Float[Tensor, "*n"], *, beta: float
) -> Float[Tensor, ""]:
    """Smooth L1 of box offsets (as `box.smooth_l1`), times `weight`; the caller divides by the sum of the weights."""
    distance = F.smooth_l1_loss(_at_least_float32(student), _constant(teacher), reduction="none", beta=beta)
    return (distance.sum(-1) * _constant(weight)).sum()


def _standardised_channels(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    return _standardised(features, (0, 2, 3))


def _attention_logits(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n"]:
    energy = features.square().mean(1).flatten(1)
    # In units of its mean, so that weak features are not taken for a map that does not vary.
    relative = energy / energy.mean(1, keepdim=True).clamp(min=_LEAST_ENERGY)
    return _standardised(relative, (1,))


def _standardised(values: Tensor, dims: tuple[int, ...]) -> Tensor:
    centred = values - values.mean(dims, keepdim=True)
    # Clamped before the root, whose slope at 0 is infinite.
    return centred * centred.square().mean(dims, keepdim=True).clamp(min=_LEAST_VARIANCE).rsqrt()


def _divergence(student: Float[Tensor, "*n c"], teacher: Float[Tensor, "*n c"]) -> Float[Tensor, "*n"]:
    """KL(teacher || student) of the softmax of the last axis."""
    pointwise = F.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), reduction="none", log_target=True)
    return pointwise.sum(-1)


def _constant(values: Tensor) -> Tensor:
    return _at_least_float32(values.detach())


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
