"""Score models on a split."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from detector import files, progress
from detector.analysis import bootstrap, matching
from detector.data import coco, layout
from detector.data.layout import SplitFiles
from detector.errors import ConfigError
from detector.evaluate import coco as coco_scores
from detector.evaluate import engines, named, text
from detector.evaluate.coco import Interval, Scores, Truth
from detector.evaluate.engines import Engine
from detector.evaluate.results import Results
from detector.model import device as devices
from detector.model import model_file
from detector.out_folder import OutFolder
from detector.predict import ensemble
from detector.run import finding, thresholds
from detector.run.data_paths import DataPaths
from detector.run.thresholds import ClassPoint, Wanted
from detector.train import distributed
from detector.train.distributed import World
from detector.types import LabelMap

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
    decode: Mapping[str, object] | None = None,
) -> EvalOutcome:
    """Score a model on a split, or several whose detections are fused; write detections as COCO results, and scores."""
    with distributed.joined(devices.resolve(device)) as world:
        return _evaluate(
            checkpoints,
            data,
            world,
            split=split,
            out=out,
            engine=engine,
            write_thresholds=write_thresholds,
            decode=decode or {},
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
    decode: Mapping[str, object],
) -> EvalOutcome:
    """Of several processes each looks at its share of the images, and the first does the rest."""
    aim = None if write_thresholds is None else thresholds.parse_aim(write_thresholds)
    if aim is not None and len(checkpoints) > 1:
        raise ConfigError("--write-thresholds goes with one model file; what several find is fused")
    found = data.split(split, advice=layout.FOR_EVAL)
    for checkpoint in checkpoints:
        model_file.require_file(checkpoint)  # before a folder for results is made beside it
    part = split if data.annotations is None else data.annotations.stem
    fused = "" if len(checkpoints) == 1 else f"-of-{len(checkpoints)}"
    # Before the models are run, since that may take an hour.
    place = out if out is not None else checkpoints[0].parent / f"eval-{part}{fused}"
    with claimed(place) if world.is_first else nullcontext() as folder:
        with progress.shown("scoring") if world.is_first else nullcontext() as show:
            seen = look(checkpoints, found, world, show=show, decode=decode)
        assert seen is not None  # nobody asked to stop
        outcome = None
        if folder is not None:
            outcome = scored(folder, seen, coco_scores.read_truth(seen.annotations), engine=engine, aim=aim)
    outcome = world.share(outcome)
    assert outcome is not None
    return dataclasses.replace(outcome, is_first=world.is_first)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What model files find in a split."""

    checkpoints: tuple[Path, ...]
    decode: Mapping[str, object]
    labels: LabelMap
    annotations: Path
    results: Results
    unreadable: tuple[str, ...]
    stored: tuple[float, ...] | None
    """Thresholds that a single model has, one a label."""


def look(
    checkpoints: Sequence[Path],
    files_of_split: SplitFiles,
    world: World,
    *,
    show: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    dtype: torch.dtype | None = None,
    decode: Mapping[str, object] | None = None,
) -> Seen | None:
    """Load the models and run them; None where somebody asked to stop.

    Args:
        checkpoints: The model files.
        files_of_split: The data.
        world: The processes that call this, each of which looks at its share of the images.
        show: Told how far it is.
        should_stop: Asked now and then.
        dtype: Of the convolutions; None for what the settings of each model say.
        decode: Settings of `DecodeConfig` in place of those in the files.
    """
    models = [model_file.load(checkpoint, world.device, decode=decode) for checkpoint in checkpoints]
    labels = ensemble.merge_label_maps([model.label_map for model in models], [str(path) for path in checkpoints])
    columns = coco.read(files_of_split.annotations, files_of_split.images, label_map=labels)
    unreadable: dict[str, None] = {}
    results = finding.find(
        models,
        columns,
        world,
        lambda reason: unreadable.update({reason: None}),
        show,
        should_stop=should_stop,
        dtype=dtype,
    )
    if results is None:
        return None
    return Seen(
        checkpoints=tuple(checkpoints),
        decode=decode or {},
        labels=labels,
        annotations=files_of_split.annotations,
        results=results,
        unreadable=tuple(unreadable),
        stored=models[0].thresholds if len(models) == 1 else None,
    )


def claimed(place: Path) -> OutFolder:
    """The folder for what `scored` writes.

    Raises:
        ConfigError: it holds the files of somebody else, or cannot be written.
    """
    folder = OutFolder.claim(place, "eval")
    folder.require_free((_RESULTS, _SCORES))
    return folder


def scored(
    folder: OutFolder, seen: Seen, truth: Truth, *, engine: Engine = "hotcoco", aim: Wanted | None = None
) -> EvalOutcome:
    """Score what was seen against the ground truth in `seen.annotations`, and write detections and scores.

    Raises:
        ConfigError: they cannot be written.
    """
    found = coco_scores.by_row(seen.results, truth)
    matches = matching.match(truth.objects, found)
    outcome = EvalOutcome(
        scores=coco_scores.scores_of(engines.curves(engine, truth.objects, found), truth, found),
        intervals=bootstrap.intervals(matches),
        thresholds=() if aim is None else thresholds.choose(aim, matches, truth, seen.labels, seen.stored),
        results_path=folder.path / _RESULTS,
        scores_path=folder.path / _SCORES,
        unreadable=seen.unreadable,
    )
    if outcome.thresholds:
        model_file.write_thresholds(seen.checkpoints[0], tuple(one.point.threshold for one in outcome.thresholds))
    made_from = _made_from(seen.checkpoints, seen.annotations, seen.decode)
    _write(folder, outcome.scores, outcome.intervals, seen.results, made_from)
    return outcome


def evaluate_files(
    ground_truth: Path, predictions: Path, *, engine: Engine = "hotcoco"
) -> tuple[Scores, tuple[Interval, ...]]:
    """Score a COCO results file against a COCO annotation file; no model is involved.

    The intervals are of AP, AP50 and AP75.
    """
    results, notes = named.read(predictions, ground_truth)
    truth = coco_scores.read_truth(ground_truth)
    found = coco_scores.by_row(results, truth, source=str(predictions))
    scores = coco_scores.scores_of(engines.curves(engine, truth.objects, found), truth, found)
    intervals = bootstrap.intervals(matching.match(truth.objects, found))
    return dataclasses.replace(scores, notes=(*scores.notes, *notes)), intervals


def saved_results(checkpoint: Path, split: str, annotations: Path) -> Path | None:
    """Results that `evaluate` left beside a model, where neither the model nor the data have changed since."""
    folder = checkpoint.parent / f"eval-{split}"
    try:
        content: Any = json.loads((folder / _SCORES).read_text(encoding="utf-8"))
        is_same = content.get("made_from") == _made_from([checkpoint], annotations, {})
    except (OSError, ValueError, AttributeError):
        return None
    results = folder / _RESULTS
    return results if is_same and results.is_file() else None


def _made_from(checkpoints: Sequence[Path], annotations: Path, decode: Mapping[str, object]) -> dict[str, Any]:
    return {
        "models": [files.sha256(checkpoint) for checkpoint in checkpoints],
        "annotations": files.sha256(annotations),
        "decode": dict(decode),
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
        files.write_text(folder.file(_SCORES), content)
    except OSError as error:
        raise ConfigError(files.no_output(folder.path, error)) from error
