"""How a score grows with the number of images: error = a * n ** -b + c (Hestness et al. 2017, section 2).

Three points cannot tell c, the error that no labels would remove. The middle of a forecast takes it as 0, as if AP 1
could be reached; its interval covers everything from there to half of the last error. All points are measured on the
same images, so that what makes those easy or hard moves them together.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MOST_FLOOR = 0.5
"""Of the last error."""
_SMALLEST_ERROR = 1e-6
_FEWEST_DRAWS = 200
"""Of the floor, where there are no resamplings."""
_HARDLY = 0.005
"""Would be told as 0.00."""
_TAILS = (2.5, 97.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A training on some of the images."""

    num_images: int
    score: float
    low: float
    high: float
    """95 % interval of the score over images that it is measured on."""
    resampled: tuple[float, ...] = ()
    """Scores of resamplings of these images, the same ones in the same order for all points; -1 where not defined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerLaw:
    """Goes through the last point."""

    num_images: int
    error: float
    """At that many images."""
    power: float
    """b; 0 where more images did not help."""
    floor: float
    """c."""

    def score(self, num_images: float) -> float:
        return 1 - self.floor - (self.error - self.floor) * (num_images / self.num_images) ** -self.power


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """The score with more images and what is gained by them, with 95 % intervals."""

    num_images: int
    score: float
    low: float
    high: float
    gain_low: float
    gain_high: float


def fit(num_images: Sequence[int], scores: Sequence[float], floor: float = 0.0) -> PowerLaw:
    """The power is that of the least squares in logarithms; the last of the sizes has the point it goes through.

    Args:
        num_images: At least two different numbers.
        scores: Of them, at most 1.
        floor: Below the last error.
    """
    errors = [max(_SMALLEST_ERROR, 1 - score - floor) for score in scores]
    x, y = np.log(num_images), np.log(errors)
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
    return PowerLaw(num_images=num_images[-1], error=1 - scores[-1], power=max(0.0, -slope), floor=floor)


def forecast(points: Sequence[Point], num_images: int) -> Forecast:
    """What that many images would bring; the last point is that of all images there are."""
    sizes = [point.num_images for point in points]
    scores = np.array([point.score for point in points])
    middle = fit(sizes, scores.tolist()).score(num_images)
    made: list[tuple[float, float]] = []
    shares = np.random.default_rng(0).random(max(_FEWEST_DRAWS, len(points[0].resampled)))
    for drawn, share in zip(_drawn(points, len(shares)), shares.tolist(), strict=True):
        ahead = fit(sizes, drawn, MOST_FLOOR * share * (1 - drawn[-1])).score(num_images)
        made.append((ahead, ahead - drawn[-1]))
    (low, gain_low), (high, gain_high) = np.percentile(made, _TAILS, axis=0).tolist()
    return Forecast(
        num_images=num_images,
        score=middle,
        low=max(0.0, min(low, middle)),
        high=min(1.0, max(high, middle)),
        gain_low=gain_low,
        gain_high=gain_high,
    )


def _drawn(points: Sequence[Point], count: int) -> list[list[float]]:
    """Scores of the points [count, points] on other images of the same kind.

    Resamplings are mirrored at the score, as in the basic bootstrap: AP of resampled images lies too high.
    """
    scores = np.array([point.score for point in points])
    together = np.array(list(zip(*(point.resampled for point in points), strict=False))).reshape(-1, len(points))
    known = together[(together >= 0).all(axis=1)]
    if not len(known):
        return [scores.tolist()] * count
    return np.resize(np.clip(2 * scores - known, 0, 1), (count, len(points))).tolist()


def sentence(points: Sequence[Point], found: Forecast) -> str:
    """In one line."""
    last = points[-1]
    times = found.num_images / last.num_images
    what = "twice the labels" if math.isclose(times, 2) else f"{times:.3g} times the labels"
    gain = (
        f"{found.gain_low:.2f} to {found.gain_high:.2f} more" if found.gain_low >= _HARDLY else "it may bring nothing"
    )
    return (
        f"{what} ({found.num_images:,} images): AP {last.score:.2f} -> {found.score:.2f} "
        f"({found.low:.2f}-{found.high:.2f}); {gain}"
    )
