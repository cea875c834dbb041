"""Which pyramid levels a data set needs, and how large their priors should be."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TINY = 12.0
"""Pixels of the canvas; a smaller object lies within two cells of level 3."""
TINY_SHARE = 0.1
FEWEST_LEVELS = 3
FIRST = 2
_LAST = 7
_COARSEST_FIRST = 4
_RARE = 0.02
"""Share of the objects for whose sake no level is kept."""
_TRIED = 33
_WORTH = 0.03
"""Octaves by which another prior size must be nearer, on the mean, to be taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    first: int
    last: int
    scale: float
    """Side of a prior in strides of its level."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """What is decided; None for what is to be fitted around it."""

    first: int | None = None
    last: int | None = None
    scale: float | None = None


def fit(
    sides: NDArray[np.float64],
    weights: NDArray[np.float64],
    image_size: int,
    zoom: tuple[float, float],
    middle: float,
    pinned: Pinned = Pinned(),
) -> Levels:
    """Levels and prior size for objects of these sides, in pixels of a canvas.

    Args:
        sides: Square root of each object's area.
        weights: Of each object, to sum 1.
        image_size: Longer side of the canvas.
        zoom: Least and most by which training enlarges pictures.
        middle: Usual side of a prior in strides. Sizes within half an octave of it are tried, for one octave more is
            the next level.
        pinned: What is not to be fitted.
    """
    finest = FIRST if share_below(sides, weights, TINY) > TINY_SHARE else FIRST + 1
    scale = pinned.scale
    if scale is None:
        scale = _nearest_scale(sides, weights, middle, pinned.first or finest, pinned.last or _LAST)
    first, last = _needed(sides, weights, image_size, zoom, scale)
    first = pinned.first or min(max(first, finest), _COARSEST_FIRST)
    most = max(5, min(_LAST, int(math.log2(image_size / scale))))  # no prior larger than the canvas
    last = pinned.last or max(min(last, most), 5, first + FEWEST_LEVELS - 1)
    return Levels(first=min(first, last), last=last, scale=scale)


def _nearest_scale(
    sides: NDArray[np.float64], weights: NDArray[np.float64], middle: float, first: int, last: int
) -> float:
    tried = middle * 2 ** np.linspace(-0.5, 0.5, _TRIED)
    misses = [miss(sides, weights, scale, first, last) for scale in tried.tolist()]
    best = int(np.argmin(misses))
    is_worth_it = misses[_TRIED // 2] - misses[best] > _WORTH
    return float(f"{tried[best]:.2g}") if is_worth_it else middle


def miss(sides: NDArray[np.float64], weights: NDArray[np.float64], scale: float, first: int, last: int) -> float:
    """Mean |log2| of an object's side over that of its nearest prior: 0.25 for sides spread evenly over octaves."""
    levels = np.log2(np.maximum(sides, 1.0)) - math.log2(scale)
    return float(weights @ np.abs(levels - np.clip(np.round(levels), first, last)))


def share_below(sides: NDArray[np.float64], weights: NDArray[np.float64], limit: float) -> float:
    """Share of the objects, by weight, that are smaller."""
    return float(weights[sides < limit].sum())


def quantile(sides: NDArray[np.float64], weights: NDArray[np.float64], share: float) -> float:
    """The side that this share of the objects, by weight, does not exceed."""
    order = np.argsort(sides, kind="stable")
    reached = np.cumsum(weights[order])
    place = min(int(np.searchsorted(reached, share * float(reached[-1]))), len(sides) - 1)
    return float(sides[order[place]])


def _needed(
    sides: NDArray[np.float64],
    weights: NDArray[np.float64],
    image_size: int,
    zoom: tuple[float, float],
    scale: float,
) -> tuple[int, int]:
    """First and last level whose priors are nearest to some of the objects at some zoom."""
    low = quantile(sides, weights, _RARE) * zoom[0]
    high = min(quantile(sides, weights, 1 - _RARE) * zoom[1], image_size)
    return round(math.log2(max(low, 1.0) / scale)), round(math.log2(max(high, 1.0) / scale))
