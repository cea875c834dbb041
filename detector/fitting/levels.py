"""Which pyramid levels a data set needs."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TINY = 12.0
"""Pixels of the canvas; one cell and a half of level 3."""
TINY_SHARE = 0.1
"""Of the objects. Where more are tiny, a larger canvas is better, and then level 2."""
SMALL = 22.0
"""Pixels of the canvas; less than three cells of level 3."""
SMALL_SHARE = 0.4
"""Of the objects. Where more are small, level 2 is taken. Crowded drawn data (tools/experiments/generated.py) have more
than half and gain by far. Blood cells and `signs` have less than a third and gain early; on blood cells nothing of it
is left at the end of a run (docs/accuracy.md)."""
FEWEST_LEVELS = 3
FINEST = 2
_COARSEST_FIRST = 4
_COARSEST = 7
RARE = 0.02
"""Share of the objects for whose sake no level is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """What is decided; None for what is to be fitted around it."""

    first: int | None = None
    last: int | None = None


def fit(
    sides: NDArray[np.float64],
    weights: NDArray[np.float64],
    image_size: int,
    zoom: tuple[float, float],
    scale: float,
    pinned: Pinned = Pinned(),
) -> Levels:
    """Levels for objects of these sides, in pixels of a canvas.

    Args:
        sides: Square root of each object's area.
        weights: Of each object, to sum 1.
        image_size: Longer side of the canvas.
        zoom: Least and most by which training enlarges pictures.
        scale: Side of a prior, in strides of its level.
        pinned: What is not to be fitted.
    """
    finest = FINEST + (too_small(sides, weights) is None)
    coarsest = min(_COARSEST_FIRST, (pinned.last or _COARSEST) - FEWEST_LEVELS + 1)
    first, last = _needed(*reach(sides, weights, image_size, zoom), scale)
    first = pinned.first or min(max(first, finest), coarsest)
    most = max(5, min(_COARSEST, int(math.log2(image_size / scale))))  # no prior larger than the canvas
    last = pinned.last or max(min(last, most), 5, first + FEWEST_LEVELS - 1)
    return Levels(first=first, last=last)


def too_small(sides: NDArray[np.float64], weights: NDArray[np.float64]) -> float | None:
    """Pixels under which so many objects are that level 2 is better; None where level 3 does."""
    limits = ((SMALL, SMALL_SHARE), (TINY, TINY_SHARE))
    return next((limit for limit, most in limits if share_below(sides, weights, limit) > most), None)


def share_below(sides: NDArray[np.float64], weights: NDArray[np.float64], limit: float) -> float:
    """Share of the objects, by weight, that are smaller; one class of five is 0.2, however its weights round."""
    return round(float(weights[sides < limit].sum()), 9)


def quantile(sides: NDArray[np.float64], weights: NDArray[np.float64], share: float) -> float:
    """The side that this share of the objects, by weight, does not exceed."""
    order = np.argsort(sides, kind="stable")
    reached = np.cumsum(weights[order])
    place = min(int(np.searchsorted(reached, share * float(reached[-1]))), len(sides) - 1)
    return float(sides[order[place]])


def reach(
    sides: NDArray[np.float64], weights: NDArray[np.float64], image_size: int, zoom: tuple[float, float]
) -> tuple[float, float]:
    """Sides of the smallest and the largest objects that count, at any zoom that they are shown at, 1 among them."""
    low = quantile(sides, weights, RARE) * min(zoom[0], 1.0)
    return low, min(quantile(sides, weights, 1 - RARE) * max(zoom[1], 1.0), image_size)


def _needed(low: float, high: float, scale: float) -> tuple[int, int]:
    """First and last level whose priors are nearest to sides of that reach."""
    return round(math.log2(max(low, 1.0) / scale)), round(math.log2(max(high, 1.0) / scale))
