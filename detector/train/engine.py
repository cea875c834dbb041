"""The training loop."""

import itertools
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from detector.config import RunConfig
from detector.model.detector import DetectionModel
from detector.train import schedule
from detector.train.learner import Learner
from detector.train.meter import Meter
from detector.train.record import EvaluationMetrics, Record
from detector.train.schedule import Plan
from detector.train.waiting import Waiting
from detector.types import Batch, BatchShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """What a scoring of the validation split tells the loop."""

    ap: float
    ap50: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What the loop calls back; the composition root knows how it is done."""

    evaluate: Callable[[DetectionModel, Callable[[], bool]], Quality | None] | None
    """Score the validation split, asking now and then whether to stop, and then without a result; None where there is
    no such split."""
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
    learner: Learner,
    open_batches: Callable[[Iterator[BatchShape]], Iterator[Batch]],
    *,
    config: RunConfig,
    canvas_hw: tuple[int, int],
    num_images: int,
    hooks: Hooks,
    record: Record,
) -> Outcome:
    """Train until the configured length is reached or Ctrl-C is pressed.

    The averaged weights, where averaging is on, are what is scored and kept.

    Args:
        learner: The model with what changes it.
        open_batches: Starts the loader; it is told the shape of each batch as it asks for it.
        config: All settings.
        canvas_hw: The whole canvas.
        num_images: Of the training split, for counting epochs.
        hooks: Called back.
        record: Where progress goes.

    Raises:
        DetectorError: the loss is no longer finite.
    """
    plan = schedule.plan(config.length, config.data, num_images=num_images)
    waiting = Waiting(record, config.data)
    meter = Meter(record, learner, waiting, num_images=num_images, stage_names=[stage.name for stage in config.stages])
    unreadable: dict[str, None] = {}
    clock = _Clock()
    batches = open_batches(_shapes(plan, clock, config, canvas_hw))
    with _stop_on_interrupt(record) as stop:
        keeper = _Keeper(hooks, record, stop)
        while (progress := plan.progress(learner.steps, clock.seconds)) < 1 and not stop.is_set():
            if plan.evaluations_due(progress) > keeper.evaluations:
                with meter.paused():
                    keeper.evaluate(learner, meter.epochs, clock.seconds)
                # A slow scoring may span several that were due: they are not made up for.
                keeper.evaluations = plan.evaluations_due(plan.progress(learner.steps, clock.seconds))
                continue
            batch = waiting.next(batches).to(learner.device)
            learned = learner.learn(batch, progress, meter.epochs)
            unreadable |= dict.fromkeys(batch.unreadable)
            meter.add(learned, num_images=len(batch.images), progress=progress)
            meter.show_if_due(plan.progress(learner.steps, clock.seconds))

        meter.finish(plan.progress(learner.steps, clock.seconds))
        keeper.finish(learner, meter.epochs, clock.seconds)
    return Outcome(steps=learner.steps, best=keeper.best, interrupted=keeper.interrupted, unreadable=tuple(unreadable))


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


class _Keeper:
    """Scores the model when asked and keeps the best."""

    def __init__(self, hooks: Hooks, record: Record, stop: threading.Event) -> None:
        self._hooks = hooks
        self._record = record
        self._stop = stop
        self._has_best = False
        self.best: Quality | None = None
        self.evaluations = 0
        self.interrupted = False

    def evaluate(self, learner: Learner, epoch: float, seconds: float) -> None:
        if self._hooks.evaluate is None:
            self._keep_best(learner)
            return
        quality = self._hooks.evaluate(learner.kept, self._stop.is_set)
        if quality is None:
            return
        is_best = self.best is None or quality.ap >= self.best.ap
        if is_best:
            self.best = quality
            self._keep_best(learner)
        self._record.evaluation(
            EvaluationMetrics(
                step=learner.steps, epoch=epoch, seconds=seconds, ap=quality.ap, ap50=quality.ap50, is_best=is_best
            )
        )

    def finish(self, learner: Learner, epoch: float, seconds: float) -> None:
        """Keep the end of the run and score it, unless the user is waiting for it to stop."""
        self._hooks.keep_last(learner.kept)
        if not self._stop.is_set():
            self.evaluate(learner, epoch, seconds)
        self.interrupted = self._stop.is_set()
        if self.interrupted:
            self._record.say(f"interrupted at step {learner.steps}: the weights of this step are kept")
        if not self._has_best:  # users look for a model under this name
            self._keep_best(learner)

    def _keep_best(self, learner: Learner) -> None:
        self._hooks.keep_best(learner.kept)
        self._has_best = True


@contextmanager
def _stop_on_interrupt(record: Record) -> Generator[threading.Event]:
    """Turn the first Ctrl-C into a request to stop after the current step; the second one ends at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may handle signals
        return

    def request(signum: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        record.say("stopping after this step; Ctrl-C once more ends at once")

    previous = signal.signal(signal.SIGINT, request)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)
