"""Checkpoints are whole or not there, and damage is found."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from detector import files
from detector.errors import CheckpointError
from detector.train import checkpoint
from detector.train.checkpoint import MANIFEST, REST, WEIGHTS, Identity, NotWrittenError, Store
from detector.train.state import LearnerState, LoopState, RandomStreams, TrainingState

IDENTITY = Identity(
    config="a: 1",
    classes=("x",),
    splits={"train": "0"},
    teacher=None,
    device="cpu",
    precision="float32",
    environment={},
)
PARTS = (WEIGHTS, REST, MANIFEST)


def state(step: int, value: float = 0.5) -> TrainingState:
    weights = {"model.w": torch.full((3, 2), value), "model.n": torch.tensor(step)}
    learner = LearnerState(
        steps=step,
        stage=0,
        lr_scale=1.0,
        objective=weights,
        optimizer={"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
        average={name: value * 2 for name, value in weights.items()},
        average_starts={"heads.box.": 3},
    )
    return TrainingState(learner=learner, loop=LoopState(images=step), random=RandomStreams.capture())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "checkpoints")


def newest(store: Store) -> tuple[int, tuple[str, ...]]:
    loaded = store.read_newest()
    assert loaded is not None
    return loaded.state.learner.steps, loaded.remarks


def test_the_newest_and_the_one_before_are_kept(store: Store) -> None:
    assert store.read_newest() is None
    for step in (0, 7, 7, 12):
        store.write(state(step), IDENTITY)
    assert [path.name for path in store.paths()] == ["000003-step-7", "000004-step-12"]
    assert sorted(path.name for path in store.paths()[-1].iterdir()) == sorted(PARTS)
    assert newest(store) == (12, ())
    assert len(list(store.folder.iterdir())) == 2


def test_what_is_read_is_what_was_written(store: Store) -> None:
    written = state(3)
    store.write(written, IDENTITY)
    loaded = store.read_newest()
    assert loaded is not None
    assert loaded.identity == IDENTITY
    assert torch.equal(loaded.state.learner.objective["model.w"], written.learner.objective["model.w"])
    assert loaded.state.learner.average_starts == {"heads.box.": 3}
    assert loaded.state.loop == written.loop
    torch.rand(3)
    loaded.state.random.restore()
    drawn = torch.rand(3)
    written.random.restore()
    assert torch.equal(torch.rand(3), drawn)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("how", ["missing", "empty", "cut", "longer", "zeroed"])
def test_damage_is_found_and_the_one_before_is_taken(store: Store, part: str, how: str) -> None:
    for step in (5, 9):
        store.write(state(step), IDENTITY)
    file = store.paths()[-1] / part
    content = file.read_bytes()
    match how:
        case "missing":
            file.unlink()
        case "empty":
            file.write_bytes(b"")
        case "cut":
            file.write_bytes(content[: len(content) // 2])
        case "longer":
            file.write_bytes(content + b"\n")
        case _:
            file.write_bytes(content[:20] + bytes(20) + content[40:])
    step, remarks = newest(store)
    assert step == 5
    assert len(remarks) == 1
    assert str(file) in remarks[0]


def test_going_back_puts_aside_what_is_damaged_and_says_it(store: Store) -> None:
    for step in (5, 9):
        store.write(state(step), IDENTITY)
    (store.paths()[-1] / REST).write_bytes(b"")
    said: list[str] = []
    loaded = store.go_back(said.append)
    assert loaded is not None
    assert loaded.state.learner.steps == 5
    assert len(said) == 1
    assert said[0].startswith(
        f"warning: passed over: {store.folder / '000002-step-9' / REST}: the checksum does not fit"
    )
    assert [path.name for path in store.paths()] == ["000001-step-5"]
    store.write(state(5), IDENTITY)  # as is done with another rate
    assert [path.name for path in store.paths()] == ["000001-step-5", "000002-step-5"]
    assert (store.folder / "000002-step-9.damaged").is_dir()


@given(part=st.sampled_from(PARTS), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_flipped_bit_is_found(store: Store, part: str, place: float, bit: int) -> None:
    if not store.paths():
        store.write(state(5), IDENTITY)
    file = store.paths()[-1] / part
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    whole = file.read_bytes()
    file.write_bytes(content)
    try:
        with pytest.raises(CheckpointError):
            checkpoint.read(file.parent)
    finally:
        file.write_bytes(whole)


@given(part=st.sampled_from(PARTS), share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_cut_is_found(store: Store, part: str, share: float) -> None:
    if not store.paths():
        store.write(state(5), IDENTITY)
    file = store.paths()[-1] / part
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    try:
        with pytest.raises(CheckpointError):
            checkpoint.read(file.parent)
    finally:
        file.write_bytes(whole)


def test_all_damaged_is_an_error_and_never_a_new_start(store: Store) -> None:
    for step in (5, 9):
        store.write(state(step), IDENTITY)
    for path in store.paths():
        (path / REST).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no checkpoint can be read: .*000002-step-9.*000001-step-5.* --out"):
        store.read_newest()


def test_another_format_is_named(store: Store) -> None:
    path = store.write(state(5), IDENTITY)
    body = json.loads((path / MANIFEST).read_text())["manifest"]
    (path / MANIFEST).write_text(checkpoint._sealed(body | {"format": "detector-state-1"}))
    with pytest.raises(CheckpointError, match="is of format 'detector-state-1', not 'detector-state-2'"):
        checkpoint.read(path)


def test_the_damaged_ones_are_set_aside(store: Store) -> None:
    for step in (5, 9):
        store.write(state(step), IDENTITY)
    (store.paths()[-1] / REST).write_bytes(b"")
    loaded = store.read_newest()
    assert loaded is not None
    store.set_aside(loaded.path)
    store.write(state(8), IDENTITY)
    assert [path.name for path in store.paths()] == ["000001-step-5", "000002-step-8"]
    assert (store.folder / "000002-step-9.damaged").is_dir()


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path(CANARY),))


CANARY = "/tmp/detector-checkpoint-canary"


def test_code_in_a_checkpoint_is_never_run(store: Store) -> None:
    """Not even with checksums that fit: whoever writes a file can write its checksum."""
    path = store.write(state(5), IDENTITY)
    Path(CANARY).unlink(missing_ok=True)
    forged(path, {"learner": Evil()})
    with pytest.raises(CheckpointError, match=r"state\.pt: cannot be read safely: it asks for"):
        checkpoint.read(path)
    assert not Path(CANARY).exists()


def forged(path: Path, rest: object) -> Path:
    """A checkpoint with another state, all of whose checksums fit."""
    torch.save(rest, path / REST)
    body = json.loads((path / MANIFEST).read_text())["manifest"]
    body["sha256"][REST] = files.sha256(path / REST)
    (path / MANIFEST).write_text(checkpoint._sealed(body))
    return path


@pytest.mark.parametrize("rest", [[], {}, {"learner": 1}, {"learner": {}, "loop": {}, "random": {}}, None, 3])
def test_a_state_of_another_form_is_refused(store: Store, rest: object) -> None:
    with pytest.raises(CheckpointError, match="another version"):
        checkpoint.read(forged(store.write(state(5), IDENTITY), rest))


def test_a_bomb_in_a_state_is_refused(store: Store) -> None:
    path = store.write(state(5), IDENTITY)
    rest = state(5).rest()
    rest["learner"]["optimizer"]["state"][0]["exp_avg"] = torch.zeros(1).expand(200_000, 200_000)
    with pytest.raises(CheckpointError, match="claims more numbers than it has"):
        checkpoint.read(forged(path, rest))


@pytest.mark.parametrize("part", PARTS)
def test_a_device_in_place_of_a_part_is_not_read(store: Store, part: str) -> None:
    path = store.write(state(5), IDENTITY)
    (path / part).unlink()
    (path / part).symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match=f"{part}: cannot be read .it is no regular file"):
        checkpoint.read(path)


def test_weights_that_are_not_finite_are_not_written(store: Store) -> None:
    store.write(state(5), IDENTITY)
    with pytest.raises(NotWrittenError, match=r"\.w holds values that are not finite: the training diverged$") as e:
        store.write(state(6, value=float("nan")), IDENTITY)
    assert e.value.cure == "lower optim.lr, if going back to it does not help by itself"
    assert newest(store) == (5, ())


def test_a_full_disk_leaves_the_earlier_one_and_nothing_else(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write(state(5), IDENTITY)

    save = torch.save

    def no_room_for_torch(content: object, _: object) -> None:
        with Path("/dev/full").open("wb") as file:
            save(content, file)

    def no_room_for_safetensors(*_: object) -> None:  # which would put a file in the place of the device
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    said = r"checkpoints: No space left on device \(\d+ MB are free, a checkpoint takes 1 MB\)$"
    for name, function in (
        ("torch.save", no_room_for_torch),
        ("detector.train.checkpoint.save_file", no_room_for_safetensors),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(name, function)
            with pytest.raises(NotWrittenError, match=said) as caught:
                store.write(state(6), IDENTITY)
        assert caught.value.cure == "free some space"
    assert [path.name for path in store.folder.iterdir()] == ["000001-step-5"]


def test_a_run_folder_that_is_gone_is_not_made_again(store: Store, tmp_path: Path) -> None:
    gone = Store(tmp_path / "gone" / "checkpoints")
    with pytest.raises(NotWrittenError, match="the run folder is gone"):
        gone.write(state(5), IDENTITY)
    assert not (tmp_path / "gone").exists()


def test_leftovers_of_a_crash_are_removed(store: Store) -> None:
    path = store.write(state(5), IDENTITY)
    shutil.copytree(path, store.folder / ".000002-step-9.123.tmp")
    store.clean()
    assert [path.name for path in store.folder.iterdir()] == ["000001-step-5"]


def test_a_snapshot_does_not_follow_the_training() -> None:
    running = state(5)
    kept = running.snapshot()
    running.learner.objective["model.w"].zero_()
    running.learner.optimizer["state"][0]["exp_avg"].zero_()
    assert kept.learner.objective["model.w"].eq(0.5).all()
    assert kept.learner.optimizer["state"][0]["exp_avg"].eq(1).all()
    assert dataclasses.asdict(kept)["loop"] == dataclasses.asdict(running)["loop"]
