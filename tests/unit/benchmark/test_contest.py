"""The benchmarks against pycocotools, on files of a moment."""

import json
import subprocess
import sys

import pytest

from detector import cli
from detector.benchmark import contest, reading, scoring
from detector.benchmark.contest import Measured
from detector.errors import DetectorError

QUIET = [].append


def test_eval_finds_equal_numbers() -> None:
    said: list[str] = []
    settings = scoring.Settings(num_images=20, num_objects=60, num_detections=900, rounds=1)
    report = scoring.measure(settings, said.append)
    assert tuple(report.ways) == scoring.WAYS
    assert all(way.is_equal and way.largest_difference == 0 for way in report.ways.values())
    assert report.ways["pycocotools"].speed_up.median == 1
    assert "round 1 of 1: detector" in " ".join(said)
    assert contest.table(report).count("same (0.0e+00)") == 2


@pytest.mark.parametrize("polygons", [False, True])
def test_read_finds_equal_columns(polygons: bool) -> None:
    report = reading.measure(reading.Settings(num_images=30, num_objects=200, polygons=polygons, rounds=1), QUIET)
    assert report.ways["detector"].is_equal
    assert report.ways["detector"].seconds.median > 0


def test_the_command_writes_json(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["eval", "--num-images", "5", "--num-objects", "9", "--num-detections", "30", "--rounds", "1", "--json"]
    assert cli.benchmark(argv) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["settings"]["num_detections"] == 30
    assert answer["ways"]["detector"]["is_equal"] is True


def made_up(seconds: float, found: dict[str, object], peak: int | None = 100) -> Measured:
    return Measured(seconds=seconds, cpu_seconds=2 * seconds, peak_bytes=peak, found=found)


def test_rounds_take_turns_and_a_difference_is_told() -> None:
    order: list[str] = []

    def run(way: str) -> Measured:
        order.append(way)
        return made_up(
            {"a": 1.0, "b": 4.0}[way], {"numbers": [0.5, 0.25 if way == "a" else 0.5]}, 50 if way == "a" else 200
        )

    report = contest.compare("x", {}, run, ways=("a", "b"), reference="b", rounds=3, say=QUIET)
    assert order == ["a", "b", "b", "a", "a", "b"]
    a = report.ways["a"]
    assert (a.speed_up.median, a.cpu_speed_up.median) == (4, 4)
    assert (a.memory_share, a.is_equal, a.largest_difference) == (0.25, False, 0.25)
    assert "DIFFERS (2.5e-01)" in contest.table(report)


def test_memory_that_is_not_known_is_left_out() -> None:
    report = contest.compare("x", {}, lambda _: made_up(1, {}, None), ways=("a",), reference="a", rounds=1, say=QUIET)
    assert report.ways["a"].memory_share is None
    contest.table(report)


def test_growth_of_memory_is_seen() -> None:
    code = (
        "from detector.benchmark.contest import measured, print_measured\n"
        "print_measured(measured(lambda: bytearray(b'x') * 2**26, lambda made: {'length': len(made)}))"
    )
    # In a process of its own, as benchmarks do: this one may have memory to reuse.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    one = Measured(**json.loads(done.stdout))
    assert one.found == {"length": 2**26}
    assert one.seconds > 0
    assert one.peak_bytes is None or 0.9 * 2**26 <= one.peak_bytes < 2**27


def test_a_child_that_fails_is_named() -> None:
    with pytest.raises(DetectorError, match=r"scoring detector /no/file x: ended with code 1: .*no such file"):
        contest.run_child("detector.benchmark.scoring", ["detector", "/no/file", "x"])
