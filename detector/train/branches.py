"""What reads the trunk: the heads with their losses, and the comparison of features with a teacher's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detector.config import DistillConfig
from detector.loss.head_loss import HeadLoss
from detector.model.head_set import Group, HeadSet, found_boxes, references
from detector.train.distillation import Adapters, Lesson
from detector.train.sequential import Piece
from detector.types import PriorTargets


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Of one branch in one step."""

    terms: tuple[float, ...]
    on_device: Tensor  # float32 [terms], the same times what the balancer puts on the whole branch; without gradient

    @property
    def active(self) -> bool:
        return any(self.terms)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadPass:
    """The heads on one batch."""

    heads: HeadSet
    losses: Mapping[str, HeadLoss]
    targets: PriorTargets
    count: Tensor  # what every loss is divided by
    weights: Mapping[str, Weights]
    found: Tensor
    """Float32 [B, A, 4], written as the last box head speaks, read by the losses that ask how good its boxes are."""

    @property
    def asks_boxes(self) -> bool:
        """Whether a loss looks at found boxes, or a head refines them."""
        of_losses = any(loss.asks_boxes for loss in self.losses.values())
        return of_losses or any(self.heads.refines(head) for head in self.heads.configs)

    def compute(self, group: Group, piece: Piece, inputs: Sequence[Sequence[Tensor]]) -> tuple[Tensor, Tensor]:
        """Weighted loss and terms of a group's heads on one piece; see `sequential.Compute`."""
        rows = self.heads.rows(group, inputs)
        targets = self.targets.piece(piece.images, piece.rows)
        boxes: list[Tensor | None] = [None] * len(group)
        if self.asks_boxes:
            boxes = found_boxes(group, rows, targets.priors, self.heads.delta_std)
        for head, found in zip(group, boxes, strict=True):
            if head.name == self.heads.last_box and found is not None:
                self.found[piece.images, piece.rows] = found
        sums: list[Tensor] = []
        for i, head in enumerate(group):
            sums.append(
                self.losses[head.name].sums(
                    rows[i],
                    targets,
                    self.weights[head.name].terms,
                    references=references(group, i, boxes, targets.priors),
                    found=self.found[piece.images, piece.rows],
                )
            )
        terms = torch.cat(sums) / self.count
        return _weighted([self.weights[head.name] for head in group], terms), terms


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturePass:
    """The trunk's features beside the teacher's; each loss is the mean over levels."""

    adapters: Adapters
    lesson: Lesson
    weights: Weights
    config: DistillConfig

    def compute(self, piece: Piece, inputs: Sequence[Sequence[Tensor]]) -> tuple[Tensor, Tensor]:
        """See `sequential.Compute`. A piece holds all images: the features are standardised over the batch."""
        teacher = self.lesson.levels
        parts = [
            self.adapters.terms(level, features, teacher[level], self.weights.terms, self.config)
            for level, features in zip(piece.levels, inputs[0], strict=True)
        ]
        terms = torch.stack(parts).sum(dim=0) / len(teacher)
        return _weighted([self.weights], terms), terms


def _weighted(weights: Sequence[Weights], terms: Tensor) -> Tensor:
    on_device = weights[0].on_device if len(weights) == 1 else torch.cat([one.on_device for one in weights])
    return torch.dot(on_device.to(terms.dtype), terms)
