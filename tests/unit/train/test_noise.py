import statistics

import numpy as np
import pytest

from detector.train import noise
from detector.train.state import Quality


def quality(ap: float, *resampled: float) -> Quality:
    return Quality(ap=ap, ap50=0.0, resampled=resampled)


def test_a_gain_is_clear_beyond_one_standard_error_of_the_difference() -> None:
    # Both swing by 0.1, together: the difference hardly does.
    before, now = quality(0.5, 0.4, 0.5, 0.6), quality(0.52, 0.42, 0.521, 0.62)
    found = noise.gain(now, before)
    assert found.value == pytest.approx(0.02)
    assert found.noise == pytest.approx(statistics.stdev([0.02, 0.021, 0.02]))
    assert found.is_clear
    assert not noise.gain(before, now).is_clear
    apart = quality(0.52, 0.62, 0.521, 0.42)
    assert not noise.gain(apart, before).is_clear


def test_the_same_is_no_gain() -> None:
    one = quality(0.5, 0.4, 0.6)
    assert not noise.gain(one, one).is_clear


def test_what_is_not_defined_is_left_out() -> None:
    found = noise.gain(quality(0.5, -1, 0.4, 0.6), quality(0.4, 0.3, 0.2, 0.5))
    assert found.noise == pytest.approx(statistics.stdev([0.2, 0.1]))


@pytest.mark.parametrize("before", [quality(0.4), quality(0.4, 0.5)])
def test_without_the_same_resamplings_the_higher_is_better(before: Quality) -> None:
    found = noise.gain(quality(0.5, 0.3, 0.4), before)
    assert (found.noise, found.is_clear) == (0, True)


def test_of_pure_noise_one_in_six_looks_clear() -> None:
    rng = np.random.default_rng(0)
    clear = 0
    for _ in range(600):
        # The mean of 400 numbers, of which one scoring has seen other noise than the other.
        of_images = rng.normal(0.5, 0.1, (2, 400))
        draws = rng.multinomial(400, np.full(400, 1 / 400), size=50) / 400
        now, before = (quality(float(row.mean()), *(draws @ row).tolist()) for row in of_images)
        clear += noise.gain(now, before).is_clear
    assert 0.12 < clear / 600 < 0.20
