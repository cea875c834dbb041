"""How far a score would move with other images of the same kind: resampling of images with replacement."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detector.analysis import average_precision
from detector.analysis.matching import Matches
from detector.evaluate.coco import Interval

SAMPLES: Final = 1000
FEWEST: Final = 200
FEW: Final = 50  # of which a standard error is known to a tenth
_BUDGET: Final = 1e8  # detections counted, samples and classes together; above it fewer samples are drawn
_SEED: Final = 0
_TAILS: Final = (2.5, 97.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """AP, AP50 and AP75; -1 where not defined."""

    scored: NDArray[np.float64]  # [3], of the images as they are
    values: NDArray[np.float64]  # [sample, 3], of every resampling

    def intervals(self) -> tuple[Interval, ...]:
        """Where the score would lie 95 times in 100; empty where the scores are not defined.

        The quantiles are mirrored at the score (the basic bootstrap): AP of few images lies too high, and that of their
        resamplings higher still by about as much.
        """
        known = self.values[(self.values > -1).all(axis=1)]
        if not len(known):
            return ()
        quantiles = np.percentile(known, _TAILS, axis=0)
        high, low = np.clip(2 * self.scored - quantiles, 0, 1).tolist()
        return tuple(Interval(low=a, high=b) for a, b in zip(low, high, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Of one number, second model minus first, over the same resamplings."""

    value: float
    interval: Interval
    share_better: float
    """Of the resamplings in which the second is better; equal ones count half."""

    @property
    def is_clear(self) -> bool:
        return self.interval.low > 0 or self.interval.high < 0


def num_samples(num_detections: int) -> int:
    return int(np.clip(_BUDGET / max(1, num_detections), FEWEST, SAMPLES))


def draw(matches: Matches, samples: int | None = None) -> Draws:
    """Score resamplings of the images. The same number of images gives the same resamplings in the same order."""
    count = num_samples(len(matches)) if samples is None else samples
    rng = np.random.default_rng(_SEED)
    images = matches.num_images
    weights = rng.multinomial(images, np.full(images, 1 / images), size=count).astype(np.float64)
    as_it_is = np.ones((1, images))
    values = average_precision.by_class_and_sample(matches, np.concatenate([as_it_is, weights]))
    of_all = (values, values[:, :1], values[:, 5:6])
    made = np.stack([average_precision.mean(part) for part in of_all], axis=1)
    return Draws(scored=made[0], values=made[1:])


def resampled_ap(matches: Matches) -> tuple[float, ...]:
    """AP of a few resamplings, the same ones for all detections of as many images: for a paired comparison."""
    return tuple(draw(matches, FEW).values[:, 0].tolist())


def intervals(matches: Matches) -> tuple[Interval, ...]:
    """Of AP, AP50 and AP75."""
    return draw(matches).intervals()


def differences(first: Matches, second: Matches) -> tuple[Difference, ...]:
    """Of AP, AP50 and AP75, both models on the same images; empty where the scores are not defined."""
    samples = min(num_samples(len(one)) for one in (first, second))
    a, b = draw(first, samples), draw(second, samples)
    known = (a.values > -1).all(axis=1) & (b.values > -1).all(axis=1)
    if not known.any():
        return ()
    moved = (b.values - a.values)[known]
    low, high = np.percentile(moved, _TAILS, axis=0).tolist()
    return tuple(
        Difference(
            value=float(b.scored[k] - a.scored[k]),
            interval=Interval(low=low[k], high=high[k]),
            share_better=float((moved[:, k] > 0).mean() + 0.5 * (moved[:, k] == 0).mean()),
        )
        for k in range(3)
    )
