"""Time of a run."""

import time


class Clock:
    """Seconds that were spent on training, those before an interruption included."""

    def __init__(self, spent: float = 0.0) -> None:
        self._start = time.monotonic() - spent
        self._held: float | None = None

    def hold(self, seconds: float) -> None:
        """Say so from now on: between two agreements all processes read the same."""
        self._held = seconds

    @property
    def running(self) -> float:
        """What it would say without being held."""
        return time.monotonic() - self._start

    @property
    def seconds(self) -> float:
        return self.running if self._held is None else self._held
