"""TensorBoard is asked for, and only then needed."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from detector.errors import ConfigError
from detector.train import board
from detector.train.board import Board
from detector.train.record import BranchMetrics, CosineMetrics, EvaluationMetrics, Record, StepMetrics

STEP = StepMetrics(
    step=7,
    epoch=1.0,
    stage="",
    losses={"box.giou": 0.5},
    branches=(BranchMetrics(name="box", loss=1.0, weight=1.0, gradient_norm=None, share=None),),
    cosines=(CosineMetrics(a="classification", b="box", cosine=0.25),),
    lr=1e-3,
    images_per_second=4.0,
    seconds=2.0,
    eta_seconds=None,
    waiting=0.125,
)
SCORING = EvaluationMetrics(step=9, epoch=1.0, seconds=3.0, ap=0.5, ap50=0.75, is_best=True)


class Writer:
    """Stands for torch's SummaryWriter."""

    def __init__(self, folder: str = "", **_: Any) -> None:
        self.folder = folder
        self.rows: list[tuple[str, float, int]] = []
        self.is_closed = False
        self.fails = False

    def add_scalar(self, name: str, value: float, step: int) -> None:
        if self.fails:
            raise FileNotFoundError(2, "No such file or directory")
        self.rows.append((name, value, step))

    def close(self) -> None:
        self.is_closed = True


def test_curves_of_a_run(tmp_path: Path) -> None:
    writer = Writer()
    with Record(tmp_path, board=Board(writer)) as record:
        record.step(STEP, 0.5)
        record.evaluation(SCORING)
    assert writer.rows == [
        ("loss/box.giou", 0.5, 7),
        ("cosine/classification, box", 0.25, 7),  # of a share that was not measured there is no point
        ("train/lr", 1e-3, 7),
        ("train/images per second", 4.0, 7),
        ("train/waiting", 0.125, 7),
        ("validation/AP", 0.5, 9),
        ("validation/AP50", 0.75, 9),
    ]
    assert writer.is_closed


def test_training_goes_on_without_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = Writer()
    writer.fails = True
    with Record(tmp_path, board=Board(writer)) as record:
        record.step(STEP, 0.5)
        record.evaluation(SCORING)
    assert writer.rows == []
    assert capsys.readouterr().err.count("training goes on without it") == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_missing_package_is_an_error_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="pip install tensorboard"):
        board.require()


def test_a_broken_package_is_an_error_with_its_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match="reinstall the package tensorboard"):
        board.open_in(tmp_path)


def test_the_curves_lie_in_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Writer] = []
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = lambda *a, **k: made.append(Writer(*a, **k)) or made[-1]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    board.open_in(tmp_path).add({"a": 1.0}, 3)
    assert [(one.folder, one.rows) for one in made] == [(str(tmp_path / "tensorboard"), [("a", 1.0, 3)])]
