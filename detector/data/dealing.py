"""Images dealt to splits."""

from collections.abc import Mapping

import numpy as np

from detector.data import each_class
from detector.data.columns import Columns


def deal(columns: Columns, shares: Mapping[str, float], seed: int) -> dict[str, list[int]]:
    """Rows of each split, ascending.

    Files are dealt in random order, with all records that name one. Before that, the splits in their order get one of
    each class, the rarest class first, as long as there are any and the split has room.

    Args:
        columns: All images.
        shares: Of each split, 1 together. The first one gets what rounding leaves.
        seed: Equal seeds deal alike.
    """
    rows_of: dict[str, list[int]] = {}
    for row in range(len(columns)):
        rows_of.setdefault(columns.file_name(row), []).append(row)
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(3,))))
    files = list(rows_of.values())
    order: list[list[int]] = [files[place] for place in rng.permutation(len(files)).tolist()]
    room = _room(len(order), shares)
    dealt = each_class.dealt(columns, order, room)
    taken = {place for places in dealt.values() for place in places}
    free = iter([place for place in range(len(order)) if place not in taken])
    for name, places in dealt.items():
        places += [next(free) for _ in range(room[name] - len(places))]
    return {name: sorted(row for place in places for row in order[place]) for name, places in dealt.items()}


def _room(num_files: int, shares: Mapping[str, float]) -> dict[str, int]:
    first, *others = shares
    room = {name: round(num_files * shares[name]) for name in others}
    return {first: max(0, num_files - sum(room.values())), **room}
