"""A model file is whole and itself, or it is refused before a weight is used."""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from detector import config_file, recipes
from detector.errors import CheckpointError, ConfigError
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


def test_how_boxes_are_read_off_can_be_set(trained: TrainedModel, path: Path) -> None:
    loaded = model_file.load(path, decode={"mirror": False, "nms_iou": 0.4})
    expected = dataclasses.replace(trained.config.decode, mirror=False, nms_iou=0.4)
    assert loaded.config == dataclasses.replace(trained.config, decode=expected)
    with pytest.raises(ConfigError, match="miror"):
        model_file.load(path, decode={"miror": False})


def test_every_flipped_bit_is_found(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for position in torch.randint(0, len(content), (40,)).tolist() + list(range(60, 2000, 97)):
        content[position] ^= 1 << position % 8
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"m\.safetensors"):
            model_file.load(path)
        content[position] ^= 1 << position % 8


@pytest.mark.parametrize(
    ("before", "after"),
    [(rb"\"cat\"", rb"\"cap\""), (b"seed: 0", b"seed: 1"), (rb"\"padding\": 7", rb"\"padding\": 8")],
)
def test_a_changed_setting_or_class_is_found(path: Path, before: bytes, after: bytes) -> None:
    """Any of them would load and mean something else."""
    content = path.read_bytes()
    assert content.count(before) == 1
    path.write_bytes(content.replace(before, after))
    with pytest.raises(CheckpointError, match="the checksum does not fit"):
        model_file.load(path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_cut_file_is_found(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match="is not a safetensors model file"):
        model_file.load(path)


def test_other_files_are_named_for_what_they_are(tmp_path: Path, trained: TrainedModel) -> None:
    with pytest.raises(CheckpointError, match=r"gone\.safetensors: no such model file"):
        model_file.load(tmp_path / "gone.safetensors")
    with pytest.raises(CheckpointError, match=r"is a folder; give a model file"):
        model_file.load(tmp_path)
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


# A file of somebody who knows the format


def forged(path: Path, change: Callable[[dict[str, str]], object], trained: TrainedModel) -> None:
    """A whole file, checksum and all, with other settings inside."""
    state = {name: tensor.contiguous() for name, tensor in trained.model.state_dict().items()}
    _, metadata = model_file.read_tensors(path)
    del metadata["sha256"]
    change(metadata)
    model_file._write(path, state, metadata)


def setting(key: str, value: object) -> Callable[[dict[str, str]], object]:
    def change(metadata: dict[str, str]) -> None:
        tree = yaml.safe_load(metadata["config"])
        *groups, last = key.split(".")
        node = tree
        for group in groups:
            node = node[group]
        node[last] = value
        metadata["config"] = yaml.safe_dump(tree)

    return change


def inside(part: str, key: str, value: object) -> Callable[[dict[str, str]], object]:
    return lambda metadata: metadata.update({part: json.dumps({**json.loads(metadata[part]), key: value})})


def instead(part: str, text: str) -> Callable[[dict[str, str]], object]:
    return lambda metadata: metadata.update({part: text})


FORGED = {
    "a network of gigabytes": (setting("model.pyramid.width", 2048), r"do not fit .*, wanted is float32 \[.*2048"),
    "a network of terabytes": (setting("model.pyramid.width", 10**6), "between 8 and 2048"),
    "many priors": (setting("model.priors.scales", [1.0] * 10**4), "1 to 16 positive numbers"),
    "many heads": (setting("model.heads", [{"name": "a", "kind": "box"}] * 1000), "at most 16"),
    "code in the settings": (instead("config", "!!python/object/apply:os.getcwd []"), "not valid YAML"),
    "brackets in the settings": (instead("config", "[" * 9000), "not valid YAML"),
    "megabytes of settings": (instead("config", "seed: 1 # " + "x" * 10**6), "longer than"),
    "a class of its own": (
        setting("model.heads", [
            {"name": "classification", "kind": "classification"}, {"name": "box", "kind": "box"},
            {"name": "x", "kind": "custom", "factory": "antigravity:fly"},
        ]), "was not imported"),
    "a class that is no head": (
        setting("model.heads", [
            {"name": "classification", "kind": "classification"}, {"name": "box", "kind": "box"},
            {"name": "x", "kind": "custom", "factory": "os:system"},
        ]), "no class 'system'"),
    "brackets in the classes": (instead("label_map", "[" * 100_000), "incomplete"),
    "classes that are numbers": (inside("label_map", "names", [1, 2, 3]), "not names"),
    "other ids than numbers": (inside("label_map", "category_ids", [1, [2], 3]), "incomplete"),
    "a class twice": (inside("label_map", "names", ["a", "b", "a"]), "stands twice"),
    "classes without end": (
        instead("label_map", json.dumps({"names": [*map(str, range(100_001))], "category_ids": [*range(100_001)]})),
        "100001 classes are more than 100000"),
    "a huge canvas": (inside("preprocess", "canvas_hw", [10**6, 10**6]), "between 1 and 8192"),
    "a canvas of words": (inside("preprocess", "canvas_hw", ["a", "b"]), "whole numbers"),
    "a spread of nothing": (inside("preprocess", "std", [0, 1, 1]), "three finite numbers"),
    "an average that is none": (instead("preprocess", '{"canvas_hw": [64, 96], "mean": [NaN, 1, 1]}'), "finite"),
    "more than white": (inside("preprocess", "padding", 300), "between 0 and 255"),
    "a threshold for one class of three": (instead("thresholds", "[0.5]"), "are not 3 numbers between 0 and 1"),
    "a threshold that nothing reaches": (instead("thresholds", "[0.5, 2, 0.5]"), "are not 3 numbers between 0 and 1"),
    "a threshold that is none": (instead("thresholds", "[0.5, NaN, 0.5]"), "are not 3 numbers between 0 and 1"),
    "a threshold of 400 digits": (instead("thresholds", f"[1, 1, 1{'0' * 400}]"), "incomplete"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_file_is_refused(path: Path, trained: TrainedModel, name: str) -> None:
    change, says = FORGED[name]
    forged(path, change, trained)
    with pytest.raises((CheckpointError, ConfigError), match=says) as caught:
        model_file.load(path)
    assert str(path) in str(caught.value) or "antigravity" in str(caught.value) or "os:system" in str(caught.value)
    assert len(str(caught.value)) < 3000
    assert "antigravity" not in sys.modules


def test_no_memory_is_taken_for_a_network_that_is_not_in_the_file(
    path: Path, trained: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 16 wide layers of 2048 channels; in all 2.4 GB."""

    def build(*arguments: object, **options: object) -> object:
        assert torch.empty(0).is_meta, "a network was built before its size was known"
        return network.build(*arguments, **options)  # type: ignore[arg-type]

    tower = {"depth": 8, "width": 2048}
    heads = [{"name": kind, "kind": kind, "tower": tower} for kind in ("classification", "box")]
    forged(path, setting("model.heads", heads), trained)
    monkeypatch.setattr(model_file, "build", build)
    with pytest.raises(CheckpointError, match="do not fit"):
        model_file.load(path)


def test_weights_of_another_type_are_refused(path: Path, trained: TrainedModel) -> None:
    state = {name: tensor.double() for name, tensor in trained.model.state_dict().items()}
    model_file.save(path, trained, weights=state)
    with pytest.raises(CheckpointError, match=r"is float64 .* wanted is float32"):
        model_file.load(path)


def one_tensor(**entry: object) -> bytes:
    return json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **entry}}).encode()


two = {
    name: {"dtype": "F32", "shape": [2], "data_offsets": offsets}
    for name, offsets in (("a", [0, 8]), ("b", [4, 12]), ("c", [16, 24]))
}


@pytest.mark.parametrize(
    ("length", "header"),
    [
        (2**63, b"{}"),
        (2**64 - 1, b"{}"),
        (200_000_000, b"{}"),
        (None, one_tensor(shape=[10**9, 10**9])),
        (None, one_tensor(shape=[2**32, 2**32, 2**32])),
        (None, one_tensor(shape=[-2])),
        (None, one_tensor(data_offsets=[0, 10**12])),
        (None, one_tensor(data_offsets=[8, 0])),
        (None, json.dumps({key: two[key] for key in "ab"}).encode()),
        (None, json.dumps({key: two[key] for key in "ac"}).encode()),
        (None, b"[" * 100_000),
        (None, b'{"w": {"dtype": "PICKLE", "shape": [2], "data_offsets": [0, 8]}}'),
    ],
    ids=["2^63", "2^64-1", "200 MB", "huge", "overflow", "negative", "past the end", "backwards", "overlap", "gap",
         "nested", "dtype"],
)  # fmt: skip
def test_a_header_that_lies_is_refused(tmp_path: Path, length: int | None, header: bytes) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes((length or len(header)).to_bytes(8, "little") + header + bytes(24))
    with pytest.raises(CheckpointError, match=r"m\.safetensors: is not a safetensors model file"):
        model_file.load(path)


def test_a_device_is_no_model() -> None:
    with pytest.raises(CheckpointError, match="/dev/zero: no such model file"):
        model_file.load(Path("/dev/zero"))


def test_a_failed_save_leaves_the_old_file(path: Path, trained: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("detector.files.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        model_file.save(path, trained)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["m.safetensors"]


# Half the size


@pytest.mark.parametrize("dtype", model_file.HALVES)
def test_a_half_file_is_the_model_rounded_once(path: Path, trained: TrainedModel, dtype: torch.dtype) -> None:
    half = path.with_name("half.safetensors")
    model_file.write_half(path, half, dtype)
    loaded = model_file.load(half)
    state, original = loaded.model.state_dict(), trained.model.state_dict()
    for name, value in original.items():
        rounded = value.to(dtype).float() if value.ndim > 1 else value
        assert torch.equal(state[name], rounded), name
        assert state[name].dtype == value.dtype
    assert (loaded.config, loaded.label_map) == (trained.config, trained.label_map)
    content = bytearray(half.read_bytes())
    content[-9] ^= 4
    half.write_bytes(content)
    with pytest.raises(CheckpointError, match="the checksum does not fit"):
        model_file.load(half)


def test_a_half_file_may_read_boxes_off_otherwise(path: Path, trained: TrainedModel) -> None:
    half = path.with_name("half.safetensors")
    model_file.write_half(path, half, torch.float16, decode={"nms_iou": 0.4})
    expected = dataclasses.replace(trained.config.decode, nms_iou=0.4)
    assert model_file.load(half).config == dataclasses.replace(trained.config, decode=expected)
    with pytest.raises(ConfigError, match="nms_iuo"):
        model_file.write_half(path, half, torch.float16, decode={"nms_iuo": 0.4})


def test_a_weight_beyond_the_range_of_float16_is_named(tmp_path: Path, trained: TrainedModel) -> None:
    state = {name: value.clone() for name, value in trained.model.state_dict().items()}
    state["heads.box.output.weight"][0, 0, 0, 0] = 1e5
    path = tmp_path / "large.safetensors"
    model_file.save(path, trained, weights=state)
    with pytest.raises(
        CheckpointError, match=r"box\.output\.weight holds values beyond the range of float16; choose bf"
    ):
        model_file.write_half(path, tmp_path / "half.safetensors", torch.float16)
    model_file.write_half(path, tmp_path / "half.safetensors", torch.bfloat16)
