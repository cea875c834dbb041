"""The training loop."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from detector.config import RunConfig
from detector.errors import DataError, DetectorError
from detector.train import schedule
from detector.train.agreement import Agreement
from detector.train.clock import Clock
from detector.train.health import DivergedError, Health, Suspect
from detector.train.journal import Journal
from detector.train.keeper import Hooks, Keeper
from detector.train.learner import Learner
from detector.train.meter import Meter
from detector.train.saver import Saver
from detector.train.shapes import Shapes
from detector.train.signals import Requests
from detector.train.state import LoopState, Quality, RandomStreams, TrainingState, seed_streams
from detector.train.waiting import Waiting
from detector.types import Batch, BatchShape

OpenBatches = Callable[[Iterator[BatchShape], int], Iterator[Batch]]
"""Starts the loader: it is told the shape of each batch as it asks for it, and how many images were taken before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How training ended."""

    steps: int
    best: Quality | None
    interrupted_by: int | None
    """Number of the signal."""
    unreadable: tuple[str, ...]
    """Image files that could not be read, each once."""

    @property
    def interrupted(self) -> bool:
        return self.interrupted_by is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is to be done, besides with which weights."""

    config: RunConfig
    canvas_hw: tuple[int, int]
    num_images: int
    """Of the training split, for counting epochs."""
    open_batches: OpenBatches


def fit(
    learner: Learner,
    task: Task,
    *,
    hooks: Hooks,
    record: Journal,
    requests: Requests,
    saver: Saver | None = None,
    write_suspect: Callable[[Suspect], str | None] = lambda _: None,
    start: TrainingState | None = None,
) -> Outcome:
    """Train until the configured length is reached or a stop is asked for.

    The averaged weights, where averaging is on, are what is scored and kept.

    Args:
        learner: The model with what changes it; already in the state `start`, where there is one.
        task: Settings and data.
        hooks: Called back.
        record: Where progress goes.
        requests: To stop, or to save; of whoever hears the signals.
        saver: Writes checkpoints; None for none, and in all processes but the first.
        write_suspect: Writes down a step that is not finite, and says where.
        start: Where an earlier process stopped.

    Raises:
        DivergedError: step after step is not finite.
        NoMemoryError: the device has not enough for a step.
        DataError: the images are gone.
        DetectorError: the first or the last state cannot be written.
    """
    loop = _Loop(learner, task, hooks, record, saver, write_suspect, requests, start)
    try:
        loop.run()
    except DivergedError as error:
        error.seconds, error.skipped = loop.seconds, loop.skipped
        raise
    except torch.OutOfMemoryError as error:
        raise NoMemoryError(error, loop.seconds) from error
    return loop.outcome()


class NoMemoryError(Exception):
    """The device has not enough memory for a step."""

    def __init__(self, cause: torch.OutOfMemoryError, seconds: float) -> None:
        super().__init__()
        self.cause = cause
        self.seconds = seconds
        """Spent on the run by then."""


class _Loop:
    """One run of the loop, and the state that only it knows."""

    def __init__(
        self,
        learner: Learner,
        task: Task,
        hooks: Hooks,
        record: Journal,
        saver: Saver | None,
        write_suspect: Callable[[Suspect], str | None],
        requests: Requests,
        start: TrainingState | None,
    ) -> None:
        config = task.config
        self._start = start
        self._from = start.loop if start else LoopState()
        self._learner = learner
        self._task = task
        self._record = record
        self._saver = saver
        self._requests = requests
        self._world = learner.world
        self._plan = schedule.plan(config, num_images=task.num_images)
        self._shapes = Shapes(self._plan, config, task.canvas_hw, first=learner.steps)
        self._clock = Clock(self._from.seconds)
        self._agreement = Agreement(self._world, self._clock, requests)
        self._waiting = Waiting(record, config.data, self._world.neighbours)
        self._meter = Meter(
            record,
            learner,
            self._waiting,
            num_images=task.num_images,
            stage_names=[stage.name for stage in config.stages],
            clock=self._clock,
            images_seen=self._from.images,
        )
        self._keeper = Keeper(
            hooks, record, is_stopping=self._agreement.stop.is_set, hurry=requests.stop.is_set, loop=self._from
        )
        self._health = Health(learner, self._from, say=record.say, write=write_suspect)
        self._unreadable = dict.fromkeys(self._from.unreadable)
        self._news: list[str] = []
        self._finished = False

    def run(self) -> None:
        batches = self._task.open_batches(self._shapes, self._from.images)
        rank, seed = self._world.rank, self._task.config.seed
        if self._start is not None:
            self._start.restore_streams(rank, seed=seed)
        else:
            seed_streams(rank, seed=seed)
            self._save(surely=True)
        try:
            self._repeat(batches)
            self._end()
        except DataError:
            # Nothing is wrong with the state: once the images are back, no step is lost. Among several processes the
            # others do not know of it.
            if self._world.size == 1:
                self._save(wait=True)
            raise

    def _repeat(self, batches: Iterator[Batch]) -> None:
        self._agree()
        while self._progress < 1 and not self._agreement.stop.is_set() and not self._is_patience_lost:
            if self._plan.evaluations_due(self._progress) > self._keeper.evaluations:
                self._evaluate()
            else:
                self._save_if_due()
                self._step(batches)
            self._agree()

    def outcome(self) -> Outcome:
        return Outcome(
            steps=self._learner.steps,
            best=self._keeper.best,
            interrupted_by=None if self._finished else self._requests.stopped_by,
            unreadable=tuple(self._unreadable),
        )

    @property
    def seconds(self) -> float:
        return self._clock.seconds

    @property
    def skipped(self) -> int:
        return self._health.skipped

    @property
    def _progress(self) -> float:
        return self._plan.progress(self._learner.steps, self._clock.seconds)

    @property
    def _is_patience_lost(self) -> bool:
        patience = self._task.config.length.patience
        return patience is not None and self._keeper.since_reference >= patience

    def _agree(self) -> None:
        reasons = self._agreement.reach(self._is_save_due, self._news, self._shapes.asked)
        self._shapes.agreed(self._progress, self._agreement.asked)
        for reason in reasons:
            if reason not in self._unreadable:
                self._unreadable[reason] = None
                self._record.say(f"warning: another image stands in for one that cannot be read: {reason}")
        self._news.clear()

    def _is_save_due(self) -> bool:
        if self._saver is None:
            return False
        self._saver.poll()
        return self._saver.is_due and self._health.in_a_row == 0  # training may yet have to go back

    def _step(self, batches: Iterator[Batch]) -> None:
        progress = self._progress
        batch = self._waiting.next(batches).to(self._learner.device)
        self._health.about_to_learn()
        learned = self._learner.learn(batch, progress, self._meter.epochs)
        self._news += batch.unreadable
        # First the count of images: a step that ends the attempt is behind us all the same.
        self._meter.add(learned, num_images=len(batch.images) * self._world.size, progress=progress)
        skipped = self._health.skipped
        self._health.add(batch, learned, progress)
        if self._health.skipped > skipped:
            self._record.skipped(self._health.skipped)
        self._meter.show_if_due(self._progress)

    def _evaluate(self) -> None:
        if self._saver:
            self._saver.wait()  # the loader forks
        self._health.settle()
        self._learner.share_statistics()
        with self._meter.paused():
            is_done = self._keeper.evaluate(self._learner, self._meter.epochs, self._clock.seconds)
        if is_done:
            # A slow scoring may span several that were due: they are not made up for.
            self._keeper.evaluations = self._plan.evaluations_due(self._progress)
            if self._health.in_a_row == 0:  # training may yet have to go back
                self._save()

    def _end(self) -> None:
        self._health.settle()
        self._meter.finish(self._progress)
        asked_to_stop = self._agreement.stop.is_set()
        lost: DetectorError | None = None
        if asked_to_stop:
            lost = self._save_last()  # before anything else: whoever asks may not wait long
        elif self._saver:
            self._saver.wait()  # the loader forks
        self._learner.share_statistics()
        self._finished = self._keeper.finish(self._learner, self._meter.epochs, self._clock.seconds)
        if not asked_to_stop:
            lost = self._save_last()
        if not self._finished:
            self._agree()  # on who asked, where that was during the last scoring
        if lost is not None:
            raise lost
        if self._finished:
            early = self._progress < 1
            why = f"; {self._keeper.since_reference} scorings brought no clear gain" if early else ""
            self._record.ended("finished", f"{self._learner.steps} steps{why}")
        else:
            self._record.say(f"interrupted at step {self._learner.steps}: the weights of this step are kept")
            self._record.ended("interrupted", f"{self._requests.reason} at step {self._learner.steps}")

    def _save_if_due(self) -> None:
        if self._agreement.save:
            self._save(wait=True)
            self._record.say(f"checkpoint of step {self._learner.steps}, as asked by a signal")
        elif self._agreement.is_save_due:
            self._save()

    def _save_last(self) -> DetectorError | None:
        """Why it could not be written: the models of this step are to be kept all the same."""
        try:
            self._save(surely=True)
        except DetectorError as error:
            return error
        return None

    def _save(self, *, wait: bool = False, surely: bool = False) -> None:
        if self._saver is None and self._world.size == 1:
            return
        self._health.settle()
        self._learner.share_statistics()
        self._meter.flush(self._progress)
        streams = self._world.to_first(RandomStreams.capture())
        if self._saver is None:
            return
        capture = partial(self._capture, streams)
        if surely:
            self._saver.save_surely(capture)
        else:
            self._saver.save(capture, wait=wait)

    def _capture(self, streams: Sequence[RandomStreams]) -> TrainingState:
        return TrainingState(
            learner=self._learner.capture(),
            loop=LoopState(
                images=self._meter.images_seen,
                seconds=self._clock.seconds,
                evaluations=self._keeper.evaluations,
                best=self._keeper.best,
                reference=self._keeper.reference,
                evaluations_since_reference=self._keeper.since_reference,
                skipped=self._health.skipped,
                skipped_in_a_row=self._health.in_a_row,
                rollbacks=self._from.rollbacks,
                unreadable=tuple(self._unreadable),
                metrics_bytes=self._record.metrics_bytes,
                finished=self._finished,
            ),
            random=streams[0],
            others=tuple(streams[1:]),
        )
