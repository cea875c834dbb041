"""Shapes of batches, asked for ahead of training and alike in all processes."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from detector.config import AugmentConfig, DataConfig, LengthConfig, RunConfig
from detector.config.data import CropConfig
from detector.train import schedule
from detector.train.shapes import Shapes
from detector.types import BatchShape

CANVAS = (64, 96)
CONFIG = RunConfig(
    data=DataConfig(batch_size=2, crops=CropConfig(share=0.5)), augment=AugmentConfig(mosaic=0.5, clean_share=0.25)
)
IS_CUT, IS_WHOLE, IS_CLEAN = (schedule.batch_shape(progress, CONFIG, CANVAS) for progress in (0.0, 0.5, 0.75))


def shapes(length: LengthConfig, first: int = 0) -> Shapes:
    return Shapes(schedule.plan(replace(CONFIG, length=length), num_images=10), CONFIG, CANVAS, first=first)


def test_in_steps_the_shape_is_that_of_the_step_and_nothing_else() -> None:
    expected = [IS_CUT] * 4 + [IS_WHOLE] * 2 + [IS_CLEAN] * 2
    for first in (0, 3, 5):
        asked = shapes(LengthConfig(steps=8), first)
        asked.agreed(1.0, 0)
        assert [next(asked) for _ in range(8 - first)] == expected[first:]


@given(
    ahead=st.lists(st.integers(0, 20), min_size=1, max_size=3),
    switches=st.tuples(st.integers(0, 12), st.integers(0, 12)).map(sorted),
    first=st.sampled_from([0, 7]),
)
def test_in_minutes_all_go_over_at_the_same_batch(ahead: list[int], switches: list[int], first: int) -> None:
    """Each loader is some batches ahead of the step by its own count; the time is agreed upon between steps."""
    of_each = [shapes(LengthConfig(minutes=1.0), first) for _ in ahead]
    given_out: list[list[BatchShape]] = [[] for _ in ahead]
    for step in range(40):
        most = max(one.asked for one in of_each)
        for one in of_each:
            one.agreed(0.4 + 0.2 * sum(step >= switch for switch in switches), most)
        for one, count, out in zip(of_each, ahead, given_out, strict=True):
            while len(out) < step + 1 + count:
                out.append(next(one))
    learned = [out[:40] for out in given_out]
    assert all(one == learned[0] for one in learned)
    # Never back, and not long after the time has come.
    num_cut, num_whole = learned[0].count(IS_CUT), learned[0].count(IS_WHOLE)
    assert learned[0] == [IS_CUT] * num_cut + [IS_WHOLE] * num_whole + [IS_CLEAN] * (40 - num_cut - num_whole)
    for switch, begun in zip(switches, (num_cut, num_cut + num_whole), strict=True):
        assert switch <= begun <= switch + max(ahead)
