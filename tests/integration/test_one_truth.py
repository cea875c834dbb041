"""A run ends by scoring the file of its best model anew."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from detector.cli import train
from detector.data.layout import SplitFiles
from detector.errors import CheckpointError
from detector.model import model_file
from detector.model.detector import DetectionModel
from detector.run import best_scores, confirming, scoring
from detector.run.model_keeper import ModelKeeper
from detector.train.distributed import World
from detector.train.run_folder import RunFolder
from detector.train.state import Quality
from tests.integration.conftest import OF_RUN_FOLDER, TINY


@pytest.fixture
def run(run_folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may write into."""
    return shutil.copytree(run_folder, tmp_path / "run")


def confirm(run: Path, data: Path, should_stop: Callable[[], bool] = lambda: False, **changes: object) -> list[str]:
    """What is said, where the circumstances are those of training but for `changes`."""
    said: list[str] = []
    noted = json.loads((run / "best-scores.json").read_text())
    confirming.confirm(
        RunFolder(path=run),
        SplitFiles(annotations=data / "val.json", images=data / "images"),
        World(),
        {**noted[best_scores.SCORED_ON], **changes},
        say=said.append,
        should_stop=should_stop,
        dtype=torch.float32,
    )
    return said


def note(run: Path, **changes: float) -> None:
    """Training had noted other numbers."""
    path = run / "best-scores.json"
    content: dict[str, Any] = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **{name: content[name] + value for name, value in changes.items()}}))


def test_a_run_ends_so_and_leaves_the_results_for_the_report(run_folder: Path, data: Path) -> None:
    last = (run_folder / "train.log").read_text().splitlines()[-1]
    ap = json.loads((run_folder / "best-scores.json").read_text())["ap"]
    assert ap > 0
    assert last == f"scores of best.safetensors confirmed: AP {ap:.3f}"
    assert scoring.saved_results(run_folder / "best.safetensors", "val", data / "val.json") is not None


def test_the_least_difference_is_an_error_on_the_cpu(run: Path, data: Path) -> None:
    before = torch.get_rng_state()
    assert confirm(run, data)[0].startswith("scores of best.safetensors confirmed: AP")
    assert torch.equal(torch.get_rng_state(), before)
    note(run, ap75=1e-12)
    with pytest.raises(CheckpointError, match=r"AP, IoU 0\.75"):
        confirm(run, data)


@pytest.mark.parametrize(
    ("change", "is_as_before"),
    [({"device": "cuda"}, True), ({"processes": 2}, True), ({"compiled": True}, True), ({"threads": "7"}, False)],
)
def test_elsewhere_rounding_may_differ_and_no_more(
    change: dict[str, Any], is_as_before: bool, run: Path, data: Path
) -> None:
    note(run, ap=0.9e-3)
    if is_as_before:
        path = run / "best-scores.json"
        content = json.loads(path.read_text())
        content[best_scores.SCORED_ON] |= change
        path.write_text(json.dumps(content))
    assert confirm(run, data, **change)[0].startswith("scores of best.safetensors confirmed to 0.001: AP")
    note(run, ap=0.5)
    with pytest.raises(CheckpointError, match=r"AP, IoU 0\.50 to"):
        confirm(run, data, **change)


def test_what_cannot_be_confirmed_is_said(run: Path, data: Path) -> None:
    assert confirm(run, data, lambda: True) == ["scores of best.safetensors not confirmed: asked to stop"]
    shutil.rmtree(run / "eval-val")
    (run / "eval-val").write_text("mine")
    assert "warning: scores of best.safetensors not confirmed" in confirm(run, data)[0]
    (run / "best-scores.json").write_text(f'{{"{best_scores.SCORED_ON}": {{}}}}')
    assert "best-scores.json cannot be read" in confirm(run, data, device="cpu")[0]


def test_a_file_that_is_not_what_was_scored_fails_the_run_until_it_is(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = [str(data), "--steps", "2", "--set", "length.evaluations=1", "--out", str(out), *TINY]
    write = ModelKeeper._write_best

    def write_and_forget(self: ModelKeeper, candidate: DetectionModel) -> None:
        write(self, candidate)
        note(out, ap=0.3)

    with monkeypatch.context() as patch:
        patch.setattr(ModelKeeper, "_write_best", write_and_forget)
        assert train(command) == 4
    assert "other numbers than in training: AP, IoU 0.50 to 0.95: 0.3" in capsys.readouterr().err
    status = json.loads((out / "status.json").read_text())
    assert status["state"] == "failed"
    assert train(command) == 0
    assert "confirmed: AP" in capsys.readouterr().err
    assert json.loads((out / "status.json").read_text())["state"] == "finished"


def test_a_best_model_that_is_not_confirmed_is_looked_at_again_until_it_is_moved_away(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    best = out / "best.safetensors"
    command = [str(data), "--steps", "2", "--set", "length.evaluations=2", "--out", str(out), *TINY]
    evaluate, write = ModelKeeper.evaluate, ModelKeeper._write_best
    qualities = iter([0.9])  # the first is the best, so that the end of the run does not write it anew

    def flattered(self: ModelKeeper, candidate: DetectionModel, should_stop: Callable[[], bool]) -> Quality | None:
        quality = evaluate(self, candidate, should_stop)
        assert quality is not None
        return dataclasses.replace(quality, ap=next(qualities, 0.0))

    def write_and_forget(self: ModelKeeper, candidate: DetectionModel) -> None:
        write(self, candidate)
        note(out, ap=0.3)

    monkeypatch.setattr(ModelKeeper, "evaluate", flattered)
    with monkeypatch.context() as patch:
        patch.setattr(ModelKeeper, "_write_best", write_and_forget)
        assert train(command) == 4
    first = best.read_bytes()
    assert train(command) == 4
    assert best.read_bytes() == first
    assert "once it is moved away" in capsys.readouterr().err
    best.rename(tmp_path / "doubtful.safetensors")
    assert train(command) == 0
    said = capsys.readouterr().err
    assert "best.safetensors is gone: the next model that is scored takes its place" in said
    assert "scores of best.safetensors confirmed: AP" in said
    assert json.loads((out / "status.json").read_text())["state"] == "finished"
    with (out / "last.safetensors").open("rb") as last:
        assert best.read_bytes() == last.read()


def test_a_finished_run_looks_at_a_model_that_is_not_the_confirmed_file(
    run: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(data), *OF_RUN_FOLDER, "--out", str(run), *TINY]
    best = run / "best.safetensors"

    def said() -> str:
        capsys.readouterr()
        assert train(command) == 0
        return capsys.readouterr().err

    with monkeypatch.context() as patch:
        patch.setattr(confirming, "confirm", None)
        assert "finished already" in said()
    trained = model_file.load(best)
    model_file.write_thresholds(best, (0.5,) * len(trained.label_map))
    assert "\nscores of best.safetensors confirmed: AP" in said()
    assert "confirmed" not in said()
    with torch.no_grad():
        for parameter in trained.model.parameters():
            parameter.mul_(0.5)
    model_file.save(best, trained)
    assert train(command) == 4
    assert "other numbers than in training" in capsys.readouterr().err
    assert json.loads((run / "status.json").read_text())["state"] == "failed"
    last = (run / "last.safetensors").read_bytes()
    best.unlink()
    assert re.search(r"best\.safetensors was gone: last\.safetensors is in its place, AP 0\.\d+", said())
    assert best.read_bytes() == last
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    assert scoring.saved_results(best, "val", data / "val.json") is not None
    with monkeypatch.context() as patch:
        patch.setattr(confirming, "confirm", None)
        assert "finished already" in said()
    best.unlink()
    (run / "last.safetensors").unlink()
    assert "best.safetensors and last.safetensors are gone" in said()


def test_a_finished_run_whose_best_model_is_gone_can_be_made_longer(
    run: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "best.safetensors").unlink()
    longer = str(2 * json.loads((run / "status.json").read_text())["step"])
    assert train([str(data), "--out", str(run), "--resume", "--steps", longer]) == 0
    said = capsys.readouterr().err
    assert "best.safetensors is gone: the next model that is scored takes its place" in said
    assert "scores of best.safetensors confirmed: AP" in said
