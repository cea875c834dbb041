"""What each command does with its options. torch is imported inside them, once the options are understood."""

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from detector.cli import options as forms
from detector.cli.answer import Answer
from detector.cli.export_options import Export
from detector.cli.options import Train
from detector.cli.report_options import Compare, Replay, Report, Status
from detector.cli.settings import config_of, decode_settings, names_lr
from detector.cli.split_options import Split
from detector.errors import ConfigError
from detector.printable import visible

if TYPE_CHECKING:
    from detector.config import RunConfig
    from detector.fitting.choice import AutoRecipe
    from detector.run import Auto, DataPaths, EvalOutcome

SIGNALLED = 128
"""Plus the number of the signal is the exit code."""
FAILED = 1
_SHOWN = 8


def train(options: Train) -> Answer:
    if options.resume and options.out is None:
        from detector.train import run_folder

        options = replace(options, out=run_folder.last_unfinished())
    config = config_of(options)
    forms.check_train(options)

    from detector import run

    if forms.names_data(options):
        data = run.DataPaths(
            folder=options.data, train_json=options.train_json, val_json=options.val_json, images=options.images
        )
    else:
        assert options.out is not None
        data = run.DataPaths.of_run(options.out, val_json=options.val_json, images=options.images)
    if options.smoke:
        return _smoke(data, config, options)
    if options.learning_curve:
        return _learning_curve(data, config, options)
    if options.dry_run:
        return _dry_run(data, config, options)
    return _trained(data, config, options)


def _trained(data: "DataPaths", config: "RunConfig | AutoRecipe", options: Train) -> Answer:
    from detector import run
    from detector.evaluate import text

    outcome = run.train(
        data,
        config,
        out=options.out,
        init=options.init,
        device=options.device,
        resume=options.resume,
        auto_batch=_auto_batch(options),
        tensorboard=options.tensorboard,
    )
    # A run that was stopped before its first validation has no best model yet.
    model = outcome.best if outcome.best.exists() else outcome.last
    lines = [] if outcome.scores is None else ["best model on the validation split:", text.table(outcome.scores), ""]
    return Answer(
        text="\n".join([*lines, f"run    {outcome.run_folder}", f"model  {model}"]),
        values={
            "run_folder": str(outcome.run_folder),
            "model": str(model),
            "last": str(outcome.last),
            "interrupted": outcome.interrupted_by is not None,
            "scores": None if outcome.scores is None else text.as_json(outcome.scores),
        },
        notes=outcome.notes,
        warnings=outcome.remarks,
        exit_code=0 if outcome.interrupted_by is None else SIGNALLED + outcome.interrupted_by,
        is_said=outcome.is_first,
    )


def _dry_run(data: "DataPaths", config: "RunConfig | AutoRecipe", options: Train) -> Answer:
    from detector import run

    found = run.forecast(
        data,
        config,
        out=options.out,
        init=options.init,
        device=options.device,
        say=_say,
        auto_batch=_auto_batch(options),
    )
    return Answer(text="\n".join(found.lines()), values=found.values())


def _smoke(data: "DataPaths", config: "RunConfig | AutoRecipe", options: Train) -> Answer:
    from detector import run

    outcome = run.smoke(data, config, init=options.init, device=options.device, say=_say)
    return Answer(text=outcome.text(), values=outcome.values(), exit_code=0 if outcome.passed else FAILED)


def _learning_curve(data: "DataPaths", config: "RunConfig | AutoRecipe", options: Train) -> Answer:
    from detector import run

    outcome = run.learning_curve(data, config, out=options.out, init=options.init, device=options.device, say=_say)
    stopped = outcome.interrupted_by
    goes_on = f"interrupted; the same command with --out {outcome.folder} goes on"
    return Answer(
        text=outcome.text(),
        values=outcome.values(),
        warnings=() if stopped is None else (goes_on,),
        exit_code=0 if stopped is None else SIGNALLED + stopped,
    )


def _auto_batch(options: Train) -> "Auto | None":
    from detector import run

    return run.Auto(keep_lr=names_lr(options)) if options.batch_size == "auto" else None


def evaluate(options: forms.Evaluate) -> Answer:
    files = forms.results_files(options)
    if files is not None:
        return _evaluate_files(*files, options.engine)
    if not options.checkpoints or (options.data is None and options.annotations is None):
        raise ConfigError("eval needs CHECKPOINT and DATA (or --annotations), or --ground-truth and --predictions")
    forms.check_eval_data(options)

    from detector import run
    from detector.evaluate import text

    data = run.DataPaths(folder=options.data, annotations=options.annotations, images=options.images)
    outcome = run.evaluate(
        options.checkpoints,
        data,
        split=options.split,
        out=options.out,
        device=options.device,
        engine=options.engine,
        write_thresholds=options.write_thresholds,
        decode=decode_settings(options.settings),
    )
    return Answer(
        text=f"{text.table(outcome.scores, outcome.intervals)}\n\n{_thresholds(outcome)}"
        f"results  {outcome.results_path}",
        values={
            "scores": text.as_json(outcome.scores, outcome.intervals),
            "results": str(outcome.results_path),
            "scores_file": str(outcome.scores_path),
            "unreadable": list(outcome.unreadable),
            "thresholds": {one.name: one.point.threshold for one in outcome.thresholds},
            "thresholds_reached": {one.name: one.is_reached for one in outcome.thresholds},
        },
        warnings=tuple(f"its objects count as missed: {reason}" for reason in outcome.unreadable),
        is_said=outcome.is_first,
    )


def _evaluate_files(ground_truth: Path, predictions: Path, engine: Literal["hotcoco", "pycocotools"]) -> Answer:
    from detector import run
    from detector.evaluate import text

    scores, intervals = run.evaluate_files(ground_truth, predictions, engine=engine)
    values = {"scores": text.as_json(scores, intervals), "results": str(predictions)}
    return Answer(text=text.table(scores, intervals), values=values)


def _thresholds(outcome: "EvalOutcome") -> str:
    """Lines on the thresholds that eval wrote, where it did."""
    if not outcome.thresholds:
        return ""
    from detector.run import thresholds as chosen

    return "\n".join(["thresholds in the model file:", *chosen.lines(outcome.thresholds), "", ""])


def predict(options: forms.Predict) -> Answer:
    if not options.checkpoints or not options.sources:
        raise ConfigError("predict needs a CHECKPOINT and at least one SOURCE: an image, a folder or a glob pattern")
    if options.score is not None and not 0 <= options.score <= 1:
        raise ConfigError(f"--score must be between 0 and 1, got {options.score}")

    from detector import run

    outcome = run.predict(
        options.checkpoints,
        options.sources,
        out=options.out,
        score=options.score,
        device=options.device,
        decode=decode_settings(options.settings),
        compile_network=options.compile,
        say=lambda line: _say(f"predict: {line}"),
    )
    images = "1 image" if outcome.num_images == 1 else f"{outcome.num_images} images"
    return Answer(
        text=f"objects   {outcome.num_detections} in {images}\npictures  {outcome.folder}",
        values={
            "folder": str(outcome.folder),
            "num_images": outcome.num_images,
            "num_detections": outcome.num_detections,
            "unreadable": list(outcome.unreadable),
        },
        warnings=tuple(f"left out: {reason}" for reason in outcome.unreadable),
        is_said=outcome.is_first,
    )


def export(options: Export) -> Answer:
    from detector import run

    outcome = run.export(
        options.checkpoint, out=options.out, half=options.precision, decode=decode_settings(options.settings)
    )
    size, original = outcome.size / 1e6, outcome.original_size / 1e6
    return Answer(
        text=f"model  {outcome.path}\nsize   {size:.1f} MB; the original has {original:.1f} MB",
        values={"model": str(outcome.path), "bytes": outcome.size, "original_bytes": outcome.original_size},
    )


def split(options: Split) -> Answer:
    from detector import run

    outcome = run.split(
        options.annotations, options.images, options.out, val=options.val, test=options.test, seed=options.seed
    )
    lines = [
        f"{name:<6} {count:>6} images  {outcome.objects[name]:>7} objects" for name, count in outcome.images.items()
    ]
    return Answer(
        text="\n".join([*lines, "", f"data   {outcome.folder}"]),
        values={
            "data": str(outcome.folder),
            "images": dict(outcome.images),
            "objects": dict(outcome.objects),
            "missing_classes": {name: list(names) for name, names in outcome.missing.items()},
        },
        warnings=tuple(
            f"{name} has no object of {', '.join(names[:_SHOWN])}{' and more' * (len(names) > _SHOWN)}: too few images "
            f"{'have one' if name == 'train' else f'have one, or --{name} is too small'}"
            for name, names in outcome.missing.items()
            if names
        ),
    )


def report(options: Report) -> Answer:
    from detector import run
    from detector.analysis import localization
    from detector.evaluate import text

    outcome = run.report(
        options.run,
        run.DataPaths(folder=options.data),
        split=options.split,
        out=options.out,
        device=options.device,
        say=_say,
    )
    analysis = outcome.analysis
    lines = [visible(line) for line in localization.told(analysis.localization)]
    return Answer(
        text="\n".join(
            [
                text.table(analysis.scores, analysis.intervals),
                "",
                "where boxes lie:",
                *(f"  {line}" for line in (lines if len(lines) <= 5 else [*lines[:4], lines[-1]])),
                "",
                f"report  {outcome.path}",
                f"labels  {outcome.labels_path}",
            ]
        ),
        values={
            "report": str(outcome.path),
            "labels": str(outcome.labels_path),
            "scores": text.as_json(analysis.scores, analysis.intervals),
            "errors": [{"kind": one.kind, "count": one.count, "ap50_lost": one.ap50_lost} for one in analysis.errors],
            "localization": lines,
            "thresholds": {
                name: point.threshold for name, point in zip(analysis.truth.names, analysis.points, strict=True)
            },
            "thresholds_from": "model file" if analysis.are_thresholds_given else "best F1",
        },
    )


def compare(options: Compare) -> Answer:
    from detector import run

    if options.ground_truth is not None:
        _refuse_beside_results(options)
        outcome = run.compare_files(options.first, options.second, options.ground_truth)
        return Answer(text=outcome.text, values=outcome.values)
    for path in (options.first, options.second):
        if path.suffix == ".json":
            raise ConfigError(f"{path}: results are compared with --ground-truth FILE; else name a run or a model file")
    outcome = run.compare(
        options.first,
        options.second,
        run.DataPaths(folder=options.data),
        split=options.split,
        out=options.out,
        device=options.device,
        say=_say,
    )
    return Answer(text=outcome.text, values=outcome.values)


def _refuse_beside_results(options: Compare) -> None:
    of_models = {
        "DATA": options.data is not None,
        "--split": options.split != "val",
        "--out": options.out is not None,
        "--device": options.device != "auto",
    }
    for name, is_given in of_models.items():
        if is_given:
            raise ConfigError(f"{name} has no meaning beside --ground-truth; leave it out")


def status(options: Status) -> Answer:
    from detector.train import lock, run_status

    found = run_status.read(options.run)
    is_alive = lock.is_held(options.run)
    return Answer(
        text=run_status.describe(options.run, found, is_alive=is_alive), values={**asdict(found), "is_alive": is_alive}
    )


def replay(options: Replay) -> Answer:
    from detector import run

    outcome = run.replay(options.file)
    return Answer(text=outcome.text(), values=outcome.values())


def _say(line: str) -> None:
    """Progress, with what a terminal would act on spelt out."""
    sys.stderr.write(visible(line) + "\n")
