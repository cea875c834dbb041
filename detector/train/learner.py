"""The model with everything that changes it, a step at a time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from detector.config import RunConfig
from detector.errors import ConfigError
from detector.model.detector import DetectionModel
from detector.train import optim, schedule, stages
from detector.train.distillation import Teacher
from detector.train.distributed import World
from detector.train.ema import AveragedModel
from detector.train.objective import Objective, StepLosses
from detector.types import Batch, Losses


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What one step showed; tensors on the device, without gradient."""

    losses: Losses
    branches: Tensor  # float32 [K], weighted loss of each branch before balancing
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
        self.stage = 0
        self._model = model
        self._config = config
        self._teacher = teacher
        self._world = world or World()
        self.objective = Objective(model, config, dtype=dtype, teacher=teacher, world=self._world).to(self.device)
        # What is called in a step: the objective, or what wraps it for several processes.
        self._losses: Callable[..., StepLosses] = self.objective
        self._base_weights = dict(zip(self.objective.terms, self.objective.base_weights, strict=True))
        stages.check(config, self._base_weights)
        self._optimizer = optim.build(self.objective, config)
        self._average = AveragedModel(model, width=config.optim.ema_width) if config.optim.ema_width else None
        stages.set_learners(model, stages.at(config.stages, 0.0).stage)

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
        step = self._losses(
            batch,
            weights,
            aligned=config.assign.kind == "task_aligned" and progress >= config.assign.aligned_from,
            lesson=self._teacher.look(batch.images) if self._teacher else None,
        )
        if not step.total.requires_grad:
            stage = stages.at(config.stages, progress).stage
            raise ConfigError(
                f"stages.{stage.name}: no loss with a weight reaches the parts that learn ({', '.join(stage.learn)}); "
                "name other parts, or give one of their losses a weight"
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
        losses = self._world.sum(step.branches) / self._world.size
        self.objective.balancer.observe(losses, gram if gram is not None else losses.new_zeros(2 * losses.shape), epoch)
        return Learned(losses=step.losses, branches=step.branches, gram=gram)

    def _enter(self, stage: int) -> None:
        if stage == self.stage:
            return
        self.stage = stage
        entered = self._config.stages[stage]
        for name in entered.reset:
            head = self._model.heads.head_named(name)
            # From a seed of its own: a run that goes on after a stop draws the same weights.
            with torch.random.fork_rng([]):
                torch.manual_seed((self._config.seed + stage) % 2**63)
                head.reset()
            for parameter in head.parameters():
                self._optimizer.state.pop(parameter, None)
            if self._average:
                self._average.restart(self._model, f"heads.{name}.")
        stages.set_learners(self._model, entered)

    def state_dict(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "stage": self.stage,
            "objective": self.objective.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "average": self._average.model.state_dict() if self._average else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of the same configuration."""
        self.steps, self.stage = cast("int", state["steps"]), cast("int", state["stage"])
        self.objective.load_state_dict(cast("dict[str, Tensor]", state["objective"]))
        self._optimizer.load_state_dict(cast("dict[str, Any]", state["optimizer"]))
        if self._average:
            self._average.model.load_state_dict(cast("dict[str, Tensor]", state["average"]))
        entered = (self._config.stages or (stages.EVERYTHING,))[self.stage]
        stages.set_learners(self._model, entered)
