"""Results of experiments: a file with one JSON object a line, to which each training adds its own.

A line is appended whole, so that several scripts may run side by side; one that a crash cut short is passed over.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

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
