"""What can be typed after each command, and the settings that result.

Pure but for --help and usage errors, which leave through SystemExit with code 0 or 2. Imports no torch, so that both
are immediate.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro
from tyro import conf

from detector import config_file, recipes
from detector.config import RunConfig
from detector.errors import ConfigError
from detector.recipes import RecipeName

Options = TypeVar("Options")


def _shown(metavar: str, default: str = "") -> Any:
    """How an option without a default of its own stands in the help."""
    return conf.arg(metavar=metavar, help_behavior_hint=default)


TRAIN_EXAMPLES = """\
examples:
  detector train data/blood-cells --recipe small --minutes 4
  detector train data/blood-cells --epochs 50 --set optim.weight_decay=0.01
  detector train --train-json a.json --val-json b.json --images pictures/
  detector train data/blood-cells --config runs/train-001/config.yaml
"""

EVAL_EXAMPLES = """\
examples:
  detector eval runs/train-001/best.safetensors data/blood-cells
  detector eval runs/train-001/best.safetensors data/blood-cells --split val
  detector eval --ground-truth test.json --predictions results.json --json
"""

PREDICT_EXAMPLES = """\
examples:
  detector predict runs/train-001/best.safetensors image.jpg
  detector predict runs/train-001/best.safetensors photos/ --score 0.5
"""

Device = Annotated[Literal["auto", "cpu", "cuda"], conf.arg(help="Where to compute; auto takes a GPU if there is one.")]
AsJson = Annotated[bool, conf.arg(name="json", help="Print the result as one JSON object.", help_behavior_hint="")]
Debug = Annotated[bool, conf.arg(help="Show the traceback of an error.", help_behavior_hint="")]

Start = conf.create_mutex_group(required=False, title="starting point")
Length = conf.create_mutex_group(required=False, title="length, instead of the recipe's")


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    """Train a detector. A setting comes from an option, else the recipe or file."""

    data: Annotated[Path | None, conf.Positional, _shown("[DATA]")] = None
    """Folder with train.json, val.json and images/, or in one of COCO's own layouts."""
    recipe: Annotated[RecipeName, Start] = "small"
    """Settings that go together."""
    config: Annotated[Path | None, Start, _shown("FILE")] = None
    """YAML file of settings, such as the config.yaml of a run."""
    epochs: Annotated[float | None, Length, _shown("N")] = None
    """Passes over the training images."""
    steps: Annotated[int | None, Length, _shown("N")] = None
    """Batches."""
    minutes: Annotated[float | None, Length, _shown("M")] = None
    """Wall-clock time."""
    out: Annotated[Path | None, _shown("DIR", "(default: runs/train-001, counted up)")] = None
    """Run folder."""
    init: Annotated[str, conf.arg(metavar="imagenet|none|FILE")] = "none"
    """First weights. imagenet downloads the trunk once; FILE is a model file."""
    image_size: Annotated[int | None, _shown("S")] = None
    """Longer side of the network input in pixels."""
    batch_size: Annotated[int | None, _shown("B")] = None
    """Images a step."""
    lr: Annotated[float | None, _shown("X")] = None
    """Learning rate."""
    seed: Annotated[int | None, _shown("N")] = None
    """Seed of all randomness."""
    settings: Annotated[
        tuple[str, ...],
        conf.UseAppendAction,
        conf.arg(name="set", metavar="KEY=VALUE", help_behavior_hint="(repeatable)"),
    ] = ()
    """Any other setting by its name in config.yaml."""
    device: Device = "auto"
    workers: Annotated[int | None, _shown("N")] = None
    """Processes that read images; 0 reads in the main one."""
    train_json: Annotated[Path | None, _shown("FILE")] = None
    """COCO JSON to learn from, in place of that of DATA."""
    val_json: Annotated[Path | None, _shown("FILE")] = None
    """COCO JSON to validate on, in place of that of DATA."""
    images: Annotated[Path | None, _shown("DIR")] = None
    """Folder of the images of these two; else looked for around them."""
    as_json: AsJson = False
    debug: Debug = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate:
    """Score a model on a data set, or a COCO results file against ground truth."""

    checkpoint: Annotated[Path | None, conf.Positional, _shown("[CHECKPOINT]")] = None
    """Model file, such as best.safetensors of a run."""
    data: Annotated[Path | None, conf.Positional, _shown("[DATA]")] = None
    """Data set folder."""
    split: Literal["train", "val", "test"] = "test"
    """Part of the data set."""
    out: Annotated[Path | None, _shown("DIR")] = None
    """Folder for the scores and the results file."""
    device: Device = "auto"
    ground_truth: Annotated[Path | None, _shown("FILE")] = None
    """COCO JSON to score against, instead of a model and DATA."""
    predictions: Annotated[Path | None, _shown("FILE")] = None
    """COCO results file to score."""
    as_json: AsJson = False
    debug: Debug = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Predict:
    """Find objects in images."""

    checkpoint: Annotated[Path, conf.Positional, _shown("CHECKPOINT")]
    """Model file, such as best.safetensors of a run."""
    sources: Annotated[tuple[str, ...], conf.Positional, _shown("SOURCE...")]
    """Image files, folders or glob patterns."""
    out: Annotated[Path | None, _shown("DIR", "(default: runs/predict-001, counted up)")] = None
    """Folder for the pictures and the results file."""
    score: Annotated[float, conf.arg(metavar="X")] = 0.3
    """Lowest score of an object that is reported."""
    device: Device = "auto"
    as_json: AsJson = False
    debug: Debug = False


def parse_train(argv: Sequence[str]) -> Train:
    return _parse(Train, argv, prog="detector train", examples=TRAIN_EXAMPLES)


def parse_evaluate(argv: Sequence[str]) -> Evaluate:
    return _parse(Evaluate, argv, prog="detector eval", examples=EVAL_EXAMPLES)


def parse_predict(argv: Sequence[str]) -> Predict:
    return _parse(Predict, argv, prog="detector predict", examples=PREDICT_EXAMPLES)


def config_of(options: Train) -> RunConfig:
    """Resolve the settings: default < recipe or file < option.

    Raises:
        ConfigError: the file or a value is wrong, or a setting is given both by its own option and by --set.
    """
    base = recipes.make(options.recipe) if options.config is None else config_file.load(options.config)
    settings = dict(config_file.parse_override(text) for text in options.settings)
    own = _own_options(options)
    twice = sorted(own.keys() & settings.keys())
    if twice:
        raise ConfigError(f"{twice[0]} is set by an option of its own and by --set; keep one")
    return config_file.override(base, settings | own)


def _own_options(options: Train) -> dict[str, object]:
    settings: dict[str, object] = {
        "data.image_size": options.image_size,
        "data.batch_size": options.batch_size,
        "data.workers": options.workers,
        "optim.lr": options.lr,
        "seed": options.seed,
    }
    given = {key: value for key, value in settings.items() if value is not None}
    length = {"length.epochs": options.epochs, "length.steps": options.steps, "length.minutes": options.minutes}
    if any(value is not None for value in length.values()):
        # The two that are not given go along, to replace the recipe's length whichever that was.
        given |= length
    return given


def _parse(form: type[Options], argv: Sequence[str], *, prog: str, examples: str) -> Options:
    try:
        return tyro.cli(form, prog=prog, args=argv, config=(conf.FlagCreatePairsOff, conf.DisallowNone))
    except SystemExit as stop:
        if not stop.code:  # --help was asked for and has been printed
            sys.stdout.write(examples)
        raise
