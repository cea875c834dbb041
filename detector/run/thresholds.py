"""Score thresholds that a model file carries, chosen on a split."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from detector.analysis import operating
from detector.analysis.matching import Matches
from detector.analysis.operating import Aim, OperatingPoint
from detector.errors import ConfigError
from detector.evaluate.coco import Truth
from detector.model import model_file
from detector.printable import visible
from detector.types import LabelMap

_TOLD: Final = 10  # classes, in one line


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    aim: Aim
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassPoint:
    name: str
    point: OperatingPoint
    is_kept: bool = False
    """Whether the split says nothing of the class, so that the threshold of the model file stays."""

    @property
    def is_reached(self) -> bool | None:
        """Whether the wanted value is; None where the split says nothing of the class."""
        return None if math.isnan(self.point.f1) else self.point.is_reached


def parse_aim(text: str) -> Wanted:
    """Read `f1`, `precision=0.9` or `recall=0.9`.

    Raises:
        ConfigError: it is none of these.
    """
    word, equals, number = text.partition("=")
    if text == "f1":
        return Wanted(aim="f1", value=0.0)
    try:
        value = float(number) if equals else float("nan")
    except ValueError:
        value = float("nan")
    if word not in ("precision", "recall") or not 0 < value <= 1:
        raise ConfigError(
            f"--write-thresholds takes f1, precision=X or recall=X with X above 0 and up to 1, got {text!r}"
        )
    return Wanted(aim="precision" if word == "precision" else "recall", value=value)


def choose(
    wanted: Wanted, matches: Matches, truth: Truth, labels: LabelMap, stored: Sequence[float] | None = None
) -> tuple[ClassPoint, ...]:
    """A point for each label of the model; of a class without objects or detections, the stored threshold."""
    points = [
        operating.without_data() if row is None else operating.choose(matches, row, wanted.aim, wanted.value)
        for row in _rows(truth, labels)
    ]
    return tuple(
        ClassPoint(name=name, point=point)
        if before is None or not math.isnan(point.f1)
        else ClassPoint(name=name, point=dataclasses.replace(point, threshold=before), is_kept=True)
        for name, point, before in zip(labels.names, points, stored or [None] * len(points), strict=True)
    )


def stored_in(model: Path, truth: Truth) -> tuple[float, ...] | None:
    """The thresholds inside a model file, by class of the truth; None where it holds none.

    Raises:
        CheckpointError: the file is damaged.
    """
    inside = model_file.describe(model, model_file.read_tensors(model)[1])
    if inside.thresholds is None:
        return None
    # A class that the model does not know has no detections.
    made = [operating.FALLBACK] * len(truth.names)
    for row, threshold in zip(_rows(truth, inside.label_map), inside.thresholds, strict=True):
        if row is not None:
            made[row] = threshold
    return tuple(made)


def told(labels: LabelMap, stored: Sequence[float]) -> str:
    """What a model file takes for found, in one line."""
    pairs = [f"{visible(name)} {score:.3f}" for name, score in zip(labels.names, stored, strict=True)]
    rest = len(pairs) - _TOLD
    if rest > 0:
        pairs = [*pairs[:_TOLD], f"{rest} more from {min(stored[_TOLD:]):.3f} to {max(stored[_TOLD:]):.3f}"]
    return f"least scores are the thresholds in the model file: {', '.join(pairs)}; --score X takes one for all"


def _rows(truth: Truth, labels: LabelMap) -> list[int | None]:
    """The class of the truth that each label means."""
    rows = {category_id: row for row, category_id in enumerate(truth.category_ids.tolist())}
    names = {name: row for row, name in enumerate(truth.names)}
    # By id, unless the ids of the model are not those of the file.
    return [
        rows[number] if truth.names[rows.get(number, 0)] == name and number in rows else names.get(name)
        for name, number in zip(labels.names, labels.category_ids, strict=True)
    ]


def lines(chosen: tuple[ClassPoint, ...]) -> list[str]:
    """What was chosen, for people."""
    names = [visible(one.name) for one in chosen]
    width = max(map(len, names), default=0)
    made: list[str] = []
    for name, one in zip(names, chosen, strict=True):
        point = one.point
        if one.is_reached is None:
            stays = "the threshold of the model file stays" if one.is_kept else "the default stands"
            said = f"no objects or no detections of this class; {stays}"
        else:
            said = f"precision {point.precision:.3f}  recall {point.recall:.3f}  F1 {point.f1:.3f}"
            said += "" if point.is_reached else "  (wanted value not reached)"
        made.append(f"{name:<{width}}  from {point.threshold:.3f}  {said}")
    return made
