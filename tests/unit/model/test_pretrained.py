"""What may be given to --init, and what is refused."""

import pickle
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file

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
    assert set(loaded.random) == {"heads.classification.output.weight", "heads.classification.output.bias"}
    assert torch.equal(model.heads["box"].output.weight, source.heads["box"].output.weight)


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


def test_what_is_fetched_is_checked_by_its_hash_and_holds_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []

    def fetch(url: str, **options: object) -> dict[str, torch.Tensor]:
        assert url.startswith("https://download.pytorch.org/")
        asked.append(options)
        return {"conv1.weight": torch.zeros(64, 3, 7, 7)}

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetch)
    assert pretrained.initialise(fresh(), "imagenet", SMALL) is not None
    assert [(options["check_hash"], options["weights_only"]) for options in asked] == [(True, True)]


def saved(path: Path) -> Path:
    label_map = LabelMap(names=("a", "b"), category_ids=(1, 2))
    preprocess = Preprocess(canvas_hw=(64, 64))
    model_file.save(path, TrainedModel(model=fresh(), config=SMALL, label_map=label_map, preprocess=preprocess))
    return path


@pytest.mark.parametrize("name", ["m.safetensors", "m.pth"])
def test_a_damaged_model_of_ours_is_refused_whatever_its_name(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path / name)
    content = bytearray(path.read_bytes())
    content[-9] ^= 4
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="the checksum does not fit"):
        pretrained.initialise(fresh(), str(path), SMALL)


def test_safetensors_are_known_by_their_content(tmp_path: Path) -> None:
    loaded = pretrained.initialise(fresh(), str(saved(tmp_path / "weights.bin")), SMALL)
    assert loaded is not None
    assert loaded.random == ()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_values_that_are_not_finite_are_refused_and_named(tmp_path: Path, suffix: str) -> None:
    state = {"conv1.weight": torch.ones(64, 3, 7, 7), "bn1.bias": torch.tensor([1.0, float("inf")])}
    path = tmp_path / f"w{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    with pytest.raises(CheckpointError, match=r"w\.\w+: bn1\.bias holds values that are not finite"):
        pretrained.initialise(fresh(), str(path), SMALL)


@pytest.mark.parametrize(
    "content",
    [
        b"just some text, longer than a header",
        b"e\n",
        b"",
        b"\x80\x04.",
        b"PK\x03\x04" + bytes(99),
        b"\x89PNG\r\n\x1a\n",
        b"{}",
    ],
)
def test_any_file_gives_one_sentence_of_our_own(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(
        CheckpointError,
        match=r"model\.pth: is not a weights file that can be loaded safely: it was damaged.*; ",
    ) as caught:
        pretrained.initialise(fresh(), str(path), SMALL)
    assert "weights_only" not in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "error", [RuntimeError('invalid hash value (expected "1", got "2")'), URLError("no route"), KeyError("x")]
)
def test_imagenet_that_cannot_be_had_is_one_sentence(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    with pytest.raises(CheckpointError, match=r"cannot be fetched .*--init"):
        pretrained.initialise(fresh(), "imagenet", SMALL)


def test_refuses_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such weights file"):
        pretrained.initialise(fresh(), str(tmp_path / "gone.pth"), SMALL)
    with pytest.raises(CheckpointError, match="no such weights file"):
        pretrained.initialise(fresh(), "/dev/zero", SMALL)
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
