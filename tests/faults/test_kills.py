"""A run that is killed and started again ends with the very bytes of the run that nothing happened to.

`make faults` strikes many times; the number is in DETECTOR_FAULTS.
"""

import json
import os
import random
import signal
from pathlib import Path

import pytest

from detector.train.checkpoint import Store
from tests.faults.conftest import RUN, STEPS, child, steps, weights_sum

STRIKES = int(os.environ.get("DETECTOR_FAULTS", "100"))
MOMENTS = 60  # of one save, at least: beyond the last the process is not killed


def finish(data: Path, out: Path, undisturbed: Path, *options: str) -> str:
    """Run the same command again and compare; what it said."""
    code, errors = child(data, out, *steps(STEPS), *RUN, *options)
    assert code == 0, errors
    assert weights_sum(out) == weights_sum(undisturbed)
    return errors


def rows(out: Path) -> list[tuple[str, int]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(line["kind"], line["step"]) for line in lines]


def test_killed_at_a_step_and_started_again(data: Path, tmp_path: Path, undisturbed: Path) -> None:
    out = tmp_path / "run"
    code, _ = child(data, out, *steps(STEPS), *RUN, fault="kill-at-step=9")
    assert code == -signal.SIGKILL
    assert json.loads((out / "status.json").read_text())["state"] == "running"
    said = finish(data, out, undisturbed)
    assert "goes on with the unfinished run" in said
    assert [step for _, step in rows(out)] == sorted(step for _, step in rows(out))
    assert [step for kind, step in rows(out) if kind == "evaluation"] == [5, 10, STEPS]
    assert json.loads((out / "status.json").read_text())["state"] == "finished"
    # Once more: nothing is left to do.
    before = (out / "metrics.jsonl").read_bytes()
    assert "was finished already" in finish(data, out, undisturbed)
    assert (out / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("moment", [9, 25], ids=["the first", "another"])
def test_killed_in_a_save(moment: int, data: Path, tmp_path: Path, undisturbed: Path) -> None:
    out = tmp_path / "run"
    code, _ = child(data, out, *steps(STEPS), *RUN, fault=f"kill-in-save={moment}")
    assert code == -signal.SIGKILL
    finish(data, out, undisturbed)
    assert not [path for path in (out / "checkpoints").iterdir() if path.name.startswith(".")]


def test_killed_in_a_scoring(data: Path, tmp_path: Path, undisturbed: Path) -> None:
    out = tmp_path / "run"
    code, errors = child(data, out, *steps(STEPS), *RUN, fault="kill-in-scoring=8")
    assert code == -signal.SIGKILL, errors
    assert [step for kind, step in rows(out) if kind == "evaluation"] == [5]
    finish(data, out, undisturbed)
    assert [step for kind, step in rows(out) if kind == "evaluation"] == [5, 10, STEPS]


def test_sigterm_loses_no_step_and_other_workers_change_nothing(data: Path, tmp_path: Path, undisturbed: Path) -> None:
    out = tmp_path / "run"
    code, errors = child(data, out, *steps(STEPS), *RUN, fault="sigterm-at-step=6")
    assert code == 128 + signal.SIGTERM, errors
    status = json.loads((out / "status.json").read_text())
    assert (status["state"], status["reason"]) == ("interrupted", "SIGTERM at step 7")
    loaded = Store(out / "checkpoints").read_newest()
    assert loaded is not None
    assert loaded.state.learner.steps == 7
    # The settings in the model file name the workers: the tensors are compared by another test.
    code, errors = child(data, out, *steps(STEPS), *RUN[:-2], "--workers", "1", "--resume")
    assert code == 0, errors
    assert tensors(out) == tensors(undisturbed)


def tensors(out: Path) -> bytes:
    content = (out / "last.safetensors").read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


def test_sigusr1_saves_and_goes_on(data: Path, tmp_path: Path, undisturbed: Path) -> None:
    out = tmp_path / "run"
    seldom = [word.replace("checkpoint.seconds=0", "checkpoint.seconds=1000") for word in RUN]
    code, errors = child(data, out, *steps(STEPS), *seldom, fault="sigusr1-at-step=6")
    assert code == 0, errors
    assert "checkpoint of step 7, as asked by a signal" in errors
    assert tensors(out) == tensors(undisturbed)


def test_a_terminal_that_is_closed_loses_no_step(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, errors = child(data, out, *steps(STEPS), *RUN, fault="sighup-at-step=6")
    assert code == 128 + signal.SIGHUP, errors
    loaded = Store(out / "checkpoints").read_newest()
    assert loaded is not None
    assert loaded.state.learner.steps == 7


def test_signals_before_the_first_step_are_heard(data: Path, tmp_path: Path, undisturbed: Path) -> None:
    out = tmp_path / "run"
    code, errors = child(data, out, *steps(STEPS), *RUN, fault=f"signal-in-preflight={signal.SIGTERM.value}")
    assert code == 128 + signal.SIGTERM, errors
    assert json.loads((out / "status.json").read_text())["reason"] == "SIGTERM at step 0"
    assert "preflight: about" not in errors  # it ended there
    assert "preflight: about" in finish(data, out, undisturbed)
    other = tmp_path / "other"
    code, errors = child(data, other, *steps(STEPS), *RUN, fault=f"signal-in-preflight={signal.SIGUSR1.value}")
    assert code == 0, errors
    assert tensors(other) == tensors(undisturbed)


def test_a_run_that_cannot_be_gone_on_with_does_not_begin(data: Path, tmp_path: Path, undisturbed: Path) -> None:
    """Its first state does not fit on the disk."""
    out = tmp_path / "run"
    code, errors = child(data, out, *steps(STEPS), *RUN, fault="full-disk-at-save=1")
    assert code == 1, errors
    assert "error: no checkpoint of step 0: " in errors
    assert "nothing was trained yet; lift the limit on the size of a file (ulimit -f) and run the same" in errors
    finish(data, out, undisturbed)


def test_an_end_that_cannot_be_kept_is_no_end(data: Path, tmp_path: Path, undisturbed: Path) -> None:
    out = tmp_path / "run"
    code, errors = child(data, out, *steps(STEPS), *RUN, fault="full-disk-at-save=3")
    assert code == 1, errors
    assert f"error: no checkpoint of step {STEPS}: " in errors
    good = Store(out / "checkpoints").newest_step()
    assert good is not None
    assert good < STEPS
    assert f"run the same command again, which goes on from step {good}" in errors
    assert weights_sum(out) == weights_sum(undisturbed)  # the models are there all the same
    assert json.loads((out / "status.json").read_text())["state"] == "failed"
    assert "goes on with the unfinished run" in finish(data, out, undisturbed)


@pytest.mark.faults
@pytest.mark.parametrize("strike", range(STRIKES))
@pytest.mark.parametrize("kind", ["kill-at-step", "kill-in-save", "sigterm-at-step"])
def test_struck_again_and_again(kind: str, strike: int, data: Path, tmp_path: Path, undisturbed: Path) -> None:
    """Up to three times in a row, then to the end."""
    rng = random.Random(f"{kind}{strike}")
    out = tmp_path / "run"
    for _ in range(rng.randint(1, 3)):
        number = rng.randrange(MOMENTS if kind == "kill-in-save" else STEPS)
        code, errors = child(data, out, *steps(STEPS), *RUN, fault=f"{kind}={number}")
        assert code in (0, -signal.SIGKILL, 128 + signal.SIGTERM), errors
    finish(data, out, undisturbed)


@pytest.mark.faults
def test_struck_many_times_in_one_run(data: Path, tmp_path: Path) -> None:
    """Ten steps are done between two kills, of which those since the last checkpoint are lost."""
    out, alone, count = tmp_path / "run", tmp_path / "alone", 10 * STRIKES
    for number in range(5, count, 10):
        code, errors = child(data, out, *steps(count), *RUN, fault=f"kill-at-step={number}")
        assert code == -signal.SIGKILL, errors
    assert child(data, out, *steps(count), *RUN)[0] == 0
    assert child(data, alone, *steps(count), *RUN)[0] == 0
    assert weights_sum(out) == weights_sum(alone)
