"""A name for one start of the processes, under which they keep what they say to one another.

torchrun may keep its store when it starts the processes again, with the addresses of those that are gone in it. Its
count of restarts is no help: it is each machine's own, and only the machine whose process died counts.
"""

import time
import uuid
from datetime import timedelta

from torch.distributed import PrefixStore, Store  # pyright: ignore[reportPrivateImportUsage]

from detector.errors import DetectorError

_PAUSE = 0.02  # seconds


def agree(store: Store, rank: int, size: int, patience: timedelta) -> str:
    """A word that all processes of this start have, and none of an earlier one.

    The first makes it up and tells everyone who asks, until all have it. Each asks under a word of its own, so it
    never takes an answer to another for its own.

    Raises:
        DetectorError: after `patience` not all have come.
    """
    if rank > 0:
        own = uuid.uuid4().hex
        store.set(_question(rank), own)
        store.wait([_answer(own)], patience)
        name = store.get(_answer(own)).decode()
        PrefixStore(name, store).set(_here(rank), "")
        return name
    name = uuid.uuid4().hex
    met = PrefixStore(name, store)
    end = time.monotonic() + patience.total_seconds()
    missing = set(range(1, size))
    while missing:
        for other in [one for one in missing if met.check([_here(one)])]:
            missing.remove(other)
        for other in missing:
            if store.check([_question(other)]):
                store.set(_answer(store.get(_question(other)).decode()), name)
        if missing and time.monotonic() > end:
            raise DetectorError(
                f"processes {sorted(missing)} of {size} have not come within {patience}; see what they said"
            )
        time.sleep(_PAUSE)
    return name


def _question(rank: int) -> str:
    return f"detector/question/{rank}"


def _answer(word: str) -> str:
    return f"detector/answer/{word}"


def _here(rank: int) -> str:
    return f"here/{rank}"
