"""The loop: what it calls, when, and how it ends."""

import json
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from detector import config_file, recipes
from detector.config import RunConfig
from detector.model import detector as network
from detector.model.detector import DetectionModel
from detector.train import engine, signals
from detector.train.engine import Outcome, Task
from detector.train.health import DivergedError
from detector.train.keeper import Hooks
from detector.train.learner import Learner
from detector.train.record import Record
from detector.train.signals import Requests
from detector.train.state import Quality
from detector.types import Batch, BatchShape, Placement, Preprocess, Targets

CANVAS = (64, 64)


def settings(**changes: object) -> RunConfig:
    small = {
        "model.pyramid.width": 16,
        "model.heads.classification.tower.width": 16,
        "model.heads.box.tower.width": 16,
        "data.batch_size": 2,
    }
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return config_file.override(recipes.small(), {"length.minutes": None, "length.steps": 6, **small, **dotted})


def batch(shape: BatchShape, unreadable: tuple[str, ...] = ()) -> Batch:
    height, width = shape.window_hw
    box = torch.tensor([8.0, 8.0, 40.0, 40.0]).expand(shape.size, 1, 4)
    yes = torch.ones(shape.size, 1, dtype=torch.bool)
    return Batch(
        images=torch.randint(0, 256, (shape.size, 3, height, width), dtype=torch.uint8),
        targets=Targets(boxes=box, labels=torch.zeros(shape.size, 1, dtype=torch.int64), is_object=yes, is_crowd=~yes),
        indices=torch.arange(shape.size),
        placements=(Placement(scale=1.0, original_hw=shape.window_hw),) * shape.size,
        unreadable=unreadable,
    )


@dataclass
class Calls:
    """Hooks that write down what they were called with."""

    qualities: Sequence[float]
    swing: float = 0.0
    """How far resamplings lie from the score, two up and down in each scoring, and others in each."""
    kept: list[str] = field(default_factory=list)
    during: Callable[[], object] = lambda: None
    """What else happens in a scoring."""

    def hooks(self) -> Hooks:
        def evaluate(model: DetectionModel, should_stop: Callable[[], bool]) -> Quality | None:
            self.during()
            if should_stop():
                self.kept.append("given up")
                return None
            self.kept.append("scored")
            ap, *self.qualities = self.qualities
            resampled = [ap] * 12
            place = 2 * (len(self.qualities) % 6)
            resampled[place : place + 2] = [ap - self.swing, ap + self.swing]
            return Quality(ap=ap, ap50=1.0, resampled=tuple(resampled))

        return Hooks(
            evaluate=evaluate,
            keep_best=lambda model: self.kept.append("best"),
            keep_last=lambda model: self.kept.append("last"),
        )


def task(config: RunConfig, open_batches: Callable[[Iterator[BatchShape], int], Iterator[Batch]]) -> Task:
    return Task(config=config, canvas_hw=CANVAS, num_images=4, open_batches=open_batches)


def fit(
    config: RunConfig,
    calls: Calls,
    folder: Path,
    make: Callable[[int, BatchShape], Batch] = lambda step, shape: batch(shape),
) -> tuple[Outcome, DetectionModel]:
    torch.manual_seed(0)
    model = network.build(config, num_classes=2, preprocess=Preprocess(canvas_hw=CANVAS))

    def batches(shapes: Iterator[BatchShape], first: int) -> Iterator[Batch]:
        for step, shape in enumerate(shapes):
            yield make(step, shape)

    learner = Learner(model, config, dtype=torch.float32)
    with Record(folder) as record, signals.heard(record.say) as requests:
        outcome = engine.fit(learner, task(config, batches), hooks=calls.hooks(), record=record, requests=requests)
    return outcome, model


def test_scores_evenly_and_keeps_the_best(tmp_path: Path) -> None:
    calls = Calls(qualities=[0.2, 0.1, 0.3])
    outcome, _ = fit(settings(length__evaluations=3), calls, tmp_path)
    assert calls.kept == ["scored", "best", "scored", "last", "scored", "best"]
    assert outcome.steps == 6
    assert outcome.best is not None
    assert outcome.best.ap == 0.3
    assert not outcome.interrupted


SWING = 0.05  # with which a gain has the standard error 0.030


def test_the_best_is_the_highest_and_the_log_says_where_that_is_noise(tmp_path: Path) -> None:
    calls = Calls(qualities=[0.20, 0.21, 0.30], swing=SWING)
    outcome, _ = fit(settings(length__evaluations=3), calls, tmp_path)
    assert calls.kept == ["scored", "best", "scored", "best", "last", "scored", "best"]
    assert outcome.best is not None
    assert outcome.best.ap == 0.30
    first, second, third = (line for line in (tmp_path / "train.log").read_text().splitlines() if "validation" in line)
    assert first.endswith("(best so far)")
    assert second.endswith("(best so far, within noise: +0.010, noise 0.030)")
    assert third.endswith("(best so far)")
    rows = rows_of(tmp_path, "evaluation")
    assert [row["gain"] for row in rows] == [None, pytest.approx(0.01), pytest.approx(0.09)]
    assert rows[1]["noise"] == pytest.approx(0.0302, abs=1e-4)


@pytest.mark.parametrize(
    ("qualities", "scored"),
    [
        ([0.20, 0.21, 0.22, 0.9, 0.9, 0.9], 3),  # each the best so far, none by more than noise
        ([0.20, 0.22, 0.24, 0.25, 0.26, 0.9], 5),  # clear once they add up: 0.24, then nothing for two
        ([0.20, 0.10, 0.30, 0.30, 0.30, 0.9], 5),  # as good is not better
    ],
)
def test_patience_waits_for_a_gain_beyond_noise(qualities: list[float], scored: int, tmp_path: Path) -> None:
    calls = Calls(qualities=qualities, swing=SWING)
    fit(settings(length__evaluations=6, length__patience=2), calls, tmp_path)
    assert calls.kept.count("scored") == scored
    assert "2 scorings brought no clear gain" in (tmp_path / "status.json").read_text()


def test_the_best_model_is_confirmed_at_the_end_unless_the_run_was_interrupted(tmp_path: Path) -> None:
    for name, during, expected in (("whole", 0, ["confirmed"]), ("stopped", signal.SIGINT, [])):
        (tmp_path / name).mkdir()
        confirmed: list[str] = []
        calls = Calls(qualities=[0.1, 0.2], during=partial(signal.raise_signal, during) if during else lambda: None)
        hooks = replace(calls.hooks(), confirm=lambda should_stop, kept=confirmed: kept.append("confirmed"))
        config = settings(length__evaluations=1)
        model = network.build(config, num_classes=2, preprocess=Preprocess(canvas_hw=CANVAS))
        with Record(tmp_path / name) as record, signals.heard(record.say) as requests:
            learner = Learner(model, config, dtype=torch.float32)
            batches = task(config, lambda shapes, first: (batch(shape) for shape in shapes))
            engine.fit(learner, batches, hooks=hooks, record=record, requests=requests)
        assert confirmed == expected


def test_the_loss_falls_on_one_batch(tmp_path: Path) -> None:
    same = batch(BatchShape(size=2, window_hw=CANVAS))
    calls = Calls(qualities=[0.0])
    config = settings(length__evaluations=1, length__steps=25, optim__warmup_steps=1, data__crops__share=0)
    fit(config, calls, tmp_path, lambda step, shape: same)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [row["losses"]["classification.cross_entropy"] for row in rows if row["kind"] == "train"]
    assert losses[-1] < 0.8 * losses[0]  # the last row is the mean since the first step


def test_cut_outs_first(tmp_path: Path) -> None:
    shapes: list[BatchShape] = []

    def make(step: int, shape: BatchShape) -> Batch:
        shapes.append(shape)
        return batch(shape)

    config = settings(length__evaluations=1, data__crops__share=0.5, data__crops__batch_factor=3)
    fit(config, Calls(qualities=[0.0]), tmp_path, make)
    assert [(shape.size, shape.window_hw) for shape in shapes] == [(6, (32, 32))] * 3 + [(2, (64, 64))] * 3


def test_the_clean_part_of_a_run_by_time_begins_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes a minute, and of 8 minutes the last two are clean."""
    now, clean = [1000.0], list[bool]()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def make(step: int, shape: BatchShape) -> Batch:
        clean.append(shape.is_clean)
        now[0] += 60
        return batch(shape)

    changes = {"data__crops__share": 0, "augment__mosaic": 0.5, "augment__clean_share": 0.25}
    config = settings(length__steps=None, length__minutes=8, length__evaluations=1, **changes)
    fit(config, Calls(qualities=[0.0]), tmp_path, make)
    assert clean == [False] * 6 + [True] * 2


def test_ctrl_c_stops_after_the_step_and_keeps_a_model(tmp_path: Path) -> None:
    def make(step: int, shape: BatchShape) -> Batch:
        if step == 2:
            signal.raise_signal(signal.SIGINT)
        return batch(shape)

    calls = Calls(qualities=[])
    before = signal.getsignal(signal.SIGINT)
    outcome, _ = fit(settings(length__evaluations=1), calls, tmp_path, make)
    assert (outcome.interrupted, outcome.steps) == (True, 3)
    assert calls.kept == ["last", "best"]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    def make(step: int, shape: BatchShape) -> Batch:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        return batch(shape)

    with pytest.raises(KeyboardInterrupt):
        fit(settings(), Calls(qualities=[]), tmp_path, make)


def rows_of(folder: Path, kind: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


def test_ctrl_c_during_a_scoring_ends_it_and_the_run(tmp_path: Path) -> None:
    calls = Calls(qualities=[], during=lambda: signal.raise_signal(signal.SIGINT))
    outcome, _ = fit(settings(length__evaluations=3), calls, tmp_path)
    assert (outcome.interrupted, outcome.steps) == (True, 2)
    assert calls.kept == ["given up", "last", "best"]
    assert outcome.best is None
    assert rows_of(tmp_path, "evaluation") == []


def test_ctrl_c_during_the_last_scoring_keeps_what_was_best(tmp_path: Path) -> None:
    calls = Calls(qualities=[0.5])
    calls.during = lambda: signal.raise_signal(signal.SIGINT) if calls.kept else None
    outcome, _ = fit(settings(length__evaluations=2), calls, tmp_path)
    assert (outcome.interrupted, outcome.steps) == (True, 6)
    assert calls.kept == ["scored", "best", "last", "given up"]
    assert outcome.best is not None
    assert outcome.best.ap == 0.5
    assert "interrupted at step 6" in (tmp_path / "train.log").read_text()


def test_slow_scorings_of_a_run_by_time_are_not_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes a minute, a scoring 500 seconds; of 20 minutes one is due every four."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    def make(step: int, shape: BatchShape) -> Batch:
        wait(60)
        return batch(shape)

    calls = Calls(qualities=[0.1, 0.2], during=lambda: wait(500))
    config = settings(length__steps=None, length__minutes=20, data__crops__share=0)
    outcome, _ = fit(config, calls, tmp_path, make)
    # Due at 240, 480, 720, 960 and 1200; those at 480 and 720 fall into the scoring at 240. At the end, the weights are
    # those that were scored at 980.
    assert [row["seconds"] for row in rows_of(tmp_path, "evaluation")] == pytest.approx([240, 980])
    assert [row["step"] for row in rows_of(tmp_path, "evaluation")] == [4, 8]
    assert outcome.steps == 8
    assert calls.qualities == []


def test_without_a_validation_split_the_last_weights_are_the_best(tmp_path: Path) -> None:
    calls = Calls(qualities=[])
    config = settings(length__evaluations=1)
    hooks = replace(calls.hooks(), evaluate=None)
    model = network.build(config, num_classes=2, preprocess=Preprocess(canvas_hw=CANVAS))
    with Record(tmp_path) as record:
        outcome = engine.fit(
            Learner(model, config, dtype=torch.float32),
            task(config, lambda shapes, first: (batch(shape) for shape in shapes)),
            hooks=hooks,
            record=record,
            requests=Requests(),
        )
    assert calls.kept == ["last", "best"]
    assert outcome.best is None


def test_a_loss_that_stays_not_finite_ends_the_attempt(tmp_path: Path) -> None:
    config = settings(optim__lr=1e30, optim__warmup_steps=0, optim__clip_norm=0, optim__name="sgd", length__steps=40)
    with pytest.raises(DivergedError, match=r"5 steps in a row were not finite, the last is \d+"):
        fit(config, Calls(qualities=[0.0] * 10), tmp_path)


def test_unreadable_files_are_named_once(tmp_path: Path) -> None:
    outcome, _ = fit(
        settings(length__evaluations=1),
        Calls(qualities=[0.0]),
        tmp_path,
        lambda step, shape: batch(shape, unreadable=("b.jpg", "a.jpg")),
    )
    assert outcome.unreadable == ("b.jpg", "a.jpg")


def test_without_averaging_the_trained_model_itself_is_kept(tmp_path: Path) -> None:
    kept: list[DetectionModel] = []
    calls = Calls(qualities=[0.0])
    hooks = calls.hooks()
    config = settings(length__evaluations=1, optim__ema_width=0)
    model = network.build(config, num_classes=2, preprocess=Preprocess(canvas_hw=CANVAS))
    with Record(tmp_path) as record:
        engine.fit(
            Learner(model, config, dtype=torch.float32),
            task(config, lambda shapes, first: (batch(shape) for shape in shapes)),
            hooks=Hooks(evaluate=hooks.evaluate, keep_best=hooks.keep_best, keep_last=kept.append),
            record=record,
            requests=Requests(),
        )
    assert kept == [model]
