"""What goes wrong while a run is going: each is said, and nothing that was learned is lost."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from detector import cli, config_file
from detector.cli import train
from detector.model import detector as network
from detector.train import run_folder
from detector.train.checkpoint import REST, Identity, NotWrittenError, Store
from detector.train.learner import Learner
from detector.train.lock import RunLock
from detector.train.saver import Saver
from detector.train.state import TrainingState
from tests.faults import modes
from tests.faults.child import NarrowBackbone
from tests.faults.conftest import RUN, steps, weights_sum

Step = Callable[..., Any]


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "Backbone", NarrowBackbone)


def run(data: Path, out: Path, count: int, *options: str) -> int:
    return train([str(data), "--out", str(out), *steps(count), *RUN, *options])


def spoil(monkeypatch: pytest.MonkeyPatch, is_bad: Callable[[int], bool]) -> None:
    """Make boxes of some steps NaN."""
    learn = Learner.learn

    def spoilt(self: Learner, batch: Any, *args: Any, **kwargs: Any) -> Any:
        if is_bad(self.steps):
            batch.targets.boxes.fill_(float("nan"))
        return learn(self, batch, *args, **kwargs)

    monkeypatch.setattr(Learner, "learn", spoilt)


def at_step(monkeypatch: pytest.MonkeyPatch, number: int, happen: Callable[[], object]) -> None:
    """Something happens before a step."""
    learn = Learner.learn

    def struck(self: Learner, *args: Any, **kwargs: Any) -> Any:
        if self.steps == number:
            happen()
        return learn(self, *args, **kwargs)

    monkeypatch.setattr(Learner, "learn", struck)


def status(out: Path) -> dict[str, Any]:
    return json.loads((out / "status.json").read_text())


def newest(out: Path) -> Any:
    loaded = Store(out / "checkpoints").read_newest()
    assert loaded is not None
    return loaded.state


def test_a_step_that_is_not_finite_is_left_out_counted_and_can_be_replayed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before: list[list[torch.Tensor]] = []
    learn = Learner.learn

    def watched(self: Learner, *args: Any, **kwargs: Any) -> Any:
        if self.steps in (4, 5):
            model = self.objective.model
            before.append([tensor.clone() for tensor in [*model.parameters(), *self.statistics()]])
        return learn(self, *args, **kwargs)

    spoil(monkeypatch, lambda step: step == 4)
    spoilt = Learner.learn
    monkeypatch.setattr(Learner, "learn", watched)
    learn = spoilt
    out = tmp_path / "run"
    assert run(data, out, 6) == 0
    assert all(torch.equal(a, b) for a, b in zip(*before, strict=True))
    assert status(out)["skipped_steps"] == newest(out).loop.skipped == 1
    said = capsys.readouterr().err
    file = out / "nonfinite-step-5.pt"
    assert "of step 5 is not finite: the step was left out (1 so far)" in said
    assert f"detector replay {file}" in said
    assert cli.main(["replay", str(file), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert "the gradient of step 5" in said
    assert "nan" in again["gradient_norms"].values()
    assert len(again["images"]) == 2
    assert again["bad_boxes"][0].startswith(f"box 0 of {again['images'][0]} (x1, y1, x2, y2 = nan")


def test_a_run_that_diverges_goes_back_with_half_the_rate_and_then_stops(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(monkeypatch, lambda step: step >= 5)
    assert run(data, tmp_path / "run", 14) == 1
    said = capsys.readouterr().err
    for scale in ("0.5", "0.25", "0.125"):
        assert f"with {scale} of the learning rate from now on" in said
    lr = config_file.load(tmp_path / "run" / "config.yaml").optim.lr
    assert f"also after going back 3 times: lower optim.lr = {lr:g} (the rate was " in said
    assert status(tmp_path / "run")["state"] == "failed"
    assert len(list((tmp_path / "run").glob("nonfinite-*"))) == 3


def test_a_run_that_recovers_after_going_back_ends_well(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [5]

    def is_bad(step: int) -> bool:
        left[0] -= step >= 5
        return step >= 5 and left[0] >= 0

    spoil(monkeypatch, is_bad)
    assert run(data, tmp_path / "run", 10) == 0
    state = newest(tmp_path / "run")
    assert (state.learner.lr_scale, state.loop.rollbacks, state.learner.steps) == (0.5, 1, 10)
    assert state.loop.skipped == 5
    assert status(tmp_path / "run")["skipped_steps"] == 5
    rows = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows == sorted(rows)


def test_an_average_that_is_not_finite_is_neither_saved_nor_scored(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training itself sees nothing of it: no loss is of the average."""
    learn, left = Learner.learn, [1]

    def spoilt(self: Learner, *args: Any, **kwargs: Any) -> Any:
        learned = learn(self, *args, **kwargs)
        if self.steps == 5 and left:
            left.pop()
            next(self.kept.parameters()).data.fill_(float("nan"))
        return learned

    monkeypatch.setattr(Learner, "learn", spoilt)
    save = Saver.save
    monkeypatch.setattr(Saver, "save", lambda self, capture, wait=False: save(self, capture, wait=True))
    monkeypatch.setattr(Saver, "is_due", property(lambda _: True))
    out = tmp_path / "run"
    assert run(data, out, 12) == 0  # scored after 4, 8 and 12
    said = capsys.readouterr().err
    assert re.search(r"warning: no checkpoint of step 5: average\.\S+ holds values that are not finite", said)
    assert (
        "that of step 4 stands; training goes on; lower optim.lr, if going back to it does not help by itself" in said
    )
    assert "what the model says of the validation images is not finite: back to step 4, with 0.5 of the" in said
    state = newest(out)
    assert (state.learner.steps, state.loop.rollbacks, state.loop.finished) == (12, 1, True)
    assert all(tensor.isfinite().all() for tensor in state.weights().values())


def test_a_clock_that_jumps_changes_nothing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(data, tmp_path / "straight", 4) == 0
    now = itertools.cycle([0.0, 4e9, 1e9])
    monkeypatch.setattr("time.time", lambda: next(now))
    assert run(data, tmp_path / "jumping", 4) == 0
    assert weights_sum(tmp_path / "jumping") == weights_sum(tmp_path / "straight")


def test_too_little_memory_takes_the_batch_in_parts(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    learn = Learner.learn

    def greedy(self: Learner, batch: Any, *args: Any, **kwargs: Any) -> Any:
        if self.steps == 3 and self.micro_batches == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")
        return learn(self, batch, *args, **kwargs)

    monkeypatch.setattr(Learner, "learn", greedy)
    out = tmp_path / "run"
    assert run(data, out, 6, "--set", "balance.kind=fixed") == 0
    said = capsys.readouterr().err
    assert "Tried to allocate 2 GiB): back to step" in said
    assert "with the same batches in 2 parts (memory.micro_batches) from now on" in said
    assert newest(out).learner.steps == 6
    assert run(data, tmp_path / "other", 6) == 1
    assert "set a smaller data.batch_size" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_keeps_the_earlier_checkpoint_and_training_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save = torch.save
    calls: list[int] = []

    def full(content: Any, file: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            with Path("/dev/full").open("wb") as file:
                save(content, file)
        save(content, file)

    monkeypatch.setattr(torch, "save", full)
    out = tmp_path / "run"
    assert run(data, out, 6) == 0
    said = capsys.readouterr().err
    assert re.search(r"No space left on device \(\d+ MB are free, a checkpoint takes 1 MB\); that of step", said)
    assert "training goes on; free some space" in said
    assert "enforce" not in said
    assert newest(out).loop.finished


def test_a_stop_whose_state_does_not_fit_on_the_disk_says_what_is_lost(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write, out = Store.write, tmp_path / "run"

    def full(self: Store, state: TrainingState, identity: Identity) -> Path:
        if state.learner.steps > 0:
            raise NotWrittenError("no room", "free some space")
        return write(self, state, identity)

    monkeypatch.setattr(Store, "write", full)
    at_step(monkeypatch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert run(data, out, 40) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == (
        "error: no checkpoint of step 4: no room; free some space and run the same command again, which goes on "
        "from step 0"
    )
    assert (out / "last.safetensors").is_file()


def test_a_run_folder_that_is_removed_ends_the_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"

    def remove() -> None:
        while out.exists():  # again where a checkpoint that is being written moves from under it
            shutil.rmtree(out, ignore_errors=True)

    at_step(monkeypatch, 3, remove)
    assert run(data, out, 40) == 1
    assert f"{out}: the run folder is gone" in capsys.readouterr().err


def test_a_run_folder_that_becomes_read_only_keeps_what_it_has(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"

    def close() -> None:
        for thread in threading.enumerate():
            if thread.name == "checkpoint":  # what has begun is still to be written
                thread.join()
        for folder in (out / "checkpoints", out):
            folder.chmod(0o555)

    with modes.heeded():
        with monkeypatch.context() as patch:
            at_step(patch, 3, close)
            assert run(data, out, 6) == 1
        said = capsys.readouterr().err
        assert f"warning: {out}: the record of the run cannot be written (Permission denied)" in said
        assert f"warning: no checkpoint of step 4: {out / 'checkpoints'}: Permission denied" in said
        assert re.search("that of step [23] stands; training goes on", said)
        assert f"error: {out}/last.safetensors: cannot be written (Permission denied); see who may write" in said
        for folder in (out, out / "checkpoints"):
            folder.chmod(0o755)
        assert newest(out).learner.steps in (2, 3)
        assert run(data, out, 6) == 0
    assert run(data, tmp_path / "alone", 6) == 0
    assert weights_sum(out) == weights_sum(tmp_path / "alone")


@pytest.mark.parametrize(("step", "needed"), [(2, "train"), (3, "val")])  # step 4 is scored
def test_when_all_images_are_gone_no_step_is_lost(
    step: int,
    needed: str,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own, out, aside = tmp_path / "data", tmp_path / "run", tmp_path / "aside"
    shutil.copytree(data, own)
    seldom = ("--set", "checkpoint.seconds=1000")
    with monkeypatch.context() as patch:
        at_step(patch, step, lambda: (own / "images").rename(aside))
        assert run(own, out, 6, *seldom) == 3
    assert f"error: {own / needed}.json: none of its" in capsys.readouterr().err
    assert newest(out).learner.steps == step + 1
    assert status(out)["state"] == "failed"
    aside.rename(own / "images")
    assert run(own, out, 6, *seldom) == 0
    assert run(own, tmp_path / "alone", 6, *seldom) == 0
    assert weights_sum(out) == weights_sum(tmp_path / "alone")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_log_that_cannot_be_written_is_said_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"

    def fill_up() -> None:
        full = os.open("/dev/full", os.O_WRONLY)
        for name in ("metrics.jsonl", "train.log"):
            for link in Path("/proc/self/fd").iterdir():
                if os.path.realpath(link) == str(out / name):
                    os.dup2(full, int(link.name))
        os.close(full)

    at_step(monkeypatch, 3, fill_up)
    assert run(data, out, 6) == 0
    said = capsys.readouterr().err
    assert said.count(f"{out}: the record of the run cannot be written (No space left on device)") == 1
    assert "validation at step 6" in said
    assert (newest(out).learner.steps, status(out)["state"]) == (6, "finished")


def test_a_damaged_checkpoint_is_passed_over_with_a_word(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run(data, out, 6) == 0
    file = Store(out / "checkpoints").paths()[-1] / REST
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    assert run(data, out, 6) == 0
    assert f"resume: {file}: the checksum does not fit" in capsys.readouterr().err
    for path in Store(out / "checkpoints").paths():
        (path / REST).unlink()
    assert run(data, out, 6) == 4
    assert "no checkpoint can be read" in capsys.readouterr().err
    shutil.rmtree(out / "checkpoints")
    assert run(data, out, 6) == 4
    assert "holds a run without checkpoints" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--batch-size", "3"), "data.batch_size = 2, now it is 3"),
        (("--seed", "9"), "seed = 0, now it is 9"),
        (("--set", "model.heads.box.weight=2"), "model.heads.box.weight = 1.0, now it is 2.0"),
        (("--steps", "9"), "length.steps = 4, now it is 9; give --resume"),
        (("--steps", "3", "--resume"), "length: 3 steps, but 4 steps are done already"),
    ],
)
def test_what_does_not_fit_is_named(
    options: tuple[str, ...], message: str, short: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (short / "config.yaml").read_bytes()
    assert run(data, short, 4, *options) == 2
    assert message in capsys.readouterr().err
    assert (short / "config.yaml").read_bytes() == before


@pytest.fixture(scope="module")
def short(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("short") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "Backbone", NarrowBackbone)
        assert run(data, out, 4) == 0
    return out


def test_other_data_and_other_classes_are_named(
    data: Path, short: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(data, tmp_path / "data")
    tree = json.loads((data / "train.json").read_text())
    (tmp_path / "data" / "train.json").write_text(json.dumps(tree, indent=1))
    assert run(tmp_path / "data", short, 4) == 2
    assert "another data set: the train annotations" in capsys.readouterr().err
    for name in ("train", "val"):
        tree = json.loads((data / f"{name}.json").read_text())
        tree["categories"][1]["name"] = "ball"
        (tmp_path / "data" / f"{name}.json").write_text(json.dumps(tree))
    assert run(tmp_path / "data", short, 4) == 2
    assert "on the classes box, disc; the data now have box, ball" in capsys.readouterr().err


def test_a_longer_run_goes_on_and_says_how(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert run(data, out, 6) == 0
    capsys.readouterr()
    assert train([str(data), "--out", str(out), "--resume", "--steps", "10", "--device", "cpu"]) == 0
    said = capsys.readouterr().err
    assert "8 steps" not in said
    assert "length: 10 steps instead of 6 steps: step 6 is now at 60% of the run instead of 100%" in said
    assert newest(out).learner.steps == 10
    assert "steps: 10" in (out / "config.yaml").read_text()


def test_a_run_that_was_killed_before_its_settings_were_written_begins_again(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (".detector-lock", "environment.json", ".best.safetensors.123.tmp"):
        (tmp_path / name).touch()
    assert run(data, tmp_path, 2) == 0
    assert "holds a run that ended before its first step; it begins again" in capsys.readouterr().err
    assert not list(tmp_path.glob(".*.tmp"))


def test_files_of_the_user_are_no_run(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = {".lock": "1", "config.yaml": "mine: 1", "data.json": "{}", ".draft.tmp": "draft", ".a.1.tmp": "b"}
    for name, text in mine.items():
        (tmp_path / name).write_text(text)
    assert run(data, tmp_path, 2) == 2
    assert "is not an empty folder" in capsys.readouterr().err
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == mine


def test_a_run_that_was_killed_before_it_had_a_status_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "train-001"
    folder.mkdir(parents=True)
    (folder / ".detector-lock").touch()
    assert run_folder.last_unfinished() == Path("runs/train-001")


def test_a_reader_of_what_is_said_may_leave(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "tests.faults.child", "none", str(data), "--out", str(out), *steps(6), *RUN]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as training:
        assert training.stderr is not None
        training.stderr.readline()
        training.stderr.close()
        assert training.wait(120) == 0
    assert status(out)["state"] == "finished"


def test_nothing_to_resume_is_an_error(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(data, tmp_path / "run", 4, "--resume") == 2
    assert "holds no run to resume" in capsys.readouterr().err


def test_a_run_knows_its_data(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(data, "data")
    assert train(["--resume"]) == 2
    assert "error: runs: holds no run to resume" in capsys.readouterr().err
    assert train(["data", *steps(2), *RUN]) == 0
    assert train(["--resume"]) == 2
    assert "error: runs/train-001: the last run is finished; name the one to go on with" in capsys.readouterr().err
    longer = ["--resume", "--out", "runs/train-001", "--steps", "3", "--device", "cpu"]
    noted = json.loads(Path("runs/train-001/data.json").read_text())["splits"]["val"]["image_folder"]
    Path("other.json").write_text(Path("data/val.json").read_text() + "\n")
    assert train([*longer, "--val-json", "other.json", "--images", noted]) == 2
    assert "the val annotations are not those of runs/train-001/data.json" in capsys.readouterr().err
    shutil.copy("data/val.json", "same.json")
    assert train([*longer, "--val-json", "same.json", "--images", noted]) == 0
    assert newest(Path("runs/train-001")).learner.steps == 3
    Path("data").rename("elsewhere")
    capsys.readouterr()
    assert train([*longer, "--steps", "4"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path / 'data' / 'train.json'}: the train data of runs/train-001 are no longer")
    assert train(["elsewhere", *longer, "--steps", "4"]) == 0


def test_status_for_people_and_programs(short: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", str(short)]) == 0
    text = capsys.readouterr().out
    for part in ("state       finished: 4 steps", "done        100%, step 4", "checkpoint  of step 4", "best AP"):
        assert part in text
    assert cli.main(["status", str(short), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["state"], values["is_alive"], values["step"]) == ("finished", False, 4)
    assert cli.main(["status", str(short / "nowhere")]) == 2


def test_the_lock_is_of_another_process(data: Path, tmp_path: Path) -> None:
    hold = "import sys, time; from pathlib import Path; from detector.train.lock import RunLock\n"
    hold += "with RunLock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("detector.train.lock.PATIENCE", 0.2)
            with pytest.raises(Exception, match=f"process {holder.pid} is training in this folder"):
                RunLock(tmp_path).__enter__()
    finally:
        holder.kill()
        holder.communicate()
    with RunLock(tmp_path):
        pass
