"""Whether a score says how often a detection is right."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.analysis.matching import Matches


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreBin:
    """Detections of similar score."""

    low: float
    high: float
    count: int
    mean_score: float
    precision: float  # share that meets an object at IoU 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    bins: tuple[ScoreBin, ...]  # those with detections
    error: float
    """Mean distance of score and precision over detections (expected calibration error)."""


def calibrate(matches: Matches, *, num_bins: int = 10) -> Calibration:
    """Compare scores with what came true, what is ignored aside."""
    counts = ~matches.is_ignored[0]
    scores, right = matches.scores[counts], matches.is_right[0, counts]
    edges = np.linspace(0, 1, num_bins + 1)
    place = np.clip(np.searchsorted(edges, scores, side="right") - 1, 0, num_bins - 1)
    made = tuple(_bin(edges, k, scores[place == k], right[place == k]) for k in np.unique(place).tolist())
    total = sum(one.count for one in made)
    distance = sum(one.count * abs(one.mean_score - one.precision) for one in made)
    return Calibration(bins=made, error=distance / total if total else float("nan"))


def _bin(edges: NDArray[np.float64], k: int, scores: NDArray[np.float64], right: NDArray[np.bool_]) -> ScoreBin:
    return ScoreBin(
        low=float(edges[k]),
        high=float(edges[k + 1]),
        count=len(scores),
        mean_score=float(scores.mean()),
        precision=float(right.mean()),
    )
