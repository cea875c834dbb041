"""What the loop says of the time it waits for images."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from detector.config import DataConfig
from detector.data import loader
from detector.train.record import Record
from detector.train.waiting import SECONDS_TO_JUDGE, Waiting
from detector.types import Batch


class Clock:
    """Time that passes only while a batch is waited for or worked on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def batches(self, seconds: float, first: float = 100.0) -> Iterator[Batch]:
        self.now += first
        yield None  # type: ignore[misc]
        while True:
            self.now += seconds
            yield None  # type: ignore[misc]


def _train(folder: Path, clock: Clock, config: DataConfig, *, wait: float, work: float, steps: int = 400) -> list[str]:
    with Record(folder) as record:
        waiting = Waiting(record, config)
        batches = clock.batches(wait)
        shares: list[float] = []
        since = clock.now
        for step in range(steps):
            waiting.next(batches)
            clock.now += work
            if step == 0 or clock.now - since >= 2:
                shares.append(waiting.close_window(clock.now - since))
                since = clock.now
        waiting.finish()
    assert shares[0] == 0
    assert shares[1:] == pytest.approx([wait / (wait + work)] * (len(shares) - 1))
    return (folder / "train.log").read_text().splitlines()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(loader, "num_cores", lambda: 8)
    return Clock(monkeypatch)


def test_a_slow_loader_is_named_once_with_its_cures(tmp_path: Path, clock: Clock) -> None:
    first, *rest = _train(tmp_path, clock, DataConfig(workers=3), wait=0.25, work=0.25, steps=900)
    assert first == (
        "warning: training waits 50% of its time for images: raise --workers (now 3, of 8 cores), "
        "keep decoded images with --cache disk, or make the image files smaller"
    )
    assert len(rest) == 1
    assert rest[0].startswith("waited for images: 4")


def test_a_cure_that_is_in_use_is_not_named(tmp_path: Path, clock: Clock) -> None:
    warning, _ = _train(tmp_path, clock, DataConfig(workers=8, cache="disk"), wait=1.0, work=1.0)
    assert warning.endswith("of its time for images: make the image files smaller")


@pytest.mark.parametrize(("wait", "warns"), [(0.05, False), (0.09, False), (0.12, True)])
def test_a_tenth_is_the_limit(tmp_path: Path, clock: Clock, wait: float, warns: bool) -> None:
    log = _train(tmp_path, clock, DataConfig(), wait=wait, work=1 - wait)
    assert any("warning" in line for line in log) == warns
    assert log[-1].startswith("waited for images: ")


def test_the_start_of_the_loader_is_no_waiting(tmp_path: Path, clock: Clock) -> None:
    (line,) = _train(tmp_path, clock, DataConfig(), wait=0.0, work=1.0)
    assert line == "waited for images: 0% of the training time"


def test_a_short_run_gives_no_advice(tmp_path: Path, clock: Clock) -> None:
    with Record(tmp_path) as record:
        waiting = Waiting(record, DataConfig())
        batches = clock.batches(1.0, first=0.0)
        for _ in range(int(SECONDS_TO_JUDGE) - 2):
            waiting.next(batches)
            assert waiting.close_window(1.0) in (0.0, 1.0)
    assert (tmp_path / "train.log").read_text() == ""
