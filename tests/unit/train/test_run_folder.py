"""What is said of a run's folder that cannot be written, and of what the system refuses elsewhere."""

import errno
import os
from pathlib import Path

import pytest

from detector import files
from detector.errors import ConfigError
from detector.train import lock, run_folder, run_status
from detector.train.run_folder import RunFolder
from detector.train.run_status import Status

FULL, DENIED = (OSError(number, os.strerror(number)) for number in (errno.ENOSPC, errno.EACCES))
AGAIN = "the same command goes on from the last checkpoint"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """With a checkpoint of three megabytes."""
    folder = RunFolder(path=tmp_path / "run")
    checkpoint = folder.checkpoints / "000001-step-5"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.pt").write_bytes(bytes(2_500_000))
    return folder


def test_a_run_that_goes_on_is_told_how_much_room_it_needs(run: RunFolder, tmp_path: Path) -> None:
    said = run_folder.why_unwritable(run, FULL)
    free = files.free_megabytes(tmp_path)
    assert said.startswith(f"{run.path}: cannot be written (No space left on device); {free // 1000}")
    assert said.endswith("MB are free; free some space, 3 MB for the next checkpoint, and run the same command again")
    assert run_folder.why_unwritable(run, DENIED).endswith(
        "(Permission denied); see who may write there, and run the same command again"
    )


def test_a_new_run_may_go_elsewhere_but_not_for_want_of_room(tmp_path: Path) -> None:
    new = RunFolder(path=tmp_path)
    assert run_folder.why_unwritable(new, FULL).endswith("MB are free; free some space and run the same command again")
    assert run_folder.why_unwritable(new, DENIED).endswith("(Permission denied); choose another --out")


def test_the_folder_is_blamed_for_its_own_files_alone(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Permission denied") as caught, files.written_whole(run.best):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    said = run_folder.why_stopped(run, caught.value)
    assert said.startswith(f"{run.best}: cannot be written (Permission denied); see who")
    with pytest.raises(OSError, match="No such file") as caught:
        (tmp_path / "elsewhere").open()
    gone = f"{tmp_path / 'elsewhere'}: No such file or directory; training stopped: see to it, and {AGAIN}"
    assert run_folder.why_stopped(run, caught.value) == gone
    with pytest.raises(OSError, match="Bad file") as caught:
        _fails()
    unnamed = f"(_fails in {Path(__file__).name}: Bad file descriptor); {AGAIN}"
    assert run_folder.why_stopped(run, caught.value).endswith(unnamed)
    assert (
        run_folder.why_stopped(RunFolder(path=tmp_path / "nowhere"), FULL)
        == f"{tmp_path}/nowhere: the run folder is gone"
    )


def test_which_run_is_resumed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="runs: holds no run to resume; name the folder of one with --out, or leave"):
        run_folder.last_unfinished(tmp_path / "runs")
    for number in ("001", "999", "1000"):
        folder = tmp_path / "runs" / f"train-{number}"
        folder.mkdir(parents=True)
        (folder / lock.FILE).touch()
    last = tmp_path / "runs" / "train-1000"
    assert run_folder.last_unfinished(tmp_path / "runs") == last
    run_status.write(last, Status(state="finished"))
    with pytest.raises(ConfigError) as caught:
        run_folder.last_unfinished(tmp_path / "runs")
    others = f"{tmp_path}/runs/train-001, {tmp_path}/runs/train-999"
    assert str(caught.value).startswith(f"{last}: the last run is finished; not finished: {others}; name the one to")


def _fails() -> None:
    os.close(-1)
