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
    seconds: float
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
    device = next(model.parameters()).device
    objective = Objective(config=config, dtype=precision.resolve(config.precision, device))
    optimizer = optim.build(model, config.optim)
    average = AveragedModel(model, width=config.optim.ema_width) if config.optim.ema_width else None
    kept = average.model if average else model
    plan = schedule.plan(config.length, config.data, num_images=num_images)
    keeper = _Keeper(hooks, record)
    meter = _Meter(record, num_images=num_images)
    unreadable: dict[str, None] = {}
    start = time.monotonic()
    step = 0
    model.train()

    def shapes() -> Iterator[BatchShape]:
        # Counts for itself: loader processes ask ahead of the step that is being trained.
        for asked in itertools.count():
            yield schedule.batch_shape(plan.progress(asked, time.monotonic() - start), config.data, canvas_hw)

    batches = open_batches(shapes())
    with _stop_on_interrupt() as stop:
        while True:
            progress = plan.progress(step, time.monotonic() - start)
            if progress >= 1 or stop.is_set():
                break
            if plan.evaluations_due(progress) > keeper.evaluations:
                with meter.paused():
                    keeper.evaluate(kept, step, meter.epochs, time.monotonic() - start)

            batch = next(batches).to(device)
            factor = schedule.lr_factor(step, progress, config.optim)
            optim.set_lr(optimizer, factor)
            losses = _step(model, batch, objective, optimizer, config.optim.clip_norm)
            step += 1
            if average:
                average.update(model, step)
            unreadable |= dict.fromkeys(batch.unreadable)
            meter.add(losses, num_images=len(batch.images))
            meter.show_if_due(step, progress, config.optim.lr * factor)

        interrupted = stop.is_set()
        meter.flush(step, 1.0 if not interrupted else progress, config.optim.lr * optim.current_factor(optimizer))
        seconds = time.monotonic() - start
        hooks.keep_last(kept)
        if interrupted:
            record.say(f"interrupted at step {step}: the weights of this step are kept")
            keeper.keep_unscored(kept)
        else:
            keeper.evaluate(kept, step, meter.epochs, seconds)
    return Outcome(steps=step, seconds=seconds, best=keeper.best, interrupted=interrupted, unreadable=tuple(unreadable))


def _step(
    model: DetectionModel,
    batch: Batch,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    clip_norm: float,
) -> Losses:
    total, losses = objective(model, batch)
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    if clip_norm:
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm, foreach=True)
    optimizer.step()
    return losses


class _Keeper:
    """Scores the model when asked and keeps the best."""

    def __init__(self, hooks: Hooks, record: Record) -> None:
        self._hooks = hooks
        self._record = record
        self.best: Quality | None = None
        self.evaluations = 0

    def evaluate(self, model: DetectionModel, step: int, epoch: float, seconds: float) -> None:
        self.evaluations += 1
        if self._hooks.evaluate is None:
            self._hooks.keep_best(model)
            return
        quality = self._hooks.evaluate(model)
        is_best = self.best is None or quality.ap >= self.best.ap
        if is_best:
            self.best = quality
            self._hooks.keep_best(model)
        self._record.evaluation(
            EvaluationMetrics(
                step=step, epoch=epoch, seconds=seconds, ap=quality.ap, ap50=quality.ap50, is_best=is_best
            )
        )

    def keep_unscored(self, model: DetectionModel) -> None:
        """A run that ends before its first scoring still leaves a model under the name users look for."""
        if self.best is None:
            self._hooks.keep_best(model)


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

    def show_if_due(self, step: int, progress: float, lr: float) -> None:
        if step == 1 or time.monotonic() - self._since >= SECONDS_BETWEEN_RECORDS:
            self.flush(step, progress, lr)

    def flush(self, step: int, progress: float, lr: float) -> None:
        if self._sums is None:
            return
        classification, box = cast("list[float]", (self._sums / self._steps).tolist())
        if not (math.isfinite(classification) and math.isfinite(box)):
            raise DetectorError(
                f"the loss is not finite at step {step} (classification {classification}, box {box}): "
                f"lower optim.lr (now {lr:.1e}) or lengthen optim.warmup_steps"
            )
        now = time.monotonic()
        elapsed = now - self._start
        self._record.step(
            StepMetrics(
                step=step,
                epoch=self.epochs,
                classification_loss=classification,
                box_loss=box,
                lr=lr,
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
