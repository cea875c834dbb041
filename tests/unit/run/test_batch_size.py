"""The largest batch that fits."""

from hypothesis import given
from hypothesis import strategies as st

from detector.run import batch_size


@given(st.integers(0, 5000), st.integers(1, 64), st.integers(1, 2000))
def test_it_fits_and_twice_as_much_does_not_or_is_not_wanted(limit: int, start: int, most: int) -> None:
    tried: list[int] = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= limit

    found = batch_size.largest(fits, start, most)
    assert len(tried) == len(set(tried)), "none is tried twice"
    if found is None:
        assert limit < 1
        return
    assert 1 <= found <= limit
    if found >= start:
        assert found <= max(start, most)
        assert 2 * found > min(limit, most)
    else:
        assert 2 * found + 1 > limit  # halves are rounded down
