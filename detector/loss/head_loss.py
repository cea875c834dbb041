"""What each head is taught: its loss terms, as sums over the priors it is asked about.

A term is a sum of what each prior adds, so the terms of pieces of a batch add up to those of the whole. The engine
divides them by one count and weighs them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from detector.config import DistillConfig, HeadConfig, LossConfig
from detector.errors import ConfigError
from detector.geometry import boxes, codec
from detector.loss import box, classification, distill
from detector.model.heads import CustomHead
from detector.types import PriorTargets


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadLoss:
    """The loss of one head."""

    head: HeadConfig
    config: LossConfig
    delta_std: codec.Std
    has_teacher: bool
    custom: CustomHead | None = None
    """The head itself, where it brings its own loss."""

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms, `head.term`."""
        match self.head.kind:
            case "classification":
                names = ("cross_entropy", *(("logit",) if self.has_teacher else ()))
            case "box":
                names = ("smooth_l1", "giou", *(("logit",) if self.has_teacher else ()))
            case "quality":
                names = ("cross_entropy",)
            case "custom":
                names = ("loss",)
        return tuple(f"{self.head.name}.{name}" for name in names)

    @property
    def asks_boxes(self) -> bool:
        """Whether the loss looks at the boxes that the network finds."""
        of_quality = self.head.kind == "classification" and self.config.classification == "quality"
        return of_quality or self.head.kind in ("quality", "custom")

    def base_weights(self, against_teacher: DistillConfig) -> tuple[float, ...]:
        """Weights of the terms in a run without stages."""
        match self.head.kind:
            case "classification":
                weights = (self.config.classification_weight, against_teacher.class_logit_weight)
            case "box":
                weights = (
                    self.config.smooth_l1_weight,
                    self.config.giou_weight,
                    against_teacher.box_logit_weight,
                )
            case "quality":
                weights = (self.config.quality_weight,)
            case "custom":
                weights = (1.0,)
        return tuple(self.head.weight * weight for weight in weights[: len(self.terms)])

    def sums(
        self,
        rows: Float[Tensor, "b n outputs"],
        targets: PriorTargets,
        weights: Sequence[float],
        *,
        references: Float[Tensor, "*b n 4"],
        found: Float[Tensor, "b n 4"],
    ) -> Float[Tensor, " terms"]:
        """All terms, in float32 at least; one whose weight is zero is not computed and zero.

        Args:
            rows: What the head says; may be of half precision.
            targets: What is wanted of the same priors.
            weights: Of the terms; only whether they are zero matters here.
            references: What the offsets of a box head count from.
            found: The boxes that the network finds, without gradient: their IoU is the target of quality losses.
        """
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        match self.head.kind:
            case "classification":
                terms = self._classification(rows, targets, weights, found)
            case "box":
                terms = self._box(rows, targets, weights, references)
            case "quality":
                terms = [self._quality(rows, targets, found)] if weights[0] else [rows.new_zeros(())]
            case "custom":
                terms = [self._custom(rows, targets, found)] if weights[0] else [rows.new_zeros(())]
        return torch.stack(terms)

    def _classification(
        self, logits: Tensor, targets: PriorTargets, weights: Sequence[float], found: Tensor
    ) -> list[Tensor]:
        terms = [self._cross_entropy(logits, targets, found) if weights[0] else logits.new_zeros(())]
        if self.has_teacher:
            terms.append(self._class_logits(logits, targets) if weights[1] else logits.new_zeros(()))
        return terms

    def _class_logits(self, logits: Tensor, targets: PriorTargets) -> Tensor:
        assert targets.teacher is not None
        softmax = self.config.classification in ("softmax", "categorical")
        return distill.class_logits(logits, targets.teacher.logits, targets.weight, softmax=softmax)

    def _cross_entropy(self, logits: Tensor, targets: PriorTargets, found: Tensor) -> Tensor:
        labels, is_positive, weight = targets.labels, targets.is_positive, targets.weight.to(logits.dtype)
        alpha, gamma = self.config.focal_alpha, self.config.focal_gamma
        match self.config.classification:
            case "softmax":
                return classification.softmax(logits, labels, is_positive, weight)
            case "categorical":
                return classification.categorical(logits, labels, is_positive)
            case "sigmoid":
                return classification.sigmoid(logits, labels, is_positive, weight)
            case "focal":
                return classification.focal(logits, labels, is_positive, weight, alpha=alpha, gamma=gamma)
            case "quality":
                quality = boxes.iou(found, targets.boxes).to(logits.dtype)
                return classification.quality_focal(logits, labels, is_positive, weight, quality=quality, gamma=gamma)

    def _box(self, deltas: Tensor, targets: PriorTargets, weights: Sequence[float], references: Tensor) -> list[Tensor]:
        # Cut off before decoding: whatever the head says elsewhere has no gradient, not even NaN.
        inside = deltas.masked_fill(~targets.is_positive[..., None], 0.0)
        zero = deltas.new_zeros(())
        terms = [zero, zero]
        if weights[0]:
            wanted = codec.encode(targets.boxes, references, self.delta_std)
            terms[0] = box.smooth_l1(inside, wanted, targets.is_positive, beta=self.config.smooth_l1_beta)
        if weights[1]:
            decoded = codec.decode(inside, references, self.delta_std)
            terms[1] = box.giou(decoded, targets.boxes, targets.is_positive)
        if self.has_teacher:
            terms.append(self._box_deltas(deltas, targets) if weights[2] else zero)
        return terms

    def _box_deltas(self, deltas: Tensor, targets: PriorTargets) -> Tensor:
        assert targets.teacher is not None
        teacher = targets.teacher
        return distill.box_deltas(deltas, teacher.deltas, teacher.box_weight, beta=self.config.smooth_l1_beta)

    def _custom(self, rows: Tensor, targets: PriorTargets, found: Tensor) -> Tensor:
        assert self.custom is not None
        value = cast("object", self.custom.loss(rows, targets, found))
        if not isinstance(value, Tensor) or value.ndim > 0:
            is_like = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ConfigError(
                f"model.heads.{self.head.name} ({self.head.factory}): its loss returned {is_like}; "
                "return the sum over priors, a tensor with one number"
            )
        return value

    def _quality(self, rows: Tensor, targets: PriorTargets, found: Tensor) -> Tensor:
        quality = boxes.iou(found, targets.boxes).to(rows.dtype)
        return classification.soft_target(rows[..., 0], quality, targets.is_positive)
