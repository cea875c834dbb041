"""What the outside asks of a running training: stop, or save."""

import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType


class Requests:
    """Set by signals, read between steps."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.save = threading.Event()
        self.stopped_by: int | None = None
        """Number of the signal."""

    @property
    def reason(self) -> str:
        return signal.Signals(self.stopped_by).name if self.stopped_by is not None else "a request"


@contextmanager
def heard(say: Callable[[str], None]) -> Generator[Requests]:
    """Turn Ctrl-C (SIGINT), SIGTERM and SIGHUP into a request to stop after the current step, SIGUSR1 into one to save.

    A second Ctrl-C ends at once. A second SIGTERM does not: schedulers repeat it while the checkpoint is written.
    """
    requests = Requests()
    if threading.current_thread() is not threading.main_thread():
        yield requests  # only the main thread may handle signals
        return

    def stop(signum: int, frame: FrameType | None) -> None:
        if requests.stop.is_set():
            if signum == signal.SIGINT:
                raise KeyboardInterrupt
            return
        requests.stopped_by = signum
        requests.stop.set()
        name = signal.Signals(signum).name
        say(f"{name}: stopping after this step; Ctrl-C {'once more ' if signum == signal.SIGINT else ''}ends at once")

    def save(signum: int, frame: FrameType | None) -> None:
        requests.save.set()

    handlers = {signal.SIGINT: stop, signal.SIGTERM: stop}
    if sys.platform != "win32":
        handlers |= {signal.SIGHUP: stop, signal.SIGUSR1: save}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
