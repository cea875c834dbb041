"""A model file is whole and itself, or it is refused before a weight is used."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from detector import config_file, recipes
from detector.errors import CheckpointError
from detector.model import detector as network
from detector.model import model_file
from detector.model.model_file import TrainedModel
from detector.types import LabelMap, Preprocess


@pytest.fixture(scope="module")
def trained() -> TrainedModel:
    config = config_file.override(
        recipes.small(),
        {"model.pyramid.width": 16, "model.heads.box.tower.width": 16, "model.heads.classification.tower.width": 16},
    )
    preprocess = Preprocess(canvas_hw=(64, 96), padding=7)
    label_map = LabelMap(names=("cat", "Füchse", "<b>"), category_ids=(90, 1, 2**40))
    model = network.build(config, num_classes=3, preprocess=preprocess)
    return TrainedModel(model=model, config=config, label_map=label_map, preprocess=preprocess)


@pytest.fixture
def path(trained: TrainedModel, tmp_path: Path) -> Path:
    model_file.save(tmp_path / "m.safetensors", trained)
    return tmp_path / "m.safetensors"


def test_comes_back_as_it_was(trained: TrainedModel, path: Path) -> None:
    loaded = model_file.load(path)
    assert (loaded.config, loaded.label_map, loaded.preprocess) == (
        trained.config,
        trained.label_map,
        trained.preprocess,
    )
    images = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    assert torch.equal(loaded.model(images).logits, trained.model.eval()(images).logits)
    assert [file.name for file in path.parent.iterdir()] == ["m.safetensors"]


def test_every_flipped_bit_is_found(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for position in torch.randint(0, len(content), (40,)).tolist() + list(range(60, 2000, 97)):
        content[position] ^= 1 << position % 8
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"m\.safetensors"):
            model_file.load(path)
        content[position] ^= 1 << position % 8


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_cut_file_is_found(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match="is not a safetensors model file"):
        model_file.load(path)


def test_other_files_are_named_for_what_they_are(tmp_path: Path, trained: TrainedModel) -> None:
    with pytest.raises(CheckpointError, match=r"gone\.safetensors: no such model file"):
        model_file.load(tmp_path / "gone.safetensors")
    text = tmp_path / "text.safetensors"
    text.write_text("not a model")
    with pytest.raises(CheckpointError, match="is not a safetensors model file"):
        model_file.load(text)
    plain = tmp_path / "plain.safetensors"
    save_file({"x": torch.zeros(2)}, plain)
    with pytest.raises(CheckpointError, match="not a detector model"):
        model_file.load(plain)
    pickled = tmp_path / "model.pt"
    torch.save(trained.model.state_dict(), pickled)
    with pytest.raises(CheckpointError, match="is not a safetensors model file"):
        model_file.load(pickled)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path, trained: TrainedModel) -> None:
    state = {name: value.clone() for name, value in trained.model.state_dict().items()}
    state["heads.box.output.bias"][1] = float("nan")
    model_file.save(tmp_path / "nan.safetensors", trained, weights=state)
    with pytest.raises(CheckpointError, match=r"box\.output\.bias .* not finite"):
        model_file.load(tmp_path / "nan.safetensors")


def test_weights_of_another_shape_are_refused(tmp_path: Path, trained: TrainedModel) -> None:
    state = dict(trained.model.state_dict())
    del state["heads.box.output.bias"]
    model_file.save(tmp_path / "other.safetensors", trained, weights=state)
    with pytest.raises(CheckpointError, match="do not fit"):
        model_file.load(tmp_path / "other.safetensors")


def test_a_failed_save_leaves_the_old_file(path: Path, trained: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("detector.files.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        model_file.save(path, trained)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["m.safetensors"]
