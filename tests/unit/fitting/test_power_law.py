"""What more labels would bring."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.fitting import power_law
from detector.fitting.power_law import Point

SIZES = (50, 100, 200)
scores = st.lists(st.floats(0, 0.999), min_size=3, max_size=3)


def points(values: list[float], width: float = 0.0) -> list[Point]:
    return [
        Point(num_images=n, score=score, low=score - width / 2, high=score + width / 2)
        for n, score in zip(SIZES, values, strict=True)
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


def test_in_words() -> None:
    made = points([0.5, 0.6, 0.68], 0.02)
    said = power_law.sentence(made, power_law.forecast(made, 400))
    assert said.startswith("twice the labels (400 images): AP 0.68 -> 0.74 (0.7")
    assert "nothing" not in said
    flat = points([0.68, 0.67, 0.68], 0.1)
    assert power_law.sentence(flat, power_law.forecast(flat, 600)).startswith("3 times the labels (600 images)")
    assert power_law.sentence(flat, power_law.forecast(flat, 400)).endswith("; it may bring nothing")
