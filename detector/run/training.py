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
from detector.model import compiled, pretrained
from detector.model import detector as network
from detector.model import device as devices
from detector.model.model_file import TrainedModel
from detector.report import balance
from detector.run import resuming
from detector.run.data_paths import DataPaths
from detector.run.material import Material
from detector.run.material import gather as material_of
from detector.run.model_keeper import ModelKeeper, read_scores
from detector.train import distillation, engine, forensics, run_folder, schedule
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Past:
    """A run that is gone on with."""

    loaded: Loaded
    state: TrainingState
    """That of the checkpoint, under the length that is wanted now."""
    remarks: tuple[str, ...]


def train(
    data: DataPaths, config: RunConfig, *, out: Path | None, init: str, device: str, resume: bool = False
) -> TrainOutcome:
    """Train a detector, or go on with the run in `out`; see `detector train --help`."""
    target = devices.resolve(device)
    held = run_folder.existing(out)
    if held is None:
        if resume:
            raise ConfigError(f"{out or 'runs'}: holds no run to resume; leave --resume out to start one")
        run_folder.require_free(out)
    with ExitStack() as stack:
        if held is not None:
            stack.enter_context(RunLock(held.path))
        loaded = None if held is None else _newest(held)
        material = material_of(data, config, target, init, loaded)
        past = None
        if held is not None and loaded is not None:
            past = _past(held, loaded, material, resume=resume)
            if past.state.loop.finished:
                return _of_finished(held)
        trained, learner, weights = _build(material, init, past)
        folder = held or run_folder.claim(out)
        if held is None:
            stack.enter_context(RunLock(folder.path))
        folder.clean()
        run_folder.describe(folder, config, material.facts)
        cut = folder.cut_metrics(past.state.loop.metrics_bytes if past else 0)
        with Record(folder.path, has_stages=bool(config.stages)) as record:
            _introduce(record, material, trained, weights)
            if held is not None:
                _introduce_past(record, held, past, cut)
            if config.compile:
                record.say(_compile(trained, target, material.facts.dtype).sentence())
            outcome = _fit(learner, trained, material, folder, record, past)
    balance.draw(folder.metrics, folder.balance_plot)
    return outcome


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


def _past(held: RunFolder, loaded: Loaded, material: Material, *, resume: bool) -> _Past:
    remarks = resuming.require_same(held, loaded, material.identity, material.config, resume=resume)
    state, said = resuming.replan(loaded.state, loaded.identity, material.config, num_images=len(material.columns))
    return _Past(loaded=loaded, state=state, remarks=(*loaded.remarks, *remarks, *said))


def _build(material: Material, init: str, past: _Past | None) -> tuple[TrainedModel, Learner, pretrained.Loaded | None]:
    """The network with what changes it, from the first weights or where the run stopped."""
    config, facts = material.config, material.facts
    torch.manual_seed(config.seed)
    model = network.build(config, num_classes=len(facts.label_map), preprocess=facts.preprocess)
    weights = pretrained.initialise(model, init, config) if past is None else None
    model.to(facts.device)
    trained = TrainedModel(model=model, config=config, label_map=facts.label_map, preprocess=facts.preprocess)
    learner = _learner(trained, facts.dtype)
    if past is not None:
        try:
            learner.restore(past.state.learner)
        except CheckpointError as error:
            raise CheckpointError(f"{past.loaded.path}: {error}") from error
    return trained, learner, weights


def _of_finished(held: RunFolder) -> TrainOutcome:
    return TrainOutcome(
        run_folder=held.path,
        best=held.best,
        last=held.last,
        scores=read_scores(held),
        interrupted_by=None,
        remarks=(f"{held.path}: the run was finished already; more --epochs with --resume make it longer",),
    )


def _fit(
    learner: Learner,
    trained: TrainedModel,
    material: Material,
    folder: RunFolder,
    record: Record,
    past: _Past | None,
) -> TrainOutcome:
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
    reason = f"the device has not enough memory ({str(error).splitlines()[0]})"
    parts = 2 * learner.micro_batches
    try:
        dataclasses.replace(config, memory=dataclasses.replace(config.memory, micro_batches=parts))
    except ConfigError as refused:
        raise DetectorError(f"{reason}; set a smaller data.batch_size or data.image_size: {refused}") from error
    loaded = store.read_newest()
    if loaded is None or parts > config.data.batch_size:
        raise DetectorError(f"{reason}; set a smaller data.image_size, or memory.checkpoint=all") from error
    learner.micro_batches = parts
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    live = "" if config.model.batch_norm == "frozen" else "; norms that learn see the parts one by one"
    record.say(
        f"warning: {reason}: back to step {loaded.state.learner.steps}, with the same batches in {parts} parts "
        f"(memory.micro_batches) from now on{live}"
    )
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


def _learner(trained: TrainedModel, dtype: torch.dtype) -> Learner:
    path = trained.config.distill.teacher
    teacher = None if path is None else distillation.load(Path(path), trained, dtype=dtype)
    return Learner(trained.model, trained.config, dtype=dtype, teacher=teacher)


def _compile(trained: TrainedModel, device: torch.device, dtype: torch.dtype) -> compiled.Trial:
    shape = schedule.batch_shape(0.0, trained.config.data, trained.preprocess.canvas_hw)
    images = torch.zeros(shape.size, 3, *shape.window_hw, dtype=torch.uint8, device=device)
    return compiled.for_training(trained.model, images, dtype=dtype)


def _introduce(record: Record, material: Material, trained: TrainedModel, loaded: pretrained.Loaded | None) -> None:
    """Say what is about to be trained on what, where, and how."""
    for line in material.columns.report.lines():
        record.say(f"train: {line}")
    nothing = ("none, or without objects: the last weights are kept as the best",)
    for line in material.val_columns.report.lines() if material.val_columns else nothing:
        record.say(f"val: {line}")
    record.say(f"classes: {', '.join(trained.label_map.names)}")
    parameters = sum(parameter.numel() for parameter in trained.model.parameters())
    height, width = trained.preprocess.canvas_hw
    heads = ", ".join(
        head.name if head.input == "trunk" else f"{head.input} -> {head.name}" for head in trained.config.model.heads
    )
    record.say(
        f"model: {trained.config.model.backbone}, {parameters / 1e6:.1f} M parameters, heads {heads}, "
        f"canvas {width}x{height}, on {material.facts.device} in {material.facts.precision}"
    )
    if trained.config.distill.teacher is not None:
        record.say(f"teacher: {trained.config.distill.teacher}")
    if loaded:
        record.say(loaded.sentence())


def _introduce_past(record: Record, held: RunFolder, past: _Past | None, cut: int) -> None:
    """Say that, and from where, a run is gone on with."""
    if past is None:
        record.say(f"{held.path}: holds a run that ended before its first step; it begins again")
        return
    state = past.state
    for remark in past.remarks:
        record.say(f"resume: {remark}")
    record.say(
        f"resume: goes on with the unfinished run {held.path} from step {state.learner.steps}, "
        f"after {state.loop.seconds / 60:.1f} minutes"
    )
    if cut:
        record.say(f"resume: {cut} lines of later steps, which are done again, are now in metrics-cut.jsonl")
    record.update(
        step=state.learner.steps,
        seconds=state.loop.seconds,
        best_ap=state.loop.best.ap if state.loop.best else None,
        skipped_steps=state.loop.skipped,
        checkpoint_step=state.learner.steps,
    )
