"""Train a model: data, network, loop and run folder put together."""

import dataclasses
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch

from detector.config import RunConfig
from detector.data import loader
from detector.data.batch import join as batch_of
from detector.errors import CheckpointError, ConfigError, DetectorError
from detector.evaluate.coco import Scores
from detector.fitting.choice import AutoRecipe
from detector.model import device as devices
from detector.model.model_file import TrainedModel
from detector.report import balance
from detector.run import (
    assembly,
    attempts,
    batch_size,
    best_scores,
    confirming,
    fitting,
    introduction,
    preflight,
    resuming,
)
from detector.run import material as materials
from detector.run.assembly import Assembly, Past
from detector.run.batch_size import Auto
from detector.run.data_paths import DataPaths
from detector.run.material import Material
from detector.run.model_keeper import ModelKeeper
from detector.run.preflight import Forecast
from detector.train import board, distributed, engine, forensics, run_folder, run_status, signals
from detector.train.checkpoint import Loaded, Store
from detector.train.distributed import World
from detector.train.engine import Outcome, Task
from detector.train.health import Suspect
from detector.train.journal import Journal, Silence
from detector.train.learner import Learner
from detector.train.lock import RunLock
from detector.train.record import Record
from detector.train.run_folder import RunFolder
from detector.train.saver import Saver
from detector.train.signals import Requests
from detector.train.state import TrainingState


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOutcome:
    run_folder: Path
    best: Path
    last: Path
    scores: Scores | None
    """Of the best model on the validation split; None where there is none or the run was interrupted."""
    interrupted_by: int | None
    """Number of the signal."""
    notes: tuple[str, ...] = ()
    """What was found out of a run that had nothing left to do."""
    remarks: tuple[str, ...] = ()
    """What the user should know."""
    is_first: bool = True
    """Whether this is the process of several that wrote the run."""


def train(
    data: DataPaths,
    config: RunConfig | AutoRecipe,
    *,
    out: Path | None,
    init: str,
    device: str,
    resume: bool = False,
    auto_batch: Auto | None = None,
    tensorboard: bool = False,
) -> TrainOutcome:
    """Train a detector, or go on with the run in `out`; see `detector train --help`.

    Under torchrun each process calls this, and the first reads and writes the run folder.
    """
    if tensorboard:
        board.require()
    with distributed.joined(devices.resolve(device)) as world:
        outcome = _train(
            data, config, world, out=out, init=init, resume=resume, auto_batch=auto_batch, tensorboard=tensorboard
        )
        return dataclasses.replace(outcome, is_first=world.is_first)


def _train(
    data: DataPaths,
    config: RunConfig | AutoRecipe,
    world: World,
    *,
    out: Path | None,
    init: str,
    resume: bool,
    auto_batch: Auto | None,
    tensorboard: bool,
) -> TrainOutcome:
    if world.size > 1 and out is None:
        raise ConfigError("several processes need --out, the folder in which a restart finds the run")
    with ExitStack() as stack:
        held, loaded = world.share(_open(out, stack, resume=resume) if world.is_first else (None, None))
        splits = materials.read(data)
        settled, fit = fitting.settled(config, splits.train, world, init)
        if auto_batch and loaded is not None:
            settled = batch_size.of_run(settled, loaded, auto_batch)
        material = materials.gather(splits, settled, world, init, loaded, fit)
        past = None
        if held is not None and loaded is not None:
            past = _past(held, loaded, material, resume=resume)
            if past.state.loop.finished:
                return _of_finished(held, material, world)
        elif auto_batch:
            refit = fitting.refit(config, splits.train, world, init)
            material = batch_size.choose(material, init, auto_batch, world, refit)
        made = assembly.build(material, init, world, past)
        folder = _folder(held, out, world, stack)
        with _in_words(folder):
            outcome = _train_in(folder, made, material, past, is_new=held is None, tensorboard=tensorboard)
    if world.is_first:
        balance.draw(folder.metrics, folder.balance_plot)
    return outcome


def _folder(held: RunFolder | None, out: Path | None, world: World, stack: ExitStack) -> RunFolder:
    """The run's folder; the first process makes and locks a new one."""
    if held is not None:
        return held
    if not world.is_first:
        assert out is not None
        return RunFolder(path=out)
    folder = run_folder.claim(out)
    stack.enter_context(RunLock(folder.path))
    return folder


def _train_in(
    folder: RunFolder, made: Assembly, material: Material, past: Past | None, *, is_new: bool, tensorboard: bool
) -> TrainOutcome:
    config, world = material.config, made.learner.world
    cut = 0
    if world.is_first:
        folder.clean()
        if material.fit is not None:
            fitting.write(folder.path, material.fit)
        run_folder.describe(folder, config, material.facts)
        cut = folder.cut_metrics(past.state.loop.metrics_bytes if past else 0)
    with _record(folder, config, world, tensorboard=tensorboard) as record, _in_words(folder):
        introduction.introduce(record.say, material, made)
        if world.size > 1:
            record.say(f"processes: {world.size}, each with {config.data.batch_size // world.size} images a step")
        if not is_new:
            introduction.introduce_past(record, folder, past, cut)
        with signals.heard(record.say) as requests:
            _compile(made, material, record.say)
            is_begun = past is not None and past.state.learner.steps > 0
            if not is_begun and world.size == 1:  # else it fitted before, or would have to be agreed upon
                _preflight(made, material, record.say, requests)
            return _fit(made, material, folder, record, past, requests)


@contextmanager
def _in_words(folder: RunFolder) -> Generator[None]:
    """What the system refuses, as an error of ours."""
    try:
        yield
    except OSError as error:
        raise DetectorError(run_folder.why_stopped(folder, error)) from error


def _record(folder: RunFolder, config: RunConfig, world: World, *, tensorboard: bool) -> Journal:
    if not world.is_first:
        return Silence()
    writer = board.open_in(folder.path) if tensorboard else None
    return Record(folder.path, has_stages=bool(config.stages), board=writer)


def forecast(
    data: DataPaths,
    config: RunConfig | AutoRecipe,
    *,
    out: Path | None,
    init: str,
    device: str,
    say: Callable[[str], None],
    auto_batch: Auto | None = None,
) -> Forecast:
    """Do all that comes before the first step of a run, and write nothing; see `detector train --dry-run`."""
    distributed.require_alone("--dry-run")
    world = World(device=devices.resolve(device))
    if run_folder.existing(out):
        raise ConfigError(f"{out}: holds a run, which goes on as it began; name another --out, or leave --dry-run out")
    run_folder.require_free(out)
    splits = materials.read(data)
    settled, fit = fitting.settled(config, splits.train, world, init)
    material = materials.gather(splits, settled, world, init, None, fit)
    if auto_batch:
        refit = fitting.refit(config, splits.train, world, init)
        material = batch_size.choose(material, init, auto_batch, world, refit)
    made = assembly.build(material, init, world)
    introduction.introduce(say, material, made)
    _compile(made, material, say)
    return preflight.run(made, material, say)


def _compile(made: Assembly, material: Material, say: Callable[[str], None]) -> None:
    trial = assembly.compile_network(made, material)
    if trial is not None:
        say(trial.sentence())


def _preflight(made: Assembly, material: Material, say: Callable[[str], None], requests: Requests) -> None:
    try:
        found = preflight.run(made, material, say, requests.stop.is_set)
    except preflight.StoppedError:
        return  # as does the training, before its first step
    for line in found.lines():
        say(line)


def _open(out: Path | None, stack: ExitStack, *, resume: bool) -> tuple[RunFolder | None, Loaded | None]:
    """The run that the folder holds, locked, and its newest checkpoint; neither where the run is a new one."""
    held = run_folder.existing(out)
    if held is None:
        if resume:
            raise ConfigError(f"{out or 'runs'}: holds no run to resume; leave --resume out to start one")
        run_folder.require_free(out)
        return None, None
    stack.enter_context(RunLock(held.path))
    return held, _newest(held)


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
    return None if loaded is None else confirming.without_lost(held, loaded)


def _past(held: RunFolder, loaded: Loaded, material: Material, *, resume: bool) -> Past:
    remarks = resuming.require_same(held, loaded, material.identity, material.config, resume=resume)
    state, said = resuming.replan(loaded.state, loaded.identity, material.config, num_images=len(material.columns))
    return Past(loaded=loaded, state=state, remarks=(*loaded.remarks, *remarks, *said))


def _of_finished(held: RunFolder, material: Material, world: World) -> TrainOutcome:
    """A run that has nothing to do but to look whether its best model still is what it was."""
    try:
        said = confirming.of_finished(held, material, world)
    except CheckpointError as error:
        if world.is_first:
            run_status.change(held.path, state="failed", reason=f"{type(error).__name__}: {error}")
        raise
    if world.is_first:
        run_status.change(held.path, state="finished", reason="")
    noted = best_scores.read(held) if held.best.is_file() else None
    return TrainOutcome(
        run_folder=held.path,
        best=held.best,
        last=held.last,
        scores=None if noted is None else noted.scores,
        interrupted_by=None,
        notes=(f"{held.path}: the run was finished already; more --epochs with --resume make it longer", *said),
    )


def _fit(
    made: Assembly, material: Material, folder: RunFolder, record: Journal, past: Past | None, requests: Requests
) -> TrainOutcome:
    learner, trained, world = made.learner, made.trained, made.learner.world
    store = Store(folder.checkpoints)
    saver: Saver | None = None
    if world.is_first:
        if past is not None:
            store.set_aside(past.loaded.path)
        store.clean()
        saver = Saver(store, material.identity, record, seconds=trained.config.checkpoint.seconds)
    keeper = ModelKeeper(trained, material, folder, record, world)
    task = _task(trained, material, world)
    write_suspect = partial(_write_suspect, learner, trained, material, folder)

    def attempt(start: TrainingState | None) -> Outcome:
        try:
            return engine.fit(
                learner,
                task,
                hooks=keeper.hooks(),
                record=record,
                saver=saver,
                write_suspect=write_suspect,
                start=start,
                requests=requests,
            )
        finally:
            if saver is not None:
                saver.wait()  # what is being written may be what is gone back to

    start = past.state if past else None
    outcome = attempts.repeat(attempt, learner, store, material.identity, record, trained.config, start)
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


def _task(trained: TrainedModel, material: Material, world: World) -> Task:
    part = loader.Part(index=world.rank, count=world.size, neighbours=world.neighbours)
    config, preprocess = trained.config, trained.preprocess
    return Task(
        config=config,
        canvas_hw=preprocess.canvas_hw,
        num_images=len(material.columns),
        open_batches=lambda shapes, first: loader.training_loader(
            material.columns, preprocess, config, shapes, first=first, pin=world.device.type == "cuda", part=part
        ),
    )


def _write_suspect(
    learner: Learner, trained: TrainedModel, material: Material, folder: RunFolder, suspect: Suspect
) -> str | None:
    """Where it was written; of several processes the first writes, with the images of all."""
    world, batch = learner.world, suspect.batch.to(torch.device("cpu"))
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)  # that copy waits for nothing
    parts = world.to_first(batch)
    if not world.is_first:
        return None
    suspect = dataclasses.replace(suspect, batch=batch_of(parts))
    names = [material.columns.file_name(row) for row in cast("list[int]", suspect.batch.indices.tolist())]
    try:
        return str(forensics.write(folder.path, suspect, learner, trained, material.facts.precision, names))
    except OSError:
        return None  # the warning itself is what matters
