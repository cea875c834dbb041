"""What can be typed after `detector benchmark`."""

import json

import pytest

from detector import cli
from detector.benchmark import networks
from detector.cli import benchmarking
from detector.cli.benchmarking import Evaluate, Heads, Infer, Train


def test_the_examples_parse() -> None:
    lines = [line.split() for line in benchmarking.EXAMPLES.splitlines() if line.startswith("  detector ")]
    forms = [type(benchmarking.parse(argv)) for _, _, *argv in lines]
    assert len(forms) >= 5
    assert forms[:4] == [Train, Infer, Heads, Evaluate]


@pytest.mark.parametrize(
    "argv",
    [["heads", "--num-images", "5"], ["read", "--num-detections", "5"], ["eval", "--recipe", "small"], ["x"], []],
)
def test_an_option_of_another_benchmark_is_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.benchmark(argv)
    assert stop.value.code == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize("option", ["--rounds", "--batch-size", "--image-size"])
def test_a_number_below_one_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["benchmark", "train", option, "0"]) == 2
    assert f"{option} must be at least 1, got 0" in capsys.readouterr().err


def test_options_reach_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[networks.Settings] = []

    class StoppedError(Exception):
        pass

    def measure(settings: networks.Settings, *_: object) -> None:
        asked.append(settings)
        raise StoppedError

    monkeypatch.setattr(networks, "measure", measure)
    for argv in (["train", "--rounds", "3"], ["infer", "--image-size", "320", "--compile"]):
        with pytest.raises(StoppedError):
            benchmarking.run(benchmarking.parse(argv), lambda _: None)
    assert asked == [
        networks.Settings(task="train", batch_size=4, image_size=640, rounds=3),
        networks.Settings(task="infer", batch_size=1, image_size=320, compile=True),
    ]


def test_the_answer_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["eval", "--num-images", "5", "--num-objects", "9", "--num-detections", "30", "--rounds", "1", "--json"]
    assert cli.benchmark(argv) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["settings"]["num_detections"] == 30
    assert answer["ways"]["detector"]["is_equal"] is True
