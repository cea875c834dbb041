"""The loss-balance meter: what it writes, and when it warns."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from detector.config import DataConfig
from detector.train.learner import Learned, Learner
from detector.train.meter import Meter
from detector.train.record import Record
from detector.train.waiting import Waiting
from detector.types import Losses
from tests.unit.train import make

STILL = {"optim.lr": 1e-12, "optim.warmup_steps": 0, "optim.weight_decay": 0.0, "model.norm": "frozen"}
TERMS = ("classification.cross_entropy", "box.smooth_l1", "box.giou")
LOPSIDED, EVEN = [[10_000.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]


def learner(changes: dict[str, Any] | None = None) -> Learner:
    config = make.config(STILL | (changes or {}))
    return Learner(make.model(config), config, dtype=torch.float32)


def learned(gram: list[list[float]] | None, losses: tuple[float, ...] = (1.0, 2.0, 3.0), stage: int = 0) -> Learned:
    return Learned(
        losses=Losses(terms=TERMS, values=torch.tensor(losses)),
        branches=torch.tensor([losses[0], losses[1] + losses[2]]),
        stage=stage,
        gram=None if gram is None else torch.tensor(gram),
        is_finite=torch.tensor(losses).isfinite().all(),
    )


def write(
    folder: Path, steps: list[Learned], changes: dict[str, Any] | None = None, num_images: int = 100
) -> tuple[dict[str, Any], str]:
    """The row of these steps of two images each, and the log."""
    learning = learner(changes)
    learning.steps = len(steps)
    with Record(folder) as record:
        meter = Meter(record, learning, Waiting(record, DataConfig()), num_images=num_images, stage_names=["one"])
        for step in steps:
            meter.add(step, num_images=2, progress=0.5)
        meter.flush(0.5)
    (row,) = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return row, (folder / "train.log").read_text()


def test_means_shares_and_cosines(tmp_path: Path) -> None:
    gram = [[9.0, -1.5], [-1.5, 1.0]]
    row, log = write(tmp_path, [learned(gram, (1.0, 2.0, 3.0)), learned(gram, (3.0, 4.0, 5.0))])
    assert row["losses"] == pytest.approx(dict(zip(TERMS, (2.0, 3.0, 4.0), strict=True)))
    classes, box = row["branches"]
    assert (classes["name"], box["name"]) == ("classification", "box")
    assert (classes["loss"], box["loss"]) == pytest.approx((2.0, 7.0))
    assert (classes["gradient_norm"], box["gradient_norm"]) == pytest.approx((3.0, 1.0))
    assert (classes["share"], box["share"]) == pytest.approx((0.75, 0.25))
    assert (classes["weight"], box["weight"]) == (1.0, 1.0)
    assert row["cosines"] == [{"a": "classification", "b": "box", "cosine": pytest.approx(-0.5)}]
    assert (row["step"], row["stage"], row["epoch"]) == (2, "one", 0.04)
    assert row["eta_seconds"] == pytest.approx(row["seconds"])
    assert "balance 75:25" in log
    assert "warning" not in log


def test_a_frozen_trunk_is_null(tmp_path: Path) -> None:
    row, log = write(tmp_path, [learned(None)], num_images=2)
    for branch in row["branches"]:
        assert branch["gradient_norm"] is None
        assert branch["share"] is None
    assert row["cosines"][0]["cosine"] is None
    assert "balance" not in log
    assert "warning" not in log


def test_a_branch_without_gradient_has_no_share_and_no_direction(tmp_path: Path) -> None:
    row, _ = write(tmp_path, [learned([[4.0, 0.0], [0.0, 0.0]])])
    assert [branch["share"] for branch in row["branches"]] == [1.0, 0.0]
    assert row["cosines"][0]["cosine"] is None


def test_without_any_gradient_there_are_no_shares(tmp_path: Path) -> None:
    row, _ = write(tmp_path, [learned([[0.0, 0.0], [0.0, 0.0]])], num_images=2)
    assert [branch["share"] for branch in row["branches"]] == [None, None]


def test_the_weights_are_those_of_the_balancer(tmp_path: Path) -> None:
    row, _ = write(tmp_path, [learned([[1.0, 0.0], [0.0, 1.0]])], {"balance.kind": "uncertainty"})
    expected = 0.5 * torch.tensor(0.5).exp().item()
    assert [branch["weight"] for branch in row["branches"]] == pytest.approx([expected] * 2)


def test_nothing_is_written_twice(tmp_path: Path) -> None:
    learning = learner()
    with Record(tmp_path) as record:
        meter = Meter(record, learning, Waiting(record, DataConfig()), num_images=4, stage_names=[])
        meter.flush(0.0)
        learning.steps = 1
        meter.add(learned([[1.0, 0.0], [0.0, 1.0]]), num_images=2, progress=0.5)
        meter.show_if_due(0.1)  # the first step at once
        meter.flush(0.2)
        learning.steps = 2
        meter.add(learned([[1.0, 0.0], [0.0, 1.0]], (5.0, 0.0, 0.0)), num_images=2, progress=0.5)
        meter.show_if_due(0.3)  # not yet
        meter.flush(1.0)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert rows[1]["losses"]["classification.cross_entropy"] == 5.0
    assert rows[1]["stage"] == ""


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_that_was_left_out_does_not_count(tmp_path: Path, value: float) -> None:
    steps = [learned(EVEN), learned([[value, 0.0], [0.0, value]], (1.0, 1.0, value)), learned(EVEN, (3.0, 4.0, 5.0))]
    row, _ = write(tmp_path, steps)
    assert row["losses"] == pytest.approx(dict(zip(TERMS, (2.0, 3.0, 4.0), strict=True)))
    assert [branch["share"] for branch in row["branches"]] == pytest.approx([0.5, 0.5])


def test_without_a_finite_step_there_is_no_row(tmp_path: Path) -> None:
    with Record(tmp_path) as record:
        meter = Meter(record, learner(), Waiting(record, DataConfig()), num_images=100, stage_names=[])
        meter.add(learned(None, (1.0, 1.0, float("nan"))), num_images=2, progress=0.5)
        meter.flush(0.5)
    assert (tmp_path / "metrics.jsonl").read_text() == ""


# Warnings


@pytest.mark.parametrize(
    ("grams", "num_images", "count"),
    [
        ([LOPSIDED] * 3, 6, 1),  # a whole epoch
        ([LOPSIDED] * 3, 8, 0),  # not yet an epoch
        ([LOPSIDED] * 6, 6, 1),  # said once
        ([LOPSIDED] * 3 + [EVEN] * 3, 6, 1),  # each epoch for itself
        ([EVEN] * 3, 6, 0),
        ([[[64.0, 0.0], [0.0, 1.0]]] * 3, 6, 0),  # 8 to 1: below nine tenths
        ([[[100.0, 0.0], [0.0, 1.0]]] * 3, 6, 1),  # 10 to 1: above
        ([[[100.0, 0.0], [0.0, 0.0]]] * 3, 6, 0),  # nothing to share with
    ],
)
def test_a_warning_is_for_a_whole_epoch(tmp_path: Path, grams: list[Any], num_images: int, count: int) -> None:
    _, log = write(tmp_path, [learned(gram) for gram in grams], num_images=num_images)
    assert log.count("warning: classification holds") == log.count("warning") == count


def test_a_record_is_of_one_stage(tmp_path: Path) -> None:
    with Record(tmp_path) as record:
        meter = Meter(record, learner(), Waiting(record, DataConfig()), num_images=100, stage_names=["one", "two"])
        for stage, loss in ((0, 1.0), (0, 3.0), (1, 7.0)):
            meter.add(learned(None, (loss, 0.0, 0.0), stage), num_images=2, progress=0.5)
        meter.flush(0.5)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["stage"], row["losses"][TERMS[0]]) for row in rows] == [("one", 2.0), ("two", 7.0)]


def run_epoch(folder: Path, weight: float) -> tuple[float, str]:
    """Share of the box head after an epoch of real steps, and the log."""
    learning = learner({"model.heads.box.weight": weight})
    folder.mkdir()
    with Record(folder) as record:
        meter = Meter(record, learning, Waiting(record, DataConfig()), num_images=6, stage_names=[])
        for step in range(2):
            meter.add(learning.learn(make.batch(seed=step), 0.0), num_images=3, progress=0.5)
        meter.flush(0.5)
    (row,) = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return row["branches"][1]["share"], (folder / "train.log").read_text()


def test_the_advice_of_a_warning_helps(tmp_path: Path) -> None:
    share, log = run_epoch(tmp_path / "before", weight=1e4)
    assert share > 0.9
    found = re.search(
        r"warning: box holds (\d+)% of the gradient at the trunk over epoch 1: "
        r"for an even share multiply model\.heads\.box\.weight by (\S+), or set balance\.kind=imtl_g",
        log,
    )
    assert found is not None
    assert int(found[1]) == round(100 * share)
    share, log = run_epoch(tmp_path / "after", weight=1e4 * float(found[2]))
    assert share == pytest.approx(0.5, abs=0.05)
    assert "warning" not in log
