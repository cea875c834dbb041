"""What can be typed after each command.

Pure but for --help and usage errors, which leave through SystemExit with code 0 or 2. Imports no torch, so that both
are immediate.
"""

import contextlib
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import tyro
from tyro import conf

from detector import files
from detector.cli import usage
from detector.errors import ConfigError
from detector.printable import visible

AUTO = "auto"
"""The recipe that is fitted."""


def shown(metavar: str, default: str = "") -> Any:
    """How an option without a default of its own stands in the help."""
    return conf.arg(metavar=metavar, help_behavior_hint=default)


TRAIN_EXAMPLES = """\
examples:
  detector train data/blood-cells --recipe small --minutes 4
  detector train data/blood-cells --epochs 50 --set optim.weight_decay=0.01
  detector train --train-json a.json --val-json b.json --images pictures/
  detector train data/blood-cells --config runs/train-001/config.yaml
  detector train data/blood-cells --out runs/train-001 --resume --epochs 80
  detector train data/blood-cells --dry-run
  detector train data/blood-cells --smoke
  detector train data/blood-cells --learning-curve --minutes 4
"""

EVAL_EXAMPLES = """\
examples:
  detector eval runs/train-001/best.safetensors data/blood-cells
  detector eval runs/train-001/best.safetensors data/blood-cells --split val
  detector eval best.safetensors --annotations a.json --images pictures/
  detector eval --ground-truth test.json --predictions results.json --json
"""

PREDICT_EXAMPLES = """\
examples:
  detector predict runs/train-001/best.safetensors image.jpg
  detector predict runs/train-001/best.safetensors photos/ --score 0.5
  detector predict a.safetensors b.safetensors photos/
"""

Device = Annotated[Literal["auto", "cpu", "cuda"], conf.arg(help="Where to compute; auto takes a GPU if there is one.")]
AsJson = Annotated[bool, conf.arg(name="json", help="Print the result as one JSON object.", help_behavior_hint="")]
Debug = Annotated[bool, conf.arg(help="Show the traceback of an error.", help_behavior_hint="")]

Compile = Annotated[
    bool,
    conf.arg(help="Try torch.compile and keep it where it is faster; takes some minutes.", help_behavior_hint=""),
]

Imports = Annotated[
    tuple[str, ...],
    conf.UseAppendAction,
    conf.arg(
        name="import",
        metavar="MODULE",
        help="Python module with heads of your own, run before anything else (repeatable).",
        help_behavior_hint="",
    ),
]


Settings = Annotated[
    tuple[str, ...],
    conf.UseAppendAction,
    conf.arg(name="set", metavar="KEY=VALUE", help_behavior_hint="(repeatable)"),
]


class Form(Protocol):
    """What every command takes."""

    @property
    def as_json(self) -> bool: ...

    @property
    def debug(self) -> bool: ...


Start = conf.create_mutex_group(required=False, title="starting point")
Length = conf.create_mutex_group(required=False, title="length, instead of the recipe's")


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    """Train a detector. A setting comes from an option, else the recipe or file."""

    data: Annotated[Path | None, conf.Positional, shown("[DATA]")] = None
    """Folder with train.json, val.json and images/, or in one of COCO's own layouts."""
    recipe: Annotated[str, Start, shown("NAME", "(default: auto)")] = AUTO
    """Settings that go together: auto, small, standard, coco-1x, … (README). auto fits them to the data and the device,
    and says why."""
    config: Annotated[Path | None, Start, shown("FILE")] = None
    """YAML file of settings, such as the config.yaml of a run."""
    epochs: Annotated[float | None, Length, shown("N")] = None
    """Passes over the training images."""
    steps: Annotated[int | None, Length, shown("N")] = None
    """Batches."""
    minutes: Annotated[float | None, Length, shown("M")] = None
    """Wall-clock time."""
    out: Annotated[Path | None, shown("DIR", "(default: runs/train-001, counted up)")] = None
    """Run folder."""
    resume: Annotated[bool, conf.arg(help_behavior_hint="")] = False
    """Go on with the unfinished run in --out, or the last of runs/, with its settings; a longer length is allowed."""
    dry_run: Annotated[bool, conf.arg(help_behavior_hint="")] = False
    """Measure memory, seconds a step and the time of the whole run, and stop; nothing is written."""
    smoke: Annotated[bool, conf.arg(help_behavior_hint="")] = False
    """Learn eight images by heart and say PASS, or what is wrong; nothing is written."""
    learning_curve: Annotated[bool, conf.arg(help_behavior_hint="")] = False
    """Train on 25, 50 and 100 % of the images, and say what twice the labels would bring."""
    init: Annotated[str, conf.arg(metavar="imagenet|none|FILE")] = "none"
    """First weights. imagenet downloads the trunk once; FILE is a model file, or one of torchvision or timm."""
    teacher: Annotated[Path | None, shown("FILE")] = None
    """Trained model of the same classes to learn from besides."""
    heads: Annotated[Literal["joint", "sequential"] | None, shown("joint|sequential")] = None
    """sequential runs the heads one after another: less memory, equal gradients."""
    compile: Compile = False
    image_size: Annotated[int | None, shown("S")] = None
    """Longer side of the network input in pixels."""
    batch_size: Annotated[int | Literal["auto"] | None, shown("B|auto")] = None
    """Images a step. auto takes what fits into the GPU, and a learning rate that goes with it."""
    lr: Annotated[float | None, shown("X")] = None
    """Learning rate."""
    seed: Annotated[int | None, shown("N")] = None
    """Seed of all randomness."""
    settings: Settings = ()
    """Any other setting by its name in config.yaml."""
    device: Device = "auto"
    workers: Annotated[int | None, shown("N")] = None
    """Processes that read images; 0 reads in the main one."""
    cache: Annotated[Literal["none", "disk"] | None, shown("none|disk")] = None
    """disk keeps decoded images in your cache folder, for later epochs and runs."""
    tensorboard: Annotated[bool, conf.arg(help_behavior_hint="")] = False
    """Write the curves for TensorBoard too, where that package is installed."""
    train_json: Annotated[Path | None, shown("FILE")] = None
    """COCO JSON to learn from, in place of that of DATA."""
    val_json: Annotated[Path | None, shown("FILE")] = None
    """COCO JSON to validate on, in place of that of DATA."""
    images: Annotated[Path | None, shown("DIR")] = None
    """Folder of the images of these two; else looked for around them."""
    imports: Imports = ()
    as_json: AsJson = False
    debug: Debug = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate:
    """Score a model on a data set, or a COCO results file against ground truth."""

    inputs: Annotated[tuple[Path, ...], conf.Positional, shown("[CHECKPOINT... DATA]")] = ()
    """Model file, such as best.safetensors of a run, and data set folder. What several models find is fused."""
    split: Literal["train", "val", "test"] = "test"
    """Part of the data set."""
    annotations: Annotated[Path | None, shown("FILE")] = None
    """COCO JSON to score on, in place of DATA."""
    images: Annotated[Path | None, shown("DIR")] = None
    """Folder of its images; else looked for around it."""
    out: Annotated[Path | None, shown("DIR", "(default: eval-SPLIT beside CHECKPOINT)")] = None
    """Folder for predictions.json and scores.json."""
    device: Device = "auto"
    ground_truth: Annotated[Path | None, shown("FILE")] = None
    """COCO JSON to score against, instead of a model and DATA."""
    predictions: Annotated[Path | None, shown("FILE")] = None
    """COCO results file to score."""
    engine: Literal["hotcoco", "pycocotools"] = "hotcoco"
    """Who computes the scores. The numbers are the same; pycocotools defines them, hotcoco is faster."""
    settings: Settings = ()
    """Setting of how boxes are read off, such as decode.mirror=true, in place of the model's."""
    write_thresholds: Annotated[str | None, shown("f1|precision=X|recall=X")] = None
    """Put into CHECKPOINT, for each class, the score that is best on this split; predict uses it."""
    imports: Imports = ()
    as_json: AsJson = False
    debug: Debug = False

    @property
    def checkpoints(self) -> tuple[Path, ...]:
        """The first of the inputs, and what follows it as long as it is called a model file."""
        return _leading_models(self.inputs)

    @property
    def data(self) -> Path | None:
        rest = self.inputs[len(self.checkpoints) :]
        if len(rest) > 1:
            raise ConfigError(
                f"eval takes one data set, got {str(rest[0])!r} and {str(rest[1])!r}; "
                f"name model files (*{files.MODEL_SUFFIX}) first, then the data"
            )
        return rest[0] if rest else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Predict:
    """Find objects in images."""

    inputs: Annotated[tuple[str, ...], conf.Positional, shown("CHECKPOINT... SOURCE...")]
    """Model file, such as best.safetensors of a run, then image files, folders or glob patterns. What several models
    find is fused."""
    out: Annotated[Path | None, shown("DIR", "(default: runs/predict-001, counted up)")] = None
    """Folder for the pictures and the results file."""
    score: Annotated[float | None, shown("X", "(default: thresholds of the model, else 0.3; 0 for a localizer)")] = None
    """Lowest score of an object that is reported."""
    device: Device = "auto"
    settings: Settings = ()
    """Setting of how boxes are read off, such as decode.mirror=true, in place of the model's."""
    compile: Compile = False
    imports: Imports = ()
    as_json: AsJson = False
    debug: Debug = False

    @property
    def checkpoints(self) -> tuple[Path, ...]:
        """The first of the inputs, and what follows it as long as it is called a model file."""
        return _leading_models([Path(one) for one in self.inputs])

    @property
    def sources(self) -> tuple[str, ...]:
        return self.inputs[len(self.checkpoints) :]


def _leading_models(inputs: Sequence[Path]) -> tuple[Path, ...]:
    more = takewhile(lambda path: path.suffix == files.MODEL_SUFFIX, inputs[1:])
    return (*inputs[:1], *more)


def parse_train(argv: Sequence[str]) -> Train:
    return parse(Train, argv, prog="detector train", examples=TRAIN_EXAMPLES)


def parse_evaluate(argv: Sequence[str]) -> Evaluate:
    return parse(Evaluate, argv, prog="detector eval", examples=EVAL_EXAMPLES)


def parse_predict(argv: Sequence[str]) -> Predict:
    return parse(Predict, argv, prog="detector predict", examples=PREDICT_EXAMPLES)


def check_train(options: Train) -> None:
    """There is data, and no option that the others leave without a meaning."""
    if not names_data(options) and not options.resume:
        raise ConfigError("train needs DATA, or --train-json")
    if options.images is not None and options.train_json is None and options.val_json is None:
        raise ConfigError("--images goes with --train-json or --val-json; DATA knows its own images")
    others = [name for name in ("smoke", "dry_run", "learning_curve") if getattr(options, name)]
    if not others:
        return
    lengths = (options.epochs, options.steps, options.minutes)
    given = {
        "--resume": options.resume,
        "--tensorboard": options.tensorboard,
        f"--{others[-1].replace('_', '-')}": len(others) > 1,
        "--out": options.smoke and options.out is not None,
        "--batch-size auto": not options.dry_run and options.batch_size == "auto",
        "--epochs, --steps or --minutes": options.smoke and any(length is not None for length in lengths),
    }
    for name, is_given in given.items():
        if is_given:
            other = others[0].replace("_", "-")
            raise ConfigError(f"{name} has no meaning beside --{other}; leave one of them out")


def names_data(options: Train) -> bool:
    """Whether the user says what to learn on; a run that is resumed knows it."""
    return options.data is not None or options.train_json is not None


def check_eval_data(options: Evaluate) -> None:
    """The data of eval is a folder, or one file with its images."""
    if options.annotations is None:
        if options.images is not None:
            raise ConfigError("--images goes with --annotations; DATA knows its own images")
        return
    if options.data is not None:
        raise ConfigError(f"--annotations and DATA {str(options.data)!r} both name the data; keep one")
    if options.split != "test":
        raise ConfigError("--split has no meaning beside --annotations; leave it out")


def results_files(options: Evaluate) -> tuple[Path, Path] | None:
    """Ground truth and results file, where eval scores files; None where it runs a model."""
    if options.ground_truth is None and options.predictions is None:
        return None
    if options.ground_truth is None or options.predictions is None:
        raise ConfigError("--ground-truth and --predictions go together")
    of_a_model = {
        "CHECKPOINT": options.checkpoints != (),
        "--annotations": options.annotations is not None,
        "--images": options.images is not None,
        "--set": options.settings != (),
        "--split": options.split != "test",
        "--out": options.out is not None,
        "--device": options.device != "auto",
        "--write-thresholds": options.write_thresholds is not None,
    }
    for name, given in of_a_model.items():
        if given:
            raise ConfigError(f"{name} has no meaning beside --ground-truth and --predictions; leave it out")
    return options.ground_truth, options.predictions


def parse(form: Any, argv: Sequence[str], *, prog: str, examples: str, about: str | None = None) -> Any:
    """Read the words after a command into its form, or into one of several."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                form, prog=prog, args=argv, description=about, config=(conf.FlagCreatePairsOff, conf.DisallowNone)
            )
    except SystemExit as stop:
        if stop.code:
            sys.stderr.write(f"error: {visible(usage.in_one_line(said.getvalue(), prog))}\n")
        else:  # --help was asked for and has been printed
            sys.stdout.write(examples)
        raise
