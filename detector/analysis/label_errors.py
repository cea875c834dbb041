"""Labels that a trained model has reason to doubt, most doubtful first.

Four doubts: an object stands unlabelled, a label has the wrong class, its box lies wrong, or it labels nothing. Each is
measured by how rarely the same happens elsewhere in the data, so that the four can stand in one queue.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal, cast

import numpy as np
from numpy.typing import NDArray

from detector.analysis.matching import NONE, Matches, iou
from detector.analysis.overlaps import Overlaps
from detector.evaluate.engines import Objects
from detector.evaluate.results import Results

Doubt = Literal["unlabelled", "wrong class", "wrong box", "nothing there"]
_AGREES: Final = 0.5  # IoU at which a detection speaks for a label
_APART: Final = 0.1  # IoU below which a detection is another thing
_BINS: Final = 20
_REPEATED: Final = 0.9
_CREDIBLE: Final = 0.5  # trust from which a detection is worth proposing
_PRIOR: Final = 1.0  # detections that a bin is taken to hold beside its own, right and wrong alike


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """One label, or one place without."""

    doubt: Doubt
    suspicion: float  # in [0, 1]
    image_row: int
    object_row: int  # NONE where the label is missing
    class_row: int  # that the model proposes; of the label where it proposes nothing
    box_xywh: tuple[float, float, float, float] | None  # that the model proposes
    score: float  # of the proposal; 0 without


@dataclass(frozen=True, slots=True, kw_only=True)
class _Support:
    """What detections say of each object. Scores are 0 and rows NONE where there is no such detection."""

    own: NDArray[np.float64]  # best score of its class that agrees with its box
    other: NDArray[np.float64]  # of another class
    other_row: NDArray[np.int64]
    beside: NDArray[np.float64]  # of its class, overlaps without agreeing, and meets no other object
    beside_row: NDArray[np.int64]


def queue(matches: Matches, overlaps: Overlaps, truth: Objects, found: Results) -> tuple[Suspect, ...]:
    """Every doubt there is; `found` by row. An object is doubted once, for the strongest reason."""
    trust = _trust(matches)
    support = _support(matches, truth, found)
    lack = _lack(support.own, truth)
    suspects: list[Suspect] = []
    for row in np.flatnonzero(~truth.is_ignored).tolist():
        one = _of_object(row, support, trust, float(lack[row]), matches, truth, found)
        if one.suspicion > 0:
            suspects.append(one)
    suspects += _unlabelled(matches, overlaps, trust, truth, found)
    return _ranked(_less_each(_ranked(suspects)))


def _ranked(suspects: Iterable[Suspect]) -> tuple[Suspect, ...]:
    return tuple(sorted(suspects, key=lambda one: (-one.suspicion, -one.score, one.image_row, one.object_row)))


def _less_each(suspects: Iterable[Suspect]) -> Iterator[Suspect]:
    """Each further doubt of a kind in an image counts less: who looks at the first sees the others."""
    seen: Counter[tuple[int, Doubt]] = Counter()
    for one in suspects:
        key = (one.image_row, one.doubt)
        yield replace(one, suspicion=one.suspicion * _REPEATED ** seen[key])
        seen[key] += 1


def _trust(matches: Matches) -> NDArray[np.float64]:
    """How often a detection of such a class and score is right: never less at a higher score."""
    counts = ~matches.is_ignored[0]
    place = np.clip((matches.scores * _BINS).astype(np.int64), 0, _BINS - 1)
    middles = (np.arange(_BINS) + 0.5) / _BINS
    made = np.zeros(len(matches))
    for row in range(matches.num_classes):
        part = matches.of_class(row)
        mine = place[part]
        total = np.bincount(mine[counts[part]], minlength=_BINS)
        right = np.bincount(mine[matches.is_right[0, part]], minlength=_BINS)
        share = (right + _PRIOR / 2) / (total + _PRIOR)
        share[total == 0] = 0
        made[part] = np.interp(matches.scores[part], middles, np.maximum.accumulate(share))
    return made


def _support(matches: Matches, truth: Objects, found: Results) -> _Support:
    count = len(truth.class_rows)
    made = _Support(
        own=np.zeros(count),
        other=np.zeros(count),
        other_row=np.full(count, NONE),
        beside=np.zeros(count),
        beside_row=np.full(count, NONE),
    )
    order = np.argsort(matches.image_rows, kind="stable")
    starts = np.searchsorted(matches.image_rows[order], np.arange(truth.num_images + 1))
    objects = np.argsort(truth.image_rows, kind="stable")
    object_starts = np.searchsorted(truth.image_rows[objects], np.arange(truth.num_images + 1))
    is_free = ~matches.is_right[0] & ~matches.is_ignored[0]
    for image in range(truth.num_images):
        mine = order[starts[image] : starts[image + 1]]
        theirs = objects[object_starts[image] : object_starts[image + 1]]
        if not mine.size or not theirs.size:
            continue
        overlap = iou(found.boxes_xywh[matches.rows[mine]], truth.boxes_xywh[theirs])
        is_same = matches.class_rows[mine][:, None] == truth.class_rows[theirs][None]
        scores = np.broadcast_to(matches.scores[mine][:, None], overlap.shape)
        agrees = overlap >= _AGREES
        made.own[theirs] = np.where(agrees & is_same, scores, 0).max(axis=0)
        for says, score, who in (
            (agrees & ~is_same, made.other, made.other_row),
            (~agrees & is_same & (overlap >= _APART) & is_free[mine][:, None], made.beside, made.beside_row),
        ):
            value = np.where(says, scores, 0)
            best = value.argmax(axis=0)
            score[theirs] = value[best, np.arange(len(theirs))]
            who[theirs] = np.where(score[theirs] > 0, mine[best], NONE)
    return made


def _lack(own: NDArray[np.float64], truth: Objects) -> NDArray[np.float64]:
    """The share of the objects of its class that are better supported."""
    made = np.zeros(len(own))
    real = ~truth.is_ignored
    for row in range(truth.num_classes):
        mine = np.flatnonzero(real & (truth.class_rows == row))
        ordered = np.sort(own[mine])
        made[mine] = 1 - np.searchsorted(ordered, own[mine], side="right") / max(1, len(mine))
    return made


def _of_object(
    row: int,
    support: _Support,
    trust: NDArray[np.float64],
    lack: float,
    matches: Matches,
    truth: Objects,
    found: Results,
) -> Suspect:
    other, beside = int(support.other_row[row]), int(support.beside_row[row])
    suspicion, doubt, who = lack * (1 - float(support.own[row])), cast("Doubt", "nothing there"), NONE
    # What the model sees instead explains the doubt, and confirms it.
    for proposal, score, kind in (
        (beside, support.beside[row], "wrong box"),
        (other, support.other[row], "wrong class"),
    ):
        if proposal != NONE and trust[proposal] > _CREDIBLE and score > support.own[row]:
            doubt, who = cast("Doubt", kind), proposal
            suspicion = max(suspicion, lack**0.5 * float(trust[proposal]))
    return _suspect(doubt, suspicion, row, who, matches, truth, found)


def _unlabelled(
    matches: Matches, overlaps: Overlaps, trust: NDArray[np.float64], truth: Objects, found: Results
) -> list[Suspect]:
    is_apart = np.maximum(overlaps.same_iou, overlaps.other_iou) < _APART
    alone = np.flatnonzero(is_apart & ~matches.is_right[0] & ~matches.is_ignored[0])
    return [_suspect("unlabelled", float(trust[k]), NONE, k, matches, truth, found) for k in alone.tolist()]


def _suspect(
    doubt: Doubt, suspicion: float, row: int, who: int, matches: Matches, truth: Objects, found: Results
) -> Suspect:
    box = None if who == NONE else found.boxes_xywh[matches.rows[who]].tolist()
    return Suspect(
        doubt=doubt,
        suspicion=suspicion,
        image_row=int(truth.image_rows[row] if who == NONE else matches.image_rows[who]),
        object_row=row,
        class_row=int(truth.class_rows[row] if who == NONE else matches.class_rows[who]),
        box_xywh=None if box is None else (box[0], box[1], box[2], box[3]),
        score=0.0 if who == NONE else float(matches.scores[who]),
    )
