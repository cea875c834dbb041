"""Results of experiments: a file with one JSON object a line, to which each training adds its own.

A line is appended whole, so that several scripts may run side by side; one that a crash cut short is passed over.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from detector import config_file, recipes
from detector.cli import options, settings
from detector.config import RunConfig
from detector.model import device as devices
from detector.recipes import RecipeName
from detector.run import fitting, material
from detector.run.data_paths import DataPaths
from detector.train.distributed import World

T = TypeVar("T")


class Results(Generic[T]):
    """The results of one kind, a dataclass, in the order in which they came."""

    def __init__(self, path: Path, kind: type[T]) -> None:
        self._path = path
        self._kind = kind

    def read(self) -> list[T]:
        if not self._path.is_file():
            return []
        found: list[T] = []
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                row = cast("dict[str, Any]", json.loads(line))
            except ValueError:
                continue
            found.append(self._kind(**row))
        return found

    def add(self, result: T) -> None:
        line = json.dumps(asdict(cast("Any", result)))
        with self._path.open("a+", encoding="utf-8") as file:
            file.seek(0)
            text = file.read()
            file.write(("" if text.endswith("\n") or not text else "\n") + line + "\n")


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
