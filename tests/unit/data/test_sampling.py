"""Parts of a data set, each inside the next larger one."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.data import sampling
from tests.unit.data.make import columns

# Three classes of which one stands on a single image, a background image, and a crowd region.
LABELS = [[0], [0, 0, 1], [], [0], [2, 0], [1], [0], [0, 1], [0], [0], [0], [0]]


def test_parts_are_nested_and_of_the_size_that_was_asked_for() -> None:
    made = columns(LABELS)
    parts = [sampling.part(made, share, seed=3) for share in (0.01, 0.25, 0.5, 1.0)]
    assert [len(part) for part in parts] == [1, 3, 6, 12]
    for small, large in pairwise(parts):
        assert set(small) <= set(large)
        assert large == sorted(large)


@pytest.mark.parametrize("seed", range(5))
def test_every_class_is_there(seed: int) -> None:
    made = columns(LABELS)
    rows = sampling.part(made, 0.25, seed)
    assert {label for row in rows for label in LABELS[row]} == {0, 1, 2}


def test_the_seed_decides() -> None:
    made = columns([[0]] * 40)
    assert sampling.part(made, 0.5, 1) == sampling.part(made, 0.5, 1) != sampling.part(made, 0.5, 2)


def test_a_crowd_region_does_not_stand_for_its_class() -> None:
    made = columns([[0], [1], [1], [0]], crowd=[False, True, False, False])
    assert all(2 in sampling.part(made, 0.25, seed) for seed in range(20))


@settings(max_examples=30)
@given(labels=st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=20), seed=st.integers(0, 99))
def test_the_whole_is_the_whole(labels: list[list[int]], seed: int) -> None:
    assert sampling.part(columns(labels), 1.0, seed) == list(range(len(labels)))


def test_shares_are_counted_without_rounding_errors() -> None:
    made = columns([[0]] * 10)
    assert [len(sampling.part(made, share, 0)) for share in (0.1, 0.3, 0.7)] == [1, 3, 7]
