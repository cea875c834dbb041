"""What the line of the smoke test says."""

import pytest

from detector.run.diagnosis import Course
from detector.run.smoke_test import ENOUGH, SmokeOutcome


@pytest.mark.parametrize(
    ("ap50", "shown"),
    [
        (0.9, "PASS  AP50 0.90 on"),
        (0.95, "PASS  AP50 0.95 on"),
        (0.896, "FAIL  AP50 0.896 on"),
        (0.899999, "FAIL  AP50 0.899999 on"),
        (0.504, "FAIL  AP50 0.50 on"),
        (-1.0, "FAIL  AP50 -1.00 on"),
    ],
)
def test_the_score_has_as_many_digits_as_the_verdict_needs(ap50: float, shown: str) -> None:
    outcome = SmokeOutcome(
        passed=ap50 >= ENOUGH,
        ap50=ap50,
        num_images=8,
        num_objects=9,
        steps=10,
        seconds=1.0,
        course=Course(first=4.0, last=0.5, num_not_finite=0),
        causes=(),
    )
    assert outcome.text().startswith(shown)
