"""The learning rate under another batch size."""

from typing import Any

import pytest

from detector.train import scaling


@pytest.mark.parametrize(
    ("optimizer", "size", "factor"),
    [
        ("adamw", 64, 2.0),
        ("adamw", 4, 0.5),
        ("adamw", 16, 1.0),
        ("sgd", 64, 4.0),
        ("sgd", 256, 8.0),
        ("sgd", 8, 0.5),
    ],
)
def test_the_rate_that_goes_with_it(optimizer: Any, size: int, factor: float) -> None:
    assert scaling.lr_factor(optimizer, size, 16) == pytest.approx(factor)
