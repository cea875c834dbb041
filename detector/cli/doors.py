"""The doors of the command line: `detector train` and `tools/train.py` both call `train` here.

torch is imported when a command has understood its options, not before.
"""

import contextlib
import difflib
import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal, TypeVar

from detector.cli import benchmarking, commands, export_options, report_options, settings, split_options
from detector.cli import options as forms
from detector.cli.answer import Answer
from detector.errors import ConfigError, DetectorError
from detector.printable import visible

Options = TypeVar("Options", bound=forms.Form)

INTERRUPTED = commands.SIGNALLED + signal.SIGINT

COMMANDS = ("train", "eval", "predict", "split", "export", "report", "compare", "status", "replay", "benchmark")

HELP = """\
usage: detector COMMAND ...

Train, score and use an object detector on images with a COCO JSON.

commands:
  train      Train on a data set; writes a run folder with the best model.
  eval       Score a model, or a COCO results file, against ground truth.
  predict    Find objects in images; writes pictures and a COCO results file.
  split      Deal one COCO file into training, validation and test split.
  export     Write a model file of half the size.
  report     Write one HTML file about a run: scores, errors, pictures, data.
  compare    Say whether the second of two models is better, and where.
  status     Say how a training run stands.
  replay     Compute a step again that was not finite.
  benchmark  Measure this program: speed beside others, heads, files.

`detector COMMAND --help` lists the options of a command, `detector --version`
says which version this is.

examples:
  detector train data/blood-cells --recipe small --minutes 4
  detector eval runs/train-001/best.safetensors data/blood-cells
  detector predict runs/train-001/best.safetensors image.jpg

exit codes:
  0 done   1 failure while running   2 usage or configuration   3 data
  4 model or checkpoint   130 interrupted   143 ended by SIGTERM
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; a wrong option and a command's --help leave through SystemExit."""
    command, *rest = [*(sys.argv[1:] if argv is None else argv)] or [""]
    doors = {
        "train": train,
        "eval": evaluate,
        "predict": predict,
        "split": split,
        "export": export,
        "report": report,
        "compare": compare,
        "status": status,
        "replay": replay,
        "benchmark": benchmark,
    }
    if command in doors:
        return doors[command](rest)
    if command in ("-h", "--help", "--version"):
        with _reader_may_leave():
            sys.stdout.write(f"detector {_version()}\n" if command == "--version" else HELP)
        return 0
    if not command:
        sys.stderr.write(HELP)
        return ConfigError.exit_code
    close = difflib.get_close_matches(command, COMMANDS, n=1)
    cure = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(COMMANDS)}"
    _note("error", f"no command {command!r}; {cure}")
    return ConfigError.exit_code


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("detector")
    except metadata.PackageNotFoundError:
        return "of a source folder that is not installed"


def train(argv: Sequence[str] | None = None) -> int:
    return _door(forms.parse_train, _train, argv)


def evaluate(argv: Sequence[str] | None = None) -> int:
    return _door(forms.parse_evaluate, _evaluate, argv)


def predict(argv: Sequence[str] | None = None) -> int:
    return _door(forms.parse_predict, _predict, argv)


def split(argv: Sequence[str] | None = None) -> int:
    return _door(split_options.parse_split, commands.split, argv)


def export(argv: Sequence[str] | None = None) -> int:
    return _door(export_options.parse_export, commands.export, argv)


def report(argv: Sequence[str] | None = None) -> int:
    return _door(report_options.parse_report, commands.report, argv)


def compare(argv: Sequence[str] | None = None) -> int:
    return _door(report_options.parse_compare, commands.compare, argv)


def status(argv: Sequence[str] | None = None) -> int:
    return _door(report_options.parse_status, _status, argv)


def replay(argv: Sequence[str] | None = None) -> int:
    return _door(report_options.parse_replay, _replay, argv)


def benchmark(argv: Sequence[str] | None = None) -> int:
    return _door(benchmarking.parse, _benchmark, argv)


def _train(options: forms.Train) -> Answer:
    if options.resume and options.out is None:
        from detector.train import run_folder

        options = replace(options, out=run_folder.last_unfinished())
    config = settings.config_of(options)
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
        return commands.smoke(data, config, options)
    if options.learning_curve:
        return commands.learning_curve(data, config, options)
    if options.dry_run:
        return commands.dry_run(data, config, options)
    return commands.train(data, config, options)


def _evaluate(options: forms.Evaluate) -> Answer:
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
        decode=settings.decode_settings(options.settings),
    )
    return Answer(
        text=f"{text.table(outcome.scores, outcome.intervals)}\n\n{commands.thresholds(outcome)}"
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


def _predict(options: forms.Predict) -> Answer:
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
        decode=settings.decode_settings(options.settings),
        compile_network=options.compile,
        say=lambda line: _note("predict", line),
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


def _status(options: report_options.Status) -> Answer:
    from detector.train import lock, run_status

    found = run_status.read(options.run)
    is_alive = lock.is_held(options.run)
    return Answer(
        text=run_status.describe(options.run, found, is_alive=is_alive), values={**asdict(found), "is_alive": is_alive}
    )


def _replay(options: report_options.Replay) -> Answer:
    from detector import run

    outcome = run.replay(options.file)
    return Answer(text=outcome.text(), values=outcome.values())


def _benchmark(options: benchmarking.Command) -> Answer:
    return benchmarking.run(options, lambda line: _note("benchmark", line))


def _door(
    parse: Callable[[Sequence[str]], Options], command: Callable[[Options], Answer], argv: Sequence[str] | None
) -> int:
    with _reader_may_leave():
        options = parse(sys.argv[1:] if argv is None else argv)
        return _run(lambda: _with_imports(command, options), as_json=options.as_json, debug=options.debug)
    return DetectorError.exit_code


def _with_imports(command: Callable[[Options], Answer], options: Options) -> Answer:
    """Run a command after the modules that the user named for it."""
    for name in getattr(options, "imports", ()):
        here = str(Path.cwd())  # where the user's own module most likely is
        if here not in sys.path:
            sys.path.insert(0, here)
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:
            missing = isinstance(error, ModuleNotFoundError) and error.name == name
            cure = "; start in the folder of the module, or install it" if missing else ""
            reason = error if missing else f"{type(error).__name__}: {error}"
            raise ConfigError(f"--import {name or repr(name)}: {reason}{cure}") from error
    return command(options)


@contextlib.contextmanager
def _reader_may_leave() -> Generator[None]:
    """End without a traceback when `head` or another reader of our output has seen enough."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(command: Callable[[], Answer], *, as_json: bool, debug: bool) -> int:
    """Run a command and print its answer, or one line for what it raises; return the exit code."""
    try:
        # The answer alone goes to standard output, whatever libraries print on the way.
        with contextlib.redirect_stdout(sys.stderr):
            answer = command()
    except DetectorError as error:
        return _refuse(str(error), error.exit_code, debug=debug)
    except KeyboardInterrupt:
        return _refuse("interrupted", INTERRUPTED, debug=debug)
    except Exception as error:  # noqa: BLE001 - the border of the program: whatever it is, the user gets one line
        reason = f"{type(error).__name__}: {error} (not expected; --debug shows where it comes from)"
        return _refuse(reason, DetectorError.exit_code, debug=debug)
    if not answer.is_said:
        return answer.exit_code
    for note in answer.notes:
        sys.stderr.write(f"{visible(note)}\n")
    for warning in answer.warnings:
        _note("warning", warning)
    if as_json:
        sys.stdout.write(json.dumps(answer.values, indent=2, allow_nan=False) + "\n")
    else:
        sys.stdout.write("\n".join(visible(line) for line in answer.text.split("\n")) + "\n")
    return answer.exit_code


def _refuse(reason: str, exit_code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    _note("error", reason)
    return exit_code


def _note(kind: str, message: str) -> None:
    sys.stderr.write(f"{kind}: {visible(message)}\n")
