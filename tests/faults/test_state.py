"""Each item of the state is needed: left out of the checkpoint, it makes a run end elsewhere."""

import dataclasses
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from detector.config import RunConfig
from detector.errors import CheckpointError
from detector.model.detector import DetectionModel
from detector.train import engine, state
from detector.train.checkpoint import Identity, Store
from detector.train.engine import Task
from detector.train.keeper import Hooks
from detector.train.learner import Learner
from detector.train.record import Record
from detector.train.saver import Saver
from detector.train.state import LearnerState, LoopState, Quality, RandomStreams, TrainingState
from detector.types import Batch, BatchShape
from tests.unit.train import make

IDENTITY = Identity(
    config="", classes=(), splits={}, teacher=None, device="cpu", precision="float32", environment={}
)
STEPS, SAVED = 6, 3
CONFIG = make.config(
    {
        "length.minutes": None,
        "length.steps": STEPS,
        "length.evaluations": 6,
        "length.patience": 3,
        "data.crops.share": 0,
        "data.batch_size": 3,
        "optim.warmup_steps": 2,
        "optim.lr": 1e-3,
        "balance.kind": "uncertainty",
        "model.heads.box.tower.depth": 1,
        "model.heads.classification.tower.depth": 1,
        "stages": [{"name": "a", "share": 0.3}, {"name": "b", "share": 0.7, "reset": ["box"]}],
    }
)


class Run:
    """A run of the loop on made batches, whose images depend on the sampler's position and on every random stream."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.said: list[Any] = []
        self.store = Store(folder / "checkpoints")

    def batches(self, shapes: Iterator[BatchShape], first: int) -> Iterator[Batch]:
        for _ in shapes:
            noise = int(100 * (random.random() + np.random.rand() + float(torch.rand(()))))  # noqa: NPY002
            batch = make.batch(seed=1000 * first + noise)
            first += len(batch.images)
            self.said.append(("batch", first))
            yield dataclasses.replace(batch, unreadable=("a.jpg: gone",))

    def evaluate(self, model: DetectionModel, should_stop: Callable[[], bool]) -> Quality:
        weight = float(next(model.parameters()).double().sum())
        # The best comes before the checkpoint.
        quality = 0.5 if self.said.count("scored") == 0 else 0.1
        self.said += ["scored", weight]
        return Quality(ap=quality, ap50=0.0)

    def go(self, start: TrainingState | None = None, config: RunConfig = CONFIG) -> dict[str, Any]:
        """All that can be seen from outside at the end, and since the checkpoint."""
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        model = make.model(config)
        learner = Learner(model, config, dtype=torch.float32)
        if start is not None:
            learner.restore(start.learner)
        hooks = Hooks(
            evaluate=self.evaluate if start is None else self._later,
            keep_best=lambda model: self.said.append("best"),
            keep_last=lambda model: self.said.append("last"),
        )
        with Record(self.folder) as record:
            saver = _EveryStep(self.store, IDENTITY, record, seconds=0)
            task = Task(config=config, canvas_hw=make.HW, num_images=4, open_batches=self.batches)
            outcome = engine.fit(learner, task, hooks=hooks, record=record, saver=saver, start=start)
            final = saver.states[-1]
        return {
            "learner": final.learner,
            "loop": dataclasses.replace(final.loop, seconds=0.0, metrics_bytes=0),
            "seconds": final.loop.seconds,
            "states": saver.states,
            "unreadable": outcome.unreadable,
            "random": final.random,
        }

    def _later(self, model: DetectionModel, should_stop: Callable[[], bool]) -> Quality:
        self.said += ["scored", float(next(model.parameters()).double().sum())]
        return Quality(ap=0.1, ap50=0.0)


class _EveryStep(Saver):
    """Keeps the state after each step."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.states: list[TrainingState] = []

    @property
    def is_due(self) -> bool:
        return True

    def save(self, capture: Callable[[], TrainingState], *, wait: bool = False) -> None:
        self.states.append(capture().snapshot())


def test_nothing_yet() -> None:
    assert state
    assert (LearnerState, LoopState, RandomStreams, Tensor, CheckpointError, pytest)
    assert SAVED
