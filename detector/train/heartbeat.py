"""Whether all processes of a training live.

A collective operation waits for a process that is gone, on a GPU beyond the reach of a signal. So each process says
every few seconds, from a thread, that it lives; the first one listens, and where one falls silent all end at once. The
state is safe: a checkpoint is whole or not there.
"""

import os
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import timedelta

from torch.distributed import PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]

INTERVAL = 3.0  # seconds
SILENCE = 40.0  # seconds; the interpreter may be held that long by nothing that we call
EXIT_CODE = 1
_LOST = "lost"


@contextmanager
def kept(rank: int, size: int, start: str) -> Generator[None]:
    """Beat until the end of the block, and end this process if another one dies.

    `start` names the start of the processes, see `meeting`.
    """
    # A connection of its own: the other one may be waiting for an answer.
    patience = timedelta(seconds=SILENCE)
    master = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = PrefixStore(start, TCPStore(*master, is_master=False, timeout=patience))
    beats = [f"alive/{number}" for number in range(size)]
    store.set(beats[rank], "0")
    over = threading.Event()
    listened = beats if rank == 0 else beats[:1]
    thread = threading.Thread(target=_beat, args=(store, beats[rank], listened, over), name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(INTERVAL)


def _beat(store: Store, own: str, listened: list[str], over: threading.Event) -> None:
    last: list[bytes] = []
    heard = [time.monotonic()] * len(listened)
    count = 0
    while not over.wait(INTERVAL):
        count += 1
        try:
            store.set(own, str(count))
            found = store.multi_get(listened)
            is_lost = store.check([_LOST])
        except RuntimeError:  # whoever holds the store is gone
            found, is_lost = last, True
        now = time.monotonic()
        is_new = [one not in last[place : place + 1] for place, one in enumerate(found)]
        heard = [now if new else then for new, then in zip(is_new, heard, strict=True)]
        last = found
        silent = [name.rpartition("/")[2] for name, then in zip(listened, heard, strict=True) if now - then > SILENCE]
        if silent or is_lost:
            if over.wait(INTERVAL):
                return  # the others were only faster to end
            _end(store, silent)


def _end(store: Store, silent: list[str]) -> None:
    who = f"process {', '.join(silent)} has not been heard of for {SILENCE:g} seconds" if silent else "one is gone"
    sys.stderr.write(f"error: not all processes of this training live: {who}; the same command goes on\n")
    sys.stderr.flush()
    with suppress(RuntimeError):  # the store may have gone with the process
        store.set(_LOST, "1")
    os._exit(EXIT_CODE)  # the main thread may never come back from where it waits
