"""Images dealt to splits."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.data import dealing
from tests.unit.data.make import columns

SHARES = {"train": 0.6, "val": 0.3, "test": 0.1}


@settings(max_examples=50)
@given(labels=st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=30), seed=st.integers(0, 99))
def test_every_image_is_in_one_split_and_splits_have_their_size(labels: list[list[int]], seed: int) -> None:
    dealt = dealing.deal(columns(labels), SHARES, seed)
    assert sorted(row for rows in dealt.values() for row in rows) == list(range(len(labels)))
    assert all(rows == sorted(rows) for rows in dealt.values())
    val, test = round(0.3 * len(labels)), round(0.1 * len(labels))
    assert {name: len(rows) for name, rows in dealt.items()} == {
        "train": len(labels) - val - test,
        "val": val,
        "test": test,
    }


@pytest.mark.parametrize("seed", range(10))
def test_rare_classes_come_first_and_training_before_the_others(seed: int) -> None:
    labels = [[0]] * 27 + [[0, 1], [0, 1], [0, 2]]
    dealt = dealing.deal(columns(labels), {"train": 0.9, "val": 0.1}, seed)
    classes = {name: {label for row in rows for label in labels[row]} for name, rows in dealt.items()}
    assert classes == {"train": {0, 1, 2}, "val": {0, 1}}


def test_a_crowd_region_does_not_stand_for_its_class() -> None:
    made = columns([[0], [1], [1], [0], [0], [0]], crowd=[False, True, False, False, False, False])
    assert all(2 in dealing.deal(made, {"train": 0.5, "val": 0.5}, seed)["train"] for seed in range(20))


def test_the_seed_decides() -> None:
    made = columns([[0]] * 40)
    assert dealing.deal(made, SHARES, 1) == dealing.deal(made, SHARES, 1) != dealing.deal(made, SHARES, 2)
    # Of images that are all alike, the first are no better than the others.
    firsts = [sum(dealing.deal(made, SHARES, seed)["val"]) / 12 for seed in range(40)]
    assert 17 < sum(firsts) / 40 < 22


def test_an_image_that_shows_several_classes_is_enough_for_all_of_them() -> None:
    made = columns([[1, 2], [1, 2], [1], *([[0]] * 17)])
    in_val = sum(2 in dealing.deal(made, {"train": 0.5, "val": 0.5}, seed)["val"] for seed in range(40))
    assert 8 < in_val < 32
