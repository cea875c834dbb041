"""The composition root: what each command does, put together from the packages below."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from detector.config import RunConfig
from detector.data import check, coco, dataset, layout, loader
from detector.data.columns import Columns
from detector.data.layout import SplitFiles
from detector.errors import ConfigError
from detector.evaluate import coco as coco_scores
from detector.evaluate.coco import Scores
from detector.evaluate.collect import collect
from detector.evaluate.results import Results
from detector.geometry import letterbox
from detector.model import detector as network
from detector.model import device as devices
from detector.model import inference, model_file, precision, pretrained
from detector.model.detector import DetectionModel
from detector.model.model_file import TrainedModel
from detector.predict import output
from detector.predict.output import PredictOutcome
from detector.predict.predictor import Detector
from detector.predict.sources import find_images
from detector.train import engine, run_folder
from detector.train.engine import Hooks, Quality
from detector.train.record import Record
from detector.train.run_folder import RunFolder
from detector.types import Preprocess

EVALUATION_BATCH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPaths:
    """Where a data set is: a folder in a known layout, or its files one by one."""

    folder: Path | None = None
    train_json: Path | None = None
    val_json: Path | None = None
    images: Path | None = None

    def split(self, name: str) -> SplitFiles:
        """Files of one split.

        Raises:
            DataError: the split cannot be found.
        """
        explicit = self._explicit(name)
        if explicit is not None:
            return layout.explicit(explicit, self.images)
        if self.folder is None:
            raise ConfigError(f"no {name} data: name a data folder, or --{name}-json and --images")
        return layout.find(self.folder, name)

    def has(self, name: str) -> bool:
        return self._explicit(name) is not None or (
            self.folder is not None and name in layout.available_splits(self.folder)
        )

    def _explicit(self, name: str) -> Path | None:
        return {"train": self.train_json, "val": self.val_json}.get(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOutcome:
    run_folder: Path
    best: Path
    last: Path
    scores: Scores | None
    """Of the best model on the validation split; None where there is none or the run was interrupted."""
    interrupted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalOutcome:
    scores: Scores
    results_path: Path
    unreadable: tuple[str, ...]
    """Why, for each image that could not be read; its objects count as missed."""


def train(data: DataPaths, config: RunConfig, *, out: Path | None, init: str, device: str) -> TrainOutcome:
    """Train a detector; see `detector train --help`."""
    target = devices.resolve(device)
    train_files = data.split("train")
    columns = coco.read(train_files.annotations, train_files.images)
    check.require_objects(columns)
    val_columns = _validation_columns(data, columns)
    preprocess = Preprocess(canvas_hw=letterbox.choose_canvas(columns.sizes_hw, config.data.image_size))

    torch.manual_seed(config.seed)
    model = network.build(config, num_classes=len(columns.label_map), preprocess=preprocess)
    loaded = pretrained.initialise(model, init, config)
    model.to(target)
    trained = TrainedModel(model=model, config=config, label_map=columns.label_map, preprocess=preprocess)

    splits = {"train": _fingerprint(columns)} | ({"val": _fingerprint(val_columns)} if val_columns else {})
    folder = run_folder.create(
        out, config=config, device=target, label_map=columns.label_map, preprocess=preprocess, splits=splits
    )
    with Record(folder.path) as record:
        _introduce(record, columns, val_columns, trained, loaded, target)
        keeper = _Keeper(trained, val_columns, folder, record)
        outcome = engine.fit(
            model,
            lambda shapes: loader.training_loader(columns, preprocess, config, shapes, pin=target.type == "cuda"),
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
        for name in outcome.unreadable:
            record.say(f"left out of training: {dataset.why_unreadable(columns, name)}")
    return TrainOutcome(
        run_folder=folder.path,
        best=folder.best,
        last=folder.last,
        scores=keeper.best_scores,
        interrupted=outcome.interrupted,
    )


class _Keeper:
    """What the training loop calls back: scores a candidate on the validation split, writes models."""

    def __init__(self, trained: TrainedModel, val_columns: Columns | None, folder: RunFolder, record: Record) -> None:
        self._trained = trained
        self._val_columns = val_columns
        self._folder = folder
        self._record = record
        self._scores: Scores | None = None
        self._named: set[str] = set()
        self.best_scores: Scores | None = None

    def evaluate(self, candidate: DetectionModel) -> Quality:
        assert self._val_columns is not None
        self._scores, _ = _score(self._with(candidate), self._val_columns, self._name_once)
        return Quality(ap=self._scores.ap, ap50=self._scores.ap50)

    def keep_best(self, candidate: DetectionModel) -> None:
        self.best_scores = self._scores
        model_file.save(self._folder.best, self._with(candidate))

    def keep_last(self, candidate: DetectionModel) -> None:
        model_file.save(self._folder.last, self._with(candidate))

    def _with(self, candidate: DetectionModel) -> TrainedModel:
        """The candidate in place of the model that is being trained."""
        return dataclasses.replace(self._trained, model=candidate)

    def _name_once(self, name: str) -> None:
        assert self._val_columns is not None
        if name not in self._named:
            self._named.add(name)
            reason = dataset.why_unreadable(self._val_columns, name)
            self._record.say(f"validation counts its objects as missed: {reason}")


def evaluate(checkpoint: Path, data: DataPaths, *, split: str, out: Path | None, device: str) -> EvalOutcome:
    """Score a model on a split and write its detections as COCO results."""
    trained = model_file.load(checkpoint, devices.resolve(device))
    files = data.split(split)
    columns = coco.read(files.annotations, files.images, label_map=trained.label_map)
    unreadable: list[str] = []
    scores, results = _score(trained, columns, unreadable.append)
    folder = out if out is not None else checkpoint.parent / f"eval-{split}"
    path = folder / "predictions.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        results.write(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); choose another --out") from error
    reasons = tuple(dataset.why_unreadable(columns, name) for name in unreadable)
    return EvalOutcome(scores=scores, results_path=path, unreadable=reasons)


def evaluate_files(ground_truth: Path, predictions: Path) -> Scores:
    """Score a COCO results file against a COCO annotation file; no model is involved."""
    return coco_scores.score(ground_truth, predictions)


def predict(checkpoint: Path, sources: Sequence[str], *, out: Path | None, score: float, device: str) -> PredictOutcome:
    """Find objects in images and write annotated pictures and `predictions.json`."""
    images = find_images(sources)
    found = Detector.load(checkpoint, device=device)
    return output.write(found, images, folder=out, score=score)


def _validation_columns(data: DataPaths, train_columns: Columns) -> Columns | None:
    if not data.has("val"):
        return None
    files = data.split("val")
    return coco.read(files.annotations, files.images, label_map=train_columns.label_map)


def _score(trained: TrainedModel, columns: Columns, on_unreadable: Callable[[str], None]) -> tuple[Scores, Results]:
    batches = loader.evaluation_loader(
        columns, trained.preprocess, batch_size=EVALUATION_BATCH, workers=loader.num_workers(trained.config.data)
    )
    results = collect(
        lambda images, placements: inference.detect(trained, images, placements),
        batches,
        columns,
        on_unreadable=on_unreadable,
    )
    return coco_scores.score(columns.annotations, results), results


def _fingerprint(columns: Columns) -> run_folder.SplitFingerprint:
    return run_folder.fingerprint(columns.annotations, images=len(columns), objects=len(columns.labels))


def _introduce(
    record: Record,
    columns: Columns,
    val_columns: Columns | None,
    trained: TrainedModel,
    loaded: pretrained.Loaded | None,
    device: torch.device,
) -> None:
    """Say what is about to be trained on what, where, and how."""
    for line in columns.report.lines():
        record.say(f"train: {line}")
    for line in val_columns.report.lines() if val_columns else ("none: the last weights are kept as the best",):
        record.say(f"val: {line}")
    record.say(f"classes: {', '.join(trained.label_map.names)}")
    parameters = sum(parameter.numel() for parameter in trained.model.parameters())
    height, width = trained.preprocess.canvas_hw
    dtype = precision.resolve(trained.config.precision, device)
    record.say(
        f"model: {trained.config.model.backbone}, {parameters / 1e6:.1f} M parameters, canvas {width}x{height}, "
        f"on {device} in {str(dtype).removeprefix('torch.')}"
    )
    if loaded:
        record.say(loaded.sentence())
