"""Levels from the sides of objects."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.fitting import levels

ZOOM, SCALE = (0.7, 1.5), 4.0
some_sides = st.lists(st.floats(0.5, 2000), min_size=1, max_size=30).map(np.array)


def even(sides: np.ndarray) -> np.ndarray:
    return np.full(len(sides), 1 / len(sides))


def fitted(*sides: float, size: int = 320) -> levels.Levels:
    array = np.array(sides)
    return levels.fit(array, even(array), size, ZOOM, SCALE)


@pytest.mark.parametrize(
    ("side", "small", "first"), [(21, 0, 3), (21, 8, 3), (21, 9, 2), (11, 2, 3), (11, 3, 2), (23, 20, 3), (13, 8, 3)]
)
def test_level_2_is_for_many_small_or_some_tiny_objects(side: float, small: int, first: int) -> None:
    """Of twenty, those under 22 px from nine on, those under 12 px from three on."""
    assert fitted(*[side] * small, *[40.0] * (20 - small)).first == first


@given(counts=st.lists(st.integers(1, 50), min_size=5, max_size=5))
def test_two_small_classes_of_five_are_always_as_many(counts: list[int]) -> None:
    """Each weighs a fifth, whatever its weights add up to in floating point."""
    sides = np.repeat([20.0, 20.0, 40.0, 50.0, 60.0], counts)
    weights = np.repeat(1 / np.array(counts), counts)
    assert levels.too_small(sides, weights / weights.sum()) is None


@pytest.mark.parametrize(
    ("pinned", "scale", "found"),
    [
        (levels.Pinned(), SCALE, (3, 5)),
        (levels.Pinned(first=2), SCALE, (2, 5)),
        (levels.Pinned(last=7), SCALE, (3, 7)),
        (levels.Pinned(), 1.0, (4, 6)),
        (levels.Pinned(first=3, last=6), 1.0, (3, 6)),
        (levels.Pinned(first=4), 1.0, (4, 6)),
        (levels.Pinned(last=5), 1.0, (3, 5)),
    ],
)
def test_what_is_pinned_stays_and_the_rest_follows(pinned: levels.Pinned, scale: float, found: tuple[int, int]) -> None:
    sides = np.array([32.0, 32.0])
    made = levels.fit(sides, even(sides), 320, ZOOM, scale, pinned)
    assert (made.first, made.last) == found


def test_levels_that_nothing_needs_are_left_out() -> None:
    large = fitted(150, 200, 250)
    assert (large.first, large.last) == (4, 6)
    everything = fitted(15, 60, 150, 250, size=640)
    assert (everything.first, everything.last) == (3, 7)


def test_priors_are_no_larger_than_the_canvas() -> None:
    """One of 512 px would be the nearest."""
    found = fitted(390, 400, size=416)
    assert (found.last, SCALE * 2**found.last) == (6, 256)


def test_rare_sizes_keep_no_level() -> None:
    assert fitted(*[40.0] * 99, 300).last == fitted(*[40.0] * 100).last
    assert fitted(*[40.0] * 95, *[300] * 5).last > fitted(*[40.0] * 100).last


def test_a_rare_class_counts_by_its_weight() -> None:
    sides = np.array([8.0, *[40.0] * 9])
    assert levels.fit(sides, np.array([0.5, *[0.5 / 9] * 9]), 320, ZOOM, SCALE).first == 2


@given(
    sides=some_sides,
    size=st.sampled_from([64, 128, 320, 640, 1024]),
    scale=st.floats(1, 16),
    pinned=st.builds(levels.Pinned, first=st.none() | st.integers(2, 5), last=st.none() | st.integers(5, 8)),
    data=st.data(),
)
def test_levels_are_always_such_that_a_pyramid_has(
    sides: np.ndarray, size: int, scale: float, pinned: levels.Pinned, data: st.DataObject
) -> None:
    weights = np.array(data.draw(st.lists(st.floats(0.01, 1), min_size=len(sides), max_size=len(sides))))
    found = levels.fit(sides, weights / weights.sum(), size, ZOOM, scale, pinned)
    assert found.first == pinned.first or (pinned.first is None and 2 <= found.first <= 4)
    assert found.last == pinned.last or (pinned.last is None and 5 <= found.last <= 7)
    if pinned.first is None or pinned.last is None:
        assert found.last - found.first + 1 >= levels.FEWEST_LEVELS


@given(sides=some_sides, share=st.floats(0, 1))
def test_a_quantile_is_one_of_the_sides(sides: np.ndarray, share: float) -> None:
    found = levels.quantile(sides, even(sides), share)
    assert found in sides
    assert (sides <= found).mean() >= share - 1e-9
