"""The race against torchvision: the same answers, and times."""

import json
from typing import get_args

import pytest
import torch

from detector import cli
from detector.benchmark import race, rival, text
from detector.benchmark.race import Report, Settings, Task
from detector.errors import ConfigError

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=get_args(Task))
def report(request: pytest.FixtureRequest) -> Report:
    settings = Settings(task=request.param, batch_size=2, image_size=96, rounds=1)
    return race.measure(settings, CPU, lambda _: None)


def test_in_float32_both_compute_the_same(report: Report) -> None:
    shipped, _, ours, _ = report.rows
    assert shipped.name == race.SHIPPED
    assert shipped.difference == 0
    assert ours.same
    if report.settings.task == "train":
        assert ours.difference < 1e-4
    assert min(shipped.found.values()) > 0


def test_the_speed_is_against_torchvision_as_shipped(report: Report) -> None:
    assert report.rows[0].speedup.min == report.rows[0].speedup.max == 1
    for row in report.rows:
        assert row.seconds.median > 0
        assert row.speedup.median == pytest.approx(report.rows[0].seconds.median / row.seconds.median)


def test_the_texts(report: Report) -> None:
    values = json.loads(json.dumps(text.as_json(report), allow_nan=False))
    assert values["settings"]["batch_size"] == 2
    table = text.race_table(report)
    assert all(row.name in table for row in report.rows)
    assert table.count("DIFFERS") == sum(not row.same for row in report.rows)


def test_a_size_that_torchvision_pads_is_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of 32"):
        race.measure(Settings(task="infer", batch_size=1, image_size=100), CPU, lambda _: None)


def test_detections_are_matched_one_by_one() -> None:
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0, 0.9, 1.0]])
    moved, other_score, other_label = box.clone(), box.clone(), box.clone()
    moved[:, :4] += 5
    other_score[:, 4] -= 0.1
    other_label[:, 5] += 1
    assert rival.unmatched([box], [box], score_tolerance=0.01) == 0
    for other in (moved, other_score, other_label):
        assert rival.unmatched([box], [other], score_tolerance=0.01) == 1
    assert rival.unmatched([torch.cat((box, moved))], [box], score_tolerance=0.01) == pytest.approx(1 / 3)


def test_the_command_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, report: Report) -> None:
    asked: list[Settings] = []

    def measure(settings: Settings, *_: object) -> Report:
        asked.append(settings)
        return report

    monkeypatch.setattr(race, "measure", measure)
    assert cli.main(["benchmark", "train", "--rounds", "3", "--json"]) == 0
    assert cli.main(["benchmark", "infer", "--image-size", "320"]) == 0
    assert asked == [
        Settings(task="train", batch_size=4, image_size=640, rounds=3),
        Settings(task="infer", batch_size=1, image_size=320, rounds=5),
    ]
    json.JSONDecoder().raw_decode(capsys.readouterr().out)
    assert cli.main(["benchmark", "train", "--recipe", "standard"]) == 2
