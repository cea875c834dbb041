"""Levels and prior sizes from the sides of objects."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.fitting import levels

ZOOM, MIDDLE = (0.7, 1.5), 4.0
some_sides = st.lists(st.floats(0.5, 2000), min_size=1, max_size=30).map(np.array)


def even(sides: np.ndarray) -> np.ndarray:
    return np.full(len(sides), 1 / len(sides))


def fitted(*sides: float, size: int = 320) -> levels.Levels:
    array = np.array(sides)
    return levels.fit(array, even(array), size, ZOOM, MIDDLE)


def test_priors_have_the_size_of_objects_of_one_size() -> None:
    found = fitted(50, 51, 52)
    assert [round(found.scale * 2**level) for level in range(found.first, found.last + 1)].count(51) == 1


def test_a_size_in_the_middle_is_kept_where_another_is_hardly_nearer() -> None:
    spread_over_octaves = 2 ** np.linspace(5, 8, 200)
    assert fitted(*spread_over_octaves).scale == MIDDLE


@pytest.mark.parametrize(("tiny", "first"), [(0, 3), (1, 3), (2, 2), (10, 2)])
def test_level_2_is_for_one_tiny_object_in_ten(tiny: int, first: int) -> None:
    assert fitted(*[8.0] * tiny, *[40.0] * (10 - tiny)).first == first


def test_a_prior_size_is_worth_three_hundredths_of_an_octave() -> None:
    """Objects of one size, at a distance from the nearest of the usual priors."""
    assert fitted(64 * 2**0.025).scale == MIDDLE
    assert fitted(64 * 2**0.04).scale == pytest.approx(4 * 2**0.04, rel=0.02)


@pytest.mark.parametrize(
    ("pinned", "found"),
    [
        (levels.Pinned(), (3, 5, 4.0)),
        (levels.Pinned(first=2), (2, 5, 4.0)),
        (levels.Pinned(last=7), (3, 7, 4.0)),
        (levels.Pinned(scale=1.0), (4, 6, 1.0)),
        (levels.Pinned(first=3, last=6, scale=3.0), (3, 6, 3.0)),
    ],
)
def test_what_is_pinned_stays_and_the_rest_follows(pinned: levels.Pinned, found: tuple[int, int, float]) -> None:
    sides = np.array([32.0, 32.0])
    made = levels.fit(sides, even(sides), 320, ZOOM, MIDDLE, pinned)
    assert (made.first, made.last, made.scale) == found


def test_levels_that_nothing_needs_are_left_out() -> None:
    large = fitted(150, 200, 250)
    assert (large.first, large.last) == (4, 6)
    everything = fitted(15, 60, 150, 250, size=640)
    assert (everything.first, everything.last) == (3, 7)


def test_priors_are_no_larger_than_the_canvas() -> None:
    found = fitted(300, 310, size=320)
    assert found.scale * 2**found.last <= 320


def test_rare_sizes_keep_no_level() -> None:
    assert fitted(*[40.0] * 99, 300).last == fitted(*[40.0] * 100).last
    assert fitted(*[40.0] * 95, *[300] * 5).last > fitted(*[40.0] * 100).last


def test_a_rare_class_counts_by_its_weight() -> None:
    sides = np.array([8.0, *[40.0] * 9])
    assert levels.fit(sides, np.array([0.5, *[0.5 / 9] * 9]), 320, ZOOM, MIDDLE).first == 2


@given(sides=some_sides, size=st.sampled_from([64, 128, 320, 640, 1024]), data=st.data())
def test_levels_are_always_such_that_a_pyramid_has(sides: np.ndarray, size: int, data: st.DataObject) -> None:
    weights = np.array(data.draw(st.lists(st.floats(0.01, 1), min_size=len(sides), max_size=len(sides))))
    found = levels.fit(sides, weights / weights.sum(), size, ZOOM, MIDDLE)
    assert 2 <= found.first <= 4
    assert 5 <= found.last <= 7
    assert found.last - found.first + 1 >= levels.FEWEST_LEVELS
    assert 2.8 <= found.scale <= 5.7


@given(sides=some_sides)
def test_the_prior_size_found_is_about_the_nearest(sides: np.ndarray) -> None:
    found = levels.fit(sides, even(sides), 640, ZOOM, MIDDLE)
    allowed = 2 if levels.share_below(sides, even(sides), levels.TINY) > levels.TINY_SHARE else 3
    best = min(levels.miss(sides, even(sides), scale, allowed, 7) for scale in np.linspace(2.9, 5.6, 28).tolist())
    assert levels.miss(sides, even(sides), found.scale, allowed, 7) <= best + 0.04


def test_the_miss_counts_octaves() -> None:
    assert levels.miss(np.array([32.0]), np.array([1.0]), 4.0, 3, 6) == 0
    assert levels.miss(np.array([16.0]), np.array([1.0]), 4.0, 3, 6) == 1
    assert levels.miss(np.array([16.0]), np.array([1.0]), 4.0, 2, 6) == 0
    assert levels.miss(np.array([45.25]), np.array([1.0]), 4.0, 3, 6) == pytest.approx(0.5, abs=1e-3)


@given(sides=some_sides, share=st.floats(0, 1))
def test_a_quantile_is_one_of_the_sides(sides: np.ndarray, share: float) -> None:
    found = levels.quantile(sides, even(sides), share)
    assert found in sides
    assert (sides <= found).mean() >= share - 1e-9
