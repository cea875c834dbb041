"""Why detections are wrong, and the AP50 that each kind of error costs (after TIDE, Bolya et al. 2020)."""

from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from detector.analysis import average_precision
from detector.analysis.matching import NONE, Matches
from detector.analysis.overlaps import Overlaps
from detector.evaluate.engines import Objects, known_mean

ErrorKind = Literal["classification", "localization", "both", "duplicate", "background", "missed"]
KINDS: Final[tuple[ErrorKind, ...]] = get_args(ErrorKind)
_WRONG_KINDS: Final = KINDS[:-1]
FOREGROUND: Final = 0.5  # IoU from which a detection means an object
BACKGROUND: Final = 0.1  # IoU below which it means none


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorCost:
    """One kind of error. The costs of the kinds do not add up: one mended error uncovers another."""

    kind: ErrorKind
    count: int
    ap50_lost: float  # what AP50 would gain were there none of it


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ranking:
    """What AP50 is made from."""

    classes: NDArray[np.int64]  # [K]
    is_right: NDArray[np.bool_]  # [K]
    is_wrong: NDArray[np.bool_]  # [K]
    num_objects: NDArray[np.int64]  # [class]


def kinds(matches: Matches, overlaps: Overlaps) -> NDArray[np.int8]:
    """Of each detection, an index into KINDS; -1 where it is right or ignored."""
    wrong = ~matches.is_right[0] & ~matches.is_ignored[0]
    near, other = overlaps.same_iou, overlaps.other_iou
    rules = (
        ("localization", (near >= BACKGROUND) & (near < FOREGROUND)),
        ("classification", other >= FOREGROUND),
        ("duplicate", near >= FOREGROUND),
        ("background", np.maximum(near, other) < BACKGROUND),
        ("both", np.ones(len(near), np.bool_)),
    )
    made = np.select([rule for _, rule in rules], [KINDS.index(name) for name, _ in rules]).astype(np.int8)
    return np.where(wrong, made, -1).astype(np.int8)


def costs(matches: Matches, overlaps: Overlaps, truth: Objects) -> tuple[ErrorCost, ...]:
    """Each kind of error, in the order of KINDS."""
    kind_of = kinds(matches, overlaps)
    right = matches.is_right[0]
    as_found = _Ranking(
        classes=matches.class_rows,
        is_right=right,
        is_wrong=kind_of >= 0,
        num_objects=matches.num_objects.sum(axis=0),
    )
    now = _ap50(as_found, matches)
    made: list[ErrorCost] = []
    for kind in _WRONG_KINDS:
        chosen = kind_of == KINDS.index(kind)
        mended = _mended(kind, chosen, as_found, matches, overlaps, truth)
        made.append(ErrorCost(kind=kind, count=int(chosen.sum()), ap50_lost=_ap50(mended, matches) - now))
    missed = _missed(kind_of, matches, overlaps, truth)
    fewer = as_found.num_objects - np.bincount(truth.class_rows[missed], minlength=matches.num_classes)
    found_all = _Ranking(
        classes=as_found.classes, is_right=as_found.is_right, is_wrong=as_found.is_wrong, num_objects=fewer
    )
    made.append(ErrorCost(kind="missed", count=len(missed), ap50_lost=_ap50(found_all, matches) - now))
    return tuple(made)


def _mended(
    kind: ErrorKind,
    chosen: NDArray[np.bool_],
    now: _Ranking,
    matches: Matches,
    overlaps: Overlaps,
    truth: Objects,
) -> _Ranking:
    """As if the chosen detections had been right, where their object still lacks one; else as if they were not."""
    classes, right = now.classes.copy(), now.is_right.copy()
    if kind in ("localization", "classification"):
        meant = overlaps.same_object if kind == "localization" else overlaps.other_object
        is_taken = np.zeros(len(truth.class_rows), np.bool_)
        is_taken[matches.objects[0][now.is_right]] = True
        mine = np.flatnonzero(chosen)
        mine = mine[np.argsort(-matches.scores[mine], kind="stable")]
        mine = mine[~is_taken[meant[mine]]]
        first = mine[np.unique(meant[mine], return_index=True)[1]]
        right[first] = True
        classes[first] = truth.class_rows[meant[first]]
    return _Ranking(classes=classes, is_right=right, is_wrong=now.is_wrong & ~chosen, num_objects=now.num_objects)


def _missed(kind_of: NDArray[np.int8], matches: Matches, overlaps: Overlaps, truth: Objects) -> NDArray[np.int64]:
    """Objects that no detection means: neither met, nor badly boxed, nor taken for another class."""
    is_meant = truth.is_ignored
    met = matches.objects[0]
    is_meant[met[met != NONE]] = True
    is_meant[overlaps.same_object[kind_of == KINDS.index("localization")]] = True
    is_meant[overlaps.other_object[kind_of == KINDS.index("classification")]] = True
    return np.flatnonzero(~is_meant)


def _ap50(ranking: _Ranking, matches: Matches) -> float:
    order = np.lexsort((np.arange(len(matches)), -matches.scores, ranking.classes))
    classes = ranking.classes[order]
    bounds = np.searchsorted(classes, np.arange(matches.num_classes + 1)).tolist()
    values = [
        average_precision.of_ranked(
            ranking.is_right[order[bounds[k] : bounds[k + 1]]],
            ranking.is_wrong[order[bounds[k] : bounds[k + 1]]],
            int(ranking.num_objects[k]),
        )
        for k in range(matches.num_classes)
        if matches.num_objects[:, k].any()
    ]
    return known_mean(np.array(values))
