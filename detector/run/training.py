"""Train a model: data, network, loop and run folder put together."""

import dataclasses
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
from detector.run import attempts, resuming
from detector.run.data_paths import DataPaths
from detector.run.material import Material
from detector.run.material import gather as material_of
from detector.run.model_keeper import ModelKeeper, read_scores
from detector.train import distillation, distributed, engine, forensics, run_folder, schedule
from detector.train.checkpoint import Loaded, Store
from detector.train.distributed import World
from detector.train.engine import Outcome, Task
from detector.train.health import Suspect
from detector.train.learner import Learner
from detector.train.lock import RunLock
from detector.train.record import Record
from detector.train.run_folder import RunFolder
from detector.train.saver import Saver
from detector.train.silent_record import SilentRecord
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
    remarks: tuple[str, ...] = ()
    """What the user should know."""
    is_first: bool = True
    """Whether this is the process of several that wrote the run."""


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
    """Train a detector, or go on with the run in `out`; see `detector train --help`.

    Under torchrun each process calls this, and the first reads and writes the run folder.
    """
    with distributed.joined(devices.resolve(device)) as world:
        outcome = _train(data, config, world, out=out, init=init, resume=resume)
        return dataclasses.replace(outcome, is_first=world.is_first)


def _train(
    data: DataPaths, config: RunConfig, world: World, *, out: Path | None, init: str, resume: bool
) -> TrainOutcome:
    if world.size > 1 and out is None:
        raise ConfigError("several processes need --out, the folder in which a restart finds the run")
    with ExitStack() as stack:
        held, loaded = world.share(_open(out, stack, resume=resume) if world.is_first else (None, None))
        material = material_of(data, config, world, init, loaded)
        past = None
        if held is not None and loaded is not None:
            past = _past(held, loaded, material, resume=resume)
            if past.state.loop.finished:
                return _of_finished(held)
        trained, learner, weights = _build(material, init, past, world)
        if world.is_first:
            folder = held or run_folder.claim(out)
            if held is None:
                stack.enter_context(RunLock(folder.path))
            folder.clean()
            run_folder.describe(folder, config, material.facts)
            cut = folder.cut_metrics(past.state.loop.metrics_bytes if past else 0)
        else:
            assert out is not None
            folder, cut = RunFolder(path=out), 0
        has_stages = bool(config.stages)
        with Record(folder.path, has_stages=has_stages) if world.is_first else SilentRecord() as record:
            _introduce(record, material, trained, weights)
            if world.size > 1:
                record.say(f"processes: {world.size}, each with {config.data.batch_size // world.size} images a step")
            if held is not None:
                _introduce_past(record, held, past, cut)
            if config.compile:
                record.say(_compile(trained, world.device, material.facts.dtype).sentence())
            outcome = _fit(learner, trained, material, folder, record, past)
    if world.is_first:
        balance.draw(folder.metrics, folder.balance_plot)
    return outcome


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
    return loaded


def _past(held: RunFolder, loaded: Loaded, material: Material, *, resume: bool) -> _Past:
    remarks = resuming.require_same(held, loaded, material.identity, material.config, resume=resume)
    state, said = resuming.replan(loaded.state, loaded.identity, material.config, num_images=len(material.columns))
    return _Past(loaded=loaded, state=state, remarks=(*loaded.remarks, *remarks, *said))


def _build(
    material: Material, init: str, past: _Past | None, world: World
) -> tuple[TrainedModel, Learner, pretrained.Loaded | None]:
    """The network with what changes it, from the first weights or where the run stopped."""
    config, facts = material.config, material.facts
    torch.manual_seed(config.seed)
    model = network.build(config, num_classes=len(facts.label_map), preprocess=facts.preprocess)
    weights = pretrained.initialise(model, init, config) if past is None else None
    model.to(facts.device)
    trained = TrainedModel(model=model, config=config, label_map=facts.label_map, preprocess=facts.preprocess)
    learner = _learner(trained, facts.dtype, world)
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
    world = learner.world
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
                # A file with one process's part of a step would compute another step.
                write_suspect=write_suspect if world.size == 1 else lambda _: None,
                start=start,
            )
        finally:
            if saver is not None:
                saver.wait()  # what is being written may be what is gone back to

    try:
        start = past.state if past else None
        outcome = attempts.repeat(attempt, learner, store, material.identity, record, trained.config, start)
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
    names = [material.columns.file_name(row) for row in cast("list[int]", suspect.batch.indices.tolist())]
    try:
        return str(forensics.write(folder.path, suspect, learner, trained, material.facts.precision, names))
    except OSError:
        return None  # the warning itself is what matters


def _learner(trained: TrainedModel, dtype: torch.dtype, world: World) -> Learner:
    path = trained.config.distill.teacher
    teacher = None if path is None else distillation.load(Path(path), trained, dtype=dtype)
    return Learner(trained.model, trained.config, dtype=dtype, teacher=teacher, world=world)


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
