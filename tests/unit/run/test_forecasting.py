"""What a forecast says."""

import dataclasses
import json

import pytest

from detector.run import forecasting
from detector.run.forecasting import Forecast, Need, Threads
from detector.train.preflight import Estimate, Phase
from detector.types import BatchShape

FORECAST = Forecast(
    needs=(
        Need(
            phase=Phase(share=0.7, progress=0.35, shape=BatchShape(size=8, window_hw=(128, 160)), stage=""),
            seconds=0.42,
        ),
        Need(
            phase=Phase(share=0.3, progress=0.85, shape=BatchShape(size=4, window_hw=(240, 320)), stage=""), seconds=1.1
        ),
    ),
    canvas_hw=(240, 320),
    most_objects=29,
    scoring_seconds=12.3,
    peak_bytes=2**31,
    available_bytes=None,
    estimate=Estimate(seconds=1380.0, steps=1200, evaluations=10),
    minutes=None,
    warmup_steps=50,
)


def test_of_a_run_by_steps() -> None:
    assert FORECAST.lines() == (
        "preflight: 0.42 s a step of 8 cut-outs of 160x128, 1.10 s a step of 4 images of 320x240, 12 s a scoring; "
        "up to 29 objects an image; 2.0 GiB of memory",
        "preflight: about 23 min for 1,200 steps and 10 scorings",
    )


def test_of_a_run_by_time_in_a_stage_on_a_gpu_without_validation() -> None:
    phase = dataclasses.replace(FORECAST.needs[1].phase, stage="hints", share=1.0)
    found = dataclasses.replace(
        FORECAST,
        needs=(Need(phase=phase, seconds=0.05),),
        scoring_seconds=None,
        available_bytes=79 * 2**30,
        minutes=4.0,
        estimate=Estimate(seconds=240.0, steps=1200, evaluations=1),
    )
    assert found.lines() == (
        "preflight: 0.05 s a step of 4 images of 320x240 in stage hints; up to 29 objects an image; "
        "2.0 of 79.0 GiB of memory",
        "preflight: about 1,200 steps and 1 scoring in 4 min",
    )


def test_too_little_time_for_the_warm_up_is_a_warning() -> None:
    short = dataclasses.replace(FORECAST, minutes=1.0, estimate=Estimate(seconds=60.0, steps=149, evaluations=1))
    last = short.lines()[-1]
    assert "enough for about 149 steps, and for 50 of them (optim.warmup_steps) the learning rate still rises" in last
    assert last.endswith("--set optim.warmup_steps=7")
    assert len(dataclasses.replace(short, warmup_steps=49).lines()) == 2


@pytest.mark.parametrize(("half", "is_warned_of"), [(0.37, True), (0.79, True), (0.81, False), (1.6, False)])
def test_threads_that_wait_for_one_another_are_a_warning(half: float, is_warned_of: bool) -> None:
    """Half of them take twice as long where all are free."""
    busy = dataclasses.replace(FORECAST, threads=Threads(num=4, seconds=1.14, num_half=2, seconds_half=half))
    (*_, last) = busy.lines()
    assert last.startswith(f"warning: a step takes 1.14 s with 4 threads and {half:.2f} s with 2: ") is is_warned_of
    assert last.endswith("set OMP_NUM_THREADS=2 in the environment") is is_warned_of


def test_the_values_are_json() -> None:
    values = json.loads(json.dumps(FORECAST.values(), allow_nan=False))
    assert (values["steps"], values["step_seconds"]) == (1200, [0.42, 1.1])


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (99, "99 s"), (101, "2 min"), (7200, "2 h"), (900_000, "10 days")]
)
def test_a_time_to_wait(seconds: float, text: str) -> None:
    assert forecasting.span(seconds) == text
