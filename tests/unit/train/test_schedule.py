"""Schedules are pure maps from time to state."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.config import AugmentConfig, CropConfig, DataConfig, LengthConfig, OptimConfig, RunConfig
from detector.train import schedule

OPTIM = OptimConfig(warmup_steps=10, final_lr_factor=0.01)


def test_epochs_become_steps() -> None:
    plan = schedule.plan(RunConfig(length=LengthConfig(epochs=3), data=DataConfig(batch_size=4)), num_images=10)
    assert plan.steps == 8  # 30 images in batches of 4
    assert plan.progress(4, elapsed=1e9) == 0.5


def test_minutes_follow_the_clock_alone() -> None:
    plan = schedule.plan(RunConfig(length=LengthConfig(minutes=2)), num_images=10)
    assert plan.progress(10**6, elapsed=30.0) == 0.25
    assert plan.progress(0, elapsed=500.0) == 1.0


@pytest.mark.parametrize(("minutes", "expected"), [(0.1, 1), (4, 1), (20, 5), (600, 10)])
def test_a_short_run_is_scored_seldom(minutes: float, expected: int) -> None:
    assert schedule.plan(RunConfig(length=LengthConfig(minutes=minutes)), num_images=1).evaluations == expected


def test_scorings_are_evenly_spread() -> None:
    plan = schedule.plan(RunConfig(length=LengthConfig(steps=100, evaluations=4)), num_images=8)
    due = [plan.evaluations_due(plan.progress(step, 0.0)) for step in range(101)]
    assert [due.index(k) for k in (1, 2, 3, 4)] == [25, 50, 75, 100]


def test_warm_up_then_cosine() -> None:
    assert schedule.lr_factor(0, 0.0, OPTIM) == pytest.approx(0.1)
    assert schedule.lr_factor(9, 0.0, OPTIM) == pytest.approx(1.0)
    assert schedule.lr_factor(500, 0.5, OPTIM) == pytest.approx(0.505)
    assert schedule.lr_factor(1000, 1.0, OPTIM) == pytest.approx(0.01)


@given(st.integers(0, 10**6), st.floats(0, 1))
def test_the_factor_stays_between_its_ends(step: int, progress: float) -> None:
    factor = schedule.lr_factor(step, progress, OPTIM)
    assert 0.01 * 0.1 <= factor <= 1.0


@given(st.floats(0, 1), st.floats(0, 1))
def test_after_warm_up_the_rate_only_falls(a: float, b: float) -> None:
    early, late = sorted((a, b))
    assert schedule.lr_factor(100, early, OPTIM) >= schedule.lr_factor(100, late, OPTIM)


CROPS = DataConfig(batch_size=4, crops=CropConfig(share=0.6, size=0.5, batch_factor=3))


def test_cut_outs_come_first() -> None:
    early = schedule.batch_shape(0.59, RunConfig(data=CROPS), (240, 320))
    late = schedule.batch_shape(0.6, RunConfig(data=CROPS), (240, 320))
    assert (early.size, early.window_hw) == (12, (128, 160))  # 120 is brought up to a multiple of 16
    assert (late.size, late.window_hw) == (4, (240, 320))


@given(st.integers(1, 40), st.integers(1, 300))
def test_an_epoch_counts_images_and_not_batches(epochs: int, num_images: int) -> None:
    config = RunConfig(data=CROPS, length=LengthConfig(epochs=epochs))
    plan = schedule.plan(config, num_images=num_images)
    assert plan.steps is not None
    shapes = [schedule.batch_shape(plan.progress(step, 0.0), config, (240, 320)) for step in range(plan.steps)]
    seen = sum(shape.size for shape in shapes)
    # The last step and the one that ends the cut-outs are whole: 8.8 images on average, and 12 instead of 4.
    assert 0 <= seen - epochs * num_images <= 17


@pytest.mark.parametrize(("share", "clean"), [(0.0, []), (0.2, [8, 9]), (0.5, [5, 6, 7, 8, 9]), (1.0, [*range(10)])])
def test_the_last_part_is_clean_and_the_others_as_they_were(share: float, clean: list[int]) -> None:
    config = RunConfig(data=CROPS, augment=AugmentConfig(clean_share=share))
    shapes = [schedule.batch_shape(step / 10, config, (240, 320)) for step in range(11)][:10]
    assert [step for step, shape in enumerate(shapes) if shape.is_clean] == clean
    # Images that are shown whole are no cut-outs, whatever `crops.share` says.
    assert all(shapes[step].window_hw == (240, 320) for step in clean)
    plain = [schedule.batch_shape(step / 10, RunConfig(data=CROPS), (240, 320)) for step in range(10)]
    others = [step for step in range(10) if step not in clean]
    assert [shapes[step] for step in others] == [plain[step] for step in others]


def test_a_clean_part_that_nobody_asked_for_never_comes() -> None:
    assert not schedule.batch_shape(1.0, RunConfig(data=CROPS), (240, 320)).is_clean


@given(st.floats(0, 1), st.floats(0, 1))
def test_cut_outs_that_end_early_are_counted_as_long_as_they_last(crops: float, clean: float) -> None:
    data = DataConfig(batch_size=4, crops=CropConfig(share=crops, batch_factor=3))
    config = RunConfig(data=data, augment=AugmentConfig(clean_share=clean), length=LengthConfig(epochs=10))
    plan = schedule.plan(config, num_images=100)
    assert plan.steps is not None
    shapes = [schedule.batch_shape(plan.progress(step, 0.0), config, (240, 320)) for step in range(plan.steps)]
    assert 0 <= sum(shape.size for shape in shapes) - 1000 <= 17
