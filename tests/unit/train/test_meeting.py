"""Processes that start again in the store of those before them."""

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
from torch.distributed import HashStore, Store  # pyright: ignore[reportPrivateImportUsage]

from detector.errors import DetectorError
from detector.train import meeting

PATIENCE = timedelta(seconds=20)


def start(store: Store, size: int) -> list[str]:
    """The word of each process, here each a thread."""
    words = [""] * size

    def agreeing(rank: int) -> Callable[[], None]:
        def agree() -> None:
            words[rank] = meeting.agree(store, rank, size, PATIENCE)

        return agree

    threads = [threading.Thread(target=agreeing(rank)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return words


def test_each_start_has_a_word_of_its_own() -> None:
    store = HashStore()
    seen = [start(store, 3) for _ in range(4)]
    assert all(len(set(words)) == 1 and words[0] for words in seen)
    assert len({words[0] for words in seen}) == 4


def test_a_question_of_one_that_is_gone_leads_nobody_astray() -> None:
    store = HashStore()
    store.set("detector/question/1", "of one that was killed before it heard the answer")
    words = start(store, 2)
    assert words[0] == words[1]


def test_who_does_not_come_is_named() -> None:
    with pytest.raises(DetectorError, match=r"processes \[1, 2\] of 3 have not come"):
        meeting.agree(HashStore(), 0, 3, timedelta(seconds=0.1))
