"""From a batch to the loss: the network, the losses of its branches, and how they are balanced.

A branch is what reads the trunk: each head, and under distillation the comparison of features with the teacher's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from detector.config import HeadConfig, RunConfig
from detector.geometry import codec
from detector.loss.head_loss import HeadLoss
from detector.model import precision
from detector.model.decode import class_scores
from detector.model.detector import DetectionModel
from detector.model.heads import CustomHead
from detector.targets import assign, encode
from detector.targets.assign import Predicted
from detector.train import balance, distillation, sequential
from detector.train.branches import FeaturePass, HeadPass, Weights
from detector.train.distillation import FEATURES, Adapters, Lesson, Teacher
from detector.train.distributed import World
from detector.train.junction import Junction
from detector.train.sequential import Compute, Piece
from detector.types import Batch, Losses, Priors, PriorTargets

# Cells in a piece. On a CPU small pieces stay in the cache; on a GPU a piece must fill the device.
PIECE_CELLS = {"cpu": 8192, "cuda": 65536}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLosses:
    """One step's losses."""

    total: Tensor  # to be differentiated
    losses: Losses
    branches: Tensor  # float32 [K], weighted loss of each branch before balancing, without gradient


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """Branches that run together."""

    branches: tuple[int, ...]
    compute: Compute
    pieces: Sequence[Piece]
    parameters: tuple[Tensor, ...]


class Objective(nn.Module):
    """What training minimises: one forward, one backward, also under DistributedDataParallel with a `world`."""

    def __init__(
        self,
        model: DetectionModel,
        config: RunConfig,
        *,
        dtype: torch.dtype,
        teacher: Teacher | None = None,
        world: World | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self._config = config
        self._dtype = dtype  # of the network; the losses are always computed in float32
        self._world = world or World()
        self._losses = {head.name: _head_loss(model, head, config, teacher) for head in model.heads.configs}
        terms_of = {name: loss.terms for name, loss in self._losses.items()}
        base = [weight for loss in self._losses.values() for weight in loss.base_weights(config.distill)]
        self.adapters: Adapters | None = None
        if teacher is not None:
            terms_of[FEATURES] = tuple(f"{FEATURES}.{name}" for name in distillation.TERMS)
            base += [config.distill.hidden_weight, config.distill.attention_weight]
            self.adapters = Adapters(model.neck.width, teacher.width, teacher.num_levels)
        self.branches: tuple[str, ...] = tuple(terms_of)
        self.terms: tuple[str, ...] = tuple(term for terms in terms_of.values() for term in terms)
        self.base_weights = tuple(base)
        """Weights of the terms in a run without stages."""
        ends = accumulate((len(terms) for terms in terms_of.values()), initial=0)
        self._parts = [slice(start, end) for start, end in pairwise(ends)]
        self.balancer = balance.make(config.balance, len(self.branches))
        self.junction = Junction(
            self.balancer,
            num_branches=len(self.branches),
            world=self._world,
            clip_norm=config.optim.head_clip_norm,
        )
        self._weights: dict[tuple[tuple[float, ...], torch.device], Tensor] = {}

    def forward(
        self,
        batch: Batch,
        weights: Sequence[float],
        *,
        aligned: bool = False,
        lesson: Lesson | None = None,
        count: Tensor | None = None,
    ) -> StepLosses:
        """Losses of a batch, which is on the model's device.

        Args:
            batch: Images and ground truth.
            weights: Of `terms`; a branch whose weights are all zero is not run.
            aligned: Whether a task-aligned assignment looks at the predictions by now.
            lesson: What the teacher makes of the batch, where there is one.
            count: What the losses are divided by, where the batch is a part of a larger one; see `count_positives`.
        """
        with precision.autocast(batch.images.device, self._dtype):
            levels = self.model.trunk(self.model.normalise(batch.images))
            return self._losses_of(levels, batch, tuple(weights), aligned=aligned, lesson=lesson, count=count)

    def count_positives(self, batch: Batch) -> Tensor:
        """Priors of a batch that answer for an object, by an assignment that does not look at predictions."""
        priors = self.model.priors((batch.images.shape[2], batch.images.shape[3]))
        return self._shared(assign.assign(batch.targets, priors, self._config.assign).is_positive.sum())

    def _shared(self, positives: Tensor) -> Tensor:
        """Positives of all processes, shared out: each divides by the same count (and gradients are averaged)."""
        total = self._world.sum(positives).clamp(min=1)
        return total if self._world.size == 1 else total / self._world.size

    def base_losses(self, losses: Losses, weights: tuple[float, ...]) -> Tensor:
        """Loss of each branch, float32 [K], with the weights of a run without stages; NaN of one that did not run."""
        sums = self._weights_on(self.base_weights, losses.values.device) @ losses.values
        is_silent = [not any(weights[part]) for part in self._parts]
        if any(is_silent):
            sums = sums.masked_fill(torch.tensor(is_silent).to(sums.device, non_blocking=True), torch.nan)
        return sums

    def leaves_out(self, weights: tuple[float, ...]) -> bool:
        """Whether parameters may get no gradient where the terms have these weights."""
        of_branches = [weights[part] for part in self._parts]
        # An adapter serves one of the terms of its branch.
        return not all(any(own) for own in of_branches) or (self.adapters is not None and not all(of_branches[-1]))

    def _losses_of(
        self,
        levels: Sequence[Tensor],
        batch: Batch,
        weights: tuple[float, ...],
        *,
        aligned: bool,
        lesson: Lesson | None,
        count: Tensor | None,
    ) -> StepLosses:
        on_device = self._weights_on(weights, levels[0].device)
        factors = self.balancer.weights()
        balanced = on_device * factors.detach()[:, None]
        by_branch = [Weights(terms=weights[part], on_device=balanced[k, part]) for k, part in enumerate(self._parts)]
        copies = self.junction.fan_out(levels)
        values: list[Tensor] = []
        silent = on_device.new_zeros(len(weights))
        parts = [silent[part] for part in self._parts]
        works = self._head_works(levels, batch, by_branch, aligned=aligned, lesson=lesson, count=count)
        if lesson is not None and by_branch[-1].active:
            works.append(self._feature_work(levels, lesson, by_branch[-1]))
        for work in works:
            value, found = self._run(work, [copies[k] for k in work.branches])
            values.append(value)
            start = 0
            for k in work.branches:
                parts[k] = found.detach()[start : start + len(by_branch[k].terms)]
                start += len(parts[k])
        terms = torch.cat(parts).float()
        total = torch.stack(values).sum() if values else on_device.new_zeros(())
        branches = on_device @ terms
        if any(True for _ in self.balancer.parameters()):
            # The network's gradient came with the values, weighed; what is left is that of learned weights.
            total = total + ((factors - factors.detach()) * branches).sum() + self.balancer.penalty()
        return StepLosses(total=total, losses=Losses(terms=self.terms, values=terms), branches=branches)

    def _run(self, work: _Work, branches: Sequence[Sequence[Tensor]]) -> tuple[Tensor, Tensor]:
        if self._config.memory.heads == "sequential":
            return sequential.run(work.compute, work.pieces, branches, work.parameters)
        assert len(work.pieces) == 1
        return work.compute(work.pieces[0], branches)

    def _head_works(
        self,
        levels: Sequence[Tensor],
        batch: Batch,
        by_branch: Sequence[Weights],
        *,
        aligned: bool,
        lesson: Lesson | None,
        count: Tensor | None,
    ) -> list[_Work]:
        heads = self.model.heads
        active = {name for name, weights in zip(self.branches, by_branch, strict=True) if weights.active}
        if not active & {head.name for head in heads.configs}:
            return []
        # The last box head speaks even where it is not taught: other losses ask how good its boxes are.
        speaking = active | {heads.last_box}
        groups = [group for group in heads.groups if any(head.name in speaking for head in group)]
        asked = self._head_pass(levels, batch, by_branch, aligned=aligned, lesson=lesson, count=count)
        return [
            _Work(
                branches=tuple(self.branches.index(head.name) for head in group),
                compute=partial(asked.compute, group),
                pieces=self._pieces(levels, batch.images),
                parameters=tuple(p for head in group for p in heads.head(head).parameters()),
            )
            for group in groups
        ]

    def _feature_work(self, levels: Sequence[Tensor], lesson: Lesson, weights: Weights) -> _Work:
        assert self.adapters is not None
        features = FeaturePass(adapters=self.adapters, lesson=lesson, weights=weights, config=self._config.distill)
        everything = range(len(levels))
        parts = [(i,) for i in everything] if self._config.memory.heads == "sequential" else [tuple(everything)]
        return _Work(
            branches=(len(self.branches) - 1,),
            compute=features.compute,
            pieces=[Piece(images=slice(None), levels=part, rows=slice(0, 0)) for part in parts],
            parameters=tuple(self.adapters.parameters()),
        )

    def _pieces(self, levels: Sequence[Tensor], images: Tensor) -> list[Piece]:
        sizes = self.model.priors((images.shape[2], images.shape[3])).level_sizes
        memory = self._config.memory
        if memory.heads == "joint":
            return [sequential.whole(sizes)]
        cells = [level.shape[2] * level.shape[3] for level in levels]
        limit = memory.piece_cells or PIECE_CELLS[images.device.type]
        return sequential.cut(sizes, cells, num_images=len(images), max_cells=limit)

    def _weights_on(self, weights: tuple[float, ...], device: torch.device) -> Tensor:
        """The weights as a matrix [K, terms], in which each branch has a row and its terms their places.

        Made when they change: a stage keeps them for thousands of steps.
        """
        if (weights, device) not in self._weights:
            self._weights = dict([*self._weights.items()][-1:])  # those of a fade are used once
            matrix = torch.zeros(len(self._parts), len(weights))
            for row, part in zip(matrix, self._parts, strict=True):
                row[part] = torch.tensor(weights[part])
            self._weights[weights, device] = matrix.to(device, non_blocking=True)
        return self._weights[weights, device]

    def _head_pass(
        self,
        levels: Sequence[Tensor],
        batch: Batch,
        by_branch: Sequence[Weights],
        *,
        aligned: bool,
        lesson: Lesson | None,
        count: Tensor | None,
    ) -> HeadPass:
        """What is asked of the heads."""
        priors = self.model.priors((batch.images.shape[2], batch.images.shape[3]))
        predicted = self._predict_ahead(levels, batch.images, priors) if aligned else None
        assignment = assign.assign(batch.targets, priors, self._config.assign, predicted)
        size = self._world.size
        count = self._shared(assignment.is_positive.sum()) if count is None else count
        boxes = encode.matched_boxes(batch.targets, assignment)
        targets = PriorTargets(
            priors=priors.boxes,
            boxes=boxes,
            labels=encode.matched_labels(batch.targets, assignment),
            is_positive=assignment.is_positive,
            weight=(~assignment.is_ignored).float(),
            teacher=None if lesson is None else lesson.targets(count, self._world.sum(lesson.confidence.sum()) / size),
        )
        return HeadPass(
            heads=self.model.heads,
            losses=self._losses,
            targets=targets,
            count=count,
            weights=dict(zip(self.branches, by_branch, strict=True)),
            found=torch.zeros_like(boxes),
        )

    @torch.no_grad()
    def _predict_ahead(self, levels: Sequence[Tensor], images: Tensor, priors: Priors) -> Predicted:
        """What the heads say, for an assignment that asks; they run once more, with gradient, afterwards.

        In the same order of groups and pieces, and the random state is put back: dropout draws the same masks again.
        """
        heads, device = self.model.heads, images.device
        devices = [device] if device.type == "cuda" else []
        rows: list[list[Tensor]] = []
        with (
            torch.random.fork_rng(devices),
            # Casts of the weights that autocast would keep from here have no gradient.
            precision.autocast(device, self._dtype, cache_enabled=False),
        ):
            for group in heads.groups:
                parts = [
                    (piece, heads.rows(group, [[levels[i][piece.images] for i in piece.levels]] * len(group)))
                    for piece in self._pieces(levels, images)
                ]
                rows.append(
                    [_assembled([(piece, said[i]) for piece, said in parts], images, priors) for i in range(len(group))]
                )
        prediction = heads.prediction(rows, priors.boxes)
        return Predicted(
            scores=class_scores(prediction.logits, self._config.loss.classification),
            boxes=codec.decode(prediction.deltas.float(), priors.boxes, self._config.model.delta_std),
        )


def _assembled(parts: Sequence[tuple[Piece, Tensor]], images: Tensor, priors: Priors) -> Tensor:
    first = parts[0][1]
    rows = first.new_empty(len(images), len(priors.boxes), first.shape[2])
    for piece, part in parts:
        rows[piece.images, piece.rows] = part
    return rows


def _head_loss(model: DetectionModel, head: HeadConfig, config: RunConfig, teacher: Teacher | None) -> HeadLoss:
    module = model.heads[head.name]
    return HeadLoss(
        head=head,
        config=config.loss,
        delta_std=config.model.delta_std,
        has_teacher=teacher is not None and not model.heads.refines(head),
        custom=module if isinstance(module, CustomHead) else None,
    )
