"""The settings that result from what was typed. Imports no torch, as `options`."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from detector import config_file, recipes
from detector.cli.options import AUTO, Train
from detector.config import RunConfig
from detector.errors import ConfigError
from detector.fitting import choice
from detector.fitting.choice import AutoRecipe
from detector.recipes import RecipeName


def names_lr(options: Train) -> bool:
    """Whether the user chose the learning rate."""
    return options.lr is not None or config_file.parse_overrides(options.settings).get("optim.lr") is not None


def decode_settings(settings: Sequence[str]) -> dict[str, object]:
    """What --set says of `decode`, by name; nothing else can be changed once a model is trained.

    Raises:
        ConfigError: it names something else, or is no KEY=VALUE.
    """
    changes = config_file.parse_overrides(settings)
    for key in changes:
        if not key.startswith("decode."):
            raise ConfigError(
                f"--set {key}: a trained model takes settings of decode alone, such as decode.nms_iou=0.5"
            )
    return {key.removeprefix("decode."): value for key, value in changes.items()}


def config_of(options: Train) -> RunConfig | AutoRecipe:
    """Resolve the settings: default < recipe or file (that of the run, where it is gone on with) < option.

    Those of the automatic recipe are left to be fitted to the data.

    Raises:
        ConfigError: the file or a value is wrong, or a setting is given both by its own option and by --set.
    """
    _require_known(options.recipe)
    file = options.config if options.config is not None else _file_of_run(options)
    settings = config_file.parse_overrides(options.settings)
    own = _own_options(options)
    twice = sorted(own.keys() & settings.keys())
    if twice:
        raise ConfigError(f"{twice[0]} is set by an option of its own and by --set; keep one")
    if file is None and options.recipe == AUTO:
        choice.settle(recipes.small(), (), "", settings | own)  # says at once what is wrong with them
        return AutoRecipe(changes=settings | own)
    base = config_file.load(file) if file is not None else recipes.make(cast("RecipeName", options.recipe))
    config = config_file.override(base, settings | own)
    if options.config is None and options.recipe in recipes.NEED_TEACHER and config.distill.teacher is None:
        raise ConfigError(f"recipe {options.recipe} learns from a trained model: name it with --teacher CHECKPOINT")
    return config


def _require_known(recipe: str) -> None:
    known = (AUTO, *recipes.NAMES)
    if recipe not in known:
        raise ConfigError(f"--recipe {recipe!r}: {config_file.nearest(recipe, known)}")


def _file_of_run(options: Train) -> Path | None:
    """Settings of the run that is gone on with: one that was asked for, or one that the automatic recipe has begun."""
    if options.out is None or options.recipe != AUTO or not (options.resume or (options.out / choice.FILE).is_file()):
        return None
    file = options.out / "config.yaml"
    return file if file.is_file() else None


def _own_options(options: Train) -> dict[str, object]:
    settings: dict[str, object] = {
        "distill.teacher": None if options.teacher is None else str(options.teacher),
        "memory.heads": options.heads,
        "data.image_size": options.image_size,
        "data.batch_size": None if options.batch_size == "auto" else options.batch_size,
        "data.workers": options.workers,
        "data.cache": options.cache,
        "compile": options.compile or None,
        "optim.lr": options.lr,
        "seed": options.seed,
    }
    given = {key: value for key, value in settings.items() if value is not None}
    length = {"length.epochs": options.epochs, "length.steps": options.steps, "length.minutes": options.minutes}
    if any(value is not None for value in length.values()):
        # The two that are not given go along, to replace the recipe's length whichever that was.
        given |= length
    return given
