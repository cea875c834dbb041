"""One image of each class, before chance decides."""

from collections.abc import Mapping, Sequence

from detector.data.columns import Columns


def dealt(columns: Columns, order: Sequence[Sequence[int]], room: Mapping[str, int]) -> dict[str, list[int]]:
    """Places in the order that every part gets in turn, so that each has every class, as far as it can be.

    The class that is seen in the fewest places comes first. A part whose images show a class already gets none for it.

    Args:
        columns: All images.
        order: Groups of rows, each of which goes to one part whole, in random order.
        room: How many groups each part takes, in the order in which parts are served.
    """
    classes = [_seen(columns, rows) for rows in order]
    having: dict[int, list[int]] = {}
    for place, labels in enumerate(classes):
        for label in labels:
            having.setdefault(label, []).append(place)
    given: dict[str, list[int]] = {name: [] for name in room}
    shown: dict[str, set[int]] = {name: set() for name in room}
    taken: set[int] = set()
    for label in sorted(having, key=lambda label: (len(having[label]), label)):
        for name in room:
            free = next((place for place in having[label] if place not in taken), None)
            if free is None or label in shown[name] or len(given[name]) == room[name]:
                continue
            given[name].append(free)
            taken.add(free)
            shown[name] |= classes[free]
    return given


def _seen(columns: Columns, rows: Sequence[int]) -> set[int]:
    """Classes of their objects; a crowd region shows none."""
    found: set[int] = set()
    for row in rows:
        here = columns.objects(row)
        found |= set(columns.labels[here][~columns.is_crowd[here]].tolist())
    return found
