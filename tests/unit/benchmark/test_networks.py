"""The network beside torchvision's: the same answers, and times."""

import json
import math
from typing import get_args

import pytest
import torch

from detector.benchmark import contest, networks, peer
from detector.benchmark.contest import Report
from detector.benchmark.networks import SHIPPED, Settings, Task
from detector.errors import ConfigError

CPU = torch.device("cpu")
OURS = "detector float32"


@pytest.fixture(scope="module", params=get_args(Task))
def task(request: pytest.FixtureRequest) -> Task:
    return request.param


@pytest.fixture(scope="module")
def report(task: Task) -> Report:
    return networks.measure(Settings(task=task, batch_size=2, image_size=96, rounds=1), CPU, lambda _: None)


def test_in_float32_both_compute_the_same(report: Report, task: Task) -> None:
    ours = report.ways[OURS]
    assert report.ways[SHIPPED].largest_difference == 0
    assert ours.is_equal
    if task == "train":
        assert ours.largest_difference < 1e-4
        assert min(ours.found["classification"], ours.found["box"]) > 0
    else:
        assert ours.found["num_detections"] > 0


def test_the_speed_is_against_torchvision_as_shipped(report: Report) -> None:
    assert report.reference == SHIPPED
    shipped = report.ways[SHIPPED]
    assert shipped.speed_up.min == shipped.speed_up.max == 1
    for way in report.ways.values():
        assert way.speed_up.median == pytest.approx(shipped.seconds.median / way.seconds.median)


def test_the_texts(report: Report) -> None:
    values = json.loads(json.dumps(contest.as_json(report), allow_nan=False))
    assert values["settings"]["batch_size"] == 2
    table = contest.table(report)
    assert all(name in table for name in report.ways)
    assert table.count("DIFFERS") == sum(not way.is_equal for way in report.ways.values())


def test_a_size_that_torchvision_pads_is_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of 32"):
        networks.measure(Settings(task="infer", batch_size=1, image_size=100), CPU, lambda _: None)


def test_detections_are_matched_one_by_one() -> None:
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0, 0.9, 1.0]])
    moved, other_score, other_label = box.clone(), box.clone(), box.clone()
    moved[:, :4] += 5
    other_score[:, 4] -= 0.1
    other_label[:, 5] += 1
    assert peer.unmatched([box], [box], score_tolerance=0.01) == 0
    for other in (moved, other_score, other_label):
        assert peer.unmatched([box], [other], score_tolerance=0.01) == 1
    assert math.isclose(peer.unmatched([torch.cat((box, moved))], [box], score_tolerance=0.01), 1 / 3)
