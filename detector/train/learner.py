"""The model with everything that changes it, a step at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from detector.config import RunConfig
from detector.model.detector import DetectionModel
from detector.train import optim, schedule, stages
from detector.train.distillation import Lesson, Teacher
from detector.train.distributed import World
from detector.train.ema import AveragedModel
from detector.train.objective import Objective, StepLosses
from detector.types import Batch, Losses


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What one step showed; tensors on the device, without gradient."""

    losses: Losses
    branches: Tensor  # float32 [K], weighted loss of each branch before balancing
    stage: int
    gram: Tensor | None  # float32 [K, K], inner products of the branches' gradients at the trunk; None if it is frozen


class Learner:
    """Model, objective, optimizer, average and stage.

    `state_dict` holds all that training needs to go on as if it had not stopped, but for the place in the data.
    """

    def __init__(
        self,
        model: DetectionModel,
        config: RunConfig,
        *,
        dtype: torch.dtype,
        teacher: Teacher | None = None,
        world: World | None = None,
    ) -> None:
        self.device = next(model.parameters()).device
        self.steps = 0
        self.lr = 0.0
        self.stage = -1
        self._model = model
        self._config = config
        self._teacher = teacher
        self._world = world or World()
        self.objective = Objective(model, config, dtype=dtype, teacher=teacher, world=self._world).to(self.device)
        self._base_weights = dict(zip(self.objective.terms, self.objective.base_weights, strict=True))
        stages.check(config, self._base_weights)
        self._optimizer = optim.build(self.objective, config)
        self._average = AveragedModel(model, width=config.optim.ema_width) if config.optim.ema_width else None
        self._stages = config.stages or (stages.EVERYTHING,)
        self._enter(0)

    @property
    def kept(self) -> DetectionModel:
        """The model to score and to write: the average, where there is one."""
        return self._average.model if self._average else self._model

    def learn(self, batch: Batch, progress: float, epoch: float = 0.0) -> Learned:
        """One step on a batch, which is on the device; `progress` is the share of the run that is done."""
        config = self._config
        self._enter(stages.at(config.stages, progress).index)
        factor = schedule.lr_factor(self.steps, progress, config.optim) * stages.lr_factor(config.stages, progress)
        optim.set_lr(self._optimizer, factor)
        weights = stages.weights(config.stages, progress, self._base_weights)
        step: StepLosses = self.objective(
            batch,
            weights,
            aligned=config.assign.kind == "task_aligned" and progress >= config.assign.aligned_from,
            lesson=self._lesson(batch, weights),
        )
        self._optimizer.zero_grad(set_to_none=True)
        step.total.backward()
        optim.clip(self.objective, config.optim)
        self._optimizer.step()
        self.steps += 1
        self.lr = config.optim.lr * factor
        if self._average:
            self._average.update(self._model, self.steps)
        gram = self.objective.junction.gram
        # Free of the stage's weights, whose changes are no progress of the training.
        losses = self._world.mean(self.objective.base_losses(step.losses, weights))
        self.objective.balancer.observe(losses, gram if gram is not None else losses.new_zeros(2 * losses.shape), epoch)
        return Learned(losses=step.losses, branches=step.branches, stage=self.stage, gram=gram)

    def _lesson(self, batch: Batch, weights: Sequence[float]) -> Lesson | None:
        terms = zip(self.objective.terms, weights, strict=True)
        is_asked = any(weight and stages.is_against_teacher(term) for term, weight in terms)
        return self._teacher.look(batch.images) if self._teacher and is_asked else None

    def _enter(self, stage: int) -> None:
        """Begin every stage up to this one; a long pause may pass over a short one."""
        for number in range(self.stage + 1, stage + 1):
            self.stage = number
            entered = self._stages[number]
            self._reset(entered.reset, seed=self._config.seed + number)
            # What it remembers of the losses belongs to the stage that ends.
            self.objective.balancer.restart()
            stages.set_learners(self._model, entered)

    def _reset(self, names: Sequence[str], *, seed: int) -> None:
        # From a seed of its own: a run that goes on after a stop draws the same weights.
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed % 2**63)
            for name in names:
                head = self._model.heads.head_named(name)
                head.reset()
                for parameter in head.parameters():
                    self._optimizer.state.pop(parameter, None)
                if self._average:
                    self._average.restart(self._model, f"heads.{name}.", self.steps)

    def state_dict(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "stage": self.stage,
            "objective": self.objective.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "average": self._average.model.state_dict() if self._average else None,
            "average_starts": self._average.starts if self._average else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of the same configuration."""
        self.steps, self.stage = cast("int", state["steps"]), cast("int", state["stage"])
        self.objective.load_state_dict(cast("dict[str, Tensor]", state["objective"]))
        self._optimizer.load_state_dict(cast("dict[str, Any]", state["optimizer"]))
        if self._average:
            self._average.model.load_state_dict(cast("dict[str, Tensor]", state["average"]))
            self._average.starts = cast("dict[str, int]", state["average_starts"])
        stages.set_learners(self._model, self._stages[self.stage])
