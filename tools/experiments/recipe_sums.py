"""Checksums of settings, by which a result of other settings is known to be none of today's."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import cast

from detector import config_file, recipes
from detector.cli import options, settings
from detector.config import RunConfig
from detector.model import device as devices
from detector.recipes import RecipeName
from detector.run import fitting, material
from detector.run.data_paths import DataPaths
from detector.train.distributed import World


def checksum(names: Iterable[str]) -> str:
    """Of all settings of these recipes: a result of other settings is no result of today's."""
    return _digest(config_file.dump(recipes.make(cast("RecipeName", name))) for name in sorted(set(names)))


def settings_of_training(words: Sequence[str]) -> RunConfig:
    """What `detector train` comes to with these words; with `auto`, what it chooses."""
    typed = options.parse_train(words)
    data = DataPaths(folder=typed.data, train_json=typed.train_json, val_json=typed.val_json, images=typed.images)
    world = World(device=devices.resolve(typed.device))
    settled, _ = fitting.settled(settings.config_of(typed), material.read(data).train, world, typed.init)
    return settled


def checksum_of_training(words: Sequence[str]) -> str:
    """Of all settings that `detector train` comes to with these words."""
    return _digest([config_file.dump(settings_of_training(words))])


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]
