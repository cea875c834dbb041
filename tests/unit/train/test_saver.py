"""When a checkpoint is due, and how long training stands still for it."""

import threading
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.train import saver
from detector.train.saver import Saver

SECONDS = st.floats(0.0, 20.0)


@dataclass
class Machine:
    """A clock, on which only steps and copies take time, and a disk."""

    now: float = 0.0
    copy_seconds: float = 0.0
    stalls: list[tuple[float, float]] = field(default_factory=list)
    """When each copy began, and how long it took."""
    may_write: threading.Event = field(default_factory=threading.Event)

    def monotonic(self) -> float:
        return self.now

    def capture(self) -> Any:
        return SimpleNamespace(snapshot=self._copied)

    def _copied(self) -> Any:
        self.stalls.append((self.now, self.copy_seconds))
        self.now += self.copy_seconds
        return SimpleNamespace(learner=SimpleNamespace(steps=len(self.stalls)))

    def write(self, state: Any, identity: Any) -> None:
        del state, identity
        assert self.may_write.wait(30)


def saver_of(machine: Machine, seconds: float) -> Saver:
    journal = SimpleNamespace(say=lambda _: None, saved=lambda _: None)
    return Saver(machine, None, journal, seconds=seconds)  # type: ignore[arg-type]


@given(copies=st.lists(SECONDS, min_size=1, max_size=8), asked=SECONDS, step=st.floats(0.01, 5.0))
def test_training_stands_still_for_a_fiftieth_of_the_time_between_two_saves(
    copies: list[float], asked: float, step: float
) -> None:
    machine = Machine()
    machine.may_write.set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saver, "time", machine)
        saving = saver_of(machine, asked)
        for copy in copies:
            machine.copy_seconds = copy
            saving.wait()
            # Steps, without the many that nothing happens in.
            while not saving.is_due:
                wanted = max(asked, 50 * max((took for _, took in machine.stalls), default=0.0))
                machine.now += max(step, wanted / 10)
            saving.save(machine.capture)
        saving.wait()
    for k, (begun, took) in enumerate(machine.stalls[1:], start=1):
        ended = sum(machine.stalls[k - 1])
        assert begun - ended >= asked - 1e-9
        # The first that takes so long is not known before.
        if took <= max(before for _, before in machine.stalls[:k]):
            assert took <= 0.02 * (begun - ended) + 1e-9


def test_a_copy_that_is_quick_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(copy_seconds=1.0)
    machine.may_write.set()
    monkeypatch.setattr(saver, "time", machine)
    saving = saver_of(machine, 60.0)
    saving.save(machine.capture, wait=True)
    machine.now += 59.9
    assert not saving.is_due
    machine.now += 0.2
    assert saving.is_due


def test_a_slow_disk_holds_nothing_up_and_no_second_write_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    monkeypatch.setattr(saver, "time", machine)
    saving = saver_of(machine, 0.0)
    saving.save(machine.capture)  # comes back although nothing is written
    machine.now += 1000.0
    assert not saving.is_due
    machine.may_write.set()
    saving.wait()
    assert saving.is_due
