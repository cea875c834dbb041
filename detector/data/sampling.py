"""Parts of a data set, each inside the next larger one."""

import math

import numpy as np

from detector.data import each_class
from detector.data.columns import Columns


def part(columns: Columns, share: float, seed: int) -> list[int]:
    """Rows of a share of the images, ascending. With the same seed they are among those of any larger share.

    Every class is among them, as far as that many images can show it: one image of each class comes first, the rarest
    class before the others.
    """
    order = _order(columns, seed)
    return sorted(order[: max(1, math.ceil(share * len(order) - 1e-9))])


def _order(columns: Columns, seed: int) -> list[int]:
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(2,))))
    shuffled: list[int] = rng.permutation(len(columns)).tolist()
    first = each_class.dealt(columns, [[row] for row in shuffled], {"": len(shuffled)})[""]
    rest = sorted(set(range(len(shuffled))).difference(first))
    return [shuffled[place] for place in (*first, *rest)]
