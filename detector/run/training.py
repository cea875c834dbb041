"""Train a model: data, network, loop and run folder put together."""

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch

from detector.config import RunConfig
from detector.data import loader
from detector.errors import CheckpointError, ConfigError, DetectorError
from detector.evaluate.coco import Scores
from detector.model import device as devices
from detector.model.model_file import TrainedModel
from detector.report import balance
from detector.run import assembly, batch_size, introduction, memory, preflight, resuming
from detector.run.assembly import Assembly, Past
from detector.run.batch_size import Auto
from detector.run.data_paths import DataPaths
from detector.run.material import Material
from detector.run.material import gather as material_of
from detector.run.model_keeper import ModelKeeper, read_scores
from detector.run.preflight import Forecast
from detector.train import board, engine, forensics, run_folder
from detector.train.checkpoint import Identity, Loaded, NotWrittenError, Store
from detector.train.engine import Outcome, Task
from detector.train.health import DivergedError, Suspect
from detector.train.learner import Learner
from detector.train.lock import RunLock
from detector.train.record import Record
from detector.train.run_folder import RunFolder
from detector.train.saver import Saver
from detector.train.state import TrainingState

MOST_ROLLBACKS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOutcome:
    run_folder: Path
    best: Path
    last: Path
    scores: Scores | None
    """Of the best model on the validation split; None where there is none or the run was interrupted."""
    interrupted_by: int | None
    """Number of the signal."""
    remarks: tuple[str, ...] = ()
    """What the user should know."""


def train(
    data: DataPaths,
    config: RunConfig,
    *,
    out: Path | None,
    init: str,
    device: str,
    resume: bool = False,
    auto_batch: Auto | None = None,
    tensorboard: bool = False,
) -> TrainOutcome:
    """Train a detector, or go on with the run in `out`; see `detector train --help`."""
    target = devices.resolve(device)
    held = _held(out, resume=resume)
    if tensorboard:
        board.require()
    with ExitStack() as stack:
        if held is not None:
            stack.enter_context(RunLock(held.path))
        loaded = None if held is None else _newest(held)
        if auto_batch and loaded is not None:
            config = batch_size.of_run(config, loaded, auto_batch)
        material = material_of(data, config, target, init, loaded)
        past = None
        if held is not None and loaded is not None:
            past = _past(held, loaded, material, resume=resume)
            if past.state.loop.finished:
                return _of_finished(held)
        elif auto_batch:
            material = batch_size.choose(material, init, auto_batch)
        made = assembly.build(material, init, past)
        folder = held or run_folder.claim(out)
        if held is None:
            stack.enter_context(RunLock(folder.path))
        outcome = _train_in(folder, made, material, past, is_new=held is None, tensorboard=tensorboard)
    balance.draw(folder.metrics, folder.balance_plot)
    return outcome


def _train_in(
    folder: RunFolder, made: Assembly, material: Material, past: Past | None, *, is_new: bool, tensorboard: bool
) -> TrainOutcome:
    folder.clean()
    run_folder.describe(folder, material.config, material.facts)
    cut = folder.cut_metrics(past.state.loop.metrics_bytes if past else 0)
    writer = board.open_in(folder.path) if tensorboard else None
    with Record(folder.path, has_stages=bool(material.config.stages), board=writer) as record:
        introduction.introduce(record.say, material, made)
        if not is_new:
            introduction.introduce_past(record, folder, past, cut)
        _compile(made, material, record.say)
        if past is None:  # else it fitted before
            _preflight(made, material, record.say)
        return _fit(made, material, folder, record, past)


def forecast(
    data: DataPaths,
    config: RunConfig,
    *,
    out: Path | None,
    init: str,
    device: str,
    say: Callable[[str], None],
    auto_batch: Auto | None = None,
) -> Forecast:
    """Do all that comes before the first step of a run, and write nothing; see `detector train --dry-run`."""
    target = devices.resolve(device)
    if run_folder.existing(out):
        raise ConfigError(f"{out}: holds a run, which goes on as it began; name another --out, or leave --dry-run out")
    run_folder.require_free(out)
    material = material_of(data, config, target, init, None)
    if auto_batch:
        material = batch_size.choose(material, init, auto_batch)
    made = assembly.build(material, init)
    introduction.introduce(say, material, made)
    _compile(made, material, say)
    return preflight.run(made, material, say)


def _compile(made: Assembly, material: Material, say: Callable[[str], None]) -> None:
    trial = assembly.compile_network(made, material)
    if trial is not None:
        say(trial.sentence())


def _preflight(made: Assembly, material: Material, say: Callable[[str], None]) -> None:
    for line in preflight.run(made, material, say).lines():
        say(line)


def _held(out: Path | None, *, resume: bool) -> RunFolder | None:
    """The folder of the run that is gone on with; None for a new one."""
    held = run_folder.existing(out)
    if held is None:
        if resume:
            raise ConfigError(f"{out or 'runs'}: holds no run to resume; leave --resume out to start one")
        run_folder.require_free(out)
    return held


def _newest(held: RunFolder) -> Loaded | None:
    """The newest checkpoint of a run; None where it was killed before its first step.

    Raises:
        CheckpointError: there is none although steps were done, or all are damaged.
    """
    loaded = Store(held.checkpoints).read_newest()
    if loaded is None and held.has_begun:
        raise CheckpointError(
            f"{held.path}: holds a run without checkpoints, which cannot be gone on with; choose another --out, or "
            "remove it"
        )
    return loaded


def _past(held: RunFolder, loaded: Loaded, material: Material, *, resume: bool) -> Past:
    remarks = resuming.require_same(held, loaded, material.identity, material.config, resume=resume)
    state, said = resuming.replan(loaded.state, loaded.identity, material.config, num_images=len(material.columns))
    return Past(loaded=loaded, state=state, remarks=(*loaded.remarks, *remarks, *said))


def _of_finished(held: RunFolder) -> TrainOutcome:
    return TrainOutcome(
        run_folder=held.path,
        best=held.best,
        last=held.last,
        scores=read_scores(held),
        interrupted_by=None,
        remarks=(f"{held.path}: the run was finished already; more --epochs with --resume make it longer",),
    )


def _fit(made: Assembly, material: Material, folder: RunFolder, record: Record, past: Past | None) -> TrainOutcome:
    learner, trained = made.learner, made.trained
    store = Store(folder.checkpoints)
    if past is not None:
        store.set_aside(past.loaded.path)
    store.clean()
    saver = Saver(store, material.identity, record, seconds=trained.config.checkpoint.seconds)
    keeper = ModelKeeper(trained, material, folder, record)
    task = _task(trained, material, learner.device)

    def attempt(start: TrainingState | None) -> Outcome:
        try:
            return engine.fit(
                learner,
                task,
                hooks=keeper.hooks(),
                record=record,
                saver=saver,
                write_suspect=partial(_write_suspect, learner, trained, material, folder),
                start=start,
            )
        finally:
            saver.wait()  # what is being written may be what is gone back to

    try:
        start = past.state if past else None
        outcome = _attempts(attempt, learner, store, material.identity, record, trained.config, start)
    except OSError as error:
        raise DetectorError(_why_not_written(folder, error)) from error
    for reason in outcome.unreadable:
        record.say(f"left out of training: {reason}")
    return TrainOutcome(
        run_folder=folder.path,
        best=folder.best,
        last=folder.last,
        scores=keeper.scores_of(outcome),
        interrupted_by=outcome.interrupted_by,
        remarks=(
            (f"interrupted; the model so far is {folder.best}; the same command with --out {folder.path} goes on",)
            if outcome.interrupted
            else ()
        ),
    )


def _why_not_written(folder: RunFolder, error: OSError) -> str:
    if not folder.path.exists():
        return f"{folder.path}: the run folder is gone"
    return f"{folder.path}: cannot be written ({error.strerror or error}); make room"


def _task(trained: TrainedModel, material: Material, device: torch.device) -> Task:
    config, preprocess = trained.config, trained.preprocess
    return Task(
        config=config,
        canvas_hw=preprocess.canvas_hw,
        num_images=len(material.columns),
        open_batches=lambda shapes, first: loader.training_loader(
            material.columns, preprocess, config, shapes, first=first, pin=device.type == "cuda"
        ),
    )


def _write_suspect(
    learner: Learner, trained: TrainedModel, material: Material, folder: RunFolder, suspect: Suspect
) -> str | None:
    names = [material.columns.file_name(row) for row in cast("list[int]", suspect.batch.indices.tolist())]
    try:
        return str(forensics.write(folder.path, suspect, learner, trained, material.facts.precision, names))
    except OSError:
        return None  # the warning itself is what matters


def _attempts(
    attempt: Callable[[TrainingState | None], Outcome],
    learner: Learner,
    store: Store,
    identity: Identity,
    record: Record,
    config: RunConfig,
    start: TrainingState | None,
) -> Outcome:
    """Train; where that diverges or needs too much memory, go back to the last good state and try otherwise.

    Raises:
        DetectorError: that does not help.
    """
    while True:
        try:
            return attempt(start)
        except DivergedError as error:
            start = _with_lower_rate(error, learner, store, record)
            _write_at_once(store, start, identity, record)
        except torch.OutOfMemoryError as error:
            start = _in_smaller_parts(error, learner, store, record, config)
        learner.restore(start.learner)


def _in_smaller_parts(
    error: torch.OutOfMemoryError, learner: Learner, store: Store, record: Record, config: RunConfig
) -> TrainingState:
    """The last good state, for a learner that takes the same batches in twice as many parts."""
    said = memory.take_more_parts(error, learner, config)
    loaded = store.read_newest()
    if loaded is None:
        raise DetectorError(f"{memory.reason(error)}, and there is no checkpoint to go back to") from error
    record.say(f"warning: {memory.reason(error)}: back to step {loaded.state.learner.steps}, with {said}")
    return loaded.state


def _with_lower_rate(error: DivergedError, learner: Learner, store: Store, record: Record) -> TrainingState:
    """The last good state with half the rate."""
    loaded = store.read_newest()
    rollbacks = 0 if loaded is None else loaded.state.loop.rollbacks
    if loaded is None or rollbacks >= MOST_ROLLBACKS:
        raise DetectorError(
            f"{error}, also after going back {rollbacks} times: lower optim.lr (now {learner.lr:.1e}) or "
            "lengthen optim.warmup_steps"
        ) from error
    state = loaded.state
    scale = state.learner.lr_scale / 2
    record.say(f"warning: {error}: back to step {state.learner.steps}, with {scale:g} of the learning rate from now on")
    return dataclasses.replace(
        state,
        learner=dataclasses.replace(state.learner, lr_scale=scale),
        loop=dataclasses.replace(state.loop, rollbacks=rollbacks + 1, skipped_in_a_row=0, seconds=error.seconds),
    )


def _write_at_once(store: Store, state: TrainingState, identity: Identity, record: Record) -> None:
    """So that a process that is killed now does not try the higher rate again."""
    try:
        store.write(state.snapshot(), identity)
    except NotWrittenError as error:
        record.say(f"warning: {error}")
