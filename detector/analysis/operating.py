"""From scores to decisions: what a score threshold gives, and which one gives what is wanted."""

from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from detector.analysis.matching import NONE, Matches
from detector.evaluate.engines import Objects

Aim = Literal["f1", "precision", "recall"]
FALLBACK: Final = 0.3  # of a class without objects or detections


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdCurve:
    """What each threshold gives for one class at IoU 0.5, from the highest threshold down."""

    thresholds: NDArray[np.float64]  # [n]
    precision: NDArray[np.float64]  # [n]
    recall: NDArray[np.float64]  # [n]

    @property
    def f1(self) -> NDArray[np.float64]:
        total = self.precision + self.recall
        return np.divide(2 * self.precision * self.recall, total, out=np.zeros_like(total), where=total > 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """A threshold for one class and what it gives; NaN where nothing can be said: no objects, or no detections."""

    threshold: float
    precision: float
    recall: float
    f1: float
    is_reached: bool
    """Whether the wanted value is; otherwise the nearest point stands here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """The detections that pass the thresholds, judged at IoU 0.5."""

    is_right: NDArray[np.bool_]  # [K]
    is_wrong: NDArray[np.bool_]  # [K]
    missed: NDArray[np.int64]  # rows of objects


def curve(matches: Matches, class_row: int) -> ThresholdCurve | None:
    """None where the class has no objects or no detections that count."""
    part = matches.of_class(class_row)
    counts = ~matches.is_ignored[0, part]
    scores, right = matches.scores[part][counts], matches.is_right[0, part][counts]
    num_objects = int(matches.num_objects[:, class_row].sum())
    if not num_objects or not len(scores):
        return None
    last = np.append(np.flatnonzero(scores[1:] != scores[:-1]), len(scores) - 1)  # of equal scores
    hits = np.cumsum(right)[last]
    below = np.append(scores[last[:-1] + 1], scores[-1])
    return ThresholdCurve(
        # Half-way to the next score, so that no rounding decides.
        thresholds=(scores[last] + below) / 2,
        precision=hits / (last + 1),
        recall=hits / num_objects,
    )


def choose(matches: Matches, class_row: int, aim: Aim, wanted: float = 0.0) -> OperatingPoint:
    """The threshold of best F1; of most recall at a wanted precision; or of best precision at a wanted recall."""
    made = curve(matches, class_row)
    if made is None:
        return without_data()
    match aim:
        case "f1":
            place, is_reached = int(np.argmax(made.f1)), True
        case "precision":
            place, is_reached = _nearest(made.precision, made.recall, wanted)
        case "recall":
            place, is_reached = _nearest(made.recall, made.precision, wanted)
    return _point(made, place, float(made.thresholds[place]), is_reached=is_reached)


def without_data() -> OperatingPoint:
    """Of a class that nothing is known of."""
    nan = float("nan")
    return OperatingPoint(threshold=FALLBACK, precision=nan, recall=nan, f1=nan, is_reached=False)


def at(matches: Matches, class_row: int, threshold: float) -> OperatingPoint:
    """What a given threshold gives: detections at or above it, as `judge` and `predict` take them."""
    part = matches.of_class(class_row)
    passes = (matches.scores[part] >= threshold) & ~matches.is_ignored[0, part]
    hits, count = int(matches.is_right[0, part][passes].sum()), int(passes.sum())
    num_objects = int(matches.num_objects[:, class_row].sum())
    if not num_objects:
        return replace(without_data(), threshold=threshold)
    recall, precision = hits / num_objects, hits / count if count else float("nan")
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return OperatingPoint(threshold=threshold, precision=precision, recall=recall, f1=f1, is_reached=True)


def _point(made: ThresholdCurve, place: int, threshold: float, *, is_reached: bool) -> OperatingPoint:
    return OperatingPoint(
        threshold=threshold,
        precision=float(made.precision[place]),
        recall=float(made.recall[place]),
        f1=float(made.f1[place]),
        is_reached=is_reached,
    )


def judge(matches: Matches, truth: Objects, thresholds: NDArray[np.float64]) -> Verdicts:
    """What a user of these thresholds [class] sees."""
    passes = matches.scores >= thresholds[matches.class_rows]
    right = passes & matches.is_right[0]
    is_met = truth.is_ignored
    is_met[matches.objects[0][right]] = True
    return Verdicts(
        is_right=right,
        is_wrong=passes & (matches.objects[0] == NONE) & ~matches.is_ignored[0],
        missed=np.flatnonzero(~is_met),
    )


def _nearest(values: NDArray[np.float64], others: NDArray[np.float64], wanted: float) -> tuple[int, bool]:
    """Of the points that reach the wanted value the one with most of the other; else the point that comes nearest."""
    reaching = np.flatnonzero(values >= wanted)
    if not reaching.size:
        return int(np.argmax(values)), False
    return int(reaching[np.argmax(others[reaching])]), True
