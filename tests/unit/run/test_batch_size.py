"""The largest batch that fits, and its learning rate."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector import recipes
from detector.config import OptimConfig
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


@pytest.mark.parametrize(
    ("name", "size", "factor"),
    [
        ("adamw", 64, 2.0),
        ("adamw", 4, 0.5),
        ("adamw", 16, 1.0),
        ("sgd", 64, 4.0),
        ("sgd", 256, 8.0),
        ("sgd", 8, 0.5),
    ],
)
def test_the_rate_that_goes_with_it(name: str, size: int, factor: float) -> None:
    config = dataclasses.replace(recipes.standard(), optim=OptimConfig(name=name, lr=0.01))  # type: ignore[arg-type]
    assert config.data.batch_size == 16
    assert batch_size.lr_for(config, size) == pytest.approx(0.01 * factor)
