"""Each item of the state is needed: left out of the checkpoint, it makes a run end elsewhere."""

import dataclasses
import hashlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from detector import config_file
from detector.config import RunConfig
from detector.data import coco, loader
from detector.errors import CheckpointError
from detector.model import detector as network
from detector.model.detector import DetectionModel
from detector.train import engine, state
from detector.train.checkpoint import Identity, Store
from detector.train.engine import Task
from detector.train.keeper import Hooks
from detector.train.learner import Learner
from detector.train.record import Record
from detector.train.saver import Saver
from detector.train.signals import Requests
from detector.train.state import LearnerState, LoopState, Quality, RandomStreams, TrainingState
from detector.types import Batch, BatchShape, Preprocess
from tests.faults.child import NarrowBackbone
from tests.unit.data import make as data
from tests.unit.train import make
from tests.unit.train.test_learner import assert_equal as assert_same

IDENTITY = Identity(config="", classes=(), splits={}, teacher=None, device="cpu", precision="float32", environment={})
STEPS, SAVED = 6, 3
BEST = Quality(ap=0.5, ap50=0.0, resampled=(0.5, 0.4))
CONFIG = make.config(
    {
        "length.minutes": None,
        "length.steps": STEPS,
        "length.evaluations": 3,
        "length.patience": 5,
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


def learner(config: RunConfig) -> Learner:
    return Learner(make.model(config), config, dtype=torch.float32)


class Run:
    """A run of the loop on made batches, which depend on the sampler's position and on every random stream."""

    config = CONFIG

    def __init__(self, folder: Path, *, scored: bool = False) -> None:
        """Args: `scored` says that an earlier process has found the best already."""
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.scored = scored
        self.calls: list[Any] = []

    def batches(self, shapes: Iterator[BatchShape], first: int) -> Iterator[Batch]:
        # Once and first of all: the type checks of the tests draw from this stream too.
        once = random.random() if first else 0.0
        self.calls.append(once)
        for _ in shapes:
            noise = int(100 * (np.random.rand() + float(torch.rand(()))))  # noqa: NPY002
            batch = make.batch(seed=1000 * first + noise)
            first += len(batch.images)
            yield dataclasses.replace(batch, unreadable=("a.jpg: gone",))

    def evaluate(self, model: DetectionModel, should_stop: Callable[[], bool]) -> Quality:
        quality = Quality(ap=0.1, ap50=0.0, resampled=(0.1, 0.2)) if self.scored else BEST
        self.scored = True
        self.calls.append(float(next(model.parameters()).double().sum()))
        return quality

    def go(self, start: TrainingState | None = None) -> list[TrainingState]:
        """The state between each two steps and at the end."""
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        learning = learner(self.config)
        if start is not None:
            learning.restore(start.learner)
        hooks = Hooks(
            evaluate=self.evaluate,
            keep_best=lambda model: self.calls.append("best"),
            keep_last=lambda model: self.calls.append("last"),
        )
        with Record(self.folder) as record:
            saver = _EveryStep(Store(self.folder), IDENTITY, record, seconds=0)
            task = Task(config=self.config, canvas_hw=make.HW, num_images=4, open_batches=self.batches)
            engine.fit(learning, task, hooks=hooks, record=record, requests=Requests(), saver=saver, start=start)
        return saver.states

    def signature(self, start: TrainingState) -> dict[str, object]:
        """All that can be seen of the rest of a run: the items of its last state, and what it does on the way."""
        states = self.go(start)
        end = plain(states[-1])
        items = {f"{part}.{name}": digest(value) for part in PARTS for name, value in end[part].items()}
        return items | {
            "loop.seconds": states[-1].loop.seconds >= 1000,
            "saved": len(states),
            "calls": self.calls,
            "warnings": (self.folder / "train.log").read_text().count("stands in"),
        }


class MixedRun(Run):
    """On images from files, of which several come into one, but for the last part."""

    config = config_file.override(
        CONFIG,
        {"augment.mosaic": 0.5, "augment.mixup": 0.5, "augment.copy_paste.probability": 0.5}
        | {"augment.quarter_turns": 0.5, "augment.clean_share": 0.4, "data.workers": 0},
    )

    def batches(self, shapes: Iterator[BatchShape], first: int) -> Iterator[Batch]:
        columns = coco.read(*data.dataset(self.folder.parent / "data", 4))
        return loader.training_loader(columns, Preprocess(canvas_hw=make.HW), self.config, shapes, first=first)


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


PARTS = {"learner": LearnerState, "loop": LoopState, "random": RandomStreams}
ITEMS = [(part, field.name) for part, kind in PARTS.items() for field in dataclasses.fields(kind)]
REFUSED = "an error"
# Where it is seen that an item was left out: in the state at the end, or in what the run does on the way.
SEEN_IN = {
    ("learner", "steps"): REFUSED,
    ("learner", "stage"): "learner.average_starts",  # the stage begins once more, and later
    ("learner", "lr_scale"): "learner.objective",
    ("learner", "objective"): "learner.objective",
    ("learner", "optimizer"): "learner.objective",
    ("learner", "average"): "learner.average",
    ("learner", "average_starts"): "learner.average",
    ("loop", "images"): "learner.objective",
    ("loop", "seconds"): "loop.seconds",
    ("loop", "evaluations"): "calls",
    ("loop", "best"): "calls",
    ("loop", "reference"): "loop.reference",
    ("loop", "evaluations_since_reference"): "loop.evaluations_since_reference",
    ("loop", "skipped"): "loop.skipped",
    ("loop", "skipped_in_a_row"): "saved",
    ("loop", "rollbacks"): "loop.rollbacks",
    ("loop", "unreadable"): "warnings",
    ("random", "python"): "calls",
    ("random", "numpy"): "learner.objective",
    ("random", "torch"): "learner.objective",
}
ELSEWHERE = {
    ("loop", "metrics_bytes"): "test_kills.py looks for lines that stand twice in metrics.jsonl",
    ("loop", "finished"): "test_kills.py runs a finished run again",
    ("random", "cuda"): "drawn from on a GPU",
}


@pytest.fixture(autouse=True, scope="module")
def _narrow() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "Backbone", NarrowBackbone)
        yield


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> list[TrainingState]:
    """Of the undisturbed run, step by step."""
    return Run(tmp_path_factory.mktemp("undisturbed")).go()


@pytest.fixture(scope="module")
def saved(states: list[TrainingState]) -> TrainingState:
    """In the middle, with something to lose in every item."""
    middle = next(one for one in states if one.learner.steps == SAVED)
    assert middle.learner.stage == 1
    assert middle.loop.best == middle.loop.reference == BEST
    loop = dataclasses.replace(
        middle.loop, seconds=1000.0, skipped=2, skipped_in_a_row=1, rollbacks=1, evaluations_since_reference=1
    )
    learner = dataclasses.replace(middle.learner, lr_scale=0.5)
    return dataclasses.replace(middle, loop=loop, learner=learner)


def test_going_on_ends_where_the_undisturbed_run_ends(states: list[TrainingState], tmp_path: Path) -> None:
    for start in states:
        if start.learner.steps not in (1, SAVED, STEPS - 1):
            continue
        folder = tmp_path / str(start.learner.steps)
        end = Run(folder, scored=start.loop.evaluations > 0).go(through_files(start, folder))[-1]
        assert_same(plain(end), plain(states[-1]))


def test_a_run_on_mixed_images_goes_on_as_well(tmp_path: Path) -> None:
    states = MixedRun(tmp_path / "undisturbed").go()
    for start in states:
        if start.learner.steps in (1, SAVED, STEPS - 1):  # before the clean part, at its border and in it
            folder = tmp_path / str(start.learner.steps)
            end = MixedRun(folder, scored=start.loop.evaluations > 0).go(through_files(start, folder))[-1]
            assert_same(plain(end), plain(states[-1]))


@pytest.mark.parametrize(("item", "seen_in"), [pytest.param(*one, id=".".join(one[0])) for one in SEEN_IN.items()])
def test_an_item_that_is_left_out_changes_the_run(
    item: tuple[str, str], seen_in: str, saved: TrainingState, tmp_path: Path
) -> None:
    part, name = item
    first, again, without = (Run(tmp_path / name, scored=True) for name in ("first", "again", "without"))
    expected = first.signature(saved)
    assert again.signature(saved) == expected
    new = fresh(tmp_path / "fresh")
    changed = dataclasses.replace(getattr(saved, part), **{name: getattr(getattr(new, part), name)})
    start = dataclasses.replace(saved, **{part: changed})
    if seen_in == REFUSED:
        with pytest.raises(CheckpointError, match=r"of step 0, and its average of heads\.box\. begins later"):
            without.signature(start)
        return
    assert without.signature(start)[seen_in] != expected[seen_in]


def test_every_item_is_left_out_once() -> None:
    assert sorted([*SEEN_IN, *ELSEWHERE]) == sorted(ITEMS)


@pytest.mark.parametrize(("part", "name"), ITEMS, ids=str)
def test_an_item_that_is_missing_in_the_file_is_an_error(part: str, name: str, saved: TrainingState) -> None:
    weights, rest = saved.weights(), saved.rest()
    assert_same(plain(TrainingState.of_parts(weights, rest)), plain(saved))
    if name == "objective":
        weights = {key: value for key, value in weights.items() if not key.startswith(state.MODEL)}
        with pytest.raises(CheckpointError, match="does not fit"):
            learner(CONFIG).restore(TrainingState.of_parts(weights, rest).learner)
        return
    del rest[part][name]
    with pytest.raises(KeyError, match=f"'{name}'"):
        TrainingState.of_parts(weights, rest)


def fresh(folder: Path) -> TrainingState:
    """What a new process has."""
    random.seed(2)
    np.random.seed(2)  # noqa: NPY002
    torch.manual_seed(2)
    return TrainingState(learner=learner(CONFIG).capture(), loop=LoopState(), random=RandomStreams.capture()).snapshot()


def through_files(start: TrainingState, folder: Path) -> TrainingState:
    folder.mkdir(exist_ok=True)
    store = Store(folder / "checkpoints")
    store.write(start, IDENTITY)
    loaded = store.read_newest()
    assert loaded is not None
    assert loaded.identity == IDENTITY
    return loaded.state


def plain(one: TrainingState) -> dict[str, Any]:
    """For comparing; the clock and the stream that the type checks draw from aside."""
    loop = dataclasses.replace(one.loop, seconds=0.0, metrics_bytes=0)
    streams = dataclasses.replace(one.random, python=())
    return dataclasses.asdict(dataclasses.replace(one, loop=loop, random=streams))


def digest(value: Any) -> str:
    seen = hashlib.sha256()

    def add(item: Any) -> None:
        if isinstance(item, Tensor):
            seen.update(item.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(item, dict):
            for key, inner in item.items():
                seen.update(repr(key).encode())
                add(inner)
        elif isinstance(item, list | tuple):
            for inner in item:
                add(inner)
        else:
            seen.update(repr(item).encode())

    add(value)
    return seen.hexdigest()
