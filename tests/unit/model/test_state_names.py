"""Names of other people's state dicts."""

import pytest

from detector.model import state_names


@pytest.mark.parametrize(
    ("block", "part", "norm", "expected"),
    [(0, "0", False, 0), (2, "0", False, 4), (2, "1", True, 7), (4, None, False, 4), (4, None, True, 6)],
)
def test_tower_positions(block: int, part: str | None, norm: bool, expected: int) -> None:
    assert state_names._tower_index(block, part, has_norm=norm) == expected
