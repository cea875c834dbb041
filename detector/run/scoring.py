"""Score models on a split."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from detector import files, progress
from detector.analysis import bootstrap, matching
from detector.data import coco, layout, loader
from detector.data.columns import Columns
from detector.errors import CheckpointError, ConfigError
from detector.evaluate import coco as coco_scores
from detector.evaluate import collect, named, text
from detector.evaluate.coco import Scores
from detector.evaluate.collect import Found
from detector.evaluate.engines import Engine
from detector.evaluate.results import Results
from detector.evaluate.text import Interval
from detector.model import device as devices
from detector.model import inference, model_file, precision
from detector.model.model_file import TrainedModel
from detector.out_folder import OutFolder
from detector.predict import ensemble
from detector.run import thresholds
from detector.run.data_paths import DataPaths
from detector.run.thresholds import ClassPoint

EVALUATION_BATCH = 8
_RESULTS = "predictions.json"
_SCORES = "scores.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalOutcome:
    scores: Scores
    intervals: tuple[Interval, ...]
    """Of AP, AP50 and AP75."""
    thresholds: tuple[ClassPoint, ...]
    """What was written into the model file, and what it gives on this split; none where nobody asked."""
    results_path: Path
    scores_path: Path
    unreadable: tuple[str, ...]
    """Why, for each image that could not be read; its objects count as missed."""


def evaluate(
    checkpoints: Sequence[Path],
    data: DataPaths,
    *,
    split: str,
    out: Path | None,
    device: str,
    engine: Engine = "hotcoco",
    write_thresholds: str | None = None,
) -> EvalOutcome:
    """Score a model on a split, or several whose detections are fused; write detections as COCO results, and scores."""
    aim = None if write_thresholds is None else thresholds.parse_aim(write_thresholds)
    if aim is not None and len(checkpoints) > 1:
        raise ConfigError("--write-thresholds goes with one model file; what several find is fused")
    target = devices.resolve(device)
    found = data.split(split, advice=layout.FOR_EVAL)
    for checkpoint in checkpoints:
        if not checkpoint.is_file():  # before a folder for results is made beside it
            raise CheckpointError(f"{checkpoint}: no such model file; check the path")
    part = split if data.annotations is None else data.annotations.stem
    fused = "" if len(checkpoints) == 1 else f"-of-{len(checkpoints)}"
    # Before the models are run, since that may take an hour.
    with OutFolder.claim(out if out is not None else checkpoints[0].parent / f"eval-{part}{fused}", "eval") as folder:
        folder.require_free((_RESULTS, _SCORES))
        models = [model_file.load(checkpoint, target) for checkpoint in checkpoints]
        labels = ensemble.merge_label_maps([model.label_map for model in models], [str(path) for path in checkpoints])
        columns = coco.read(found.annotations, found.images, label_map=labels)
        unreadable: dict[str, None] = {}
        with progress.shown("scoring") as show:
            scores, results = score(
                models, columns, lambda reason: unreadable.update({reason: None}), show, engine=engine
            )
        truth = coco_scores.read_truth(found.annotations)
        matches = matching.match(truth.objects, coco_scores.by_row(results, truth))
        intervals = bootstrap.intervals(matches)
        chosen = () if aim is None else thresholds.choose(aim, matches, truth, labels)
        if chosen:
            model_file.write_thresholds(checkpoints[0], tuple(one.point.threshold for one in chosen))
        _write(folder, scores, intervals, results, _made_from(checkpoints, found.annotations))
    return EvalOutcome(
        scores=scores,
        intervals=intervals,
        thresholds=chosen,
        results_path=folder.path / _RESULTS,
        scores_path=folder.path / _SCORES,
        unreadable=tuple(unreadable),
    )


def evaluate_files(
    ground_truth: Path, predictions: Path, *, engine: Engine = "hotcoco"
) -> tuple[Scores, tuple[Interval, ...]]:
    """Score a COCO results file against a COCO annotation file; no model is involved.

    The intervals are of AP, AP50 and AP75.
    """
    results, notes = named.read(predictions, ground_truth)
    scores = coco_scores.score(ground_truth, results, engine=engine)
    truth = coco_scores.read_truth(ground_truth)
    intervals = bootstrap.intervals(matching.match(truth.objects, coco_scores.by_row(results, truth)))
    return dataclasses.replace(scores, notes=(*scores.notes, *notes)), intervals


def score(
    models: Sequence[TrainedModel],
    columns: Columns,
    on_unreadable: Callable[[str], None],
    show: Callable[[int, int], None] | None = None,
    *,
    engine: Engine = "hotcoco",
    dtype: torch.dtype | None = None,
) -> tuple[Scores, Results]:
    """Scores and detections of a model on a split, or of several together; the columns have the label map of all.

    The convolutions run in `dtype`; None for what the settings of each model say.
    """
    of_each = [find(model, columns, on_unreadable, dtype) for model in models]
    found = of_each[0] if len(models) == 1 else _fused(models, columns, of_each)
    results = collect.results(found, columns, progress=show)
    return coco_scores.score(columns.annotations, results, engine=engine), results


def find(
    model: TrainedModel,
    columns: Columns,
    on_unreadable: Callable[[str], None],
    dtype: torch.dtype | None,
    *,
    rows: Sequence[int] | None = None,
    trainers: int = 1,
) -> Iterator[Found]:
    """What a model finds in all images of a split, or in some of them."""
    device = next(model.model.parameters()).device
    batches = loader.evaluation_loader(
        columns,
        model.preprocess,
        batch_size=EVALUATION_BATCH,
        workers=loader.num_workers(model.config.data, trainers),
        pin=device.type == "cuda",
        rows=rows,
    )
    detect = partial(inference.detect, model, dtype=dtype or precision.resolve(model.config.precision, device))
    return collect.detections(detect, batches, on_unreadable=on_unreadable)


def _fused(models: Sequence[TrainedModel], columns: Columns, of_each: Sequence[Iterator[Found]]) -> Iterator[Found]:
    maps = [model.label_map for model in models]
    limit = max(model.config.decode.max_detections for model in models)
    for together in zip(*of_each, strict=True):
        rows = {row for row, _ in together}
        assert len(rows) == 1, "every model sees the same images in the same order"
        yield (
            rows.pop(),
            ensemble.combine([found for _, found in together], maps, columns.label_map, max_detections=limit),
        )


def saved_results(checkpoint: Path, split: str, annotations: Path) -> Path | None:
    """Results that `evaluate` left beside a model, where neither the model nor the data have changed since."""
    folder = checkpoint.parent / f"eval-{split}"
    try:
        content: Any = json.loads((folder / _SCORES).read_text(encoding="utf-8"))
        is_same = content.get("made_from") == _made_from([checkpoint], annotations)
    except (OSError, ValueError, AttributeError):
        return None
    results = folder / _RESULTS
    return results if is_same and results.is_file() else None


def _made_from(checkpoints: Sequence[Path], annotations: Path) -> dict[str, Any]:
    return {
        "models": [files.sha256(checkpoint) for checkpoint in checkpoints],
        "annotations": files.sha256(annotations),
    }


def _write(
    folder: OutFolder,
    scores: Scores,
    intervals: Sequence[Interval],
    results: Results,
    made_from: Mapping[str, Any],
) -> None:
    values = {**text.as_json(scores, intervals), "made_from": made_from}
    content = json.dumps(values, indent=2, allow_nan=False) + "\n"
    try:
        folder.clear()
        results.write(folder.file(_RESULTS))
        with files.written_whole(folder.file(_SCORES)) as temporary:
            temporary.write_text(content, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{folder.path}: cannot be written ({error.strerror}); choose another --out") from error
