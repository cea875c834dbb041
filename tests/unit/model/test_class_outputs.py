"""Which class of theirs is which of ours."""

import pytest

from detector.model import class_outputs


@pytest.mark.parametrize(
    ("ours", "theirs", "places"),
    [
        (("dog", "traffic_light"), ("Traffic light", "cat", "dog"), {0: 2, 1: 0}),
        (("cell", "Cell"), ("cell",), {0: 0}),
        (("Cell", "cell"), ("cell", "Cell"), {0: 1, 1: 0}),
        (("CELL",), ("cell", "Cell"), {}),
        (("CELL", "Cell"), ("cell",), {}),
        (("a b",), ("A_b", "A-b"), {}),
        ((), ("a",), {}),
    ],
)
def test_names_are_matched_one_to_one(ours: tuple[str, ...], theirs: tuple[str, ...], places: dict[int, int]) -> None:
    assert class_outputs.same_names(ours, theirs) == places
