"""What a run writes down."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from detector.errors import DetectorError
from detector.train import distributed, run_status
from detector.train.record import BranchMetrics, CosineMetrics, EvaluationMetrics, Record, StepMetrics, describe
from detector.train.run_status import Status

CLASSES = BranchMetrics(name="classification", loss=0.5, weight=1.0, gradient_norm=3.0, share=0.75)
BOX = BranchMetrics(name="box", loss=1.5, weight=0.5, gradient_norm=1.0, share=0.25)
STEP = StepMetrics(
    step=7,
    epoch=1.25,
    stage="warm",
    losses={"classification.cross_entropy": 0.5, "box.giou": 0.75},
    branches=(CLASSES, BOX),
    cosines=(CosineMetrics(a="classification", b="box", cosine=-0.25),),
    lr=0.001,
    images_per_second=12.34,
    seconds=60,
    waiting=0.0,
    eta_seconds=3725,
)


def test_the_progress_line_has_losses_balance_rate_speed_and_eta() -> None:
    line = describe(STEP, has_stages=False)
    parts = ("epoch 1.2", "step 7", "classification 0.500", "box 1.500", "balance 75:25", "lr 1.0e-03", "12.3 img/s")
    for part in (*parts, "ETA 1:02:05"):
        assert part in line
    assert "stage" not in line


def test_the_progress_line_names_the_stage_where_there_are_several() -> None:
    assert "  stage warm  " in describe(STEP, has_stages=True)


def test_a_frozen_trunk_has_no_balance() -> None:
    still = tuple(dataclasses.replace(branch, gradient_norm=None, share=None) for branch in (CLASSES, BOX))
    assert "balance" not in describe(dataclasses.replace(STEP, branches=still), has_stages=False)
    assert "balance" not in describe(dataclasses.replace(STEP, branches=(CLASSES,)), has_stages=False)


def test_before_the_first_step_the_end_is_not_known() -> None:
    assert "ETA ?" in describe(dataclasses.replace(STEP, eta_seconds=None), has_stages=False)


def test_names_of_strangers_steer_no_terminal_and_make_no_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "a\x1b[2J\x07\nvalidation at step 9: AP 1.000\r\u202e\udcff[/red]"
    with Record(tmp_path, has_stages=True) as record:
        record.say(f"classes: {hostile}")
        record.step(dataclasses.replace(STEP, stage=hostile), 0.5)
    for text in (capsys.readouterr().err, (tmp_path / "train.log").read_text()):
        lines = text.splitlines()
        assert len(lines) == 2
        assert all(line.isprintable() for line in lines)
        assert r"a\x1b[2J\x07\nvalidation" in lines[0]


def test_a_folder_that_is_gone_is_named_on_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a\x1b[2J\nerror: b"
    folder.mkdir()
    with Record(folder) as record:
        shutil.rmtree(folder)
        record.update()
        record.update()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()
    assert r"a\x1b[2J\nerror: b: the record of the run cannot be written" in line


def test_status_makes_no_lines_of_names() -> None:
    text = run_status.describe(Path("a\x1b[2J\nerror: b"), Status(reason="c\nerror: d"), is_alive=True)
    assert len(text.splitlines()) == 4
    assert all(line.isprintable() for line in text.splitlines())


GLOO = "[/__w/pytorch/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer [::1]:9. GLHF!"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError(GLOO), distributed.LOST),
        (torch.distributed.DistBackendError("NCCL"), distributed.LOST),
        (DetectorError("the disk is full; free some space"), "the disk is full; free some space"),
        (RuntimeError("of another kind"), "RuntimeError: of another kind"),
        (KeyboardInterrupt(), "Ctrl-C"),
    ],
)
def test_why_a_run_ended_is_said_in_words(tmp_path: Path, error: BaseException, reason: str) -> None:
    with pytest.raises(type(error)), Record(tmp_path):
        raise error
    assert run_status.read(tmp_path).reason == reason


def test_rows_and_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Record(tmp_path) as record:
        record.say("hello [bold]you[/bold]")
        record.step(STEP, 0.5)
        record.evaluation(EvaluationMetrics(step=7, epoch=1.25, seconds=60, ap=0.25, ap50=0.5, is_best=True))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in rows] == ["train", "evaluation"]
    assert rows[0]["losses"] == STEP.losses
    assert rows[0]["branches"] == [dataclasses.asdict(CLASSES), dataclasses.asdict(BOX)]
    assert rows[0]["cosines"] == [{"a": "classification", "b": "box", "cosine": -0.25}]
    assert rows[1]["ap"] == 0.25
    captured = capsys.readouterr()
    assert captured.out == ""
    for text in ("hello [bold]you[/bold]", " 50%", "AP 0.250  AP50 0.500  (best so far)"):
        assert text in captured.err
    log = (tmp_path / "train.log").read_text()
    assert "hello [bold]you[/bold]" in log
    assert "classification 0.500" in log
