"""Score models on a split."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detector import files, progress
from detector.analysis import bootstrap, matching
from detector.data import coco, layout
from detector.errors import CheckpointError, ConfigError
from detector.evaluate import coco as coco_scores
from detector.evaluate import named, text
from detector.evaluate.coco import Scores
from detector.evaluate.engines import Engine
from detector.evaluate.results import Results
from detector.evaluate.text import Interval
from detector.model import device as devices
from detector.model import model_file
from detector.out_folder import OutFolder
from detector.predict import ensemble
from detector.run import finding, thresholds
from detector.run.data_paths import DataPaths
from detector.run.thresholds import ClassPoint
from detector.train import distributed
from detector.train.distributed import World

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
    is_first: bool = True
    """Whether this is the process of several that wrote the results."""


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
    with distributed.joined(devices.resolve(device)) as world:
        return _evaluate(
            checkpoints, data, world, split=split, out=out, engine=engine, write_thresholds=write_thresholds
        )


def _evaluate(
    checkpoints: Sequence[Path],
    data: DataPaths,
    world: World,
    *,
    split: str,
    out: Path | None,
    engine: Engine,
    write_thresholds: str | None,
) -> EvalOutcome:
    """Of several processes each looks at its share of the images, and the first does the rest."""
    aim = None if write_thresholds is None else thresholds.parse_aim(write_thresholds)
    if aim is not None and len(checkpoints) > 1:
        raise ConfigError("--write-thresholds goes with one model file; what several find is fused")
    found = data.split(split, advice=layout.FOR_EVAL)
    for checkpoint in checkpoints:
        if not checkpoint.is_file():  # before a folder for results is made beside it
            raise CheckpointError(f"{checkpoint}: no such model file; check the path")
    part = split if data.annotations is None else data.annotations.stem
    fused = "" if len(checkpoints) == 1 else f"-of-{len(checkpoints)}"
    # Before the models are run, since that may take an hour.
    place = out if out is not None else checkpoints[0].parent / f"eval-{part}{fused}"
    with OutFolder.claim(place, "eval") if world.is_first else nullcontext() as folder:
        if folder is not None:
            folder.require_free((_RESULTS, _SCORES))
        models = [model_file.load(checkpoint, world.device) for checkpoint in checkpoints]
        labels = ensemble.merge_label_maps([model.label_map for model in models], [str(path) for path in checkpoints])
        columns = coco.read(found.annotations, found.images, label_map=labels)
        unreadable: dict[str, None] = {}
        with progress.shown("scoring") if world.is_first else nullcontext() as show:
            results = finding.find(models, columns, world, lambda reason: unreadable.update({reason: None}), show)
        assert results is not None  # nobody asked to stop
        outcome: EvalOutcome | None = None
        if folder is not None:
            truth = coco_scores.read_truth(found.annotations)
            matches = matching.match(truth.objects, coco_scores.by_row(results, truth))
            outcome = EvalOutcome(
                scores=coco_scores.score(columns.annotations, results, engine=engine),
                intervals=bootstrap.intervals(matches),
                thresholds=() if aim is None else thresholds.choose(aim, matches, truth, labels),
                results_path=folder.path / _RESULTS,
                scores_path=folder.path / _SCORES,
                unreadable=tuple(unreadable),
            )
            if outcome.thresholds:
                model_file.write_thresholds(checkpoints[0], tuple(one.point.threshold for one in outcome.thresholds))
            _write(folder, outcome.scores, outcome.intervals, results, _made_from(checkpoints, found.annotations))
    outcome = world.share(outcome)
    assert outcome is not None
    return dataclasses.replace(outcome, is_first=world.is_first)


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
