"""Class outputs of one network for the classes of another, by name."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from torch import Tensor

from detector.config import Classification


def same_names(ours: Sequence[str], theirs: Sequence[str]) -> dict[int, int]:
    """For classes of ours, the position among theirs of the same name.

    Where no name is the very same, one that differs in case, or in _ and - for a space, is, if it is the only one on
    either side.
    """
    places = {name: i for i, name in enumerate(theirs)}
    exact = {i: places[name] for i, name in enumerate(ours) if name in places}
    taken = set(exact.values())
    of_ours = Counter(_folded(name) for i, name in enumerate(ours) if i not in exact)
    of_theirs = Counter(_folded(name) for name in theirs)
    loose = {_folded(name): i for i, name in enumerate(theirs) if i not in taken and of_theirs[_folded(name)] == 1}
    return exact | {
        i: loose[_folded(name)]
        for i, name in enumerate(ours)
        if i not in exact and of_ours[_folded(name)] == 1 and _folded(name) in loose
    }


def are_alike(one: Classification, other: Classification) -> bool:
    """Whether logits mean the same: a probability of each class, one distribution over all, or that and background."""
    return _family(one) == _family(other)


def mapped(theirs: Tensor, ours: Tensor, places: Mapping[int, int], *, num_priors: int, has_background: bool) -> Tensor:
    """Rows of an output layer, weights or biases; those of classes that are not in `places` stay as ours.

    Args:
        theirs: Rows, prior by prior, of their classes.
        ours: Rows, prior by prior, of our classes.
        places: For classes of ours, the place of theirs.
        num_priors: Of a cell, in both.
        has_background: Whether the last row of a prior is that of no class.
    """
    old = theirs.float().reshape(num_priors, -1, *theirs.shape[1:])
    new = ours.clone().reshape(num_priors, -1, *ours.shape[1:])
    for here, there in places.items():
        new[:, here] = old[:, there]
    if has_background:
        new[:, -1] = old[:, -1]
    return new.flatten(0, 1)


def _family(kind: Classification) -> str:
    return "sigmoid" if kind in ("sigmoid", "focal", "quality") else kind


def _folded(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()
