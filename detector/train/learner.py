"""The model with everything that changes it, a step at a time."""

import copy
import math
import warnings
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from detector.config import RunConfig
from detector.errors import CheckpointError
from detector.model.detector import DetectionModel
from detector.train import optim, schedule, stages
from detector.train.distillation import Lesson, Teacher
from detector.train.distributed import World
from detector.train.ema import AveragedModel
from detector.train.objective import Objective, StepLosses
from detector.train.state import LearnerState
from detector.types import Batch, Losses


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What one step showed all processes together; tensors on the device, without gradient."""

    losses: Losses
    branches: Tensor  # float32 [K], weighted loss of each branch before balancing
    stage: int
    gram: Tensor | None  # float32 [K, K], inner products of the branches' gradients at the trunk; None if it is frozen
    is_finite: Tensor  # bool scalar; where it is false the step changed no weight


class Learner:
    """Model, objective, optimizer, average and stage."""

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
        self.lr_scale = 1.0
        """On top of the schedule."""
        self.micro_batches = config.memory.micro_batches
        """Parts of a batch; more than the settings say where the device has not enough memory."""
        self._model = model
        self._config = config
        self._teacher = teacher
        self.world = world or World()
        self.objective = Objective(model, config, dtype=dtype, teacher=teacher, world=self.world).to(self.device)
        self._base_weights = dict(zip(self.objective.terms, self.objective.base_weights, strict=True))
        stages.check(config, self._base_weights)
        self._optimizer = optim.build(self.objective, config)
        self._average = AveragedModel(model, width=config.optim.ema_width) if config.optim.ema_width else None
        self._stages = config.stages or (stages.EVERYTHING,)
        self._replica: DistributedDataParallel | None = None
        """The objective, if there are several processes: it averages their gradients."""
        self._enter(0)

    @property
    def kept(self) -> DetectionModel:
        """The model to score and to write: the average, where there is one."""
        return self._average.model if self._average else self._model

    def learn(self, batch: Batch, progress: float, epoch: float = 0.0) -> Learned:
        """One step on a batch, which is on the device; `progress` is the share of the run that is done."""
        return self._step(batch, progress, epoch)

    def rehearse(self, batch: Batch, progress: float) -> None:
        """A step that is none of the run's: whoever asks for it puts the state back."""
        self._step(batch, progress, 0.0)

    def _step(self, batch: Batch, progress: float, epoch: float) -> Learned:
        config = self._config
        self._enter(stages.at(config.stages, progress).index)
        factor = schedule.lr_factor(self.steps, progress, config.optim) * stages.lr_factor(config.stages, progress)
        factor *= self.lr_scale
        optim.set_lr(self._optimizer, factor)
        weights = stages.weights(config.stages, progress, self._base_weights)
        aligned = config.assign.kind == "task_aligned" and progress >= config.assign.aligned_from
        self._optimizer.zero_grad(set_to_none=True)
        if self.micro_batches == 1:
            step = self._call(batch, weights, aligned=aligned, lesson=self._lesson(batch, weights))
            step.total.backward()
        else:
            step = self._by_parts(batch, weights, self.micro_batches)
        norm = optim.clip(self.objective, config.optim)
        step, is_finite = self._of_all(step, torch.isfinite(norm + step.total.detach()))
        optim.step_if(self._optimizer, is_finite)
        self.steps += 1
        self.lr = config.optim.lr * factor
        if self._average:
            self._average.update(self._model, self.steps)
        gram = self.objective.junction.gram
        # Free of the stage's weights, whose changes are no progress of the training.
        losses = self.objective.base_losses(step.losses, weights)
        self.objective.balancer.observe(losses, gram if gram is not None else losses.new_zeros(2 * losses.shape), epoch)
        return Learned(losses=step.losses, branches=step.branches, stage=self.stage, gram=gram, is_finite=is_finite)

    def _of_all(self, step: StepLosses, is_finite: Tensor) -> tuple[StepLosses, Tensor]:
        """Losses of all processes, and whether all is finite in each of them, in one exchange."""
        if self.world.size == 1:
            return step, is_finite
        values, branches = step.losses.values, step.branches
        flag = is_finite.to(values.dtype).reshape(1)
        means = self.world.mean(torch.cat((values, branches, flag)))
        values, branches, share = means[: len(values)], means[len(values) : -1], means[-1]
        losses = Losses(terms=step.losses.terms, values=values)
        return StepLosses(total=step.total, losses=losses, branches=branches), share == 1

    def _call(
        self,
        batch: Batch,
        weights: Sequence[float],
        *,
        aligned: bool = False,
        lesson: Lesson | None = None,
        count: Tensor | None = None,
    ) -> StepLosses:
        objective = self._replica or self.objective
        return objective(batch, weights, aligned=aligned, lesson=lesson, count=count)

    def _by_parts(self, batch: Batch, weights: Sequence[float], parts: int) -> StepLosses:
        """Gradients and losses of a batch, added up over parts of it that all divide by the count of the whole."""
        count = self.objective.count_positives(batch)
        steps: list[StepLosses] = []
        grams: list[Tensor | None] = []
        size = math.ceil(len(batch.images) / parts)
        for start in range(0, len(batch.images), size):
            part = batch.part(slice(start, start + size))
            is_last = start + size >= len(batch.images)
            # Gradients are exchanged once.
            with nullcontext() if self._replica is None or is_last else self._replica.no_sync():
                step: StepLosses = self._call(part, weights, count=count)
                step.total.backward()
            steps.append(step)
            grams.append(self.objective.junction.gram)
        measured = [gram for gram in grams if gram is not None]
        # Between the parts nothing is measured: their gradients never meet at the trunk.
        self.objective.junction.gram = torch.stack(measured).sum(dim=0) if measured else None
        return StepLosses(
            total=torch.stack([step.total.detach() for step in steps]).sum(),
            losses=Losses(
                terms=steps[0].losses.terms, values=torch.stack([step.losses.values for step in steps]).sum(dim=0)
            ),
            branches=torch.stack([step.branches for step in steps]).sum(dim=0),
        )

    def statistics(self) -> list[Tensor]:
        """What a forward pass changes besides the weights: the statistics of the norms, and their averages."""
        models = [self._model, *([self._average.model] if self._average else [])]
        return [buffer for model in models for buffer in model.buffers() if buffer.is_floating_point()]

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
            self.share_statistics()  # a part that stops learning keeps those it has
            self._set_learners(number)

    def _set_learners(self, number: int) -> None:
        stages.set_learners(self._model, self._stages[number])
        if self.world.size == 1:
            return
        if self._replica is not None:
            # It knows only those that learned when it was made.
            self._replica._remove_autograd_hooks()  # pyright: ignore[reportPrivateUsage]
        # Over the beginning of a stage the weights of the one before fade.
        of_stages = [
            stages.weights_of(stage, self._base_weights) for stage in self._stages[max(0, number - 1) : number + 1]
        ]
        with warnings.catch_warnings():
            # Its new name is not known to all versions that we run with.
            warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
            self._replica = DistributedDataParallel(
                self.objective,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
                find_unused_parameters=any(map(self.objective.leaves_out, of_stages)),
            )

    def share_statistics(self) -> None:
        """Give all processes the mean of the statistics that each one's norms have seen; all must call it.

        A running mean is linear in what it has seen, so to share now and then is to share at every step.
        """
        if self.world.size == 1:
            return
        names = [
            f"{name}.{statistic}"
            for name, norm in cast("Iterable[tuple[str, nn.Module]]", self._model.named_modules())
            if isinstance(norm, nn.BatchNorm2d) and norm.training
            for statistic in ("running_mean", "running_var")
        ]
        models = [self._model, *([self._average.model] if self._average else [])]
        buffers = [model.get_buffer(name) for model in models for name in names]
        if not buffers:
            return
        together = self.world.mean(torch.cat(buffers))
        means = cast("tuple[Tensor, ...]", together.split([len(buffer) for buffer in buffers]))
        for buffer, mean in zip(buffers, means, strict=True):
            buffer.copy_(mean)

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

    def capture(self) -> LearnerState:
        """The state as it is: its tensors go on changing."""
        return LearnerState(
            steps=self.steps,
            stage=self.stage,
            lr_scale=self.lr_scale,
            objective=self.objective.state_dict(),
            optimizer=self._optimizer.state_dict(),
            average=self._average.model.state_dict() if self._average else None,
            average_starts=dict(self._average.starts) if self._average else None,
        )

    def restore(self, state: LearnerState) -> None:
        """Go on from a state of the same configuration.

        Raises:
            CheckpointError: it is of another one.
        """
        if (state.average is None) != (self._average is None):
            raise CheckpointError("the state has an average of the weights and the settings have none, or the opposite")
        late = [name for name, start in (state.average_starts or {}).items() if start > state.steps]
        if late:
            raise CheckpointError(
                f"the state is not whole: it is of step {state.steps}, and its average of {late[0]} begins later"
            )
        try:
            self.objective.load_state_dict(state.objective)
            # A copy: the optimizer would go on in the very tensors of the state.
            self._optimizer.load_state_dict(copy.deepcopy(state.optimizer))
            if self._average and state.average is not None and state.average_starts is not None:
                self._average.model.load_state_dict(state.average)
                self._average.starts = dict(state.average_starts)
        except (RuntimeError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise CheckpointError(f"the state does not fit the settings: {reason}") from error
        self.steps, self.stage, self.lr_scale = state.steps, state.stage, state.lr_scale
        self._set_learners(self.stage)
