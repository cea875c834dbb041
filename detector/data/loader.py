"""Batches for training and for scoring, the same for any number of loader processes."""

import logging
import os
import shutil
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from detector.config import DataConfig, RunConfig
from detector.data.batch import Item, collate
from detector.data.cache import ImageCache
from detector.data.columns import Columns
from detector.data.dataset import EvaluationSet, Key, Outcome, TrainingSet
from detector.errors import DataError
from detector.geometry import letterbox
from detector.printable import visible
from detector.types import Batch, BatchShape, Preprocess

T = TypeVar("T")

_log = logging.getLogger(__name__)
_SHARED_MEMORY = Path("/dev/shm")
WORKER_TIMEOUT = 120.0  # seconds without a batch; then the process that should have made it is given up
_LOOK_EVERY = 5.0  # seconds: whether they live
_MOST_FAILURES = 3
_SHOWN = 4
_BATCHES_IN_FLIGHT = 3  # of one process: two prefetched, one in the hands of the trainer


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Which images are those of one process, where several train together."""

    index: int = 0
    count: int = 1
    neighbours: int = 1
    """Processes on this machine, this one included."""

    def of(self, keys: list[T]) -> list[T]:
        """A run of a batch; together they are the batch that one process would have."""
        return keys[self.index * len(keys) // self.count : (self.index + 1) * len(keys) // self.count]


WHOLE = Part()


def training_loader(
    columns: Columns,
    preprocess: Preprocess,
    config: RunConfig,
    shapes: Iterable[BatchShape],
    *,
    first: int = 0,
    pin: bool = False,
    part: Part = WHOLE,
) -> Iterator[Batch]:
    """Augmented batches of the given shapes, as many as there are shapes.

    Args:
        columns: The training split.
        preprocess: The whole canvas.
        config: Augmentation, seed, loader processes.
        shapes: Asked for the next one as a batch is begun, some batches ahead of what is returned.
        first: Images that earlier batches held, where a run goes on.
        pin: Copy to page-locked memory.
        part: Of every batch that this process takes.

    Raises:
        DataError: no image of the data set can be read.
        ConfigError: the image cache would lie among the images.
    """
    cache = ImageCache.open(columns, config, preprocess.canvas_hw)
    dataset = TrainingSet(columns, preprocess, config.augment, config.seed, cache)
    keys = (part.of(batch) for batch in stream(config.seed, len(columns), shapes, first))
    wanted = num_workers(config.data, part.neighbours)
    workers = affordable_workers(wanted, _largest_batch(config.data, preprocess.canvas_hw))
    return _batches(dataset, keys, workers=workers, pin=pin)


def evaluation_loader(
    columns: Columns,
    preprocess: Preprocess,
    *,
    batch_size: int,
    workers: int,
    pin: bool = False,
    rows: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """Every readable image once, in order. No batch is empty; the batch near an unreadable image says why.

    Args:
        columns: The split.
        preprocess: The canvas.
        batch_size: Of all batches but the last.
        workers: Loader processes.
        pin: Copy to page-locked memory.
        rows: The images to read; None for all.

    Raises:
        DataError: no image of the data set can be read.
    """
    rows = range(len(columns)) if rows is None else rows
    keys = (list(rows[start : start + batch_size]) for start in range(0, len(rows), batch_size))
    workers = affordable_workers(workers, _num_bytes(batch_size, preprocess.canvas_hw))
    held: Batch | None = None
    reasons: tuple[str, ...] = ()
    for batch in _batches(EvaluationSet(columns, preprocess), keys, workers=workers, pin=pin):
        reasons += batch.unreadable
        if len(batch.images) == 0:
            continue
        if held is not None:
            yield held
        held = replace(batch, unreadable=reasons)
        reasons = ()
    if held is None:
        raise DataError(f"{columns.annotations}: none of its {len(rows)} images in {columns.images} can be read")
    yield replace(held, unreadable=held.unreadable + reasons)


def stream(seed: int, num_images: int, shapes: Iterable[BatchShape], first: int) -> Iterator[list[Key]]:
    """The keys of each batch: seeded permutations one after another without a gap, cut into batches.

    A batch may straddle two epochs, and to resume needs only how many images were taken before.
    """
    epoch, offset = divmod(first, num_images)
    order = _permutation(seed, epoch, num_images)
    for shape in shapes:
        keys: list[Key] = []
        while len(keys) < shape.size:
            if offset == num_images:
                epoch, offset = epoch + 1, 0
                order = _permutation(seed, epoch, num_images)
            taken = order[offset : offset + shape.size - len(keys)]
            keys += [Key(epoch, index, shape.window_hw, shape.is_clean) for index in taken.tolist()]
            offset += len(taken)
        yield keys


def _permutation(seed: int, epoch: int, num_images: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The order of one epoch."""
    # The leading 0 keeps these numbers apart from those of augmentation, which begin with 1.
    sequence = np.random.SeedSequence(seed, spawn_key=(0, epoch))
    return np.random.Generator(np.random.Philox(sequence)).permutation(num_images)


def num_workers(config: DataConfig, trainers: int = 1) -> int:
    """Loader processes as set, or for this machine: none where they would take the trainer's only cores.

    Of one trainer, where several share the machine.
    """
    if config.workers is not None:
        return config.workers
    cores = num_cores() // trainers
    return 0 if cores <= 2 else min(8, cores - 1)


def num_cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def affordable_workers(workers: int, batch_bytes: int) -> int:
    """As many of the processes as shared memory has room for: a container often has 64 MB, and overflow kills them."""
    if workers == 0 or not _SHARED_MEMORY.is_dir():
        return workers
    free = shutil.disk_usage(_SHARED_MEMORY).free
    room = free // (_BATCHES_IN_FLIGHT * batch_bytes)
    if room < workers:
        what = f"{room} loader processes instead of {workers}: {_SHARED_MEMORY} has only {free >> 20} MB free"
        _log.warning("%s; in a container, raise --shm-size", what)
    return min(room, workers)


def _largest_batch(config: DataConfig, canvas_hw: tuple[int, int]) -> int:
    """Bytes of the images of a batch, in the phase of training where they are most."""
    whole = _num_bytes(config.batch_size, canvas_hw)
    crops = config.crops
    if crops.share == 0:
        return whole
    return max(whole, _num_bytes(config.batch_size * crops.batch_factor, letterbox.shrink(canvas_hw, crops.size)))


def _num_bytes(num_images: int, size_hw: tuple[int, int]) -> int:
    return num_images * 3 * size_hw[0] * size_hw[1]


@dataclass(frozen=True, slots=True)
class _Parcel:
    """What a loader process sends: a batch, or the error that ends the run."""

    content: Batch | DataError

    def pin_memory(self) -> "_Parcel":
        """The loader's pinning thread looks for this name."""
        return _Parcel(self.content if isinstance(self.content, DataError) else self.content.pin())


def _collate(outcomes: Sequence[Outcome]) -> _Parcel:
    for outcome in outcomes:
        if isinstance(outcome, DataError):
            return _Parcel(outcome)
    return _Parcel(collate([item for item in outcomes if isinstance(item, Item)]))


@dataclass(frozen=True, slots=True)
class _WorkersLostError(Exception):
    """A loader process was killed, or does not answer."""

    reason: str


def _batches(
    dataset: Dataset[Outcome],
    keys: Iterable[list[Key]] | Iterable[list[int]],
    *,
    workers: int,
    pin: bool,
) -> Iterator[Batch]:
    """The batches of the keys, in their order.

    Where a loader process is lost, new ones make the batches that were not delivered yet: none is lost, none comes
    twice, since a batch is a pure function of its keys.

    Raises:
        DataError: no image can be read, or the processes are lost again and again over the same batch.
    """
    remaining = iter(keys)
    asked: deque[list[Any]] = deque()
    failures = 0
    while True:
        again = list(asked)
        asked.clear()
        noted = _noted(chain(again, remaining), asked)
        try:
            for parcel in _parcels(dataset, noted, workers=workers, pin=pin):
                if isinstance(parcel.content, DataError):
                    raise parcel.content
                failures = 0
                asked.popleft()
                yield parcel.content
        except _WorkersLostError as error:
            failures += 1
            what = f"{error.reason}, while it made the batch of {_names(dataset, asked[0] if asked else [])}"
            if failures >= _MOST_FAILURES:
                raise DataError(
                    f"{what}, {failures} times in a row; look at these images, free memory, or set --workers 0"
                ) from error
            _log.warning("%s; new processes make it again", visible(what))
        else:
            return


def _noted(keys: Iterable[list[Any]], asked: deque[list[Any]]) -> Iterator[list[Any]]:
    for batch in keys:
        asked.append(batch)
        yield batch


def _names(dataset: Dataset[Outcome], batch: Sequence[Key] | Sequence[int]) -> str:
    assert isinstance(dataset, TrainingSet | EvaluationSet)
    rows = [key if isinstance(key, int) else key.row for key in batch]
    names = [str(dataset.columns.path(row)) for row in rows[:_SHOWN]]
    return ", ".join(names) + (f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else "")


def _parcels(dataset: Dataset[Outcome], keys: Iterable[list[Any]], *, workers: int, pin: bool) -> Iterator[_Parcel]:
    with warnings.catch_warnings():
        # Whoever sets more processes than cores was told so by the documentation of the setting.
        warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
        # Python 3.12 warns of any fork beside threads; these processes touch neither CUDA nor a lock of the parent.
        warnings.filterwarnings("ignore", message=".*use of fork", category=DeprecationWarning)
        parcels: Iterator[_Parcel] = iter(
            DataLoader(
                dataset,
                batch_sampler=keys,
                collate_fn=_collate,
                num_workers=workers,
                pin_memory=pin,
                timeout=_LOOK_EVERY if workers else 0,
                worker_init_fn=_start_worker if workers else None,
                # A forked process starts at once, shares the columns, and asks no `__main__` guard of the user.
                multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
                generator=torch.Generator(),  # else the loader would draw from, and so move, the global one
            )
        )
    if workers and threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD"):
        # torch's handler raises in the middle of whatever the trainer is doing; the look below is enough.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    waited = 0.0
    while True:
        try:
            parcel = next(parcels)
        except StopIteration:
            return
        except RuntimeError as error:
            reason = str(error).split("\n", 1)[0].rstrip(". ")
            waited += _LOOK_EVERY
            # torch has no class for either.
            is_late = workers and reason.startswith("DataLoader timed out")
            if is_late and waited < WORKER_TIMEOUT:
                continue
            if is_late or (workers and reason.startswith("DataLoader worker")):
                parcels._shutdown_workers()  # pyright: ignore
                late = f"no loader process has answered for {WORKER_TIMEOUT:g} seconds"
                raise _WorkersLostError(late if is_late else reason) from error
            raise
        waited = 0.0
        yield parcel


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer; it then ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # with which the parent ends one that hangs
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
