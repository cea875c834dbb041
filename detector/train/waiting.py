"""How long the loop waits for its images, told where that is what limits it."""

import time
from collections.abc import Iterator

from detector.config import DataConfig
from detector.data import loader
from detector.train.journal import Journal
from detector.types import Batch

LARGEST_SHARE = 0.1  # of the time, beyond which the reader of images is worth a change
SECONDS_TO_JUDGE = 20.0  # a slow file or two are no reason for advice


class Waiting:
    """Seconds between asking for a batch and having it, on the clock of the host: nothing waits for a device."""

    def __init__(self, record: Journal, config: DataConfig, trainers: int = 1) -> None:
        self._record = record
        self._config = config
        self._trainers = trainers
        self._has_started = False
        self._waited = 0.0  # in the window that is open
        self._judged_waited = self._judged_seconds = 0.0
        self._all_waited = self._all_seconds = 0.0
        self._has_warned = False

    def next(self, batches: Iterator[Batch]) -> Batch:
        start = time.monotonic()
        batch = next(batches)
        if self._has_started:  # the first one takes the start of the loader's processes
            self._waited += time.monotonic() - start
        self._has_started = True
        return batch

    def close_window(self, seconds: float) -> float:
        """The share of these last seconds that went by in waiting; warns once where a longer time was spent so."""
        waited, self._waited = self._waited, 0.0
        self._all_waited += waited
        self._all_seconds += seconds
        self._judged_waited += waited
        self._judged_seconds += seconds
        if self._judged_seconds >= SECONDS_TO_JUDGE:
            share = self._judged_waited / self._judged_seconds
            if share > LARGEST_SHARE and not self._has_warned:
                self._has_warned = True
                advice = _advice(self._config, self._trainers)
                self._record.say(f"warning: training waits {share:.0%} of its time for images: {advice}")
            self._judged_waited = self._judged_seconds = 0.0
        return min(waited / max(seconds, 1e-9), 1.0)

    def finish(self) -> None:
        """Say it of the whole training."""
        if self._all_seconds:
            self._record.say(f"waited for images: {self._all_waited / self._all_seconds:.0%} of the training time")


def _advice(config: DataConfig, trainers: int) -> str:
    workers, cores = loader.num_workers(config, trainers), loader.num_cores() // trainers
    cures = [f"raise --workers (now {workers}, of {cores} cores)"] if workers < cores else []
    if config.cache == "none":
        cures.append("keep decoded images with --cache disk")
    return ", ".join([*cures, f"{'or ' if cures else ''}make the image files smaller"])
