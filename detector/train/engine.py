"""The training loop."""

import itertools
import math
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import cast

import torch
from torch import Tensor

from detector.config import RunConfig
from detector.errors import DetectorError
from detector.model import precision
from detector.model.detector import DetectionModel
from detector.train import optim, schedule
from detector.train.ema import AveragedModel
from detector.train.objective import Objective
from detector.train.record import EvaluationMetrics, Record, StepMetrics
from detector.train.schedule import Plan
from detector.types import Batch, BatchShape, Losses

SECONDS_BETWEEN_RECORDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """What a scoring of the validation split tells the loop."""

    ap: float
    ap50: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What the loop calls back; the composition root knows how it is done."""

    evaluate: Callable[[DetectionModel], Quality] | None
    """Score the validation split; None where there is none."""
    keep_best: Callable[[DetectionModel], None]
    keep_last: Callable[[DetectionModel], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How training ended."""

    steps: int
    best: Quality | None
    interrupted: bool
    unreadable: tuple[str, ...]
    """Image files that could not be read, each once."""


def fit(
    model: DetectionModel,
    open_batches: Callable[[Iterator[BatchShape]], Iterator[Batch]],
    *,
    config: RunConfig,
    canvas_hw: tuple[int, int],
    num_images: int,
    hooks: Hooks,
    record: Record,
) -> Outcome:
    """Train `model` in place on its device until the configured length is reached or Ctrl-C is pressed.

    The averaged weights, where averaging is on, are what is scored and kept.

    Args:
        model: To be trained.
        open_batches: Starts the loader; it is told the shape of each batch as it asks for it.
        config: All settings.
        canvas_hw: The whole canvas.
        num_images: Of the training split, for counting epochs.
        hooks: Called back.
        record: Where progress goes.

    Raises:
        DetectorError: the loss is no longer finite.
    """
    learner = _Learner(model, config)
    plan = schedule.plan(config.length, config.data, num_images=num_images)
    keeper = _Keeper(hooks, record)
    meter = _Meter(record, num_images=num_images)
    unreadable: dict[str, None] = {}
    clock = _Clock()
    batches = open_batches(_shapes(plan, clock, config, canvas_hw))
    with _stop_on_interrupt() as stop:
        while (progress := plan.progress(learner.steps, clock.seconds)) < 1 and not stop.is_set():
            if plan.evaluations_due(progress) > keeper.evaluations:
                with meter.paused():
                    keeper.evaluate(learner, meter.epochs, clock.seconds)
            batch = next(batches).to(learner.device)
            losses = learner.learn(batch, progress)
            unreadable |= dict.fromkeys(batch.unreadable)
            meter.add(losses, num_images=len(batch.images))
            meter.show_if_due(learner, progress)

        meter.flush(learner, progress)
        keeper.finish(learner, meter.epochs, clock.seconds, interrupted=stop.is_set())
    names = tuple(unreadable)
    return Outcome(steps=learner.steps, best=keeper.best, interrupted=keeper.interrupted, unreadable=names)


class _Clock:
    """Seconds since training began."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start


def _shapes(plan: Plan, clock: _Clock, config: RunConfig, canvas_hw: tuple[int, int]) -> Iterator[BatchShape]:
    # Counts steps for itself: loader processes ask ahead of the one that is being trained.
    for step in itertools.count():
        yield schedule.batch_shape(plan.progress(step, clock.seconds), config.data, canvas_hw)


class _Learner:
    """The model with everything that changes it, a step at a time."""

    def __init__(self, model: DetectionModel, config: RunConfig) -> None:
        self.device = next(model.parameters()).device
        self.steps = 0
        self.lr = 0.0
        self._model = model.train()
        self._config = config.optim
        self._objective = Objective(config=config, dtype=precision.resolve(config.precision, self.device))
        self._optimizer = optim.build(model, config.optim)
        self._average = AveragedModel(model, width=config.optim.ema_width) if config.optim.ema_width else None

    @property
    def kept(self) -> DetectionModel:
        """The model to score and to write: the average, where there is one."""
        return self._average.model if self._average else self._model

    def learn(self, batch: Batch, progress: float) -> Losses:
        factor = schedule.lr_factor(self.steps, progress, self._config)
        optim.set_lr(self._optimizer, factor)
        total, losses = self._objective(self._model, batch)
        self._optimizer.zero_grad(set_to_none=True)
        total.backward()
        if self._config.clip_norm:
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._config.clip_norm, foreach=True)
        self._optimizer.step()
        self.steps += 1
        self.lr = self._config.lr * factor
        if self._average:
            self._average.update(self._model, self.steps)
        return losses


class _Keeper:
    """Scores the model when asked and keeps the best."""

    def __init__(self, hooks: Hooks, record: Record) -> None:
        self._hooks = hooks
        self._record = record
        self.best: Quality | None = None
        self.evaluations = 0
        self.interrupted = False

    def evaluate(self, learner: _Learner, epoch: float, seconds: float) -> None:
        self.evaluations += 1
        if self._hooks.evaluate is None:
            self._hooks.keep_best(learner.kept)
            return
        quality = self._hooks.evaluate(learner.kept)
        is_best = self.best is None or quality.ap >= self.best.ap
        if is_best:
            self.best = quality
            self._hooks.keep_best(learner.kept)
        self._record.evaluation(
            EvaluationMetrics(
                step=learner.steps, epoch=epoch, seconds=seconds, ap=quality.ap, ap50=quality.ap50, is_best=is_best
            )
        )

    def finish(self, learner: _Learner, epoch: float, seconds: float, *, interrupted: bool) -> None:
        """Keep the end of the run and score it, unless the user is waiting for it to stop."""
        self.interrupted = interrupted
        self._hooks.keep_last(learner.kept)
        if not interrupted:
            self.evaluate(learner, epoch, seconds)
            return
        self._record.say(f"interrupted at step {learner.steps}: the weights of this step are kept")
        if self.best is None:  # users look for a model under this name
            self._hooks.keep_best(learner.kept)


class _Meter:
    """Averages losses on the device and reads them only when a record is due, so that no step waits for a number."""

    def __init__(self, record: Record, *, num_images: int) -> None:
        self._record = record
        self._num_images = num_images
        self._images_seen = 0
        self._start = self._since = time.monotonic()
        self._sums: Tensor | None = None
        self._steps = 0
        self._images = 0

    @property
    def epochs(self) -> float:
        """Times the data set was gone through."""
        return self._images_seen / self._num_images

    @contextmanager
    def paused(self) -> Generator[None]:
        """Leave a span of time out of images/s."""
        start = time.monotonic()
        yield
        self._since += time.monotonic() - start

    def add(self, losses: Losses, *, num_images: int) -> None:
        row = torch.stack([losses.classification.detach(), (losses.smooth_l1 + losses.giou).detach()])
        self._sums = row if self._sums is None else self._sums + row
        self._steps += 1
        self._images += num_images
        self._images_seen += num_images

    def show_if_due(self, learner: _Learner, progress: float) -> None:
        if learner.steps == 1 or time.monotonic() - self._since >= SECONDS_BETWEEN_RECORDS:
            self.flush(learner, progress)

    def flush(self, learner: _Learner, progress: float) -> None:
        if self._sums is None:
            return
        classification, box = cast("list[float]", (self._sums / self._steps).tolist())
        if not (math.isfinite(classification) and math.isfinite(box)):
            raise DetectorError(
                f"the loss is not finite at step {learner.steps} (classification {classification}, box {box}): "
                f"lower optim.lr (now {learner.lr:.1e}) or lengthen optim.warmup_steps"
            )
        now = time.monotonic()
        elapsed = now - self._start
        self._record.step(
            StepMetrics(
                step=learner.steps,
                epoch=self.epochs,
                classification_loss=classification,
                box_loss=box,
                lr=learner.lr,
                images_per_second=self._images / max(now - self._since, 1e-9),
                seconds=elapsed,
                eta_seconds=elapsed * (1 - progress) / progress if progress else 0.0,
            ),
            progress,
        )
        self._since, self._sums, self._steps, self._images = now, None, 0, 0


@contextmanager
def _stop_on_interrupt() -> Generator[threading.Event]:
    """Turn the first Ctrl-C into a request to stop after the current step; the second one ends at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may handle signals
        return

    def request(signum: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    previous = signal.signal(signal.SIGINT, request)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)
