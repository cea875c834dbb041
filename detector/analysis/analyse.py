"""All that can be said of detections, put together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.analysis import (
    bootstrap,
    calibration,
    confusion,
    error_types,
    label_errors,
    localization,
    matching,
    operating,
    overlaps,
    worst,
)
from detector.analysis.calibration import Calibration
from detector.analysis.error_types import ErrorCost
from detector.analysis.label_errors import Suspect
from detector.analysis.localization import LocalizationError
from detector.analysis.matching import Matches
from detector.analysis.operating import OperatingPoint, ThresholdCurve, Verdicts
from detector.analysis.worst import ImageTally
from detector.evaluate import coco, engines
from detector.evaluate.coco import Interval, Scores, Truth
from detector.evaluate.engines import Curves
from detector.evaluate.results import Results


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """What a report shows. Images and classes by their rows in the truth."""

    truth: Truth
    found: Results  # by row
    scores: Scores
    intervals: tuple[Interval, ...]  # of AP, AP50, AP75
    curves: Curves
    ap_by_size: NDArray[np.float64]  # [class, size]: all, small, medium, large; -1 where there is no object
    matches: Matches
    threshold_curves: tuple[ThresholdCurve | None, ...]  # of each class
    points: tuple[OperatingPoint, ...]  # of each class, which the verdicts, the confusion and the tallies rest on
    are_thresholds_given: bool  # else they are those of best F1
    verdicts: Verdicts
    confusion: NDArray[np.int64]  # [object, detection], background last
    errors: tuple[ErrorCost, ...]
    localization: tuple[LocalizationError, ...]
    calibration: Calibration
    tallies: tuple[ImageTally, ...]  # of each image
    suspects: tuple[Suspect, ...]

    @property
    def thresholds(self) -> NDArray[np.float64]:
        return np.array([point.threshold for point in self.points])


def analyse(truth: Truth, results: Results, *, thresholds: Sequence[float] | None = None) -> Analysis:
    """Look at detections from every side.

    Args:
        truth: The ground truth.
        results: The detections, by the ids of the ground truth.
        thresholds: Least score of each class at which a detection is shown; the best F1 decides without.
    """
    found = coco.by_row(results, truth)
    objects = truth.objects
    curves = engines.curves("hotcoco", objects, found)
    matches = matching.match(objects, found)
    near = overlaps.of(matches, objects, found)
    classes = range(objects.num_classes)
    points = tuple(
        operating.choose(matches, row, "f1") if thresholds is None else operating.at(matches, row, thresholds[row])
        for row in classes
    )
    verdicts = operating.judge(matches, objects, np.array([point.threshold for point in points]))
    return Analysis(
        truth=truth,
        found=found,
        scores=coco.scores_of(curves, truth, found),
        intervals=bootstrap.intervals(matches),
        curves=curves,
        ap_by_size=_by_size(curves),
        matches=matches,
        threshold_curves=tuple(operating.curve(matches, row) for row in classes),
        points=points,
        are_thresholds_given=thresholds is not None,
        verdicts=verdicts,
        confusion=confusion.matrix(matches, near, verdicts, objects),
        errors=error_types.costs(matches, near, objects),
        localization=localization.measure(matches, objects, found, truth.names),
        calibration=calibration.calibrate(matches),
        tallies=worst.tallies(matches, verdicts, objects),
        suspects=label_errors.queue(matches, near, objects, found),
    )


def _by_size(curves: Curves) -> NDArray[np.float64]:
    precision = curves.precision[..., 2]  # [threshold, recall, class, size]
    return np.array(
        [
            [engines.known_mean(precision[:, :, row, size]) for size in range(precision.shape[3])]
            for row in range(precision.shape[2])
        ]
    )
