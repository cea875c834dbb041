"""What a learning curve says."""

from pathlib import Path

from detector import recipes
from detector.fitting import power_law
from detector.fitting.choice import AutoRecipe
from detector.fitting.power_law import Point
from detector.run import curve, fitting
from detector.run.curve import CurveOutcome
from detector.train.distributed import World
from tests.unit.data.make import columns


def said(*scores: float) -> str:
    points = tuple(
        Point(num_images=10 * 2**k, score=score, low=score / 2, high=min(1.0, score * 1.5))
        for k, score in enumerate(scores)
    )
    law = power_law.fit([point.num_images for point in points], [point.score for point in points])
    forecast = power_law.forecast(points, 2 * points[-1].num_images)
    return CurveOutcome(folder=Path("c"), points=points, law=law, forecast=forecast, plot=None, steps=7).text()


def test_the_warm_up_follows_the_steps_that_fit_into_the_time() -> None:
    many, timed = columns([[0], [1]] * 20), AutoRecipe(changes={"length.minutes": 1.0})
    assert fitting.fitted(timed, many, World(), "none").config.optim.warmup_steps == recipes.small().optim.warmup_steps
    found = fitting.fitted(curve._in_steps(timed, 60), many, World(), "none").config
    assert (found.length.steps, found.length.minutes, found.optim.warmup_steps) == (60, None, 3)
    grouped = AutoRecipe(changes={"length.steps": 9, "length": {"minutes": 1.0}})
    assert fitting.fitted(curve._in_steps(grouped, 60), many, World(), "none").config.length.steps == 60


def test_a_curve_that_rises_has_a_power() -> None:
    assert "1 - AP falls with images to the power -0." in said(0.2, 0.3, 0.4)
    assert "7 steps each" in said(0.2, 0.3, 0.4)


def test_a_curve_that_falls_promises_nothing() -> None:
    assert "more images did not help" in said(0.4, 0.3, 0.2)


def test_where_nothing_is_found_nothing_is_promised() -> None:
    text = said(0.0, 0.0, 0.0)
    assert "train for longer" in text
    assert "power" not in text
    assert "twice" not in text
