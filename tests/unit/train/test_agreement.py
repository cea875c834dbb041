"""What several processes decide alike."""

import dataclasses
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field

from detector.train.agreement import Agreement
from detector.train.clock import Clock
from detector.train.distributed import World
from detector.train.signals import Requests


@dataclass(frozen=True, kw_only=True)
class Two(World):
    """The other process says what it is told to say."""

    others: list[float] = field(default_factory=list)
    news: list[str] = field(default_factory=list)

    def highest(self, values: Sequence[float]) -> list[float]:
        return [max(pair) for pair in zip(values, self.others, strict=True)]

    def gather(self, value):
        return [value, self.news]


QUIET = [0.0] * 7


def agreement(world: World, clock: Clock | None = None) -> tuple[Agreement, Requests]:
    requests = Requests()
    return Agreement(world, clock or Clock(), requests), requests


def test_alone_requests_hold_at_once() -> None:
    agreed, requests = agreement(World())
    requests.save.set()
    assert agreed.reach(lambda: True, ["news"], 0) == ["news"]
    assert agreed.save
    assert agreed.is_save_due
    assert not requests.save.is_set()
    requests.stop.set()
    assert agreed.stop.is_set()
    agreed.reach(lambda: False, [], 0)
    assert not agreed.save
    assert not agreed.is_save_due


def test_a_signal_to_another_process_stops_this_one() -> None:
    agreed, requests = agreement(Two(size=2, others=[0, 1, signal.SIGTERM, 0, 0, 0, 0]))
    agreed.reach(lambda: False, [], 0)
    assert agreed.stop.is_set()
    assert requests.reason == "SIGTERM"


def test_one_signal_stops_nobody_before_all_have_agreed() -> None:
    world = Two(size=2, others=QUIET)
    agreed, requests = agreement(world)
    requests.stop.set()
    assert not agreed.stop.is_set()
    agreed.reach(lambda: False, [], 0)
    assert agreed.stop.is_set()


def test_the_clock_of_the_first_holds() -> None:
    clock = Clock(100.0)
    agreed, _ = agreement(Two(rank=1, size=2, others=[500.0, 0, 0, 0, 1, 0, 7]), clock)
    agreed.reach(lambda: (_ for _ in ()).throw(AssertionError("asked of the first alone")), [], 5)
    assert clock.seconds == 500.0
    assert agreed.is_save_due
    assert agreed.asked == 7  # batches, by the loader that is furthest ahead


def test_news_of_one_is_news_to_all() -> None:
    world = Two(size=2, others=[0, 0, 0, 0, 0, 1, 0], news=["b.jpg cannot be read"])
    agreed, _ = agreement(world)
    assert agreed.reach(lambda: False, [], 0) == ["b.jpg cannot be read"]
    agreed, _ = agreement(dataclasses.replace(world, others=QUIET))
    assert agreed.reach(lambda: False, [], 0) == []
