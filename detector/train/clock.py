"""Time of a run."""

import time


class Clock:
    """Seconds that were spent on training, those before an interruption included."""

    def __init__(self, spent: float = 0.0) -> None:
        self._start = time.monotonic() - spent

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start
