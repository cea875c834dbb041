"""Shapes of batches, asked for ahead of training and alike in all processes."""

from hypothesis import given
from hypothesis import strategies as st

from detector.config import DataConfig, LengthConfig
from detector.config.data import CropConfig
from detector.train import schedule
from detector.train.shapes import Shapes
from detector.types import BatchShape

CANVAS = (64, 96)
DATA = DataConfig(batch_size=2, crops=CropConfig(share=0.5))
IS_CUT = schedule.batch_shape(0.0, DATA, CANVAS)
IS_WHOLE = schedule.batch_shape(1.0, DATA, CANVAS)


def shapes(length: LengthConfig, first: int = 0) -> Shapes:
    return Shapes(schedule.plan(length, DATA, num_images=10), DATA, CANVAS, first=first)


def test_in_steps_the_shape_is_that_of_the_step_and_nothing_else() -> None:
    expected = [IS_CUT] * 4 + [IS_WHOLE] * 4
    for first in (0, 3, 5):
        asked = shapes(LengthConfig(steps=8), first)
        asked.agreed(1.0, 0)
        assert [next(asked) for _ in range(8 - first)] == expected[first:]


@given(
    ahead=st.lists(st.integers(0, 20), min_size=1, max_size=3),
    switch=st.integers(0, 12),
    first=st.sampled_from([0, 7]),
)
def test_in_minutes_all_go_over_at_the_same_batch(ahead: list[int], switch: int, first: int) -> None:
    """Each loader is some batches ahead of the step by its own count; the time is agreed upon between steps."""
    of_each = [shapes(LengthConfig(minutes=1.0), first) for _ in ahead]
    given_out: list[list[BatchShape]] = [[] for _ in ahead]
    for step in range(40):
        most = max(one.asked for one in of_each)
        for one in of_each:
            one.agreed(0.6 if step >= switch else 0.4, most)
        for one, count, out in zip(of_each, ahead, given_out, strict=True):
            while len(out) < step + 1 + count:
                out.append(next(one))
    learned = [out[:40] for out in given_out]
    assert all(one == learned[0] for one in learned)
    # Never back, and not long after the time has come.
    num_cut = learned[0].count(IS_CUT)
    assert learned[0] == [IS_CUT] * num_cut + [IS_WHOLE] * (40 - num_cut)
    assert switch <= num_cut <= switch + max(ahead)
