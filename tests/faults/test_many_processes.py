"""Several processes learn what one learns, and a run of theirs survives what a run of one survives."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from detector import cli
from detector.model import detector as network
from detector.model import torch_file
from detector.predict import output
from detector.train.checkpoint import Store
from tests.faults import many
from tests.faults.child import NarrowBackbone
from tests.faults.conftest import ROOT, RUN, STEPS, steps, weights_sum

# Statistics of norms that learn are those of the images that a process has. The recipe is a fixed one, so that a rule
# of auto does not move what is compared: AdamW enlarges rounding wherever a gradient is next to nothing.
SAME = [*RUN, "--recipe", "small", "--set", "model.norm=frozen"]
BOTH_DRAW = dict.fromkeys(range(2), "draws-and-dies=9")


def weights(out: Path) -> dict[str, torch.Tensor]:
    loaded = Store(out / "checkpoints").read_newest()
    assert loaded is not None
    assert loaded.state.learner.steps == STEPS
    return loaded.state.weights()


def scorings(out: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "evaluation"]


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """To a millionth of the largest weight of each tensor."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        atol = 1e-6 * float(tensor.abs().max()) if tensor.is_floating_point() else 0.0
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=atol, msg=name)


@pytest.fixture(scope="module")
def of_one(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("one") / "run"
    assert many.train(data, out, *steps(STEPS), *SAME, size=1).codes == (0,)
    return out


@pytest.fixture(scope="module")
def of_two(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("two") / "run"
    ended = many.train(data, out, *steps(STEPS), *SAME)
    assert ended.codes == (0, 0), ended.said
    assert "processes: 2, each with 1 images a step" in ended.said[0]
    assert "scores of best.safetensors confirmed to 0.001: AP" in ended.said[0]
    assert ended.said[1] == ""
    return out


def test_two_processes_learn_what_one_learns(of_one: Path, of_two: Path) -> None:
    assert_close(weights(of_two), weights(of_one))
    for found, expected in zip(scorings(of_two), scorings(of_one), strict=True):
        assert (found["step"], found["epoch"]) == (expected["step"], expected["epoch"])
        assert found["ap"] == pytest.approx(expected["ap"], abs=1e-6)


def test_one_dies_the_other_ends_and_the_same_command_goes_on(data: Path, tmp_path: Path, of_two: Path) -> None:
    out = tmp_path / "run"
    ended = many.train(data, out, *steps(STEPS), *SAME, faults={1: "kill-at-step=9"})
    assert ended.codes == (1, -signal.SIGKILL)
    assert ended.spread < 60
    assert "another process has ended" in ended.said[0]
    assert json.loads((out / "status.json").read_text())["reason"].startswith("another process has ended")
    ended = many.train(data, out, *steps(STEPS), *SAME)
    assert ended.codes == (0, 0), ended.said
    assert "goes on with the unfinished run" in ended.said[0]
    assert weights_sum(out) == weights_sum(of_two)
    # Once more: nothing is left to do.
    ended = many.train(data, out, *steps(STEPS), *SAME)
    assert "was finished already" in ended.said[0]
    assert (ended.codes, ended.said[1]) == ((0, 0), "")


def test_a_signal_to_one_stops_both_and_one_process_goes_on(data: Path, tmp_path: Path, of_two: Path) -> None:
    out = tmp_path / "run"
    ended = many.train(data, out, *steps(STEPS), *SAME, faults={1: "sigterm-at-step=6"})
    assert ended.codes == (128 + signal.SIGTERM,) * 2, ended.said
    status = json.loads((out / "status.json").read_text())
    assert (status["state"], status["reason"]) == ("interrupted", "SIGTERM at step 7")
    assert many.train(data, out, *steps(STEPS), *SAME, size=1).codes == (0,)
    assert_close(weights(out), weights(of_two))


def test_one_that_is_silent_is_given_up(data: Path, tmp_path: Path) -> None:
    ended = many.train(
        data, tmp_path / "run", *steps(STEPS), *SAME, faults=dict.fromkeys(range(2), "falls-silent=5"), awaited=(0,)
    )
    assert ended.codes[0] == 1
    assert "process 1 has not been heard of" in ended.said[0]


def test_two_processes_score_as_one(data: Path, tmp_path: Path, of_two: Path) -> None:
    said: list[str] = []
    for size in (1, 3):  # of two images: one process has none
        out = tmp_path / str(size)
        words = ("eval", str(of_two / "last.safetensors"), str(data), "--split", "val", "--out", str(out))
        ended = many.run(*words, "--device", "cpu", logs=out, size=size)
        assert ended.codes == (0,) * size, ended.said
        assert ended.said[1:] == ("",) * (size - 1)
        said.append(ended.said[0].replace(str(out), ""))
    of_one, of_three = (json.loads((tmp_path / size / "predictions.json").read_text()) for size in ("1", "3"))
    assert len(of_three) == len(of_one) > 0
    for a, b in zip(of_three, of_one, strict=True):
        assert (a["image_id"], a["category_id"]) == (b["image_id"], b["category_id"])
        # Other batches round otherwise.
        assert [*a["bbox"], a["score"]] == pytest.approx([*b["bbox"], b["score"]], rel=1e-4, abs=1e-4)
    assert said[0] == said[1]


def test_two_processes_predict_the_very_files_of_one(data: Path, tmp_path: Path, of_two: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(3):
        for file in sorted((data / "images").iterdir()):
            shutil.copy(file, images / f"{number}-{file.name}")
    assert len([*images.iterdir()]) > 2 * output.BATCH_SIZE  # three batches: one process has none in the second round
    (images / "1-unreadable.png").write_bytes(b"no image")
    said: list[str] = []
    found: list[dict[str, bytes]] = []
    for size in (1, 2):
        out = tmp_path / str(size)
        words = ("predict", str(of_two / "last.safetensors"), str(images), "--out", str(out), "--score", "0.01")
        ended = many.run(*words, "--device", "cpu", logs=out, size=size)
        assert ended.codes == (0,) * size, ended.said
        assert ended.said[1:] == ("",) * (size - 1)
        said.append(ended.said[0].replace(str(out), ""))
        found.append({file.name: file.read_bytes() for file in out.iterdir()})
    assert "unreadable" in said[0]
    assert said[1] == said[0]
    assert found[1] == found[0]
    assert len(json.loads(found[0]["predictions.json"])) > 0


def test_a_step_that_is_not_finite_is_written_with_the_images_of_all(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    ended = many.train(data, out, *steps(6), *SAME, faults={1: "nan-at-step=4"})
    assert ended.codes == (0, 0), ended.said
    file = out / "nonfinite-step-5.pt"
    assert f"of step 5 is not finite: the step was left out (1 so far); `detector replay {file}`" in ended.said[0]
    boxes = torch_file.read(file)["targets"]["boxes"]
    assert [bool(one.isfinite().all()) for one in boxes] == [True, False]  # each process has one image
    monkeypatch.setattr(network, "Backbone", NarrowBackbone)
    assert cli.main(["replay", str(file), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert len(set(again["images"])) == 2
    assert "nan" in again["gradient_norms"].values()


def test_each_process_draws_from_streams_of_its_own_also_after_a_restart(data: Path, tmp_path: Path) -> None:
    drawn: list[tuple[list[str], ...]] = []
    sums: list[str] = []
    for name in ("left alone", "killed"):
        folder, out = tmp_path / name, tmp_path / name / "run"
        folder.mkdir()
        if name == "left alone":
            (folder / "killed").touch()
        else:
            died = many.train(data, out, *steps(STEPS), *SAME, faults=BOTH_DRAW, marker=folder)
            assert died.codes == (1, -signal.SIGKILL), died.said
            for file in folder.glob("drawn-*.txt"):
                file.unlink()
        ended = many.train(data, out, *steps(STEPS), *SAME, faults=BOTH_DRAW, marker=folder)
        assert ended.codes == (0, 0), ended.said
        drawn.append(tuple((folder / f"drawn-{rank}.txt").read_text().splitlines() for rank in range(2)))
        sums.append(weights_sum(out))
    for of_killed, of_whole in zip(drawn[1], drawn[0], strict=True):
        assert 0 < len(of_killed) < len(of_whole) == STEPS
        assert of_killed == of_whole[-len(of_killed) :]
    assert not set(drawn[0][0]) & set(drawn[0][1])
    assert sums[1] == sums[0]


def test_cut_outs_and_a_length_in_minutes_go_together(data: Path, tmp_path: Path) -> None:
    ended = many.train(data, tmp_path / "run", "--minutes", "0.02", *SAME)
    assert ended.codes == (0, 0), ended.said


def test_torchrun_starts_them_again(data: Path, tmp_path: Path, of_two: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    command += ["-m", "tests.faults.child", "process-dies=9", str(data), "--out", str(out), *steps(STEPS), *SAME]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "FAULT_MARKER": str(tmp_path / "marker"),
    }
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "marker").exists()
    assert "goes on with the unfinished run" in done.stderr
    assert weights_sum(out) == weights_sum(of_two)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--batch-size", "3"), "data.batch_size = 3: is that of all 2 processes"),
        (("--set", "model.norm=sync"), "torch has no such norm for a CPU"),
    ],
)
def test_what_several_processes_cannot_do_is_said(
    options: tuple[str, ...], reason: str, data: Path, tmp_path: Path
) -> None:
    ended = many.train(data, tmp_path / "run", *steps(2), *RUN, *options)
    assert ended.codes == (2, 2)
    assert reason in ended.said[0]
