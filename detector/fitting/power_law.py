"""How a score grows with the number of images: error = a * n ** -b + c (Hestness et al. 2017, section 2).

Three points cannot tell c, the error that no labels would remove. The middle of a forecast takes it as 0, as if AP 1
could be reached; its interval covers everything from there to half of the last error.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 1000
MOST_FLOOR = 0.5
"""Of the last error."""
_SMALLEST_ERROR = 1e-6
_TAILS = (2.5, 97.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A training on some of the images."""

    num_images: int
    score: float
    low: float
    high: float
    """95 % interval of the score over images that it is measured on."""

    @property
    def spread(self) -> float:
        return max(0.0, self.high - self.low) / (2 * 1.96)


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
    """The score with more images, and its 95 % interval."""

    num_images: int
    score: float
    low: float
    high: float


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
    rng = np.random.default_rng(0)
    made: list[float] = []
    for noise, share in zip(rng.normal(size=(DRAWS, len(points))), rng.random(DRAWS), strict=True):
        drawn = [min(1.0, p.score + p.spread * z) for p, z in zip(points, noise.tolist(), strict=True)]
        made.append(fit(sizes, drawn, MOST_FLOOR * float(share) * (1 - drawn[-1])).score(num_images))
    low, high = np.percentile(made, _TAILS).tolist()
    middle = fit(sizes, [point.score for point in points]).score(num_images)
    return Forecast(
        num_images=num_images, score=middle, low=max(0.0, min(low, middle)), high=min(1.0, max(high, middle))
    )


def sentence(points: Sequence[Point], found: Forecast) -> str:
    """In one line."""
    last = points[-1]
    times = found.num_images / last.num_images
    what = "twice the labels" if math.isclose(times, 2) else f"{times:.3g} times the labels"
    sure = "" if found.low > last.score else "; it may bring nothing"
    return (
        f"{what} ({found.num_images:,} images): AP {last.score:.2f} -> {found.score:.2f} "
        f"({found.low:.2f}-{found.high:.2f}){sure}"
    )
