"""Train a model: data, network, loop and run folder put together."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from detector.config import RunConfig
from detector.data import check, coco, loader
from detector.data.columns import Columns
from detector.errors import ConfigError
from detector.evaluate.coco import Scores
from detector.geometry import letterbox
from detector.model import compiled, model_file, precision, pretrained
from detector.model import detector as network
from detector.model import device as devices
from detector.model.detector import DetectionModel
from detector.model.model_file import TrainedModel
from detector.report import balance
from detector.run.data_paths import DataPaths
from detector.run.scoring import score
from detector.train import distillation, engine, run_folder, schedule
from detector.train.engine import Hooks, Quality
from detector.train.learner import Learner
from detector.train.record import Record
from detector.train.run_folder import RunFolder
from detector.types import Preprocess

_LAST_STRIDE = 32  # of the backbone
_BACKBONE_PARTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOutcome:
    run_folder: Path
    best: Path
    last: Path
    scores: Scores | None
    """Of the best model on the validation split; None where there is none or the run was interrupted."""
    interrupted: bool


def train(data: DataPaths, config: RunConfig, *, out: Path | None, init: str, device: str) -> TrainOutcome:
    """Train a detector; see `detector train --help`."""
    target = devices.resolve(device)
    run_folder.require_free(out)
    train_files = data.split("train")
    columns = coco.read(train_files.annotations, train_files.images)
    check.require_objects(columns)
    val_columns = _validation_columns(data, columns)
    preprocess = Preprocess(canvas_hw=letterbox.choose_canvas(columns.sizes_hw, config.data.image_size))
    _require_statistics(config, preprocess.canvas_hw)

    torch.manual_seed(config.seed)
    model = network.build(config, num_classes=len(columns.label_map), preprocess=preprocess)
    loaded = pretrained.initialise(model, init, config)
    model.to(target)
    trained = TrainedModel(model=model, config=config, label_map=columns.label_map, preprocess=preprocess)
    dtype = precision.resolve(config.precision, target)
    learner = _learner(trained, dtype)

    facts = run_folder.Facts(
        device=target,
        dtype=dtype,
        init=init,
        label_map=columns.label_map,
        preprocess=preprocess,
        splits={"train": _fingerprint(columns)} | ({"val": _fingerprint(val_columns)} if val_columns else {}),
    )
    folder = run_folder.create(out, config, facts)
    with Record(folder.path, has_stages=bool(config.stages)) as record:
        _introduce(record, columns, val_columns, trained, loaded, facts)
        if config.compile:
            record.say(_compile(trained, target, dtype).sentence())
        outcome = _fit(learner, trained, columns, val_columns, folder, record)
    balance.draw(folder.metrics, folder.balance_plot)
    return outcome


def _fit(
    learner: Learner,
    trained: TrainedModel,
    columns: Columns,
    val_columns: Columns | None,
    folder: RunFolder,
    record: Record,
) -> TrainOutcome:
    preprocess, config = trained.preprocess, trained.config
    pin = learner.device.type == "cuda"
    keeper = _ModelKeeper(trained, val_columns, folder, record)
    outcome = engine.fit(
        learner,
        lambda shapes: loader.training_loader(columns, preprocess, config, shapes, pin=pin),
        config=config,
        canvas_hw=preprocess.canvas_hw,
        num_images=len(columns),
        hooks=Hooks(
            evaluate=keeper.evaluate if val_columns else None,
            keep_best=keeper.keep_best,
            keep_last=keeper.keep_last,
        ),
        record=record,
    )
    for reason in outcome.unreadable:
        record.say(f"left out of training: {reason}")
    return TrainOutcome(
        run_folder=folder.path,
        best=folder.best,
        last=folder.last,
        scores=keeper.best_scores,
        interrupted=outcome.interrupted,
    )


def _learner(trained: TrainedModel, dtype: torch.dtype) -> Learner:
    path = trained.config.distill.teacher
    teacher = None if path is None else distillation.load(Path(path), trained, dtype=dtype)
    return Learner(trained.model, trained.config, dtype=dtype, teacher=teacher)


def _compile(trained: TrainedModel, device: torch.device, dtype: torch.dtype) -> compiled.Trial:
    shape = schedule.batch_shape(0.0, trained.config.data, trained.preprocess.canvas_hw)
    images = torch.zeros(shape.size, 3, *shape.window_hw, dtype=torch.uint8, device=device)
    return compiled.for_training(trained.model, images, dtype=dtype)


class _StopRequested(Exception):  # noqa: N818 - not an error
    """The user does not want to wait for the end of a scoring."""


class _ModelKeeper:
    """What the training loop calls back: scores a candidate on the validation split, writes models."""

    def __init__(self, trained: TrainedModel, val_columns: Columns | None, folder: RunFolder, record: Record) -> None:
        self._trained = trained
        self._val_columns = val_columns
        self._folder = folder
        self._record = record
        self._scores: Scores | None = None
        self._named: set[str] = set()
        self.best_scores: Scores | None = None

    def evaluate(self, candidate: DetectionModel, should_stop: Callable[[], bool]) -> Quality | None:
        assert self._val_columns is not None

        def show(done: int, total: int) -> None:
            if should_stop() and done < total:
                raise _StopRequested

        try:
            self._scores, _ = score([self._with(candidate)], self._val_columns, self._name_once, show)
        except _StopRequested:
            return None
        return Quality(ap=self._scores.ap, ap50=self._scores.ap50)

    def keep_best(self, candidate: DetectionModel) -> None:
        self.best_scores = self._scores
        model_file.save(self._folder.best, self._with(candidate))

    def keep_last(self, candidate: DetectionModel) -> None:
        model_file.save(self._folder.last, self._with(candidate))

    def _with(self, candidate: DetectionModel) -> TrainedModel:
        """The candidate in place of the model that is being trained."""
        return dataclasses.replace(self._trained, model=candidate)

    def _name_once(self, reason: str) -> None:
        if reason not in self._named:
            self._named.add(reason)
            self._record.say(f"validation counts its objects as missed: {reason}")


def _validation_columns(data: DataPaths, train_columns: Columns) -> Columns | None:
    """The validation split; None where there is none, or nothing in it to be found."""
    if not data.has("val"):
        return None
    files = data.split("val")
    columns = coco.read(files.annotations, files.images, label_map=train_columns.label_map)
    return None if columns.is_crowd.all() else columns


def _require_statistics(config: RunConfig, canvas_hw: tuple[int, int]) -> None:
    """A batch norm that learns needs more than one value a channel.

    Raises:
        ConfigError: the last features of the smallest batch are a single cell.
    """
    if config.model.batch_norm != "live" or config.model.frozen_stages == _BACKBONE_PARTS:
        return
    for progress in (0.0, 1.0):
        shape = schedule.batch_shape(progress, config.data, canvas_hw)
        cells = math.prod(math.ceil(side / _LAST_STRIDE) for side in shape.window_hw)
        if shape.size * cells == 1:
            height, width = shape.window_hw
            raise ConfigError(
                f"batches of one image of {width}x{height} leave the norms of the backbone a single value; "
                "raise data.batch_size or data.image_size, or set model.batch_norm to frozen"
            )


def _fingerprint(columns: Columns) -> run_folder.SplitFingerprint:
    return run_folder.fingerprint(columns.annotations, images=len(columns), objects=len(columns.labels))


def _introduce(
    record: Record,
    columns: Columns,
    val_columns: Columns | None,
    trained: TrainedModel,
    loaded: pretrained.Loaded | None,
    facts: run_folder.Facts,
) -> None:
    """Say what is about to be trained on what, where, and how."""
    for line in columns.report.lines():
        record.say(f"train: {line}")
    nothing = ("none, or without objects: the last weights are kept as the best",)
    for line in val_columns.report.lines() if val_columns else nothing:
        record.say(f"val: {line}")
    record.say(f"classes: {', '.join(trained.label_map.names)}")
    parameters = sum(parameter.numel() for parameter in trained.model.parameters())
    height, width = trained.preprocess.canvas_hw
    heads = ", ".join(
        head.name if head.input == "trunk" else f"{head.input} -> {head.name}" for head in trained.config.model.heads
    )
    record.say(
        f"model: {trained.config.model.backbone}, {parameters / 1e6:.1f} M parameters, heads {heads}, "
        f"canvas {width}x{height}, on {facts.device} in {facts.precision}"
    )
    if trained.config.distill.teacher is not None:
        record.say(f"teacher: {trained.config.distill.teacher}")
    if loaded:
        record.say(loaded.sentence())
