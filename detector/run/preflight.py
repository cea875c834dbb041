"""A step of each kind on the fullest batch, and a scored batch, before the run: memory, time, and whether it all works.

Nothing of it stays: weights, averages, optimizer, balancer and random streams are put back.
"""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from detector.data import batch as batches
from detector.data import loader, mix
from detector.data.batch import Item
from detector.data.columns import Columns
from detector.data.dataset import EvaluationSet, Outcome, TrainingSet
from detector.errors import DataError, DetectorError
from detector.model import inference
from detector.run import memory
from detector.run.assembly import Assembly
from detector.run.finding import BATCH_SIZE
from detector.run.forecasting import Forecast, Need, Threads
from detector.run.material import Material
from detector.train import preflight, schedule
from detector.train.learner import Learner
from detector.train.preflight import Phase
from detector.train.state import LoopState, RandomStreams, TrainingState
from detector.types import Batch

_READ = 8
"""Images that are read for a batch; they come again where it is larger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Full:
    """A batch on the device, and the seconds that one process needs to read its images."""

    batch: Batch
    seconds: float


class StoppedError(Exception):
    """It was asked to stop."""


def run(
    made: Assembly,
    material: Material,
    say: Callable[[str], None],
    should_stop: Callable[[], bool] = lambda: False,
) -> Forecast:
    """Measure. Where the device has not enough memory, the learner takes its batches in more parts from now on.

    Raises:
        StoppedError: `should_stop`, which is asked before each step, scored batch and image.
        DetectorError: it does not fit in any number of parts.
        DataError: no image can be read.
    """

    def go_on() -> None:
        if should_stop():
            raise StoppedError

    while True:
        try:
            with as_it_was(made.learner):
                return _forecast(made, material, go_on)
        except torch.OutOfMemoryError as error:
            said = memory.take_more_parts(error, made.learner, material.config)
            say(f"warning: preflight: {memory.reason(error)}: {said}")


@contextmanager
def as_it_was(learner: Learner) -> Generator[None]:
    """Put training back where it stands now when the block ends."""
    state = TrainingState(learner=learner.capture(), loop=LoopState(), random=RandomStreams.capture()).snapshot()
    lr = learner.lr
    try:
        yield
    finally:
        learner.restore(state.learner)
        learner.objective.zero_grad(set_to_none=True)
        learner.lr = lr
        state.random.restore()


def rehearse(learner: Learner, material: Material) -> None:
    """One step of each kind, for the memory that it takes."""
    for phase in _phases(material):
        learner.rehearse(_training_batch(material, phase, learner.device).batch, phase.progress)


def _forecast(made: Assembly, material: Material, go_on: Callable[[], None]) -> Forecast:
    go_on()
    learner, config = made.learner, material.config
    available = memory.available(learner.device)
    memory.reset_peak(learner.device)
    scoring = _scoring_seconds(made, material, go_on)  # before the steps, which change the weights
    phases = _phases(material)
    needs = tuple(_need(learner, material, phase, go_on) for phase in phases)
    plan = schedule.plan(config, num_images=len(material.columns))
    if scoring is None:
        plan = dataclasses.replace(plan, evaluations=0)
    return Forecast(
        needs=needs,
        canvas_hw=material.facts.preprocess.canvas_hw,
        most_objects=int(np.diff(material.columns.offsets).max()),
        scoring_seconds=scoring,
        peak_bytes=memory.peak(learner.device),
        available_bytes=available,
        estimate=preflight.estimate(
            plan, [need.phase.share for need in needs], [need.seconds for need in needs], scoring or 0.0
        ),
        minutes=config.length.minutes,
        warmup_steps=config.optim.warmup_steps,
        threads=_threads(learner, material, phases[0], go_on),
    )


def _phases(material: Material) -> tuple[Phase, ...]:
    return preflight.phases(material.config, material.facts.preprocess.canvas_hw)


def _need(learner: Learner, material: Material, phase: Phase, go_on: Callable[[], None]) -> Need:
    full = _training_batch(material, phase, learner.device, go_on)
    seconds = preflight.seconds_of(_step(learner, full, phase, go_on), learner.device)
    return Need(phase=phase, seconds=_with_reading(seconds, full.seconds, material))


def _step(learner: Learner, full: _Full, phase: Phase, go_on: Callable[[], None]) -> Callable[[], None]:
    def step() -> None:
        go_on()
        learner.rehearse(full.batch, phase.progress)

    return step


def _threads(learner: Learner, material: Material, phase: Phase, go_on: Callable[[], None]) -> Threads | None:
    num = torch.get_num_threads()
    if learner.device.type != "cpu" or num == 1:
        return None
    full = _training_batch(material, phase, learner.device, go_on)
    step = _step(learner, full, phase, go_on)
    seconds = preflight.seconds_of(step, learner.device)
    torch.set_num_threads(num // 2)
    try:
        half = preflight.seconds_of(step, learner.device)
    finally:
        torch.set_num_threads(num)
    return Threads(num=num, seconds=seconds, num_half=num // 2, seconds_half=half)


def _scoring_seconds(made: Assembly, material: Material, go_on: Callable[[], None]) -> float | None:
    """Of the whole validation split; its largest picture is among those that are tried."""
    columns, device = material.val_columns, made.learner.device
    if columns is None:
        return None
    rows = np.linspace(0, len(columns) - 1, min(BATCH_SIZE, len(columns))).astype(int).tolist()
    rows[0] = _largest(columns)
    dataset = EvaluationSet(columns, material.facts.preprocess)
    items, reading = _read([partial(dataset.__getitem__, row) for row in rows], go_on)
    shown = [item for item in items if item.sample is not None]
    if not shown:
        return 0.0  # the first scoring says what is wrong with them
    batch = batches.collate(shown)
    kept = dataclasses.replace(made.trained, model=made.learner.kept)

    def detect() -> None:
        go_on()
        inference.detect(kept, batch.images, batch.placements, dtype=material.facts.dtype)

    try:
        seconds = preflight.seconds_of(detect, device)
    except torch.OutOfMemoryError as error:
        # Parts of training batches would change nothing here.
        raise DetectorError(
            f"scoring {len(shown)} images: {memory.reason(error)}; set a smaller --image-size"
        ) from error
    num_batches = math.ceil(len(columns) / BATCH_SIZE)
    return num_batches * _with_reading(seconds, reading * len(shown), material)


def _with_reading(seconds: float, reading: float, material: Material) -> float:
    """Work of the device and reading: one after the other, or beside one another where other processes read."""
    workers = loader.num_workers(material.config.data)
    return max(seconds, reading / workers) if workers else seconds + reading


def _training_batch(
    material: Material, phase: Phase, device: torch.device, go_on: Callable[[], None] = lambda: None
) -> _Full:
    """Images as they will come, the largest picture among them, with the objects of the fullest image in each."""
    columns, config, shape = material.columns, material.config, phase.shape
    dataset = TrainingSet(columns, material.facts.preprocess, config.augment, config.seed)
    keys = next(loader.stream(config.seed, len(columns), [shape], 0))[:_READ]
    keys[0] = keys[0]._replace(row=_largest(columns))
    items, reading = _read([partial(dataset.__getitem__, key) for key in keys], go_on)
    batch = batches.collate([items[place % len(items)] for place in range(shape.size)])
    fullest = int(np.diff(columns.offsets).argmax())
    times = 1 if shape.is_clean else mix.most_images(config.augment)
    return _Full(batch=preflight.fill(batch, columns, fullest, times).to(device), seconds=reading * shape.size)


def _largest(columns: Columns) -> int:
    return int(columns.sizes_hw.astype(np.int64).prod(axis=1).argmax())


def _read(reads: Sequence[Callable[[], Outcome]], go_on: Callable[[], None]) -> tuple[list[Item], float]:
    """The items, and the seconds that one of them took in the middle.

    Raises:
        DataError: no image can be read.
    """
    items: list[Item] = []
    seconds: list[float] = []
    for read in reads:
        go_on()
        begun = time.perf_counter()
        outcome = read()
        seconds.append(time.perf_counter() - begun)
        if isinstance(outcome, DataError):
            raise outcome
        items.append(outcome)
    return items, statistics.median(seconds)
