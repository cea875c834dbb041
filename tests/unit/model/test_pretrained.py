"""What may be given to --init, and what is refused."""

import pickle
from pathlib import Path

import pytest
import torch

from detector import recipes
from detector.errors import CheckpointError
from detector.model import detector as network
from detector.model import model_file, pretrained
from detector.model.detector import DetectionModel
from detector.model.model_file import TrainedModel
from detector.types import LabelMap, Preprocess

SMALL = recipes.small()


def fresh(num_classes: int = 2) -> DetectionModel:
    return network.build(SMALL, num_classes=num_classes, preprocess=Preprocess(canvas_hw=(64, 64)))


def test_none_leaves_the_random_start() -> None:
    assert pretrained.initialise(fresh(), "none", SMALL) is None


def test_our_own_file_with_other_classes_gives_all_but_the_class_outputs(tmp_path: Path) -> None:
    source = fresh(num_classes=5)
    path = tmp_path / "five.safetensors"
    label_map = LabelMap(names=tuple("abcde"), category_ids=(1, 2, 3, 4, 5))
    model_file.save(
        path,
        TrainedModel(model=source, config=SMALL, label_map=label_map, preprocess=Preprocess(canvas_hw=(64, 64))),
    )
    model = fresh()
    loaded = pretrained.initialise(model, str(path), SMALL)
    assert loaded is not None
    assert set(loaded.random) == {"classification.output.weight", "classification.output.bias"}
    assert torch.equal(model.box.output.weight, source.box.output.weight)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("open('pwned', 'w').close()",)


def test_code_in_a_pickle_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, write in (
        ("torch.pth", torch.save),
        ("raw.pth", lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))),
    ):
        write(Evil(), tmp_path / name)
        with pytest.raises(CheckpointError, match="loaded safely"):
            pretrained.initialise(fresh(), str(tmp_path / name), SMALL)
    assert not (tmp_path / "pwned").exists()


def test_refuses_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such weights file"):
        pretrained.initialise(fresh(), str(tmp_path / "gone.pth"), SMALL)
    torch.save({"conv1.weight": torch.zeros(2, 2)}, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match="not one of its 1 tensors fits"):
        pretrained.initialise(fresh(), str(tmp_path / "odd.pth"), SMALL)
    torch.save([1, 2, 3], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds no state dict"):
        pretrained.initialise(fresh(), str(tmp_path / "list.pth"), SMALL)


@pytest.mark.parametrize(
    ("block", "part", "norm", "expected"),
    [(0, "0", False, 0), (2, "0", False, 4), (2, "1", True, 7), (4, None, False, 4), (4, None, True, 6)],
)
def test_tower_positions(block: int, part: str | None, norm: bool, expected: int) -> None:
    assert pretrained._tower_index(block, part, norm) == expected
