"""The plot of a learning curve."""

from detector.fitting import power_law
from detector.fitting.power_law import Point
from detector.report import plots


def test_it_shows_what_was_measured_and_what_is_expected() -> None:
    points = [
        Point(num_images=n, score=score, low=score - 0.03, high=score + 0.02)
        for n, score in ((51, 0.4), (103, 0.5), (1205, 0.6))
    ]
    law = power_law.fit([point.num_images for point in points], [point.score for point in points])
    drawn = plots.learning_curve(points, law, power_law.forecast(points, 2410))
    for word in (b"measured", b"forecast", b"training images", b"1,205", b"2,410"):
        assert word in drawn
    assert drawn == plots.learning_curve(points, law, power_law.forecast(points, 2410))
