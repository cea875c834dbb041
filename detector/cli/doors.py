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
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from detector.cli import benchmarking, commands, export_options, report_options, split_options
from detector.cli import options as forms
from detector.cli.answer import Answer
from detector.errors import ConfigError, DetectorError
from detector.printable import visible

Options = TypeVar("Options", bound=forms.Form)

INTERRUPTED = commands.SIGNALLED + signal.SIGINT

_ABOUT = """\
usage: detector COMMAND ...

Train, score and use an object detector on images with a COCO JSON.

commands:
{commands}

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
    if command in COMMANDS:
        return COMMANDS[command].door(rest)
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
    return _door(forms.parse_train, commands.train, argv)


def evaluate(argv: Sequence[str] | None = None) -> int:
    return _door(forms.parse_evaluate, commands.evaluate, argv)


def predict(argv: Sequence[str] | None = None) -> int:
    return _door(forms.parse_predict, commands.predict, argv)


def split(argv: Sequence[str] | None = None) -> int:
    return _door(split_options.parse_split, commands.split, argv)


def export(argv: Sequence[str] | None = None) -> int:
    return _door(export_options.parse_export, commands.export, argv)


def report(argv: Sequence[str] | None = None) -> int:
    return _door(report_options.parse_report, commands.report, argv)


def compare(argv: Sequence[str] | None = None) -> int:
    return _door(report_options.parse_compare, commands.compare, argv)


def status(argv: Sequence[str] | None = None) -> int:
    return _door(report_options.parse_status, commands.status, argv)


def replay(argv: Sequence[str] | None = None) -> int:
    return _door(report_options.parse_replay, commands.replay, argv)


def benchmark(argv: Sequence[str] | None = None) -> int:
    return _door(
        benchmarking.parse, lambda options: benchmarking.run(options, lambda line: _note("benchmark", line)), argv
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What can be typed after `detector`."""

    door: Callable[[Sequence[str] | None], int]
    does: str


COMMANDS: Mapping[str, Command] = {
    "train": Command(door=train, does="Train on a data set; writes a run folder with the best model."),
    "eval": Command(door=evaluate, does="Score a model, or a COCO results file, against ground truth."),
    "predict": Command(door=predict, does="Find objects in images; writes pictures and a COCO results file."),
    "split": Command(door=split, does="Deal one COCO file into training, validation and test split."),
    "export": Command(door=export, does="Write a model file of half the size."),
    "report": Command(door=report, does="Write one HTML file about a run: scores, errors, pictures, data."),
    "compare": Command(door=compare, does="Say whether the second of two models is better, and where."),
    "status": Command(door=status, does="Say how a training run stands."),
    "replay": Command(door=replay, does="Compute a step again that was not finite."),
    "benchmark": Command(door=benchmark, does="Measure this program: speed beside others, heads, files."),
}
HELP = _ABOUT.format(commands="\n".join(f"  {name:<10} {command.does}" for name, command in COMMANDS.items()))


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
