"""Parts of a data set, each inside the next larger one."""

import math

import numpy as np

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
    rows = np.repeat(np.arange(len(columns)), np.diff(columns.offsets))
    real = ~columns.is_crowd
    counts = np.bincount(columns.labels[real], minlength=len(columns.label_map))
    place = np.empty(len(columns), np.int64)
    place[shuffled] = np.arange(len(columns))
    first: dict[int, None] = {}
    shown: set[int] = set()
    for label in np.argsort(counts, kind="stable").tolist():
        if label in shown or not counts[label]:
            continue
        having = np.unique(rows[real & (columns.labels == label)])
        row = int(having[place[having].argmin()])
        first[row] = None
        here = columns.objects(row)
        shown |= set(columns.labels[here][real[here]].tolist())
    return [*first, *(row for row in shuffled if row not in first)]
