"""The composition root: what each command does, put together from the packages below."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from detector.config import RunConfig
from detector.data import check, coco, layout, loader
from detector.data.columns import Columns
from detector.data.layout import SplitFiles
from detector.errors import ConfigError, DataError
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
    best_scores: list[Scores] = []

    def evaluate_validation(candidate: DetectionModel) -> Quality:
        assert val_columns is not None
        scores, _ = _score(_with_model(trained, candidate), val_columns)
        if not best_scores or scores.ap >= best_scores[-1].ap:
            best_scores.append(scores)
        return Quality(ap=scores.ap, ap50=scores.ap50)

    hooks = Hooks(
        evaluate=evaluate_validation if val_columns else None,
        keep_best=lambda candidate: model_file.save(folder.best, _with_model(trained, candidate)),
        keep_last=lambda candidate: model_file.save(folder.last, _with_model(trained, candidate)),
    )
    with Record(folder.path) as record:
        _introduce(record, columns, val_columns, trained, loaded, target)
        outcome = engine.fit(
            model,
            lambda shapes: loader.training_loader(columns, preprocess, config, shapes, pin=target.type == "cuda"),
            config=config,
            canvas_hw=preprocess.canvas_hw,
            num_images=len(columns),
            hooks=hooks,
            record=record,
        )
        for name in outcome.unreadable:
            record.say(f"could not be read and was left out: {name}")
    return TrainOutcome(
        run_folder=folder.path,
        best=folder.best,
        last=folder.last,
        scores=best_scores[-1] if best_scores else None,
        interrupted=outcome.interrupted,
    )


def evaluate(checkpoint: Path, data: DataPaths, *, split: str, out: Path | None, device: str) -> EvalOutcome:
    """Score a model on a split and write its detections as COCO results."""
    trained = model_file.load(checkpoint, devices.resolve(device))
    files = data.split(split)
    columns = coco.read(files.annotations, files.images, label_map=trained.label_map)
    scores, results = _score(trained, columns)
    folder = out if out is not None else checkpoint.parent / f"eval-{split}"
    path = folder / "predictions.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        results.write(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); choose another --out") from error
    return EvalOutcome(scores=scores, results_path=path)


def evaluate_files(ground_truth: Path, predictions: Path) -> Scores:
    """Score a COCO results file against a COCO annotation file; no model is involved."""
    return coco_scores.score(ground_truth, predictions)


def predict(
    checkpoint: Path, sources: Sequence[str], *, out: Path | None, score: float, device: str
) -> PredictOutcome:
    """Find objects in images and write annotated pictures and `predictions.json`."""
    images = find_images(sources)
    found = Detector.load(checkpoint, device=device)
    return output.write(found, images, folder=out, score=score)


def _validation_columns(data: DataPaths, train_columns: Columns) -> Columns | None:
    if not data.has("val"):
        return None
    files = data.split("val")
    return coco.read(files.annotations, files.images, label_map=train_columns.label_map)


def _score(trained: TrainedModel, columns: Columns) -> tuple[Scores, Results]:
    batches = loader.evaluation_loader(
        columns, trained.preprocess, batch_size=EVALUATION_BATCH, workers=loader.num_workers(trained.config.data)
    )
    results = collect(lambda images, placements: inference.detect(trained, images, placements), batches, columns)
    return coco_scores.score(columns.annotations, results), results


def _with_model(trained: TrainedModel, model: DetectionModel) -> TrainedModel:
    return TrainedModel(
        model=model, config=trained.config, label_map=trained.label_map, preprocess=trained.preprocess
    )


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
