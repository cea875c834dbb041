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


@pytest.mark.parametrize(("small", "first"), [(0, 3), (3, 3), (4, 2), (10, 2)])
def test_level_2_is_for_a_third_of_small_objects(small: int, first: int) -> None:
    assert fitted(*[21.0] * small, *[40.0] * (10 - small)).first == first


@pytest.mark.parametrize(
    ("pinned", "scale", "found"),
    [
        (levels.Pinned(), SCALE, (3, 5)),
        (levels.Pinned(first=2), SCALE, (2, 5)),
        (levels.Pinned(last=7), SCALE, (3, 7)),
        (levels.Pinned(), 1.0, (4, 6)),
        (levels.Pinned(first=3, last=6), 1.0, (3, 6)),
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
    found = fitted(300, 310, size=320)
    assert SCALE * 2**found.last <= 320


def test_rare_sizes_keep_no_level() -> None:
    assert fitted(*[40.0] * 99, 300).last == fitted(*[40.0] * 100).last
    assert fitted(*[40.0] * 95, *[300] * 5).last > fitted(*[40.0] * 100).last


def test_a_rare_class_counts_by_its_weight() -> None:
    sides = np.array([8.0, *[40.0] * 9])
    assert levels.fit(sides, np.array([0.5, *[0.5 / 9] * 9]), 320, ZOOM, SCALE).first == 2


@given(sides=some_sides, size=st.sampled_from([64, 128, 320, 640, 1024]), data=st.data())
def test_levels_are_always_such_that_a_pyramid_has(sides: np.ndarray, size: int, data: st.DataObject) -> None:
    weights = np.array(data.draw(st.lists(st.floats(0.01, 1), min_size=len(sides), max_size=len(sides))))
    found = levels.fit(sides, weights / weights.sum(), size, ZOOM, SCALE)
    assert 2 <= found.first <= 4
    assert 5 <= found.last <= 7
    assert found.last - found.first + 1 >= levels.FEWEST_LEVELS


@given(sides=some_sides, share=st.floats(0, 1))
def test_a_quantile_is_one_of_the_sides(sides: np.ndarray, share: float) -> None:
    found = levels.quantile(sides, even(sides), share)
    assert found in sides
    assert (sides <= found).mean() >= share - 1e-9
