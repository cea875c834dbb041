"""What is known of a data set."""

import pytest

from detector.fitting import facts
from tests.unit.data.make import columns
from tests.unit.fitting.make import CPU


def test_facts_of_a_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "_ENOUGH_OF_A_CLASS", 1)
    made = columns(
        [[0, 0, 1], [0], []],
        boxes=[[0, 0, 64, 64], [10, 0, 74, 64], [0, 0, 32, 8], [0, 0, 128, 32]],
        sizes_hw=[(480, 640), (240, 320), (480, 640)],
    )
    found = facts.of_columns(made, CPU)
    assert (found.num_images, found.num_objects, found.most_objects, found.longer_side) == (3, 4, 3, 640)
    assert found.num_with_objects == 2
    assert found.canvas_shape == pytest.approx((0.75, 1), abs=0.01)
    # 64 of 640 pixels; the root of 32 times 8; on the picture of half the size an object takes twice the canvas.
    assert found.sides.tolist() == pytest.approx([0.1, 0.1, 16 / 640, 64 / 320], rel=0.01)
    # Of the height, which is less than the width, but for two that are wide.
    assert found.extents.tolist() == pytest.approx([64 / 480, 64 / 480, 32 / 640, 128 / 320], rel=0.02)
    # Each class weighs the same.
    assert found.weights.tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 2, 1 / 6])
    assert found.overlap == pytest.approx(54 / 74, abs=0.02)


def test_pictures_of_several_shapes() -> None:
    made = columns([[0]] * 10, sizes_hw=[(640, 320)] * 9 + [(1280, 640)])
    found = facts.of_columns(made, CPU)
    assert found.canvas_shape == pytest.approx((1, 0.5), abs=0.01)
    assert found.longer_side == 640, "one in ten is larger"
    made = columns([[0]] * 10, sizes_hw=[(640, 320)] * 8 + [(1280, 640)] * 2)
    assert facts.of_columns(made, CPU).longer_side == 1280


def test_crowd_regions_do_not_count() -> None:
    made = columns([[0, 0]], boxes=[[0, 0, 64, 64], [0, 0, 640, 480]], crowd=[False, True])
    found = facts.of_columns(made, CPU)
    assert (found.num_objects, found.most_objects, len(found.sides)) == (1, 1, 1)


def test_classes_without_objects_are_not_seen() -> None:
    found = facts.of_columns(columns([[0, 2, 2], [2]], crowd=[False, False, True, False]), CPU)
    assert (found.num_classes, found.seen) == (3, ("class 0", "class 2"))


def test_few_objects_of_a_class_weigh_little() -> None:
    """One of a class is a twentieth of what many are; twenty are as many as any."""
    for few, share in ((1, 1 / 21), (20, 1 / 2), (40, 1 / 2)):
        found = facts.of_columns(columns([[0] * 100 + [1] * few]), CPU)
        assert found.weights[100:].sum() == pytest.approx(share)
        assert found.weights.sum() == pytest.approx(1)


def test_of_many_objects_some_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the ten, three are of the class that has thirty in all; it weighs as much as the other."""
    monkeypatch.setattr(facts, "_MOST_OBJECTS", 10)
    found = facts.of_columns(columns([[0] * 9 + [1]] * 30), CPU)
    assert (found.num_objects, len(found.sides), len(found.extents)) == (300, 10, 10)
    assert sorted(found.weights) == pytest.approx([0.5 / 7] * 7 + [0.5 / 3] * 3)
