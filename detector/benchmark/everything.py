"""All benchmarks one after another, and the page that shows them."""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from detector.benchmark import (
    contest,
    counting,
    data,
    goals,
    growth,
    heads,
    load,
    networks,
    profile,
    reading,
    scoring,
    text,
)
from detector.benchmark.goals import Measured
from detector.errors import ConfigError
from detector.files import write_text

PAGE = "performance.md"
_FOLDER = "measurements"
_PLOT = "growth-{device}.png"
_BLOCK = re.compile(r"(<!-- measured: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_BATCH = {"cpu": (4, 1), "cuda": (16, 16)}  # of training and inference


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is measured, and where it goes."""

    docs: Path | None = None
    """Folder with `performance.md`, whose tables are written anew; None writes nothing."""
    data: Path
    """A data set of real images."""
    rounds: int = 5
    only: tuple[str, ...] = ()
    """Names of benchmarks; none is all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One benchmark's report in both forms."""

    text: str
    values: Mapping[str, object]


class _Book:
    """What was measured so far; each is written as soon as it is there."""

    def __init__(self, settings: Settings, device: torch.device, say: Callable[[str], None]) -> None:
        self.settings = settings
        self.device = device
        self.shown: dict[str, Shown] = {}
        self._say = say

    def wants(self, name: str) -> bool:
        return not self.settings.only or name in self.settings.only

    def say(self, name: str) -> Callable[[str], None]:
        return lambda line: self._say(f"{name}: {line}")

    def add(self, name: str, words: str, values: Mapping[str, object]) -> None:
        self.shown[name] = Shown(text=words, values=values)
        if self.settings.docs is not None:
            folder = self.settings.docs / _FOLDER
            folder.mkdir(exist_ok=True)
            content = json.dumps(values, indent=1, allow_nan=False) + "\n"
            write_text(folder / f"{name}-{self.device.type}.json", content)
            _rewrite(self.settings.docs / PAGE, f"{name}-{self.device.type}", words)


NAMES = ("operations", "train", "infer", "load", "data", "eval", "read", "read-boxes", "heads", "profile", "growth")


def measure(settings: Settings, device: torch.device, say: Callable[[str], None]) -> Mapping[str, Shown]:
    """Run them; `say` is told what goes on.

    Raises:
        ConfigError: there is no such benchmark, or no page.
    """
    for name in settings.only:
        if name not in NAMES:
            raise ConfigError(f"--only {name}: no such benchmark; known: {', '.join(NAMES)}")
    if settings.docs is not None and not (settings.docs / PAGE).is_file():
        raise ConfigError(f"--docs {settings.docs}: it has no {PAGE}; name the docs/ of a checkout")
    book = _Book(settings, device, say)
    found = _contests(book)
    _others(book)
    if settings.docs is not None:
        found = _with_earlier(found, settings.docs / _FOLDER, device.type)
    rows = goals.goals(found, on_gpu=device.type == "cuda")
    book.add("goals", goals.table(rows), {"rows": [dataclasses.asdict(row) for row in rows]})
    return book.shown


def _with_earlier(found: Measured, folder: Path, device: str) -> Measured:
    """What this run did not measure, from the files of earlier ones."""
    files = {"evaluate": "eval", "read_boxes": "read-boxes"}
    earlier: dict[str, object] = {}
    for field in dataclasses.fields(found):
        path = folder / f"{files.get(field.name, field.name)}-{device}.json"
        if getattr(found, field.name) is None and path.is_file():
            read = counting.of_json if field.name == "operations" else contest.of_json
            try:
                earlier[field.name] = read(json.loads(path.read_text(encoding="utf-8")))
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(f"{path}: is no measurement of this program ({error}); measure it again") from error
    return dataclasses.replace(found, **earlier)


def _contests(book: _Book) -> Measured:
    settings, device, rounds = book.settings, book.device, book.settings.rounds
    train_batch, infer_batch = _BATCH[device.type]
    found = Measured()
    if book.wants("operations"):
        counted = counting.measure(counting.Settings(), book.say("operations"))
        book.add("operations", counting.table(counted), counting.as_json(counted))
        found = dataclasses.replace(found, operations=counted)
    if book.wants("train"):
        train = networks.Settings(task="train", batch_size=train_batch, rounds=rounds, compile=True)
        found = dataclasses.replace(found, train=networks.measure(train, device, book.say("train")))
        _add(book, "train", found.train)
    if book.wants("infer"):
        infer = networks.Settings(task="infer", batch_size=infer_batch, rounds=2 * rounds, compile=True)
        found = dataclasses.replace(found, infer=networks.measure(infer, device, book.say("infer")))
        _add(book, "infer", found.infer)
    if book.wants("load"):
        found = dataclasses.replace(found, load=load.measure(load.Settings(rounds=rounds), book.say("load")))
        _add(book, "load", found.load)
    if book.wants("data"):
        files = data.Settings(folder=settings.data, rounds=rounds, device=device.type)
        found = dataclasses.replace(found, data=data.measure(files, book.say("data")))
        _add(book, "data", found.data)
    if book.wants("eval"):
        found = dataclasses.replace(found, evaluate=scoring.measure(scoring.Settings(rounds=rounds), book.say("eval")))
        _add(book, "eval", found.evaluate)
    if book.wants("read"):
        read = reading.measure(reading.Settings(rounds=rounds, polygons=True), book.say("read"))
        found = dataclasses.replace(found, read=read)
        _add(book, "read", found.read)
    if book.wants("read-boxes"):
        boxes = reading.measure(reading.Settings(rounds=rounds), book.say("read-boxes"))
        found = dataclasses.replace(found, read_boxes=boxes)
        _add(book, "read-boxes", found.read_boxes)
    return found


def _add(book: _Book, name: str, report: contest.Report | None) -> None:
    assert report is not None
    book.add(name, contest.table(report), contest.as_json(report))


def _others(book: _Book) -> None:
    device = book.device
    if book.wants("heads"):
        separate = heads.measure(heads.Settings(rounds=book.settings.rounds), device, book.say("heads"))
        book.add("heads", text.table(separate), text.as_json(separate))
    if book.wants("profile"):
        seen = profile.measure(profile.Settings(batch_size=_BATCH[device.type][0]), device, book.say("profile"))
        book.add("profile", profile.table(seen), profile.as_json(seen))
    if book.wants("growth"):
        grown = growth.measure(growth.Settings(), device, book.say("growth"))
        book.add("growth", growth.table(grown), growth.as_json(grown))
        if book.settings.docs is not None:
            growth.draw(grown, book.settings.docs / "images" / _PLOT.format(device=device.type))


def _rewrite(page: Path, name: str, words: str) -> None:
    """Put a table in its place on the page, if it has one."""

    def replaced(match: re.Match[str]) -> str:
        return f"{match[1]}```text\n{words}\n```\n{match[3]}" if match["name"] == name else match[0]

    old = page.read_text(encoding="utf-8")
    write_text(page, _BLOCK.sub(replaced, old))


def as_json(shown: Mapping[str, Shown]) -> dict[str, Any]:
    return {name: one.values for name, one in shown.items()}
