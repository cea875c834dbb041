"""Labels that were made wrong on purpose come first in the queue."""

import dataclasses

import numpy as np
import pytest

from detector.analysis import label_errors
from detector.analysis.label_errors import Suspect
from detector.analysis.matching import NONE
from detector.evaluate.engines import Objects
from tests.unit.analysis import make

Spoilt = tuple[Objects, dict[str, list[int]]]


def spoil(truth: Objects, seed: int) -> Spoilt:
    """Five labels each of wrong class, wrong box, without object, and missing; the truth, and who was spoilt."""
    rng = np.random.default_rng(seed)
    count = len(truth.class_rows)
    chosen = rng.permutation(count)[:15]
    swapped, shifted, dropped = chosen[:5], chosen[5:10], chosen[10:]
    classes, boxes = truth.class_rows.copy(), truth.boxes_xywh.copy()
    classes[swapped] = (classes[swapped] + rng.integers(1, truth.num_classes, 5)) % truth.num_classes
    boxes[shifted, :2] += 0.6 * boxes[shifted, 2:] * np.array([1, 0])
    kept = np.setdiff1d(np.arange(count), dropped)
    extra = rng.permutation(count)[:5]
    boxes = np.concatenate([boxes[kept], np.concatenate([np.full((5, 2), 700.0), boxes[extra, 2:]], axis=1)])
    spoilt = dataclasses.replace(
        truth,
        image_rows=np.concatenate([truth.image_rows[kept], truth.image_rows[extra]]),
        class_rows=np.concatenate([classes[kept], classes[extra]]),
        boxes_xywh=boxes,
        areas=boxes[:, 2] * boxes[:, 3],
        is_crowd=np.zeros(len(boxes), np.bool_),
    )
    places = {name: np.searchsorted(kept, rows).tolist() for name, rows in (("swapped", swapped), ("shifted", shifted))}
    return spoilt, {**places, "extra": [*range(len(kept), len(boxes))], "dropped": dropped.tolist()}


def caught(first: tuple[Suspect, ...], truth: Objects, whole: Objects, spoilt: dict[str, list[int]]) -> list[str]:
    kinds = {"wrong class": "swapped", "wrong box": "shifted", "nothing there": "extra"}
    names = [kinds[one.doubt] for one in first if one.object_row != NONE and one.object_row in spoilt[kinds[one.doubt]]]
    for row in spoilt["dropped"]:
        corner = whole.boxes_xywh[row, :2]
        names += [
            "dropped"
            for one in first
            if one.doubt == "unlabelled"
            and one.image_row == whole.image_rows[row]
            and one.box_xywh is not None
            and np.abs(np.array(one.box_xywh[:2]) - corner).max() < 15
        ]
    return names


@pytest.mark.parametrize("seed", range(5))
def test_most_of_twenty_stand_in_the_first_forty_for_the_right_reason(seed: int) -> None:
    whole = make.scene(seed)
    truth, spoilt = spoil(whole, seed)
    found = make.seen(whole, 50 + seed)
    queue = label_errors.queue(*make.met(truth, found), truth, found)
    names = caught(queue[:40], truth, whole, spoilt)
    assert len(names) >= 15
    assert {"swapped", "shifted", "extra", "dropped"} == set(names)
    assert [one.suspicion for one in queue] == sorted((one.suspicion for one in queue), reverse=True)
    assert all(0 < one.suspicion <= 1 for one in queue)


def test_a_proposal_comes_with_the_doubt() -> None:
    whole = make.scene(1)
    truth, spoilt = spoil(whole, 1)
    found = make.seen(whole, 2, found_share=1)
    queue = label_errors.queue(*make.met(truth, found), truth, found)
    by_object = {one.object_row: one for one in queue if one.object_row != NONE}
    for row in spoilt["swapped"]:
        one = by_object[row]
        assert one.doubt == "wrong class"
        assert one.class_row != truth.class_rows[row]
    for row in spoilt["extra"]:
        one = by_object[row]
        assert (one.doubt, one.box_xywh, one.class_row) == ("nothing there", None, truth.class_rows[row])


def test_good_labels_are_less_suspicious_than_spoilt_ones() -> None:
    whole = make.scene(1)
    found = make.seen(whole, 2)
    truth, _ = spoil(whole, 1)
    clean = label_errors.queue(*make.met(whole, found), whole, found)
    spoilt = label_errors.queue(*make.met(truth, found), truth, found)
    assert sum(one.suspicion for one in clean[:40]) < sum(one.suspicion for one in spoilt[:40])


def test_a_crowd_region_is_no_suspect() -> None:
    truth = make.objects([(0, 0, [0, 0, 40, 40]), (0, 0, [100, 0, 40, 40])], crowd=[1])
    found = make.found([(0, 0, [0, 0, 40, 40], 0.9), (0, 0, [105, 5, 20, 20], 0.9)])
    assert label_errors.queue(*make.met(truth, found), truth, found) == ()
