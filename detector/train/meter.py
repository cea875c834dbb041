"""The loss-balance meter: losses and the branches' gradients, averaged on the device and read when a line is due."""

import math
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor

from detector.train.clock import Clock
from detector.train.distillation import FEATURES
from detector.train.journal import Journal
from detector.train.learner import Learned, Learner
from detector.train.record import BranchMetrics, CosineMetrics, StepMetrics
from detector.train.waiting import Waiting

SECONDS_BETWEEN_RECORDS = 2.0
LARGEST_SHARE = 0.9  # of the gradient at the trunk, for a whole epoch; beyond it the other heads barely teach the trunk


class Meter:
    """No step waits for a number: sums stay on the device until a record is due."""

    def __init__(
        self,
        record: Journal,
        learner: Learner,
        waiting: Waiting,
        *,
        num_images: int,
        stage_names: Sequence[str],
        clock: Clock | None = None,
        images_seen: int = 0,
    ) -> None:
        """Args: `clock` and `images_seen` are those of the run so far."""
        self._record = record
        self._learner = learner
        self._num_images = num_images
        self._stage_names = stage_names
        self._waiting = waiting
        self._clock = clock or Clock()
        self.images_seen = images_seen
        self._since = time.monotonic()
        self._sums: Tensor | None = None
        self._images = 0
        self._stage = learner.stage
        self._warned: dict[tuple[int, str], None] = {}
        self._epoch = _EpochBalance(learner.objective.branches)

    @property
    def epochs(self) -> float:
        """Times the data set was gone through."""
        return self.images_seen / self._num_images

    @contextmanager
    def paused(self) -> Generator[None]:
        """Leave a span of time out of images/s."""
        start = time.monotonic()
        yield
        self._since += time.monotonic() - start

    def add(self, learned: Learned, *, num_images: int, progress: float) -> None:
        if learned.stage != self._stage:
            self.flush(progress)  # a record is of one stage
            self._stage = learned.stage
        count = len(learned.branches)
        gram = learned.branches.new_full((count, count), math.nan) if learned.gram is None else learned.gram
        one = learned.is_finite.to(learned.branches.dtype).reshape(1)
        row = torch.cat((learned.losses.values, learned.branches, gram.flatten(), one))
        # A step that was left out does not spoil the mean of the others; the last entry counts these.
        row = torch.where(learned.is_finite, row, 0.0)
        self._sums = row if self._sums is None else self._sums + row
        self._images += num_images
        before = int(self.epochs)
        self.images_seen += num_images
        self._epoch.add(torch.where(learned.is_finite, gram, 0.0))
        if int(self.epochs) > before:
            for name, warning in self._epoch.finish(int(self.epochs)):
                # A rule that acts on the gradients weighs them after they were measured. Features of a teacher are
                # meant to lead where they have a stage.
                told = self._learner.objective.balancer.acts_on_gradients or name == FEATURES
                if not told and (self._stage, name) not in self._warned:
                    self._warned[self._stage, name] = None
                    self._record.say(warning)

    def show_if_due(self, progress: float) -> None:
        if self._learner.steps == 1 or time.monotonic() - self._since >= SECONDS_BETWEEN_RECORDS:
            self.flush(progress)

    def finish(self, progress: float) -> None:
        """Record the last steps, and say how long the whole training waited."""
        self.flush(progress)
        self._waiting.finish()

    def flush(self, progress: float) -> None:
        """Record what was added since the last time."""
        if self._sums is None:
            return
        *sums, count = cast("list[float]", self._sums.tolist())
        self._sums = None
        now = time.monotonic()
        images, seconds = self._images, now - self._since
        self._images, self._since = 0, now
        if count == 0:  # none of the steps was finite
            return
        objective = self._learner.objective
        values = [value / count for value in sums]
        terms, names = objective.terms, objective.branches
        losses = dict(zip(terms, values, strict=False))
        of_branches = values[len(terms) : len(terms) + len(names)]
        norms, cosines = _directions(values[len(terms) + len(names) :], names)
        total = sum(norm for norm in norms if norm is not None)
        weights = cast("list[float]", objective.balancer.weights().detach().tolist())
        elapsed = self._clock.seconds
        self._record.step(
            StepMetrics(
                step=self._learner.steps,
                epoch=self.epochs,
                stage=self._stage_names[self._stage] if self._stage_names else "",
                losses=losses,
                branches=tuple(
                    BranchMetrics(
                        name=name,
                        loss=loss,
                        weight=weight,
                        gradient_norm=norm,
                        share=None if norm is None or not total else norm / total,
                    )
                    for name, loss, weight, norm in zip(names, of_branches, weights, norms, strict=True)
                ),
                cosines=cosines,
                lr=self._learner.lr,
                images_per_second=images / max(seconds, 1e-9),
                waiting=self._waiting.close_window(seconds),
                seconds=elapsed,
                eta_seconds=elapsed * (1 - progress) / progress if progress else None,
            ),
            progress,
        )


class _EpochBalance:
    """Gradients at the trunk over one epoch."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._gram: Tensor | None = None

    def add(self, gram: Tensor) -> None:
        self._gram = gram if self._gram is None else self._gram + gram

    def finish(self, epoch: int) -> list[tuple[str, str]]:
        """Branches that hold too much, with a warning, and start another epoch."""
        assert self._gram is not None
        norms, _ = _directions(cast("list[float]", self._gram.flatten().tolist()), self._names)
        self._gram = None
        total = sum(norm for norm in norms if norm is not None)
        return [
            (
                name,
                f"warning: {name} holds {norm / total:.0%} of the gradient at the trunk over epoch {epoch}: "
                f"for an even share multiply model.heads.{name}.weight by {(total - norm) / norm:.2g}, "
                "or set balance.kind=imtl_g",
            )
            for name, norm in zip(self._names, norms, strict=True)
            # Where no other branch has a gradient, as a class head of one class, there is nothing to share.
            if norm is not None and LARGEST_SHARE * total < norm < total
        ]


def _directions(gram: Sequence[float], names: Sequence[str]) -> tuple[list[float | None], tuple[CosineMetrics, ...]]:
    """Norm of each branch's gradient, and the cosine of each pair; None where nothing was measured."""
    count = len(names)
    squares = gram[:: count + 1]
    norms = [math.sqrt(max(0.0, square)) if math.isfinite(square) else None for square in squares]
    cosines: list[CosineMetrics] = []
    for i, a in enumerate(names):
        for j in range(i):
            scale = (norms[i] or 0.0) * (norms[j] or 0.0)
            cosine = gram[i * count + j] / scale if scale else None
            cosines.append(CosineMetrics(a=names[j], b=a, cosine=cosine))
    return norms, tuple(cosines)
