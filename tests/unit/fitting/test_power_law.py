"""What more labels would bring."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.fitting import power_law
from detector.fitting.power_law import Point

SIZES = (50, 100, 200)
scores = st.lists(st.floats(0, 0.999), min_size=3, max_size=3)


def points(values: list[float], width: float = 0.0, *, shared: float = 0.0) -> list[Point]:
    """Measured with noise of that width (95 %), of which a share is the same for all of them."""
    rng = np.random.default_rng(1)
    common, own = rng.normal(size=400), rng.normal(size=(len(SIZES), 400))
    noise = width / (2 * 1.96) * (shared**0.5 * common + (1 - shared) ** 0.5 * own)
    drawn_scores = np.clip(np.array(values)[:, None] + noise, 0, 1).tolist()
    return [
        Point(num_images=n, score=score, low=score - width / 2, high=score + width / 2, resampled=tuple(drawn))
        for n, score, drawn in zip(SIZES, values, drawn_scores, strict=True)
    ]


@pytest.mark.parametrize(("power", "floor"), [(0.3, 0.0), (0.5, 0.0), (0.4, 0.2)])
def test_a_power_law_is_found_again(power: float, floor: float) -> None:
    exact = [1 - floor - 2.0 * n**-power for n in SIZES]
    law = power_law.fit(SIZES, exact, floor)
    assert law.power == pytest.approx(power)
    assert law.score(400) == pytest.approx(1 - floor - 2.0 * 400**-power)
    assert law.score(200) == pytest.approx(exact[-1])


def test_scores_that_fall_promise_nothing() -> None:
    law = power_law.fit(SIZES, [0.6, 0.5, 0.4])
    assert (law.power, law.score(400)) == (0, pytest.approx(0.4))


def test_a_perfect_score_stays_perfect() -> None:
    assert power_law.fit(SIZES, [0.5, 0.8, 1.0]).score(400) == pytest.approx(1, abs=1e-5)


def test_the_interval_grows_with_the_noise_of_the_scores() -> None:
    near, far = (power_law.forecast(points([0.5, 0.6, 0.68], width), 400) for width in (0.02, 0.1))
    assert near.low < near.score < near.high
    assert far.high - far.low > 2 * (near.high - near.low)
    assert near.score == far.score > 0.7


def test_the_floor_that_is_not_known_lowers_the_lower_end_alone() -> None:
    found = power_law.forecast(points([0.5, 0.6, 0.68]), 400)
    assert found.low < found.score - 0.002
    assert found.high == pytest.approx(found.score, abs=0.002)


@settings(max_examples=20)
@given(values=scores, width=st.floats(0, 0.3))
def test_a_forecast_is_a_score_inside_its_interval(values: list[float], width: float) -> None:
    found = power_law.forecast(points(values, width), 400)
    assert 0 <= found.low <= found.score <= found.high <= 1
    assert found.score >= values[-1] - 1e-9


def test_the_same_points_give_the_same_forecast() -> None:
    made = points([0.5, 0.6, 0.68], 0.1)
    assert power_law.forecast(made, 400) == power_law.forecast(made, 400)


def test_noise_that_all_points_share_leaves_the_gain_as_sure_as_before() -> None:
    own, shared = (power_law.forecast(points([0.5, 0.54, 0.57], 0.1, shared=share), 400) for share in (0.0, 0.98))
    assert own.gain_low < 0.005
    assert shared.gain_low > 0.01
    assert shared.high - shared.low > 0.07  # the level itself is as unsure as each score


def test_resamplings_are_mirrored_at_the_score() -> None:
    """They lie too high by as much as the score of few images does."""
    made = [
        Point(num_images=n, score=score, low=0, high=1, resampled=(score + 0.1,) * 50)
        for n, score in zip(SIZES, (0.5, 0.5, 0.5), strict=True)
    ]
    found = power_law.forecast(made, 400)
    assert found.low == pytest.approx(0.4)


def test_resamplings_in_which_a_score_is_not_defined_are_left_out() -> None:
    sound = points([0.5, 0.6, 0.68], 0.02)
    some = [replace(one, resampled=(*one.resampled, -1.0, 0.0)) for one in sound[:1]] + [
        replace(one, resampled=(*one.resampled, 0.0, -1.0)) for one in sound[1:]
    ]
    assert power_law.forecast(some, 400).low > 0.6
    none = [replace(one, resampled=(-1.0,) * 3) for one in sound]
    without = [replace(one, resampled=()) for one in sound]
    assert power_law.forecast(none, 400) == power_law.forecast(without, 400)


def test_in_words() -> None:
    made = points([0.5, 0.6, 0.68], 0.02)
    found = power_law.forecast(made, 400)
    said = power_law.sentence(made, found)
    assert said.startswith("twice the labels (400 images): AP 0.68 -> 0.74 (0.7")
    assert said.endswith(f"; {found.gain_low:.2f} to {found.gain_high:.2f} more")
    assert power_law.sentence(made, replace(found, gain_low=0.004)).endswith("; it may bring nothing")
    flat = points([0.68, 0.67, 0.68], 0.1)
    assert power_law.sentence(flat, power_law.forecast(flat, 600)).startswith("3 times the labels (600 images)")
    assert power_law.sentence(flat, power_law.forecast(flat, 400)).endswith("; it may bring nothing")
