"""Counts of operations and host waits, ours beside torchvision's."""

import json

import pytest

from detector.benchmark import counting
from detector.benchmark.counting import Report


@pytest.fixture(scope="module")
def report() -> Report:
    return counting.measure(counting.Settings(batch_size=2), lambda _: None)


def test_ours_never_waits_in_training(report: Report) -> None:
    assert report.training["detector"].waits == 0
    assert report.training["torchvision"].waits > 10


def test_ours_waits_twice_for_detections(report: Report) -> None:
    assert report.inference["detector"].waits == 2
    assert report.inference["torchvision"].waits > 20


def test_matching_and_losses_take_few_operations(report: Report) -> None:
    ours, theirs = (report.training[name].operations["forward"] for name in ("detector", "torchvision"))
    assert ours < 110
    assert theirs > 150  # of two images, and grows with the batch


def test_the_count_does_not_grow_with_the_batch(report: Report) -> None:
    larger = counting.measure(counting.Settings(batch_size=4), lambda _: None)
    assert larger.training["detector"] == report.training["detector"]
    assert larger.inference["detector"] == report.inference["detector"]
    assert larger.training["torchvision"].operations["forward"] > report.training["torchvision"].operations["forward"]


def test_the_texts(report: Report) -> None:
    assert json.loads(json.dumps(counting.as_json(report)))["settings"] == {"batch_size": 2}
    lines = counting.table(report).splitlines()
    assert sum(line.startswith("detector") for line in lines) == 2
