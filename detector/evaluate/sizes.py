"""The ranges of area by which COCO tells objects apart, both ends within; every rule on areas asks here."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

NAMES: Final = ("all", "small", "medium", "large")
RANGES: Final = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))
MOST: Final = RANGES[0][1]  # what is larger counts in no score


def within(areas: NDArray[np.float64], size: int = 0) -> NDArray[np.bool_]:
    """Which areas lie in the range; one of exactly 32**2 or 96**2 lies in two."""
    low, high = RANGES[size]
    return (areas >= low) & (areas <= high)
