"""What all processes of a training must decide alike: each has a clock, signals and a loader of its own."""

import threading
from collections.abc import Callable, Sequence

from detector.train.clock import Clock
from detector.train.distributed import World
from detector.train.signals import Requests


class Agreement:
    """Time, requests and news that hold for all; among several processes, as of the last `reach`."""

    def __init__(self, world: World, clock: Clock, requests: Requests) -> None:
        self._world = world
        self._clock = clock
        self._requests = requests
        self._is_alone = world.size == 1
        self.stop = requests.stop if self._is_alone else threading.Event()
        """Set where one of them was asked to stop."""
        self.save = False
        """Whether one of them was asked to save."""
        self.is_save_due = False
        self.asked = 0
        """The most batches that a loader was asked for."""

    def reach(self, is_save_due: Callable[[], bool], news: Sequence[str], asked: int) -> list[str]:
        """Agree, once a step, and return the news of all.

        Args:
            is_save_due: Asked of the first process alone.
            news: Of this process.
            asked: Batches that its loader was asked for.
        """
        requests = self._requests
        first = self._world.is_first
        is_due = first and is_save_due()
        if self._is_alone:
            self.save, self.is_save_due, self.asked = requests.save.is_set(), is_due, asked
            requests.save.clear()
            return [*news]
        mine = [
            self._clock.running if first else 0.0,
            float(requests.stop.is_set()),
            float(requests.stopped_by or 0),
            float(requests.save.is_set()),
            float(is_due),
            float(bool(news)),
            float(asked),
        ]
        requests.save.clear()
        seconds, stop, stopped_by, save, due, has_news, most = self._world.highest(mine)
        self._clock.hold(seconds)
        self.save, self.is_save_due, self.asked = bool(save), bool(due), int(most)
        if stop:
            requests.stopped_by = int(stopped_by) or None
            self.stop.set()
        return [one for of_one in self._world.gather([*news]) for one in of_one] if has_news else []
