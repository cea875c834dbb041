"""Saving beside training: the state is copied, training goes on, a thread writes the copy."""

import threading
import time
from collections.abc import Callable

from detector.errors import DetectorError
from detector.train.checkpoint import Identity, NotWrittenError, Store
from detector.train.journal import Journal
from detector.train.state import TrainingState

LARGEST_STALL = 0.02  # of the time between two checkpoints


class Saver:
    """Decides when a checkpoint is due, and writes it."""

    def __init__(self, store: Store, identity: Identity, journal: Journal, *, seconds: float) -> None:
        self._store = store
        self._identity = identity
        self._journal = journal
        self._seconds = seconds
        self._last = time.monotonic()
        self._longest_stall = 0.0
        self._thread: threading.Thread | None = None
        self._failure: NotWrittenError | None = None
        self._step: int | None = None
        """Of the checkpoint that is being written."""

    @property
    def is_due(self) -> bool:
        """Time for another one: not while one is being written, and rarely enough for the stall to be small."""
        interval = max(self._seconds, self._longest_stall / LARGEST_STALL)
        return time.monotonic() - self._last >= interval and not (self._thread and self._thread.is_alive())

    def save(self, capture: Callable[[], TrainingState], *, wait: bool = False) -> None:
        """Copy the state and begin to write it.

        Raises:
            DetectorError: an earlier one could not be written because the run's folder is gone.
        """
        state = self._copy(capture)
        # No daemon: an interpreter that ends waits for a write that has begun.
        self._thread = threading.Thread(target=self._write, args=(state,), name="checkpoint")
        self._thread.start()
        if wait:
            self.wait()

    def save_surely(self, capture: Callable[[], TrainingState]) -> None:
        """Write the state before anything else happens: the first, or the last, of this process.

        Raises:
            DetectorError: it could not be written; what stands is named.
        """
        state = self._copy(capture)
        try:
            self._store.write(state, self._identity)
        except NotWrittenError as error:
            raise DetectorError(self._what_is_lost(error)) from error
        self._journal.saved(state.learner.steps)

    def _copy(self, capture: Callable[[], TrainingState]) -> TrainingState:
        self.wait()
        begun = time.monotonic()
        state = capture().snapshot()
        self._longest_stall = max(self._longest_stall, time.monotonic() - begun)
        self._last, self._step = time.monotonic(), state.learner.steps
        return state

    def _what_is_lost(self, error: NotWrittenError) -> str:
        what = f"no checkpoint of step {self._step}: {error}"
        stands = self._store.newest_step()
        if stands is None and self._step == 0:
            return f"{what}; nothing was trained yet; {error.cure} and run the same command again"
        if stands is None:
            return f"{what}; there is none before it, so this run cannot be gone on with; {error.cure}"
        return f"{what}; {error.cure} and run the same command again, which goes on from step {stands}"

    def wait(self) -> None:
        """Until nothing is being written any more; also before a process forks."""
        if self._thread is not None:
            self._thread.join()
        self.poll()

    def poll(self) -> None:
        """Say how the last write went, once it has ended."""
        if self._thread is None or self._thread.is_alive():
            return
        self._thread = None
        failure, self._failure = self._failure, None
        assert self._step is not None
        if failure is None:
            self._journal.saved(self._step)
            return
        run = self._store.folder.parent
        if not run.is_dir():
            raise DetectorError(
                f"{run}: the run folder is gone; training stopped at step {self._step}, and nothing could be kept"
            ) from failure
        good = self._store.newest_step()
        stands = "there is none yet" if good is None else f"that of step {good} stands"
        self._journal.say(
            f"warning: no checkpoint of step {self._step}: {failure}; {stands}; training goes on; {failure.cure}"
        )

    def _write(self, state: TrainingState) -> None:
        try:
            self._store.write(state, self._identity)
        except NotWrittenError as error:
            self._failure = error
