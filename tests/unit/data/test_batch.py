import numpy as np
import pytest
import torch

from detector.data.batch import Item, collate, join
from detector.types import Placement, Sample
from tests.unit.data import make

PLACEMENT = Placement(scale=1.0, original_hw=(8, 12))


def _item(index: int, crowd: list[bool]) -> Item:
    count = len(crowd)
    sample = Sample(
        image=make.pixels((8, 12), index),
        boxes=np.arange(4 * count, dtype=np.float32).reshape(-1, 4) + index,
        labels=np.arange(count) + 1,
        is_crowd=np.array(crowd, np.bool_),
    )
    return Item(sample=sample, index=index, placement=PLACEMENT)


def test_rows_are_padded_and_crowd_is_no_object() -> None:
    batch = collate([_item(5, [False, True, False]), _item(6, []), _item(7, [True])])
    targets = batch.targets
    assert targets.is_object.tolist() == [[True, False, True], [False] * 3, [False] * 3]
    assert targets.is_crowd.tolist() == [[False, True, False], [False] * 3, [True, False, False]]
    assert targets.labels.tolist() == [[1, 2, 3], [0, 0, 0], [1, 0, 0]]
    assert targets.boxes[0].tolist() == [[5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]]
    assert not targets.boxes[1].any()
    assert batch.indices.tolist() == [5, 6, 7]
    assert batch.placements == (PLACEMENT,) * 3
    for k, index in enumerate((5, 6, 7)):
        assert torch.equal(batch.images[k], torch.from_numpy(make.pixels((8, 12), index)).permute(2, 0, 1))


def test_an_item_without_a_sample_leaves_only_its_name() -> None:
    lost = Item(sample=None, index=1, placement=PLACEMENT, unreadable=("b.jpg",))
    batch = collate([_item(0, [False]), lost])
    assert (batch.images.shape, batch.indices.tolist(), batch.unreadable) == ((1, 3, 8, 12), [0], ("b.jpg",))
    empty = collate([lost])
    assert (len(empty.images), empty.targets.boxes.shape, empty.placements) == (0, (0, 1, 4), ())


@pytest.mark.parametrize("crowd", [False, True])
def test_parts_join_to_what_they_are_parts_of(crowd: bool) -> None:
    items = [_item(5, [False]), _item(6, [False, crowd, False]), _item(7, [])]
    whole = collate(items)
    for cut in (1, 2):
        found = join([collate(items[:cut]), collate(items[cut:])])
        for name in ("boxes", "labels", "is_object", "is_crowd"):
            one, other = getattr(found.targets, name), getattr(whole.targets, name)
            assert (one is None) == (other is None) == (name == "is_crowd" and not crowd)
            assert one is None or torch.equal(one, other), name
        assert torch.equal(found.images, whole.images)
        assert (found.indices.tolist(), found.placements) == ([5, 6, 7], whole.placements)
