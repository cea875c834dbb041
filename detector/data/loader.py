"""Batches for training and for scoring, the same for any number of loader processes."""

import os
import signal
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from detector.config import DataConfig, RunConfig
from detector.data.batch import Item, collate
from detector.data.columns import Columns
from detector.data.dataset import EvaluationSet, Outcome, TrainingSet
from detector.errors import DataError
from detector.types import Batch, Preprocess

Key = tuple[int, int]
"""(epoch, index)"""


def training_loader(
    columns: Columns, preprocess: Preprocess, config: RunConfig, *, start_step: int = 0, pin: bool = False
) -> Iterator[Batch]:
    """Endless augmented batches; the first is the one of step `start_step`, whatever came before.

    Raises:
        DataError: no image of the data set can be read.
    """
    dataset = TrainingSet(columns, preprocess, config.augment, config.seed)
    keys = stream(config.seed, len(columns), config.data.batch_size, start_step)
    return _batches(dataset, keys, preprocess.canvas_hw, workers=num_workers(config.data), pin=pin)


def evaluation_loader(
    columns: Columns, preprocess: Preprocess, *, batch_size: int, workers: int, pin: bool = False
) -> Iterator[Batch]:
    """Every readable image once, in order. No batch is empty; unreadable images are named in the batch near them.

    Raises:
        DataError: no image of the data set can be read.
    """
    rows = list(range(len(columns)))
    keys = (rows[start : start + batch_size] for start in range(0, len(rows), batch_size))
    held: Batch | None = None
    names: tuple[str, ...] = ()
    for batch in _batches(EvaluationSet(columns, preprocess), keys, preprocess.canvas_hw, workers=workers, pin=pin):
        names += batch.unreadable
        if len(batch.images) == 0:
            continue
        if held is not None:
            yield held
        held = replace(batch, unreadable=names)
        names = ()
    if held is None:
        raise DataError(f"{columns.annotations}: none of its {len(columns)} images in {columns.images} can be read")
    yield replace(held, unreadable=held.unreadable + names)


def stream(seed: int, num_images: int, batch_size: int, start_step: int) -> Iterator[list[Key]]:
    """The batches of all epochs from a step on: seeded permutations one after another, without a gap.

    Batch s holds positions s * batch_size and following of that endless row, so a batch may straddle epochs, and to
    resume needs the step alone.
    """
    position = start_step * batch_size
    epoch, offset = divmod(position, num_images)
    order = _permutation(seed, epoch, num_images)
    while True:
        keys: list[Key] = []
        while len(keys) < batch_size:
            if offset == num_images:
                epoch, offset = epoch + 1, 0
                order = _permutation(seed, epoch, num_images)
            taken = order[offset : offset + batch_size - len(keys)]
            keys += [(epoch, index) for index in taken.tolist()]
            offset += len(taken)
        yield keys


def _permutation(seed: int, epoch: int, num_images: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The order of one epoch."""
    # The leading 0 keeps these numbers apart from those of augmentation, which begin with 1.
    sequence = np.random.SeedSequence(seed, spawn_key=(0, epoch))
    return np.random.Generator(np.random.Philox(sequence)).permutation(num_images)


def num_workers(config: DataConfig) -> int:
    """Loader processes that were asked for, or fit this machine: none where they would take the trainer's only cores."""
    if config.workers is not None:
        return config.workers
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if cpus <= 2 else min(8, cpus - 1)


@dataclass(frozen=True, slots=True)
class _Parcel:
    """What a loader process sends: a batch, or the error that ends the run."""

    content: Batch | DataError

    def pin_memory(self) -> "_Parcel":
        """The loader's pinning thread looks for this name."""
        return _Parcel(self.content if isinstance(self.content, DataError) else self.content.pin())


@dataclass(frozen=True, slots=True)
class _Collate:
    canvas_hw: tuple[int, int]

    def __call__(self, outcomes: Sequence[Outcome]) -> _Parcel:
        for outcome in outcomes:
            if isinstance(outcome, DataError):
                return _Parcel(outcome)
        return _Parcel(collate([item for item in outcomes if isinstance(item, Item)], self.canvas_hw))


def _batches(
    dataset: Dataset[Outcome],
    keys: Iterable[list[Key]] | Iterable[list[int]],
    canvas_hw: tuple[int, int],
    *,
    workers: int,
    pin: bool,
) -> Iterator[Batch]:
    with warnings.catch_warnings():
        # Whoever sets more processes than cores was told so by the documentation of the setting.
        warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
        # Python 3.12 warns of any fork beside threads; these processes touch neither CUDA nor a lock of the parent.
        warnings.filterwarnings("ignore", message=".*use of fork", category=DeprecationWarning)
        parcels: Iterator[_Parcel] = iter(
            DataLoader(
                dataset,
                batch_sampler=keys,
                collate_fn=_Collate(canvas_hw),
                num_workers=workers,
                pin_memory=pin,
                worker_init_fn=_start_worker if workers else None,
                # A forked process starts at once, shares the columns, and asks no `__main__` guard of the user.
                multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
                generator=torch.Generator(),  # else the loader would draw from, and so move, the global one
            )
        )
    for parcel in parcels:
        if isinstance(parcel.content, DataError):
            raise parcel.content
        yield parcel.content


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer; it then ends its workers
