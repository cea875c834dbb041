"""What a run writes down."""

import json
from pathlib import Path

import pytest

from detector.train.record import EvaluationMetrics, Record, StepMetrics, describe

STEP = StepMetrics(
    step=7,
    epoch=1.25,
    classification_loss=0.5,
    box_loss=1.5,
    lr=0.001,
    images_per_second=12.34,
    seconds=60,
    eta_seconds=3725,
)


def test_the_progress_line_has_both_losses_rate_speed_and_eta() -> None:
    line = describe(STEP)
    for part in ("epoch 1.2", "step 7", "cls 0.500", "box 1.500", "lr 1.0e-03", "12.3 img/s", "ETA 1:02:05"):
        assert part in line


def test_rows_and_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Record(tmp_path) as record:
        record.say("hello [bold]you[/bold]")
        record.step(STEP, 0.5)
        record.evaluation(EvaluationMetrics(step=7, epoch=1.25, seconds=60, ap=0.25, ap50=0.5, is_best=True))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in rows] == ["train", "evaluation"]
    assert rows[0]["classification_loss"] == 0.5
    assert rows[1]["ap"] == 0.25
    captured = capsys.readouterr()
    assert captured.out == ""
    for text in ("hello [bold]you[/bold]", " 50%", "AP 0.250  AP50 0.500  (best so far)"):
        assert text in captured.err
    log = (tmp_path / "train.log").read_text()
    assert "hello [bold]you[/bold]" in log
    assert "cls 0.500" in log
